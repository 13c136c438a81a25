//! What a plugin may import: one file per package of `wit/`, and the state of one call that they work on.
//!
//! Authority is what is linked. [`link`] puts in what a plugin was granted and nothing else; what is missing is missing at
//! load, not refused at run time. Finer limits are checked inside each import. Nothing here is shared between calls.
//!
//! Each file has four parts: `Request` and `Reply`, plain data; `serve`, which answers one in the hub, with what the hub
//! knows of the call ([`CallContext`]); `uses`, which tells what of its grants one needs; and the glue of a guest, which
//! asks through its [`Carrier`]. So the same import serves a guest in the hub's process and one in a worker process, and
//! neither can say who it is. How often a guest asks is bounded here, in the hub (`plugin/rate.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasSelf, Linker, ResourceTable};

use crate::call::{Call, CallError, Deadline, Dispatch, Sink};
use crate::config::{Grants, PluginLimits};
use crate::engine::meter::Meter;
use crate::environment::folders::Folders;
use crate::error::ErrorKind;
use crate::log::{EventLog, StateStore};
use crate::plugin::Loaded;
use crate::plugin::contract::contract;
use crate::plugin::rate::Rates;
use crate::plugin::uses::{Tell, Uses};
use crate::run::journal::Journal;
use crate::secrets::Secrets;

mod errors;
pub mod files;
pub mod gateway;
pub mod http;
mod log;
pub mod process;
pub mod socket;
pub mod state;
pub mod wasi;
pub mod workspace;

pub(crate) use log::MARK as LOG_MARK;
pub use log::{Level, PluginLog};
pub use wasi::RunFacts;

/// The generated side of `wit/`: the traits that the files beside this one implement.
pub mod bindings {
    #![expect(missing_docs, reason = "bindgen-generated code; the documentation is in wit/")]

    wasmtime::component::bindgen!({
        path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/http", "../wit/files", "../wit/process", "../wit/socket", "../wit/plugin"],
        world: "waypost:plugin/imports",
        imports: { default: async | trappable },
        with: {
            "waypost:gateway/calls.running": super::gateway::Running,
            "waypost:http/client.body": super::http::Body,
            "waypost:files/files.reader": super::files::Handle,
            "waypost:process/programs.running": super::process::Running,
            "waypost:socket/sockets.connection": super::socket::Connection,
        },
    });
}

pub use bindings::waypost::call::types as wit;

/// What an import's glue gives back: the outer error ends the guest, the inner one is the guest's to handle.
pub(crate) type WitResult<T> = wasmtime::Result<Result<T, wit::CallError>>;

/// What one file here asks of the hub.
pub(crate) trait Carried: Sized {
    /// What it is answered with.
    type Reply;

    /// As one of all requests.
    fn into_request(self) -> Request;

    /// Out of all replies, the one that belongs to it.
    fn reply_of(reply: Reply) -> Option<Self::Reply>;
}

macro_rules! carried {
    ($($name:ident => $module:ident),+ $(,)?) => {
        /// A package that asks something of the hub.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Import {
            $(#[doc = concat!("The package `", stringify!($module), "`.")] $name),+
        }

        impl Import {
            /// How many there are.
            pub const COUNT: usize = [$(Self::$name),+].len();

            /// The name of the package.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("waypost:", stringify!($module))),+
                }
            }
        }

        /// What a guest asks of the hub.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Request {
            $(#[doc = concat!("Of the package `", stringify!($module), "`.")] $name($module::Request)),+
        }

        /// What the hub answers.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Reply {
            $(#[doc = concat!("Of the package `", stringify!($module), "`.")] $name($module::Reply)),+
        }

        impl Request {
            /// The package that it belongs to.
            pub fn import(&self) -> Import {
                match self {
                    $(Self::$name(_) => Import::$name),+
                }
            }

            /// Tells which grants it needs.
            pub(crate) fn uses(&self, tell: Tell<'_>) {
                match self {
                    $(Self::$name(request) => $module::uses(request, tell)),+
                }
            }
        }

        impl CallContext {
            async fn answer(&self, request: Request) -> Result<Reply, CallError> {
                match request {
                    $(Request::$name(request) => $module::serve(self, request).await.map(Reply::$name)),+
                }
            }
        }

        $(impl Carried for $module::Request {
            type Reply = $module::Reply;

            fn into_request(self) -> Request {
                Request::$name(self)
            }

            fn reply_of(reply: Reply) -> Option<Self::Reply> {
                match reply {
                    Reply::$name(reply) => Some(reply),
                    _ => None,
                }
            }
        })+
    };
}

carried! {
    Gateway => gateway,
    State => state,
    Workspace => workspace,
    Http => http,
    Files => files,
    Process => process,
    Socket => socket,
}

/// How what a guest asks for reaches the hub.
#[derive(Clone)]
pub enum Carrier {
    /// The guest runs in the hub's process.
    Here(Arc<CallContext>),
    /// The guest runs in a worker process.
    There(Arc<dyn Far>),
}

/// A hub at the other end of a socket, as one call sees it.
pub trait Far: Send + Sync {
    /// Asks, and waits for the answer. The outer error means that the hub is gone.
    fn ask(&self, request: Request) -> BoxFuture<'_, wasmtime::Result<Result<Reply, CallError>>>;

    /// Hands over one line of the plugin's log.
    fn say(&self, level: Level, text: &str);

    /// The run's time, as of the latest answer.
    fn now(&self) -> u64;

    /// A variable of the hub that the plugin was granted.
    fn variable(&self, name: &str) -> Option<String>;
}

impl Carrier {
    fn say(&self, level: Level, text: &str) {
        match self {
            Self::Here(context) => context.say(level, text),
            Self::There(far) => far.say(level, text),
        }
    }

    fn now(&self) -> u64 {
        match self {
            Self::Here(context) => context.journal.as_ref().map_or(0, |journal| journal.now()),
            Self::There(far) => far.now(),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        match self {
            Self::Here(context) => context.services.variables.get(name).cloned(),
            Self::There(far) => far.variable(name),
        }
    }
}

/// Everything that one call into a plugin has: one field for each thing an import needs.
pub struct CallState {
    /// What it may use.
    pub meter: Meter,
    /// Its handles to things of the host.
    pub table: ResourceTable,
    /// When the guest must have ended.
    pub deadline: Deadline,
    /// Fires when the guest shall stop.
    pub cancel: CancellationToken,
    /// Which plugin this is.
    pub plugin: Arc<Facts>,
    carrier: Carrier,
    /// For agents: the clock and the random numbers of the run.
    run: Option<RunFacts>,
    /// Made when the guest first asks for something of WASI: most Rust handlers never do.
    wasi: Option<wasmtime_wasi::WasiCtx>,
    log: log::CallLog,
}

/// What the hub knows of one call into a plugin; it stays in the hub, wherever the plugin runs.
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
    /// How often it asks.
    rates: Arc<Rates>,
    /// What of its grants it uses.
    uses: Arc<Uses>,
    /// What it has open here.
    held: Mutex<Held>,
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
    /// Where it is said that one asks too often.
    pub events: Arc<dyn EventLog>,
    /// How they reach servers.
    pub network: Arc<http::Network>,
    /// Where they run programs.
    pub programs: process::Room,
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
    /// Calls that the guest has started and not let go.
    pub started: Numbered<gateway::Started>,
    /// Answers of servers.
    pub answers: Numbered<http::Answer>,
    /// Files that are read.
    pub readers: Numbered<files::Reader>,
    /// Programs that run.
    pub programs: Numbered<process::Program>,
    /// Connections to sockets.
    pub connections: Numbered<socket::Open>,
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

    /// Takes something out while it is waited for: a guest does one thing at a time.
    fn take(&mut self, number: u32) -> Result<T, CallError> {
        let message = "what is asked for is not open: it was closed, or belongs to another call";
        self.open
            .remove(&number)
            .ok_or_else(|| CallError::new(ErrorKind::Invalid, message))
    }

    /// Puts it back.
    fn give_back(&mut self, number: u32, thing: T) {
        self.open.insert(number, thing);
    }

    fn len(&self) -> usize {
        self.open.len()
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.open.values()
    }
}

impl CallContext {
    /// What the hub knows of a call that begins now.
    pub fn new(
        call: Call,
        sink: Sink,
        plugin: &Loaded,
        services: Arc<Services>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        Self {
            held: Mutex::default(),
            rates: Arc::clone(plugin.rates(&call)),
            uses: Arc::clone(&plugin.uses),
            call,
            sink,
            plugin: Arc::clone(&plugin.facts),
            services,
            journal,
        }
    }

    /// Answers what the guest of this call asks, as the one that the hub knows it to be, if it does not ask too often.
    pub async fn serve(&self, request: Request) -> Result<Reply, CallError> {
        let deadline = self.call.deadline;
        self.rates
            .admit(&self.plugin.id, &request, deadline, &self.services)
            .await?;
        request.uses(&mut |grant, term| self.uses.note(&self.plugin.grants, grant, term));
        self.answer(request).await
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a line of the plugin's log.
    pub(crate) fn say(&self, level: Level, text: &str) {
        self.services.log.add(&self.plugin.id, level.as_str(), text);
    }
}

impl CallState {
    /// The state of a call that begins now, in the hub's process.
    pub fn new(context: Arc<CallContext>) -> Self {
        let run = context.journal.as_deref().map(RunFacts::of);
        let (deadline, cancel) = (context.call.deadline, context.call.cancel.clone());
        let plugin = Arc::clone(&context.plugin);
        Self::carried(plugin, Carrier::Here(context), run, deadline, cancel)
    }

    /// The state of a call whose hub is reached by this carrier.
    pub fn carried(
        plugin: Arc<Facts>,
        carrier: Carrier,
        run: Option<RunFacts>,
        deadline: Deadline,
        cancel: CancellationToken,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(plugin.limits.handles);
        Self {
            meter: Meter::new(&plugin.limits),
            log: log::CallLog::new(plugin.limits.log),
            table,
            deadline,
            cancel,
            plugin,
            carrier,
            run,
            wasi: None,
        }
    }

    /// Asks the hub, and takes from its reply what was asked for.
    async fn ask<R: Carried, T>(&mut self, request: R, pick: impl FnOnce(R::Reply) -> Option<T>) -> WitResult<T> {
        let answer = match &self.carrier {
            Carrier::Here(context) => context.serve(request.into_request()).await,
            Carrier::There(far) => far.ask(request.into_request()).await?,
        };
        match answer {
            Ok(reply) => match R::reply_of(reply).and_then(pick) {
                Some(reply) => Ok(Ok(reply)),
                None => Err(wasmtime::Error::msg("the hub answered something else than was asked")),
            },
            Err(error) => Ok(Err(error.into())),
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
    if !grants.process.is_empty() {
        waypost::process::programs::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    }
    if !grants.socket.is_empty() {
        waypost::socket::sockets::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
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
pub const NEEDED: [Needed; 7] = [
    Needed {
        interface: contract!("waypost:gateway/calls"),
        grant: "gateway",
        line: "gateway = [\"<kind:action it calls>\"]",
        given: |grants| !grants.gateway.is_empty(),
    },
    Needed {
        interface: contract!("waypost:state/store"),
        grant: "state",
        line: "state = true",
        given: |grants| grants.state,
    },
    Needed {
        interface: contract!("waypost:workspace/folders"),
        grant: "workspace",
        line: "workspace = true",
        given: |grants| grants.workspace,
    },
    Needed {
        interface: contract!("waypost:http/client"),
        grant: "http",
        line: "http = [\"<https://host it asks>\"]",
        given: |grants| !grants.http.is_empty(),
    },
    Needed {
        interface: contract!("waypost:files/files"),
        grant: "files",
        line: "files = [{ name = \"<folder>\" }]",
        given: |grants| !grants.files.is_empty(),
    },
    Needed {
        interface: contract!("waypost:process/programs"),
        grant: "process",
        line: "process = [{ name = \"<program>\", args = [[\"<argument>\"]] }]",
        given: |grants| !grants.process.is_empty(),
    },
    Needed {
        interface: contract!("waypost:socket/sockets"),
        grant: "socket",
        line: "socket = [{ name = \"<socket>\" }]",
        given: |grants| !grants.socket.is_empty(),
    },
];

/// What an interface needs, in whichever version; none for those that every plugin has.
pub fn needed(interface: &str) -> Option<&'static Needed> {
    let name = |interface: &'static str| interface.split('@').next().unwrap_or(interface);
    let wanted = interface.split('@').next().unwrap_or(interface);
    NEEDED.iter().find(|needed| name(needed.interface) == wanted)
}

impl wit::Host for CallState {}
