//! A worker process from the inside: what `waypost worker` does.
//!
//! It has one socket, its standard input, and does what the hub says there: it makes an engine, confines itself, and only
//! then takes a plugin's code and runs calls in it, many at a time. What its guests ask, it asks the hub in their name, by
//! the number of the call. It ends when the socket does. Not here: who may ask for what; that is the hub's to know.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::confine::{self, Bound, Confinement};
use super::pipe::Pipe;
use super::wire::{self, Begin, Fault, HEAD, Load, Order, Start, VERSION, Word};
use crate::call::{CallError, Deadline};
use crate::engine::{self, Engine};
use crate::error::{Blame, ErrorKind};
use crate::imports::{CallState, Carrier, Facts, Far, Level, Reply, Request};
use crate::plugin::execute::{self, Ended};
use crate::plugin::link::{self, Linked};

/// The first frame is a short one.
const FIRST: usize = 4096;

/// The most compiled code of one plugin, in bytes.
const CODE: u64 = 1 << 30;

/// Threads for what blocks: getting a plugin's code ready.
const BLOCKING: usize = 2;

/// Runs this process as a worker until the hub is gone. Must be called before the process has a second thread.
pub fn main() -> ExitCode {
    let socket = || io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let begun = confine::begin().map_err(io::Error::other).and_then(|()| socket());
    match begun.and_then(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work(mut socket: UnixStream) -> io::Result<()> {
    let start = first(&mut socket)?;
    let longest = usize::try_from(start.longest).unwrap_or(usize::MAX);
    let made = prepare(&start);
    let up = Word::Up(
        made.as_ref()
            .map(|(_, confinement)| confinement.clone())
            .map_err(Clone::clone),
    );
    socket.write_all(&wire::encode(&up, longest).map_err(invalid)?)?;
    let Ok((engine, _)) = made else {
        return Err(io::Error::other("it is not ready"));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()?;
    // On a thread that also runs calls, so that a call costs no other thread.
    let serving = runtime.spawn(serve(engine, socket, longest, start));
    let done = runtime.block_on(serving).unwrap_or_else(|error| Err(error.into()));
    // A guest that spins is not waited for.
    runtime.shutdown_background();
    done
}

/// The engine, and after it the walls: what the engine needs of the machine it has by then.
fn prepare(start: &Start) -> Result<(Engine, Confinement), String> {
    if start.version != VERSION {
        return Err(format!("it is version {VERSION}, the hub is {}", start.version));
    }
    let wasmtime = wasmtime::Engine::new(&engine::settings(&start.limits()))
        .map_err(|error| format!("the WASM engine cannot start: {error:#}"))?;
    // The kernel's page map is opened when it is first asked for.
    engine::page_map_scan();
    let confinement = confine::apply(Bound {
        memory: start.process_memory,
        seconds: None,
    })?;
    let engine = Engine::without_compiler(wasmtime).map_err(|error| error.chain())?;
    Ok((engine, confinement))
}

fn first(socket: &mut UnixStream) -> io::Result<Start> {
    let mut head = [0; HEAD];
    socket.read_exact(&mut head)?;
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > FIRST {
        return Err(invalid(Fault::TooLong(length)));
    }
    let mut frame = vec![0; length];
    socket.read_exact(&mut frame)?;
    match wire::decode(&frame).map_err(invalid)? {
        Order::Start(start) => Ok(start),
        _ => Err(invalid(Fault::Garbage("another order first".to_owned()))),
    }
}

fn invalid(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault.to_string())
}

/// What all calls of this worker share.
struct Inside {
    engine: Engine,
    pipe: Arc<Pipe>,
    longest: usize,
    plugins: Mutex<BTreeMap<u64, Arc<Ready>>>,
    calls: Mutex<BTreeMap<u64, Arc<Guest>>>,
}

/// A plugin that can be called.
struct Ready {
    facts: Arc<Facts>,
    variables: Arc<BTreeMap<String, String>>,
    linked: Linked,
}

/// A plugin whose code is on its way.
struct Coming {
    load: Load,
    code: Vec<u8>,
}

/// A call under way: the hub, as its imports see it.
struct Guest {
    number: u64,
    pipe: Arc<Pipe>,
    longest: usize,
    now: AtomicU64,
    cancel: CancellationToken,
    variables: Arc<BTreeMap<String, String>>,
    answer: Mutex<Option<oneshot::Sender<Result<Reply, CallError>>>>,
}

async fn serve(engine: Engine, socket: UnixStream, longest: usize, start: Start) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let (reader, writer) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let pipe = Arc::new(Pipe::new(writer));
    let inside = Arc::new(Inside {
        engine,
        pipe: Arc::clone(&pipe),
        longest,
        plugins: Mutex::default(),
        calls: Mutex::default(),
    });
    tokio::spawn(async move { pipe.work().await });
    let codec = wire::frames(super::line::longest_order(start.memory));
    let mut frames = FramedRead::with_capacity(reader, codec, wire::READ);
    let mut coming: Option<Coming> = None;
    while let Some(frame) = frames.next().await {
        let order: Order = wire::decode(&frame?).map_err(invalid)?;
        match order {
            Order::Start(_) => return Err(invalid(Fault::Garbage("a second start".to_owned()))),
            Order::Load(load) if load.code <= CODE => {
                let room = usize::try_from(load.code).unwrap_or_default();
                let code = Vec::with_capacity(room);
                coming = Some(Coming { load, code });
            }
            Order::Load(load) => inside.loaded(load.plugin, Err(too_much_code(&load))).await,
            Order::Code(piece) => {
                if let Some(plugin) = &mut coming {
                    plugin.code.extend_from_slice(&piece.0);
                }
            }
            Order::Begin(begin) => inside.begin(begin),
            Order::Stop(call) => {
                if let Some(guest) = lock(&inside.calls).get(&call) {
                    guest.cancel.cancel();
                }
            }
            Order::Answer { call, now, reply } => {
                if let Some(guest) = lock(&inside.calls).get(&call) {
                    guest.now.store(now, Ordering::Relaxed);
                    if let Some(answer) = lock(&guest.answer).take() {
                        drop(answer.send(reply));
                    }
                }
            }
        }
        if let Some(whole) = coming.take_if(|plugin| plugin.code.len() as u64 >= plugin.load.code) {
            let inside = Arc::clone(&inside);
            tokio::spawn(async move { inside.load(whole).await });
        }
    }
    Ok(())
}

impl Inside {
    async fn load(self: Arc<Self>, coming: Coming) {
        let number = coming.load.plugin;
        let me = Arc::clone(&self);
        let made = tokio::task::spawn_blocking(move || me.link(&coming)).await;
        let result = match made {
            Ok(Ok(ready)) => {
                lock(&self.plugins).insert(number, Arc::new(ready));
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::new(
                ErrorKind::Internal,
                "loading a plugin into a worker process met a defect",
            )),
        };
        self.loaded(number, result).await;
    }

    fn link(&self, coming: &Coming) -> Result<Ready, CallError> {
        let facts = Arc::new(coming.load.facts()?);
        let component = self.engine.sent_by_hub(&coming.code)?;
        let linked = link::link(self.engine.wasmtime(), coming.load.role, &facts, &component)?;
        let variables = Arc::new(coming.load.variables.iter().cloned().collect());
        Ok(Ready {
            facts,
            variables,
            linked,
        })
    }

    async fn loaded(&self, plugin: u64, result: Result<(), CallError>) {
        self.send(&Word::Loaded { plugin, result }).await;
    }

    async fn send(&self, word: &Word) {
        if let Ok(frame) = wire::encode(word, self.longest) {
            self.pipe.send(frame).await;
        }
    }

    /// Begins a call, in a task of its own.
    fn begin(self: &Arc<Self>, begin: Begin) {
        let Begin {
            call,
            plugin,
            left,
            run,
            job,
        } = begin;
        let ready = lock(&self.plugins).get(&plugin).cloned();
        let variables = ready.as_ref().map(|ready| Arc::clone(&ready.variables));
        let guest = Arc::new(Guest {
            number: call,
            pipe: Arc::clone(&self.pipe),
            longest: self.longest,
            now: AtomicU64::new(run.as_ref().map_or(0, |run| run.now)),
            cancel: CancellationToken::new(),
            variables: variables.unwrap_or_default(),
            answer: Mutex::default(),
        });
        lock(&self.calls).insert(call, Arc::clone(&guest));
        let inside = Arc::clone(self);
        let deadline = Deadline::after(Duration::from_micros(left));
        tokio::spawn(async move {
            let ended = match ready {
                Some(ready) => {
                    let (facts, cancel) = (Arc::clone(&ready.facts), guest.cancel.clone());
                    let carrier = Carrier::There(Arc::clone(&guest) as Arc<dyn Far>);
                    let state = CallState::carried(facts, carrier, run, deadline, cancel);
                    let mut store = inside.engine.store(state);
                    tokio::select! {
                        biased;
                        ended = execute::play(&ready.linked, job, &mut store) => ended,
                        () = guest.cancel.cancelled() => stopped(),
                    }
                }
                None => Ended::Fault(CallError::new(ErrorKind::Internal, "the plugin is not in this worker")),
            };
            lock(&inside.calls).remove(&call);
            let word = Word::End { call, ended };
            let frame = wire::encode(&word, inside.longest).or_else(|_| {
                let error =
                    CallError::new(ErrorKind::Limit, "what the plugin ended with is too long").blame(Blame::Plugin);
                wire::encode(
                    &Word::End {
                        call,
                        ended: Ended::Fault(error),
                    },
                    inside.longest,
                )
            });
            if let Ok(frame) = frame {
                inside.pipe.send(frame).await;
            }
        });
    }
}

fn stopped() -> Ended {
    Ended::Fault(CallError::new(ErrorKind::Cancelled, "the call was stopped"))
}

impl Far for Guest {
    fn ask(&self, request: Request) -> BoxFuture<'_, wasmtime::Result<Result<Reply, CallError>>> {
        Box::pin(async move {
            let frame = match wire::encode(
                &Word::Ask {
                    call: self.number,
                    request,
                },
                self.longest,
            ) {
                Ok(frame) => frame,
                Err(fault) => {
                    return Ok(Err(CallError::new(
                        ErrorKind::Limit,
                        format!("this is {fault}, too long"),
                    )));
                }
            };
            let (answer, answered) = oneshot::channel();
            *lock(&self.answer) = Some(answer);
            self.pipe.send(frame).await;
            answered
                .await
                .map_err(|_| wasmtime::Error::msg("the hub gave no answer"))
        })
    }

    fn say(&self, level: Level, text: &str) {
        let word = Word::Say {
            call: self.number,
            level,
            text: text.to_owned(),
        };
        // The limit `log` bounds how much this can be.
        if let Ok(frame) = wire::encode(&word, self.longest) {
            self.pipe.push(frame);
        }
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

fn too_much_code(load: &Load) -> CallError {
    let message = format!(
        "the compiled code of plugin `{}` has {} bytes, the most is {CODE}",
        load.id, load.code
    );
    CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
