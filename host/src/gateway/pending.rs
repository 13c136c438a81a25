//! Requests in flight: which reply counts.
//!
//! A request has an id that is never used again. Its reply counts from the attachment that was asked, while the lease
//! it was asked under holds, the first time. Ids that have ended are remembered for a while, so that a refused reply
//! is counted under its true reason; nothing of the reply is kept. A chunk counts under the same conditions, before the
//! reply.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bounded::Entrance;
use super::{Attachment, upstream};
use crate::call::{CallError, Json};
use crate::error::{Blame, ErrorKind};

/// How many ended requests are remembered.
const REMEMBERED: usize = 4096;

/// Why a reply or a chunk was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No such request, or one that ended long ago.
    Unknown,
    /// The request went to someone else.
    Foreign,
    /// The request has its reply.
    Duplicate,
    /// The caller has given up.
    Late,
    /// The lease under which the request was made has ended.
    Stale,
}

impl Rejection {
    /// The word used in logs and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Foreign => "foreign",
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Stale => "stale",
        }
    }
}

/// How many replies and chunks were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// No such request, or one that ended long ago.
    pub unknown: u64,
    /// The request went to someone else.
    pub foreign: u64,
    /// The request had its reply.
    pub duplicate: u64,
    /// The caller had given up.
    pub late: u64,
    /// The lease under which the request was made had ended.
    pub stale: u64,
}

impl Rejected {
    fn count(&mut self, reason: Rejection) {
        let counter = match reason {
            Rejection::Unknown => &mut self.unknown,
            Rejection::Foreign => &mut self.foreign,
            Rejection::Duplicate => &mut self.duplicate,
            Rejection::Late => &mut self.late,
            Rejection::Stale => &mut self.stale,
        };
        *counter = counter.saturating_add(1);
    }
}

/// All requests in flight.
pub(super) struct Pending {
    limit: usize,
    table: Mutex<Table>,
    open: AtomicUsize,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Uuid, Entry>,
    /// Ended entries, oldest first.
    ended: VecDeque<Uuid>,
    rejected: Rejected,
}

struct Entry {
    asked: u64,
    lease: CancellationToken,
    state: State,
}

enum State {
    Waiting(Waiting),
    /// Every further reply is refused for this reason.
    Ended(Rejection),
}

/// What waits for the other side.
struct Waiting {
    reply: oneshot::Sender<Result<Json, CallError>>,
    /// None when its answer has no chunks.
    chunks: Option<Entrance<Json>>,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            table: Mutex::default(),
            open: AtomicUsize::new(0),
        }
    }

    /// A new request to an attachment, made under a lease; what is said in chunks goes to `chunks`.
    pub(super) fn open(
        self: &Arc<Self>,
        to: &Arc<Attachment>,
        epoch: Option<u64>,
        lease: CancellationToken,
        chunks: Option<Entrance<Json>>,
    ) -> Result<RequestTicket, CallError> {
        let room = |now: usize| (now < self.limit).then(|| now.saturating_add(1));
        if to
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_err()
        {
            let message = format!(
                "{} has {} requests in flight, its limit; try again later",
                to.target(),
                self.limit
            );
            return Err(upstream(ErrorKind::Limit, message));
        }
        let id = Uuid::now_v7();
        let delivery = Delivery::default();
        let (waiting, reply) = oneshot::channel();
        self.open.fetch_add(1, Ordering::Relaxed);
        self.table().entries.insert(
            id,
            Entry {
                asked: to.number,
                lease,
                state: State::Waiting(Waiting { reply: waiting, chunks }),
            },
        );
        let slot = Slot {
            pending: self.clone(),
            to: to.clone(),
            id,
            delivery,
        };
        Ok(RequestTicket { epoch, reply, slot })
    }

    pub(super) fn reply(&self, from: u64, id: Option<Uuid>, result: Result<Json, CallError>) -> Result<(), Rejection> {
        self.accept(from, id, |entry| entry.take(result))
    }

    /// Takes a chunk; never waits for room.
    pub(super) fn chunk(&self, from: u64, id: Option<Uuid>, chunk: Json) -> Result<(), Rejection> {
        self.accept(from, id, |entry| entry.take_chunk(chunk))
    }

    fn accept(
        &self,
        from: u64,
        id: Option<Uuid>,
        take: impl FnOnce(&mut Entry) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        let mut table = self.table();
        let outcome = match id.and_then(|id| table.entries.get_mut(&id)) {
            None => Err(Rejection::Unknown),
            Some(entry) if entry.asked != from => Err(Rejection::Foreign),
            Some(entry) => take(entry),
        };
        if let Err(reason) = outcome {
            table.rejected.count(reason);
        }
        outcome
    }

    fn close(&self, id: Uuid) {
        let mut table = self.table();
        if let Some(entry) = table.entries.get_mut(&id) {
            if let State::Waiting(_) = entry.state {
                let reason = if entry.lease.is_cancelled() {
                    Rejection::Stale
                } else {
                    Rejection::Late
                };
                entry.state = State::Ended(reason);
            }
            table.ended.push_back(id);
        }
        if table.ended.len() > REMEMBERED
            && let Some(oldest) = table.ended.pop_front()
        {
            table.entries.remove(&oldest);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn rejected(&self) -> Rejected {
        self.table().rejected
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn take(&mut self, result: Result<Json, CallError>) -> Result<(), Rejection> {
        if let State::Ended(reason) = self.state {
            return Err(reason);
        }
        // The mark of an ended lease is there before its requests have noticed.
        let stale = self.lease.is_cancelled();
        let end = if stale { Rejection::Stale } else { Rejection::Duplicate };
        match std::mem::replace(&mut self.state, State::Ended(end)) {
            State::Waiting(_) if stale => Err(Rejection::Stale),
            State::Waiting(waiting) => waiting.reply.send(result).map_err(|_| Rejection::Late),
            State::Ended(reason) => Err(reason),
        }
    }

    fn take_chunk(&mut self, chunk: Json) -> Result<(), Rejection> {
        let waiting = match &self.state {
            State::Ended(reason) => return Err(*reason),
            State::Waiting(_) if self.lease.is_cancelled() => return Err(Rejection::Stale),
            State::Waiting(waiting) => waiting,
        };
        // A request whose answer has no chunks is not one that a chunk can belong to.
        let chunks = waiting.chunks.as_ref().ok_or(Rejection::Unknown)?;
        let size = chunk.as_str().len();
        if chunks.put(chunk, size) {
            return Ok(());
        }
        if let State::Waiting(waiting) = std::mem::replace(&mut self.state, State::Ended(Rejection::Late)) {
            let message = "the caller reads the answer more slowly than it comes, and too much of it waits; read faster, or \
                           ask without `stream`";
            let error = CallError::new(ErrorKind::Limit, message).blame(Blame::Caller);
            // Whoever asked may be gone by now.
            let _ = waiting.reply.send(Err(error));
        }
        Err(Rejection::Late)
    }
}

/// One request on its way: its id, and the place where its reply arrives. Dropping it gives the request up.
pub struct RequestTicket {
    epoch: Option<u64>,
    reply: oneshot::Receiver<Result<Json, CallError>>,
    slot: Slot,
}

impl RequestTicket {
    /// The request's id, never used before or again.
    pub fn id(&self) -> Uuid {
        self.slot.id
    }

    /// The epoch of the claim it is made under; none when it was addressed by name.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Whether it has left the hub; for the one that sends it.
    pub fn delivery(&self) -> Delivery {
        self.slot.delivery.clone()
    }

    /// Resolves with the reply that counts, for carriers whose replies arrive through [`super::Gateway::reply`].
    ///
    /// It stays unresolved when the lease ends: the gateway then drops it.
    pub async fn reply(mut self) -> Result<Json, CallError> {
        match (&mut self.reply).await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }

    /// The same for carriers whose reply is there when their request ends. It counts under the same conditions as one that
    /// arrives as a message.
    pub async fn end(self, result: Result<Json, CallError>) -> Result<Json, CallError> {
        // A refused one is counted where it is refused; the lease has ended, and the gateway drops this.
        let _ = self.slot.pending.reply(self.slot.to.number, Some(self.slot.id), result);
        self.reply().await
    }
}

/// The part of a ticket that cleans up.
struct Slot {
    pending: Arc<Pending>,
    to: Arc<Attachment>,
    id: Uuid,
    delivery: Delivery,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.delivery.withdraw();
        self.pending.close(self.id);
        self.pending.open.fetch_sub(1, Ordering::Relaxed);
        self.to.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a request has left the hub. Exactly one of [`Delivery::start`] and [`Delivery::withdraw`] wins.
#[derive(Clone, Debug, Default)]
pub struct Delivery(Arc<AtomicU8>);

const QUEUED: u8 = 0;
const STARTED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Delivery {
    /// Marks it as leaving now; false when it was given up before, and must not leave.
    pub fn start(&self) -> bool {
        self.0
            .compare_exchange(QUEUED, STARTED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Gives it up; true when it has not left and never will.
    pub fn withdraw(&self) -> bool {
        match self
            .0
            .compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(state) => state == WITHDRAWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_starts_or_is_withdrawn_but_never_both() {
        let started = Delivery::default();
        assert!(started.start());
        assert!(!started.start());
        assert!(!started.withdraw());
        let withdrawn = Delivery::default();
        assert!(withdrawn.withdraw());
        assert!(withdrawn.withdraw());
        assert!(!withdrawn.start());
    }
}
