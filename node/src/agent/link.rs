//! The socket that helpers dial, and the connection with each.
//!
//! One actor listens; one actor per connection reads, writes and answers
//! pings, so that tasks keep their lease however busy the agent is. Messages
//! to a helper wait in a short queue; a helper that does not read loses its
//! connection and dials again, and one that says nothing beyond its lease is
//! given up. All end with the agent.

use super::{actor::Command, leases::Leases};
use crate::{clock, spawn::spawn};
use potluck_helper::{
    AgentMessage, Channel, HelperMessage, Listener,
    protocol::{Hello, PROTOCOL_VERSION, ReceiveError, SendError},
};
use potluck_specs::Millis;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Messages that wait for a helper: there are three kinds, each sent once or
/// every few seconds.
const MESSAGES_WAITING: usize = 8;

/// How long a new connection may take to say whose helper it is.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// The oldest protocol that this agent speaks.
const PROTOCOL_OLDEST: u32 = 1;

/// How long a helper may be silent beyond its lease. It pings each second; two
/// seconds after the lease its init has ended the task, so nothing is lost by
/// giving up a helper that is stopped or stuck, and all that was told of the
/// task since would be untrue.
const SILENCE_BEYOND_LEASE: Duration = Duration::from_secs(3);

/// How often a failed accept is tried again: it fails for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What every connection knows of its agent.
#[derive(Clone)]
pub(super) struct Links {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) agent_generation: u64,
    pub(super) lease: Millis,
    pub(super) leases: Leases,
    pub(super) token: CancellationToken,
}

/// A helper's connection as the agent sees it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Tells connections of the same helper apart.
    pub(super) id: u64,
    to: mpsc::Sender<Outgoing>,
    /// Cancelled when the queue is full.
    overrun: CancellationToken,
}

/// A message with the descriptors that go with it.
#[derive(Debug)]
struct Outgoing {
    message: AgentMessage,
    descriptors: Vec<OwnedFd>,
}

impl Link {
    /// Sends, unless the helper does not read: then it loses its connection.
    pub(super) fn send(&self, message: AgentMessage) {
        self.send_with(message, Vec::new());
    }

    /// As [`Self::send`], with descriptors, which are closed here then.
    pub(super) fn send_with(&self, message: AgentMessage, descriptors: Vec<OwnedFd>) {
        let outgoing = Outgoing {
            message,
            descriptors,
        };
        if let Err(error) = self.to.try_send(outgoing) {
            tracing::debug!(%error, "message to a helper is lost, and so is its connection");
            self.overrun.cancel();
        }
    }
}

impl Links {
    /// The actor that listens.
    pub(super) async fn listen(self, listener: Listener) {
        let token = self.token.clone();
        let accept = async {
            // SAFETY: a listener owns one descriptor and never exchanges it.
            let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
            let Ok(listener) = listener else {
                tracing::error!("the helpers' socket can't be watched");
                return;
            };
            for id in 1.. {
                let channel = self.accept(&listener).await;
                spawn("helper link", self.clone().serve(id, channel));
            }
        };
        tokio::select! {
            () = accept => {}
            () = token.cancelled() => {}
        }
    }

    async fn accept(&self, listener: &AsyncFd<Listener>) -> Channel {
        loop {
            let accepted = listener
                .async_io(Interest::READABLE, |listener| listener.accept())
                .await;
            match accepted {
                Ok(channel) => return channel,
                Err(error) => {
                    tracing::warn!(%error, "a helper can't be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    async fn serve(self, id: u64, channel: Channel) {
        let token = self.token.clone();
        tokio::select! {
            ended = self.converse(id, channel) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a helper's connection ended");
                }
            }
            () = token.cancelled() => {}
        }
    }

    async fn converse(self, id: u64, channel: Channel) -> io::Result<()> {
        let pid = channel.peer_pid()?;
        // SAFETY: a channel owns one descriptor and never exchanges it.
        let channel = unsafe { AsyncFd::register(channel) }?;
        let first = timeout(HELLO_LIMIT, receive(&channel)).await;
        let Ok(Ok(HelperMessage::Hello(hello))) = first else {
            return Err(io::Error::other("no hello"));
        };
        if let Err(why) = self.check(&hello, pid) {
            let (protocol, version) = (hello.protocol, &hello.helper_version);
            tracing::warn!(task = %hello.key, why, protocol, version, "helper refused");
            if hello.helper_pid == pid {
                let run = super::run_of(&hello.key);
                self.tell(Command::Refused { run, why }).await?;
            }
            let agent_generation = self.agent_generation;
            let why = why.to_string();
            let refused = AgentMessage::Refused {
                agent_generation,
                why,
            };
            return send(&channel, &refused).await;
        }
        send(
            &channel,
            &AgentMessage::Welcome {
                agent_generation: self.agent_generation,
                lease_ms: self.lease.0,
            },
        )
        .await?;
        let (to, messages) = mpsc::channel(MESSAGES_WAITING);
        let run = super::run_of(&hello.key);
        let overrun = CancellationToken::new();
        let link = Link {
            id,
            to,
            overrun: overrun.clone(),
        };
        self.tell(Command::Hello { hello, pid, link }).await?;
        let ended = tokio::select! {
            ended = self.exchange(&channel, messages, &run) => ended,
            () = overrun.cancelled() => Err(io::Error::other("it does not read")),
        };
        self.tell(Command::LinkLost { run, id }).await?;
        ended
    }

    fn check(&self, hello: &Hello, pid: i32) -> Result<(), &'static str> {
        if hello.helper_pid != pid {
            return Err("it is not the process that it says");
        }
        if hello.protocol > PROTOCOL_VERSION {
            return Err("it speaks a later protocol than this potluck");
        }
        if hello.protocol < PROTOCOL_OLDEST {
            return Err("it speaks an earlier protocol than this potluck knows");
        }
        if hello.agent_generation > self.agent_generation {
            return Err("it knows a later agent");
        }
        Ok(())
    }

    async fn exchange(
        &self,
        channel: &AsyncFd<Channel>,
        mut messages: mpsc::Receiver<Outgoing>,
        run: &potluck_core::host::Run,
    ) -> io::Result<()> {
        let limit = Duration::from_millis(self.lease.0) + SILENCE_BEYOND_LEASE;
        let mut silent_at = Instant::now() + limit;
        loop {
            tokio::select! {
                // What waits in the socket comes first: an agent that was
                // stopped itself has heard nothing, and its helpers spoke.
                biased;
                message = messages.recv() => match message {
                    Some(Outgoing { message, descriptors }) => {
                        send_with(channel, &message, &descriptors).await?;
                    }
                    // A later connection of the same helper took its place.
                    None => return Ok(()),
                },
                received = receive(channel) => {
                    silent_at = Instant::now() + limit;
                    match received? {
                    HelperMessage::Ping { sent_at } => {
                        let lease_ms = self.lease.0;
                        let scheduler_lease_ms = self.leases.left_ms(&run.slot, clock::boot_now());
                        let pong = AgentMessage::Pong {
                            sent_at,
                            lease_ms,
                            scheduler_lease_ms,
                        };
                        send(channel, &pong).await?;
                    }
                    message => {
                        let run = run.clone();
                        self.tell(Command::Helper { run, message }).await?;
                    }
                    }
                }
                () = sleep_until(silent_at) => {
                    self.tell(Command::Silent(run.clone())).await?;
                    return Err(io::Error::other("it is silent beyond its lease"));
                }
            }
        }
    }

    async fn tell(&self, command: Command) -> io::Result<()> {
        let told = self.commands.send(command).await;
        told.map_err(|_| io::Error::other("the agent has stopped"))
    }
}

async fn receive(channel: &AsyncFd<Channel>) -> io::Result<HelperMessage> {
    loop {
        let received = channel
            .async_io(Interest::READABLE, |channel| match channel.receive() {
                Ok(message) => Ok(Some(message)),
                Err(ReceiveError::Unknown(error)) => {
                    tracing::debug!(%error, "message of another version");
                    Ok(None)
                }
                Err(ReceiveError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                Err(ReceiveError::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(ReceiveError::Io(error)) => Err(error),
            })
            .await?;
        if let Some(message) = received {
            return Ok(message);
        }
    }
}

async fn send(channel: &AsyncFd<Channel>, message: &AgentMessage) -> io::Result<()> {
    send_with(channel, message, &[]).await
}

async fn send_with(
    channel: &AsyncFd<Channel>,
    message: &AgentMessage,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    channel
        .async_io(Interest::WRITABLE, |channel| {
            match channel.send_with(message, &descriptors) {
                Ok(()) => Ok(()),
                Err(SendError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                Err(SendError::Closed) => Err(io::ErrorKind::BrokenPipe.into()),
                Err(SendError::Io(error)) => Err(error),
                // Of a person's making: it costs them their session, and nobody the
                // connection.
                Err(error @ SendError::TooLong { .. }) => {
                    tracing::warn!(%error, "message to a helper is left out");
                    Ok(())
                }
            }
        })
        .await
}
