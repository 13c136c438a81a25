//! Talks to a socket as its message says, and answers with what came.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::socket::Connection;
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
struct Talk {
    socket: String,
    #[serde(default)]
    send: Vec<String>,
    /// So many bytes more to send.
    #[serde(default)]
    bytes: usize,
    /// Whether it says that nothing more comes.
    #[serde(default)]
    finish: bool,
    millis: Option<u64>,
    /// How many connections are opened before and held.
    #[serde(default)]
    hold: usize,
    /// Whether pieces are handed out as chunks.
    #[serde(default)]
    stream: bool,
}

fn open(talk: &Talk) -> Result<Connection> {
    match talk.millis {
        Some(millis) => Connection::open_for(&talk.socket, Duration::from_millis(millis)),
        None => Connection::open(&talk.socket),
    }
}

fn tried(call: &Call, talk: &Talk) -> Result<Value> {
    let mut held = Vec::new();
    for _ in 0..talk.hold {
        held.push(open(talk)?);
    }
    let mut connection = open(talk)?;
    for text in &talk.send {
        connection.send(text)?;
    }
    if talk.bytes > 0 {
        connection.send(vec![b'x'; talk.bytes])?;
    }
    if talk.finish {
        connection.finish()?;
    }
    let mut came = Vec::new();
    let mut failed = None;
    for piece in &mut connection {
        match piece {
            Ok(piece) => {
                if talk.stream {
                    call.emit(&String::from_utf8_lossy(&piece))?;
                }
                came.extend(piece);
            }
            Err(error) => {
                failed = Some(error.to_string());
                break;
            }
        }
    }
    Ok(json!({
        "size": came.len(),
        "text": String::from_utf8_lossy(came.get(..4096).unwrap_or(&came)),
        "failed": failed,
    }))
}

fn talk(call: &Call, talk: Talk) -> Result<Value> {
    tried(call, &talk).or_else(|error| Ok(json!({ "error": error.to_string() })))
}

waypost_sdk::handler!(talk);
