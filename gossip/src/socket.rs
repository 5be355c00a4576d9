//! chitchat's transport: our own UDP socket with sealed datagrams.
//!
//! chitchat keeps its encoding to itself, so its own UDP socket serves as a
//! codec on loopback, one hop each way:
//!
//! ```text
//! send: chitchat ─▶ codec ─▶ tap ─▶ pool.seal ─▶ wire
//! recv: wire ─▶ pool.open ─▶ tap ─▶ codec ─▶ chitchat
//! ```
//!
//! Its `recv` swallows a datagram that it can't decode and waits for ever, so
//! a codec that yields nothing within [`CODEC_PATIENCE`] is opened anew, and
//! whoever does that twice is not heard for a while. `recv` is cancelled by
//! chitchat's own timer: what is under way is kept in `pending`. The patience
//! begins anew with each `recv`, since only a timer that was not cancelled
//! proves that the runtime has looked at the sockets meanwhile: on a host short
//! of processor time a fixed deadline blamed the innocent.

use crate::{
    counters::{Counting, DropCause},
    datagram::DATAGRAM_BYTES_MAX,
    pool::{Now, Opened, Pool},
};
use anyhow::Context;
use async_trait::async_trait;
use chitchat::{
    ChitchatEnvelope,
    transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket as Codec},
};
use potluck_specs::{Millis, NodeId};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, time};

/// How long the codec may take for a datagram: loopback takes microseconds, but
/// its kernel thread may have to wait for a processor. At most half a round.
const CODEC_PATIENCE: Duration = Duration::from_millis(100);

/// A digest of this size calls for a person: the cluster grows too large for
/// one gossip pool.
pub(crate) const DIGEST_BYTES_ALARM: u64 = 30 << 10;

/// What chitchat's messages begin with: two bytes, version, kind; and the kind
/// of the message whose body is little more than the digest.
const KIND_AT: usize = 3;
const KIND_SYN: u8 = 0;

/// What the sockets of one node share, across restarts of chitchat.
pub(crate) struct Wire {
    socket: UdpSocket,
    shared: Arc<Shared>,
    patience: Duration,
}

/// What the wire and the handle share.
pub(crate) struct Shared {
    pool: Mutex<Pool>,
    pub(crate) counting: Arc<Counting>,
    clock: fn() -> Millis,
    started: Instant,
}

impl Shared {
    pub(crate) fn new(pool: Pool, counting: Arc<Counting>, clock: fn() -> Millis) -> Shared {
        Shared {
            pool: Mutex::new(pool),
            counting,
            clock,
            started: Instant::now(),
        }
    }

    /// The pool; never held across an await.
    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool
            .lock()
            .expect("nothing panics while it holds the pool")
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            unix: (self.clock)(),
            uptime: Millis(self.started.elapsed().as_millis() as u64),
        }
    }
}

/// Gives chitchat sealed sockets over one wire.
pub(crate) struct SealedTransport(pub(crate) Arc<Wire>);

#[async_trait]
impl Transport for SealedTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(SealedSocket {
            wire: self.0.clone(),
            codec: LoopbackCodec::open().await?,
            pending: None,
            digest_is_large: false,
        }))
    }
}

/// chitchat's own socket, and ours opposite to it.
struct LoopbackCodec {
    codec: Codec,
    codec_address: SocketAddr,
    tap: UdpSocket,
    tap_address: SocketAddr,
    buffer: Box<[u8]>,
}

impl LoopbackCodec {
    async fn open() -> anyhow::Result<LoopbackCodec> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let codec = Codec::open(any).await?;
        let codec_address = codec.local_addr()?;
        let tap = UdpSocket::bind(any)
            .await
            .context("can't open a socket on loopback")?;
        // From here on the kernel lets nobody else write to the tap.
        tap.connect(codec_address).await?;
        Ok(LoopbackCodec {
            tap_address: tap.local_addr()?,
            codec,
            codec_address,
            tap,
            buffer: vec![0; 1 << 16].into(),
        })
    }

    /// The bytes of a message.
    async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<&[u8]> {
        self.codec.send(self.tap_address, envelope).await?;
        let length = time::timeout(CODEC_PATIENCE, self.tap.recv(&mut self.buffer))
            .await
            .context("the codec on loopback is silent")??;
        Ok(&self.buffer[..length])
    }
}

/// A message that the codec has been given.
struct Pending {
    from: SocketAddr,
    sender: NodeId,
    bytes: usize,
}

struct SealedSocket {
    wire: Arc<Wire>,
    codec: LoopbackCodec,
    pending: Option<Pending>,
    digest_is_large: bool,
}

#[async_trait]
impl Socket for SealedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.wire.socket.local_addr()?)
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        let wire = self.wire.clone();
        let datagrams = match self.codec.encode(envelope).await {
            Ok(bytes) => {
                watch_digest(bytes, &wire.shared.counting, &mut self.digest_is_large);
                let now = wire.shared.now();
                let sealed = wire.shared.pool().seal(to, bytes, now);
                sealed?
            }
            Err(error) => {
                self.reopen().await?;
                return Err(error);
            }
        };
        let num_bytes_sent = wire.send(to, &datagrams).await?;
        Ok(SendOutcome { num_bytes_sent })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let Some(pending) = &self.pending else {
                let (sender, from, payload) = self.wire.receive().await?;
                self.pending = Some(Pending {
                    from,
                    sender,
                    bytes: payload.len(),
                });
                if self.codec.tap.send(&payload).await.is_err() {
                    self.reopen().await?;
                }
                continue;
            };
            match time::timeout(self.wire.patience, self.codec.codec.recv()).await {
                Ok(Ok(outcome)) if outcome.from_addr == self.codec.tap_address => {
                    let (from_addr, num_bytes_received) = (pending.from, pending.bytes);
                    self.pending = None;
                    self.wire
                        .shared
                        .counting
                        .messages_accepted
                        .fetch_add(1, Relaxed);
                    return Ok(RecvOutcome {
                        from_addr,
                        envelope: outcome.envelope,
                        num_bytes_received,
                    });
                }
                // Some other process of this host writes to the codec.
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => {
                    self.blame();
                    self.reopen().await?;
                }
            }
        }
    }
}

impl SealedSocket {
    /// The codec swallowed what was pending.
    fn blame(&mut self) {
        if let Some(pending) = &self.pending {
            let shared = &self.wire.shared;
            shared.counting.drop_for(DropCause::Garbage);
            shared.pool().blame(pending.sender, shared.now());
            tracing::warn!(node = %pending.sender, "member sent a sealed datagram that chitchat can't read");
        }
    }

    async fn reopen(&mut self) -> anyhow::Result<()> {
        self.pending = None;
        self.wire
            .shared
            .counting
            .codec_reopened
            .fetch_add(1, Relaxed);
        self.codec = LoopbackCodec::open().await?;
        tracing::debug!(codec = %self.codec.codec_address, "gossip codec opened anew");
        Ok(())
    }
}

impl Wire {
    pub(crate) fn new(socket: UdpSocket, shared: Arc<Shared>, interval: Duration) -> Wire {
        Wire {
            socket,
            shared,
            patience: CODEC_PATIENCE.min(interval / 2),
        }
    }

    async fn send(&self, to: SocketAddr, datagrams: &[Vec<u8>]) -> io::Result<usize> {
        let mut sent = 0;
        for datagram in datagrams {
            sent += self.socket.send_to(datagram, to).await?;
            self.shared.counting.datagrams_sent.fetch_add(1, Relaxed);
        }
        self.shared
            .counting
            .bytes_sent
            .fetch_add(sent as u64, Relaxed);
        Ok(sent)
    }

    /// The next whole message. May be dropped at any await: what is lost then
    /// is an answer to a stranger.
    async fn receive(&self) -> anyhow::Result<(NodeId, SocketAddr, Vec<u8>)> {
        // One byte more than allowed, to see what is too long.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error).context("can't receive gossip"),
            };
            let counting = &self.shared.counting;
            counting.datagrams_received.fetch_add(1, Relaxed);
            counting.bytes_received.fetch_add(length as u64, Relaxed);
            let now = self.shared.now();
            let opened = self.shared.pool().open(from, &buffer[..length], now);
            match opened {
                Opened::Message { sender, payload } => return Ok((sender, from, payload)),
                Opened::Nothing => {}
                Opened::Answer(datagrams) => {
                    if let Err(error) = self.send(from, &datagrams).await {
                        tracing::debug!(%from, %error, "can't send hello");
                    }
                }
            }
        }
    }
}

/// Errors that an earlier datagram of ours caused (ICMP), and want of memory.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::OutOfMemory
    )
}

fn watch_digest(message: &[u8], counting: &Counting, is_large: &mut bool) {
    if message.get(KIND_AT) != Some(&KIND_SYN) {
        return;
    }
    let bytes = message.len() as u64;
    counting.digest_bytes.store(bytes, Relaxed);
    let was_large = std::mem::replace(is_large, bytes >= DIGEST_BYTES_ALARM);
    if *is_large && !was_large {
        counting.digest_alarms.fetch_add(1, Relaxed);
        tracing::error!(bytes, "gossip digest is near its limit: split the cluster");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_alarm_rings_once_per_crossing() {
        let counting = Counting::default();
        let mut is_large = false;
        let large = vec![0; DIGEST_BYTES_ALARM as usize];
        let mut other = large.clone();
        other[KIND_AT] = 2;
        watch_digest(&other, &counting, &mut is_large);
        assert_eq!(counting.look().digest_alarms, 0);
        for message in [&large[..], &large, &large[..100], &large] {
            watch_digest(message, &counting, &mut is_large);
        }
        assert_eq!(counting.look().digest_alarms, 2);
        assert_eq!(counting.look().digest_bytes, DIGEST_BYTES_ALARM);
    }
}
