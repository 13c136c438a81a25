//! Creates, replaces and removes. Each is whole: a reader sees what was there before or what is there after.

use cap_std::fs::Metadata;
use serde::{Deserialize, Serialize};

use super::Job;
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::workspace::bundle::unified;
use crate::workspace::walk::{Next, Show, walk};
use crate::workspace::{Last, invalid, not_found};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileContent {
    path: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlyPath {
    path: String,
}

/// What a write answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wrote {
    path: String,
    result: String,
    bytes_written: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_new_file: Option<bool>,
    /// The change; null when the old content was not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<Option<String>>,
}

/// What everything else here answers.
#[derive(Serialize)]
pub(super) struct Done {
    path: String,
    result: String,
}

/// Makes a new file. One that is there with the same content is as good; with another, it is an error.
pub(super) fn create_file(job: &Job, message: FileContent) -> Result<Wrote, CallError> {
    let path = job.path(&message.path)?;
    check_size(job, &path, &message.content)?;
    let place = job.workspace().locate_to_write(&path, Last::Followed)?;
    if let Some(metadata) = place.metadata() {
        let same = metadata.len() == message.content.len() as u64
            && metadata.is_file()
            && job.workspace().read(&path, job.limits.file, &|| job.stop())? == message.content.as_bytes();
        if !same {
            return Err(invalid(format!(
                "`{path}` exists; use updateFile or writeToFile to replace it"
            )));
        }
    } else {
        job.workspace()
            .write(&path, message.content.as_bytes(), &|| job.stop())?;
    }
    Ok(wrote(path, "created", &message.content))
}

/// Replaces the content of a file that is there.
pub(super) fn update_file(job: &Job, message: FileContent) -> Result<Wrote, CallError> {
    let path = job.path(&message.path)?;
    check_size(job, &path, &message.content)?;
    if job
        .workspace()
        .locate_to_write(&path, Last::Followed)?
        .metadata()
        .is_none()
    {
        let message = format!("`{path}` does not exist; use createFile or writeToFile to make it");
        return Err(CallError::new(ErrorKind::NotFound, message));
    }
    job.workspace()
        .write(&path, message.content.as_bytes(), &|| job.stop())?;
    Ok(wrote(path, "updated", &message.content))
}

/// Makes a file or replaces its content, and shows the difference.
pub(super) fn write_to_file(job: &Job, message: FileContent) -> Result<Wrote, CallError> {
    let path = job.path(&message.path)?;
    check_size(job, &path, &message.content)?;
    let before = before(job, &path)?;
    let written = job
        .workspace()
        .write(&path, message.content.as_bytes(), &|| job.stop())?;
    let diff = before.map(|before| difference(&path, written.is_new, &before, &message.content));
    let verb = if written.is_new { "created" } else { "replaced" };
    let reply = wrote(path, verb, &message.content);
    Ok(Wrote {
        is_new_file: Some(written.is_new),
        diff: Some(diff),
        ..reply
    })
}

/// Makes a folder and those above it. One that is there is as good.
pub(super) fn create_folder(job: &Job, message: OnlyPath) -> Result<Done, CallError> {
    let path = job.path(&message.path)?;
    let result = match job.workspace().create_folder(&path)? {
        true => format!("created the folder {}", super::shown(&path)),
        false => format!("the folder {} was there", super::shown(&path)),
    };
    Ok(Done { path, result })
}

/// Removes a file, or a link without its target.
pub(super) fn delete_file(job: &Job, message: OnlyPath) -> Result<Done, CallError> {
    let path = job.path(&message.path)?;
    job.workspace().remove_file(&path)?;
    Ok(Done {
        result: format!("deleted {path}"),
        path,
    })
}

/// Removes a folder with all in it.
pub(super) fn delete_folder(job: &Job, message: OnlyPath) -> Result<Done, CallError> {
    let path = job.path(&message.path)?;
    must_meet_all(job, &path)?;
    job.workspace().remove_folder(&path, &|| job.stop())?;
    Ok(Done {
        result: format!("deleted the folder {path}"),
        path,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromTo {
    from: String,
    to: String,
}

/// Moves a file or a folder to a name that is free.
pub(super) fn rename_item(job: &Job, message: FromTo) -> Result<Done, CallError> {
    let (from, path) = (job.path(&message.from)?, job.path(&message.to)?);
    must_meet_all(job, &from)?;
    job.workspace().rename(&from, &path, &|| job.stop())?;
    Ok(Done {
        result: format!("moved {from} to {path}"),
        path,
    })
}

/// Refuses a folder with something in it that the rules keep from this call.
fn must_meet_all(job: &Job, path: &str) -> Result<(), CallError> {
    // What is not there, or is no folder, is told by the work itself.
    let is_folder = job
        .workspace()
        .locate(path, Last::Itself)?
        .metadata()
        .is_some_and(Metadata::is_dir);
    if job.call.files.is_none() || !is_folder {
        return Ok(());
    }
    let show = Show {
        gitignore: false,
        hidden: true,
    };
    walk(job.workspace(), path, show, &|| job.stop(), &mut |entry| {
        if job.may_meet(entry.path) {
            return Ok(Next::Into);
        }
        let message = format!(
            "`{path}` holds `{}`, which a rule of this project keeps from {}",
            entry.path, job.call.name
        );
        Err(CallError::new(ErrorKind::Denied, message))
    })
}

/// The change that a write makes, as a unified diff.
pub(super) fn difference(path: &str, is_new: bool, before: &str, after: &str) -> String {
    let before_name = if is_new {
        "/dev/null".to_owned()
    } else {
        format!("a/{path}")
    };
    unified(before, after, &before_name, &format!("b/{path}"))
}

/// The text of a file that is about to be replaced: empty when there is none, none when it is not text or too large.
fn before(job: &Job, path: &str) -> Result<Option<String>, CallError> {
    match job.workspace().read(path, job.limits.file, &|| job.stop()) {
        Ok(content) => Ok(String::from_utf8(content).ok()),
        Err(error) if error == not_found(path) => Ok(Some(String::new())),
        Err(error) if error.kind == ErrorKind::Limit => Ok(None),
        Err(error) => Err(error),
    }
}

fn wrote(path: String, verb: &str, content: &str) -> Wrote {
    let bytes_written = content.len();
    Wrote {
        result: format!("{verb} {path} ({bytes_written} bytes)"),
        path,
        bytes_written,
        is_new_file: None,
        diff: None,
    }
}

/// Refuses a content that is too large to be written whole.
pub(super) fn check_size(job: &Job, path: &str, content: &str) -> Result<(), CallError> {
    let (size, limit) = (content.len(), job.limits.file);
    if size <= limit {
        return Ok(());
    }
    let message = format!("the content for `{path}` has {size} bytes, more than the {limit} of the limit `files.file`");
    Err(CallError::new(ErrorKind::Limit, message))
}
