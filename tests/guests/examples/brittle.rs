//! Takes for granted that its message and the answer to its call are as it expects.

#![expect(
    clippy::expect_used,
    reason = "a guest that breaks on what it did not expect is what the trial needs"
)]

use serde_json::{Value, json};
use waypost_sdk::{Call, Result, gateway};

fn length(_: &Call, message: Value) -> Result<usize> {
    let path = message["path"].as_str().expect("the path is a text");
    let file: Value = gateway::call("fsEvent:readFile", &json!({ "path": path })).expect("the file can be read");
    Ok(file["content"].as_str().expect("the content is a text").len())
}

waypost_sdk::handler!(length);
