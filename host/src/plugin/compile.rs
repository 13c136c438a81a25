//! Compiling what strangers wrote: in a process of its own, which is confined like a worker and thrown away after it.
//!
//! The hub's side is [`Compiler`], the other one [`main`], which is `waypost compile`: a component on standard input, its
//! compiled code on standard output. So a component that makes the compiler run for ever, take all memory or break costs one
//! error; where the hub may make control groups, it has one. What comes back counts as the plugin's own code: it is kept under
//! the hub's keyed hash ([`crate::engine::cache`]) and runs where the operator lets the plugin run.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, setpriority_process};
use serde::{Deserialize, Serialize};
use wasmtime::component::Component;

use super::contract::loading;
use super::link;
use super::manifest::Role;
use super::worker::cgroup::{Bounds, Cgroups, Held};
use super::worker::confine::{self, Bound};
use super::worker::process::{PRIORITY, in_words, this_binary};
use super::worker::wire::{self, Fault, HEAD, Load, Start};
use crate::call::CallError;
use crate::config::{Config, Limits};
use crate::engine::{self, cache};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::Facts;

/// The most compiled code of one component, in bytes.
const CODE: usize = 1 << 30;

/// The longest of the frames before code and component.
const FRAME: usize = 1 << 20;

/// By the clock it may take so many times its processor time: it shares the machine.
const PATIENCE: u32 = 3;

/// Has components compiled.
#[derive(Clone, Debug)]
pub struct Compiler {
    program: PathBuf,
    start: Start,
    time: Duration,
    bounds: Bounds,
    /// Where its processes get groups of their own.
    groups: Option<Arc<Cgroups>>,
}

/// The first that a compiling process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    start: Start,
    load: Load,
    /// Seconds of processor time.
    seconds: u64,
}

/// The first that it says.
#[derive(Debug, Serialize, Deserialize)]
enum Verdict {
    /// So many bytes of code follow.
    Compiled(u64),
    /// The compiler says that this is no component.
    NotAComponent(String),
    /// It is one, but cannot be a plugin of this hub.
    Unfit(CallError),
    /// The process could not confine itself.
    Failed(String),
}

impl Compiler {
    /// As the operator configured it.
    pub fn of(config: &Config) -> Self {
        Self {
            program: config.worker.program.clone().unwrap_or_else(this_binary),
            ..Self::new(&config.limits)
        }
    }

    /// Within these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            program: this_binary(),
            start: Start {
                process_memory: limits.compile_memory as u64,
                ..Start::of(limits, 1)
            },
            time: limits.compile_time,
            bounds: Bounds::of_compiler(limits),
            groups: None,
        }
    }

    /// The same, with each of its processes in a group of its own.
    #[must_use]
    pub fn in_groups(self, groups: Arc<Cgroups>) -> Self {
        Self {
            groups: Some(groups),
            ..self
        }
    }

    /// The compiled code of a component. Blocks while it is compiled.
    pub(super) fn compile(&self, role: Role, facts: &Facts, bytes: &Arc<[u8]>) -> Result<Vec<u8>> {
        let task = Task {
            start: self.start.clone(),
            load: Load::of(0, role, facts, 0)?,
            seconds: self.time.as_secs().max(1),
        };
        let head = wire::encode(&task, FRAME)
            .map_err(|fault| Error::new(ErrorKind::Internal, format!("what is to be compiled: {fault}")))?;
        let cannot = |error: io::Error| {
            let message = format!(
                "plugin `{}` cannot be compiled: {} cannot be run",
                facts.id,
                self.program.display()
            );
            Error::new(ErrorKind::Unavailable, message)
                .blame(Blame::Operator)
                .because(error)
        };
        let child = self.spawn().map_err(cannot)?;
        // Before anything is said to it.
        let groups = self.groups.as_ref();
        let held = groups.map_or_else(Held::default, |groups| groups.hold(child.id(), &self.bounds));
        let patience = self.time.saturating_mul(PATIENCE);
        match exchange(child, &held, head, Arc::clone(bytes), patience).map_err(cannot)? {
            Ok((Verdict::Compiled(_), code)) => Ok(code),
            Ok((Verdict::NotAComponent(reason), _)) => Err(cache::not_a_component(&facts.id, bytes, &reason)),
            Ok((Verdict::Unfit(error), _)) => Err(error.into()),
            Ok((Verdict::Failed(why), _)) => {
                let message = format!(
                    "plugin `{}` cannot be compiled: {why}; `waypost doctor` shows what the machine lacks",
                    facts.id
                );
                Err(Error::new(ErrorKind::Unavailable, message).blame(Blame::Operator))
            }
            Err(how) => {
                let message = format!(
                    "plugin `{}` was not compiled: the process that compiles it {how}; its limits are `compile-time` and \
                     `compile-memory` of [limits]",
                    facts.id
                );
                Err(Error::new(ErrorKind::Limit, message).blame(Blame::Plugin))
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(&self.program)
            .arg0("waypost")
            .arg("compile")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
    }
}

/// Hands over the component and takes what comes back: a verdict and code, or how the process ended without one.
fn exchange(
    mut child: Child,
    held: &Held,
    head: Vec<u8>,
    bytes: Arc<[u8]>,
    most: Duration,
) -> io::Result<std::result::Result<(Verdict, Vec<u8>), String>> {
    let (done, answer) = sync_channel(1);
    let started = talk(&mut child, head, bytes, done);
    let answer = started.map(|()| answer.recv_timeout(most).ok());
    // It has said all that it has to say, has ended, or its time is over; and whatever it has started with it.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait()?;
    Ok(match answer? {
        None => Err(format!("was not done after {most:?}")),
        Some(Err(_)) if held.out_of_memory() => Err("was killed for its memory".to_owned()),
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err("answered something else".to_owned()),
        Some(Err(_)) => Err(in_words(status)),
        Some(Ok(said)) => Ok(said),
    })
}

/// Both directions at once, each in a thread: nobody waits for a process that neither reads nor writes.
fn talk(
    child: &mut Child,
    head: Vec<u8>,
    bytes: Arc<[u8]>,
    done: SyncSender<io::Result<(Verdict, Vec<u8>)>>,
) -> io::Result<()> {
    let (Some(mut to), Some(mut from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    thread::Builder::new().name("waypost-compile".into()).spawn(move || {
        // One that ends before it has read everything has a verdict already, or none.
        let _ = to.write_all(&head).and_then(|()| to.write_all(&bytes));
    })?;
    thread::Builder::new().name("waypost-compiled".into()).spawn(move || {
        let answer = read_frame::<Verdict>(&mut from).and_then(|verdict| {
            let mut code = Vec::new();
            let read = from.take(CODE as u64 + 1).read_to_end(&mut code)?;
            // What is cut short is no code: it may have ended in the middle.
            if read > CODE || matches!(verdict, Verdict::Compiled(whole) if whole != read as u64) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok((verdict, code))
        });
        drop(done.send(answer));
    })?;
    Ok(())
}

fn read_frame<T: serde::de::DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let invalid = |fault: Fault| io::Error::new(io::ErrorKind::InvalidData, fault.to_string());
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > FRAME {
        return Err(invalid(Fault::TooLong(length)));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    wire::decode(&frame).map_err(invalid)
}

/// Runs this process as a compiler. Must be called before the process has a second thread.
pub fn main() -> ExitCode {
    // Calls come first.
    let _ = setpriority_process(None, PRIORITY);
    match confine::begin().map_err(io::Error::other).and_then(|()| work()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let task: Task = read_frame(&mut input)?;
    let (verdict, code) = match confined(&task) {
        Err(why) => (Verdict::Failed(why), Vec::new()),
        Ok(wasmtime) => {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            compile(&wasmtime, &task, &bytes)
        }
    };
    let head = wire::encode(&verdict, FRAME).map_err(|fault| io::Error::other(fault.to_string()))?;
    let mut output = io::stdout().lock();
    output.write_all(&head)?;
    output.write_all(&code)?;
    output.flush()
}

/// The engine, and after it the walls.
fn confined(task: &Task) -> std::result::Result<wasmtime::Engine, String> {
    let wasmtime = wasmtime::Engine::new(&engine::settings(&task.start.limits()))
        .map_err(|error| format!("the WASM engine cannot start: {error:#}"))?;
    confine::apply(Bound {
        memory: task.start.process_memory,
        seconds: Some(task.seconds),
    })?;
    Ok(wasmtime)
}

fn compile(wasmtime: &wasmtime::Engine, task: &Task, bytes: &[u8]) -> (Verdict, Vec<u8>) {
    let component = match Component::new(wasmtime, bytes) {
        Ok(component) => component,
        Err(error) => return (Verdict::NotAComponent(format!("{error:#}")), Vec::new()),
    };
    let fits = task.load.facts().and_then(|facts| {
        loading::check(&facts.id, bytes)?;
        link::link(wasmtime, task.load.role, &facts, &component)
    });
    if let Err(error) = fits {
        return (Verdict::Unfit(error.into()), Vec::new());
    }
    match component.serialize() {
        Ok(code) => (Verdict::Compiled(code.len() as u64), code),
        Err(error) => (
            Verdict::Failed(format!("its code cannot be written: {error:#}")),
            Vec::new(),
        ),
    }
}
