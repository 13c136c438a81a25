//! Says things: in the log, on standard output, on standard error, and far too much.

use serde::Deserialize;
use waypost_sdk::{Call, Result, log};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Manner {
    Lines,
    Streams,
    /// So many lines of 100 bytes.
    Flood(usize),
    /// One line of so many bytes.
    Shout(usize),
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what is printed is what the trial looks for"
)]
fn talk(_: &Call, manner: Manner) -> Result<()> {
    match manner {
        Manner::Lines => {
            log::debug("a");
            log::info("b\u{1b}[2Jc");
            log::warn("d\ne");
            log::error("f");
        }
        Manner::Streams => {
            println!("out");
            eprintln!("err");
            eprint!("no end");
        }
        Manner::Flood(lines) => (0..lines).for_each(|_| println!("{}", "x".repeat(99))),
        Manner::Shout(bytes) => log::info("x".repeat(bytes)),
    }
    Ok(())
}

waypost_sdk::handler!(talk);
