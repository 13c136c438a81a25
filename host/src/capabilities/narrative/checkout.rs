//! Brings the workspace to a snapshot's tree.
//!
//! The workspace is recorded first, so that only what differs is touched. Everything is checked, and every new content is
//! complete beside its place, before the first change; from there it goes to the end. A crash in between leaves some of
//! both, and the same call again finishes it.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Bound;

use cap_std::fs::{Dir, Metadata, OpenOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::git::Process;
use super::repository::{HEAD, Making};
use super::snapshot::{Recorded, record};
use super::tree::{Node, Sort, hostile, in_the_way, list, safe_link};
use super::{Job, SHOWN, Skipped};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::workspace::bundle::remove_empty_parents;
use crate::workspace::files::{CHUNK, put};
use crate::workspace::{Last, Place, UNFINISHED, Workspace, failed, open_folder};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Message {
    environment_id: Option<String>,
    workspace: Option<String>,
    snapshot_id: String,
    #[serde(default)]
    strategy: Strategy,
}

/// How the workspace comes to the snapshot.
#[derive(Default, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Strategy {
    /// It becomes the snapshot; what was there since is gone.
    #[default]
    Revert,
}

#[derive(Serialize)]
pub(super) struct Reply {
    restored_tree_hash: String,
    skipped: Vec<Skipped>,
}

/// One path that differs, and what shall stand there.
type Step = (String, Option<Node>);

/// `checkoutSnapshot`.
pub(super) fn checkout(job: &Job, message: Message) -> Result<Reply, CallError> {
    job.check(message.environment_id.as_deref(), message.workspace.as_deref())?;
    let Strategy::Revert = message.strategy;
    let repository = &job.repository;
    let snapshot = repository.snapshot(job, "snapshotId", &message.snapshot_id)?;
    let target = list(job, &snapshot)?;
    let making = Making::new(repository);
    let recorded = record(job, &making.name, None, "the workspace before a checkout\n")?;
    let now = list(job, &recorded.commit)?;
    let mut steps: Vec<Step> = Vec::new();
    for path in now.nodes.keys().filter(|path| !target.nodes.contains_key(*path)) {
        steps.push((path.clone(), None));
    }
    for (path, node) in &target.nodes {
        if now.nodes.get(path) != Some(node) {
            refuse_obstacle(path, &recorded.left)?;
            steps.push((path.clone(), Some(node.clone())));
        }
    }
    let staging = Staging::fill(job, &steps)?;
    staging.apply(job.workspace(), &steps, &recorded)?;
    drop(staging);
    repository.update(&format!("update {HEAD} {snapshot}\n"))?;
    let mut skipped = target.skipped;
    skipped.truncate(SHOWN);
    Ok(Reply {
        restored_tree_hash: repository.tree(&snapshot)?,
        skipped,
    })
}

/// Refuses a path where something stands that is not part of snapshots, above it, at it or below it.
fn refuse_obstacle(path: &str, left: &BTreeSet<String>) -> Result<(), CallError> {
    let mut above = path;
    loop {
        if left.contains(above) {
            return Err(in_the_way(path, above));
        }
        match above.rsplit_once('/') {
            Some((parent, _)) => above = parent,
            None => break,
        }
    }
    let below = format!("{path}/");
    match left
        .range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded))
        .next()
    {
        Some(other) if other.starts_with(&below) => Err(in_the_way(path, other)),
        _ => Ok(()),
    }
}

/// The new files, complete, in a folder of the workspace that calls never see; what is still here at the end is removed.
struct Staging<'a> {
    root: &'a Dir,
    name: String,
    folder: Dir,
}

impl<'a> Staging<'a> {
    fn fill(job: &'a Job, steps: &[Step]) -> Result<Self, CallError> {
        let root = job.workspace().dir();
        let name = format!("{UNFINISHED}{}", Uuid::now_v7());
        root.create_dir(&name).map_err(|error| failed("", &error))?;
        let folder = open_folder(root, &name).map_err(|error| failed("", &error))?;
        let staging = Self { root, name, folder };
        let mut contents = Contents::start(job)?;
        for (number, (path, node)) in steps.iter().enumerate() {
            if let Some(node) = node {
                staging.add(&mut contents, number, path, node)?;
            }
        }
        contents.process.end()?;
        // One wait for the disk instead of one for each file.
        rustix::fs::syncfs(&staging.folder).map_err(|error| failed("", &error.into()))?;
        job.stop()?;
        Ok(staging)
    }

    fn add(&self, contents: &mut Contents<'_>, number: usize, path: &str, node: &Node) -> Result<(), CallError> {
        let name = number.to_string();
        let failed = |error: io::Error| failed(path, &error);
        if node.sort == Sort::Link {
            let mut target = Vec::new();
            contents.copy(node, path, &mut target)?;
            let shown = path.escape_debug();
            let leads_out = || hostile(&format!("`{shown}`, a link that leads out"));
            let target = String::from_utf8(target).map_err(|_| leads_out())?;
            if !safe_link(path, &target) {
                return Err(leads_out());
            }
            return self.folder.symlink_contents(target, &name).map_err(failed);
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = self.folder.open_with(&name, &options).map_err(failed)?;
        contents.copy(node, path, &mut file)
    }

    /// Changes the workspace: first what goes, then what comes.
    fn apply(&self, workspace: &Workspace, steps: &[Step], recorded: &Recorded) -> Result<(), CallError> {
        for (done, (number, (path, node))) in steps.iter().enumerate().enumerate() {
            let applied = match node {
                None => remove(workspace, path),
                Some(node) => self.place(workspace, number, path, node, &recorded.folders),
            };
            applied.map_err(|error| {
                let message = format!(
                    "{} ({done} of {} changes were made; remove the cause and check the snapshot out again)",
                    error.message,
                    steps.len()
                );
                CallError::new(error.kind, message).blame(error.blame)
            })?;
        }
        Ok(())
    }

    fn place(
        &self,
        workspace: &Workspace,
        number: usize,
        path: &str,
        node: &Node,
        folders: &BTreeSet<String>,
    ) -> Result<(), CallError> {
        let failed = |error: io::Error| failed(path, &error);
        let mut place = exact(workspace, path)?;
        if place.metadata().is_some_and(Metadata::is_dir) {
            remove_empty_folders(workspace, path, folders)?;
            place = exact(workspace, path)?;
        }
        let executable = match node.sort {
            Sort::Link => None,
            sort => Some(sort == Sort::Executable),
        };
        put(&self.folder, &number.to_string(), &place, executable).map_err(failed)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Calls never see the folder, and the checkout itself has been told already.
        let _ = self.root.remove_dir_all(&self.name);
    }
}

/// A place that is where its path says, without a link on the way.
fn exact(workspace: &Workspace, path: &str) -> Result<Place, CallError> {
    let place = workspace.locate_to_write(path, Last::Itself)?;
    if place.real() == path {
        Ok(place)
    } else {
        Err(in_the_way(path, "a link"))
    }
}

fn remove(workspace: &Workspace, path: &str) -> Result<(), CallError> {
    exact(workspace, path)?;
    match workspace.remove_file(path) {
        Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    remove_empty_parents(workspace, path);
    Ok(())
}

/// Removes a folder that holds nothing but empty folders.
fn remove_empty_folders(workspace: &Workspace, path: &str, folders: &BTreeSet<String>) -> Result<(), CallError> {
    let below = format!("{path}/");
    let inner: Vec<&str> = folders
        .range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded))
        .map(String::as_str)
        .take_while(|folder| folder.starts_with(&below))
        .collect();
    for folder in inner.into_iter().rev().chain([path]) {
        let place = exact(workspace, folder)?;
        if place.metadata().is_some() {
            let removed = place.folder.remove_dir(place.name()?);
            removed.map_err(|error| failed(folder, &error))?;
        }
    }
    Ok(())
}

/// The contents of a repository, one after the other, from one process.
struct Contents<'a> {
    job: &'a Job,
    process: Process,
    output: BufReader<std::process::ChildStdout>,
}

impl<'a> Contents<'a> {
    fn start(job: &'a Job) -> Result<Self, CallError> {
        let git = &job.repository.git;
        let mut process = git.start(&["cat-file", "--batch"])?;
        let output = process.stdout.take().ok_or_else(|| git.failed("read a snapshot"))?;
        let output = BufReader::with_capacity(CHUNK, output);
        Ok(Self { job, process, output })
    }

    /// Writes a content whole.
    fn copy(&mut self, node: &Node, path: &str, to: &mut dyn Write) -> Result<(), CallError> {
        let job = self.job;
        let lost = || job.repository.git.failed("read a snapshot");
        let input = self.process.stdin.as_mut().ok_or_else(lost)?;
        input
            .write_all(format!("{}\n", node.id).as_bytes())
            .map_err(|_| lost())?;
        let mut head = String::new();
        Read::by_ref(&mut self.output)
            .take(256)
            .read_line(&mut head)
            .map_err(|_| lost())?;
        if head.trim_end() != format!("{} blob {}", node.id, node.size) {
            return Err(lost());
        }
        let (mut left, mut buffer) = (node.size, vec![0; CHUNK]);
        while left > 0 {
            job.stop()?;
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..most).unwrap_or_default();
            let got = self.output.read(chunk).map_err(|_| lost())?;
            if got == 0 {
                return Err(lost());
            }
            to.write_all(buffer.get(..got).unwrap_or_default())
                .map_err(|error| failed(path, &error))?;
            left = left.saturating_sub(got as u64);
        }
        self.output.read_exact(&mut [0]).map_err(|_| lost())
    }
}
