//! Walks a tree of a workspace without ever leaving it.
//!
//! Each folder is opened by its name in the one above, through no link, so nothing that is moved or swapped meanwhile
//! can lead outside, and a `.gitignore` that is a pipe or a link to elsewhere is not read. That is why it is not the
//! `ignore` crate's own walker, whose matcher it uses. Links are shown and not followed.

use std::ffi::OsStr;
use std::io;

use cap_std::fs::{Dir, Metadata};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::files::{DEPTH, Stop, open_regular, read_open};
use super::{Workspace, failed};
use crate::call::CallError;
use crate::error::ErrorKind;

/// The largest `.gitignore` that is read, in bytes; a larger one is as if it were not there.
const IGNORE_BYTES: usize = 64 << 10;

/// What a walk shows.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    /// Whether `.gitignore` files hide what they name, and git's own folder is hidden too.
    pub gitignore: bool,
    /// Whether names that begin with a dot are shown.
    pub hidden: bool,
}

/// One file, folder or link of a walk.
pub struct Entry<'a> {
    /// The open folder that it is in.
    pub folder: &'a Dir,
    /// Its name; for a name that is not UTF-8, a likeness of it.
    pub name: &'a str,
    /// Its path, as canonical as its name.
    pub path: &'a str,
    /// Whether the name is UTF-8. What has no such name is shown and cannot be opened.
    pub named: bool,
    /// What it is.
    pub metadata: &'a Metadata,
}

/// How a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Into the folder that was shown, or on to what follows.
    Into,
    /// Past the folder that was shown.
    Past,
    /// Nowhere: the walk is over.
    End,
}

/// Visits everything below a folder, in order of names, a folder before what is in it.
///
/// The hub's state is never shown. A tree deeper than [`DEPTH`] is an error.
pub fn walk(
    workspace: &Workspace,
    start: &str,
    show: Show,
    stop: Stop<'_>,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<Next, CallError>,
) -> Result<(), CallError> {
    let (folder, real) = workspace.open_folder(start)?;
    let mut walk = Walk {
        show,
        stop,
        visit,
        rules: Vec::new(),
    };
    if show.gitignore {
        // The rules of the folders above hold too. The last one is read when the folder is visited.
        let mut above = String::new();
        for part in real.split('/').filter(|part| !part.is_empty()) {
            let (folder, _) = workspace.open_folder(&above)?;
            walk.rules.push(rules(&folder, &above, stop)?);
            if !above.is_empty() {
                above.push('/');
            }
            above.push_str(part);
        }
    }
    walk.folder(&folder, &real, DEPTH).map(drop)
}

struct Walk<'a> {
    show: Show,
    stop: Stop<'a>,
    visit: &'a mut dyn FnMut(&Entry<'_>) -> Result<Next, CallError>,
    /// The rules of the folders from the root to here.
    rules: Vec<Gitignore>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Dir, path: &str, depth: usize) -> Result<Next, CallError> {
        if depth == 0 {
            let message = format!("`{path}` is more than {DEPTH} folders below its start; start further down");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        let mut names = Vec::new();
        for entry in folder.entries().map_err(|error| failed(path, &error))? {
            (self.stop)()?;
            names.push(entry.map_err(|error| failed(path, &error))?.file_name());
        }
        names.sort();
        if self.show.gitignore {
            self.rules.push(rules(folder, path, self.stop)?);
        }
        let mut next = Next::Into;
        for name in &names {
            (self.stop)()?;
            next = self.entry(folder, path, name, depth)?;
            if next == Next::End {
                break;
            }
        }
        if self.show.gitignore {
            self.rules.pop();
        }
        Ok(next)
    }

    fn entry(&mut self, folder: &Dir, parent: &str, name: &OsStr, depth: usize) -> Result<Next, CallError> {
        let shown = name.to_string_lossy();
        let path = if parent.is_empty() {
            shown.to_string()
        } else {
            format!("{parent}/{shown}")
        };
        if Workspace::concealed(&shown) || (!self.show.hidden && shown.starts_with('.')) {
            return Ok(Next::Past);
        }
        let metadata = match folder.symlink_metadata(name) {
            Ok(metadata) => metadata,
            // Removed since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Next::Past),
            Err(error) => return Err(failed(&path, &error)),
        };
        if self.show.gitignore && (shown == ".git" || self.ignored(&path, metadata.is_dir())) {
            return Ok(Next::Past);
        }
        let named = name.to_str().is_some();
        let next = (self.visit)(&Entry {
            folder,
            name: &shown,
            path: &path,
            named,
            metadata: &metadata,
        })?;
        if next != Next::Into || !metadata.is_dir() || !named {
            return Ok(next);
        }
        match super::open_folder(folder, &shown) {
            Ok(inner) => self.folder(&inner, &path, depth - 1),
            // Not ours to read, or no longer a folder.
            Err(_) => Ok(Next::Past),
        }
    }

    /// Whether the nearest rule that says anything about a path hides it.
    fn ignored(&self, path: &str, is_folder: bool) -> bool {
        self.rules
            .iter()
            .rev()
            .map(|rules| rules.matched(path, is_folder))
            .find(|matched| !matched.is_none())
            .is_some_and(|matched| matched.is_ignore())
    }
}

/// The rules of one folder's `.gitignore`. What cannot be read or understood hides nothing.
fn rules(folder: &Dir, path: &str, stop: Stop<'_>) -> Result<Gitignore, CallError> {
    stop()?;
    let Ok((file, metadata)) = open_regular(folder, ".gitignore", path) else {
        return Ok(Gitignore::empty());
    };
    let Ok(content) = read_open(file, &metadata, path, IGNORE_BYTES, stop) else {
        stop()?;
        return Ok(Gitignore::empty());
    };
    let mut builder = GitignoreBuilder::new(path);
    for line in String::from_utf8_lossy(&content).lines() {
        // A line that is not a pattern hides nothing; the others still hold.
        let _ = builder.add_line(None, line);
    }
    Ok(builder.build().unwrap_or_else(|_| Gitignore::empty()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use super::super::tests::{GO, house, names, text};
    use super::*;

    #[test]
    fn unfinished_files_are_invisible() {
        let (_house, workspace) = house();
        fs::write(workspace.root().join(".waypost-tmp-1"), "left by a crash").unwrap();
        assert!(!names(&workspace).iter().any(|name| name.contains("tmp")));
        assert_eq!(
            workspace.read(".waypost-tmp-1", 100, GO).unwrap_err().kind,
            ErrorKind::Denied
        );
        assert_eq!(
            workspace.write(".waypost-tmp-2", b"", GO).unwrap_err().kind,
            ErrorKind::Denied
        );
    }

    #[test]
    fn a_walk_honours_gitignore_and_never_waits() {
        let (_house, workspace) = house();
        let root = workspace.root();
        fs::write(root.join(".gitignore"), "*.log\n/target\n!keep.log\nvendor/\n").unwrap();
        fs::create_dir(root.join("target")).unwrap();
        for file in ["a.log", "keep.log", "src/b.log", "src/keep.log", "target/x"] {
            fs::write(root.join(file), "").unwrap();
        }
        fs::write(root.join("src/.gitignore"), "keep.log\n[broken\n").unwrap();
        let pipe = root.join("src/deep/.gitignore");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").unwrap();
        let shown = names(&workspace);
        let expected = [
            ".codebolt",
            ".codebolt/rules.json",
            ".gitignore",
            "bad\u{fffd}",
            "keep.log",
            "src",
            "src/.gitignore",
            "src/deep",
            "src/deep/.gitignore",
            "src/main.rs",
            "waypost.toml",
        ];
        assert_eq!(shown, expected);
        // From a folder below, the rules above still hold.
        let mut below = Vec::new();
        walk(
            &workspace,
            "src",
            Show {
                gitignore: true,
                hidden: false,
            },
            GO,
            &mut |entry| {
                below.push(entry.path.to_owned());
                Ok(Next::Into)
            },
        )
        .unwrap();
        assert_eq!(below, ["src/deep", "src/main.rs"]);
    }

    #[test]
    fn a_tree_without_end_is_a_limit() {
        let (_house, workspace) = house();
        let mut deep = workspace.root().join("deep");
        for _ in 0..=DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let walked = walk(
            &workspace,
            "deep",
            Show {
                gitignore: false,
                hidden: true,
            },
            GO,
            &mut |_| Ok(Next::Into),
        );
        assert_eq!(walked.unwrap_err().kind, ErrorKind::Limit);
        let removed = text(workspace.remove_folder("deep", GO));
        assert_eq!(
            removed,
            "limit: `deep` is more than 128 folders deep; remove its inner folders first"
        );
    }
}
