//! How a loop is driven, by the sort of place it runs in. One file for each; the list is [`drive`].

use std::sync::Arc;

use crate::call::{Call, CallError, Json, Scope};
use crate::dispatch::Dispatcher;
use crate::environment::Environment;
use crate::error::ErrorKind;
use crate::plugin::execute::{Outcome, Runtime};
use crate::run::journal::{Journal, Work};

use process::Processes;

mod component;
pub mod process;

/// One drive of a loop, from its start (or its start again) to its end.
pub struct Drive<'a> {
    /// The call `agent:run`, whose cancel token ends the loop.
    pub call: Call,
    /// The agent.
    pub agent: &'a str,
    /// The words of its command, when it is a program.
    pub command: Option<&'a [String]>,
    /// Where it runs.
    pub environment: &'a Environment,
    /// Where its calls act.
    pub scope: Arc<Scope>,
    /// What it did before.
    pub journal: Arc<Journal>,
}

/// How a drive ended.
pub enum Driven {
    /// The loop is done.
    Ended(Outcome),
    /// It was put away while it waits for this call; when that has its end, it is driven again.
    Parked(Work),
}

/// Drives a loop until it is done, or waits for long.
pub async fn drive(dispatcher: &Dispatcher, processes: &Processes, drive: Drive<'_>) -> Result<Driven, CallError> {
    match (&drive.environment.runtime, drive.command) {
        (Some(Runtime::Component { .. }), None) => component::drive(dispatcher, drive).await,
        (Some(Runtime::Component { .. }), Some(command)) => process::drive(processes, command, drive).await,
        (None, _) => {
            let message = format!("environment `{}` has no runtime", drive.environment.id);
            Err(CallError::new(ErrorKind::Unavailable, message))
        }
    }
}

/// The outcome in a loop's reply.
fn outcome(reply: &Json) -> Result<Outcome, CallError> {
    reply.to()
}
