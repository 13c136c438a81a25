//! Files and variables that plugins are granted.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::harness::{Open, Plugin, Project, normal};

crate::listed![
    files_are_read_and_written_in_the_folders_that_were_granted,
    nothing_outside_of_a_granted_folder_is_reached,
    what_steers_the_hub_is_not_written,
    everything_about_files_is_bounded,
    a_folder_is_named_by_the_manifest_and_placed_by_the_operator,
    variables_are_those_that_were_granted,
];

/// The guest that works with files, with what both sides say of its folders.
fn filer(asked: &str, granted: &str) -> Plugin {
    Plugin::of("filer")
        .asks(&format!("files = [{asked}]"))
        .granted(&format!("files = [{granted}]"))
}

async fn one(open: &Open, step: Value) -> Value {
    open.reply("filer", json!([step])).await[0].clone()
}

async fn error(open: &Open, step: Value) -> String {
    let reply = one(open, step).await;
    let error = reply["error"]
        .as_str()
        .unwrap_or_else(|| panic!("it was done: {reply}"));
    open.normal(error)
}

async fn files_are_read_and_written_in_the_folders_that_were_granted() {
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("far.txt"), "far").unwrap();
    let granted = format!(
        "{{ name = \"docs\", path = \"docs\" }}, {{ name = \"cache\", path = {:?}, write = true }}",
        elsewhere.path()
    );
    let open = Project::new()
        .file("docs/a.txt", "hello")
        .file("docs/in/b.bin", vec![7; 150_000])
        .plugin(&filer(
            "{ name = \"docs\" }, { name = \"cache\", write = true }",
            &granted,
        ))
        .open()
        .await;
    symlink("a.txt", open.root().join("docs/link")).unwrap();
    let steps = json!([
        { "read": ["docs", "a.txt"] }, { "read": ["docs", "./in/../link"] }, { "stat": ["docs", "link"] },
        { "stat": ["docs", ""] }, { "stat": ["docs", "none"] }, { "pieces": ["docs", "in/b.bin", 10_000] },
        { "pieces": ["docs", "a.txt", 99] }, { "list": ["docs", ""] }, { "list": ["docs", "in"] },
        { "write": ["cache", "new/deep/x.txt", "one"] }, { "write": ["cache", "new/deep/x.txt", "two"] },
        { "read": ["cache", "new/deep/x.txt"] }, { "read": ["cache", "far.txt"] }, { "list": ["cache", "new/deep"] },
        { "remove": ["cache", "new/deep/x.txt"] }, { "stat": ["cache", "new/deep/x.txt"] },
    ]);
    let reply = open.reply("filer", steps).await;
    let folder = reply[3].clone();
    assert_eq!(
        (&folder[0], &folder[2]),
        (&json!("Kind::Folder"), &json!(true)),
        "{reply}"
    );
    let expected = json!([
        "hello",
        "hello",
        ["Kind::File", 5, true],
        folder,
        null,
        [65536, 65536, 8928],
        [],
        ["a.txt Kind::File 5", reply[7][1], "link Kind::Link 5"],
        ["b.bin Kind::File 150000"],
        null,
        null,
        "two",
        "far",
        ["x.txt Kind::File 3"],
        null,
        null,
    ]);
    assert_eq!(reply, expected);
    assert!(!elsewhere.path().join("new/deep/x.txt").exists());
}

async fn nothing_outside_of_a_granted_folder_is_reached() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let open = Project::new()
        .file("docs/a.txt", "hello")
        .file("beside.txt", "beside")
        .plugin(&filer(
            "{ name = \"docs\", write = true }",
            "{ name = \"docs\", path = \"docs\", write = true }",
        ))
        .open()
        .await;
    let docs = open.root().join("docs");
    symlink(outside.path(), docs.join("out")).unwrap();
    symlink("../beside.txt", docs.join("up")).unwrap();
    symlink("/etc", docs.join("etc")).unwrap();
    for path in [
        "../beside.txt",
        "up",
        "out/secret",
        "etc/passwd",
        "/etc/passwd",
        "a/../../beside.txt",
    ] {
        for step in [
            json!({ "read": ["docs", path] }),
            json!({ "stat": ["docs", path] }),
            json!({ "write": ["docs", path, "x"] }),
        ] {
            assert_eq!(
                error(&open, step).await,
                format!("denied: `{path}` is outside the workspace"),
                "{path}"
            );
        }
    }
    assert_eq!(
        error(&open, json!({ "list": ["docs", "out"] })).await,
        "denied: `out` is outside the workspace"
    );
    assert_eq!(
        one(&open, json!({ "remove": ["docs", "out"] })).await,
        json!(null),
        "a link itself can go"
    );
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(open.root().join("beside.txt")).unwrap(), "beside");
    for (step, expected) in [
        (
            json!({ "read": ["docs", "a\0b"] }),
            "invalid: `a\\0b` contains a control character; a path cannot",
        ),
        (
            json!({ "read": ["docs", ""] }),
            "invalid: the workspace itself cannot be meant here; name something inside it",
        ),
        (json!({ "read": ["docs", "none"] }), "not-found: `none` does not exist"),
        (
            json!({ "remove": ["docs", "none"] }),
            "not-found: `none` does not exist",
        ),
        (json!({ "list": ["docs", "a.txt"] }), "invalid: `a.txt` is not a folder"),
    ] {
        assert_eq!(error(&open, step).await, expected);
    }
    fs::create_dir(docs.join("folder")).unwrap();
    assert_eq!(
        error(&open, json!({ "remove": ["docs", "folder"] })).await,
        "invalid: `folder` is a folder; only files and links are removed"
    );
}

async fn what_steers_the_hub_is_not_written() {
    let asked = ["root", "above", "rules", "state", "gone"]
        .map(|name| format!("{{ name = {name:?}, write = true }}"))
        .join(", ");
    let granted = [
        ("root", "."),
        ("above", ".."),
        ("rules", ".codebolt"),
        ("state", ".waypost"),
        ("gone", "gone"),
    ]
    .map(|(name, path)| format!("{{ name = {name:?}, path = {path:?}, write = true }}"))
    .join(", ");
    let open = Project::new()
        .file(".codebolt/rules.json", "{}")
        .file(".git/config", "git")
        .file("deep/.git/config", "git")
        .plugin(&filer(&asked, &granted))
        .open()
        .await;
    symlink(".codebolt", open.root().join("alias")).unwrap();
    for path in [
        "waypost.toml",
        "waypost.new",
        "WAYPOST.toml",
        ".codebolt/rules.json",
        ".git/config",
        "deep/.git/config",
        "alias/rules.json",
        ".waypost/x",
    ] {
        for step in [
            json!({ "write": ["root", path, "x"] }),
            json!({ "remove": ["root", path] }),
        ] {
            let expected = format!(
                "denied: `{path}` is protected: rules, hub state and git's own files are not changed by a call"
            );
            assert_eq!(error(&open, step).await, expected);
        }
    }
    assert_eq!(
        error(&open, json!({ "list": ["root", ".waypost"] })).await,
        "denied: `.waypost` belongs to the hub and is not open to calls"
    );
    let shown = one(&open, json!({ "list": ["root", ""] })).await.to_string();
    assert!(shown.contains("waypost.toml") && !shown.contains(".waypost"), "{shown}");
    for (folder, step, why) in [
        (
            "above",
            "write",
            "holds the project, whose rules a plugin does not change",
        ),
        ("rules", "write", "belongs to what steers agents and the hub"),
        ("state", "write", "holds the hub's state"),
        ("state", "read", "holds the hub's state"),
    ] {
        let step = if step == "write" {
            json!({ "write": [folder, "x", "x"] })
        } else {
            json!({ "read": [folder, "x"] })
        };
        let expected = format!("denied: the folder `{folder}` {why}; grant another one in waypost.toml");
        assert_eq!(error(&open, step).await, expected);
    }
    assert_eq!(
        one(&open, json!({ "read": ["rules", "rules.json"] })).await,
        "{}",
        "rules may be read"
    );
    assert_eq!(
        error(&open, json!({ "read": ["gone", "x"] })).await,
        "unavailable: the folder `gone` is not there; make it, or correct its `path` in waypost.toml"
    );
    assert_eq!(
        one(&open, json!({ "write": ["root", "src/new.rs", "x"] })).await,
        json!(null)
    );
}

async fn everything_about_files_is_bounded() {
    let limits = "[limits.plugin]\nfile-write = \"1KiB\"\nfile-entries = 3\nfile-open = 2";
    let open = Project::new()
        .toml(limits)
        .file("docs/a", "a")
        .file("docs/b", "b")
        .file("docs/c", "c")
        .plugin(&filer(
            "{ name = \"docs\", write = true }",
            "{ name = \"docs\", path = \"docs\", write = true }",
        ))
        .open()
        .await;
    assert_eq!(one(&open, json!({ "fill": ["docs", "c", 1024] })).await, json!(null));
    assert_eq!(
        error(&open, json!({ "fill": ["docs", "d", 1025] })).await,
        "limit: the content has 1025 bytes, the limit is 1024: `file-write` of [limits.plugin]"
    );
    assert_eq!(
        one(&open, json!({ "list": ["docs", ""] }))
            .await
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(one(&open, json!({ "hold": ["docs", "a", 2] })).await, 2);
    assert_eq!(
        error(&open, json!({ "hold": ["docs", "a", 3] })).await,
        "limit: plugin `filer` holds 2 files open, the limit `file-open` of [limits.plugin]; drop some first"
    );
    let again = json!([{ "hold": ["docs", "a", 2] }, { "hold": ["docs", "b", 2] }]);
    assert_eq!(
        open.reply("filer", again).await,
        json!([2, 2]),
        "what was dropped is closed"
    );
    fs::write(open.root().join("docs/d"), "d").unwrap();
    assert_eq!(
        error(&open, json!({ "list": ["docs", ""] })).await,
        "limit: the folder `` has more than 3 entries, the limit `file-entries` of [limits.plugin]"
    );
}

async fn a_folder_is_named_by_the_manifest_and_placed_by_the_operator() {
    let open = Project::new()
        .file("docs/a.txt", "hello")
        .plugin(&filer(
            "{ name = \"read\", write = false }, { name = \"both\", write = true }, { name = \"lost\", write = true }",
            "{ name = \"read\", path = \"docs\", write = true }, { name = \"both\", path = \"docs\" }, \
             { name = \"unasked\", path = \"docs\", write = true }",
        ))
        .open()
        .await;
    assert_eq!(one(&open, json!({ "read": ["read", "a.txt"] })).await, "hello");
    assert_eq!(one(&open, json!({ "read": ["both", "a.txt"] })).await, "hello");
    for (folder, may) in [
        ("read", "may not write to"),
        ("both", "may not write to"),
        ("lost", "may not use"),
        ("unasked", "may not use"),
    ] {
        let expected = format!(
            "denied: plugin `filer` {may} the folder `{folder}`: if it may, add {{ name = \"{folder}\", write = true }} to `files` in \
             [grants] of its manifest, and the same with its `path` to `files` in `grant` of its [[plugin]] entry in waypost.toml"
        );
        assert_eq!(error(&open, json!({ "write": [folder, "x", "x"] })).await, expected);
    }
    let line = "plugin `filer` imports `waypost:files/files@0.1.0` without the grant `files`; if it may, add `files = [{ name = \
                \"<folder>\" }]` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml";
    let placed = "<project>/plugins/filer.toml: the folder `a` has a `path`: a manifest names folders, and the operator says where \
                  they are; remove it";
    let unplaced =
        "waypost.toml has 1 problem:\n  line 1: `plugin.grant.files`: the folder `a` has no `path`; say where it is";
    let agent = "<project>/plugins/filer.toml: the grant `files` is not for agents: an agent is run again from the log, which holds \
                 its calls alone; remove it, and let the agent call a handler that has the grant";
    for (plugin, expected) in [
        (filer("{ name = \"a\" }", "{ name = \"b\", path = \"docs\" }"), line),
        (
            filer("{ name = \"a\", path = \"docs\" }", "{ name = \"a\", path = \"docs\" }"),
            placed,
        ),
        (filer("{ name = \"a\" }", "{ name = \"a\" }"), unplaced),
        (
            filer("{ name = \"a\" }", "{ name = \"a\", path = \"docs\" }").role("agent"),
            agent,
        ),
    ] {
        let project = Project::new().plugin(&plugin);
        let error = project
            .try_open()
            .await
            .err()
            .map(|error| error.chain())
            .unwrap_or_default();
        assert_eq!(normal(project.root(), &error), *expected);
    }
}

async fn variables_are_those_that_were_granted() {
    let files = "files = [{ name = \"docs\", path = \"docs\" }]";
    let asked = "env = [\"LANG\", \"NONE\", \"MORE\"], files = [{ name = \"docs\" }]";
    let plugin = Plugin::of("filer")
        .asks(asked)
        .granted(&format!("env = [\"LANG\", \"NONE\", \"OTHER\"], {files}"));
    let open = Project::new()
        .variable("LANG", "C")
        .variable("MORE", "x")
        .variable("OTHER", "x")
        .variable("SECRET", "x")
        .plugin(&plugin)
        .open()
        .await;
    assert_eq!(one(&open, json!("env")).await, json!([["LANG", "C"]]));
}
