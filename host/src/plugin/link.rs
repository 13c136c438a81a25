//! From a component to something that can be instantiated: checked against its role and its grants, and
//! linked with just what it was granted.

use wasmparser::{Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::{self, CallState, Facts};

use super::manifest::Role;

/// The generated side of the four worlds.
pub mod bindings {
    #![expect(missing_docs, reason = "bindgen-generated code; the documentation is in wit/")]

    macro_rules! world {
        ($module:ident, $world:literal) => {
            pub mod $module {
                wasmtime::component::bindgen!({
                    path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/plugin"],
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

/// Checks and links. Every failure is one error that names the plugin, the item and the remedy.
pub(super) fn link(engine: &Engine, role: Role, facts: &Facts, component: &Component) -> Result<Linked> {
    let kind = component.component_type();
    let exports: Vec<&str> = kind.exports(engine).map(|(name, _)| name).collect();
    check_imports(kind.imports(engine).map(|(name, _)| name), facts)?;
    check_export(&exports, role, &facts.id)?;
    let does_not_fit = |error: wasmtime::Error| {
        let message = format!(
            "plugin `{}` does not fit the contract of this hub (0.1.0): {error:#}",
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

/// The same for a component that is not loaded here, as far as names go; whether what they name fits was found out where it
/// was compiled, and is found out again where it is loaded.
pub(super) fn check(role: Role, facts: &Facts, bytes: &[u8]) -> Result<()> {
    let (imports, exports) = names(bytes);
    check_imports(imports.into_iter(), facts)?;
    check_export(&exports, role, &facts.id)
}

/// What the component itself imports and exports, not what is within it.
fn names(bytes: &[u8]) -> (Vec<&str>, Vec<&str>) {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                imports.extend(section.into_iter().map_while(Result::ok).map(|import| import.name.name));
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                exports.extend(section.into_iter().map_while(Result::ok).map(|export| export.name.name));
            }
            _ => {}
        }
    }
    (imports, exports)
}

/// Names the first import that is not there, before the linker says it in its own words.
fn check_imports<'a>(imports: impl Iterator<Item = &'a str>, facts: &Facts) -> Result<()> {
    for name in imports {
        let granted = match imports::grant_for(name) {
            Some(("gateway", _)) => !facts.grants.gateway.is_empty(),
            Some(("state", _)) => facts.grants.state,
            Some(("workspace", _)) => facts.grants.workspace,
            _ => true,
        };
        if let (false, Some((grant, line))) = (granted, imports::grant_for(name)) {
            let message = format!(
                "plugin `{}` imports `{name}` without the grant `{grant}`; if it may, add `{line}` to [grants] of its manifest \
                 and to `grant` of its [[plugin]] entry in waypost.toml",
                facts.id
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let known = imports::grant_for(name).is_some() || offered(name);
        if !known {
            let message = format!(
                "plugin `{}` imports `{name}`, which this hub does not offer; it offers the packages waypost:call, \
                 waypost:gateway, waypost:state, waypost:log and waypost:workspace (0.1) and WASI 0.2 without wasi:http",
                facts.id
            );
            return Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin));
        }
    }
    Ok(())
}

fn offered(import: &str) -> bool {
    [
        "waypost:call/",
        "waypost:gateway/",
        "waypost:log/",
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:filesystem/",
        "wasi:io/",
    ]
    .iter()
    .chain(&["wasi:random/", "wasi:sockets/"])
    .any(|package| import.starts_with(package))
}

fn check_export(exports: &[&str], role: Role, id: &str) -> Result<()> {
    let wanted = role.export();
    if exports.contains(&wanted) {
        return Ok(());
    }
    let exports: Vec<String> = exports.iter().map(|name| format!("`{name}`")).collect();
    let exports = if exports.is_empty() {
        "nothing".to_owned()
    } else {
        exports.join(", ")
    };
    let message = format!(
        "plugin `{id}` has the role {} by its manifest, but does not export `{wanted}`; it exports {exports}: set `role` to what it is, \
         or build it with that world",
        role.as_str()
    );
    Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin))
}
