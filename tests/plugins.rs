//! What a plugin can do, and what it cannot.

use serde_json::json;

use crate::harness::{Plugin, Project};
use crate::listed;

listed![a_handler_is_typed_and_knows_its_call];

async fn a_handler_is_typed_and_knows_its_call() {
    let open = Project::new().plugin(&Plugin::of("echo")).open().await;
    let reply = open.reply("echo", json!({ "text": "ab", "times": 3 })).await;
    let expected = json!({
        "text": "ababab", "name": "echo", "project": "default", "run": null, "environment": null, "time_left": true,
    });
    assert_eq!(reply, expected);
    assert_eq!(
        open.error("echo", json!({ "text": "ab" })).await,
        "invalid: the message of echo does not fit: missing field `times` at line 1 column 13"
    );
}
