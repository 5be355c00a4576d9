//! What this process gives up before it reads a byte of the client's: root,
//! room, the eyes of others, and all system calls but those for bytes on descriptors
//! that it has.

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::{collections::BTreeMap, io};

/// Descriptors: three streams, the runtime's few, and two for each channel.
const FILES_MAX: u64 = 64;

/// Address space: a hundred times what a busy connection was seen to use, and
/// nothing that a host would miss.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// What a runtime of one thread, an allocator and sockets that are open need.
/// No file can be opened, no socket but a pair made, no program run, no other
/// process touched.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_madvise,
    // Keys are kept out of swap.
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_socketpair,
    // A panic ends the process by a signal to itself.
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The same under the numbers that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// User and group of root's servers: nobody, who owns nothing.
const NOBODY: u32 = 65_534;

/// Limits, another user than root, and no way to more rights.
pub(crate) fn limit() -> io::Result<()> {
    if geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
    }
    for (what, most) in [
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_AS, MEMORY_BYTES_MAX),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
    ] {
        setrlimit(what, most, most)?;
    }
    prctl::set_no_new_privs()?;
    // Others of the same user can't look into its memory, with its keys.
    prctl::set_dumpable(false)?;
    Ok(())
}

/// From here on any other system call ends the process.
pub(crate) fn filter() -> io::Result<()> {
    let listed = [ALLOWED, ALLOWED_HERE].into_iter().flatten();
    let rules: BTreeMap<i64, Vec<_>> = listed.map(|number| (*number, Vec::new())).collect();
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|error| io::Error::other(format!("no system call filter: {error}")))?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    );
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    let program = program.map_err(|error| io::Error::other(error.to_string()))?;
    seccompiler::apply_filter(&program).map_err(|error| io::Error::other(error.to_string()))
}
