//! A thousand installed handlers, loaded and not called: what each of them takes in the hub, and what a call costs; beside
//! Extism, which has its plugins in its own process.

use std::path::Path;
use std::sync::Arc;

use waypost::config::{Grants, Wall};
use waypost::plugin::Source;

use crate::Outcome;
use crate::caller::{Caller, with_reader};
use crate::extism::Extism;
use crate::harness::{Open, Plugin, Project};
use crate::pairs::{Medians, median, nanoseconds};
use crate::report::Figure;
use crate::shown::{alone, resident};

/// Before the wall behind which this process is to load them.
pub(crate) const ALONE: &str = "--handlers=";

/// How many.
const HANDLERS: usize = 1_000;

/// How many of them are called.
const CALLED: usize = 8;

/// How often calls are measured, in turns.
const TIMES: usize = 9;

/// Calls of one turn.
const TURN: u32 = 2_000;

const BESIDE: &str = "in Extism 1.30.0";

/// The wall, as the operator names it, and as the table does.
const WALLS: [(&str, &str); 2] = [("worker", ""), ("in-process", ", in the hub's process")];

pub(crate) async fn figures() -> Outcome<Vec<Figure>> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut extism = match Extism::start(folder.path()) {
        Ok(extism) => extism,
        Err(why) => return without(&why),
    };
    let mut figures = Vec::new();
    for (wall, suffix) in WALLS {
        let medians = Medians {
            raw: extism.bytes_each,
            ours: alone(&format!("{ALONE}{wall}"))?,
        };
        figures.push(Figure::size(in_memory(suffix), BESIDE, medians));
    }
    let mut project = Project::new();
    for (wall, _) in WALLS {
        project = with_reader(project, wall, wall);
    }
    let open = project.open().await;
    for (wall, suffix) in WALLS {
        let caller = Caller::new(&open, wall)?;
        caller.call().await?;
        let (mut raw, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            raw.push(extism.nanoseconds_each(TURN)?);
            let caller = Arc::clone(&caller);
            let turn = tokio::spawn(async move { nanoseconds(&mut || caller.call(), TURN).await });
            ours.push(turn.await??);
        }
        let medians = Medians {
            raw: median(raw),
            ours: median(ours),
        };
        figures.push(Figure::time(
            format!("call to an installed handler{suffix}"),
            BESIDE,
            medians,
        ));
    }
    drop(open.close().await);
    Ok(figures)
}

fn in_memory(suffix: &str) -> String {
    format!("memory of each of 1,000 installed handlers{suffix}")
}

/// The same where Extism cannot be had.
fn without(why: &str) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for (wall, suffix) in WALLS {
        figures.push(Figure::bare_size(in_memory(suffix), alone(&format!("{ALONE}{wall}"))?));
    }
    figures.push(Figure::missing("the same, and a call, in Extism 1.30.0", why));
    Ok(figures)
}

/// Loads the handlers behind this wall, calls some of them, and says what each added to this process when it is idle again.
pub(crate) async fn loaded(wall: &str) -> Outcome<u64> {
    let wall = match wall {
        "worker" => Wall::Worker,
        _ => Wall::InProcess,
    };
    let rule = |number| format!("[[route]]\nmatch = \"handler-{number}\"\nto = \"plugin:handler-{number}\"\n");
    let rules: String = (0..=CALLED).map(rule).collect();
    let project = Project::new().toml("[limits]\nworker-idle = \"50ms\"").toml(&rules);
    let open = project.open().await;
    let files: Vec<_> = (0..=HANDLERS)
        .map(|number| {
            Plugin::of("noop")
                .named(&format!("handler-{number}"))
                .write(open.root())
        })
        .collect();
    let (first, rest) = files.split_first().ok_or("there is no handler")?;
    // What all of them share is not theirs.
    load(&open, first, wall).await?;
    open.reply("handler-0", serde_json::json!({})).await;
    idle(&open).await?;
    let before = resident()?;
    for file in rest {
        load(&open, file, wall).await?;
    }
    for number in 1..=CALLED {
        open.reply(&format!("handler-{number}"), serde_json::json!({})).await;
    }
    idle(&open).await?;
    Ok(resident()?.saturating_sub(before) / HANDLERS as u64)
}

async fn load(open: &Open, file: &Path, wall: Wall) -> Outcome<()> {
    let (plugins, file) = (Arc::clone(&open.hub.plugins), file.to_owned());
    let load = move || plugins.load(Source::read(&file, wall, Grants::default(), usize::MAX)?);
    tokio::task::spawn_blocking(load).await??;
    Ok(())
}

/// Waits until no worker process is left.
async fn idle(open: &Open) -> Outcome<()> {
    let workers = open.hub.workers.as_ref().ok_or("a hub has workers")?;
    while !workers.processes().await.is_empty() {
        tokio::task::yield_now().await;
    }
    Ok(())
}
