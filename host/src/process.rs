//! One program and what it starts: a process group, from its leader's start until that is reaped.
//!
//! The leader is watched without being reaped, so its process id cannot be given to a stranger while the group may still
//! be signalled. Not here: a sandbox. A program runs with the rights of the hub's own user, and a process that leaves
//! the group on purpose (`setsid`) is out of reach without privileges; one that keeps an output pipe open is at least
//! noticed, see [`Group::stop`].

use std::borrow::Cow;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

/// The most that is read from a pipe at once, in bytes.
pub const CHUNK: usize = 16 << 10;

/// How long the end of a killed group is awaited before it counts as escaped.
pub const AFTER_KILL: Duration = Duration::from_secs(2);

/// Which stream of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a program writes, both streams merged in the order of reading; ends when nobody holds either pipe any more.
pub type Pipes = BoxStream<'static, (Source, Vec<u8>)>;

/// A running process group. Dropping it kills the group.
pub struct Group {
    child: Child,
    id: Pid,
    ends: unix::Signal,
}

impl Group {
    /// Starts a program as the leader of a group of its own, without input.
    pub fn start(command: Command) -> io::Result<(Self, Pipes)> {
        Self::start_with(command, Stdio::null())
    }

    /// The same with this input, and without a way to more rights than the hub has (`no_new_privs`). Blocks for a moment.
    pub fn start_bound(command: Command, input: Stdio) -> io::Result<(Self, Pipes)> {
        let runtime = tokio::runtime::Handle::current();
        let start = move || {
            let _entered = runtime.enter();
            nix::sys::prctl::set_no_new_privs()?;
            Self::start_with(command, input)
        };
        // What a program inherits belongs to the thread that starts it, so that one is not used for anything else.
        let thread = thread::Builder::new().name("waypost-program".into()).spawn(start)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it met a defect")))
    }

    fn start_with(mut command: Command, input: Stdio) -> io::Result<(Self, Pipes)> {
        let ends = unix::signal(SignalKind::child())?;
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pipes = stream::select(
            chunks(Source::Stdout, child.stdout.take()),
            chunks(Source::Stderr, child.stderr.take()),
        );
        match child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            Some(id) => Ok((Self { child, id, ends }, pipes.boxed())),
            None => Err(io::Error::other("it was started and has no process id")),
        }
    }

    /// The group's id, which is the leader's process id; valid until [`Group::reap`].
    pub fn id(&self) -> Pid {
        self.id
    }

    /// Sends a signal to every process of the group. One that has ended already is no failure.
    pub fn signal(&self, signal: Signal) {
        // Refused only for a group without members.
        let _ = kill_process_group(self.id, signal);
    }

    /// Resolves when the leader has ended; it stays unreaped.
    pub async fn exited(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while let Ok(None) = waitid(WaitId::Pid(self.id), options) {
            if self.ends.recv().await.is_none() {
                return;
            }
        }
    }

    /// Ends the group: SIGTERM, a grace, SIGKILL. Whether everything is known to have stopped: the leader has ended and
    /// nobody holds its output open. What is left unread is dropped.
    pub async fn stop(&mut self, pipes: &mut Pipes, grace: Duration) -> bool {
        self.signal(Signal::TERM);
        let _ = timeout(grace, self.ended(pipes)).await;
        self.signal(Signal::KILL);
        timeout(AFTER_KILL, self.ended(pipes)).await.is_ok()
    }

    async fn ended(&mut self, pipes: &mut Pipes) {
        let drained = async { while pipes.next().await.is_some() {} };
        futures::join!(self.exited(), drained);
    }

    /// Kills what is left of the group and says how the leader, which has exited, ended.
    pub async fn reap(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.child.wait().await
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

/// The name of a signal, as `kill -l` spells it with `SIG` before it.
pub fn signal_name(number: i32) -> Cow<'static, str> {
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
