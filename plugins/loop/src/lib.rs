//! The bundled agent `loop`: asks a model, makes the calls that the model asks for, and goes on until it is done.
//!
//! It deliberately does no more: it does not plan, does not shorten a long conversation, and does not decide what may be
//! done; that is for the rules of the hub. Given the same replies it makes the same calls, so a run can be repeated from
//! the log.

mod budget;
mod conversation;
mod message;
mod settings;
mod tools;

use serde_json::Value;
use waypost_sdk::{Outcome, Result, Task, gateway, log};

use crate::conversation::{Conversation, Hub};

/// The hub that this component runs in.
struct Gateway;

impl Hub for Gateway {
    fn call(&mut self, name: &str, message: &Value) -> Result<Value> {
        gateway::call(name, message)
    }

    fn warn(&mut self, text: &str) {
        log::warn(text);
    }
}

fn run(task: Task) -> Result<Outcome> {
    let settings = task.settings()?;
    Conversation::new(&mut Gateway, &task, settings)?
        .work()
        .map(Outcome::new)
}

waypost_sdk::agent!(run);
