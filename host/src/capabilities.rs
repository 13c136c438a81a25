//! The built-in handlers: one file for each kind, and the list of them.
//!
//! A handler knows its messages, its limits and the workspace; nothing of sockets, rules or wasmtime.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Call, CallError, Effect, Handler, Json, Models};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::log::EventLog;

pub mod chat;
pub mod fs;
pub mod inference;
pub mod narrative;
pub mod terminal;

/// A built-in handler under one of its kinds.
pub struct Builtin {
    /// The kind.
    pub kind: &'static str,
    /// Its actions with their effect class; the empty action for kinds without.
    pub actions: &'static [(&'static str, Effect)],
    /// What executes them.
    pub handler: Arc<dyn Handler>,
    /// Whether a person answers, who takes longer than a machine.
    pub by_a_person: bool,
}

/// What the handlers are made of.
pub struct Parts<'a> {
    /// What the operator decided.
    pub config: &'a Config,
    /// The variables of the hub's process, for the few names that the configuration refers to.
    pub variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The project folder.
    pub project: &'a std::path::Path,
    /// The state directory, open to this hub alone.
    pub state: &'a std::path::Path,
    /// Where people are asked.
    pub desk: Arc<chat::Desk>,
    /// Where history is.
    pub log: Arc<dyn EventLog>,
    /// The models that somebody serves.
    pub models: Arc<dyn Models>,
}

/// All built-in handlers. A new one is a file here and a line in this list.
pub fn all(parts: &Parts<'_>) -> Result<Vec<Builtin>> {
    let config = parts.config;
    let mut all = vec![Builtin {
        kind: fs::KIND,
        actions: fs::ACTIONS,
        handler: Arc::new(fs::Fs::new(config.files.clone())),
        by_a_person: false,
    }];
    let terminal = Arc::new(terminal::Terminal::new(config.terminal.clone()));
    all.extend(flat(terminal::KINDS, &(terminal as Arc<dyn Handler>)));
    let chat = Arc::new(chat::Chat::new(Arc::clone(&parts.desk), Arc::clone(&parts.log)));
    all.extend(flat(chat::KINDS, &(chat as Arc<dyn Handler>)));
    let inference = inference::Inference::new(config.inference.clone(), parts.variable, parts.project.to_owned())?;
    let inference = Arc::new(inference.beside(Arc::clone(&parts.models)));
    all.extend(flat(inference::KINDS, &(inference as Arc<dyn Handler>)));
    all.push(Builtin {
        kind: narrative::KIND,
        actions: narrative::ACTIONS,
        handler: Arc::new(narrative::Narrative::new(config.narrative.clone(), parts.state)),
        by_a_person: false,
    });
    Ok(all)
}

/// Whether calls of a pattern can be reads where no rule says what they are.
pub fn reads(pattern: &str) -> bool {
    let (kind, action) = pattern.split_once(':').unwrap_or((pattern, "*"));
    let named = [(fs::KIND, fs::ACTIONS), (narrative::KIND, narrative::ACTIONS)];
    let flat = [terminal::KINDS, chat::KINDS, inference::KINDS]
        .into_iter()
        .flatten()
        .copied();
    let mut classes = named.into_iter().chain(flat).flat_map(|(name, actions)| {
        let covered = move |wanted: &str| (kind == "*" || kind == name) && (action == "*" || action == wanted);
        actions
            .iter()
            .filter(move |(name, _)| covered(name))
            .map(|(_, effect)| *effect)
    });
    classes.any(|effect| effect == Effect::Read)
}

/// An action of a built-in handler: a function from its message to its reply.
fn typed<M: DeserializeOwned, R: Serialize>(
    call: &Call,
    action: impl FnOnce(M) -> Result<R, CallError>,
) -> Result<Json, CallError> {
    Json::of(&action(call.message.to()?)?)
}

/// The error of an action that a kind does not have.
fn unknown_action(call: &Call, actions: &[(&str, Effect)]) -> CallError {
    let known: Vec<&str> = actions.iter().map(|(action, _)| *action).collect();
    let message = format!(
        "{} is not known; the actions of {} are {}",
        call.name,
        call.name.kind,
        known.join(", ")
    );
    CallError::new(ErrorKind::NotFound, message)
}

/// The error of work whose thread panicked.
fn broke(call: &Call) -> CallError {
    CallError::new(ErrorKind::Internal, format!("{} broke; this is a defect", call.name))
}

/// Kinds without actions that one handler executes.
fn flat(kinds: &'static [Flat], handler: &Arc<dyn Handler>) -> impl Iterator<Item = Builtin> {
    kinds.iter().map(|kind| Builtin {
        kind: kind.0,
        actions: kind.1,
        handler: Arc::clone(handler),
        by_a_person: chat::ASKING.contains(&kind.0),
    })
}

/// A kind without actions: its name, and its effect class as the class of the empty action.
pub type Flat = (&'static str, &'static [(&'static str, Effect)]);

#[cfg(test)]
mod tests {
    #[test]
    fn what_can_be_a_read_is_known() {
        for (pattern, reads) in [
            ("*", true),
            ("fsEvent", true),
            ("fsEvent:*", true),
            ("fsEvent:readFile", true),
            ("fsEvent:writeToFile", false),
            ("executeCommand", false),
            ("narrative", false),
            ("inference", false),
            ("ticket:find", false),
        ] {
            assert_eq!(super::reads(pattern), reads, "{pattern}");
        }
    }
}
