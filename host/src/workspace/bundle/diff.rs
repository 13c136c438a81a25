//! What an environment changed, as people read it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use similar::TextDiff;

use super::{Base, FileState, Mode, NEVER, TEXT_BYTES, is_text};
use crate::call::CallError;
use crate::error::Result;
use crate::workspace::{Last, Workspace, failed};

/// How long one file may be compared before the diff becomes coarser.
const PATIENCE: Duration = Duration::from_millis(500);

/// One changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The canonical path.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Whether it is, or was, not text.
    pub binary: bool,
    /// The change as a unified diff; none when it is binary or too large to show.
    pub unified: Option<String>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// Its content, its executable bit or its sort is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// What differs from the base, in order of paths. Blocking.
///
/// New files that a `.gitignore` names, and protected paths, are left out.
pub fn diff(base: &Base, now: &Workspace) -> Result<Vec<Change>> {
    base.changed(now)?
        .files
        .into_iter()
        .map(|(path, (old, new))| change(base, now, path, old, new))
        .collect()
}

fn change(
    base: &Base,
    now: &Workspace,
    path: String,
    old: Option<FileState>,
    new: Option<FileState>,
) -> Result<Change> {
    let kind = match (&old, &new) {
        (None, _) => ChangeKind::Added,
        (Some(_), None) => ChangeKind::Deleted,
        (Some(_), Some(_)) => ChangeKind::Modified,
    };
    let old_side = match &old {
        None => Side::Text(String::new()),
        Some(state) if state.size > TEXT_BYTES => Side::Large,
        Some(state) => base.text(state).map_or(Side::Binary, Side::Text),
    };
    let new_side = match &new {
        None => Side::Text(String::new()),
        Some(state) => side(now, &path, state)?,
    };
    let binary = matches!(old_side, Side::Binary) || matches!(new_side, Side::Binary);
    let unified = match (old_side, new_side) {
        (Side::Text(before), Side::Text(after)) => {
            let modes = modes(old.as_ref(), new.as_ref());
            let before_name = old.map_or_else(|| "/dev/null".to_owned(), |_| format!("a/{path}"));
            let after_name = new.map_or_else(|| "/dev/null".to_owned(), |_| format!("b/{path}"));
            Some(modes + &unified(&before, &after, &before_name, &after_name))
        }
        _ => None,
    };
    Ok(Change {
        path,
        kind,
        binary,
        unified,
    })
}

fn side(now: &Workspace, path: &str, state: &FileState) -> Result<Side> {
    match state.mode {
        Mode::Other => Ok(Side::Binary),
        _ if state.size > TEXT_BYTES => Ok(Side::Large),
        Mode::Link => Ok(Side::Text(link_target(now, path)?)),
        Mode::Plain | Mode::Executable => {
            let content = content(now, path, state)?;
            let text = Some(content)
                .filter(|content| is_text(content))
                .and_then(|text| String::from_utf8(text).ok());
            Ok(text.map_or(Side::Binary, Side::Text))
        }
    }
}

/// The content of a file whose size is known.
pub(super) fn content(workspace: &Workspace, path: &str, state: &FileState) -> Result<Vec<u8>, CallError> {
    // It may have grown since; what is over the size of a text is an error and not a surprise.
    let limit = usize::try_from(state.size.max(TEXT_BYTES)).unwrap_or(usize::MAX);
    workspace.read(path, limit, NEVER)
}

/// One side of a comparison.
enum Side {
    Text(String),
    Large,
    Binary,
}

/// The target of a link, as it is written.
pub(super) fn link_target(workspace: &Workspace, path: &str) -> Result<String, CallError> {
    let place = workspace.locate(path, Last::Itself)?;
    let target = place
        .folder
        .read_link_contents(place.name()?)
        .map_err(|error| failed(path, &error))?;
    Ok(target.to_string_lossy().into_owned())
}

/// A unified diff with three lines of context; empty when nothing differs.
pub fn unified(before: &str, after: &str, before_name: &str, after_name: &str) -> String {
    if before == after {
        return String::new();
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before, after);
    diff.unified_diff()
        .context_radius(3)
        .header(before_name, after_name)
        .to_string()
}

fn modes(old: Option<&FileState>, new: Option<&FileState>) -> String {
    let number = |mode: Mode| match mode {
        Mode::Plain => "100644",
        Mode::Executable => "100755",
        Mode::Link => "120000",
        Mode::Other => "other",
    };
    match (old, new) {
        (Some(old), Some(new)) if old.mode != new.mode => {
            format!("old mode {}\nnew mode {}\n", number(old.mode), number(new.mode))
        }
        _ => String::new(),
    }
}
