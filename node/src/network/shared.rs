//! What the handle, the swarm actor and the connections' handlers share, each
//! piece behind its own short lock: the links, the address book, counters and
//! the ends of the inbound queues.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use libp2p::swarm::ConnectionId;
use potluck_specs::NodeId;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, Holder, InboundJoin, InboundRequest, InboundStream, PeerInfo, Refusal, RefusalCode,
    admission::Gatekeeper,
    gate::{Gate, Lane},
    kept::Kept,
    link::Open,
};

/// Connections with one node: both may dial at once, one for each lane, while
/// old ones are ending.
const CONNECTIONS_PER_NODE_MAX: usize = 6;

/// Connections of one person: each command that runs has one, and a script may
/// start as many as a shell's loop does.
pub(super) const CONNECTIONS_PER_PERSON_MAX: usize = 64;

/// Addresses of one node that gossip may tell: a host with several networks.
const ADDRESSES_MAX: usize = 8;

pub(super) struct Shared {
    pub(super) me: NodeId,
    pub(super) gatekeeper: Gatekeeper,
    pub(super) links: Links,
    pub(super) book: Book,
    pub(super) requests: mpsc::Sender<InboundRequest>,
    pub(super) streams: mpsc::Sender<InboundStream>,
    pub(super) joins: mpsc::Sender<InboundJoin>,
    pub(super) refusers: Refusers,
    pub(super) counters: Totals,
    pub(super) local_address: OnceLock<SocketAddr>,
    /// Tells the actor that the book or the gatekeeper changed.
    pub(super) wake: Notify,
    /// Cancelled when the actor has ended.
    pub(super) ended: CancellationToken,
}

/// One connection as others see it.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) opener: mpsc::Sender<Open>,
    pub(super) kept: Arc<Kept>,
    pub(super) gate: Arc<Gate>,
    pub(super) address: SocketAddr,
    pub(super) dialled: bool,
}

/// All connections, by peer. Bounded by the connection limits.
#[derive(Default)]
pub(super) struct Links(RwLock<BTreeMap<NodeId, Vec<Link>>>);

impl Links {
    pub(super) fn add(&self, node: NodeId, link: Link) {
        let mut links = self.0.write().expect("no holder panics");
        links.entry(node).or_default().push(link);
    }

    pub(super) fn remove(&self, node: NodeId, connection: ConnectionId) {
        let mut links = self.0.write().expect("no holder panics");
        if let Some(of_node) = links.get_mut(&node) {
            of_node.retain(|link| link.connection != connection);
            if of_node.is_empty() {
                links.remove(&node);
            }
        }
    }

    /// A link of this lane on which both sides have admitted each other.
    pub(super) fn ready(&self, node: NodeId, lane: Lane) -> Option<Link> {
        let links = self.0.read().expect("no holder panics");
        let ready = |link: &&Link| {
            link.gate.lane() == lane && link.gate.is_ready() && !link.opener.is_closed()
        };
        links.get(&node)?.iter().find(ready).cloned()
    }

    pub(super) fn get(&self, node: NodeId, connection: ConnectionId) -> Option<Link> {
        let links = self.0.read().expect("no holder panics");
        let of_node = links.get(&node)?;
        let link = of_node.iter().find(|link| link.connection == connection);
        link.cloned()
    }

    pub(super) fn all(&self) -> Vec<(NodeId, Link)> {
        let links = self.0.read().expect("no holder panics");
        let each = links.iter();
        each.flat_map(|(node, links)| links.iter().map(|link| (*node, link.clone())))
            .collect()
    }

    /// Nodes with which both sides have admitted each other.
    pub(super) fn admitting(&self) -> usize {
        let links = self.0.read().expect("no holder panics");
        let is_ready = |links: &&Vec<Link>| links.iter().any(|link| link.gate.is_ready());
        links.values().filter(is_ready).count()
    }

    pub(super) fn len(&self) -> usize {
        let links = self.0.read().expect("no holder panics");
        links.values().map(Vec::len).sum()
    }

    /// Opens the gate of a connection to whom it belongs.
    ///
    /// # Errors
    /// The person has enough of them.
    pub(super) fn admit(
        &self,
        node: NodeId,
        gate: &Arc<Gate>,
        holder: Holder,
    ) -> Result<Holder, Refusal> {
        // One at a time, so that two don't count without each other.
        let links = self.0.write().expect("no holder panics");
        let of_key = links.get(&node).into_iter().flatten();
        let others = of_key.filter(|link| !Arc::ptr_eq(&link.gate, gate));
        let open = others.filter(|link| link.gate.holder().is_some()).count();
        if let Holder::User(person) = &holder
            && open >= CONNECTIONS_PER_PERSON_MAX
        {
            let user = &person.user;
            let text = format!("user {user:?} has {open} connections with this node already");
            return Err(Refusal::new(RefusalCode::TooMany, text));
        }
        gate.set_holder(Some(holder.clone()));
        Ok(holder)
    }

    /// Is one connection more with this node too many? Of a key that is not
    /// admitted yet it is not known if it is a node's.
    pub(super) fn has_enough(&self, node: NodeId) -> bool {
        let links = self.0.read().expect("no holder panics");
        links.get(&node).is_some_and(|links| {
            links.len() >= CONNECTIONS_PER_NODE_MAX
                && links.iter().any(|link| link.gate.admits_node())
        })
    }

    /// Inbound connections of peers that are not admitted (yet).
    pub(super) fn strangers(&self) -> usize {
        let links = self.0.read().expect("no holder panics");
        let each = links.values().flatten();
        each.filter(|link| !link.dialled && link.gate.holder().is_none())
            .count()
    }

    pub(super) fn infos(&self) -> Vec<PeerInfo> {
        let info = |(id, link): (NodeId, Link)| PeerInfo {
            id,
            holder: link.gate.holder().map(|holder| (*holder).clone()),
            address: link.address,
            dialled: link.dialled,
        };
        self.all().into_iter().map(info).collect()
    }
}

/// Nodes that remembered refusals are kept of: a full pool of gossip.
const REFUSERS_MAX: usize = 1_000;

/// Who does not admit us, and why.
#[derive(Default)]
pub(super) struct Refusers(Mutex<BTreeMap<NodeId, RefusalCode>>);

impl Refusers {
    pub(super) fn refused(&self, node: NodeId, code: RefusalCode) {
        let mut refusers = self.0.lock().expect("no holder panics");
        if refusers.len() < REFUSERS_MAX || refusers.contains_key(&node) {
            refusers.insert(node, code);
        }
    }

    pub(super) fn admitted(&self, node: NodeId) {
        self.0.lock().expect("no holder panics").remove(&node);
    }

    pub(super) fn all(&self) -> BTreeMap<NodeId, RefusalCode> {
        self.0.lock().expect("no holder panics").clone()
    }
}

/// Where nodes are. Bounded by the membership that gossip tells.
#[derive(Default)]
pub(super) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    addresses: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// What the actor has yet to tell the hash table.
    changed: BTreeSet<NodeId>,
}

impl Book {
    pub(super) fn learn(&self, node: NodeId, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(ADDRESSES_MAX);
        let mut pages = self.0.lock().expect("no holder panics");
        if pages.addresses.get(&node) != Some(&addresses) {
            pages.addresses.insert(node, addresses);
            pages.changed.insert(node);
        }
    }

    pub(super) fn forget(&self, node: NodeId) {
        let mut pages = self.0.lock().expect("no holder panics");
        if pages.addresses.remove(&node).is_some() {
            pages.changed.insert(node);
        }
    }

    pub(super) fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        let pages = self.0.lock().expect("no holder panics");
        pages.addresses.get(&node).cloned().unwrap_or_default()
    }

    /// Says a node's addresses again to the hash table, which may have lost
    /// them when it failed to dial.
    pub(super) fn repeat(&self, node: NodeId) {
        let mut pages = self.0.lock().expect("no holder panics");
        if pages.addresses.contains_key(&node) {
            pages.changed.insert(node);
        }
    }

    /// What changed since the last call: no addresses means forgotten.
    pub(super) fn take_changes(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let mut pages = self.0.lock().expect("no holder panics");
        let changed = std::mem::take(&mut pages.changed);
        changed
            .into_iter()
            .map(|node| {
                (
                    node,
                    pages.addresses.get(&node).cloned().unwrap_or_default(),
                )
            })
            .collect()
    }
}

#[derive(Default)]
pub(super) struct Total(AtomicU64);

impl Total {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(super) struct Totals {
    pub(super) refused: Total,
    pub(super) requests_in: Total,
    pub(super) requests_out: Total,
    pub(super) request_substreams: Total,
    pub(super) streams_in: Total,
    pub(super) streams_out: Total,
    pub(super) busy: Total,
}

impl Totals {
    pub(super) fn read(&self, connections: usize) -> Counters {
        Counters {
            connections: connections as u64,
            refused: self.refused.read(),
            requests_in: self.requests_in.read(),
            requests_out: self.requests_out.read(),
            request_substreams: self.request_substreams.read(),
            streams_in: self.streams_in.read(),
            streams_out: self.streams_out.read(),
            busy: self.busy.read(),
        }
    }
}
