//! Payloads as files, named by their digest: `blobs/ab/<hex>` in the state directory.
//!
//! A file is whole and durable before it has its name, and it is never written twice. Not here: which payloads are kept
//! (that is the body's business), and removal.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::no_blob;
use crate::call::Json;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The digest of a payload's text, `sha256:<hex>`.
pub(super) fn digest(text: &str) -> String {
    named(text.as_bytes())
}

fn named(bytes: &[u8]) -> String {
    let mut name = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The folder of payload files.
#[derive(Debug)]
pub(super) struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Opens the folder, which is made when it is missing.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("blobs");
        create_folder(&folder)?;
        // Shards that an earlier process made and had no time to sync.
        sync_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Keeps a payload under its digest; durable when it returns.
    pub(super) fn keep(&self, digest: &str, text: &str) -> io::Result<()> {
        let file = self.path(digest).ok_or(io::ErrorKind::InvalidInput)?;
        let shard = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
        create_folder(shard)?;
        if !file.try_exists()? {
            // There is one writer, so the only other user of this name is one that was killed half-way.
            let fresh = file.with_extension("new");
            let mut out = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            std::fs::rename(&fresh, &file)?;
        }
        // Also when it was there: its name may come from a process that was killed before this line.
        sync_folder(shard)
    }

    /// The payload of a digest, checked against it.
    pub(super) fn read(&self, digest: &str) -> Result<Json> {
        let file = self.path(digest).ok_or_else(|| no_blob(digest))?;
        let bytes = std::fs::read(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_blob(digest),
            _ => damaged(digest, "cannot be read").because(error),
        })?;
        if named(&bytes) != digest {
            return Err(damaged(digest, "has another content than its name says"));
        }
        // What has the right digest is what was written, and that was JSON; the depth was checked where it came in.
        let raw: &RawValue = serde_json::from_slice(&bytes).map_err(|e| damaged(digest, "is not JSON").because(e))?;
        Json::of(raw).map_err(|error| damaged(digest, "is not JSON").because(error))
    }

    fn path(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        Some(self.folder.join(hex.get(..2)?).join(hex))
    }
}

fn damaged(digest: &str, how: &str) -> Error {
    let message =
        format!("payload {digest} {how}: restore its file under `blobs` in the state directory from a backup");
    Error::new(ErrorKind::Internal, message).blame(Blame::Operator)
}

/// Makes a folder that only its owner may enter, with those above it; durable when it returns.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        (dir, blobs)
    }

    #[test]
    fn a_payload_has_the_name_of_its_digest_and_is_the_owners_alone() {
        let (dir, blobs) = open();
        let name = digest("null");
        blobs.keep(&name, "null").unwrap();
        let hex = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b";
        assert_eq!(name, format!("sha256:{hex}"));
        let file = dir.path().join("blobs").join("74").join(hex);
        assert_eq!(std::fs::read(&file).unwrap(), b"null");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(blobs.read(&name).unwrap(), Json::null());
    }

    #[test]
    fn a_payload_is_written_once_and_over_what_a_killed_writer_left() {
        let (_dir, blobs) = open();
        let name = digest("[1]");
        let file = blobs.path(&name).unwrap();
        create_folder(file.parent().unwrap()).unwrap();
        std::fs::write(file.with_extension("new"), "half of it, and longer than the whole").unwrap();
        blobs.keep(&name, "[1]").unwrap();
        assert_eq!(blobs.read(&name).unwrap().as_str(), "[1]");
        let written = file.metadata().unwrap().modified().unwrap();
        blobs.keep(&name, "[1]").unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), written);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_file_is_refused_by_name() {
        let (_dir, blobs) = open();
        let name = digest("[1]");
        blobs.keep(&name, "[1]").unwrap();
        std::fs::write(blobs.path(&name).unwrap(), "[2]").unwrap();
        let error = blobs.read(&name).unwrap_err();
        assert_eq!((error.kind, error.blame), (ErrorKind::Internal, Blame::Operator));
        assert_eq!(
            error.message,
            format!(
                "payload {name} has another content than its name says: restore its file under `blobs` in the state \
                 directory from a backup"
            )
        );
    }

    #[test]
    fn only_a_digest_names_a_file() {
        let (_dir, blobs) = open();
        let unknown = format!("sha256:{}", "0".repeat(64));
        let climbing = format!("sha256:{}", "../".repeat(21) + "x");
        let shouted = digest("null").to_uppercase();
        for name in ["", "sha256:", "md5:00", "null", &unknown, &climbing, &shouted] {
            let error = blobs.read(name).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NotFound, "{name}");
            assert!(
                error.message.contains(&format!("`{}`", name.escape_debug())),
                "{}",
                error.message
            );
        }
        assert!(blobs.keep(&climbing, "null").is_err());
    }
}
