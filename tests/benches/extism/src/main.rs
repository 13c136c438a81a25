//! Handlers in Extism, for the bench of Waypost to measure beside its own: a thousand of them, each loaded by itself as a
//! host that has a thousand plugins would.
//!
//! It prints one line of JSON with what they take in memory. Then, for each number that it reads as a line, it makes so many
//! calls to one of them and prints one line of JSON with how long each took.

use std::error::Error;
use std::fs;
use std::io::{BufRead, Write};
use std::time::Instant;

use extism::{Plugin, PluginBuilder};

/// How many handlers stay.
const HANDLERS: usize = 1_000;

/// What each is asked; it answers with the same, as the guest `noop` of Waypost does.
const MESSAGE: &str = r#"{"path":"src/main.rs"}"#;

/// Copies its input through its own memory, as every guest does whose language has one, and answers with it.
const GUEST: &str = r#"(module
    (import "extism:host/env" "input_length" (func $input_length (result i64)))
    (import "extism:host/env" "input_load_u8" (func $input_load (param i64) (result i32)))
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
    (import "extism:host/env" "output_set" (func $output_set (param i64 i64)))
    (memory (export "memory") 17)
    (func (export "handle") (result i32)
        (local $length i64) (local $at i64) (local $output i64)
        (local.set $length (call $input_length))
        (loop $next
            (i32.store8 (i32.wrap_i64 (local.get $at)) (call $input_load (local.get $at)))
            (local.set $at (i64.add (local.get $at) (i64.const 1)))
            (br_if $next (i64.lt_u (local.get $at) (local.get $length))))
        (local.set $output (call $alloc (local.get $length)))
        (local.set $at (i64.const 0))
        (loop $next
            (call $store (i64.add (local.get $output) (local.get $at))
                (i32.load8_u (i32.wrap_i64 (local.get $at))))
            (local.set $at (i64.add (local.get $at) (i64.const 1)))
            (br_if $next (i64.lt_u (local.get $at) (local.get $length))))
        (call $output_set (local.get $output) (local.get $length))
        i32.const 0))"#;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("name a folder for its cache of compiled code")?;
    let settings = format!("{folder}/cache.toml");
    // In a folder of its own: it removes what it does not know.
    fs::write(&settings, format!("[cache]\ndirectory = \"{folder}/compiled\"\n"))?;
    let guest = wat::parse_str(GUEST)?;
    let load = || -> Result<Plugin, Box<dyn Error>> {
        let builder = PluginBuilder::new(guest.as_slice()).with_cache_config(&settings);
        let mut plugin = builder.build()?;
        call(&mut plugin)?;
        Ok(plugin)
    };
    // What all of them share is not theirs.
    drop(load()?);
    let before = resident()?;
    let mut handlers = Vec::with_capacity(HANDLERS);
    for _ in 0..HANDLERS {
        handlers.push(load()?);
    }
    let bytes = resident()?.saturating_sub(before) / HANDLERS as u64;
    say(&format!(r#"{{"bytesEach":{bytes}}}"#))?;
    let handler = handlers.first_mut().ok_or("there is no handler")?;
    for line in std::io::stdin().lock().lines() {
        let calls: u32 = line?.parse()?;
        let began = Instant::now();
        for _ in 0..calls {
            call(handler)?;
        }
        let each = began.elapsed().as_secs_f64() * 1e9 / f64::from(calls);
        say(&format!(r#"{{"nanosecondsEach":{each}}}"#))?;
    }
    Ok(())
}

fn call(plugin: &mut Plugin) -> Result<(), Box<dyn Error>> {
    let answer: String = plugin.call("handle", MESSAGE)?;
    if answer == MESSAGE { Ok(()) } else { Err(answer.into()) }
}

/// A line that whoever reads it has at once.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The memory of this process that is in the machine, in bytes.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line
        .ok_or("no VmRSS in /proc/self/status")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kibibytes << 10)
}
