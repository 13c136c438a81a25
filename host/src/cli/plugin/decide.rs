//! `waypost plugin grant`, `revoke`, `rm` and `rollback`: what is decided about an installed plugin.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::super::client::{Client, part};
use super::super::{Context, output};
use crate::config::{self, Config, Grants};
use crate::error::Result;
use crate::plugin::terms::{Term, listed};
use crate::text::visible;

/// An installed plugin.
#[derive(Debug, Args)]
pub(in crate::cli) struct Named {
    /// Its id.
    id: String,
}

/// Grants of an installed plugin.
#[derive(Debug, Args)]
pub(in crate::cli) struct Granting {
    /// Its id.
    id: String,
    /// What, as in `state`, `gateway=fsEvent:readFile` or `process=git=/usr/bin/git`, which takes what is in that file now.
    #[arg(required = true, value_name = "GRANT")]
    grants: Vec<String>,
}

impl Granting {
    pub(super) async fn grant(self, client: &Client, context: &Context) -> Result<ExitCode> {
        self.change(client, context, "grant").await
    }

    pub(super) async fn revoke(self, client: &Client, context: &Context) -> Result<ExitCode> {
        self.change(client, context, "revoke").await
    }

    async fn change(self, client: &Client, context: &Context, verb: &str) -> Result<ExitCode> {
        let path = format!("/installed/{}/{verb}", part(&self.id));
        let changed: Value = client.post(&path, &json!({ "grants": self.grants })).await?;
        if context.json {
            output::json(&changed)?;
        } else {
            told(&changed)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    pub(super) async fn roll_back(self, client: &Client, context: &Context) -> Result<ExitCode> {
        let path = format!("/installed/{}/rollback", part(&self.id));
        let changed: Value = client.post(&path, &Value::Null).await?;
        if context.json {
            output::json(&changed)?;
        } else {
            told(&changed)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(super) async fn remove(self, client: &Client, context: &Context) -> Result<ExitCode> {
        let removed: Value = client.delete(&format!("/installed/{}", part(&self.id))).await?;
        if context.json {
            return output::json(&removed).map(|()| ExitCode::SUCCESS);
        }
        output::line(&format!(
            "{} {} is removed",
            text(&removed, &["id"]),
            text(&removed, &["current", "version"])
        ))?;
        let target = format!("plugin:{}", self.id);
        for route in Config::read(&context.project.join(config::FILE))?.routes {
            let leads =
                route.to.to_string() == target || route.fallback.iter().any(|other| other.to_string() == target);
            if leads || route.shadow.as_deref() == Some(self.id.as_str()) {
                output::note(&format!("line {} of {} still leads to it", route.line, config::FILE));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What an installed plugin is after a change.
pub(super) fn told(changed: &Value) -> Result<()> {
    let (id, version) = (text(changed, &["id"]), text(changed, &["current", "version"]));
    let grant = changed.pointer("/current/grant").cloned().unwrap_or_default();
    let grants: Grants = serde_json::from_value(grant).unwrap_or_default();
    output::line(&format!("{id} {version} has {}", visible(&listed(&Term::all(&grants)))))?;
    if let Some(why) = changed.get("refused").and_then(Value::as_str) {
        output::note(&format!("{id} is not loaded: {}", visible(why)));
    }
    if changed.get("held").is_some_and(Value::is_object) {
        output::note(&format!(
            "{id} {} is still held: it asks for more",
            text(changed, &["held", "version"])
        ));
    }
    Ok(())
}

fn text(value: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(value, |value, name| value.get(name));
    visible(found.and_then(Value::as_str).unwrap_or_default())
}
