//! `waypost route`: who executes which call, and why.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::{Context, output};
use crate::capabilities;
use crate::error::{Error, ErrorKind, Result};
use crate::route;
use crate::text::{visible, visible_lines};

#[derive(Debug, Subcommand)]
pub(super) enum Route {
    /// Lists the rules in force, in the order in which they are asked.
    Ls,
    /// Shows which rule decides about a call, why, and why the others do not.
    Explain(Explain),
    /// Checks both rule files without a hub, and names every problem with its line.
    Check,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost route explain inference
  waypost route explain fsEvent:writeToFile '{\"path\":\"src/main.rs\",\"content\":\"\"}'")]
pub(super) struct Explain {
    /// The call, as <kind> or <kind>:<action>.
    call: String,
    /// Its message, as JSON; rules may look into it.
    #[arg(default_value = "{}")]
    message: String,
    /// As if it came from this environment.
    #[arg(long)]
    environment: Option<String>,
}

impl Route {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        if matches!(self, Self::Check) {
            return check(context);
        }
        Client::with(&context.project, async |client| self.ask(client, context.json).await).await
    }

    async fn ask(self, client: &Client, json: bool) -> Result<ExitCode> {
        match self {
            Self::Explain(Explain {
                call,
                message,
                environment,
            }) => {
                let message: Value = serde_json::from_str(&message)
                    .map_err(|error| Error::new(ErrorKind::Invalid, "the message is not JSON").because(error))?;
                let body = json!({ "call": call, "message": message, "environment": environment });
                let explained: Value = client.post("/routes/explain", &body).await?;
                if json {
                    output::json(explained.get("explanation").unwrap_or(&Value::Null))?;
                } else {
                    let text = explained.get("text").and_then(Value::as_str).unwrap_or_default();
                    output::line(visible_lines(text).trim_end())?;
                }
            }
            _ => {
                let rules: Vec<Value> = client.get("/routes").await?;
                if json { output::json(&rules)? } else { table(&rules)? }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(rules: &[Value]) -> Result<()> {
    let rows: Vec<Vec<String>> = rules
        .iter()
        .map(|rule| {
            let text = |name: &str| visible(rule.get(name).and_then(Value::as_str).unwrap_or_default());
            vec![text("rule"), text("calls"), text("when"), text("to")]
        })
        .collect();
    output::table(&["RULE", "CALLS", "WHEN", "TO"], &rows)
}

fn check(context: &Context) -> Result<ExitCode> {
    let findings = route::check(&context.project, capabilities::reads);
    if context.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            output::line(&visible(&finding.to_string()))?;
        }
        if findings.is_empty() {
            output::note("both rule files are in order");
        }
    }
    Ok(if findings.iter().any(|finding| finding.broken) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
