//! Tells a person of each call that it hears of, and ends as it is told.

use serde::Deserialize;
use serde_json::{Value, json};
use waypost_sdk::{CallError, Notification, Result, gateway};

#[derive(Deserialize)]
struct Told {
    message: String,
}

fn tell(notification: Notification) -> Result<()> {
    let result = match notification.reply::<Value>() {
        Ok(reply) => reply,
        Err(error) => json!({ "success": false, "error": error.message() }),
    };
    let heard = json!({
        "id": notification.id, "run": notification.run, "name": notification.name(),
        "message": notification.message::<Value>()?, "result": result, "dropped": notification.lagged,
    });
    let told: Told = gateway::call("waitforReply", &json!({ "message": heard.to_string() }))?;
    match &*told.message {
        "ok" => Ok(()),
        "trap" => std::process::abort(),
        other => Err(CallError::other(other)),
    }
}

waypost_sdk::observer!(tell);
