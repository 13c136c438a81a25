//! `waypost:process`: a plugin runs programs of the operator's.
//!
//! Which program and with which arguments is a matter of the grant (`config/programs.rs`); what is executed is what was
//! digested (`process/image.rs`); and what it starts ends with it (`process.rs` of the host). Not here: a sandbox for the
//! program, which has the rights of the hub's user, and shells, which nobody runs.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use wasmtime::component::Resource;

use super::bindings::waypost::process::programs;
use super::{CallContext, CallState, Facts, WitResult, files};
use crate::call::{CallError, Deadline};
use crate::config::{self, ARGUMENT_BYTES, ARGUMENTS};
use crate::error::{Blame, Error, ErrorKind};
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;
use crate::process::{AFTER_KILL, Group, Pipes, Source, signal_name};
use crate::text::shortened;

mod image;

use image::Image;
pub use image::digest;

/// The most characters of arguments that stand in an error.
const SHOWN: usize = 200;

/// What a plugin asks of this import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start this.
    Start(Asked),
    /// The next piece of what a program writes.
    Next(u32),
    /// How a program ended.
    Finish(u32),
    /// Nothing more of a program.
    Close(u32),
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The program's name in the grant.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its standard input.
    pub input: Vec<u8>,
    /// The folder that it is run in, by its name in the grant `files`.
    pub folder: Option<String>,
    /// A time limit of its own, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The number of a program that runs.
    Started(u32),
    /// A piece of what it writes; none at the end.
    Piece(Option<Piece>),
    /// How it ended.
    Ended(Ending),
    /// It is killed.
    Closed,
}

/// A piece of what a program writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// To its standard output.
    Stdout(Vec<u8>),
    /// To its standard error.
    Stderr(Vec<u8>),
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(String),
}

/// Where the programs of all plugins run.
pub struct Room {
    places: Arc<Semaphore>,
    most: usize,
    /// Where each has a folder of its own.
    homes: PathBuf,
}

impl Room {
    /// A room for so many programs, with their folders in this one, which belongs to nobody else.
    pub fn new(most: usize, homes: PathBuf) -> Self {
        // Left there by a hub that was cut off.
        drop(std::fs::remove_dir_all(&homes));
        Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            homes,
        }
    }

    /// No room at all, for a plugin that is tested without a hub.
    pub fn none() -> Self {
        Self {
            places: Arc::new(Semaphore::new(0)),
            most: 0,
            homes: PathBuf::new(),
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, CallError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            if self.most == 0 {
                let message = "there are no programs here: a plugin that is tested without a hub runs none";
                return CallError::new(ErrorKind::Unavailable, message);
            }
            let message = format!(
                "plugins run {} programs, the limit `programs` of [limits]; try again later",
                self.most
            );
            CallError::new(ErrorKind::Limit, message)
        })
    }
}

/// Which program was run; with which arguments is not kept apart.
pub(super) fn uses(request: &Request, tell: Tell<'_>) {
    if let Request::Start(asked) = request {
        tell("process", Term::program(&asked.program));
    }
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    match request {
        Request::Start(asked) => {
            let most = context.plugin.limits.process_running;
            if context.held().programs.iter().filter(|program| program.runs()).count() >= most {
                let message = format!(
                    "plugin `{}` runs {most} programs, the limit `process-running` of [limits.plugin]; finish or drop some first",
                    context.plugin.id
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            let program = start(context, asked).await?;
            Ok(Reply::Started(context.held().programs.put(program)))
        }
        Request::Next(number) => {
            let mut program = context.held().programs.take(number)?;
            let piece = program.next().await;
            context.held().programs.give_back(number, program);
            piece.map(Reply::Piece)
        }
        Request::Finish(number) => {
            let mut program = context.held().programs.take(number)?;
            let ending = program.finish().await;
            context.held().programs.give_back(number, program);
            ending.map(Reply::Ended)
        }
        Request::Close(number) => {
            drop(context.held().programs.take(number));
            Ok(Reply::Closed)
        }
    }
}

async fn start(context: &CallContext, asked: Asked) -> Result<Program, CallError> {
    let (services, facts, call) = (&context.services, &context.plugin, &context.call);
    call.may_change("run programs")?;
    let most = facts.limits.process_input;
    if asked.input.len() > most {
        let message = format!(
            "the input has {} bytes, the limit is {most}: `process-input` of [limits.plugin]",
            asked.input.len()
        );
        return Err(CallError::new(ErrorKind::Limit, message));
    }
    check(&asked.args)?;
    let granted = granted(facts, &asked)?;
    let place = services.programs.place()?;
    let folder = asked
        .folder
        .map(|folder| files::root(services, facts, folder))
        .transpose()?;
    let own = asked.timeout_ms.map(Duration::from_millis);
    let deadline = own.map_or(call.deadline, |limit| call.deadline.min(Deadline::after(limit)));
    tracing::info!(plugin = %facts.id, program = %granted.name, args = ?asked.args, "a plugin runs a program");
    let name = granted.name.clone();
    let (args, bytes, homes) = (asked.args, asked.input, services.programs.homes.clone());
    let (program, plugin) = (granted.clone(), Arc::clone(&facts.id));
    let started = tokio::task::spawn_blocking(move || {
        let image = image_of(&program, &plugin)?;
        let home = home(&homes)?;
        let argv0 = program.path.unwrap_or_default();
        let cannot = |error: io::Error| {
            let message = format!("the program `{}` cannot be started: {error}", program.name);
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
        };
        let mut command = Command::new(image.path());
        command
            .arg0(argv0)
            .args(args)
            .env_clear()
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .env("LANG", "C.UTF-8")
            .current_dir(folder.as_deref().unwrap_or_else(|| home.path()));
        let input = Stdio::from(image::input(&bytes).map_err(cannot)?);
        let (group, pipes) = Group::start_bound(command, input).map_err(cannot)?;
        Ok::<_, CallError>((group, pipes, Home(Some(home))))
    });
    let (group, pipes, home) = started.await.map_err(|_| {
        CallError::new(
            ErrorKind::Internal,
            "starting a program met a defect; the hub's log says more",
        )
    })??;
    Ok(Program::Runs(Box::new(Runs {
        name,
        group: Some(group),
        pipes,
        exited: None,
        came: 0,
        most: facts.limits.process_output,
        deadline,
        _home: home,
        _place: place,
    })))
}

/// Arguments are texts on one line, and not too many.
fn check(args: &[String]) -> Result<(), CallError> {
    if args.len() > ARGUMENTS {
        let message = format!(
            "a program is run with at most {ARGUMENTS} arguments, not with {}",
            args.len()
        );
        return Err(CallError::new(ErrorKind::Limit, message));
    }
    for argument in args {
        if argument.len() > ARGUMENT_BYTES {
            let message = format!(
                "an argument has at most {ARGUMENT_BYTES} bytes, this one has {}",
                argument.len()
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        if argument.chars().any(char::is_control) {
            let message = format!(
                "the argument `{}` contains a control character; an argument cannot",
                shortened(argument, SHOWN)
            );
            return Err(CallError::new(ErrorKind::Invalid, message));
        }
    }
    Ok(())
}

/// What the grants say of this program, if it may be run with these arguments.
fn granted<'a>(facts: &'a Facts, asked: &Asked) -> Result<&'a config::Program, CallError> {
    let (id, shown) = (&facts.id, asked.program.escape_debug());
    let granted = facts
        .grants
        .process
        .iter()
        .find(|program| program.name == asked.program);
    let message = match granted {
        Some(program) if program.allows(&asked.args) => return Ok(program),
        Some(program) => {
            let args = shortened(&format!("{:?}", asked.args), SHOWN);
            format!(
                "plugin `{id}` may not run the program `{shown}` with the arguments {args}, only with {}: if it may, add them to `args` \
                 of `{shown}` in `process`, in [grants] of its manifest and in `grant` of its [[plugin]] entry in waypost.toml",
                program.arguments()
            )
        }
        None => format!(
            "plugin `{id}` may not run the program `{shown}`: if it may, add {{ name = \"{shown}\" }} to `process` in [grants] of its \
             manifest, and the same with its `path` and `sha256` to `process` in `grant` of its [[plugin]] entry in waypost.toml"
        ),
    };
    Err(CallError::new(ErrorKind::Denied, message))
}

/// The program that was granted, and no other that is there now.
fn image_of(program: &config::Program, plugin: &str) -> Result<Image, CallError> {
    let name = &program.name;
    let image = Image::read(program.path.as_deref().unwrap_or(Path::new(""))).map_err(|error: Error| {
        tracing::warn!(%plugin, program = %name, error = %error.chain(), "a granted program cannot be run");
        // Which file that is, is the operator's matter.
        let message = format!("the program `{name}` cannot be run; the hub's log says why");
        CallError::new(error.kind, message).blame(error.blame)
    })?;
    let granted = program.sha256.as_deref().unwrap_or_default();
    if image.sha256 == granted {
        return Ok(image);
    }
    let message = format!(
        "the program `{name}` has changed: granted was the SHA-256 {granted}, and there is {}; if it may be run, write that into \
         `sha256` of `{name}` in waypost.toml, or say `waypost plugin grant {plugin} process={name}=<path>` again",
        image.sha256
    );
    Err(CallError::new(ErrorKind::Denied, message).blame(Blame::Operator))
}

fn home(homes: &Path) -> Result<TempDir, CallError> {
    let made = std::fs::create_dir_all(homes).and_then(|()| TempDir::new_in(homes));
    made.map_err(|error| {
        Error::new(ErrorKind::Internal, "a folder for a program cannot be made")
            .because(error)
            .into()
    })
}

/// A folder of a program, gone with it.
struct Home(Option<TempDir>);

impl Drop for Home {
    fn drop(&mut self) {
        let home = self.0.take();
        // There may be much in it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(home))),
            Err(_) => drop(home),
        }
    }
}

/// A program that a guest has started.
pub enum Program {
    /// It runs, or what it wrote is not all read.
    Runs(Box<Runs>),
    /// How it ended, or why it was stopped.
    Over(Result<Ending, CallError>),
}

/// A program that runs. Dropping it kills its group.
pub struct Runs {
    name: String,
    /// Until it is reaped.
    group: Option<Group>,
    pipes: Pipes,
    /// When it has exited: until when the rest of its output is awaited.
    exited: Option<Instant>,
    came: usize,
    most: usize,
    deadline: Deadline,
    _home: Home,
    _place: OwnedSemaphorePermit,
}

impl Program {
    fn runs(&self) -> bool {
        matches!(self, Self::Runs(_))
    }

    /// The next piece; none at the end. What failed once fails again.
    async fn next(&mut self) -> Result<Option<Piece>, CallError> {
        let over = match self {
            Self::Over(over) => return over.clone().map(|_| None),
            Self::Runs(runs) => match runs.next().await {
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) => runs.reap().await,
                Err(error) => Err(runs.stop(error).await),
            },
        };
        *self = Self::Over(over.clone());
        over.map(|_| None)
    }

    async fn finish(&mut self) -> Result<Ending, CallError> {
        loop {
            self.next().await?;
            if let Self::Over(over) = self {
                return over.clone();
            }
        }
    }
}

impl Runs {
    async fn next(&mut self) -> Result<Option<Piece>, CallError> {
        let until = match self.exited {
            Some(until) => until,
            None => {
                let deadline = self.deadline.instant().into();
                let live = timeout_at(deadline, self.live()).await;
                let piece = live.map_err(|_| {
                    let message = format!(
                        "the program `{}` did not end within the time limit and was killed; what it did is done",
                        self.name
                    );
                    CallError::new(ErrorKind::Timeout, message)
                })?;
                if let Some(piece) = piece {
                    return self.counted(piece).map(Some);
                }
                // What it leaves behind is not what was asked for.
                self.signal(Signal::KILL);
                *self.exited.insert(Instant::now() + AFTER_KILL)
            }
        };
        match timeout_at(until, self.pipes.next()).await {
            Ok(Some(piece)) => self.counted(piece).map(Some),
            Ok(None) => Ok(None),
            Err(_) => {
                tracing::warn!(program = %self.name, "something that a program has started left its group and may still run");
                Ok(None)
            }
        }
    }

    /// What it writes while it runs; none when it has exited.
    async fn live(&mut self) -> Option<(Source, Vec<u8>)> {
        let group = self.group.as_mut()?;
        tokio::select! {
            biased;
            Some(piece) = self.pipes.next() => Some(piece),
            () = group.exited() => None,
        }
    }

    fn counted(&mut self, (source, bytes): (Source, Vec<u8>)) -> Result<Piece, CallError> {
        self.came = self.came.saturating_add(bytes.len());
        if self.came > self.most {
            let message = format!(
                "the program `{}` wrote more than {} bytes, the limit `process-output` of [limits.plugin], and was killed",
                self.name, self.most
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        Ok(match source {
            Source::Stdout => Piece::Stdout(bytes),
            Source::Stderr => Piece::Stderr(bytes),
        })
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = &self.group {
            group.signal(signal);
        }
    }

    /// Says how it ended, when all of it has.
    async fn reap(&mut self) -> Result<Ending, CallError> {
        let unknown = || {
            let message = format!("how the program `{}` ended is not known", self.name);
            CallError::new(ErrorKind::Indeterminate, message)
        };
        let group = self.group.take().ok_or_else(unknown)?;
        let status = group.reap().await.map_err(|_| unknown())?;
        ending(status).ok_or_else(unknown)
    }

    /// Ends it because of this.
    async fn stop(&mut self, error: CallError) -> CallError {
        let Some(mut group) = self.group.take() else {
            return error;
        };
        if group.stop(&mut self.pipes, Duration::ZERO).await {
            drop(group.reap().await);
            return error;
        }
        let message = format!(
            "{}; something that it has started left its group and may still run",
            error.message
        );
        CallError::new(ErrorKind::Indeterminate, message)
    }
}

fn ending(status: ExitStatus) -> Option<Ending> {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).ok().map(Ending::Code),
        (None, Some(signal)) => Some(Ending::Signal(signal_name(signal).into_owned())),
        (None, None) => None,
    }
}

/// A program that runs, as a guest holds it.
pub struct Running(u32);

impl programs::Host for CallState {}

impl programs::HostRunning for CallState {
    async fn start(&mut self, command: programs::Command) -> WitResult<Resource<Running>> {
        let asked = Asked {
            program: command.program,
            args: command.args,
            input: command.input,
            folder: command.folder,
            timeout_ms: command.timeout_ms,
        };
        let number = self.ask(Request::Start(asked), |reply| match reply {
            Reply::Started(number) => Some(number),
            _ => None,
        });
        match number.await? {
            Ok(number) => Ok(Ok(self.table.push(Running(number))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn next(&mut self, running: Resource<Running>) -> WitResult<Option<programs::Piece>> {
        let Running(number) = *self.table.get(&running)?;
        let piece = |piece: Piece| match piece {
            Piece::Stdout(bytes) => programs::Piece::Stdout(bytes),
            Piece::Stderr(bytes) => programs::Piece::Stderr(bytes),
        };
        self.ask(Request::Next(number), |reply| match reply {
            Reply::Piece(next) => Some(next.map(piece)),
            _ => None,
        })
        .await
    }

    async fn finish(&mut self, running: Resource<Running>) -> WitResult<programs::Ending> {
        let Running(number) = *self.table.get(&running)?;
        self.ask(Request::Finish(number), |reply| match reply {
            Reply::Ended(Ending::Code(code)) => Some(programs::Ending::Code(code)),
            Reply::Ended(Ending::Signal(signal)) => Some(programs::Ending::Signal(signal)),
            _ => None,
        })
        .await
    }

    async fn drop(&mut self, running: Resource<Running>) -> wasmtime::Result<()> {
        let Running(number) = self.table.delete(running)?;
        self.ask(Request::Close(number), |reply| {
            matches!(reply, Reply::Closed).then_some(())
        })
        .await?
        .ok();
        Ok(())
    }
}
