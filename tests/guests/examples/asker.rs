//! Asks a server as its message says, and answers with what came: the head, and the body as it came or in pieces.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::http::Request;
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
struct Ask {
    method: Option<String>,
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Header, prefix and name of a secret.
    secret: Option<(String, String, String)>,
    /// A body of so many bytes.
    #[serde(default)]
    bytes: usize,
    millis: Option<u64>,
    /// How many answers are held open and not read.
    #[serde(default)]
    hold: usize,
    /// Whether pieces are handed out as chunks.
    #[serde(default)]
    stream: bool,
}

fn request(ask: &Ask) -> Request {
    let mut request = Request::new(ask.method.as_deref().unwrap_or("GET"), &ask.url).body(vec![b'x'; ask.bytes]);
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    if let Some((name, prefix, secret)) = &ask.secret {
        request = request.secret(name, prefix, secret);
    }
    match ask.millis {
        Some(millis) => request.timeout(Duration::from_millis(millis)),
        None => request,
    }
}

fn tried(call: &Call, ask: &Ask) -> Result<Value> {
    let mut held = Vec::new();
    for _ in 0..ask.hold {
        held.push(request(ask).send()?);
    }
    let mut response = request(ask).send()?;
    let mut body = Vec::new();
    let mut failed = None;
    for piece in response.pieces() {
        match piece {
            Ok(piece) => {
                if ask.stream {
                    call.emit(&String::from_utf8_lossy(&piece))?;
                }
                body.extend(piece);
            }
            Err(error) => {
                failed = Some(error.to_string());
                break;
            }
        }
    }
    // What failed fails again, and what ended has ended.
    let again = response
        .pieces()
        .next()
        .map(|piece| piece.map(|_| ()).map_err(|error| error.to_string()));
    Ok(json!({
        "status": response.status(),
        "headers": response.headers(),
        "size": body.len(),
        "body": String::from_utf8_lossy(body.get(..4096).unwrap_or(&body)),
        "failed": failed,
        "again": again,
    }))
}

fn ask(call: &Call, ask: Ask) -> Result<Value> {
    tried(call, &ask).or_else(|error| Ok(json!({ "error": error.to_string() })))
}

waypost_sdk::handler!(ask);
