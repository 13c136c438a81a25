//! THE path of a call: route once, log, walk the attempts under a deadline, log, notify, answer. Nothing else knows all
//! the rooms.
//!
//! A call that may have an effect is carried by a task of its own, so that a caller who goes away cannot cut it between
//! the effect and its record. A read is carried in place. Either way there is exactly one terminal event.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::call::{
    Call, CallError, CallName, Deadline, Dispatch, Effect, Handler, Json, Principal, PrincipalKind, Reply, Sink, Target,
};
use crate::capabilities::Builtin;
use crate::capabilities::chat::Desk;
use crate::config::Limits;
use crate::error::{Blame, ErrorKind};
use crate::gateway::Gateway;
use crate::joined::Joined;
use crate::log::{self, Append, Attempt, Body, CallEnded, CallStarted, EventLog, HUB, NewEvent};
use crate::plugin::{Executor, Plugins};
use crate::route::{Decision, Routes};
use crate::run::journal::Journal;
use crate::secrets::Secrets;

mod approval;
mod attempt;
pub mod shadow;
mod under_way;

use attempt::Walked;
use shadow::Shadows;
use under_way::UnderWay;

/// What the path of a call passes through.
pub struct Rooms {
    /// Who decides.
    pub routes: Arc<Routes>,
    /// What is built in.
    pub builtins: Vec<Builtin>,
    /// What is loaded.
    pub plugins: Arc<Plugins>,
    /// What is connected.
    pub gateway: Arc<Gateway>,
    /// Which other hubs can be asked.
    pub joined: Joined,
    /// Where it is written down.
    pub log: Arc<dyn EventLog>,
    /// Where people are asked.
    pub desk: Arc<Desk>,
    /// What nobody is shown.
    pub secrets: Arc<Secrets>,
    /// How much at once.
    pub limits: Limits,
}

/// Carries calls to their one end.
pub struct Dispatcher {
    rooms: Rooms,
    builtins: HashMap<&'static str, Known>,
    executor: Arc<dyn Executor>,
    calls: Semaphore,
    queue: Semaphore,
    nested: Semaphore,
    shadows: Shadows,
    under_way: Arc<UnderWay>,
    me: Weak<Self>,
}

/// What the dispatcher knows of a kind that is built in.
struct Known {
    actions: HashMap<&'static str, Effect>,
    handler: Arc<dyn Handler>,
    by_a_person: bool,
}

impl Known {
    fn of(builtin: &Builtin) -> Self {
        Self {
            actions: builtin.actions.iter().copied().collect(),
            handler: Arc::clone(&builtin.handler),
            by_a_person: builtin.by_a_person,
        }
    }
}

impl Dispatcher {
    /// A dispatcher over these rooms. The executor of plugins gets the way back in.
    pub fn new(rooms: Rooms, executor: impl FnOnce(Reentry) -> Arc<dyn Executor>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| Self {
            builtins: rooms
                .builtins
                .iter()
                .map(|builtin| (builtin.kind, Known::of(builtin)))
                .collect(),
            executor: executor(Reentry(me.clone())),
            calls: Semaphore::new(rooms.limits.calls),
            queue: Semaphore::new(rooms.limits.call_queue),
            nested: Semaphore::new(rooms.limits.nested_calls),
            shadows: Shadows::new(&rooms.limits),
            under_way: Arc::default(),
            me: me.clone(),
            rooms,
        })
    }

    /// Carries a call of the hub itself to a plugin: a provider's operation or an agent's run. No rule decides about it, and
    /// the calls' quotas are not its own: whoever starts runs bounds them.
    pub async fn operate(&self, call: Call, plugin: &str, journal: Option<Arc<Journal>>) -> Reply {
        let decision = Arc::new(Decision {
            attempts: vec![Target::Plugin(plugin.into())],
            timeout: None,
            effect: Some(Effect::Idempotent),
            open: false,
            shadow: None,
            rule: "hub".into(),
        });
        self.detached(call, Sink::discard(), decision, Effect::Idempotent, journal)
            .await
    }

    /// Resolves when no call of this run that may have an effect is under way.
    pub async fn none_of(&self, run: &str) {
        self.under_way.none_of(run).await;
    }

    /// What runs plugins.
    pub fn executor(&self) -> &Arc<dyn Executor> {
        &self.executor
    }

    /// The effect class of a call where no rule says otherwise; what is unknown is taken for the worst.
    pub fn effect_of(&self, name: &CallName) -> Effect {
        let known = self.builtins.get(&*name.kind);
        known
            .and_then(|known| known.actions.get(name.action()))
            .copied()
            .unwrap_or(Effect::NonIdempotent)
    }

    async fn carry(&self, call: Call, sink: Sink) -> Reply {
        let decision = self.rooms.routes.current().decide(&call);
        let effect = decision.effect.unwrap_or_else(|| self.effect_of(&call.name));
        let for_a_shadow = call.principal.rights.only_reads();
        if let Some(shadow) = &decision.shadow
            && !for_a_shadow
            && shadow.gets(call.id, effect, &call.path)
        {
            let plugin = Arc::clone(&shadow.plugin);
            // On the heap, so that calls without a shadow do not carry what it needs.
            return Box::pin(self.mirrored(call, sink, decision, plugin)).await;
        }
        // What is made for a shadow has no effect: where it would, it is refused, and that is a read's one row.
        if effect == Effect::Read || for_a_shadow {
            self.in_place(call, sink, &decision, effect).await
        } else {
            self.detached(call, sink, decision, effect, None).await
        }
    }

    /// A read: one row, written at its end, also when the caller drops it half-way.
    async fn in_place(&self, call: Call, sink: Sink, decision: &Decision, effect: Effect) -> Reply {
        let began = Instant::now();
        let call = self.bounded(call, decision);
        let mut dropped = Dropped {
            dispatcher: self,
            call: Some(started(&call, decision, effect)),
            id: call.id,
            began,
        };
        let walked = match self.admit(&call, decision, effect).await {
            Ok(_place) => self.walk(&call, &sink, decision, effect, None).await,
            Err(error) => Walked::refused(error),
        };
        let by = walked.by();
        let Walked {
            attempts,
            result,
            proxied,
        } = walked;
        if let Some(started) = dropped.call.take() {
            let ended = ended(&call, started, attempts, result.clone(), began);
            // A read is not promised after a crash: its place in the order is enough.
            if let Err(error) = self.rooms.log.append(ended).await {
                tracing::error!(call = %call.name, error = %error.chain(), "a read could not be logged");
            }
        }
        if !proxied {
            self.notify(&call, by.as_ref(), &result);
        }
        Reply { result, by }
    }

    /// A call that may have an effect, in a task of its own: intent on disk, walk, end on disk, and only then the answer.
    async fn detached(
        &self,
        mut call: Call,
        sink: Sink,
        decision: Arc<Decision>,
        effect: Effect,
        journal: Option<Arc<Journal>>,
    ) -> Reply {
        let Some(me) = self.me.upgrade() else { return stopping() };
        call.cancel = call.cancel.child_token();
        // Dropping this future is the caller giving up.
        let _gone = call.cancel.clone().drop_guard();
        let under_way = call.principal.run.as_ref().map(|run| me.under_way.enter(run));
        let task: JoinHandle<Reply> = tokio::spawn(async move {
            let _under_way = under_way;
            me.with_effect(call, sink, &decision, effect, journal).await
        });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call's task ended by a defect");
            let message = "the call met a defect of the hub; its log says more, and the effect is not known";
            Reply {
                result: Err(CallError::new(ErrorKind::Indeterminate, message).blame(Blame::Hub)),
                by: None,
            }
        })
    }

    async fn with_effect(
        &self,
        call: Call,
        sink: Sink,
        decision: &Decision,
        effect: Effect,
        journal: Option<Arc<Journal>>,
    ) -> Reply {
        let began = Instant::now();
        let call = self.bounded(call, decision);
        let started = started(&call, decision, effect);
        let intent = NewEvent {
            kind: "call.started",
            call: Some(call.id),
            body: Body::CallStarted(Box::new(started.clone())),
            record: None,
        };
        if let Err(error) = self.write(&call, intent).await {
            return Reply {
                result: Err(error),
                by: None,
            };
        }
        let walked = match self.admit(&call, decision, effect).await {
            Ok(_place) => self.walk(&call, &sink, decision, effect, journal).await,
            Err(error) => Walked::refused(error),
        };
        let by = walked.by();
        let Walked {
            attempts,
            mut result,
            proxied,
        } = walked;
        let end = ended(&call, started, attempts, result.clone(), began);
        if let Err(error) = log::write(&*self.rooms.log, end).await {
            let message = format!(
                "{} ended, but its end could not be logged: {}",
                call.name, error.message
            );
            result = Err(CallError::new(ErrorKind::Indeterminate, message).blame(Blame::Hub));
        }
        if !proxied {
            self.notify(&call, by.as_ref(), &result);
        }
        Reply { result, by }
    }

    /// Writes an event of a call and waits until it is on disk; nothing was done when this fails.
    async fn write(&self, call: &Call, event: NewEvent) -> Result<(), CallError> {
        let written = log::write(&*self.rooms.log, Append::one(stream(&call.principal), event)).await;
        written.map(drop).map_err(|error| {
            let message = format!(
                "{} was not begun, since its intent could not be logged: {}",
                call.name, error.message
            );
            CallError::new(ErrorKind::Unavailable, message).blame(Blame::Hub)
        })
    }

    /// The call with the time limit that holds for it, and a cancel token of its own.
    fn bounded(&self, mut call: Call, decision: &Decision) -> Call {
        let limits = &self.rooms.limits;
        let asks = decision.attempts.contains(&Target::Ask)
            || self
                .builtins
                .get(&*call.name.kind)
                .is_some_and(|known| known.by_a_person);
        let usual = if asks {
            limits.answer_timeout
        } else {
            limits.call_timeout
        };
        if call.principal.kind != PrincipalKind::Hub {
            call.deadline = call.deadline.min(Deadline::after(decision.timeout.unwrap_or(usual)));
        }
        call.cancel = call.cancel.child_token();
        call
    }

    /// A place to run in. Top-level calls wait in a bounded queue; nested ones draw on a reserve and never wait, so that
    /// plugins which call each other cannot block each other.
    async fn admit(
        &self,
        call: &Call,
        decision: &Decision,
        effect: Effect,
    ) -> Result<Option<SemaphorePermit<'_>>, CallError> {
        let limits = &self.rooms.limits;
        if call.principal.kind == PrincipalKind::Hub {
            return Ok(None);
        }
        if !call.principal.rights.permit(&call.name) {
            let remedy = match call.principal.kind {
                PrincipalKind::Connection => "to `calls` of its [[connection]] in waypost.toml",
                _ => "to `gateway` in the grants of the plugin, or of the plugin that called it",
            };
            let message = format!("{} may not call {}: add it {remedy}", call.principal, call.name);
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        if call.path.depth() > limits.depth {
            let message = format!(
                "{} is nested deeper than {} calls, the limit `depth` of [limits]",
                call.name, limits.depth
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        if call.principal.rights.only_reads() {
            shadow::may_enter(call, effect, decision)?;
            return self.shadows.nested.try_acquire().map(Some).map_err(|_| {
                let message = format!(
                    "{} nested calls of shadows run, the limit `shadows` of [limits]",
                    limits.shadows
                );
                CallError::new(ErrorKind::Limit, message)
            });
        }
        if call.path.depth() > 0 {
            return self.nested.try_acquire().map(Some).map_err(|_| {
                let message = format!(
                    "{} nested calls run, the limit `nested-calls` of [limits]",
                    limits.nested_calls
                );
                CallError::new(ErrorKind::Limit, message)
            });
        }
        if let Ok(place) = self.calls.try_acquire() {
            return Ok(Some(place));
        }
        let Ok(_waiting) = self.queue.try_acquire() else {
            let message = format!(
                "{} calls run and {} wait, the limits `calls` and `call-queue` of [limits]",
                limits.calls, limits.call_queue
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        };
        tokio::select! {
            place = self.calls.acquire() => place.map(Some).map_err(|_| stopping_error()),
            () = call.cancel.cancelled() => Err(CallError::stopped(call)),
            () = tokio::time::sleep_until(call.deadline.instant().into()) => Err(CallError::stopped(call)),
        }
    }

    /// Tells subscribers about a call that was handled here; never waits.
    fn notify(&self, call: &Call, by: Option<&Target>, result: &Result<Json, CallError>) {
        let told = call.principal.kind != PrincipalKind::Hub && !call.principal.rights.only_reads();
        if told && matches!(by, Some(Target::Local | Target::Plugin(_))) {
            self.rooms.gateway.notify(call, result);
        }
    }
}

impl Dispatch for Dispatcher {
    fn dispatch(&self, call: Call, sink: Sink) -> BoxFuture<'_, Reply> {
        Box::pin(self.carry(call, sink))
    }
}

/// The way back into dispatch, for those whom the dispatcher owns.
#[derive(Clone)]
pub struct Reentry(Weak<Dispatcher>);

impl Dispatch for Reentry {
    fn dispatch(&self, call: Call, sink: Sink) -> BoxFuture<'_, Reply> {
        match self.0.upgrade() {
            Some(dispatcher) => Box::pin(async move { dispatcher.carry(call, sink).await }),
            None => Box::pin(std::future::ready(stopping())),
        }
    }
}

/// Writes the terminal event of a read whose caller dropped it.
struct Dropped<'a> {
    dispatcher: &'a Dispatcher,
    call: Option<CallStarted>,
    id: uuid::Uuid,
    began: Instant,
}

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        let (Some(call), Ok(runtime)) = (self.call.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let log = Arc::clone(&self.dispatcher.rooms.log);
        let (id, micros) = (self.id, micros(self.began));
        let result = Err(CallError::new(
            ErrorKind::Cancelled,
            format!("{} was cancelled and stopped", call.name),
        ));
        let run = stream(&call.principal);
        let body = Body::CallEnded(Box::new(CallEnded {
            call,
            attempts: Vec::new(),
            result,
            micros,
        }));
        runtime.spawn(async move {
            let event = NewEvent {
                kind: "call.ended",
                call: Some(id),
                body,
                record: None,
            };
            if let Err(error) = log.append(Append::one(run, event)).await {
                tracing::error!(error = %error.chain(), "a cancelled read could not be logged");
            }
        });
    }
}

fn started(call: &Call, decision: &Decision, effect: Effect) -> CallStarted {
    CallStarted {
        name: call.name.clone(),
        principal: Arc::clone(&call.principal),
        environment: call.scope.environment.clone(),
        effect,
        rule: if call.principal.rights.only_reads() {
            format!("{}, for a shadow", decision.rule).into()
        } else {
            Arc::clone(&decision.rule)
        },
        message: call.message.clone(),
        index: call.index,
        parent: call.parent,
    }
}

fn ended(
    call: &Call,
    started: CallStarted,
    attempts: Vec<Attempt>,
    result: Result<Json, CallError>,
    began: Instant,
) -> Append {
    let body = Body::CallEnded(Box::new(CallEnded {
        call: started,
        attempts,
        result,
        micros: micros(began),
    }));
    Append::one(
        stream(&call.principal),
        NewEvent {
            kind: "call.ended",
            call: Some(call.id),
            body,
            record: None,
        },
    )
}

/// The stream that a call's events belong to. What is made for a shadow is no part of a run's story.
fn stream(principal: &Principal) -> Arc<str> {
    let run = principal.run.clone().filter(|_| !principal.rights.only_reads());
    run.unwrap_or_else(|| HUB.into())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn stopping_error() -> CallError {
    CallError::new(ErrorKind::Unavailable, "the hub is stopping").blame(Blame::Hub)
}

fn stopping() -> Reply {
    Reply {
        result: Err(stopping_error()),
        by: None,
    }
}
