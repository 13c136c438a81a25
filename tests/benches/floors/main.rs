//! The speed of Waypost beside the raw parts that it is made of.
//!
//! Every figure is measured together with its floor, in pairs that take turns in the same process, and is judged by the
//! ratio of the medians: a bare time says more about the machine than about the code. It prints one Markdown table.
//!
//! `cargo bench --bench floors` prints it; `-- --json` prints the same as JSON; with `-- --judge` a target that is missed
//! three times in a row is exit code 1.

use std::error::Error;
use std::future::ready;
use std::io::Write;
use std::process::ExitCode;

#[path = "../../harness/binary.rs"]
#[allow(unreachable_pub, clippy::expect_used, reason = "shared with the trials, as it is")]
mod binary;
#[path = "../../harness/guests.rs"]
#[allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "shared with the trials, as it is"
)]
mod guests;
mod hub;
mod pairs;
mod raw;
mod report;
mod shown;
mod wire;

use hub::{Decider, Rig};
use pairs::{Medians, pairs};
use raw::Embedder;
use report::{Figure, Report, Target};
use waypost::config::Limits;

/// As in the binary, for both sides.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often figures are measured before one of them counts as missed.
const TRIES: usize = 3;

/// What a bench may fail with: it is told and ends the bench.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Outcome<ExitCode> {
    // The one provider of cryptography, as the binary installs it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(side) = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--residents="))
    {
        let bytes = runtime.block_on(shown::residents(side))?;
        writeln!(std::io::stdout(), "{bytes}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let judged = has("--judge");
    let mut report = Report::new(runtime.block_on(figures())?);
    for _ in 1..TRIES {
        if judged && report.missed() {
            report = report.better(runtime.block_on(figures())?);
        }
    }
    let text = if has("--json") {
        report.json()?
    } else {
        report.markdown()
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if judged && report.missed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// All figures, in the order of the table. A new one is one more entry.
async fn figures() -> Outcome<Vec<Figure>> {
    guests::build();
    binary::build();
    let [fresh, effect, builtin, decision] = tokio::spawn(calls(guests::bytes("noop"))).await??;
    let sandbox = "wasmtime: instantiate, call, drop";
    let (proxied, relay) = wire::proxied().await?;
    Ok(vec![
        Figure::time("routed call to a fresh sandbox", sandbox, fresh).at_most(Target::Ratio(1.5)),
        Figure::time("the same as an effect: a task, two events", sandbox, effect),
        Figure::time("routed call to a built-in no-op", "the handler alone", builtin).at_most(Target::Micros(3.0)),
        Figure::time("ten decisions among 10,000 exact rules", "among 10", decision).at_most(Target::Ratio(1.25)),
        Figure::time(
            "proxied call, 64 in flight, log on disk",
            "a bare two-hop relay",
            proxied,
        )
        .at_most(Target::Ratio(2.0)),
        Figure::time("the bare two-hop relay", "a bare echo", relay),
        Figure::time(
            "p99 of a local call, 2,000 a second, without numbers",
            "of a bare echo",
            wire::paced().await?,
        )
        .at_most(Target::Micros(2_000.0)),
        Figure::time(
            "durable append of one event",
            "one SQLite commit of one row",
            shown::append().await?,
        ),
        Figure::size(
            "memory of 1,000 resident sandboxes",
            "in bare wasmtime stores",
            shown::residents_beside()?,
        ),
        Figure::time(
            "`waypost run` to the first capability call",
            "`waypost --version`",
            shown::first_call()?,
        ),
        Figure::time("`waypost demo`, whole", "`waypost --version`", shown::demo()?)
            .at_most(Target::Micros(2_000_000.0)),
        Figure::bare_size("size of the binary", shown::binary_bytes()?),
    ])
}

/// The path of a call, measured where it runs in a hub: on a worker thread of the runtime.
async fn calls(guest: Vec<u8>) -> Outcome<[Medians; 4]> {
    let rig = Rig::new(&guest, Limits::default())?;
    let floor = Embedder::new(&rig.limits, &guest)?;
    let (few, many) = (Decider::new(10)?, Decider::new(10_000)?);
    Ok([
        pairs(|| floor.call(), || rig.read()).await?,
        pairs(|| floor.call(), || rig.effect()).await?,
        pairs(|| rig.handle(), || rig.builtin()).await?,
        pairs(|| ready(few.decide()), || ready(many.decide())).await?,
    ])
}
