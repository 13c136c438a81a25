//! The event log: what happened, in order, on disk before anyone is told.
//!
//! One trait, [`EventLog`], with two carriers: [`sqlite`] (the default) and [`memory`] (benches and tests that do not ask
//! about durability). Run, environment, thread, project, claim and token records are projections: an event carries the record
//! as it is after it, and both are written in one transaction. Not here: what the events mean.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::call::{CallError, CallName, Effect, Json, Principal, Target};
use crate::error::{Error, ErrorKind, Result};

mod blobs;
mod body;
mod file;
pub mod memory;
pub mod sqlite;
#[cfg(test)]
mod tests;
mod writer;

/// The stream of events that belong to no run: plugins, rules, claims, calls made by hand.
pub const HUB: &str = "hub";

/// A payload larger than this, in bytes, is kept as a blob by its digest.
pub const BLOB_FROM: usize = 16 << 10;

/// The most events or records that one read answers; a larger limit counts as this one.
pub const READ_LIMIT: usize = 10_000;

/// The most keys that one listing of a state store answers.
pub const KEYS_LIMIT: usize = 1_000;

/// An event as it is handed in.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What happened: `run.accepted`, `call.started`, `call.ended`, ...
    pub kind: &'static str,
    /// The call it is about.
    pub call: Option<Uuid>,
    /// The facts.
    pub body: Body,
    /// The record that this event leaves behind, written in the same transaction.
    pub record: Option<Record>,
}

/// The facts of an event. The frequent ones are kept as they are and serialised by the writer, off the caller's path.
#[derive(Clone, Debug)]
pub enum Body {
    /// Any JSON.
    Json(Json),
    /// The intent of an effect, on disk before it is dispatched.
    CallStarted(Box<CallStarted>),
    /// The one terminal event of a call.
    CallEnded(Box<CallEnded>),
}

/// The body of `call.started`.
#[derive(Clone, Debug)]
pub struct CallStarted {
    /// Kind and action.
    pub name: CallName,
    /// Who asked.
    pub principal: Arc<Principal>,
    /// In which environment.
    pub environment: Option<Arc<str>>,
    /// The effect class that holds for it.
    pub effect: Effect,
    /// The rule that decided.
    pub rule: Arc<str>,
    /// What was asked.
    pub message: Json,
    /// The ordinal among an agent's calls.
    pub index: Option<u64>,
    /// The call whose handler made this one.
    pub parent: Option<Uuid>,
}

/// The body of `call.ended`: for a read the only row, so it repeats what was asked.
#[derive(Clone, Debug)]
pub struct CallEnded {
    /// What was asked, by whom, under which rule.
    pub call: CallStarted,
    /// The targets that were tried, in order, with how each ended: none for the one that answered.
    pub attempts: Vec<Attempt>,
    /// The reply, or how the call failed.
    pub result: std::result::Result<Json, CallError>,
    /// From entering dispatch to the end, in microseconds.
    pub micros: u64,
}

/// One target that a call was given to.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// Who.
    pub target: Target,
    /// Why it did not answer the call; none when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
}

/// The nouns whose current state is kept as records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noun {
    /// A project.
    Project,
    /// A conversation.
    Thread,
    /// One prompt's life.
    Run,
    /// A place where loops run.
    Environment,
    /// A lease on a scope of calls.
    Claim,
    /// Who may use the hub.
    Token,
}

impl Noun {
    /// The word used in the log and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Thread => "thread",
            Self::Run => "run",
            Self::Environment => "environment",
            Self::Claim => "claim",
            Self::Token => "token",
        }
    }
}

/// The current state of one thing, as the last event about it left it.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is.
    pub noun: Noun,
    /// Its id, unique among its noun.
    pub id: Arc<str>,
    /// The project that owns it.
    pub project: Arc<str>,
    /// Its state, to filter by: `running`, `ready`, ...
    pub state: String,
    /// All of it.
    pub body: Json,
}

/// An event as it stands in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the hub-wide feed. Opaque: compare and hand back, nothing else.
    pub cursor: Cursor,
    /// The stream: a run id, or [`HUB`].
    pub run: Arc<str>,
    /// Its place in the stream, from 1 without gaps.
    pub seq: u64,
    /// Wall clock in milliseconds since 1970; for people, never for order.
    pub at: u64,
    /// What happened.
    pub kind: Arc<str>,
    /// The call it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub call: Option<Uuid>,
    /// The facts. Payloads over 16 KiB read `{"$blob": "sha256:<hex>", "bytes": <n>}`.
    pub body: Json,
}

/// A place in the hub-wide feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor(pub(crate) u64);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::str::FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.parse().map_err(|_| {
            Error::new(
                ErrorKind::Invalid,
                format!("`{}` is not a cursor of this log", text.escape_debug()),
            )
        })?;
        Ok(Self(number))
    }
}

/// Events for one stream, written all or none.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream: a run id, or [`HUB`].
    pub run: Arc<str>,
    /// The last sequence number that the writer has seen; the append fails when the stream is elsewhere. None: at the end.
    pub expected_seq: Option<u64>,
    /// In order; at least one.
    pub events: Vec<NewEvent>,
}

impl NewEvent {
    /// An event of a few facts.
    pub fn of(kind: &'static str, facts: serde_json::Value) -> Self {
        Self {
            kind,
            call: None,
            body: Body::Json(facts.into()),
            record: None,
        }
    }

    /// An event whose facts are a record, as it is from now on.
    pub fn recorded(kind: &'static str, record: Record) -> Self {
        Self {
            kind,
            call: None,
            body: Body::Json(record.body.clone()),
            record: Some(record),
        }
    }
}

/// Appends, and waits until it is on disk.
pub async fn write(log: &dyn EventLog, append: Append) -> Result<Receipt> {
    log.append(append).await?.durable().await
}

impl Append {
    /// One event at the end of a stream.
    pub fn one(run: impl Into<Arc<str>>, event: NewEvent) -> Self {
        Self {
            run: run.into(),
            expected_seq: None,
            events: vec![event],
        }
    }

    /// Refuses an append that could not have a receipt.
    fn check(&self) -> Result<()> {
        if self.events.is_empty() {
            let message = format!(
                "nothing to append to stream `{}`: give at least one event",
                self.run.escape_debug()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// Refuses an append whose writer has not seen the stream's last event.
    fn check_place(&self, last: u64) -> Result<()> {
        match self.expected_seq {
            Some(expected) if expected != last => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "stream `{}` ends at {last}, not at {expected}: read what was added, then append again",
                    self.run.escape_debug()
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Where appended events stand: the numbers of the last one.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// In its stream.
    pub seq: u64,
    /// In the feed.
    pub cursor: Cursor,
}

/// An append whose place in the order is fixed. Drop it when durability is not asked for (reads), or wait.
#[derive(Debug)]
pub struct Ticket(Answer);

#[derive(Debug)]
enum Answer {
    /// Known already: in memory nothing has to reach a disk.
    Ready(Result<Receipt>),
    /// The writer's.
    Waiting(oneshot::Receiver<Result<Receipt>>),
}

impl Ticket {
    /// Resolves when the events are on disk.
    pub async fn durable(self) -> Result<Receipt> {
        match self.0 {
            Answer::Ready(receipt) => receipt,
            Answer::Waiting(receipt) => receipt.await.unwrap_or_else(|_| {
                let message = "the event log has stopped; restart the hub and look at its first error";
                Err(Error::new(ErrorKind::Internal, message))
            }),
        }
    }
}

/// Which records to list, newest first.
#[derive(Clone, Debug)]
pub struct RecordQuery {
    /// What they are.
    pub noun: Noun,
    /// Of this project alone.
    pub project: Option<Arc<str>>,
    /// In one of these states; empty for all.
    pub states: Vec<String>,
    /// At most this many.
    pub limit: usize,
}

/// An append-only log with one writer.
pub trait EventLog: Send + Sync {
    /// Queues the events, waiting for room; from then on their order is fixed.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Ticket>>;

    /// The events of a stream after `seq`, in order.
    fn read(&self, run: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>>;

    /// The events of all streams after a cursor, in order.
    fn feed(&self, after: Cursor, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>>;

    /// The last `limit` events of all streams, in order.
    fn latest(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>>;

    /// The newest durable cursor; changes after each commit.
    fn tip(&self) -> watch::Receiver<Cursor>;

    /// One record.
    fn record(&self, noun: Noun, id: &str) -> BoxFuture<'_, Result<Option<Record>>>;

    /// Records by query, newest first.
    fn records(&self, query: RecordQuery) -> BoxFuture<'_, Result<Vec<Record>>>;

    /// A payload by its digest, `sha256:<hex>`.
    fn blob(&self, digest: &str) -> BoxFuture<'_, Result<Json>>;
}

/// What plugins keep: small values by key, one store for each project and plugin.
pub trait StateStore: Send + Sync {
    /// The value of a key.
    fn get(&self, project: &str, plugin: &str, key: &str) -> BoxFuture<'_, Result<Option<String>>>;

    /// Sets (or with none removes) a value, durable when it resolves. `quota` bounds the bytes of all keys and values.
    fn set(
        &self,
        project: &str,
        plugin: &str,
        key: &str,
        value: Option<String>,
        quota: usize,
    ) -> BoxFuture<'_, Result<()>>;

    /// The keys that start with a prefix, sorted, at most 1,000.
    fn keys(&self, project: &str, plugin: &str, prefix: &str) -> BoxFuture<'_, Result<Vec<String>>>;
}

/// The whole of a payload: itself, or the content of the blob that it refers to.
pub async fn resolve(log: &dyn EventLog, json: Json) -> Result<Json> {
    match body::Reference::read(&json) {
        Some(reference) => log.blob(&reference.digest).await,
        None => Ok(json),
    }
}

/// Refuses to let a state store grow beyond its quota; one that is over it may still shrink.
fn check_quota(plugin: &str, before: usize, after: usize, quota: usize) -> Result<()> {
    if after <= quota || after <= before {
        return Ok(());
    }
    let message = format!(
        "plugin `{}` wants to keep {after} bytes of state and its quota is {quota}: let it remove keys, \
         or raise `state` in its limits",
        plugin.escape_debug()
    );
    Err(Error::new(ErrorKind::Limit, message))
}

/// The refusal of a digest that no payload of this log has.
fn no_blob(digest: &str) -> Error {
    let message = format!(
        "this log keeps no payload `{}`; digests read sha256:<hex>",
        digest.escape_debug()
    );
    Error::new(ErrorKind::NotFound, message)
}

/// Milliseconds since 1970, as the wall clock has it.
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
