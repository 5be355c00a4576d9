//! The swarm actor: owns the libp2p swarm, dials, keeps links honest and runs
//! look-ups in the hash table.
//!
//! In: [`Command`]s from handles, what the book and the gatekeeper say changed
//! (`shared.wake`), events of the swarm, a tick a second. Out: answers to the
//! commands. It waits for nothing but these. When its token is cancelled it
//! drops the swarm, and with it all connections; whoever still waits for an
//! answer hears `Stopped`.
//!
//! Requests and streams on existing links do not pass through here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    PeerId, StreamProtocol, Swarm, Transport,
    connection_limits::{self, ConnectionLimits},
    core::upgrade::Version,
    kad::{
        self, GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, KBucketKey, QueryId,
        QueryResult, RecordKey,
        store::{MemoryStore, MemoryStoreConfig, RecordStore},
    },
    noise, ping,
    swarm::{
        ConnectionId, DialError as SwarmDialError, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use potluck_specs::{FleetId, NodeId};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inbound, LinkError, Network, NetworkConfig, ProvideError, StartError,
    admission::Gatekeeper,
    gate::{Gated, Lane},
    link::{self, Event, LinkEvent, Open},
    peer,
    shared::{self, Book, Links, Refusers, Shared, Totals},
};
use crate::spawn::spawn;

/// Commands that wait for the actor, which needs microseconds for each; more
/// wait in their own `send`.
const COMMANDS_MAX: usize = 256;

/// Requests that wait to be handled: two heartbeats of each of 500 nodes after
/// a pause. Their callers hear `busy` beyond.
const REQUESTS_MAX: usize = 1_024;

/// Streams accepted but not picked up yet: each costs its window, 256 KiB.
const STREAMS_MAX: usize = 64;

/// Joins that wait: each costs the log an entry.
const JOINS_MAX: usize = 16;

/// Connections of all peers: a leader's links to a cluster of 1,000.
const CONNECTIONS_MAX: u32 = 2_048;

/// Connections of one key, whoever it is: twice what a person may have (see
/// `link`), so that the next one too hears why it is refused.
const CONNECTIONS_PER_KEY_MAX: u32 = 2 * shared::CONNECTIONS_PER_PERSON_MAX as u32;

/// Handshakes in progress, each way: what a flood may cost in file descriptors.
const PENDING_MAX: u32 = 256;

/// From the first packet to the end of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Links without traffic are closed after this; dialling again is cheap.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// Admission on a link that we dialled.
const ADMISSION_LIMIT: Duration = Duration::from_secs(10);

/// A connection of a peer that is not admitted: time to join, which may wait
/// for a leader.
const STRANGER_LIMIT: Duration = Duration::from_secs(60);

/// How often links are tried. A partition without resets is noticed, and its
/// links closed, so that nobody waits for TCP's backoff after it heals.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a ping may take.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// How often certificates of existing links are checked again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Inbound substreams being negotiated on one connection.
const NEGOTIATING_MAX: usize = 256;

/// Callers that wait for a link to one peer.
const WAITERS_MAX: usize = 1_024;

/// Nodes that keep a record; 5 lost look-ups when measured.
const REPLICATION: usize = 20;

/// Half of a cluster of 2,000 falls into the widest bucket, and with a full
/// table each look-up is one hop.
const BUCKET_MAX: usize = 1_024;

/// A look-up dials and asks some peers; dead ones must not hold it for long.
const QUERY_LIMIT: Duration = Duration::from_secs(5);

/// Look-ups at once.
const QUERIES_MAX: usize = 256;

/// Keys for which we keep providers: one per package and cluster.
const PROVIDED_KEYS_MAX: usize = 16_384;

/// What handles ask of the actor.
pub(super) enum Command {
    Connect {
        to: NodeId,
        lane: Lane,
        answer: oneshot::Sender<Result<(), LinkError>>,
    },
    Dial {
        address: SocketAddr,
        kind: DialKind,
        answer: oneshot::Sender<Result<Dialled, LinkError>>,
    },
    Closest {
        key: [u8; 32],
        answer: oneshot::Sender<Vec<NodeId>>,
    },
    Provide {
        key: [u8; 32],
        answer: oneshot::Sender<Result<(), ProvideError>>,
    },
    StopProviding {
        key: [u8; 32],
    },
    Providers {
        key: [u8; 32],
        answer: oneshot::Sender<Vec<NodeId>>,
    },
}

/// What a dialled connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialKind {
    /// Both sides must admit each other.
    Link,
    /// It is enough that we admit the peer: it may not know us yet.
    Join,
}

/// A connection that serves its purpose.
pub(super) struct Dialled {
    pub(super) node: NodeId,
    pub(super) opener: mpsc::Sender<Open>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    /// Before all that is gated: it makes the gates.
    link: link::Behaviour,
    kad: Gated<kad::Behaviour<MemoryStore>>,
    ping: Gated<ping::Behaviour>,
}

/// Starts the actor; returns once the address is listened on.
pub(super) async fn start(
    config: NetworkConfig,
    token: CancellationToken,
) -> Result<(Network, Inbound), StartError> {
    let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
    let (streams, streams_in) = mpsc::channel(STREAMS_MAX);
    let (joins, joins_in) = mpsc::channel(JOINS_MAX);
    let gatekeeper = Gatekeeper::new(
        config.fleet,
        config.cluster,
        config.grace,
        config.credential,
    );
    let shared = Arc::new(Shared {
        me: config.key.node(),
        gatekeeper,
        links: Links::default(),
        book: Book::default(),
        requests,
        streams,
        joins,
        refusers: Refusers::default(),
        counters: Totals::default(),
        local_address: OnceLock::new(),
        wake: Notify::new(),
        ended: CancellationToken::new(),
    });
    let keys = peer::keypair(&config.key);
    let mut swarm = swarm(&keys, config.fleet, &shared)?;
    if let Some(address) = config.listen {
        let listening = listen(&mut swarm, address).await?;
        let _ = shared.local_address.set(listening);
    }
    let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
    let actor = Actor {
        swarm,
        shared: shared.clone(),
        waiters: BTreeMap::new(),
        dialling: HashMap::new(),
        dials: HashMap::new(),
        joins: BTreeSet::new(),
        unsettled: HashMap::new(),
        queries: HashMap::new(),
        checked: Instant::now(),
    };
    spawn("network", actor.run(commands_in, token));
    let network = Network { shared, commands };
    let inbound = Inbound {
        requests: requests_in,
        streams: streams_in,
        joins: joins_in,
    };
    Ok((network, inbound))
}

fn swarm(
    keys: &libp2p::identity::Keypair,
    fleet: FleetId,
    shared: &Arc<Shared>,
) -> Result<Swarm<Behaviour>, StartError> {
    let noise = noise::Config::new(keys)
        .map_err(|error| StartError::Transport(error.to_string()))?
        .with_prologue(fleet.0.to_vec());
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_LIMIT)
        .boxed();
    let me = keys.public().to_peer_id();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_KEY_MAX))
        .with_max_established(Some(CONNECTIONS_MAX));
    let ping = ping::Config::new()
        .with_interval(PING_INTERVAL)
        .with_timeout(PING_LIMIT);
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        link: link::Behaviour::new(shared.clone()),
        kad: Gated::new(hash_table(me, fleet), shared.clone()),
        ping: Gated::new(ping::Behaviour::new(ping), shared.clone()),
    };
    let config = libp2p::swarm::Config::with_executor(|connection| {
        spawn("connection", connection);
    })
    .with_idle_connection_timeout(IDLE_LIMIT)
    .with_max_negotiating_inbound_streams(NEGOTIATING_MAX);
    Ok(Swarm::new(transport, behaviour, me, config))
}

fn hash_table(me: PeerId, fleet: FleetId) -> kad::Behaviour<MemoryStore> {
    let name = format!("/potluck/kad/1/{}", fleet.to_hex());
    let name = StreamProtocol::try_from_owned(name).expect("it begins with a slash");
    let some = |number| NonZeroUsize::new(number).expect("constants above zero");
    let mut config = kad::Config::new(name);
    config
        .set_replication_factor(some(REPLICATION))
        .set_kbucket_size(some(BUCKET_MAX))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(None)
        .set_query_timeout(QUERY_LIMIT);
    let store = MemoryStoreConfig {
        max_records: 0,
        max_provided_keys: PROVIDED_KEYS_MAX,
        ..MemoryStoreConfig::default()
    };
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

async fn listen(
    swarm: &mut Swarm<Behaviour>,
    address: SocketAddr,
) -> Result<SocketAddr, StartError> {
    let refuse = |source| StartError::Listen { address, source };
    if address.port() != 0 {
        // libp2p listens with SO_REUSEPORT: two nodes on one address would
        // share its connections, and neither would know.
        drop(TcpListener::bind(address).map_err(refuse)?);
    }
    swarm
        .listen_on(peer::multiaddr(address))
        .map_err(|error| refuse(io::Error::other(error)))?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address: at, .. } => {
                let port = peer::socket_address(&at).map_or(address.port(), |at| at.port());
                return Ok(SocketAddr::new(address.ip(), port));
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                let ended = || io::Error::other("the listener ended");
                return Err(refuse(reason.err().unwrap_or_else(ended)));
            }
            SwarmEvent::ListenerError { error, .. } => return Err(refuse(error)),
            _ => {}
        }
    }
}

struct PendingDial {
    kind: DialKind,
    address: SocketAddr,
    answer: oneshot::Sender<Result<Dialled, LinkError>>,
}

enum Query {
    Closest {
        key: [u8; 32],
        answer: oneshot::Sender<Vec<NodeId>>,
    },
    Provide(oneshot::Sender<Result<(), ProvideError>>),
    Providers {
        found: BTreeSet<NodeId>,
        answer: oneshot::Sender<Vec<NodeId>>,
    },
}

/// A connection whose admission is not decided.
struct Unsettled {
    node: NodeId,
    lane: Lane,
    since: Instant,
    dialled: bool,
    /// By one side or the other: it may still join, nothing else.
    refused: bool,
}

/// A caller that waits for a link.
type Waiter = oneshot::Sender<Result<(), LinkError>>;

struct Actor {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    /// Callers that wait for a link. Each wait ends with the link's readiness,
    /// refusal or end, or with the dial's failure.
    waiters: BTreeMap<(NodeId, Lane), VecDeque<Waiter>>,
    /// Our dials for waiters, until they are connections or have failed.
    dialling: HashMap<ConnectionId, (NodeId, Lane)>,
    dials: HashMap<ConnectionId, PendingDial>,
    /// Connections that were dialled for a join.
    joins: BTreeSet<ConnectionId>,
    unsettled: HashMap<ConnectionId, Unsettled>,
    queries: HashMap<QueryId, Query>,
    /// When certificates were checked last.
    checked: Instant,
}

impl Actor {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, token: CancellationToken) {
        let shared = self.shared.clone();
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = commands.recv() => self.on_command(command),
                () = shared.wake.notified() => self.on_wake(),
                _ = tick.tick() => self.on_tick(),
            }
        }
        drop(self);
        shared.ended.cancel();
    }

    fn on_command(&mut self, command: Command) {
        // What the caller told before it asked comes first.
        self.on_wake();
        match command {
            Command::Connect { to, lane, answer } => self.connect(to, lane, answer),
            Command::Dial {
                address,
                kind,
                answer,
            } => self.dial(address, kind, answer),
            Command::Closest { key, answer } => {
                if self.queries.len() < QUERIES_MAX {
                    let id = self.kad().get_closest_peers(key.to_vec());
                    self.queries.insert(id, Query::Closest { key, answer });
                }
            }
            Command::Provide { key, answer } => self.provide(key, answer),
            Command::StopProviding { key } => self.kad().stop_providing(&RecordKey::new(&key)),
            Command::Providers { key, answer } => {
                if self.queries.len() < QUERIES_MAX {
                    let id = self.kad().get_providers(RecordKey::new(&key));
                    let found = BTreeSet::new();
                    self.queries.insert(id, Query::Providers { found, answer });
                }
            }
        }
    }

    fn kad(&mut self) -> &mut kad::Behaviour<MemoryStore> {
        &mut self.swarm.behaviour_mut().kad.inner
    }

    fn connect(&mut self, to: NodeId, lane: Lane, answer: oneshot::Sender<Result<(), LinkError>>) {
        if self.shared.links.ready(to, lane).is_some() {
            let _ = answer.send(Ok(()));
            return;
        }
        let waiting = self.waiters.entry((to, lane)).or_default();
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.len() >= WAITERS_MAX {
            let _ = answer.send(Err(LinkError::Busy));
            return;
        }
        waiting.push_back(answer);
        if !self.is_on_its_way(to, lane) {
            self.dial_node(to, lane);
        }
    }

    /// Is there a dial, or a link that is being admitted? Its readiness,
    /// refusal or end answers those who wait.
    fn is_on_its_way(&self, node: NodeId, lane: Lane) -> bool {
        let mut unsettled = self.unsettled.iter();
        self.dialling.values().any(|dial| *dial == (node, lane))
            || unsettled.any(|(connection, unsettled)| {
                (unsettled.node, unsettled.lane) == (node, lane)
                    && !unsettled.refused
                    && !self.joins.contains(connection)
            })
    }

    fn dial_node(&mut self, to: NodeId, lane: Lane) {
        let dialled = match peer::peer_id(to) {
            Some(peer) => {
                // Whatever links exist, they are not of this lane or refused.
                // Addresses come from the book, through `link::Behaviour`. A
                // new port: see `Gated`.
                let opts = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .allocate_new_port()
                    .build();
                let connection = opts.connection_id();
                self.swarm.dial(opts).map(|()| connection)
            }
            None => Err(SwarmDialError::NoAddresses),
        };
        match dialled {
            Ok(connection) => {
                self.dialling.insert(connection, (to, lane));
            }
            Err(error) => {
                let error = link_error(to, &error);
                self.answer_waiters(to, lane, &Err(error));
            }
        }
    }

    fn dial(
        &mut self,
        address: SocketAddr,
        kind: DialKind,
        answer: oneshot::Sender<Result<Dialled, LinkError>>,
    ) {
        let opts = DialOpts::unknown_peer_id()
            .address(peer::multiaddr(address))
            .allocate_new_port()
            .build();
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                let dial = PendingDial {
                    kind,
                    address,
                    answer,
                };
                self.dials.insert(connection, dial);
                if kind == DialKind::Join {
                    self.joins.insert(connection);
                }
            }
            Err(error) => {
                let _ = answer.send(Err(dial_error(&error)));
            }
        }
    }

    fn provide(&mut self, key: [u8; 32], answer: oneshot::Sender<Result<(), ProvideError>>) {
        if self.queries.len() >= QUERIES_MAX {
            let _ = answer.send(Err(ProvideError::Busy));
            return;
        }
        match self.kad().start_providing(RecordKey::new(&key)) {
            Ok(id) => {
                self.queries.insert(id, Query::Provide(answer));
            }
            Err(_) => {
                let _ = answer.send(Err(ProvideError::TooMany(PROVIDED_KEYS_MAX)));
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Link(event)) => self.on_link(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Limits(never)) => match never {},
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let dialled_for = self.dialling.remove(&connection_id);
                if let Some(node) = peer::node_id(&peer_id) {
                    let lane = dialled_for.map_or(Lane::Control, |(_, lane)| lane);
                    if let Some(link) = self.shared.links.get(node, connection_id) {
                        link.gate.set_lane(lane);
                    }
                    let unsettled = Unsettled {
                        node,
                        lane,
                        since: Instant::now(),
                        dialled: endpoint.is_dialer(),
                        refused: false,
                    };
                    self.unsettled.insert(connection_id, unsettled);
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_closed(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => self.on_dial_failed(connection_id, &error),
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => {
                tracing::debug!(from = %send_back_addr, %error, "inbound connection failed");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listener failed for a moment");
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(?reason, "listener ended");
            }
            _ => {}
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        let LinkEvent {
            node,
            connection,
            event,
        } = event;
        match event {
            Event::Admitted => {
                if self.dial_kind(connection) == Some(DialKind::Join) {
                    self.answer_dial(node, connection, Ok(()));
                }
                self.on_progress(node, connection);
            }
            Event::AdmitsUs => {
                self.shared.refusers.admitted(node);
                self.on_progress(node, connection);
            }
            Event::Refused(refusal) => {
                // Strangers can cause as many of these as they like.
                tracing::debug!(%node, ?refusal.code, why = %refusal, "peer refused");
                self.shared.counters.refused.add();
                self.fail(node, connection, &LinkError::Untrusted(refusal));
            }
            Event::RefusesUs(refusal) => {
                if self.joins.contains(&connection) {
                    return; // As expected.
                }
                tracing::info!(%node, ?refusal.code, why = %refusal, "refused by peer");
                self.shared.refusers.refused(node, refusal.code);
                self.fail(node, connection, &LinkError::NotAdmitted(refusal));
            }
            Event::NotShown(error) | Event::NotJudged(error) => {
                tracing::debug!(%node, %error, "admission broke off");
                let link = self.shared.links.get(node, connection);
                if link.is_some_and(|link| !link.gate.is_ready()) {
                    self.fail(node, connection, &LinkError::Lost);
                }
            }
        }
    }

    /// One direction of admission succeeded.
    fn on_progress(&mut self, node: NodeId, connection: ConnectionId) {
        let Some(link) = self.shared.links.get(node, connection) else {
            return;
        };
        // A user is never ready for us, and needs not be.
        let admitted_user = !link.gate.admits_node() && link.gate.holder().is_some();
        if link.gate.is_ready() || admitted_user {
            self.unsettled.remove(&connection);
        }
        if link.gate.is_ready() {
            self.answer_waiters(node, link.gate.lane(), &Ok(()));
            self.answer_dial(node, connection, Ok(()));
            // The table may have dropped it when it could not be dialled.
            self.shared.book.repeat(node);
            self.on_wake();
        }
    }

    fn fail(&mut self, node: NodeId, connection: ConnectionId, error: &LinkError) {
        let link = self.shared.links.get(node, connection);
        if let Some(unsettled) = self.unsettled.get_mut(&connection) {
            unsettled.refused = true;
        }
        // What one link hears, the other would hear.
        for lane in [Lane::Control, Lane::Bulk] {
            self.answer_waiters(node, lane, &Err(error.clone()));
        }
        self.answer_dial(node, connection, Err(error.clone()));
        if let Some(peer) = peer::peer_id(node) {
            self.kad().remove_peer(&peer);
        }
        let dialled = link.is_none_or(|link| link.dialled);
        // An inbound one may still join; the tick ends it if it does not.
        let may_join = matches!(error, LinkError::Untrusted(_) | LinkError::Lost);
        if dialled || !may_join {
            self.swarm.close_connection(connection);
        }
    }

    fn on_closed(&mut self, peer: &PeerId, connection: ConnectionId) {
        let unsettled = self.unsettled.remove(&connection);
        self.joins.remove(&connection);
        let Some(node) = peer::node_id(peer) else {
            return;
        };
        self.answer_dial(node, connection, Err(LinkError::Lost));
        let lane = unsettled.as_ref().map_or(Lane::Control, |u| u.lane);
        if !self.waiters.contains_key(&(node, lane)) || self.is_on_its_way(node, lane) {
            return;
        }
        // Whoever waited for the peer's own dial to succeed has not had ours.
        match unsettled {
            Some(unsettled) if unsettled.dialled => {
                self.answer_waiters(node, lane, &Err(LinkError::Lost));
            }
            _ => self.dial_node(node, lane),
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &SwarmDialError) {
        self.joins.remove(&connection);
        if let Some(dial) = self.dials.remove(&connection) {
            let error = dial_error(error);
            let _ = dial.answer.send(Err(error));
        }
        if let Some((node, lane)) = self.dialling.remove(&connection)
            && !self.is_on_its_way(node, lane)
        {
            self.answer_waiters(node, lane, &Err(link_error(node, error)));
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        // A user's process is refused pings, and needs none: its streams tell.
        if let Err(error @ (ping::Failure::Timeout | ping::Failure::Other { .. })) = event.result {
            tracing::info!(peer = %event.peer, %error, "link does not answer, closing it");
            self.swarm.close_connection(event.connection);
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request:
                    kad::InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => {
                // kad has checked that the provider is who sent it. Without
                // addresses: we know those from gossip.
                let record = kad::ProviderRecord {
                    addresses: Vec::new(),
                    ..record
                };
                if let Err(error) = self.kad().store_mut().add_provider(record) {
                    tracing::debug!(%error, "provider record not kept");
                }
            }
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => self.on_query(id, result, step.last),
            // Records are never put: kad can't refuse an older one.
            _ => {}
        }
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        if let QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) =
            &result
            && let Some(Query::Providers { found, .. }) = self.queries.get_mut(&id)
        {
            found.extend(providers.iter().filter_map(peer::node_id));
        }
        if !last {
            return;
        }
        match (self.queries.remove(&id), result) {
            (Some(Query::Closest { key, answer }), QueryResult::GetClosestPeers(result)) => {
                let (Ok(GetClosestPeersOk { peers, .. })
                | Err(GetClosestPeersError::Timeout { peers, .. })) = result;
                let peers = peers.into_iter().map(|peer| peer.peer_id);
                let _ = answer.send(self.nearest(key, peers.collect()));
            }
            (Some(Query::Provide(answer)), QueryResult::StartProviding(result)) => {
                let _ = answer.send(result.map(drop).map_err(|_| ProvideError::Timeout));
            }
            (Some(Query::Providers { found, answer }), _) => {
                let _ = answer.send(found.into_iter().collect());
            }
            // Its own: bootstrap, repeated announcements.
            _ => {}
        }
    }

    /// The nearest of `peers` and ourselves to `key`.
    fn nearest(&self, key: [u8; 32], mut peers: Vec<PeerId>) -> Vec<NodeId> {
        let key = KBucketKey::new(key.to_vec());
        peers.push(*self.swarm.local_peer_id());
        peers.sort_by_key(|peer| KBucketKey::from(*peer).distance(&key));
        peers.dedup();
        peers.truncate(REPLICATION);
        peers.iter().filter_map(peer::node_id).collect()
    }

    /// The book or the gatekeeper changed.
    fn on_wake(&mut self) {
        for (node, addresses) in self.shared.book.take_changes() {
            let Some(peer) = peer::peer_id(node) else {
                tracing::warn!(node = %node.to_hex(), "learned of a node whose id is no key");
                continue;
            };
            if addresses.is_empty() {
                self.kad().remove_peer(&peer);
            }
            for address in addresses {
                self.kad().add_address(&peer, peer::multiaddr(address));
            }
        }
        if self.shared.gatekeeper.take_credential_changed() {
            self.swarm.behaviour_mut().link.show_again();
        }
        if self.shared.gatekeeper.take_revoked_changed() {
            self.check_links();
        }
    }

    fn on_tick(&mut self) {
        self.waiters.retain(|_, waiting| {
            waiting.retain(|waiter| !waiter.is_closed());
            !waiting.is_empty()
        });
        let late = self.unsettled.iter().filter_map(|(connection, unsettled)| {
            let limit = if unsettled.dialled && !self.joins.contains(connection) {
                ADMISSION_LIMIT
            } else {
                STRANGER_LIMIT
            };
            (unsettled.since.elapsed() > limit).then_some(*connection)
        });
        for connection in late.collect::<Vec<_>>() {
            self.unsettled.remove(&connection);
            self.swarm.close_connection(connection);
        }
        if self.checked.elapsed() > RECHECK_INTERVAL {
            self.check_links();
        }
    }

    /// Closes the links whose holders are no longer admitted. They hear why
    /// when they come back.
    fn check_links(&mut self) {
        self.checked = Instant::now();
        for (node, link) in self.shared.links.all() {
            let Some(holder) = link.gate.holder() else {
                continue;
            };
            if let Err(refusal) = self.shared.gatekeeper.check_again(&holder) {
                tracing::info!(%node, ?refusal.code, why = %refusal, "link closed");
                self.shared.counters.refused.add();
                link.gate.set_holder(None);
                self.fail(node, link.connection, &LinkError::Untrusted(refusal));
                self.swarm.close_connection(link.connection);
            }
        }
    }

    fn dial_kind(&self, connection: ConnectionId) -> Option<DialKind> {
        Some(self.dials.get(&connection)?.kind)
    }

    fn answer_dial(
        &mut self,
        node: NodeId,
        connection: ConnectionId,
        result: Result<(), LinkError>,
    ) {
        let Some(dial) = self.dials.remove(&connection) else {
            return;
        };
        let link = self.shared.links.get(node, connection);
        let answer = result.and_then(|()| match link {
            Some(link) => Ok(Dialled {
                node,
                opener: link.opener,
            }),
            None => Err(LinkError::Lost),
        });
        // A seed: gossip may not have told of it yet.
        if answer.is_ok() && self.shared.book.addresses(node).is_empty() {
            self.shared.book.learn(node, vec![dial.address]);
        }
        let _ = dial.answer.send(answer);
    }

    fn answer_waiters(&mut self, node: NodeId, lane: Lane, result: &Result<(), LinkError>) {
        for waiter in self.waiters.remove(&(node, lane)).into_iter().flatten() {
            let _ = waiter.send(result.clone());
        }
    }
}

fn link_error(node: NodeId, error: &SwarmDialError) -> LinkError {
    match error {
        SwarmDialError::NoAddresses => LinkError::NoAddress(node),
        error => dial_error(error),
    }
}

/// Why a dial failed.
fn dial_error(error: &SwarmDialError) -> LinkError {
    match error {
        // What Noise says when the prologues, our fleet ids, differ.
        SwarmDialError::Transport(attempts)
            if attempts
                .iter()
                .all(|(_, error)| innermost(error) == "decrypt error") =>
        {
            LinkError::OtherFleet
        }
        error => LinkError::Unreachable(describe(error)),
    }
}

/// libp2p's own text repeats its causes or hides them.
fn describe(error: &SwarmDialError) -> String {
    match error {
        SwarmDialError::Transport(attempts) => {
            let each = attempts.iter().map(|(address, error)| {
                let address = peer::socket_address(address)
                    .map_or_else(|| address.to_string(), |address| address.to_string());
                format!("{address}: {}", innermost(error))
            });
            // Two attempts at one address fail alike.
            let each: std::collections::BTreeSet<String> = each.collect();
            each.into_iter().collect::<Vec<_>>().join(", ")
        }
        SwarmDialError::WrongPeerId { address, .. } => {
            format!("another node answers at {address}")
        }
        SwarmDialError::LocalPeerId { .. } => "the address is this node's own".into(),
        SwarmDialError::Denied { cause } => innermost(cause),
        error => innermost(error),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
