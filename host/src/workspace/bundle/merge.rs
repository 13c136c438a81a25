//! Brings an environment's changes back into the project.
//!
//! Everything is checked before anything is changed. A file that the project changed too is a conflict and stays as it
//! is; there is no merge inside a file. What [`Workspace::protected`] names is never brought back.

use cap_std::fs::{Dir, Metadata, OpenOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::diff::{content, link_target};
use super::{Base, FileState, Mode, TEXT_BYTES, digest, state, stays_inside};
use crate::call::CallError;
use crate::error::{Blame, ErrorKind, Result};
use crate::workspace::files::{open_regular, put};
use crate::workspace::{Last, UNFINISHED, Workspace, failed, open_folder};

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeReport {
    /// The paths that were brought back.
    pub applied: Vec<String>,
    /// What the project changed too; left alone.
    pub conflicts: Vec<Unmerged>,
    /// What is never brought back.
    pub refused: Vec<Unmerged>,
}

/// A path that was not brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmerged {
    /// The canonical path.
    pub path: String,
    /// Why, for people.
    pub reason: String,
}

/// What is to happen to one path.
enum Verdict {
    Apply,
    /// The project has it already.
    Same,
    Conflict(String),
    Refuse(String),
}

/// One path that is brought back.
struct Step {
    path: String,
    new: Option<FileState>,
}

/// Brings an environment's changes into the project. Blocking.
///
/// One conflict, and nothing at all is brought back, unless it is to be `partial`: then what conflicts is left alone.
/// What was brought back becomes the base of the next diff.
pub fn merge(base: &Base, from: &Workspace, into: &Workspace, partial: bool) -> Result<MergeReport> {
    let changed = base.changed(from)?;
    let mut report = MergeReport::default();
    for path in changed.protected {
        report.refused.push(Unmerged {
            path,
            reason: "it is protected".to_owned(),
        });
    }
    let (mut steps, mut shared) = (Vec::new(), Vec::new());
    for (path, (old, new)) in changed.files {
        match verdict(from, into, &path, old.as_ref(), new.as_ref())? {
            Verdict::Apply => steps.push(Step { path, new }),
            Verdict::Same => shared.push(Step { path, new }),
            Verdict::Conflict(reason) => report.conflicts.push(Unmerged { path, reason }),
            Verdict::Refuse(reason) => report.refused.push(Unmerged { path, reason }),
        }
    }
    if !report.conflicts.is_empty() && !partial {
        return Ok(report);
    }
    let staging = Staging::fill(from, into, &steps)?;
    for (number, step) in steps.into_iter().enumerate() {
        match staging.apply(into, number, &step) {
            Ok(()) => {
                report.applied.push(step.path.clone());
                shared.push(step);
            }
            Err(error) => report.conflicts.push(Unmerged {
                path: step.path,
                reason: error.message,
            }),
        }
    }
    advance(base, from, shared)?;
    Ok(report)
}

fn verdict(
    from: &Workspace,
    into: &Workspace,
    path: &str,
    old: Option<&FileState>,
    new: Option<&FileState>,
) -> Result<Verdict, CallError> {
    let place = match into.locate_to_write(path, Last::Itself) {
        Ok(place) => place,
        Err(error) if error.kind == ErrorKind::Denied && error.blame == Blame::Caller => {
            return Ok(Verdict::Refuse(error.message));
        }
        Err(error) if error.blame == Blame::Caller => return Ok(Verdict::Conflict(error.message)),
        Err(error) => return Err(error),
    };
    if place.real() != path {
        return Ok(Verdict::Conflict("a link of the project stands in its way".to_owned()));
    }
    if let Some(state) = new {
        if state.mode == Mode::Other {
            return Ok(Verdict::Refuse("it is not a regular file".to_owned()));
        }
        if state.mode == Mode::Link && !stays_inside(path, &link_target(from, path)?) {
            return Ok(Verdict::Refuse("it is a link that leads out of the project".to_owned()));
        }
    }
    if place.metadata().is_some_and(Metadata::is_dir) && new.is_some() {
        return Ok(Verdict::Conflict("the project has a folder there".to_owned()));
    }
    let theirs = state(into, path)?;
    Ok(match (theirs.as_ref(), old) {
        (theirs, _) if theirs == new => Verdict::Same,
        (theirs, old) if theirs == old => Verdict::Apply,
        (Some(_), None) => Verdict::Conflict("the project has a file there too".to_owned()),
        (None, _) => Verdict::Conflict("the project removed it".to_owned()),
        (Some(_), Some(_)) => Verdict::Conflict("the project changed it too".to_owned()),
    })
}

/// Makes what both sides now have in common the base.
fn advance(base: &Base, from: &Workspace, shared: Vec<Step>) -> Result<()> {
    let mut next = Base {
        folder: base.folder.clone(),
        manifest: base.manifest.clone(),
    };
    for Step { path, new } in shared {
        let Some(state) = new else {
            next.manifest.files.remove(&path);
            continue;
        };
        if state.mode == Mode::Link {
            next.keep_text(&state.sha256, link_target(from, &path)?.as_bytes())?;
        } else if state.size <= TEXT_BYTES {
            next.keep_text(&state.sha256, &content(from, &path, &state)?)?;
        }
        next.manifest.files.insert(path, state);
    }
    next.save()
}

/// The new files, complete, beside where they will stand; what is still here at the end is removed.
struct Staging<'a> {
    root: &'a Dir,
    name: String,
    folder: Dir,
}

impl<'a> Staging<'a> {
    fn fill(from: &Workspace, into: &'a Workspace, steps: &[Step]) -> Result<Self, CallError> {
        let root = into.dir();
        let name = format!("{UNFINISHED}{}", Uuid::now_v7());
        root.create_dir(&name).map_err(|error| failed("", &error))?;
        let folder = open_folder(root, &name).map_err(|error| failed("", &error))?;
        let staging = Self { root, name, folder };
        for (number, step) in steps.iter().enumerate() {
            if let Some(state) = &step.new {
                staging.add(from, number, &step.path, state)?;
            }
        }
        Ok(staging)
    }

    fn add(&self, from: &Workspace, number: usize, path: &str, state: &FileState) -> Result<(), CallError> {
        let failed = |error: std::io::Error| failed(path, &error);
        let name = number.to_string();
        if state.mode == Mode::Link {
            return self
                .folder
                .symlink_contents(link_target(from, path)?, &name)
                .map_err(failed);
        }
        let place = from.locate(path, Last::Itself)?;
        let (file, _) = open_regular(&place.folder, place.name()?, path)?;
        let mut copy = self
            .folder
            .open_with(&name, OpenOptions::new().write(true).create_new(true))
            .map_err(failed)?;
        let copied = digest(file, path, &mut copy, state.size)?;
        if copied.as_ref() != Some(state) {
            let message = format!("`{path}` changed while it was brought back; merge again when the run has ended");
            return Err(CallError::new(ErrorKind::Unavailable, message));
        }
        copy.sync_all().map_err(failed)
    }

    fn apply(&self, into: &Workspace, number: usize, step: &Step) -> Result<(), CallError> {
        let path = step.path.as_str();
        let failed = |error: std::io::Error| failed(path, &error);
        let Some(state) = &step.new else {
            into.remove_file(path)?;
            remove_empty_parents(into, path);
            return Ok(());
        };
        let place = into.locate_to_write(path, Last::Itself)?;
        let executable = match state.mode {
            Mode::Link => None,
            mode => Some(mode == Mode::Executable),
        };
        put(&self.folder, &number.to_string(), &place, executable).map_err(failed)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Calls never see the folder, and the merge itself has been told already.
        let _ = self.root.remove_dir_all(&self.name);
    }
}

/// Removes the folders that a removed file leaves empty. One that is not empty stays, which is not a failure.
pub(crate) fn remove_empty_parents(into: &Workspace, path: &str) {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('/') {
        let Ok(place) = into.locate_to_write(parent, Last::Itself) else {
            return;
        };
        let Ok(name) = place.name() else { return };
        if place.folder.remove_dir(name).is_err() {
            return;
        }
        path = parent;
    }
}
