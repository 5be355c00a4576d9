//! A link is one connection: it admits the peer, opens substreams for callers
//! and hands inbound ones to whoever answers them.
//!
//! ```text
//! established ─▶ shows our credential, judges the peer's (in either order)
//!                   │                        │
//!                   ▼                        ▼
//!             peer admits us           we admit the peer
//!                   └────── both: ready ─────┘
//!   refused by either: the actor closes it, or leaves it for a join
//! ```
//!
//! Callers reach a link straight through its bounded `opener`, without a hop
//! over the swarm. What is asked on inbound substreams is answered by actors
//! of their own, at most [`SERVED_MAX`] of a kind per connection; no work is
//! done in the connection's own poll but admission.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, InboundUpgrade, OutboundUpgrade, transport::PortUse, upgrade::UpgradeInfo},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent,
        ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, StreamUpgradeError,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError},
    },
};
use potluck_specs::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    LinkError, Refusal, RefusalCode,
    admission::Verdict,
    exchange,
    gate::Gate,
    kept::Kept,
    peer,
    shared::{Link, Shared},
    stream,
};
use crate::spawn::spawn;

/// Substreams of requests, and likewise streams, of one connection that are
/// served at once, a few of them idle. A leader asks each node a handful; a
/// peer that fetches chunks opens some tens.
const SERVED_MAX: usize = 128;

/// Substreams being opened at once on one connection: half of what yamux lets
/// wait for the other side's acknowledgement.
const OPENING_MAX: usize = 128;

/// Callers waiting for one of them; more wait in their own `send`.
const OPENS_MAX: usize = 128;

/// Inbound connections of peers that are not admitted (yet): a whole rack that
/// comes back at once, and what a flood may cost us.
const STRANGERS_MAX: usize = 256;

/// How long each direction of admission may take on a working connection.
const ADMISSION_LIMIT: Duration = Duration::from_secs(10);

/// How often a peer may show credentials on one connection: it renews each ten
/// days. Each time costs us two signature checks.
const JUDGED_MAX: u32 = 1_000;

/// The protocols of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Admit,
    Join,
    Rpc,
    Stream,
}

impl Protocol {
    fn name(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Protocol::Admit => "/potluck/admit/1",
            Protocol::Join => "/potluck/join/1",
            Protocol::Rpc => "/potluck/rpc/1",
            Protocol::Stream => "/potluck/stream/1",
        })
    }
}

/// A caller wants a substream.
pub(super) struct Open {
    protocol: Protocol,
    answer: oneshot::Sender<Result<libp2p::Stream, LinkError>>,
}

/// Opens a substream on the link behind `opener`.
pub(super) async fn open(
    opener: &mpsc::Sender<Open>,
    protocol: Protocol,
) -> Result<libp2p::Stream, LinkError> {
    let (answer, opened) = oneshot::channel();
    let open = Open { protocol, answer };
    opener.send(open).await.map_err(|_| LinkError::Lost)?;
    opened.await.unwrap_or(Err(LinkError::Lost))
}

/// What happened to admission on a connection.
#[derive(Debug)]
pub(super) enum Event {
    /// We admit the peer.
    Admitted,
    /// We refuse the peer.
    Refused(Refusal),
    /// The peer admits us.
    AdmitsUs,
    /// The peer refuses us.
    RefusesUs(Refusal),
    /// Our credential could not be shown.
    NotShown(io::Error),
    /// The peer's could not be read.
    NotJudged(io::Error),
}

/// To a handler: show the credential again, it is a new one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show;

/// An [`Event`] and where.
#[derive(Debug)]
pub(super) struct LinkEvent {
    pub(super) node: NodeId,
    pub(super) connection: ConnectionId,
    pub(super) event: Event,
}

/// Makes a link of each connection and keeps the shared table of them.
pub(super) struct Behaviour {
    shared: Arc<Shared>,
    /// At most a few per connection; the swarm takes them at its next poll.
    events: VecDeque<ToSwarm<LinkEvent, Show>>,
}

impl Behaviour {
    pub(super) fn new(shared: Arc<Shared>) -> Behaviour {
        Behaviour {
            shared,
            events: VecDeque::new(),
        }
    }

    /// Has all links show our credential again.
    pub(super) fn show_again(&mut self) {
        for (node, link) in self.shared.links.all() {
            let Some(peer_id) = peer::peer_id(node) else {
                continue;
            };
            self.events.push_back(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(link.connection),
                event: Show,
            });
        }
    }

    fn handler(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        dialled: bool,
    ) -> Result<Handler, ConnectionDenied> {
        let node = peer::node_id(&peer)
            .ok_or_else(|| ConnectionDenied::new("the peer's key is not an Ed25519 key"))?;
        let address = peer::socket_address(address)
            .ok_or_else(|| ConnectionDenied::new("the peer's address is not TCP over IP"))?;
        if !dialled && self.shared.links.strangers() >= STRANGERS_MAX {
            return Err(ConnectionDenied::new("too many peers wait for admission"));
        }
        if self.shared.links.has_enough(node) {
            return Err(ConnectionDenied::new("enough connections with this node"));
        }
        let (opener, opens) = mpsc::channel(OPENS_MAX);
        let gate = Arc::new(Gate::default());
        let link = Link {
            connection,
            opener,
            kept: Arc::new(Kept::default()),
            gate: gate.clone(),
            address,
            dialled,
        };
        self.shared.links.add(node, link);
        Ok(Handler {
            shared: self.shared.clone(),
            node,
            address,
            gate,
            opens,
            opening: 0,
            show: ShowState::Due,
            judging: false,
            judged: 0,
            admission: FuturesUnordered::new(),
            requests: Arc::new(Semaphore::new(SERVED_MAX)),
            streams: Arc::new(Semaphore::new(SERVED_MAX)),
            joins: Arc::new(Semaphore::new(1)),
        })
    }

    fn remove(&self, peer: &PeerId, connection: ConnectionId) {
        if let Some(node) = peer::node_id(peer) {
            self.shared.links.remove(node, connection);
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = LinkEvent;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(connection, peer, remote, false)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let node = peer.as_ref().and_then(peer::node_id);
        let known = node.map(|node| self.shared.book.addresses(node));
        Ok(known
            .unwrap_or_default()
            .into_iter()
            .map(peer::multiaddr)
            .collect())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(connection, peer, address, true)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => self.remove(&peer_id, connection_id),
            // Denied by a behaviour that was asked after this one.
            FromSwarm::DialFailure(failure) => {
                if let Some(peer) = failure.peer_id {
                    self.remove(&peer, failure.connection_id);
                }
            }
            FromSwarm::ListenFailure(failure) => {
                if let Some(peer) = failure.peer_id {
                    self.remove(&peer, failure.connection_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if let Some(node) = peer::node_id(&peer) {
            self.events.push_back(ToSwarm::GenerateEvent(LinkEvent {
                node,
                connection,
                event,
            }));
        }
    }

    /// Needs no waker: events come from the swarm's own calls, after which it
    /// polls, and [`Behaviour::show_again`] is followed by a poll of the swarm.
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

/// Whether our credential has been shown on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShowState {
    Due,
    Underway,
    /// A new credential came while the old one was being shown.
    UnderwayAndDue,
    Done,
}

/// One connection's end of a [`Link`].
pub(super) struct Handler {
    shared: Arc<Shared>,
    node: NodeId,
    address: std::net::SocketAddr,
    gate: Arc<Gate>,
    opens: mpsc::Receiver<Open>,
    opening: usize,
    show: ShowState,
    judging: bool,
    judged: u32,
    /// At most one show and one judgement.
    admission: FuturesUnordered<BoxFuture<'static, Event>>,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    joins: Arc<Semaphore>,
}

impl Handler {
    fn show(&mut self, stream: libp2p::Stream) {
        let shared = self.shared.clone();
        let gate = self.gate.clone();
        self.admission.push(Box::pin(async move {
            match in_time(shared.gatekeeper.show(stream)).await {
                Ok(Verdict::Admitted) => {
                    gate.set_admits_us(true);
                    Event::AdmitsUs
                }
                Ok(Verdict::Refused(refusal)) => {
                    gate.set_admits_us(false);
                    Event::RefusesUs(refusal)
                }
                Err(error) => Event::NotShown(error),
            }
        }));
    }

    fn judge(&mut self, stream: libp2p::Stream) {
        if self.judging || self.judged == JUDGED_MAX {
            return; // Dropped, which the peer sees.
        }
        self.judging = true;
        self.judged += 1;
        let shared = self.shared.clone();
        let gate = self.gate.clone();
        let node = self.node;
        self.admission.push(Box::pin(async move {
            let judged = shared.gatekeeper.judge(node, stream, |checked| {
                let admitted = checked.and_then(|holder| shared.links.admit(node, &gate, holder));
                if admitted.is_err() {
                    gate.set_holder(None);
                }
                admitted
            });
            match in_time(judged).await {
                Ok(Ok(())) => Event::Admitted,
                Ok(Err(refusal)) => Event::Refused(refusal),
                Err(error) => Event::NotJudged(error),
            }
        }));
    }

    fn on_admission(&mut self, event: &Event) {
        match event {
            Event::Admitted | Event::Refused(_) | Event::NotJudged(_) => self.judging = false,
            Event::AdmitsUs | Event::RefusesUs(_) | Event::NotShown(_) => {
                self.show = match self.show {
                    ShowState::UnderwayAndDue => ShowState::Due,
                    _ => ShowState::Done,
                };
            }
        }
    }

    fn serve(&mut self, protocol: Protocol, stream: libp2p::Stream) {
        let shared = self.shared.clone();
        match protocol {
            Protocol::Admit => self.judge(stream),
            Protocol::Join => match self.joins.clone().try_acquire_owned() {
                Ok(permit) => {
                    let (node, address) = (self.node, self.address);
                    spawn("join", async move {
                        exchange::serve_join(shared, node, address, stream).await;
                        drop(permit);
                    });
                }
                Err(_) => drop(spawn("join", exchange::serve_busy(shared, stream))),
            },
            Protocol::Rpc => {
                let gate = self.gate.clone();
                match self.requests.clone().try_acquire_owned() {
                    Ok(permit) => {
                        spawn("request", async move {
                            exchange::serve_requests(shared, gate, stream).await;
                            drop(permit);
                        });
                    }
                    Err(_) => drop(spawn("request", exchange::serve_busy(shared, stream))),
                }
            }
            Protocol::Stream => {
                let Some(holder) = self.gate.holder() else {
                    return;
                };
                let permit = self.streams.clone().try_acquire_owned().ok();
                let gate = self.gate.clone();
                spawn(
                    "stream",
                    stream::serve(shared, gate, holder, stream, permit),
                );
            }
        }
    }

    fn on_dial_upgrade_error(&mut self, wanted: Wanted, error: StreamUpgradeError<Infallible>) {
        match wanted {
            Wanted::Show => {
                let error = io::Error::other(error.to_string());
                self.admission.push(Box::pin(ready(Event::NotShown(error))));
            }
            Wanted::Open(open) => {
                self.opening -= 1;
                let _ = open.answer.send(Err(match error {
                    StreamUpgradeError::Timeout => LinkError::Timeout,
                    StreamUpgradeError::NegotiationFailed => {
                        let text = "the peer does not serve this protocol to us";
                        LinkError::NotAdmitted(Refusal::new(RefusalCode::NotAllowed, text))
                    }
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::Io(_) => LinkError::Lost,
                }));
            }
        }
    }
}

async fn in_time<T>(admission: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(ADMISSION_LIMIT, admission)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What an outbound substream is for.
pub(super) enum Wanted {
    Show,
    Open(Open),
}

/// The protocols that are offered or asked for.
pub(super) struct Offer(&'static [Protocol]);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter =
        std::iter::Map<std::slice::Iter<'static, Protocol>, fn(&Protocol) -> Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().map(|protocol| protocol.name())
    }
}

impl InboundUpgrade<libp2p::Stream> for Offer {
    type Output = (Protocol, libp2p::Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, name: StreamProtocol) -> Self::Future {
        let protocol = self.0.iter().find(|protocol| protocol.name() == name);
        let protocol = *protocol.expect("one of those that were offered was negotiated");
        ready(Ok((protocol, stream)))
    }
}

impl OutboundUpgrade<libp2p::Stream> for Offer {
    type Output = libp2p::Stream;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: libp2p::Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

impl Protocol {
    fn alone(self) -> Offer {
        Offer(match self {
            Protocol::Admit => &[Protocol::Admit],
            Protocol::Join => &[Protocol::Join],
            Protocol::Rpc => &[Protocol::Rpc],
            Protocol::Stream => &[Protocol::Stream],
        })
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Show;
    type ToBehaviour = Event;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Wanted;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let offer: &[Protocol] = if self.gate.admits_node() {
            &[
                Protocol::Rpc,
                Protocol::Stream,
                Protocol::Admit,
                Protocol::Join,
            ]
        } else if self.gate.holder().is_some() {
            &[Protocol::Stream, Protocol::Admit]
        } else {
            &[Protocol::Admit, Protocol::Join]
        };
        SubstreamProtocol::new(Offer(offer), ())
    }

    fn on_behaviour_event(&mut self, _: Show) {
        self.show = match self.show {
            ShowState::Due | ShowState::Done => ShowState::Due,
            ShowState::Underway | ShowState::UnderwayAndDue => ShowState::UnderwayAndDue,
        };
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, Wanted, Event>> {
        if let Poll::Ready(Some(event)) = self.admission.poll_next_unpin(cx) {
            self.on_admission(&event);
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if self.show == ShowState::Due {
            self.show = ShowState::Underway;
            let protocol = SubstreamProtocol::new(Protocol::Admit.alone(), Wanted::Show);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        while self.opening < OPENING_MAX {
            match self.opens.poll_recv(cx) {
                Poll::Ready(Some(open)) if open.answer.is_closed() => continue,
                Poll::Ready(Some(open)) => {
                    self.opening += 1;
                    let offer = open.protocol.alone();
                    let protocol = SubstreamProtocol::new(offer, Wanted::Open(open));
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                        protocol,
                    });
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Offer, Offer, (), Wanted>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => {
                let (protocol, stream) = inbound.protocol;
                self.serve(protocol, stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => match outbound.info {
                Wanted::Show => self.show(outbound.protocol),
                Wanted::Open(open) => {
                    self.opening -= 1;
                    // Nobody waits any more: dropped, which the peer sees.
                    let _ = open.answer.send(Ok(outbound.protocol));
                }
            },
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_dial_upgrade_error(info, error);
            }
            _ => {}
        }
    }
}
