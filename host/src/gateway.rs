//! The gateway: claims, subscriptions, models on offer and requests in flight.
//!
//! It knows who answers for a project's calls, who serves which model and who wants to hear of calls, and it lets a reply
//! count only once, from the one that was asked, under the lease it was asked under. It reaches the other side through a
//! [`Carrier`], so a connected process and a plugin are the same thing here. Not here: routes (whether a call is proxied at
//! all), effect classes (whether it may be repeated), sockets and their frames.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::call::{Call, CallError, CallName, Json, Sink, Target};
use crate::error::{Blame, ErrorKind, Result};
use crate::log::EventLog;

mod backlog;
mod bounded;
mod claims;
mod offers;
mod pending;
mod subscribers;
#[cfg(test)]
pub(crate) mod tests;

pub use backlog::{Backlog, Outbox, Room, backlog};
use bounded::Entrance;
use claims::Claims;
use offers::Offers;
pub use offers::{ModelCarrier, ModelRequest, Offer, Offered};
use pending::Pending;
pub use pending::{Delivery, Rejected, Rejection, RequestTicket};
pub use subscribers::Notification;
use subscribers::Subscribers;

/// How the gateway reaches one party: a connected process, or a plugin.
pub trait Carrier: Send + Sync {
    /// Who it is, as a route names it: `connection:<name>` or `plugin:<id>`.
    fn target(&self) -> &Target;

    /// The digest of what it proved its identity with; whoever takes over from it must have the same.
    fn credential(&self) -> &[u8; 32];

    /// Whether a request is known to have ended when it says so after `call.cancel` fired. Then its own word counts;
    /// otherwise a cancelled request that has left is `indeterminate`.
    fn stops(&self) -> bool;

    /// Carries one request to its reply, chunks into the sink.
    ///
    /// It calls [`Delivery::start`] right before the request leaves the hub, and hands nothing over when that says no.
    /// Its reply comes out of the ticket: of [`RequestTicket::reply`], or of [`RequestTicket::end`]. Dropping the future
    /// gives the request up.
    fn request<'a>(
        &'a self,
        call: &'a Call,
        ticket: RequestTicket,
        sink: &'a Sink,
    ) -> BoxFuture<'a, Result<Json, CallError>>;

    /// Queues a notification, and that `dropped` others were lost before it. Never waits; false when there is no room.
    fn notify(&self, notification: &Arc<Notification>, dropped: u64) -> bool;
}

/// `limits` of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight to one carrier; more answer `limit` at once. Default 1,024.
    pub pending: usize,
    /// Offers of models by one carrier; more are refused. Default 16.
    pub offers: usize,
    /// Models in one offer; one with more is refused. Default 256.
    pub models: usize,
    /// Chunks of one answer that wait for its caller; with more the call ends as `limit`. Default 4,096.
    pub chunks: usize,
    /// Bytes of all of them. Default 4 MiB.
    pub chunk_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 1024,
            offers: 16,
            models: 256,
            chunks: 4096,
            chunk_bytes: 4 << 20,
        }
    }
}

/// Who answers for which calls of which project.
pub struct Gateway {
    attachments: Mutex<HashMap<Target, Arc<Attachment>>>,
    numbers: AtomicU64,
    claims: Arc<Claims>,
    subscribers: Subscribers,
    offers: Offers,
    pending: Arc<Pending>,
}

/// One carrier from attach to detach.
struct Attachment {
    /// Unique among all attachments of this gateway, also those of the same name.
    number: u64,
    carrier: Arc<dyn Carrier>,
    /// Fires at detach; every lease of it fires with it.
    gone: CancellationToken,
    /// Requests in flight to it.
    pending: AtomicUsize,
    /// Notifications it lost since the last one that it got.
    lagged: AtomicU64,
}

impl Attachment {
    fn target(&self) -> &Target {
        self.carrier.target()
    }

    /// Refuses what a replaced party still asks for.
    fn check(&self) -> Result<(), CallError> {
        if self.gone.is_cancelled() {
            let message = format!(
                "{} is no longer attached; a newer one of its name took over",
                self.target()
            );
            return Err(CallError::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }
}

/// A granted claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Higher than that of every earlier grant, also across restarts.
    pub epoch: u64,
}

/// What the gateway counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Carriers attached now.
    pub attached: usize,
    /// Claims held now.
    pub claims: usize,
    /// Subscriptions now.
    pub subscriptions: usize,
    /// Offers of models now.
    pub offers: usize,
    /// Requests in flight now.
    pub pending: usize,
    /// Replies and chunks refused since the start, by reason.
    pub rejected: Rejected,
    /// Notifications dropped since the start because their subscriber was slow.
    pub lagged: u64,
}

impl Gateway {
    /// A gateway that keeps its claims in this log. Call [`Gateway::restore`] before the first claim.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self::with_limits(log, Limits::default())
    }

    /// The same with other limits.
    pub fn with_limits(log: Arc<dyn EventLog>, limits: Limits) -> Self {
        Self {
            attachments: Mutex::default(),
            numbers: AtomicU64::new(1),
            claims: Arc::new(Claims::new(log)),
            subscribers: Subscribers::default(),
            offers: Offers::new(limits),
            pending: Arc::new(Pending::new(limits.pending)),
        }
    }

    /// Reads the claims of earlier starts: epochs go on above theirs, and those still held are released in the log.
    pub async fn restore(&self) -> Result<()> {
        self.claims.restore().await
    }

    /// Adds a carrier. One of the same name and credential is replaced: it loses its claims, subscriptions and
    /// requests in flight at once. With another credential the newcomer is refused.
    pub fn attach(self: &Arc<Self>, carrier: Arc<dyn Carrier>) -> Result<Attached, CallError> {
        let attachment = Arc::new(Attachment {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            carrier,
            gone: CancellationToken::new(),
            pending: AtomicUsize::new(0),
            lagged: AtomicU64::new(0),
        });
        let target = attachment.target().clone();
        let replaced = {
            let mut attachments = self.attachments();
            if let Some(old) = attachments.get(&target)
                && old.carrier.credential() != attachment.carrier.credential()
            {
                let message = format!("{target} is attached with another credential; end that one first");
                return Err(CallError::new(ErrorKind::Denied, message));
            }
            attachments.insert(target, attachment.clone())
        };
        if let Some(old) = replaced {
            self.forget(&old);
        }
        Ok(Attached {
            gateway: self.clone(),
            attachment,
        })
    }

    /// Claims a scope of a project's calls (patterns `kind`, `kind:*`, `kind:action`, `*`), exclusively.
    ///
    /// The epoch is on disk before the claim is granted. Claiming the same scope again gives the same lease; claiming
    /// another one replaces it. A scope that overlaps another holder's is refused with that holder's name.
    pub async fn claim(&self, attached: &Attached, project: &str, scope: Vec<String>) -> Result<Lease, CallError> {
        let epoch = self.claims.grant(&attached.attachment, project, scope).await?;
        Ok(Lease { epoch })
    }

    /// Gives the holder's claim in a project back; its requests in flight end.
    pub async fn relinquish(&self, attached: &Attached, project: &str) -> Result<(), CallError> {
        self.claims.relinquish(&attached.attachment, project).await
    }

    /// Starts notifications of a project's locally handled calls. Again is the same.
    pub fn subscribe(&self, attached: &Attached, project: &str) -> Result<(), CallError> {
        self.subscribers.add(&attached.attachment, project)
    }

    /// Ends them. Again is the same.
    pub fn unsubscribe(&self, attached: &Attached, project: &str) {
        self.subscribers.remove(&attached.attachment, Some(project));
    }

    /// Who holds the claim on a call, if anyone does.
    pub fn claimer(&self, project: &str, name: &CallName) -> Option<Target> {
        self.claims
            .find(project, name)
            .map(|grant| grant.holder().target().clone())
    }

    /// Whether anyone holds the claim on a call.
    pub fn has_claimer(&self, project: &str, name: &CallName) -> bool {
        self.claims.find(project, name).is_some()
    }

    /// Waits until somebody holds the claim on a call.
    pub async fn claimed(&self, project: &str, name: &CallName) {
        let mut changes = self.claims_changed();
        while !self.has_claimer(project, name) {
            // It cannot fail: the sender lives as long as this.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Changes whenever a claim began to hold or was let go.
    pub fn claims_changed(&self) -> watch::Receiver<()> {
        self.claims.changed()
    }

    /// Carries a call to whoever holds the claim on it.
    ///
    /// `unavailable` when nobody does, when the call already passed through the holder (a claimer that wraps what it claims
    /// reaches what it wraps), or when the holder went away before the request left the hub; `indeterminate` when it left and its reply can no longer come, also after `call.cancel` fired.
    pub async fn proxy(&self, call: &Call, sink: &Sink) -> Result<Json, CallError> {
        let project = &call.principal.project;
        let Some(grant) = self.claims.find(project, &call.name) else {
            let message = format!(
                "nobody holds a claim on {} in project {project}; connect one that does",
                call.name
            );
            return Err(CallError::new(ErrorKind::Unavailable, message));
        };
        if call.path.holds(grant.holder().target()) {
            return Err(CallError::new(ErrorKind::Unavailable, crate::call::PASSED));
        }
        self.ask(grant.holder(), Some(grant.epoch()), grant.ended(), call, sink)
            .await
    }

    /// Carries a call to one connection, claim or not. Errors as for [`Gateway::proxy`].
    pub async fn ask_connection(&self, name: &str, call: &Call, sink: &Sink) -> Result<Json, CallError> {
        let target = Target::Connection(name.into());
        let Some(attachment) = self.attachments().get(&target).cloned() else {
            let message = format!("{target} is not connected; start it and have it connect on /plugins");
            return Err(CallError::new(ErrorKind::Unavailable, message));
        };
        self.ask(&attachment, None, &attachment.gone, call, sink).await
    }

    async fn ask(
        &self,
        attachment: &Arc<Attachment>,
        epoch: Option<u64>,
        ended: &CancellationToken,
        call: &Call,
        sink: &Sink,
    ) -> Result<Json, CallError> {
        let lease = Under { epoch, ended };
        let send = |ticket| attachment.carrier.request(call, ticket, sink);
        carry(&self.pending, attachment, lease, None, call, send).await
    }

    /// Takes a reply that arrived as a message. It counts once, from the one that was asked, while its lease holds;
    /// any other is counted by its reason and dropped.
    pub fn reply(&self, attached: &Attached, request: &str, result: Result<Json, CallError>) -> Result<(), Rejection> {
        let outcome = self
            .pending
            .reply(attached.attachment.number, request.parse().ok(), result);
        if let Err(reason) = outcome {
            tracing::debug!(from = %attached.attachment.target(), reason = reason.as_str(), "a reply was refused");
        }
        outcome
    }

    /// Takes a chunk that arrived as a message, under the same conditions as a reply. It never waits: an answer of which
    /// too much waits for its caller ends as `limit`.
    pub fn chunk(&self, attached: &Attached, request: &str, chunk: Json) -> Result<(), Rejection> {
        self.pending
            .chunk(attached.attachment.number, request.parse().ok(), chunk)
    }

    /// Tells the project's subscribers of a call that was handled locally. Never waits, and costs one look at a
    /// counter when nobody subscribes.
    pub fn notify(&self, call: &Call, result: &Result<Json, CallError>) {
        self.subscribers.tell(call, result);
    }

    /// What there is now, and what was counted since the start.
    pub fn stats(&self) -> Stats {
        Stats {
            attached: self.attachments().len(),
            claims: self.claims.count(),
            subscriptions: self.subscribers.count(),
            offers: self.offers.count(),
            pending: self.pending.count(),
            rejected: self.pending.rejected(),
            lagged: self.subscribers.lagged(),
        }
    }

    fn attachments(&self) -> MutexGuard<'_, HashMap<Target, Arc<Attachment>>> {
        self.attachments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything of an attachment: first the mark, so that nothing new can be added, then what is there.
    fn forget(&self, attachment: &Arc<Attachment>) {
        attachment.gone.cancel();
        self.subscribers.remove(attachment, None);
        self.offers.forget(attachment);
        self.claims.release(attachment);
    }
}

/// A carrier's place in the gateway; dropping it detaches: its claims are freed, its subscriptions removed, and its
/// requests in flight end.
pub struct Attached {
    gateway: Arc<Gateway>,
    attachment: Arc<Attachment>,
}

impl Attached {
    /// Resolves when another carrier of the same name took over.
    pub async fn replaced(&self) {
        self.attachment.gone.cancelled().await;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut attachments = self.gateway.attachments();
        let target = self.attachment.target();
        if attachments
            .get(target)
            .is_some_and(|current| current.number == self.attachment.number)
        {
            attachments.remove(target);
        }
        drop(attachments);
        self.gateway.forget(&self.attachment);
    }
}

/// What a request is made under.
struct Under<'a> {
    /// The epoch of the claim, when there is one.
    epoch: Option<u64>,
    /// Fires when it no longer holds.
    ended: &'a CancellationToken,
}

/// Carries one request to its end: `send` turns its ticket into the work that brings the reply.
async fn carry<'a>(
    pending: &Arc<Pending>,
    to: &Arc<Attachment>,
    under: Under<'_>,
    chunks: Option<Entrance<Json>>,
    call: &Call,
    send: impl FnOnce(RequestTicket) -> BoxFuture<'a, Result<Json, CallError>>,
) -> Result<Json, CallError> {
    if call.cancel.is_cancelled() {
        return Err(CallError::stopped(call));
    }
    let ticket = pending.open(to, under.epoch, under.ended.clone(), chunks)?;
    let delivery = ticket.delivery();
    let target = to.target();
    tokio::select! {
        // A reply that was accepted counts even if its giver has gone by now.
        biased;
        result = send(ticket) => result,
        () = under.ended.cancelled() => Err(if delivery.withdraw() {
            let message = format!("{target} went away before {} was sent to it; nothing was done", call.name);
            CallError::new(ErrorKind::Unavailable, message)
        } else {
            let message = format!("{target} went away while it worked on {}; check what it did", call.name);
            CallError::new(ErrorKind::Indeterminate, message)
        }),
        () = call.cancel.cancelled(), if !to.carrier.stops() => Err(if delivery.withdraw() {
            CallError::stopped(call)
        } else {
            let why = if call.deadline.passed() { "its time limit passed" } else { "the caller gave up" };
            let message = format!("{why} while {target} worked on {}; check what it did", call.name);
            CallError::new(ErrorKind::Indeterminate, message)
        }),
    }
}

/// An error of the party on the other side.
fn upstream(kind: ErrorKind, message: String) -> CallError {
    CallError::new(kind, message).blame(Blame::Upstream)
}
