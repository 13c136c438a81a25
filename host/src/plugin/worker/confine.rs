//! How a worker process walls itself in before it has anything of a plugin.
//!
//! Every part that the kernel and the rights of the hub allow is taken, and said ([`Confinement`]); the operator decides
//! which ones must be there. All of this is done by a process that has one thread: threads that it makes later inherit it.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::config::Part;

/// Open files of a worker: its socket, its runtime, and an image of the memory of each module.
const FILES: u64 = 256;

/// What no worker may be without.
pub const ALWAYS: [Part; 1] = [Part::NoNewPrivs];

/// What a worker is confined by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// In the order in which it was done.
    pub parts: Vec<Part>,
}

impl Confinement {
    /// Those of these parts that it is without.
    pub fn lacks<'a>(&'a self, parts: &'a [Part]) -> impl Iterator<Item = Part> + 'a {
        parts.iter().copied().filter(|part| !self.parts.contains(part))
    }
}

/// The first thing a worker does: it dies with its hub, and has nothing that was open there but its standard input, which is
/// the socket.
pub(super) fn begin() -> Result<UnixStream, String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("it cannot be tied to the hub: {error}"))?;
    let _ = prctl::set_name(c"waypost-worker");
    close_the_rest()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    socket
        .map(UnixStream::from)
        .map_err(|error| format!("its socket cannot be used: {error}"))
}

/// Closes every file but the three standard ones: whatever a careless parent of the hub has left open.
fn close_the_rest() -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("its open files cannot be listed: {error}");
    let entries = std::fs::read_dir("/proc/self/fd").map_err(cannot)?;
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // The listing itself is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Walls this process in. An error when it lacks what no worker may be without.
pub(super) fn apply(memory: u64) -> Result<Confinement, String> {
    let mut parts = Vec::new();
    prctl::set_no_new_privs().map_err(|error| format!("it cannot give up new rights: {error}"))?;
    parts.push(Part::NoNewPrivs);
    if limit(memory) {
        parts.push(Part::Limits);
    }
    let _ = prctl::set_dumpable(false);
    Ok(Confinement { parts })
}

/// Limits of the process. What the pool of sandboxes has reserved by now is beside them.
fn limit(memory: u64) -> bool {
    let reserved = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        })
        .map(|kibibytes| kibibytes << 10);
    let Some(reserved) = reserved else { return false };
    [
        (Resource::RLIMIT_DATA, reserved.saturating_add(memory)),
        (Resource::RLIMIT_NOFILE, FILES),
        (Resource::RLIMIT_CORE, 0),
    ]
    .into_iter()
    .all(|(resource, most)| setrlimit(resource, most, most).is_ok())
}
