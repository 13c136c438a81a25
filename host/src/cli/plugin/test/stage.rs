//! One plugin, called as the hub calls it, with everything around it faked or in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fake::{Asked, Asking, Fake, Manner};
use crate::call::{Call, CallError, CallName, Json, Principal, PrincipalKind, Rights, Scope, Sink};
use crate::cli::plugin::alone::Alone;
use crate::config::{Limits, Wall};
use crate::environment::folders::Folders;
use crate::error::{Error, ErrorKind, Result};
use crate::imports::http::Network;
use crate::imports::process::Room;
use crate::imports::{PluginLog, Services};
use crate::log::StateStore;
use crate::log::memory::MemoryLog;
use crate::plugin::{Executor, InProcess, Loaded, Manifest, Role, Source};
use crate::run::journal::{Budget, Journal, Life, Past};
use crate::secrets::Secrets;
use crate::workspace::Workspace;

/// The project of a test.
const PROJECT: &str = "default";
/// The most chunks of one answer that are kept.
const CHUNKS: usize = 10_000;
/// How many of a plugin's last lines stand in the report.
const LAST_WORDS: usize = 2;
/// No agent is put away while it is tested.
const NEVER_PARKED: Duration = Duration::from_secs(24 * 3600);

/// A component, ready to be tested.
pub(super) struct Stage {
    alone: Alone,
    limits: Limits,
    source: Source,
    loaded: Arc<Loaded>,
}

impl Stage {
    /// Reads a component and loads it with all that its manifest asks for. Blocks while it compiles.
    pub(super) fn open(file: &Path, limits: Limits) -> Result<Self> {
        let read = |grant| Source::read(file, Wall::InProcess, grant, limits.plugin.component);
        // Nothing is at these places: what would need them says so when it is used.
        let nowhere = Path::new("/nonexistent");
        let asks = read(Default::default())?.manifest.asks().placed(nowhere);
        let source = read(asks)?;
        let alone = Alone::new(&limits)?;
        let loaded = alone.load(&limits, source.clone())?;
        Ok(Self {
            alone,
            limits,
            source,
            loaded,
        })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.source.manifest
    }

    pub(super) fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// The same component with less memory.
    pub(super) fn with_memory(&self, memory: usize) -> Result<Arc<Loaded>> {
        let mut limits = self.limits.clone();
        limits.plugin.memory = memory.min(limits.plugin.memory);
        self.alone.load(&limits, self.source.clone())
    }

    /// The memory that one call of it may use.
    pub(super) fn memory(&self) -> usize {
        self.loaded.facts.limits.memory
    }

    /// The time that one call of it may take.
    pub(super) fn timeout(&self) -> Duration {
        self.loaded.timeout(self.limits.plugin_timeout)
    }

    /// An empty place to be called in.
    pub(super) fn scene(&self, manner: Manner) -> Result<Scene> {
        let no_room = |error| Error::new(ErrorKind::Other, "a temporary folder cannot be made").because(error);
        let room = tempfile::tempdir().map_err(no_room)?;
        let project = room.path().join("project");
        std::fs::create_dir(&project).map_err(no_room)?;
        let workspace = Arc::new(Workspace::open(&project)?);
        let state = Arc::new(MemoryLog::new(1));
        let log = Arc::new(PluginLog::default());
        let fake = Fake::new(manner);
        let services = Services {
            dispatch: Arc::new(Asking(Arc::clone(&fake))),
            state: Arc::clone(&state) as _,
            folders: Arc::new(Folders::open(room.path().join("environments"), Arc::clone(&workspace))?),
            log: Arc::clone(&log),
            events: Arc::clone(&state) as _,
            network: Arc::new(Network::none()),
            programs: Room::none(),
            secrets: Arc::new(Secrets::new(&[], &project, &|_| None)),
            variables: BTreeMap::default(),
            state_folder: room.path().join("state"),
            project,
            depth: self.limits.depth,
        };
        Ok(Scene {
            executor: InProcess::new(Arc::clone(&self.alone.engine), Arc::new(services)),
            role: self.manifest().role,
            id: self.manifest().id.clone(),
            quota: self.limits.plugin.state,
            scope: Arc::new(Scope {
                environment: None,
                labels: BTreeMap::default(),
                workspace,
            }),
            state,
            log,
            fake,
            _room: room,
        })
    }
}

/// A place in which a plugin is called: its state, its log, and who answers its own calls.
pub(super) struct Scene {
    executor: InProcess,
    role: Role,
    id: String,
    quota: usize,
    scope: Arc<Scope>,
    state: Arc<MemoryLog>,
    log: Arc<PluginLog>,
    pub(super) fake: Arc<Fake>,
    _room: tempfile::TempDir,
}

/// What a call came to.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) result: Result<Json, CallError>,
    pub(super) chunks: Vec<Json>,
    /// For agents: what they called that they did not call before.
    pub(super) diverged: Option<String>,
    /// Whether its time was over.
    pub(super) late: bool,
    /// The run that it belonged to.
    pub(super) run: Uuid,
}

/// A call that is made: its name, its message, and the time it may take.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) name: CallName,
    pub(super) message: Json,
    pub(super) limit: Duration,
}

/// When a call is given up before its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    Never,
    /// When the plugin makes its first call.
    WhenItAsks,
    /// As soon as it runs.
    AtOnce,
}

impl Scene {
    /// Makes one call, and waits for its end.
    pub(super) async fn call(&self, loaded: &Loaded, made: &Made) -> Came {
        self.make(loaded, made, GivenUp::Never, Uuid::now_v7(), &[]).await
    }

    /// Makes one call that is given up.
    pub(super) async fn give_up(&self, loaded: &Loaded, made: &Made, when: GivenUp) -> Came {
        self.make(loaded, made, when, Uuid::now_v7(), &[]).await
    }

    /// Runs an agent again whose run already made these calls.
    pub(super) async fn replay(&self, loaded: &Loaded, made: &Made, run: Uuid, past: &[Asked]) -> Came {
        self.make(loaded, made, GivenUp::Never, run, past).await
    }

    async fn make(&self, loaded: &Loaded, made: &Made, when: GivenUp, run: Uuid, past: &[Asked]) -> Came {
        let principal = Principal {
            project: PROJECT.into(),
            run: (self.role != Role::Provider).then(|| run.to_string().into()),
            kind: match self.role {
                Role::Handler => PrincipalKind::Person,
                _ => PrincipalKind::Hub,
            },
            id: "test".into(),
            rights: Rights::all(),
        };
        let scope = Arc::clone(&self.scope);
        let call = Call::new(
            made.name.clone(),
            made.message.clone(),
            Arc::new(principal),
            scope,
            made.limit,
        );
        let journal = (self.role == Role::Agent).then(|| Arc::new(journal(run, &call, past)));
        let (sink, mut reader) = Sink::channel();
        let executing = async {
            let sink = sink;
            self.executor.execute(loaded, &call, &sink, journal.clone()).await
        };
        let reading = async {
            let mut chunks = Vec::new();
            while let Some(chunk) = reader.recv().await {
                if chunks.len() < CHUNKS {
                    chunks.push(chunk);
                }
            }
            chunks
        };
        let ending = async {
            let given_up = async {
                match when {
                    GivenUp::Never => std::future::pending().await,
                    GivenUp::WhenItAsks => self.fake.came().await,
                    // The call was begun before this is looked at.
                    GivenUp::AtOnce => tokio::task::yield_now().await,
                }
            };
            tokio::select! {
                () = given_up => {}
                () = tokio::time::sleep_until(call.deadline.instant().into()) => {}
            }
            call.cancel.cancel();
            std::future::pending::<Infallible>().await
        };
        let (result, chunks) = tokio::select! {
            biased;
            both = async { tokio::join!(executing, reading) } => both,
            never = ending => match never {},
        };
        Came {
            result,
            chunks,
            diverged: journal.and_then(|journal| journal.diverged()),
            late: call.deadline.passed(),
            run,
        }
    }

    /// Sets what the plugin keeps.
    pub(super) async fn keep(&self, values: &BTreeMap<String, String>) -> Result<()> {
        for (key, value) in values {
            let set = self.state.set(PROJECT, &self.id, key, Some(value.clone()), self.quota);
            set.await?;
        }
        Ok(())
    }

    /// What the plugin keeps.
    pub(super) async fn kept(&self) -> Result<BTreeMap<String, String>> {
        let mut kept = BTreeMap::new();
        for key in self.state.keys(PROJECT, &self.id, "").await? {
            let value = self.state.get(PROJECT, &self.id, &key).await?;
            kept.insert(key, value.unwrap_or_default());
        }
        Ok(kept)
    }

    /// The last that the plugin said, for who looks for a fault.
    pub(super) fn last_words(&self) -> Option<String> {
        let lines = self.log.lines(&self.id);
        // How to see more of a panic: nothing that can be done in here.
        let lines = lines
            .iter()
            .rev()
            .filter(|line| !line.text.starts_with("note: run with `RUST_BACKTRACE"));
        let mut last: Vec<&str> = lines.take(LAST_WORDS).map(|line| line.text.as_str()).collect();
        last.reverse();
        (!last.is_empty()).then(|| last.join(" / "))
    }
}

fn journal(run: Uuid, call: &Call, past: &[Asked]) -> Journal {
    let task = call.message.to::<crate::plugin::execute::Task>().ok();
    let budget = Budget {
        steps: task.as_ref().map_or(u32::MAX, |task| task.max_steps),
        tokens: task.as_ref().map_or(u64::MAX, |task| task.max_tokens),
    };
    let life = Life {
        cancel: CancellationToken::clone(&call.cancel),
        park_after: NEVER_PARKED,
    };
    let past = past.iter().filter_map(|asked| {
        let past = Past {
            id: asked.id,
            name: asked.name.to_string(),
            message: asked.message.clone(),
            result: asked.result.clone(),
        };
        Some((asked.index?, past))
    });
    Journal::new(run, budget, life, past.collect())
}
