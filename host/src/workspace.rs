//! A workspace: the folder that `local` handlers work in, and the one meaning of a path inside it.
//!
//! A path is checked in two steps. [`Workspace::canonical`] is about the text alone: it gives routes and handlers the
//! same name for the same place. [`Workspace::locate`] is about the disk: it walks from the root part by part, never
//! lets the operating system follow a symbolic link, and answers with an open folder, so that nobody can swap a part
//! between the check and the use. What leads outside is refused with one text, whether or not something is there.
//!
//! It is not a sandbox for processes: a command that runs in the folder is not bound by it.

pub mod bundle;
pub mod files;
pub mod walk;

use std::io;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

use crate::call::CallError;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The longest path that is accepted, in bytes.
pub const PATH_BYTES: usize = 4096;
/// The longest part of a path that is accepted, in bytes.
pub const PART_BYTES: usize = 255;
/// How many symbolic links one path may go through.
pub const LINKS: usize = 40;
/// How many folders may be opened to follow one path and its links.
const STEPS: usize = 10_000;

/// The folder of the hub's own state: neither written nor read by handlers.
const STATE: &str = ".waypost";
/// Folders that handlers never write to, wherever they are: each steers what runs later.
const PROTECTED: [&str; 3] = [STATE, ".codebolt", ".git"];
/// How the names of unfinished files begin; a crash may leave one, and nobody sees it.
pub(crate) const UNFINISHED: &str = ".waypost-tmp-";
/// The hub's own files at the root are all those with this beginning.
const OWN_FILES: &str = "waypost.";

/// An open workspace folder.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    /// The root as it was named, when that differs: people and agents write either.
    named: Option<PathBuf>,
    dir: Dir,
}

/// Whether a link at the very end of a path stands for what it points to or for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// For what it points to: reading and writing.
    Followed,
    /// For itself: removing.
    Itself,
}

/// Where a path really is: an open folder of the workspace, and what follows below it.
#[derive(Debug)]
pub struct Place {
    /// The deepest folder on the way, open.
    pub(crate) folder: Dir,
    /// What follows: nothing for the root, one part for what exists, more when folders are missing too.
    pub(crate) rest: Vec<String>,
    /// What the last part is; none when it does not exist.
    pub(crate) metadata: Option<Metadata>,
    /// The canonical path of the place, links resolved.
    real: String,
}

impl Place {
    /// The canonical path of the place, links resolved.
    pub fn real(&self) -> &str {
        &self.real
    }

    /// What is there; none when nothing is.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }
}

impl Workspace {
    /// Opens an existing folder.
    pub fn open(root: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            let message = format!(
                "the workspace {} cannot be opened; name an existing folder",
                root.display()
            );
            Error::new(ErrorKind::NotFound, message)
                .blame(Blame::Operator)
                .because(error)
        };
        let real = root.canonicalize().map_err(failed)?;
        let named = std::path::absolute(root).map_err(failed)?;
        let dir = Dir::open_ambient_dir(&real, ambient_authority()).map_err(failed)?;
        Ok(Self {
            named: (named != real).then_some(named),
            root: real,
            dir,
        })
    }

    /// The folder's own path. For people and child processes; handlers go through [`Workspace::dir`].
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder as a capability: nothing outside can be opened through it.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The canonical form of a path that a caller wrote: relative to the root, `/` between parts, no `.` or `..`,
    /// `""` for the root itself.
    ///
    /// Looks at the text alone; nothing on disk is touched. `..` is resolved by name, as if no part were a link. An
    /// absolute path is accepted when it lies under the root.
    pub fn canonical(&self, written: &str) -> Result<String, CallError> {
        check_text(written)?;
        let parts = lexical(written).ok_or_else(|| outside(written))?;
        if !written.starts_with('/') {
            return Ok(parts.join("/"));
        }
        let under = |root: &Path| {
            let root = lexical(root.to_str()?)?;
            parts.strip_prefix(root.as_slice()).map(|rest| rest.join("/"))
        };
        under(&self.root)
            .or_else(|| self.named.as_deref().and_then(under))
            .ok_or_else(|| outside(written))
    }

    /// Whether a canonical path is one that handlers must not change: the rules, the hub's state, git's own folder.
    ///
    /// Looks at the text alone; [`Workspace::writable`] also asks where a path really leads.
    pub fn protected(canonical: &str) -> bool {
        let own = |part: &str| fold(part).starts_with(OWN_FILES);
        canonical
            .split('/')
            .any(|part| PROTECTED.contains(&fold(part).as_str()))
            || canonical.split('/').next().is_some_and(own)
    }

    /// Whether a canonical path is part of the hub's state, which handlers must not even read.
    pub fn concealed(canonical: &str) -> bool {
        canonical
            .split('/')
            .map(fold)
            .any(|part| part == STATE || part.starts_with(UNFINISHED))
    }

    /// Refuses a canonical path that handlers must not change, also when it gets there through links.
    pub fn writable(&self, canonical: &str) -> Result<(), CallError> {
        self.locate_to_write(canonical, Last::Followed).map(drop)
    }

    /// Finds the place of a canonical path to write to or remove; refuses protected places.
    pub fn locate_to_write(&self, canonical: &str, last: Last) -> Result<Place, CallError> {
        if Self::protected(canonical) {
            return Err(refused(canonical));
        }
        let place = self.locate(canonical, last)?;
        if Self::protected(&place.real) {
            return Err(refused(canonical));
        }
        Ok(place)
    }

    /// Finds the place of a canonical path, following links inside the workspace.
    ///
    /// The last parts may be missing. Every folder on the way is opened by its own name, and never through a link, so
    /// the answer stays true whatever happens to the path afterwards.
    pub fn locate(&self, canonical: &str, last: Last) -> Result<Place, CallError> {
        let mut walk = Walk::start(self, canonical)?;
        let mut ahead = parts_of(canonical);
        while let Some(name) = ahead.pop() {
            if name == ".." {
                walk.leave()?;
                continue;
            }
            if Self::concealed(&name) {
                return Err(concealed(canonical));
            }
            let metadata = match walk.folder.symlink_metadata(&name) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return walk.missing(name, ahead),
                Err(error) => return Err(failed(canonical, &error)),
            };
            if metadata.is_symlink() && !(ahead.is_empty() && last == Last::Itself) {
                ahead.extend(walk.follow(&name)?);
            } else if ahead.is_empty() {
                return Ok(walk.end(vec![name], Some(metadata)));
            } else if metadata.is_dir() {
                walk.enter(name)?;
            } else {
                walk.way.push(name);
                return Err(not_a_folder(canonical, &walk.way.join("/")));
            }
        }
        // The path ends at a folder that is already open: the root, or one that a link named with `..` at its end.
        let metadata = walk.folder.dir_metadata().map_err(|error| failed(canonical, &error))?;
        let name = walk.way.last().cloned();
        if name.is_some() {
            walk.leave()?;
        }
        Ok(walk.end(name.into_iter().collect(), Some(metadata)))
    }
}

/// The way from the root to a place. It holds one open folder at a time, however deep the tree is.
struct Walk<'a> {
    path: &'a str,
    root: &'a Dir,
    way: Vec<String>,
    folder: Dir,
    links: usize,
    steps: usize,
}

impl<'a> Walk<'a> {
    fn start(workspace: &'a Workspace, path: &'a str) -> Result<Self, CallError> {
        let folder = workspace.dir.try_clone().map_err(|error| failed(path, &error))?;
        Ok(Self {
            path,
            root: &workspace.dir,
            way: Vec::new(),
            folder,
            links: 0,
            steps: 0,
        })
    }

    fn enter(&mut self, name: String) -> Result<(), CallError> {
        self.steps += 1;
        if self.steps > STEPS {
            return Err(invalid(format!(
                "`{}` takes more than {STEPS} steps to follow",
                self.path
            )));
        }
        self.folder = open_folder(&self.folder, &name).map_err(|error| failed(self.path, &error))?;
        self.way.push(name);
        Ok(())
    }

    /// Goes back to the parent, from the root again: a folder may have been moved since, and its `..` with it.
    fn leave(&mut self) -> Result<(), CallError> {
        let mut way = std::mem::take(&mut self.way);
        way.pop().ok_or_else(|| outside(self.path))?;
        self.folder = self.root.try_clone().map_err(|error| failed(self.path, &error))?;
        way.into_iter().try_for_each(|name| self.enter(name))
    }

    /// The parts that a link stands for, last first.
    fn follow(&mut self, name: &str) -> Result<Vec<String>, CallError> {
        self.links += 1;
        if self.links > LINKS {
            return Err(invalid(format!("`{}` goes through more than {LINKS} links", self.path)));
        }
        let target = self
            .folder
            .read_link_contents(name)
            .map_err(|error| failed(self.path, &error))?;
        match target.to_str() {
            Some(target) if !target.starts_with('/') => Ok(parts_of(target)),
            _ => Err(outside(self.path)),
        }
    }

    fn missing(self, name: String, mut ahead: Vec<String>) -> Result<Place, CallError> {
        ahead.push(name);
        ahead.reverse();
        if ahead.iter().any(|part| part == "..") {
            return Err(not_found(self.path));
        }
        if ahead.iter().any(|part| Workspace::concealed(part)) {
            return Err(concealed(self.path));
        }
        Ok(self.end(ahead, None))
    }

    fn end(self, rest: Vec<String>, metadata: Option<Metadata>) -> Place {
        let real = self
            .way
            .iter()
            .chain(&rest)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("/");
        Place {
            folder: self.folder,
            rest,
            metadata,
            real,
        }
    }
}

/// Opens a folder by its name in another; a link is an error.
pub(crate) fn open_folder(parent: &Dir, name: &str) -> io::Result<Dir> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed());
    Ok(Dir::from_std_file(parent.open_with(name, &options)?.into_std()))
}

/// The parts of a relative path, last first, without those that mean nothing.
fn parts_of(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|part| !part.is_empty() && *part != ".")
        .map(str::to_owned)
        .collect()
}

/// The parts of a path with `.` and `..` resolved by name; none when it climbs above its start.
fn lexical(path: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts)
}

fn check_text(written: &str) -> Result<(), CallError> {
    if written.len() > PATH_BYTES {
        return Err(invalid(format!(
            "the path is longer than {PATH_BYTES} bytes; use a shorter one"
        )));
    }
    if written.chars().any(char::is_control) {
        let shown = written.escape_debug();
        return Err(invalid(format!(
            "`{shown}` contains a control character; a path cannot"
        )));
    }
    if written.contains('\\') {
        return Err(invalid(format!(
            "`{written}` contains a backslash; write `/` between parts"
        )));
    }
    if let Some(part) = written.split('/').find(|part| part.len() > PART_BYTES) {
        let begin: String = part.chars().take(20).collect();
        return Err(invalid(format!(
            "the part `{begin}…` of a path is longer than {PART_BYTES} bytes; use a shorter one"
        )));
    }
    Ok(())
}

/// A name as the most forgiving file system would compare it.
fn fold(part: &str) -> String {
    part.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

pub(crate) fn invalid(message: String) -> CallError {
    CallError::new(ErrorKind::Invalid, message)
}

/// The one answer for everything outside, whether or not something is there.
pub(crate) fn outside(path: &str) -> CallError {
    CallError::new(ErrorKind::Denied, format!("`{path}` is outside the workspace")).blame(Blame::Caller)
}

pub(crate) fn refused(path: &str) -> CallError {
    let message = format!("`{path}` is protected: rules, hub state and git's own files are not changed by a call");
    CallError::new(ErrorKind::Denied, message).blame(Blame::Caller)
}

fn concealed(path: &str) -> CallError {
    CallError::new(
        ErrorKind::Denied,
        format!("`{path}` belongs to the hub and is not open to calls"),
    )
    .blame(Blame::Caller)
}

pub(crate) fn not_found(path: &str) -> CallError {
    CallError::new(ErrorKind::NotFound, format!("`{path}` does not exist"))
}

pub(crate) fn not_a_folder(path: &str, part: &str) -> CallError {
    if path == part {
        return invalid(format!("`{path}` is not a folder"));
    }
    invalid(format!("`{path}` goes through `{part}`, which is not a folder"))
}

/// What a failed file operation tells the caller; never what is outside.
pub(crate) fn failed(path: &str, error: &io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::NotFound => not_found(path),
        // cap-std's own refusal to leave the folder carries no number of the operating system.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => outside(path),
        io::ErrorKind::PermissionDenied => CallError::new(
            ErrorKind::Denied,
            format!("`{path}`: the hub lacks permission; check its owner and mode"),
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            CallError::new(ErrorKind::Limit, format!("`{path}`: the disk is full; make room"))
        }
        io::ErrorKind::NotADirectory => invalid(format!("`{path}` goes through something that is not a folder")),
        _ => CallError::new(ErrorKind::Other, format!("`{path}`: {error}")),
    }
}

#[cfg(test)]
mod tests;
