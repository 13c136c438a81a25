//! The attempts of one decision, in order: who is skipped, who is asked, and when the next one may be.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{Dispatcher, stopping_error};
use crate::call::{Call, CallError, Effect, Json, PASSED, Sink, Target};
use crate::error::{Blame, ErrorKind};
use crate::log::Attempt;
use crate::plugin::{Loaded, Role};
use crate::route::Decision;
use crate::run::journal::Journal;

/// How long a handler may take to stop after its cancel token fired. Longer than a terminal's own grace.
const STOPPING: Duration = Duration::from_secs(5);

/// What came of a walk.
pub(super) struct Walked {
    pub(super) attempts: Vec<Attempt>,
    pub(super) result: Result<Json, CallError>,
    /// Whether a proxy ended it, and not this hub.
    pub(super) proxied: bool,
}

impl Walked {
    /// A call that nobody was asked for.
    pub(super) fn refused(error: CallError) -> Self {
        Self {
            attempts: Vec::new(),
            result: Err(error),
            proxied: false,
        }
    }

    /// Who ended it.
    pub(super) fn by(&self) -> Option<Target> {
        let last = self.attempts.last()?;
        (last.error.is_none() || self.result.is_err()).then(|| last.target.clone())
    }
}

impl Dispatcher {
    /// Walks the attempts of a decision until one of them answers the call.
    pub(super) async fn walk(
        &self,
        call: &Call,
        sink: &Sink,
        decision: &Decision,
        effect: Effect,
        journal: Option<Arc<Journal>>,
    ) -> Walked {
        let mut walk = Walk {
            attempts: Vec::with_capacity(1),
            last: None,
        };
        let open = decision.open.then_some(Target::Local);
        for target in decision.attempts.iter().chain(&open) {
            if *target == Target::Ask {
                match self.approve(call, decision).await {
                    Ok(()) => continue,
                    Err(error) => return walk.end(target, Err(error)),
                }
            }
            if call.path.holds(target) {
                walk.skip(target, CallError::new(ErrorKind::Unavailable, PASSED));
                continue;
            }
            // An inference that brought nothing may be asked once more: it cost money, but changed nothing.
            let tries = if effect == Effect::Inference { 2 } else { 1 };
            // The log names who holds the claim, not that somebody does.
            let named = match target {
                Target::Proxy | Target::ProxyOnly => self
                    .rooms
                    .gateway
                    .claimer(&call.principal.project, &call.name)
                    .unwrap_or_else(|| target.clone()),
                _ => target.clone(),
            };
            for again in (0..tries).rev() {
                let result = self
                    .attempt(call, sink, target, decision, effect, journal.clone())
                    .await;
                match result {
                    Err(error) if may_move_on(&error, effect, sink) && !call.cancel.is_cancelled() => {
                        let worth_repeating = again > 0 && error.blame == Blame::Upstream;
                        walk.skip(&named, error);
                        if !worth_repeating {
                            break;
                        }
                    }
                    result => {
                        let proxied = matches!(target, Target::Proxy | Target::ProxyOnly);
                        return Walked {
                            proxied,
                            ..walk.end(&named, result)
                        };
                    }
                }
            }
            // A chain of proxies ends where nobody claims: there it is local, unless the rule has another word.
            if *target == Target::Proxy && decision.attempts.last() == Some(target) {
                if !call.path.holds(&named) {
                    tracing::warn!(call = %call.name, "the rule says proxy and nobody answers for it; executing locally");
                }
                let result = self.attempt(call, sink, &Target::Local, decision, effect, None).await;
                return walk.end(&Target::Local, result);
            }
        }
        let error = walk
            .last
            .take()
            .filter(|_| decision.attempts.len() == 1 && !all_skipped(&walk.attempts));
        let error = error.unwrap_or_else(|| none_left(call, decision, &walk.attempts));
        Walked {
            attempts: walk.attempts,
            result: Err(error),
            proxied: false,
        }
    }

    async fn attempt(
        &self,
        call: &Call,
        sink: &Sink,
        target: &Target,
        decision: &Decision,
        effect: Effect,
        journal: Option<Arc<Journal>>,
    ) -> Result<Json, CallError> {
        match target {
            Target::Local => {
                let Some(known) = self.builtins.get(&*call.name.kind) else {
                    return Err(self.no_builtin(call));
                };
                let mut call = Cow::Borrowed(call);
                if let Some(files) = self.rooms.routes.current().files(&call, decision) {
                    call.to_mut().files = Some(files);
                }
                supervise(&call, sink, effect, known.handler.handle(&call, sink)).await
            }
            Target::Plugin(id) => {
                let plugin = self.rooms.plugins.get(id)?;
                self.ask_plugin(&plugin, call, sink, effect, journal).await
            }
            Target::Proxy | Target::ProxyOnly => {
                supervise(call, sink, effect, self.rooms.gateway.proxy(call, sink)).await
            }
            Target::Connection(name) => {
                supervise(call, sink, effect, self.rooms.gateway.ask_connection(name, call, sink)).await
            }
            Target::Hub(name) => supervise(call, sink, effect, self.rooms.joined.ask(name, call, sink)).await,
            Target::Deny => Err(CallError::new(
                ErrorKind::Denied,
                format!("{} is denied by the rules of this project", call.name),
            )),
            Target::Ask => Err(stopping_error()),
        }
    }

    /// Lets a plugin execute a call, in the time that it may take.
    pub(super) async fn ask_plugin(
        &self,
        plugin: &Loaded,
        call: &Call,
        sink: &Sink,
        effect: Effect,
        journal: Option<Arc<Journal>>,
    ) -> Result<Json, CallError> {
        if plugin.manifest.role == Role::Handler && !plugin.serves(&call.name) {
            let message = format!(
                "plugin `{}` does not serve {}; it serves {}",
                plugin.facts.id,
                call.name,
                plugin.manifest.serves.join(", ")
            );
            return Err(CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator));
        }
        // What a provider and an agent may take is bounded by who asks them.
        let most = match plugin.manifest.role {
            Role::Handler => plugin.timeout(self.rooms.limits.plugin_timeout),
            _ => call.deadline.left(),
        };
        let call = call.within(most);
        supervise(&call, sink, effect, self.executor.execute(plugin, &call, sink, journal)).await
    }

    fn no_builtin(&self, call: &Call) -> CallError {
        let plugins = self.rooms.plugins.all();
        let serving = plugins.iter().find(|plugin| plugin.serves(&call.name));
        let remedy = match serving {
            Some(plugin) => format!(
                "plugin `{}` serves it: add to waypost.toml\n  [[route]]\n  match = \"{}\"\n  to = \"plugin:{}\"",
                plugin.facts.id, call.name, plugin.facts.id
            ),
            None => {
                let mut kinds: Vec<&str> = self.builtins.keys().copied().collect();
                kinds.sort_unstable();
                format!(
                    "load a plugin that serves it or connect a process that claims it; built in are {}",
                    kinds.join(", ")
                )
            }
        };
        CallError::new(
            ErrorKind::NotFound,
            format!("{} has no built-in handler; {remedy}", call.name),
        )
    }
}

struct Walk {
    attempts: Vec<Attempt>,
    last: Option<CallError>,
}

impl Walk {
    fn skip(&mut self, target: &Target, error: CallError) {
        self.attempts.push(Attempt {
            target: target.clone(),
            error: Some(error.clone()),
        });
        self.last = Some(error);
    }

    fn end(mut self, target: &Target, result: Result<Json, CallError>) -> Walked {
        self.attempts.push(Attempt {
            target: target.clone(),
            error: result.as_ref().err().cloned(),
        });
        Walked {
            attempts: self.attempts,
            result,
            proxied: false,
        }
    }
}

/// Whether the next target may be asked after this error: when nothing was done, or when doing it again does no harm.
fn may_move_on(error: &CallError, effect: Effect, sink: &Sink) -> bool {
    match error.kind {
        ErrorKind::Unavailable => !sink.delivered(),
        ErrorKind::Indeterminate | ErrorKind::Trapped => effect <= Effect::Inference && !sink.delivered(),
        _ => false,
    }
}

fn all_skipped(attempts: &[Attempt]) -> bool {
    attempts.iter().all(|attempt| {
        attempt
            .error
            .as_ref()
            .is_some_and(|error| error.message.starts_with("skipped: "))
    })
}

fn none_left(call: &Call, decision: &Decision, attempts: &[Attempt]) -> CallError {
    let rule = &decision.rule;
    if all_skipped(attempts) {
        let message = format!(
            "{} has no target left: it already passed through every target of its rule ({rule}); add a `fallback` to the rule",
            call.name
        );
        return CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator);
    }
    let tried: Vec<String> = attempts
        .iter()
        .filter_map(|attempt| {
            attempt
                .error
                .as_ref()
                .map(|error| format!("{}: {}", attempt.target, error.message))
        })
        .collect();
    let message = format!(
        "{} was answered by no target of its rule ({rule}): {}",
        call.name,
        tried.join("; ")
    );
    CallError::new(ErrorKind::Unavailable, message)
}

/// Runs a handler under the deadline. When the time is over, the caller gives up or nobody reads the chunks any more, the
/// cancel token fires, and the handler has a moment to stop: what it then says counts.
async fn supervise(
    call: &Call,
    sink: &Sink,
    effect: Effect,
    work: impl Future<Output = Result<Json, CallError>>,
) -> Result<Json, CallError> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => return result,
        () = call.cancel.cancelled() => {}
        () = tokio::time::sleep_until(call.deadline.instant().into()) => call.cancel.cancel(),
        () = sink.closed() => call.cancel.cancel(),
    }
    let ended = tokio::time::timeout(STOPPING, work).await;
    match (ended, effect) {
        // Whether it took effect does not matter for what changes nothing.
        (Ok(Err(error)), Effect::Read | Effect::Inference) if error.kind == ErrorKind::Indeterminate => {
            Err(CallError::stopped(call))
        }
        (Ok(result), _) => result,
        (Err(_), Effect::Read) => Err(CallError::stopped(call)),
        (Err(_), _) => {
            let message = format!(
                "{} did not stop when it was told to; it may or may not have had its effect",
                call.name
            );
            Err(CallError::new(ErrorKind::Indeterminate, message))
        }
    }
}
