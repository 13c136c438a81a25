//! Who answers the calls that a plugin makes while it is tested: the fakes of a case, or one that misbehaves.
//!
//! Grants hold here as in the hub: what the manifest does not ask for is refused before anybody answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::Notify;
use uuid::Uuid;

use super::cases::Answer;
use crate::call::{Call, CallError, CallName, Dispatch, Json, Reply, Sink, covers};
use crate::error::ErrorKind;

/// The most calls of one test that are remembered, and answered.
const MOST: usize = 10_000;

/// How calls are answered.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// By these, each as often as it says; any other call is a mistake.
    Exactly(Vec<Answer>),
    /// By these, as often as they are asked; any other call finds nobody.
    Freely(Vec<Answer>),
    /// With this, whatever is asked.
    Always(Result<Json, CallError>),
    /// Never: it waits until the caller gives up.
    Silent,
}

/// A call that the plugin made, and its end.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) id: Uuid,
    /// The ordinal among an agent's calls.
    pub(super) index: Option<u64>,
    pub(super) name: CallName,
    pub(super) message: Json,
    pub(super) result: Result<Json, CallError>,
}

/// The one that is asked.
pub(super) struct Fake {
    manner: Manner,
    seen: Mutex<Seen>,
    /// Told of each call when it comes in.
    came: Notify,
}

#[derive(Default)]
struct Seen {
    asked: Vec<Asked>,
    /// How often each answer was given.
    given: Vec<usize>,
    mistakes: Vec<String>,
    count: usize,
}

impl Fake {
    pub(super) fn new(manner: Manner) -> Arc<Self> {
        let answers = match &manner {
            Manner::Exactly(answers) | Manner::Freely(answers) => answers.len(),
            Manner::Always(_) | Manner::Silent => 0,
        };
        Arc::new(Self {
            manner,
            seen: Mutex::new(Seen {
                given: vec![0; answers],
                ..Seen::default()
            }),
            came: Notify::new(),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves once a call has come in.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// The calls that have ended, in the order of their ends.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.seen().asked.clone()
    }

    /// What was asked that nobody expected, and what was expected and not asked.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let seen = self.seen();
        let mut mistakes = seen.mistakes.clone();
        if let Manner::Exactly(answers) = &self.manner {
            for (answer, given) in answers
                .iter()
                .zip(&seen.given)
                .filter(|(answer, given)| **given < answer.times)
            {
                mistakes.push(format!(
                    "it made the call {} {given} of {} times",
                    answer.call, answer.times
                ));
            }
        }
        mistakes
    }

    /// The answer to a call, with its chunks; none for one that waits for ever.
    fn answer(&self, call: &Call) -> Option<(Vec<Json>, Result<Json, CallError>)> {
        let mut seen = self.seen();
        seen.count += 1;
        if seen.count > MOST {
            let message = format!("it made more than {MOST} calls in one test");
            return Some((Vec::new(), Err(CallError::new(ErrorKind::Limit, message))));
        }
        if !call.principal.rights.permit(&call.name) {
            let message = format!(
                "plugin:{} may not call {}: add it to `gateway` in the grants of the plugin",
                call.principal.id, call.name
            );
            return Some((Vec::new(), Err(CallError::new(ErrorKind::Denied, message))));
        }
        let (answers, strict) = match &self.manner {
            Manner::Exactly(answers) => (answers, true),
            Manner::Freely(answers) => (answers, false),
            Manner::Always(end) => return Some((Vec::new(), end.clone())),
            Manner::Silent => return None,
        };
        let found = answers
            .iter()
            .zip(&mut seen.given)
            .find(|(answer, given)| covers(&answer.call, &call.name) && (!strict || **given < answer.times));
        let Some((answer, given)) = found else {
            let message = format!(
                "it made the call {} {}, which no fake answers",
                call.name,
                call.message.as_str()
            );
            seen.mistakes.push(message);
            let message = format!("nobody answers {} in this test", call.name);
            return Some((Vec::new(), Err(CallError::new(ErrorKind::Unavailable, message))));
        };
        *given += 1;
        if let (true, Some(expected)) = (strict, &answer.message)
            && !super::same(&expected.0, &call.message)
        {
            seen.mistakes.push(format!(
                "it made the call {} with {}, not with {}",
                call.name,
                call.message.as_str(),
                expected.0.as_str()
            ));
        }
        let chunks = answer.chunks.iter().map(|chunk| chunk.0.clone()).collect();
        let end = match (&answer.reply, &answer.error) {
            (Some(reply), _) => Ok(reply.0.clone()),
            (None, Some(error)) => Err(CallError::new(error.kind, error.says.clone())),
            (None, None) => Ok(Json::null()),
        };
        Some((chunks, end))
    }
}

/// The way to a fake, as an executor has it.
pub(super) struct Asking(pub(super) Arc<Fake>);

impl Dispatch for Asking {
    fn dispatch(&self, call: Call, sink: Sink) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            self.0.came.notify_one();
            let answering = async {
                let Some((chunks, end)) = self.0.answer(&call) else {
                    return std::future::pending().await;
                };
                for chunk in chunks {
                    sink.emit(chunk).await?;
                }
                end
            };
            let result = tokio::select! {
                result = answering => result,
                () = call.cancel.cancelled() => Err(CallError::stopped(&call)),
            };
            self.0.seen().asked.push(Asked {
                id: call.id,
                index: call.index,
                name: call.name,
                message: call.message,
                result: result.clone(),
            });
            Reply { result, by: None }
        })
    }
}
