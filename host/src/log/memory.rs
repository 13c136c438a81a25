//! The event log in memory: for benches, and for tests that do not ask about durability.
//!
//! It keeps events as they were handed in and writes their JSON only when they are read, so that an append costs next
//! to nothing. Events are bounded by number; records, state stores and the counters of streams live as long as the log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Answer, Append, Body, Cursor, Event, EventLog, KEYS_LIMIT, NewEvent, Noun, READ_LIMIT, Receipt, Record,
    RecordQuery, StateStore, Ticket, blobs, body, check_quota, no_blob, wall_clock,
};
use crate::call::Json;
use crate::error::Result;

/// How many events are kept unless the constructor says otherwise.
pub const EVENTS: usize = 100_000;

/// A log that forgets: the oldest events first, everything at its end.
#[derive(Debug)]
pub struct MemoryLog {
    capacity: usize,
    state: Mutex<State>,
    tip: watch::Sender<Cursor>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest events, in order; their cursors are consecutive and end at `cursor`.
    events: VecDeque<Entry>,
    cursor: u64,
    seqs: HashMap<Arc<str>, u64>,
    records: HashMap<(Noun, Arc<str>), (u64, Record)>,
    stores: HashMap<(String, String), Store>,
}

#[derive(Clone, Debug)]
struct Entry {
    cursor: u64,
    run: Arc<str>,
    seq: u64,
    at: u64,
    kind: &'static str,
    call: Option<Uuid>,
    body: Body,
}

#[derive(Debug, Default)]
struct Store {
    bytes: usize,
    values: BTreeMap<String, String>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new(EVENTS)
    }
}

impl MemoryLog {
    /// An empty log that keeps the last `capacity` events.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
            tip: watch::Sender::new(Cursor::default()),
        }
    }

    /// Nothing here panics half-way through a change, so a poisoned lock holds a whole state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, append: Append) -> Result<Receipt> {
        let at = wall_clock();
        let mut state = self.lock();
        let last = state.seqs.get(&append.run).copied().unwrap_or(0);
        append.check_place(last)?;
        let mut seq = last;
        for NewEvent {
            kind,
            call,
            body,
            record,
        } in append.events
        {
            seq += 1;
            state.cursor += 1;
            let cursor = state.cursor;
            if let Some(record) = record {
                state
                    .records
                    .insert((record.noun, Arc::clone(&record.id)), (cursor, record));
            }
            state.events.push_back(Entry {
                cursor,
                run: Arc::clone(&append.run),
                seq,
                at,
                kind,
                call,
                body,
            });
            if state.events.len() > self.capacity {
                state.events.pop_front();
            }
        }
        match state.seqs.get_mut(&append.run) {
            Some(counter) => *counter = seq,
            None => {
                state.seqs.insert(append.run, seq);
            }
        }
        let cursor = Cursor(state.cursor);
        // Under the lock, so that the tip never goes back. Waking costs as much as the rest of an append, so it is left
        // out while nobody follows; who subscribes meanwhile waits for this change before it reads the tip.
        self.tip.send_if_modified(|tip| {
            *tip = cursor;
            self.tip.receiver_count() > 0
        });
        Ok(Receipt { seq, cursor })
    }

    /// The kept events from the first that fits `from` and are wanted, encoded after the lock is given back.
    fn events(&self, from: u64, limit: usize, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Event>> {
        let entries: Vec<Entry> = {
            let state = self.lock();
            let start = state.events.partition_point(|entry| entry.cursor < from);
            state
                .events
                .range(start..)
                .filter(|entry| wanted(entry))
                .take(limit.min(READ_LIMIT))
                .cloned()
                .collect()
        };
        entries.into_iter().map(Entry::encode).collect()
    }

    fn set_value(&self, project: &str, plugin: &str, key: &str, value: Option<String>, quota: usize) -> Result<()> {
        let mut state = self.lock();
        let store = state.stores.entry((project.to_owned(), plugin.to_owned())).or_default();
        let freed = store.values.get(key).map_or(0, |old| key.len() + old.len());
        let added = value.as_ref().map_or(0, |new| key.len() + new.len());
        let bytes = store.bytes.saturating_sub(freed).saturating_add(added);
        check_quota(plugin, store.bytes, bytes, quota)?;
        store.bytes = bytes;
        match value {
            Some(value) => store.values.insert(key.to_owned(), value),
            None => store.values.remove(key),
        };
        Ok(())
    }

    fn with_store<T: Default>(&self, project: &str, plugin: &str, read: impl FnOnce(&Store) -> T) -> T {
        let state = self.lock();
        state
            .stores
            .get(&(project.to_owned(), plugin.to_owned()))
            .map(read)
            .unwrap_or_default()
    }
}

impl Entry {
    fn encode(self) -> Result<Event> {
        let body = body::encode(&self.body)?.json;
        let Self {
            cursor,
            run,
            seq,
            at,
            kind,
            call,
            ..
        } = self;
        Ok(Event {
            cursor: Cursor(cursor),
            run,
            seq,
            at,
            kind: kind.into(),
            call,
            body,
        })
    }
}

impl EventLog for MemoryLog {
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Ticket>> {
        async move {
            append.check()?;
            Ok(Ticket(Answer::Ready(self.write(append))))
        }
        .boxed()
    }

    fn read(&self, run: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        // An event stands at least as far in the feed as in its stream.
        future::ready(self.events(after, limit, |entry| *entry.run == *run && entry.seq > after)).boxed()
    }

    fn feed(&self, after: Cursor, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        future::ready(self.events(after.0.saturating_add(1), limit, |_| true)).boxed()
    }

    fn latest(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        let limit = u64::try_from(limit.min(READ_LIMIT)).unwrap_or(u64::MAX);
        let after = self.lock().cursor.saturating_sub(limit);
        self.feed(Cursor(after), READ_LIMIT)
    }

    fn tip(&self) -> watch::Receiver<Cursor> {
        self.tip.subscribe()
    }

    fn record(&self, noun: Noun, id: &str) -> BoxFuture<'_, Result<Option<Record>>> {
        let found = self
            .lock()
            .records
            .get(&(noun, Arc::from(id)))
            .map(|(_, record)| record.clone());
        future::ready(Ok(found)).boxed()
    }

    fn records(&self, query: RecordQuery) -> BoxFuture<'_, Result<Vec<Record>>> {
        let RecordQuery {
            noun,
            project,
            states,
            limit,
        } = query;
        let state = self.lock();
        let mut found: Vec<&(u64, Record)> = state
            .records
            .values()
            .filter(|(_, record)| record.noun == noun)
            .filter(|(_, record)| project.as_ref().is_none_or(|project| *project == record.project))
            .filter(|(_, record)| states.is_empty() || states.contains(&record.state))
            .collect();
        found.sort_unstable_by_key(|(cursor, _)| std::cmp::Reverse(*cursor));
        let records = found
            .into_iter()
            .take(limit.min(READ_LIMIT))
            .map(|(_, record)| record.clone())
            .collect();
        future::ready(Ok(records)).boxed()
    }

    fn blob(&self, digest: &str) -> BoxFuture<'_, Result<Json>> {
        // Payloads stay inside their events here, so the digest is looked for among those that are kept.
        let state = self.lock();
        let mut payloads = state.events.iter().flat_map(|entry| body::payloads(&entry.body));
        let found = payloads.find(|json| blobs::digest(json.as_str()) == digest).cloned();
        future::ready(found.ok_or_else(|| no_blob(digest))).boxed()
    }
}

impl StateStore for MemoryLog {
    fn get(&self, project: &str, plugin: &str, key: &str) -> BoxFuture<'_, Result<Option<String>>> {
        future::ready(Ok(
            self.with_store(project, plugin, |store| store.values.get(key).cloned())
        ))
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
        future::ready(self.set_value(project, plugin, key, value, quota)).boxed()
    }

    fn keys(&self, project: &str, plugin: &str, prefix: &str) -> BoxFuture<'_, Result<Vec<String>>> {
        let keys = self.with_store(project, plugin, |store| {
            let from = store.values.range(prefix.to_owned()..);
            from.map(|(key, _)| key.clone())
                .take_while(|key| key.starts_with(prefix))
                .take(KEYS_LIMIT)
                .collect()
        });
        future::ready(Ok(keys)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u64) -> NewEvent {
        NewEvent {
            kind: "test.event",
            call: None,
            body: Body::Json(Json::of(&number).unwrap()),
            record: None,
        }
    }

    #[tokio::test]
    async fn the_oldest_events_are_forgotten_first_and_the_numbers_go_on() {
        let log = MemoryLog::new(3);
        for number in 1..=5 {
            let receipt = log
                .append(Append::one("r", numbered(number)))
                .await
                .unwrap()
                .durable()
                .await
                .unwrap();
            assert_eq!((receipt.seq, receipt.cursor), (number, Cursor(number)));
        }
        let kept: Vec<u64> = log
            .read("r", 0, 10)
            .await
            .unwrap()
            .iter()
            .map(|event| event.seq)
            .collect();
        assert_eq!(kept, [3, 4, 5]);
        let fed: Vec<u64> = log
            .feed(Cursor(1), 2)
            .await
            .unwrap()
            .iter()
            .map(|event| event.cursor.0)
            .collect();
        assert_eq!(fed, [3, 4]);
    }
}
