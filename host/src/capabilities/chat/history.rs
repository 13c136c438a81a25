//! The chat of a run, read from its stream in the event log: the prompt, and what the agent said.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Said;
use crate::call::{Call, CallError, Json};
use crate::error::ErrorKind;
use crate::log::{Event, EventLog, resolve};

/// How many messages a history holds; the oldest are left out.
const MESSAGES: usize = 1000;

/// How many bytes of text a history holds; the oldest messages are left out.
const BYTES: usize = 1 << 20;

/// Events that are read from the log at once.
const PAGE: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetChatHistory {
    thread: Option<Arc<str>>,
}

/// The newest messages, oldest first.
#[derive(Debug, Default, Serialize)]
pub(super) struct History {
    messages: VecDeque<Message>,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    thread: Option<Arc<str>>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    at: u64,
    run: Arc<str>,
    #[serde(skip)]
    call: Option<Uuid>,
}

/// What is read of the body of `run.accepted`.
#[derive(Deserialize)]
struct Accepted {
    prompt: String,
    thread: Arc<str>,
}

/// What is read of the body of `call.started` and `call.ended`. Together they hold the message once.
#[derive(Deserialize)]
struct Row {
    name: String,
    message: Option<Json>,
    error: Option<IgnoredAny>,
}

/// Answers `getChatHistory`. Outside a run there is no chat.
pub(super) async fn read(log: &dyn EventLog, call: &Call) -> Result<History, CallError> {
    let GetChatHistory { thread } = call.message.to()?;
    let mut history = History::default();
    let mut after = 0;
    while let Some(run) = &call.principal.run {
        if call.cancel.is_cancelled() || call.deadline.passed() {
            return Err(CallError::stopped(call));
        }
        let events = log.read(run, after, PAGE).await?;
        let Some(last) = events.last() else { break };
        after = last.seq;
        for event in &events {
            history.take(log, event).await?;
        }
    }
    match thread {
        Some(thread) if history.thread.as_ref() != Some(&thread) => {
            let thread = thread.escape_debug();
            let message = format!("thread `{thread}` is not the one of this run; leave `thread` out to read that");
            Err(CallError::new(ErrorKind::NotFound, message))
        }
        _ => Ok(history),
    }
}

impl History {
    /// Adds what an event tells of the chat.
    async fn take(&mut self, log: &dyn EventLog, event: &Event) -> Result<(), CallError> {
        match &*event.kind {
            "run.accepted" => {
                let Accepted { prompt, thread } = resolve(log, event.body.clone()).await?.to()?;
                self.thread = Some(thread);
                self.push("user", prompt, event);
            }
            "call.started" | "call.ended" => {
                let Row { name, message, error } = event.body.to()?;
                if name != "sendMessage" {
                    return Ok(());
                }
                if error.is_some() {
                    // It was written down when it was sent, and then reached nobody.
                    self.messages.retain(|message| message.call != event.call);
                    self.bytes = self.messages.iter().map(|message| message.content.len()).sum();
                } else if let Some(message) = message {
                    // Another handler may have taken what is no text.
                    if let Ok(Said { message }) = resolve(log, message).await?.to() {
                        self.push("assistant", message, event);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, role: &'static str, content: String, event: &Event) {
        self.bytes += content.len();
        self.messages.push_back(Message {
            role,
            content,
            at: event.at,
            run: event.run.clone(),
            call: event.call,
        });
        while self.messages.len() > MESSAGES || self.bytes > BYTES {
            let Some(oldest) = self.messages.pop_front() else {
                return;
            };
            self.bytes -= oldest.content.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Value, json};

    use crate::call::{CallName, Effect};
    use crate::capabilities::chat::tests::{call, call_with};
    use crate::log::memory::MemoryLog;
    use crate::log::{Append, Body, CallEnded, CallStarted, NewEvent};

    async fn append(log: &MemoryLog, run: &str, kind: &'static str, call: Option<Uuid>, body: Body) {
        log.append(Append::one(
            run,
            NewEvent {
                kind,
                call,
                body,
                record: None,
            },
        ))
        .await
        .unwrap();
    }

    /// What dispatch writes about a call: one row for a read, two for an effect.
    async fn carried(log: &MemoryLog, run: &str, name: &str, effect: Effect, message: Value, fails: bool) {
        let call = call(name);
        let started = CallStarted {
            name: call.name.clone(),
            principal: call.principal.clone(),
            environment: None,
            effect,
            rule: "default".into(),
            message: message.into(),
            index: None,
            parent: None,
        };
        if effect != Effect::Read {
            append(
                log,
                run,
                "call.started",
                Some(call.id),
                Body::CallStarted(Box::new(started.clone())),
            )
            .await;
        }
        let failure = CallError::new(ErrorKind::Denied, "no");
        let result = if fails { Err(failure) } else { Ok(json!({}).into()) };
        let ended = CallEnded {
            call: started,
            attempts: Vec::new(),
            result,
            micros: 1,
        };
        append(log, run, "call.ended", Some(call.id), Body::CallEnded(Box::new(ended))).await;
    }

    async fn say(log: &MemoryLog, text: &str) {
        carried(
            log,
            "r1",
            "sendMessage",
            Effect::Idempotent,
            json!({"message": text}),
            false,
        )
        .await;
    }

    async fn history(log: &MemoryLog, asked: Value) -> Result<Vec<(String, String)>, CallError> {
        let history: Value = Json::of(&read(log, &call_with("getChatHistory", asked)).await?)?.to()?;
        let messages = history["messages"].as_array().unwrap();
        let text = |message: &Value, field: &str| message[field].as_str().unwrap().to_owned();
        assert!(
            messages
                .iter()
                .all(|message| message["run"] == "r1" && message["at"].is_u64())
        );
        Ok(messages
            .iter()
            .map(|message| (text(message, "role"), text(message, "content")))
            .collect())
    }

    #[tokio::test]
    async fn a_history_is_the_prompt_and_what_was_said_in_the_run() {
        let log = MemoryLog::default();
        let accepted = |prompt: &str| Body::Json(json!({"prompt": prompt, "thread": "t1", "state": "accepted"}).into());
        append(&log, "r1", "run.accepted", None, accepted("add a test")).await;
        append(&log, "r2", "run.accepted", None, accepted("another run")).await;
        say(&log, "on it").await;
        carried(
            &log,
            "r1",
            "executeCommand",
            Effect::NonIdempotent,
            json!({"command": "make"}),
            false,
        )
        .await;
        carried(
            &log,
            "r1",
            "sendMessage",
            Effect::Idempotent,
            json!({"message": "refused"}),
            true,
        )
        .await;
        carried(
            &log,
            "r1",
            "sendMessage",
            Effect::Read,
            json!({"message": "as a read"}),
            false,
        )
        .await;
        carried(
            &log,
            "r1",
            "sendMessage",
            Effect::Read,
            json!({"message": "refused"}),
            true,
        )
        .await;
        carried(
            &log,
            "r2",
            "sendMessage",
            Effect::Idempotent,
            json!({"message": "elsewhere"}),
            false,
        )
        .await;
        let long = "x".repeat(crate::log::BLOB_FROM);
        say(&log, &long).await;

        let said = |role: &str, text: &str| (role.to_owned(), text.to_owned());
        let expected = [
            said("user", "add a test"),
            said("assistant", "on it"),
            said("assistant", "as a read"),
            said("assistant", &long),
        ];
        assert_eq!(history(&log, json!({})).await.unwrap(), expected);
        assert_eq!(history(&log, json!({"thread": "t1"})).await.unwrap(), expected);
        assert_eq!(
            history(&log, json!({"thread": "t2"})).await.unwrap_err().to_string(),
            "not-found: thread `t2` is not the one of this run; leave `thread` out to read that"
        );
    }

    #[tokio::test]
    async fn a_forged_reference_is_not_followed() {
        let log = MemoryLog::default();
        say(&log, &"x".repeat(crate::log::BLOB_FROM)).await;
        let stored: Value = log.read("r1", 0, 1).await.unwrap()[0].body.to().unwrap();
        let digest = stored["message"]["$blob"].as_str().unwrap();
        for forged in [json!([digest, 1]), json!({"$blob": digest, "bytes": 1})] {
            let log = MemoryLog::default();
            carried(&log, "r1", "sendMessage", Effect::Idempotent, forged, false).await;
            assert_eq!(history(&log, json!({})).await.unwrap(), []);
        }
    }

    #[tokio::test]
    async fn a_long_history_keeps_the_newest() {
        let log = MemoryLog::default();
        for number in 0..MESSAGES + 3 {
            say(&log, &number.to_string()).await;
        }
        let messages = history(&log, json!({})).await.unwrap();
        assert_eq!((messages.len(), messages[0].1.as_str()), (MESSAGES, "3"));
        for letter in ["a", "b"] {
            say(&log, &letter.repeat(BYTES / 2 + 1)).await;
        }
        let messages = history(&log, json!({})).await.unwrap();
        assert_eq!(messages.len(), 1);
        assert!(messages[0].1.starts_with('b'));
    }

    #[tokio::test]
    async fn outside_a_run_there_is_no_history() {
        let mut call = call("getChatHistory");
        let mut principal = (*call.principal).clone();
        principal.run = None;
        call.principal = Arc::new(principal);
        assert_eq!(call.name, CallName::new("getChatHistory", None));
        let history = Json::of(&read(&MemoryLog::default(), &call).await.unwrap()).unwrap();
        assert_eq!(history.as_str(), r#"{"messages":[]}"#);
    }

    #[tokio::test]
    async fn a_cancelled_reading_stops() {
        let call = call("getChatHistory");
        call.cancel.cancel();
        assert_eq!(
            read(&MemoryLog::default(), &call).await.unwrap_err().kind,
            ErrorKind::Cancelled
        );
    }
}
