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
    enter::{CODE_NOT_STARTED, Trouble, become_task, exit, miss},
    inner::{INNER_BYTES, Inner, Part, Step},
    launch::{Plan, View, clone_process},
    sandbox::{self, root::host_refuses},
    sweep,
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc::{self, c_int},
    mount::{MsFlags, mount},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
        socket::MsgFlags,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, pipe2},
};
use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Exit codes of init itself, for people who look at it from outside.
const CODE_HELPER_GONE: c_int = 70;
const CODE_LEASE_OVER: c_int = 71;
const CODE_BROKEN: c_int = 73;

/// A shell's way to say that a signal ended a process.
const CODE_SIGNAL_BASE: c_int = 128;

/// Runs in the cloned process and never returns.
pub(crate) fn run(plan: &Plan) -> ! {
    // Unwinding would carry on as a second helper.
    let _ = catch_unwind(AssertUnwindSafe(|| Init::begin(plan)));
    exit(CODE_BROKEN)
}

struct Init<'a> {
    plan: &'a Plan,
    view: &'a View,
    control: RawFd,
    lease: TimerFd,
    /// Set while a hook runs.
    patience: TimerFd,
    signals: SignalFd,
    stage: Stage,
    /// The process of the stage.
    task: Pid,
    /// It was given more time than it may take.
    timed_out: bool,
    /// What init will exit with, once the task itself has ended.
    code: c_int,
    /// Carries the process's failure to become the program; closed by the
    /// kernel when it has become it. `None` once either is known.
    starting: Option<OwnedFd>,
}

/// ```text
/// Setup(0) -> Setup(1) -> ... -> Task -> Teardown(0) -> ... -> exit
///     \___________\__ failed: exit
/// ```
#[derive(Clone, Copy)]
enum Stage {
    Setup(usize),
    Task,
    Teardown(usize),
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
        // A task that runs as the same user must not look into this process.
        let _ = nix::sys::prctl::set_dumpable(false);
        let started = finish_sandbox(plan).and_then(|view| Init::start(plan, view));
        match started {
            Ok(mut init) => init.watch(),
            Err(trouble) => fail(control, trouble),
        }
    }

    fn start<'a>(plan: &'a Plan, view: &'a View) -> Result<Init<'a>, Trouble> {
        let clone = Trouble::at(Step::Clone);
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let mut init = Init {
            plan,
            view,
            control: plan.control.as_raw_fd(),
            lease: lease_timer(plan.lease_until.0).map_err(&clone)?,
            patience: new_timer().map_err(&clone)?,
            signals: SignalFd::with_flags(&SigSet::all(), flags).map_err(&clone)?,
            stage: Stage::Task,
            task: Pid::from_raw(0),
            timed_out: false,
            code: CODE_BROKEN,
            starting: None,
        };
        init.enter(match view.setup.is_empty() {
            true => Stage::Task,
            false => Stage::Setup(0),
        })?;
        Ok(init)
    }

    /// From now on nobody but the task holds its pipes.
    fn release_output(&self) {
        close(self.plan.out.as_raw_fd());
        close(self.plan.err.as_raw_fd());
    }

    /// Starts the process of a stage.
    fn enter(&mut self, stage: Stage) -> Result<(), Trouble> {
        let clone = Trouble::at(Step::Clone);
        let (program, is_task) = match stage {
            Stage::Setup(index) => (&self.view.setup[index], false),
            Stage::Task => (&self.view.task, true),
            Stage::Teardown(index) => (&self.view.teardown[index], false),
        };
        let (starting, report) = pipe2(OFlag::O_CLOEXEC).map_err(&clone)?;
        // SAFETY: one thread, and `become_task` does not return.
        let task = match unsafe { clone_process(0) }.map_err(&clone)? {
            None => become_task(self.plan, self.view, program, is_task, report.as_raw_fd()),
            Some((task, _)) => task,
        };
        self.stage = stage;
        self.task = task;
        self.timed_out = false;
        self.starting = Some(starting);
        if is_task && self.view.teardown.is_empty() {
            self.release_output();
        }
        set_patience(&self.patience, program.timeout_ms).map_err(&clone)
    }

    fn watch(&mut self) {
        loop {
            let starting = self.starting.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let lease = self.lease.as_fd().as_raw_fd();
            let patience = self.patience.as_fd().as_raw_fd();
            let fds = [
                self.control,
                lease,
                self.signals.as_raw_fd(),
                starting,
                patience,
            ];
            let [control, lease, signals, starting, patience] = poll(fds);
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
            if patience {
                self.lose_patience();
            }
            if signals {
                self.take_signals();
            }
        }
    }

    /// A hook has had its time. Its end is heard of as any other.
    fn lose_patience(&mut self) {
        let mut expirations = [0; 8];
        let _ = nix::unistd::read(&self.patience, &mut expirations);
        self.timed_out = true;
        self.signal(Signal::SIGKILL);
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
        let broken = |errno| Trouble::at(Step::Exec)(errno);
        let trouble = match nix::unistd::read(&starting, &mut bytes) {
            Ok(0) => {
                if matches!(self.stage, Stage::Task) {
                    Inner::Started.send(self.control);
                }
                return;
            }
            Ok(length) => match Inner::decode(&bytes[..length]) {
                Some(Inner::Failed(step, errno, at)) => Trouble {
                    step,
                    errno: Errno::from_raw(errno),
                    at,
                },
                _ => broken(Errno::EIO),
            },
            Err(errno) => broken(errno),
        };
        match self.stage {
            Stage::Task => fail(self.control, trouble),
            Stage::Setup(index) => fail(
                self.control,
                Trouble {
                    at: index as u32 + 1,
                    ..trouble
                },
            ),
            // Its process ends with a code of its own, as one that ran would.
            Stage::Teardown(_) => {}
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
        // What tidies up after the task is not the task.
        if matches!(self.stage, Stage::Teardown(_)) {
            return;
        }
        if let Ok(signal) = Signal::try_from(signal) {
            self.signal(signal);
        }
    }

    fn signal(&self, signal: Signal) {
        // Until it has its session, the process has no group.
        if killpg(self.task, signal).is_err() {
            let _ = kill(self.task, signal);
        }
    }

    fn reap(&mut self) {
        loop {
            let end = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.task => Inner::Exited(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.task => {
                    Inner::Signalled(signal as c_int)
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) | Ok(_) => continue,
                Err(_) => return,
            };
            // It may have ended before its start was looked at.
            self.learn_start();
            self.go_on(end);
        }
    }

    /// What follows the end of a stage.
    fn go_on(&mut self, end: Inner) {
        let code = match end {
            Inner::Exited(code) => code,
            Inner::Signalled(signal) => CODE_SIGNAL_BASE + signal,
            _ => CODE_BROKEN,
        };
        let next = match self.stage {
            Stage::Setup(index) => {
                if code != 0 {
                    self.setup_failed(index, end);
                }
                match index + 1 < self.view.setup.len() {
                    true => Stage::Setup(index + 1),
                    false => Stage::Task,
                }
            }
            Stage::Task => {
                end.send(self.control);
                self.code = code;
                Stage::Teardown(0)
            }
            Stage::Teardown(index) => Stage::Teardown(index + 1),
        };
        match next {
            Stage::Teardown(index) if index == self.view.teardown.len() => exit(self.code),
            Stage::Task | Stage::Setup(_) => {
                if let Err(trouble) = self.enter(next) {
                    fail(self.control, trouble);
                }
            }
            Stage::Teardown(_) => {
                if self.enter(next).is_err() {
                    exit(self.code);
                }
            }
        }
    }

    fn setup_failed(&self, index: usize, end: Inner) -> ! {
        let (step, number) = match end {
            Inner::Exited(code) => (Step::Setup, code),
            _ if self.timed_out => (Step::SetupTooLong, 0),
            Inner::Signalled(signal) => (Step::SetupKilled, signal),
            _ => (Step::Setup, 0),
        };
        Inner::Failed(step, number, index as u32 + 1).send(self.control);
        exit(CODE_NOT_STARTED)
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

fn fail(control: RawFd, trouble: Trouble) -> ! {
    Inner::Failed(trouble.step, trouble.errno as i32, trouble.at).send(control);
    exit(CODE_NOT_STARTED)
}

/// What the task can do without is reported and left out. How the task will
/// see its files.
fn finish_sandbox(plan: &Plan) -> Result<&View, Trouble> {
    let has = |flag| plan.flags & flag != 0;
    if has(libc::CLONE_NEWUTS) {
        let name = plan.host_name.as_bytes();
        // SAFETY: pointer and length are those of one live string.
        let result = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
        if let Err(errno) = Errno::result(result) {
            miss(plan, Part::HostName, errno)?;
        }
    }
    if has(libc::CLONE_NEWNET)
        && let Err(errno) = sandbox::raise_loopback()
    {
        miss(plan, Part::Loopback, errno)?;
    }
    if !has(libc::CLONE_NEWPID) {
        // So that what leaves the task's session stays within reach.
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }
    finish_mounts(plan)
}

fn finish_mounts(plan: &Plan) -> Result<&View, Trouble> {
    let own_pids = plan.flags & libc::CLONE_NEWPID != 0;
    if plan.flags & libc::CLONE_NEWNS == 0 {
        if own_pids {
            miss(plan, Part::Proc, Errno::EPERM)?;
        }
        return Ok(&plan.outside);
    }
    let none = None::<&str>;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let no_root = |errno| match plan.needs_root {
        true => Err(Trouble::at(Step::Root)(errno)),
        false => Ok(()),
    };
    if let Err(errno) = mount(none, "/", none, flags, none) {
        miss(plan, Part::Mount, errno)?;
        no_root(errno)?;
        return Ok(&plan.outside);
    }
    if let Some(root) = &plan.root {
        let mut refused = Ok(());
        let entered = root.enter(|part, errno| {
            if refused.is_ok() {
                refused = miss(plan, part, errno);
            }
        });
        refused?;
        match entered {
            Ok(()) => return Ok(&plan.inside),
            // A container around us allows no mounts at all.
            Err(error) if error.step == 0 && host_refuses(error.errno) => {
                miss(plan, Part::Root, error.errno)?;
                no_root(error.errno)?;
            }
            Err(error) => {
                return Err(Trouble {
                    step: Step::Root,
                    errno: error.errno,
                    at: error.step,
                });
            }
        }
    }
    if own_pids {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if let Err(errno) = mount(Some("proc"), "/proc", Some("proc"), flags, none) {
            miss(plan, Part::Proc, errno)?;
        }
    }
    Ok(&plan.outside)
}

fn new_timer() -> Result<TimerFd, Errno> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)
}

/// 0 switches it off.
fn set_patience(timer: &TimerFd, ms: u64) -> Result<(), Errno> {
    if ms == 0 {
        return timer.unset();
    }
    let after = Expiration::OneShot(timer_time(ms));
    timer.set(after, TimerSetTimeFlags::empty())
}

fn lease_timer(until_ms: u64) -> Result<TimerFd, Errno> {
    let timer = new_timer()?;
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
