//! The folders of environments inside the hub: for each a copy of the project, by the environment's id.
//!
//! What a copy is, and how it is compared and merged, is in `workspace/bundle`; here stands where they are. A copy is made
//! beside its final name and renamed when it is whole, so a crash leaves either a folder or nothing that counts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::error::{Error, ErrorKind, Result};
use crate::workspace::Workspace;
use crate::workspace::bundle::{self, Base, Change, Limits, MergeReport};

/// The folders under one state directory.
#[derive(Debug)]
pub struct Folders {
    root: PathBuf,
    project: Arc<Workspace>,
    /// Who is making or removing a folder, by its name.
    busy: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Folders {
    /// The folders under `root`, made when there are none; copies are taken of `project`.
    pub fn open(root: PathBuf, project: Arc<Workspace>) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(|error| {
                Error::new(ErrorKind::Internal, format!("{} cannot be made", root.display())).because(error)
            })?;
        Ok(Self {
            root,
            project,
            busy: Mutex::default(),
        })
    }

    /// Makes the folder of an environment, or finds the one that is there.
    pub async fn create(self: &Arc<Self>, environment: &str) -> Result<String> {
        let (folders, name) = (Arc::clone(self), checked(environment)?.to_owned());
        let turn = self.turn(&name).await;
        blocking(move || {
            let _turn = turn;
            if folders.exists(&name)? {
                return Ok(name);
            }
            let partial = folders.root.join(format!("{name}.partial"));
            remove_all(&partial)?;
            fs::create_dir(&partial).map_err(|error| cannot("made", error))?;
            bundle::copy(&folders.project, &partial, &Limits::default())?;
            fs::rename(&partial, folders.root.join(&name)).map_err(|error| cannot("made", error))?;
            Ok(name)
        })
        .await
    }

    /// Whether the folder is there.
    pub fn exists(&self, folder: &str) -> Result<bool> {
        Ok(self.root.join(checked(folder)?).join(bundle::WORKSPACE).is_dir())
    }

    /// Removes the folder and all in it.
    pub async fn remove(self: &Arc<Self>, folder: &str) -> Result<()> {
        let path = self.root.join(checked(folder)?);
        let turn = self.turn(folder).await;
        blocking(move || {
            let _turn = turn;
            remove_all(&path)
        })
        .await
    }

    /// Waits until nobody makes or removes this folder any more; whoever did may have stopped waiting for it long ago.
    async fn turn(&self, name: &str) -> OwnedMutexGuard<()> {
        let mutex = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, mutex| mutex.strong_count() > 0);
            let known = busy.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let mutex = Arc::default();
                busy.insert(name.to_owned(), Arc::downgrade(&mutex));
                mutex
            })
        };
        mutex.lock_owned().await
    }

    /// The workspace in the folder.
    pub fn workspace(&self, folder: &str) -> Result<Arc<Workspace>> {
        if !self.exists(folder)? {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the folder of environment `{folder}` is gone"),
            ));
        }
        Workspace::open(&self.root.join(folder).join(bundle::WORKSPACE)).map(Arc::new)
    }

    /// What changed in the folder since it was made.
    pub async fn diff(self: &Arc<Self>, folder: &str) -> Result<Vec<Change>> {
        let (now, base) = (self.workspace(folder)?, Base::open(&self.root.join(folder))?);
        blocking(move || bundle::diff(&base, &now)).await
    }

    /// Brings what changed back into the project. Where both sides changed, nothing is brought back unless `partial`.
    pub async fn merge(self: &Arc<Self>, folder: &str, partial: bool) -> Result<MergeReport> {
        let (from, into) = (self.workspace(folder)?, Arc::clone(&self.project));
        let base = Base::open(&self.root.join(folder))?;
        blocking(move || bundle::merge(&base, &from, &into, partial)).await
    }
}

/// A folder's name is an environment's id and never a path.
fn checked(name: &str) -> Result<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 80 || !name.chars().all(fits) {
        let message = format!("`{}` is not the name of a folder of this hub", name.escape_debug());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(name)
}

fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("removed", error)),
        _ => Ok(()),
    }
}

fn cannot(what: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("an environment's folder cannot be {what}")).because(error)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "work on a folder met a defect").because(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn what_is_asked_for_while_an_earlier_one_is_given_up_waits_for_it() {
        let room = tempfile::tempdir().unwrap();
        let project = room.path().join("project");
        fs::create_dir(&project).unwrap();
        for number in 0..500 {
            fs::write(project.join(format!("{number}.txt")), "x").unwrap();
        }
        let workspace = Arc::new(Workspace::open(&project).unwrap());
        let folders = Arc::new(Folders::open(room.path().join("folders"), workspace).unwrap());
        // The work begins, and nobody waits for its end.
        assert!(folders.create("one").now_or_never().is_none());
        assert_eq!(folders.create("one").await.unwrap(), "one");
        assert!(folders.create("two").now_or_never().is_none());
        folders.remove("two").await.unwrap();
        assert!(folders.exists("one").unwrap());
        assert!(!folders.exists("two").unwrap());
        assert!(
            folders
                .busy
                .lock()
                .unwrap()
                .values()
                .all(|mutex| mutex.strong_count() == 0)
        );
    }
}
