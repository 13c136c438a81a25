//! A bundle: an environment's own copy of a project, with what it was made from, so that it can be compared and brought
//! back.
//!
//! In its folder lie `files/` (the copy), `base.json` (the digest and mode of every file as it was copied) and `base/`
//! (the content of the text files by digest). The project may therefore change, and a later diff still shows what the
//! environment did.
//!
//! Not copied are what `.gitignore` names and what [`Workspace::protected`] names; neither is brought back. It is not a
//! version control: each merge moves the base forward, and there is no history.

mod diff;
mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt, PermissionsExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::diff::{Change, ChangeKind, diff, unified};
pub(crate) use self::merge::remove_empty_parents;
pub use self::merge::{MergeReport, Unmerged, merge};

use super::files::{CHUNK, Stop, open_regular};
use super::walk::{Entry, Next, Show, walk};
use super::{Last, Workspace, failed};
use crate::call::CallError;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The folder of the copy itself, in an environment's folder.
pub const WORKSPACE: &str = "files";
/// The largest file whose changes are shown as text, in bytes.
pub const TEXT_BYTES: u64 = 1 << 20;

const CONTENTS: &str = "base";
const MANIFEST: &str = "base.json";

/// How much a copy may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, links and folders. Default 100,000.
    pub files: usize,
    /// Bytes of all files together. Default 2 GiB.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            files: 100_000,
            bytes: 2 << 30,
        }
    }
}

/// What a folder held when it was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Every file and link by its canonical path.
    pub files: BTreeMap<String, FileState>,
    /// What was left out although no `.gitignore` names it, and why.
    pub skipped: BTreeMap<String, String>,
}

/// What a file is, as far as a comparison cares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The SHA-256 of its content, or of a link's target, in hexadecimal.
    pub sha256: String,
    /// What sort of file.
    pub mode: Mode,
    /// Its size in bytes.
    pub size: u64,
}

/// The sorts of files that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A file.
    Plain,
    /// A file that may be executed.
    Executable,
    /// A symbolic link.
    Link,
    /// A pipe, a socket or a device; never copied and never brought back.
    Other,
}

/// What an environment's copy was made from, or was last brought back as.
#[derive(Debug)]
pub struct Base {
    folder: PathBuf,
    manifest: Manifest,
}

impl Base {
    /// Opens the base in an environment's folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let text = fs::read_to_string(folder.join(MANIFEST)).map_err(broken)?;
        let manifest = serde_json::from_str(&text).map_err(|error| broken(error.into()))?;
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
        })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The content of a file; none when it was not kept, because it is large or not text.
    fn text(&self, state: &FileState) -> Option<String> {
        fs::read_to_string(self.folder.join(CONTENTS).join(&state.sha256)).ok()
    }

    /// Keeps a content by digest, when it is text.
    fn keep_text(&self, sha256: &str, content: &[u8]) -> Result<()> {
        if !is_text(content) {
            return Ok(());
        }
        fs::write(self.folder.join(CONTENTS).join(sha256), content).map_err(broken)
    }

    /// Writes the manifest so that a crash leaves the old one or the new one.
    fn save(&self) -> Result<()> {
        let write = || -> io::Result<()> {
            let next = self.folder.join("base.json.next");
            let mut file = fs::File::create(&next)?;
            file.write_all(&serde_json::to_vec(&self.manifest)?)?;
            file.sync_all()?;
            fs::rename(&next, self.folder.join(MANIFEST))
        };
        write().map_err(broken)
    }

    /// What differs now, without its text.
    fn changed(&self, now: &Workspace) -> Result<Changed> {
        let mut changed = Changed::default();
        for (path, old) in &self.manifest.files {
            let new = state(now, path)?;
            if new.as_ref() != Some(old) {
                changed.files.insert(path.clone(), (Some(old.clone()), new));
            }
        }
        walk(now, "", EVERYTHING, NEVER, &mut |entry| {
            if Workspace::protected(entry.path) {
                changed.protected.insert(entry.path.to_owned());
                return Ok(Next::Past);
            }
            if entry.named && !entry.metadata.is_dir() && !self.manifest.files.contains_key(entry.path) {
                let new = state(now, entry.path)?;
                changed.files.insert(entry.path.to_owned(), (None, new));
            }
            Ok(Next::Into)
        })?;
        Ok(changed)
    }
}

const EVERYTHING: Show = Show {
    gitignore: true,
    hidden: true,
};
/// Copies, comparisons and merges go to their end: what they can take is bounded, and half of one is of no use.
const NEVER: Stop<'static> = &|| Ok(());

/// What differs from a base.
#[derive(Default)]
struct Changed {
    /// Each path as it was and as it is.
    files: BTreeMap<String, (Option<FileState>, Option<FileState>)>,
    /// Protected paths that are there; a copy has none.
    protected: BTreeSet<String>,
}

/// What stands at a path; none when nothing or a folder does, or when a link on the way leads elsewhere.
fn state(workspace: &Workspace, path: &str) -> Result<Option<FileState>, CallError> {
    let place = match workspace.locate(path, Last::Itself) {
        Ok(place) => place,
        // A part of the way is no longer a folder of this workspace, which is the caller's doing.
        Err(error) if error.blame == Blame::Caller => return Ok(None),
        Err(error) => return Err(error),
    };
    let (Some(metadata), true) = (&place.metadata, place.real() == path) else {
        return Ok(None);
    };
    let name = place.name()?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if metadata.is_symlink() {
        let target = place
            .folder
            .read_link_contents(name)
            .map_err(|error| failed(path, &error))?;
        let target = target.to_string_lossy();
        let size = target.len() as u64;
        return Ok(Some(FileState {
            sha256: hex(Sha256::digest(target.as_bytes())),
            mode: Mode::Link,
            size,
        }));
    }
    if !metadata.is_file() {
        return Ok(Some(FileState {
            sha256: String::new(),
            mode: Mode::Other,
            size: 0,
        }));
    }
    let (file, _) = open_regular(&place.folder, name, path)?;
    digest(file, path, &mut io::sink(), u64::MAX)
}

/// Reads an open file to its end, passing on what it reads; none when it has more than `limit` bytes.
fn digest(mut file: File, path: &str, to: &mut dyn Write, limit: u64) -> Result<Option<FileState>, CallError> {
    let failed = |error: io::Error| failed(path, &error);
    let mode = match file.metadata().map_err(failed)?.permissions().mode() & 0o111 {
        0 => Mode::Plain,
        _ => Mode::Executable,
    };
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let got = file.read(&mut buffer).map_err(failed)?;
        let chunk = buffer.get(..got).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(Some(FileState {
                sha256: hex(hash.finalize()),
                mode,
                size,
            }));
        }
        size += got as u64;
        if size > limit {
            return Ok(None);
        }
        hash.update(chunk);
        to.write_all(chunk).map_err(failed)?;
    }
}

/// Copies a project into a folder that exists and is empty, and remembers it as the base. Blocking.
///
/// After a failure, or a crash, what lies there is of no use: remove it.
pub fn copy(project: &Workspace, folder: &Path, limits: &Limits) -> Result<Base> {
    refuse_own_inside(project, folder)?;
    for inner in [WORKSPACE, CONTENTS] {
        fs::create_dir(folder.join(inner)).map_err(broken)?;
    }
    let target = Workspace::open(&folder.join(WORKSPACE))?;
    let base = Base {
        folder: folder.to_owned(),
        manifest: Manifest::default(),
    };
    let mut copy = Copy {
        base,
        target: target.dir(),
        limits: *limits,
        left: *limits,
    };
    walk(project, "", EVERYTHING, NEVER, &mut |entry| copy.entry(entry))?;
    copy.base.save()?;
    Ok(copy.base)
}

struct Copy<'a> {
    base: Base,
    target: &'a Dir,
    limits: Limits,
    /// What may still be copied.
    left: Limits,
}

impl Copy<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Next, CallError> {
        if Workspace::protected(entry.path) {
            return Ok(Next::Past);
        }
        let skip = if !entry.named {
            Some("its name is not UTF-8")
        } else if entry.metadata.is_symlink() {
            self.link(entry)?
        } else if entry.metadata.is_dir() {
            self.target
                .create_dir(entry.path)
                .map_err(|error| failed(entry.path, &error))?;
            None
        } else if entry.metadata.is_file() {
            self.file(entry)?;
            None
        } else {
            Some("it is not a regular file")
        };
        if let Some(reason) = skip {
            self.base
                .manifest
                .skipped
                .insert(entry.path.to_owned(), reason.to_owned());
            return Ok(Next::Past);
        }
        let limit = self.limits.files;
        self.left.files = self.left.files.checked_sub(1).ok_or_else(|| too_many(limit))?;
        Ok(Next::Into)
    }

    fn link(&mut self, entry: &Entry<'_>) -> Result<Option<&'static str>, CallError> {
        let failed = |error: io::Error| failed(entry.path, &error);
        let target = entry.folder.read_link_contents(entry.name).map_err(failed)?;
        let Some(text) = target.to_str().filter(|text| stays_inside(entry.path, text)) else {
            return Ok(Some("it leads out of the project"));
        };
        self.target.symlink_contents(text, entry.path).map_err(failed)?;
        let sha256 = hex(Sha256::digest(text.as_bytes()));
        self.base.keep_text(&sha256, text.as_bytes())?;
        let state = FileState {
            sha256,
            mode: Mode::Link,
            size: text.len() as u64,
        };
        self.base.manifest.files.insert(entry.path.to_owned(), state);
        Ok(None)
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), CallError> {
        let (file, metadata) = open_regular(entry.folder, entry.name, entry.path)?;
        let mode = if metadata.permissions().mode() & 0o111 == 0 {
            0o666
        } else {
            0o777
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let copy = self
            .target
            .open_with(entry.path, &options)
            .map_err(|error| failed(entry.path, &error))?;
        let mut tee = Tee { copy, text: Vec::new() };
        let left = self.left.bytes;
        let state = digest(file, entry.path, &mut tee, left)?.ok_or_else(|| too_large(self.limits.bytes))?;
        self.left.bytes = left.saturating_sub(state.size);
        if state.size <= TEXT_BYTES {
            self.base.keep_text(&state.sha256, &tee.text)?;
        }
        self.base.manifest.files.insert(entry.path.to_owned(), state);
        Ok(())
    }
}

/// Writes a copy and keeps the beginning of it, as much as may be shown as text.
struct Tee {
    copy: File,
    text: Vec<u8>,
}

impl Write for Tee {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let written = self.copy.write(chunk)?;
        if self.text.len() as u64 <= TEXT_BYTES {
            self.text.extend(chunk.iter().take(written));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.copy.flush()
    }
}

/// Whether a content can be shown as text.
fn is_text(content: &[u8]) -> bool {
    !content.contains(&0) && std::str::from_utf8(content).is_ok()
}

/// Whether a link's target, by name, stays in the tree that the link is in.
pub(crate) fn stays_inside(path: &str, target: &str) -> bool {
    let mut depth = path.split('/').count() - 1;
    !target.starts_with('/')
        && target.split('/').all(|part| match part {
            "" | "." => true,
            ".." => match depth.checked_sub(1) {
                Some(less) => {
                    depth = less;
                    true
                }
                None => false,
            },
            _ => {
                depth += 1;
                true
            }
        })
}

fn refuse_own_inside(project: &Workspace, folder: &Path) -> Result<()> {
    let absolute = folder.canonicalize().map_err(broken)?;
    match absolute.strip_prefix(project.root()) {
        Ok(inside) if !Workspace::protected(&inside.to_string_lossy()) => {
            let message = "a copy of a project cannot lie inside it, except in the hub's state folder";
            Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Operator))
        }
        _ => Ok(()),
    }
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn too_many(limit: usize) -> CallError {
    let message = format!("the project has more than {limit} files to copy; name what is not needed in .gitignore");
    CallError::new(ErrorKind::Limit, message)
}

fn too_large(limit: u64) -> CallError {
    let message = format!("the project has more than {limit} bytes to copy; name what is not needed in .gitignore");
    CallError::new(ErrorKind::Limit, message)
}

/// A failure in the environment's folder itself, which is the hub's.
fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "the environment's folder is gone"),
        _ => Error::new(ErrorKind::Internal, "the environment's folder cannot be used").because(error),
    }
}

#[cfg(test)]
mod tests;
