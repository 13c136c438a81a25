//! The event log on disk: SQLite in WAL mode, one writer thread, a few readers.
//!
//! `log.db` in the state directory holds events, records and state stores; large payloads are files beside it. After a
//! crash the next open goes on from the last commit by itself. Not here: the lock on the state directory, which its
//! opener must hold, and any removal of old events.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use futures::FutureExt;
use futures::future::BoxFuture;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::blobs::Blobs;
use super::writer::{Health, Job, QUEUE, Setting, Work, Writer, signed, unsigned};
use super::{
    Answer, Append, Cursor, Event, EventLog, KEYS_LIMIT, Noun, READ_LIMIT, Record, RecordQuery, StateStore, Ticket,
    file,
};
use crate::call::Json;
use crate::error::{Blame, Error, ErrorKind, Result};

const EVENT: &str = "SELECT cursor, run, seq, at, kind, call, body FROM event";

/// How many reads run at the same time; more wait.
const READERS: usize = 4;

/// The durable log of one state directory.
#[derive(Debug)]
pub struct SqliteLog {
    queue: mpsc::Sender<Job>,
    health: Arc<Health>,
    tip: watch::Receiver<Cursor>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The writer's, to be unparked for work that is waited for.
    thread: Thread,
    readers: Arc<Readers>,
    blobs: Arc<Blobs>,
}

impl SqliteLog {
    /// Opens the log of a state directory, or starts one. Blocks; the caller holds the directory's lock.
    pub fn open(state_dir: &Path) -> Result<Arc<Self>> {
        let connection = file::connect(state_dir)?;
        let blobs = Arc::new(Blobs::open(state_dir).map_err(|error| file::no_folder(state_dir, error))?);
        let file = file::path(state_dir);
        let writer = Writer::new(connection, Arc::clone(&blobs)).map_err(|error| file::unusable(&file, error))?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (health, tip) = (writer.health(), writer.tip());
        let thread = writer.start(jobs).map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "no thread can be started for the event log's writer",
            )
            .because(error)
        })?;
        let readers = Arc::new(Readers {
            file,
            idle: Mutex::default(),
            turns: Arc::new(Semaphore::new(READERS)),
        });
        Ok(Arc::new(Self {
            queue,
            health,
            tip,
            thread: thread.thread().clone(),
            writer: Mutex::new(Some(thread)),
            readers,
            blobs,
        }))
    }

    /// How many transactions were committed since the log was opened; with group commit fewer than appends.
    pub fn commits(&self) -> u64 {
        self.health.commits()
    }

    /// Writes what is queued and ends the writer; later appends are refused. A failure of the log comes up here again.
    pub async fn close(&self) -> Result<()> {
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        let last = self.enqueue(Work::Close).await;
        // A writer that panicked has answered nobody, which the ticket tells.
        let _ = spawn_blocking(move || thread.join()).await;
        last?.durable().await.map(drop)
    }

    async fn submit(&self, work: Work) -> Result<Ticket> {
        match self.health.failure() {
            Some(failure) => Err(failure),
            None => self.enqueue(work).await,
        }
    }

    async fn enqueue(&self, work: Work) -> Result<Ticket> {
        let (answer, waiting) = oneshot::channel();
        let is_awaited = work.is_awaited();
        self.queue.send(Job { work, answer }).await.map_err(|_| {
            let message = "the event log is closed: the hub is stopping, ask again when it is back";
            Error::new(ErrorKind::Unavailable, message).blame(Blame::Hub)
        })?;
        if is_awaited {
            self.thread.unpark();
        }
        Ok(Ticket(Answer::Waiting(waiting)))
    }

    async fn query<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        Arc::clone(&self.readers).run(query).await
    }

    async fn events<P>(&self, query: String, params: P) -> Result<Vec<Event>>
    where
        P: rusqlite::Params + Send + 'static,
    {
        self.query(move |reader| reader.prepare_cached(&query)?.query_map(params, event)?.collect())
            .await
    }
}

impl Drop for SqliteLog {
    /// Waits for what is queued to be written; [`SqliteLog::close`] does so without blocking its thread.
    fn drop(&mut self) {
        // The writer ends when nobody can queue any more.
        self.queue = mpsc::channel(1).0;
        self.thread.unpark();
        if let Ok(Some(thread)) = self.writer.get_mut().map(Option::take) {
            let _ = thread.join();
        }
    }
}

/// Connections that only read. They see what is committed, and never hold up the writer.
#[derive(Debug)]
struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    async fn run<T, F>(self: Arc<Self>, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let read = spawn_blocking(move || {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reader = match idle {
                Some(reader) => reader,
                None => file::connect_reader(&self.file)?,
            };
            let answer = query(&reader);
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            drop(turn);
            answer
        });
        match read.await {
            Ok(answer) => answer.map_err(unreadable),
            Err(stopped) => Err(unreadable(stopped)),
        }
    }
}

fn unreadable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let message = "the event log cannot be read: check the disk of the state directory, then restart the hub";
    Error::new(ErrorKind::Internal, message)
        .blame(Blame::Operator)
        .because(cause)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        cursor: Cursor(unsigned(row.get(0)?)),
        run: row.get(1)?,
        seq: unsigned(row.get(2)?),
        at: unsigned(row.get(3)?),
        kind: row.get(4)?,
        call: row.get::<_, Option<[u8; 16]>>(5)?.map(Uuid::from_bytes),
        body: json(row, 6)?,
    })
}

fn record(noun: Noun, row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        noun,
        id: row.get(0)?,
        project: row.get(1)?,
        state: row.get(2)?,
        body: json(row, 3)?,
    })
}

fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Json> {
    let text: String = row.get(column)?;
    Json::parse(text).map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn bounded(limit: usize) -> i64 {
    i64::try_from(limit.min(READ_LIMIT)).unwrap_or(i64::MAX)
}

impl EventLog for SqliteLog {
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Ticket>> {
        async move {
            append.check()?;
            self.submit(Work::Append(append)).await
        }
        .boxed()
    }

    fn read(&self, run: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        let query = format!("{EVENT} WHERE run = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3");
        self.events(query, (run.to_owned(), signed(after), bounded(limit)))
            .boxed()
    }

    fn feed(&self, after: Cursor, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        let query = format!("{EVENT} WHERE cursor > ?1 ORDER BY cursor LIMIT ?2");
        self.events(query, (signed(after.0), bounded(limit))).boxed()
    }

    fn latest(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        let query = format!("SELECT * FROM ({EVENT} ORDER BY cursor DESC LIMIT ?1) ORDER BY cursor");
        self.events(query, (bounded(limit),)).boxed()
    }

    fn tip(&self) -> watch::Receiver<Cursor> {
        self.tip.clone()
    }

    fn record(&self, noun: Noun, id: &str) -> BoxFuture<'_, Result<Option<Record>>> {
        let id = id.to_owned();
        self.query(move |reader| {
            let query = "SELECT id, project, state, body FROM record WHERE noun = ?1 AND id = ?2";
            let mut statement = reader.prepare_cached(query)?;
            statement
                .query_row([noun.as_str(), &id], |row| record(noun, row))
                .optional()
        })
        .boxed()
    }

    fn records(&self, query: RecordQuery) -> BoxFuture<'_, Result<Vec<Record>>> {
        let RecordQuery {
            noun,
            project,
            states,
            limit,
        } = query;
        let states = serde_json::Value::from(states).to_string();
        self.query(move |reader| {
            let query = "SELECT id, project, state, body FROM record
                WHERE noun = ?1 AND (?2 IS NULL OR project = ?2)
                    AND (json_array_length(?3) = 0 OR state IN (SELECT value FROM json_each(?3)))
                ORDER BY cursor DESC LIMIT ?4";
            let mut statement = reader.prepare_cached(query)?;
            let params = params![noun.as_str(), project.as_deref(), states, bounded(limit)];
            statement.query_map(params, |row| record(noun, row))?.collect()
        })
        .boxed()
    }

    fn blob(&self, digest: &str) -> BoxFuture<'_, Result<Json>> {
        let (blobs, digest) = (Arc::clone(&self.blobs), digest.to_owned());
        async move { spawn_blocking(move || blobs.read(&digest)).await.map_err(unreadable)? }.boxed()
    }
}

impl StateStore for SqliteLog {
    fn get(&self, project: &str, plugin: &str, key: &str) -> BoxFuture<'_, Result<Option<String>>> {
        let of = [project, plugin, key].map(str::to_owned);
        self.query(move |reader| {
            let query = "SELECT value FROM state WHERE project = ?1 AND plugin = ?2 AND key = ?3";
            reader.prepare_cached(query)?.query_row(of, |row| row.get(0)).optional()
        })
        .boxed()
    }

    fn set(
        &self,
        project: &str,
        plugin: &str,
        key: &str,
        value: Option<String>,
        quota: usize,
    ) -> BoxFuture<'_, Result<()>> {
        let [project, plugin, key] = [project, plugin, key].map(str::to_owned);
        async move {
            let setting = Setting {
                project,
                plugin,
                key,
                value,
                quota,
            };
            self.submit(Work::Set(setting)).await?.durable().await.map(drop)
        }
        .boxed()
    }

    fn keys(&self, project: &str, plugin: &str, prefix: &str) -> BoxFuture<'_, Result<Vec<String>>> {
        let [project, plugin, prefix] = [project, plugin, prefix].map(str::to_owned);
        self.query(move |reader| {
            // Sorted by bytes, so the keys that start with a prefix follow it without a gap.
            let query = "SELECT key FROM state WHERE project = ?1 AND plugin = ?2 AND key >= ?3 ORDER BY key LIMIT ?4";
            let mut statement = reader.prepare_cached(query)?;
            let limit = i64::try_from(KEYS_LIMIT).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![project, plugin, prefix, limit])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                if !key.starts_with(&prefix) {
                    break;
                }
                keys.push(key);
            }
            Ok(keys)
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::log::{BLOB_FROM, Body, NewEvent, resolve};

    fn event(body: &str) -> NewEvent {
        NewEvent {
            kind: "test.event",
            call: None,
            body: Body::Json(Json::of(body).unwrap()),
            record: None,
        }
    }

    #[tokio::test]
    async fn a_ticket_resolves_and_the_tip_moves_only_when_others_can_read_the_row() {
        let dir = tempfile::tempdir().unwrap();
        let log = SqliteLog::open(dir.path()).unwrap();
        let other = Connection::open(file::path(dir.path())).unwrap();
        let newest = || {
            other
                .query_row("SELECT max(cursor) FROM event", [], |row| row.get(0).map(unsigned))
                .unwrap()
        };
        let mut tip = log.tip();
        for _ in 0..50 {
            let ticket = log.append(Append::one("r", event("x"))).await.unwrap();
            tip.changed().await.unwrap();
            let seen = *tip.borrow_and_update();
            assert!(seen.0 <= newest());
            let receipt = ticket.durable().await.unwrap();
            assert!(receipt.cursor.0 <= newest() && receipt.cursor <= *tip.borrow());
        }
    }

    #[tokio::test]
    async fn a_closed_log_has_written_what_was_queued_and_goes_on_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = SqliteLog::open(dir.path()).unwrap();
        for _ in 0..500 {
            log.append(Append::one("r", event("x"))).await.unwrap();
        }
        log.close().await.unwrap();
        log.close().await.unwrap();
        let error = log.append(Append::one("r", event("x"))).await.unwrap_err();
        assert_eq!(
            error.message,
            "the event log is closed: the hub is stopping, ask again when it is back"
        );
        assert!(log.commits() < 500);

        let log = SqliteLog::open(dir.path()).unwrap();
        assert_eq!(*log.tip().borrow(), Cursor(500));
        for _ in 0..10 {
            log.append(Append::one("r", event("x"))).await.unwrap();
        }
        drop(log);
        let log = SqliteLog::open(dir.path()).unwrap();
        let receipt = log
            .append(Append::one("r", event("x")))
            .await
            .unwrap()
            .durable()
            .await
            .unwrap();
        assert_eq!((receipt.seq, receipt.cursor), (511, Cursor(511)));
    }

    #[tokio::test]
    async fn a_failed_log_refuses_at_once_and_says_so_when_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let log = SqliteLog::open(dir.path()).unwrap();
        log.append(Append::one("r", event("x")))
            .await
            .unwrap()
            .durable()
            .await
            .unwrap();
        std::fs::remove_dir(dir.path().join("blobs")).unwrap();
        std::fs::write(dir.path().join("blobs"), "in the way").unwrap();
        let large = Append::one("r", event(&"x".repeat(BLOB_FROM)));
        let first = log.append(large).await.unwrap().durable().await.unwrap_err();
        let later = log.append(Append::one("r", event("x"))).await.unwrap_err();
        assert_eq!((later.kind, &later.message), (ErrorKind::Unavailable, &first.message));
        let state = log
            .set("p", "cache", "key", Some("x".to_owned()), 10)
            .await
            .unwrap_err();
        assert_eq!(state.message, first.message);
        assert_eq!(log.read("r", 0, 9).await.unwrap().len(), 1, "reading goes on");
        assert_eq!(log.close().await.unwrap_err().message, first.message);
    }

    #[tokio::test]
    async fn a_changed_payload_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let log = SqliteLog::open(dir.path()).unwrap();
        log.append(Append::one("r", event(&"x".repeat(BLOB_FROM))))
            .await
            .unwrap()
            .durable()
            .await
            .unwrap();
        let body = log.read("r", 0, 1).await.unwrap()[0].body.clone();
        let digest = body.as_str().split('"').nth(3).unwrap().to_owned();
        let hex = digest.strip_prefix("sha256:").unwrap();
        std::fs::write(dir.path().join("blobs").join(&hex[..2]).join(hex), "null").unwrap();
        let error = resolve(&*log, body).await.unwrap_err();
        assert!(
            error
                .message
                .starts_with(&format!("payload {digest} has another content")),
            "{error}"
        );
    }

    const CHILD: &str = "WAYPOST_TEST_STATE_DIR";

    /// Runs this test in a child, which appends until it is killed and prints each number once it is acknowledged.
    #[test]
    fn what_was_acknowledged_survives_a_kill() {
        if let Some(state_dir) = std::env::var_os(CHILD) {
            return append_until_killed(Path::new(&state_dir));
        }
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut survived = 0;
        for _round in 0..3 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "--nocapture",
                    "log::sqlite::tests::what_was_acknowledged_survives_a_kill",
                ])
                .env(CHILD, dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap());
            let (mut acknowledged, mut seen) = (survived, 0);
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap() > 0 {
                // Cut by the kill, or the test runner's own.
                if let Some(number) = line
                    .strip_prefix("acknowledged ")
                    .and_then(|rest| rest.strip_suffix('\n'))
                {
                    acknowledged = number.parse::<u64>().unwrap();
                    seen += 1;
                    if seen == 100 {
                        child.kill().unwrap();
                    }
                }
                line.clear();
            }
            assert!(seen >= 100, "the child was killed while it appended");
            child.wait().unwrap();

            let log = SqliteLog::open(dir.path()).unwrap();
            survived = log.tip().borrow().0;
            assert!(
                survived >= acknowledged,
                "{acknowledged} was acknowledged and {survived} is in the file"
            );
            runtime.block_on(check_whole(&log, survived));
        }
    }

    async fn check_whole(log: &SqliteLog, survived: u64) {
        let mut read = 0;
        loop {
            let events = log.read("r", read, 1000).await.unwrap();
            if events.is_empty() {
                break;
            }
            for event in events {
                read += 1;
                assert_eq!((event.seq, event.cursor.0), (read, read));
                let body = resolve(log, event.body).await.unwrap();
                assert!(body.as_str().len() > 100);
            }
        }
        assert_eq!(read, survived);
    }

    #[tokio::main]
    async fn append_until_killed(state_dir: &Path) {
        let log = SqliteLog::open(state_dir).unwrap();
        let (tickets, mut waiting) = mpsc::channel(64);
        let appends = async {
            for number in 0u64.. {
                let bytes = if number % 16 == 0 { BLOB_FROM } else { 100 };
                let body = format!("{number:0bytes$}");
                tickets
                    .send(log.append(Append::one("r", event(&body))).await.unwrap())
                    .await
                    .unwrap();
            }
        };
        let acknowledgements = async {
            while let Some(ticket) = waiting.recv().await {
                let receipt: crate::log::Receipt = Ticket::durable(ticket).await.unwrap();
                writeln!(std::io::stdout(), "acknowledged {}", receipt.seq).unwrap();
            }
        };
        tokio::join!(appends, acknowledgements);
    }
}
