//! What people and agents get wrong at the command line, and what hostile input does there: one clear text, one exit code,
//! and nothing that acts on a terminal.

use serde_json::json;

use crate::harness::Project;
use crate::harness::endpoint::{Endpoint, Turn, call, say};
use crate::harness::process::{run, shown};

crate::listed![
    a_broken_rule_file_is_told_with_every_line,
    each_mistake_has_its_text_and_its_exit_code,
    hostile_paths_get_one_clear_error,
    terminal_escapes_never_reach_the_output,
];

const ESCAPE: char = '\u{1b}';

/// A project without a file, for a binary.
fn empty() -> Project {
    Project::new().written()
}

async fn a_broken_rule_file_is_told_with_every_line() {
    let rules = "[hub]\nlisten = 7\n\n[[route]]\nmatch = \"fsEvent::x\"\nto = \"moon\"\n\n[[route]]\nmtach = \"x\"\n";
    let project = Project::new()
        .toml(rules)
        .file(".codebolt/proxyExecution.json", "{ oops")
        .written();
    let problems = [
        (2, "`hub.listen`: invalid type: integer `7`, expected a string"),
        (
            5,
            "`route.match`: `fsEvent::x` is not a pattern of calls; write `*`, `<kind>`, `<kind>:*` or `<kind>:<action>`",
        ),
        (
            6,
            "`route.to`: `moon` is not a target; use local, proxy, proxy-only, plugin:<id>, connection:<name>, hub:<name>, \
             deny or ask",
        ),
        (8, "`route` needs the field `match`"),
        (8, "`route` needs the field `to`"),
        (9, "unknown field `route.mtach`; did you mean `match`?"),
    ];
    let mut checked = "[1]\n".to_owned();
    let mut refused = "[2]\n--\nerror: waypost.toml has 6 problems:\n".to_owned();
    for (line, text) in problems {
        checked += &format!("waypost.toml:{line}: {text}\n");
        refused += &format!("  line {line}: {text}\n");
    }
    checked += "proxyExecution.json:1: column 3: key must be a string\n";
    assert_eq!(shown(project.root(), &["route", "check"]).await, checked);
    assert_eq!(
        shown(project.root(), &["env", "ls"]).await,
        refused,
        "no verb starts with a broken file"
    );
    let found = run(project.root(), &["route", "check", "--json"]).await;
    assert_eq!((found.code, found.json().as_array().unwrap().len()), (1, 7));
}

async fn each_mistake_has_its_text_and_its_exit_code() {
    let project = empty();
    for (arguments, text) in [
        (
            vec!["call", "fsEvent:readFile", "{"],
            "[2]\n--\nerror: the message is not JSON: EOF while parsing an object at line 1 column 1\n",
        ),
        (
            vec!["call", ""],
            "[2]\n--\nerror: `` is not a call: write <kind> or <kind>:<action>\n",
        ),
        (
            vec!["call", "nosuch:kind"],
            "[1]\n--\nerror: not-found: nosuch:kind has no built-in handler; load a plugin that serves it or connect a process \
             that claims it; built in are confirmationRequest, executeCommand, executeCommandRunUntilError, \
             executeCommandRunUntilInterrupt, executeCommandWithStream, fsEvent, getChatHistory, inference, \
             narrative, notificationEvent, processFinished, processStarted, processStoped, sendInterruptToTerminal, sendMessage, \
             waitforReply\n",
        ),
        (
            vec!["call", "fsEvent:nosuch"],
            "[1]\n--\nerror: not-found: fsEvent:nosuch is not known; the actions of fsEvent are createFile, createFolder, \
             readFile, updateFile, deleteFile, deleteFolder, renameItem, fileList, listCodeDefinitionNames, searchFiles, writeToFile, \
             grepSearch, fuzzySearch, applyDiff, readManyFiles, listDirectory\n",
        ),
        (
            vec!["call", "fsEvent:readFile", "{}"],
            "[1]\n--\nerror: invalid: the message does not fit: missing field `path` at line 1 column 2\n",
        ),
        (
            vec!["call", "fsEvent:readFile", "{}", "--environment", "env-x"],
            "[1]\n--\nerror: there is no environment `env-x`; `waypost env ls` lists them\n",
        ),
        (
            vec!["env", "diff", "env-x"],
            "[1]\n--\nerror: there is no environment `env-x`; `waypost env ls` lists them\n",
        ),
        (
            vec!["env", "create", "--provider", "moon"],
            "[1]\n--\nerror: provider `moon` could not create environment `<environment>`: plugin `moon` is not loaded; \
             loaded are: loop, replay, sandbox\n",
        ),
        (
            vec!["run", "go", "--thread", "moon"],
            "[1]\n--\nerror: there is no thread `moon`; a run without one starts its own\n",
        ),
        (
            vec!["run", "go", "--settings", "{"],
            "[2]\n--\nerror: --settings is not JSON: EOF while parsing an object at line 1 column 1\n",
        ),
        (
            vec!["-C", "/nonexistent", "env", "ls"],
            "[1]\n--\nerror: the project folder /nonexistent cannot be opened: No such file or directory (os error 2)\n",
        ),
        (
            vec!["serve", "--listen", "0.0.0.0:0"],
            "[1]\n--\nerror: `0.0.0.0:0` can be reached from other machines, and this version does not encrypt: listen on a \
             loopback address\n",
        ),
        (
            vec!["serve", "--listen", "nonsense"],
            "[1]\n--\nerror: cannot listen on `nonsense`; choose another with --listen or `[hub] listen`: invalid socket \
             address\n",
        ),
    ] {
        assert_eq!(shown(project.root(), &arguments).await, text, "{arguments:?}");
    }
    for (id, named) in [
        ("a b", "a b"),
        ("a/../b?x=1#", "a/../b?x=1#"),
        ("\u{1b}[2J", "\\u{1b}[2J"),
    ] {
        let text = format!("[1]\n--\nerror: there is no environment `{named}`; `waypost env ls` lists them\n");
        assert_eq!(shown(project.root(), &["env", "show", id]).await, text);
        let text = format!("[1]\n--\nerror: there is no run `{named}`; `waypost run --list` lists them\n");
        assert_eq!(shown(project.root(), &["event", "ls", "--run", id]).await, text);
    }
    assert_eq!(
        shown(project.root(), &["env", "rm", ""]).await,
        "[1]\n--\nerror: there is nothing at `/api/v1/projects/default/environments/`\n"
    );
    for wrong in [
        vec!["frobnicate"],
        vec!["run"],
        vec!["completions", "tcsh"],
        vec!["env", "create", "--label", "x"],
        vec![],
    ] {
        assert_eq!(run(project.root(), &wrong).await.code, 2, "{wrong:?}");
    }
}

async fn hostile_paths_get_one_clear_error() {
    use std::os::unix::fs::symlink;
    let project = empty().file("folder/a.txt", "a");
    let root = project.root();
    symlink("/etc/passwd", root.join("out")).unwrap();
    symlink("/dev", root.join("dev")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    crate::harness::fifo(root.join("pipe"));
    for (path, text) in [
        ("../x", "denied: `../x` is outside the workspace"),
        ("folder/../../x", "denied: `folder/../../x` is outside the workspace"),
        ("/etc/passwd", "denied: `/etc/passwd` is outside the workspace"),
        (
            "a\u{0}b",
            "invalid: `a\\0b` contains a control character; a path cannot",
        ),
        (
            "\u{1b}[31mred",
            "invalid: `\\u{1b}[31mred` contains a control character; a path cannot",
        ),
        ("out", "denied: `out` is outside the workspace"),
        ("dev/zero", "denied: `dev/zero` is outside the workspace"),
        ("/dev/zero", "denied: `/dev/zero` is outside the workspace"),
        ("pipe", "invalid: `pipe` is not a regular file"),
        ("loop", "invalid: `loop` goes through more than 40 links"),
        (
            ".waypost/log.db",
            "denied: `.waypost/log.db` belongs to the hub and is not open to calls",
        ),
        (
            "",
            "invalid: the workspace itself cannot be meant here; name something inside it",
        ),
        (
            "folder/a.txt/x",
            "invalid: `folder/a.txt/x` goes through `folder/a.txt`, which is not a folder",
        ),
        ("no.txt", "not-found: `no.txt` does not exist"),
    ] {
        let message = json!({ "path": path }).to_string();
        let read = shown(root, &["call", "fsEvent:readFile", &message]).await;
        assert_eq!(read, format!("[1]\n--\nerror: {text}\n"), "{path:?}");
    }
}

async fn terminal_escapes_never_reach_the_output() {
    let evil = format!("{ESCAPE}]0;owned\u{7}{ESCAPE}[2J\u{202e}done\r");
    let turns = [
        call("run_command", json!({ "command": "printf '\\033[31mred'" })),
        say(&evil),
    ];
    let endpoint = Endpoint::start(turns.into_iter().chain([Turn::Status(400, evil.clone())])).await;
    let project = Project::new()
        .toml(&endpoint.config())
        .file(&format!("a{ESCAPE}b.txt"), &evil)
        .written();
    let root = project.root();
    let mut seen = vec![run(root, &["run", &evil]).await, run(root, &["run", "go"]).await];
    for arguments in [
        vec!["run", "--list"],
        vec!["event", "ls"],
        vec!["call", "executeCommand", r#"{"command":"printf '\\033[31mred'"}"#],
        vec!["call", "fsEvent:listDirectory", r#"{"path":"."}"#],
        vec!["call", &evil],
        vec!["env", "show", &evil],
        vec!["env", "create", "--provider", &evil],
        vec!["env", "ls"],
        vec!["plugin", "logs", &evil],
        vec!["run", "go", "--thread", &evil],
        vec!["run", "go", "--agent", &evil],
        vec!["route", "explain", &evil],
        vec!["-vv", "env", "ls"],
    ] {
        seen.push(run(root, &arguments).await);
    }
    let json = run(root, &["event", "ls", "--json"]).await;
    assert!(!json.out.contains(ESCAPE), "JSON escapes it");
    for ended in seen {
        let acts = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
        assert!(!ended.out.contains(acts) && !ended.err.contains(acts), "{ended:?}");
    }
}
