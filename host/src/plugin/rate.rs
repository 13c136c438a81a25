//! How often plugins ask: so many requests in a second to each import of a plugin, and so many from all plugins together.
//!
//! The rule is the generic cell rate algorithm: one number says when everything that came would have come at an even pace,
//! and a request is too many when that lies too far ahead. The worth of a moment may come at once; what is more waits, so that
//! who floods is slowed down, and has nothing to try again at once. Counted is in the hub, where requests of both walls arrive. Not here: what bounds one call (`engine/meter.rs`).

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::call::{CallError, Deadline};
use crate::error::{Blame, ErrorKind};
use crate::imports::{Import, Request, Services, files, gateway, http, process, socket};
use crate::log::{Append, HUB, NewEvent};

/// The highest rate; nobody asks more often.
const HIGHEST: u64 = 1_000_000;

/// What one request weighs. A microsecond makes room for as much as there may be requests in a second, so nothing is rounded.
const WEIGHT: u64 = 1_000_000;

/// What may come at once is what may come in such a part of a second, or one: what comes at once delays the others.
const MOMENT: u64 = 20;

/// A flood is over when nothing was refused for so long; the next one is said again.
const QUIET: Duration = Duration::from_secs(60);

/// When time began for the rates.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// So many requests in a second.
#[derive(Debug)]
pub struct Rate {
    per_second: u64,
    /// Up to when all that came would have come evenly, in weights.
    even: AtomicU64,
}

impl Rate {
    /// A rate of which nothing is used.
    pub fn new(per_second: usize) -> Self {
        Self {
            per_second: u64::try_from(per_second).unwrap_or(HIGHEST).clamp(1, HIGHEST),
            even: AtomicU64::new(0),
        }
    }

    /// Takes one request at this time, or says how long until there is room for one.
    pub fn take(&self, at: Duration) -> Result<(), Duration> {
        // Enough for half a year at the highest rate, and for 29 years at the usual one.
        let now = micros(at).saturating_mul(self.per_second);
        let burst = at_once(self.per_second) * WEIGHT;
        let with_one = |even: u64| even.max(now).saturating_add(WEIGHT);
        let taken = self.even.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |even| {
            Some(with_one(even)).filter(|even| even - now <= burst)
        });
        taken.map(drop).map_err(|even| {
            let over = (with_one(even) - now).saturating_sub(burst);
            Duration::from_micros(over.div_ceil(self.per_second))
        })
    }
}

/// How many may come at once.
fn at_once(per_second: u64) -> u64 {
    (per_second / MOMENT).max(1)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How often one plugin asks each of its imports.
#[derive(Debug)]
pub struct Rates {
    each: [Rate; Import::COUNT],
    all: Arc<Rate>,
    over: AtomicU64,
    /// When it was last too many, in microseconds; none at first.
    last: AtomicU64,
}

/// No request was too many yet.
const NEVER: u64 = u64::MAX;

/// Why a request is too many.
struct Over {
    section: &'static str,
    per_second: u64,
}

impl Rates {
    /// Those of a plugin that was just loaded, among all plugins.
    pub fn new(per_second: usize, all: Arc<Rate>) -> Self {
        Self {
            each: array::from_fn(|_| Rate::new(per_second)),
            all,
            over: AtomicU64::new(0),
            last: AtomicU64::new(NEVER),
        }
    }

    /// Requests that were too many when they came.
    pub fn over(&self) -> u64 {
        self.over.load(Ordering::Relaxed)
    }

    /// Lets a request in when there is room for it; one that would wait past the end of its call is refused.
    pub(crate) async fn admit(
        &self,
        plugin: &str,
        request: &Request,
        deadline: Deadline,
        hub: &Services,
    ) -> Result<(), CallError> {
        if lets_go(request) {
            return Ok(());
        }
        let import = request.import();
        let mut waited = false;
        for (section, rate) in self.of(import) {
            loop {
                let now = BEGAN.elapsed();
                let Err(left) = rate.take(now) else { break };
                let over = Over {
                    section,
                    per_second: rate.per_second,
                };
                if self.begins(now) {
                    say(plugin, import, &over, hub);
                }
                if !std::mem::replace(&mut waited, true) {
                    self.over.fetch_add(1, Ordering::Relaxed);
                }
                if left >= deadline.left() {
                    return Err(refusal(plugin, import, &over));
                }
                // Its call has a deadline, and whoever gives the call up gives this up.
                tokio::time::sleep(left).await;
            }
        }
        Ok(())
    }

    /// What a request to this import has to keep to, the plugin's own first: who waits for that takes nothing of the others'.
    fn of(&self, import: Import) -> impl Iterator<Item = (&'static str, &Rate)> {
        let own = self.each.get(import as usize);
        let own = own.map(|rate| ("[limits.plugin]", rate));
        own.into_iter().chain([("[limits]", &*self.all)])
    }

    /// Whether a flood begins with a request that is too many now.
    fn begins(&self, now: Duration) -> bool {
        let now = micros(now);
        let before = self.last.swap(now, Ordering::Relaxed);
        before == NEVER || now.saturating_sub(before) >= micros(QUIET)
    }
}

/// Whether a request lets go of something: that is always welcome.
fn lets_go(request: &Request) -> bool {
    matches!(
        request,
        Request::Gateway(gateway::Request::Drop(_))
            | Request::Http(http::Request::Close(_))
            | Request::Files(files::Request::Close(_))
            | Request::Process(process::Request::Close(_))
            | Request::Socket(socket::Request::Close(_))
    )
}

fn refusal(plugin: &str, import: Import, over: &Over) -> CallError {
    let (import, section, rate) = (import.as_str(), over.section, over.per_second);
    let who = if section == "[limits]" {
        "all plugins together ask their imports".to_owned()
    } else {
        format!("plugin `{plugin}` asks `{import}`")
    };
    let message = format!(
        "{who} more than {rate} times a second, the limit `import-rate` of {section}: this request to `{import}` would have \
         waited past the end of its call; ask less often, or raise it"
    );
    CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin)
}

/// Nobody waits for it: a flood is not made longer by what is said about it.
fn say(plugin: &str, import: Import, over: &Over, hub: &Services) {
    let (import, section, rate) = (import.as_str(), over.section, over.per_second);
    tracing::warn!(
        plugin,
        import,
        "it asks more than {rate} times a second, the limit `import-rate` of {section}"
    );
    let body =
        json!({ "plugin": plugin, "import": import, "perSecond": rate, "limit": format!("import-rate of {section}") });
    let log = Arc::clone(&hub.events);
    tokio::spawn(async move {
        if let Err(error) = log
            .append(Append::one(HUB, NewEvent::of("plugin.flooding", body)))
            .await
        {
            tracing::error!(error = %error.chain(), "a plugin's flood could not be logged");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_moment_s_worth_comes_at_once_and_then_one_at_a_time() {
        let (rate, pace) = (Rate::new(80), SECOND / 80);
        for _ in 0..4 {
            assert_eq!(rate.take(SECOND), Ok(()));
        }
        assert_eq!(rate.take(SECOND), Err(pace), "says how long");
        assert_eq!(rate.take(SECOND + pace), Ok(()));
        assert_eq!(rate.take(SECOND + pace), Err(pace));
        assert_eq!(Rate::new(usize::MAX).per_second, HIGHEST);
    }

    #[test]
    fn years_later_it_is_as_exact() {
        let (rate, later) = (Rate::new(20_000), 20 * 365 * 24 * 3600 * SECOND);
        let taken = (0..50_000).filter(|_| rate.take(later).is_ok()).count();
        assert_eq!(taken, 1_000);
        let taken = (1..=50_000)
            .filter(|step| rate.take(later + *step * SECOND / 50_000).is_ok())
            .count();
        assert_eq!(taken, 20_000);
    }

    #[test]
    fn one_import_does_not_use_up_another_and_all_share_one_rate() {
        let all = Arc::new(Rate::new(60));
        let (one, other) = (Rates::new(40, Arc::clone(&all)), Rates::new(40, all));
        let full = |rates: &Rates, import| {
            let full = rates.of(import).find(|(_, rate)| rate.take(SECOND).is_err());
            full.map(|(section, _)| section)
        };
        assert_eq!(full(&one, Import::State), None);
        assert_eq!(full(&one, Import::State), None);
        assert_eq!(full(&one, Import::State), Some("[limits.plugin]"));
        assert_eq!(full(&one, Import::Gateway), None);
        assert_eq!(full(&other, Import::Http), Some("[limits]"));
    }

    #[test]
    fn a_flood_is_said_once_until_it_is_over() {
        let rates = Rates::new(1, Arc::new(Rate::new(1)));
        let begins: Vec<bool> = [0, 1, 60, 120, 121]
            .iter()
            .map(|second| rates.begins(*second * SECOND))
            .collect();
        assert_eq!(begins, [true, false, false, true, false]);
    }

    proptest! {
        /// In no window there are more than its time allows and what may come at once; and whoever keeps to the pace, or waits as
        /// long as was said, is never refused.
        #[test]
        fn no_window_has_more_than_its_time_allows(
            per_second in 1_usize..5000, steps in proptest::collection::vec((0_u64..3000, 1_usize..6), 1..150),
        ) {
            let rate = Rate::new(per_second);
            let (mut now, mut taken) = (0, Vec::new());
            for (step, tries) in steps {
                now += step;
                for _ in 0..tries {
                    match rate.take(Duration::from_micros(now)) {
                        Ok(()) => taken.push(now),
                        Err(left) => {
                            let less = left.saturating_sub(Duration::from_micros(1));
                            prop_assert!(rate.take(Duration::from_micros(now) + less).is_err());
                        }
                    }
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64 * WEIGHT;
                    let burst = at_once(per_second as u64) * WEIGHT;
                    prop_assert!(count <= (to - from) * per_second as u64 + burst);
                }
            }
        }

        /// Nothing is lost over time: who asks often enough gets exactly what the rate gives, where two may come at once.
        #[test]
        fn nothing_drifts(per_second in 2 * MOMENT..3000, pace in 1_u64..400) {
            let rate = Rate::new(per_second as usize);
            let mut taken = 0;
            for step in 0..5000 {
                while rate.take(Duration::from_micros(step * pace)).is_ok() {
                    taken += 1;
                }
            }
            prop_assert_eq!(taken, at_once(per_second) + 4999 * pace * per_second / WEIGHT);
        }

        /// Whoever waits as long as was said is let in.
        #[test]
        fn what_is_said_is_enough(per_second in 1_usize..100_000, at in 0_u64..1_000_000_000) {
            let rate = Rate::new(per_second);
            let mut now = Duration::from_micros(at);
            for _ in 0..at_once(per_second as u64) {
                prop_assert!(rate.take(now).is_ok());
            }
            for _ in 0..5 {
                now += rate.take(now).unwrap_err();
                prop_assert!(rate.take(now).is_ok());
            }
        }
    }
}
