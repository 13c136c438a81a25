//! `waypost plugin verify`: whether what is installed is what was installed.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::super::client::{Client, part};
use super::super::{Context, output};
use crate::error::Result;
use crate::text::visible;

#[derive(Debug, Args)]
#[command(
    after_help = "Every file is read and hashed, and every signature is checked against the [[publisher]] entries.
Exit code: 0 when all is as it was installed, 1 when something is not."
)]
pub(in crate::cli) struct Verify {
    /// The id of one plugin; all of them when none is named.
    id: Option<String>,
}

impl Verify {
    pub(super) async fn ask(self, client: &Client, context: &Context) -> Result<ExitCode> {
        let query = self.id.map(|id| format!("?id={}", part(&id))).unwrap_or_default();
        let found: Vec<Value> = client.get(&format!("/verified{query}")).await?;
        let bad = found.iter().any(|one| one.get("problem").is_some_and(Value::is_string));
        if context.json {
            output::json(&found)?;
        } else {
            table(&found)?;
        }
        Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn table(found: &[Value]) -> Result<()> {
    let row = |one: &Value| {
        let text = |name: &str| visible(one.get(name).and_then(Value::as_str).unwrap_or_default());
        let verdict = if one.get("problem").is_some_and(Value::is_string) {
            "wrong"
        } else {
            "ok"
        };
        vec![
            text("id"),
            text("which"),
            text("version"),
            super::short(&text("digest")),
            super::signer(one),
            verdict.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    output::table(&["PLUGIN", "WHICH", "VERSION", "DIGEST", "SIGNER", "VERDICT"], &rows)?;
    for one in found {
        if let Some(problem) = one.get("problem").and_then(Value::as_str) {
            output::note(&visible(problem));
        }
    }
    Ok(())
}
