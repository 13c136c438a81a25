//! How a loop is driven, by the sort of place it runs in. One file for each; the list is [`drive`].

use std::sync::Arc;

use crate::call::{Call, CallError, Json, Scope};
use crate::dispatch::Dispatcher;
use crate::environment::Environment;
use crate::error::ErrorKind;
use crate::plugin::execute::{Outcome, Runtime};
use crate::run::journal::Journal;

mod component;

/// One drive of a loop, from its start (or its start again) to its end.
pub struct Drive<'a> {
    /// The call `agent:run`, whose cancel token ends the loop.
    pub call: Call,
    /// The agent.
    pub agent: &'a str,
    /// Where it runs.
    pub environment: &'a Environment,
    /// Where its calls act.
    pub scope: Arc<Scope>,
    /// What it did before.
    pub journal: Arc<Journal>,
}

/// Drives a loop to its end.
pub async fn drive(dispatcher: &Dispatcher, drive: Drive<'_>) -> Result<Outcome, CallError> {
    match &drive.environment.runtime {
        Some(Runtime::Component { .. }) => component::drive(dispatcher, drive).await,
        None => {
            let message = format!("environment `{}` has no runtime", drive.environment.id);
            Err(CallError::new(ErrorKind::Unavailable, message))
        }
    }
}

/// The outcome in a loop's reply.
fn outcome(reply: &Json) -> Result<Outcome, CallError> {
    reply.to()
}
