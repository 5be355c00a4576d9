//! The socket of the agent.

use potluck_helper::{
    Channel,
    protocol::{ReceiveError, SendError},
    session::ssh::{FromServer, Setup, SshSession},
};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream as StdStream,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

/// The agent, as far as a connection needs it.
pub(crate) struct Agent(AsyncFd<Channel>);

impl Agent {
    /// Behind standard output.
    pub(crate) fn at(fd: BorrowedFd<'_>) -> io::Result<Agent> {
        let channel = Channel::from_fd(fd.try_clone_to_owned()?);
        // SAFETY: a channel owns one descriptor and never exchanges it.
        let watched = unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) };
        Ok(Agent(watched?))
    }

    /// What must be known before the client is listened to.
    pub(crate) async fn setup(&self) -> io::Result<Setup> {
        self.receive().await
    }

    /// Returns when the agent is gone; it says nothing after the setup.
    pub(crate) async fn gone(&self) {
        while self.receive::<Setup>().await.is_ok() {}
    }

    async fn receive<T: serde::de::DeserializeOwned>(&self) -> io::Result<T> {
        let receive = |channel: &Channel| match channel.receive() {
            Ok(message) => Ok(message),
            Err(ReceiveError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(ReceiveError::Io(error)) => Err(error),
            Err(ReceiveError::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error @ ReceiveError::Unknown(_)) => Err(io::Error::other(error)),
        };
        self.0.async_io(Interest::READABLE, receive).await
    }

    /// Says something. The agent reads always: a full socket is a fault.
    pub(crate) fn say(&self, what: &FromServer) -> Result<(), SendError> {
        self.0.get_ref().send(what)
    }

    /// Asks for a session; what is said about it comes over its stream.
    pub(crate) fn open(&self, session: SshSession) -> io::Result<UnixStream> {
        let (ours, theirs) = StdStream::pair()?;
        for end in [&ours, &theirs] {
            let flags = nix::fcntl::OFlag::O_NONBLOCK;
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        }
        let open = FromServer::Open(session);
        let sent = self.0.get_ref().send_with(&open, &[theirs.as_fd()]);
        sent.map_err(io::Error::other)?;
        UnixStream::from_std(ours)
    }
}
