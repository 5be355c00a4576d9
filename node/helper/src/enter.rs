//! From a clone of init to a program of the task: the last steps before
//! `execve`, system calls only. Each needs a right that a later one takes.

use crate::{
    inner::{Inner, Part, Step},
    launch::{Plan, Program, View},
    sandbox::{Confinement, landlock::Unheld},
};
use nix::{
    errno::Errno,
    libc::{self, c_int},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, SigmaskHow, sigprocmask},
    },
    unistd::{Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Exit code of a process that did not become the program.
pub(crate) const CODE_NOT_STARTED: c_int = 72;

/// Attempts to run a program that is still open for writing somewhere: the
/// agent has just unpacked it, and another of its children may hold the
/// descriptor for a moment. 50 times 4 ms.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE_NS: i64 = 4_000_000;

/// What could not be done, and at what.
#[derive(Clone, Copy)]
pub(crate) struct Trouble {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    pub(crate) at: u32,
}

impl Trouble {
    pub(crate) fn at(step: Step) -> impl Fn(Errno) -> Trouble {
        move |errno| Trouble { step, errno, at: 0 }
    }
}

/// A part that can't be had: told, or the end of the start.
pub(crate) fn miss(plan: &Plan, part: Part, errno: Errno) -> Result<(), Trouble> {
    if plan.refuse_missing && part.is_indispensable() {
        return Err(Trouble {
            step: Step::Isolation,
            errno,
            at: part as u32,
        });
    }
    Inner::Missing(part, errno as i32).send(plan.control.as_raw_fd());
    Ok(())
}

/// Becomes a program of the task, or says why not and ends.
pub(crate) fn become_task(
    plan: &Plan,
    view: &View,
    program: &Program,
    is_task: bool,
    report: RawFd,
) -> ! {
    let Err(trouble) = try_become_task(plan, view, program, is_task);
    let message = Inner::Failed(trouble.step, trouble.errno as i32, trouble.at).encode();
    // SAFETY: the descriptor is ours and open.
    let report = unsafe { BorrowedFd::borrow_raw(report) };
    let _ = nix::unistd::write(report, &message);
    exit(CODE_NOT_STARTED)
}

fn try_become_task(
    plan: &Plan,
    view: &View,
    program: &Program,
    is_task: bool,
) -> Result<std::convert::Infallible, Trouble> {
    let at = Trouble::at;
    reset_signals();
    setsid().map_err(at(Step::Clone))?;
    dup2_stdin(&plan.null).map_err(at(Step::Streams))?;
    dup2_stdout(&plan.out).map_err(at(Step::Streams))?;
    dup2_stderr(&plan.err).map_err(at(Step::Streams))?;
    for group in &plan.cgroups {
        nix::unistd::write(group, b"0").map_err(at(Step::ControlGroup))?;
    }
    if plan.own_cgroups
        && let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
    {
        miss(plan, Part::ControlGroups, errno)?;
    }
    chdir(view.folder.as_c_str()).map_err(at(Step::WorkingDirectory))?;
    if let Some(confinement) = &plan.confinement {
        limit_resources().map_err(at(Step::Privileges))?;
        // EPERM: not root and no user namespace, so there is nothing to lose.
        match confinement.capabilities.bound() {
            Ok(()) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(at(Step::Privileges)(errno)),
        }
    }
    if let Some(user) = plan.user {
        become_user(Uid::from_raw(user.uid), Gid::from_raw(user.gid)).map_err(at(Step::User))?;
    }
    if is_task {
        Inner::Task.send(plan.control.as_raw_fd());
    }
    if !plan.unconfined {
        confine(plan.confinement.as_ref(), |part, errno| {
            miss(plan, part, errno)
        })?;
    }
    // SAFETY: changes flags of descriptors only; all are closed by the
    // program's start, the report's pipe being the sign of it.
    let result = unsafe {
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags)
    };
    Errno::result(result).map_err(at(Step::Privileges))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(at(Step::Exec))?;
    Err(at(Step::Exec)(exec(view, program)))
}

/// From here on the process can do no more than the task may. Landlock before
/// the filter, which may not know its calls.
pub(crate) fn confine(
    confinement: Option<&Confinement>,
    mut miss: impl FnMut(Part, Errno) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let privileges = Trouble::at(Step::Privileges);
    let Some(confinement) = confinement else {
        return nix::sys::prctl::set_no_new_privs().map_err(privileges);
    };
    confinement.capabilities.keep().map_err(&privileges)?;
    nix::sys::prctl::set_no_new_privs().map_err(&privileges)?;
    if let Some(landlock) = &confinement.landlock {
        match landlock.apply() {
            Ok(Unheld::Nothing) => {}
            Ok(Unheld::AbstractSockets) => miss(Part::AbstractSockets, Errno::ENOSYS)?,
            // Only `strict` promises that files are restricted.
            Err(errno @ (Errno::ENOSYS | Errno::EOPNOTSUPP)) if landlock.writable.is_none() => {
                if landlock.hosts_network {
                    miss(Part::AbstractSockets, errno)?;
                }
            }
            Err(errno @ (Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM)) => {
                miss(Part::Landlock, errno)?;
            }
            Err(errno) => return Err(privileges(errno)),
        }
    }
    if let Err(errno) = confinement.filter.apply() {
        match errno {
            Errno::ENOSYS | Errno::EINVAL | Errno::EPERM => miss(Part::Seccomp, errno)?,
            errno => return Err(privileges(errno)),
        }
    }
    Ok(())
}

/// What a process may hold, whatever the agent was started with: the soft and
/// hard limits of getrlimit(2), never above the agent's hard ones. Memory,
/// processes and time are the control group's, for all processes together.
pub(crate) fn limit_resources() -> Result<(), Errno> {
    /// Open files: enough for servers, which seldom raise it themselves.
    const FILES: u64 = 65_536;
    const FILES_MOST: u64 = 1 << 20;
    /// Locked memory: the kernel's own default since 5.16.
    const LOCKED_BYTES: u64 = 8 << 20;

    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = most.min(FILES_MOST);
    setrlimit(Resource::RLIMIT_NOFILE, FILES.min(most), most)?;
    let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let most = most.min(LOCKED_BYTES);
    setrlimit(Resource::RLIMIT_MEMLOCK, most, most)?;
    // A dump of its memory only for a task that asks for one.
    let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, most)
}

fn exec(view: &View, program: &Program) -> Errno {
    for _ in 0..BUSY_ATTEMPTS {
        // SAFETY: the strings and arrays were made before the clone and end
        // with zero.
        unsafe {
            libc::execve(
                program.command.as_ptr(),
                program.args.as_ptr(),
                view.env.as_ptr(),
            )
        };
        if Errno::last() != Errno::ETXTBSY {
            break;
        }
        let pause = libc::timespec {
            tv_sec: 0,
            tv_nsec: BUSY_PAUSE_NS,
        };
        // SAFETY: the one pointer is to a live value.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
    Errno::last()
}

/// Supplementary groups go first, the user id last: it takes away the right
/// to change the others. The plain system calls: those of the C library have
/// all threads of the process take the step, by a signal to each that it knows
/// of; in a clone of a helper that is its log's thread, which is not there, and
/// whose id may be another's by now.
pub(crate) fn become_user(uid: Uid, gid: Gid) -> Result<(), Errno> {
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    let none = std::ptr::null::<libc::gid_t>();
    // SAFETY: integers, and a list of no groups.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, none) };
    Errno::result(done)?;
    // SAFETY: integers only.
    let done = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    Errno::result(done)?;
    // SAFETY: integers only.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    Errno::result(done).map(drop)
}

/// A helper blocks signals, Rust ignores SIGPIPE and whoever started the agent
/// may ignore more; a task gets none of it. The plain system call, since the C
/// library refuses its own two signals (32 and 33), and those were seen
/// ignored.
pub(crate) fn reset_signals() {
    /// Bytes of the kernel's mask of signals.
    const MASK_BYTES: usize = 8;
    // All zero is the default action; longer than the kernel's structure is
    // on any architecture.
    let default_action = [0_u64; 8];
    let none = std::ptr::null_mut::<u64>();
    for signal in 1..=64 {
        let action = default_action.as_ptr();
        // SAFETY: the kernel reads one live structure. Two signals can't have
        // another action, and refusing that is harmless.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, none, MASK_BYTES) };
    }
}

pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: ends the process without running what the helper registered.
    unsafe { libc::_exit(code) }
}
