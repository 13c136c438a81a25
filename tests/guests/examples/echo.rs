//! Answers what it was told, with the facts that the hub set.

use serde::{Deserialize, Serialize};
use waypost_sdk::{Call, Result};

#[derive(Deserialize)]
struct Say {
    text: String,
    times: usize,
}

#[derive(Serialize)]
struct Echo {
    text: String,
    name: String,
    project: String,
    run: Option<String>,
    environment: Option<String>,
    time_left: bool,
}

fn echo(call: &Call, say: Say) -> Result<Echo> {
    Ok(Echo {
        text: say.text.repeat(say.times),
        name: call.name(),
        project: call.project.clone(),
        run: call.run.clone(),
        environment: call.environment.clone(),
        time_left: !call.time_left.is_zero(),
    })
}

waypost_sdk::handler!(echo);
