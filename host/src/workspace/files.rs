//! What is done to the files of a workspace: open, read, write whole, remove. Blocking; for threads that may block.
//!
//! A file is written beside its place and then renamed onto it, so a reader sees the old content or the new, and a
//! stopped call leaves nothing. Not here: appending, links, and anything that follows a path twice.

use std::io::{self, Read, Write};

use cap_std::fs::{Dir, File, Metadata, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt};
use rustix::fs::{OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use uuid::Uuid;

use super::{Last, Place, UNFINISHED, Workspace, failed, invalid, not_a_folder, not_found, open_folder, refused};
use crate::call::CallError;
use crate::error::ErrorKind;

/// How deep a tree may be that is walked, copied or removed as a whole.
pub const DEPTH: usize = 128;
/// How much is read or written between two looks at whether to stop.
pub(crate) const CHUNK: usize = 64 << 10;

/// Asked between two pieces of work; an error stops it.
pub type Stop<'a> = &'a dyn Fn() -> Result<(), CallError>;

/// What a written file is afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether there was none before.
    pub is_new: bool,
}

impl Workspace {
    /// Opens a regular file to read. Never waits: a pipe or a device is an error.
    pub fn open_file(&self, canonical: &str) -> Result<(File, Metadata), CallError> {
        let place = self.locate(canonical, Last::Followed)?;
        place.regular_file(canonical)?;
        let name = place.name()?;
        open_regular(&place.folder, name, canonical)
    }

    /// Reads a whole file of at most `limit` bytes.
    pub fn read(&self, canonical: &str, limit: usize, stop: Stop<'_>) -> Result<Vec<u8>, CallError> {
        let (file, metadata) = self.open_file(canonical)?;
        read_open(file, &metadata, canonical, limit, stop)
    }

    /// Opens a folder, following links inside the workspace; answers its real canonical path too.
    pub fn open_folder(&self, canonical: &str) -> Result<(Dir, String), CallError> {
        let place = self.locate(canonical, Last::Followed)?;
        let folder = match (&place.metadata, place.rest.as_slice()) {
            (_, []) => place.folder,
            (Some(metadata), [name]) if metadata.is_dir() => {
                open_folder(&place.folder, name).map_err(|error| failed(canonical, &error))?
            }
            (Some(_), _) => return Err(not_a_folder(canonical, canonical)),
            (None, _) => return Err(not_found(canonical)),
        };
        Ok((folder, place.real))
    }

    /// Makes a folder and those above it; answers whether there was none before.
    pub fn create_folder(&self, canonical: &str) -> Result<bool, CallError> {
        let place = self.locate_to_write(canonical, Last::Followed)?;
        match &place.metadata {
            Some(metadata) if metadata.is_dir() => Ok(false),
            Some(_) => Err(invalid(format!("`{canonical}` exists and is not a folder"))),
            None => {
                create_folders(&place.folder, &place.rest).map_err(|error| failed(canonical, &error))?;
                Ok(true)
            }
        }
    }

    /// Writes a whole file, making the folders above it; keeps the permission bits of one that is there.
    pub fn write(&self, canonical: &str, content: &[u8], stop: Stop<'_>) -> Result<Written, CallError> {
        let place = self.locate_to_write(canonical, Last::Followed)?;
        place.name()?;
        if place.metadata.is_some() {
            place.regular_file(canonical)?;
        }
        let failed = |error: io::Error| failed(canonical, &error);
        let mut unfinished = Unfinished::create(&place.folder).map_err(failed)?;
        for chunk in content.chunks(CHUNK) {
            stop()?;
            unfinished.file.write_all(chunk).map_err(failed)?;
        }
        if let Some(metadata) = &place.metadata {
            let mode = metadata.permissions().mode() & 0o777;
            unfinished
                .file
                .set_permissions(Permissions::from_mode(mode))
                .map_err(failed)?;
        }
        unfinished.file.sync_all().map_err(failed)?;
        stop()?;
        unfinished.rename_to(&place).map_err(failed)?;
        Ok(Written {
            is_new: place.metadata.is_none(),
        })
    }

    /// Removes a file or a link; a link's target stays.
    pub fn remove_file(&self, canonical: &str) -> Result<(), CallError> {
        let place = self.locate_to_write(canonical, Last::Itself)?;
        let name = place.name()?;
        match &place.metadata {
            None => Err(not_found(canonical)),
            Some(metadata) if metadata.is_dir() => Err(invalid(format!(
                "`{canonical}` is a folder; use deleteFolder to remove it"
            ))),
            Some(_) => place
                .folder
                .remove_file(name)
                .map_err(|error| failed(canonical, &error)),
        }
    }

    /// Moves a file, a link or a folder to a name that is free. Refuses protected places at both ends, and a folder that holds
    /// one at any depth.
    ///
    /// It can be stopped while it looks for protected paths; the move itself is one step.
    pub fn rename(&self, from: &str, to: &str, stop: Stop<'_>) -> Result<(), CallError> {
        let (old, new) = (
            self.locate_to_write(from, Last::Itself)?,
            self.locate_to_write(to, Last::Itself)?,
        );
        let name = old.name()?;
        match &old.metadata {
            None => return Err(not_found(from)),
            Some(metadata) if metadata.is_dir() => {
                let folder = open_folder(&old.folder, name).map_err(|error| failed(from, &error))?;
                refuse_protected(&folder, from, &old.real, DEPTH, stop)?;
            }
            Some(_) => {}
        }
        let taken = || {
            invalid(format!(
                "`{to}` is there already; remove it first, or choose another name"
            ))
        };
        if new.metadata.is_some() {
            return Err(taken());
        }
        let [target] = new.rest.as_slice() else {
            let folder = to.rsplit_once('/').map_or("", |(folder, _)| folder);
            return Err(not_found(folder));
        };
        // A name that was taken since it was looked at is not taken over.
        let moved = renameat_with(&old.folder, name, &new.folder, target.as_str(), RenameFlags::NOREPLACE);
        moved.map_err(|error| match error {
            Errno::EXIST => taken(),
            error => failed(from, &error.into()),
        })
    }

    /// Removes a folder with all in it. Refuses the root, and a folder that holds a protected path at any depth.
    ///
    /// It can be stopped while it looks for protected paths; once it removes, it goes to the end.
    pub fn remove_folder(&self, canonical: &str, stop: Stop<'_>) -> Result<(), CallError> {
        let place = self.locate_to_write(canonical, Last::Itself)?;
        let name = place.name()?;
        match &place.metadata {
            None => return Err(not_found(canonical)),
            Some(metadata) if !metadata.is_dir() => return Err(not_a_folder(canonical, canonical)),
            Some(_) => {}
        }
        let folder = open_folder(&place.folder, name).map_err(|error| failed(canonical, &error))?;
        refuse_protected(&folder, canonical, &place.real, DEPTH, stop)?;
        stop()?;
        place
            .folder
            .remove_dir_all(name)
            .map_err(|error| failed(canonical, &error))
    }
}

impl Place {
    /// The last part's name; an error for the root, which has none.
    pub(crate) fn name(&self) -> Result<&str, CallError> {
        let none = || invalid("the workspace itself cannot be meant here; name something inside it".to_owned());
        self.rest.last().map(String::as_str).ok_or_else(none)
    }

    fn regular_file(&self, canonical: &str) -> Result<(), CallError> {
        self.name()?;
        match &self.metadata {
            None => Err(not_found(canonical)),
            Some(metadata) if metadata.is_dir() => Err(invalid(format!("`{canonical}` is a folder, not a file"))),
            Some(metadata) if !metadata.is_file() => Err(irregular(canonical)),
            Some(_) => Ok(()),
        }
    }
}

/// Opens a regular file by its name in a folder, following no link and never waiting.
pub(crate) fn open_regular(folder: &Dir, name: &str, canonical: &str) -> Result<(File, Metadata), CallError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    let file = folder
        .open_with(name, &options)
        .map_err(|error| failed(canonical, &error))?;
    let metadata = file.metadata().map_err(|error| failed(canonical, &error))?;
    if !metadata.is_file() {
        return Err(irregular(canonical));
    }
    Ok((file, metadata))
}

/// Reads an open file of at most `limit` bytes.
pub(crate) fn read_open(
    mut file: File,
    metadata: &Metadata,
    canonical: &str,
    limit: usize,
    stop: Stop<'_>,
) -> Result<Vec<u8>, CallError> {
    let too_large = |size: u64| {
        let message = format!(
            "`{canonical}` has {size} bytes, more than the {limit} of the limit `files.file`; read a range of lines"
        );
        CallError::new(ErrorKind::Limit, message)
    };
    if metadata.len() > limit as u64 {
        return Err(too_large(metadata.len()));
    }
    let mut content = Vec::new();
    loop {
        stop()?;
        let mut chunk = Read::by_ref(&mut file).take(CHUNK as u64);
        let got = chunk
            .read_to_end(&mut content)
            .map_err(|error| failed(canonical, &error))?;
        if content.len() > limit {
            return Err(too_large(content.len() as u64));
        }
        if got == 0 {
            return Ok(content);
        }
    }
}

fn irregular(canonical: &str) -> CallError {
    invalid(format!("`{canonical}` is not a regular file"))
}

fn refuse_protected(folder: &Dir, canonical: &str, real: &str, depth: usize, stop: Stop<'_>) -> Result<(), CallError> {
    if depth == 0 {
        let message = format!("`{canonical}` is more than {DEPTH} folders deep; remove its inner folders first");
        return Err(CallError::new(ErrorKind::Limit, message));
    }
    for entry in folder.entries().map_err(|error| failed(canonical, &error))? {
        stop()?;
        let entry = entry.map_err(|error| failed(canonical, &error))?;
        let name = entry.file_name();
        let path = format!("{real}/{}", name.to_string_lossy());
        if Workspace::protected(&path) {
            return Err(refused(&path));
        }
        let kind = entry.file_type().map_err(|error| failed(canonical, &error))?;
        if kind.is_dir() {
            let inner = entry.open_dir().map_err(|error| failed(canonical, &error))?;
            refuse_protected(&inner, canonical, &path, depth - 1, stop)?;
        }
    }
    Ok(())
}

/// Makes folders one in the other and opens the innermost; on failure removes those it made.
fn create_folders(folder: &Dir, names: &[String]) -> io::Result<Dir> {
    let [name, inner @ ..] = names else {
        return folder.try_clone();
    };
    let made = match folder.create_dir(name) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let result = open_folder(folder, name).and_then(|next| create_folders(&next, inner));
    if result.is_err() && made {
        // The first failure is the one to tell; an empty folder that stays is harmless.
        let _ = folder.remove_dir(name);
    }
    result
}

/// A file that is being written under a name of its own; removed unless it is renamed to its place.
pub(crate) struct Unfinished<'a> {
    folder: &'a Dir,
    name: String,
    pub(crate) file: File,
}

impl<'a> Unfinished<'a> {
    pub(crate) fn create(folder: &'a Dir) -> io::Result<Self> {
        let name = format!("{UNFINISHED}{}", Uuid::now_v7());
        let file = folder.open_with(&name, OpenOptions::new().write(true).create_new(true))?;
        Ok(Self { folder, name, file })
    }

    /// Gives it its name, making the folders that are missing.
    pub(crate) fn rename_to(mut self, place: &Place) -> io::Result<()> {
        rename_to(self.folder, &self.name, place)?;
        self.name.clear();
        Ok(())
    }
}

/// Renames onto a place a file that is given the mode of the file there, or, with no word on `executable`, a link.
pub(crate) fn put(folder: &Dir, name: &str, place: &Place, executable: Option<bool>) -> io::Result<()> {
    if let Some(executable) = executable {
        let file = folder.open(name)?;
        let own = file.metadata()?.permissions().mode();
        let there = place.metadata().filter(|metadata| metadata.is_file());
        let mode = there.map_or(own, |metadata| metadata.permissions().mode()) & 0o777;
        let mode = if executable {
            mode | ((mode & 0o444) >> 2)
        } else {
            mode & !0o111
        };
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    rename_to(folder, name, place)
}

/// Renames onto a place, making the folders that are missing.
fn rename_to(folder: &Dir, name: &str, place: &Place) -> io::Result<()> {
    let Some((last, above)) = place.rest.split_last() else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let parent = create_folders(&place.folder, above)?;
    folder.rename(name, &parent, last)
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Nothing is left to tell whoever stopped or failed the write.
            let _ = self.folder.remove_file(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::tests::{GO, house, names, text};
    use super::*;

    #[test]
    fn what_is_not_a_regular_file_never_blocks() {
        let (_house, workspace) = house();
        let pipe = workspace.root().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let socket = std::os::unix::net::UnixListener::bind(workspace.root().join("socket")).unwrap();
        for path in ["pipe", "socket"] {
            let irregular = format!("invalid: `{path}` is not a regular file");
            assert_eq!(text(workspace.read(path, 100, GO)), irregular);
            assert_eq!(text(workspace.write(path, b"x", GO)), irregular);
        }
        assert_eq!(
            text(workspace.read("src", 100, GO)),
            "invalid: `src` is a folder, not a file"
        );
        assert_eq!(
            text(workspace.write("src", b"x", GO)),
            "invalid: `src` is a folder, not a file"
        );
        drop(socket);
    }

    #[test]
    fn a_stopped_or_failed_write_leaves_nothing() {
        let (_house, workspace) = house();
        let before = names(&workspace);
        let asked = std::cell::Cell::new(0);
        // Stops at each possible moment in turn.
        for moment in 1..=4 {
            asked.set(0);
            let stop = || {
                asked.set(asked.get() + 1);
                if asked.get() >= moment {
                    Err(CallError::new(ErrorKind::Cancelled, "stop"))
                } else {
                    Ok(())
                }
            };
            let content = vec![b'x'; CHUNK * 2 + 1];
            assert_eq!(
                text(workspace.write("new/deep/file", &content, &stop)),
                "cancelled: stop"
            );
            assert_eq!(names(&workspace), before);
        }
        assert_eq!(
            text(workspace.write("", b"x", GO)),
            "invalid: the workspace itself cannot be meant here; name something inside it"
        );
    }

    #[test]
    fn a_write_keeps_permissions_and_replaces_whole() {
        let (_house, workspace) = house();
        let file = workspace.root().join("tool.sh");
        fs::write(&file, "a long first content").unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o751)).unwrap();
        assert!(!workspace.write("tool.sh", b"short", GO).unwrap().is_new);
        assert_eq!(fs::read_to_string(&file).unwrap(), "short");
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777,
            0o751
        );
        let limit = text(workspace.read("tool.sh", 4, GO));
        assert_eq!(
            limit,
            "limit: `tool.sh` has 5 bytes, more than the 4 of the limit `files.file`; read a range of lines"
        );
    }

    #[test]
    fn removing_never_takes_a_protected_place_along() {
        let (_house, workspace) = house();
        let root = workspace.root();
        symlink(".codebolt", root.join("rules")).unwrap();
        let refused = |path: &str, named: &str| {
            let expected = format!(
                "denied: `{named}` is protected: rules, hub state and git's own files are not changed by a call"
            );
            assert_eq!(text(workspace.remove_folder(path, GO)), expected);
        };
        refused(".codebolt", ".codebolt");
        refused(".git/hooks", ".git/hooks");
        refused("vendor", "vendor/lib/.git");
        refused("vendor/lib", "vendor/lib/.git");
        assert_eq!(
            text(workspace.remove_folder("", GO)),
            "invalid: the workspace itself cannot be meant here; name something inside it"
        );
        assert_eq!(
            text(workspace.remove_folder("rules", GO)),
            "invalid: `rules` is not a folder"
        );
        // The link is ours to remove; what it points to stays.
        workspace.remove_file("rules").unwrap();
        assert!(root.join(".codebolt/rules.json").exists() && !root.join("rules").exists());
        workspace.remove_folder("src", GO).unwrap();
        assert!(!root.join("src").exists());
        assert_eq!(
            text(workspace.remove_folder("src", GO)),
            "not-found: `src` does not exist"
        );
    }
}
