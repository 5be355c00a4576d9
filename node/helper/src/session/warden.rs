//! The process that watches over a session: in the task's pid namespace, with
//! the rights of the helper and, like init, closed to the eyes of the task.
//!
//! ```text
//! tools, terminal -> clone the command -> wait: command ended -> kill the rest, report, exit
//!                                           |-- agent hung up -> SIGHUP, grace, kill the rest, exit
//!                                           |-- helper gone   -> kill the rest, exit
//! ```

use super::{
    CODE_LOST, HANGUP_GRACE_MS, SessionOrder, SessionReport, WindowSize,
    enter::{become_command, fail},
    plan::{SessionPlan, Streams},
};
use crate::{
    enter::{Trouble, exit},
    inner::{INNER_BYTES, Inner, Step},
    launch::clone_process,
    protocol::ReceiveError,
    sandbox::sys,
    sweep,
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc::{self, c_int},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, killpg},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, pipe2},
};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// The kernel's number of the file system of terminals.
const DEVPTS_MAGIC: libc::c_long = 0x1cd1;

/// How often the rest is looked at while it may still end by itself.
const GRACE_LOOK_MS: u16 = 20;

/// Runs in the cloned process and never returns; its caller catches panics.
pub(super) fn run(plan: &SessionPlan<'_>) -> ! {
    match Warden::begin(plan) {
        Ok(mut warden) => warden.watch(),
        Err(trouble) => fail(plan, trouble),
    }
}

struct Warden<'a> {
    plan: &'a SessionPlan<'a>,
    signals: SignalFd,
    /// Our side of the session's terminal; sizes are set on it.
    terminal: Option<OwnedFd>,
    command: Pid,
    /// Carries the command's failure to start; closed by its start.
    starting: Option<OwnedFd>,
}

impl Warden<'_> {
    fn begin<'a>(plan: &'a SessionPlan<'a>) -> Result<Warden<'a>, Trouble> {
        let at = Trouble::at;
        let _ = nix::sys::prctl::set_name(c"potluck-session");
        // A task that runs as the same user must not look into this process.
        let _ = nix::sys::prctl::set_dumpable(false);
        nix::sys::prctl::set_child_subreaper(true).map_err(at(Step::Clone))?;
        // A group of its own: nobody's signal to the helper's is meant.
        let _ = nix::unistd::setsid();
        // No namespace is joined any more.
        for namespace in plan.namespaces {
            close(namespace.file.as_raw_fd());
        }
        if let Some(tools) = &plan.tools {
            tools
                .bring()
                .map_err(|(step, errno)| Trouble { step, errno, at: 0 })?;
        }
        let (terminal, inside) = match &plan.streams {
            Streams::Pipes(_) => (None, None),
            Streams::Terminal(size) => {
                let (outside, inside) = open_terminal(*size).map_err(at(Step::Terminal))?;
                (Some(outside), Some(inside))
            }
        };
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let mut warden = Warden {
            plan,
            signals: SignalFd::with_flags(&SigSet::all(), flags).map_err(at(Step::Clone))?,
            terminal,
            command: Pid::from_raw(0),
            starting: None,
        };
        warden.start(inside.as_ref())?;
        Ok(warden)
    }

    fn start(&mut self, inside: Option<&OwnedFd>) -> Result<(), Trouble> {
        let at = Trouble::at;
        if let Some(terminal) = &self.terminal {
            let sent = self
                .plan
                .channel
                .send_with(&SessionReport::Terminal, &[terminal.as_fd()]);
            sent.map_err(|_| at(Step::Terminal)(Errno::EPIPE))?;
        }
        let (starting, report) = pipe2(OFlag::O_CLOEXEC).map_err(at(Step::Clone))?;
        // SAFETY: one thread, and `become_command` does not return.
        match unsafe { clone_process(0) }.map_err(at(Step::Clone))? {
            None => {
                // What it would keep the agent and the helper waiting with.
                close(self.plan.channel.as_raw_fd());
                close(self.plan.tether.as_raw_fd());
                become_command(self.plan, inside, report.as_raw_fd())
            }
            Some((command, _)) => self.command = command,
        }
        self.starting = Some(starting);
        // From now on nobody but the session's processes holds its streams.
        if let Streams::Pipes(pipes) = &self.plan.streams {
            pipes.iter().for_each(|pipe| close(pipe.as_raw_fd()));
        }
        Ok(())
    }

    fn watch(&mut self) -> ! {
        loop {
            let ready = self.wait(PollTimeout::NONE);
            if ready.tether {
                self.end_rest();
                exit(0);
            }
            if ready.starting {
                self.learn_start();
            }
            if ready.channel {
                self.hear();
            }
            if ready.signals {
                self.take_signals();
            }
        }
    }

    fn wait(&self, limit: PollTimeout) -> Ready {
        let input = PollFlags::POLLIN;
        let mut fds = vec![
            PollFd::new(self.plan.tether.as_fd(), input),
            PollFd::new(self.plan.channel.as_fd(), input),
            PollFd::new(self.signals.as_fd(), input),
        ];
        if let Some(starting) = &self.starting {
            fds.push(PollFd::new(starting.as_fd(), input));
        }
        while let Err(Errno::EINTR) = poll(&mut fds, limit) {}
        let ready = |index: usize| {
            let fd: Option<&PollFd<'_>> = fds.get(index);
            fd.and_then(PollFd::revents)
                .is_some_and(|got| !got.is_empty())
        };
        Ready {
            tether: ready(0),
            channel: ready(1),
            signals: ready(2),
            starting: ready(3),
        }
    }

    /// The pipe is at its end when the command runs, or holds what failed.
    fn learn_start(&mut self) {
        let Some(starting) = self.starting.take() else {
            return;
        };
        let mut bytes = [0; INNER_BYTES];
        match nix::unistd::read(&starting, &mut bytes) {
            Ok(0) => {
                // If nobody listens any more, the next look says so.
                let _ = self.plan.channel.send(&SessionReport::Started);
            }
            Ok(length) => {
                let trouble = match Inner::decode(&bytes[..length]) {
                    Some(Inner::Failed(step, errno, at)) => Trouble {
                        step,
                        errno: Errno::from_raw(errno),
                        at,
                    },
                    _ => Trouble::at(Step::Exec)(Errno::EIO),
                };
                self.end_rest();
                fail(self.plan, trouble)
            }
            Err(errno) => fail(self.plan, Trouble::at(Step::Exec)(errno)),
        }
    }

    fn hear(&mut self) {
        loop {
            match self.plan.channel.receive::<SessionOrder>() {
                Ok(SessionOrder::Resize(size)) => {
                    if let Some(terminal) = &self.terminal {
                        let _ = resize(terminal, size);
                    }
                }
                // A newer agent's order: nothing that this one can do.
                Err(ReceiveError::Unknown(_)) => {}
                Err(ReceiveError::WouldBlock) => return,
                Err(ReceiveError::Closed | ReceiveError::Io(_)) => self.hang_up(),
            }
        }
    }

    /// The person is gone. What listens to it may end in its own way, and the
    /// rest does not live on.
    fn hang_up(&mut self) -> ! {
        // The kernel hangs up a terminal's session when its other side closes.
        self.terminal = None;
        let _ = killpg(self.command, Signal::SIGHUP);
        let _ = killpg(self.command, Signal::SIGCONT);
        for _ in 0..HANGUP_GRACE_MS / u64::from(GRACE_LOOK_MS) {
            if sweep::reap_ended() || self.helper_is_gone() {
                break;
            }
        }
        self.end_rest();
        exit(0)
    }

    /// Waits a moment for it.
    fn helper_is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.plan.tether.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, GRACE_LOOK_MS).is_ok_and(|ready| ready > 0)
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo as c_int == libc::SIGCHLD {
                self.reap();
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let code = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.command => code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.command => {
                    128 + signal as c_int
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) | Ok(_) => continue,
                Err(_) => return,
            };
            // It may have ended before its start was looked at.
            self.learn_start();
            self.end_rest();
            let code = u8::try_from(code).unwrap_or(CODE_LOST);
            let _ = self.plan.channel.send(&SessionReport::Ended { code });
            exit(0)
        }
    }

    /// The session's group is ended in one go, so that no fork outruns it;
    /// then, and where there is none, whoever is a child.
    fn end_rest(&self) {
        if let Some(kill) = &self.plan.kill {
            let _ = nix::unistd::write(kill, b"1");
        }
        if self.command.as_raw() > 0 {
            let _ = killpg(self.command, Signal::SIGKILL);
        }
        // The sweep goes by the numbers in `/proc`, which are the host's if
        // the task has none of its own.
        let own = fs::read_link("/proc/self").ok();
        let same = own.is_some_and(|own| own.to_str() == Some(&std::process::id().to_string()));
        if same {
            sweep::sweep_until_none();
        }
    }
}

struct Ready {
    tether: bool,
    channel: bool,
    signals: bool,
    starting: bool,
}

/// A terminal from the task's own file system of terminals: the side that the
/// agent gets, and the one of the command.
fn open_terminal(size: WindowSize) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let outside = sys::open_plain_file(c"/dev/pts/ptmx", flags)?;
    // Whoever could put something else there must not get the agent to read it.
    // SAFETY: all zero is a valid value of this structure of integers.
    let mut kind: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a live structure.
    Errno::result(unsafe { libc::fstatfs(outside.as_raw_fd(), &raw mut kind) })?;
    if kind.f_type as libc::c_long != DEVPTS_MAGIC {
        return Err(Errno::ENODEV);
    }
    let unlock: c_int = 0;
    // SAFETY: an open descriptor and a live integer.
    Errno::result(unsafe {
        libc::ioctl(outside.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock)
    })?;
    resize(&outside, size)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: an open descriptor and an integer.
    let inside = unsafe { libc::ioctl(outside.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    Errno::result(inside)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok((outside, unsafe { OwnedFd::from_raw_fd(inside) }))
}

fn resize(terminal: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: an open descriptor and a live structure.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(set).map(drop)
}

fn close(fd: c_int) {
    // SAFETY: the descriptor belongs to the plan, which this process leaves
    // as it is and never drops.
    unsafe { libc::close(fd) };
}
