//! Answers with a text of as many bytes as it is told.

use waypost_sdk::{Call, Result};

fn answer(_: &Call, bytes: usize) -> Result<String> {
    Ok("x".repeat(bytes.saturating_sub(2)))
}

waypost_sdk::handler!(answer);
