//! Runs a program as its message says, and answers with what came of it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::process::{Command, Piece};
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
struct Run {
    program: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    input: String,
    /// An input of so many bytes.
    #[serde(default)]
    bytes: usize,
    folder: Option<String>,
    millis: Option<u64>,
    /// How many of it are started before and held.
    #[serde(default)]
    hold: usize,
    /// Whether pieces are handed out as chunks.
    #[serde(default)]
    stream: bool,
    /// Whether it is let go after its first piece.
    #[serde(default)]
    drop: bool,
}

fn command(run: &Run) -> Command {
    let input = if run.bytes > 0 {
        vec![b'x'; run.bytes]
    } else {
        run.input.clone().into_bytes()
    };
    let mut command = Command::new(&run.program).args(&run.args).input(input);
    if let Some(folder) = &run.folder {
        command = command.folder(folder);
    }
    match run.millis {
        Some(millis) => command.timeout(Duration::from_millis(millis)),
        None => command,
    }
}

fn tried(call: &Call, run: &Run) -> Result<Value> {
    let mut held = Vec::new();
    for _ in 0..run.hold {
        held.push(command(run).start()?);
    }
    let mut running = command(run).start()?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for piece in &mut running {
        let (to, bytes) = match piece? {
            Piece::Stdout(bytes) => (&mut stdout, bytes),
            Piece::Stderr(bytes) => (&mut stderr, bytes),
        };
        if run.stream {
            call.emit(&String::from_utf8_lossy(&bytes))?;
        }
        to.extend(bytes);
        if run.drop {
            break;
        }
    }
    if run.drop {
        drop(running);
        return Ok(json!(String::from_utf8_lossy(&stdout)));
    }
    let ending = running.finish()?;
    Ok(json!({
        "ending": format!("{ending:?}"),
        "size": stdout.len() + stderr.len(),
        "stdout": String::from_utf8_lossy(stdout.get(..4096).unwrap_or(&stdout)),
        "stderr": String::from_utf8_lossy(&stderr),
    }))
}

fn run(call: &Call, run: Run) -> Result<Value> {
    tried(call, &run).or_else(|error| Ok(json!({ "error": error.to_string() })))
}

waypost_sdk::handler!(run);
