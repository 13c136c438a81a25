//! A component file and its manifest, as they are read: before anything is checked or loaded.

use std::path::Path;
use std::sync::Arc;

use super::{Manifest, Origin, section};
use crate::config::{Config, Grants, Wall};
use crate::error::{Blame, Error, ErrorKind, Result};

/// A component with its manifest, before it is loaded.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the component says of itself.
    pub manifest: Manifest,
    /// The component.
    pub bytes: Arc<[u8]>,
    /// Where it came from.
    pub origin: Origin,
}

/// The manifest inside a component that is installed by digest. One beside it does not count: the digest would not cover it.
pub(super) fn manifest_of(what: &str, bytes: &[u8]) -> Result<Manifest> {
    match section::read(what, bytes)? {
        Some(text) => Manifest::parse(&format!("the manifest inside {what}"), text),
        None => {
            let message = format!("{what} has no manifest inside; `waypost plugin build` puts it there");
            Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin))
        }
    }
}

fn cannot_read(what: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} cannot be read", what.display()))
        .blame(Blame::Operator)
        .because(error)
}

impl Source {
    /// Reads a component file with its manifest: the one inside, or the one beside a component that has none.
    pub fn read(path: &Path, wall: Wall, grant: Grants, largest: usize) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(|error| cannot_read(path, error))?.len();
        if size > largest as u64 {
            let message = format!(
                "{} has {size} bytes, the limit is {largest}: raise `component` in [limits.plugin]",
                path.display()
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let bytes: Arc<[u8]> = std::fs::read(path).map_err(|error| cannot_read(path, error))?.into();
        let manifest = Self::manifest(path, &bytes)?;
        Ok(Self {
            manifest,
            bytes,
            origin: Origin::Installed {
                path: path.to_owned(),
                wall,
                grant,
            },
        })
    }

    /// The manifest of a component file: the one inside, or the one beside a component that has none.
    pub fn manifest(path: &Path, bytes: &[u8]) -> Result<Manifest> {
        if let Some(text) = section::read(&path.display().to_string(), bytes)? {
            return Manifest::parse(&format!("the manifest inside {}", path.display()), text);
        }
        let beside = path.with_extension("toml");
        let text = std::fs::read_to_string(&beside).map_err(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                return cannot_read(&beside, error);
            }
            let message = format!(
                "{} has no manifest, neither inside nor beside it as {}; `waypost plugin build` puts it inside",
                path.display(),
                beside.file_name().unwrap_or_default().display()
            );
            Error::new(ErrorKind::NotFound, message).blame(Blame::Operator)
        })?;
        Manifest::parse(&beside.display().to_string(), &text)
    }

    /// The plugins that `waypost.toml` names, each read or the error of reading it.
    pub fn installed<'a>(config: &'a Config, project: &'a Path) -> impl Iterator<Item = Result<Self>> + 'a {
        let largest = config.limits.plugin.component;
        config
            .plugins
            .iter()
            .map(move |entry| Self::read(&project.join(&entry.path), entry.wall, entry.grant.clone(), largest))
    }
}
