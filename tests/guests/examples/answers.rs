//! A model that always says the same.

use serde_json::{Value, json};
use waypost_sdk::{Call, Result};

fn answer(_: &Call, _: Value) -> Result<Value> {
    Ok(json!({ "role": "assistant", "content": "all is well", "finish_reason": "stop" }))
}

waypost_sdk::handler!(answer);
