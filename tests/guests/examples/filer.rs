//! Works with files and variables: each step of its message is one operation, answered with what came of it.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::files::{self, Reader};
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Stat(String, String),
    List(String, String),
    Read(String, String),
    /// Reads from an offset, and answers the sizes of the pieces.
    Pieces(String, String, u64),
    Write(String, String, String),
    /// Writes a file of so many bytes.
    Fill(String, String, usize),
    Remove(String, String),
    /// Opens a file so many times.
    Hold(String, String, usize),
    /// All variables.
    Env,
}

fn take(step: Step) -> Result<Value> {
    Ok(match step {
        Step::Stat(folder, path) => files::stat(&folder, &path)?.map_or(Value::Null, |stat| {
            json!([
                format!("{:?}", stat.kind),
                stat.size,
                stat.changed_ms.is_some_and(|time| time > 1_600_000_000_000)
            ])
        }),
        Step::List(folder, path) => {
            let entries = files::list(&folder, &path)?.into_iter();
            entries
                .map(|entry| format!("{} {:?} {}", entry.name, entry.kind, entry.size))
                .collect()
        }
        Step::Read(folder, path) => json!(files::read_text(&folder, &path)?),
        Step::Pieces(folder, path, offset) => {
            let pieces = Reader::open(&folder, &path, offset)?;
            pieces.map(|piece| Ok(json!(piece?.len()))).collect::<Result<Value>>()?
        }
        Step::Write(folder, path, text) => json!(files::write(&folder, &path, text)?),
        Step::Fill(folder, path, bytes) => json!(files::write(&folder, &path, vec![b'x'; bytes])?),
        Step::Remove(folder, path) => json!(files::remove(&folder, &path)?),
        Step::Hold(folder, path, times) => {
            let open = (0..times)
                .map(|_| Reader::open(&folder, &path, 0))
                .collect::<Result<Vec<_>>>()?;
            json!(open.len())
        }
        Step::Env => json!(std::env::vars().collect::<Vec<_>>()),
    })
}

fn work(_: &Call, steps: Vec<Step>) -> Result<Vec<Value>> {
    steps
        .into_iter()
        .map(|step| take(step).or_else(|error| Ok(json!({ "error": error.to_string() }))))
        .collect()
}

waypost_sdk::handler!(work);
