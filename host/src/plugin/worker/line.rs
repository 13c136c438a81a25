//! The hub's end of one worker process: which words may come, which call they belong to, and what follows from one that may
//! not come.
//!
//! Everything that a worker says is taken as hostile. It can say "call 7 asks this", once at a time, and "call 7 has ended",
//! once; anything else ends the worker, and with it the calls that it has, with one error. Who asks, and what it may, the
//! hub knows itself ([`CallContext`]). Not here: when a worker is started ([`super::Workers`]).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::confine::Confinement;
use super::pipe::Pipe;
use super::process::Process;
use super::wire::{self, Begin, Bytes, Fault, Load, Order, Start, Word};
use crate::call::CallError;
use crate::error::{Blame, ErrorKind};
use crate::imports::{CallContext, Request, RunFacts};
use crate::plugin::Loaded;
use crate::plugin::execute::{Ended, Job, parked};

/// What an order may weigh: more than this of one message fits into no guest.
pub(super) fn longest_order(memory: u64) -> usize {
    usize::try_from(memory)
        .unwrap_or(usize::MAX)
        .max(wire::PIECE)
        .saturating_add(wire::BESIDE)
}

/// One worker process, as the hub has it.
pub(super) struct Line {
    process: Process,
    pipe: Arc<Pipe>,
    /// The longest frame that it takes.
    longest: usize,
    /// How long a call may take to stop.
    patience: Duration,
    calls: Mutex<Calls>,
    plugins: Mutex<BTreeMap<u64, Plugin>>,
    /// Calls at the same time.
    places: usize,
    /// How it is confined, when it has said that it is ready; why not, when it is not.
    up: watch::Sender<Option<Result<Confinement, String>>>,
    /// Why it was ended, or how it ended.
    why: OnceLock<String>,
    /// Whether it shall end, and nothing is wrong with it.
    orderly: AtomicBool,
    /// Fires when it has ended.
    over: CancellationToken,
    /// Calls that use it.
    used: AtomicUsize,
    last: Mutex<Instant>,
}

#[derive(Default)]
struct Calls {
    last: u64,
    open: HashMap<u64, Open>,
}

/// A call that has begun and not ended, as far as the hub knows.
struct Open {
    context: Arc<CallContext>,
    /// What comes for it: one question and one end have room.
    heard: mpsc::Sender<Heard>,
    /// Whether it waits for an answer.
    asking: bool,
}

enum Heard {
    Ask(Request),
    End(Ended),
}

/// A plugin that the worker has, or is getting.
struct Plugin {
    id: Arc<str>,
    places: usize,
    told: watch::Sender<Option<Result<(), CallError>>>,
}

/// How a call in a worker ended.
pub(super) enum Outcome {
    /// As it says.
    Ended(Ended),
    /// It was told to stop, and did.
    Stopped,
    /// Its agent was put away.
    Parked,
    /// It could not begin, or the worker ended before it.
    Failed(CallError),
}

/// A worker that is being used; it is not ended for being idle.
pub(super) struct Use(Arc<Line>);

impl Use {
    /// The worker.
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        *lock(&self.0.last) = Instant::now();
        self.0.used.fetch_sub(1, Ordering::Release);
    }
}

impl Line {
    /// Over a process and its socket.
    pub(super) fn new(
        process: Process,
        socket: UnixStream,
        start: &Start,
        patience: Duration,
    ) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = tokio::net::UnixStream::from_std(socket)?.into_split();
        let pipe = Arc::new(Pipe::new(writer));
        let line = Arc::new(Self {
            process,
            pipe: Arc::clone(&pipe),
            longest: longest_order(start.memory),
            patience,
            calls: Mutex::default(),
            plugins: Mutex::default(),
            places: usize::try_from(start.places).unwrap_or(usize::MAX),
            up: watch::Sender::new(None),
            why: OnceLock::new(),
            orderly: AtomicBool::new(false),
            over: CancellationToken::new(),
            used: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
        });
        let longest = usize::try_from(start.longest).unwrap_or(usize::MAX);
        let over = line.over.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = pipe.work() => {}
                () = over.cancelled() => {}
            }
        });
        // The task has it weakly: it ends when nobody uses it.
        tokio::spawn(listen(Arc::downgrade(&line), line.over.clone(), reader, longest));
        if let Ok(frame) = wire::encode(&Order::Start(start.clone()), line.longest) {
            line.pipe.push(frame);
        }
        Ok(line)
    }

    /// Waits until it says that it is ready, and how it is confined; the error says why it is not.
    pub(super) async fn ready(&self) -> Result<Confinement, String> {
        let mut up = self.up.subscribe();
        let told = up.wait_for(Option::is_some).await;
        told.ok()
            .and_then(|told| told.clone())
            .unwrap_or_else(|| Err("it was given up".to_owned()))
    }

    /// Its process id.
    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Marks it as used.
    pub(super) fn begin_use(self: &Arc<Self>) -> Use {
        self.used.fetch_add(1, Ordering::Acquire);
        Use(Arc::clone(self))
    }

    /// When it was last used; none while it is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.used.load(Ordering::Acquire) == 0).then(|| *lock(&self.last))
    }

    /// Whether it has ended, or is about to.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled() || self.why.get().is_some()
    }

    /// Resolves when it has ended.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Fires when it has ended.
    pub(super) fn over_token(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Why it ended, if that was not in order.
    pub(super) fn fault(&self) -> Option<String> {
        let why = self.why.get().filter(|_| !self.orderly.load(Ordering::Acquire));
        why.cloned()
    }

    /// The ids of the plugins that it has.
    pub(super) fn plugins(&self) -> Vec<Arc<str>> {
        lock(&self.plugins)
            .values()
            .map(|plugin| Arc::clone(&plugin.id))
            .collect()
    }

    /// Ends it, with nothing wrong.
    pub(super) fn retire(&self) {
        self.orderly.store(true, Ordering::Release);
        self.break_off("it was told to end");
    }

    /// Ends it because of what it did.
    pub(super) fn break_off(&self, why: &str) {
        let _ = self.why.set(why.to_owned());
        self.process.kill();
    }

    /// Whether this plugin can be called here: it is here, or there is room for it, and no other version of it is here.
    pub(super) fn suits(&self, plugin: &Loaded) -> bool {
        let plugins = lock(&self.plugins);
        if plugins.contains_key(&plugin.turn) {
            return true;
        }
        let taken: usize = plugins.values().map(|plugin| plugin.places).sum();
        plugins.values().all(|other| other.id != plugin.facts.id) && taken + plugin.places() <= self.places
    }

    /// Sees that this plugin is here.
    pub(super) async fn load(
        self: &Arc<Self>,
        plugin: &Loaded,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        let mut told = {
            let mut plugins = lock(&self.plugins);
            match plugins.get(&plugin.turn) {
                Some(known) => {
                    if let Some(result) = &*known.told.borrow() {
                        return result.clone();
                    }
                    known.told.subscribe()
                }
                None => {
                    let told = watch::Sender::new(None);
                    let receiver = told.subscribe();
                    let known = Plugin {
                        id: Arc::clone(&plugin.facts.id),
                        places: plugin.places(),
                        told,
                    };
                    plugins.insert(plugin.turn, known);
                    self.bring(plugin, variables)?;
                    receiver
                }
            }
        };
        let result = told.wait_for(Option::is_some).await;
        result
            .ok()
            .and_then(|result| result.clone())
            .unwrap_or_else(|| Err(self.gone(&plugin.facts.id)))
    }

    /// Sends a plugin's code, in a task of its own: it goes whole, whoever waits for it.
    fn bring(self: &Arc<Self>, plugin: &Loaded, variables: &BTreeMap<String, String>) -> Result<(), CallError> {
        let code = Arc::clone(plugin.compiled()?);
        let mut load = Load::of(plugin.turn, plugin.manifest.role, &plugin.facts, code.len())?;
        let granted = plugin.facts.grants.env.iter();
        load.variables = granted
            .filter_map(|name| Some((name.clone(), variables.get(name)?.clone())))
            .collect();
        let (pipe, longest) = (Arc::clone(&self.pipe), self.longest);
        tokio::spawn(async move {
            let head = wire::encode(&Order::Load(load), longest).ok();
            let pieces = code.chunks(wire::PIECE);
            let pieces = pieces.filter_map(|piece| wire::encode(&Order::Code(Bytes(piece.to_vec())), longest).ok());
            for frame in head.into_iter().chain(pieces) {
                pipe.send(frame).await;
            }
        });
        Ok(())
    }

    /// Runs one call in it to its end.
    pub(super) async fn call(self: &Arc<Self>, plugin: &Loaded, context: CallContext) -> Outcome {
        let context = Arc::new(context);
        let call = &context.call;
        let (heard, mut hears) = mpsc::channel(2);
        let mut begun = Begun {
            line: self,
            number: None,
        };
        let number = {
            let mut calls = lock(&self.calls);
            if self.is_over() {
                return Outcome::Failed(self.gone(&plugin.facts.id));
            }
            calls.last += 1;
            let number = calls.last;
            let open = Open {
                context: Arc::clone(&context),
                heard,
                asking: false,
            };
            calls.open.insert(number, open);
            number
        };
        let begin = Begin {
            call: number,
            plugin: plugin.turn,
            left: u64::try_from(call.deadline.left().as_micros()).unwrap_or(u64::MAX),
            run: context.journal.as_deref().map(RunFacts::of),
            job: Job::of(call),
        };
        match wire::encode(&Order::Begin(begin), self.longest) {
            Ok(frame) => {
                begun.number = Some(number);
                self.pipe.send(frame).await;
            }
            Err(fault) => {
                lock(&self.calls).open.remove(&number);
                return Outcome::Failed(too_long(plugin, &fault));
            }
        }
        let journal = context.journal.as_deref();
        let outcome = tokio::select! {
            biased;
            ended = self.follow(plugin, &context, number, &mut hears) => {
                begun.number = None;
                return match ended {
                    Some(ended) => Outcome::Ended(ended),
                    None => Outcome::Failed(self.gone(&plugin.facts.id)),
                };
            }
            () = parked(journal) => Outcome::Parked,
            () = call.cancel.cancelled() => Outcome::Stopped,
        };
        begun.stop(&mut hears).await;
        outcome
    }

    /// Answers what a call asks until it has ended; none when the worker ended.
    async fn follow(
        &self,
        plugin: &Loaded,
        context: &CallContext,
        number: u64,
        hears: &mut mpsc::Receiver<Heard>,
    ) -> Option<Ended> {
        loop {
            let request = match hears.recv().await? {
                Heard::End(ended) => return Some(ended),
                Heard::Ask(request) => request,
            };
            let reply = tokio::select! {
                reply = context.serve(request) => reply,
                () = self.over() => return None,
            };
            let answer = |reply| Order::Answer {
                call: number,
                now: context.journal.as_ref().map_or(0, |journal| journal.now()),
                reply,
            };
            let frame = wire::encode(&answer(reply), self.longest)
                .or_else(|fault| wire::encode(&answer(Err(too_long(plugin, &fault))), self.longest));
            if let Some(open) = lock(&self.calls).open.get_mut(&number) {
                open.asking = false;
            }
            self.pipe.send(frame.ok()?).await;
        }
    }

    /// Takes what the worker says. An error is what it may not say.
    fn hear(&self, word: Word) -> Result<(), String> {
        match word {
            Word::Up(up) => {
                let known = self.up.borrow().is_some();
                if known {
                    return Err("said twice that it is ready".to_owned());
                }
                self.up.send_replace(Some(up));
                Ok(())
            }
            Word::Loaded { plugin, result } => {
                let plugins = lock(&self.plugins);
                let known = plugins.get(&plugin).filter(|known| known.told.borrow().is_none());
                let known = known.ok_or("spoke of a plugin that it was not asked about")?;
                known.told.send_replace(Some(result));
                Ok(())
            }
            Word::Ask { call, request } => {
                let mut calls = lock(&self.calls);
                let open = calls.open.get_mut(&call).ok_or_else(|| unknown(call))?;
                if std::mem::replace(&mut open.asking, true) {
                    return Err(format!("asked for call {call} again before it was answered"));
                }
                // A call that is being stopped hears nothing more.
                open.heard.try_send(Heard::Ask(request)).or_else(|error| match error {
                    TrySendError::Closed(_) => Ok(()),
                    TrySendError::Full(_) => Err(format!("asked too much for call {call}")),
                })
            }
            Word::Say { call, level, text } => {
                let context = {
                    let calls = lock(&self.calls);
                    let open = calls.open.get(&call).ok_or_else(|| unknown(call))?;
                    Arc::clone(&open.context)
                };
                if context.hear(level, &text) {
                    Ok(())
                } else {
                    Err(format!("logs more for call {call} than its limit `log`"))
                }
            }
            Word::End { call, ended } => {
                let open = lock(&self.calls).open.remove(&call).ok_or_else(|| unknown(call))?;
                // Nobody waits for the end of a call that was given up.
                drop(open.heard.try_send(Heard::End(ended)));
                Ok(())
            }
        }
    }

    /// What is left to do when it has ended: who waits for something of it is told.
    fn finish(&self, how: &str) {
        let _ = self.why.set(how.to_owned());
        self.pipe.close();
        self.up.send_if_modified(|up| {
            let first = up.is_none();
            up.get_or_insert_with(|| Err(self.why.get().cloned().unwrap_or_default()));
            first
        });
        lock(&self.calls).open.clear();
        for plugin in lock(&self.plugins).values() {
            plugin.told.send_if_modified(|told| {
                let first = told.is_none();
                told.get_or_insert_with(|| Err(self.gone(&plugin.id)));
                first
            });
        }
        self.over.cancel();
    }

    /// The end of a call whose worker has ended.
    fn gone(&self, plugin: &str) -> CallError {
        let why = self.why.get().map_or("it ended", String::as_str);
        let message = format!(
            "plugin `{plugin}` was stopped: its worker process is gone, {why}; the next call starts another one"
        );
        CallError::new(ErrorKind::Trapped, message)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// A call that has begun in a worker. One that is dropped is told to stop, and the worker ends when it does not.
struct Begun<'a> {
    line: &'a Arc<Line>,
    /// None when it has ended.
    number: Option<u64>,
}

impl Begun<'_> {
    /// Stops the call, and waits until it has stopped; a worker that does not stop it in time is gone after this.
    async fn stop(&mut self, hears: &mut mpsc::Receiver<Heard>) {
        let Some(number) = self.number else { return };
        self.line.send_stop(number);
        let ended = async { while let Some(Heard::Ask(_)) = hears.recv().await {} };
        if timeout(self.line.patience, ended).await.is_err() {
            self.line.break_off(UNSTOPPED);
            self.line.over().await;
        }
        self.number = None;
    }
}

/// Why a worker is ended that does not stop a call.
const UNSTOPPED: &str = "it did not stop a call when it was told to";

impl Line {
    fn send_stop(&self, number: u64) {
        if let Ok(frame) = wire::encode(&Order::Stop(number), self.longest) {
            self.pipe.push(frame);
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.line.send_stop(number);
        let line = Arc::clone(self.line);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return line.break_off("the hub is stopping");
        };
        runtime.spawn(async move {
            tokio::select! {
                () = line.over() => return,
                () = tokio::time::sleep(line.patience) => {}
            }
            // Its entry goes with its end.
            if lock(&line.calls).open.contains_key(&number) {
                line.break_off(UNSTOPPED);
            }
        });
    }
}

/// Takes what a worker says until it ends or says what it may not.
async fn listen(line: Weak<Line>, over: CancellationToken, reader: OwnedReadHalf, longest: usize) {
    let mut frames = FramedRead::new(reader, wire::frames(longest));
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = over.cancelled() => return,
        };
        let Some(line) = line.upgrade() else { return };
        let heard = match frame {
            Some(Ok(frame)) => wire::decode::<Word>(&frame)
                .map_err(|fault| format!("sent {fault}"))
                .and_then(|word| line.hear(word)),
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(format!("sent a frame of more than {longest} bytes"))
            }
            Some(Err(_)) | None => {
                // It may have closed its socket and go on all the same.
                line.process.kill();
                let how = line.process.ended().await;
                return line.finish(&format!("it {how}"));
            }
        };
        if let Err(why) = heard {
            line.break_off(&format!("it {why}"));
            line.process.ended().await;
            return line.finish("");
        }
    }
}

fn unknown(call: u64) -> String {
    format!("spoke of call {call}, which it does not have")
}

fn too_long(plugin: &Loaded, fault: &Fault) -> CallError {
    let id = &plugin.facts.id;
    match fault {
        Fault::TooLong(_) => {
            let most = plugin.facts.limits.memory;
            let message =
                format!("plugin `{id}` needs more than {most}, its limit `memory`: raise it in [limits.plugin]");
            CallError::new(ErrorKind::Limit, message).blame(Blame::Plugin)
        }
        Fault::Garbage(why) => CallError::new(
            ErrorKind::Internal,
            format!("what plugin `{id}` is told cannot be written: {why}"),
        ),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
