//! Where a plugin came from, and what follows from that: its wall, its publisher, who gives it a grant, whose its id is.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Manifest, grants, lock, signature, terms, world};
use crate::config::{Grants, Wall};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::imports::Needed;

/// Where a plugin came from, which decides how far it is trusted.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Built into this binary: it gets what its manifest asks for and runs in the hub's process.
    Bundled,
    /// Named in `waypost.toml`: it gets what the operator allowed and runs behind the wall the operator chose.
    Installed {
        /// The component file.
        path: PathBuf,
        /// Where its code runs.
        wall: Wall,
        /// What the operator allowed.
        grant: Grants,
    },
    /// Named in `waypost.lock`, by digest: it gets what the operator allowed and runs behind the wall the operator chose.
    Locked {
        /// Where it came from, as the lock file has it.
        source: String,
        /// Who signed it.
        signer: Option<signature::Signer>,
        /// Where its code runs.
        wall: Wall,
        /// What the operator allowed.
        grant: Grants,
    },
}

impl Origin {
    /// Where its code runs.
    pub fn wall(&self) -> Wall {
        match self {
            Self::Bundled => Wall::InProcess,
            Self::Installed { wall, .. } | Self::Locked { wall, .. } => *wall,
        }
    }

    /// Who is answerable for a plugin of this id: whoever signed it, by key; without a signature it is on its own.
    pub(super) fn publisher(&self, id: &Arc<str>) -> Arc<str> {
        match self {
            Self::Locked {
                signer: Some(signer), ..
            } => format!("key {}", signer.key).into(),
            _ => Arc::clone(id),
        }
    }

    /// That of a version that stands in `waypost.lock`.
    pub(super) fn locked(entry: &lock::Entry, release: &lock::Release) -> Self {
        Self::Locked {
            source: release.source.clone(),
            signer: release.signer.clone(),
            wall: entry.wall,
            grant: release.grant.clone(),
        }
    }

    /// What an operator does so that this plugin gets this grant; `line` is how a manifest writes it.
    pub(super) fn remedy(&self, id: &str, grant: &str, line: &str) -> String {
        match self {
            Self::Locked { .. } => {
                format!("`waypost plugin grant {id} {}`", terms::example(grant))
            }
            _ => format!("add `{line}` to `grant` of its [[plugin]] entry in waypost.toml"),
        }
    }

    /// What a plugin of this origin gets: what its manifest asks for and the operator allowed.
    pub fn effective(&self, manifest: &Manifest) -> Grants {
        match self {
            Self::Bundled => manifest.asks(),
            Self::Installed { grant, .. } | Self::Locked { grant, .. } => grants::intersect(&manifest.asks(), grant),
        }
    }

    /// Who gives a plugin an interface that it imports without the grant, and how.
    pub fn gives(&self, manifest: &Manifest, needed: &Needed) -> String {
        match self {
            // What a stranger forgot to ask for is not the operator's to add.
            Self::Locked { .. } if !(needed.given)(&manifest.asks()) => {
                "its manifest does not ask for it, so it needs another version".to_owned()
            }
            Self::Locked { .. } => format!("if it may, {}", self.remedy(&manifest.id, needed.grant, needed.line)),
            _ => world::of_an_author(needed),
        }
    }

    /// Refuses a plugin that comes from elsewhere than the loaded one with its id: a name is not taken over silently.
    pub(super) fn must_be(&self, new: &Self, id: &str) -> Result<()> {
        let whose = match (self, new) {
            (Self::Installed { path: old, .. }, Self::Installed { path: new, .. }) if old == new => return Ok(()),
            (Self::Bundled, Self::Bundled) | (Self::Locked { .. }, Self::Locked { .. }) => return Ok(()),
            (Self::Bundled, _) => "a plugin of this binary".to_owned(),
            (Self::Installed { path, .. }, _) => format!("{}, by its [[plugin]] entry in waypost.toml", path.display()),
            (Self::Locked { source, .. }, _) => format!("the one that is installed from {source}"),
        };
        let message =
            format!("the id `{id}` belongs to {whose}; give the other plugin an id of its own in its manifest");
        Err(Error::new(ErrorKind::Denied, message).blame(Blame::Operator))
    }
}
