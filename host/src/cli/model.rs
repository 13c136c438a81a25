//! `waypost model`: which models connected processes serve.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::{Context, output};
use crate::error::Result;
use crate::text::visible;

#[derive(Debug, Subcommand)]
pub(super) enum Model {
    /// Lists the models by the names that calls have for them. They go with the processes that serve them: a hub that is
    /// opened for this verb has none.
    Ls,
}

/// What one process serves under one id.
#[derive(Deserialize)]
struct Offered {
    id: String,
    name: String,
    models: Option<BTreeMap<String, Option<String>>>,
    by: String,
}

impl Model {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let Self::Ls = self;
        Client::with(&context.project, async |client| {
            if context.json {
                let list: Value = client.get("/models").await?;
                output::json(&list)?;
            } else {
                table(client.get("/models").await?)?;
            }
            Ok(ExitCode::SUCCESS)
        })
        .await
    }
}

fn table(list: Vec<Offered>) -> Result<()> {
    let rows = list.iter().flat_map(|Offered { id, name, models, by }| {
        let row = |model: &str, name: &str| vec![visible(&format!("{id}/{model}")), visible(name), visible(by)];
        match models {
            // One that names none takes whatever it is asked for.
            None => vec![row("*", name)],
            Some(models) => models
                .iter()
                .map(|(model, own)| row(model, own.as_deref().unwrap_or(name)))
                .collect(),
        }
    });
    output::table(&["MODEL", "NAME", "BY"], &rows.collect::<Vec<_>>())
}
