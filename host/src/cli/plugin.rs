//! `waypost plugin`: what is loaded, what it said, and what an author does before that; one file for each verb of some size.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Client, part};
use super::{Context, output};
use crate::error::Result;
use crate::text::visible;

mod alone;
mod author;
mod build;
mod dev;
mod embedded;
mod facts;
mod inspect;
mod new;
mod test;

#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    #[command(flatten)]
    Author(author::Author),
    /// Lists the loaded plugins, with what they serve and what they were granted.
    Ls,
    /// Reads a plugin's files again: new calls go to the new one, calls under way end on the old one.
    Reload {
        /// Its id.
        id: String,
    },
    /// Removes a plugin until the next start: what it claimed is free, and it hears of nothing more.
    Unload {
        /// Its id.
        id: String,
    },
    /// Shows what a plugin said lately. A hub that runs remembers; one that is opened for this verb has nothing yet.
    Logs {
        /// Its id.
        id: String,
    },
}

impl Plugin {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Author(verb) => verb.run(context).await,
            verb => Client::with(&context.project, async |client| verb.ask(client, context.json).await).await,
        }
    }

    async fn ask(self, client: &Client, json: bool) -> Result<ExitCode> {
        match self {
            // Answered above, without a hub.
            Self::Author(_) => {}
            Self::Ls => {
                let list: Vec<Value> = client.get("/plugins").await?;
                if json { output::json(&list)? } else { table(&list)? }
            }
            Self::Reload { id } => {
                let reloaded: Value = client
                    .post(&format!("/plugins/{}/reload", part(&id)), &Value::Null)
                    .await?;
                if json {
                    output::json(&reloaded)?
                } else {
                    table(&[reloaded])?
                }
            }
            Self::Unload { id } => {
                let removed: Value = client.delete(&format!("/plugins/{}", part(&id))).await?;
                if json {
                    output::json(&removed)?;
                }
            }
            Self::Logs { id } => {
                let lines: Vec<Value> = client.get(&format!("/plugins/{}/logs", part(&id))).await?;
                if json {
                    return output::json(&lines).map(|()| ExitCode::SUCCESS);
                }
                for line in lines {
                    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                    output::line(&format!("{:<6}  {}", text("level"), visible(&text("text"))))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(list: &[Value]) -> Result<()> {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|one| {
            let text = |name: &str| visible(one.get(name).and_then(Value::as_str).unwrap_or_default());
            let words = |name: &str| {
                let list = one.get(name).and_then(Value::as_array);
                list.into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(visible)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let flag = |name: &str| one.get(name).and_then(Value::as_bool).unwrap_or_default();
            let mut granted = Vec::new();
            if !words("may_call").is_empty() {
                granted.push(format!("gateway [{}]", words("may_call")));
            }
            granted.extend(
                ["state", "workspace"]
                    .iter()
                    .filter(|name| flag(name))
                    .map(|name| (*name).to_owned()),
            );
            if !words("claims").is_empty() {
                granted.push(format!("claim [{}]", words("claims")));
            }
            if flag("subscribes") {
                granted.push("subscribe".to_owned());
            }
            let granted = if granted.is_empty() {
                "-".to_owned()
            } else {
                granted.join(", ")
            };
            let serves = if words("serves").is_empty() {
                "-".to_owned()
            } else {
                words("serves")
            };
            vec![
                text("id"),
                text("version"),
                text("role"),
                text("origin"),
                serves,
                granted,
            ]
        })
        .collect();
    output::table(&["PLUGIN", "VERSION", "ROLE", "ORIGIN", "SERVES", "GRANTED"], &rows)?;
    for one in list {
        if let (Some(id), Some(why)) = (
            one.get("id").and_then(Value::as_str),
            one.get("unclaimed").and_then(Value::as_str),
        ) {
            output::line(&format!("{} does not hold its claim: {}", visible(id), visible(why)))?;
        }
    }
    Ok(())
}
