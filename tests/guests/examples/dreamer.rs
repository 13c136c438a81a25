//! An agent that reads the clock and random numbers, tells what it read, and asks a model.

use std::hash::{BuildHasher, RandomState};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use waypost_sdk::{CallError, Outcome, Result, Task, gateway};

fn reading(began: Instant) -> Result<Value> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|error| CallError::other(error.to_string()))?;
    let random = RandomState::new().hash_one(0);
    Ok(json!([now.as_millis(), began.elapsed().as_millis(), random]))
}

fn run(_: Task) -> Result<Outcome> {
    let began = Instant::now();
    let mut readings = Vec::new();
    for _ in 0..3 {
        readings.push(reading(began)?);
        let text = json!(readings).to_string();
        let _: Value = gateway::call("sendMessage", &json!({ "message": text }))?;
    }
    let _: Value = gateway::call("inference", &json!({ "prompt": "go on" }))?;
    readings.push(reading(began)?);
    Ok(Outcome::new(json!(readings).to_string()))
}

waypost_sdk::agent!(run);
