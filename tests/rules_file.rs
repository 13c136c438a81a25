//! `.codebolt/proxyExecution.json`, as an agent and a claimer see it. Names that begin with `c` and a number are conformance
//! checks of the wire.

use serde_json::{Value, json};

use crate::connections::{agent, join, open_with, quiet, read};
use crate::harness::Project;
use crate::listed;

listed![
    c42_c43_c45_every_shape_and_spelling_says_the_same,
    c44_an_edit_holds_for_the_next_call_and_a_broken_file_changes_nothing,
    c52_snapshots_are_asked_for_over_the_socket_and_errors_have_the_awaited_type,
];

const FILE: &str = ".codebolt/proxyExecution.json";

fn project(rules: &Value) -> Project {
    Project::new().file(FILE, rules.to_string())
}

/// Inference is proxied, reads of files are local, all else of files is proxied, and what is not named is local.
async fn c42_c43_c45_every_shape_and_spelling_says_the_same() {
    let shapes = [
        json!({ "version": 1, "default": "local", "rules": { "inference": "proxy", "fsEvent:*": "proxy", "fsEvent:readFile": "local" } }),
        json!({ "Inference": "proxy", "FSEvent:*": "proxy", "FSEvent:readFile": "local" }),
        json!({ "rules": { "INFERENCE": { "mode": "proxy" }, "fsevent": { "target": "proxy" }, "fsEvent:readfile": { "proxyType": "local" } } }),
        json!({ "inference": "proxy", "fsEvent": { "default": "proxy", "readFile": "local" } }),
        json!({ "rules": [
            { "type": "inference", "mode": "proxy" }, { "type": "fsEvent", "action": "*", "mode": "proxy" },
            { "type": "fsEvent", "action": "readFile", "mode": "local" }
        ] }),
    ];
    let list = json!({ "type": "fsEvent", "action": "fileList", "message": { "folderPath": "." } });
    let ask = json!({ "type": "Inference", "message": { "prompt": "x" } });
    for shape in shapes {
        let (_open, served) = open_with(project(&shape), "").await;
        let mut vault = join(&served, "vault").await;
        quiet(&mut vault).await;
        let mut agent = agent(&served).await;
        assert_eq!(agent.ask(read()).await["content"], "hello\n", "{shape}");
        agent.say(list.clone()).await;
        assert_eq!(vault.hear().await["originalAction"], "fileList", "{shape}");
        agent.say(ask.clone()).await;
        // As the agent spelled it.
        assert_eq!(vault.hear().await["originalMessage"]["type"], "Inference", "{shape}");
        let other = agent
            .ask(json!({ "type": "memoryEvent", "action": "get", "key": "k" }))
            .await;
        assert_eq!(
            (&other["type"], &other["success"]),
            (&json!("memoryGetResponse"), &json!(false)),
            "{shape}"
        );
    }
    let off = json!({ "enabled": false, "rules": { "*": "proxy" } });
    let (_open, served) = open_with(project(&off), "").await;
    let _vault = join(&served, "vault").await;
    assert_eq!(agent(&served).await.ask(read()).await["content"], "hello\n");
}

async fn c44_an_edit_holds_for_the_next_call_and_a_broken_file_changes_nothing() {
    let (open, served) = open_with(project(&json!({})), "").await;
    let mut vault = join(&served, "vault").await;
    quiet(&mut vault).await;
    let mut agent = agent(&served).await;
    assert_eq!(agent.ask(read()).await["content"], "hello\n");
    let file = open.root().join(FILE);
    std::fs::write(&file, json!({ "fsEvent:readFile": "proxy" }).to_string()).unwrap();
    open.event(|event| &*event.kind == "routes.changed").await;
    agent.say(read()).await;
    assert_eq!(vault.hear().await["type"], "executionGateway.request");
    std::fs::write(&file, "{ \"fsEvent:readFile\": ").unwrap();
    let broken = open.event(|event| &*event.kind == "routes.broken").await;
    assert!(
        broken.body.as_str().contains("proxyExecution.json"),
        "{}",
        broken.body.as_str()
    );
    agent
        .say(json!({ "type": "fsEvent", "action": "readFile", "requestId": "2", "message": { "filePath": "a.txt" } }))
        .await;
    assert_eq!(vault.hear().await["type"], "executionGateway.request");
}

async fn c52_snapshots_are_asked_for_over_the_socket_and_errors_have_the_awaited_type() {
    let (open, served) = open_with(Project::new(), "").await;
    let mut vault = join(&served, "vault").await;
    quiet(&mut vault).await;
    let root = open.root().canonicalize().unwrap().display().to_string();
    let frame = |what: &str, more: Value| {
        let mut frame = json!({ "type": format!("narrative.{what}"), "requestId": "narr-1-abcdef", "environmentId": "e", "workspace": root });
        frame.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        frame
    };
    let made = vault
        .ask(frame("createSnapshot", json!({ "description": "first" })))
        .await;
    assert_eq!(
        (&made["type"], &made["requestId"], &made["success"]),
        (
            &json!("narrative.createSnapshotResponse"),
            &json!("narr-1-abcdef"),
            &json!(true)
        ),
        "{made}"
    );
    let snapshot = made["snapshot_id"].clone();
    let out = vault
        .ask(frame("exportUnifiedBundle", json!({ "snapshotId": snapshot })))
        .await;
    assert_eq!(out["success"], true, "{out}");
    let bundle = out["bundlePath"].clone();
    let back = vault
        .ask(frame("importUnifiedBundle", json!({ "bundlePath": bundle })))
        .await;
    assert!(back["snapshot_ids"].as_array().unwrap().contains(&snapshot), "{back}");
    std::fs::write(open.root().join("a.txt"), "changed\n").unwrap();
    let strategy = json!({ "snapshotId": snapshot, "strategy": { "type": "revert" } });
    let restored = vault.ask(frame("checkoutSnapshot", strategy)).await;
    assert_eq!(restored["restored_tree_hash"], made["tree_hash"], "{restored}");
    assert_eq!(std::fs::read_to_string(open.root().join("a.txt")).unwrap(), "hello\n");
    for (what, more) in [
        (
            "checkoutSnapshot",
            json!({ "snapshotId": "nope", "strategy": { "type": "revert" } }),
        ),
        ("importUnifiedBundle", json!({ "bundlePath": "/etc/passwd" })),
        ("exportUnifiedBundle", json!({ "snapshotId": 3 })),
        ("createSnapshot", json!({ "workspace": "/etc" })),
        ("sing", json!({})),
    ] {
        let failed = vault.ask(frame(what, more)).await;
        assert_eq!(failed["type"], format!("narrative.{what}Response"));
        assert_eq!(
            (&failed["requestId"], &failed["success"]),
            (&json!("narr-1-abcdef"), &json!(false)),
            "{failed}"
        );
        assert!(
            failed["error"].as_str().is_some_and(|error| !error.is_empty()),
            "{failed}"
        );
    }
}
