//! `waypost completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output;
use crate::error::Result;

/// Prints completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  waypost completions bash > ~/.local/share/bash-completion/completions/waypost")]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "waypost", &mut text);
        output::line(String::from_utf8_lossy(&text).trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}
