//! Uses all that a handler may import: each step of its message is one operation, answered with what came of it.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::{Call, Result, files, gateway, http, log, state};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Say(String),
    Emit(Value),
    Call(String, Value),
    /// Makes a call and answers its chunks, and then its reply.
    Stream(String, Value),
    /// Keeps a value under a key, and reads it again.
    Keep(String, Value),
    /// Writes a file of a folder, and reads it again.
    Write(String, String, String),
    /// The status and the body of a server's answer.
    Ask(String),
}

fn take(call: &Call, step: Step) -> Result<Value> {
    Ok(match step {
        Step::Say(text) => json!(log::info(text)),
        Step::Emit(chunk) => json!(call.emit(&chunk)?),
        Step::Call(name, message) => gateway::call(&name, &message)?,
        Step::Stream(name, message) => {
            let mut running = gateway::Request::new(name).message(&message)?.start()?;
            let mut seen = running.chunks().collect::<Result<Vec<Value>>>()?;
            seen.push(running.finish()?);
            json!(seen)
        }
        Step::Keep(key, value) => {
            state::set(&key, &value)?;
            json!([state::keys("")?, state::get::<Value>(&key)?])
        }
        Step::Write(folder, path, text) => {
            files::write(&folder, &path, text)?;
            json!(files::read_text(&folder, &path)?)
        }
        Step::Ask(url) => {
            let answer = http::Request::get(url).send()?;
            let status = answer.status();
            json!([status, answer.json::<Value>()?])
        }
    })
}

fn work(call: &Call, steps: Vec<Step>) -> Result<Vec<Value>> {
    let taken = steps.into_iter();
    taken
        .map(|step| take(call, step).or_else(|error| Ok(json!({ "error": error.to_string() }))))
        .collect()
}

waypost_sdk::handler!(work);
