//! Every trial of Waypost at its boundary: one binary, one list.
//!
//! A trial is a sentence and a function; each module lists its own. Guests and the binary are built first, once.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

mod dispatch;
mod gateway;
mod harness;
mod hostile;
mod plugins;
mod tidy;

fn trials() -> Vec<Trial> {
    let modules = [
        dispatch::trials(),
        gateway::trials(),
        hostile::trials(),
        plugins::trials(),
        tidy::trials(),
    ];
    modules.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        harness::guests::build();
        harness::binary::build();
    }
    libtest_mimic::run(&arguments, trials()).exit_code()
}
