//! What came of the copies that each shadow got: counts, times, and the last differences.
//!
//! All of it is in memory, of a bounded size, and begins anew when another version of the shadow is loaded. Not here: how
//! answers are compared (`compare.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::compare::Place;
use crate::log::wall_clock;
use crate::plugin::Loaded;
use crate::plugin::health::share;
use crate::secrets::Secrets;

/// How many of the last differences are kept for each shadow.
const LAST: usize = 16;

/// The longest text that is kept of a path and of a value, in characters.
const TEXT: usize = 80;

/// At most one event tells of differences in this time, for each shadow.
const QUIET: Duration = Duration::from_secs(60);

/// What came of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// The same answer.
    Same,
    /// Another one.
    Different,
    /// An error, where the caller got an answer.
    Failed,
}

/// A difference between what a caller got and what a shadow said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The caller's call.
    pub id: String,
    /// Its kind and action.
    pub call: String,
    /// The rule that copied it.
    pub rule: Arc<str>,
    /// `different` or `failed`.
    pub came: Came,
    /// The places in which they differ, as far as there is room.
    pub places: Vec<Place>,
}

/// What `waypost plugin shadow` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The shadow's id.
    pub id: Arc<str>,
    /// Its version, when it got a copy.
    pub version: Option<String>,
    /// The rules that it is the shadow of.
    pub rules: Vec<String>,
    /// Copies that it got to the end.
    pub mirrored: u64,
    /// Those that it answered as the caller was.
    pub same: u64,
    /// Those that it answered otherwise.
    pub different: u64,
    /// Those for which it had an error, where the caller got an answer.
    pub failed: u64,
    /// Those that it did not get, because there was no room.
    pub dropped: u64,
    /// Copies that it has not ended yet.
    pub waiting: u64,
    /// The time that callers waited for these calls.
    pub caller: Took,
    /// The time that the shadow took.
    pub shadow: Took,
    /// The last differences, newest first.
    pub differences: Vec<Difference>,
}

/// How long something took, in microseconds to the next power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Took {
    /// Half of them took at most so long.
    pub p50_us: u64,
    /// 99 of 100 took at most so long.
    pub p99_us: u64,
}

/// Times by their length: entry `n` counts those below 2^n microseconds, and not below half of that.
#[derive(Debug, Default)]
struct Times([u64; 32]);

impl Times {
    fn count(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let entry = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(times) = self.0.get_mut(entry.min(31)) {
            *times += 1;
        }
    }

    fn shown(&self) -> Took {
        Took {
            p50_us: share(&self.0, 50),
            p99_us: share(&self.0, 99),
        }
    }
}

/// What there is to say of one shadow.
#[derive(Debug, Default)]
struct Of {
    /// The component and the version that all of it is about.
    digest: String,
    version: Option<String>,
    same: u64,
    different: u64,
    failed: u64,
    dropped: u64,
    waiting: u64,
    caller: Times,
    shadow: Times,
    last: VecDeque<Difference>,
    /// When an event was written last, and the differences since then.
    told: Option<Instant>,
    untold: u64,
}

impl Of {
    /// Begins anew when it is another component than before. What waits goes to the new one.
    fn is_about(&mut self, digest: &str, version: &str) {
        if self.digest != digest {
            *self = Self {
                digest: digest.to_owned(),
                version: Some(version.to_owned()),
                waiting: self.waiting,
                dropped: if self.digest.is_empty() { self.dropped } else { 0 },
                ..Self::default()
            };
        }
    }
}

/// What came of the copies, by shadow.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<BTreeMap<Arc<str>, Of>>);

impl Kept {
    /// One more copy waits, until it is noted or [`Self::gone`].
    pub(super) fn waits(&self, shadow: &Arc<str>) {
        self.lock().entry(Arc::clone(shadow)).or_default().waiting += 1;
    }

    /// One that waited will not be compared.
    pub(super) fn gone(&self, shadow: &str) {
        if let Some(of) = self.lock().get_mut(shadow) {
            of.waiting = of.waiting.saturating_sub(1);
        }
    }

    /// One was dropped, because there was no room for it.
    pub(super) fn dropped(&self, shadow: &Arc<str>) {
        self.lock().entry(Arc::clone(shadow)).or_default().dropped += 1;
    }

    /// Counts one copy that was compared.
    pub(super) fn count(
        &self,
        shadow: &Arc<str>,
        loaded: Option<&Loaded>,
        came: Came,
        caller: Duration,
        took: Duration,
    ) {
        let mut all = self.lock();
        let of = all.entry(Arc::clone(shadow)).or_default();
        if let Some(loaded) = loaded {
            of.is_about(&loaded.digest, &loaded.manifest.version);
        }
        match came {
            Came::Same => of.same += 1,
            Came::Different => of.different += 1,
            Came::Failed => of.failed += 1,
        }
        of.caller.count(caller);
        of.shadow.count(took);
    }

    /// Keeps a difference. Answers how many there were since the last event, when it is time for another one.
    pub(super) fn keep(&self, shadow: &str, difference: Difference, now: Instant) -> Option<u64> {
        let mut all = self.lock();
        let of = all.get_mut(shadow)?;
        of.last.truncate(LAST - 1);
        of.last.push_front(difference);
        of.untold += 1;
        if of.told.is_some_and(|told| now.duration_since(told) < QUIET) {
            return None;
        }
        of.told = Some(now);
        Some(std::mem::take(&mut of.untold))
    }

    /// All that there is to say of a shadow, which is the shadow of these rules.
    pub(super) fn shown(&self, shadow: &str, rules: Vec<String>) -> Shown {
        let nothing = Of::default();
        let all = self.lock();
        let of = all.get(shadow).unwrap_or(&nothing);
        Shown {
            id: shadow.into(),
            version: of.version.clone(),
            rules,
            mirrored: of.same + of.different + of.failed,
            same: of.same,
            different: of.different,
            failed: of.failed,
            dropped: of.dropped,
            waiting: of.waiting,
            caller: of.caller.shown(),
            shadow: of.shadow.shown(),
            differences: of.last.iter().cloned().collect(),
        }
    }

    /// Whether there is anything to say of it.
    pub(super) fn knows(&self, shadow: &str) -> bool {
        self.lock().contains_key(shadow)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Difference {
    /// A difference that was found now; its values are cut, and hold no secret.
    pub(super) async fn found(
        id: String,
        call: String,
        rule: Arc<str>,
        came: Came,
        found: Vec<Place>,
        secrets: &Secrets,
    ) -> Self {
        let mut places = Vec::with_capacity(found.len());
        for Place { path, caller, shadow } in found {
            places.push(Place {
                path: cut(path, secrets).await,
                caller: match caller {
                    Some(text) => Some(cut(text, secrets).await),
                    None => None,
                },
                shadow: match shadow {
                    Some(text) => Some(cut(text, secrets).await),
                    None => None,
                },
            });
        }
        Self {
            at: wall_clock(),
            id,
            call,
            rule,
            came,
            places,
        }
    }
}

/// At most so many characters of a text. The secrets go first: half of one would not be found.
async fn cut(text: String, secrets: &Secrets) -> String {
    let text = secrets.taken_out_of(text).await;
    match text.char_indices().nth(TEXT) {
        None => text,
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    fn difference(id: u64) -> Difference {
        Difference {
            at: id,
            id: id.to_string(),
            call: "x".to_owned(),
            rule: "r".into(),
            came: Came::Different,
            places: Vec::new(),
        }
    }

    #[test]
    fn the_last_differences_are_kept_and_few_events_tell_of_them() {
        let (kept, shadow, now) = (Kept::default(), Arc::from("s"), Instant::now());
        assert_eq!(kept.keep("s", difference(0), now), None, "nothing is known of it");
        let told: Vec<Option<u64>> = (0..20)
            .map(|id| {
                kept.count(&shadow, None, Came::Different, Duration::ZERO, Duration::ZERO);
                kept.keep("s", difference(id), now + Duration::from_secs(4 * id))
            })
            .collect();
        let mut expected = [None; 20];
        (expected[0], expected[15]) = (Some(1), Some(15));
        assert_eq!(told, expected);
        let shown = kept.shown("s", vec!["r".to_owned()]);
        let ids: Vec<u64> = shown.differences.iter().map(|difference| difference.at).collect();
        assert_eq!(ids, (4..20).rev().collect::<Vec<_>>());
        assert_eq!((shown.mirrored, shown.different), (20, 20));
    }

    #[test]
    fn another_version_begins_anew() {
        let mut of = Of {
            waiting: 2,
            dropped: 1,
            ..Of::default()
        };
        of.is_about("a", "1");
        assert_eq!((of.waiting, of.dropped), (2, 1), "the first one is no other");
        of.same = 5;
        of.is_about("a", "1");
        assert_eq!(of.same, 5);
        of.is_about("b", "2");
        assert_eq!(
            (of.same, of.waiting, of.dropped, of.version.as_deref()),
            (0, 2, 0, Some("2"))
        );
    }

    #[test]
    fn what_waits_is_counted_until_it_is_gone() {
        let (kept, shadow) = (Kept::default(), Arc::from("s"));
        assert!(!kept.knows("s"));
        kept.waits(&shadow);
        kept.waits(&shadow);
        kept.gone("s");
        kept.dropped(&shadow);
        let shown = kept.shown("s", Vec::new());
        assert_eq!((shown.waiting, shown.dropped, shown.mirrored), (1, 1, 0));
        assert!(kept.knows("s"));
    }

    #[tokio::test]
    async fn values_are_cut_and_hold_no_secret() {
        let entry = config::Secret {
            name: "key".to_owned(),
            env: Some("KEY".to_owned()),
            file: None,
            servers: Vec::new(),
        };
        let secrets = Secrets::new(&[entry], Path::new(""), &|_| Some("sk-canary".to_owned()));
        // The end of what is kept lies within the secret.
        let text = format!("{}sk-canary", "x".repeat(TEXT - 4));
        let place = Place {
            path: "reply/sk-canary".to_owned(),
            caller: Some(text),
            shadow: None,
        };
        let (id, call) = ("1".to_owned(), "x".to_owned());
        let found = Difference::found(id, call, "r".into(), Came::Different, vec![place], &secrets).await;
        let cut = format!("{}[red…", "x".repeat(TEXT - 4));
        assert_eq!(found.places[0].path, "reply/[redacted]");
        assert_eq!(found.places[0].caller.as_deref(), Some(&*cut));
        assert!(!serde_json::to_string(&found).unwrap().contains("sk-ca"));
    }
}
