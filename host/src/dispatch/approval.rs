//! The target `ask`: a person decides whether the next target may execute.

use super::Dispatcher;
use crate::call::{Call, CallError, PrincipalKind};
use crate::error::{Blame, ErrorKind};
use crate::log::{self, Append, NewEvent};
use crate::route::Decision;
use crate::text::shortened;

/// How much of a message a person is shown.
const SHOWN: usize = 400;

impl Dispatcher {
    /// Waits for a person's word, and writes it down before it counts.
    pub(super) async fn approve(&self, call: &Call, decision: &Decision) -> Result<(), CallError> {
        if call.principal.kind == PrincipalKind::Hub {
            return Ok(());
        }
        let text = format!(
            "{} wants {} {} — allow it? (rule {})",
            call.principal,
            call.name,
            shortened(call.message.as_str(), SHOWN),
            decision.rule
        );
        let answer = self.rooms.desk.approve(call, text).await;
        let body = serde_json::json!({
            "name": call.name.to_string(),
            "rule": decision.rule,
            "allowed": answer.is_ok(),
            "reason": answer.as_ref().err().map(|error| &error.message),
        });
        let event = NewEvent {
            call: Some(call.id),
            ..NewEvent::of("approval.answered", body)
        };
        let written = log::write(&*self.rooms.log, Append::one(super::stream(&call.principal), event)).await;
        written.map_err(|error| {
            let message = format!(
                "{} was not begun, since its approval could not be logged: {}",
                call.name, error.message
            );
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Hub)
        })?;
        answer
    }
}
