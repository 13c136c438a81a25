//! How an observer is driven: one notification at a time, in order, each in a call of its own under the plugin's time limit.
//!
//! What it makes of them changes nothing: an error is logged, once for each burst. Not here: who is told of what, and what
//! is dropped when an observer is slow ([`crate::gateway`]).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::carrier::Parts;
use super::execute::Notice;
use crate::call::{Call, CallError, CallName, Json, Principal, PrincipalKind, Rights, Sink};
use crate::gateway::{Backlog, Notification};

/// One observer while it is attached.
pub(super) struct Observer {
    parts: Arc<Parts>,
    id: Arc<str>,
    stop: CancellationToken,
    /// Notices that failed since the last one that did not.
    failed: u64,
}

impl Observer {
    pub(super) fn new(parts: Arc<Parts>, id: Arc<str>, stop: CancellationToken) -> Self {
        Self {
            parts,
            id,
            stop,
            failed: 0,
        }
    }

    /// Hands over what waits until the observer is detached or the hub stops.
    pub(super) async fn follow(mut self, mut backlog: Backlog) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = backlog.next() => next,
            };
            let Some((notification, lagged)) = next else { return };
            let result = self.tell(&notification, lagged).await;
            if self.stop.is_cancelled() {
                return;
            }
            self.note(result);
        }
    }

    async fn tell(&self, notification: &Notification, lagged: u64) -> Result<(), CallError> {
        let parts = &*self.parts;
        let place = tokio::select! {
            place = parts.observing.acquire() => place,
            () = self.stop.cancelled() => return Ok(()),
        };
        let plugin = parts.plugins.get(&self.id)?;
        let call = self.call(notification, lagged, plugin.timeout(parts.timeout))?;
        let told = parts.run(&plugin, &call, &Sink::discard()).await;
        drop(place);
        told.map(drop)
    }

    /// The call into the observer. It is on the path of the call it hears of, so that observers that make calls themselves
    /// cannot keep each other busy for ever.
    fn call(&self, notification: &Notification, lagged: u64, limit: Duration) -> Result<Call, CallError> {
        let (reply, error) = match &notification.result {
            Ok(reply) => (Some(reply.clone()), None),
            Err(error) => (None, Some(error.clone())),
        };
        let notice = Notice {
            id: notification.id.to_string(),
            kind: notification.name.kind.to_string(),
            action: notification.name.action.as_deref().map(str::to_owned),
            message: notification.message.clone(),
            reply,
            error,
            run: notification.run.as_deref().map(str::to_owned),
            lagged,
        };
        let principal = Principal {
            project: Arc::clone(&notification.project),
            run: None,
            kind: PrincipalKind::Hub,
            id: "hub".into(),
            rights: Rights::all(),
        };
        let call = Call::new(
            CallName::new("observer", Some("notice")),
            Json::of(&notice)?,
            Arc::new(principal),
            Arc::clone(&self.parts.scope),
            limit,
        );
        Ok(Call {
            id: notification.id,
            cancel: self.stop.child_token(),
            path: notification.path.clone(),
            ..call
        })
    }

    fn note(&mut self, result: Result<(), CallError>) {
        let text = match result {
            Ok(()) => match std::mem::take(&mut self.failed) {
                0 | 1 => return,
                failed => format!("{failed} notices in a row failed; now one succeeded"),
            },
            Err(error) => {
                self.failed = self.failed.saturating_add(1);
                if self.failed > 1 {
                    return;
                }
                format!("a notice failed: {error}; further ones are not logged until one succeeds")
            }
        };
        self.parts.log.add(&self.id, "warn", &text);
    }
}
