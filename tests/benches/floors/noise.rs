//! What a healthy plugin feels of a bad neighbour: the slowest of a hundred of its calls at half the rate that it can do,
//! while another plugin does its worst, beside the same while nobody does. Both are installed, as a stranger's plugin is.
//!
//! Calls come each millisecond, as many as are due, whether those before have ended or not: a clock for each call alone would
//! take as much of the machine as the calls do.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waypost::error::ErrorKind;

use crate::Outcome;
use crate::caller::{Caller, with_reader};
use crate::harness::{Plugin, Project};
use crate::pairs::{Medians, median, nanoseconds, p99};
use crate::report::{Figure, Target};

/// How often both are measured, in turns.
const PAIRS: usize = 9;

/// How long a pace is kept, in milliseconds.
const KEPT: u32 = 250;

/// Calls that the neighbour has all the time: more than there are cores.
const AT_ONCE: usize = 4;

/// One way to be a bad neighbour.
struct Noise {
    does: &'static str,
    guest: &'static str,
    grants: &'static str,
    message: String,
    /// How its calls end, unless they are cancelled.
    ends: Ends,
}

/// Whether a call of a neighbour that does its worst may end like this.
type Ends = fn(Option<ErrorKind>) -> bool;

fn noises() -> [Noise; 5] {
    let noise = |does, guest, message: &str, ends: Ends| Noise {
        does,
        guest,
        grants: "",
        message: message.to_owned(),
        ends,
    };
    let gets = vec![r#"{"get":"a"}"#; 1_000].join(",");
    [
        noise("spins", "spinner", "null", |how| how == Some(ErrorKind::Timeout)),
        noise("grows by 48 MiB in each call", "hungry", "50331648", |how| {
            how.is_none()
        }),
        noise("traps", "faulty", "\"unreachable\"", |how| {
            how == Some(ErrorKind::Trapped)
        }),
        Noise {
            grants: "state = true",
            ..noise("floods its imports", "keeper", &format!("[{gets}]"), |how| {
                how.is_none()
            })
        },
        noise("floods its log", "talker", r#"{"flood":50000000}"#, |how| {
            how == Some(ErrorKind::Timeout)
        }),
    ]
}

pub(crate) async fn figures() -> Outcome<Vec<Figure>> {
    // One that traps is not left alone, and a backlog is a slow call and not a refused one.
    let limits = "[limits]\ncall-queue = 1000000\n[limits.plugin]\nqueue = 1000000\ntraps = 1000000";
    let mut project = with_reader(Project::new().toml(limits), "healthy", "worker");
    for noise in noises() {
        project = project.plugin(&Plugin::of(noise.guest).grants(noise.grants).wall("worker"));
    }
    let open = project.open().await;
    let healthy = Caller::new(&open, "healthy")?;
    let mut figures = Vec::new();
    for noise in noises() {
        let neighbour = Caller::saying(&open, noise.guest, &noise.message)?;
        let does = noise.does;
        let rate = tokio::spawn(saturating(Arc::clone(&healthy))).await?? / 2.0;
        let medians = tokio::spawn(beside(Arc::clone(&healthy), neighbour, noise, rate)).await??;
        let name = format!("p99 of a plugin, {rate:.0} calls a second, while another {does}");
        figures.push(Figure::time(name, "while no other does", medians).at_most(Target::TwiceOrMicrosAbove(5_000.0)));
    }
    drop(open.close().await);
    Ok(figures)
}

/// Calls a second when there are always enough of them.
async fn saturating(caller: Arc<Caller>) -> Outcome<f64> {
    let mut turns = Vec::new();
    for _ in 0..PAIRS {
        turns.push(nanoseconds(&mut || caller.turn(), 2).await?);
    }
    Ok(1e9 / Caller::each(median(turns)))
}

async fn beside(healthy: Arc<Caller>, neighbour: Arc<Caller>, noise: Noise, rate: f64) -> Outcome<Medians> {
    // Both have worker processes, and are at it, before it counts.
    let noisy = Neighbour::begin(&neighbour, noise.ends);
    paced(&healthy, rate).await?;
    noisy.end().await?;
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        raw.push(paced(&healthy, rate).await?);
        let noisy = Neighbour::begin(&neighbour, noise.ends);
        ours.push(paced(&healthy, rate).await?);
        noisy.end().await?;
    }
    Ok(Medians {
        raw: median(raw),
        ours: median(ours),
    })
}

/// The slowest of a hundred calls at this pace, in nanoseconds, each from the moment in which it was due.
async fn paced(caller: &Arc<Caller>, rate: f64) -> Outcome<f64> {
    let mut ticks = ticks(rate);
    let mut calls = JoinSet::new();
    while let Some((due, count)) = ticks.recv().await {
        for _ in 0..count {
            let caller = Arc::clone(caller);
            calls.spawn(async move {
                caller.call().await?;
                Outcome::Ok(due.elapsed().as_secs_f64() * 1e9)
            });
        }
    }
    let times: Vec<f64> = calls.join_all().await.into_iter().collect::<Outcome<_>>()?;
    Ok(p99(times))
}

/// Each millisecond, with how many calls are due in it. They come from a thread, so that a busy runtime cannot hold them up.
#[expect(clippy::disallowed_methods, reason = "it is the clock")]
fn ticks(rate: f64) -> mpsc::Receiver<(Instant, usize)> {
    let (give, given) = mpsc::channel(KEPT as usize);
    thread::spawn(move || {
        let began = Instant::now();
        let mut come = 0;
        for tick in 1..=KEPT {
            let due = began + Duration::from_millis(1) * tick;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let all = (rate * f64::from(tick) / 1e3) as usize;
            if give
                .blocking_send((due, all - std::mem::replace(&mut come, all)))
                .is_err()
            {
                return;
            }
        }
    });
    given
}

/// A neighbour that has calls all the time.
struct Neighbour {
    over: CancellationToken,
    calls: JoinSet<Outcome<()>>,
}

impl Neighbour {
    fn begin(caller: &Arc<Caller>, ends: Ends) -> Self {
        let over = CancellationToken::new();
        let mut calls = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (caller, over) = (Arc::clone(caller), over.clone());
            calls.spawn(async move {
                while !over.is_cancelled() {
                    let ended = caller.reply(Some(over.child_token())).await?;
                    let how = ended.err().map(|error| error.kind);
                    if !ends(how) && !over.is_cancelled() {
                        return Err(format!("the neighbour does not do its worst: {how:?}").into());
                    }
                }
                Ok(())
            });
        }
        Self { over, calls }
    }

    async fn end(self) -> Outcome<()> {
        self.over.cancel();
        self.calls.join_all().await.into_iter().collect()
    }
}
