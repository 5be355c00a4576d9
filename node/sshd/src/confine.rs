//! What this process gives up before it reads a byte of the client's: root,
//! room, the eyes of others, and all system calls but those for bytes on descriptors
//! that it has.
//!
//! Two of these calls are let through by their arguments: `tgkill`, since
//! other servers have the same user, and `fcntl`, which can have the kernel
//! send signals to others when a descriptor becomes ready.

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};
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
    libc::SYS_write,
    libc::SYS_writev,
];

/// What may be asked of a descriptor.
const FCNTL_ALLOWED: &[libc::c_int] = &[
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
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
    let program = program(std::process::id())?;
    seccompiler::apply_filter(&program).map_err(|error| io::Error::other(error.to_string()))
}

/// The filter of the process with this id.
fn program(pid: u32) -> io::Result<BpfProgram> {
    let other = |error: seccompiler::BackendError| io::Error::other(error.to_string());
    let listed = [ALLOWED, ALLOWED_HERE].into_iter().flatten();
    let mut rules: BTreeMap<i64, Vec<_>> = listed.map(|number| (*number, Vec::new())).collect();
    let only = |argument, value: u64| {
        let is = SeccompCondition::new(argument, Length::Dword, Op::Eq, value);
        is.and_then(|is| SeccompRule::new(vec![is]))
    };
    let commands = FCNTL_ALLOWED.iter().map(|what| only(1, *what as u64));
    let commands: Result<Vec<_>, _> = commands.collect();
    rules.insert(libc::SYS_fcntl, commands.map_err(other)?);
    // A panic ends the process by a signal to itself.
    let itself = only(0, pid.into()).map_err(other)?;
    rules.insert(libc::SYS_tgkill, vec![itself]);
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|error| io::Error::other(format!("no system call filter: {error}")))?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    );
    filter.and_then(TryInto::try_into).map_err(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{
        sys::{
            signal::Signal,
            wait::{WaitStatus, waitpid},
        },
        unistd::{ForkResult, fork, getpid, gettid},
    };

    /// What becomes of a process with this filter that makes this call.
    fn fate(program: &BpfProgram, call: impl Fn()) -> WaitStatus {
        // SAFETY: the child makes system calls only, and ends by one.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
            ForkResult::Child => {
                let is_filtered =
                    prctl::set_no_new_privs().is_ok() && seccompiler::apply_filter(program).is_ok();
                if is_filtered {
                    call();
                }
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(if is_filtered { 0 } else { 9 }) }
            }
        }
    }

    /// Each call is made in a process that may and in one that may not.
    #[test]
    fn signals_reach_the_process_itself_alone() {
        let (pid, thread) = (getpid().as_raw(), gettid().as_raw());
        let probe = || {
            // SAFETY: plain numbers; no signal is sent.
            unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, 0) };
        };
        let own = program(pid as u32).unwrap();
        let other = program(pid as u32 + 1).unwrap();
        assert!(matches!(fate(&own, probe), WaitStatus::Exited(_, 0)));
        let killed = fate(&other, probe);
        assert!(matches!(killed, WaitStatus::Signaled(_, Signal::SIGSYS, _)));
    }

    #[test]
    fn a_descriptor_can_have_no_signals_sent() {
        let own = program(std::process::id()).unwrap();
        let ask = |what: libc::c_int| {
            // SAFETY: standard input, and plain numbers.
            move || unsafe {
                libc::fcntl(0, what, 0);
            }
        };
        let fine = fate(&own, ask(libc::F_GETFL));
        assert!(matches!(fine, WaitStatus::Exited(_, 0)), "{fine:?}");
        for what in [libc::F_SETOWN, libc::F_SETLEASE, libc::F_NOTIFY] {
            let killed = fate(&own, ask(what));
            assert!(
                matches!(killed, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
                "{what}: {killed:?}"
            );
        }
    }
}
