//! The messages between a helper and its agent, and the socket they travel on.
//!
//! A helper dials the agent's `SOCK_SEQPACKET` socket and dials again whenever
//! it is lost; the agent never looks for helpers. Each message is one packet of
//! CBOR. Helpers live for months under newer agents: unknown fields are
//! ignored, and a packet that is no known message is reported as
//! [`ReceiveError::Unknown`] and skipped, the connection stays.
//!
//! ```text
//! helper                                agent
//!   Hello  ------------------------------>       first, on every connection
//!          <------------------------------  Welcome | Refused (and close)
//!   Ping each second -------------------->
//!          <------------------------------  Pong
//!   Started | StartFailed --------------->
//!          <------------------------------  Stop, StopAtDiskLimit, Kill, SetLimits
//!   LimitsSet --------------------------->       after each SetLimits
//!          <------------------------------  Upgrade
//!   Upgraded | UpgradeRefused ----------->       on the same connection
//!   Exited, repeated after each Welcome ->
//!          <------------------------------  Ack   (of Exited or StartFailed)
//! ```

use crate::{end::TaskEnd, group::Limits, session::SessionRequest};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, accept4, bind, connect, getsockopt, listen, recv, recvmsg, sendmsg, socket,
        sockopt::PeerCredentials,
    },
};
use potluck_specs::{
    Generation, Millis, SlotId,
    codec::{self, CodecError},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fmt, fs,
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

/// Spoken by this version. Rises only with a change that an older side would
/// get wrong; new fields and messages don't need it.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest message: far above all that there are, and small enough that a
/// packet always fits into a socket's buffer.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Descriptors that one message may carry: a session has five.
pub const DESCRIPTORS_MAX: usize = 8;

/// How often a helper pings.
pub const PING_INTERVAL_MS: u64 = 1_000;

/// Which start of which task: what a helper stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    /// The slot that it fills.
    pub slot: SlotId,
    /// Under which generation.
    pub generation: Generation,
    /// Counts the starts under this generation, from 1.
    pub start: u32,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.slot, self.generation, self.start)
    }
}

/// A kind of namespace that a task should have had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingIsolation {
    /// `user`, `pid`, `ipc`, `uts`, `mount`, `proc`, `cgroup`.
    pub kind: String,
    /// What the kernel said, for people.
    pub why: String,
}

/// What a helper's task is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its sandbox is being built.
    Starting,
    /// Its process runs.
    Running {
        /// On the host.
        pid: i32,
    },
    /// It is over; the record is on disk.
    Ended(TaskEnd),
}

/// A helper's first message on every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the helper.
    pub protocol: u32,
    /// Whose helper it is.
    pub key: TaskKey,
    /// The host's boot, so that pids can't be taken for those of another.
    pub boot_id: String,
    /// The helper itself.
    pub helper_pid: i32,
    /// Version of the helper's crate.
    pub helper_version: String,
    /// Highest generation of an agent that it knows; a lower one is refused.
    pub agent_generation: u64,
    /// What the task is doing.
    pub phase: Phase,
    /// Namespaces that the host forbade, and other parts of the sandbox that
    /// could not be built. Complete once the phase is `Running`.
    pub isolation_missing: Vec<MissingIsolation>,
    /// It can be upgraded: the version of what it would hand to the program
    /// that takes its place. `None`: it is too old for that.
    #[serde(default)]
    pub hands_on: Option<u32>,
}

/// From helper to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelperMessage {
    /// The first one.
    Hello(Hello),
    /// Asks to prolong the lease.
    Ping {
        /// On the helper's boot-time clock.
        sent_at: Millis,
    },
    /// The task's process runs.
    Started {
        /// On the host.
        pid: i32,
        /// As in [`Hello`].
        isolation_missing: Vec<MissingIsolation>,
    },
    /// It could not be started. Repeated until acknowledged.
    StartFailed {
        /// For people.
        why: String,
    },
    /// It is over: a [`TaskEnd::Exited`]. Repeated until acknowledged.
    Exited(crate::end::TaskExit),
    /// The limits of a `SetLimits` are tried and read back.
    LimitsSet {
        /// Those that are not as wanted, for people.
        refused: Vec<String>,
    },
    /// The log is in another state than the one told last. After `Hello`,
    /// unless all is well.
    Log(LogState),
    /// After an `Upgrade`: the same process runs the new program.
    Upgraded {
        /// As in [`Hello`], of the new program.
        helper_version: String,
        /// As in [`Hello`], of the new program.
        hands_on: u32,
    },
    /// After an `Upgrade`: the helper goes on as it was.
    UpgradeRefused {
        /// For people.
        why: String,
    },
}

/// How a task's log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogState {
    /// Lines get to the disk.
    Written,
    /// The disk refuses them, in these words, and the task waits.
    Waits(String),
    /// The disk refuses them, and they are counted and gone.
    Drops(String),
}

/// From agent to helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// The helper is known and stays.
    Welcome {
        /// Rises with each start of the agent on this host.
        agent_generation: u64,
        /// The lease from now on.
        lease_ms: u64,
    },
    /// The answer to a ping. The lease runs from the time at which the ping
    /// was *sent*.
    Pong {
        /// Taken from the ping.
        sent_at: Millis,
        /// The lease from now on.
        lease_ms: u64,
        /// What is left of the scheduler's, of an exclusive slot whose
        /// generation a scheduler has confirmed to this agent.
        #[serde(default)]
        scheduler_lease_ms: Option<u64>,
    },
    /// The helper is not wanted: it kills its task, writes the record and
    /// leaves without an acknowledgement.
    Refused {
        /// As in `Welcome`: an older agent can't refuse.
        agent_generation: u64,
        /// For people.
        why: String,
    },
    /// Signal the task; kill it when the grace is over.
    Stop {
        /// Signal number.
        signal: i32,
        /// Until the kill.
        grace_ms: u64,
    },
    /// As `Stop`; the task uses more disk than it may, and the record of its
    /// end says so.
    StopAtDiskLimit {
        /// Signal number.
        signal: i32,
        /// Until the kill.
        grace_ms: u64,
        /// How much is used where, for people.
        note: String,
    },
    /// Change what the task may use, while it runs. All of them: what is not
    /// said is not limited.
    SetLimits(Limits),
    /// Kill the task at once.
    Kill,
    /// Run this program in the same process, and go on with the same task. The
    /// agent has asked the program before whether it can (`--can-resume`, with
    /// what the helper's `Hello` says).
    Upgrade {
        /// Absolute.
        program: PathBuf,
    },
    /// Open a session in the task. The descriptors that it speaks of come with
    /// the same packet; the answer goes over the session's own socket.
    Session(SessionRequest),
    /// The end is in the agent's journal: the helper may leave.
    Ack,
}

/// A message that could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The other side is slow: on a non-blocking socket, try later.
    #[error("the socket's buffer is full")]
    WouldBlock,
    /// The other side is gone.
    #[error("the other side has closed the connection")]
    Closed,
    /// Longer than [`MESSAGE_BYTES_MAX`]: a bug or hostile content.
    #[error("message of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Anything else.
    #[error("sending failed")]
    Io(#[source] io::Error),
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// None has arrived: on a non-blocking socket, wait until it is readable.
    #[error("no message has arrived")]
    WouldBlock,
    /// The other side is gone.
    #[error("the other side has closed the connection")]
    Closed,
    /// A packet that is no message known here. Skip it and go on.
    #[error("unknown message")]
    Unknown(#[source] CodecError),
    /// Anything else.
    #[error("receiving failed")]
    Io(#[source] io::Error),
}

/// One connection, from either side. Blocks or not as its descriptor is set;
/// [`AsRawFd`] lets it be polled by whatever the caller uses.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Dials an agent; the connection does not block.
    ///
    /// # Errors
    /// What the kernel says; `ConnectionRefused` and `NotFound` while the
    /// agent is away, `WouldBlock` while its queue is full.
    pub fn connect(path: &Path) -> io::Result<Channel> {
        let fd = seqpacket()?;
        with_address(path, |address| connect(fd.as_raw_fd(), address))?;
        Ok(Channel(fd))
    }

    /// Wraps a connected `SOCK_SEQPACKET` socket.
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// The socket itself.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message as one packet.
    ///
    /// # Errors
    /// Any [`SendError`].
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), SendError> {
        self.send_with(message, &[])
    }

    /// As [`Self::send`], with descriptors, which are duplicated for the
    /// other side: at most [`DESCRIPTORS_MAX`].
    ///
    /// # Errors
    /// Any [`SendError`].
    pub fn send_with<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SendError> {
        let bytes = codec::encode(message);
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong { bytes: bytes.len() });
        }
        let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = &rights[..usize::from(!descriptors.is_empty())];
        let parts = [IoSlice::new(&bytes)];
        loop {
            let flags = MsgFlags::MSG_NOSIGNAL;
            return match sendmsg::<()>(self.0.as_raw_fd(), &parts, rights, flags, None) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(SendError::WouldBlock),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(SendError::Closed),
                Err(errno) => Err(SendError::Io(errno.into())),
            };
        }
    }

    /// Receives one message. Descriptors that came with it are closed.
    ///
    /// # Errors
    /// Any [`ReceiveError`]; after [`ReceiveError::Unknown`] the connection
    /// goes on.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T, ReceiveError> {
        self.receive_with().map(|(message, _)| message)
    }

    /// Receives one message with the descriptors that came with it, at most
    /// [`DESCRIPTORS_MAX`]; the kernel closes what is more.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_with<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ReceiveError> {
        // The length first, so that a helper does not keep 64 KiB for
        // messages of a hundred bytes.
        let length = self.receive_into(&mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
        if length == 0 {
            // Nobody sends empty packets: this is the end of the connection.
            return Err(ReceiveError::Closed);
        }
        let mut bytes = vec![0; length.min(MESSAGE_BYTES_MAX + 1)];
        let (taken, descriptors) = self.receive_all(&mut bytes)?;
        let message = codec::decode("message", &bytes[..taken], MESSAGE_BYTES_MAX);
        Ok((message.map_err(ReceiveError::Unknown)?, descriptors))
    }

    fn receive_all(&self, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ReceiveError> {
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(received) => break received,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(receive_error(errno)),
            }
        };
        let mut descriptors = Vec::new();
        // An error when more came than fit, which ends the connection.
        let controls = received
            .cmsgs()
            .map_err(|errno| ReceiveError::Io(errno.into()))?;
        for control in controls {
            if let ControlMessageOwned::ScmRights(all) = control {
                // SAFETY: the kernel has just made these descriptors for us.
                descriptors.extend(all.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
            }
        }
        Ok((received.bytes, descriptors))
    }

    fn receive_into(&self, bytes: &mut [u8], flags: MsgFlags) -> Result<usize, ReceiveError> {
        loop {
            return match recv(self.0.as_raw_fd(), bytes, flags) {
                Ok(length) => Ok(length),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(receive_error(errno)),
            };
        }
    }

    /// The process at the other end, as the kernel knows it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn peer_pid(&self) -> io::Result<i32> {
        Ok(getsockopt(&self.0, PeerCredentials)?.pid())
    }
}

fn receive_error(errno: Errno) -> ReceiveError {
    match errno {
        Errno::EAGAIN => ReceiveError::WouldBlock,
        Errno::ECONNRESET | Errno::ENOTCONN => ReceiveError::Closed,
        errno => ReceiveError::Io(errno.into()),
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Where an agent waits for helpers. Does not block.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

/// Helpers that may wait to be accepted: all tasks of a large host dial at
/// once after a restart of its agent. The kernel caps it at `somaxconn`.
const BACKLOG: i32 = 4_096;

impl Listener {
    /// Listens, replacing what an earlier agent left there. The socket is
    /// for its owner only. The caller holds the lock of the data folder, so
    /// that no other agent is live behind the path.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = seqpacket()?;
        with_address(path, |address| bind(fd.as_raw_fd(), address))?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let backlog = Backlog::new(BACKLOG).expect("the backlog is positive");
        listen(&fd, backlog)?;
        Ok(Listener {
            fd,
            path: path.into(),
        })
    }

    /// The next helper, `WouldBlock` if there is none. The connection does
    /// not block.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn accept(&self) -> io::Result<Channel> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = accept4(self.fd.as_raw_fd(), flags)?;
        // SAFETY: accept4 just made this descriptor, nobody else owns it.
        Ok(Channel(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

/// Calls with the address of a path. One that is too long for an address (108
/// bytes) is reached through a descriptor of its folder.
fn with_address(path: &Path, call: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> io::Result<()> {
    match UnixAddr::new(path) {
        Ok(address) => Ok(call(&address)?),
        Err(Errno::ENAMETOOLONG) => {
            let missing = || io::Error::from(io::ErrorKind::InvalidInput);
            let folder = fs::OpenOptions::new()
                .read(true)
                .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
                .open(path.parent().ok_or_else(missing)?)?;
            let name = path.file_name().ok_or_else(missing)?;
            let short = Path::new("/proc/self/fd")
                .join(folder.as_raw_fd().to_string())
                .join(name);
            Ok(call(&UnixAddr::new(&short)?)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::send;

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = nix::sys::socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        (Channel::from_fd(ours), Channel::from_fd(theirs))
    }

    #[test]
    fn messages_come_back_in_order_and_then_the_end() {
        let (agent, helper) = pair();
        let messages = [
            AgentMessage::Welcome {
                agent_generation: 3,
                lease_ms: u64::MAX,
            },
            AgentMessage::Stop {
                signal: 15,
                grace_ms: 10,
            },
            AgentMessage::Kill,
            AgentMessage::Ack,
        ];
        for message in &messages {
            agent.send(message).unwrap();
        }
        for message in messages {
            assert_eq!(helper.receive::<AgentMessage>().unwrap(), message);
        }
        let none = helper.receive::<AgentMessage>();
        assert!(matches!(none, Err(ReceiveError::WouldBlock)));
        drop(agent);
        let none = helper.receive::<AgentMessage>();
        assert!(matches!(none, Err(ReceiveError::Closed)));
        assert!(matches!(
            helper.send(&AgentMessage::Kill),
            Err(SendError::Closed)
        ));
    }

    /// As a later version may write it.
    #[derive(Serialize)]
    enum Later {
        Pong {
            sent_at: Millis,
            lease_ms: u64,
            mood: &'static str,
        },
        Dance {
            steps: u8,
        },
    }

    #[test]
    fn later_fields_are_ignored_and_later_messages_skipped() {
        let (agent, helper) = pair();
        agent.send(&Later::Dance { steps: 3 }).unwrap();
        let pong = Later::Pong {
            sent_at: Millis(1),
            lease_ms: 2,
            mood: "good",
        };
        agent.send(&pong).unwrap();
        let unknown = helper.receive::<AgentMessage>();
        assert!(matches!(unknown, Err(ReceiveError::Unknown(_))));
        let pong = AgentMessage::Pong {
            sent_at: Millis(1),
            lease_ms: 2,
            scheduler_lease_ms: None,
        };
        assert_eq!(helper.receive::<AgentMessage>().unwrap(), pong);
    }

    #[test]
    fn long_messages_are_refused_by_both_sides() {
        let (agent, helper) = pair();
        let long = AgentMessage::Refused {
            agent_generation: 1,
            why: "x".repeat(MESSAGE_BYTES_MAX),
        };
        assert!(matches!(agent.send(&long), Err(SendError::TooLong { .. })));
        let bytes = codec::encode(&long);
        send(agent.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        agent.send(&AgentMessage::Ack).unwrap();
        let refused = helper.receive::<AgentMessage>();
        assert!(matches!(refused, Err(ReceiveError::Unknown(_))));
        assert_eq!(helper.receive::<AgentMessage>().unwrap(), AgentMessage::Ack);
    }

    #[test]
    fn a_new_agent_takes_over_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(90)).join("agent.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let first = Listener::bind(&path).unwrap();
        drop(first);
        assert!(Channel::connect(&path).is_err(), "nobody is there");
        let second = Listener::bind(&path).unwrap();
        let none = second.accept().unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        let helper = Channel::connect(&path).unwrap();
        let agent = second.accept().unwrap();
        assert_eq!(agent.peer_pid().unwrap(), std::process::id() as i32);
        helper
            .send(&HelperMessage::Ping { sent_at: Millis(1) })
            .unwrap();
        assert!(agent.receive::<HelperMessage>().is_ok());
    }
}
