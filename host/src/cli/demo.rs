//! `waypost demo`: a prompt on its way through a whole hub.
//!
//! Everything in it is real: a project folder, its rules, the sandbox provider, the loop in its WASM sandbox, a handler
//! plugin that replays a recorded model, the built-in file handler, and a second process that connects on `/plugins`.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::{Child, Command};

use super::client::Client;
use super::{Context, env, output, run, serve};
use crate::call::CallName;
use crate::engine::cache::hex;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::{tokens, transports};

pub(super) mod tickets;

/// What the agent is asked to do.
const PROMPT: &str =
    "Write RELEASE.md from CHANGES.md. Look up each ticket it names and say in one line what it was about.";

/// The file that the project of the demo begins with.
const CHANGES: &str = "# Changes\n\n- Faster start (#42)\n- Fixed the lost reply on reconnect (#57)\n";

/// How long the second process may take to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// Shows a prompt on its way through a whole hub: no network, no key, nothing to set up.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  waypost demo
  OPENAI_BASE_URL=http://127.0.0.1:11434/v1 OPENAI_API_KEY=none OPENAI_MODEL=qwen3 waypost demo

With OPENAI_BASE_URL and OPENAI_API_KEY set, the model behind that endpoint takes the place of the recording.")]
pub(super) struct Demo {
    /// Make the project in this folder, which must be new or empty; a fresh one in the system's temporary folder otherwise.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Demo {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let live = set("OPENAI_BASE_URL") && set("OPENAI_API_KEY");
        let root = folder(self.folder)?;
        let token = tokens::fresh()?;
        lay_out(&root, &token, live)?;
        let hub = Hub::open(&root).await?;
        let shown = show(&hub, &token, live, context.json).await;
        hub.close().await;
        shown
    }
}

async fn show(hub: &Arc<Hub>, token: &str, live: bool, json: bool) -> Result<ExitCode> {
    let (listener, address) = serve::bind("127.0.0.1:0").await?;
    let router = transports::router(hub, "127.0.0.1:0", &tokens::fresh()?)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(transports::serve(listener, router, async { drop(stopped.await) }));
    let mut tracker = start_tracker(&format!("ws://{address}/plugins"), token)?;
    // Its standard input is the leash: it ends when that closes. Waiting for it would close it at once if it were left in.
    let leash = tracker.stdin.take();
    if !json {
        introduce(hub, live, tracker.id())?;
    }
    let client = Client::here(Arc::clone(hub));
    let ended = match connected(hub, &mut tracker).await {
        Ok(()) => prompt(&client, json).await,
        Err(error) => Err(error),
    };
    drop(leash);
    // When nobody waits for it any more, serving has already ended.
    let _ = stop.send(());
    drop(serving.await);
    drop(tracker.wait().await);
    let end = ended?;
    if !json {
        conclude(hub)?;
    }
    Ok(run::code(&end))
}

async fn prompt(client: &Client, json: bool) -> Result<Value> {
    let settings = json!({
        "tools": [{
            "name": "find_ticket",
            "description": "Finds a ticket in the tracker by its number.",
            "parameters": {
                "type": "object",
                "properties": { "id": { "type": "integer", "description": "The number after the #." } },
                "required": ["id"],
                "additionalProperties": false,
            },
            "call": "ticket:find",
        }],
    });
    let started: Value = client
        .post("/runs", &json!({ "prompt": PROMPT, "settings": settings }))
        .await?;
    let end = run::follow(client, &started, json).await?;
    let environment = end.get("environment").and_then(Value::as_str).unwrap_or_default();
    if !json && !environment.is_empty() {
        output::line("\nWhat the agent changed, in its own workspace:\n")?;
        let changes: Vec<Value> = client.get(&format!("/environments/{environment}/diff")).await?;
        env::show_diff(&changes)?;
    }
    Ok(end)
}

fn introduce(hub: &Hub, live: bool, tracker: Option<u32>) -> Result<()> {
    let model = if live {
        "the endpoint of OPENAI_BASE_URL"
    } else {
        "a WASM handler that replays a recording"
    };
    output::line(&format!(
        "project    {}\nagent      loop, a WASM component, in an environment that the WASM provider sandbox makes\n\
         inference  {model}\nticket     a second process ({}), connected on /plugins\nthe rest   built-in handlers, in the \
         environment's own workspace\n\nprompt     {PROMPT}\n\n  time     who            call                    \
         answered by           took       [rule]\n",
        hub.root.display(),
        tracker.map_or_else(|| "gone".to_owned(), |id| format!("process {id}")),
    ))
}

fn conclude(hub: &Hub) -> Result<()> {
    output::line(&format!(
        "\nThe log is {}. To look around:\n  waypost -C {root} event ls\n  waypost -C {root} route explain inference\n  \
         waypost -C {root} env ls",
        hub.state().join("log.db").display(),
        root = hub.root.display()
    ))
}

/// A project with a file, its rules, and the one connection that may serve tickets.
fn lay_out(root: &Path, token: &str, live: bool) -> Result<()> {
    let inference = if live { "local" } else { "plugin:replay" };
    let rules = format!(
        "# Who executes which call. `waypost route explain <call>` says why.\n\n\
         [[route]]\nmatch = \"inference\"\nto = \"{inference}\"\n\n\
         [[route]]\nmatch = \"ticket:*\"\nto = \"proxy-only\"\n\n\
         [[connection]]\nname = \"tickets\"\ntoken-sha256 = \"{}\"\nclaim = [\"ticket\"]\n",
        hex(&Sha256::digest(token))
    );
    let write = |name: &str, text: &str| {
        std::fs::write(root.join(name), text).map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                format!("{} cannot be written", root.join(name).display()),
            )
            .because(error)
        })
    };
    write("CHANGES.md", CHANGES)?;
    write("waypost.toml", &rules)
}

/// The folder of the demo's project; one that holds something else is refused.
fn folder(wanted: Option<PathBuf>) -> Result<PathBuf> {
    let path = wanted.unwrap_or_else(|| {
        let name = format!("waypost-demo-{}", uuid::Uuid::now_v7().simple());
        std::env::temp_dir().join(name)
    });
    let cannot = |error: std::io::Error| {
        Error::new(ErrorKind::Unavailable, format!("{} cannot be made", path.display())).because(error)
    };
    std::fs::create_dir_all(&path).map_err(cannot)?;
    if std::fs::read_dir(&path).map_err(cannot)?.next().is_some() {
        let message = format!("{} is not empty; name a new folder for the demo", path.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(path)
}

/// The second process: this binary again, under another verb. Its token goes by its environment, never by its arguments.
fn start_tracker(url: &str, token: &str) -> Result<Child> {
    let cannot = |error: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "the ticket tracker cannot be started").because(error)
    };
    Command::new(std::env::current_exe().map_err(cannot)?)
        .args(["demo-tickets", "--url", url])
        .env_clear()
        .env(tickets::TOKEN, token)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)
}

/// Waits until the second process holds its claim.
async fn connected(hub: &Hub, tracker: &mut Child) -> Result<()> {
    let name = CallName::new("ticket", Some("find"));
    tokio::select! {
        () = hub.gateway.claimed(&hub.project, &name) => Ok(()),
        ended = tracker.wait() => {
            let how = ended.map(|status| status.to_string()).unwrap_or_default();
            Err(Error::new(ErrorKind::Unavailable, format!("the ticket tracker ended before it was connected: {how}")))
        }
        () = tokio::time::sleep(CONNECT) => {
            let message = format!("the ticket tracker did not connect within {} s", CONNECT.as_secs());
            Err(Error::new(ErrorKind::Timeout, message))
        }
    }
}
