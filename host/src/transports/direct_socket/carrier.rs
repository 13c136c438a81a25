//! A connection as the gateway sees it: two bounded queues, one that callers wait for and one that nobody waits for.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::super::dialect;
use super::{Limits, OutgoingQueue, frames};
use crate::call::{Call, CallError, Json, Sink, Target};
use crate::error::{Blame, ErrorKind};
use crate::gateway::{Backlog, Carrier, Delivery, Notification, Outbox, RequestTicket, Room, backlog};

/// A frame that waits to be written.
pub(in crate::transports) struct Outgoing {
    frame: Json,
    /// Of a request: whether it may still leave.
    delivery: Option<Delivery>,
}

impl Outgoing {
    /// An answer to a frame of the connection.
    pub(in crate::transports) fn answer(frame: Json) -> Self {
        Self { frame, delivery: None }
    }

    /// The frame, unless its request was given up meanwhile; from here on it counts as sent.
    pub(super) fn start(self) -> Option<Json> {
        self.delivery
            .is_none_or(|delivery| delivery.start())
            .then_some(self.frame)
    }
}

/// The gateway's end of a connection.
pub(super) struct SocketCarrier {
    target: Target,
    credential: [u8; 32],
    limits: Limits,
    outgoing: mpsc::Sender<Outgoing>,
    outbox: Outbox,
    /// What this hub is called on the route of a frame.
    runtime: Arc<str>,
}

impl SocketCarrier {
    /// A carrier and the two ends that the writer empties.
    pub(super) fn new(
        target: Target,
        credential: [u8; 32],
        limits: Limits,
        runtime: Arc<str>,
    ) -> (Self, OutgoingQueue, Backlog) {
        let (outgoing, outgoing_queue) = mpsc::channel(limits.outgoing);
        let (outbox, waiting) = backlog(Room {
            notifications: limits.notifications,
            bytes: limits.notification_bytes,
        });
        (
            Self {
                target,
                credential,
                limits,
                outgoing,
                outbox,
                runtime,
            },
            outgoing_queue,
            waiting,
        )
    }

    /// Where frames to it are queued.
    pub(super) fn outgoing(&self) -> mpsc::Sender<Outgoing> {
        self.outgoing.clone()
    }

    /// Queues a frame, waiting for room.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<(), CallError> {
        self.outgoing.send(outgoing).await.map_err(|_| {
            let message = format!("{} has disconnected; nothing was sent to it", self.target);
            CallError::new(ErrorKind::Unavailable, message)
        })
    }
}

impl Carrier for SocketCarrier {
    fn target(&self) -> &Target {
        &self.target
    }

    fn credential(&self) -> &[u8; 32] {
        &self.credential
    }

    /// A process is told nothing when its caller gives up.
    fn stops(&self) -> bool {
        false
    }

    fn request<'a>(
        &'a self,
        call: &'a Call,
        ticket: RequestTicket,
        _sink: &'a Sink,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            if call.route.contains(&self.runtime) {
                let message = format!("{} has passed this hub already; it is not passed on again", call.name);
                return Err(CallError::new(ErrorKind::Unavailable, message));
            }
            let mut route = call.route.to_vec();
            route.push(Arc::clone(&self.runtime));
            let hop = frames::Hop {
                id: ticket.id(),
                route: &route,
            };
            let frame = frames::request(call, hop)?;
            if frame.as_str().len() > self.limits.frame() {
                let message = format!(
                    "{} as a frame has {} bytes; at most {} are sent to {}",
                    call.name,
                    frame.as_str().len(),
                    self.limits.frame(),
                    self.target
                );
                return Err(CallError::new(ErrorKind::Limit, message).blame(Blame::Caller));
            }
            self.send(Outgoing {
                frame,
                delivery: Some(ticket.delivery()),
            })
            .await?;
            let result = ticket.reply().await?;
            Ok(dialect::canonical_reply(&call.name, result))
        })
    }

    fn notify(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        self.outbox.put(notification, dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_given_up_is_not_written() {
        let frame = || Json::null();
        assert!(Outgoing::answer(frame()).start().is_some());
        let delivery = Delivery::default();
        assert!(
            Outgoing {
                frame: frame(),
                delivery: Some(delivery.clone())
            }
            .start()
            .is_some()
        );
        assert!(!delivery.withdraw());
        let delivery = Delivery::default();
        delivery.withdraw();
        assert!(
            Outgoing {
                frame: frame(),
                delivery: Some(delivery)
            }
            .start()
            .is_none()
        );
    }
}
