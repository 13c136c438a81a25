//! `waypost plugin dev`: builds a plugin again whenever its source changes, has the running hub reload it, and shows what it
//! says, until it is told to stop.
//!
//! Not here: a hub. Without one that runs and has the plugin, it builds and says what is missing.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::build;
use super::facts::Facts;
use crate::cli::client::{Client, part};
use crate::cli::{Context, output, told_to_stop};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{visible, visible_lines};

/// What tools make and bring; nobody writes it by hand.
const MADE: [&str; 6] = ["target", "dist", "node_modules", "__pycache__", ".venv", ".git"];
/// How long nothing must happen before it is built: a file that is being written is not read half-way.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes that follow each other are waited for at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the hub is asked what the plugin said.
const ASK: Duration = Duration::from_millis(500);

/// Builds a plugin whenever its source changes, reloads it in the running hub, and shows what it says.
#[derive(Debug, Args)]
pub(in crate::cli) struct Dev {
    /// The folder of the source.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

impl Dev {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let mut stop = pin!(told_to_stop());
        // Listens from now on: a signal between two waits is not lost.
        if futures::poll!(stop.as_mut()).is_ready() {
            return Ok(ExitCode::SUCCESS);
        }
        let (mut watching, mut changes) = Watching::start(&self.folder)?;
        let mut said: Vec<String> = Vec::new();
        let mut ask = tokio::time::interval(ASK);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            watching.look(&self.folder)?;
            let built = match build::build(&self.folder, None).await {
                Ok(built) => Some(built),
                Err(error) if error.kind == ErrorKind::Cancelled => return Ok(ExitCode::SUCCESS),
                Err(error) => {
                    output::note(&format!("error: {}", visible_lines(&error.chain())));
                    None
                }
            };
            if let Some(built) = &built {
                match reload(&context.project, built).await {
                    Ok(text) => output::line(&text)?,
                    Err(error) => output::note(&format!("built; {}", visible_lines(&error.chain()))),
                }
            }
            loop {
                tokio::select! {
                    _ = &mut stop => return Ok(ExitCode::SUCCESS),
                    _ = changes.recv() => break,
                    _ = ask.tick() => {
                        if let Some(built) = &built {
                            follow(&context.project, &built.manifest.id, &mut said).await?;
                        }
                    }
                }
            }
            let until = Instant::now() + PATIENCE;
            while Instant::now() < until && timeout(QUIET, changes.recv()).await.is_ok() {}
        }
    }
}

/// Has the hub read the plugin again.
async fn reload(project: &Path, built: &Facts) -> Result<String> {
    let id = &built.manifest.id;
    let client = Client::running(project)?;
    let reloaded = client
        .post(&format!("/plugins/{}/reload", part(id)), &Value::Null)
        .await;
    let reloaded: Value = reloaded.map_err(|error| {
        if error.kind != ErrorKind::NotFound {
            return error;
        }
        let message = format!(
            "the hub has no plugin `{id}`; `waypost plugin inspect {}` prints the entry that adds it",
            built.file.display()
        );
        Error::new(ErrorKind::NotFound, message)
    })?;
    let digest = reloaded.get("digest").and_then(Value::as_str).unwrap_or_default();
    Ok(format!(
        "{id} {} is reloaded (sha256:{})",
        visible(&built.manifest.version),
        visible(digest)
    ))
}

/// Shows what the plugin said since it was last asked. A hub that does not answer has said what there is to say.
async fn follow(project: &Path, id: &str, said: &mut Vec<String>) -> Result<()> {
    let Ok(client) = Client::running(project) else {
        return Ok(());
    };
    let Ok(lines) = client.get::<Vec<Value>>(&format!("/plugins/{}/logs", part(id))).await else {
        return Ok(());
    };
    let text = |line: &Value, name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let now: Vec<String> = lines
        .iter()
        .map(|line| format!("{:<6}  {}", text(line, "level"), visible(&text(line, "text"))))
        .collect();
    for line in fresh(said, &now) {
        output::line(line)?;
    }
    *said = now;
    Ok(())
}

/// What came after what was there before. The hub keeps the latest lines, so the oldest of before may be gone.
fn fresh<'a>(before: &[String], now: &'a [String]) -> &'a [String] {
    let kept = (0..=before.len()).find_map(|gone| {
        let kept = before.get(gone..)?;
        now.starts_with(kept).then_some(kept.len())
    });
    now.get(kept.unwrap_or(0)..).unwrap_or_default()
}

/// The folder is watched as long as this lives.
struct Watching {
    watcher: RecommendedWatcher,
    watched: Vec<PathBuf>,
}

impl Watching {
    fn start(folder: &Path) -> Result<(Self, mpsc::Receiver<()>)> {
        let root = std::fs::canonicalize(folder).map_err(|error| {
            Error::new(ErrorKind::NotFound, format!("{} cannot be read", folder.display())).because(error)
        })?;
        // One place is enough: it says that there is something to build.
        let (sender, changes) = mpsc::channel(1);
        let notice = move |event: notify::Result<Event>| {
            let is_change = event.map_or(true, |event| {
                !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| written(&root, path))
            });
            if is_change {
                // A full channel already says the same.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(notice).map_err(|error| cannot(folder, error))?;
        let watching = Self {
            watcher,
            watched: Vec::new(),
        };
        Ok((watching, changes))
    }

    /// Watches the folder, and those in it that are there now.
    fn look(&mut self, folder: &Path) -> Result<()> {
        let root = std::fs::canonicalize(folder)
            .map_err(|error| Error::new(ErrorKind::NotFound, format!("{} is gone", folder.display())).because(error))?;
        let mut places = vec![(root.clone(), RecursiveMode::NonRecursive)];
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.path().is_dir() && written(&root, &entry.path()) {
                places.push((entry.path(), RecursiveMode::Recursive));
            }
        }
        for (place, mode) in places {
            if !self.watched.contains(&place) {
                self.watcher
                    .watch(&place, mode)
                    .map_err(|error| cannot(&place, error))?;
                self.watched.push(place);
            }
        }
        Ok(())
    }
}

/// Whether a path in the folder is one that people write.
fn written(root: &Path, path: &Path) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    !below
        .components()
        .any(|part| MADE.iter().any(|made| part.as_os_str() == *made))
}

fn cannot(folder: &Path, error: notify::Error) -> Error {
    let message = format!("changes in {} cannot be followed", folder.display());
    Error::new(ErrorKind::Unavailable, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_tools_make_is_not_built_again() {
        let root = Path::new("/p");
        for (path, expected) in [
            ("/p/src/lib.rs", true),
            ("/p/manifest.toml", true),
            ("/p/target/release/a", false),
            ("/p/dist", false),
            ("/p/a/__pycache__/a.pyc", false),
        ] {
            assert_eq!(written(root, Path::new(path)), expected, "{path}");
        }
    }

    proptest! {
        /// Lines that differ from each other are shown once each, however many the hub has forgotten.
        #[test]
        fn each_line_is_shown_once(first in 0_usize..40, more in 0_usize..40, kept in 1_usize..30) {
            let window = |end: usize| -> Vec<String> {
                (end.saturating_sub(kept)..end).map(|number| number.to_string()).collect()
            };
            let (before, now) = (window(first), window(first + more));
            let new: Vec<String> = (first..first + more).map(|number| number.to_string()).collect();
            let expected = &new[new.len().saturating_sub(kept)..];
            prop_assert_eq!(fresh(&before, &now), expected);
        }
    }
}
