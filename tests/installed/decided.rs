//! What is decided about an installed plugin, and what holds until the next decision.

use std::fs;

use serde_json::json;

use super::{called, component, empty, hungrier, keeper, kept, lock, plugin, said};
use crate::harness::process::Serving;
use crate::harness::{Plugin, Project};

crate::listed![
    an_upgrade_that_asks_for_more_is_held,
    an_older_version_and_one_that_nobody_can_compare_need_a_word,
    an_id_of_somebody_else_is_refused_and_a_likeness_is_told,
    what_was_granted_is_taken_back_at_once,
    a_candidate_stands_beside_the_version_in_use,
];

async fn an_upgrade_that_asks_for_more_is_held() {
    let project = empty();
    let root = project.root();
    component(root, &keeper(), "1");
    component(root, &hungrier(), "2");
    component(root, &hungrier(), "3");
    assert_eq!(
        plugin(root, "add downloads/1.wasm --wall in-process --yes").await.code,
        0
    );
    let held = plugin(root, "add downloads/2.wasm").await;
    assert_eq!(held.code, 1);
    assert!(
        held.out
            .contains("  new  ask models, at your cost                                   gateway=inference\n")
            && held
                .out
                .contains("       keep data of its own between calls                         state\n")
            && held
                .out
                .ends_with("keeper 2 is kept and not loaded; keeper 1 goes on\n"),
        "{}",
        held.out
    );
    assert_eq!(
        held.err,
        "it asks for more than was granted: `waypost plugin grant keeper gateway=fsEvent:readFile gateway=inference` loads it\n"
    );
    let listed = plugin(root, "ls").await.out;
    assert!(
        listed.contains("keeper   1 ") && listed.ends_with("keeper 2 is held: it asks for more than was granted\n"),
        "{listed}"
    );
    // A part of it is not enough, and is remembered.
    assert_eq!(
        said(root, "grant keeper gateway=inference").await,
        "[0]\nkeeper 1 has `state`\n--\nkeeper 2 is still held: it asks for more\n"
    );
    assert_eq!(
        said(root, "grant keeper gateway=fsEvent:readFile").await,
        "[0]\nkeeper 2 has `gateway=fsEvent:readFile`, `gateway=inference`, `state`\n"
    );
    // The next one asks for the same, and nothing is left to decide.
    let third = plugin(root, "add downloads/3.wasm").await;
    assert_eq!(third.code, 0, "{third:?}");
    assert!(
        third.out.ends_with("keeper 3 is installed\n") && !third.out.contains("  new "),
        "{}",
        third.out
    );
    assert_eq!(
        kept(root).len(),
        2,
        "what is neither loaded nor gone back to is removed"
    );
    assert_eq!(
        said(root, "rollback keeper").await,
        "[0]\nkeeper 2 has `gateway=fsEvent:readFile`, `gateway=inference`, `state`\n"
    );
    let again = plugin(root, "rollback keeper --json").await.json();
    assert_eq!(
        (&again["current"]["version"], &again["previous"]["version"]),
        (&json!("3"), &json!("2"))
    );
    // What is revoked stays so, wherever one goes.
    plugin(root, "revoke keeper gateway=inference").await;
    assert_eq!(
        said(root, "rollback keeper").await,
        "[0]\nkeeper 2 has `gateway=fsEvent:readFile`, `state`\n"
    );
}

async fn an_older_version_and_one_that_nobody_can_compare_need_a_word() {
    let project = empty();
    let root = project.root();
    for version in ["1.10.0", "1.9.0", "spring"] {
        component(root, &Plugin::of("echo"), version);
    }
    assert_eq!(
        said(root, "rollback echo").await,
        "[1]\n--\nerror: plugin `echo` is not installed; nothing is\n"
    );
    plugin(root, "add downloads/1.10.0.wasm --wall in-process").await;
    for (version, why) in [
        (
            "1.9.0",
            "version 1.9.0 of `echo` is older than 1.10.0, which is installed",
        ),
        (
            "spring",
            "nobody can tell whether version spring of `echo` is newer than 1.10.0",
        ),
    ] {
        let refused = plugin(root, &format!("add downloads/{version}.wasm")).await;
        assert_eq!(
            (refused.code, refused.err),
            (1, format!("error: {why}; `--downgrade` installs it all the same\n"))
        );
    }
    let older = plugin(root, "add downloads/1.9.0.wasm --downgrade").await;
    assert!(
        older.code == 0
            && older
                .out
                .contains("  warning  version 1.9.0 of `echo` is older than 1.10.0"),
        "{older:?}"
    );
    // The same version with other content is told.
    fs::write(
        root.join("downloads/other.wasm"),
        Plugin::of("faulty").named("echo").single("1.9.0"),
    )
    .unwrap();
    let other = plugin(root, "add downloads/other.wasm").await;
    let warning = "  warning  version 1.9.0 of `echo` is installed already, with other content\n";
    assert!(other.code == 0 && other.out.contains(warning), "{other:?}");
}

async fn an_id_of_somebody_else_is_refused_and_a_likeness_is_told() {
    let project = Project::new().plugin(&Plugin::of("echo")).written();
    let root = project.root();
    let belongs = |id: &str, whose: &str| {
        format!("[1]\n--\nerror: the id `{id}` belongs to {whose}; this one needs another id: install it `--as <id>`\n")
    };
    component(root, &Plugin::of("echo"), "2");
    assert_eq!(
        said(root, "add downloads --wall in-process").await,
        belongs(
            "echo",
            "<project>/plugins/echo.wasm, by its [[plugin]] entry in waypost.toml"
        )
    );
    component(root, &Plugin::of("echo").named("replay"), "2");
    assert_eq!(
        said(root, "add downloads --wall in-process").await,
        belongs("replay", "a plugin of this binary")
    );
    component(root, &Plugin::of("echo").named("l00p"), "2");
    let like = plugin(root, "add downloads --wall in-process").await;
    let warning = "  warning  its id `l00p` looks like `loop`, which is another plugin\n";
    assert!(like.code == 0 && like.out.contains(warning), "{like:?}");
    // An entry that comes later with the id of an installed one is the one that counts.
    Plugin::of("echo").named("l00p").write(root);
    let entry = "\n[[plugin]]\npath = \"plugins/l00p.wasm\"\nwall = \"in-process\"\n";
    let rules = fs::read_to_string(root.join("waypost.toml")).unwrap();
    fs::write(root.join("waypost.toml"), rules + entry).unwrap();
    let list = plugin(root, "ls").await.out;
    assert!(
        list.contains("/plugins/l00p.wasm") && list.contains("l00p is not loaded: the id `l00p` belongs to "),
        "{list}"
    );
    assert_eq!(
        said(root, "rm replay").await,
        "[2]\n--\nerror: plugin `replay` is part of this binary and cannot be removed\n"
    );
    assert_eq!(
        said(root, "rm echo").await,
        "[2]\n--\nerror: plugin `echo` stands in waypost.toml; remove its [[plugin]] entry there\n"
    );
}

async fn a_candidate_stands_beside_the_version_in_use() {
    let rule = "[[route]]\nmatch = \"echo\"\nto = \"plugin:echo\"\neffect = \"read\"\nshadow = \"plugin:echo-next\"\n";
    let project = Project::new().toml(rule).written();
    let root = project.root();
    component(root, &Plugin::of("echo"), "1");
    component(root, &Plugin::of("noop").named("echo").serves(&["echo"]), "2");
    component(root, &Plugin::of("echo"), "3");
    component(root, &Plugin::of("keeper").named("other"), "4");
    plugin(root, "add downloads/1.wasm --wall in-process").await;
    let added = plugin(root, "add downloads/2.wasm --wall in-process --as echo-next").await;
    assert!(
        added
            .out
            .starts_with("echo-next 2, a handler\n  is       echo, installed under another id\n"),
        "{added:?}"
    );
    assert!(!added.out.contains("warning") && lock(root).contains("id = \"echo-next\"\ncomponent = \"echo\"\n"));
    // Both are there when the hub starts again, and the candidate gets copies.
    let hub = Serving::start(root, &[]).await;
    let call = json!({ "call": "echo", "message": { "text": "a", "times": 2 } });
    let (status, reply) = hub.ask("POST", "/calls", &call).await;
    assert!(status == 200 && reply.contains("\"aa\""), "{reply}");
    let shadow = loop {
        let shadow = plugin(root, "shadow echo-next --json").await.json();
        if shadow["mirrored"] == 1 {
            break shadow;
        }
    };
    assert_eq!((&shadow["version"], &shadow["different"]), (&json!("2"), &json!(1)));
    hub.stop().await;
    // What else may come under that id, and how it comes again.
    let newer = plugin(root, "add downloads/3.wasm --as echo-next").await;
    assert!(newer.out.ends_with("echo-next 3 is installed\n"), "{newer:?}");
    assert_eq!(
        said(root, "add downloads/4.wasm --as echo-next").await,
        "[1]\n--\nerror: `echo-next` is installed already, from the plugin `echo`, and this one is `other`; install it under another \
         id with `--as`, or remove the other one first\n"
    );
    assert_eq!(
        said(root, "add downloads/4.wasm --as Echo").await,
        "[2]\n--\nerror: `--as`: `Echo` is not an id; use lower-case letters, digits and `-`, at most 64\n"
    );
    assert_eq!(plugin(root, "verify").await.code, 0);
    for name in kept(root) {
        fs::remove_file(root.join(".waypost/plugins").join(name)).unwrap();
    }
    let lost = plugin(root, "verify echo-next").await;
    assert!(
        lost.code == 1
            && lost
                .err
                .contains("`waypost plugin add downloads/3.wasm --as echo-next`"),
        "{lost:?}"
    );
    assert_eq!(
        said(root, "rm echo-next").await,
        "[0]\necho-next 3 is removed\n--\nline 1 of waypost.toml still leads to it\n"
    );
}

async fn what_was_granted_is_taken_back_at_once() {
    let project = empty();
    let root = project.root();
    component(root, &hungrier(), "1");
    plugin(root, "add downloads --wall in-process --yes --route").await;
    for (line, text) in [
        (
            "revoke keeper gateway=fsEvent",
            "[0]\nkeeper 1 has `gateway=inference`, `state`\n",
        ),
        (
            "revoke keeper gateway=fsEvent",
            "[2]\n--\nerror: plugin `keeper` was not granted `gateway=fsEvent`; granted are `gateway=inference`, `state`\n",
        ),
        (
            "grant keeper workspace",
            "[2]\n--\nerror: plugin `keeper` does not ask for `workspace`; it asks for `gateway=fsEvent:readFile`, `gateway=inference`, \
             `state`\n",
        ),
        (
            "grant keeper gateway=*",
            "[0]\nkeeper 1 has `gateway=fsEvent:readFile`, `gateway=inference`, `state`\n",
        ),
        (
            "revoke keeper gateway=inference:ask",
            "[2]\n--\nerror: `gateway=inference:ask` is a part of what plugin `keeper` was granted, and only the whole can be taken; \
             granted are `gateway=fsEvent:readFile`, `gateway=inference`, `state`\n",
        ),
        (
            "revoke keeper state",
            "[0]\nkeeper 1 has `gateway=fsEvent:readFile`, `gateway=inference`\n--\nkeeper is not loaded: plugin `keeper` imports \
             `waypost:state/store@0.1.0` without the grant `state`; if it may, `waypost plugin grant keeper state`\n",
        ),
        (
            "revoke moon state",
            "[1]\n--\nerror: plugin `moon` is not installed; installed are `keeper`\n",
        ),
    ] {
        assert_eq!(said(root, line).await, text, "{line}");
    }
    let steps = json!([{ "get": "a" }]);
    let called_without = called(root, "keeper", &steps).await;
    assert_eq!(called_without.code, 1);
    let why = "error: unavailable: plugin `keeper` is not loaded: plugin `keeper` imports `waypost:state/store@0.1.0`";
    assert!(called_without.err.contains(why), "{called_without:?}");
    assert!(
        plugin(root, "ls")
            .await
            .out
            .contains("keeper is not loaded: plugin `keeper` imports")
    );
    assert_eq!(plugin(root, "grant keeper state").await.code, 0);
    assert_eq!(called(root, "keeper", &steps).await.code, 0);
}
