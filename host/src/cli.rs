//! The command line: one file for each noun.
//!
//! Every verb asks the HTTP API: of the hub that has the state directory when one is running, else of one that is opened in
//! this process under its lock. Results go to standard output, what people alone need to standard error.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, ErrorKind, Result};
use crate::plugin::{compile, worker};
use crate::text::visible_lines;

mod call;
mod client;
mod completions;
mod demo;
mod doctor;
mod env;
mod event;
mod model;
mod output;
mod plugin;
mod route;
mod run;
mod serve;
mod timeline;
mod token;

/// The hub for AI agents: it decides where an agent loop runs, and who executes each of its calls.
#[derive(Debug, Parser)]
#[command(name = "waypost", version, propagate_version = true)]
struct Cli {
    /// The project folder, with `waypost.toml` and the state directory in it.
    #[arg(long, short = 'C', global = true, default_value = ".", value_name = "FOLDER")]
    project: PathBuf,

    /// Print JSON: one object, or one object a line.
    #[arg(long, global = true)]
    json: bool,

    /// Print more of what the hub does, to standard error. Twice for all of it.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows a prompt on its way through a whole hub: no network, no key, nothing to set up.
    Demo(demo::Demo),
    /// Runs the hub until it is told to stop.
    Serve(serve::Serve),
    /// Gives a prompt to an agent and follows it to its end.
    Run(run::Run),
    /// Lists, compares, merges and removes environments.
    #[command(subcommand)]
    Env(env::Env),
    /// Installs, lists and removes plugins, and decides what they may do.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Lists the models that connected processes serve.
    #[command(subcommand)]
    Model(model::Model),
    /// Lists, explains and checks the rules.
    #[command(subcommand)]
    Route(route::Route),
    /// Lists, follows and shows the events of the log.
    #[command(subcommand)]
    Event(event::Event),
    /// Makes, lists and revokes the tokens with which others use the hub.
    #[command(subcommand)]
    Token(token::Token),
    /// Makes one capability call by hand.
    Call(call::Call),
    /// Looks at the machine and the configuration, and says what is missing.
    Doctor(doctor::Doctor),
    /// Prints completions for a shell.
    Completions(completions::Completions),
    /// The ticket tracker of the demo, as a process of its own.
    #[command(hide = true)]
    DemoTickets(demo::tickets::Tickets),
    /// A worker process of a hub, which it talks to over its standard input.
    #[command(hide = true)]
    Worker,
    /// Compiles a component for a hub: from standard input to standard output.
    #[command(hide = true)]
    Compile,
}

/// What every verb is given.
struct Context {
    project: PathBuf,
    json: bool,
}

/// The command line of this process.
pub struct Command(Cli);

impl Command {
    /// Reads it; says what is wrong with it and ends the process when it cannot be read.
    pub fn parse() -> Self {
        Self(Cli::parse())
    }

    /// What a process does that is part of a hub and not a person's. It confines itself first, which a process can that has
    /// no second thread yet.
    pub fn apart(&self) -> Option<ExitCode> {
        match self.0.verb {
            Verb::Worker => Some(worker::inside::main()),
            Verb::Compile => Some(compile::main()),
            _ => None,
        }
    }
}

/// Runs the command line of this process.
pub async fn main(Command(cli): Command) -> ExitCode {
    log_to_standard_error(cli.verbose);
    let context = Context {
        project: cli.project,
        json: cli.json,
    };
    let done = match cli.verb {
        Verb::Demo(verb) => verb.run(&context).await,
        Verb::Serve(verb) => verb.run(&context).await,
        Verb::Run(verb) => verb.run(&context).await,
        Verb::Env(verb) => verb.run(&context).await,
        Verb::Plugin(verb) => verb.run(&context).await,
        Verb::Model(verb) => verb.run(&context).await,
        Verb::Route(verb) => verb.run(&context).await,
        Verb::Event(verb) => verb.run(&context).await,
        Verb::Token(verb) => verb.run(&context).await,
        Verb::Call(verb) => verb.run(&context).await,
        Verb::Doctor(verb) => verb.run(&context).await,
        Verb::Completions(verb) => verb.run(),
        Verb::DemoTickets(verb) => verb.run().await,
        Verb::Worker => Ok(worker::inside::main()),
        Verb::Compile => Ok(compile::main()),
    };
    done.unwrap_or_else(|error| report(&error, context.json))
}

/// An error as its reader wants it, and the exit code of its kind.
fn report(error: &Error, json: bool) -> ExitCode {
    if json {
        let body =
            serde_json::json!({ "error": { "kind": error.kind, "blame": error.blame, "message": error.chain() } });
        drop(output::line(&body.to_string()));
    } else {
        output::note(&format!("error: {}", visible_lines(&error.chain())));
    }
    ExitCode::from(match error.kind {
        ErrorKind::Invalid => 2,
        ErrorKind::Cancelled => 130,
        _ => 1,
    })
}

fn log_to_standard_error(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "waypost=warn,error",
        1 => "waypost=info,warn",
        _ => "waypost=trace,info",
    };
    let filter = EnvFilter::try_from_env("WAYPOST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second subscriber in one process means that somebody else already shows the log.
    drop(subscriber.try_init());
}

/// Resolves when the person presses Ctrl-C or the process is told to end.
async fn told_to_stop() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = |error| Error::new(ErrorKind::Internal, "signals cannot be received").because(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}
