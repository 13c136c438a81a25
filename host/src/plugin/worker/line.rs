//! The hub's end of one worker process: its start, the plugins in it, and its end.
//!
//! What it may say is a state machine ([`super::heard`]); what may not come ends the worker, and with it the calls that it
//! has, with one error. A call in it is in `worker/line/call.rs`. Not here: when a worker is started ([`super::Workers`]).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::watch;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::confine::Confinement;
use super::heard::{Heard, Said, Words, Wrong};
use super::pipe::Pipe;
use super::process::Process;
use super::wire::{self, Bytes, Load, Order, Start, Word};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::plugin::Loaded;

mod call;

use call::Open;
pub(super) use call::Outcome;

/// So much a call may compute before its worker is put behind the others.
pub(super) const LONG: Duration = Duration::from_millis(5);

/// So much a plugin may when it is loaded, beside that.
const LOADING: Duration = Duration::from_millis(250);

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
    heard: Mutex<Heard<Open, Plugin>>,
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
    /// Calls that have used it.
    ended: AtomicU64,
    last: Mutex<Instant>,
}

/// A plugin that the worker has, or is getting.
struct Plugin {
    id: Arc<str>,
    places: usize,
    told: watch::Sender<Option<Result<(), CallError>>>,
}

/// What a worker has computed so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Computed {
    /// Processor time.
    time: Duration,
    /// Plugins that were loaded.
    plugins: usize,
    /// Calls that have ended.
    calls: u64,
}

impl Computed {
    /// Whether it has computed for long since then: more than it may for each plugin that was loaded, each call that has ended,
    /// and one that is under way.
    pub(super) fn is_long(self, since: Self) -> bool {
        let times = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let calls = times(self.calls.saturating_sub(since.calls).saturating_add(1));
        let plugins = times(self.plugins.saturating_sub(since.plugins) as u64);
        let may = LONG
            .saturating_mul(calls)
            .saturating_add(LOADING.saturating_mul(plugins));
        self.time.saturating_sub(since.time) > may
    }
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
        self.0.ended.fetch_add(1, Ordering::Relaxed);
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
            heard: Mutex::default(),
            places: usize::try_from(start.places).unwrap_or(usize::MAX),
            up: watch::Sender::new(None),
            why: OnceLock::new(),
            orderly: AtomicBool::new(false),
            over: CancellationToken::new(),
            used: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
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

    /// What it has computed.
    pub(super) fn computed(&self) -> Computed {
        Computed {
            time: self.process.used().unwrap_or_default(),
            plugins: lock(&self.heard).plugins().count(),
            calls: self.ended.load(Ordering::Relaxed),
        }
    }

    /// Puts it behind all others who compute. Blocks.
    pub(super) fn put_behind(&self) -> io::Result<()> {
        self.process.put_behind()
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
        let heard = lock(&self.heard);
        heard.plugins().map(|plugin| Arc::clone(&plugin.id)).collect()
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
        let heard = lock(&self.heard);
        if heard.plugin(plugin.turn).is_some() {
            return true;
        }
        let taken: usize = heard.plugins().map(|plugin| plugin.places).sum();
        heard.plugins().all(|other| other.id != plugin.facts.id) && taken + plugin.places() <= self.places
    }

    /// Sees that this plugin is here.
    pub(super) async fn load(
        self: &Arc<Self>,
        plugin: &Loaded,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        let mut told = {
            let mut heard = lock(&self.heard);
            match heard.plugin(plugin.turn) {
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
                    self.bring(plugin, variables)?;
                    if !heard.load(plugin.turn, known) {
                        return Err(self.gone(&plugin.facts.id));
                    }
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

    /// Takes what the worker says.
    fn hear(&self, word: Word) -> Result<(), Wrong> {
        let mut heard = lock(&self.heard);
        match heard.hear(word)? {
            Said::Up(up) => {
                self.up.send_replace(Some(up));
            }
            Said::Loaded(plugin, result) => {
                plugin.told.send_replace(Some(result));
            }
            Said::Asks(open, request) => open.asks(request),
            Said::Ended(open, ended) => open.has_ended(ended),
            Said::Logs(open, level, text) => {
                let context = open.context();
                drop(heard);
                context.say(level, &text);
            }
        }
        Ok(())
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
        let calls = {
            let mut heard = lock(&self.heard);
            let (calls, untold) = heard.end();
            for plugin in untold {
                plugin.told.send_replace(Some(Err(self.gone(&plugin.id))));
            }
            calls
        };
        drop(calls);
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

/// Takes what a worker says until it ends or says what it may not.
async fn listen(line: Weak<Line>, over: CancellationToken, reader: OwnedReadHalf, longest: usize) {
    let mut words = FramedRead::with_capacity(reader, Words::new(longest), wire::READ);
    loop {
        let word = tokio::select! {
            word = words.next() => word,
            () = over.cancelled() => return,
        };
        let Some(line) = line.upgrade() else { return };
        let Some(Ok(word)) = word else {
            // It may have closed its socket and go on all the same.
            line.process.kill();
            let how = line.process.ended().await;
            return line.finish(&format!("it {how}"));
        };
        if let Err(wrong) = word.and_then(|word| line.hear(word)) {
            line.break_off(&format!("it {wrong}"));
            line.process.ended().await;
            return line.finish("");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds, plugins, calls.
    fn computed((time, plugins, calls): (u64, usize, u64)) -> Computed {
        Computed {
            time: Duration::from_millis(time),
            plugins,
            calls,
        }
    }

    #[test]
    fn a_worker_computes_for_long_by_what_each_of_its_calls_took_since() {
        for (since, now, is_long) in [
            ((0, 0, 0), (0, 0, 0), false),
            // One call that goes on.
            ((0, 0, 0), (5, 0, 0), false),
            ((0, 0, 0), (6, 0, 0), true),
            ((900, 1, 50), (906, 1, 50), true),
            // Many short ones, as many as there can be.
            ((0, 0, 0), (500, 0, 10_000), false),
            ((0, 0, 0), (500, 0, 99), false),
            ((0, 0, 0), (501, 0, 99), true),
            // Loading is no call.
            ((0, 0, 0), (255, 1, 0), false),
            ((0, 0, 0), (256, 1, 0), true),
            ((255, 1, 0), (261, 1, 0), true),
            // What has ended says nothing any more.
            ((255, 1, 3), (0, 1, 3), false),
        ] {
            assert_eq!(computed(now).is_long(computed(since)), is_long, "{since:?} {now:?}");
        }
    }
}
