//! The desk: where questions wait for a person.
//!
//! A question lives as long as the call that asks it: it goes away with its answer, with the call's end, or when the one
//! who asked is gone, and it is not kept over a restart; an agent that is run again asks again. Not here: who may
//! answer (the surface knows its caller) and what an answer means.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep_until;
use uuid::Uuid;

use crate::call::{Call, CallError};
use crate::error::ErrorKind;

/// How many questions may wait at the same time unless said otherwise.
pub const OPEN_QUESTIONS: usize = 1000;

/// The button that lets a call pass.
pub const ALLOW: &str = "allow";

/// The button that refuses a call.
pub const DENY: &str = "deny";

/// What sort of answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuestionKind {
    /// Words.
    Reply,
    /// One of the buttons; words when there are none.
    Confirm,
    /// Whether a call may be made: [`ALLOW`] or [`DENY`].
    Approve,
}

/// A question that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Unique for ever; ordered by time.
    pub id: Uuid,
    /// The project of the call.
    pub project: Arc<str>,
    /// The run of the call.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<Arc<str>>,
    /// The call that waits for the answer.
    pub call: Uuid,
    /// What sort of answer is wanted.
    pub kind: QuestionKind,
    /// What is asked. Written by an agent: show it as text, never as markup.
    pub text: String,
    /// What may be answered; empty when any words will do.
    pub buttons: Vec<String>,
    /// Whether words may be added to the answer, or be the answer.
    pub feedback: bool,
    /// Wall clock in milliseconds since 1970.
    pub asked_at: u64,
}

impl Question {
    /// A question of a call, asked now.
    pub fn new(call: &Call, kind: QuestionKind, text: String, buttons: Vec<String>, feedback: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: Uuid::now_v7(),
            project: call.principal.project.clone(),
            run: call.principal.run.clone(),
            call: call.id,
            kind,
            text,
            buttons,
            feedback,
            asked_at: now.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }

    fn check(&self, answer: &Answer) -> Result<(), CallError> {
        let words = answer
            .feedback
            .as_ref()
            .is_some_and(|feedback| !feedback.trim().is_empty());
        let problem = if answer.feedback.is_some() && !self.feedback {
            format!("question {} takes no feedback; answer it alone", self.id)
        } else if self.buttons.is_empty()
            || self.buttons.contains(&answer.answer)
            || (answer.answer.is_empty() && words && self.kind == QuestionKind::Confirm)
        {
            return Ok(());
        } else {
            let buttons = self.buttons.join("`, `");
            format!(
                "`{}` does not answer question {}; use `{buttons}`",
                answer.answer.escape_debug(),
                self.id
            )
        };
        Err(CallError::new(ErrorKind::Invalid, problem))
    }
}

/// What a person said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// A button, or the words; empty when the feedback is the answer.
    #[serde(default)]
    pub answer: String,
    /// Words beside a button, where the question takes them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub feedback: Option<String>,
}

impl Answer {
    /// An answer without feedback.
    pub fn plain(answer: impl Into<String>) -> Self {
        Self {
            answer: answer.into(),
            feedback: None,
        }
    }
}

/// The open questions of a hub.
#[derive(Debug)]
pub struct Desk {
    open: Mutex<BTreeMap<Uuid, Waiting>>,
    limit: usize,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Waiting {
    question: Question,
    answered: oneshot::Sender<Answer>,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new(OPEN_QUESTIONS)
    }
}

impl Desk {
    /// An empty desk on which at most `limit` questions may wait.
    pub fn new(limit: usize) -> Self {
        Self {
            open: Mutex::default(),
            limit,
            changes: watch::Sender::new(0),
        }
    }

    /// Lays a question out and waits for the first valid answer, at most until the call ends. Dropping the future
    /// withdraws the question.
    pub async fn ask(&self, call: &Call, question: Question) -> Result<Answer, CallError> {
        let id = question.id;
        let answer = self.lay_out(question)?;
        let _withdrawal = Withdrawal { desk: self, id };
        tokio::select! {
            biased;
            Ok(answer) = answer => Ok(answer),
            () = call.cancel.cancelled() => Err(unanswered(call, id)),
            () = sleep_until(call.deadline.instant().into()) => Err(unanswered(call, id)),
        }
    }

    /// Asks whether a call may be made; the error is the refusal.
    pub async fn approve(&self, call: &Call, text: String) -> Result<(), CallError> {
        let buttons = vec![ALLOW.to_owned(), DENY.to_owned()];
        let answer = self
            .ask(call, Question::new(call, QuestionKind::Approve, text, buttons, true))
            .await?;
        if answer.answer == ALLOW {
            return Ok(());
        }
        let words = answer.feedback.map(|words| format!(": {words}")).unwrap_or_default();
        Err(CallError::new(
            ErrorKind::Denied,
            format!("a person refused {}{words}", call.name),
        ))
    }

    /// Answers a question; the first valid answer wins.
    pub fn answer(&self, id: Uuid, answer: Answer) -> Result<(), CallError> {
        let closed = || {
            let message = format!("question {id} is not open; `questions` of the API lists those that are");
            CallError::new(ErrorKind::NotFound, message)
        };
        let waiting = {
            let mut open = self.table();
            open.get(&id).ok_or_else(closed)?.question.check(&answer)?;
            open.remove(&id).ok_or_else(closed)?
        };
        self.changed();
        waiting.answered.send(answer).map_err(|_| closed())
    }

    /// The open questions, oldest first.
    pub fn open(&self) -> Vec<Question> {
        self.table().values().map(|waiting| waiting.question.clone()).collect()
    }

    /// Changes whenever a question is laid out or goes away; look at [`Desk::open`] then.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lay_out(&self, question: Question) -> Result<oneshot::Receiver<Answer>, CallError> {
        let (answered, answer) = oneshot::channel();
        {
            let mut open = self.table();
            if open.len() >= self.limit {
                let message = format!(
                    "{} questions wait for a person, which is the limit; answer some, `questions` of the API lists them",
                    self.limit
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            open.insert(question.id, Waiting { question, answered });
        }
        self.changed();
        Ok(answer)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Uuid, Waiting>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn unanswered(call: &Call, id: Uuid) -> CallError {
    if !call.deadline.passed() {
        return CallError::stopped(call);
    }
    let message = format!(
        "nobody answered {} in time; `waypost run` on a terminal asks, or POST questions/{id} of the API answers",
        call.name
    );
    CallError::new(ErrorKind::Timeout, message)
}

/// Takes a question off the desk when nobody waits for its answer any more.
struct Withdrawal<'a> {
    desk: &'a Desk,
    id: Uuid,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if self.desk.table().remove(&self.id).is_some() {
            self.desk.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::task::JoinHandle;

    use crate::capabilities::chat::tests::call;

    fn question(call: &Call, text: &str) -> Question {
        Question::new(call, QuestionKind::Reply, text.to_owned(), Vec::new(), false)
    }

    /// Asks in a task and waits until the question lies on the desk.
    async fn asked(desk: &Arc<Desk>, call: &Call, question: Question) -> JoinHandle<Result<Answer, CallError>> {
        let mut changes = desk.changes();
        let (desk, call) = (desk.clone(), call.clone());
        let asking = tokio::spawn(async move { desk.ask(&call, question).await });
        changes.changed().await.unwrap();
        asking
    }

    #[tokio::test]
    async fn the_first_answer_wins_and_the_second_is_told() {
        let (desk, call) = (Arc::new(Desk::default()), call("waitforReply"));
        let question = question(&call, "which colour?");
        let asking = asked(&desk, &call, question.clone()).await;
        assert_eq!(desk.open(), std::slice::from_ref(&question));
        desk.answer(question.id, Answer::plain("blue")).unwrap();
        let late = desk.answer(question.id, Answer::plain("red")).unwrap_err();
        assert_eq!(
            late.to_string(),
            format!(
                "not-found: question {} is not open; `questions` of the API lists those that are",
                question.id
            )
        );
        assert_eq!(asking.await.unwrap().unwrap(), Answer::plain("blue"));
        assert!(desk.open().is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_leaves_the_question_open() {
        let (desk, call) = (Arc::new(Desk::default()), call("confirmationRequest"));
        let buttons = vec!["yes".to_owned(), "no".to_owned()];
        let question = Question::new(&call, QuestionKind::Confirm, "sure?".into(), buttons, false);
        let id = question.id;
        let asking = asked(&desk, &call, question).await;
        let maybe = desk.answer(id, Answer::plain("maybe")).unwrap_err();
        assert_eq!(
            maybe.to_string(),
            format!("invalid: `maybe` does not answer question {id}; use `yes`, `no`")
        );
        let words = Answer {
            answer: "yes".into(),
            feedback: Some("but".into()),
        };
        let words = desk.answer(id, words).unwrap_err();
        assert_eq!(
            words.to_string(),
            format!("invalid: question {id} takes no feedback; answer it alone")
        );
        assert_eq!(desk.open().len(), 1);
        desk.answer(id, Answer::plain("no")).unwrap();
        assert_eq!(asking.await.unwrap().unwrap().answer, "no");
    }

    #[tokio::test]
    async fn a_question_goes_away_with_its_call() {
        let (desk, mut call) = (Arc::new(Desk::default()), call("waitforReply"));
        let cancelled = asked(&desk, &call, question(&call, "still there?")).await;
        call.cancel.cancel();
        let error = cancelled.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "cancelled: waitforReply was cancelled and stopped");
        assert!(desk.open().is_empty());

        call.cancel = Default::default();
        let dropped = asked(&desk, &call, question(&call, "still there?")).await;
        let mut changes = desk.changes();
        dropped.abort();
        changes.changed().await.unwrap();
        assert!(desk.open().is_empty());
    }

    #[tokio::test]
    async fn a_question_that_nobody_answers_times_out_and_says_how_to_answer() {
        let (desk, mut call) = (Desk::default(), call("waitforReply"));
        call.deadline = crate::call::Deadline::after(Duration::from_millis(10));
        let question = question(&call, "anybody?");
        let id = question.id;
        assert_eq!(
            desk.ask(&call, question).await.unwrap_err().to_string(),
            format!(
                "timeout: nobody answered waitforReply in time; `waypost run` on a terminal asks, or \
                 POST questions/{id} of the API answers"
            )
        );
        assert!(desk.open().is_empty());
    }

    #[tokio::test]
    async fn the_desk_is_bounded() {
        let (desk, call) = (Arc::new(Desk::new(1)), call("waitforReply"));
        let first = asked(&desk, &call, question(&call, "one")).await;
        let error = desk.ask(&call, question(&call, "two")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "limit: 1 questions wait for a person, which is the limit; answer some, `questions` of the API lists them"
        );
        first.abort();
        assert_eq!(Desk::default().limit, 1000);
    }

    #[tokio::test]
    async fn an_approval_is_a_yes_or_a_refusal_with_its_reason() {
        let (desk, call) = (Arc::new(Desk::default()), call("executeCommand"));
        let mut changes = desk.changes();
        let approving = {
            let (desk, call) = (desk.clone(), call.clone());
            tokio::spawn(async move {
                desk.approve(&call, "run `make`?".into()).await?;
                desk.approve(&call, "run `rm`?".into()).await
            })
        };
        for (text, answer) in [
            ("run `make`?", Answer::plain(ALLOW)),
            (
                "run `rm`?",
                Answer {
                    answer: DENY.into(),
                    feedback: Some("not on a Friday".into()),
                },
            ),
        ] {
            let question = loop {
                changes.changed().await.unwrap();
                if let Some(question) = desk.open().pop() {
                    break question;
                }
            };
            assert_eq!((question.kind, question.text.as_str()), (QuestionKind::Approve, text));
            assert!(
                desk.answer(
                    question.id,
                    Answer {
                        answer: String::new(),
                        feedback: Some("hm".into())
                    }
                )
                .is_err()
            );
            desk.answer(question.id, answer).unwrap();
        }
        assert_eq!(
            approving.await.unwrap().unwrap_err().to_string(),
            "denied: a person refused executeCommand: not on a Friday"
        );
    }

    #[test]
    fn a_question_as_surfaces_see_it() {
        let question = question(&call("waitforReply"), "which?");
        let json = serde_json::to_value(&question).unwrap();
        let expected = serde_json::json!({
            "id": question.id, "project": "default", "run": "r1", "call": question.call, "kind": "reply",
            "text": "which?", "buttons": [], "feedback": false, "askedAt": question.asked_at,
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Question>(json).unwrap(), question);
    }

    proptest! {
        #[test]
        fn with_buttons_only_a_button_or_welcome_words_answer(
            answer in "[abc]?", feedback in proptest::option::of("[ x]{0,2}"), takes in any::<bool>(),
            kind in proptest::sample::select(vec![QuestionKind::Reply, QuestionKind::Confirm, QuestionKind::Approve]),
        ) {
            let buttons = vec!["a".to_owned(), "b".to_owned()];
            let question = Question::new(&call("x"), kind, String::new(), buttons.clone(), takes);
            let given = Answer { answer: answer.clone(), feedback: feedback.clone() };
            if question.check(&given).is_ok() {
                prop_assert!(takes || feedback.is_none());
                let words = feedback.is_some_and(|words| words.contains('x'));
                prop_assert!(buttons.contains(&answer) || (kind == QuestionKind::Confirm && answer.is_empty() && words));
            }
        }
    }
}
