//! The first process of a sandbox: process 1 where there is a pid namespace.
//!
//! It is a clone of the helper, not a program of its own, and makes only
//! system calls with what [`crate::launch`] prepared. It finishes the sandbox,
//! starts the task, passes signals on to the task's process group, reaps, and
//! ends with the task's code. Its end is the end of everything in its pid
//! namespace. Two things end it besides the task: the end of the helper (its
//! socket closes) and its own lease, which only the helper prolongs.
//!
//! ```text
//! wait for Go -> mounts, host name -> clone the task -> wait: task ended -> report, exit
//!                                                         |-- helper gone, lease over -> kill, exit
//! ```

use crate::{
    inner::{INNER_BYTES, Inner, Part, Step},
    launch::{Plan, clone_process},
    sweep,
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc::{self, c_int},
    mount::{MsFlags, mount},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        socket::MsgFlags,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid},
};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Exit codes of init itself, for people who look at it from outside.
const CODE_HELPER_GONE: c_int = 70;
const CODE_LEASE_OVER: c_int = 71;
const CODE_NOT_STARTED: c_int = 72;
const CODE_BROKEN: c_int = 73;

/// A shell's way to say that a signal ended a process.
const CODE_SIGNAL_BASE: c_int = 128;

/// Attempts to run a program that is still open for writing somewhere: the
/// agent has just unpacked it, and another of its children may hold the
/// descriptor for a moment. 50 times 4 ms.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE_NS: i64 = 4_000_000;

/// Runs in the cloned process and never returns.
pub(crate) fn run(plan: &Plan) -> ! {
    // Unwinding would carry on as a second helper.
    let _ = catch_unwind(AssertUnwindSafe(|| Init::begin(plan)));
    exit(CODE_BROKEN)
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends the process without running what the helper registered.
    unsafe { libc::_exit(code) }
}

struct Init<'a> {
    plan: &'a Plan,
    control: RawFd,
    lease: TimerFd,
    signals: SignalFd,
    task: Pid,
    /// Carries the task's failure to become the program; closed by the kernel
    /// when it has become it. `None` once either is known.
    starting: Option<OwnedFd>,
}

impl Init<'_> {
    fn begin(plan: &Plan) {
        let control = plan.control.as_raw_fd();
        for helpers in [&plan.helper_control, &plan.helper_out, &plan.helper_err] {
            close(helpers.as_raw_fd());
        }
        let _ = nix::sys::prctl::set_name(c"potluck-init");
        if Inner::receive(control, MsgFlags::empty()) != Ok(Some(Inner::Go)) {
            exit(CODE_HELPER_GONE);
        }
        finish_sandbox(plan);
        match Init::start(plan) {
            Ok(mut init) => init.watch(),
            Err((step, errno)) => fail(control, step, errno),
        }
    }

    fn start(plan: &Plan) -> Result<Init<'_>, (Step, Errno)> {
        let clone = |errno| (Step::Clone, errno);
        let lease = lease_timer(plan.lease_until.0).map_err(clone)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&SigSet::all(), flags).map_err(clone)?;
        let (starting, report) = pipe2(OFlag::O_CLOEXEC).map_err(clone)?;
        // SAFETY: one thread, and `become_task` does not return.
        let task = match unsafe { clone_process(0) }.map_err(clone)? {
            None => become_task(plan, report.as_raw_fd()),
            Some((task, _)) => task,
        };
        drop(report);
        close(plan.out.as_raw_fd());
        close(plan.err.as_raw_fd());
        Ok(Init {
            plan,
            control: plan.control.as_raw_fd(),
            lease,
            signals,
            task,
            starting: Some(starting),
        })
    }

    fn watch(&mut self) {
        loop {
            let starting = self.starting.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let lease = self.lease.as_fd().as_raw_fd();
            let fds = [self.control, lease, self.signals.as_raw_fd(), starting];
            let [control, lease, signals, starting] = poll(fds);
            if lease {
                Inner::Starved.send(self.control);
                self.end_everything(CODE_LEASE_OVER);
            }
            if control {
                self.hear();
            }
            if starting {
                self.learn_start();
            }
            if signals {
                self.take_signals();
            }
        }
    }

    fn hear(&mut self) {
        loop {
            match Inner::receive(self.control, MsgFlags::MSG_DONTWAIT) {
                Ok(Some(Inner::LeaseUntil(until))) => {
                    let _ = set_lease(&self.lease, until);
                }
                Ok(Some(Inner::Signal(signal))) => self.pass_on(signal),
                Ok(Some(_)) => {}
                Err(Errno::EAGAIN) => return,
                Ok(None) | Err(_) => self.end_everything(CODE_HELPER_GONE),
            }
        }
    }

    /// The pipe is at its end when the program runs, or holds what failed.
    fn learn_start(&mut self) {
        let Some(starting) = self.starting.take() else {
            return;
        };
        let mut bytes = [0; INNER_BYTES];
        match nix::unistd::read(&starting, &mut bytes) {
            Ok(0) => Inner::Started.send(self.control),
            Ok(length) => match Inner::decode(&bytes[..length]) {
                Some(Inner::Failed(step, errno)) => {
                    fail(self.control, step, Errno::from_raw(errno))
                }
                _ => fail(self.control, Step::Exec, Errno::EIO),
            },
            Err(errno) => fail(self.control, Step::Exec, errno),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo as c_int;
            if signal == libc::SIGCHLD {
                self.reap();
            } else {
                self.pass_on(signal);
            }
        }
    }

    fn pass_on(&self, signal: c_int) {
        let Ok(signal) = Signal::try_from(signal) else {
            return;
        };
        // Until it has its session, the task's process has no group.
        if killpg(self.task, signal).is_err() {
            let _ = kill(self.task, signal);
        }
    }

    fn reap(&mut self) {
        loop {
            let (end, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.task => {
                    (Inner::Exited(code), code)
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.task => {
                    let signal = signal as c_int;
                    (Inner::Signalled(signal), CODE_SIGNAL_BASE + signal)
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) | Ok(_) => continue,
                Err(_) => return,
            };
            // It may have ended before its start was looked at.
            self.learn_start();
            end.send(self.control);
            exit(code);
        }
    }

    /// The kernel ends a pid namespace with its process 1. Without one, the
    /// task's control group, its process group and what we adopted from it
    /// are ended here.
    fn end_everything(&mut self, code: c_int) -> ! {
        if self.plan.flags & libc::CLONE_NEWPID == 0 {
            if let Some(group) = &self.plan.kill_group {
                let _ = nix::unistd::write(group, b"1");
            }
            let _ = killpg(self.task, Signal::SIGKILL);
            // This allocates, after a clone: the helper had one thread, so the
            // allocator was in order.
            sweep::sweep_until_none();
        }
        exit(code)
    }
}

fn fail(control: RawFd, step: Step, errno: Errno) -> ! {
    Inner::Failed(step, errno as i32).send(control);
    exit(CODE_NOT_STARTED)
}

/// What the task can do without is reported and left out.
fn finish_sandbox(plan: &Plan) {
    let control = plan.control.as_raw_fd();
    let miss = |part: Part, errno: Errno| Inner::Missing(part, errno as i32).send(control);
    let has = |flag| plan.flags & flag != 0;
    let none = None::<&str>;
    if has(libc::CLONE_NEWNS) {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        match mount(none, "/", none, flags, none) {
            Err(errno) => miss(Part::Mount, errno),
            // Not over mounts that might still reach the host's.
            Ok(()) if has(libc::CLONE_NEWPID) => {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                if let Err(errno) = mount(Some("proc"), "/proc", Some("proc"), flags, none) {
                    miss(Part::Proc, errno);
                }
            }
            Ok(()) => {}
        }
    } else if has(libc::CLONE_NEWPID) {
        miss(Part::Proc, Errno::EPERM);
    }
    if has(libc::CLONE_NEWUTS) {
        let name = plan.host_name.as_bytes();
        // SAFETY: pointer and length are those of one live string.
        let result = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
        if let Err(errno) = Errno::result(result) {
            miss(Part::HostName, errno);
        }
    }
    if !has(libc::CLONE_NEWPID) {
        // So that what leaves the task's session stays within reach.
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }
}

/// Becomes the task's program, or says why not and ends.
fn become_task(plan: &Plan, report: RawFd) -> ! {
    let Err((step, errno)) = try_become_task(plan);
    let message = Inner::Failed(step, errno as i32).encode();
    // SAFETY: the descriptor is ours and open.
    let report = unsafe { BorrowedFd::borrow_raw(report) };
    let _ = nix::unistd::write(report, &message);
    exit(CODE_NOT_STARTED)
}

fn try_become_task(plan: &Plan) -> Result<std::convert::Infallible, (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    reset_signals();
    setsid().map_err(at(Step::Clone))?;
    dup2_stdin(&plan.null).map_err(at(Step::Streams))?;
    dup2_stdout(&plan.out).map_err(at(Step::Streams))?;
    dup2_stderr(&plan.err).map_err(at(Step::Streams))?;
    for group in &plan.cgroups {
        nix::unistd::write(group, b"0").map_err(at(Step::ControlGroup))?;
    }
    chdir(plan.task_folder.as_c_str()).map_err(at(Step::WorkingDirectory))?;
    if let Some(user) = plan.user {
        become_user(Uid::from_raw(user.uid), Gid::from_raw(user.gid)).map_err(at(Step::User))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(at(Step::Privileges))?;
    Inner::Task.send(plan.control.as_raw_fd());
    // SAFETY: changes flags of descriptors only; all are closed by the
    // program's start, the report's pipe being the sign of it.
    let result = unsafe {
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags)
    };
    Errno::result(result).map_err(at(Step::Privileges))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(at(Step::Exec))?;
    Err((Step::Exec, exec(plan)))
}

fn exec(plan: &Plan) -> Errno {
    for _ in 0..BUSY_ATTEMPTS {
        // SAFETY: the strings and arrays were made before the clone and end
        // with zero.
        unsafe { libc::execve(plan.command.as_ptr(), plan.args.as_ptr(), plan.env.as_ptr()) };
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
/// to change the others.
fn become_user(uid: Uid, gid: Gid) -> Result<(), Errno> {
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// A helper blocks signals, Rust ignores SIGPIPE and whoever started the agent
/// may ignore more; a task gets none of it. The plain system call, since the C
/// library refuses its own two signals (32 and 33), and those were seen
/// ignored.
fn reset_signals() {
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

fn lease_timer(until_ms: u64) -> Result<TimerFd, Errno> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
    set_lease(&timer, until_ms)?;
    Ok(timer)
}

fn set_lease(timer: &TimerFd, until_ms: u64) -> Result<(), Errno> {
    let at = timer_time(until_ms);
    timer.set(
        Expiration::OneShot(at),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME,
    )
}

/// A time for a timer; a lease without end is one of 300 years.
pub(crate) fn timer_time(ms: u64) -> TimeSpec {
    const FAR_SECONDS: u64 = 300 * 366 * 86_400;
    // Zero would switch the timer off.
    let ms = ms.max(1);
    let seconds = (ms / 1_000).min(FAR_SECONDS);
    TimeSpec::new(seconds as i64, (ms % 1_000) as i64 * 1_000_000)
}

fn close(fd: RawFd) {
    // SAFETY: the descriptor belongs to the plan, which this process leaves
    // as it is and never drops.
    unsafe { libc::close(fd) };
}

/// Waits until one can be read; which.
fn poll<const N: usize>(fds: [RawFd; N]) -> [bool; N] {
    let mut fds = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: pointer and length are those of one live array.
    while unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, -1) } < 0 {}
    fds.map(|fd| fd.revents != 0)
}
