//! The network of one process: who may talk to us, requests, streams and the
//! distributed hash table, over one libp2p swarm.
//!
//! ```text
//!  Network (handle) ── opens ──▶ link (a handler per connection) ──▶ peer
//!      │ commands                     │ admitted requests, streams, joins
//!      ▼                              ▼
//!  swarm actor (dials, kad)        Inbound (bounded queues)
//! ```
//!
//! Answers for: admission of every connection, dialling, limits on all that a
//! peer can cause. Leaves to others: what requests mean, who is a member
//! (gossip tells through [`Network::learn`]), what a join holds (identity).
//!
//! Protocols, all inside Noise with the fleet id as prologue:
//!
//! | protocol | served to | carries |
//! |---|---|---|
//! | `/potluck/admit/1` | anybody | a credential one way, a verdict back |
//! | `/potluck/join/1` | anybody | one opaque message each way |
//! | `/potluck/rpc/1` | nodes | one request, one response |
//! | `/potluck/stream/1` | nodes; users for [`Purpose::Api`] | bytes both ways |
//! | `/potluck/kad/1/<fleet>`, ping | nodes | the hash table; liveness |
//!
//! Between two nodes there is a connection for requests, logs and the API and,
//! while needed, one for chunks and snapshots: bulk delays no heartbeat.

mod actor;
mod admission;
mod error;
mod exchange;
mod gate;
mod kept;
mod link;
mod peer;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

pub use error::{
    DialError, ExchangeError, JoinExchangeError, LinkError, OpenError, ProvideError, Refusal,
    RefusalCode, RequestError, StartError,
};
pub use stream::Stream;

use actor::{Command, DialKind, Dialled};
use exchange::JOIN_BYTES_MAX;
use gate::Lane;
use link::Protocol;
use potluck_specs::{
    FleetId, Millis, NodeId,
    trust::{NodeCertificate, NodeCredential, SecretKey, UserCertificate, UserCredential},
};
use serde::{Deserialize, Serialize};
use shared::{Link, Shared};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::wire::{Request, Response};

/// How long a link that failed may take to end.
const LINK_END_LIMIT: Duration = Duration::from_secs(1);

/// What a process shows on each connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Credential {
    /// It is a node.
    Node(NodeCredential),
    /// It acts for a person or for CI.
    User(UserCredential),
    /// It has none yet: it may only join.
    None,
}

/// Whose connection it is, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A node of our cluster.
    Node(NodeCertificate),
    /// A person or CI.
    User(UserCertificate),
}

/// How long past its end a node's certificate is still accepted, asked at each
/// check: zero, or `GRACE_WITHOUT_LEADER` while no leader can be had.
pub type Grace = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What [`start`] needs.
pub struct NetworkConfig {
    /// The process's identity: the node's key, or the user's.
    pub key: SecretKey,
    /// The fleet; peers of others fail the Noise handshake.
    pub fleet: FleetId,
    /// The cluster; nodes of others are refused.
    pub cluster: String,
    /// What we show.
    pub credential: Credential,
    /// Where to listen; port 0 picks one; clients don't listen.
    pub listen: Option<SocketAddr>,
    /// For certificates past their end.
    pub grace: Grace,
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Chunks of packages.
    Chunks,
    /// A task's logs.
    Logs,
    /// The framed protocol of the command line; the only one open to users.
    Api,
    /// A snapshot of the control group.
    Snapshot,
    /// A session in a task.
    Exec,
}

/// A request of an admitted node.
#[derive(Debug)]
pub struct InboundRequest {
    /// Who asks.
    pub from: NodeId,
    /// Its certificate.
    pub certificate: NodeCertificate,
    /// What it asks.
    pub request: Request,
    /// Where the response goes; dropped, the caller hears `NoAnswer`.
    pub answer: oneshot::Sender<Response>,
}

/// A stream that an admitted peer opened.
#[derive(Debug)]
pub struct InboundStream {
    /// Who opened it.
    pub from: Holder,
    /// What for.
    pub purpose: Purpose,
    /// The stream.
    pub stream: Stream,
}

/// What somebody without a certificate asks.
#[derive(Debug)]
pub struct InboundJoin {
    /// Its key.
    pub from: NodeId,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Opaque here.
    pub payload: Vec<u8>,
    /// Where the answer goes; dropped, the caller hears `NoAnswer`.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// What comes in. Each queue is bounded; when one is full the peer is told
/// `busy`. A dropped receiver means that we don't serve it.
#[derive(Debug)]
pub struct Inbound {
    /// From nodes.
    pub requests: mpsc::Receiver<InboundRequest>,
    /// From nodes and users.
    pub streams: mpsc::Receiver<InboundStream>,
    /// From strangers.
    pub joins: mpsc::Receiver<InboundJoin>,
}

/// A peer at the other end of a connection.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its key.
    pub id: NodeId,
    /// Who it is; `None` while not admitted.
    pub holder: Option<Holder>,
    /// Its address on this connection.
    pub address: SocketAddr,
    /// We dialled it.
    pub dialled: bool,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Connections now.
    pub connections: u64,
    /// Peers refused by us.
    pub refused: u64,
    /// Requests received and passed on.
    pub requests_in: u64,
    /// Requests sent.
    pub requests_out: u64,
    /// Substreams opened for them: far fewer, if all is well.
    pub request_substreams: u64,
    /// Streams received and passed on.
    pub streams_in: u64,
    /// Streams opened.
    pub streams_out: u64,
    /// Requests, streams and joins answered with `busy`.
    pub busy: u64,
}

/// A handle to the network; cheap to clone.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// Starts the network; it stops when `token` is cancelled.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    config: NetworkConfig,
    token: CancellationToken,
) -> Result<(Network, Inbound), StartError> {
    actor::start(config, token).await
}

impl Network {
    /// Our own id.
    pub fn id(&self) -> NodeId {
        self.shared.me
    }

    /// Where we listen, with the port that was picked.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.local_address.get().copied()
    }

    /// Asks a node and waits for its response, at most `limit`.
    ///
    /// Dials if there is no link. A request to ourselves goes straight to our
    /// own [`Inbound::requests`], as if it had come in.
    ///
    /// # Errors
    /// [`RequestError`]; see [`ExchangeError::surely_not_done`].
    pub async fn request(
        &self,
        to: NodeId,
        request: Request,
        limit: Duration,
    ) -> Result<Response, RequestError> {
        self.shared.counters.requests_out.add();
        let exchange = async {
            if to == self.shared.me {
                return exchange::request_self(&self.shared, request).await;
            }
            let bytes = exchange::encode_request(&request)?;
            let kept = self.shared.links.ready(to, Lane::Control);
            let kept = kept.and_then(|link| Some((link.kept.take()?, link)));
            let (mut stream, link) = match kept {
                Some(kept) => kept,
                None => {
                    self.shared.counters.request_substreams.add();
                    self.open(to, Protocol::Rpc, Lane::Control).await?
                }
            };
            let response = exchange::request(&mut stream, &bytes).await?;
            link.kept.put(stream);
            Ok(response)
        };
        within(limit, exchange, ExchangeError::Timeout).await
    }

    /// Opens a stream to a node, accepted within `limit`. Chunks, snapshots and
    /// sessions go over a connection of their own, so that no request waits behind them.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_stream(
        &self,
        to: NodeId,
        purpose: Purpose,
        limit: Duration,
    ) -> Result<Stream, OpenError> {
        if to == self.shared.me {
            return Err(OpenError::ToSelf);
        }
        let opened = async {
            let (stream, _) = self.open(to, Protocol::Stream, purpose.lane()).await?;
            stream::ask(stream, purpose).await
        };
        let stream = within(limit, opened, OpenError::Timeout).await?;
        self.shared.counters.streams_out.add();
        Ok(stream)
    }

    /// Where a node is, from gossip, which has checked its identity: dials use
    /// these addresses and the hash table takes them. Replaces what was known.
    /// A node that turns out not to be admitted leaves the table again.
    pub fn learn(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        if node != self.shared.me {
            self.shared.book.learn(node, addresses);
            self.shared.wake.notify_one();
        }
    }

    /// Forgets a node's addresses and takes it out of the hash table. Links
    /// stay: they end by themselves if the node is gone.
    pub fn forget(&self, node: NodeId) {
        self.shared.book.forget(node);
        self.shared.wake.notify_one();
    }

    /// Dials an address whose node we don't know yet (seeds, the command line)
    /// and returns who answers, once both sides have admitted each other.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, address: SocketAddr, limit: Duration) -> Result<NodeId, DialError> {
        let dialled = self.dial_as(address, DialKind::Link);
        let dialled = within(limit, dialled, LinkError::Timeout).await?;
        Ok(dialled.node)
    }

    /// Sends a join or a renewal to the node at `address` and returns who
    /// answered and what. The payload leaves only after the other side has
    /// proven to be a node of our fleet and cluster: it holds the token's
    /// secret. That the other side does not admit us is no obstacle.
    ///
    /// # Errors
    /// [`JoinExchangeError`].
    pub async fn join_exchange(
        &self,
        address: SocketAddr,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<(NodeId, Vec<u8>), JoinExchangeError> {
        let exchange = async {
            exchange::check_size(payload.len(), JOIN_BYTES_MAX)?;
            let dialled = self.dial_as(address, DialKind::Join).await?;
            let stream = link::open(&dialled.opener, Protocol::Join).await;
            let mut stream = stream.map_err(|_| LinkError::Lost)?;
            let sizes = (JOIN_BYTES_MAX, JOIN_BYTES_MAX);
            let answer = exchange::exchange(&mut stream, &payload, sizes.0, sizes.1).await?;
            Ok((dialled.node, answer))
        };
        within(limit, exchange, ExchangeError::Timeout).await
    }

    /// The nodes closest to `key` in the hash table, nearest first, at most
    /// 20, ourselves included where we belong among them. Never empty.
    pub async fn closest(&self, key: [u8; 32]) -> Vec<NodeId> {
        let (answer, closest) = oneshot::channel();
        self.query(Command::Closest { key, answer }, closest)
            .await
            .unwrap_or_else(|| vec![self.shared.me])
    }

    /// Announces to the nodes closest to `key` that we provide it; repeated by
    /// itself every 12 h until [`Network::stop_providing`].
    ///
    /// # Errors
    /// [`ProvideError`].
    pub async fn provide(&self, key: [u8; 32]) -> Result<(), ProvideError> {
        let (answer, provided) = oneshot::channel();
        self.query(Command::Provide { key, answer }, provided)
            .await
            .unwrap_or(Err(ProvideError::Stopped))
    }

    /// Stops announcing `key`. Announcements made expire.
    pub async fn stop_providing(&self, key: [u8; 32]) {
        let _ = self.commands.send(Command::StopProviding { key }).await;
    }

    /// Who announced to provide `key`, in no order; at most 20 per holder.
    pub async fn providers(&self, key: [u8; 32]) -> Vec<NodeId> {
        let (answer, providers) = oneshot::channel();
        self.query(Command::Providers { key, answer }, providers)
            .await
            .unwrap_or_default()
    }

    /// Shows a new credential from now on, also on the links that exist.
    pub fn set_credential(&self, credential: Credential) {
        self.shared.gatekeeper.set_credential(credential);
        self.shared.wake.notify_one();
    }

    /// The certificate of a node that is not at the other end of a link, if it
    /// would be admitted with this credential.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check_node(
        &self,
        node: NodeId,
        credential: &NodeCredential,
    ) -> Result<NodeCertificate, Refusal> {
        self.shared.gatekeeper.check_node(node, credential)
    }

    /// Serial numbers of revoked certificates, all of them. Links of their
    /// holders are closed at once.
    pub fn set_revoked(&self, serials: BTreeSet<u64>) {
        self.shared.gatekeeper.set_revoked(serials);
        self.shared.wake.notify_one();
    }

    /// Everybody at the other end of a connection, a line per connection.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.links.infos()
    }

    /// Nodes that did not admit us when they were last asked, and why.
    pub fn refusals(&self) -> BTreeMap<NodeId, RefusalCode> {
        self.shared.refusers.all()
    }

    /// How many nodes admit us at this moment, and we them.
    pub fn admitted_by(&self) -> usize {
        self.shared.links.admitting()
    }

    /// Totals.
    pub fn counters(&self) -> Counters {
        self.shared.counters.read(self.shared.links.len())
    }

    /// Waits until the network has stopped and its address is free.
    pub async fn stopped(&self) {
        self.shared.ended.cancelled().await;
    }

    /// A new substream to `to`, over an existing link of the lane or a new one.
    async fn open(
        &self,
        to: NodeId,
        protocol: Protocol,
        lane: Lane,
    ) -> Result<(libp2p::Stream, Link), LinkError> {
        // Twice: a link may end between being found and being used, as when
        // the peer was restarted; the second round dials.
        for _ in 0..2 {
            if self.shared.links.ready(to, lane).is_none() {
                self.connect(to, lane).await?;
            }
            let Some(link) = self.shared.links.ready(to, lane) else {
                continue;
            };
            match link::open(&link.opener, protocol).await {
                // Its end is near: not to find it again.
                Err(LinkError::Lost) => {
                    let _ = tokio::time::timeout(LINK_END_LIMIT, link.opener.closed()).await;
                }
                Err(error) => return Err(error),
                Ok(stream) => return Ok((stream, link)),
            }
        }
        Err(LinkError::Lost)
    }

    async fn connect(&self, to: NodeId, lane: Lane) -> Result<(), LinkError> {
        let (answer, connected) = oneshot::channel();
        self.command(Command::Connect { to, lane, answer }).await?;
        connected.await.unwrap_or(Err(LinkError::Stopped))
    }

    async fn dial_as(&self, address: SocketAddr, kind: DialKind) -> Result<Dialled, LinkError> {
        let (answer, dialled) = oneshot::channel();
        let command = Command::Dial {
            address,
            kind,
            answer,
        };
        self.command(command).await?;
        dialled.await.unwrap_or(Err(LinkError::Stopped))
    }

    async fn command(&self, command: Command) -> Result<(), LinkError> {
        self.commands
            .send(command)
            .await
            .map_err(|_| LinkError::Stopped)
    }

    async fn query<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Option<T> {
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }
}

async fn within<T, E>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
    late: E,
) -> Result<T, E> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
}
