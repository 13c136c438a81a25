//! Starts as many calls as it is told to and keeps all of them.

use waypost_sdk::gateway::Request;
use waypost_sdk::{Call, Result};

fn hoard(_: &Call, count: usize) -> Result<usize> {
    let mut kept = Vec::new();
    for _ in 0..count {
        kept.push(Request::new("hoard:this").start()?);
    }
    Ok(kept.len())
}

waypost_sdk::handler!(hoard);
