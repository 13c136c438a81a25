//! A loop that is an agent component inside the hub.

use super::{Drive, Driven, outcome};
use crate::call::CallError;
use crate::dispatch::Dispatcher;
use crate::error::{Blame, ErrorKind};

pub(super) async fn drive(dispatcher: &Dispatcher, drive: Drive<'_>) -> Result<Driven, CallError> {
    let mut call = drive.call;
    call.scope = drive.scope;
    let reply = dispatcher.operate(call, drive.agent, Some(drive.journal.clone())).await;
    // Whatever the agent made of it: another call than before means that the log does not describe this run.
    if let Some(diverged) = drive.journal.diverged() {
        return Err(CallError::new(ErrorKind::Other, diverged).blame(Blame::Plugin));
    }
    let reply = reply.result?;
    Ok(match drive.journal.kept() {
        Some(call) => Driven::Parked(call),
        None => Driven::Ended(outcome(&reply)?),
    })
}
