//! Notices that a rule file changed, however an editor writes it: in place, by renaming another over it, or in a folder
//! that was not there before.
//!
//! Folders are watched, not files, since a file that is replaced is another file. What the change is, is not asked: the
//! files are simply looked at again once nothing has happened for a moment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::proxy_execution;
use crate::config;
use crate::error::{Error, ErrorKind, Result};

/// How long nothing must happen before the files are looked at: a file that is being written is not read half-way.
const QUIET: Duration = Duration::from_millis(50);
/// How long changes that follow each other are waited for at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Rule files are followed as long as this lives.
#[derive(Debug)]
pub struct Watching {
    /// Its end closes the channel, which ends the thread.
    _watcher: Arc<Mutex<RecommendedWatcher>>,
}

/// Calls `changed` after each change of a rule file in a project folder.
pub(super) fn follow(root: &Path, changed: impl Fn() + Send + 'static) -> Result<Watching> {
    let folder = root.join(proxy_execution::FOLDER);
    // One place is enough: it says that there is something to look at, and all is looked at.
    let (sender, receiver) = sync_channel(1);
    let cannot = |error: notify::Error| {
        let message = format!("changes of the rules in {} cannot be followed", root.display());
        Error::new(ErrorKind::Unavailable, message).because(error)
    };
    let watcher = notify::recommended_watcher(notice(root.to_owned(), folder.clone(), sender)).map_err(cannot)?;
    let watcher = Arc::new(Mutex::new(watcher));
    lock(&watcher)
        .watch(root, RecursiveMode::NonRecursive)
        .map_err(cannot)?;
    watch_folder(&watcher, &folder);
    let weak = Arc::downgrade(&watcher);
    let thread = std::thread::Builder::new().name("rules".to_owned());
    thread
        .spawn(move || attend(&receiver, &weak, &folder, &changed))
        .map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "the thread that follows the rules cannot be started",
            )
            .because(error)
        })?;
    Ok(Watching { _watcher: watcher })
}

/// Tells the thread about events that concern a rule file.
fn notice(root: PathBuf, folder: PathBuf, sender: SyncSender<()>) -> impl FnMut(notify::Result<Event>) {
    let concerns = move |path: &PathBuf| {
        let name = path.file_name();
        match path.parent() {
            Some(parent) if parent == root => {
                name == Some(OsStr::new(config::FILE)) || name == Some(OsStr::new(proxy_execution::FOLDER))
            }
            Some(parent) if parent == folder => name == Some(OsStr::new(proxy_execution::FILE)),
            _ => false,
        }
    };
    move |event| {
        let look = match event {
            Ok(event) => {
                !matches!(event.kind, EventKind::Access(_))
                    && (event.need_rescan() || event.paths.iter().any(&concerns))
            }
            // Events may have been lost.
            Err(_) => true,
        };
        if look {
            // A full channel already says the same.
            let _ = sender.try_send(());
        }
    }
}

fn attend(receiver: &Receiver<()>, watcher: &Weak<Mutex<RecommendedWatcher>>, folder: &Path, changed: &dyn Fn()) {
    while receiver.recv().is_ok() {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match receiver.recv_timeout(QUIET) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        // The folder may be a new one. It is watched first and read then, so that no change falls in between.
        let Some(watcher) = watcher.upgrade() else { return };
        watch_folder(&watcher, folder);
        drop(watcher);
        changed();
    }
}

/// Watches the folder, if there is one; its parent tells when there is.
fn watch_folder(watcher: &Mutex<RecommendedWatcher>, folder: &Path) {
    let mut watcher = lock(watcher);
    // The watch may belong to a folder of the same name that is gone.
    let _ = watcher.unwatch(folder);
    if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
        && folder.exists()
    {
        tracing::warn!(folder = %folder.display(), %error, "changes in this folder cannot be followed");
    }
}

fn lock(watcher: &Mutex<RecommendedWatcher>) -> std::sync::MutexGuard<'_, RecommendedWatcher> {
    watcher.lock().unwrap_or_else(PoisonError::into_inner)
}
