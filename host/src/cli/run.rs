//! `waypost run`: a prompt, followed to its end.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use axum::http::Method;
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

use super::client::{Client, Lines};
use super::timeline::Timeline;
use super::{Context, output, told_to_stop};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{shortened, visible_lines};

/// Gives a prompt to an agent and follows it to its end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost run \"Write a README for this folder\"
  waypost run --agent 'node my-agent.js' \"Find the slow test\"
  waypost run --thread thread-0192f3c1a2b3 \"Now shorten it\"
  waypost run - < task.md
  waypost run --json \"List the open TODOs\" | jq .kind
  waypost run --list

Exit code: 0 completed, 1 failed, 2 not accepted, 130 cancelled.")]
pub(super) struct Run {
    /// What the agent shall do; `-` reads it from standard input.
    #[arg(required_unless_present = "list")]
    prompt: Option<String>,

    /// Go on with this conversation.
    #[arg(long)]
    thread: Option<String>,

    /// The agent: a loaded plugin, or the command of any program that speaks Codebolt's agent protocol. The one of
    /// `[hub] agent` when none is named.
    #[arg(long, value_name = "ID | COMMAND")]
    agent: Option<String>,

    /// Run in this environment; a new one is made when none is named.
    #[arg(long)]
    environment: Option<String>,

    /// The provider of a new environment; the one of `[hub] provider` when none is named.
    #[arg(long, conflicts_with = "environment")]
    provider: Option<String>,

    /// Settings for the agent, as JSON.
    #[arg(long, value_name = "JSON")]
    settings: Option<String>,

    /// List the latest runs instead.
    #[arg(long, conflicts_with = "prompt")]
    list: bool,
}

impl Run {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        Client::with(&context.project, async |client| {
            if self.list {
                return list(client, context).await;
            }
            client.begin();
            self.start(client, context).await
        })
        .await
    }

    async fn start(self, client: &Client, context: &Context) -> Result<ExitCode> {
        let settings: Option<Value> = match &self.settings {
            None => None,
            Some(text) => Some(
                serde_json::from_str(text)
                    .map_err(|error| Error::new(ErrorKind::Invalid, "--settings is not JSON").because(error))?,
            ),
        };
        let (agent, command) = match self.agent {
            Some(written) if !is_loaded(client, &written).await? => (None, Some(written)),
            agent => (agent, None),
        };
        let body = json!({
            "prompt": prompt(self.prompt.unwrap_or_default())?,
            "thread": self.thread,
            "agent": agent,
            "command": command,
            "environment": self.environment,
            "newEnvironment": { "provider": self.provider },
            "settings": settings,
        });
        let run: Value = client.post("/runs", &body).await?;
        let end = follow(client, &run, context.json).await?;
        Ok(code(&end))
    }
}

/// Whether a plugin of this id is loaded; what is none is taken for a command.
async fn is_loaded(client: &Client, id: &str) -> Result<bool> {
    let plugins: Vec<Value> = client.get("/plugins").await?;
    Ok(plugins
        .iter()
        .any(|plugin| plugin.get("id").and_then(Value::as_str) == Some(id)))
}

/// The prompt as it was written, or what standard input holds.
fn prompt(written: String) -> Result<String> {
    if written != "-" {
        return Ok(written);
    }
    std::io::read_to_string(std::io::stdin().lock())
        .map_err(|error| Error::new(ErrorKind::Invalid, "standard input is not text").because(error))
}

/// Follows a run to its end and says what came of it. Ctrl-C cancels the run, and waits for its end.
pub(super) async fn follow(client: &Client, run: &Value, json: bool) -> Result<Value> {
    let id = run.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut lines: Lines = client
        .lines(Method::GET, &format!("/runs/{id}/events?follow=true"), None)
        .await?;
    let mut timeline = Timeline::new();
    let mut stopping = false;
    // One listener for the whole time: a signal between two events must not be lost.
    let stop = told_to_stop();
    tokio::pin!(stop);
    loop {
        let event = tokio::select! {
            line = lines.next() => match line {
                None => break,
                Some(event) => event?,
            },
            _ = &mut stop, if !stopping => {
                stopping = true;
                output::note("cancelling the run; its end is awaited");
                client.post::<Value>(&format!("/runs/{id}/cancel"), &Value::Null).await?;
                continue;
            }
        };
        if json {
            output::line(&event.to_string())?;
        } else {
            timeline.show(&event)?;
        }
        if event.get("kind") == Some(&json!("run.waiting")) && !json && std::io::stdin().is_terminal() {
            ask(client, &id).await?;
        }
    }
    // The record, not the last event: a large body stands outside its event.
    let end: Value = client.get(&format!("/runs/{id}")).await?;
    if !json {
        conclude(&end)?;
    }
    Ok(end)
}

/// What came of a run, for people.
fn conclude(end: &Value) -> Result<()> {
    let text = |name: &str| end.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("state") {
        "completed" => output::line(&format!("\n{}", visible_lines(text("answer"))))?,
        "failed" => {
            let message = end
                .pointer("/error/message")
                .and_then(Value::as_str)
                .unwrap_or("no reason is known");
            output::note(&format!("\nerror: the run failed: {}", visible_lines(message)));
        }
        state => output::note(&format!("\nthe run is {state}")),
    }
    if !text("environment").is_empty() {
        let environment = text("environment");
        output::note(&format!(
            "\nwhat it changed: waypost env diff {environment}\nto keep it:      waypost env merge {environment}\nto go on:        waypost run --thread {} \"...\"",
            text("thread")
        ));
    }
    Ok(())
}

/// The exit code that a run's end stands for.
pub(super) fn code(end: &Value) -> ExitCode {
    match end.get("state").and_then(Value::as_str) {
        Some("completed") => ExitCode::SUCCESS,
        Some("cancelled") => ExitCode::from(130),
        _ => ExitCode::FAILURE,
    }
}

/// Asks the person at the terminal what the agent, or a rule, wants to know.
async fn ask(client: &Client, run: &str) -> Result<()> {
    let questions: Vec<Value> = client.get("/questions").await?;
    let ours = questions
        .iter()
        .filter(|question| question.get("run").and_then(Value::as_str) == Some(run));
    for question in ours {
        put(client, question).await?;
    }
    Ok(())
}

/// Puts one question to the person at the terminal until the answer fits; told to stop, it leaves it open.
pub(super) async fn put(client: &Client, question: &Value) -> Result<()> {
    let text = |name: &str| question.get(name).and_then(Value::as_str).unwrap_or_default();
    let buttons: Vec<&str> = question
        .get("buttons")
        .and_then(Value::as_array)
        .map(|buttons| buttons.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let choice = if buttons.is_empty() {
        String::new()
    } else {
        format!(" [{}]", visible_lines(&buttons.join("/")))
    };
    loop {
        output::note(&format!("\n? {}{choice}", visible_lines(text("text"))));
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut line)
                .map(|read| (read > 0).then_some(line))
        });
        let answer = tokio::select! {
            line = line => line.ok().and_then(std::result::Result::ok).flatten(),
            _ = told_to_stop() => None,
        };
        let Some(answer) = answer else { return Ok(()) };
        let path = format!("/questions/{}", text("id"));
        match client.post::<Value>(&path, &json!({ "answer": answer.trim() })).await {
            Err(error) if error.kind == ErrorKind::Invalid => output::note(&visible_lines(&error.chain())),
            // Somebody else was faster, or the call is over.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            answered => return answered.map(drop),
        }
    }
}

async fn list(client: &Client, context: &Context) -> Result<ExitCode> {
    let runs: Vec<Value> = client.get("/runs?limit=50").await?;
    if context.json {
        output::json(&runs)?;
    } else {
        let text = |run: &Value, name: &str| run.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let rows: Vec<Vec<String>> = runs
            .iter()
            .map(|run| {
                let prompt = shortened(&text(run, "prompt"), 60);
                vec![
                    text(run, "id"),
                    text(run, "state"),
                    text(run, "thread"),
                    text(run, "environment"),
                    prompt,
                ]
            })
            .collect();
        output::table(&["RUN", "STATE", "THREAD", "ENVIRONMENT", "PROMPT"], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
