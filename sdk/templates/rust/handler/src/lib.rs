//! A handler: greets whom it is told to, and counts how often.

use serde::{Deserialize, Serialize};
use waypost_sdk::{Call, CallError, state};

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Greeting {
    text: String,
    times: u64,
}

/// What reaches the hub is here; what thinks is in a function that a plain test can call.
fn greet(_: &Call, ask: Greet) -> Result<Greeting, CallError> {
    let key = format!("greeted/{}", ask.name);
    let greeting = next(&ask.name, state::get(&key)?.unwrap_or(0))?;
    state::set(&key, &greeting.times)?;
    Ok(greeting)
}

fn next(name: &str, before: u64) -> Result<Greeting, CallError> {
    if name.is_empty() || name.len() > 100 {
        return Err(CallError::invalid("`name` has 1 to 100 bytes"));
    }
    let times = before.saturating_add(1);
    Ok(Greeting { text: format!("Hello {name}"), times })
}

waypost_sdk::handler! { "{{name}}:greet" => greet }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_refuses_a_name_that_is_none() {
        assert_eq!(next("Ada", 1), Ok(Greeting { text: "Hello Ada".to_owned(), times: 2 }));
        assert_eq!(next("", 0).unwrap_err().kind(), "invalid");
    }
}
