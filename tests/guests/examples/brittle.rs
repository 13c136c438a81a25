//! Takes for granted that its message and the answer to its call are as it expects.

#![expect(
    clippy::expect_used,
    reason = "a guest that breaks on what it did not expect is what the trial needs"
)]

use serde_json::{Value, json};
use waypost_sdk::{Call, Result, gateway};

fn length(_: &Call, message: Value) -> Result<usize> {
    let path = message.get("path").and_then(Value::as_str).expect("the path is a text");
    let file: Value = gateway::call("fsEvent:readFile", &json!({ "path": path })).expect("the file can be read");
    let content = file.get("content").and_then(Value::as_str);
    Ok(content.expect("the content is a text").len())
}

waypost_sdk::handler!(length);
