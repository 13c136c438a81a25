//! A workspace's repository: its snapshots by reference, where the workspace stands, and how much may be in it.
//!
//! `refs/narrative/snapshots/<id>` are the snapshots, made or imported; `refs/narrative/head` is the one that the
//! workspace was last recorded as or brought to, and the parent of the next.

use std::collections::BTreeSet;
use std::fs;

use uuid::Uuid;

use super::git::Git;
use super::{Job, broken, make_folder};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::workspace::invalid;

/// References of the snapshots.
pub(super) const SNAPSHOTS: &str = "refs/narrative/snapshots/";
/// Where the workspace stands.
pub(super) const HEAD: &str = "refs/narrative/head";
/// References of what is being made; none outlives its call.
pub(super) const MAKING: &str = "refs/narrative/making/";

/// The answer of a command that answers one word.
pub(super) const WORD: usize = 256;
/// The answer of a command that answers a line for each snapshot; the limit on these is another.
pub(super) const LINES: usize = 64 << 20;

/// The repository of one workspace.
pub(super) struct Repository {
    pub(super) git: Git,
}

impl Repository {
    pub(super) fn new(git: Git) -> Self {
        Self { git }
    }

    /// Makes it when it is not there.
    pub(super) fn open(&self, job: &Job) -> Result<(), CallError> {
        let place = &self.git.repository;
        if place.join("HEAD").exists() {
            return Ok(());
        }
        let work = job.work_folder()?;
        make_folder(&job.home)?;
        let made = work.0.join("repository");
        self.git.init(&made)?;
        fs::rename(&made, place).map_err(|error| broken(&error))
    }

    /// The snapshot that an id names, which must be here.
    pub(super) fn snapshot(&self, job: &Job, field: &str, id: &str) -> Result<String, CallError> {
        let id = object_id(field, id)?;
        self.open(job)?;
        if self.resolve(&format!("{SNAPSHOTS}{id}"))?.is_some() {
            return Ok(id);
        }
        let message = format!("`{field}` names no snapshot of this workspace; create it or import its bundle first");
        Err(CallError::new(ErrorKind::NotFound, message))
    }

    /// The object that a reference or an expression of the hub's own names.
    pub(super) fn resolve(&self, what: &str) -> Result<Option<String>, CallError> {
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", what];
        let ended = self.git.output(&args, &[], WORD)?;
        Ok(ended.success.then(|| ended.word()))
    }

    /// The tree of a commit.
    pub(super) fn tree(&self, commit: &str) -> Result<String, CallError> {
        let tree = self.resolve(&format!("{commit}^{{tree}}"))?;
        tree.ok_or_else(|| self.git.failed("find the tree of a snapshot"))
    }

    /// All snapshots.
    pub(super) fn snapshots(&self) -> Result<BTreeSet<String>, CallError> {
        let args = ["for-each-ref", "--format=%(objectname)", SNAPSHOTS];
        let ended = self.git.must(&args, &[], LINES, "list the snapshots")?;
        Ok(String::from_utf8_lossy(&ended.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Changes references, all or none: commands of `git update-ref --stdin`.
    pub(super) fn update(&self, commands: &str) -> Result<(), CallError> {
        let args = ["update-ref", "--stdin"];
        let ended = self.git.must(&args, commands.as_bytes(), WORD, "write down a snapshot");
        ended.map(drop)
    }

    /// Refuses more when the snapshots are too many or take too much of the disk.
    pub(super) fn room(&self, job: &Job, more: u64) -> Result<(), CallError> {
        let most = job.limits.snapshots;
        if self.snapshots()?.len() >= most {
            let message = format!(
                "this workspace has {most} snapshots, which is the limit `narrative.snapshots`; raise it in waypost.toml"
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        let ended = self
            .git
            .must(&["count-objects", "-v"], &[], WORD * 4, "count its objects")?;
        let kibibytes: u64 = String::from_utf8_lossy(&ended.stdout)
            .lines()
            .filter_map(|line| line.strip_prefix("size: ").or_else(|| line.strip_prefix("size-pack: ")))
            .filter_map(|size| size.parse::<u64>().ok())
            .sum();
        let most = job.limits.repository;
        if kibibytes.saturating_mul(1024).saturating_add(more) > most as u64 {
            let message = format!(
                "the snapshots of this workspace would take more than {most} bytes, which is the limit \
                 `narrative.repository`; raise it in waypost.toml"
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        Ok(())
    }
}

/// A reference for what is being made, removed unless it is kept.
pub(super) struct Making<'a> {
    repository: &'a Repository,
    pub(super) name: String,
}

impl<'a> Making<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        let name = format!("{MAKING}{}", Uuid::now_v7());
        Self { repository, name }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        // One that stays keeps objects on the disk, and that is all.
        let _ = self.repository.update(&format!("delete {}\n", self.name));
    }
}

/// An object's id, before git sees it.
pub(super) fn object_id(field: &str, id: &str) -> Result<String, CallError> {
    let hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex && (id.len() == 40 || id.len() == 64) {
        return Ok(id.to_ascii_lowercase());
    }
    Err(invalid(format!(
        "`{field}` is not the id of a snapshot: 40 or 64 hexadecimal digits"
    )))
}
