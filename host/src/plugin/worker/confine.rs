//! How a worker process walls itself in before it has anything of a plugin.
//!
//! Every part that the kernel and the rights of the hub allow is taken, and said ([`Confinement`]); the operator decides
//! which ones must be there, beside those that always must ([`ALWAYS`]). All of this is done by a process that has one
//! thread: threads that it makes later inherit it. Which system calls are left is in `worker/confine/calls.rs`.

use std::fs;

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{self, Gid, Uid};
use serde::{Deserialize, Serialize};

use super::cgroup::Groups;
use crate::config::Part;

mod calls;

/// What no worker may be without.
pub const ALWAYS: [Part; 2] = [Part::NoNewPrivs, Part::Seccomp];

/// Open files of a worker: its socket, its runtime, and an image of the memory of each module.
const FILES: u64 = 256;

/// Threads of a worker, where it has a user of its own to count them for.
pub(super) const THREADS: u64 = 256;

/// The user of a worker in its own namespace: nobody.
const NOBODY: u32 = 65_534;

/// Where the users begin that no account of a machine has; a worker of a hub that is root takes one by its process id.
const USERS: u32 = 0x6000_0000;

/// What a worker is confined by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// In the order in which it was done.
    pub parts: Vec<Part>,
    /// The groups that the hub has put it into. A worker does not speak of them.
    #[serde(skip)]
    pub groups: Groups,
}

impl Confinement {
    /// Those of these parts that it is without.
    pub fn lacks<'a>(&'a self, parts: &'a [Part]) -> impl Iterator<Item = Part> + 'a {
        parts.iter().copied().filter(|part| !self.parts.contains(part))
    }

    /// It is in these groups, and no others, whatever it has said.
    pub(super) fn is_in(&mut self, groups: Groups) {
        self.groups = groups;
        for (part, bounded) in [(Part::MemoryGroup, groups.memory), (Part::CpuGroup, groups.cpu)] {
            self.parts.retain(|said| *said != part);
            self.note(part, bounded.is_some());
        }
    }

    fn note(&mut self, part: Part, done: bool) {
        if done && !self.parts.contains(&part) {
            self.parts.push(part);
        }
    }
}

/// What a process may use up.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin) struct Bound {
    /// Memory beside what is reserved, in bytes.
    pub(in crate::plugin) memory: u64,
    /// Processor time, in seconds.
    pub(in crate::plugin) seconds: Option<u64>,
}

/// The first thing such a process does: it dies with its hub, and has nothing that was open there but the three standard
/// files.
pub(in crate::plugin) fn begin() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("it cannot be tied to the hub: {error}"))?;
    let _ = prctl::set_name(c"waypost-worker");
    // When the machine has no more memory, this is what it can do without.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    close_the_rest()
}

/// Closes every file but the three standard ones: whatever a careless parent of the hub has left open.
fn close_the_rest() -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("its open files cannot be listed: {error}");
    let entries = fs::read_dir("/proc/self/fd").map_err(cannot)?;
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // The listing itself is among them, and closed already.
        let _ = unistd::close(number);
    }
    Ok(())
}

/// Walls this process in. An error when it lacks what no worker may be without.
pub(in crate::plugin) fn apply(bound: Bound) -> Result<Confinement, String> {
    let mut confinement = Confinement::default();
    prctl::set_no_new_privs().map_err(|error| format!("it cannot give up new rights: {error}"))?;
    confinement.note(Part::NoNewPrivs, true);
    confinement.note(Part::Limits, limit(bound));
    separate(&mut confinement);
    confinement.note(Part::Landlock, landlock());
    // Whoever has the same user cannot look into it or attach to it.
    let _ = prctl::set_dumpable(false);
    calls::forbid()?;
    confinement.note(Part::Seccomp, true);
    Ok(confinement)
}

/// Limits of the process. What the pool of sandboxes has reserved by now is beside them.
fn limit(bound: Bound) -> bool {
    let reserved = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    let Some(reserved) = reserved.map(|kibibytes| kibibytes << 10) else {
        return false;
    };
    set([
        (Resource::RLIMIT_DATA, reserved.saturating_add(bound.memory)),
        (Resource::RLIMIT_NOFILE, FILES),
        (Resource::RLIMIT_CORE, 0),
    ]) && bound.seconds.is_none_or(|seconds| {
        // The first limit has a signal of its own, by which the hub knows it.
        setrlimit(Resource::RLIMIT_CPU, seconds, seconds.saturating_add(1)).is_ok()
    })
}

fn set<const N: usize>(limits: [(Resource, u64); N]) -> bool {
    limits
        .into_iter()
        .all(|(resource, most)| setrlimit(resource, most, most).is_ok())
}

/// Namespaces, an empty file system, and a user that is nobody.
fn separate(confinement: &mut Confinement) {
    let mut spaces = vec![
        (CloneFlags::CLONE_NEWNET, Part::Network),
        (CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS, Part::Ipc),
        (CloneFlags::CLONE_NEWNS, Part::Root),
    ];
    let (user, group) = (unistd::geteuid(), unistd::getegid());
    let privileged = user.is_root();
    if !privileged {
        // Whoever has no rights gets them by being alone: they end where the namespace does.
        let alone = unshare(CloneFlags::CLONE_NEWUSER).is_ok() && map(user, group);
        confinement.note(Part::User, alone);
    }
    spaces.retain(|(flags, _)| unshare(*flags).is_ok());
    for (_, part) in spaces {
        confinement.note(part, part != Part::Root || empty_root().is_ok());
    }
    if privileged {
        confinement.note(Part::User, become_somebody());
    }
    if confinement.parts.contains(&Part::User) {
        // Threads are counted for each user, so this means something to one alone.
        set([(Resource::RLIMIT_NPROC, THREADS)]);
    }
}

/// This user, and no other, is nobody in the new namespace.
fn map(user: Uid, group: Gid) -> bool {
    fs::write("/proc/self/setgroups", "deny").is_ok()
        && fs::write("/proc/self/uid_map", format!("{NOBODY} {user} 1")).is_ok()
        && fs::write("/proc/self/gid_map", format!("{NOBODY} {group} 1")).is_ok()
}

/// Gives up root for a user that nobody else is; one that exists, where the machine knows no others.
fn become_somebody() -> bool {
    let own = USERS | (std::process::id() & 0x0fff_ffff);
    let turn = |id: u32| {
        let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
        unistd::setgroups(&[])
            .and_then(|()| unistd::setresgid(group, group, group))
            .and_then(|()| unistd::setresuid(user, user, user))
            .is_ok()
    };
    turn(own) || turn(NOBODY)
}

/// Makes an empty folder, which cannot be written to, the whole file system.
fn empty_root() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("none"),
        "/proc",
        Some("tmpfs"),
        sealed,
        Some("size=4k,nr_inodes=1,mode=0"),
    )?;
    unistd::chdir("/proc")?;
    unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    unistd::chdir("/")?;
    mount(NONE, "/", NONE, sealed | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE)
}

/// No file, no port, and no socket or process outside can be named any more, as far as the kernel knows how to forbid it.
fn landlock() -> bool {
    let abi = ABI::V6;
    let done = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    done.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}
