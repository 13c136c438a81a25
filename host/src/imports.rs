//! What a plugin may import: one file per package of `wit/`, and the state of one call that they work on.
//!
//! Authority is what is linked. [`link`] puts in what a plugin was granted and nothing else; what is missing is missing at
//! load, not refused at run time. Finer limits are checked inside each import. Nothing here is shared between calls.
//!
//! What reaches outside is one function over plain values in the file of its package (`http::serve`): it knows what the hub
//! offers, the plugin's facts, the call and what the call holds open, and nothing of the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker, ResourceTable};

use crate::call::{Call, CallError, Dispatch, Sink};
use crate::config::{Grants, PluginLimits};
use crate::engine::meter::Meter;
use crate::environment::folders::Folders;
use crate::error::ErrorKind;
use crate::log::StateStore;
use crate::run::journal::Journal;
use crate::secrets::Secrets;

pub mod files;
pub mod gateway;
pub mod http;
mod log;
mod state;
pub mod wasi;
mod workspace;

pub use log::PluginLog;

/// The generated side of `wit/`: the traits that the files beside this one implement.
pub mod bindings {
    #![expect(missing_docs, reason = "bindgen-generated code; the documentation is in wit/")]

    wasmtime::component::bindgen!({
        path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/http", "../wit/files", "../wit/plugin"],
        world: "waypost:plugin/imports",
        imports: { default: async | trappable },
        with: {
            "waypost:gateway/calls.running": super::gateway::Running,
            "waypost:http/client.body": super::http::Body,
            "waypost:files/files.reader": super::files::Handle,
        },
    });
}

pub use bindings::waypost::call::types as wit;

/// Everything that one call into a plugin has: one field for each thing an import needs.
pub struct CallState {
    /// The call itself and what the plugin may do.
    pub call: CallContext,
    /// What it may use.
    pub meter: Meter,
    /// Its handles to things of the host.
    pub table: ResourceTable,
    /// What it has open at the hub.
    pub held: Held,
    /// Made when the guest first asks for something of WASI: most Rust handlers never do.
    wasi: Option<wasmtime_wasi::WasiCtx>,
    log: log::CallLog,
}

/// The facts of one call into a plugin.
pub struct CallContext {
    /// The call that the plugin works on.
    pub call: Call,
    /// Where its chunks go.
    pub sink: Sink,
    /// Which plugin, and what it was granted.
    pub plugin: Arc<Facts>,
    /// What the hub offers.
    pub services: Arc<Services>,
    /// For agents: past calls and their replies, and the run's clock.
    pub journal: Option<Arc<Journal>>,
}

/// What is fixed about a plugin from load to unload.
#[derive(Debug)]
pub struct Facts {
    /// Its id.
    pub id: Arc<str>,
    /// What it was granted: what it asked for and the operator allowed.
    pub grants: Grants,
    /// The calls it may make.
    pub may_call: Arc<[String]>,
    /// Its limits.
    pub limits: PluginLimits,
}

/// What the hub offers to every plugin.
pub struct Services {
    /// The one way back into the path of a call.
    pub dispatch: Arc<dyn Dispatch>,
    /// Where plugins keep state.
    pub state: Arc<dyn StateStore>,
    /// Where environments inside the hub have their folders.
    pub folders: Arc<Folders>,
    /// Where plugins' own lines go.
    pub log: Arc<PluginLog>,
    /// How they reach servers.
    pub network: Arc<http::Network>,
    /// What they may have sent and never see.
    pub secrets: Arc<Secrets>,
    /// The hub's variables that some plugin was granted.
    pub variables: BTreeMap<String, String>,
    /// The project folder.
    pub project: PathBuf,
    /// The state directory.
    pub state_folder: PathBuf,
    /// How many targets a call may pass through.
    pub depth: usize,
}

/// What one call into a plugin has open at the hub, each by its number.
#[derive(Default)]
pub struct Held {
    /// Answers of servers.
    pub answers: Numbered<http::Answer>,
    /// Files that are read.
    pub readers: Numbered<files::Reader>,
}

/// Open things by number. A number is never given twice.
pub struct Numbered<T> {
    next: u32,
    open: BTreeMap<u32, T>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            next: 0,
            open: BTreeMap::new(),
        }
    }
}

impl<T> Numbered<T> {
    fn put(&mut self, thing: T) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(number, thing);
        number
    }

    fn get(&mut self, number: u32) -> Result<&mut T, CallError> {
        let message = "what is asked for is not open: it was closed, or belongs to another call";
        self.open
            .get_mut(&number)
            .ok_or_else(|| CallError::new(ErrorKind::Invalid, message))
    }

    fn remove(&mut self, number: u32) {
        self.open.remove(&number);
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.open.values()
    }
}

impl CallState {
    /// The state of a call that begins now.
    pub fn new(call: CallContext) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(call.plugin.limits.handles);
        Self {
            meter: Meter::new(&call.plugin.limits),
            log: log::CallLog::new(call.plugin.limits.log),
            table,
            held: Held::default(),
            wasi: None,
            call,
        }
    }
}

/// Links what a plugin may import.
pub fn link(linker: &mut Linker<CallState>, grants: &Grants) -> wasmtime::Result<()> {
    use bindings::waypost;
    wasi::link(linker)?;
    waypost::call::types::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    waypost::gateway::answer::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    waypost::log::log::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    if !grants.gateway.is_empty() {
        waypost::gateway::calls::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    }
    if grants.state {
        waypost::state::store::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    }
    if grants.workspace {
        waypost::workspace::folders::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    }
    if !grants.http.is_empty() {
        waypost::http::client::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    }
    if !grants.files.is_empty() {
        waypost::files::files::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    }
    Ok(())
}

/// An interface that needs a grant.
pub struct Needed {
    /// Its name, with the version.
    pub interface: &'static str,
    /// The grant's name.
    pub grant: &'static str,
    /// The line that gives it.
    pub line: &'static str,
    /// Whether these grants give it.
    pub given: fn(&Grants) -> bool,
}

/// The interfaces that need a grant; every plugin has the others.
pub const NEEDED: [Needed; 5] = [
    Needed {
        interface: "waypost:gateway/calls@0.1.0",
        grant: "gateway",
        line: "gateway = [\"<kind:action it calls>\"]",
        given: |grants| !grants.gateway.is_empty(),
    },
    Needed {
        interface: "waypost:state/store@0.1.0",
        grant: "state",
        line: "state = true",
        given: |grants| grants.state,
    },
    Needed {
        interface: "waypost:workspace/folders@0.1.0",
        grant: "workspace",
        line: "workspace = true",
        given: |grants| grants.workspace,
    },
    Needed {
        interface: "waypost:http/client@0.1.0",
        grant: "http",
        line: "http = [\"<https://host it asks>\"]",
        given: |grants| !grants.http.is_empty(),
    },
    Needed {
        interface: "waypost:files/files@0.1.0",
        grant: "files",
        line: "files = [{ name = \"<folder>\" }]",
        given: |grants| !grants.files.is_empty(),
    },
];

/// What an interface needs, in whichever version; none for those that every plugin has.
pub fn needed(interface: &str) -> Option<&'static Needed> {
    let name = |interface: &'static str| interface.split('@').next().unwrap_or(interface);
    let wanted = interface.split('@').next().unwrap_or(interface);
    NEEDED.iter().find(|needed| name(needed.interface) == wanted)
}

impl wit::Host for CallState {}

impl From<CallError> for wit::CallError {
    fn from(error: CallError) -> Self {
        let text = error.message;
        match error.kind {
            ErrorKind::NotFound => Self::NotFound(text),
            ErrorKind::Denied => Self::Denied(text),
            ErrorKind::Invalid => Self::Invalid(text),
            ErrorKind::Limit => Self::Limit(text),
            ErrorKind::Timeout => Self::Timeout(text),
            ErrorKind::Cancelled => Self::Cancelled(text),
            ErrorKind::Trapped => Self::Trapped(text),
            ErrorKind::Unavailable => Self::Unavailable(text),
            ErrorKind::Indeterminate => Self::Indeterminate(text),
            ErrorKind::Internal => Self::Internal(text),
            ErrorKind::Other => Self::Other(text),
        }
    }
}

impl From<wit::CallError> for CallError {
    fn from(error: wit::CallError) -> Self {
        let (kind, text) = match error {
            wit::CallError::NotFound(text) => (ErrorKind::NotFound, text),
            wit::CallError::Denied(text) => (ErrorKind::Denied, text),
            wit::CallError::Invalid(text) => (ErrorKind::Invalid, text),
            wit::CallError::Limit(text) => (ErrorKind::Limit, text),
            wit::CallError::Timeout(text) => (ErrorKind::Timeout, text),
            wit::CallError::Cancelled(text) => (ErrorKind::Cancelled, text),
            wit::CallError::Trapped(text) => (ErrorKind::Trapped, text),
            wit::CallError::Unavailable(text) => (ErrorKind::Unavailable, text),
            wit::CallError::Indeterminate(text) => (ErrorKind::Indeterminate, text),
            wit::CallError::Internal(text) => (ErrorKind::Internal, text),
            wit::CallError::Other(text) => (ErrorKind::Other, text),
        };
        Self::new(kind, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_kind_crosses_the_boundary_and_back() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Invalid,
            ErrorKind::Limit,
            ErrorKind::Timeout,
            ErrorKind::Cancelled,
            ErrorKind::Trapped,
            ErrorKind::Unavailable,
            ErrorKind::Indeterminate,
            ErrorKind::Internal,
            ErrorKind::Other,
        ] {
            let error = CallError::new(kind, "why");
            assert_eq!(CallError::from(wit::CallError::from(error.clone())), error);
        }
    }
}
