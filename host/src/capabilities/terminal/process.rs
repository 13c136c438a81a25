//! One command and what it starts: a process group, from the shell's start until it is reaped.
//!
//! The shell is watched without being reaped, so its process id cannot be given to a stranger while the group may still
//! be signalled. Not here: a sandbox. A command runs with the rights of the hub's own user, and a process that leaves
//! the group on purpose (`setsid`) is out of reach without privileges; one that keeps an output pipe open is at least
//! noticed, see [`Group::stop`].

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::output::{CHUNK, Source};
use crate::call::CallError;
use crate::config;
use crate::error::{Blame, ErrorKind};

/// How long the end of a killed group is awaited before it counts as escaped.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// What a command writes, both streams merged in the order of reading; ends when nobody holds either pipe any more.
pub(super) type Pipes = BoxStream<'static, (Source, Vec<u8>)>;

/// A running process group. Dropping it kills the group.
pub(super) struct Group {
    child: Child,
    id: Pid,
    ends: unix::Signal,
}

impl Group {
    /// Starts a command line in a folder, with an environment of its own and no input.
    pub(super) fn spawn(config: &config::Terminal, folder: &Path, command: &str) -> Result<(Self, Pipes), CallError> {
        let refused = |error| refusal(config, folder, command, &error);
        let ends = unix::signal(SignalKind::child()).map_err(refused)?;
        let mut child = Command::new(&config.shell)
            .arg("-c")
            .arg(command)
            .current_dir(folder)
            .env_clear()
            .env("PATH", &config.path)
            .env("HOME", folder)
            .env("TMPDIR", "/tmp")
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .envs(&config.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(refused)?;
        let pipes = stream::select(
            chunks(Source::Stdout, child.stdout.take()),
            chunks(Source::Stderr, child.stderr.take()),
        );
        match child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            Some(id) => Ok((Self { child, id, ends }, pipes.boxed())),
            None => Err(CallError::new(
                ErrorKind::Internal,
                "a command was started that has no process id",
            )),
        }
    }

    /// The group's id, which is the shell's process id; valid until [`Group::reap`].
    pub(super) fn id(&self) -> Pid {
        self.id
    }

    /// Sends a signal to every process of the group. One that has ended already is no failure.
    pub(super) fn signal(&self, signal: Signal) {
        // Refused only for a group without members.
        let _ = kill_process_group(self.id, signal);
    }

    /// Resolves when the shell has ended; it stays unreaped.
    pub(super) async fn exited(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while let Ok(None) = waitid(WaitId::Pid(self.id), options) {
            if self.ends.recv().await.is_none() {
                return;
            }
        }
    }

    /// Ends the group: SIGTERM, a grace, SIGKILL. Whether everything is known to have stopped: the shell has ended and
    /// nobody holds its output open. What is left unread is dropped.
    pub(super) async fn stop(&mut self, pipes: &mut Pipes, grace: Duration) -> bool {
        self.signal(Signal::TERM);
        let _ = timeout(grace, self.ended(pipes)).await;
        self.signal(Signal::KILL);
        timeout(AFTER_KILL, self.ended(pipes)).await.is_ok()
    }

    async fn ended(&mut self, pipes: &mut Pipes) {
        let drained = async { while pipes.next().await.is_some() {} };
        futures::join!(self.exited(), drained);
    }

    /// Kills what is left of the group and says how the shell, which has exited, ended.
    pub(super) async fn reap(mut self) -> Result<ExitStatus, CallError> {
        self.signal(Signal::KILL);
        self.child.wait().await.map_err(|error| {
            CallError::new(
                ErrorKind::Indeterminate,
                format!("the command ended, but its exit code is lost: {error}"),
            )
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // After the reaping the id may belong to a stranger.
        if self.child.id().is_some() {
            self.signal(Signal::KILL);
        }
    }
}

fn chunks<R>(source: Source, pipe: Option<R>) -> impl futures::Stream<Item = (Source, Vec<u8>)> + Send + use<R>
where
    R: AsyncRead + Send + Unpin,
{
    // A pipe that cannot be read any more has ended.
    stream::iter(pipe)
        .flat_map(|pipe| ReaderStream::with_capacity(pipe, CHUNK))
        .filter_map(move |read| async move { read.ok().map(|bytes| (source, bytes.into())) })
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

/// The name of a signal, as `kill -l` spells it with `SIG` before it.
pub(super) fn signal_name(number: i32) -> Cow<'static, str> {
    let name = match Signal::from_named_raw(number) {
        Some(Signal::HUP) => "SIGHUP",
        Some(Signal::INT) => "SIGINT",
        Some(Signal::QUIT) => "SIGQUIT",
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::TRAP) => "SIGTRAP",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::USR1) => "SIGUSR1",
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::USR2) => "SIGUSR2",
        Some(Signal::PIPE) => "SIGPIPE",
        Some(Signal::ALARM) => "SIGALRM",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::XCPU) => "SIGXCPU",
        Some(Signal::XFSZ) => "SIGXFSZ",
        Some(Signal::SYS) => "SIGSYS",
        _ => return Cow::Owned(format!("SIG{number}")),
    };
    Cow::Borrowed(name)
}
