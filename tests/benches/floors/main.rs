//! The speed of Waypost beside the raw parts that it is made of.
//!
//! Every figure is measured together with its floor, in pairs that take turns in the same process, and is judged by the
//! ratio of the medians: a bare time says more about the machine than about the code. It prints one Markdown table.
//!
//! `cargo bench --bench floors` prints it; `-- --json` prints the same as JSON; with `-- --judge` a promise that is missed
//! five times in a row is exit code 1. Words behind `--` choose parts: `-- --judge worker noise` measures those alone.

use std::error::Error;
use std::future::ready;
use std::io::Write;
use std::process::ExitCode;

use futures::future::LocalBoxFuture;

mod caller;
mod extism;
mod handlers;
#[path = "../../harness/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared with the trials, as it is"
)]
mod harness;
mod hub;
mod loading;
mod noise;
mod pairs;
mod raw;
mod reload;
mod report;
mod shown;
#[path = "../../languages/template.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared with the trials, as it is"
)]
mod template;
mod wire;
mod worker;

use harness::{binary, guests};
use hub::{Decider, Rig};
use pairs::pairs;
use raw::Embedder;
use report::{Figure, Report, Target};
use waypost::config::Limits;

/// As in the binary, for both sides.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often a part is measured before one of its figures counts as missed.
const TRIES: usize = 5;

/// What a bench may fail with: it is told and ends the bench.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Figures that are measured together, and again together when one of them is missed.
struct Part {
    name: &'static str,
    measure: fn() -> LocalBoxFuture<'static, Outcome<Vec<Figure>>>,
}

/// All parts, in the order of the table. A new one is one more line.
const PARTS: [Part; 10] = [
    part("calls", || Box::pin(calls())),
    part("wire", || Box::pin(wires())),
    part("disk", || Box::pin(disk())),
    part("starts", || Box::pin(starts())),
    part("memory", || Box::pin(memory())),
    part("worker", || Box::pin(worker::figures())),
    part("loading", || Box::pin(loading::figures())),
    part("reload", || Box::pin(reload::figures())),
    part("noise", || Box::pin(noise::figures())),
    part("handlers", || Box::pin(handlers::figures())),
];

const fn part(name: &'static str, measure: fn() -> LocalBoxFuture<'static, Outcome<Vec<Figure>>>) -> Part {
    Part { name, measure }
}

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
    // This process again, for what has to be measured in one of its own.
    let alone = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let bytes = match (alone(shown::ALONE), alone(handlers::ALONE)) {
        (Some(side), _) => Some(runtime.block_on(shown::residents(side))?),
        (_, Some(wall)) => Some(runtime.block_on(handlers::loaded(wall))?),
        _ => None,
    };
    if let Some(bytes) = bytes {
        writeln!(std::io::stdout(), "{bytes}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
    let known = |word: &&&String| PARTS.iter().any(|part| part.name == word.as_str());
    if let Some(word) = words.iter().find(|word| !known(word)) {
        let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        return Err(format!("`{word}` is no part of the bench; there are {}", names.join(", ")).into());
    }
    let judged = has("--judge");
    guests::build();
    binary::build();
    let mut figures = Vec::new();
    for part in &PARTS {
        if words.is_empty() || words.iter().any(|word| *word == part.name) {
            figures.extend(runtime.block_on(measured(part, judged))?);
        }
    }
    let report = Report::new(figures);
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

/// The figures of a part; each the best of as many tries as it takes until none is missed.
async fn measured(part: &Part, judged: bool) -> Outcome<Vec<Figure>> {
    let mut figures = (part.measure)().await?;
    for _ in 1..TRIES {
        if judged && figures.iter().any(Figure::missed) {
            let again = (part.measure)().await?;
            figures = figures
                .into_iter()
                .zip(again)
                .map(|(one, other)| one.better(other))
                .collect();
        }
    }
    Ok(figures)
}

/// The path of a call, measured where it runs in a hub: on a worker thread of the runtime.
async fn calls() -> Outcome<Vec<Figure>> {
    let guest = guests::bytes("noop");
    let measured = tokio::spawn(async move {
        let rig = Rig::new(&guest, Limits::default())?;
        let floor = Embedder::new(&rig.limits, &guest)?;
        let (few, many) = (Decider::new(10)?, Decider::new(10_000)?);
        Outcome::Ok([
            pairs(|| floor.call(), || rig.read()).await?,
            pairs(|| floor.call(), || rig.effect()).await?,
            pairs(|| rig.handle(), || rig.builtin()).await?,
            pairs(|| ready(few.decide()), || ready(many.decide())).await?,
        ])
    });
    let [fresh, effect, builtin, decision] = measured.await??;
    let sandbox = "wasmtime: instantiate, call, drop";
    Ok(vec![
        Figure::time("routed call to a fresh sandbox", sandbox, fresh).at_most(Target::Ratio(1.5)),
        Figure::time("the same as an effect: a task, two events", sandbox, effect),
        Figure::time("routed call to a built-in no-op", "the handler alone", builtin).at_most(Target::Micros(3.0)),
        Figure::time("ten decisions among 10,000 exact rules", "among 10", decision).at_most(Target::Ratio(1.25)),
    ])
}

/// What goes over sockets.
async fn wires() -> Outcome<Vec<Figure>> {
    let (proxied, relay) = wire::proxied().await?;
    let name = "proxied call, 64 in flight, log on disk";
    let paced = "p99 of a local call, 2,000 a second, without numbers";
    Ok(vec![
        Figure::time(name, "a bare two-hop relay", proxied).at_most(Target::Ratio(2.0)),
        Figure::time("the bare two-hop relay", "a bare echo", relay),
        Figure::time(paced, "of a bare echo", wire::paced().await?).at_most(Target::Micros(2_000.0)),
    ])
}

async fn disk() -> Outcome<Vec<Figure>> {
    let name = "durable append of one event";
    Ok(vec![
        Figure::time(name, "one SQLite commit of one row", shown::append().await?),
        Figure::bare_size("size of the binary", shown::binary_bytes()?),
    ])
}

/// The program from its start.
async fn starts() -> Outcome<Vec<Figure>> {
    let (first, version) = ("`waypost run` to the first capability call", "`waypost --version`");
    Ok(vec![
        Figure::time(first, version, shown::first_call()?),
        Figure::time("`waypost demo`, whole", version, shown::demo()?).at_most(Target::Micros(2_000_000.0)),
    ])
}

async fn memory() -> Outcome<Vec<Figure>> {
    let name = "memory of 1,000 resident sandboxes";
    Ok(vec![Figure::size(
        name,
        "in bare wasmtime stores",
        shown::residents_beside()?,
    )])
}
