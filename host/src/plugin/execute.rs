//! One call into a plugin: a place, a fresh store, the export of its role, and what its end means.
//!
//! [`Executor`] is the wall: in this process ([`InProcess`]), or in a worker process ([`super::worker`]). What crosses it is
//! plain data: a [`Job`] in, an [`Ended`] out, and between them what the imports ask.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;
use wasmtime::component::ResourceTableError;
use wasmtime::{Store, Trap};

use super::link::{Linked, bindings};
use super::{Loaded, Workers};
use crate::call::{Call, CallError, Json, Sink};
use crate::config::Wall;
use crate::engine::Engine;
use crate::error::{Blame, ErrorKind};
use crate::imports::{CallContext, CallState, Facts, Services, wit};
use crate::run::journal::Journal;

use bindings::agent::exports::waypost::plugin::agent as agent_world;
use bindings::handler::exports::waypost::plugin::handler as handler_world;
use bindings::observer::exports::waypost::plugin::observer as observer_world;
use bindings::provider::exports::waypost::plugin::provider as provider_world;

/// What runs a plugin's code.
pub trait Executor: Send + Sync {
    /// Runs one call to its end. When `call.cancel` fires or the deadline passes, the code is stopped and gone before this
    /// resolves. A journal makes it the call of an agent; when that is put away the reply is `null`, and the journal has
    /// the call that it waits for.
    fn execute<'a>(
        &'a self,
        plugin: &'a Loaded,
        call: &'a Call,
        sink: &'a Sink,
        journal: Option<Arc<Journal>>,
    ) -> BoxFuture<'a, Result<Json, CallError>>;
}

/// Runs plugins in the hub's own process, inside their wasmtime sandboxes.
pub struct InProcess {
    engine: Arc<Engine>,
    services: Arc<Services>,
}

impl InProcess {
    /// An executor on this engine, offering these services.
    pub fn new(engine: Arc<Engine>, services: Arc<Services>) -> Self {
        Self { engine, services }
    }

    async fn run(
        &self,
        plugin: &Loaded,
        call: &Call,
        sink: &Sink,
        journal: Option<Arc<Journal>>,
    ) -> Result<Json, CallError> {
        let linked = plugin.linked()?;
        let _place = place(plugin, call).await?;
        let context = CallContext::new(call.clone(), sink.clone(), plugin, Arc::clone(&self.services), journal);
        let mut store = self.engine.store(CallState::new(Arc::new(context)));
        play(linked, Job::of(call), &mut store).await.means(plugin, call)
    }
}

impl Executor for InProcess {
    fn execute<'a>(
        &'a self,
        plugin: &'a Loaded,
        call: &'a Call,
        sink: &'a Sink,
        journal: Option<Arc<Journal>>,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let waits = journal.clone();
            tokio::select! {
                biased;
                end = self.run(plugin, call, sink, journal) => end,
                () = parked(waits.as_deref()) => Ok(Json::null()),
                // The store goes with the other future: the guest is stopped and what it called is cancelled.
                () = call.cancel.cancelled() => Err(CallError::stopped(call)),
            }
        })
    }
}

/// Runs each plugin behind its wall.
pub struct Walls {
    inside: InProcess,
    workers: Arc<Workers>,
}

impl Walls {
    /// The two walls.
    pub fn new(inside: InProcess, workers: Arc<Workers>) -> Self {
        Self { inside, workers }
    }
}

impl Executor for Walls {
    fn execute<'a>(
        &'a self,
        plugin: &'a Loaded,
        call: &'a Call,
        sink: &'a Sink,
        journal: Option<Arc<Journal>>,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        match plugin.origin.wall() {
            Wall::InProcess => self.inside.execute(plugin, call, sink, journal),
            Wall::Worker => self.workers.execute(plugin, call, sink, journal),
        }
    }
}

/// Resolves when the agent of this journal is put away; never without one.
pub(super) async fn parked(journal: Option<&Journal>) {
    match journal {
        Some(journal) => journal.parked().await,
        None => std::future::pending().await,
    }
}

/// What a plugin is told of a call: all that crosses the wall on the way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The call's id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Its action.
    pub action: Option<String>,
    /// The canonical message, as JSON.
    pub message: String,
    /// The project.
    pub project: String,
    /// The run.
    pub run: Option<String>,
    /// The environment.
    pub environment: Option<String>,
    /// What is left of its time.
    pub time_left_ms: u64,
}

impl Job {
    /// Of a call, as it stands now.
    pub fn of(call: &Call) -> Self {
        Self {
            id: call.id.to_string(),
            kind: call.name.kind.to_string(),
            action: call.name.action.as_deref().map(str::to_owned),
            message: call.message.as_str().to_owned(),
            project: call.principal.project.to_string(),
            run: call.principal.run.as_deref().map(str::to_owned),
            environment: call.scope.environment.as_deref().map(str::to_owned),
            time_left_ms: u64::try_from(call.deadline.left().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The message as what this role is asked with.
    fn to<'a, T: Deserialize<'a>>(&'a self) -> Result<T, wit::CallError> {
        serde_json::from_str(&self.message)
            .map_err(|error| CallError::new(ErrorKind::Invalid, format!("the message does not fit: {error}")).into())
    }
}

/// How a guest ended: all that crosses the wall on the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this reply, which should be JSON.
    Reply(String),
    /// With an error of its own.
    Refused(CallError),
    /// Without an answer: a trap, a limit, or because it was stopped.
    Fault(CallError),
}

impl Ended {
    /// What it means for the call. Nothing in here is believed that matters to anybody but the plugin.
    pub(super) fn means(self, plugin: &Loaded, call: &Call) -> Result<Json, CallError> {
        match self {
            Self::Reply(reply) => accept(plugin, reply),
            Self::Refused(error) => Err(error.blame(Blame::Plugin)),
            Self::Fault(_) if call.deadline.passed() || call.cancel.is_cancelled() => Err(CallError::stopped(call)),
            Self::Fault(error) => Err(match error.kind {
                ErrorKind::Limit => error,
                _ => CallError::new(ErrorKind::Trapped, error.message),
            }),
        }
    }
}

/// A place to run in. Top-level calls wait in a bounded queue for one; nested calls have a reserve of the same size and
/// never wait, so that plugins which call each other cannot block each other.
pub(super) async fn place<'a>(plugin: &'a Loaded, call: &Call) -> Result<SemaphorePermit<'a>, CallError> {
    let unloaded = |_| CallError::new(ErrorKind::Unavailable, "the plugin was unloaded");
    if call.principal.rights.only_reads() {
        // There are few of them, and their time limit ends the wait.
        return plugin.beside.places.acquire().await.map_err(unloaded);
    }
    if call.path.depth() > 0 {
        return plugin.reserve.try_acquire().map_err(|_| {
            let message = format!(
                "plugin `{}` is busy: {} nested calls run, the limit `concurrency` of [limits.plugin]",
                plugin.facts.id, plugin.facts.limits.concurrency
            );
            CallError::new(ErrorKind::Limit, message)
        });
    }
    if let Ok(place) = plugin.places.try_acquire() {
        return Ok(place);
    }
    let limits = &plugin.facts.limits;
    let Ok(_waiting) = plugin.queue.try_acquire() else {
        let message = format!(
            "plugin `{}` is busy: {} calls run and {} wait, the limits `concurrency` and `queue` of [limits.plugin]",
            plugin.facts.id, limits.concurrency, limits.queue
        );
        return Err(CallError::new(ErrorKind::Limit, message));
    };
    plugin.places.acquire().await.map_err(unloaded)
}

/// A reply that is small enough and is JSON.
fn accept(plugin: &Loaded, reply: String) -> Result<Json, CallError> {
    if let Some(error) = too_large(&plugin.facts, &reply) {
        return Err(error);
    }
    Json::parse(reply).map_err(|error| {
        let message = format!(
            "plugin `{}` answered with something else: {}",
            plugin.facts.id, error.message
        );
        CallError::new(ErrorKind::Invalid, message).blame(Blame::Plugin)
    })
}

fn too_large(facts: &Facts, reply: &str) -> Option<CallError> {
    let most = facts.limits.reply;
    (reply.len() > most).then(|| {
        let message = format!(
            "plugin `{}` answered with {} bytes, the limit is {most}: `reply` of [limits.plugin]",
            facts.id,
            reply.len()
        );
        CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin)
    })
}

/// Runs a guest to its end in this store.
pub(super) async fn play(linked: &Linked, job: Job, store: &mut Store<CallState>) -> Ended {
    match enter(linked, job, store).await {
        Ok(Ok(reply)) => match too_large(&store.data().plugin, &reply) {
            Some(error) => Ended::Fault(error),
            None => Ended::Reply(reply),
        },
        Ok(Err(error)) => Ended::Refused(error.into()),
        Err(error) => Ended::Fault(fault(store, &error)),
    }
}

/// What it means that a guest ended without an answer.
fn fault(store: &Store<CallState>, error: &wasmtime::Error) -> CallError {
    let facts = &store.data().plugin;
    let id = &facts.id;
    if store.data().meter.refused() {
        let message = format!(
            "plugin `{id}` gets no more memory of this machine; in a worker process, its limit is `worker-memory` of [limits]"
        );
        return CallError::new(ErrorKind::Limit, message);
    }
    if let Some(hit) = store.data().meter.hit() {
        let message = format!(
            "plugin `{id}` needs more than {}, its limit `{}`: raise it in [limits.plugin]",
            hit.most, hit.limit
        );
        return CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin);
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        let message = "no place for another sandbox: lower the concurrency of plugins or raise `calls` in [limits]";
        return CallError::new(ErrorKind::Limit, message);
    }
    // For two of its limits the engine has no type.
    let reason = error.root_cause().to_string();
    let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    if full || reason.ends_with("store handle limit exceeded") {
        let most = facts.limits.handles;
        let message =
            format!("plugin `{id}` holds {most} handles, the limit `handles` of [limits.plugin]; drop some first");
        return CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin);
    }
    if reason.ends_with("fuel allocated for hostcalls has been exhausted") {
        let most = facts.limits.host_call;
        let message = format!(
            "plugin `{id}` handed over more than {most} bytes at once, its limit `host-call`: raise it in [limits.plugin]"
        );
        return CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let trap = trap.to_string();
        let trap = trap.trim_start_matches("wasm trap: ");
        let message = format!("plugin `{id}` trapped: {trap}; `waypost plugin logs {id}` shows what it said");
        return CallError::new(ErrorKind::Trapped, message);
    }
    let message = format!("plugin `{id}` was stopped: {reason}");
    CallError::new(ErrorKind::Trapped, message)
}

type Entered = wasmtime::Result<Result<String, wit::CallError>>;

/// Instantiates the component and calls the export of its role.
async fn enter(linked: &Linked, job: Job, store: &mut Store<CallState>) -> Entered {
    match linked {
        Linked::Handler(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            let end = instance
                .waypost_plugin_handler()
                .call_handle(store, &job.into())
                .await?;
            Ok(end.map(|reply| reply.message))
        }
        Linked::Provider(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            operate(instance.waypost_plugin_provider(), job, store).await
        }
        Linked::Agent(pre) => {
            let task = match job.to::<Task>() {
                Ok(task) => task.into_wit(job.run),
                Err(error) => return Ok(Err(error)),
            };
            let instance = pre.instantiate_async(&mut *store).await?;
            let end = instance.waypost_plugin_agent().call_run(store, &task).await?;
            Ok(end.and_then(|outcome| {
                json(&Outcome {
                    message: outcome.message,
                })
            }))
        }
        Linked::Observer(pre) => {
            let notification = match job.to::<Notice>() {
                Ok(notice) => notice.into_wit(),
                Err(error) => return Ok(Err(error)),
            };
            let instance = pre.instantiate_async(&mut *store).await?;
            let end = instance
                .waypost_plugin_observer()
                .call_notice(store, &notification)
                .await?;
            Ok(end.map(|()| "null".to_owned()))
        }
    }
}

impl From<Job> for handler_world::Incoming {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            action: job.action,
            message: job.message,
            project: job.project,
            run: job.run,
            environment: job.environment,
            time_left_ms: job.time_left_ms,
            meta: Vec::new(),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, wit::CallError> {
    Json::of(value).map(|json| json.as_str().to_owned()).map_err(Into::into)
}

/// The message of `provider:create` and `provider:reconnect`, and with fewer fields of the others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Wanted {
    /// The environment's id.
    pub environment: String,
    /// How the provider finds the place again.
    pub resource_id: String,
    /// The provider's settings.
    pub settings: Option<Json>,
}

/// The reply of `provider:create` and `provider:reconnect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// How the provider finds the place again.
    pub resource_id: String,
    /// How the loop there is driven.
    pub runtime: Runtime,
}

/// How the hub reaches a loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Runtime {
    /// An agent component inside the hub, working in this folder of the hub's.
    Component {
        /// As `waypost:workspace/folders` named it.
        folder: String,
    },
}

/// The reply of `provider:inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It is there.
    Ready,
    /// It is there and cannot be used now.
    Disconnected,
    /// It is gone.
    Gone,
}

async fn operate(provider: &provider_world::Guest, job: Job, store: &mut Store<CallState>) -> Entered {
    let wanted: Wanted = match job.to() {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Err(error)),
    };
    let place = |place: provider_world::Place| {
        let provider_world::Runtime::Component(folder) = place.runtime;
        json(&Place {
            resource_id: place.resource_id,
            runtime: Runtime::Component { folder },
        })
    };
    Ok(match job.action.as_deref().unwrap_or_default() {
        "create" => {
            let settings = wanted
                .settings
                .map_or_else(|| "{}".to_owned(), |json| json.as_str().to_owned());
            let wanted = provider_world::Wanted {
                environment: wanted.environment,
                project: job.project,
                settings,
                meta: Vec::new(),
            };
            provider.call_create(store, &wanted).await?.and_then(place)
        }
        "reconnect" => provider
            .call_reconnect(store, &wanted.environment, &wanted.resource_id)
            .await?
            .and_then(place),
        "inspect" => provider
            .call_inspect(store, &wanted.resource_id)
            .await?
            .and_then(|health| {
                json(&match health {
                    provider_world::Health::Ready => Health::Ready,
                    provider_world::Health::Disconnected => Health::Disconnected,
                    provider_world::Health::Gone => Health::Gone,
                })
            }),
        "teardown" => provider
            .call_teardown(store, &wanted.resource_id)
            .await?
            .map(|()| "null".to_owned()),
        other => Err(CallError::new(ErrorKind::NotFound, format!("a provider has no operation `{other}`")).into()),
    })
}

/// The message of `agent:run`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Task {
    /// The thread's id.
    pub thread: String,
    /// What the person wrote.
    pub prompt: String,
    /// The thread so far, oldest first.
    pub history: Vec<Turn>,
    /// Inference calls that it may make.
    pub max_steps: u32,
    /// Tokens that it may use.
    pub max_tokens: u64,
    /// The agent's own settings.
    pub settings: Json,
}

/// One earlier prompt of a thread and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// What the person wrote.
    pub prompt: String,
    /// What the agent answered.
    pub answer: String,
}

/// The reply of `agent:run`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The answer for the person.
    pub message: String,
}

impl Task {
    fn into_wit(self, run: Option<String>) -> agent_world::Task {
        agent_world::Task {
            run: run.unwrap_or_default(),
            thread: self.thread,
            prompt: self.prompt,
            history: self
                .history
                .into_iter()
                .map(|turn| agent_world::Turn {
                    prompt: turn.prompt,
                    answer: turn.answer,
                })
                .collect(),
            max_steps: self.max_steps,
            max_tokens: self.max_tokens,
            settings: self.settings.as_str().to_owned(),
            meta: Vec::new(),
        }
    }
}

/// The message of `observer:notice`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Notice {
    /// The call's id.
    pub id: String,
    /// What was asked for.
    pub kind: String,
    /// The action of the kind.
    pub action: Option<String>,
    /// The canonical message.
    pub message: Json,
    /// The reply; none when it failed.
    pub reply: Option<Json>,
    /// How it failed; none when it did not.
    pub error: Option<CallError>,
    /// The run that it belonged to.
    pub run: Option<String>,
    /// Notifications dropped before this one.
    pub lagged: u64,
}

impl Notice {
    fn into_wit(self) -> observer_world::Notification {
        observer_world::Notification {
            id: self.id,
            kind: self.kind,
            action: self.action,
            message: self.message.as_str().to_owned(),
            end: match self.error {
                Some(error) => Err(error.into()),
                None => Ok(self.reply.unwrap_or_else(Json::null).as_str().to_owned()),
            },
            run: self.run,
            lagged: self.lagged,
            meta: Vec::new(),
        }
    }
}
