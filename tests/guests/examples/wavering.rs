//! An agent that breaks its promise: what it does depends on how often it was run.

use serde_json::{Value, json};
use waypost_sdk::{Outcome, Result, Task, gateway, state};

fn run(_: Task) -> Result<Outcome> {
    let times = state::get::<u32>("times")?.unwrap_or(0) + 1;
    state::set("times", &times)?;
    let _: Value = gateway::call("sendMessage", &json!({ "message": format!("run {times}") }))?;
    let _: Value = gateway::call("inference", &json!({ "prompt": "go on" }))?;
    Ok(Outcome::new("done"))
}

waypost_sdk::agent!(run);
