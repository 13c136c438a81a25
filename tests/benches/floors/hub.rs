//! The path of a call, put together from the parts of the library: everything but a disk and a socket.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tempfile::TempDir;
use waypost::call::{
    Call, CallError, CallName, Dispatch, Effect, Handler, Json, Principal, PrincipalKind, Rights, Scope, Sink,
};
use waypost::capabilities::Builtin;
use waypost::capabilities::chat::Desk;
use waypost::config::{Config, Limits};
use waypost::dispatch::{Dispatcher, Rooms};
use waypost::engine::Engine;
use waypost::environment::folders::Folders;
use waypost::gateway::Gateway;
use waypost::imports::http::{Network, SystemResolver};
use waypost::imports::process::Room;
use waypost::imports::{PluginLog, Services};
use waypost::joined::Joined;
use waypost::log::memory::MemoryLog;
use waypost::log::{EventLog, StateStore};
use waypost::plugin::link::bindings::handler::exports::waypost::plugin::handler::Incoming;
use waypost::plugin::{Compiler, InProcess, Manifest, Origin, Plugins, Source};
use waypost::route::Routes;
use waypost::secrets::Secrets;
use waypost::workspace::Workspace;

use crate::Outcome;

/// How many events the log keeps: what it costs to append is measured, not what it costs the caches to keep many.
const KEPT: usize = 1_000;

/// The message of every call.
pub(crate) const MESSAGE: &str = r#"{"path":"src/main.rs"}"#;

const RULES: &str = r#"
[[route]]
match = "sandbox:read"
to = "plugin:noop"
effect = "read"

[[route]]
match = "sandbox:effect"
to = "plugin:noop"
"#;

const MANIFEST: &str = r#"
id = "noop"
version = "0.1.0"
role = "handler"
serves = ["sandbox"]
"#;

/// A dispatcher, and the calls that are given to it.
pub(crate) struct Rig {
    /// The limits of both sides.
    pub(crate) limits: Limits,
    pub(crate) engine: Arc<Engine>,
    pub(crate) services: Arc<Services>,
    pub(crate) plugins: Arc<Plugins>,
    dispatcher: Arc<Dispatcher>,
    noop: Noop,
    maker: Maker,
    read: CallName,
    effect: CallName,
    builtin: CallName,
    call: Call,
    sink: Sink,
}

/// Answers with the message.
struct Noop;

impl Handler for Noop {
    fn handle<'a>(&'a self, call: &'a Call, _: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async { Ok(call.message.clone()) })
    }
}

/// Makes calls as a transport does: it has the name, the principal and the scope already, and makes the rest.
struct Maker {
    principal: Arc<Principal>,
    scope: Arc<Scope>,
    message: Json,
    _folder: TempDir,
}

impl Maker {
    fn new(folder: TempDir) -> Outcome<Self> {
        let principal = Principal {
            project: "default".into(),
            run: Some("run".into()),
            kind: PrincipalKind::Agent,
            id: "agent".into(),
            rights: Rights::all(),
        };
        let workspace = Arc::new(Workspace::open(folder.path())?);
        let scope = Scope {
            environment: None,
            labels: Default::default(),
            workspace,
        };
        Ok(Self {
            principal: Arc::new(principal),
            scope: Arc::new(scope),
            message: Json::parse(MESSAGE)?,
            _folder: folder,
        })
    }

    fn call(&self, name: &CallName) -> Call {
        let (principal, scope) = (Arc::clone(&self.principal), Arc::clone(&self.scope));
        Call::new(
            name.clone(),
            self.message.clone(),
            principal,
            scope,
            Duration::from_secs(60),
        )
    }
}

impl Rig {
    pub(crate) fn new(component: &[u8], limits: Limits) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().canonicalize()?;
        fs::write(root.join("waypost.toml"), RULES)?;
        let log: Arc<dyn EventLog> = Arc::new(MemoryLog::new(KEPT));
        let engine = Arc::new(Engine::new(&limits, &root.join("state"))?);
        let plugins = Arc::new(Plugins::new(
            Arc::clone(&engine),
            Compiler::of(&Config::default()),
            &limits,
        ));
        let manifest = Manifest::parse("manifest.toml", MANIFEST)?;
        plugins.load(Source {
            manifest,
            bytes: component.into(),
            origin: Origin::Bundled,
        })?;
        let rooms = Rooms {
            joined: Joined::new(&Config::default(), &|_| None, "bench".into())?,
            routes: Arc::new(Routes::load(&root)?),
            builtins: vec![Builtin {
                kind: "noop",
                actions: &[("", Effect::Read)],
                handler: Arc::new(Noop),
                by_a_person: false,
            }],
            plugins: Arc::clone(&plugins),
            gateway: Arc::new(Gateway::new(Arc::clone(&log))),
            log: Arc::clone(&log),
            desk: Arc::new(Desk::default()),
            secrets: Arc::new(Secrets::new(&[], Path::new(""), &|_| None)),
            limits: limits.clone(),
        };
        let maker = Maker::new(folder)?;
        let folders = Arc::new(Folders::open(root.join("folders"), Arc::clone(&maker.scope.workspace))?);
        let mut services = None;
        let dispatcher = Dispatcher::new(rooms, |reentry| {
            let offered = Arc::new(Services {
                dispatch: Arc::new(reentry),
                state: Arc::new(MemoryLog::default()) as Arc<dyn StateStore>,
                folders,
                log: Arc::new(PluginLog::default()),
                events: log,
                network: Arc::new(Network::new(Arc::new(SystemResolver::default()), limits.outgoing)),
                programs: Room::none(),
                secrets: Arc::new(Secrets::new(&[], Path::new(""), &|_| None)),
                variables: Default::default(),
                project: root.clone(),
                state_folder: root.clone(),
                depth: limits.depth,
            });
            services = Some(Arc::clone(&offered));
            Arc::new(InProcess::new(Arc::clone(&engine), offered))
        });
        let builtin = CallName::new("noop", None);
        Ok(Self {
            limits,
            engine,
            services: services.ok_or("a dispatcher makes its executor")?,
            plugins,
            dispatcher,
            noop: Noop,
            read: CallName::new("sandbox", Some("read")),
            effect: CallName::new("sandbox", Some("effect")),
            call: maker.call(&builtin),
            builtin,
            maker,
            sink: Sink::discard(),
        })
    }

    /// A call that a rule gives to the plugin, as a read.
    pub(crate) async fn read(&self) -> Outcome<()> {
        self.dispatch(&self.read).await
    }

    /// A call that a rule gives to the plugin, as an effect.
    pub(crate) async fn effect(&self) -> Outcome<()> {
        self.dispatch(&self.effect).await
    }

    /// A call that falls to the built-in handler.
    pub(crate) async fn builtin(&self) -> Outcome<()> {
        self.dispatch(&self.builtin).await
    }

    /// The built-in handler alone.
    pub(crate) async fn handle(&self) -> Outcome<()> {
        same(self.noop.handle(&self.call, &self.sink).await)
    }

    /// A call to the plugin that no dispatcher has seen.
    pub(crate) fn plugin_call(&self) -> Call {
        self.maker.call(&self.read)
    }

    /// The same as the plugin sees it.
    pub(crate) fn incoming(&self) -> Incoming {
        Incoming {
            id: self.call.id.to_string(),
            kind: "sandbox".to_owned(),
            action: Some("read".to_owned()),
            message: MESSAGE.to_owned(),
            project: "default".to_owned(),
            run: Some("run".to_owned()),
            environment: None,
            time_left_ms: 30_000,
            meta: Vec::new(),
        }
    }

    async fn dispatch(&self, name: &CallName) -> Outcome<()> {
        same(
            self.dispatcher
                .dispatch(self.maker.call(name), Sink::discard())
                .await
                .result,
        )
    }
}

fn same(result: Result<Json, CallError>) -> Outcome<()> {
    let reply = result?;
    if reply.as_str() == MESSAGE {
        Ok(())
    } else {
        Err(reply.as_str().into())
    }
}

/// Rules of a number, and calls that the first, the last and some between decide about.
pub(crate) struct Decider {
    routes: Routes,
    calls: Vec<Call>,
}

impl Decider {
    pub(crate) fn new(rules: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let text: String = (0..rules)
            .map(|n| format!("[[route]]\nmatch = \"kind{}:action{n}\"\nto = \"local\"\n", n % 10))
            .collect();
        fs::write(folder.path().join("waypost.toml"), text)?;
        let routes = Routes::load(folder.path())?;
        let maker = Maker::new(folder)?;
        let name = |n: usize| CallName::new(&format!("kind{}", n % 10), Some(&format!("action{n}")));
        let calls = (0..10).map(|part| maker.call(&name(part * (rules - 1) / 9))).collect();
        Ok(Self { routes, calls })
    }

    /// One decision about each call.
    pub(crate) fn decide(&self) -> Outcome<()> {
        for call in &self.calls {
            let decision = self.routes.current().decide(call);
            if &*decision.rule == "default" {
                return Err(format!("no rule decides about {}", call.name).into());
            }
        }
        Ok(())
    }
}
