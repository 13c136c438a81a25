//! Rules about files, and every way to meet a file without naming it.

use serde_json::{Value, json};
use waypost::capabilities::chat::Answer;

use crate::harness::{Open, Project};
use crate::listed;

listed![
    what_may_not_be_read_is_met_by_no_call,
    what_may_not_be_met_is_neither_listed_nor_removed,
    an_allowed_search_shows_what_its_own_rule_asked_about,
];

fn project(rules: &str) -> Project {
    Project::new()
        .file("secrets/key.rs", "fn token() {}\n")
        .file("src/open.rs", "fn shown() {}\n")
        .file("src/secrets/inner.rs", "fn hidden() {}\n")
        .toml(rules)
}

async fn shown(open: &Open, action: &str, message: &Value) -> Vec<String> {
    let reply = open.reply(&format!("fsEvent:{action}"), message.clone()).await;
    let list = ["results", "files", "entries", "definitions"];
    let list = list.iter().find_map(|name| reply[name].as_array()).unwrap();
    let text = reply.to_string();
    let mut paths: Vec<String> = list
        .iter()
        .map(|item| item["path"].as_str().or(item.as_str()).unwrap().to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    // Nowhere in the reply, not in the text for people either.
    for secret in ["token()", "hidden()"] {
        assert!(!text.contains(secret), "{action}: {text}");
    }
    paths
}

async fn what_may_not_be_read_is_met_by_no_call() {
    let rule = "[[route]]\nmatch = \"fsEvent:readFile\"\npath = \"**/secrets/**\"\nto = \"deny\"";
    let open = project(rule).open().await;
    std::os::unix::fs::symlink("secrets", open.root().join("way")).unwrap();
    let rows = [
        (
            "searchFiles",
            json!({ "path": ".", "regex": "fn" }),
            vec!["src/open.rs"],
        ),
        ("searchFiles", json!({ "path": "secrets", "regex": "fn" }), vec![]),
        ("searchFiles", json!({ "path": "way", "regex": "fn" }), vec![]),
        (
            "grepSearch",
            json!({ "pattern": "fn", "include": "*.rs" }),
            vec!["src/open.rs"],
        ),
        ("readManyFiles", json!({ "paths": ["src"] }), vec!["src/open.rs"]),
        ("readManyFiles", json!({ "paths": ["**/*.rs"] }), vec!["src/open.rs"]),
        ("listCodeDefinitionNames", json!({ "path": "secrets" }), vec![]),
    ];
    for (action, message, expected) in rows {
        assert_eq!(shown(&open, action, &message).await, expected, "{action} {message}");
    }
    for (action, message) in [
        ("searchFiles", json!({ "path": "secrets/key.rs", "regex": "fn" })),
        ("searchFiles", json!({ "path": "way/key.rs", "regex": "fn" })),
        ("listCodeDefinitionNames", json!({ "path": "secrets/key.rs" })),
    ] {
        let path = message["path"].as_str().unwrap();
        assert_eq!(
            open.error(&format!("fsEvent:{action}"), message.clone()).await,
            format!("denied: `{path}` may not be read by fsEvent:{action}: a rule of this project refuses it")
        );
    }
    let many = open
        .reply(
            "fsEvent:readManyFiles",
            json!({ "paths": ["secrets/key.rs", "src/open.rs"] }),
        )
        .await;
    assert_eq!(
        many["files"][0]["error"],
        "`secrets/key.rs` may not be read by fsEvent:readManyFiles: a rule of this project refuses it"
    );
    assert_eq!(many["files"][1]["content"], "fn shown() {}\n");
}

async fn what_may_not_be_met_is_neither_listed_nor_removed() {
    let rule = "[[route]]\nmatch = \"fsEvent:*\"\npath = \"src/secrets/**\"\nto = \"deny\"";
    let open = project(rule).open().await;
    let rows = [
        (
            "fileList",
            json!({ "path": "src", "recursive": true }),
            vec!["src/open.rs"],
        ),
        ("listDirectory", json!({ "path": "src" }), vec!["src/open.rs"]),
        ("fuzzySearch", json!({ "query": "inner" }), vec![]),
    ];
    for (action, message, expected) in rows {
        assert_eq!(shown(&open, action, &message).await, expected, "{action} {message}");
    }
    assert_eq!(
        open.error("fsEvent:deleteFolder", json!({ "path": "src" })).await,
        "denied: `src` holds `src/secrets`, which a rule of this project keeps from fsEvent:deleteFolder"
    );
    assert!(open.root().join("src/open.rs").exists());
    open.reply("fsEvent:deleteFolder", json!({ "path": "secrets" })).await;
}

async fn an_allowed_search_shows_what_its_own_rule_asked_about() {
    let rule = "[[route]]\nmatch = \"fsEvent:*\"\nto = \"ask\"\nfallback = [\"local\"]";
    let open = project(rule).open().await;
    let asked = open
        .begin("fsEvent:searchFiles", json!({ "path": ".", "regex": "token" }))
        .await;
    let question = open.some_question().await;
    open.hub.desk.answer(question.id, Answer::plain("allow")).unwrap();
    let reply: Value = asked.await.unwrap().result.unwrap().to().unwrap();
    assert_eq!(reply["results"][0]["path"], "secrets/key.rs");
}
