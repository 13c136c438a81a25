//! What a component imports and exports, by name, and whether that fits its role and its grants.
//!
//! Read from the bytes, without compiling them. Not here: whether the types behind the names fit, which is found out before it
//! is compiled (`plugin/contract/loading.rs`).

use wasmparser::{Encoding, Parser, Payload};

use super::contract::{PACKAGES, Path};
use super::manifest::Manifest;
use crate::config::Grants;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::{self, Needed};

/// The names of a component's outer side, with their versions, in the order in which they stand in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// What it cannot do without.
    pub imports: Vec<String>,
    /// What it can be asked for.
    pub exports: Vec<String>,
}

impl World {
    /// The world of a component; what lies within it does not count.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        let broken = |error: wasmparser::BinaryReaderError| {
            wrong(format!(
                "{file} is broken WebAssembly: {error}; build it again with `waypost plugin build`"
            ))
        };
        let mut world = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(broken)? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && encoding != Encoding::Component {
                        return Err(wrong(format!(
                            "{file} is a WebAssembly module and no component; build it for `wasm32-wasip2`"
                        )));
                    }
                    depth += 1;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        world.imports.push(import.map_err(broken)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        world.exports.push(export.map_err(broken)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(world)
    }

    /// Whether the component is what its manifest says, and asks there for all that it imports.
    pub fn fits(&self, manifest: &Manifest) -> Result<()> {
        let names = self.imports.iter().map(String::as_str);
        check_imports(&manifest.id, &manifest.asks(), names, &of_an_author)?;
        check_exports(manifest, self.exports.iter().map(String::as_str))
    }
}

/// What gives an interface to a plugin whose manifest can be changed.
pub fn of_an_author(needed: &Needed) -> String {
    format!(
        "if it may, add `{}` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml",
        needed.line
    )
}

/// Names the first import that is not there, before the linker says it in its own words; `remedy` says what gives it.
pub fn check_imports<'a>(
    id: &str,
    grants: &Grants,
    names: impl Iterator<Item = &'a str>,
    remedy: &dyn Fn(&Needed) -> String,
) -> Result<()> {
    for name in names {
        let needed = imports::needed(name);
        if let Some(needed) = needed.filter(|needed| !(needed.given)(grants)) {
            let message = format!(
                "plugin `{id}` imports `{name}` without the grant `{}`; {}",
                needed.grant,
                remedy(needed)
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let known = needed.is_some() || offered(name);
        if !known {
            return Err(wrong(format!(
                "plugin `{id}` imports `{name}`, which this hub does not offer; it offers the packages waypost:call, \
                 waypost:gateway, waypost:state, waypost:log, waypost:workspace, waypost:http, waypost:files, waypost:process \
                 and waypost:socket (0.1) and WASI 0.2 without wasi:http"
            )));
        }
    }
    Ok(())
}

/// Names the export of the role when it is not there.
pub(super) fn check_exports<'a>(manifest: &Manifest, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let wanted = manifest.role.export();
    let names: Vec<&str> = names.collect();
    // The engine finds it in each version that fits, too.
    let ours = Path::of(wanted);
    let stands_for = |name: &&str| {
        *name == wanted
            || Path::of(name)
                .zip(ours.as_ref())
                .is_some_and(|(theirs, ours)| theirs.stands_for(ours))
    };
    if names.iter().any(stands_for) {
        return Ok(());
    }
    let exports = if names.is_empty() {
        "nothing".to_owned()
    } else {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    Err(wrong(format!(
        "plugin `{}` has the role {} by its manifest, but does not export `{wanted}`; it exports {exports}: set `role` to what it is, \
         or build it with that world; `waypost plugin doctor` says more",
        manifest.id,
        manifest.role.as_str()
    )))
}

/// Whether this hub has the package. Whether it has the interface is seen when the contracts are compared, and who is older then.
fn offered(import: &str) -> bool {
    let Some((package, _)) = import.split_once('/') else {
        return false;
    };
    match package.split_once(':') {
        Some(("waypost", name)) => name != "plugin" && PACKAGES.iter().any(|(package, _)| *package == name),
        Some(("wasi", name)) => ["cli", "clocks", "filesystem", "io", "random", "sockets"].contains(&name),
        _ => false,
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wasm_encoder::{Component, Module};

    fn manifest(text: &str) -> Manifest {
        Manifest::parse("x.toml", text).unwrap()
    }

    fn world(imports: &[&str], exports: &[&str]) -> World {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        World {
            imports: owned(imports),
            exports: owned(exports),
        }
    }

    #[test]
    fn what_is_no_component_has_no_world() {
        for (bytes, text) in [
            (
                Module::new().finish(),
                "x.wasm is a WebAssembly module and no component; build it for `wasm32-wasip2`",
            ),
            (
                b"hello".to_vec(),
                "x.wasm is broken WebAssembly: magic header not detected: bad magic number - expected=[\n    0x0,\n    0x61,\n    \
                 0x73,\n    0x6d,\n] actual=[\n    0x68,\n    0x65,\n    0x6c,\n    0x6c,\n] (at offset 0x0); build it again with \
                 `waypost plugin build`",
            ),
        ] {
            assert_eq!(World::read("x.wasm", &bytes).unwrap_err().to_string(), text);
        }
        assert_eq!(
            World::read("x.wasm", &Component::new().finish()).unwrap(),
            World::default()
        );
    }

    #[test]
    fn a_world_fits_when_the_role_is_there_and_every_import_is_asked_for() {
        let observer = "id = \"a\"\nversion = \"1\"\nrole = \"observer\"\n";
        let export = "waypost:plugin/observer@0.1.0";
        let fits = |text: &str, imports: &[&str], exports: &[&str]| {
            world(imports, exports)
                .fits(&manifest(text))
                .map_err(|error| error.to_string())
        };
        let all = [
            "waypost:state/store@0.1.0",
            "waypost:log/log@0.1.0",
            "wasi:io/error@0.2.6",
        ];
        assert_eq!(
            fits(&format!("{observer}[grants]\nstate = true"), &all, &[export]),
            Ok(())
        );
        let denied = fits(observer, &all, &[export]).unwrap_err();
        assert!(
            denied.starts_with("plugin `a` imports `waypost:state/store@0.1.0` without the grant `state`; "),
            "{denied}"
        );
        let unknown = fits(observer, &["wasi:http/types@0.2.6"], &[export]).unwrap_err();
        assert!(
            unknown.starts_with("plugin `a` imports `wasi:http/types@0.2.6`, which this hub does not offer; "),
            "{unknown}"
        );
        for fitting in ["waypost:plugin/observer@0.1.1", "waypost:plugin/observer@0.1.20"] {
            assert_eq!(fits(observer, &[], &[fitting]), Ok(()), "{fitting}");
        }
        for other in ["@0.2.0", "@1.1.0", "@0.1.0-rc.1", "@0.0.1", ""] {
            assert!(
                fits(observer, &[], &[&format!("waypost:plugin/observer{other}")]).is_err(),
                "{other}"
            );
        }
        let other = fits(observer, &[], &["waypost:plugin/handler@0.1.0"]).unwrap_err();
        assert!(
            other.starts_with(
                "plugin `a` has the role observer by its manifest, but does not export \
                 `waypost:plugin/observer@0.1.0`; it exports `waypost:plugin/handler@0.1.0`: "
            ),
            "{other}"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), whole in any::<bool>()) {
            let mut all = if whole { Component::new().finish() } else { Vec::new() };
            all.extend(bytes);
            drop(World::read("x", &all));
        }
    }
}
