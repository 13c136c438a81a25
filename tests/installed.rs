//! Installing strangers' components: what is shown, what is decided, and what is loaded ever after.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use waypost::plugin::section;

use crate::harness::process::{Ended, Serving, run, shown};
use crate::harness::{Plugin, Project};

pub mod decided;
pub mod locked;
pub mod placed;
pub mod registry;
pub mod signed;
pub mod terminal;

crate::listed![
    a_component_is_shown_installed_by_digest_and_reached,
    what_it_asks_for_is_decided_first,
    a_removed_plugin_is_gone_with_its_components,
    a_running_hub_does_it_without_a_restart,
    a_component_larger_than_a_message_reaches_a_running_hub,
    changes_need_the_scope_admin,
    what_is_no_component_is_refused,
];

/// A project that waits for a component beside it.
fn empty() -> Project {
    Project::new().written()
}

/// Writes a component as one file.
fn component(root: &Path, plugin: &Plugin, version: &str) -> PathBuf {
    let folder = root.join("downloads");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{version}.wasm"));
    fs::write(&file, plugin.single(version)).unwrap();
    file
}

/// Runs `waypost plugin` with these words.
async fn plugin(root: &Path, line: &str) -> Ended {
    let words: Vec<String> = shell_words::split(line).unwrap();
    let words: Vec<&str> = ["plugin"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let mut ended = run(root, &words).await;
    // A hub that is opened for a verb says in its log what it does not load; the verb itself is looked at here.
    let logged = |line: &&str| line.contains(" WARN waypost::plugin::installed: an installed plugin is not loaded: ");
    ended.err = ended.err.split_inclusive('\n').filter(|line| !logged(line)).collect();
    ended
}

/// The same: exit code, output and errors.
async fn said(root: &Path, line: &str) -> String {
    plugin(root, line).await.shown(root)
}

fn lock(root: &Path) -> String {
    fs::read_to_string(root.join("waypost.lock")).unwrap_or_default()
}

/// The components in the state directory.
fn kept(root: &Path) -> Vec<String> {
    let Ok(folder) = fs::read_dir(root.join(".waypost/plugins")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn called(root: &Path, call: &str, message: &Value) -> Ended {
    run(root, &["call", call, &message.to_string()]).await
}

/// Asks for state; and in its second version for calls too.
fn keeper() -> Plugin {
    Plugin::of("keeper").asks("state = true")
}

fn hungrier() -> Plugin {
    Plugin::of("keeper").asks("state = true, gateway = [\"fsEvent:readFile\", \"inference\"]")
}

async fn a_component_is_shown_installed_by_digest_and_reached() {
    let project = empty();
    let root = project.root();
    let file = component(root, &Plugin::of("echo"), "1.2.0");
    let bytes = fs::read(&file).unwrap();
    assert_eq!(
        said(root, "add downloads --wall in-process --route").await,
        format!(
            "[0]\necho 1.2.0, a handler\n  digest   sha256:<digest>\n  size     {}\n  from     file:downloads/1.2.0.wasm\n  signed   by \
             nobody\n  serves   echo\nit asks for nothing\necho 1.2.0 is installed\n--\nadded to waypost.toml:\n[[route]]\nmatch = \
             \"echo\"\nto = \"plugin:echo\"\n\n",
            size(bytes.len())
        )
    );
    let names = kept(root);
    let digest = names[0].strip_prefix("sha256-").unwrap().strip_suffix(".wasm").unwrap();
    assert_eq!(names.len(), 1);
    let stored = root.join(".waypost/plugins").join(&names[0]);
    assert_eq!(fs::read(&stored).unwrap(), bytes);
    assert_eq!(stored.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        lock(root),
        format!(
            "# What is installed, and what it may do. `waypost plugin` writes this file; keep it with the project.
format = 1

[[installed]]
id = \"echo\"
wall = \"in-process\"

[installed.current]
version = \"1.2.0\"
digest = \"sha256:{digest}\"
source = \"file:downloads/1.2.0.wasm\"

[installed.current.grant]
gateway = []
state = false
workspace = false
claim = []
subscribe = false
"
        )
    );
    // The file that was given is not needed any more.
    fs::remove_file(file).unwrap();
    let reply = called(root, "echo", &json!({ "text": "a", "times": 2 })).await;
    assert_eq!((reply.code, &reply.json()["text"]), (0, &json!("aa")), "{reply:?}");
    let list = plugin(root, "ls").await.out;
    let row = list.lines().find(|line| line.starts_with("echo ")).unwrap();
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        row,
        [
            "echo",
            "1.2.0",
            "handler",
            &digest[..12],
            "-",
            "file:downloads/1.2.0.wasm",
            "echo",
            "-"
        ]
    );
    // Again is no harm, and the rule is there already.
    fs::write(root.join("downloads/again.wasm"), &bytes).unwrap();
    let again = plugin(root, "add ./downloads/again.wasm --route").await;
    assert_eq!((again.code, again.err.as_str()), (0, ""), "{again:?}");
    assert!(
        again.out.contains("  instead  of 1.2.0, which is installed\n"),
        "{again:?}"
    );
    assert_eq!(
        fs::read_to_string(root.join("waypost.toml"))
            .unwrap()
            .matches("[[route]]")
            .count(),
        1
    );
    assert_eq!(kept(root), names);
}

fn size(bytes: usize) -> String {
    let mebibytes = bytes as f64 / 1_048_576.0;
    if mebibytes >= 1.0 {
        format!("{mebibytes:.1} MiB")
    } else {
        format!("{:.1} KiB", bytes as f64 / 1024.0)
    }
}

async fn what_it_asks_for_is_decided_first() {
    let project = empty();
    let root = project.root();
    component(root, &hungrier(), "1");
    let asks = "it asks to
       keep data of its own between calls                         state
";
    let open = plugin(root, "add downloads --wall in-process").await;
    assert_eq!(
        (open.code, open.err.as_str()),
        (
            1,
            "error: `keeper` asks for `gateway=fsEvent:readFile`, `gateway=inference`, `state`; decide with `--yes` for all of it, or \
             with `--grant` for a part\n"
        )
    );
    for line in [
        "       work on files of the workspace, with `readFile` alone      gateway=fsEvent:readFile\n",
        "       ask models, at your cost                                   gateway=inference\n",
        asks.split_once('\n').unwrap().1,
    ] {
        assert!(open.out.contains(line), "{open:?}");
    }
    for (line, code, error) in [
        (
            "add downloads --wall in-process --grant network",
            2,
            "`network` is not a grant; there are gateway, state, workspace, claim, subscribe, http, secrets, env, files, process, socket",
        ),
        (
            "add downloads --wall in-process --grant gateway=executeCommand",
            2,
            "`keeper` does not ask for `gateway=executeCommand`; it asks for `gateway=fsEvent:readFile`, `gateway=inference`, `state`",
        ),
        (
            "add downloads --wall in-process --grant gateway=inference",
            1,
            "without all that it asks for it does not load: plugin `keeper` imports `waypost:state/store@0.1.0` without the grant \
             `state`; if it may, `waypost plugin grant keeper state`",
        ),
    ] {
        let refused = plugin(root, line).await;
        assert_eq!(
            (refused.code, refused.err),
            (code, format!("error: {error}\n")),
            "{line}"
        );
    }
    assert_eq!(
        (lock(root).as_str(), kept(root)),
        ("", vec![]),
        "nothing is written before it is decided"
    );

    let part = plugin(root, "add downloads --wall in-process --grant state").await;
    assert_eq!(part.code, 0, "{part:?}");
    assert!(
        part.out
            .contains("  no   ask models, at your cost                                   gateway=inference\n")
            && part
                .out
                .contains("       keep data of its own between calls                         state\n")
            && part
                .out
                .ends_with("keeper 1 is installed, without gateway=fsEvent:readFile, gateway=inference\n"),
        "{}",
        part.out
    );
    assert!(
        part.err.ends_with(
            "no rule leads to it yet; add this to waypost.toml, or say `--route`:\n[[route]]\nmatch = \"keeper\"\nto = \
             \"plugin:keeper\"\n\n"
        ),
        "{}",
        part.err
    );
    let installed = plugin(root, "add downloads --yes --json").await.json();
    assert_eq!(installed["outcome"], "installed");
    assert!(
        installed["asks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|asked| asked["granted"] == true)
    );
}

async fn a_removed_plugin_is_gone_with_its_components() {
    let project = empty();
    let root = project.root();
    component(root, &Plugin::of("echo"), "1");
    plugin(root, "add downloads --wall in-process --route").await;
    assert_eq!(kept(root).len(), 1);
    assert_eq!(
        said(root, "rm echo").await,
        "[0]\necho 1 is removed\n--\nline 1 of waypost.toml still leads to it\n"
    );
    assert_eq!(kept(root), Vec::<String>::new());
    assert!(lock(root).ends_with("format = 1\ninstalled = []\n"), "{}", lock(root));
    assert_eq!(
        said(root, "rm echo").await,
        "[1]\n--\nerror: plugin `echo` is not installed; nothing is\n"
    );
    let gone = called(root, "echo", &json!({ "text": "a", "times": 1 })).await;
    assert!(
        gone.err
            .contains("plugin `echo` is not loaded; loaded are: loop, replay, sandbox"),
        "{gone:?}"
    );
}

async fn a_running_hub_does_it_without_a_restart() {
    let project = empty();
    let root = project.root();
    component(root, &keeper(), "1");
    component(root, &hungrier(), "2");
    fs::write(
        root.join("waypost.toml"),
        "[[route]]\nmatch = \"keeper\"\nto = \"plugin:keeper\"\n",
    )
    .unwrap();
    let serving = Serving::start(root, &[]).await;
    let steps = json!({ "call": "keeper", "message": [{ "set": ["a", 1] }] });
    let reply = async || serving.ask("POST", "/calls", &steps).await.1;
    assert!(reply().await.contains("plugin `keeper` is not loaded"));
    let added = plugin(root, "add downloads/1.wasm --wall in-process --yes").await;
    assert_eq!((added.code, added.err.as_str()), (0, ""), "{added:?}");
    assert_eq!(reply().await, "{\"reply\":[\"set\"]}\n");
    assert_eq!(plugin(root, "add downloads/2.wasm").await.code, 1, "held");
    assert_eq!(plugin(root, "verify").await.code, 0);
    assert_eq!(plugin(root, "revoke keeper state").await.code, 0);
    assert!(reply().await.contains("without the grant `state`"));
    assert_eq!(
        plugin(root, "grant keeper state gateway=inference,fsEvent").await.code,
        0
    );
    assert_eq!(plugin(root, "ls --json").await.json()[0]["version"], "2");
    assert_eq!(reply().await, "{\"reply\":[\"set\"]}\n");
    assert_eq!(plugin(root, "rollback keeper").await.code, 0);
    assert_eq!(plugin(root, "reload keeper --json").await.json()["version"], "1");
    assert_eq!(plugin(root, "rm keeper").await.code, 0);
    assert!(reply().await.contains("plugin `keeper` is not loaded"));
    assert_eq!(serving.stop().await.code, 0);
    let events = run(root, &["event", "ls", "--json", "--limit", "100"]).await;
    let kinds: Vec<String> = events
        .lines()
        .iter()
        .filter_map(|event| {
            event["kind"]
                .as_str()
                .filter(|kind| kind.starts_with("plugin."))
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "plugin.installed",
            "plugin.held",
            "plugin.revoked",
            "plugin.granted",
            "plugin.rolled-back",
            "plugin.removed"
        ]
    );
}

async fn a_component_larger_than_a_message_reaches_a_running_hub() {
    let project = Project::new().toml("[limits]\nmessage = \"16KiB\"").written();
    let root = project.root();
    let file = component(root, &Plugin::of("echo"), "1");
    assert!(file.metadata().unwrap().len() > 16 << 10);
    let serving = Serving::start(root, &[]).await;
    let added = plugin(root, "add downloads --wall in-process").await;
    assert_eq!(added.code, 0, "{added:?}");
    let (status, text) = serving
        .ask(
            "POST",
            "/calls",
            &json!({ "call": "x", "message": "x".repeat(20 << 10) }),
        )
        .await;
    assert_eq!(status, 413, "{text}");
}

async fn changes_need_the_scope_admin() {
    let open = empty().open().await;
    let served = open.serve().await;
    let body = format!("{}\n", json!({ "source": "file:x", "commit": true }));
    for (scope, reads, changes) in [("read", 200, 403), ("api", 200, 403), ("admin", 200, 400)] {
        let token = open.token(scope, &[scope]).await;
        let ask = async |method: &str, path: &str, body: &str| {
            let request = crate::harness::process::http()
                .request(
                    method.parse().unwrap(),
                    format!("http://{}/api/v1/projects/default{path}", served.address),
                )
                .bearer_auth(&token)
                .body(body.to_owned());
            request.send().await.unwrap().status().as_u16()
        };
        for path in ["/installed", "/verified"] {
            assert_eq!(ask("GET", path, "").await, reads, "{scope} {path}");
        }
        assert_eq!(ask("POST", "/installed", &body).await, changes, "{scope}");
        assert_eq!(ask("POST", "/installed", "no line").await, changes, "{scope}");
        let missing = if changes == 403 { 403 } else { 404 };
        for (method, path) in [
            ("DELETE", "/installed/x"),
            ("POST", "/installed/x/grant"),
            ("POST", "/installed/x/revoke"),
            ("POST", "/installed/x/rollback"),
        ] {
            assert_eq!(
                ask(method, path, "{\"grants\":[\"state\"]}").await,
                missing,
                "{scope} {method} {path}"
            );
        }
    }
}

async fn what_is_no_component_is_refused() {
    let project = Project::new().toml("[limits.plugin]\ncomponent = \"1MiB\"").written();
    let root = project.root();
    for (name, bytes) in [("text.wasm", b"hello".to_vec()), ("large.wasm", vec![0; (1 << 20) + 1])] {
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("d").join(name), bytes).unwrap();
    }
    fs::create_dir(root.join("none")).unwrap();
    let many: Vec<String> = (0..65).map(|number| format!("a:b{number}")).collect();
    let many = Plugin::made_of("many", b"\0asm\x0d\0\x01\0".to_vec()).asks(&format!("gateway = {many:?}"));
    component(root, &many, "1");
    fs::create_dir(root.join("odd")).unwrap();
    let echo = Plugin::of("echo");
    let manifest = echo.manifest().replace("\"1\"", "\"1\\u001b[2K\"");
    let odd = section::write("odd", &echo.single("1"), &manifest).unwrap();
    fs::write(root.join("odd/version.wasm"), odd).unwrap();
    fs::write(root.join("odd/a\necho 1 is installed.wasm"), echo.single("1")).unwrap();
    for (line, error) in [
        (
            "add d/text.wasm",
            "file:d/text.wasm has no manifest inside; `waypost plugin build` puts it there",
        ),
        (
            "add d/large.wasm",
            "d/large.wasm has more than 1048576 bytes, which is the limit: raise `component` in [limits.plugin]",
        ),
        (
            "add d",
            "the folder d has 2 files that end in `.wasm`; name the one that you mean",
        ),
        (
            "add none",
            "the folder none has 0 files that end in `.wasm`; name the one that you mean",
        ),
        (
            "add no.wasm",
            "no.wasm cannot be read: No such file or directory (os error 2)",
        ),
        (
            "add odd/version.wasm",
            "the version `1\\u{1b}[2K` of this component is not one; it has 1 to 4096 bytes, and stands on one line",
        ),
        (
            "add 'odd/a\necho 1 is installed.wasm'",
            "the source `file:odd/a…` of this component is not one; it has 1 to 4096 bytes, and stands on one line",
        ),
        (
            "add moon",
            "`moon` is not a reference: it names no registry; write <registry>/<name>:<tag> or <registry>/<name>@sha256:<digest>",
        ),
        (
            "add downloads",
            "file:downloads/1.wasm asks for 65 things, which nobody reads; the limit is 64",
        ),
    ] {
        let refused = plugin(root, line).await;
        assert_ne!(refused.code, 0);
        assert_eq!(refused.err, format!("error: {error}\n"), "{line}");
    }
    assert_eq!(
        shown(root, &["plugin", "ls", "--json"]).await.matches("\"id\"").count(),
        3
    );
}
