//! A connection as the gateway sees it: two bounded queues, one that callers wait for and one that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::{Limits, OutgoingQueue, frames};
use crate::call::{Call, CallError, Json, Sink, Target};
use crate::error::{Blame, ErrorKind};
use crate::gateway::{Carrier, Delivery, Notification, RequestTicket};

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
    notifications: mpsc::Sender<(Arc<Notification>, u64)>,
    queued: Arc<AtomicUsize>,
}

/// The writer's end of the notifications.
pub(in crate::transports) struct Backlog {
    notifications: mpsc::Receiver<(Arc<Notification>, u64)>,
    queued: Arc<AtomicUsize>,
}

impl Backlog {
    /// The next notification and how many were lost before it.
    pub(super) async fn next(&mut self) -> Option<(Arc<Notification>, u64)> {
        let (notification, dropped) = self.notifications.recv().await?;
        self.queued.fetch_sub(notification.size(), Ordering::Relaxed);
        Some((notification, dropped))
    }
}

impl SocketCarrier {
    /// A carrier and the two ends that the writer empties.
    pub(super) fn new(target: Target, credential: [u8; 32], limits: Limits) -> (Self, OutgoingQueue, Backlog) {
        let (outgoing, outgoing_queue) = mpsc::channel(limits.outgoing);
        let (notifications, receiver) = mpsc::channel(limits.notifications);
        let queued = Arc::new(AtomicUsize::new(0));
        let backlog = Backlog {
            notifications: receiver,
            queued: queued.clone(),
        };
        (
            Self {
                target,
                credential,
                limits,
                outgoing,
                notifications,
                queued,
            },
            outgoing_queue,
            backlog,
        )
    }

    /// Queues a frame, waiting for room.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<(), CallError> {
        self.outgoing.send(outgoing).await.map_err(|_| {
            let message = format!("{} has disconnected; nothing was sent to it", self.target);
            CallError::new(ErrorKind::Unavailable, message)
        })
    }

    /// Reserves room for the bytes of a notification; one that is larger than all the room fits when nothing waits.
    fn reserve(&self, size: usize) -> bool {
        let room = |queued: usize| {
            let next = queued.saturating_add(size);
            (queued == 0 || next <= self.limits.notification_bytes).then_some(next)
        };
        self.queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok()
    }
}

impl Carrier for SocketCarrier {
    fn target(&self) -> &Target {
        &self.target
    }

    fn credential(&self) -> &[u8; 32] {
        &self.credential
    }

    fn request<'a>(
        &'a self,
        call: &'a Call,
        ticket: RequestTicket,
        _sink: &'a Sink,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let frame = frames::request(call, ticket.id())?;
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
            ticket.reply().await
        })
    }

    fn notify(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        let size = notification.size();
        if !self.reserve(size) {
            return false;
        }
        let queued = self.notifications.try_send((notification.clone(), dropped)).is_ok();
        if !queued {
            self.queued.fetch_sub(size, Ordering::Relaxed);
        }
        queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::tests::call;

    fn notification(bytes: usize) -> Arc<Notification> {
        let call = call("chat");
        let text = format!("\"{}\"", "x".repeat(bytes - call.message.as_str().len() - 2));
        let notification = Notification {
            project: "p".into(),
            name: call.name,
            message: call.message,
            frame: None,
            result: Ok(Json::parse(text).unwrap()),
            at: std::time::SystemTime::now(),
        };
        assert_eq!(notification.size(), bytes);
        Arc::new(notification)
    }

    #[tokio::test]
    async fn waiting_notifications_are_bounded_in_number_and_bytes() {
        let limits = Limits {
            notifications: 3,
            notification_bytes: 1000,
            ..Limits::default()
        };
        let (carrier, _outgoing, mut backlog) = SocketCarrier::new(Target::Connection("a".into()), [0; 32], limits);
        let notify = |bytes, dropped| carrier.notify(&notification(bytes), dropped);
        assert!(notify(600, 0));
        assert!(!notify(401, 0));
        assert!(notify(400, 1));
        assert!(!notify(100, 0));
        assert_eq!(backlog.next().await.map(|(_, dropped)| dropped), Some(0));
        assert_eq!(backlog.next().await.map(|(_, dropped)| dropped), Some(1));
        // One that is larger than all the room goes alone.
        assert!(notify(2000, 0));
        assert!(!notify(100, 0));
        backlog.next().await.unwrap();
        assert!(notify(100, 0) && notify(100, 0) && notify(100, 0));
        assert!(!notify(100, 0));
        drop(backlog);
        assert!(!notify(100, 0));
    }

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
