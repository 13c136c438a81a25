//! Keeps state: each step of its message is one operation, answered with what came of it.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::{Call, Result, state};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Get(String),
    Set(String, Value),
    /// Sets a text of so many bytes.
    Fill(String, usize),
    Remove(String),
    Keys(String),
}

fn take(step: Step) -> Result<Value> {
    match step {
        Step::Get(key) => Ok(json!(state::get::<Value>(&key)?)),
        Step::Set(key, value) => state::set(&key, &value).map(|()| json!("set")),
        Step::Fill(key, bytes) => state::set(&key, &"x".repeat(bytes)).map(|()| json!("set")),
        Step::Remove(key) => state::remove(&key).map(|()| json!("removed")),
        Step::Keys(prefix) => state::keys(&prefix).map(|keys| json!(keys)),
    }
}

fn keep(_: &Call, steps: Vec<Step>) -> Result<Vec<Value>> {
    steps
        .into_iter()
        .map(|step| take(step).or_else(|error| Ok(json!({ "error": error.to_string() }))))
        .collect()
}

waypost_sdk::handler!(keep);
