//! Every trial of Waypost at its boundary: one binary, one list.
//!
//! A trial is a sentence and a function; each module lists its own. Guests and the binary are built first, once.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "all of this binary is tests: a failure ends the trial, and nothing is public"
)]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

mod adversarial;
mod agent_socket;
mod author;
mod cli;
mod connections;
mod contracts;
mod demo;
mod dispatch;
mod files;
mod gateway;
mod grants;
mod harness;
mod hostile;
mod installed;
mod joined;
mod languages;
mod learn;
mod limits;
mod load;
mod mistakes;
mod model;
mod newer;
mod outside;
mod parking;
mod plugins;
mod providers;
mod quarantine;
mod rate;
mod reentry;
mod reference;
mod resume;
mod rules_file;
mod runs;
mod sdk;
mod serve;
mod shadow;
mod spawned;
mod swap;
mod tidy;
mod tokens;
mod worker;

fn trials() -> Vec<Trial> {
    let modules = [
        adversarial::trials(),
        agent_socket::trials(),
        author::trials(),
        cli::trials(),
        connections::trials(),
        contracts::trials(),
        demo::trials(),
        dispatch::trials(),
        files::trials(),
        gateway::trials(),
        grants::trials(),
        grants::files::trials(),
        grants::process::trials(),
        grants::secrets::trials(),
        grants::socket::trials(),
        hostile::trials(),
        installed::trials(),
        installed::decided::trials(),
        installed::locked::trials(),
        installed::placed::trials(),
        installed::registry::trials(),
        installed::signed::trials(),
        installed::terminal::trials(),
        joined::trials(),
        languages::trials(),
        learn::trials(),
        limits::trials(),
        load::trials(),
        mistakes::trials(),
        model::trials(),
        newer::trials(),
        outside::trials(),
        parking::trials(),
        plugins::trials(),
        providers::trials(),
        providers::failures::trials(),
        quarantine::trials(),
        rate::trials(),
        reentry::trials(),
        reference::trials(),
        resume::trials(),
        rules_file::trials(),
        runs::trials(),
        sdk::trials(),
        serve::trials(),
        shadow::trials(),
        spawned::trials(),
        swap::trials(),
        tidy::trials(),
        tokens::trials(),
        worker::trials(),
        worker::groups::trials(),
        worker::hostile::trials(),
    ];
    modules.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    if let Some(code) = harness::peer::again() {
        return code;
    }
    // The one provider of cryptography, as the binary installs it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let arguments = Arguments::from_args();
    if let Some(code) = outside::again(&arguments) {
        return code;
    }
    if !arguments.list {
        harness::guests::build();
        harness::binary::build();
    }
    libtest_mimic::run(&arguments, trials()).exit_code()
}
