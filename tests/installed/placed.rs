//! Grants that name something of this machine: a program with what is in it, a socket.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use waypost::imports::process::digest;

use super::{called, component, empty, lock, plugin, said};
use crate::harness::Plugin;

crate::listed![
    a_program_is_granted_with_what_is_in_it_then,
    an_upgrade_that_runs_a_program_in_another_way_is_held,
    a_socket_is_granted_by_its_place,
];

/// A guest that runs one program with these arguments.
fn runner(args: &str) -> Plugin {
    Plugin::of("runner").asks(&format!("process = [{{ name = \"tool\", args = {args} }}]"))
}

/// What it answers when it runs the program.
async fn ran(root: &Path, args: &[&str]) -> Value {
    let ended = called(
        root,
        "runner",
        &json!({ "program": "tool", "args": args, "input": "hello" }),
    )
    .await;
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.json()
}

async fn a_program_is_granted_with_what_is_in_it_then() {
    let project = empty();
    let root = project.root();
    component(root, &runner("[[], [\"-n\"]]"), "1");
    let tool = root.canonicalize().unwrap().join("tool");
    fs::copy("/bin/cat", &tool).unwrap();
    let before = digest(&tool).unwrap();
    // Before it is decided it is shown, and says how it is granted.
    let looked = plugin(root, "add downloads/1.wasm --wall in-process").await;
    assert_eq!(looked.code, 1);
    let asks = "run a program that you choose, as its `tool`, with your rights, with no arguments or `-n` process=tool";
    assert!(looked.out.contains(asks), "{}", looked.out);
    let unplaced = said(root, "add downloads/1.wasm --wall in-process --yes").await;
    assert!(unplaced.contains("process=<name>=<path>`"), "{unplaced}");
    for (path, why) in [
        (
            "tool",
            "the path `tool` is relative; write it from the root on, as in `/usr/bin/git`",
        ),
        (
            "/nonexistent",
            "the program /nonexistent cannot be read; correct its path, or let the hub read it: ",
        ),
    ] {
        let refused = plugin(
            root,
            &format!("add downloads/1.wasm --wall in-process --grant process=tool={path}"),
        )
        .await;
        assert!(refused.code != 0 && refused.err.contains(why), "{refused:?}");
    }
    assert_eq!(lock(root), "");
    let grant = format!("--grant process=tool={}", tool.display());
    let added = plugin(root, &format!("add downloads/1.wasm --wall in-process --route {grant}")).await;
    assert_eq!(added.code, 0, "{added:?}");
    let shown = format!(
        "run {} (SHA-256 {before}) as its `tool`, with your rights, with no arguments or `-n`",
        tool.display()
    );
    assert!(added.out.contains(&shown), "{}", added.out);
    let written = format!("name = \"tool\"\npath = {tool:?}\nsha256 = \"{before}\"\nargs = [[], [\"-n\"]]\n");
    assert!(lock(root).contains(&written), "{}", lock(root));
    assert_eq!(ran(root, &[]).await["stdout"], "hello");
    assert_eq!(ran(root, &["-n"]).await["ending"], "Ending::Code(0)");
    assert!(
        ran(root, &["-b"]).await["error"]
            .as_str()
            .unwrap()
            .starts_with("denied: ")
    );

    // Another file in its place is not run until that is decided.
    fs::copy("/bin/echo", &tool).unwrap();
    let now = digest(&tool).unwrap();
    let refused = ran(root, &[]).await;
    let refused = refused["error"].as_str().unwrap();
    assert!(refused.contains(&before) && refused.contains(&now), "{refused}");
    let verified = said(root, "verify").await;
    assert!(
        verified.starts_with("[1]\n") && verified.contains("the program `tool` has changed: granted was the SHA-256"),
        "{verified}"
    );
    assert_eq!(
        said(root, &format!("grant runner process=tool={}", tool.display())).await,
        format!("[0]\nrunner 1 has `process=tool=<project>/tool@sha256:{now}`\n")
            .replace("<project>", &root.canonicalize().unwrap().display().to_string())
            .replace(&root.display().to_string(), "<project>")
            .replace(&format!("sha256:{now}"), "sha256:<digest>")
    );
    assert_eq!(ran(root, &[]).await["stdout"], "\n");
    // Who knows what shall be there says so.
    let pinned = said(
        root,
        &format!("grant runner process=tool={}@sha256:{before}", tool.display()),
    )
    .await;
    assert!(pinned.starts_with("[0]\n"), "{pinned}");
    assert!(ran(root, &[]).await["error"].as_str().unwrap().contains("has changed"));
    // Without it the component does not load.
    let revoked = plugin(root, "revoke runner process=tool").await;
    assert_eq!(revoked.code, 0);
    assert!(revoked.err.contains("without the grant `process`"), "{}", revoked.err);
}

async fn an_upgrade_that_runs_a_program_in_another_way_is_held() {
    let project = empty();
    let root = project.root();
    component(root, &runner("[[]]"), "1");
    component(root, &runner("[[], [\"--version\"]]"), "2");
    let cat = fs::canonicalize("/bin/cat").unwrap();
    let add = format!(
        "add downloads/1.wasm --wall in-process --route --grant process=tool={}",
        cat.display()
    );
    assert_eq!(plugin(root, &add).await.code, 0);
    let held = plugin(root, "add downloads/2.wasm").await;
    assert_eq!(held.code, 1);
    assert!(
        held.out.contains("  new  run a program that you choose, as its `tool`")
            && held
                .out
                .ends_with("runner 2 is kept and not loaded; runner 1 goes on\n"),
        "{}",
        held.out
    );
    assert!(
        ran(root, &["--version"]).await["error"]
            .as_str()
            .unwrap()
            .starts_with("denied: ")
    );
    // Its place is known: the word alone is enough.
    assert_eq!(plugin(root, "grant runner process=tool").await.code, 0);
    assert_eq!(ran(root, &["--version"]).await["ending"], "Ending::Code(0)");
}

async fn a_socket_is_granted_by_its_place() {
    let project = empty();
    let root = project.root();
    component(
        root,
        &Plugin::of("dialer").asks("socket = [{ name = \"engine\" }]"),
        "1",
    );
    let looked = plugin(root, "add downloads/1.wasm --wall in-process").await;
    let asks = "talk to whoever listens on a socket that you choose, as its `engine`";
    assert!(looked.code == 1 && looked.out.contains(asks), "{looked:?}");
    let added = plugin(
        root,
        "add downloads/1.wasm --wall in-process --route --grant socket=engine=/run/no-engine.sock",
    )
    .await;
    assert_eq!(added.code, 0, "{added:?}");
    let shown = "talk to whoever listens on /run/no-engine.sock, as its socket `engine`";
    assert!(added.out.contains(shown), "{}", added.out);
    assert!(
        lock(root).contains("name = \"engine\"\npath = \"/run/no-engine.sock\"\n"),
        "{}",
        lock(root)
    );
    let ended = called(root, "dialer", &json!({ "socket": "engine" })).await.json();
    assert_eq!(
        ended["error"],
        "unavailable: the socket `engine` is not there; start what listens there, or correct its grant"
    );
    let revoked = plugin(root, "revoke dialer socket=engine").await;
    assert!(revoked.err.contains("without the grant `socket`"), "{}", revoked.err);
}
