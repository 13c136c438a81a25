//! What a healthy plugin feels of a hostile one: the slowest of a hundred of its calls, at half of the rate that saturates
//! the machine, while the other one does its worst; beside the same when it is quiet.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use waypost::call::{Dispatch, Json, Sink};
use waypost::config::Config;
use waypost::hub::Hub;

use crate::pairs::{Medians, median};
use crate::{Outcome, guests};

/// Healthy calls at the same time when the saturating rate is measured.
const IN_FLIGHT: usize = 64;

/// For how long a rate is kept.
const KEPT: Duration = Duration::from_secs(1);

/// Hostile calls at the same time.
const HOSTILE: usize = 4;

/// How often quiet and noise take turns.
const TURNS: usize = 5;

/// What the hostile plugin does, with the guest and its message.
const NOISES: [(&str, &str, fn() -> Value); 5] = [
    ("spins", "spinner", || json!(null)),
    ("grows", "hungry", || json!(60 << 20)),
    ("traps", "faulty", || json!("unreachable")),
    ("floods imports", "keeper", || {
        json!(vec![json!({ "set": ["a", 1] }); 1_000])
    }),
    ("floods its log", "talker", || json!({ "flood": 1_000_000 })),
];

/// For each noise what it is, and the medians of the slowest of a hundred, quiet and with the noise, in nanoseconds.
pub(crate) async fn neighbours() -> Outcome<Vec<(&'static str, Medians)>> {
    let house = House::start().await?;
    let rate = house.saturating().await? / 2.0;
    let mut found = Vec::new();
    for (name, guest, message) in NOISES {
        let (mut quiet, mut noisy) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            quiet.push(house.slowest(rate).await?);
            let mut noise = house.noise(guest, &message());
            noisy.push(house.slowest(rate).await?);
            noise.shutdown().await;
        }
        let medians = Medians {
            raw: median(quiet),
            ours: median(noisy),
        };
        found.push((name, medians));
    }
    Ok(found)
}

/// A hub with a healthy plugin and the hostile ones.
struct House {
    hub: Arc<Hub>,
    _folder: TempDir,
}

impl House {
    async fn start() -> Outcome<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut toml = "[limits]\nplugin-timeout = \"300ms\"\n".to_owned();
        install(folder.path(), &mut toml, "noop", "effect = \"read\"")?;
        for (_, guest, _) in NOISES {
            install(folder.path(), &mut toml, guest, "")?;
        }
        std::fs::write(folder.path().join("waypost.toml"), toml)?;
        let config = Config::read(&folder.path().join("waypost.toml"))?;
        let hub = Hub::open_with(folder.path(), config, &|_| None).await?;
        Ok(Self { hub, _folder: folder })
    }

    /// Healthy calls a second when there are always some that wait.
    async fn saturating(&self) -> Outcome<f64> {
        let mut calls = FuturesUnordered::new();
        let (began, mut answered) = (Instant::now(), 0_u32);
        while began.elapsed() < KEPT {
            while calls.len() < IN_FLIGHT {
                let hub = Arc::clone(&self.hub);
                calls.push(tokio::spawn(async move { healthy(&hub).await }));
            }
            if let Some(ended) = calls.next().await {
                ended??;
                answered += 1;
            }
        }
        Ok(f64::from(answered) / began.elapsed().as_secs_f64())
    }

    /// The slowest of a hundred healthy calls at this rate, in nanoseconds.
    async fn slowest(&self, rate: f64) -> Outcome<f64> {
        let mut dues = paces(rate);
        let mut calls = JoinSet::new();
        while let Some(due) = dues.recv().await {
            let hub = Arc::clone(&self.hub);
            calls.spawn(async move {
                healthy(&hub).await?;
                Outcome::Ok(due.elapsed().as_secs_f64() * 1e9)
            });
        }
        let mut times = Vec::with_capacity(calls.len());
        while let Some(ended) = calls.join_next().await {
            times.push(ended??);
        }
        times.sort_by(f64::total_cmp);
        Ok(times.get(times.len() * 99 / 100).copied().unwrap_or_default())
    }

    /// Hostile calls, a new one when one has ended, until this is shut down.
    fn noise(&self, guest: &'static str, message: &Value) -> JoinSet<()> {
        let mut noise = JoinSet::new();
        for _ in 0..HOSTILE {
            let (hub, message) = (Arc::clone(&self.hub), message.clone());
            noise.spawn(async move {
                // Who is answered at once does not ask faster than this: the noise is the plugin's, not its caller's.
                let mut pace = tokio::time::interval(Duration::from_millis(2));
                loop {
                    pace.tick().await;
                    drop(call(&hub, guest, &message).await);
                }
            });
        }
        noise
    }
}

/// A plugin of this guest, and a rule that leads to it.
fn install(project: &Path, toml: &mut String, guest: &str, rule: &str) -> Outcome<()> {
    let manifest = format!(
        "id = \"{guest}\"\nversion = \"1\"\nrole = \"handler\"\nserves = [\"{guest}\"]\ngrants = {{ state = true }}\n"
    );
    std::fs::write(project.join(format!("{guest}.toml")), manifest)?;
    std::fs::write(project.join(format!("{guest}.wasm")), guests::bytes(guest))?;
    write!(
        toml,
        "[[plugin]]\npath = \"{guest}.wasm\"\nwall = \"in-process\"\ngrant = {{ state = true }}\n[[route]]\nmatch = \
         \"{guest}\"\nto = \"plugin:{guest}\"\n{rule}\n"
    )?;
    Ok(())
}

async fn healthy(hub: &Hub) -> Outcome<()> {
    call(hub, "noop", &json!(null)).await
}

async fn call(hub: &Hub, name: &str, message: &Value) -> Outcome<()> {
    let call = hub.person_call("cli", name.parse()?, Json::of(message)?, None).await?;
    hub.dispatcher.dispatch(call, Sink::discard()).await.result?;
    Ok(())
}

/// The moments of a rate, each given when it has come: a late one counts as slow.
#[expect(clippy::disallowed_methods, reason = "it is the clock")]
fn paces(rate: f64) -> mpsc::Receiver<Instant> {
    let (give, given) = mpsc::channel(1 << 20);
    std::thread::spawn(move || {
        let began = Instant::now();
        let mut due = began;
        while due - began < KEPT {
            due += Duration::from_secs_f64(1.0 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if give.blocking_send(due).is_err() {
                return;
            }
        }
    });
    given
}
