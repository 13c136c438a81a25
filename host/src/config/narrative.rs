//! `[narrative]`.

use serde::Deserialize;

use super::values::{bytes, count};

/// `[narrative]`: snapshots of a workspace, and the bundles that carry them to another hub.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Narrative {
    /// Whether a snapshot holds what `.gitignore` names too. Default yes.
    pub ignored: bool,
    /// Files and links of one snapshot. Default 100,000.
    #[serde(deserialize_with = "count")]
    pub files: usize,
    /// Bytes of all files of one snapshot together. Default 2 GiB.
    #[serde(with = "bytes")]
    pub size: usize,
    /// Snapshots of one workspace, made or imported. Default 10,000.
    #[serde(deserialize_with = "count")]
    pub snapshots: usize,
    /// What all snapshots of one workspace may take on disk. Default 4 GiB.
    #[serde(with = "bytes")]
    pub repository: usize,
    /// Size of one bundle. Default 256 MiB.
    #[serde(with = "bytes")]
    pub bundle: usize,
    /// Exported bundles that are kept in all; the oldest goes first. Default 16.
    #[serde(deserialize_with = "count")]
    pub bundles: usize,
}

impl Default for Narrative {
    fn default() -> Self {
        Self {
            ignored: true,
            files: 100_000,
            size: 2 << 30,
            snapshots: 10_000,
            repository: 4 << 30,
            bundle: 256 << 20,
            bundles: 16,
        }
    }
}
