//! The verbs of who writes a plugin. Only `dev` works with a hub that runs, and `inspect` asks one about what it
//! has loaded; the others need none.

use std::process::ExitCode;

use clap::Subcommand;

use super::build::Build;
use super::dev::Dev;
use super::doctor::Doctor;
use super::inspect::Inspect;
use super::new::New;
use super::test::Test;
use crate::cli::Context;
use crate::error::Result;

/// The verbs of an author.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Author {
    New(New),
    Build(Build),
    Test(Test),
    Inspect(Inspect),
    Doctor(Doctor),
    Dev(Dev),
}

impl Author {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::New(verb) => verb.run(context),
            Self::Build(verb) => verb.run(context).await,
            Self::Test(verb) => verb.run(context).await,
            Self::Inspect(verb) => verb.run(context).await,
            Self::Doctor(verb) => verb.run(context).await,
            Self::Dev(verb) => verb.run(context).await,
        }
    }
}
