//! `waypost env`: the places where loops run.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, part};
use super::{Context, output};
use crate::error::Result;
use crate::text::{visible, visible_lines};

#[derive(Debug, Subcommand)]
pub(super) enum Env {
    /// Lists the environments that are not removed.
    Ls {
        /// Removed ones too.
        #[arg(long)]
        all: bool,
    },
    /// Makes an environment and waits until it is ready.
    Create {
        /// The provider; the one of `[hub] provider` when none is named.
        #[arg(long)]
        provider: Option<String>,
        /// A label for rules, as in `--label team=web`; may be repeated.
        #[arg(long = "label", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Shows one, and what its provider says about it now.
    Show(One),
    /// Shows what changed in it since it was made.
    Diff(One),
    /// Brings what changed back into the project.
    Merge {
        #[command(flatten)]
        one: One,
        /// Where both sides changed a file, leave that file and bring back the others.
        #[arg(long)]
        partial: bool,
    },
    /// Removes it and all in it.
    Rm(One),
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// Its id, as `waypost env ls` shows it.
    id: String,
}

fn label(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write a label as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Env {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        Client::with(&context.project, async |client| self.ask(client, context.json).await).await
    }

    async fn ask(self, client: &Client, json: bool) -> Result<ExitCode> {
        match self {
            Self::Ls { all } => {
                let list: Vec<Value> = client.get(&format!("/environments?all={all}")).await?;
                if json { output::json(&list)? } else { table(&list)? }
            }
            Self::Create { provider, labels } => {
                let labels: serde_json::Map<String, Value> = labels
                    .into_iter()
                    .map(|(name, value)| (name, Value::String(value)))
                    .collect();
                let body = json!({ "provider": provider, "labels": labels });
                let made: Value = client.post("/environments", &body).await?;
                if json {
                    output::json(&made)?
                } else {
                    output::line(&visible(text(&made, "id")))?
                }
            }
            Self::Show(One { id }) => {
                let mut shown: Value = client.get(&format!("/environments/{}", part(&id))).await?;
                // One that is not there has no health; the record is worth showing all the same.
                let health = client
                    .get::<Value>(&format!("/environments/{}/health", part(&id)))
                    .await;
                if let (Some(shown), Ok(health)) = (shown.as_object_mut(), health) {
                    shown.insert("health".to_owned(), health);
                }
                output::json(&shown)?;
            }
            Self::Diff(One { id }) => {
                let changes: Vec<Value> = client.get(&format!("/environments/{}/diff", part(&id))).await?;
                if json {
                    output::json(&changes)?
                } else {
                    show_diff(&changes)?
                }
            }
            Self::Merge {
                one: One { id },
                partial,
            } => {
                let path = format!("/environments/{}/merge?partial={partial}", part(&id));
                let report: Value = client.post(&path, &Value::Null).await?;
                let conflicts = report
                    .get("conflicts")
                    .and_then(Value::as_array)
                    .is_some_and(|list| !list.is_empty());
                if json {
                    output::json(&report)?
                } else {
                    show_merge(&report)?
                }
                return Ok(if conflicts {
                    ExitCode::FAILURE
                } else {
                    ExitCode::SUCCESS
                });
            }
            Self::Rm(One { id }) => {
                let removed: Value = client.delete(&format!("/environments/{}", part(&id))).await?;
                if json {
                    output::json(&removed)?
                } else {
                    output::line(&format!("{} is removed", visible(&id)))?
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

fn table(list: &[Value]) -> Result<()> {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|one| {
            ["id", "state", "provider", "error"]
                .iter()
                .map(|name| visible(text(one, name)))
                .collect()
        })
        .collect();
    output::table(&["ENVIRONMENT", "STATE", "PROVIDER", "ERROR"], &rows)
}

/// The changes of an environment, as a diff that other tools can read.
pub(super) fn show_diff(changes: &[Value]) -> Result<()> {
    if changes.is_empty() {
        output::note("nothing changed");
    }
    for change in changes {
        match change.get("unified").and_then(Value::as_str) {
            Some(unified) => output::line(visible_lines(unified).trim_end())?,
            None => output::line(&format!(
                "{} {} (not text)",
                visible(text(change, "kind")),
                visible(text(change, "path"))
            ))?,
        }
    }
    Ok(())
}

fn show_merge(report: &Value) -> Result<()> {
    let list = |name: &str| report.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for path in list("applied") {
        output::line(&format!("merged    {}", visible(path.as_str().unwrap_or_default())))?;
    }
    for (word, name) in [("conflict ", "conflicts"), ("refused  ", "refused")] {
        for unmerged in list(name) {
            output::line(&format!(
                "{word} {}: {}",
                visible(text(&unmerged, "path")),
                visible(text(&unmerged, "reason"))
            ))?;
        }
    }
    if list("applied").is_empty() && !list("conflicts").is_empty() {
        output::note("nothing was merged; `--partial` brings back what has no conflict");
    }
    Ok(())
}
