//! `waypost plugin`: what is loaded, what it said, and what an author does before that; one file for each verb of some size.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Client, part};
use super::{Context, output};
use crate::error::Result;
use crate::text::visible;

mod add;
mod alone;
mod author;
mod build;
mod decide;
mod dev;
mod doctor;
mod embedded;
mod facts;
mod inspect;
mod learn;
mod new;
mod push;
mod shadow;
mod source;
mod test;
mod verify;

#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    #[command(flatten)]
    Author(author::Author),
    /// Installs a component by its digest: shows what it is and what it asks for, and asks.
    Add(add::Add),
    /// Removes an installed plugin and its components.
    Rm(decide::Named),
    /// Gives more to an installed plugin; a new version that is held is loaded when it has all that it asks for.
    Grant(decide::Granting),
    /// Takes something from an installed plugin; one that cannot do without it is not loaded any more.
    Revoke(decide::Granting),
    /// Goes back to the version that was installed before.
    Rollback(decide::Named),
    /// Checks that what is installed is what was installed.
    Verify(verify::Verify),
    Learn(learn::Learn),
    /// Puts a component into a registry, with its signature.
    Push(push::Push),
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
    /// Shows what calls into plugins came to since they were loaded, who asked too often, and who is left alone because it keeps
    /// trapping.
    Stats,
    /// Shows what came of the copies of reads that a plugin got as the shadow of a rule: counts, times, and the last
    /// differences between its answers and those that the callers got.
    Shadow(shadow::Shadow),
}

impl Plugin {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Author(verb) => verb.run(context).await,
            Self::Add(verb) => verb.run(context).await,
            Self::Learn(verb) => verb.run(context).await,
            Self::Push(verb) => verb.run(context).await,
            verb => Client::with(&context.project, async |client| verb.ask(client, context).await).await,
        }
    }

    async fn ask(self, client: &Client, context: &Context) -> Result<ExitCode> {
        let json = context.json;
        match self {
            // Answered above.
            Self::Author(_) | Self::Add(_) | Self::Learn(_) | Self::Push(_) => {}
            Self::Rm(verb) => return verb.remove(client, context).await,
            Self::Grant(verb) => return verb.grant(client, context).await,
            Self::Revoke(verb) => return verb.revoke(client, context).await,
            Self::Rollback(verb) => return verb.roll_back(client, context).await,
            Self::Verify(verb) => return verb.ask(client, context).await,
            Self::Shadow(verb) => return verb.ask(client, context).await,
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
            Self::Stats => {
                let counted: Vec<Value> = client.get("/stats/plugins").await?;
                if json {
                    output::json(&counted)?
                } else {
                    stats(&counted)?
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn stats(counted: &[Value]) -> Result<()> {
    let rows: Vec<Vec<String>> = counted
        .iter()
        .map(|one| {
            let number = |name: &str| one.get(name).map(Value::to_string).unwrap_or_default();
            let time = |name: &str| {
                let micros = one.get(name).and_then(Value::as_u64).unwrap_or_default();
                humantime::format_duration(Duration::from_micros(micros)).to_string()
            };
            let alone = one.get("quarantined_ms").and_then(Value::as_u64);
            let alone = alone.map_or_else(
                || "-".to_owned(),
                |ms| format!("for {}", humantime::format_duration(Duration::from_millis(ms))),
            );
            vec![
                visible(one.get("id").and_then(Value::as_str).unwrap_or_default()),
                number("calls"),
                number("answered"),
                number("failed"),
                number("trapped"),
                number("limited"),
                number("timed_out"),
                number("over_rate"),
                time("p50_us"),
                time("p99_us"),
                alone,
            ]
        })
        .collect();
    let columns = [
        "PLUGIN",
        "CALLS",
        "ANSWERED",
        "FAILED",
        "TRAPPED",
        "LIMITED",
        "TIMED OUT",
        "OVER RATE",
        "P50 <",
        "P99 <",
        "LEFT ALONE",
    ];
    output::table(&columns, &rows)
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
            for name in ["http", "secrets", "env", "files", "process", "socket"] {
                if !words(name).is_empty() {
                    granted.push(format!("{name} [{}]", words(name)));
                }
            }
            let granted = if granted.is_empty() {
                "-".to_owned()
            } else {
                granted.join(", ")
            };
            let role = match text("role") {
                role if role.is_empty() => "-".to_owned(),
                role => role,
            };
            let serves = if words("serves").is_empty() {
                "-".to_owned()
            } else {
                words("serves")
            };
            vec![
                text("id"),
                text("version"),
                role,
                if ["file:", "oci:"].iter().any(|kind| text("origin").starts_with(kind)) {
                    short(&text("digest"))
                } else {
                    "-".to_owned()
                },
                signer(one),
                text("origin"),
                serves,
                granted,
            ]
        })
        .collect();
    let head = [
        "PLUGIN", "VERSION", "ROLE", "DIGEST", "SIGNER", "ORIGIN", "SERVES", "GRANTED",
    ];
    output::table(&head, &rows)?;
    for one in list {
        if let (Some(id), Some(why)) = (
            one.get("id").and_then(Value::as_str),
            one.get("unclaimed").and_then(Value::as_str),
        ) {
            output::line(&format!("{} does not hold its claim: {}", visible(id), visible(why)))?;
        }
        let text = |name: &str| one.get(name).and_then(Value::as_str).map(visible);
        let id = text("id").unwrap_or_default();
        match one.get("leaving").and_then(Value::as_u64) {
            None | Some(0) => {}
            Some(1) => output::line(&format!("an older version of {id} ends its calls"))?,
            Some(count) => output::line(&format!("{count} older versions of {id} end their calls"))?,
        }
        if let Some(why) = text("refused") {
            output::line(&format!("{id} is not loaded: {why}"))?;
        }
        if let Some(version) = text("held") {
            output::line(&format!("{id} {version} is held: it asks for more than was granted"))?;
        }
    }
    Ok(())
}

/// The beginning of a digest, enough to tell one from another.
fn short(digest: &str) -> String {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    digits.chars().take(12).collect()
}

/// The name of who signed it.
fn signer(one: &Value) -> String {
    let name = one.pointer("/signer/name").and_then(Value::as_str);
    name.map_or_else(|| "-".to_owned(), visible)
}
