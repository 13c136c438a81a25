//! The built-in handler of `narrative`: snapshots of the call's workspace, and bundles that carry them to another hub.
//!
//! A snapshot is a commit in a bare git repository of the hub's own, in its state directory: one for each project and
//! environment, never the workspace's own `.git`. Git never sees the workspace: what it stores is read, and what it
//! restores is written, through [`Workspace`], which keeps every path inside and the protected places unchanged. The
//! spellings are those of the published clients of this exchange.
//!
//! Not here: the frames of the wire (transports), and copies of a project for an environment ([`crate::workspace::bundle`]).

mod archive;
mod checkout;
mod exchange;
mod git;
mod repository;
mod snapshot;
mod tree;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::git::{Git, Leash};
use self::repository::Repository;
use crate::call::{Call, CallError, Effect, Handler, Json, Sink};
use crate::config;
use crate::error::ErrorKind;
use crate::workspace::{Workspace, invalid, outside};

/// The kind that this handler executes.
pub const KIND: &str = "narrative";

/// Its actions and what each may do.
pub const ACTIONS: &[(&str, Effect)] = &[
    ("createSnapshot", Effect::NonIdempotent),
    ("exportUnifiedBundle", Effect::Idempotent),
    ("importUnifiedBundle", Effect::Idempotent),
    ("checkoutSnapshot", Effect::Idempotent),
];

/// The longest `environmentId`, in bytes.
const ENVIRONMENT_ID: usize = 256;
/// How many left-out paths a reply names.
const SHOWN: usize = 100;

/// The built-in `narrative` handler.
pub struct Narrative {
    limits: config::Narrative,
    home: PathBuf,
    git: Arc<str>,
    /// Who works on a repository; the others wait.
    turns: Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
}

impl Narrative {
    /// With the limits of `[narrative]`, in a hub's state directory. Nothing is made before it is needed.
    pub fn new(limits: config::Narrative, state: &Path) -> Self {
        let home = state.join("narrative");
        // What a crash left; the lock of the state directory says that nobody works there.
        let _ = fs::remove_dir_all(home.join("work"));
        Self {
            limits,
            home,
            git: git::PATH.into(),
            turns: Mutex::default(),
        }
    }

    /// The repository of the call's project and environment.
    fn repository(&self, call: &Call) -> PathBuf {
        let environment = call.scope.environment.as_deref().unwrap_or("");
        let owner = [call.principal.project.as_ref(), environment].join("\0");
        let name: String = Sha256::digest(owner.as_bytes())
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.home.join(name + ".git")
    }

    fn turn(&self, repository: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(repository).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(repository.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl Handler for Narrative {
    /// Returns only when the work has stopped. When the future is dropped the work stops soon after.
    fn handle<'a>(&'a self, call: &'a Call, _sink: &'a Sink) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let leash = Arc::new(Leash::default());
            let _dropped = StopAtDrop(Arc::clone(&leash));
            let repository = self.repository(call);
            let turn = tokio::select! {
                biased;
                () = over(call) => return Err(CallError::stopped(call)),
                turn = self.turn(&repository).lock_owned() => turn,
            };
            let job = Job {
                call: call.clone(),
                limits: self.limits.clone(),
                home: self.home.clone(),
                repository: Repository::new(Git {
                    path: Arc::clone(&self.git),
                    leash: Arc::clone(&leash),
                    repository,
                }),
                leash: Arc::clone(&leash),
            };
            let mut work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                job.run()
            });
            let done = tokio::select! {
                done = &mut work => done,
                () = over(call) => {
                    leash.stop();
                    work.await
                }
            };
            match done {
                Ok(Err(error)) if error.kind == ErrorKind::Cancelled => Err(CallError::stopped(call)),
                Ok(result) => result,
                Err(_) => Err(super::broke(call)),
            }
        })
    }
}

/// Resolves when the call has to stop.
async fn over(call: &Call) {
    tokio::select! {
        () = call.cancel.cancelled() => {}
        () = tokio::time::sleep_until(call.deadline.instant().into()) => {}
    }
}

struct StopAtDrop(Arc<Leash>);

impl Drop for StopAtDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// One call at work on its thread.
struct Job {
    call: Call,
    limits: config::Narrative,
    home: PathBuf,
    repository: Repository,
    leash: Arc<Leash>,
}

impl Job {
    fn run(&self) -> Result<Json, CallError> {
        self.stop()?;
        match self.call.name.action() {
            "createSnapshot" => self.answer(snapshot::create),
            "exportUnifiedBundle" => self.answer(exchange::export),
            "importUnifiedBundle" => self.answer(exchange::import),
            "checkoutSnapshot" => self.answer(checkout::checkout),
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
        if self.leash.stopped() {
            Err(git::stopped())
        } else {
            Ok(())
        }
    }

    fn workspace(&self) -> &Workspace {
        &self.call.scope.workspace
    }

    /// Checks the two fields that every message has: both are what the caller says, and neither decides where it acts.
    fn check(&self, environment: Option<&str>, workspace: Option<&str>) -> Result<(), CallError> {
        if let Some(written) = workspace
            && !self.workspace().canonical(written)?.is_empty()
        {
            return Err(outside(written));
        }
        let id = environment.unwrap_or("");
        if id.len() > ENVIRONMENT_ID || id.chars().any(char::is_control) {
            return Err(invalid(format!(
                "`environmentId` is longer than {ENVIRONMENT_ID} bytes or has control characters; name an environment"
            )));
        }
        Ok(())
    }

    /// A new folder in the state directory for this call alone.
    fn work_folder(&self) -> Result<WorkFolder, CallError> {
        let folder = self.home.join("work").join(Uuid::now_v7().to_string());
        make_folder(&folder)?;
        Ok(WorkFolder(folder))
    }
}

/// A path that is not part of a snapshot, or was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Skipped {
    path: String,
    reason: &'static str,
}

/// A folder that is removed with all in it.
struct WorkFolder(PathBuf);

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a folder of the state directory, and those above it, for the hub's user alone.
fn make_folder(folder: &Path) -> Result<(), CallError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| broken(&error))
}

/// A failure in the state directory itself.
fn broken(error: &std::io::Error) -> CallError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            CallError::new(ErrorKind::Limit, "the disk of the state directory is full; make room")
        }
        _ => CallError::new(
            ErrorKind::Internal,
            format!("the snapshots in the state directory cannot be used: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests;
