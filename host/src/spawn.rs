//! Processes that the hub starts as connections: started with it, started again when they end, and told to stop with it.
//!
//! Each start has a token of its own. One that keeps ending is started less and less often. Not here: what is said on its
//! socket ([`crate::transports::plugin_socket`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::call::Json;
use crate::config::{CommandLine, Config, Spawn};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::process::{Group, Pipes};
use crate::seats::Door;
use crate::transports::plugin_socket::{Expected, Start};

/// Time before a process that ended is started again: doubled each time that it did not last, and at most [`LONGEST`].
const AGAIN: Duration = Duration::from_secs(1);

/// The longest time before a process is started again.
const LONGEST: Duration = Duration::from_secs(60);

/// A process that ran so long is started again at once.
const LASTED: Duration = Duration::from_secs(60);

/// All of them, while the hub runs.
pub struct Spawned {
    parts: Parts,
    spawns: Vec<Spawn>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

/// What every process is started with.
#[derive(Clone)]
struct Parts {
    expected: Expected,
    door: Arc<dyn Door>,
    path: String,
    root: PathBuf,
    homes: PathBuf,
}

impl Spawned {
    /// The processes of the configuration, none of them started.
    pub fn new(config: &Config, expected: Expected, door: Arc<dyn Door>, root: &Path, state: &Path) -> Self {
        let parts = Parts {
            expected,
            door,
            path: config.terminal.path.clone(),
            root: root.to_owned(),
            homes: state.join("spawned"),
        };
        Self {
            parts,
            spawns: config.spawns.clone(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        }
    }

    /// Starts them.
    pub fn begin(&self) {
        let mut tasks = self.tasks();
        for spawn in &self.spawns {
            tasks.spawn(keep(self.parts.clone(), spawn.clone(), self.stop.clone()));
        }
    }

    /// Tells all to stop, and waits until they have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks());
        while tasks.join_next().await.is_some() {}
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one process running until the hub stops.
async fn keep(parts: Parts, spawn: Spawn, stop: CancellationToken) {
    let mut again = AGAIN;
    while !stop.is_cancelled() {
        let began = tokio::time::Instant::now();
        match begin(&parts, &spawn).await {
            Ok((group, pipes, start)) => follow(&spawn, group, pipes, start, &stop).await,
            Err(error) => tracing::error!(spawn = %spawn.name, error = %error.chain(), "a process cannot be started"),
        }
        again = if began.elapsed() >= LASTED {
            AGAIN
        } else {
            (again * 2).min(LONGEST)
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(again) => {}
        }
    }
}

async fn begin(parts: &Parts, spawn: &Spawn) -> Result<(Group, Pipes, Start)> {
    let port = parts.door.port().await?;
    let folder = parts.root.display().to_string();
    let start = parts.expected.expect(spawn, &folder)?;
    let home = parts.homes.join(&spawn.name);
    let cannot = |error: std::io::Error| {
        let message = format!("[[spawn]] `{}` cannot be started", spawn.name);
        Error::new(ErrorKind::Unavailable, message)
            .blame(Blame::Operator)
            .because(error)
    };
    std::fs::create_dir_all(&home).map_err(cannot)?;
    let CommandLine { program, arguments } = &spawn.command;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&parts.root)
        .env_clear()
        .env("PATH", &parts.path)
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("LANG", "C.UTF-8")
        .env("SOCKET_PORT", port.to_string())
        .env("CODEBOLT_SERVER_URL", "localhost")
        .env("IS_PLUGIN", "true")
        .env("pluginId", &spawn.name)
        .env("pluginToken", &start.token)
        .env("PLUGIN_DIR", &folder)
        .envs(&spawn.env);
    let (group, pipes) = Group::start(command).map_err(cannot)?;
    tracing::info!(spawn = %spawn.name, "started");
    Ok((group, pipes, start))
}

/// Follows a process to its end, or ends it when the hub stops.
async fn follow(spawn: &Spawn, mut group: Group, mut pipes: Pipes, mut start: Start, stop: &CancellationToken) {
    let ended = loop {
        tokio::select! {
            () = group.exited() => break true,
            () = stop.cancelled() => break false,
            Some((_, bytes)) = pipes.next() => {
                tracing::debug!(spawn = %spawn.name, text = %String::from_utf8_lossy(&bytes).escape_debug(), "said");
            }
        }
    };
    if !ended {
        // It says when it is done; one that says nothing has its time, too.
        let stop: Json = serde_json::json!({ "type": "pluginStopMessage" }).into();
        if start.orders.send(stop).await.is_ok() {
            tokio::select! {
                _ = timeout(spawn.grace, start.stopped.recv()) => {}
                () = group.exited() => {}
            }
        }
    }
    group.stop(&mut pipes, spawn.grace).await;
    match group.reap().await {
        Ok(status) => tracing::info!(spawn = %spawn.name, %status, "ended"),
        Err(error) => tracing::warn!(spawn = %spawn.name, %error, "ended, and how is not known"),
    }
}
