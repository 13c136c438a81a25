//! Starts a call, reads as many of its chunks as it is told to, and waits for its end or drops it.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::gateway::Request;
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
struct Read {
    call: String,
    message: Value,
    chunks: usize,
    finish: bool,
}

fn read(_: &Call, read: Read) -> Result<Value> {
    let mut running = Request::new(read.call).message(&read.message)?.start()?;
    let chunks = running
        .chunks::<Value>()
        .take(read.chunks)
        .collect::<Result<Vec<_>>>()?;
    let end = if read.finish {
        Some(running.finish::<Value>()?)
    } else {
        None
    };
    Ok(json!({ "chunks": chunks, "end": end }))
}

waypost_sdk::handler!(read);
