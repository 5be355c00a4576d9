//! The messages between a helper and the init inside its task's sandbox: 16
//! bytes each, over a socket pair. Both ends are the same program, started at
//! the same time, so there are no versions.

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use std::os::fd::RawFd;

/// A message, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// To init: id maps are written, begin.
    Go,
    /// To init: end everything at this time of the boot-time clock.
    LeaseUntil(u64),
    /// To init: signal the task.
    Signal(i32),
    /// From init: a part of the sandbox could not be built.
    Missing(Part, i32),
    /// From the task's process, just before it becomes the task's program:
    /// the kernel adds its pid as the host sees it.
    Task,
    /// From init: the program runs.
    Started,
    /// From init: it does not. With a number that says at what, 0 for
    /// nothing more to say.
    Failed(Step, i32, u32),
    /// From init: the task's process returned a code.
    Exited(i32),
    /// From init: a signal ended it.
    Signalled(i32),
    /// From init: the lease is over, as far as it was told.
    Starved,
}

/// A part of the sandbox that a task can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Part {
    /// Mounts that no longer reach the host's.
    Mount = 1,
    /// `/proc` of the task's own processes.
    Proc,
    /// The host name.
    HostName,
    /// A root of its own.
    Root,
    /// Terminals of its own.
    Terminals,
    /// POSIX queues of its own, as files.
    Queues,
    /// A view of control groups that begins at its own.
    ControlGroups,
    /// The loopback device of its network.
    Loopback,
    /// The filter of system calls.
    Seccomp,
    /// The kernel's path rules.
    Landlock,
    /// Being kept off the abstract sockets of a network that it shares.
    AbstractSockets,
}

impl Part {
    const ALL: [Part; 11] = [
        Part::Mount,
        Part::Proc,
        Part::HostName,
        Part::Root,
        Part::Terminals,
        Part::Queues,
        Part::ControlGroups,
        Part::Loopback,
        Part::Seccomp,
        Part::Landlock,
        Part::AbstractSockets,
    ];

    /// Whether a task that must have all of its isolation is refused for it.
    /// Abstract sockets are told only: kernels before 6.12, which most hosts
    /// have, can't hold a task off them, and it may have a network of its own.
    pub(crate) fn is_indispensable(self) -> bool {
        self != Part::AbstractSockets
    }

    pub(crate) fn from_number(number: u32) -> Option<Part> {
        Part::ALL.into_iter().find(|part| *part as u32 == number)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Mount => "mount",
            Part::Proc => "proc",
            Part::HostName => "hostname",
            Part::Root => "root",
            Part::Terminals => "terminals",
            Part::Queues => "queues",
            Part::ControlGroups => "cgroup",
            Part::Loopback => "loopback",
            Part::Seccomp => "seccomp",
            Part::Landlock => "landlock",
            Part::AbstractSockets => "abstract sockets",
        }
    }
}

/// What could not be done for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    /// Its process could not be made.
    Clone = 1,
    /// Its standard streams.
    Streams,
    /// A control group.
    ControlGroup,
    /// Its working directory.
    WorkingDirectory,
    /// Its user and group.
    User,
    /// Giving up new privileges.
    Privileges,
    /// Running the program.
    Exec,
    /// Its root.
    Root,
    /// A part without which it must not run.
    Isolation,
    /// A command before it returned a code.
    Setup,
    /// A command before it was ended by a signal.
    SetupKilled,
    /// A command before it took too long.
    SetupTooLong,
    /// Joining the namespaces of a task.
    Enter,
    /// A terminal of the task's own.
    Terminal,
    /// The tools of a session.
    Tools,
}

impl Step {
    const ALL: [Step; 15] = [
        Step::Clone,
        Step::Streams,
        Step::ControlGroup,
        Step::WorkingDirectory,
        Step::User,
        Step::Privileges,
        Step::Exec,
        Step::Root,
        Step::Isolation,
        Step::Setup,
        Step::SetupKilled,
        Step::SetupTooLong,
        Step::Enter,
        Step::Terminal,
        Step::Tools,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Clone => "its process can't be made",
            Step::Streams => "its standard streams can't be set",
            Step::ControlGroup => "its control group can't be joined",
            Step::WorkingDirectory => "its folder can't be entered",
            Step::User => "its user can't be set",
            Step::Privileges => "its privileges can't be limited",
            Step::Exec => "its command can't be run",
            Step::Root => "its root can't be made",
            Step::Isolation => "this host can't isolate it",
            Step::Enter => "the task can't be entered",
            Step::Terminal => "it has no terminals",
            Step::Tools => "the tools can't be brought in",
            Step::Setup | Step::SetupKilled | Step::SetupTooLong => "its set-up failed",
        }
    }

    fn from_number(number: u32) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step as u32 == number)
    }
}

/// Length of a message.
pub(crate) const INNER_BYTES: usize = 16;

impl Inner {
    pub(crate) fn encode(self) -> [u8; INNER_BYTES] {
        let (kind, small, large) = match self {
            Inner::Go => (1, 0, 0),
            Inner::LeaseUntil(until) => (2, 0, until),
            Inner::Signal(signal) => (3, signal as u32, 0),
            Inner::Missing(part, errno) => (4, part as u32, errno as u64),
            Inner::Task => (5, 0, 0),
            Inner::Started => (6, 0, 0),
            Inner::Failed(step, errno, at) => {
                let errno = u64::from(errno as u32);
                (7, step as u32, errno | u64::from(at) << 32)
            }
            Inner::Exited(code) => (8, code as u32, 0),
            Inner::Signalled(signal) => (9, signal as u32, 0),
            Inner::Starved => (10, 0, 0_u64),
        };
        let mut bytes = [0; INNER_BYTES];
        bytes[..4].copy_from_slice(&u32::to_ne_bytes(kind));
        bytes[4..8].copy_from_slice(&u32::to_ne_bytes(small));
        bytes[8..].copy_from_slice(&u64::to_ne_bytes(large));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Inner> {
        let bytes: &[u8; INNER_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let (small, large) = (word(4), u64::from(word(8)) | u64::from(word(12)) << 32);
        Some(match word(0) {
            1 => Inner::Go,
            2 => Inner::LeaseUntil(large),
            3 => Inner::Signal(small as i32),
            4 => {
                let part = Part::ALL.into_iter().find(|part| *part as u32 == small)?;
                Inner::Missing(part, large as i32)
            }
            5 => Inner::Task,
            6 => Inner::Started,
            7 => Inner::Failed(Step::from_number(small)?, large as i32, word(12)),
            8 => Inner::Exited(small as i32),
            9 => Inner::Signalled(small as i32),
            10 => Inner::Starved,
            _ => return None,
        })
    }

    /// Sends without waiting. A full socket means that the other side is
    /// stopped; everything that matters is then found out by other means (the
    /// lease, the end of init).
    pub(crate) fn send(self, fd: RawFd) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(fd, &self.encode(), flags);
    }

    /// The next message; `Ok(None)` at the end of the connection. An unknown
    /// one, which only a task that holds our descriptors could send, is the
    /// end as well.
    pub(crate) fn receive(fd: RawFd, flags: MsgFlags) -> Result<Option<Inner>, Errno> {
        let mut bytes = [0; INNER_BYTES];
        loop {
            return match recv(fd, &mut bytes, flags) {
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno),
                Ok(length) => Ok(Inner::decode(&bytes[..length])),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let mut all = vec![
            Inner::Go,
            Inner::LeaseUntil(u64::MAX - 3),
            Inner::Signal(15),
            Inner::Task,
            Inner::Started,
            Inner::Exited(255),
            Inner::Signalled(9),
            Inner::Starved,
        ];
        all.extend(Part::ALL.map(|part| Inner::Missing(part, 1)));
        all.extend(Step::ALL.map(|step| Inner::Failed(step, 2, 7)));
        for message in all {
            assert_eq!(Inner::decode(&message.encode()), Some(message));
        }
        assert_eq!(Inner::decode(&[0; INNER_BYTES]), None);
        assert_eq!(Inner::decode(&[]), None);
    }
}
