//! Makes the call that it is told to make, and answers what came of it.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::gateway::Request;
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
struct Make {
    call: String,
    message: Value,
}

fn make(_: &Call, make: Make) -> Result<Value> {
    match Request::new(make.call).message(&make.message)?.call::<Value>() {
        Ok(reply) => Ok(json!({ "reply": reply })),
        Err(error) => Ok(json!({ "error": error.to_string() })),
    }
}

waypost_sdk::handler!(make);
