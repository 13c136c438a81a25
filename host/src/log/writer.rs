//! The one writer: a thread that puts whatever is queued into one transaction, then answers all of it (group commit).
//!
//! A piece of work that cannot be done is refused alone. A disk that fails ends the log: nothing is tried again, since
//! after a failed sync nobody knows what the disk holds; every later piece of work is answered with that first failure.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::blobs::Blobs;
use super::{Append, Body, Cursor, NewEvent, Receipt, Record, body, check_quota, wall_clock};
use crate::call::Effect;
use crate::error::{Blame, Error, ErrorKind, Result};

/// How much work waits unwritten before the next caller has to wait.
pub(super) const QUEUE: usize = 4096;

/// How much work goes into one transaction.
const BATCH: usize = 1024;

/// How long the ends of reads wait for more of them: nobody waits for theirs to be on disk, and a commit costs as much as
/// many rows.
const LINGER: Duration = Duration::from_millis(5);

/// How many streams' last numbers are kept in memory; all are forgotten, to be read again, when there are more.
const STREAMS: usize = 10_000;

/// A piece of work and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) answer: oneshot::Sender<Result<Receipt>>,
}

/// What the writer does. Work that adds no event is answered with number 0 and the feed's end.
#[derive(Debug)]
pub(super) enum Work {
    /// Adds events to a stream.
    Append(Append),
    /// Changes a state store.
    Set(Setting),
    /// Ends the writer, after all that is queued.
    Close,
}

impl Work {
    /// Whether anybody may wait until it is on disk. Whoever queues such work unparks the writer's thread.
    pub(super) fn is_awaited(&self) -> bool {
        let of_a_read =
            |event: &NewEvent| matches!(&event.body, Body::CallEnded(end) if end.call.effect == Effect::Read);
        match self {
            Self::Append(append) => !append.events.iter().all(of_a_read),
            Self::Set(_) | Self::Close => true,
        }
    }
}

/// A change of a state store.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) project: String,
    pub(super) plugin: String,
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) quota: usize,
}

/// How the writer is, for all to see.
#[derive(Debug, Default)]
pub(super) struct Health {
    failure: OnceLock<String>,
    commits: AtomicU64,
}

impl Health {
    /// The error that everything gets after the first failure.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.get().map(|cause| ended(cause))
    }

    /// How many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

fn ended(cause: &str) -> Error {
    let message = format!(
        "the event log takes nothing more since a write failed ({cause}): give the disk of the state directory room \
         or repair it, then restart the hub"
    );
    Error::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
}

/// Why a piece of work was not done.
enum Trouble {
    /// It cannot be done; the rest of the batch can.
    Refused(Error),
    /// The disk failed; nothing can be done any more.
    Broken(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The writer's side of the log.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    blobs: Arc<Blobs>,
    order: Order,
    tip: watch::Sender<Cursor>,
    health: Arc<Health>,
}

impl Writer {
    /// A writer that goes on where the file ends.
    pub(super) fn new(connection: Connection, blobs: Arc<Blobs>) -> rusqlite::Result<Self> {
        let cursor = connection.query_row("SELECT coalesce(max(cursor), 0) FROM event", [], |row| row.get(0))?;
        let order = Order {
            cursor: unsigned(cursor),
            seqs: HashMap::new(),
        };
        let tip = watch::Sender::new(order.end().cursor);
        Ok(Self {
            connection,
            blobs,
            order,
            tip,
            health: Arc::default(),
        })
    }

    /// The newest durable cursor.
    pub(super) fn tip(&self) -> watch::Receiver<Cursor> {
        self.tip.subscribe()
    }

    /// How the writer will be.
    pub(super) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Starts the thread. It ends, with everything written, when it is told to close or nobody can queue any more.
    pub(super) fn start(self, jobs: mpsc::Receiver<Job>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("event-log".to_owned())
            .spawn(move || self.run(jobs))
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            gather(&mut jobs, &mut batch, LINGER);
            if batch.iter().any(|job| matches!(job.work, Work::Close)) {
                jobs.close();
            }
            self.commit(&mut batch);
        }
    }

    fn commit(&mut self, batch: &mut Vec<Job>) {
        let outcomes = match self.health.failure.get() {
            None => self.write(batch),
            Some(cause) => Err(cause.clone()),
        };
        match outcomes {
            Ok(outcomes) => {
                self.health.commits.fetch_add(1, Ordering::Relaxed);
                let end = self.order.end().cursor;
                self.tip.send_if_modified(|tip| std::mem::replace(tip, end) != end);
                for (job, outcome) in batch.drain(..).zip(outcomes) {
                    // Nobody has to wait for an answer.
                    let _ = job.answer.send(outcome);
                }
            }
            Err(cause) => {
                if self.health.failure.set(cause.clone()).is_ok() {
                    tracing::error!(%cause, "the event log cannot write and takes nothing more");
                }
                for job in batch.drain(..) {
                    let _ = job.answer.send(Err(ended(&cause)));
                }
            }
        }
    }

    /// One transaction, on disk when it returns; an error is the first failure of the disk, and nothing was written.
    fn write(&mut self, batch: &[Job]) -> Result<Vec<Result<Receipt>>, String> {
        self.order.forget_streams();
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior).map_err(text)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in batch {
            let outcome = match &job.work {
                Work::Append(append) => self.order.append(&transaction, &self.blobs, append),
                Work::Set(setting) => set(&transaction, setting).map(|()| self.order.end()),
                Work::Close => Ok(self.order.end()),
            };
            outcomes.push(match outcome {
                Ok(receipt) => Ok(receipt),
                Err(Trouble::Refused(error)) => Err(error),
                Err(Trouble::Broken(cause)) => return Err(cause),
            });
        }
        transaction.commit().map_err(text)?;
        Ok(outcomes)
    }
}

/// Lets a batch grow, as long as nobody waits for any of it and at most for this time.
fn gather(jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>, time: Duration) {
    let until = Instant::now() + time;
    let mut seen = 0;
    loop {
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let mut new = batch.iter().skip(std::mem::replace(&mut seen, batch.len()));
        let left = until.saturating_duration_since(Instant::now());
        if new.any(|job| job.work.is_awaited()) || batch.len() == BATCH || left.is_zero() || jobs.is_closed() {
            return;
        }
        thread::park_timeout(left);
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Where the feed and the streams end.
#[derive(Debug)]
struct Order {
    cursor: u64,
    seqs: HashMap<Arc<str>, u64>,
}

impl Order {
    fn end(&self) -> Receipt {
        Receipt {
            seq: 0,
            cursor: Cursor(self.cursor),
        }
    }

    fn forget_streams(&mut self) {
        if self.seqs.len() > STREAMS {
            self.seqs.clear();
        }
    }

    fn append(&mut self, to: &Transaction<'_>, blobs: &Blobs, append: &Append) -> Result<Receipt, Trouble> {
        let last = match self.seqs.get(&append.run) {
            Some(last) => *last,
            None => {
                let last = "SELECT coalesce(max(seq), 0) FROM event WHERE run = ?1";
                unsigned(to.prepare_cached(last)?.query_row([&*append.run], |row| row.get(0))?)
            }
        };
        append.check_place(last)?;
        // All are encoded before one is written: an append is refused whole.
        let bodies = append
            .events
            .iter()
            .map(|event| body::encode(&event.body))
            .collect::<Result<Vec<_>>>()?;
        let at = wall_clock();
        let mut seq = last;
        for (event, encoded) in append.events.iter().zip(bodies) {
            for (digest, payload) in &encoded.detached {
                blobs.keep(digest, payload.as_str())?;
            }
            seq += 1;
            self.cursor += 1;
            let NewEvent { kind, call, record, .. } = event;
            let row = "INSERT INTO event (cursor, run, seq, at, kind, call, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            to.prepare_cached(row)?.execute(params![
                signed(self.cursor),
                &*append.run,
                signed(seq),
                signed(at),
                kind,
                call.as_ref().map(|call| call.as_bytes().as_slice()),
                encoded.json.as_str(),
            ])?;
            if let Some(record) = record {
                keep(to, self.cursor, record)?;
            }
        }
        self.seqs.insert(Arc::clone(&append.run), seq);
        Ok(Receipt {
            seq,
            cursor: Cursor(self.cursor),
        })
    }
}

fn keep(to: &Transaction<'_>, cursor: u64, record: &Record) -> rusqlite::Result<()> {
    let row = "INSERT INTO record (noun, id, project, state, body, cursor) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT (noun, id) DO UPDATE SET
            project = excluded.project, state = excluded.state, body = excluded.body, cursor = excluded.cursor";
    let Record {
        noun,
        id,
        project,
        state,
        body,
    } = record;
    to.prepare_cached(row)?
        .execute(params![
            noun.as_str(),
            &**id,
            &**project,
            state,
            body.as_str(),
            signed(cursor)
        ])
        .map(drop)
}

fn set(to: &Transaction<'_>, setting: &Setting) -> Result<(), Trouble> {
    let Setting {
        project,
        plugin,
        key,
        value,
        quota,
    } = setting;
    let old = "SELECT octet_length(value) FROM state WHERE project = ?1 AND plugin = ?2 AND key = ?3";
    let old: Option<i64> = to
        .prepare_cached(old)?
        .query_row([project, plugin, key], |row| row.get(0))
        .optional()?;
    let before = "SELECT bytes FROM store WHERE project = ?1 AND plugin = ?2";
    let before: Option<i64> = to
        .prepare_cached(before)?
        .query_row([project, plugin], |row| row.get(0))
        .optional()?;
    let before = before.map_or(0, size);
    let freed = old.map_or(0, |value| size(value).saturating_add(key.len()));
    let added = value.as_ref().map_or(0, |value| value.len().saturating_add(key.len()));
    let after = before.saturating_sub(freed).saturating_add(added);
    check_quota(plugin, before, after, *quota)?;
    match value {
        Some(value) => {
            let row = "INSERT INTO state (project, plugin, key, value) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT DO UPDATE SET value = excluded.value";
            to.prepare_cached(row)?.execute([project, plugin, key, value])?
        }
        None => {
            let row = "DELETE FROM state WHERE project = ?1 AND plugin = ?2 AND key = ?3";
            to.prepare_cached(row)?.execute([project, plugin, key])?
        }
    };
    let row = "INSERT INTO store (project, plugin, bytes) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET bytes = excluded.bytes";
    let bytes = i64::try_from(after).unwrap_or(i64::MAX);
    to.prepare_cached(row)?.execute(params![project, plugin, bytes])?;
    Ok(())
}

/// A number as SQLite keeps it. None of ours comes near the difference.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as it was kept.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn size(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
