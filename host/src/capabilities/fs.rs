//! The built-in handler of `fsEvent`: files of the call's workspace.
//!
//! Each action is a function from its message to its reply, on a thread that may block; `wit/kinds` has their shapes.
//! Every path goes through [`Workspace`], which keeps it inside and keeps the protected places unchanged. Replies carry
//! canonical paths, and texts for people in `result` beside the structured fields. What a limit cuts is marked with
//! `isTruncated`.
//!
//! Not here: who may call (routes) and the spellings of other dialects (transports).

mod definitions;
mod list;
mod patch;
mod read;
mod search;
mod write;

use futures::future::BoxFuture;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::call::{Call, CallError, CallName, Effect, Handler, Json, Sink};
use crate::config::Files;
use crate::error::ErrorKind;
use crate::workspace::{Workspace, invalid};

/// The kind that this handler executes.
pub const KIND: &str = "fsEvent";

/// Its actions and what each may do.
pub const ACTIONS: &[(&str, Effect)] = &[
    ("createFile", Effect::Idempotent),
    ("createFolder", Effect::Idempotent),
    ("readFile", Effect::Read),
    ("updateFile", Effect::Idempotent),
    ("deleteFile", Effect::Idempotent),
    ("deleteFolder", Effect::Idempotent),
    ("renameItem", Effect::NonIdempotent),
    ("fileList", Effect::Read),
    ("listCodeDefinitionNames", Effect::Read),
    ("searchFiles", Effect::Read),
    ("writeToFile", Effect::Idempotent),
    ("grepSearch", Effect::Read),
    ("fuzzySearch", Effect::Read),
    ("applyDiff", Effect::NonIdempotent),
    ("readManyFiles", Effect::Read),
    ("listDirectory", Effect::Read),
];

/// How many patterns one message may hold.
const PATTERNS: usize = 256;

/// The built-in `fsEvent` handler.
#[derive(Clone, Debug)]
pub struct Fs {
    config: Files,
}

impl Fs {
    /// With the limits of `[files]`.
    pub fn new(config: Files) -> Self {
        Self { config }
    }
}

impl Handler for Fs {
    /// Returns only when the work has stopped. When the future is dropped the work stops soon after.
    fn handle<'a>(&'a self, call: &'a Call, _sink: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let cancel = call.cancel.child_token();
            let _dropped = cancel.clone().drop_guard();
            let job = Job {
                call: call.clone(),
                cancel,
                limits: self.config.clone(),
            };
            match tokio::task::spawn_blocking(move || job.run()).await {
                Ok(result) => result,
                Err(_) => Err(super::broke(call)),
            }
        })
    }
}

/// One call at work on its thread.
struct Job {
    call: Call,
    cancel: CancellationToken,
    limits: Files,
}

impl Job {
    fn run(&self) -> Result<Json, CallError> {
        self.stop()?;
        match self.call.name.action() {
            "createFile" => self.answer(write::create_file),
            "createFolder" => self.answer(write::create_folder),
            "readFile" => self.answer(read::read_file),
            "updateFile" => self.answer(write::update_file),
            "deleteFile" => self.answer(write::delete_file),
            "deleteFolder" => self.answer(write::delete_folder),
            "renameItem" => self.answer(write::rename_item),
            "fileList" => self.answer(list::file_list),
            "listCodeDefinitionNames" => self.answer(definitions::list),
            "searchFiles" => self.answer(search::search_files),
            "writeToFile" => self.answer(write::write_to_file),
            "grepSearch" => self.answer(search::grep_search),
            "fuzzySearch" => self.answer(list::fuzzy_search),
            "applyDiff" => self.answer(patch::apply_diff),
            "readManyFiles" => self.answer(read::read_many_files),
            "listDirectory" => self.answer(list::list_directory),
            _ => Err(super::unknown_action(&self.call, ACTIONS)),
        }
    }

    fn answer<M: DeserializeOwned, R: Serialize>(
        &self,
        action: fn(&Self, M) -> Result<R, CallError>,
    ) -> Result<Json, CallError> {
        super::typed(&self.call, |message| action(self, message))
    }

    fn stop(&self) -> Result<(), CallError> {
        if self.cancel.is_cancelled() {
            Err(CallError::stopped(&self.call))
        } else {
            Ok(())
        }
    }

    fn workspace(&self) -> &Workspace {
        &self.call.scope.workspace
    }

    fn path(&self, written: &str) -> Result<String, CallError> {
        self.workspace().canonical(written)
    }

    /// Whether the rules let this call meet a file.
    fn may_meet(&self, path: &str) -> bool {
        let files = self.call.files.as_ref();
        files.is_none_or(|files| files.permit(&self.call.name, path))
    }

    /// Whether they let it show what is in the file, too: not what a plain read would not show.
    fn may_read(&self, path: &str) -> bool {
        let files = self.call.files.as_ref();
        let read = || CallName::new(KIND, Some("readFile"));
        files.is_none_or(|files| files.permit(&self.call.name, path) && files.permit(&read(), path))
    }

    /// Refuses a file that the message names, when the rules would not let it be read.
    fn must_read(&self, path: &str, real: &str) -> Result<(), CallError> {
        if self.may_read(path) && (real == path || self.may_read(real)) {
            return Ok(());
        }
        let message = format!(
            "`{path}` may not be read by {}: a rule of this project refuses it",
            self.call.name
        );
        Err(CallError::new(ErrorKind::Denied, message))
    }

    /// Reads a text file whole.
    fn read_text(&self, path: &str) -> Result<String, CallError> {
        let content = self.workspace().read(path, self.limits.file, &|| self.stop())?;
        String::from_utf8(content).map_err(|error| binary(path, error.as_bytes().len() as u64))
    }
}

fn binary(path: &str, size: u64) -> CallError {
    invalid(format!(
        "`{path}` is binary ({size} bytes); only UTF-8 text can be read"
    ))
}

/// A path as people see it; the root has no name of its own.
fn shown(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

/// One pattern or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

/// Globs over canonical paths. A pattern without `/` is about the name alone, wherever the file is.
struct Globs(Option<GlobSet>);

impl Globs {
    /// No patterns match nothing.
    fn new(field: &str, patterns: Option<Patterns>) -> Result<Self, CallError> {
        let patterns = match patterns {
            None => return Ok(Self(None)),
            Some(Patterns::One(one)) => vec![one],
            Some(Patterns::Many(many)) => many,
        };
        if patterns.len() > PATTERNS {
            let message = format!("`{field}` holds more than {PATTERNS} patterns; use fewer");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        let wrong = |error: globset::Error| invalid(format!("`{field}` is not a glob: {error}"));
        let mut set = GlobSetBuilder::new();
        for pattern in &patterns {
            let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
            let anywhere = if pattern.contains('/') {
                pattern.to_owned()
            } else {
                format!("**/{pattern}")
            };
            set.add(
                GlobBuilder::new(&anywhere)
                    .literal_separator(true)
                    .build()
                    .map_err(wrong)?,
            );
        }
        Ok(Self(Some(set.build().map_err(wrong)?)))
    }

    /// Whether one matches.
    fn matches(&self, path: &str) -> bool {
        self.0.as_ref().is_some_and(|set| set.is_match(path))
    }

    /// Whether one matches, or there is none.
    fn allows(&self, path: &str) -> bool {
        self.0.as_ref().is_none_or(|set| set.is_match(path))
    }
}

#[cfg(test)]
mod tests;
