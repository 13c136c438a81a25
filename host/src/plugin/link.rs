//! From a component to something that can be instantiated: checked against its role and its grants, and
//! linked with just what it was granted.

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::{self, CallState, Facts, Needed};

use super::Origin;
use super::contract::VERSION;
use super::manifest::{Manifest, Role};
use super::world::{self, World};

/// The generated side of the four worlds.
pub mod bindings {
    #![expect(missing_docs, reason = "bindgen-generated code; the documentation is in wit/")]

    macro_rules! world {
        ($module:ident, $world:literal) => {
            pub mod $module {
                wasmtime::component::bindgen!({
                    path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/http", "../wit/files", "../wit/process", "../wit/socket", "../wit/plugin"],
                    world: $world,
                    imports: { default: async | trappable },
                    exports: { default: async },
                    with: {
                        "waypost:call/types": crate::imports::bindings::waypost::call::types,
                        "waypost:gateway/calls": crate::imports::bindings::waypost::gateway::calls,
                        "waypost:gateway/answer": crate::imports::bindings::waypost::gateway::answer,
                        "waypost:state/store": crate::imports::bindings::waypost::state::store,
                        "waypost:log/log": crate::imports::bindings::waypost::log::log,
                        "waypost:workspace/folders": crate::imports::bindings::waypost::workspace::folders,
                        "waypost:http/client": crate::imports::bindings::waypost::http::client,
                        "waypost:files/files": crate::imports::bindings::waypost::files::files,
                        "waypost:process/programs": crate::imports::bindings::waypost::process::programs,
                        "waypost:socket/sockets": crate::imports::bindings::waypost::socket::sockets,
                    },
                });
            }
        };
    }

    world!(handler, "waypost:plugin/handler-plugin");
    world!(provider, "waypost:plugin/provider-plugin");
    world!(agent, "waypost:plugin/agent-plugin");
    world!(observer, "waypost:plugin/observer-plugin");
}

/// A component that can be instantiated, by role.
pub(super) enum Linked {
    Handler(bindings::handler::HandlerPluginPre<CallState>),
    Provider(bindings::provider::ProviderPluginPre<CallState>),
    Agent(bindings::agent::AgentPluginPre<CallState>),
    Observer(bindings::observer::ObserverPluginPre<CallState>),
}

/// Whether a component asks for what it is granted, and is what its manifest says, as far as names go. Every failure is one
/// error that names the plugin, the item and the remedy.
pub(super) fn check(manifest: &Manifest, facts: &Facts, origin: &Origin, world: &World) -> Result<()> {
    let remedy = |needed: &Needed| origin.gives(manifest, needed);
    let imports = world.imports.iter().map(String::as_str);
    world::check_imports(&manifest.id, &facts.grants, imports, &remedy)?;
    world::check_exports(manifest, world.exports.iter().map(String::as_str))
}

/// Links a component with what its plugin was granted. Whether the types behind the names fit was found out before it was
/// compiled, but for those of WASI.
pub(super) fn link(engine: &Engine, role: Role, facts: &Facts, component: &Component) -> Result<Linked> {
    let does_not_fit = |error: wasmtime::Error| {
        let message = format!(
            "plugin `{}` does not fit the contract of this hub ({VERSION}): {error:#}; `waypost plugin doctor` says which item it is",
            facts.id
        );
        Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin)
    };
    let mut linker = Linker::new(engine);
    imports::link(&mut linker, &facts.grants)
        .map_err(|error| Error::new(ErrorKind::Internal, "the imports cannot be linked").because(error))?;
    let pre = linker.instantiate_pre(component).map_err(does_not_fit)?;
    match role {
        Role::Handler => bindings::handler::HandlerPluginPre::new(pre).map(Linked::Handler),
        Role::Provider => bindings::provider::ProviderPluginPre::new(pre).map(Linked::Provider),
        Role::Agent => bindings::agent::AgentPluginPre::new(pre).map(Linked::Agent),
        Role::Observer => bindings::observer::ObserverPluginPre::new(pre).map(Linked::Observer),
    }
    .map_err(does_not_fit)
}
