//! A worker process, from its start until it is reaped.
//!
//! It is started and waited for by a thread of its own: the kernel kills it when that thread ends, so the thread must live
//! as long as the process, which no thread of a runtime promises.
//!
//! It is the hub's equal where there is not enough processor time for all, until it is put behind the others for as long as it
//! lives: in its group, where it has one ([`Behind`]), and by its priority. Not here: when that is ([`super::Workers`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, setpriority_pgrp, waitid};
use tokio::sync::{oneshot, watch};

use super::cgroup::{Behind, Bounds, Cgroups, Groups};
use crate::process::signal_name;

/// The priority of what is behind the others, as the kernel counts them: a tenth of the processor time of those that have 0.
pub(in crate::plugin) const PRIORITY: i32 = 10;

/// How a process ended, in words; none while it runs.
type End = Option<String>;

/// A process and its end. Dropping it kills the process.
pub(super) struct Process {
    id: Pid,
    /// The process until it is reaped; after that the id may belong to a stranger.
    child: Arc<Mutex<Option<Child>>>,
    ended: watch::Receiver<End>,
    groups: Groups,
    behind: Option<Behind>,
}

impl Process {
    /// Starts this program with this verb, and one socket as its standard input: nothing else is handed over. It is in its
    /// groups before anything is said to it.
    pub(super) async fn start(
        program: &Path,
        verb: &'static str,
        cgroups: &Arc<Cgroups>,
        bounds: Bounds,
    ) -> io::Result<(Self, UnixStream)> {
        let (started, start) = oneshot::channel();
        let (program, cgroups) = (program.to_owned(), Arc::clone(cgroups));
        thread::Builder::new()
            .name("waypost-worker".into())
            .spawn(move || live(&program, verb, &cgroups, &bounds, started))?;
        start
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended without a word")))
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.id.as_raw_pid().unsigned_abs()
    }

    /// What it is bounded by in its groups.
    pub(super) fn groups(&self) -> Groups {
        self.groups
    }

    /// The processor time that it has used; none when it has ended.
    pub(super) fn used(&self) -> Option<Duration> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_ref()?;
        let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(self.id.as_raw_pid())).ok()?;
        clock.now().ok().map(Duration::from)
    }

    /// Puts it behind the others. Blocks: the kernel may have to wait for its other processors.
    pub(super) fn put_behind(&self) -> io::Result<()> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.is_none() {
            return Ok(());
        }
        let lowered = setpriority_pgrp(Some(self.id), PRIORITY);
        match self.behind.as_ref().map(Behind::put) {
            Some(Ok(())) => Ok(()),
            _ => Ok(lowered?),
        }
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        if self.child.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            // It fails only for one that has ended, and that is what is wanted.
            let _ = kill_process_group(self.id, Signal::KILL);
        }
    }

    /// Resolves when it has ended, and says how.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok()
            .and_then(|end| end.clone())
            .unwrap_or_else(|| "ended".to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn live(
    program: &Path,
    verb: &'static str,
    cgroups: &Cgroups,
    bounds: &Bounds,
    started: oneshot::Sender<io::Result<(Process, UnixStream)>>,
) {
    let (mut child, socket) = match spawn(program, verb) {
        Ok(made) => made,
        Err(error) => return drop(started.send(Err(error))),
    };
    let Some(id) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        let _ = child.kill().and_then(|()| child.wait());
        return drop(started.send(Err(io::Error::other("it has no process id"))));
    };
    let held = cgroups.hold(child.id(), bounds);
    let child = Arc::new(Mutex::new(Some(child)));
    let (end, ended) = watch::channel(None);
    let process = Process {
        id,
        child: Arc::clone(&child),
        ended,
        groups: held.groups(),
        behind: held.behind(),
    };
    // When nobody wants it any more, dropping it has killed it.
    drop(started.send(Ok((process, socket))));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(id), options).is_err_and(|error| error == Errno::INTR) {}
    let reaped = child.lock().unwrap_or_else(PoisonError::into_inner).take();
    let status = reaped.map(|mut child| child.wait());
    let how = match status {
        Some(Ok(status)) if status.signal() == Some(Signal::KILL.as_raw()) && held.out_of_memory() => {
            "was killed for its memory, the limit `worker-memory` of [limits]".to_owned()
        }
        Some(Ok(status)) => in_words(status),
        _ => "ended".to_owned(),
    };
    // Whoever hears of its end finds nothing left of it.
    drop(held);
    end.send_replace(Some(how));
}

fn spawn(program: &Path, verb: &str) -> io::Result<(Child, UnixStream)> {
    let (ours, its) = UnixStream::pair()?;
    let child = Command::new(program)
        .arg0("waypost")
        .arg(verb)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(its)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals of the hub's terminal are the hub's.
        .process_group(0)
        .spawn()?;
    Ok((child, ours))
}

/// How a process ended, as in `was killed by SIGKILL`.
pub(in crate::plugin) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    }
}

/// This binary itself, also when another one was put in its place since it was started.
pub(in crate::plugin) fn this_binary() -> PathBuf {
    "/proc/self/exe".into()
}
