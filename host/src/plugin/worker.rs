//! The second wall: plugins of strangers run in worker processes, one for each publisher and project.
//!
//! A worker is this binary with the hidden verb `worker`, one socket to the hub and nothing else. It is started on the first
//! call, ended when it is idle or the hub ends, and what goes wrong in it ends its own calls alone. What it says is hostile
//! (`worker/heard.rs`, `worker/line.rs`); what it is made of inside, and how it confines itself, is in `worker/inside.rs` and
//! `worker/confine.rs`. Not here: what a call into a plugin is ([`super::execute`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use tokio::time::timeout;

use super::execute::place;
use super::{Executor, Loaded, Plugins};
use crate::call::{Call, CallError, Json, Sink};
use crate::config::{Config, Limits, Part};
use crate::error::{Blame, ErrorKind};
use crate::imports::{CallContext, Services};
use crate::log::{Append, EventLog, HUB, NewEvent};
use crate::run::journal::Journal;

pub mod cgroup;
pub mod confine;
pub mod heard;
pub mod inside;
mod line;
mod pipe;
pub(super) mod process;
pub mod wire;

use cgroup::{Bounds, Cgroups};
use confine::Confinement;
use line::{Computed, LONG, Line, Outcome, Use};
use process::Process;
use wire::Start;

/// A worker that lived so long died of something new.
const STEADY: Duration = Duration::from_secs(60);

/// So often a worker may die in a row before the next one has to wait.
const AT_ONCE: u32 = 2;

/// The first wait; each further death doubles it.
const WAIT: Duration = Duration::from_millis(250);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// So often it is looked at what a worker has computed.
const LOOK: Duration = Duration::from_millis(250);

/// What the workers of a hub need of it.
pub struct Parts {
    /// What the hub offers to plugins.
    pub services: Arc<Services>,
    /// What is loaded: it says how much room a worker needs.
    pub plugins: Arc<Plugins>,
    /// Where it is said that one died.
    pub log: Arc<dyn EventLog>,
    /// The program; none is this binary.
    pub program: Option<PathBuf>,
    /// What every worker must be confined by.
    pub require: Vec<Part>,
    /// Where each gets groups of its own.
    pub cgroups: Arc<Cgroups>,
    /// The limits of the hub.
    pub limits: Limits,
}

impl Parts {
    /// Those of a hub with this configuration.
    pub fn of(
        config: &Config,
        services: Arc<Services>,
        plugins: Arc<Plugins>,
        log: Arc<dyn EventLog>,
        cgroups: Arc<Cgroups>,
    ) -> Self {
        Self {
            services,
            plugins,
            log,
            program: config.worker.program.clone(),
            require: config.worker.require.clone(),
            cgroups,
            limits: config.limits.clone(),
        }
    }
}

/// Runs plugins in worker processes.
pub struct Workers {
    parts: Parts,
    slots: Mutex<BTreeMap<Key, Arc<Slot>>>,
    me: Weak<Self>,
}

/// Whose a worker is: the publisher and the project.
type Key = (Arc<str>, Arc<str>);

/// The place of one worker, whether there is one now or not.
#[derive(Default)]
struct Slot {
    now: tokio::sync::Mutex<Now>,
}

#[derive(Default)]
struct Now {
    line: Option<Arc<Line>>,
    started: Option<Instant>,
    /// How many died in a row.
    deaths: u32,
    /// When the next may be started.
    next: Option<Instant>,
    /// Whether the hub has stopped.
    closed: bool,
}

impl Workers {
    /// No worker yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            parts,
            slots: Mutex::default(),
            me: me.clone(),
        })
    }

    /// Ends all of them; there will be no more.
    pub async fn stop(&self) {
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let mut lines = Vec::new();
        for slot in slots {
            let mut now = slot.now.lock().await;
            now.closed = true;
            lines.extend(now.line.take());
        }
        let ends = lines.iter().map(|line| {
            line.retire();
            line.over()
        });
        join_all(ends).await;
    }

    /// The process ids of the workers of a publisher, or of all.
    pub async fn processes(&self) -> Vec<u32> {
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let mut found = Vec::new();
        for slot in slots {
            let now = slot.now.lock().await;
            found.extend(
                now.line
                    .iter()
                    .filter(|line| !line.is_over())
                    .map(|line| line.process_id()),
            );
        }
        found
    }

    async fn run(
        &self,
        plugin: &Loaded,
        call: &Call,
        sink: &Sink,
        journal: Option<Arc<Journal>>,
    ) -> Result<Json, CallError> {
        let prepared = async {
            let place = place(plugin, call).await?;
            let used = self.line(plugin, &call.principal.project).await?;
            used.line().load(plugin, &self.parts.services.variables).await?;
            Ok::<_, CallError>((place, used))
        };
        let (_place, used) = tokio::select! {
            biased;
            () = call.cancel.cancelled() => return Err(CallError::stopped(call)),
            prepared = prepared => prepared?,
        };
        let context = CallContext::new(
            call.clone(),
            sink.clone(),
            plugin,
            Arc::clone(&self.parts.services),
            journal,
        );
        match used.line().call(plugin, context).await {
            Outcome::Ended(ended) => ended.means(plugin, call),
            Outcome::Parked => Ok(Json::null()),
            Outcome::Stopped => Err(CallError::stopped(call)),
            Outcome::Failed(error) => Err(error),
        }
    }

    /// The worker for this plugin; starts one when there is none.
    async fn line(&self, plugin: &Loaded, project: &Arc<str>) -> Result<Use, CallError> {
        let key = (Arc::clone(plugin.publisher()), Arc::clone(project));
        let slot = Arc::clone(self.slots().entry(key.clone()).or_default());
        let mut now = slot.now.lock().await;
        if now.closed {
            return Err(CallError::new(ErrorKind::Unavailable, "the hub is stopping"));
        }
        if now.line.as_ref().is_some_and(|line| line.is_over()) {
            self.bury(&mut now);
        }
        if let Some(line) = &now.line {
            if line.suits(plugin) {
                return Ok(line.begin_use());
            }
            // Its calls go on in it; it ends with the last of them.
            now.line = None;
        }
        if let Some(wait) = now.next.map(|next| next.saturating_duration_since(Instant::now()))
            && !wait.is_zero()
        {
            let message = format!(
                "the worker process of plugin `{}` died {} times in a row; the next is started in {} ms at the earliest",
                plugin.facts.id,
                now.deaths,
                wait.as_millis()
            );
            return Err(CallError::new(ErrorKind::Unavailable, message).blame(Blame::Plugin));
        }
        let line = self.start(plugin).await?;
        let used = line.begin_use();
        now.started = Some(Instant::now());
        now.line = Some(Arc::clone(&line));
        tokio::spawn(keep(self.me.clone(), key, Arc::downgrade(&line)));
        Ok(used)
    }

    async fn start(&self, plugin: &Loaded) -> Result<Arc<Line>, CallError> {
        let limits = &self.parts.limits;
        let of_publisher = self.parts.plugins.all();
        let places = of_publisher
            .iter()
            .filter(|other| other.publisher() == plugin.publisher() && other.facts.id != plugin.facts.id)
            .map(|other| other.places())
            .sum::<usize>()
            + plugin.places();
        let start = Start::of(limits, places);
        let cannot = |why: &str| {
            let message = format!(
                "the worker process of plugin `{}` did not start: {why}; `waypost doctor` shows what the machine lacks",
                plugin.facts.id
            );
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
        };
        let (line, confinement) = open(&self.parts.program, &start, limits, &self.parts.cgroups)
            .await
            .map_err(|why| cannot(&why))?;
        let without: Vec<&str> = confinement.lacks(&confine::ALWAYS).map(Part::as_str).collect();
        if !without.is_empty() {
            line.retire();
            let why = format!(
                "it is not confined by {}, which no worker may be without",
                without.join(", ")
            );
            return Err(cannot(&why));
        }
        let missing: Vec<&str> = confinement.lacks(&self.parts.require).map(Part::as_str).collect();
        if !missing.is_empty() {
            line.retire();
            let why = format!(
                "this machine cannot give it {}, which `require` in [worker] of waypost.toml asks for",
                missing.join(", ")
            );
            return Err(cannot(&why));
        }
        Ok(line)
    }

    /// What a worker has computed; none when it is behind now, for as long as it lives.
    async fn look(&self, line: &Arc<Line>, seen: Computed) -> Option<Computed> {
        let computed = line.computed();
        if !computed.is_long(seen) {
            return Some(computed);
        }
        let plugins = line.plugins();
        let behind = Arc::clone(line);
        let put = tokio::task::spawn_blocking(move || behind.put_behind()).await;
        if let Err(error) = put.unwrap_or_else(|stopped| Err(stopped.into())) {
            tracing::warn!(?plugins, %error, "a worker process computes for long, and cannot be put behind the others");
            return None;
        }
        let text = format!(
            "its worker process computes for more than {} ms in a call: where there is not enough processor time it comes after \
             the others now, until it ends",
            LONG.as_millis()
        );
        for plugin in &plugins {
            self.parts.services.log.add(plugin, "info", &text);
        }
        None
    }

    /// Takes away a worker that has ended, and says so when it was not told to.
    fn bury(&self, now: &mut Now) {
        let Some(line) = now.line.take() else { return };
        let Some(why) = line.fault() else {
            now.deaths = 0;
            return;
        };
        let young = now.started.is_some_and(|started| started.elapsed() < STEADY);
        now.deaths = if young { now.deaths + 1 } else { 1 };
        now.next = now.deaths.checked_sub(AT_ONCE + 1).map(|times| {
            let wait = WAIT.saturating_mul(1 << times.min(16));
            Instant::now() + wait.min(LONGEST_WAIT)
        });
        let plugins = line.plugins();
        tracing::warn!(?plugins, %why, "a worker process died");
        for plugin in &plugins {
            let text = format!("its worker process is gone: {why}");
            self.parts.services.log.add(plugin, "error", &text);
        }
        let log = Arc::clone(&self.parts.log);
        let body = serde_json::json!({ "plugins": plugins, "why": why });
        tokio::spawn(async move {
            let event = Append::one(HUB, NewEvent::of("worker.died", body));
            if let Err(error) = log.append(event).await {
                tracing::error!(error = %error.chain(), "the death of a worker could not be logged");
            }
        });
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for Workers {
    fn execute<'a>(
        &'a self,
        plugin: &'a Loaded,
        call: &'a Call,
        sink: &'a Sink,
        journal: Option<Arc<Journal>>,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(self.run(plugin, call, sink, journal))
    }
}

/// Looks after one worker: puts it behind when it computes for long, ends it when it is idle, and buries it when it has ended.
async fn keep(workers: Weak<Workers>, key: Key, line: Weak<Line>) {
    let mut seen = Some(Computed::default());
    loop {
        let Some(idle) = workers.upgrade().map(|workers| workers.parts.limits.worker_idle) else {
            return;
        };
        let Some((over, until)) = line.upgrade().map(|line| {
            let look = Instant::now() + LOOK;
            let until = line.idle_since().map_or(look, |since| look.min(since + idle));
            (line.over_token(), until)
        }) else {
            return;
        };
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep_until(until.into()) => {}
        }
        let (Some(workers), Some(line)) = (workers.upgrade(), line.upgrade()) else {
            return;
        };
        let is_idle = || line.idle_since().is_some_and(|since| since.elapsed() >= idle);
        if !line.is_over() && !is_idle() {
            if let Some(last) = seen {
                seen = workers.look(&line, last).await;
            }
            continue;
        }
        let Some(slot) = workers.slots().get(&key).cloned() else {
            return;
        };
        let mut now = slot.now.lock().await;
        if !now.line.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &line)) {
            // One that was replaced ends with its last call.
            return;
        }
        if line.is_over() {
            return workers.bury(&mut now);
        }
        if is_idle() {
            line.retire();
            return workers.bury(&mut now);
        }
    }
}

/// Starts a worker and waits until it is ready.
async fn open(
    program: &Option<PathBuf>,
    start: &Start,
    limits: &Limits,
    cgroups: &Arc<Cgroups>,
) -> Result<(Arc<Line>, Confinement), String> {
    let program = program.clone().unwrap_or_else(process::this_binary);
    let cannot = |error: std::io::Error| format!("{} cannot be run: {error}", program.display());
    let opened = async {
        let bounds = Bounds::of_worker(limits);
        let started = Process::start(&program, "worker", cgroups, bounds).await;
        let (process, socket) = started.map_err(cannot)?;
        let groups = process.groups();
        let line = Line::new(process, socket, start, limits.worker_stop).map_err(cannot)?;
        let mut confinement = line.ready().await?;
        confinement.is_in(groups);
        Ok((line, confinement))
    };
    timeout(limits.worker_start, opened).await.unwrap_or_else(|_| {
        Err(format!(
            "it was not ready after {:?}, the limit `worker-start` of [limits]",
            limits.worker_start
        ))
    })
}

/// How a worker of the hub of this state directory is confined on this machine; for `waypost doctor`.
pub async fn probe(config: &Config, state: &Path) -> Result<Confinement, String> {
    let start = Start::of(&config.limits, 1);
    let cgroups = Arc::new(Cgroups::of(state));
    let (line, confinement) = open(&config.worker.program, &start, &config.limits, &cgroups).await?;
    line.retire();
    line.over().await;
    Ok(confinement)
}
