//! One capability call, from the frame that asked for it to its one end.
//!
//! Everything here is plain data plus a few traits: [`Handler`], what executes a call, [`Dispatch`], the one way by which
//! a plugin or a transport enters the path of a call, and [`Models`], who serves the models that others bring. Nothing
//! here knows sockets, wasmtime or rules.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Blame, Error, ErrorKind};
use crate::workspace::Workspace;

mod copied;
mod json;
mod models;
mod sink;

pub use copied::{Copied, Kept};
pub use json::{JSON_DEPTH, Json};
pub use models::{Model, Models, Piece};
pub use sink::Sink;

/// What is asked for: a kind and, for most kinds, an action. Written `fsEvent:readFile` or `inference`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallName {
    /// The wire's `type`.
    pub kind: Arc<str>,
    /// The wire's `action`.
    pub action: Option<Arc<str>>,
}

impl CallName {
    /// A name of a kind and an action.
    pub fn new(kind: &str, action: Option<&str>) -> Self {
        Self {
            kind: kind.into(),
            action: action.map(Into::into),
        }
    }

    /// The action, or the empty string for kinds without actions.
    pub fn action(&self) -> &str {
        self.action.as_deref().unwrap_or("")
    }
}

impl fmt::Display for CallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Some(action) => write!(f, "{}:{action}", self.kind),
            None => f.write_str(&self.kind),
        }
    }
}

impl FromStr for CallName {
    type Err = CallError;

    fn from_str(text: &str) -> Result<Self, CallError> {
        let (kind, action) = match text.split_once(':') {
            Some((kind, action)) => (kind, Some(action)),
            None => (text, None),
        };
        if kind.is_empty() || action == Some("") || text.len() > 200 || text.chars().any(char::is_control) {
            let message = format!(
                "`{}` is not a call: write <kind> or <kind>:<action>",
                text.escape_debug()
            );
            return Err(CallError::new(ErrorKind::Invalid, message));
        }
        Ok(Self::new(kind, action))
    }
}

/// What a call may do, which decides what happens to it when something breaks.
///
/// Ordered by strictness: a plugin can only make a call stricter than the operator said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Changes nothing: one row in the log, may be repeated.
    Read,
    /// Costs money but changes nothing: repeated once if nothing was delivered.
    Inference,
    /// Changes something, and doing it twice is the same as once.
    Idempotent,
    /// Changes something, and must never be repeated silently.
    NonIdempotent,
}

impl Effect {
    /// The word used in rules and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Inference => "inference",
            Self::Idempotent => "idempotent",
            Self::NonIdempotent => "non-idempotent",
        }
    }
}

/// Who executes a call, as a route names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// A built-in handler of this hub, on this hub's workspace for the environment.
    Local,
    /// Whoever holds the claim; local when nobody does.
    Proxy,
    /// Whoever holds the claim; an error when nobody does.
    ProxyOnly,
    /// A loaded plugin, by id.
    Plugin(Arc<str>),
    /// A connected process, by name.
    Connection(Arc<str>),
    /// Another hub, by name.
    Hub(Arc<str>),
    /// Nobody: the call is refused.
    Deny,
    /// A person must approve; the next target then executes.
    Ask,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Proxy => f.write_str("proxy"),
            Self::ProxyOnly => f.write_str("proxy-only"),
            Self::Plugin(id) => write!(f, "plugin:{id}"),
            Self::Connection(name) => write!(f, "connection:{name}"),
            Self::Hub(name) => write!(f, "hub:{name}"),
            Self::Deny => f.write_str("deny"),
            Self::Ask => f.write_str("ask"),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.split_once(':') {
            None => match text {
                "local" => Self::Local,
                "proxy" => Self::Proxy,
                "proxy-only" => Self::ProxyOnly,
                "deny" => Self::Deny,
                "ask" => Self::Ask,
                _ => return Err(unknown_target(text)),
            },
            Some(("plugin", id)) if !id.is_empty() => Self::Plugin(id.into()),
            Some(("connection", name)) if !name.is_empty() => Self::Connection(name.into()),
            Some(("hub", name)) if !name.is_empty() => Self::Hub(name.into()),
            Some(_) => return Err(unknown_target(text)),
        })
    }
}

fn unknown_target(text: &str) -> String {
    format!(
        "`{}` is not a target; use local, proxy, proxy-only, plugin:<id>, connection:<name>, hub:<name>, deny or ask",
        text.escape_debug()
    )
}

/// Who acts. Set once at a boundary (a socket, the API, a plugin's store); never read from a message.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The project that owns everything the call touches.
    pub project: Arc<str>,
    /// The run it belongs to; none for a call that an operator makes by hand.
    pub run: Option<Arc<str>>,
    /// What sort of actor.
    pub kind: PrincipalKind,
    /// Which one: an agent id, a plugin id, a connection name, a token's name, `cli`.
    pub id: Arc<str>,
    /// What it may call.
    pub rights: Rights,
}

/// The sorts of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    /// The hub itself: provider operations.
    Hub,
    /// A person at the command line or the API.
    Person,
    /// An agent loop.
    Agent,
    /// A plugin that makes a call while it handles one.
    Plugin,
    /// A connected process.
    Connection,
}

impl PrincipalKind {
    /// The word used in rules and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Person => "person",
            Self::Agent => "agent",
            Self::Plugin => "plugin",
            Self::Connection => "connection",
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.id)
    }
}

/// Which calls may be made: every layer must permit. No layer permits everything.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    layers: Vec<Arc<[String]>>,
    only_reads: bool,
}

impl Rights {
    /// No restriction.
    pub fn all() -> Self {
        Self::default()
    }

    /// These rights, narrowed to the patterns of a grant: `kind`, `kind:*`, `kind:action` or `*`.
    #[must_use]
    pub fn within(&self, patterns: Arc<[String]>) -> Self {
        let mut layers = self.layers.clone();
        layers.push(patterns);
        Self { layers, ..*self }
    }

    /// These rights, narrowed to what changes nothing: those of a shadow, and of whatever it calls.
    #[must_use]
    pub fn of_a_shadow(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            only_reads: true,
        }
    }

    /// Whether nothing may be changed: the call is made for a shadow.
    pub fn only_reads(&self) -> bool {
        self.only_reads
    }

    /// Whether the call may be made.
    pub fn permit(&self, name: &CallName) -> bool {
        self.layers
            .iter()
            .all(|layer| layer.iter().any(|pattern| covers(pattern, name)))
    }
}

/// Whether a pattern (`kind`, `kind:*`, `kind:action`, `*`) covers a call.
pub fn covers(pattern: &str, name: &CallName) -> bool {
    match pattern.split_once(':') {
        None => pattern == "*" || *pattern == *name.kind,
        Some((kind, action)) => *kind == *name.kind && (action == "*" || action == name.action()),
    }
}

/// Where a call acts: the environment and the hub's workspace for it.
#[derive(Debug)]
pub struct Scope {
    /// The environment's id; none for the project itself.
    pub environment: Option<Arc<str>>,
    /// The environment's labels, for rules.
    pub labels: BTreeMap<String, String>,
    /// The folder that `local` handlers work in.
    pub workspace: Arc<Workspace>,
}

/// The moment by which a call must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// From now.
    pub fn after(limit: Duration) -> Self {
        let now = Instant::now();
        Self(
            now.checked_add(limit)
                .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600)),
        )
    }

    /// The earlier of two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }
}

/// What a target is left out with that the call already passed through.
pub const PASSED: &str = "skipped: the call already passed through it";

/// The targets that a nested call has already passed through, newest first. Cheap to extend and to share.
#[derive(Clone, Debug, Default)]
pub struct Path(Option<Arc<PathNode>>);

#[derive(Debug)]
struct PathNode {
    target: Target,
    depth: usize,
    before: Path,
}

impl Path {
    /// This path with one more target.
    #[must_use]
    pub fn through(&self, target: Target) -> Self {
        Self(Some(Arc::new(PathNode {
            target,
            depth: self.depth() + 1,
            before: self.clone(),
        })))
    }

    /// How many targets are on it.
    pub fn depth(&self) -> usize {
        self.0.as_ref().map_or(0, |node| node.depth)
    }

    /// Whether a target is on it.
    pub fn holds(&self, target: &Target) -> bool {
        let mut at = self;
        while let Some(node) = &at.0 {
            if node.target == *target {
                return true;
            }
            at = &node.before;
        }
        false
    }
}

/// One capability call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Unique for ever; ordered by time.
    pub id: Uuid,
    /// Kind and action.
    pub name: CallName,
    /// The canonical message of this kind:action (`wit/kinds`).
    pub message: Json,
    /// Who acts.
    pub principal: Arc<Principal>,
    /// Where it acts.
    pub scope: Arc<Scope>,
    /// When it must have ended.
    pub deadline: Deadline,
    /// Fires when the caller gives up or the time is over; a handler must then stop and return.
    pub cancel: CancellationToken,
    /// What it has already passed through.
    pub path: Path,
    /// The call whose handler made this one.
    pub parent: Option<Uuid>,
    /// The ordinal among an agent's calls, by which a replay finds the reply.
    pub index: Option<u64>,
    /// The frame as it came in, for connections alone.
    pub frame: Option<Json>,
    /// The hubs that it has passed, oldest first.
    pub route: Arc<[Arc<str>]>,
    /// What the rules say of files that the message does not name; none where they say nothing.
    pub files: Option<Arc<dyn FileRules>>,
}

impl Call {
    /// A top-level call with a fresh id and nothing passed through yet.
    pub fn new(name: CallName, message: Json, principal: Arc<Principal>, scope: Arc<Scope>, limit: Duration) -> Self {
        Self {
            id: Uuid::now_v7(),
            name,
            message,
            principal,
            scope,
            deadline: Deadline::after(limit),
            cancel: CancellationToken::new(),
            path: Path::default(),
            parent: None,
            index: None,
            frame: None,
            route: Arc::default(),
            files: None,
        }
    }

    /// The same call as one target gets it: within a time, and with a cancel token of its own.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self {
            deadline: self.deadline.min(Deadline::after(limit)),
            cancel: self.cancel.child_token(),
            ..self.clone()
        }
    }
}

impl Call {
    /// Refuses what would change something, as in `write files`, when the call is made for a shadow.
    pub fn may_change(&self, what: &str) -> Result<(), CallError> {
        if !self.principal.rights.only_reads() {
            return Ok(());
        }
        let message = format!("a shadow changes nothing: it may not {what}");
        Err(CallError::new(ErrorKind::Denied, message))
    }
}

/// What the rules say of files that a call meets on its way: in a listing, in a search, below a folder.
///
/// A rule sees what a message names. A handler that goes on from there asks here, so that a rule about a file holds
/// whichever call leads to it.
pub trait FileRules: Send + Sync + fmt::Debug {
    /// Whether this call, made for this canonical path alone, would be carried out without a refusal or a question.
    fn permit(&self, name: &CallName, path: &str) -> bool;
}

/// How a call failed, as its caller sees it: a kind to branch on, who has to act, and one sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// What code branches on.
    pub kind: ErrorKind,
    /// Who has to act.
    pub blame: Blame,
    /// Names the thing and the remedy; never a secret, never a path outside the workspace.
    pub message: String,
}

impl CallError {
    /// An error of `kind`, blamed on the party that usually causes it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error::new(kind, message).into()
    }

    /// The same error, blamed on someone else.
    #[must_use]
    pub fn blame(mut self, blame: Blame) -> Self {
        self.blame = blame;
        self
    }

    /// The end of a call whose cancel token fired: cancelled, or timed out when the deadline has passed.
    pub fn stopped(call: &Call) -> Self {
        if call.deadline.passed() {
            Self::new(
                ErrorKind::Timeout,
                format!("{} did not end within its time limit and was stopped", call.name),
            )
        } else {
            Self::new(ErrorKind::Cancelled, format!("{} was cancelled and stopped", call.name))
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind,
            blame: error.blame,
            message: error.message,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::new(error.kind, error.message).blame(error.blame)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for CallError {}

/// What executes a call.
///
/// A handler watches `call.cancel`: when it fires it stops what it does, child processes and blocking work included,
/// and returns [`CallError::stopped`]. One that cannot stop for sure returns [`ErrorKind::Indeterminate`].
pub trait Handler: Send + Sync {
    /// Executes the call; chunks go to the sink, the return value is the one end.
    fn handle<'a>(&'a self, call: &'a Call, sink: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>>;
}

/// The one end of a call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The canonical reply of this kind:action, or how it failed.
    pub result: Result<Json, CallError>,
    /// Who gave it; none when no target was reached.
    pub by: Option<Target>,
}

/// The one way into the path of a call, for transports, runtimes and the plugins that make calls.
pub trait Dispatch: Send + Sync {
    /// Carries the call to its one end. Dropping the future cancels the call.
    fn dispatch(&self, call: Call, sink: Sink) -> BoxFuture<'_, Reply>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_layer_of_rights_only_narrows() {
        let read = CallName::new("fsEvent", Some("readFile"));
        let write = CallName::new("fsEvent", Some("writeToFile"));
        let grant = Rights::all().within(Arc::from(["fsEvent".to_owned()]));
        let narrowed = grant.within(Arc::from(["fsEvent:readFile".to_owned(), "inference".to_owned()]));
        assert!(grant.permit(&write));
        assert!(narrowed.permit(&read));
        assert!(!narrowed.permit(&write));
        assert!(!narrowed.permit(&CallName::new("inference", None)));
    }

    proptest! {
        #[test]
        fn names_and_targets_survive_a_round_trip(kind in "[a-zA-Z.]{1,12}", action in proptest::option::of("[a-zA-Z]{1,12}")) {
            let name = CallName::new(&kind, action.as_deref());
            prop_assert_eq!(name.to_string().parse::<CallName>().unwrap(), name);
            let target = Target::Plugin(kind.as_str().into());
            prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }

        #[test]
        fn rights_never_grow(layers in proptest::collection::vec(proptest::collection::vec("[ab](:[xy*])?|\\*", 0..3), 0..4),
                             kind in "[ab]", action in "[xy]", shadow in any::<bool>()) {
            let name = CallName::new(&kind, Some(&action));
            let mut rights = if shadow { Rights::all().of_a_shadow() } else { Rights::all() };
            let mut allowed = true;
            for layer in layers {
                rights = rights.within(layer.into());
                let now = rights.permit(&name);
                prop_assert!(allowed || !now);
                prop_assert_eq!(rights.only_reads(), shadow);
                allowed = now;
            }
        }
    }
}
