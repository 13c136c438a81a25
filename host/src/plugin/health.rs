//! How a plugin does: what its calls came to, and when it is left alone because it keeps trapping.
//!
//! [`Watched`] stands before whatever runs plugins. After so many traps in a row a plugin is in quarantine: its calls are
//! answered `unavailable` at once, so that a rule's fallback is asked. When the time is over one call tries it, and the next
//! quarantine is twice as long. A reload begins anew. Not here: limits of one call (`engine/meter.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::json;

use super::{Executor, Loaded};
use crate::call::{Call, CallError, Json, Sink};
use crate::config::PluginLimits;
use crate::error::{Blame, ErrorKind};
use crate::log::{Append, EventLog, HUB, NewEvent};
use crate::run::journal::Journal;

/// Runs plugins, unless they are in quarantine, and keeps count.
pub struct Watched {
    inner: Arc<dyn Executor>,
    log: Arc<dyn EventLog>,
}

impl Watched {
    /// Before this executor; what changes for a plugin is an event.
    pub fn new(inner: Arc<dyn Executor>, log: Arc<dyn EventLog>) -> Self {
        Self { inner, log }
    }

    /// Nobody waits for it: a call is not held up by what is said about its plugin.
    fn say(&self, plugin: &Loaded, change: &Change, last: Option<&CallError>) {
        let id = &plugin.facts.id;
        let (kind, body) = match change {
            Change::Quarantined(time) => {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let traps = plugin.facts.limits.traps;
                let last = last.map_or("", |error| &error.message);
                tracing::warn!(
                    plugin = &**id,
                    "it keeps trapping and is left alone for {time:?}: {last}"
                );
                (
                    "plugin.quarantined",
                    json!({ "plugin": **id, "version": plugin.manifest.version, "traps": traps, "forMs": ms, "last": last }),
                )
            }
            Change::Recovered => (
                "plugin.recovered",
                json!({ "plugin": **id, "version": plugin.manifest.version }),
            ),
        };
        let log = Arc::clone(&self.log);
        tokio::spawn(async move {
            if let Err(error) = log.append(Append::one(HUB, NewEvent::of(kind, body))).await {
                tracing::error!(error = %error.chain(), "a plugin's quarantine could not be logged");
            }
        });
    }
}

impl Executor for Watched {
    fn execute<'a>(
        &'a self,
        plugin: &'a Loaded,
        call: &'a Call,
        sink: &'a Sink,
        journal: Option<Arc<Journal>>,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let shadow = call.principal.rights.only_reads();
            let health = if shadow { &plugin.beside.health } else { &plugin.health };
            let mut visit = health.admit(Instant::now()).map_err(|left| {
                let id = &plugin.facts.id;
                let message = format!(
                    "plugin `{id}` trapped {} times in a row and is left alone for {} more; `waypost plugin logs {id}` shows \
                     what it said, `waypost plugin reload {id}` takes a mended one",
                    plugin.facts.limits.traps,
                    humantime::format_duration(shown(left)),
                );
                CallError::new(ErrorKind::Unavailable, message).blame(Blame::Plugin)
            })?;
            let began = Instant::now();
            let result = self.inner.execute(plugin, call, sink, journal).await;
            health.stats.count(began.elapsed(), result.as_ref().err());
            let trapped = matches!(&result, Err(error) if error.kind == ErrorKind::Trapped);
            if let Some(change) = visit.end(trapped, Instant::now()).filter(|_| !shadow) {
                self.say(plugin, &change, result.as_ref().err());
            }
            result
        })
    }
}

/// A time as people say it: whole seconds, or milliseconds below one.
fn shown(time: Duration) -> Duration {
    if time < Duration::from_secs(1) {
        Duration::from_millis(u64::from(time.subsec_millis()).max(1))
    } else {
        Duration::from_secs(time.as_secs())
    }
}

/// The health of one loaded plugin.
pub struct Health {
    state: Mutex<State>,
    /// What its calls came to.
    pub stats: Stats,
    traps: usize,
    first: Duration,
    longest: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Traps since the last call that did not trap.
    in_a_row: usize,
    /// Quarantines since it was last well.
    times: u32,
    /// Until when it is left alone; set until a call has shown that it is well.
    until: Option<Instant>,
    /// Whether a call tries it now.
    trying: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Quarantined(Duration),
    Recovered,
}

/// One call into it; dropped without an end it counts as nothing.
struct Visit<'a> {
    health: &'a Health,
    tries: bool,
}

impl Health {
    /// Of a plugin that was just loaded.
    pub fn new(limits: &PluginLimits) -> Self {
        Self {
            state: Mutex::default(),
            stats: Stats::default(),
            traps: limits.traps,
            first: limits.quarantine,
            longest: limits.longest_quarantine.max(limits.quarantine),
        }
    }

    /// How long it is still left alone; none when it is well, or may be tried.
    pub fn left_alone(&self) -> Option<Duration> {
        let until = self.lock().until?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Lets a call in, or says how long it is left alone.
    fn admit(&self, now: Instant) -> Result<Visit<'_>, Duration> {
        let mut state = self.lock();
        let tries = match state.until {
            None => false,
            Some(until) if now < until => return Err(until - now),
            Some(_) if state.trying => return Err(Duration::ZERO),
            Some(_) => {
                state.trying = true;
                true
            }
        };
        drop(state);
        Ok(Visit { health: self, tries })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit<'_> {
    fn end(&mut self, trapped: bool, now: Instant) -> Option<Change> {
        let health = self.health;
        let mut state = health.lock();
        let tried = std::mem::take(&mut self.tries);
        if tried {
            state.trying = false;
        } else if state.until.is_some() {
            // It began before the quarantine and says nothing about what comes after.
            return None;
        }
        if !trapped {
            state.in_a_row = 0;
            state.times = 0;
            return state.until.take().map(|_| Change::Recovered);
        }
        state.in_a_row += 1;
        if !tried && state.in_a_row < health.traps {
            return None;
        }
        let doubled = health.first.saturating_mul(1 << state.times.min(20));
        let time = doubled.min(health.longest);
        state.times += 1;
        state.in_a_row = 0;
        state.until = Some(now + time);
        Some(Change::Quarantined(time))
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.tries {
            self.health.lock().trying = false;
        }
    }
}

/// What the calls into a plugin came to since it was loaded.
#[derive(Default)]
pub struct Stats {
    answered: AtomicU64,
    failed: AtomicU64,
    trapped: AtomicU64,
    limited: AtomicU64,
    timed_out: AtomicU64,
    /// Calls by time: entry `n` counts those below 2^n microseconds, and not below half of that.
    times: [AtomicU64; 32],
}

/// What `waypost plugin stats` shows of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Its id.
    pub id: Arc<str>,
    /// Calls that ended.
    pub calls: u64,
    /// Of those, the ones it answered.
    pub answered: u64,
    /// The ones that it refused or that failed otherwise.
    pub failed: u64,
    /// The ones in which it trapped.
    pub trapped: u64,
    /// The ones that met a limit.
    pub limited: u64,
    /// The ones that took too long.
    pub timed_out: u64,
    /// Requests to its imports that were too many in a second: they waited, or were refused.
    pub over_rate: u64,
    /// Half of the calls took at most so many microseconds, to the next power of two.
    pub p50_us: u64,
    /// 99 of 100 took at most so many, likewise.
    pub p99_us: u64,
    /// For how many milliseconds it is left alone, because it kept trapping.
    pub quarantined_ms: Option<u64>,
}

impl Stats {
    fn count(&self, took: Duration, error: Option<&CallError>) {
        let counter = match error.map(|error| error.kind) {
            None => &self.answered,
            Some(ErrorKind::Trapped) => &self.trapped,
            Some(ErrorKind::Limit) => &self.limited,
            Some(ErrorKind::Timeout) => &self.timed_out,
            Some(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let entry = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(times) = self.times.get(entry).or(self.times.last()) {
            times.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts of a plugin as they are now.
    pub fn counted(plugin: &Loaded) -> Counted {
        let stats = &plugin.health.stats;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let times: Vec<u64> = stats.times.iter().map(read).collect();
        let [answered, failed, trapped, limited, timed_out] = [
            &stats.answered,
            &stats.failed,
            &stats.trapped,
            &stats.limited,
            &stats.timed_out,
        ]
        .map(read);
        Counted {
            id: Arc::clone(&plugin.facts.id),
            calls: answered + failed + trapped + limited + timed_out,
            answered,
            failed,
            trapped,
            limited,
            timed_out,
            over_rate: plugin.rates.over() + plugin.beside.rates.over(),
            p50_us: share(&times, 50),
            p99_us: share(&times, 99),
            quarantined_ms: plugin
                .health
                .left_alone()
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// The bound below which so many of a hundred are.
pub(crate) fn share(times: &[u64], percent: u64) -> u64 {
    let all: u64 = times.iter().sum();
    let wanted = (all * percent).div_ceil(100).max(1);
    let mut below = 0;
    for (entry, count) in times.iter().enumerate() {
        below += count;
        if below >= wanted {
            return 1 << entry;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> Health {
        Health::new(&PluginLimits {
            traps: 3,
            quarantine: SECOND,
            longest_quarantine: 4 * SECOND,
            ..PluginLimits::default()
        })
    }

    fn call(health: &Health, trapped: bool, now: Instant) -> Option<Change> {
        health.admit(now).ok().unwrap().end(trapped, now)
    }

    #[test]
    fn traps_in_a_row_are_counted_and_the_time_doubles() {
        let health = health();
        let mut now = Instant::now();
        for trapped in [true, true, false, true, true] {
            assert_eq!(call(&health, trapped, now), None);
        }
        let mut quarantined = call(&health, true, now);
        for seconds in [1, 2, 4, 4] {
            assert_eq!(quarantined, Some(Change::Quarantined(seconds * SECOND)));
            assert_eq!(health.admit(now).err(), Some(seconds * SECOND));
            now += seconds * SECOND;
            quarantined = call(&health, true, now);
        }
        now += 4 * SECOND;
        assert_eq!(call(&health, false, now), Some(Change::Recovered));
        for trapped in [true, true] {
            assert_eq!(call(&health, trapped, now), None);
        }
        assert_eq!(call(&health, true, now), Some(Change::Quarantined(SECOND)), "anew");
    }

    #[test]
    fn one_call_tries_and_one_that_is_dropped_leaves_it_to_the_next() {
        let health = health();
        let now = Instant::now();
        let mut early = health.admit(now).ok().unwrap();
        for _ in 0..3 {
            call(&health, true, now);
        }
        assert_eq!(early.end(false, now), None, "it began before");
        let later = now + SECOND;
        let trying = health.admit(later).ok().unwrap();
        assert_eq!(health.admit(later).err(), Some(Duration::ZERO));
        drop(trying);
        assert_eq!(call(&health, false, later), Some(Change::Recovered));
    }

    #[test]
    fn shares_are_the_next_power_of_two() {
        let stats = Stats::default();
        for micros in [0, 1, 3, 3, 900] {
            stats.count(Duration::from_micros(micros), None);
        }
        let times: Vec<u64> = stats.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(
            [0, 20, 50, 80, 99].map(|percent| share(&times, percent)),
            [1, 1, 4, 4, 1024]
        );
        assert_eq!(share(&[], 50), 0);
    }

    proptest! {
        /// However calls overlap: there is never more than one that tries, and it is left alone after enough traps only.
        #[test]
        fn it_is_left_alone_for_traps_in_a_row_alone(steps in proptest::collection::vec((0..4_u8, any::<bool>()), 0..60)) {
            let health = health();
            let mut now = Instant::now();
            let (mut open, mut traps) = (Vec::new(), 0);
            for (step, trapped) in steps {
                match step {
                    0 => now += SECOND / 2,
                    1 => drop(open.pop()),
                    2 => if let Ok(visit) = health.admit(now) { open.push(visit) },
                    _ => if !open.is_empty() {
                        let mut visit: Visit<'_> = open.remove(0);
                        let tried = visit.tries;
                        traps = if trapped { traps + 1 } else { 0 };
                        match visit.end(trapped, now) {
                            Some(Change::Quarantined(time)) => {
                                prop_assert!(trapped && (tried || traps >= 3));
                                prop_assert!(time >= SECOND && time <= 4 * SECOND);
                                traps = 0;
                            }
                            Some(Change::Recovered) => prop_assert!(tried && !trapped),
                            None => {}
                        }
                    },
                }
                prop_assert!(open.iter().filter(|visit| visit.tries).count() <= 1);
            }
        }
    }
}
