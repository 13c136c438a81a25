//! Figures without a promise: memory, size, start, disk.

use std::fs;
use std::future::ready;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, params};
use serde_json::Value;
use wasmtime::component::{Component, Linker};
use waypost::call::{Json, Sink};
use waypost::config::Limits;
use waypost::imports::{self, CallContext, CallState};
use waypost::log::sqlite::SqliteLog;
use waypost::log::{Append, Body, EventLog, NewEvent};
use waypost::plugin::link::bindings::handler::HandlerPluginPre;

use crate::hub::Rig;
use crate::pairs::{Medians, median, pairs};
use crate::raw::Embedder;
use crate::{Outcome, binary, guests};

/// Before the side whose sandboxes this process is to keep.
pub(crate) const ALONE: &str = "--residents=";

/// How many sandboxes stay.
const RESIDENTS: usize = 1_000;

/// How often a process is started.
pub(crate) const STARTS: usize = 9;

/// What the sandboxes of both sides take.
pub(crate) fn residents_beside() -> Outcome<Medians> {
    Ok(Medians {
        raw: alone(&format!("{ALONE}raw"))?,
        ours: alone(&format!("{ALONE}ours"))?,
    })
}

/// What this program says that something takes, measured in a process of its own.
pub(crate) fn alone(what: &str) -> Outcome<f64> {
    let output = Command::new(std::env::current_exe()?).arg(what).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Instantiates the sandboxes of a side, calls each once, keeps them all, and says what they added to this process.
pub(crate) async fn residents(side: &str) -> Outcome<u64> {
    let limits = Limits {
        calls: RESIDENTS,
        nested_calls: 1,
        agents: 1,
        ..Limits::default()
    };
    let guest = guests::bytes("noop");
    match side {
        "raw" => {
            let embedder = Embedder::new(&limits, &guest)?;
            let mut kept = Vec::with_capacity(RESIDENTS);
            let before = resident()?;
            for _ in 0..RESIDENTS {
                kept.push(embedder.called().await?);
            }
            Ok(resident()?.saturating_sub(before))
        }
        _ => {
            let rig = Rig::new(&guest, limits)?;
            let plugin = rig.plugins.get("noop")?;
            let component = Component::new(rig.engine.wasmtime(), &guest)?;
            let mut linker = Linker::new(rig.engine.wasmtime());
            imports::link(&mut linker, &plugin.facts.grants)?;
            let pre = HandlerPluginPre::new(linker.instantiate_pre(&component)?)?;
            let incoming = rig.incoming();
            let mut kept = Vec::with_capacity(RESIDENTS);
            let before = resident()?;
            for _ in 0..RESIDENTS {
                let mut store = rig.engine.store(CallState::new(Arc::new(CallContext::new(
                    rig.plugin_call(),
                    Sink::discard(),
                    &plugin,
                    Arc::clone(&rig.services),
                    None,
                ))));
                let instance = pre.instantiate_async(&mut store).await?;
                instance
                    .waypost_plugin_handler()
                    .call_handle(&mut store, &incoming)
                    .await??;
                kept.push((store, instance));
            }
            Ok(resident()?.saturating_sub(before))
        }
    }
}

/// The memory of this process that is in the machine, in bytes.
pub(crate) fn resident() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS in /proc/self/status")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}

/// The size of the binary, in bytes.
pub(crate) fn binary_bytes() -> Outcome<f64> {
    Ok(fs::metadata(binary::path())?.len() as f64)
}

/// From starting `waypost run` to the agent's first call in the output, in nanoseconds; code is compiled already.
pub(crate) fn first_call() -> Outcome<Medians> {
    let project = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let rules = "[[route]]\nmatch = \"inference\"\nto = \"plugin:replay\"\n";
    fs::write(project.path().join("waypost.toml"), rules)?;
    start_to_first_call(project.path())?;
    beside_version(project.path(), |_| start_to_first_call(project.path()))
}

/// The whole demo in a new folder, what it compiles included, in nanoseconds.
pub(crate) fn demo() -> Outcome<Medians> {
    let project = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    beside_version(project.path(), |turn| {
        let began = Instant::now();
        let folder = turn.to_string();
        let demo = binary::waypost(project.path())
            .args(["demo", "--folder", &folder])
            .output()?;
        if !demo.status.success() {
            return Err(String::from_utf8_lossy(&demo.stderr).into());
        }
        Ok(began.elapsed().as_secs_f64() * 1e9)
    })
}

pub(crate) fn beside_version(project: &Path, ours: impl Fn(usize) -> Outcome<f64>) -> Outcome<Medians> {
    let (mut raw, mut measured) = (Vec::new(), Vec::new());
    for turn in 0..STARTS {
        let began = Instant::now();
        binary::waypost(project).arg("--version").output()?;
        raw.push(began.elapsed().as_secs_f64() * 1e9);
        measured.push(ours(turn)?);
    }
    Ok(Medians {
        raw: median(raw),
        ours: median(measured),
    })
}

fn start_to_first_call(project: &Path) -> Outcome<f64> {
    let began = Instant::now();
    let mut child = binary::waypost(project)
        .args(["--json", "run", "Say hello"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut first = None;
    for line in lines {
        let event: Value = serde_json::from_str(&line?)?;
        let about = event
            .pointer("/body/call")
            .or_else(|| event.pointer("/body/name"))
            .and_then(Value::as_str);
        if first.is_none() && about == Some("inference") {
            first = Some(began.elapsed());
        }
    }
    let output = child.wait_with_output()?;
    let first = first.ok_or_else(|| {
        format!(
            "the run made no call; it said: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok(first.as_secs_f64() * 1e9)
}

/// One event on disk beside one row on disk, in nanoseconds.
pub(crate) async fn append() -> Outcome<Medians> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let log = SqliteLog::open(&folder.path().join("state"))?;
    let mut connection = Connection::open(folder.path().join("raw.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE event (cursor INTEGER PRIMARY KEY, run TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
                             kind TEXT NOT NULL, call BLOB, body TEXT NOT NULL, UNIQUE (run, seq)) STRICT;",
    )?;
    const INSERT: &str = "INSERT INTO event (run, seq, at, kind, body) VALUES ('run', ?1, 0, 'bench.event', ?2)";
    let event = |bytes: usize| -> Outcome<NewEvent> {
        let body = Body::Json(Json::of(&"x".repeat(bytes))?);
        Ok(NewEvent {
            kind: "bench.event",
            call: None,
            body,
            record: None,
        })
    };
    // Fills both write-ahead logs once, so that both sides write where the file already is.
    let (rows, bytes) = (1_000, 8_000);
    log.append(Append {
        run: "run".into(),
        expected_seq: None,
        events: vec![event(bytes)?; rows],
    })
    .await?
    .durable()
    .await?;
    let filling = connection.transaction()?;
    for row in 0..rows {
        filling.execute(INSERT, params![-i64::try_from(row)?, "x".repeat(bytes)])?;
    }
    filling.commit()?;
    let mut insert = connection.prepare(INSERT)?;
    let (small, text) = (event(300)?, format!("\"{}\"", "x".repeat(300)));
    let mut seq = 0_i64;
    let raw = || {
        seq += 1;
        ready(insert.execute(params![seq, text]).map(drop).map_err(Into::into))
    };
    let ours = || async {
        log.append(Append::one("run", small.clone())).await?.durable().await?;
        Ok(())
    };
    let medians = pairs(raw, ours).await?;
    log.close().await?;
    Ok(medians)
}
