//! The built-in chat: what agents say to people, and what they ask of them.
//!
//! What is said needs no store of its own: the call's row in the event log is the record, surfaces follow the log, and
//! the history is read from it. What is asked waits on the [`Desk`] for a person. Not here: how a message is shown, and
//! the end of a run, which `processStoped` and `processFinished` merely announce.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use self::desk::{ALLOW, Answer, DENY, Desk, OPEN_QUESTIONS, Question, QuestionKind};
use crate::call::{Call, CallError, Effect, Handler, Json, Sink};
use crate::error::ErrorKind;
use crate::log::EventLog;

mod desk;
mod history;

/// What it answers, with the effect class of each.
///
/// What is said or asked is idempotent: a person who reads it twice is no harm, a person who never reads it is.
pub const KINDS: &[super::Flat] = &[
    ("sendMessage", &[("", Effect::Idempotent)]),
    ("waitforReply", &[("", Effect::Idempotent)]),
    ("confirmationRequest", &[("", Effect::Idempotent)]),
    ("notificationEvent", &[("", Effect::Idempotent)]),
    ("processStarted", &[("", Effect::Idempotent)]),
    ("processStoped", &[("", Effect::Idempotent)]),
    ("processFinished", &[("", Effect::Idempotent)]),
    ("getChatHistory", &[("", Effect::Read)]),
];

/// The kinds that wait for a person.
pub const ASKING: [&str; 2] = ["waitforReply", "confirmationRequest"];

/// The handler of the chat kinds.
pub struct Chat {
    desk: Arc<Desk>,
    log: Arc<dyn EventLog>,
}

/// A text that a person reads or wrote. What else stands in the message is for surfaces, which find it in the log.
#[derive(Deserialize, Serialize)]
struct Said {
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitForReply {
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConfirmationRequest {
    message: String,
    #[serde(default)]
    buttons: Vec<String>,
    #[serde(default)]
    with_feedback: bool,
}

impl Handler for Chat {
    fn handle<'a>(&'a self, call: &'a Call, sink: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            match &*call.name.kind {
                "sendMessage" | "notificationEvent" => call.message.to::<Said>().and_then(|_| nothing()),
                "processStarted" | "processStoped" | "processFinished" => nothing(),
                "waitforReply" => {
                    let asked: WaitForReply = call.message.to()?;
                    let question = Question::new(call, QuestionKind::Reply, asked.message, Vec::new(), false);
                    let Answer { answer, .. } = self.ask(call, sink, question).await?;
                    Json::of(&Said { message: answer })
                }
                "confirmationRequest" => {
                    let asked: ConfirmationRequest = call.message.to()?;
                    let kind = QuestionKind::Confirm;
                    let question = Question::new(call, kind, asked.message, asked.buttons, asked.with_feedback);
                    Json::of(&self.ask(call, sink, question).await?)
                }
                "getChatHistory" => Json::of(&history::read(&*self.log, call).await?),
                _ => Err(CallError::new(
                    ErrorKind::NotFound,
                    format!("the chat does not know `{}`", call.name),
                )),
            }
        })
    }
}

fn nothing() -> Result<Json, CallError> {
    Ok(serde_json::json!({}).into())
}

impl Chat {
    /// A chat whose questions lie on `desk` and whose history stands in `log`.
    pub fn new(desk: Arc<Desk>, log: Arc<dyn EventLog>) -> Self {
        Self { desk, log }
    }

    async fn ask(&self, call: &Call, sink: &Sink, question: Question) -> Result<Answer, CallError> {
        tokio::select! {
            biased;
            answer = self.desk.ask(call, question) => answer,
            () = sink.closed() => Err(CallError::new(ErrorKind::Cancelled, "the caller stopped reading the answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::call::{CallName, Principal, PrincipalKind, Rights, Scope};
    use crate::log::memory::MemoryLog;
    use crate::workspace::Workspace;

    /// A call of the run `r1` in the project `default`.
    pub(super) fn call(kind: &str) -> Call {
        call_with(kind, json!({}))
    }

    pub(super) fn call_with(kind: &str, message: Value) -> Call {
        let principal = Principal {
            project: "default".into(),
            run: Some("r1".into()),
            kind: PrincipalKind::Agent,
            id: "loop".into(),
            rights: Rights::all(),
        };
        let scope = Scope {
            environment: None,
            labels: BTreeMap::new(),
            workspace: Arc::new(Workspace::open(&std::env::temp_dir()).unwrap()),
        };
        let limit = Duration::from_secs(60);
        Call::new(
            CallName::new(kind, None),
            message.into(),
            Arc::new(principal),
            Arc::new(scope),
            limit,
        )
    }

    fn chat() -> Chat {
        Chat::new(Arc::new(Desk::default()), Arc::new(MemoryLog::default()))
    }

    async fn handle(chat: &Chat, kind: &str, message: Value) -> Result<Value, CallError> {
        let reply = chat.handle(&call_with(kind, message), &Sink::discard()).await?;
        reply.to()
    }

    /// The reply to a question that gets this answer, and the question.
    async fn answered(kind: &str, message: Value, answer: Answer) -> (Question, Value) {
        let chat = chat();
        let mut changes = chat.desk.changes();
        let person = async {
            changes.changed().await.unwrap();
            let question = chat.desk.open().remove(0);
            chat.desk.answer(question.id, answer).unwrap();
            question
        };
        let (reply, question) = futures::join!(handle(&chat, kind, message), person);
        (question, reply.unwrap())
    }

    #[tokio::test]
    async fn what_is_said_has_an_empty_reply() {
        let chat = chat();
        for (kind, message) in [
            ("sendMessage", json!({"message": "hello", "payload": {}})),
            ("notificationEvent", json!({"message": "pushed", "eventType": "git"})),
            ("processStarted", json!({})),
            ("processStoped", json!({"message": {"any": 1}})),
            ("processFinished", json!({})),
        ] {
            assert_eq!(handle(&chat, kind, message).await.unwrap(), json!({}), "{kind}");
        }
    }

    #[tokio::test]
    async fn a_message_that_does_not_fit_is_refused() {
        let chat = chat();
        for (kind, message) in [
            ("sendMessage", json!({"message": 1})),
            ("waitforReply", json!({})),
            ("confirmationRequest", json!({"message": "?", "buttons": "yes"})),
            ("getChatHistory", json!({"limit": 1})),
        ] {
            let error = handle(&chat, kind, message).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{kind}");
            assert!(
                error.message.starts_with("the message does not fit: "),
                "{}",
                error.message
            );
        }
        let unknown = handle(&chat, "fsEvent", json!({})).await.unwrap_err();
        assert_eq!(unknown.to_string(), "not-found: the chat does not know `fsEvent`");
    }

    #[tokio::test]
    async fn a_reply_is_waited_for() {
        let (question, reply) = answered("waitforReply", json!({"message": "name?"}), Answer::plain("Ada")).await;
        assert_eq!((question.kind, question.text.as_str()), (QuestionKind::Reply, "name?"));
        assert_eq!((&*question.project, question.run.as_deref()), ("default", Some("r1")));
        assert_eq!(reply, json!({"message": "Ada"}));
    }

    #[tokio::test]
    async fn a_confirmation_is_a_button_or_feedback() {
        let message = json!({"message": "go?", "buttons": ["yes", "no"], "withFeedback": true});
        let (question, reply) = answered("confirmationRequest", message.clone(), Answer::plain("yes")).await;
        assert_eq!(
            (question.kind, question.buttons.len(), question.feedback),
            (QuestionKind::Confirm, 2, true)
        );
        assert_eq!(reply, json!({"answer": "yes"}));
        let words = Answer {
            answer: String::new(),
            feedback: Some("later".into()),
        };
        let (_, reply) = answered("confirmationRequest", message, words).await;
        assert_eq!(reply, json!({"answer": "", "feedback": "later"}));
    }

    #[tokio::test]
    async fn a_question_is_withdrawn_when_nobody_reads_its_answer() {
        let chat = chat();
        let (sink, reader) = Sink::channel();
        drop(reader);
        let call = call_with("waitforReply", json!({"message": "?"}));
        let error = chat.handle(&call, &sink).await.unwrap_err();
        assert_eq!(error.to_string(), "cancelled: the caller stopped reading the answer");
        assert!(chat.desk.open().is_empty());
    }
}
