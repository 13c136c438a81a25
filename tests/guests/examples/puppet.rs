//! Asks a person about each call that it gets, and ends it as it is told.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::{Call, CallError, Result, gateway};

#[derive(Deserialize)]
struct Told {
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    Answer(Value),
    Fail(String),
    Trap,
}

fn obey(call: &Call, message: Value) -> Result<Value> {
    let asked = json!({ "name": call.name(), "message": message }).to_string();
    let told: Told = gateway::call("waitforReply", &json!({ "message": asked }))?;
    match serde_json::from_str(&told.message)? {
        End::Answer(value) => Ok(value),
        End::Fail(text) => Err(CallError::other(text)),
        End::Trap => std::process::abort(),
    }
}

waypost_sdk::handler!(obey);
