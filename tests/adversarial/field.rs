//! A hub that serves, somebody hostile in it, and a healthy plugin that is asked all the time; and what must hold of all of
//! it, as it is seen from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::attacks::{Attack, GOES_ON};
use crate::harness::process::Serving;
use crate::harness::{Plugin, Project};
use crate::worker::hostile::children;

/// How much more memory the hub and its workers may have after an attack than after a first taste of it, in bytes: the
/// engine gives memory back in batches of four sandboxes.
pub const GROWTH: u64 = 4 * (64 << 20);

/// Healthy calls that say how it is: with fewer there is no hundredth part.
const ASKED: usize = 100;

/// The healthy calls' 99th percentile may be so many times what it is when all is quiet,
const TIMES: u32 = 20;

/// or this, if that is more. It is no figure of speed, but the line between a busy machine and a hub that waits for its
/// attacker: a plugin that blocks others blocks them until its own end or for ever, and two cores that many trials share
/// delay a call by some of their slices.
const NOTICED: Duration = Duration::from_millis(500);

/// A worker that the machine has no time for is not taken for one that does not stop its calls: none may die here.
const PATIENT: &str = "worker-stop = \"30s\"";

/// A hub that serves, with the plugin `hostile`, and a healthy one that is asked all the time.
pub struct Field {
    project: Project,
    hub: Arc<Serving>,
    load: Load,
    quiet: Duration,
}

impl Field {
    /// With this plugin as the hostile one and the healthy one, behind this wall and within these [limits]; the healthy one is
    /// asked for a while in peace.
    pub async fn enter(plugin: &Plugin, wall: &'static str, limits: &str) -> Self {
        let project = Project::new()
            .plugin(&plugin.clone().named("hostile").wall(wall))
            .plugin(&Plugin::of("echo").wall(wall))
            .toml(&format!("[limits]\n{PATIENT}\n{limits}"))
            .written();
        let hub = Arc::new(Serving::start(project.root(), &[]).await);
        let load = Load::on(&hub);
        load.asked(ASKED).await;
        let quiet = load.p99();
        Self {
            project,
            hub,
            load,
            quiet,
        }
    }

    /// The project folder.
    pub fn root(&self) -> &Path {
        self.project.root()
    }

    /// Asks the hub's API.
    pub async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.hub.ask("POST", path, body).await;
        let last = text.lines().last().unwrap_or("null");
        (
            status,
            serde_json::from_str(last).unwrap_or_else(|_| panic!("{status}: {text}")),
        )
    }

    /// At least so many hostile calls, and as many more as it takes until the healthy ones say how it is for them; each of
    /// them ends as it may. How often each end came.
    pub async fn attack(&self, attack: &Attack, calls: usize, at_once: usize) -> BTreeMap<String, usize> {
        self.attacked();
        let body = json!({ "call": "hostile", "message": attack.message });
        let call = || async {
            let (_, answer) = self.ask("/calls", &body).await;
            match answer.get("error") {
                None => "answered".to_owned(),
                Some(error) => told(error),
            }
        };
        let mut under_way = FuturesUnordered::new();
        let mut ends = BTreeMap::new();
        let (mut begun, mut enough) = (0, false);
        loop {
            let most = if begun < calls { at_once } else { GOES_ON };
            while under_way.len() < most && (begun < calls || !enough) {
                under_way.push(call());
                begun += 1;
            }
            let Some(end) = under_way.next().await else { break };
            *ends.entry(end).or_insert(0) += 1;
            enough = self.load.count() >= ASKED || self.load.has_failed();
        }
        let unexpected = ends
            .keys()
            .find(|end| !attack.ends.iter().any(|text| end.starts_with(text)));
        assert_eq!(unexpected, None, "{}", attack.name);
        self.unnoticed().await;
        ends
    }

    /// What comes from now on is an attack, as far as the healthy calls are concerned.
    pub fn attacked(&self) {
        self.load.forget();
    }

    /// The healthy plugin answered all the time since then, and about as fast as in peace.
    pub async fn unnoticed(&self) {
        self.load.asked(ASKED).await;
        let (busy, bound) = (self.load.p99(), (self.quiet * TIMES).max(NOTICED));
        assert!(
            busy <= bound,
            "the healthy calls took {busy:?}, in peace {:?}",
            self.quiet
        );
    }

    /// The memory of the hub and its workers that is in the machine, in bytes.
    pub fn memory(&self) -> u64 {
        let hub = self.hub.process.id();
        children(hub)
            .into_iter()
            .chain([hub])
            .map(|process| status(process, "VmRSS"))
            .sum()
    }

    /// The most that the hub itself has had of it.
    pub fn most_memory(&self) -> u64 {
        status(self.hub.process.id(), "VmHWM")
    }

    /// The processes that the hub has started.
    pub fn processes(&self) -> usize {
        children(self.hub.process.id()).len()
    }

    /// The end: nobody failed, the hub goes in order, and its log says of each hostile call once how it ended, as its caller
    /// was told; and of nothing else that went wrong.
    pub async fn leave(self, told: BTreeMap<String, usize>) {
        self.load.over().await;
        let hub = Arc::into_inner(self.hub).expect("nobody else has it");
        let ended = hub.stop().await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        let events = Events::of(self.project.root());
        assert_eq!(events.ends, told);
        assert_eq!(events.died, Vec::<String>::new());
    }
}

/// An error as `<kind>: <text>`; what is different each time is left out.
fn told(error: &Value) -> String {
    let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{error}"));
    format!("{}: {}", text("kind"), text("message"))
}

/// What the log says after it all.
struct Events {
    /// How hostile calls ended, and how often.
    ends: BTreeMap<String, usize>,
    /// Deaths of workers.
    died: Vec<String>,
}

impl Events {
    fn of(root: &Path) -> Self {
        let log = rusqlite::Connection::open(root.join(".waypost/log.db")).unwrap();
        let mut query = log
            .prepare("SELECT kind, call, body FROM event WHERE kind IN ('call.ended', 'worker.died')")
            .unwrap();
        let rows = query.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Option<Vec<u8>>>(1)?,
                row.get::<_, String>(2)?,
            ))
        });
        let (mut ends, mut died, mut calls) = (BTreeMap::new(), Vec::new(), Vec::new());
        for row in rows.unwrap() {
            let (kind, call, body) = row.unwrap();
            let event: Value = serde_json::from_str(&body).unwrap();
            if kind == "worker.died" {
                died.push(body);
            } else if event["name"] == "hostile" {
                calls.push(call);
                let end = event.get("error").map_or_else(|| "answered".to_owned(), told);
                *ends.entry(end).or_insert(0) += 1;
            }
        }
        let all = calls.len();
        calls.sort();
        calls.dedup();
        assert_eq!(calls.len(), all, "a call has one end");
        Self { ends, died }
    }
}

/// A line of a process's status, in bytes; nothing for one that has gone.
fn status(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map_or(0, |line| {
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    })
}

/// Healthy calls, one after the other.
struct Load {
    /// How long each took; closed when one of them failed.
    took: watch::Receiver<Vec<Duration>>,
    /// How many were before what counts.
    before: AtomicUsize,
    over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    fn on(hub: &Arc<Serving>) -> Self {
        let (told, took) = watch::channel(Vec::new());
        let over = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let (hub, over) = (Arc::clone(hub), Arc::clone(&over));
            async move {
                let body = json!({ "call": "echo", "message": { "text": "ab", "times": 2 } });
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let (status, text) = hub.ask("POST", "/calls", &body).await;
                    assert!(status == 200 && text.contains("abab"), "{status} {text}");
                    told.send_modify(|took: &mut Vec<Duration>| took.push(began.elapsed()));
                }
            }
        });
        let before = AtomicUsize::new(0);
        Self {
            took,
            before,
            over,
            task,
        }
    }

    /// Forgets what was before.
    fn forget(&self) {
        self.before.store(self.took.borrow().len(), Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.took.borrow().len() - self.before.load(Ordering::Relaxed)
    }

    /// Whether one of them was not answered as it should.
    fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for so many answers.
    async fn asked(&self, times: usize) {
        let mut took = self.took.clone();
        while self.count() < times {
            took.changed().await.expect("the healthy plugin answers");
        }
    }

    /// So fast, or faster, are all but a hundredth of them.
    fn p99(&self) -> Duration {
        let mut took = self.took.borrow()[self.before.load(Ordering::Relaxed)..].to_vec();
        took.sort();
        took[(took.len() * 99).div_ceil(100) - 1]
    }

    async fn over(self) {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}
