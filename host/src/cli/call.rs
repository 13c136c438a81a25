//! `waypost call`: one capability call by hand, under the rules like any other.

use std::io::IsTerminal;
use std::process::ExitCode;

use axum::http::Method;
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

use super::client::Client;
use super::{Context, output, run};
use crate::error::{Error, ErrorKind, Result};

/// Makes one capability call by hand.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost call fsEvent:readFile '{\"path\":\"README.md\"}'
  waypost call executeCommand '{\"command\":\"ls\"}'
  waypost call inference '{\"prompt\":\"Say hello\"}'

The reply goes to standard output, chunks before it to standard error; with --json, everything is one object a line.")]
pub(super) struct Call {
    /// The call, as <kind> or <kind>:<action>.
    call: String,
    /// Its message, as JSON.
    #[arg(default_value = "{}")]
    message: String,
    /// Act in this environment instead of the project.
    #[arg(long)]
    environment: Option<String>,
}

impl Call {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let message: Value = serde_json::from_str(&self.message)
            .map_err(|error| Error::new(ErrorKind::Invalid, "the message is not JSON").because(error))?;
        let body = json!({ "call": self.call, "message": message, "environment": self.environment });
        Client::with(&context.project, async |client| {
            client.begin();
            ask(client, &body, context.json).await
        })
        .await
    }
}

async fn ask(client: &Client, body: &Value, json: bool) -> Result<ExitCode> {
    let mut lines = client.lines(Method::POST, "/calls", Some(body)).await?;
    let mut code = ExitCode::FAILURE;
    let stop = super::told_to_stop();
    tokio::pin!(stop);
    loop {
        // Leaving drops the answer, which cancels the call.
        let line = tokio::select! {
            line = lines.next() => line,
            _ = &mut stop => return Ok(ExitCode::from(130)),
        };
        let Some(line) = line else { return Ok(code) };
        let line = line?;
        if json {
            output::line(&line.to_string())?;
        }
        if let Some(reply) = line.get("reply") {
            code = ExitCode::SUCCESS;
            if !json {
                output::json(reply)?;
            }
        } else if let Some(error) = line.get("error").filter(|_| !json) {
            let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            output::note(&format!(
                "error: {}: {}",
                text("kind"),
                crate::text::visible_lines(text("message"))
            ));
        } else if let Some(question) = line.get("question").filter(|_| !json) {
            if std::io::stdin().is_terminal() {
                run::put(client, question).await?;
            } else {
                let text = question.get("text").and_then(Value::as_str).unwrap_or_default();
                output::note(&format!("waiting for a person: {}", crate::text::visible_lines(text)));
            }
        } else if let Some(chunk) = line.get("chunk").filter(|_| !json) {
            output::note(&crate::text::visible(&chunk.to_string()));
        }
    }
}
