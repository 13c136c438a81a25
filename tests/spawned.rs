//! Processes that the hub starts itself, and that connect on `/plugin`.

use std::path::Path;

use serde_json::json;

use crate::connections::{order, reply};
use crate::harness::Project;
use crate::harness::socket::Socket;
use crate::listed;

listed![c46_c47_a_started_plugin_is_greeted_and_told_to_stop];

async fn c46_c47_a_started_plugin_is_greeted_and_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str| folder.path().join(name);
    let command = |name: &str| telling(&told(name));
    let project = Project::new()
        .toml(&format!(
            "[[spawn]]\nname = \"polite\"\ncommand = {:?}\nclaim = [\"job\"]\ngrace = \"2s\"",
            command("polite")
        ))
        .toml(&format!(
            "[[spawn]]\nname = \"silent\"\ncommand = {:?}\ngrace = \"100ms\"",
            command("silent")
        ))
        .toml("[[route]]\nmatch = \"job\"\nto = \"proxy-only\"");
    let open = project.open().await;
    open.hub.begin();
    let (polite, silent) = (variables(&told("polite")).await, variables(&told("silent")).await);
    for token in ["", "guess", &"0".repeat(67)] {
        let (status, _) = Socket::connect(&url(&polite, Some(token)), &[]).await.err().unwrap();
        assert_eq!(status, 401);
    }
    let mut plugin = Socket::connect(&url(&polite, None), &[]).await.unwrap();
    let start = plugin.hear().await;
    assert_eq!(
        (&start["type"], &start["pluginId"]),
        (&json!("pluginStartMessage"), &json!("polite"))
    );
    assert!(start["pluginDir"].is_string() && start["manifest"].is_object());
    // Its token is good for one connection.
    assert_eq!(Socket::connect(&url(&polite, None), &[]).await.err().unwrap().0, 401);
    // It claims when it wants to.
    let claimed = order(&mut plugin, "claim").await;
    assert_eq!(
        (&claimed["success"], &claimed["data"]["pluginId"]),
        (&json!(true), &json!("polite")),
        "{claimed}"
    );
    let call = open.begin("job", json!({})).await;
    let request = plugin.hear().await;
    plugin.say(reply(&request, json!({ "done": true }))).await;
    assert_eq!(call.await.unwrap().result.unwrap().as_str(), r#"{"done":true}"#);
    let mut quiet_one = Socket::connect(&url(&silent, None), &[]).await.unwrap();
    quiet_one.hear().await;
    let closing = tokio::spawn(async move { open.close().await });
    assert_eq!(plugin.hear().await["type"], "pluginStopMessage");
    plugin
        .say(json!({ "type": "pluginStopResponse", "success": true }))
        .await;
    assert_eq!(quiet_one.hear().await["type"], "pluginStopMessage");
    let project = closing.await.unwrap();
    // Both have ended with the hub.
    for of in [&polite, &silent] {
        let id = &of.iter().find(|(name, _)| name == "pluginId").unwrap().1;
        let left = std::process::Command::new("pgrep")
            .args(["-f", &format!("{}", told(id).display())])
            .output()
            .unwrap();
        assert!(left.stdout.is_empty(), "{id} still runs");
    }
    drop(project);
}

/// A command that writes down its environment and stays.
pub(crate) fn telling(file: &Path) -> String {
    format!("sh -c 'env > {0}.new; mv {0}.new {0}; exec sleep 1000'", file.display())
}

/// Where the process of this environment connects, with this token instead of its own.
pub(crate) fn url(of: &[(String, String)], token: Option<&str>) -> String {
    let get = |name: &str| of.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let token = token.map_or_else(|| get("pluginToken"), str::to_owned);
    let (port, id) = (get("SOCKET_PORT"), get("pluginId"));
    format!("ws://localhost:{port}/plugin?id=x&pluginId={id}&pluginToken={token}&SECRET=a%20b&c")
}

/// The environment that a process has written down, as soon as it has.
pub(crate) async fn variables(file: &Path) -> Vec<(String, String)> {
    while !file.exists() {
        tokio::task::yield_now().await;
    }
    let text = std::fs::read_to_string(file).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
