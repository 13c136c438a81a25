//! Hands out chunks before its reply.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::{Call, Result, log};

#[derive(Deserialize)]
struct Wanted {
    count: usize,
}

fn hand_out(call: &Call, wanted: Wanted) -> Result<Value> {
    for number in 0..wanted.count {
        call.emit(&json!({ "number": number }))?;
        log::debug(number.to_string());
    }
    Ok(json!({ "count": wanted.count }))
}

waypost_sdk::handler!(hand_out);
