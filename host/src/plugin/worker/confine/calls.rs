//! The system calls that a worker may make, and what becomes of others.
//!
//! What it needs is memory, threads, its socket, clocks and random numbers. What looks for files is refused, since libraries
//! do that on their own and go on without; any other system call kills the process. Three filters: the strictest counts.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// A thread, and not a process: what `clone` must be asked for.
const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;

/// `PR_SET_VMA`, by which allocators name their memory.
const NAME_MEMORY: u64 = 0x5356_4d41;

/// The scan of the own page map, by which used pages of a sandbox are found.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Allowed with any arguments.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Refused, and no reason to end.
const REFUSED: &[i64] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_prlimit64,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getrlimit,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// This process, as `process_madvise` knows it without a file: `PIDFD_SELF`.
const SELF: u64 = (-10_000_i32).cast_unsigned() as u64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Leaves this thread, and those that it makes, what is above.
pub(super) fn forbid() -> Result<(), String> {
    let cannot = |error: seccompiler::Error| format!("its system calls cannot be filtered: {error}");
    for program in programs().map_err(cannot)? {
        apply_filter(&program).map_err(cannot)?;
    }
    Ok(())
}

fn programs() -> Result<Vec<BpfProgram>, seccompiler::Error> {
    let always = |calls: &[i64]| -> Rules { calls.iter().map(|call| (*call, Vec::new())).collect() };
    // What the C library asks first to make a thread has its flags in memory, where no filter sees them; it asks again with
    // `clone`.
    let newer = always(&[libc::SYS_clone3]);
    let mut needed = always(ALLOWED);
    needed.extend(always(REFUSED));
    needed.extend(always(&[libc::SYS_clone3]));
    needed.extend(narrow()?);
    [
        (newer, SeccompAction::Allow, errno(libc::ENOSYS)),
        (always(REFUSED), SeccompAction::Allow, errno(libc::EACCES)),
        (needed, SeccompAction::KillProcess, SeccompAction::Allow),
    ]
    .into_iter()
    .map(|(rules, other, listed)| {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let program = SeccompFilter::new(rules, other, listed, arch)?.try_into()?;
        Ok(program)
    })
    .collect()
}

fn errno(error: i32) -> SeccompAction {
    SeccompAction::Errno(error.unsigned_abs())
}

/// Allowed with these arguments alone.
fn narrow() -> Result<Rules, seccompiler::Error> {
    let rule = |argument: u8, length, how, value| -> Result<SeccompRule, seccompiler::Error> {
        let condition = SeccompCondition::new(argument, length, how, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    let is = |argument, value| rule(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    Ok(BTreeMap::from([
        (
            libc::SYS_clone,
            vec![rule(
                0,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::MaskedEq(THREAD),
                THREAD,
            )?],
        ),
        (
            libc::SYS_prctl,
            vec![is(0, libc::PR_SET_NAME.unsigned_abs().into())?, is(0, NAME_MEMORY)?],
        ),
        // The engine gives the memory of several sandboxes back at once; of no process but this.
        (libc::SYS_process_madvise, vec![is(0, SELF)?]),
        (libc::SYS_ioctl, vec![is(1, libc::FIONBIO)?, is(1, PAGEMAP_SCAN)?]),
        // A process that gives up says so by its end.
        (libc::SYS_tgkill, vec![is(0, std::process::id().into())?]),
        // Two ends inside this process: how a runtime hears of signals.
        (libc::SYS_socketpair, vec![is(0, libc::AF_UNIX.unsigned_abs().into())?]),
    ]))
}
