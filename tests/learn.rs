//! Learning what a plugin needs: it asks for far more than it uses, what it used is proposed, and after that it works as
//! before and can do no more.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::author::script;
use crate::harness::process::{Ended, Serving, run, run_with, shown};
use crate::harness::server::Server;
use crate::harness::{Plugin, Project, guests};

crate::listed![
    a_file_is_tried_and_installed_with_what_it_needed,
    a_loaded_plugin_was_watched_and_what_it_did_not_need_is_taken,
    the_lines_that_are_shown_do_the_same,
    a_folder_is_the_component_in_it,
    a_project_plays_its_cases,
    servers_and_secrets_are_told_apart,
    folders_are_read_or_written_as_they_were,
    what_cannot_be_seen_is_kept_and_says_so,
    who_used_nothing_needs_nothing,
    a_plugin_of_the_configuration_gets_an_entry,
    each_mistake_is_one_error_with_the_remedy,
];

/// Makes the calls that it is told to; it may make all of them, and asks for more than that.
fn greedy() -> Plugin {
    Plugin::of("caller").asks("gateway = [\"*\"], state = true, http = [\"https://*\"]")
}

fn put(root: &Path, plugin: &Plugin) -> PathBuf {
    let file = root.join("greedy.wasm");
    fs::write(&file, plugin.single("1")).unwrap();
    file
}

fn reading(path: &str) -> String {
    json!({ "call": "fsEvent:readFile", "message": { "path": path } }).to_string()
}

async fn learn(root: &Path, words: &[&str]) -> Ended {
    run(root, &[&["plugin", "learn"], words].concat()).await
}

/// What the guest says came of a call that it made.
async fn made(root: &Path, message: &str) -> Value {
    let ended = run(root, &["call", "caller", message]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.json()
}

fn project() -> Project {
    let rule = "[[route]]\nmatch = \"caller\"\nto = \"plugin:caller\"\n";
    Project::new().file("notes.txt", "written").toml(rule).written()
}

/// It works as it did, and what it did not use is refused.
async fn works_as_before_and_no_more(root: &Path) {
    let read = made(root, &reading("notes.txt")).await;
    assert!(read.get("reply").is_some(), "{read}");
    let write = json!({ "call": "fsEvent:createFile", "message": { "path": "new.txt", "content": "x" } });
    let write = made(root, &write.to_string()).await;
    let error = write["error"].as_str().unwrap();
    assert!(error.starts_with("denied: "), "{error}");
    assert!(!root.join("new.txt").exists());
}

async fn a_file_is_tried_and_installed_with_what_it_needed() {
    for wall in ["in-process", "worker"] {
        let project = project();
        let root = project.root();
        put(root, &greedy());
        let message = reading("notes.txt");
        let words = ["greedy.wasm", "--wall", wall, "--call", "caller", "--message", &message];
        let place = if wall == "worker" { "" } else { " --wall in-process" };
        assert_eq!(
            learn(root, &words).await.shown(root),
            format!(
                "[0]\ncaller 1, 1 call\nGRANTED         USED  NEEDED\ngateway=*       1     gateway=fsEvent:readFile\nstate           0     \
                 -\nhttp=https://*  0     -\nit needed gateway=fsEvent:readFile:\n  waypost plugin add <project>/greedy.wasm --grant \
                 gateway=fsEvent:readFile{place}\n"
            )
            .replace("<project>/", "")
        );
        assert!(!root.join("waypost.lock").exists(), "nothing was installed");
        let applied = learn(root, &[&words[..], &["--apply", "--yes"]].concat()).await;
        assert_eq!(applied.code, 0, "{applied:?}");
        assert!(
            applied
                .out
                .ends_with("caller 1 is installed, without gateway=*, state, http=https://*\n"),
            "{applied:?}"
        );
        works_as_before_and_no_more(root).await;
    }
}

async fn a_loaded_plugin_was_watched_and_what_it_did_not_need_is_taken() {
    for wall in ["in-process", "worker"] {
        let project = project();
        let root = project.root();
        put(root, &greedy());
        let added = run(root, &["plugin", "add", "greedy.wasm", "--yes", "--wall", wall]).await;
        assert_eq!(added.code, 0, "{added:?}");
        let serving = Serving::start(root, &[]).await;
        let unknown = learn(root, &["caller"]).await;
        assert_eq!(unknown.code, 1);
        assert!(
            unknown
                .err
                .starts_with("error: plugin `caller` worked on no call since it was loaded"),
            "{unknown:?}"
        );
        for _ in 0..2 {
            made(root, &reading("notes.txt")).await;
        }
        let learned = learn(root, &["caller", "--json"]).await.json();
        assert_eq!(
            learned,
            json!({
                "id": "caller", "version": "1", "whose": "installed", "calls": 2, "failed": [], "refused": [],
                "granted": [
                    { "grant": "gateway=*", "times": 2, "needed": ["gateway=fsEvent:readFile"], "kept": null },
                    { "grant": "state", "times": 0, "needed": [], "kept": null },
                    { "grant": "http=https://*", "times": 0, "needed": [], "kept": null },
                ],
                "proposed": ["gateway=fsEvent:readFile"], "revoke": ["gateway=*", "state", "http=https://*"],
                "grant": ["gateway=fsEvent:readFile"],
                "lines": [
                    "waypost plugin revoke caller 'gateway=*' state 'http=https://*'",
                    "waypost plugin grant caller gateway=fsEvent:readFile",
                ],
            })
        );
        let nobody = learn(root, &["caller", "--apply"]).await;
        assert_eq!(
            (nobody.code, nobody.err.as_str()),
            (1, "error: nobody can be asked here; `--yes` says it beforehand\n")
        );
        let applied = learn(root, &["caller", "--apply", "--yes"]).await;
        assert!(
            applied.out.ends_with("caller 1 has `gateway=fsEvent:readFile`\n"),
            "{applied:?}"
        );
        works_as_before_and_no_more(root).await;
        // The call that was refused is seen too, and nothing is left to take.
        let again = learn(root, &["caller", "--apply", "--yes"]).await;
        let expected = "[0]\ncaller 1, 2 calls\nGRANTED                   USED  NEEDED\ngateway=fsEvent:readFile  1     \
                        gateway=fsEvent:readFile\nit tried gateway=fsEvent:createFile once and was refused; `waypost plugin grant` gives \
                        it\nit has nothing that it did not need\n";
        assert_eq!(again.shown(root), expected);
        let events = shown(root, &["event", "ls", "--json"]).await;
        let narrowed = events
            .lines()
            .find(|line| line.contains("\"plugin.narrowed\""))
            .unwrap();
        assert!(
            narrowed.contains("\"revoked\":[\"gateway=*\",\"state\",\"http=https://*\"]"),
            "{narrowed}"
        );
        assert_eq!(serving.stop().await.code, 0);
    }
}

async fn the_lines_that_are_shown_do_the_same() {
    let project = project();
    let root = project.root();
    put(root, &greedy());
    run(root, &["plugin", "add", "greedy.wasm", "--yes"]).await;
    let serving = Serving::start(root, &[]).await;
    let message = reading("notes.txt");
    let learned = learn(root, &["caller", "--call", "caller", "--message", &message, "--json"])
        .await
        .json();
    for line in learned["lines"].as_array().unwrap() {
        let words = shell_words::split(line.as_str().unwrap()).unwrap();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let ended = run(root, &words).await;
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    works_as_before_and_no_more(root).await;
    serving.stop().await;
}

async fn a_folder_is_the_component_in_it() {
    let project = project();
    let root = project.root();
    fs::create_dir(root.join("here")).unwrap();
    put(&root.join("here"), &greedy());
    let learned = learn(
        root,
        &["./here", "--call", "caller", "--message", &reading("notes.txt")],
    )
    .await;
    let last = "  waypost plugin add ./here/greedy.wasm --grant gateway=fsEvent:readFile\n";
    assert!(learned.code == 0 && learned.out.ends_with(last), "{learned:?}");
    // A call that fails may have needed more than was seen.
    let message = "{\"neither\":1}";
    let failed = learn(
        root,
        &["./here", "--call", "caller", "--message", message, "--apply", "--yes"],
    )
    .await;
    assert_eq!(failed.code, 1);
    assert!(failed.err.starts_with("a call failed: caller: invalid: "), "{failed:?}");
    assert!(
        failed
            .err
            .ends_with("error: a call failed, so more may be needed than was seen; nothing was changed\n"),
        "{failed:?}"
    );
    assert!(!root.join("waypost.lock").exists());
}

async fn a_project_plays_its_cases() {
    let project = project();
    let root = project.root();
    let source = root.join("source");
    fs::create_dir_all(source.join("cases")).unwrap();
    fs::write(source.join("Cargo.toml"), "").unwrap();
    fs::write(source.join("manifest.toml"), greedy().manifest()).unwrap();
    let case = |name: &str, call: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\ncall = \"caller\"\nmessage = '{{\"call\":\"{call}\",\"message\":{{}}}}'\nreply = \
             '{{\"reply\":1}}'\n[[case.fake]]\ncall = \"{call}\"\nreply = '1'\n"
        )
    };
    fs::write(
        source.join("cases/a.toml"),
        [case("one", "ticket:find"), case("other", "inference")].concat(),
    )
    .unwrap();
    // The tool makes the guest.
    let made = root.join("made.wasm");
    fs::copy(
        guests::target().join("wasm32-wasip2/release/examples/caller.wasm"),
        &made,
    )
    .unwrap();
    let artifact = json!({
        "reason": "compiler-artifact", "manifest_path": source.join("Cargo.toml"),
        "target": { "crate_types": ["cdylib"] }, "filenames": [made],
    });
    let tools = root.join("tools");
    script(&tools, "cargo", &format!("echo '{artifact}'"));
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let words = ["plugin", "learn", "source"];
    let learned = run_with(root, &[("PATH", &path)], &words).await;
    assert_eq!(
        learned.shown(root),
        "[0]\ncaller 1, 2 calls\nGRANTED         USED  NEEDED\ngateway=*       2     gateway=ticket:find gateway=inference\nstate           0     \
         -\nhttp=https://*  0     -\nit needed gateway=ticket:find gateway=inference:\n  waypost plugin add source/dist/caller.wasm --grant \
         gateway=ticket:find --grant gateway=inference\n"
    );
    fs::write(
        source.join("cases/a.toml"),
        case("one", "ticket:find").replace("\"reply\":1", "\"reply\":2"),
    )
    .unwrap();
    let failed = run_with(root, &[("PATH", &path)], &words).await;
    assert_eq!(failed.code, 1);
    assert!(
        failed.err.starts_with("a call failed: a: one: it replied "),
        "{failed:?}"
    );
}

async fn servers_and_secrets_are_told_apart() {
    let server = Server::start().await;
    let secrets = format!(
        "[[secret]]\nname = \"used\"\nenv = \"USED\"\nfor = [\"{url}\"]\n[[secret]]\nname = \"idle\"\nenv = \"IDLE\"\nfor = [\"{url}\"]\n",
        url = server.url
    );
    let project = Project::new().toml(&secrets).written();
    let root = project.root();
    let asks = format!(
        "http = [{:?}, \"https://*.example.com\"], secrets = [\"used\", \"idle\"]",
        server.url
    );
    put(root, &Plugin::of("asker").asks(&asks));
    let message =
        json!({ "url": format!("{}/echo", server.url), "secret": ["authorization", "Bearer ", "used"] }).to_string();
    let words = [
        "plugin",
        "learn",
        "./greedy.wasm",
        "--call",
        "asker",
        "--message",
        &message,
        "--json",
    ];
    let learned = run_with(root, &[("USED", "abcdefghij")], &words).await;
    assert_eq!(learned.code, 0, "{learned:?}");
    let learned = learned.json();
    assert_eq!(
        learned["proposed"],
        json!([format!("http={}", server.url), "secrets=used"])
    );
    assert_eq!(learned["revoke"], json!(["http=https://*.example.com", "secrets=idle"]));
    assert_eq!(server.asked().len(), 1, "the server was asked");
    // One that it may not ask is named, and is no part of what is proposed.
    let other = json!({ "url": "https://elsewhere.example.org/" }).to_string();
    let refused = learn(
        root,
        &["./greedy.wasm", "--call", "asker", "--message", &other, "--json"],
    )
    .await
    .json();
    assert_eq!(
        refused["refused"],
        json!([{ "grant": "http=https://elsewhere.example.org", "times": 1, "asked": false }])
    );
    let kept: Vec<&Value> = refused["granted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["kept"])
        .collect();
    assert_eq!(
        kept,
        [&json!("imported"), &json!("imported"), &json!(null), &json!(null)],
        "it imports the client"
    );
}

async fn folders_are_read_or_written_as_they_were() {
    let project = Project::new()
        .file("docs/a.txt", "text")
        .file("logs/b.txt", "")
        .written();
    let root = project.root();
    let asks = "files = [{ name = \"docs\", write = true }, { name = \"logs\", write = true }], env = [\"LANG\"]";
    put(root, &Plugin::of("filer").asks(asks));
    let places = ["--grant", "files=docs=docs:write", "--grant", "files=logs=logs:write"];
    let steps = json!([{ "read": ["docs", "a.txt"] }, "env"]).to_string();
    let words = [&["./greedy.wasm", "--call", "filer", "--message", &steps][..], &places].concat();
    let learned = learn(root, &words).await;
    assert_eq!(
        learned.shown(root),
        "[0]\nfiler 1, 1 call\nGRANTED               USED  NEEDED\nenv=LANG              0     kept: no request shows whether it is \
         needed\nfiles=docs=docs:write  1     files=docs=docs\nfiles=logs=logs:write  0     -\nit needed env=LANG files=docs=docs:\n  \
         waypost plugin add ./greedy.wasm --grant env=LANG --grant files=docs=docs\n"
            .replace("GRANTED               USED", "GRANTED                USED")
            .replace("env=LANG              0", "env=LANG               0")
    );
    let steps = json!([{ "write": ["logs", "b.txt", "x"] }]).to_string();
    let words = [
        &["./greedy.wasm", "--call", "filer", "--message", &steps, "--json"][..],
        &places,
    ]
    .concat();
    let learned = learn(root, &words).await.json();
    assert_eq!(learned["proposed"], json!(["env=LANG", "files=logs=logs:write"]));
    assert_eq!(
        fs::read_to_string(root.join("logs/b.txt")).unwrap(),
        "x",
        "what it does is done"
    );
}

async fn what_cannot_be_seen_is_kept_and_says_so() {
    let project = Project::new().written();
    let root = project.root();
    let keeper = Plugin::of("keeper")
        .asks("state = true, gateway = [\"chat\"], claim = []")
        .claims(&["keeper"]);
    put(root, &keeper);
    let learned = learn(root, &["./greedy.wasm", "--call", "keeper", "--message", "[]"]).await;
    assert_eq!(
        learned.shown(root),
        "[0]\nkeeper 1, 1 call\nGRANTED       USED  NEEDED\ngateway=chat  0     -\nstate         0     kept: it imports this and does not load \
         without\nclaim=keeper  0     kept: no request shows whether it is needed\nit needed state claim=keeper:\n  waypost plugin add \
         ./greedy.wasm --grant state --grant claim=keeper\n"
    );
}

async fn who_used_nothing_needs_nothing() {
    let project = Project::new()
        .toml("[[route]]\nmatch = \"echo\"\nto = \"plugin:echo\"\n")
        .written();
    let root = project.root();
    put(root, &Plugin::of("echo").asks("gateway = [\"*\"], state = true"));
    let message = "{\"text\":\"a\",\"times\":2}";
    let words = [
        "./greedy.wasm",
        "--call",
        "echo",
        "--message",
        message,
        "--apply",
        "--yes",
    ];
    let applied = learn(root, &words).await;
    assert!(
        applied.code == 0
            && applied
                .out
                .contains("it needed nothing:\n  waypost plugin add ./greedy.wasm --grant none\n"),
        "{applied:?}"
    );
    assert!(
        applied.out.ends_with("echo 1 is installed, without gateway=*, state\n"),
        "{applied:?}"
    );
    let echoed = run(root, &["call", "echo", message]).await;
    assert_eq!(echoed.json()["text"], "aa");
    // The word stands alone.
    for more in [["--grant", "state"].as_slice(), &["--yes"]] {
        let both = run(
            root,
            &[&["plugin", "add", "greedy.wasm", "--grant", "none"], more].concat(),
        )
        .await;
        let error = "[2]\n--\nerror: `--grant none` grants nothing, and stands alone: remove the others, or `--yes`\n";
        assert_eq!(both.shown(root), error);
    }
}

async fn a_plugin_of_the_configuration_gets_an_entry() {
    let grants = "gateway = [\"*\"], state = true";
    let project = Project::new()
        .file("notes.txt", "written")
        .plugin(&Plugin::of("caller").grants(grants))
        .written();
    let root = project.root();
    let message = reading("notes.txt");
    let words = ["caller", "--call", "caller", "--message", &message, "--apply", "--yes"];
    let learned = learn(root, &words).await;
    assert!(
        learned
            .out
            .ends_with("it needed gateway=fsEvent:readFile:\n  grant = { gateway = [\"fsEvent:readFile\"] }\n"),
        "{learned:?}"
    );
    assert_eq!(
        (learned.code, learned.err.as_str()),
        (
            2,
            "error: plugin `caller` stands in waypost.toml: write the `grant` that is shown into its [[plugin]] entry\n"
        )
    );
}

async fn each_mistake_is_one_error_with_the_remedy() {
    let project = project();
    let root = project.root();
    put(root, &Plugin::of("filer").asks("files = [{ name = \"docs\" }]"));
    fs::write(root.join("agent.wasm"), Plugin::of("dreamer").role("agent").single("1")).unwrap();
    for (words, expected) in [
        (
            ["moon"].as_slice(),
            "[1]\n--\nerror: plugin `moon` is not loaded; loaded are: loop, replay, sandbox\n",
        ),
        (
            &["./moon.wasm", "--call", "a"],
            "[1]\n--\nerror: ./moon.wasm cannot be read: ",
        ),
        (
            &["./greedy.wasm"],
            "[2]\n--\nerror: ./greedy.wasm does nothing by itself: say which calls to make, as in `--call kind:action --message '{}'`\n",
        ),
        (
            &["./greedy.wasm", "--call", "a", "--call", "b", "--message", "{}"],
            "[2]\n--\nerror: there are 2 calls and 1 messages: write one `--message` for each `--call`, or none\n",
        ),
        (
            &["./greedy.wasm", "--call", "a", "--message", "{"],
            "[2]\n--\nerror: the message of a is not valid JSON: ",
        ),
        (
            &["./greedy.wasm", "--call", "a"],
            "[2]\n--\nerror: the manifest does not serve a, only filer\n",
        ),
        (
            &["./greedy.wasm", "--call", "filer"],
            "[2]\n--\nerror: `filer` asks for `files=docs`: say where it is, as in `--grant files=<name>=<path>[:write]`\n",
        ),
        (
            &["./greedy.wasm", "--call", "filer", "--grant", "files=logs=./logs"],
            "[2]\n--\nerror: `filer` does not ask for `files=logs=./logs`; it asks for `files=docs`\n",
        ),
        (
            &["./greedy.wasm", "--call", "filer", "--grant", "files=docs="],
            "[2]\n--\nerror: `docs=` is not a folder; write `<name>=<path>`, with `:write` when it may write\n",
        ),
        (
            &["loop", "--call", "a", "--grant", "files=docs=docs"],
            "[2]\n--\nerror: `--grant files=docs=docs` is for a file that is tried; a loaded plugin has what it was granted\n",
        ),
        (
            &["./agent.wasm", "--call", "agent:run"],
            "[2]\n--\nerror: `dreamer` is an agent, which works in runs: install it, `waypost run --agent dreamer`, and `waypost plugin learn \
             dreamer` from the hub that ran it; or play the cases of its project\n",
        ),
    ] {
        let ended = learn(root, words).await.shown(root);
        assert!(ended.starts_with(expected), "{words:?}:\n{ended}");
    }
}
