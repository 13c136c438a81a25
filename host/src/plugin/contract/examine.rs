//! All that keeps a component from being loaded that its bytes show, in the order in which it would be mended.

use wasmparser::Parser;

use super::compare::{SDK, compare};
use super::finding::name;
use super::{Contract, Finding, Interface, Path, Problem, Side, component};
use crate::config::Grants;
use crate::imports::{self, Needed};
use crate::plugin::{Manifest, Role};

/// How many findings are given for one component; the rest is counted.
pub const FINDINGS: usize = 40;

/// The packages of WASI that every plugin may import.
const WASI: [&str; 6] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// The version of WASI whose interfaces are there.
const WASI_VERSION: semver::Version = semver::Version::new(0, 2, 0);

/// What was found out about a component.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// What does not fit; nothing when it fits by all that its bytes say.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub left_out: usize,
}

/// What a plugin is by its manifest, and what it is granted.
pub struct Asking<'a> {
    /// Its manifest; none when it has none that can be read.
    pub manifest: Option<&'a Manifest>,
    /// What it gets.
    pub grants: &'a Grants,
    /// What gives it an interface that it is not granted.
    pub remedy: &'a dyn Fn(&Needed) -> String,
}

/// Looks at a component. Its code is neither compiled nor run.
pub fn examine(bytes: &[u8], asking: &Asking) -> Examined {
    let mut findings = Vec::new();
    if let Some(finding) = no_component(bytes) {
        findings.push(finding);
    } else {
        match component::read(bytes) {
            Err(broken) => findings.push(self::broken(bytes, &broken)),
            Ok(theirs) => {
                features(bytes, &mut findings);
                look(&theirs, asking, &mut findings);
            }
        }
    }
    let left_out = findings.len().saturating_sub(FINDINGS);
    findings.truncate(FINDINGS);
    Examined { findings, left_out }
}

fn no_component(bytes: &[u8]) -> Option<Finding> {
    if Parser::is_component(bytes) {
        return None;
    }
    if Parser::is_core_wasm(bytes) {
        return Some(Finding::new(
            Problem::Module,
            "it is a core WebAssembly module and no component",
            "build it for `wasm32-wasip2`, or with `waypost plugin build`",
        ));
    }
    let text = match bytes.is_empty() {
        true => "it is empty",
        false => "it is not WebAssembly",
    };
    Some(Finding::new(
        Problem::NoWebassembly,
        text,
        "give the `.wasm` file that the build made",
    ))
}

fn broken(bytes: &[u8], broken: &component::Broken) -> Finding {
    let said = name(&broken.text);
    let (text, remedy) = if broken.cut {
        (
            format!("it ends early, after {} bytes", bytes.len()),
            "get the whole file again, or build it again with `waypost plugin build`",
        )
    } else {
        (
            format!("it is broken WebAssembly, from byte {} on: {said}", broken.offset),
            "build it again with `waypost plugin build`",
        )
    };
    Finding::new(Problem::Broken, text, remedy)
}

fn features(bytes: &[u8], findings: &mut Vec<Finding>) {
    for feature in component::missing_features(bytes) {
        findings.push(Finding::new(
            Problem::Feature,
            format!(
                "it needs of WebAssembly what the engine of this hub does not have: {}",
                name(&feature)
            ),
            "build it without: for WASI 0.2 (`wasm32-wasip2`), with functions that are not async",
        ));
    }
}

fn look(theirs: &Contract, asking: &Asking, findings: &mut Vec<Finding>) {
    let hub = Contract::hub();
    for name in &theirs.strangers {
        findings.push(unknown(name));
    }
    for import in &theirs.imports {
        findings.extend(stranger(hub, import));
    }
    let role = match asking.manifest {
        Some(manifest) => Some(manifest.role.export()),
        None => role(hub, theirs),
    };
    if role.is_none() {
        findings.push(Finding::new(
            Problem::Export,
            "it exports no interface of a role, so it is no plugin",
            "build it with the world of a role: handler, provider, agent or observer",
        ));
    }
    findings.extend(compare(hub, theirs, role.as_slice()));
    for import in &theirs.imports {
        let needed = imports::needed(&import.name).filter(|needed| !(needed.given)(asking.grants));
        if let Some(needed) = needed {
            let text = format!(
                "it imports `{}` without the grant `{}`",
                name(&import.name),
                needed.grant
            );
            findings.push(Finding {
                package: Some(import.path.package.clone()),
                interface: Some(import.path.interface.clone()),
                ..Finding::new(Problem::Grant, text, (asking.remedy)(needed))
            });
        }
    }
}

/// The role that a component without a manifest seems to have.
fn role(hub: &Contract, theirs: &Contract) -> Option<&'static str> {
    let roles = [Role::Handler, Role::Provider, Role::Agent, Role::Observer];
    let exported = |ours: &Interface| theirs.exports.iter().any(|theirs| theirs.path.is(&ours.path));
    roles.into_iter().map(Role::export).find(|role| {
        let ours = hub.exports.iter().find(|ours| ours.name == *role);
        ours.is_some_and(exported)
    })
}

/// What an import is that no package of this hub has.
fn stranger(hub: &Contract, import: &Interface) -> Option<Finding> {
    let Path { package, version, .. } = &import.path;
    if hub.version(package).is_some() {
        return None;
    }
    if !WASI.contains(&package.as_str()) {
        return Some(unknown(&import.name));
    }
    let fits = version
        .as_ref()
        .is_some_and(|version| super::fits(&WASI_VERSION, version));
    if fits {
        return None;
    }
    let shown = name(&import.name);
    let newer = version.as_ref().map(|version| *version > WASI_VERSION);
    Some(Finding {
        package: Some(package.clone()),
        interface: Some(import.path.interface.clone()),
        component: Some(shown.clone()),
        hub: Some(format!("{package} 0.2")),
        older: newer.map(|newer| if newer { Side::Hub } else { Side::Component }),
        ..Finding::new(
            Problem::Version,
            format!("it imports `{shown}`, and this hub has WASI 0.2"),
            "build it for WASI 0.2: for `wasm32-wasip2`, or with `waypost plugin build`",
        )
    })
}

fn unknown(import: &str) -> Finding {
    let shown = name(import);
    let path = Path::of(import);
    let remedy = match path.as_ref().map(|path| path.package.as_str()) {
        Some("wasi:http") => format!(
            "remove the import; a plugin asks servers through waypost:http/client, which `http` of the SDK {SDK} is, with the grant \
             `http`"
        ),
        Some(of) if of.starts_with("waypost:") => {
            format!("upgrade the hub, or build the component with the SDK {SDK} that this hub brings, which has no such package")
        }
        _ => "remove the import: what a plugin may import are the packages of the contract, and WASI 0.2 without wasi:http".to_owned(),
    };
    let ours = path.as_ref().is_some_and(|path| path.package.starts_with("waypost:"));
    Finding {
        package: path.as_ref().map(|path| name(&path.package)),
        interface: path.as_ref().map(|path| name(&path.interface)),
        older: ours.then_some(Side::Hub),
        ..Finding::new(
            Problem::UnknownImport,
            format!("it imports `{shown}`, which this hub does not offer"),
            remedy,
        )
    }
}
