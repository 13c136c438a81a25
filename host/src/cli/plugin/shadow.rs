//! `waypost plugin shadow`: what came of the copies of reads that a plugin got.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::client::{Client, part};
use crate::cli::{Context, output};
use crate::error::Result;
use crate::text::visible;

#[derive(Debug, Args)]
pub(in crate::cli) struct Shadow {
    /// Its id.
    id: String,
}

impl Shadow {
    pub(super) async fn ask(self, client: &Client, context: &Context) -> Result<ExitCode> {
        let shown: Value = client.get(&format!("/plugins/{}/shadow", part(&self.id))).await?;
        if context.json {
            output::json(&shown)?;
        } else {
            table(&shown)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(shown: &Value) -> Result<()> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map_or_else(|| "-".to_owned(), visible);
    let count = |name: &str| shown.get(name).and_then(Value::as_u64).unwrap_or_default().to_string();
    let time = |pointer: &str| {
        let micros = shown.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
        humantime::format_duration(Duration::from_micros(micros)).to_string()
    };
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let rules: Vec<String> = list(shown, "rules").iter().map(|rule| text(Some(rule))).collect();
    output::line(&format!(
        "{} {}, the shadow of {}",
        text(shown.get("id")),
        text(shown.get("version")),
        if rules.is_empty() {
            "no rule any more".to_owned()
        } else {
            rules.join(", ")
        }
    ))?;
    let counts = ["mirrored", "same", "different", "failed", "dropped", "waiting"].map(count);
    output::table(
        &["MIRRORED", "SAME", "DIFFERENT", "FAILED", "DROPPED", "WAITING"],
        &[counts.to_vec()],
    )?;
    let row = |who: &str, name: &str| {
        vec![
            who.to_owned(),
            time(&format!("/{name}/p50_us")),
            time(&format!("/{name}/p99_us")),
        ]
    };
    output::table(
        &["TIME", "P50 <", "P99 <"],
        &[row("caller", "caller"), row("shadow", "shadow")],
    )?;
    for difference in list(shown, "differences") {
        let of = |name: &str| text(difference.get(name));
        let at = difference.get("at").and_then(Value::as_u64).unwrap_or_default();
        let at = std::time::UNIX_EPOCH + Duration::from_millis(at);
        output::line(&format!(
            "{} {} {} {}, by {}",
            humantime::format_rfc3339_seconds(at),
            of("came"),
            of("call"),
            of("id"),
            of("rule")
        ))?;
        for place in list(&difference, "places") {
            let side = |name: &str| {
                let said = place.get(name).and_then(Value::as_str);
                said.map_or_else(|| "nothing".to_owned(), visible)
            };
            let path = text(place.get("path"));
            output::line(&format!("  {path}: {} | {}", side("caller"), side("shadow")))?;
        }
    }
    Ok(())
}
