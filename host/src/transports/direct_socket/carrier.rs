//! A connection as the gateway sees it: two bounded queues, one that callers wait for and one that nobody waits for.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{Stream, unfold};
use tokio::sync::mpsc;

use super::{frames, offers};
use crate::call::{Call, CallError, Json, Sink, Target};
use crate::error::{Blame, ErrorKind};
use crate::gateway::{
    Backlog, Carrier, ModelCarrier, ModelRequest, Notification, Outbox, RequestTicket, Room, backlog,
};
use crate::transports::dialect;
use crate::transports::socket::{Limits, Outgoing, OutgoingQueue};

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

    /// Sends the frame of a request, and waits for its reply.
    async fn carry(&self, call: &Call, frame: Json, ticket: RequestTicket) -> Result<Json, CallError> {
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
        self.send(Outgoing::request(frame, ticket.delivery())).await?;
        ticket.reply().await
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
            let result = self.carry(call, frame, ticket).await?;
            Ok(dialect::canonical_reply(&call.name, result))
        })
    }

    fn notify(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        self.outbox.put(notification, dropped)
    }
}

impl ModelCarrier for SocketCarrier {
    fn ask<'a>(
        &'a self,
        call: &'a Call,
        request: &'a ModelRequest,
        ticket: RequestTicket,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let frame = offers::request(request, ticket.id())?;
            self.carry(call, frame, ticket).await
        })
    }
}

/// Notifications on their way to the writer: each says how many were lost before it.
pub(super) struct Notices {
    backlog: Backlog,
    limits: Limits,
    /// Lost, and not told yet.
    unsaid: u64,
}

impl Notices {
    pub(super) fn new(backlog: Backlog, limits: Limits) -> Self {
        Self {
            backlog,
            limits,
            unsaid: 0,
        }
    }

    /// Each one as a frame.
    pub(super) fn into_stream(self) -> impl Stream<Item = Json> {
        unfold(self, async |mut notices| Some((notices.next().await?, notices)))
    }

    /// The next one as a frame. One that cannot be written is lost, too.
    async fn next(&mut self) -> Option<Json> {
        loop {
            let (notification, dropped) = self.backlog.next().await?;
            self.unsaid = self.unsaid.saturating_add(dropped);
            match frames::notification(&notification, self.unsaid) {
                Ok(frame) if frame.as_str().len() <= self.limits.frame() => {
                    self.unsaid = 0;
                    return Some(frame);
                }
                _ => self.unsaid = self.unsaid.saturating_add(1),
            }
        }
    }
}
