//! Threads and runs: one prompt's life, from accepted to its one end, across restarts.
//!
//! A run is acknowledged when its acceptance is on disk. After a crash, runs that had no end are taken up again: calls that
//! may have had an effect are settled first, then the agent is run from the start and answered from the log (`journal`).
//! Not here: what an agent is, or where it runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::call::{Call, CallError, CallName, Deadline, Json, Principal, PrincipalKind, Rights, Scope};
use crate::config::Agent;
use crate::dispatch::Dispatcher;
use crate::environment::{Environments, NewEnvironment, short_id};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{self, Append, EventLog, NewEvent, Noun, Record, RecordQuery};
use crate::plugin::execute::{Outcome, Task, Turn};
use crate::runtimes::process::{self, Processes};
use crate::runtimes::{self, Drive, Driven};

pub mod journal;
pub(crate) mod recovery;
mod state;

use journal::{Budget, Journal, Life};
pub use state::State;

/// The record of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Unique for ever, and the time when it was accepted.
    pub id: Arc<str>,
    /// Who owns it.
    pub project: Arc<str>,
    /// The conversation that it is part of.
    pub thread: Arc<str>,
    /// The run whose agent started this one.
    pub parent: Option<Arc<str>>,
    /// What the person wrote.
    pub prompt: String,
    /// The agent that works on it: a plugin's id, or the program of a command.
    pub agent: Arc<str>,
    /// The words of the agent's command, when it is a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// What the environment is made of, when it has to be made.
    pub environment_wanted: NewEnvironment,
    /// Where it runs.
    pub environment: Option<Arc<str>>,
    /// The agent's own settings.
    pub settings: Json,
    /// Where it is in its life.
    pub state: State,
    /// What the agent answered.
    pub answer: Option<String>,
    /// Why it failed.
    pub error: Option<CallError>,
}

/// A prompt with all that may come with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct NewRun {
    /// What the person wrote.
    pub prompt: String,
    /// The conversation to go on with; a new one when none is named.
    pub thread: Option<String>,
    /// The agent; the configured one when none is named.
    pub agent: Option<String>,
    /// The command line of an agent that is a program, in place of `agent`; no shell reads it.
    pub command: Option<String>,
    /// An environment that exists; a new one is made when none is named.
    pub environment: Option<String>,
    /// What a new environment shall be.
    pub new_environment: NewEnvironment,
    /// The agent's own settings.
    pub settings: Option<Json>,
}

/// A run that is under way, for those who act in it beside its own agent.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// Its record.
    pub run: Run,
    /// Where its calls act.
    pub scope: Arc<Scope>,
    /// Fires when it ends.
    pub over: CancellationToken,
}

/// The longest prompt, in bytes.
const PROMPT: usize = 1 << 20;

/// The runs of this hub.
pub struct Runs {
    log: Arc<dyn EventLog>,
    dispatcher: Arc<Dispatcher>,
    environments: Arc<Environments>,
    budget: Agent,
    processes: Processes,
    default_agent: Arc<str>,
    agents: Semaphore,
    /// Runs that are under way here, by id, with their thread and the token that ends them.
    open: Mutex<HashMap<Arc<str>, Open>>,
}

#[derive(Debug)]
struct Open {
    thread: Arc<str>,
    cancel: CancellationToken,
    /// One change of its state at a time: its own task and a person's answer may want one at once.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Runs {
    /// The runs that the log has records of.
    pub fn new(
        log: Arc<dyn EventLog>,
        dispatcher: Arc<Dispatcher>,
        environments: Arc<Environments>,
        processes: Processes,
        config: &crate::config::Config,
    ) -> Self {
        Self {
            log,
            dispatcher,
            environments,
            processes,
            budget: config.agent.clone(),
            default_agent: config.hub.agent.as_str().into(),
            agents: Semaphore::new(config.limits.agents),
            open: Mutex::default(),
        }
    }

    /// Accepts a prompt: when this resolves, the run is on disk and under way.
    pub async fn start(self: &Arc<Self>, project: &Arc<str>, new: NewRun) -> Result<Run> {
        let prompt = new.prompt.trim();
        if prompt.is_empty() || new.prompt.len() > PROMPT {
            let message = format!("a prompt has 1 to {PROMPT} bytes, this one has {}", new.prompt.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let command = new
            .command
            .as_deref()
            .map(|command| self.processes.command(command))
            .transpose()?;
        if command.is_some() && new.agent.is_some() {
            let message = "a run has one agent: name it with `agent` or with `command`, not with both";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let program = command.as_ref().and_then(|words| words.first().cloned());
        if let Some(environment) = &new.environment {
            self.environments.get(environment).await?;
        }
        let thread: Arc<str> = match &new.thread {
            Some(thread) => {
                self.thread(project, thread).await?;
                thread.as_str().into()
            }
            None => format!("thread-{}", short_id()).into(),
        };
        let id: Arc<str> = Uuid::now_v7().to_string().into();
        self.forget_ended(&thread).await;
        let cancel = self.enter(&id, &thread)?;
        let run = Run {
            id: Arc::clone(&id),
            project: Arc::clone(project),
            thread,
            parent: None,
            prompt: new.prompt,
            agent: program
                .or(new.agent)
                .map_or_else(|| Arc::clone(&self.default_agent), Into::into),
            command,
            environment_wanted: new.new_environment,
            environment: new.environment.map(Into::into),
            settings: new.settings.unwrap_or_else(|| Json::from(serde_json::json!({}))),
            state: State::Accepted,
            answer: None,
            error: None,
        };
        if let Err(error) = self.accept(&run, new.thread.is_none()).await {
            self.leave(&id);
            return Err(error);
        }
        self.carry(run.clone(), cancel);
        Ok(run)
    }

    /// Ends a run; one that has ended stays as it is.
    pub async fn cancel(&self, id: &str) -> Result<Run> {
        let run = self.get(id).await?;
        if let Some(open) = self.opened().get(id) {
            open.cancel.cancel();
        }
        Ok(run)
    }

    /// The record of one.
    pub async fn get(&self, id: &str) -> Result<Run> {
        let record = self.log.record(Noun::Run, id).await?;
        let record = record.ok_or_else(|| {
            let message = format!(
                "there is no run `{}`; `waypost run --list` lists them",
                id.escape_debug()
            );
            Error::new(ErrorKind::NotFound, message)
        })?;
        read(&record.body)
    }

    /// The run with this id, or the one of this thread, when its agent works.
    pub async fn under_way(&self, of: &str) -> Result<UnderWay> {
        let found = {
            let open = self.opened();
            let mut open = open.iter();
            open.find(|(id, open)| ***id == *of || *open.thread == *of)
                .map(|(id, open)| (Arc::clone(id), open.cancel.clone()))
        };
        let run = match &found {
            Some((id, _)) => Some(self.get(id).await?),
            None => None,
        };
        let not = |why: String| Error::new(ErrorKind::Unavailable, why);
        // One that has ended is still open for a moment, until everything of it has gone.
        let (Some((_, over)), Some(run)) = (found, run.filter(|run| !run.state.ended())) else {
            let message = format!("no run under way has the id or the thread `{}`", of.escape_debug());
            return Err(not(message));
        };
        if !matches!(run.state, State::Running | State::Waiting) {
            let message = format!("run {} is {}: its agent does not work now", run.id, run.state.as_str());
            return Err(not(message));
        }
        let environment = run.environment.as_deref().unwrap_or_default();
        let environment = self.environments.get(environment).await?;
        let scope = self.environments.scope(&environment)?;
        Ok(UnderWay { run, scope, over })
    }

    /// The runs of a project, newest first.
    pub async fn list(&self, project: &Arc<str>, limit: usize) -> Result<Vec<Run>> {
        let query = RecordQuery {
            noun: Noun::Run,
            project: Some(Arc::clone(project)),
            states: Vec::new(),
            limit,
        };
        self.log
            .records(query)
            .await?
            .iter()
            .map(|record| read(&record.body))
            .collect()
    }

    /// Takes up the runs that had not ended when the hub did.
    pub async fn resume(self: &Arc<Self>) -> Result<usize> {
        let states = State::OPEN.iter().map(|state| state.as_str().to_owned()).collect();
        let query = RecordQuery {
            noun: Noun::Run,
            project: None,
            states,
            limit: 10_000,
        };
        let records = self.log.records(query).await?;
        for record in &records {
            let run = read(&record.body)?;
            recovery::settle(&*self.log, &run.id, 0).await?;
            let cancel = self.enter(&run.id, &run.thread)?;
            self.carry(run, cancel);
        }
        Ok(records.len())
    }

    /// Notes that a run waits for a person, or no longer does.
    pub async fn waits(&self, id: &str, waiting: bool) -> Result<()> {
        let next = if waiting { State::Waiting } else { State::Running };
        self.become_(self.get(id).await?, next).await.map(drop)
    }

    /// Lets no more agent begin. Runs that have no end in the log are taken up at the next start.
    pub fn suspend(&self) {
        self.agents.close();
    }

    fn carry(self: &Arc<Self>, run: Run, cancel: CancellationToken) {
        let runs = Arc::clone(self);
        tokio::spawn(async move {
            let id = Arc::clone(&run.id);
            if let Err(error) = runs.life(run, &cancel).await {
                tracing::error!(run = %id, error = %error.chain(), "a run could not be carried to its end");
            }
            runs.leave(&id);
        });
    }

    /// Everything between accepted and the end.
    async fn life(&self, mut run: Run, cancel: &CancellationToken) -> Result<()> {
        if run.environment.is_none() {
            let declared = self
                .environments
                .declare(&run.project, run.environment_wanted.clone())
                .await?;
            run.environment = Some(declared.id);
        }
        let run = self.become_(run, State::Starting).await?;
        let worked = self.work(&run, cancel).await;
        let cancelled = cancel.is_cancelled();
        // What others do in it ends with it, and everything has its end before the run has.
        cancel.cancel();
        self.dispatcher.none_of(&run.id).await;
        let run = self.get(&run.id).await?;
        let (next, run) = match worked {
            Ok(outcome) => (
                State::Completed,
                Run {
                    answer: Some(outcome.message),
                    ..run
                },
            ),
            Err(_) if cancelled => (State::Cancelled, run),
            Err(error) => (
                State::Failed,
                Run {
                    error: Some(error),
                    ..run
                },
            ),
        };
        self.become_(run, next).await.map(drop)
    }

    async fn work(&self, run: &Run, cancel: &CancellationToken) -> Result<Outcome, CallError> {
        let mut place = self.place(cancel).await?;
        let environment = self
            .environments
            .ready(run.environment.as_deref().unwrap_or_default())
            .await?;
        let scope = self.environments.scope(&environment)?;
        let run = &self.become_(run.clone(), State::Running).await?;
        if run.command.is_some() && recovery::has(&*self.log, &run.id, process::STARTED).await? {
            let message = "the hub ended while the agent's program ran, and a program cannot be taken up again; what it did is \
                           in the log and in its environment: run the prompt again";
            return Err(CallError::new(ErrorKind::Indeterminate, message));
        }
        let uuid = Uuid::parse_str(&run.id)
            .map_err(|_| CallError::new(ErrorKind::Internal, "the id of a run is not one of this hub"))?;
        let budget = Budget {
            steps: self.budget.steps,
            tokens: self.budget.tokens,
        };
        let principal = Principal {
            project: Arc::clone(&run.project),
            run: Some(Arc::clone(&run.id)),
            kind: PrincipalKind::Hub,
            id: "runs".into(),
            rights: Rights::all(),
        };
        let task = Task {
            thread: run.thread.to_string(),
            prompt: run.prompt.clone(),
            history: self.history(run).await?,
            max_steps: budget.steps,
            max_tokens: budget.tokens,
            settings: run.settings.clone(),
        };
        let name = CallName::new("agent", Some("run"));
        let mut call = Call::new(
            name,
            Json::of(&task)?,
            Arc::new(principal),
            Arc::clone(&scope),
            self.budget.time,
        );
        let life = Life {
            cancel: cancel.clone(),
            park_after: self.budget.park_after,
        };
        loop {
            let past = recovery::past(&*self.log, &run.id).await?;
            call.id = Uuid::now_v7();
            call.cancel = cancel.child_token();
            let drive = Drive {
                call: call.clone(),
                agent: &run.agent,
                command: run.command.as_deref(),
                environment: &environment,
                scope: Arc::clone(&scope),
                journal: Arc::new(Journal::new(uuid, budget, life.clone(), past)),
            };
            let driven = runtimes::drive(&self.dispatcher, &self.processes, drive).await;
            match driven.map_err(|error| self.out_of_time(error, call.deadline))? {
                Driven::Ended(outcome) => return Ok(outcome),
                Driven::Parked(awaited) => {
                    drop(place);
                    let parked = NewEvent::of("run.parked", serde_json::json!({}));
                    log::write(&*self.log, Append::one(Arc::clone(&run.id), parked)).await?;
                    // Its end is in the log, which is where the agent will find it.
                    drop(awaited.await);
                    place = self.place(cancel).await?;
                }
            }
        }
    }

    /// The error of a run that has used its time, where it is that.
    fn out_of_time(&self, error: CallError, deadline: Deadline) -> CallError {
        if error.kind != ErrorKind::Timeout || !deadline.passed() {
            return error;
        }
        let time = humantime::format_duration(self.budget.time);
        let message = format!(
            "the run has used its time of {time}: raise `time` under `[agent]` in waypost.toml, or give it a smaller task"
        );
        CallError::new(ErrorKind::Timeout, message)
    }

    /// A place among the agents that run at the same time.
    async fn place(&self, cancel: &CancellationToken) -> Result<tokio::sync::SemaphorePermit<'_>, CallError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CallError::new(ErrorKind::Cancelled, "the run was cancelled before it began")),
            place = self.agents.acquire() => match place {
                Ok(place) => Ok(place),
                // The hub stops: the run stays as it is in the log, and is taken up at the next start.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// What was said before in the thread.
    async fn history(&self, run: &Run) -> Result<Vec<Turn>> {
        let mut turns: Vec<Turn> = self
            .list(&run.project, 1000)
            .await?
            .into_iter()
            // Ids are ordered by time: what came later is not yet known when a run is taken up again.
            .filter(|other| other.thread == run.thread && other.id < run.id && other.state == State::Completed)
            .map(|other| Turn {
                prompt: other.prompt,
                answer: other.answer.unwrap_or_default(),
            })
            .collect();
        turns.reverse();
        Ok(turns)
    }

    async fn thread(&self, project: &Arc<str>, id: &str) -> Result<()> {
        let record = self.log.record(Noun::Thread, id).await?;
        if record.is_some_and(|record| record.project == *project) {
            return Ok(());
        }
        let message = format!(
            "there is no thread `{}`; a run without one starts its own",
            id.escape_debug()
        );
        Err(Error::new(ErrorKind::NotFound, message))
    }

    async fn accept(&self, run: &Run, new_thread: bool) -> Result<()> {
        let mut events = Vec::new();
        if new_thread {
            let body = serde_json::json!({ "id": run.thread, "project": run.project });
            let record = Record {
                noun: Noun::Thread,
                id: Arc::clone(&run.thread),
                project: Arc::clone(&run.project),
                state: "open".to_owned(),
                body: body.into(),
            };
            events.push(NewEvent::recorded("thread.opened", record));
        }
        events.push(event(run)?);
        let append = Append {
            run: Arc::clone(&run.id),
            expected_seq: Some(0),
            events,
        };
        log::write(&*self.log, append).await.map(drop)
    }

    async fn become_(&self, mut run: Run, next: State) -> Result<Run> {
        let changing = self
            .opened()
            .get(&run.id)
            .map(|open| Arc::clone(&open.changing))
            .unwrap_or_default();
        let _one = changing.lock().await;
        let now = self.get(&run.id).await?.state;
        if !now.may_become(next) {
            let message = format!("run {} is {} and cannot become {}", run.id, now.as_str(), next.as_str());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        run.state = next;
        log::write(&*self.log, Append::one(Arc::clone(&run.id), event(&run)?)).await?;
        Ok(run)
    }

    /// Enters a run among those under way. A thread runs one thing at a time.
    fn enter(&self, id: &Arc<str>, thread: &Arc<str>) -> Result<CancellationToken> {
        let mut open = self.opened();
        if let Some((other, _)) = open.iter().find(|(_, open)| open.thread == *thread) {
            let message = format!("thread `{thread}` is busy with run {other}; wait for its end or cancel it");
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let cancel = CancellationToken::new();
        open.insert(
            Arc::clone(id),
            Open {
                thread: Arc::clone(thread),
                cancel: cancel.clone(),
                changing: Arc::default(),
            },
        );
        Ok(cancel)
    }

    /// Frees a thread whose run has its end on disk, when the task that carried it is not yet done with itself.
    async fn forget_ended(&self, thread: &str) {
        let busy = self
            .opened()
            .iter()
            .find(|(_, open)| *open.thread == *thread)
            .map(|(id, _)| Arc::clone(id));
        if let Some(id) = busy
            && self.get(&id).await.is_ok_and(|run| run.state.ended())
        {
            self.leave(&id);
        }
    }

    /// Whoever still acts in it ends with it.
    fn leave(&self, id: &str) {
        if let Some(open) = self.opened().remove(id) {
            open.cancel.cancel();
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event(run: &Run) -> Result<NewEvent> {
    let body = Json::of(run).map_err(|error| Error::new(error.kind, error.message))?;
    let record = Record {
        noun: Noun::Run,
        id: Arc::clone(&run.id),
        project: Arc::clone(&run.project),
        state: run.state.as_str().to_owned(),
        body,
    };
    Ok(NewEvent::recorded(run.state.event(), record))
}

fn read(body: &Json) -> Result<Run> {
    body.to().map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("a record of a run cannot be read: {}", error.message),
        )
    })
}
