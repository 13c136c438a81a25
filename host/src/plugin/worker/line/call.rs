//! One call in a worker, as the hub has it: it is given out, what it asks is answered, and it has one end.
//!
//! A call that is given up is told to stop, and its worker ends when it does not. Not here: what the worker may say of it
//! ([`super::super::heard`]).

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Line, lock};
use crate::call::CallError;
use crate::error::{Blame, ErrorKind};
use crate::imports::{CallContext, LOG_MARK, Request, RunFacts};
use crate::plugin::Loaded;
use crate::plugin::execute::{Ended, Job, parked};
use crate::plugin::worker::wire::{self, Begin, Fault, Order};

/// Why a worker is ended that does not stop a call.
const UNSTOPPED: &str = "it did not stop a call when it was told to";

/// A call that has begun and not ended, as far as the hub knows.
pub(super) struct Open {
    context: Arc<CallContext>,
    /// What comes for it: one question and one end have room.
    hears: mpsc::Sender<Word>,
}

/// What comes for a call.
enum Word {
    Ask(Request),
    End(Ended),
}

impl Open {
    /// What the hub knows of it.
    pub(super) fn context(&self) -> Arc<CallContext> {
        Arc::clone(&self.context)
    }

    /// It asks this. One that is being stopped hears nothing more.
    pub(super) fn asks(&self, request: Request) {
        drop(self.hears.try_send(Word::Ask(request)));
    }

    /// It has ended. Nobody waits for the end of one that was given up.
    pub(super) fn has_ended(self, ended: Ended) {
        drop(self.hears.try_send(Word::End(ended)));
    }
}

/// How a call in a worker ended.
pub(in crate::plugin::worker) enum Outcome {
    /// As it says.
    Ended(Ended),
    /// It was told to stop, and did.
    Stopped,
    /// Its agent was put away.
    Parked,
    /// It could not begin, or the worker ended before it.
    Failed(CallError),
}

impl Line {
    /// Runs one call in it to its end.
    pub(in crate::plugin::worker) async fn call(self: &Arc<Self>, plugin: &Loaded, context: CallContext) -> Outcome {
        let context = Arc::new(context);
        let call = &context.call;
        let (heard, mut hears) = mpsc::channel(2);
        let open = Open {
            context: Arc::clone(&context),
            hears: heard,
        };
        let log = plugin.facts.limits.log.saturating_add(LOG_MARK);
        let Some(number) = lock(&self.heard).begin(open, log) else {
            return Outcome::Failed(self.gone(&plugin.facts.id));
        };
        let begin = Begin {
            call: number,
            plugin: plugin.turn,
            left: u64::try_from(call.deadline.left().as_micros()).unwrap_or(u64::MAX),
            run: context.journal.as_deref().map(RunFacts::of),
            job: Job::of(call),
        };
        let frame = match wire::encode(&Order::Begin(begin), self.longest) {
            Ok(frame) => frame,
            Err(fault) => {
                lock(&self.heard).take_back(number);
                return Outcome::Failed(too_long(plugin, &fault));
            }
        };
        let mut begun = Begun {
            line: self,
            number: Some(number),
        };
        self.pipe.send(frame).await;
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
        hears: &mut mpsc::Receiver<Word>,
    ) -> Option<Ended> {
        loop {
            let request = match hears.recv().await? {
                Word::End(ended) => return Some(ended),
                Word::Ask(request) => request,
            };
            let reply = tokio::select! {
                reply = context.serve(request) => reply,
                () = self.over() => return None,
            };
            if !lock(&self.heard).answer(number) {
                // It has ended without its answer.
                continue;
            }
            let answer = |reply| Order::Answer {
                call: number,
                now: context.journal.as_ref().map_or(0, |journal| journal.now()),
                reply,
            };
            let frame = wire::encode(&answer(reply), self.longest)
                .or_else(|fault| wire::encode(&answer(Err(too_long(plugin, &fault))), self.longest));
            self.pipe.send(frame.ok()?).await;
        }
    }

    fn send_stop(&self, number: u64) {
        if let Ok(frame) = wire::encode(&Order::Stop(number), self.longest) {
            self.pipe.push(frame);
        }
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
    async fn stop(&mut self, hears: &mut mpsc::Receiver<Word>) {
        let Some(number) = self.number else { return };
        self.line.send_stop(number);
        let ended = async { while let Some(Word::Ask(_)) = hears.recv().await {} };
        if timeout(self.line.patience, ended).await.is_err() {
            self.line.break_off(UNSTOPPED);
            self.line.over().await;
        }
        self.number = None;
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
            if lock(&line.heard).has(number) {
                line.break_off(UNSTOPPED);
            }
        });
    }
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
