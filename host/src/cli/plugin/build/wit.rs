//! The world that a component is built for, where the tools of its language want one as text.
//!
//! A folder may bring a world of its own in `wit/`. Without one, the world follows from the manifest: the export of its role,
//! and the imports that it asks for. So the two cannot disagree.

use std::path::{Path, PathBuf};

use crate::cli::plugin::embedded;
use crate::error::{Error, ErrorKind, Result};
use crate::imports::NEEDED;
use crate::plugin::Manifest;
use crate::plugin::contract::contract;

/// A folder of WIT, and the world in it.
pub(super) struct Wit {
    pub(super) folder: PathBuf,
    pub(super) world: String,
}

impl Wit {
    /// The world of a folder; what has to be made for it goes below `room`.
    pub(super) fn of(folder: &Path, manifest: &Manifest, room: &Path) -> Result<Self> {
        let own = folder.join("wit");
        let worlds = worlds(&own)?;
        let by_role = format!("{}-plugin", manifest.role.as_str());
        match worlds.as_slice() {
            [] => Self::made(manifest, room),
            [world] => Self::own(&own, world),
            several => match several.iter().find(|world| **world == by_role) {
                Some(world) => Self::own(&own, world),
                None => {
                    let message = format!(
                        "{} has the worlds {}; name the one of the plugin `{by_role}`, or keep one alone",
                        own.display(),
                        several.join(", ")
                    );
                    Err(Error::new(ErrorKind::Invalid, message))
                }
            },
        }
    }

    fn own(folder: &Path, world: &str) -> Result<Self> {
        let folder = std::fs::canonicalize(folder).map_err(|error| cannot(folder, error))?;
        Ok(Self {
            folder,
            world: world.to_owned(),
        })
    }

    /// Writes the contract of this binary and the world that the manifest says.
    fn made(manifest: &Manifest, room: &Path) -> Result<Self> {
        let folder = room.join("wit");
        let write = |file: PathBuf, bytes: &[u8]| {
            let into = file.parent().unwrap_or(room);
            std::fs::create_dir_all(into)
                .and_then(|()| std::fs::write(&file, bytes))
                .map_err(|error| cannot(&file, error))
        };
        for (name, bytes) in embedded::below(embedded::WIT, "") {
            write(folder.join("deps").join(name), bytes)?;
        }
        write(folder.join("world.wit"), text(manifest).as_bytes())?;
        Ok(Self {
            folder,
            world: WORLD.to_owned(),
        })
    }
}

/// The name of a world that is made here: one that no module of a plugin has, since Python takes both from one name space.
const WORLD: &str = "waypost-world";

/// What every plugin may import.
const ALWAYS: [&str; 2] = [contract!("waypost:log/log"), contract!("waypost:gateway/answer")];

/// The world that a manifest says.
fn text(manifest: &Manifest) -> String {
    let asks = manifest.asks();
    let mut text = format!("package waypost:made@0.1.0;\n\nworld {WORLD} {{\n");
    let asked = NEEDED.iter().filter(|needed| (needed.given)(&asks));
    for name in ALWAYS.into_iter().chain(asked.map(|needed| needed.interface)) {
        text.push_str(&format!("    import {name};\n"));
    }
    text.push_str(&format!("    export {};\n}}\n", manifest.role.export()));
    text
}

/// The worlds that stand in the files of a folder itself; what it depends on is below.
fn worlds(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(folder, error)),
    };
    let mut worlds = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| cannot(folder, error))?.path();
        if path.extension().is_some_and(|ending| ending == "wit") && path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|error| cannot(&path, error))?;
            worlds.extend(text.lines().filter_map(declared).map(str::to_owned));
        }
    }
    worlds.sort();
    Ok(worlds)
}

/// The name of the world that begins in a line.
fn declared(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix("world ")?;
    Some(name.split('{').next().unwrap_or(name).trim())
}

fn cannot(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Other,
        format!("{} cannot be read or written", path.display()),
    )
    .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(rest: &str) -> Manifest {
        let text = format!("id = \"a\"\nversion = \"1\"\n{rest}");
        Manifest::parse("x.toml", &text).unwrap()
    }

    #[test]
    fn a_world_has_what_the_manifest_asks_for_and_nothing_else() {
        let all = "role = \"provider\"\n[grants]\ngateway = [\"x\"]\nstate = true\nworkspace = true";
        assert_eq!(
            text(&manifest(all)),
            "package waypost:made@0.1.0;\n\nworld waypost-world {\n    import waypost:log/log@0.1.0;\n    import \
             waypost:gateway/answer@0.1.0;\n    import waypost:gateway/calls@0.1.0;\n    import waypost:state/store@0.1.0;\n    \
             import waypost:workspace/folders@0.1.0;\n    export waypost:plugin/provider@0.1.0;\n}\n"
        );
        let none = text(&manifest("role = \"agent\""));
        assert!(!none.contains("calls") && !none.contains("store"), "{none}");
    }

    #[test]
    fn the_world_is_the_folders_own_or_the_one_of_the_manifest() {
        let observer = manifest("role = \"observer\"");
        let room = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let find = || Wit::of(folder.path(), &observer, room.path());
        assert_eq!(find().unwrap().folder, room.path().join("wit"));
        assert!(room.path().join("wit/deps/plugin/plugin.wit").is_file());
        let own = folder.path().join("wit");
        std::fs::create_dir_all(own.join("deps/x")).unwrap();
        std::fs::write(own.join("deps/x/x.wit"), "world not-this {}").unwrap();
        assert_eq!(find().unwrap().folder, room.path().join("wit"));
        std::fs::write(own.join("a.wit"), "/// A world {\nworld mine {\n}\n").unwrap();
        assert_eq!(find().unwrap().world, "mine");
        assert_eq!(find().unwrap().folder, own.canonicalize().unwrap());
        std::fs::write(own.join("b.wit"), "world other {}").unwrap();
        let error = find().err().unwrap().to_string();
        assert!(
            error.contains("has the worlds mine, other; name the one of the plugin `observer-plugin`"),
            "{error}"
        );
        std::fs::write(own.join("c.wit"), "world observer-plugin{}").unwrap();
        assert_eq!(find().unwrap().world, "observer-plugin");
    }
}
