//! An agent: reads the README of the project, asks a model once, and answers with what it says.
//!
//! After a crash of the hub it runs again from the start and its past calls are answered from the log: given the same
//! replies it must make the same calls.

use serde::{Deserialize, Serialize};
use serde_json::json;
use waypost_sdk::{CallError, Outcome, Result, Task, gateway};

#[derive(Debug, PartialEq, Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

#[derive(Deserialize)]
struct File {
    content: String,
}

#[derive(Deserialize)]
struct Answer {
    content: Option<String>,
}

fn run(task: Task) -> Result<Outcome> {
    let readme = match gateway::call::<File>("fsEvent:readFile", &json!({ "path": "README.md" })) {
        Ok(file) => Some(file.content),
        Err(CallError::NotFound(_)) => None,
        Err(error) => return Err(error),
    };
    let messages = messages(&task.prompt, readme.as_deref());
    let answer: Answer = gateway::call("inference", &json!({ "messages": messages }))?;
    let text = answer.content.filter(|text| !text.is_empty());
    text.map(Outcome::new).ok_or_else(|| CallError::other("the model answered nothing"))
}

fn messages(prompt: &str, readme: Option<&str>) -> Vec<Message> {
    let mut messages = Vec::new();
    if let Some(readme) = readme {
        messages.push(Message { role: "system", content: format!("The README of the project:\n{readme}") });
    }
    messages.push(Message { role: "user", content: prompt.to_owned() });
    messages
}

waypost_sdk::agent!(run);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_comes_before_the_prompt() {
        let said: Vec<String> = messages("Why?", Some("Because.")).into_iter().map(|message| message.content).collect();
        assert_eq!(said, ["The README of the project:\nBecause.", "Why?"]);
        assert_eq!(messages("Why?", None), [Message { role: "user", content: "Why?".to_owned() }]);
    }
}
