//! The running hub: every part, made in order, under the lock of one state directory.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use rustix::fs::FlockOperation;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::bundled;
use crate::call::{Call, CallName, Json, Principal, PrincipalKind, Rights, Scope};
use crate::capabilities::chat::Desk;
use crate::capabilities::{self, Parts};
use crate::config::Config;
use crate::dispatch::{Dispatcher, Rooms};
use crate::engine::Engine;
use crate::environment::Environments;
use crate::environment::folders::Folders;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::gateway::Gateway;
use crate::imports::http::{Network, Resolver, SystemResolver};
use crate::imports::process::Room;
use crate::imports::{PluginLog, Services};
use crate::joined::Joined;
use crate::log::sqlite::SqliteLog;
use crate::log::{self, Append, EventLog, HUB, NewEvent, Noun, Record};
use crate::plugin::health::Watched;
use crate::plugin::lock::{Entry, Lock};
use crate::plugin::worker::cgroup::Cgroups;
use crate::plugin::{
    Carriers, Compiler, InProcess, Installed, Plugins, Shown, Source, Walls, Workers, carrier, worker,
};
use crate::route::{self, Routes};
use crate::run::{NewRun, Runs, recovery};
use crate::runtimes::process::Processes;
use crate::seats::Seats;
use crate::secrets::Secrets;
use crate::spawn::Spawned;
use crate::tokens::Tokens;
use crate::transports::agent_socket::{self, AgentSocket};
use crate::transports::direct_socket::{DirectSocket, Members, Starter, Within};
use crate::transports::door::LocalDoor;
use crate::transports::plugin_socket::{Expected, PluginSocket};
use crate::transports::socket;
use crate::workspace::Workspace;

/// The project of the folder that the hub was opened in.
pub const DEFAULT_PROJECT: &str = "default";

/// After so many events outside runs, the place up to which all calls have their end is written down.
const SETTLE_AGAIN: u64 = 1000;

/// A hub that is open: one for each state directory.
pub struct Hub {
    /// What the operator decided, as it was at the start.
    pub config: Config,
    /// The folder of the default project.
    pub root: PathBuf,
    /// The default project.
    pub project: Arc<str>,
    /// What it is called on the route of a call.
    pub runtime: Arc<str>,
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The rules in force.
    pub routes: Arc<Routes>,
    /// The loaded plugins.
    pub plugins: Arc<Plugins>,
    /// Those that are installed by digest.
    installed: Arc<Installed>,
    /// The plugins that hold claims and hear of calls.
    pub carriers: Arc<Carriers>,
    /// What plugins said lately.
    pub plugin_log: Arc<PluginLog>,
    /// Claims, subscriptions and proxied calls.
    pub gateway: Arc<Gateway>,
    /// The path of a call.
    pub dispatcher: Arc<Dispatcher>,
    /// The environments.
    pub environments: Arc<Environments>,
    /// The runs.
    pub runs: Arc<Runs>,
    /// Where programs connect as agents.
    pub agents: Arc<AgentSocket>,
    /// Where processes connect.
    pub connections: Arc<DirectSocket>,
    /// Where those connect that it has started.
    pub plugin_socket: PluginSocket,
    /// Those that it has started.
    spawned: Spawned,
    /// The worker processes of strangers' plugins.
    pub workers: Option<Arc<Workers>>,
    /// Who may use it from outside.
    pub tokens: Arc<Tokens>,
    /// Where people are asked.
    pub desk: Arc<Desk>,
    /// Where calls act that belong to no environment.
    pub scope: Arc<Scope>,
    _watching: route::Watching,
    sqlite: Arc<SqliteLog>,
    _lock: fs::File,
}

impl Hub {
    /// Opens the hub of a project folder: reads its configuration, takes the lock, and takes up what was cut off.
    pub async fn open(root: &Path) -> Result<Arc<Self>> {
        let config = Config::read(&root.join("waypost.toml"))?;
        Self::open_with(root, config, &|name| std::env::var(name).ok()).await
    }

    /// Opens the hub of a project folder with this configuration and these variables.
    pub async fn open_with(
        root: &Path,
        config: Config,
        variable: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<Arc<Self>> {
        Self::open_among(root, config, variable, Arc::new(SystemResolver::default())).await
    }

    /// The same, where names lead plugins where `resolver` says.
    pub async fn open_among(
        root: &Path,
        config: Config,
        variable: &(dyn Fn(&str) -> Option<String> + Sync),
        resolver: Arc<dyn Resolver>,
    ) -> Result<Arc<Self>> {
        let root = fs::canonicalize(root).map_err(|error| {
            let message = format!("the project folder {} cannot be opened", root.display());
            Error::new(ErrorKind::NotFound, message).because(error)
        })?;
        let state = root.join(&config.hub.state);
        let lock = lock(&state)?;
        let routes = Arc::new(Routes::load(&root)?);
        let sqlite = SqliteLog::open(&state)?;
        let log: Arc<dyn EventLog> = Arc::clone(&sqlite) as _;
        let tokens = Tokens::open(Arc::clone(&log), DEFAULT_PROJECT.into()).await?;
        let workspace = Arc::new(Workspace::open(&root)?);
        let scope = Arc::new(Scope {
            environment: None,
            labels: Default::default(),
            workspace: Arc::clone(&workspace),
        });
        let folders = Arc::new(Folders::open(state.join("environments"), workspace)?);
        let desk = Arc::new(Desk::default());
        let engine = Arc::new(Engine::new(&config.limits, &state)?);
        let cgroups = Arc::new(Cgroups::of(&state));
        cgroups.sweep();
        let plugins = Arc::new(Plugins::new(
            Arc::clone(&engine),
            Compiler::of(&config).in_groups(Arc::clone(&cgroups)),
            &config.limits,
        ));
        let installed = load_plugins(&plugins, &config, &root, &state).await?;
        let gateway = Arc::new(Gateway::new(Arc::clone(&log)));
        gateway.restore().await?;
        let plugin_log = Arc::new(PluginLog::default());
        let parts = Parts {
            config: &config,
            variable,
            project: &root,
            state: &state,
            desk: Arc::clone(&desk),
            log: Arc::clone(&log),
            models: Arc::clone(&gateway) as _,
        };
        // New at each start: no call outlives it.
        let runtime: Arc<str> = format!("waypost-{}", uuid::Uuid::now_v7()).into();
        let secrets = Arc::new(Secrets::new(&config.secrets, &root, &variable));
        let rooms = Rooms {
            joined: Joined::new(&config, variable, Arc::clone(&runtime))?,
            routes: Arc::clone(&routes),
            builtins: capabilities::all(&parts)?,
            plugins: Arc::clone(&plugins),
            gateway: Arc::clone(&gateway),
            log: Arc::clone(&log),
            desk: Arc::clone(&desk),
            secrets: Arc::clone(&secrets),
            limits: config.limits.clone(),
        };
        let variables = granted_variables(&config, &Lock::read(&root)?, variable);
        let mut workers = None;
        let dispatcher = Dispatcher::new(rooms, |reentry| {
            let services = Arc::new(Services {
                dispatch: Arc::new(reentry),
                state: Arc::clone(&sqlite) as _,
                folders: Arc::clone(&folders),
                log: Arc::clone(&plugin_log),
                events: Arc::clone(&log),
                network: Arc::new(Network::new(resolver, config.limits.outgoing)),
                programs: Room::new(config.limits.programs, state.join("programs")),
                secrets,
                variables,
                project: root.clone(),
                state_folder: state.canonicalize().unwrap_or_else(|_| state.clone()),
                depth: config.limits.depth,
            });
            let parts = worker::Parts::of(
                &config,
                Arc::clone(&services),
                Arc::clone(&plugins),
                Arc::clone(&log),
                cgroups,
            );
            let made = workers.insert(Workers::new(parts));
            let walls = Walls::new(InProcess::new(engine, services), Arc::clone(made));
            Arc::new(Watched::new(Arc::new(walls), Arc::clone(&log)))
        });
        let project: Arc<str> = DEFAULT_PROJECT.into();
        let carriers = Carriers::start(carrier::Parts {
            plugins: Arc::clone(&plugins),
            gateway: Arc::clone(&gateway),
            executor: Arc::clone(dispatcher.executor()),
            log: Arc::clone(&plugin_log),
            project: Arc::clone(&project),
            scope: Arc::clone(&scope),
            timeout: config.limits.plugin_timeout,
            observing: Semaphore::new(config.limits.observers),
        })
        .await?;
        let environments = Arc::new(Environments::new(
            Arc::clone(&log),
            Arc::clone(&dispatcher),
            folders,
            Arc::clone(&scope),
            &config.hub.provider,
        ));
        let seats = Seats::default();
        let door = Arc::new(LocalDoor::default());
        let processes = Processes::new(
            Arc::clone(&log),
            seats.clone(),
            Arc::clone(&door) as _,
            &config,
            &state,
            agent_socket::FRAMES,
        );
        let runs = Arc::new(Runs::new(
            Arc::clone(&log),
            Arc::clone(&dispatcher),
            Arc::clone(&environments),
            processes,
            &config,
        ));
        let agents = Arc::new(AgentSocket::new(
            Arc::clone(&dispatcher) as _,
            seats,
            Arc::clone(&tokens),
            Arc::downgrade(&runs),
            Arc::clone(&scope),
            &config,
        ));
        let connections = Arc::new(DirectSocket::new(
            Arc::clone(&gateway),
            Arc::clone(&project),
            Arc::clone(&runtime),
            Members::new(
                &config.connections,
                Arc::clone(&tokens),
                config.sockets.allow_unauthenticated_connections,
            )?,
            Within {
                dispatch: Arc::clone(&dispatcher) as _,
                scope: Arc::clone(&scope),
                starter: Arc::new(ProjectRuns(Arc::downgrade(&runs), Arc::clone(&project))),
                call_timeout: config.limits.answer_timeout,
            },
            socket::Limits::default(),
        ));
        let expected = Expected::default();
        let plugin_socket = PluginSocket::new(Arc::clone(&connections), expected.clone());
        door.leads_to(Arc::clone(&agents), plugin_socket.clone());
        let spawned = Spawned::new(&config, expected, door, &root, &state);
        warn_of_idle_shadows(&routes);
        let watching = watch(&routes, &log)?;
        let hub = Arc::new(Self {
            config,
            project,
            runtime,
            root,
            log,
            routes,
            plugins,
            installed,
            carriers,
            plugin_log,
            gateway,
            dispatcher,
            environments,
            runs,
            agents,
            connections,
            plugin_socket,
            spawned,
            workers,
            tokens,
            desk,
            scope,
            _watching: watching,
            sqlite,
            _lock: lock,
        });
        hub.announce().await?;
        tokio::spawn(note_waiting(Arc::downgrade(&hub), hub.desk.changes()));
        Ok(hub)
    }

    /// A call of the person `who` at the command line or the API, in the project or in an environment.
    pub async fn person_call(
        &self,
        who: &str,
        name: CallName,
        message: Json,
        environment: Option<&str>,
    ) -> Result<Call> {
        let scope = match environment {
            None => Arc::clone(&self.scope),
            Some(id) => self.environments.scope(&self.environments.get(id).await?)?,
        };
        let principal = Principal {
            project: Arc::clone(&self.project),
            run: None,
            kind: PrincipalKind::Person,
            id: who.into(),
            rights: Rights::all(),
        };
        // The rule that decides sets the time; this bounds only what no rule bounds.
        let most = std::time::Duration::from_secs(24 * 3600);
        Ok(Call::new(name, message, Arc::new(principal), scope, most))
    }

    /// Reads an installed plugin's files again: new calls go to the new one, and its claim stays.
    pub async fn reload_plugin(&self, id: &str) -> Result<Shown> {
        let (plugins, id) = (Arc::clone(&self.plugins), id.to_owned());
        let reload = move |installed: &Installed| match installed.has(&id)? {
            true => installed.reload(&id),
            false => plugins.reload(&id),
        };
        let loaded = self.with_installed(reload).await?;
        self.carriers.settle().await;
        Ok(self.carriers.shown(&loaded).await)
    }

    /// Asks for something of the installed plugins.
    pub async fn with_installed<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Installed) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let installed = Arc::clone(&self.installed);
        tokio::task::spawn_blocking(move || ask(&installed))
            .await
            .unwrap_or_else(
                |error| Err(Error::new(ErrorKind::Internal, "loading a plugin met a defect").because(error)),
            )
    }

    /// Changes something of the installed plugins: what they claim is settled, and the change is an event.
    pub async fn change_installed<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Installed) -> Result<T> + Send + 'static,
        told: impl FnOnce(&T) -> Option<(&'static str, serde_json::Value)>,
    ) -> Result<T> {
        let hub = Arc::clone(self);
        // To its end, also when nobody waits for it any more.
        let changed = tokio::spawn(async move {
            let changed = hub.with_installed(change).await?;
            hub.carriers.settle().await;
            Ok(changed)
        });
        let stopped = |error| Error::new(ErrorKind::Internal, "the hub stopped meanwhile").because(error);
        let changed = changed.await.unwrap_or_else(|error| Err(stopped(error)))?;
        if let Some((kind, body)) = told(&changed) {
            log::write(&*self.log, Append::one(HUB, NewEvent::of(kind, body))).await?;
        }
        Ok(changed)
    }

    /// Removes an installed plugin until the next start; its claim is free, and it hears of nothing more.
    pub async fn unload_plugin(&self, id: &str) -> Result<()> {
        self.plugins.unload(id)?;
        self.carriers.settle().await;
        Ok(())
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.root.join(&self.config.hub.state)
    }

    /// Starts what works without being asked: the processes of `[[spawn]]`. For who serves, or makes calls.
    pub fn begin(&self) {
        self.spawned.begin();
    }

    /// Writes down what is queued; after this the process may end.
    pub async fn close(&self) {
        self.runs.suspend();
        self.spawned.stop().await;
        self.dispatcher.stop_shadows();
        self.carriers.stop().await;
        if let Some(workers) = &self.workers {
            workers.stop().await;
        }
        if let Err(error) = self.sqlite.close().await {
            tracing::error!(error = %error.chain(), "the event log did not close in order");
        }
    }

    /// The project's record: written once, and again when many calls outside runs lie behind it, so that looking for those
    /// that a crash cut off never reads the whole stream.
    async fn announce(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Known {
            settled: u64,
        }
        let record = self.log.record(Noun::Project, &self.project).await?;
        let known = record.and_then(|record| record.body.to::<Known>().ok());
        let after = known.as_ref().map_or(0, |known| known.settled);
        let settled = recovery::settle(&*self.log, HUB, after).await?;
        if known.is_some() && settled - after < SETTLE_AGAIN {
            return Ok(());
        }
        let body =
            serde_json::json!({ "id": self.project, "root": self.root.display().to_string(), "settled": settled });
        let record = Record {
            noun: Noun::Project,
            id: Arc::clone(&self.project),
            project: Arc::clone(&self.project),
            state: "open".to_owned(),
            body: body.into(),
        };
        let event = NewEvent::recorded("project.opened", record);
        log::write(&*self.log, Append::one(HUB, event)).await.map(drop)
    }
}

/// Starts runs in a project. The runs have the door behind which connections are, so these do not keep the runs.
struct ProjectRuns(Weak<Runs>, Arc<str>);

impl Starter for ProjectRuns {
    fn start(&self, run: NewRun) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.0.upgrade() {
                Some(runs) => runs.start(&self.1, run).await.map(drop),
                None => Err(Error::new(ErrorKind::Unavailable, "the hub is stopping")),
            }
        })
    }
}

/// Follows the questions that wait for people, and notes which runs wait with them.
async fn note_waiting(hub: Weak<Hub>, mut changes: tokio::sync::watch::Receiver<u64>) {
    let mut waiting: HashSet<Arc<str>> = HashSet::new();
    while changes.changed().await.is_ok() {
        let Some(hub) = hub.upgrade() else { return };
        let now: HashSet<Arc<str>> = hub
            .desk
            .open()
            .into_iter()
            .filter_map(|question| question.run)
            .collect();
        let begun = now.difference(&waiting).map(|run| (run, true));
        let over = waiting.difference(&now).map(|run| (run, false));
        for (run, waits) in begun.chain(over) {
            // A run that ended meanwhile has its end, and that is all there is to say.
            if let Err(error) = hub.runs.waits(run, waits).await {
                tracing::debug!(%run, error = %error.chain(), "whether a run waits could not be noted");
            }
        }
        waiting = now;
    }
}

/// The bundled plugins and those of `waypost.toml`, of which the first that does not load refuses the start; and those that
/// are installed, which say themselves why they are not loaded.
async fn load_plugins(plugins: &Arc<Plugins>, config: &Config, root: &Path, state: &Path) -> Result<Arc<Installed>> {
    let sources: Vec<Source> = bundled::sources()
        .chain(Source::installed(config, root))
        .collect::<Result<_>>()?;
    let (plugins, config) = (Arc::clone(plugins), config.clone());
    let (root, state) = (root.to_owned(), state.to_owned());
    let load = move || {
        sources
            .into_iter()
            .try_for_each(|source| plugins.load(source).map(drop))?;
        Installed::load(&root, &state, &config, plugins).map(Arc::new)
    };
    tokio::task::spawn_blocking(load)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "loading the plugins met a defect").because(error)))
}

/// The variables that some plugin was granted, as they are now; those that hold a secret are nobody's.
fn granted_variables(
    config: &Config,
    installed: &Lock,
    variable: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let of_entries = config.plugins.iter().flat_map(|plugin| &plugin.grant.env);
    let releases = installed.installed.iter().flat_map(Entry::releases);
    of_entries
        .chain(releases.flat_map(|release| &release.grant.env))
        .filter(|name| config.secrets.iter().all(|secret| secret.env.as_ref() != Some(name)))
        .filter_map(|name| Some((name.clone(), variable(name)?)))
        .collect()
}

/// Says which shadows will never get anything.
fn warn_of_idle_shadows(routes: &Routes) {
    for (line, message) in routes.current().idle_shadows(capabilities::reads) {
        tracing::warn!("waypost.toml:{line}: {message}");
    }
}

/// Follows both rule files; what became of a change is an event.
fn watch(routes: &Arc<Routes>, log: &Arc<dyn EventLog>) -> Result<route::Watching> {
    let (log, runtime) = (Arc::clone(log), tokio::runtime::Handle::current());
    let rules = Arc::downgrade(routes);
    Routes::watch(routes, move |reloaded| {
        let (kind, body) = match reloaded {
            route::Reloaded::Unchanged => return,
            route::Reloaded::Changed => {
                if let Some(rules) = rules.upgrade() {
                    warn_of_idle_shadows(&rules);
                }
                ("routes.changed", serde_json::json!({}))
            }
            route::Reloaded::Broken(problem) => {
                tracing::warn!("the rules were not changed: {problem}");
                ("routes.broken", serde_json::json!({ "problem": problem }))
            }
        };
        let log = Arc::clone(&log);
        runtime.spawn(async move {
            if let Err(error) = log.append(Append::one(HUB, NewEvent::of(kind, body))).await {
                tracing::error!(error = %error.chain(), "a change of the rules could not be logged");
            }
        });
    })
}

/// Takes the one lock of a state directory; the error says who has it.
fn lock(state: &Path) -> Result<fs::File> {
    let cannot = |error: std::io::Error| {
        let message = format!("the state directory {} cannot be opened", state.display());
        Error::new(ErrorKind::Internal, message)
            .blame(Blame::Operator)
            .because(error)
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(cannot)?;
    let path = state.join("lock");
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(cannot)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let owner = fs::read_to_string(&path).unwrap_or_default();
        let message = format!(
            "another hub (process {}) has the state directory {}",
            owner.trim(),
            state.display()
        );
        return Err(Error::new(ErrorKind::Unavailable, message).blame(Blame::Operator));
    }
    file.set_len(0).map_err(cannot)?;
    writeln!(file, "{}", std::process::id()).map_err(cannot)?;
    Ok(file)
}
