//! Git, run as a process: a fixed argument vector, a fixed small environment, a process group that dies with its call.
//!
//! No configuration is read but what stands in [`SETTINGS`] and in the repository, which the hub alone writes. There are
//! no hooks, no helpers and no transport other than a file. What git says on standard error goes to the log: it may name
//! paths outside the workspace. Not here: what is asked of git.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::call::CallError;
use crate::error::{Blame, ErrorKind};

/// Where git is looked for.
pub(super) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is kept of standard error.
const STDERR: u64 = 8 << 10;

/// What holds for every command. Objects are on disk before a reference names them.
const SETTINGS: [&str; 14] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.fsync=all",
    "core.bigFileThreshold=16m",
    "core.attributesFile=/dev/null",
    "protocol.allow=never",
    "protocol.file.allow=always",
    "fetch.fsckObjects=true",
    "transfer.fsckObjects=true",
    "fetch.recurseSubmodules=false",
    "pack.threads=1",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.graftFileDeprecated=false",
];

/// Holds the processes of one call, so that they can be ended from another thread at any moment.
#[derive(Debug, Default)]
pub(super) struct Leash(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    stopped: bool,
    /// Groups whose leader is not reaped yet: their ids belong to nobody else.
    groups: Vec<Pid>,
}

impl Leash {
    /// Kills what runs; nothing is started after it.
    pub(super) fn stop(&self) {
        let mut held = self.held();
        held.stopped = true;
        for group in &held.groups {
            // Refused only for a group without members.
            let _ = kill_process_group(*group, Signal::KILL);
        }
    }

    /// Whether it was told to stop.
    pub(super) fn stopped(&self) -> bool {
        self.held().stopped
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Pid)> {
        let mut held = self.held();
        if held.stopped {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = command.spawn()?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("a process without an id"))?;
        held.groups.push(id);
        Ok((child, id))
    }

    /// Waits for the leader without reaping it, then lets go of the group and reaps it.
    fn reap(&self, child: &mut Child, id: Pid) -> io::Result<ExitStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(id), options) {}
        let mut held = self.held();
        let _ = kill_process_group(id, Signal::KILL);
        held.groups.retain(|group| *group != id);
        child.wait()
    }
}

/// Git for one call and one repository.
pub(super) struct Git {
    /// Where git is looked for.
    pub(super) path: Arc<str>,
    /// What holds its processes.
    pub(super) leash: Arc<Leash>,
    /// The bare repository.
    pub(super) repository: PathBuf,
}

/// How a command ended.
pub(super) struct Ended {
    /// Whether it said that all is well.
    pub(super) success: bool,
    /// What it wrote to standard output.
    pub(super) stdout: Vec<u8>,
}

impl Ended {
    /// The one word that it wrote.
    pub(super) fn word(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

impl Git {
    /// Starts a command.
    pub(super) fn start<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Process, CallError> {
        let mut command = self.command();
        command.arg("--git-dir").arg(&self.repository).args(args);
        self.run(&mut command)
    }

    /// Makes a bare repository in a folder that does not exist.
    pub(super) fn init(&self, folder: &Path) -> Result<(), CallError> {
        let mut command = self.command();
        command.args(["init", "--quiet", "--bare", "--template=", "--object-format=sha1"]);
        command.args(["--initial-branch=narrative"]).arg(folder);
        let ended = self.run(&mut command)?.finish(&[], STDERR as usize)?;
        if ended.success {
            Ok(())
        } else {
            Err(self.failed("make a repository"))
        }
    }

    /// Runs a command to its end, with this input and at most so much output.
    pub(super) fn output<A: AsRef<OsStr>>(&self, args: &[A], input: &[u8], limit: usize) -> Result<Ended, CallError> {
        self.start(args)?.finish(input, limit)
    }

    /// Runs a command that has to succeed.
    pub(super) fn must<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        input: &[u8],
        limit: usize,
        what: &str,
    ) -> Result<Ended, CallError> {
        let ended = self.output(args, input, limit)?;
        if ended.success {
            Ok(ended)
        } else {
            Err(self.failed(what))
        }
    }

    /// The error of a command that did not do what it always can.
    pub(super) fn failed(&self, what: &str) -> CallError {
        failed(&self.leash, what)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", &*self.path)
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
    }

    fn run(&self, command: &mut Command) -> Result<Process, CallError> {
        let (mut child, id) = self.leash.spawn(command).map_err(|error| self.refusal(&error))?;
        let said = child
            .stderr
            .take()
            .map(|stderr| std::thread::spawn(move || beginning(stderr)));
        Ok(Process {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            id,
            said,
            leash: Arc::clone(&self.leash),
            reaped: false,
        })
    }

    fn refusal(&self, error: &io::Error) -> CallError {
        if self.leash.stopped() {
            return stopped();
        }
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "snapshots need git, and there is none in {}; install the package `git`",
                self.path
            ),
            _ => format!("git cannot be started: {error}; check its installation"),
        };
        CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
    }
}

/// A command that runs. Dropping it kills its group.
pub(super) struct Process {
    child: Child,
    id: Pid,
    said: Option<JoinHandle<String>>,
    leash: Arc<Leash>,
    reaped: bool,
    /// Its input; dropping it is the end of the input.
    pub(super) stdin: Option<ChildStdin>,
    /// Its output.
    pub(super) stdout: Option<ChildStdout>,
}

impl Process {
    /// Writes the input, reads the output and waits for the end. The input must be one that git reads whole at first,
    /// or so small that a pipe holds it.
    pub(super) fn finish(mut self, input: &[u8], limit: usize) -> Result<Ended, CallError> {
        if let Some(mut stdin) = self.stdin.take() {
            // A command that ends before it has read everything has its own way to say why.
            let _ = stdin.write_all(input);
        }
        let mut stdout = Vec::new();
        if let Some(pipe) = self.stdout.take() {
            let read = pipe.take(limit as u64 + 1).read_to_end(&mut stdout);
            read.map_err(|_| failed(&self.leash, "be read"))?;
        }
        if stdout.len() > limit {
            let message = format!("git answers more than {limit} bytes; use a smaller workspace or bundle");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        let success = self.end()?;
        Ok(Ended { success, stdout })
    }

    /// Closes the pipes and waits for the end; whether git says that all is well.
    pub(super) fn end(mut self) -> Result<bool, CallError> {
        drop((self.stdin.take(), self.stdout.take()));
        self.reaped = true;
        let status = self.leash.reap(&mut self.child, self.id);
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        if self.leash.stopped() {
            return Err(stopped());
        }
        let status = status.map_err(|error| CallError::new(ErrorKind::Internal, format!("git is lost: {error}")))?;
        if !status.success() {
            tracing::debug!(%status, said = ?said, "git did not succeed");
        }
        Ok(status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process_group(self.id, Signal::KILL);
            let _ = self.leash.reap(&mut self.child, self.id);
        }
    }
}

/// The beginning of what a process says; the rest is read too, so that it never waits.
fn beginning(mut stderr: ChildStderr) -> String {
    let mut said = Vec::new();
    let _ = Read::by_ref(&mut stderr).take(STDERR).read_to_end(&mut said);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&said).into_owned()
}

/// The place of a call that was told to stop; the handler puts the call's own end there.
pub(super) fn stopped() -> CallError {
    CallError::new(ErrorKind::Cancelled, "stopped")
}

fn failed(leash: &Leash, what: &str) -> CallError {
    if leash.stopped() {
        return stopped();
    }
    let message = format!("git could not {what}; its own words are in the hub's log at the level `debug`");
    CallError::new(ErrorKind::Other, message)
}
