//! Shadows: a plugin that gets copies of reads, while their callers get the answer of somebody else.
//!
//! A copy is made when the caller's call has its end, and waits in a bounded queue; its shadow works on it with a time limit
//! and places of its own. Nothing of it comes back: its answer is compared with the caller's and dropped, it is in no run's
//! log, nobody is notified of it, and it changes nothing. Its rights are those of a reader ([`crate::call::Rights`]), which
//! hold for all that it calls: nested calls must be reads that this hub carries out itself, files, folders and requests that
//! change something are refused by the imports, and what it keeps in its `state` stands apart.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use crate::call::{Call, CallError, Deadline, Effect, Json, Kept as Chunks, Principal, Reply, Sink, Target};
use crate::config::Limits;
use crate::error::{Blame, ErrorKind};
use crate::log::{Append, HUB, NewEvent};
use crate::plugin::{Loaded, Role};
use crate::route::Decision;

mod compare;
mod kept;

pub use compare::Place;
pub use kept::{Came, Difference, Shown, Took};

use compare::{Answer, Verdict};
use kept::Kept;

/// What shadows have, and what came of their copies.
pub(super) struct Shadows {
    /// Copies that may wait.
    queue: Arc<Semaphore>,
    /// Copies that are worked on at the same time.
    running: Arc<Semaphore>,
    /// Nested calls that are made for them at the same time.
    pub(super) nested: Semaphore,
    /// Bytes that copies may keep.
    room: Arc<Semaphore>,
    kept: Kept,
    /// Fires when the hub stops.
    over: CancellationToken,
}

/// A copy of a call, with what its caller got.
struct Copy {
    call: Call,
    shadow: Arc<str>,
    decision: Arc<Decision>,
    chunks: Chunks,
    end: Result<Json, CallError>,
    took: Duration,
    /// The room that it takes.
    _room: OwnedSemaphorePermit,
}

/// Counts a copy as waiting, until it is dropped.
struct Waiting {
    dispatcher: Weak<Dispatcher>,
    shadow: Arc<str>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(dispatcher) = self.dispatcher.upgrade() {
            dispatcher.shadows.kept.gone(&self.shadow);
        }
    }
}

impl Shadows {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            queue: Arc::new(Semaphore::new(limits.shadow_queue)),
            running: Arc::new(Semaphore::new(limits.shadows)),
            nested: Semaphore::new(limits.shadows),
            room: Arc::new(Semaphore::new(limits.shadow_bytes.min(Semaphore::MAX_PERMITS))),
            kept: Kept::default(),
            over: CancellationToken::new(),
        }
    }
}

/// Whether a call that is made for a shadow may go on: it must be a read, and its answer must come from this hub, since
/// another one, a connection or a person would not know whom it is for.
pub(super) fn may_enter(call: &Call, effect: Effect, decision: &Decision) -> Result<(), CallError> {
    if effect != Effect::Read {
        return call.may_change(&format!("call {}, which is {}", call.name, effect.as_str()));
    }
    let here = |target: &&Target| matches!(target, Target::Local | Target::Plugin(_) | Target::Deny);
    match decision.attempts.iter().find(|target| !here(target)) {
        None => Ok(()),
        Some(target) => call.may_change(&format!(
            "call {}, which goes to {target} by {}",
            call.name, decision.rule
        )),
    }
}

impl Dispatcher {
    /// Carries a read to its end, and then gives its shadow a copy.
    pub(super) async fn mirrored(&self, call: Call, sink: Sink, decision: Arc<Decision>, shadow: Arc<str>) -> Reply {
        let (sink, copied) = sink.copied(Arc::clone(&self.shadows.room));
        let copy = call.clone();
        let began = Instant::now();
        let reply = self.in_place(call, sink, &decision, Effect::Read).await;
        let took = began.elapsed();
        if !compares(&reply) {
            return reply;
        }
        let bytes = copy.message.as_str().len() + reply.result.as_ref().map_or(0, |reply| reply.as_str().len());
        let room = u32::try_from(bytes).ok().and_then(|bytes| {
            let room = Arc::clone(&self.shadows.room);
            room.try_acquire_many_owned(bytes).ok()
        });
        let place = Arc::clone(&self.shadows.queue).try_acquire_owned();
        match (copied.take(), room, place) {
            (Some(chunks), Some(room), Ok(place)) => {
                let copy = Copy {
                    call: copy,
                    shadow,
                    decision,
                    chunks,
                    end: reply.result.clone(),
                    took,
                    _room: room,
                };
                self.queue(copy, place);
            }
            _ => self.shadows.kept.dropped(&shadow),
        }
        reply
    }

    /// Lets a copy wait for its turn, in a task of its own.
    fn queue(&self, copy: Copy, place: OwnedSemaphorePermit) {
        self.shadows.kept.waits(&copy.shadow);
        let waiting = Waiting {
            dispatcher: self.me.clone(),
            shadow: Arc::clone(&copy.shadow),
        };
        let (running, over) = (Arc::clone(&self.shadows.running), self.shadows.over.clone());
        tokio::spawn(async move {
            let work = async {
                let Ok(_turn) = running.acquire_owned().await else {
                    return;
                };
                drop(place);
                if let Some(dispatcher) = waiting.dispatcher.upgrade() {
                    dispatcher.follow(copy).await;
                }
            };
            tokio::select! {
                () = work => {}
                () = over.cancelled() => {}
            }
        });
    }

    /// Lets a shadow work on its copy, and compares.
    async fn follow(&self, copy: Copy) {
        let shadow = &copy.shadow;
        let loaded = self.rooms.plugins.get(shadow);
        let (sink, copied) = Sink::discard().copied(Arc::clone(&self.shadows.room));
        let began = Instant::now();
        let end = match &loaded {
            Ok(loaded) => self.ask_shadow(loaded, &copy, &sink).await,
            Err(error) => Err(error.clone()),
        };
        let took = began.elapsed();
        let Some(chunks) = copied.take() else {
            return self.shadows.kept.dropped(shadow);
        };
        let (call, rule) = (copy.call.clone(), Arc::clone(&copy.decision.rule));
        let (shadow, caller) = (Arc::clone(shadow), copy.took);
        // Large answers take their time.
        let compared = tokio::task::spawn_blocking(move || {
            let caller = Answer {
                chunks: &copy.chunks.chunks,
                end: &copy.end,
            };
            let other = Answer {
                chunks: &chunks.chunks,
                end: &end,
            };
            compare::compare(&caller, &other)
        });
        let Ok(verdict) = compared.await else { return };
        let (came, places) = match verdict {
            Verdict::Same => (Came::Same, Vec::new()),
            Verdict::Different(places) => (Came::Different, places),
            Verdict::Failed(places) => (Came::Failed, places),
        };
        let loaded = loaded.ok();
        let kept = &self.shadows.kept;
        kept.count(&shadow, loaded.as_deref(), came, caller, took);
        if came != Came::Same {
            let (id, name) = (call.id.to_string(), call.name.to_string());
            let difference = Difference::found(id, name, rule, came, places, &self.rooms.secrets).await;
            if let Some(count) = kept.keep(&shadow, difference.clone(), Instant::now()) {
                self.tell(&shadow, loaded.as_deref(), &difference, count).await;
            }
        }
    }

    async fn ask_shadow(&self, loaded: &Loaded, copy: &Copy, sink: &Sink) -> Result<Json, CallError> {
        let refused = |what: &str| {
            let message = format!("plugin `{}` {what}, and cannot be its shadow", loaded.facts.id);
            Err(CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator))
        };
        if loaded.manifest.role != Role::Handler {
            return refused("is no handler of calls");
        }
        let limits = &self.rooms.limits;
        let most = loaded.timeout(limits.plugin_timeout).min(limits.shadow_timeout);
        let most = copy.decision.timeout.map_or(most, |limit| most.min(limit));
        let of = &copy.call;
        let principal = Principal {
            rights: of.principal.rights.of_a_shadow(),
            ..Principal::clone(&of.principal)
        };
        let call = Call {
            principal: Arc::new(principal),
            deadline: Deadline::after(most),
            cancel: self.shadows.over.child_token(),
            index: None,
            frame: None,
            files: None,
            ..of.clone()
        };
        self.ask_plugin(loaded, &call, sink, Effect::Read, None).await
    }

    /// Tells of differences where operators look, without their values.
    async fn tell(&self, shadow: &str, loaded: Option<&Loaded>, difference: &Difference, count: u64) {
        let paths: Vec<&str> = difference.places.iter().map(|place| &*place.path).collect();
        let body = json!({
            "plugin": shadow, "version": loaded.map(|loaded| &loaded.manifest.version), "rule": &*difference.rule,
            "call": difference.call, "id": difference.id, "came": difference.came, "paths": paths, "differences": count,
        });
        let event = NewEvent::of("shadow.differed", body);
        if let Err(error) = self.rooms.log.append(Append::one(HUB, event)).await {
            tracing::error!(error = %error.chain(), "a shadow's difference could not be logged");
        }
    }

    /// What came of the copies that a plugin got as a shadow; none where it is nobody's shadow.
    pub fn shadow(&self, plugin: &str) -> Option<Shown> {
        let rules = self.rooms.routes.current().shadowed_by(plugin);
        let kept = &self.shadows.kept;
        (!rules.is_empty() || kept.knows(plugin)).then(|| kept.shown(plugin, rules))
    }

    /// Stops all work on copies.
    pub fn stop_shadows(&self) {
        self.shadows.over.cancel();
    }
}

/// Whether there is an answer to compare with: somebody was asked, and the caller did not give up.
fn compares(reply: &Reply) -> bool {
    let asked = !matches!(reply.by, None | Some(Target::Ask | Target::Deny));
    let given_up = matches!(&reply.result, Err(error) if error.kind == ErrorKind::Cancelled);
    asked && !given_up
}
