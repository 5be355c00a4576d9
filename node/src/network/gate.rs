//! What admission opens: a gate per connection, and a wrapper that keeps any
//! libp2p behaviour behind it.
//!
//! ```text
//! Gate:   closed ──peer's credential holds──▶ admits ──peer admits us──▶ ready
//!            ▲                                  │                          │
//!            └───── revoked, ended (the connection is closed) ◀────────────┘
//! ```
//!
//! Behind the gate ([`Gated`]) inbound substreams of the inner protocols are
//! not even negotiated before the gate admits a node, and the inner handler
//! starts nothing before it is ready.

use std::{
    option,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse, upgrade::UpgradeInfo},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, Stream, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
        dial_opts::DialOpts,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
            InboundUpgradeSend, ListenUpgradeError, UpgradeInfoSend,
        },
    },
};
use potluck_specs::NodeId;

use super::{Holder, peer, shared::Shared};

/// What a connection is used for: bulk has its own, or requests would wait
/// behind it (29 ms in the median beside eight streams at full speed, when
/// measured; heartbeats are due each 100).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Requests, joins, logs and the API.
    Control,
    /// Chunks and snapshots.
    Bulk,
}

/// What is open on one connection.
#[derive(Default)]
pub(super) struct Gate {
    holder: RwLock<Option<Arc<Holder>>>,
    admits_us: AtomicBool,
    bulk: AtomicBool,
}

impl Gate {
    /// Whom we admitted.
    pub(super) fn holder(&self) -> Option<Arc<Holder>> {
        self.holder.read().expect("no holder panics").clone()
    }

    pub(super) fn set_holder(&self, holder: Option<Holder>) {
        *self.holder.write().expect("no holder panics") = holder.map(Arc::new);
    }

    pub(super) fn set_admits_us(&self, admits: bool) {
        self.admits_us.store(admits, Ordering::Release);
    }

    /// Set by the side that dialled for it, and by the other when it accepts
    /// the first stream of the kind.
    pub(super) fn set_lane(&self, lane: Lane) {
        self.bulk.store(lane == Lane::Bulk, Ordering::Relaxed);
    }

    pub(super) fn lane(&self) -> Lane {
        match self.bulk.load(Ordering::Relaxed) {
            true => Lane::Bulk,
            false => Lane::Control,
        }
    }

    /// We admitted a node: it may use everything.
    pub(super) fn admits_node(&self) -> bool {
        let holder = self.holder.read().expect("no holder panics");
        matches!(holder.as_deref(), Some(Holder::Node(_)))
    }

    /// Both have admitted each other, and the peer is a node: we may use it.
    pub(super) fn is_ready(&self) -> bool {
        self.admits_us.load(Ordering::Acquire) && self.admits_node()
    }
}

/// A behaviour that is served to admitted nodes only, and whose dials never
/// reuse the listening port: two nodes that dial each other from listening
/// ports may meet in one TCP connection on which both are the dialler.
///
/// Comes after `link::Behaviour`, which makes the gates.
pub(super) struct Gated<B> {
    pub(super) inner: B,
    shared: Arc<Shared>,
}

impl<B> Gated<B> {
    pub(super) fn new(inner: B, shared: Arc<Shared>) -> Gated<B> {
        Gated { inner, shared }
    }

    fn gate(&self, peer: &PeerId, connection: ConnectionId) -> Result<Arc<Gate>, ConnectionDenied> {
        let link = peer::node_id(peer).and_then(|node| self.link(node, connection));
        link.ok_or_else(|| ConnectionDenied::new("no gate was made for this connection"))
    }

    fn link(&self, node: NodeId, connection: ConnectionId) -> Option<Arc<Gate>> {
        Some(self.shared.links.get(node, connection)?.gate)
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = GatedHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let gate = self.gate(&peer, connection)?;
        let inner = self
            .inner
            .handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(GatedHandler { inner, gate })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let gate = self.gate(&peer, connection)?;
        let inner = self
            .inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)?;
        Ok(GatedHandler { inner, gate })
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let event = std::task::ready!(self.inner.poll(cx));
        Poll::Ready(match event {
            ToSwarm::Dial { opts } => ToSwarm::Dial {
                opts: from_new_port(opts),
            },
            other => other,
        })
    }
}

fn from_new_port(opts: DialOpts) -> DialOpts {
    match opts.get_peer_id() {
        Some(peer) => DialOpts::peer_id(peer).allocate_new_port().build(),
        None => opts,
    }
}

/// The inner behaviour's handler behind the connection's gate.
pub(super) struct GatedHandler<H> {
    inner: H,
    gate: Arc<Gate>,
}

/// The inner upgrade, or none: then no protocol is offered.
pub(super) struct GatedUpgrade<U>(Option<U>);

impl<U: UpgradeInfoSend> UpgradeInfo for GatedUpgrade<U> {
    type Info = U::Info;
    type InfoIter = std::iter::Flatten<option::IntoIter<U::InfoIter>>;

    fn protocol_info(&self) -> Self::InfoIter {
        let offered = self.0.as_ref().map(UpgradeInfoSend::protocol_info);
        offered.into_iter().flatten()
    }
}

impl<U: InboundUpgradeSend> libp2p::core::InboundUpgrade<Stream> for GatedUpgrade<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_inbound(self, stream: Stream, info: Self::Info) -> Self::Future {
        self.0
            .expect("nothing is offered while the gate is closed, so nothing is negotiated")
            .upgrade_inbound(stream, info)
    }
}

impl<H: ConnectionHandler> ConnectionHandler for GatedHandler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = GatedUpgrade<H::InboundProtocol>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        let open = self.gate.admits_node();
        self.inner
            .listen_protocol()
            .map_upgrade(|upgrade| GatedUpgrade(open.then_some(upgrade)))
    }

    fn connection_keep_alive(&self) -> bool {
        self.gate.is_ready() && self.inner.connection_keep_alive()
    }

    /// Not woken by the gate itself: it changes only in the poll of
    /// `link::Handler` on the same connection, which then reports an event, so
    /// that all handlers are polled again.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        if !self.gate.is_ready() {
            return Poll::Pending;
        }
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        // The same events, typed by the inner upgrade.
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info,
            }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })
            }
            ConnectionEvent::AddressChange(change) => ConnectionEvent::AddressChange(change),
            ConnectionEvent::LocalProtocolsChange(change) => {
                ConnectionEvent::LocalProtocolsChange(change)
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                ConnectionEvent::RemoteProtocolsChange(change)
            }
            // The enum may grow; the handlers behind the gate ignore the rest.
            _ => return,
        };
        self.inner.on_connection_event(event);
    }
}
