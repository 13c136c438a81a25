//! The handler `replay`: answers `inference` from recordings that are built into it, so that an agent works with no
//! network and no key.
//!
//! A recording is found by what was said, not by when: the conversation without its leading system messages, with the
//! tool calls' names and arguments, and without ids. It deliberately does not guess: a conversation that was not recorded
//! is `not-found`.

mod recording;

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::{Call, Result};

pub use recording::{Recording, find};

/// The recordings: a file of `recordings/` and its line here.
const RECORDINGS: &[&str] = &[
    include_str!("../recordings/release-1.json"),
    include_str!("../recordings/release-2.json"),
    include_str!("../recordings/release-3.json"),
    include_str!("../recordings/release-4.json"),
];

/// What of an inference decides which recording answers it: the conversation, or the plain text that stands for one.
#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    messages: Vec<Value>,
    prompt: Option<String>,
}

/// The recording of a conversation, from those that are built in.
pub fn answer(messages: &[Value]) -> Result<Recording> {
    find(RECORDINGS, messages)
}

fn infer(call: &Call, mut ask: Ask) -> Result<Value> {
    ask.messages
        .extend(ask.prompt.map(|prompt| json!({ "role": "user", "content": prompt })));
    let recording = answer(&ask.messages)?;
    for chunk in &recording.chunks {
        call.emit(chunk)?;
    }
    Ok(recording.reply)
}

waypost_sdk::handler! { "inference" => infer }
