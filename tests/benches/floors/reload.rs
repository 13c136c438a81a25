//! A plugin is replaced while it is called: how many calls fail, which must be none, and how long they take meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::Outcome;
use crate::caller::{Caller, with_reader};
use crate::harness::Project;
use crate::pairs::{Medians, p99};
use crate::report::{Figure, Target};

/// How often it is replaced.
const RELOADS: usize = 21;

/// Who calls it all the time.
const CALLERS: usize = 8;

/// How many calls are made, at least, in each turn: one without a reload, one with it.
const TURN: usize = 400;

pub(crate) async fn figures() -> Outcome<Vec<Figure>> {
    let open = with_reader(Project::new(), "one", "worker").open().await;
    let caller = Caller::new(&open, "one")?;
    caller.call().await?;
    let (mut quiet, mut reloading) = (Made::default(), Made::default());
    for _ in 0..RELOADS {
        quiet.add(Load::on(&caller).end().await?);
        let load = Load::on(&caller);
        open.hub.reload_plugin("one").await?;
        reloading.add(load.end().await?);
    }
    drop(open.close().await);
    let calls = reloading.times.len();
    let name = format!("failed calls of {calls} while their plugin is reloaded {RELOADS} times");
    let medians = Medians {
        raw: p99(quiet.times),
        ours: p99(reloading.times),
    };
    Ok(vec![
        Figure::count(name, quiet.failed + reloading.failed).at_most(Target::Never),
        Figure::time("p99 of those calls", "when nothing is reloaded", medians),
    ])
}

/// What came of calls.
#[derive(Default)]
struct Made {
    /// Nanoseconds.
    times: Vec<f64>,
    failed: usize,
}

impl Made {
    fn add(&mut self, more: Self) {
        self.times.extend(more.times);
        self.failed += more.failed;
    }
}

/// Calls one after the other from each caller, until it is told to end and there are enough.
struct Load {
    callers: JoinSet<Outcome<Made>>,
    over: Arc<AtomicBool>,
    left: Arc<AtomicUsize>,
}

impl Load {
    fn on(caller: &Arc<Caller>) -> Self {
        let mut load = Self {
            callers: JoinSet::new(),
            over: Arc::default(),
            left: Arc::new(AtomicUsize::new(TURN)),
        };
        for _ in 0..CALLERS {
            let (caller, over, left) = (Arc::clone(caller), Arc::clone(&load.over), Arc::clone(&load.left));
            load.callers.spawn(async move {
                let mut made = Made::default();
                loop {
                    let began = Instant::now();
                    made.failed += usize::from(caller.reply(None).await?.is_err());
                    made.times.push(began.elapsed().as_secs_f64() * 1e9);
                    let one_less = |left: usize| left.checked_sub(1);
                    let over = over.load(Ordering::Relaxed);
                    if over
                        && left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                            .is_err()
                    {
                        return Ok(made);
                    }
                }
            });
        }
        load
    }

    /// Makes as many calls as a turn has, from now on.
    async fn end(self) -> Outcome<Made> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Made::default();
        for made in self.callers.join_all().await {
            all.add(made?);
        }
        Ok(all)
    }
}
