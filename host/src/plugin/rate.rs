//! How often plugins ask: so many requests in a second to each import of a plugin, and so many from all plugins together.
//!
//! The rule is the generic cell rate algorithm: one number says when everything that came would have come at an even pace,
//! and a request is too many when that lies too far ahead. A second's worth may come at once. Counted is in the hub, where
//! requests of both walls arrive. Not here: what bounds one call (`engine/meter.rs`).

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::call::CallError;
use crate::error::{Blame, ErrorKind};
use crate::imports::{Import, Request, Services, files, gateway, http, process, socket};
use crate::log::{Append, HUB, NewEvent};

/// The highest rate; nobody asks more often.
const HIGHEST: u64 = 1_000_000;

/// What one request weighs. A microsecond makes room for as much as there may be requests in a second, so nothing is rounded.
const WEIGHT: u64 = 1_000_000;

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
        let burst = self.per_second.saturating_mul(WEIGHT);
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How often one plugin asks each of its imports.
#[derive(Debug)]
pub struct Rates {
    each: [Rate; Import::COUNT],
    all: Arc<Rate>,
    refused: AtomicU64,
    /// When it was last too many, in microseconds; none at first.
    last: AtomicU64,
}

/// No request was too many yet.
const NEVER: u64 = u64::MAX;

/// Why a request is too many.
struct Over {
    section: &'static str,
    per_second: u64,
    left: Duration,
}

impl Rates {
    /// Those of a plugin that was just loaded, among all plugins.
    pub fn new(per_second: usize, all: Arc<Rate>) -> Self {
        Self {
            each: array::from_fn(|_| Rate::new(per_second)),
            all,
            refused: AtomicU64::new(0),
            last: AtomicU64::new(NEVER),
        }
    }

    /// Requests that were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lets a request in, or refuses it.
    pub(crate) async fn admit(&self, plugin: &str, request: &Request, hub: &Services) -> Result<(), CallError> {
        let manner = Manner::of(request);
        if manner == Manner::LetsGo {
            return Ok(());
        }
        let import = request.import();
        loop {
            let now = BEGAN.elapsed();
            let Err(over) = self.take(import, now) else {
                return Ok(());
            };
            if self.begins(now) {
                say(plugin, import, &over, hub);
            }
            if manner == Manner::Begins {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(refusal(plugin, import, &over));
            }
            tokio::time::sleep(over.left).await;
        }
    }

    fn take(&self, import: Import, now: Duration) -> Result<(), Over> {
        let over = |section, rate: &Rate| {
            let per_second = rate.per_second;
            move |left| Over {
                section,
                per_second,
                left,
            }
        };
        if let Some(rate) = self.each.get(import as usize) {
            rate.take(now).map_err(over("[limits.plugin]", rate))?;
        }
        self.all.take(now).map_err(over("[limits]", &self.all))
    }

    /// Whether a flood begins with a request that is too many now.
    fn begins(&self, now: Duration) -> bool {
        let now = micros(now);
        let before = self.last.swap(now, Ordering::Relaxed);
        before == NEVER || now.saturating_sub(before) >= micros(QUIET)
    }
}

/// What becomes of a request that is too many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It begins something, and is refused.
    Begins,
    /// It goes on with something that was begun, which a refusal would break off: it waits.
    GoesOn,
    /// It lets go of something, and is always welcome.
    LetsGo,
}

impl Manner {
    fn of(request: &Request) -> Self {
        match request {
            Request::Gateway(gateway::Request::Drop(_))
            | Request::Http(http::Request::Close(_))
            | Request::Files(files::Request::Close(_))
            | Request::Process(process::Request::Close(_))
            | Request::Socket(socket::Request::Close(_)) => Self::LetsGo,
            Request::Gateway(gateway::Request::Next(_) | gateway::Request::Finish(_) | gateway::Request::Emit(_))
            | Request::Http(http::Request::Next(_))
            | Request::Files(files::Request::Next(_))
            | Request::Process(process::Request::Next(_) | process::Request::Finish(_))
            | Request::Socket(socket::Request::Send(..) | socket::Request::Finish(_) | socket::Request::Next(_)) => {
                Self::GoesOn
            }
            _ => Self::Begins,
        }
    }
}

fn refusal(plugin: &str, import: Import, over: &Over) -> CallError {
    let (import, section, rate) = (import.as_str(), over.section, over.per_second);
    let who = if section == "[limits]" {
        "all plugins together ask their imports".to_owned()
    } else {
        format!("plugin `{plugin}` asks `{import}`")
    };
    let message = format!(
        "{who} more than {rate} times a second, the limit `import-rate` of {section}: this request to `{import}` was not \
         answered; ask less often, or raise it"
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
    fn a_second_s_worth_comes_at_once_and_then_one_at_a_time() {
        let rate = Rate::new(4);
        for _ in 0..4 {
            assert_eq!(rate.take(SECOND), Ok(()));
        }
        assert_eq!(rate.take(SECOND), Err(SECOND / 4), "says how long");
        assert_eq!(rate.take(SECOND + SECOND / 4), Ok(()));
        assert_eq!(rate.take(SECOND + SECOND / 4), Err(SECOND / 4));
        assert_eq!(Rate::new(usize::MAX).per_second, HIGHEST);
    }

    #[test]
    fn years_later_it_is_as_exact() {
        let (rate, later) = (Rate::new(20_000), 20 * 365 * 24 * 3600 * SECOND);
        let taken = (0..50_000).filter(|_| rate.take(later).is_ok()).count();
        assert_eq!(taken, 20_000);
        let taken = (1..=50_000)
            .filter(|step| rate.take(later + *step * SECOND / 50_000).is_ok())
            .count();
        assert_eq!(taken, 20_000);
    }

    #[test]
    fn one_import_does_not_use_up_another_and_all_share_one_rate() {
        let all = Arc::new(Rate::new(3));
        let (one, other) = (Rates::new(2, Arc::clone(&all)), Rates::new(2, all));
        let section = |taken: Result<(), Over>| taken.err().map(|over| over.section);
        assert_eq!(section(one.take(Import::State, SECOND)), None);
        assert_eq!(section(one.take(Import::State, SECOND)), None);
        assert_eq!(section(one.take(Import::State, SECOND)), Some("[limits.plugin]"));
        assert_eq!(section(one.take(Import::Gateway, SECOND)), None);
        assert_eq!(section(other.take(Import::Http, SECOND)), Some("[limits]"));
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
        /// In no window there are more than its time allows and a second's worth; and whoever keeps to the pace, or waits as
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
                    prop_assert!(count <= (to - from + WEIGHT) * per_second as u64);
                }
            }
        }

        /// Nothing is lost over time: who always asks gets exactly what the rate gives.
        #[test]
        fn nothing_drifts(per_second in 1_u64..3000, pace in 1_u64..400) {
            let rate = Rate::new(per_second as usize);
            let mut taken = 0;
            for step in 0..5000 {
                while rate.take(Duration::from_micros(step * pace)).is_ok() {
                    taken += 1;
                }
            }
            prop_assert_eq!(taken, per_second + 4999 * pace * per_second / WEIGHT);
        }

        /// Whoever waits as long as was said is let in.
        #[test]
        fn what_is_said_is_enough(per_second in 1_usize..100_000, at in 0_u64..1_000_000_000) {
            let rate = Rate::new(per_second);
            let mut now = Duration::from_micros(at);
            for _ in 0..per_second {
                prop_assert!(rate.take(now).is_ok());
            }
            for _ in 0..5 {
                now += rate.take(now).unwrap_err();
                prop_assert!(rate.take(now).is_ok());
            }
        }
    }
}
