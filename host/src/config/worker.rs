//! `[worker]`, and what a worker process can be confined by. How that is done is in `plugin/worker/confine.rs`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Limits;

/// `[worker]`: the processes that plugins with `wall = "worker"` run in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Worker {
    /// The program. Default this binary.
    pub program: Option<PathBuf>,
    /// What a worker process must be confined by, beside `no-new-privs` and `seccomp`, which it always must: `waypost doctor`
    /// lists what there is and what this machine has. A call that would need a worker without it is refused. Default nothing
    /// more: it is confined by all that the machine has.
    pub require: Vec<Part>,
}

impl Worker {
    /// What does not fit together with the limits.
    pub(super) fn problem(&self, limits: &Limits) -> Option<String> {
        let asked = self.require.contains(&Part::CpuGroup) && limits.worker_cpu.is_none();
        asked.then(|| {
            "`worker.require`: there is a `cpu-group` only with `worker-cpu` in [limits]; write it there".to_owned()
        })
    }
}

/// One thing that confines a worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It can never gain rights.
    NoNewPrivs,
    /// The kernel kills it when it asks for what it does not need: sockets, programs, processes, other processes' memory.
    Seccomp,
    /// It has a user of its own, or is one in a user namespace alone.
    User,
    /// A network namespace without a network.
    Network,
    /// Namespaces of its own for names and shared memory.
    Ipc,
    /// Its file system is an empty folder that cannot be written to.
    Root,
    /// The kernel refuses it every file, whatever it can name.
    Landlock,
    /// Limits of memory, files, threads and core dumps.
    Limits,
    /// A control group that bounds all memory that the kernel has given away for it.
    MemoryGroup,
    /// A control group that bounds its processor time; there is one only with `worker-cpu` of `[limits]`.
    CpuGroup,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoNewPrivs,
        Self::Seccomp,
        Self::User,
        Self::Network,
        Self::Ipc,
        Self::Root,
        Self::Landlock,
        Self::Limits,
        Self::MemoryGroup,
        Self::CpuGroup,
    ];

    /// The word in `require`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoNewPrivs => "no-new-privs",
            Self::Seccomp => "seccomp",
            Self::User => "user",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Root => "root",
            Self::Landlock => "landlock",
            Self::Limits => "limits",
            Self::MemoryGroup => "memory-group",
            Self::CpuGroup => "cpu-group",
        }
    }

    /// What it means that a worker is without it.
    pub fn without(self) -> &'static str {
        match self {
            Self::NoNewPrivs => "a program that it starts could have more rights than it",
            Self::Seccomp => "it could ask the kernel for anything; the kernel lacks seccomp",
            Self::User => "it has the hub's user; the kernel or the container forbids user namespaces",
            Self::Network => {
                "it has the hub's network, and seccomp alone keeps it from it; network namespaces are forbidden"
            }
            Self::Ipc => "it shares names and shared memory with the hub, and seccomp alone keeps it from them",
            Self::Root => {
                "it sees the hub's files, and seccomp and landlock alone keep it from them; mounting is forbidden"
            }
            Self::Landlock => {
                "files are kept from it by the empty root and seccomp alone; the kernel lacks Landlock (Linux 5.13)"
            }
            Self::Limits => "it can use up memory and files of the machine; its limits cannot be set",
            Self::MemoryGroup => {
                "its memory is bounded by its own limit (RLIMIT_DATA) alone, which does not count what the kernel keeps for it; \
                 the hub may make no control group below its own"
            }
            Self::CpuGroup => {
                "its processor time is bounded by the deadline of each call alone: `worker-cpu` of [limits] is not set, or the \
                 hub may make no control group below its own"
            }
        }
    }
}
