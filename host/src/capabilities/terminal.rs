//! The built-in terminal: command lines run by the configured shell in the call's workspace.
//!
//! What a call starts ends with the call. The shell and everything in its process group are gone before the reply is
//! given, also when the call is cancelled, runs out of time or is simply dropped; work that shall go on is a call of its
//! own that stays open, as `executeCommandRunUntilInterrupt`. A command gets no input and nothing of the hub's own
//! environment; what it writes is streamed, and kept up to a bound.
//!
//! Deliberately not a sandbox: a command reads and writes whatever the hub's user may. It is not a terminal either: no
//! tty, no screen. And the group is the limit of our reach: a process that makes a session of its own (`setsid`, a
//! daemon) leaves it, and without privileges the hub cannot follow. While such a process holds the command's output
//! open, a call that had to be stopped says `indeterminate` instead of claiming an end; when it closed its output too, it
//! outlives the call unseen. Where that matters, route these kinds to an environment with a wall around it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::output::{Chunk, Output, pieces};
use crate::call::{Call, CallError, Effect, Handler, Json, Principal, Sink};
use crate::config;
use crate::error::{Blame, ErrorKind};
use crate::process::{Group, Pipes, Source, signal_name};

mod output;

/// What it answers, with the effect class of each.
pub const KINDS: &[super::Flat] = &[
    ("executeCommand", &[("", Effect::NonIdempotent)]),
    ("executeCommandWithStream", &[("", Effect::NonIdempotent)]),
    ("executeCommandRunUntilError", &[("", Effect::NonIdempotent)]),
    ("executeCommandRunUntilInterrupt", &[("", Effect::NonIdempotent)]),
    ("sendInterruptToTerminal", &[("", Effect::Idempotent)]),
];

/// How long the output of processes that the shell left behind is awaited before they are killed.
const LINGER: Duration = Duration::from_millis(500);

/// How long each read of what a killed group left in its pipes may take.
const DRAIN: Duration = Duration::from_millis(250);

/// The most that can stand in two pipes, in bytes; what comes after that was written by a process that got away.
const LEFT_IN_PIPES: usize = 2 << 20;

/// The handler of the `executeCommand` family.
pub struct Terminal {
    config: config::Terminal,
    running: Running,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ExecuteCommand {
    command: String,
    timeout_ms: Option<u64>,
    #[serde(default)]
    return_empty_string_on_success: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandLine {
    command: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Interrupt {}

#[derive(Serialize)]
struct Interrupted {
    interrupted: usize,
    success: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finished {
    exit_code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<Cow<'static, str>>,
    stdout: String,
    stderr: String,
    truncated: bool,
    success: bool,
}

impl Handler for Terminal {
    fn handle<'a>(&'a self, call: &'a Call, sink: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            match &*call.name.kind {
                "executeCommand" => self.run(call, sink, call.message.to()?).await,
                "executeCommandWithStream" | "executeCommandRunUntilError" | "executeCommandRunUntilInterrupt" => {
                    let CommandLine { command } = call.message.to()?;
                    let asked = ExecuteCommand {
                        command,
                        timeout_ms: None,
                        return_empty_string_on_success: false,
                    };
                    self.run(call, sink, asked).await
                }
                "sendInterruptToTerminal" => {
                    let Interrupt {} = call.message.to()?;
                    let interrupted = self.running.interrupt(&call.principal);
                    Json::of(&Interrupted {
                        interrupted,
                        success: interrupted > 0,
                    })
                }
                _ => Err(CallError::new(
                    ErrorKind::NotFound,
                    format!("the terminal does not know `{}`", call.name),
                )),
            }
        })
    }
}

impl Terminal {
    /// A terminal in which nothing runs yet.
    pub fn new(config: config::Terminal) -> Self {
        Self {
            config,
            running: Running::default(),
        }
    }

    async fn run(&self, call: &Call, sink: &Sink, asked: ExecuteCommand) -> Result<Json, CallError> {
        check(&asked)?;
        if call.cancel.is_cancelled() || call.deadline.passed() {
            return Err(CallError::stopped(call));
        }
        let folder = call.scope.workspace.root();
        let (mut group, mut pipes) = spawn(&self.config, folder, &asked.command)?;
        // Declared after the group and so dropped before it: an id in the table is never one that was given away.
        let entry = self.running.enter(group.id(), &call.principal);
        let mut outputs = Outputs::new(self.config.output);
        let followed = tokio::select! {
            followed = follow(&mut group, &mut pipes, &mut outputs, sink) => followed,
            error = stop_asked(call, sink, asked.timeout_ms) => Err(error),
        };
        let stopped = match followed {
            Ok(()) => true,
            Err(_) => group.stop(&mut pipes, self.config.grace).await,
        };
        drop(entry);
        if !stopped {
            return Err(escaped(call));
        }
        let status = group.reap().await.map_err(|error| {
            let message = format!("the command ended, but its exit code is lost: {error}");
            CallError::new(ErrorKind::Indeterminate, message)
        })?;
        followed?;
        Json::of(&outputs.finish(status, asked.return_empty_string_on_success))
    }
}

fn check(asked: &ExecuteCommand) -> Result<(), CallError> {
    let problem = if asked.command.trim().is_empty() {
        "`command` is empty; give a command line"
    } else if asked.command.contains('\0') {
        "`command` holds a NUL character, which no shell takes; remove it"
    } else if asked.timeout_ms == Some(0) {
        "`timeoutMs` is 0; give at least 1, or leave it out for the call's own limit"
    } else {
        return Ok(());
    };
    Err(CallError::new(ErrorKind::Invalid, problem))
}

/// Resolves with the error of the call when the command must not run on.
async fn stop_asked(call: &Call, sink: &Sink, limit: Option<u64>) -> CallError {
    let over = async {
        match limit {
            Some(limit) => sleep(Duration::from_millis(limit)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = call.cancel.cancelled() => CallError::stopped(call),
        () = sleep_until(call.deadline.instant().into()) => CallError::stopped(call),
        () = over => {
            let limit = limit.unwrap_or_default();
            let message = format!("{} did not end within its timeoutMs of {limit} ms and was stopped", call.name);
            CallError::new(ErrorKind::Timeout, message)
        }
        () = sink.closed() => CallError::new(ErrorKind::Cancelled, "the caller stopped reading the answer"),
    }
}

fn escaped(call: &Call) -> CallError {
    let message = format!(
        "{} was stopped, but a process that it started left its process group or cannot be killed, and may still run; \
         look for it on the hub's machine",
        call.name
    );
    CallError::new(ErrorKind::Indeterminate, message)
}

/// Starts a command line in a folder, with an environment of its own.
fn spawn(config: &config::Terminal, folder: &Path, command: &str) -> Result<(Group, Pipes), CallError> {
    let mut shell = Command::new(&config.shell);
    shell
        .arg("-c")
        .arg(command)
        .current_dir(folder)
        .env_clear()
        .env("PATH", &config.path)
        .env("HOME", folder)
        .env("TMPDIR", "/tmp")
        .env("LANG", "C.UTF-8")
        .env("TERM", "dumb")
        .envs(&config.env);
    Group::start(shell).map_err(|error| refusal(config, folder, command, &error))
}

fn refusal(config: &config::Terminal, folder: &Path, command: &str, error: &io::Error) -> CallError {
    if !folder.is_dir() {
        let message = "the workspace folder of this call is gone; run the command in an environment that is ready";
        return CallError::new(ErrorKind::Unavailable, message);
    }
    if error.kind() == io::ErrorKind::ArgumentListTooLong {
        let message = format!(
            "a command of {} bytes is longer than this system takes; write it to a file and run that",
            command.len()
        );
        return CallError::new(ErrorKind::Invalid, message);
    }
    let message = format!(
        "the shell `{}` cannot be started: {error}; set `[terminal] shell` in waypost.toml to one that can",
        config.shell.display()
    );
    CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
}

/// Carries the output until the command has ended and nothing more can come.
async fn follow(group: &mut Group, pipes: &mut Pipes, outputs: &mut Outputs, sink: &Sink) -> Result<(), CallError> {
    let killed = CancellationToken::new();
    let leftovers = async {
        group.exited().await;
        sleep(LINGER).await;
        group.signal(Signal::KILL);
        killed.cancel();
        std::future::pending().await
    };
    // The reading is one future from beginning to end: dropped in between, it would lose the chunk it holds.
    tokio::select! {
        carried = outputs.carry(pipes, sink, &killed) => carried?,
        () = leftovers => {}
    }
    // A shell may close its output and go on.
    group.exited().await;
    Ok(())
}

/// Both streams of a command.
struct Outputs {
    stdout: Output,
    stderr: Output,
}

impl Outputs {
    fn new(limit: usize) -> Self {
        Self {
            stdout: Output::new(limit),
            stderr: Output::new(limit),
        }
    }

    async fn carry(&mut self, pipes: &mut Pipes, sink: &Sink, killed: &CancellationToken) -> Result<(), CallError> {
        let mut left = LEFT_IN_PIPES;
        while left > 0 {
            let read = tokio::select! {
                read = pipes.next() => read,
                () = async { killed.cancelled().await; sleep(DRAIN).await } => None,
            };
            let Some((stream, bytes)) = read else { break };
            if killed.is_cancelled() {
                left = left.saturating_sub(bytes.len());
            }
            let text = match stream {
                Source::Stdout => self.stdout.push(&bytes),
                Source::Stderr => self.stderr.push(&bytes),
            };
            emit(sink, stream, &text).await?;
        }
        emit(sink, Source::Stdout, &self.stdout.finish()).await?;
        emit(sink, Source::Stderr, &self.stderr.finish()).await
    }

    fn finish(self, status: ExitStatus, empty_on_success: bool) -> Finished {
        let signal = status.signal();
        let exit_code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or_default());
        let success = status.success();
        let truncated = self.stdout.kept.truncated() || self.stderr.kept.truncated();
        let stdout = if success && empty_on_success {
            String::new()
        } else {
            self.stdout.kept.into_text()
        };
        let stderr = self.stderr.kept.into_text();
        Finished {
            exit_code,
            signal: signal.map(signal_name),
            stdout,
            stderr,
            truncated,
            success,
        }
    }
}

async fn emit(sink: &Sink, stream: Source, text: &str) -> Result<(), CallError> {
    for text in pieces(text) {
        sink.emit(Json::of(&Chunk { stream, text })?).await?;
    }
    Ok(())
}

/// The groups that run now, with who started them.
#[derive(Default)]
struct Running(Mutex<HashMap<Pid, Owner>>);

struct Owner {
    project: Arc<str>,
    run: Option<Arc<str>>,
}

impl Running {
    fn table(&self) -> MutexGuard<'_, HashMap<Pid, Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, group: Pid, principal: &Principal) -> Entry<'_> {
        self.table().insert(
            group,
            Owner {
                project: principal.project.clone(),
                run: principal.run.clone(),
            },
        );
        Entry { running: self, group }
    }

    /// Interrupts what the principal's run has running, or without a run its whole project; how many that were.
    fn interrupt(&self, principal: &Principal) -> usize {
        let mine = |owner: &Owner| {
            owner.project == principal.project && (principal.run.is_none() || owner.run == principal.run)
        };
        let table = self.table();
        let groups = table.iter().filter(|(_, owner)| mine(owner));
        groups
            .filter(|(group, _)| kill_process_group(**group, Signal::INT).is_ok())
            .count()
    }
}

/// A line of the table of running groups, for as long as the group's id is its own.
struct Entry<'a> {
    running: &'a Running,
    group: Pid,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.running.table().remove(&self.group);
    }
}

#[cfg(test)]
mod tests;
