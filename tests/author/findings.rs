//! What `waypost plugin test` finds, and in which words: plugins that break in one way each, and cases that are wrong.

use std::fs;

use super::guest;
use crate::harness::Project;
use crate::harness::process::shown;

pub(super) async fn findings() {
    let project = Project::new().written();
    let root = project.root();
    let cases = |text: &str| {
        fs::create_dir_all(root.join("cases")).unwrap();
        fs::write(root.join("cases/c.toml"), text).unwrap();
    };
    let test = async |only: &str| {
        let arguments = ["plugin", "test", "a.wasm", "--cases", "cases", "--only", only];
        shown(root, &arguments).await
    };
    guest(
        &project,
        "keeper",
        "role = \"handler\"\nserves = [\"a\"]\n[grants]\nstate = true\n",
    );
    cases(
        r#"
        [[case]]
        name = "right"
        call = "a"
        message = '[{ "get": "k" }, { "set": ["l", "x"] }]'
        state = { k = '1' }
        reply = '[1, "set"]'
        state-after = { k = ' 1', l = '"x"' }
        [[case]]
        name = "reply"
        call = "a"
        message = '[{ "get": "k" }]'
        reply = '[2]'
        [[case]]
        name = "kept"
        call = "a"
        message = '[{ "set": ["k", 2] }]'
        reply = '["set"]'
        state-after = {}
        [[case]]
        name = "error"
        call = "a"
        message = '0'
        error = { kind = "denied", says = "no" }
        [[case]]
        name = "chunks"
        call = "a"
        message = '[]'
        reply = '[]'
        chunks = ['1']
        [[case]]
        name = "fake"
        call = "a"
        message = '[]'
        reply = '[]'
        [[case.fake]]
        call = "x"
        reply = '1'
        "#,
    );
    assert_eq!(
        test("c: ").await,
        "[1]
ok    c: right
FAIL  c: reply - it replied [null] and not [2]
FAIL  c: kept - it keeps {\"k\": \"2\"} and not {}
FAIL  c: error - it ended with invalid: the message of a does not fit: invalid type: integer `0`, expected a sequence at line 1 \
         column 1; expected was denied that says `no`
FAIL  c: chunks - its chunks were []
FAIL  c: fake - it made the call x 0 of 1 times
6 checks, 5 failed
"
    );
    assert_eq!(
        test("moon").await,
        "[1]\n--\nerror: no check has a name that holds `moon`; there are: c: right, c: reply, c: kept, c: error, c: chunks, c: \
         fake, odd-messages, huge-messages, cancelled, small-memory, after-a-trap\n"
    );
    cases("[[case]]\nname = \"x\"\ncall = \"b\"\nreply = '1'");
    assert_eq!(
        test("x").await,
        "[2]\n--\nerror: cases/c.toml, case `x`: the manifest does not serve b, only a\n"
    );

    let lines = async |only: &str, expected: &[&str]| {
        let shown = test(only).await;
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), expected.len() + 2, "{shown}");
        for (line, expected) in lines.iter().skip(1).zip(expected) {
            assert!(
                line.starts_with(expected),
                "`{expected}` is not how this begins:\n{line}"
            );
        }
    };
    guest(
        &project,
        "brittle",
        "role = \"handler\"\nserves = [\"a\"]\n[grants]\ngateway = [\"fsEvent:readFile\"]\n",
    );
    cases(
        r#"
        [[case]]
        name = "length"
        call = "a"
        message = '{ "path": "x" }'
        reply = '3'
        [[case.fake]]
        call = "fsEvent"
        message = '{"path":"x"}'
        reply = '{ "content": "abc" }'
        [[case]]
        name = "nobody"
        call = "a"
        message = '{ "path": "y" }'
        error = { kind = "trapped" }
        "#,
    );
    lines(
        "",
        &[
            "ok    c: length",
            "FAIL  c: nobody - it made the call fsEvent:readFile {\"path\":\"y\"}, which no fake answers",
            "FAIL  odd-messages - a with {\"path\":null}: it ended with trapped: plugin `a` trapped: ",
            "FAIL  huge-messages - a with \"xxxxxxxxxxxxxxxxxxxx",
            "FAIL  gateway-denied - when its calls get the error denied, it ended with trapped: plugin `a` trapped: ",
            "FAIL  gateway-fails - when its calls get the error not-found, it ended with trapped: plugin `a` trapped: ",
            "FAIL  gateway-odd-replies - when its calls get the reply null, it ended with trapped: plugin `a` trapped: ",
            "ok    gateway-slow - it waited until its time was over, and was stopped",
            "ok    cancelled - it was stopped; the next call works",
            "ok    small-memory - it works in ",
            "ok    after-a-trap - cut off by its time, then by limit; the next call works",
        ],
    )
    .await;
    let denied = test("gateway-denied").await;
    assert!(
        denied.contains(" / the file can be read: Denied("),
        "what a panic said is shown: {denied}"
    );
    // What reaches outside finds nothing there, and says so.
    for (name, grant, message, reply) in [
        (
            "runner",
            "process = [{ name = \"tool\" }]",
            "{ \"program\": \"tool\" }",
            "{ \"error\": \"unavailable: there are no programs here: a plugin that is tested without a hub runs none\" }",
        ),
        (
            "dialer",
            "socket = [{ name = \"engine\" }]",
            "{ \"socket\": \"engine\" }",
            "{ \"error\": \"unavailable: there is no network here: a plugin that is tested without a hub reaches no server\" }",
        ),
        (
            "filer",
            "files = [{ name = \"docs\" }]",
            "[{ \"read\": [\"docs\", \"x\"] }]",
            "[{ \"error\": \"unavailable: the folder `docs` is not there; make it, or correct its `path` in waypost.toml\" }]",
        ),
    ] {
        let manifest = format!("role = \"handler\"\nserves = [\"a\"]\n[grants]\n{grant}\n");
        guest(&project, name, &manifest);
        cases(&format!(
            "[[case]]\nname = \"outside\"\ncall = \"a\"\nmessage = '{message}'\nreply = '{reply}'"
        ));
        let shown = test("outside").await;
        assert!(
            shown.starts_with("[0]\nok    c: outside\n1 checks, 0 failed\n"),
            "{name}: {shown}"
        );
    }
    guest(
        &project,
        "spinner",
        "role = \"handler\"\nserves = [\"a\"]\n[limits]\ntimeout = \"200ms\"\n",
    );
    cases("case = []");
    lines(
        "odd",
        &["FAIL  odd-messages - a with null: it ended with timeout: a did not end within"],
    )
    .await;
    guest(
        &project,
        "hungry",
        "role = \"handler\"\nserves = [\"a\"]\n[limits]\nmemory = \"3MiB\"\n",
    );
    cases("[[case]]\nname = \"eats\"\ncall = \"a\"\nmessage = '4000000'\nreply = '4000000'");
    lines(
        "small",
        &["FAIL  small-memory - 3.0 MiB are not enough for one call: raise `memory` in [limits] of the manifest"],
    )
    .await;
    guest(
        &project,
        "wavering",
        "role = \"agent\"\n[grants]\nstate = true\ngateway = [\"sendMessage\", \"inference\"]\n",
    );
    cases(
        r#"
        [[case]]
        name = "runs"
        call = "agent:run"
        reply = '{ "message": "done" }'
        [[case.fake]]
        call = "*"
        reply = '{}'
        times = 2
        "#,
    );
    lines(
        "runs",
        &[
            "ok    c: runs",
            "FAIL  runs-again - diverged: call 0 was sendMessage before",
        ],
    )
    .await;
}
