//! A loop that is a program of its own: any that speaks Codebolt's agent protocol on `/codebolt`.
//!
//! It is started in the environment's folder with a small environment of its own, and known by the id of its seat, which
//! nobody else has. What it says on its socket ends the run: that it is done, or that it gives up. One that just ends, or
//! hangs up, has failed. It is not replayed: what it did is in the log, and what it had in mind is gone with it. Not here:
//! a sandbox. A program has the rights of the hub's own user; a provider can put a wall around it.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::process::Command;
use tokio::time::{sleep_until, timeout};

use super::{Drive, Driven};
use crate::call::{CallError, Json, PrincipalKind};
use crate::config::{self, Config};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::log::{self, Append, EventLog, NewEvent};
use crate::plugin::execute::{Outcome, Task};
use crate::process::{Group, Pipes, signal_name};
use crate::seats::{Agent, Door, Offer, Said, Seats};

/// What is in the log when a program has been started.
pub const STARTED: &str = "agent.started";

/// How much of what a program writes is kept for the person, in bytes.
const TAIL: usize = 2 << 10;

/// How long what a connected program said before its end may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The longest prompt that stands in a program's environment, too, in bytes.
const TASK: usize = 4 << 10;

/// What a prompt in a program's environment is without: the newer SDK writes it into the query of its socket as it is, where
/// the first ends the parameter, and the second the query. NUL ends a variable.
const NO_TASK: [char; 3] = ['&', '#', '\0'];

/// What programs are started with.
pub struct Processes {
    log: Arc<dyn EventLog>,
    seats: Seats,
    door: Arc<dyn Door>,
    config: config::Agent,
    /// Where programs are looked for.
    path: String,
    /// Where each has a folder for its temporary files.
    homes: PathBuf,
    frames: Frames,
}

/// The frames by which an agent is told to work and to stop, as its socket writes them.
#[derive(Clone, Copy)]
pub struct Frames {
    /// Of a prompt, its thread, and the name of the agent.
    pub start: fn(prompt: &str, thread: &str, agent: &str) -> Json,
    /// The stop.
    pub stop: fn() -> Json,
}

impl Processes {
    /// Programs under this configuration, who find the hub behind this door.
    pub fn new(
        log: Arc<dyn EventLog>,
        seats: Seats,
        door: Arc<dyn Door>,
        config: &Config,
        state: &Path,
        frames: Frames,
    ) -> Self {
        Self {
            log,
            seats,
            door,
            config: config.agent.clone(),
            path: config.terminal.path.clone(),
            homes: state.join("agents"),
            frames,
        }
    }

    /// The words of a command, if the first one is a program that can be found. One that is named by a path is looked for
    /// when it is started, in the environment's folder.
    pub fn command(&self, written: &str) -> Result<Vec<String>> {
        let words = shell_words::split(written).map_err(|error| {
            let message = format!("the command `{}` cannot be read: {error}", written.escape_debug());
            Error::new(ErrorKind::Invalid, message)
        })?;
        let found = words.first().is_some_and(|program| {
            program.contains('/') || std::env::split_paths(&self.path).any(|on_path| on_path.join(program).is_file())
        });
        if !found {
            let message = format!(
                "`{}` is no agent: neither a loaded plugin nor a program on the PATH of [terminal] ({})",
                words.first().map_or(written, String::as_str).escape_debug(),
                self.path
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(words)
    }
}

pub(super) async fn drive(processes: &Processes, command: &[String], drive: Drive<'_>) -> Result<Driven, CallError> {
    let port = processes.door.port().await?;
    let run: Arc<str> = drive.call.principal.run.clone().unwrap_or_default();
    let task: Task = drive.call.message.to()?;
    let mut principal = (*drive.call.principal).clone();
    principal.kind = PrincipalKind::Agent;
    principal.id = command.first().map_or("", String::as_str).into();
    let agent = Agent {
        principal: Arc::new(principal),
        scope: Arc::clone(&drive.scope),
        deadline: drive.call.deadline,
        cancel: drive.call.cancel.clone(),
        journal: Arc::clone(&drive.journal),
    };
    let start = (processes.frames.start)(&task.prompt, &task.thread, drive.agent);
    let offer = processes.seats.offer(agent, start)?;
    let home = Home::make(processes.homes.join(&*run))?;
    let program = Program {
        processes,
        drive: &drive,
        run: &run,
        task: &task,
        command,
        port,
    };
    let (group, pipes) = program.start(&offer.id, &home)?;
    let started = serde_json::json!({ "command": command, "process": group.id().as_raw_nonzero() });
    program.note(STARTED, started).await?;
    let mut watch = Watch {
        group,
        pipes,
        offer,
        tail: Vec::new(),
        talked: None,
        connected: false,
    };
    let end = watch.follow(&drive, processes).await;
    let (end, left) = watch.end(processes, end).await;
    program.note("agent.ended", left.shown()).await?;
    end.told(left, &drive, &processes.config).map(Driven::Ended)
}

/// One program, as it is to be started.
struct Program<'a> {
    processes: &'a Processes,
    drive: &'a Drive<'a>,
    run: &'a Arc<str>,
    task: &'a Task,
    command: &'a [String],
    port: u16,
}

impl Program<'_> {
    fn start(&self, seat: &str, home: &Home) -> Result<(Group, Pipes), CallError> {
        let Self { processes, drive, .. } = self;
        let (name, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| CallError::new(ErrorKind::Invalid, "the command of the agent is empty"))?;
        let mut command = Command::new(name);
        command
            .args(arguments)
            .current_dir(drive.scope.workspace.root())
            .env_clear()
            .env("PATH", &processes.path)
            .env("HOME", &home.0)
            .env("TMPDIR", &home.0)
            .env("LANG", "C.UTF-8")
            .env("SOCKET_PORT", self.port.to_string())
            .env("CODEBOLT_SERVER_URL", "localhost")
            .env("agentId", seat)
            .env("parentId", &*drive.call.principal.project)
            .env("parentAgentInstanceId", &**self.run)
            .env("instanceId", &**self.run)
            .env("RUN_ID", &**self.run)
            .env("threadId", &self.task.thread)
            .env("environmentId", &*drive.environment.id)
            .env("providerId", &*drive.environment.provider);
        if self.task.prompt.len() <= TASK && !self.task.prompt.contains(NO_TASK) {
            command.env("agentTask", &self.task.prompt);
        }
        command.envs(&processes.config.env);
        Group::start(command).map_err(|error| self.refusal(name, &error))
    }

    fn refusal(&self, name: &str, error: &io::Error) -> CallError {
        let message = format!(
            "the agent `{}` cannot be started in {}: {error}",
            name.escape_debug(),
            self.drive.environment.id
        );
        CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
    }

    async fn note(&self, kind: &'static str, body: serde_json::Value) -> Result<()> {
        let event = Append::one(Arc::clone(self.run), NewEvent::of(kind, body));
        log::write(&*self.processes.log, event).await.map(drop)
    }
}

/// A folder for one program's temporary files, gone with it.
struct Home(PathBuf);

impl Home {
    fn make(path: PathBuf) -> Result<Self> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                "a folder for the agent's temporary files cannot be made",
            )
            .because(error)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left is of no use to anyone, and a later run has a folder of its own.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What a run that is a program has come to.
enum End {
    /// It said that it is done.
    Done(Option<String>),
    /// It said that it gives up.
    GaveUp(String),
    /// It ended without a word.
    Exited,
    /// It hung up without a word.
    Left,
    /// It never connected.
    Silent,
    /// The run was cancelled, or its time is over.
    Stopped,
}

/// A program that runs.
struct Watch {
    group: Group,
    pipes: Pipes,
    offer: Offer,
    tail: Vec<u8>,
    talked: Option<String>,
    connected: bool,
}

impl Watch {
    /// Follows a program until something decides about its run.
    async fn follow(&mut self, drive: &Drive<'_>, processes: &Processes) -> End {
        let connect_by = tokio::time::Instant::now() + processes.config.connect;
        loop {
            tokio::select! {
                biased;
                said = self.offer.said.recv() => if let Some(end) = self.hear(said) { return end },
                () = drive.call.cancel.cancelled() => return End::Stopped,
                () = sleep_until(drive.call.deadline.instant().into()) => return End::Stopped,
                () = sleep_until(connect_by), if !self.connected => return End::Silent,
                Some((_, bytes)) = self.pipes.next() => self.keep(&bytes),
                () = self.group.exited() => return self.last_words().await,
            }
        }
    }

    fn hear(&mut self, said: Option<Said>) -> Option<End> {
        match said? {
            Said::Connected => self.connected = true,
            Said::Talked(text) => self.talked = Some(text),
            Said::Done(message) => return Some(End::Done(message)),
            Said::GaveUp(why) => return Some(End::GaveUp(why)),
            Said::Left => return Some(End::Left),
        }
        None
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
    }

    /// What a program that has ended said before: it may still be on its way.
    async fn last_words(&mut self) -> End {
        let heard = async {
            while self.connected {
                let said = self.offer.said.recv().await;
                match self.hear(said) {
                    // It hung up because it ended.
                    Some(End::Left) => break,
                    None if self.offer.said.is_closed() => break,
                    None => {}
                    end => return end,
                }
            }
            None
        };
        timeout(LAST_WORDS, heard).await.ok().flatten().unwrap_or(End::Exited)
    }

    /// Ends the program, politely where it can still hear, and says what is left of it.
    async fn end(mut self, processes: &Processes, end: End) -> (End, Left) {
        let grace = processes.config.grace;
        let end = match end {
            // It hears that on its socket, and may say good-bye there.
            End::Stopped if self.connected => {
                drop(self.offer.orders.try_send((processes.frames.stop)()));
                drop(timeout(grace, self.good_bye()).await);
                End::Stopped
            }
            // Whoever ends by itself tells more by its exit code than by a signal's.
            End::Exited | End::Left if timeout(grace, self.group.exited()).await.is_ok() => End::Exited,
            end => end,
        };
        while let Some(Some((_, bytes))) = self.pipes.next().now_or_never() {
            self.keep(&bytes);
        }
        self.group.stop(&mut self.pipes, grace).await;
        let status = self.group.reap().await;
        let left = Left {
            status: status.map_or_else(|_| "an end that is not known".to_owned(), told),
            output: String::from_utf8_lossy(&self.tail).trim().to_owned(),
            talked: self.talked,
        };
        (end, left)
    }

    /// Resolves when a program that was told to stop has done so.
    async fn good_bye(&mut self) {
        loop {
            tokio::select! {
                said = self.offer.said.recv() => match self.hear(said) {
                    None if !self.offer.said.is_closed() => {}
                    _ => return,
                },
                () = self.group.exited() => return,
            }
        }
    }
}

/// What is left of a program that has ended.
struct Left {
    /// How it ended, for people.
    status: String,
    /// The end of what it wrote.
    output: String,
    /// What it said last.
    talked: Option<String>,
}

impl Left {
    fn shown(&self) -> serde_json::Value {
        serde_json::json!({ "status": self.status, "output": self.output })
    }

    /// The last line that it wrote, to be put behind an error.
    fn last_line(&self) -> String {
        let line = self.output.lines().rev().map(str::trim).find(|line| !line.is_empty());
        line.map(|line| format!(": {line}")).unwrap_or_default()
    }
}

impl End {
    fn told(self, left: Left, drive: &Drive<'_>, config: &config::Agent) -> Result<Outcome, CallError> {
        let (status, line) = (&left.status, left.last_line());
        let failed = |kind, message: String| Err(CallError::new(kind, message).blame(Blame::Plugin));
        match self {
            Self::Done(message) => Ok(Outcome {
                message: message.or(left.talked).unwrap_or_default(),
            }),
            Self::GaveUp(why) => failed(ErrorKind::Other, format!("the agent gave up: {why}")),
            Self::Exited => {
                let message = format!("the agent process ended ({status}) before it said that it was done{line}");
                failed(ErrorKind::Other, message)
            }
            Self::Left => {
                let message = format!("the agent hung up before it said that it was done ({status}){line}");
                failed(ErrorKind::Other, message)
            }
            Self::Silent => {
                let limit = humantime::format_duration(config.connect);
                let message = format!(
                    "the agent did not connect on /codebolt within {limit}, the limit `connect` of [agent]{line}"
                );
                failed(ErrorKind::Unavailable, message)
            }
            Self::Stopped => Err(CallError::stopped(&drive.call)),
        }
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => signal_name(signal).into_owned(),
        (None, None) => "an end that is not known".to_owned(),
    }
}
