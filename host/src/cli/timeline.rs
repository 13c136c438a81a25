//! Events as people read them: when, who asked, what, under which rule, who answered, how long.

use std::collections::HashMap;

use serde_json::Value;

use super::output;
use crate::error::Result;
use crate::text::{shortened, visible};

/// A timeline that has begun; times are shown from its first event.
pub(super) struct Timeline {
    began: Option<u64>,
    colour: bool,
    /// What calls under way are about, by id: the end of an effect does not repeat its message.
    asked: HashMap<String, Value>,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            began: None,
            colour: output::colour(),
            asked: HashMap::new(),
        }
    }

    /// Shows one event after its cursor, by which `waypost event show` finds it.
    pub(super) fn show_with_cursor(&mut self, event: &Value) -> Result<()> {
        let cursor = event.get("cursor").and_then(Value::as_u64).unwrap_or_default();
        match self.row(event) {
            Some(row) => output::line(&format!("{cursor:>6}  {row}")),
            None => Ok(()),
        }
    }

    /// Shows one event.
    pub(super) fn show(&mut self, event: &Value) -> Result<()> {
        self.row(event).map_or(Ok(()), |row| output::line(&row))
    }

    fn row(&mut self, event: &Value) -> Option<String> {
        let at = event.get("at").and_then(Value::as_u64).unwrap_or_default();
        let since = at.saturating_sub(*self.began.get_or_insert(at));
        let time = format!("{:>4}.{:03}", since / 1000, since % 1000);
        let kind = event.get("kind").and_then(Value::as_str).unwrap_or_default();
        let body = event.get("body").unwrap_or(&Value::Null);
        let call = event.get("call").and_then(Value::as_str).unwrap_or_default();
        let text = match kind {
            // Shown with its end.
            "call.started" => {
                let message = body.get("message").cloned().unwrap_or_default();
                self.asked.insert(call.to_owned(), message);
                return None;
            }
            "call.ended" => {
                let asked = self.asked.remove(call);
                let message = body.get("message").or(asked.as_ref()).unwrap_or(&Value::Null);
                self.call(body, message)
            }
            _ => format!("{:<13}  {}", visible(kind), about(kind, body)),
        };
        Some(format!("{}  {text}", self.paint("2", &time)))
    }

    fn call(&self, body: &Value, message: &Value) -> String {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let who = format!("{}:{}", text("/principal/kind"), text("/principal/id"));
        let attempts: Vec<&Value> = body
            .get("attempts")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        let targets: Vec<String> = attempts
            .iter()
            .filter_map(|attempt| attempt.get("target").and_then(Value::as_str).map(visible))
            .collect();
        let by = if targets.is_empty() {
            "nobody".to_owned()
        } else {
            targets.join(" > ")
        };
        let micros = body.get("micros").and_then(Value::as_u64).unwrap_or_default();
        let took = format!("{}.{} ms", micros / 1000, (micros % 1000) / 100);
        let head = format!(
            "{:<13}  {:<22}  {by:<20}  {took:>9}",
            visible(&who),
            visible(text("/name"))
        );
        let rule = self.paint("2", &format!("  [{}]", visible(text("/rule"))));
        let gist = match body.pointer("/error/message").and_then(Value::as_str) {
            Some(error) => self.paint(
                "31",
                &format!("{}: {}", visible(text("/error/kind")), shortened(error, 100)),
            ),
            None => self.paint("36", &gist(message, body.get("reply").unwrap_or(&Value::Null))),
        };
        format!("{head}{rule}  {gist}")
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// What a call was about, in a few words.
fn gist(message: &Value, reply: &Value) -> String {
    let fields = ["/path", "/command", "/content", "/message", "/title"];
    let found = fields
        .iter()
        .flat_map(|field| [message.pointer(field), reply.pointer(field)])
        .flatten()
        .filter_map(Value::as_str)
        .find(|text| !text.is_empty());
    let tools: Vec<&str> = reply
        .get("tool_calls")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|call| call.pointer("/function/name").and_then(Value::as_str))
        .collect();
    let tools = if tools.is_empty() {
        String::new()
    } else {
        format!("→ {}", visible(&tools.join(", ")))
    };
    let found = found.map(|text| shortened(text, 60)).unwrap_or_default();
    [found, tools]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What any other event is about, in a few words.
fn about(kind: &str, body: &Value) -> String {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match kind {
        "run.accepted" => format!("\"{}\"", shortened(text("prompt"), 100)),
        "run.starting" => format!("agent {}", visible(text("agent"))),
        "run.running" => format!("in {}", visible(text("environment"))),
        "run.failed" => shortened(
            body.pointer("/error/message")
                .and_then(Value::as_str)
                .unwrap_or_default(),
            100,
        ),
        "run.parked" => "it waits; its sandbox is put away until the answer is there".to_owned(),
        "agent.started" => {
            let words = body.get("command").and_then(Value::as_array).into_iter().flatten();
            shortened(&words.filter_map(Value::as_str).collect::<Vec<_>>().join(" "), 100)
        }
        "agent.ended" => visible(text("status")),
        "run.completed" => String::new(),
        _ => {
            let parts = ["id", "name", "holder", "state", "provider", "problem"].map(text);
            let parts: Vec<String> = parts
                .iter()
                .filter(|part| !part.is_empty())
                .map(|part| shortened(part, 80))
                .collect();
            parts.join(" ")
        }
    }
}
