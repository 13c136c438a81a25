//! Wraps whatever call it gets: asks for the same again, and marks the reply.

use serde_json::{Value, json};
use waypost_sdk::{Call, Result, gateway};

fn wrap(call: &Call, message: Value) -> Result<Value> {
    Ok(json!({ "wrapped": gateway::call::<Value>(&call.name(), &message)? }))
}

waypost_sdk::handler!(wrap);
