//! `waypost token`: who may use the hub from outside, for what, and until when.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, part};
use super::{Context, output};
use crate::error::Result;
use crate::text::visible;

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Makes a token and prints it: this once, since only its digest is kept.
    Create(Create),
    /// Lists the tokens that hold.
    Ls {
        /// Those that expired or were revoked too.
        #[arg(long)]
        all: bool,
    },
    /// Takes a token back: it is refused from now on, and what is connected with it is cut.
    Revoke {
        /// Its name, or its id as `waypost token ls` shows it.
        token: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Scopes:
  admin                  all of the HTTP API, tokens too
  api                    all of the HTTP API but tokens
  read                   what the HTTP API only shows
  connection:<name>      connecting on /plugins as the providerId <name>
  agent:<run or thread>  connecting on /codebolt as an agent of this run under way, or of the thread's

Examples:
  waypost token create --name ci --scope api --expires 1h
  waypost token create --name vault --scope connection:vault --expires 90d

The token is all that goes to standard output. Send it as `Authorization: Bearer <token>`.
Exit code: 0 when it is made, 2 when it is asked for wrongly, 1 otherwise.")]
pub(super) struct Create {
    /// Its name: rules and the log show who acts with it as `person:<name>`.
    #[arg(long)]
    name: String,
    /// What it is good for; may be repeated.
    #[arg(long = "scope", required = true, num_args = 1.., value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long it holds, at most 365d.
    #[arg(long, default_value = "24h", value_name = "TIME")]
    expires: String,
}

impl Token {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        Client::with(&context.project, async |client| self.ask(client, context.json).await).await
    }

    async fn ask(self, client: &Client, json: bool) -> Result<ExitCode> {
        match self {
            Self::Create(Create { name, scopes, expires }) => {
                let body = json!({ "name": name, "scopes": scopes, "expires": expires });
                let made: Value = client.post("/tokens", &body).await?;
                if json {
                    output::json(&made)?;
                } else {
                    output::line(&text(&made, "token"))?;
                    output::note(&format!(
                        "this is shown once; `{}` ({}) is good for {} until {}",
                        text(&made, "name"),
                        text(&made, "id"),
                        scopes_of(&made),
                        time(&made, "expires")
                    ));
                }
            }
            Self::Ls { all } => {
                let list: Vec<Value> = client.get(&format!("/tokens?all={all}")).await?;
                if json { output::json(&list)? } else { table(&list)? }
            }
            Self::Revoke { token } => {
                let revoked: Value = client.delete(&format!("/tokens/{}", part(&token))).await?;
                if json {
                    output::json(&revoked)?;
                } else {
                    let (name, id, state) = (text(&revoked, "name"), text(&revoked, "id"), text(&revoked, "state"));
                    output::line(&format!("`{name}` ({id}) is {state}"))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(token: &Value, field: &str) -> String {
    visible(token.get(field).and_then(Value::as_str).unwrap_or_default())
}

fn scopes_of(token: &Value) -> String {
    let scopes = token.get("scopes").and_then(Value::as_array).into_iter().flatten();
    scopes
        .filter_map(Value::as_str)
        .map(visible)
        .collect::<Vec<_>>()
        .join(", ")
}

fn time(token: &Value, field: &str) -> String {
    let since = Duration::from_millis(token.get(field).and_then(Value::as_u64).unwrap_or_default());
    UNIX_EPOCH
        .checked_add(since)
        .map(|time| humantime::format_rfc3339_seconds(time).to_string())
        .unwrap_or_default()
}

fn table(list: &[Value]) -> Result<()> {
    let row = |token: &Value| {
        vec![
            text(token, "id"),
            text(token, "name"),
            text(token, "state"),
            time(token, "expires"),
            text(token, "by"),
            scopes_of(token),
        ]
    };
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    output::table(&["TOKEN", "NAME", "STATE", "EXPIRES", "BY", "SCOPES"], &rows)
}
