//! The tree of a snapshot as a list that was checked: what a checkout may write, path by path.
//!
//! A tree may come from anywhere. One that names a place outside, git's own folder or the hub's state is hostile and is
//! refused whole. What names the rules of this hub, or a submodule, is set aside and stays as it is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use super::{Job, Skipped};
use crate::call::CallError;
use crate::error::{Blame, ErrorKind};
use crate::workspace::bundle::stays_inside;
use crate::workspace::{PATH_BYTES, Workspace, invalid};

/// The longest target of a link, in bytes.
const TARGET: u64 = 4096;
/// The longest entry of a listing.
const ENTRY: usize = PATH_BYTES + 256;

/// What stands at a path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) sort: Sort,
    /// Git's id of the content.
    pub(super) id: String,
    pub(super) size: u64,
}

/// The sorts of files that a tree may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Plain,
    Executable,
    Link,
}

/// A tree by canonical path, and what of it is left alone.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) skipped: Vec<Skipped>,
}

/// Lists a commit's tree; refuses it whole when it is hostile or too large.
pub(super) fn list(job: &Job, commit: &str) -> Result<Tree, CallError> {
    let git = &job.repository.git;
    let mut process = git.start(&["ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", commit])?;
    let lost = || git.failed("read the tree of a snapshot");
    let mut output = BufReader::new(process.stdout.take().ok_or_else(lost)?);
    let (mut tree, mut bytes, mut entries) = (Tree::default(), 0u64, 0usize);
    loop {
        job.stop()?;
        let mut entry = Vec::new();
        let mut limited = Read::by_ref(&mut output).take(ENTRY as u64);
        limited.read_until(0, &mut entry).map_err(|_| lost())?;
        match entry.pop() {
            None => break,
            Some(0) => {}
            Some(_) => return Err(hostile("a path that is too long")),
        }
        entries += 1;
        if entries > job.limits.files {
            return Err(too_much(job.limits.files, "files", "narrative.files"));
        }
        bytes = bytes.saturating_add(tree.add(job.workspace(), &entry)?);
        if bytes > job.limits.size as u64 {
            return Err(too_much(job.limits.size, "bytes", "narrative.size"));
        }
    }
    drop(output);
    if !process.end()? {
        return Err(lost());
    }
    tree.refuse_files_as_folders()?;
    Ok(tree)
}

impl Tree {
    /// Takes one entry of the listing; answers how large its content is.
    fn add(&mut self, workspace: &Workspace, entry: &[u8]) -> Result<u64, CallError> {
        let entry = std::str::from_utf8(entry).map_err(|_| hostile("a path that is not UTF-8"))?;
        let (facts, path) = entry
            .split_once('\t')
            .ok_or_else(|| hostile("an entry without a path"))?;
        let mut facts = facts.split_ascii_whitespace();
        let (mode, id, size) = (facts.next(), facts.nth(1), facts.next());
        let shown = path.escape_debug();
        if path.is_empty() || workspace.canonical(path).ok().as_deref() != Some(path) {
            return Err(hostile(&format!("`{shown}`, which is not a path inside a workspace")));
        }
        let of_git = |part: &str| part.to_lowercase() == ".git";
        if Workspace::concealed(path) || path.split('/').any(of_git) {
            return Err(hostile(&format!("`{shown}`, which belongs to git or to the hub")));
        }
        if Workspace::protected(path) {
            self.skip(path, "it is protected");
            return Ok(0);
        }
        let sort = match mode {
            Some("100644" | "100664") => Sort::Plain,
            Some("100755") => Sort::Executable,
            Some("120000") => Sort::Link,
            Some("160000") => {
                self.skip(path, "it is a submodule");
                return Ok(0);
            }
            _ => return Err(hostile(&format!("`{shown}`, which is neither file nor link"))),
        };
        let size: Option<u64> = size.and_then(|size| size.parse().ok());
        let (Some(id), Some(size)) = (id, size) else {
            return Err(hostile(&format!("`{shown}`, whose content is missing")));
        };
        if sort == Sort::Link && size > TARGET {
            return Err(hostile(&format!("`{shown}`, a link with a target that is too long")));
        }
        let id = id.to_owned();
        if self.nodes.insert(path.to_owned(), Node { sort, id, size }).is_some() {
            return Err(hostile(&format!("`{shown}` twice")));
        }
        Ok(size)
    }

    fn skip(&mut self, path: &str, reason: &'static str) {
        let path = path.to_owned();
        self.skipped.push(Skipped { path, reason });
    }

    fn refuse_files_as_folders(&self) -> Result<(), CallError> {
        for path in self.nodes.keys() {
            let mut above = path.as_str();
            while let Some((parent, _)) = above.rsplit_once('/') {
                if self.nodes.contains_key(parent) {
                    let shown = parent.escape_debug();
                    return Err(hostile(&format!("`{shown}` as a file and as a folder")));
                }
                above = parent;
            }
        }
        Ok(())
    }
}

/// Whether a link stays inside, also for a process that follows it: `..` stands only at the beginning of its target,
/// where no other link can have led elsewhere.
pub(super) fn safe_link(path: &str, target: &str) -> bool {
    let mut climbing = true;
    let climbs_first = target.split('/').all(|part| match part {
        "" | "." => true,
        ".." => climbing,
        _ => {
            climbing = false;
            true
        }
    });
    let plain = !target.is_empty() && !target.chars().any(char::is_control);
    plain && climbs_first && stays_inside(path, target)
}

/// The refusal of a whole tree.
pub(super) fn hostile(what: &str) -> CallError {
    let message = format!("the snapshot holds {what}; it is refused whole and nothing was changed");
    CallError::new(ErrorKind::Denied, message).blame(Blame::Caller)
}

fn too_much(limit: usize, what: &str, name: &str) -> CallError {
    let message = format!("the snapshot has more than {limit} {what}, which is the limit `{name}`; raise it");
    CallError::new(ErrorKind::Limit, message)
}

/// What stands in the way of a path.
pub(super) fn in_the_way(path: &str, other: &str) -> CallError {
    invalid(format!(
        "`{path}` of the snapshot cannot be restored: `{}` stands in its way and is not changed by a call",
        other.escape_debug()
    ))
}
