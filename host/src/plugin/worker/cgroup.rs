//! Control groups: the kernel's own bound of what a worker process takes of the machine, or one that compiles: a group for
//! each, made under that of the hub where the hub may.
//!
//! A call goes through the hub and a worker, and is fastest when the kernel chooses among their threads as equals: so there is
//! a group for processor time only where the operator bounds it (`worker-cpu`), and for what is behind the others.
//!
//! The limits that a process sets itself (`worker/confine.rs`) hold everywhere, and refuse memory in order; a group holds for
//! what they do not count as well: shared memory, page tables, what waits in sockets, and processor time. Of the two versions
//! of control groups each part is taken from the one that has it. Not here: when a worker is started ([`super::Workers`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::confine::THREADS;
use crate::config::Limits;

/// The group that a hub puts itself into, where a group may hold either processes or other groups.
const OWN: &str = "waypost-hub";

/// What a process has of memory beside its limit, in bytes: the program, and what it starts with.
const BESIDE: u64 = 64 << 20;

/// The period of which a worker gets a part, in microseconds.
const PERIOD: u64 = 100_000;

/// The file that says how much of the processor time a group gets where there is not enough for all, and what it says for one
/// that is behind: an eighth of what the hub has. In version 1, and in version 2.
const BEHIND: [(&str, &str); 2] = [("cpu.shares", "128"), ("cpu.weight", "12")];

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Memory,
    Cpu,
    Threads,
}

impl What {
    /// The name of the kernel's controller.
    fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Threads => "pids",
        }
    }
}

/// The version of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One tree for each thing that is bounded.
    One,
    /// One tree for all.
    Two,
}

/// What a process is bounded by in its groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Its memory.
    pub memory: Option<Version>,
    /// Its processor time.
    pub cpu: Option<Version>,
}

/// A folder of groups, and what they bound.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    version: Version,
    /// The group of the hub.
    folder: PathBuf,
    bounds: Vec<What>,
}

/// Where the groups of a hub's workers and compilers are made.
#[derive(Debug)]
pub struct Cgroups {
    trees: Vec<Tree>,
    /// How the names of its groups begin.
    prefix: String,
    made: AtomicU64,
}

/// How much a process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    memory: u64,
    /// Percent of one core; none is no bound, and no group for it.
    cpu: Option<u64>,
    /// Whether it is behind from the start.
    behind: bool,
}

impl Bounds {
    /// Of a hub's workers.
    pub fn of_worker(limits: &Limits) -> Self {
        Self {
            memory: (limits.worker_memory as u64).saturating_add(BESIDE),
            cpu: limits.worker_cpu.map(|percent| percent as u64),
            behind: false,
        }
    }

    /// Of a process that compiles; it has a limit of its own for its processor time.
    pub fn of_compiler(limits: &Limits) -> Self {
        Self {
            memory: (limits.compile_memory as u64).saturating_add(BESIDE),
            cpu: None,
            behind: true,
        }
    }
}

/// The groups of one process; they are removed with this, when the process has been reaped.
#[derive(Debug, Default)]
pub struct Held {
    groups: Vec<(Version, What, PathBuf)>,
    folders: Vec<PathBuf>,
    behind: Option<Behind>,
}

/// How a process gets behind the hub and all others where there is not enough processor time for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    file: PathBuf,
    text: String,
}

impl Behind {
    /// Puts it there, for as long as it lives.
    pub(super) fn put(&self) -> io::Result<()> {
        fs::write(&self.file, &self.text)
    }
}

impl Cgroups {
    /// Those of the hub of this state directory, on this machine.
    pub fn of(state: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::among(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), state)
    }

    /// The same, with what the kernel says of mounts and of the own groups.
    fn among(mounts: &str, own: &str, state: &Path) -> Self {
        Self {
            trees: trees(mounts, own),
            prefix: format!("waypost-{}-", whose(state)),
            made: AtomicU64::new(0),
        }
    }

    /// Removes what a hub of the same state directory has left. The caller holds its lock; a group with a process in it
    /// stays.
    pub fn sweep(&self) {
        for tree in &self.trees {
            let entries = fs::read_dir(tree.base()).into_iter().flatten().flatten();
            let left = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&self.prefix));
            left.for_each(|entry| drop(fs::remove_dir(entry.path())));
        }
    }

    /// Puts a process into groups of its own, as far as that can be done.
    pub fn hold(&self, process: u32, bounds: &Bounds) -> Held {
        let name = format!("{}{}-{process}", self.prefix, self.made.fetch_add(1, Ordering::Relaxed));
        let mut held = Held::default();
        for tree in &self.trees {
            // A machine without the right to it is no error: the worker says what it is without.
            if let Err(error) = tree.hold(&name, process, bounds, &mut held) {
                tracing::debug!(folder = %tree.folder.display(), %error, "no control group");
            }
        }
        if let Some(Err(error)) = held.behind.as_ref().filter(|_| bounds.behind).map(Behind::put) {
            tracing::debug!(%error, "not behind the others");
        }
        held
    }
}

impl Held {
    /// What they bound.
    pub(super) fn groups(&self) -> Groups {
        let by = |what| self.groups.iter().find(|group| group.1 == what).map(|group| group.0);
        Groups {
            memory: by(What::Memory),
            cpu: by(What::Cpu),
        }
    }

    /// How it gets behind the others, where there is a group for that.
    pub(super) fn behind(&self) -> Option<Behind> {
        self.behind.clone()
    }

    /// Whether the kernel has killed it for its memory.
    pub(in crate::plugin) fn out_of_memory(&self) -> bool {
        self.groups.iter().any(|(version, what, folder)| {
            let file = match (version, what) {
                (Version::One, What::Memory) => "memory.oom_control",
                (Version::Two, What::Memory) => "memory.events",
                _ => return false,
            };
            let said = fs::read_to_string(folder.join(file)).unwrap_or_default();
            let mut killed = said.lines().filter_map(|line| line.strip_prefix("oom_kill "));
            killed.any(|times| times.trim() != "0")
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for folder in &self.folders {
            // One that is not empty yet goes at the hub's next start.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Tree {
    /// Makes a group in this tree and puts the process into it.
    fn hold(&self, name: &str, process: u32, bounds: &Bounds, held: &mut Held) -> io::Result<()> {
        let asked = |what: &What| *what != What::Cpu || bounds.cpu.is_some();
        let asked: Vec<What> = self.bounds.iter().copied().filter(asked).collect();
        if asked.is_empty() {
            return self.spare(name, process, held);
        }
        let base = match self.version {
            Version::One => self.base(),
            Version::Two => self.delegated(&asked)?,
        };
        let folder = base.join(name);
        fs::create_dir(&folder)?;
        let bounded: Vec<What> = asked
            .into_iter()
            .filter(|what| {
                let done = self.version.bound(*what, &folder, bounds);
                done.inspect_err(|error| tracing::debug!(folder = %folder.display(), ?what, %error, "no bound"))
                    .is_ok()
            })
            .collect();
        let entered = fs::write(folder.join("cgroup.procs"), process.to_string());
        if bounded.is_empty() || entered.is_err() {
            let _ = fs::remove_dir(&folder);
            return entered;
        }
        let [one, two] = BEHIND;
        let behind = match self.version {
            Version::One => self.bounds.contains(&What::Cpu).then_some(one),
            Version::Two => bounded.contains(&What::Cpu).then_some(two),
        };
        held.behind = held.behind.take().or(behind.map(|(file, text)| Behind {
            file: folder.join(file),
            text: text.to_owned(),
        }));
        held.groups
            .extend(bounded.into_iter().map(|what| (self.version, what, folder.clone())));
        held.folders.push(folder);
        Ok(())
    }

    /// Makes a group for a process that is not in it yet, in a tree for processor time alone.
    fn spare(&self, name: &str, process: u32, held: &mut Held) -> io::Result<()> {
        let ([(file, text), _], Version::One) = (BEHIND, self.version) else {
            return Ok(());
        };
        let folder = self.base().join(name);
        fs::create_dir(&folder)?;
        held.folders.push(folder.clone());
        fs::write(folder.join(file), text)?;
        held.behind = Some(Behind {
            file: folder.join("cgroup.procs"),
            text: process.to_string(),
        });
        Ok(())
    }

    /// The group under which all of them are made.
    fn base(&self) -> PathBuf {
        match self.folder.parent() {
            Some(parent) if self.folder.ends_with(OWN) => parent.to_owned(),
            _ => self.folder.clone(),
        }
    }

    /// The same, when its groups have what is bounded. A group of version 2 that holds processes cannot share out: a hub that
    /// is alone in its own goes into one below it.
    fn delegated(&self, asked: &[What]) -> io::Result<PathBuf> {
        let base = self.base();
        let shared = fs::read_to_string(base.join("cgroup.subtree_control"))?;
        let has = |what: &&What| shared.split_whitespace().any(|one| one == what.controller());
        let missing: Vec<&What> = asked.iter().filter(|what| !has(what)).collect();
        if missing.is_empty() {
            return Ok(base);
        }
        let me = std::process::id().to_string();
        if fs::read_to_string(base.join("cgroup.procs"))?.trim() == me {
            let own = base.join(OWN);
            fs::create_dir_all(&own)?;
            fs::write(own.join("cgroup.procs"), &me)?;
        }
        for what in missing {
            fs::write(base.join("cgroup.subtree_control"), format!("+{}", what.controller()))?;
        }
        Ok(base)
    }
}

impl Version {
    fn bound(self, what: What, folder: &Path, bounds: &Bounds) -> io::Result<()> {
        let set = |file: &str, value: &str| fs::write(folder.join(file), value);
        // Where there is no swap there is no such file.
        let also = |file: &str, value: &str| match set(file, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A limit that cannot be opened for writing is one that the kernel does not keep.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        };
        let memory = bounds.memory.to_string();
        let quota = bounds.cpu.unwrap_or(100).saturating_mul(PERIOD / 100);
        match (self, what) {
            (Self::One, What::Memory) => {
                set("memory.limit_in_bytes", &memory)?;
                also("memory.memsw.limit_in_bytes", &memory)
            }
            (Self::Two, What::Memory) => {
                set("memory.max", &memory)?;
                also("memory.swap.max", "0")?;
                also("memory.oom.group", "1")
            }
            (Self::One, What::Cpu) => {
                set("cpu.cfs_period_us", &PERIOD.to_string())?;
                set("cpu.cfs_quota_us", &quota.to_string())
            }
            (Self::Two, What::Cpu) => set("cpu.max", &format!("{quota} {PERIOD}")),
            (Self::One | Self::Two, What::Threads) => set("pids.max", &THREADS.to_string()),
        }
    }
}

/// A name for a state directory that says nothing of it.
fn whose(state: &Path) -> String {
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The own groups by these two files of `/proc/self`, each with what it can bound; the newer version before the older one,
/// and nothing twice.
fn trees(mounts: &str, own: &str) -> Vec<Tree> {
    let mut found: Vec<Tree> = mounts.lines().filter_map(|line| tree(line, own)).collect();
    found.sort_by_key(|tree| tree.version == Version::One);
    let mut taken = Vec::new();
    for tree in &mut found {
        tree.bounds.retain(|what| !taken.contains(what));
        taken.extend(tree.bounds.iter().copied());
    }
    found.retain(|tree| !tree.bounds.is_empty());
    found
}

/// A line of `mountinfo`, such as `35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`.
fn tree(line: &str, own: &str) -> Option<Tree> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let version = match kind {
        "cgroup" => Version::One,
        "cgroup2" => Version::Two,
        _ => return None,
    };
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mine = match version {
            Version::One => controllers
                .split(',')
                .all(|one| options.split(',').any(|other| one == other)),
            Version::Two => controllers.is_empty(),
        };
        (mine && (version == Version::Two) == controllers.is_empty()).then_some(path)
    })?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    let folder = Path::new(mount).join(below);
    // What an ancestor does not share out is not there.
    let there = match version {
        Version::One => options.replace(',', " "),
        Version::Two => fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default(),
    };
    let bounds = [What::Memory, What::Cpu, What::Threads]
        .into_iter()
        .filter(|what| there.split_whitespace().any(|one| one == what.controller()))
        .collect();
    Some(Tree {
        version,
        folder,
        bounds,
    })
}

#[cfg(test)]
mod tests;
