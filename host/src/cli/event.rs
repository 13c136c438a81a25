//! `waypost event`: the log, as it stands and as it grows.

use std::process::ExitCode;

use axum::http::Method;
use clap::Subcommand;
use futures::StreamExt;
use serde_json::Value;

use super::client::{Client, part};
use super::timeline::Timeline;
use super::{Context, output, told_to_stop};
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum Event {
    /// Lists the latest events, or those of one run.
    Ls {
        /// Of this run alone.
        #[arg(long)]
        run: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// After this place: a cursor, or with --run a sequence number.
        #[arg(long)]
        after: Option<u64>,
    },
    /// Shows the latest events and then each new one, until Ctrl-C.
    Tail {
        /// Begin with this many of the past.
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
    /// Shows one event with all its facts.
    Show {
        /// Its cursor, the first column of `waypost event ls`.
        cursor: u64,
    },
}

impl Event {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        Client::with(&context.project, async |client| self.ask(client, context.json).await).await
    }

    async fn ask(self, client: &Client, json: bool) -> Result<ExitCode> {
        let path = match self {
            Self::Show { cursor } => {
                let event: Value = client.get(&format!("/events/{cursor}")).await?;
                output::json(&event)?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Ls {
                run: Some(run),
                limit,
                after,
            } => {
                format!("/runs/{}/events?limit={limit}&after={}", part(&run), after.unwrap_or(0))
            }
            Self::Ls {
                run: None,
                limit,
                after,
            } => {
                let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
                format!("/events?limit={limit}{after}")
            }
            Self::Tail { limit } => format!("/events?limit={limit}&follow=true"),
        };
        let mut lines = client.lines(Method::GET, &path, None).await?;
        let mut timeline = Timeline::new();
        let stop = told_to_stop();
        tokio::pin!(stop);
        loop {
            let event = tokio::select! {
                line = lines.next() => match line {
                    Some(event) => event?,
                    None => break,
                },
                _ = &mut stop => break,
            };
            if json {
                output::line(&event.to_string())?;
            } else {
                timeline.show_with_cursor(&event)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
