//! The installed components on disk, each under its digest, below the state directory.
//!
//! What is read is read once: the bytes that were hashed are the bytes that are given out. Not here: which of them count
//! (`plugin/lock.rs`).

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::lock::{self, Entry, Release};
use super::signature::SIGNATURE_BYTES;
use crate::engine::cache::hex;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The folder of installed components.
pub(super) struct Store {
    folder: PathBuf,
    largest: usize,
}

/// The digest of these bytes, as it stands in the lock file.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

impl Store {
    /// The one of a state directory. It is made when something is put in.
    pub(super) fn of(state: &Path, largest: usize) -> Self {
        Self {
            folder: state.join("plugins"),
            largest,
        }
    }

    /// Where the component with this digest is.
    pub(super) fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{}.wasm", digest.replace(':', "-")))
    }

    fn signature_path(&self, digest: &str) -> PathBuf {
        self.path(digest).with_extension("wasm.minisig")
    }

    /// Puts a component in, and its signature. On the disk when this returns.
    pub(super) fn put(&self, bytes: &[u8], signature: Option<&str>) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|error| {
                let message = format!("the folder {} cannot be made", self.folder.display());
                Error::new(ErrorKind::Internal, message)
                    .blame(Blame::Operator)
                    .because(error)
            })?;
        let digest = digest_of(bytes);
        if let Some(signature) = signature {
            lock::replace(&self.signature_path(&digest), signature.as_bytes(), 0o600)?;
        }
        lock::replace(&self.path(&digest), bytes, 0o600)
    }

    /// The component of a locked version: these bytes have its digest. The error names the remedy.
    pub(super) fn get(&self, entry: &Entry, release: &Release) -> Result<Arc<[u8]>> {
        let id = &entry.id;
        let path = self.path(&release.digest);
        let wrong = |kind: ErrorKind, what: String| {
            let message = format!(
                "plugin `{id}` is locked to {}, and {what}: `waypost plugin add {}` again",
                release.digest,
                entry.again(release)
            );
            Error::new(kind, message).blame(Blame::Operator)
        };
        let mut bytes = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(self.largest as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                let what = match error.kind() {
                    std::io::ErrorKind::NotFound => format!("{} is missing", path.display()),
                    _ => format!("{} cannot be read", path.display()),
                };
                wrong(ErrorKind::NotFound, what).because(error)
            })?;
        if bytes.len() > self.largest {
            let message = format!(
                "plugin `{id}` has more than {} bytes, which is the limit: raise `component` in [limits.plugin]",
                self.largest
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let found = digest_of(&bytes);
        if found != release.digest {
            let what = format!("{} is now {found}, which nobody installed", path.display());
            return Err(wrong(ErrorKind::Denied, what));
        }
        Ok(bytes.into())
    }

    /// The signature that came with a component; none when there is none.
    pub(super) fn signature(&self, digest: &str) -> Option<String> {
        let mut text = String::new();
        fs::File::open(self.signature_path(digest))
            .and_then(|file| file.take(SIGNATURE_BYTES as u64 + 1).read_to_string(&mut text))
            .ok()?;
        Some(text)
    }

    /// Removes what none of these digests names. What cannot be removed stays, and nothing refers to it.
    pub(super) fn keep(&self, digests: &HashSet<&str>) {
        let kept: HashSet<PathBuf> = digests
            .iter()
            .flat_map(|digest| [self.path(digest), self.signature_path(digest)])
            .collect();
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            if !kept.contains(&entry.path())
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(file = %entry.path().display(), %error, "an old component cannot be removed");
            }
        }
    }
}
