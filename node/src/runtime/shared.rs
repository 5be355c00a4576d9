//! What every actor of a node may reach: the handles of the others.

use super::{
    admission::Admission,
    claims::Known,
    concerns::QuorumSeen,
    conditions::{Conditions, Own},
    discovery::Discovery,
    dispatch,
    exec::Exec,
    members::Directory,
    packages::Packages,
    recovery::Epochs,
    relay::Relays,
    revocations::Revocations,
    scheduling::Scheduling,
    standing::NodeEnded,
    twins::Twins,
};
use crate::{
    agent::Agent,
    clock,
    control::ControlGroup,
    network::{Network, RequestError},
    wire::{Introduction, Request, Response},
};
use potluck_core::cluster::Cluster;
use potluck_gossip::Gossip;
use potluck_specs::{FleetId, Millis, NodeId, Topology, trust::SecretKey};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// How long a follower takes a silent leader for one: several elections would
/// have been over by then.
const LEADER_SILENCE: Millis = Millis(2_000);

/// Who this node is.
#[derive(Clone, Debug)]
pub(super) struct Me {
    /// Its id.
    pub node: NodeId,
    /// Its key.
    pub key: SecretKey,
    /// What people call it.
    pub name: String,
    /// Where it stands.
    pub topology: Topology,
    /// Its fleet.
    pub fleet: FleetId,
    /// Its cluster.
    pub cluster: String,
    /// This process: random, new with each start.
    pub process: u64,
    /// Where others reach it.
    pub address: SocketAddr,
    /// What the log should know of it.
    pub introduction: Introduction,
}

/// The handles of one node's actors.
pub(super) struct Shared {
    /// Who this is.
    pub me: Me,
    /// libp2p.
    pub network: Network,
    /// Who is there.
    pub gossip: Gossip,
    /// The replicated state.
    pub control: ControlGroup<Cluster>,
    /// What runs here.
    pub agent: Agent,
    /// Sessions in what runs here.
    pub exec: Exec,
    /// What is stored here.
    pub packages: Packages,
    /// Where services are.
    pub discovery: Discovery,
    /// The scheduler, while it is here.
    pub scheduling: Scheduling,
    /// Who may come in.
    pub admission: Admission,
    /// Names, racks and the scheduler's whereabouts.
    pub directory: Directory,
    /// When this node had a quorum last, while it leads.
    pub quorum_seen: QuorumSeen,
    /// What is wrong with this host.
    pub own: Own,
    /// How the hosts are, while this node leads.
    pub conditions: Mutex<Conditions>,
    /// Nodes of which two processes are heard, while this one leads.
    pub twins: Mutex<Twins>,
    /// What is carried between nodes that don't reach each other.
    pub relays: Relays,
    /// Certificates that are not accepted any more, as far as is known here.
    pub revocations: Revocations,
    /// Epochs later than this node's, and how its own began.
    pub epochs: Epochs,
    /// Why this node must end, once it must.
    pub ended: watch::Sender<Option<NodeEnded>>,
}

impl Shared {
    /// Asks a node; this one is asked directly, without the network.
    ///
    /// # Errors
    /// The network's.
    pub(super) async fn ask(
        self: &Arc<Self>,
        to: NodeId,
        request: Request,
        limit: Duration,
    ) -> Result<Response, RequestError> {
        if to != self.me.node {
            return self.network.request(to, request, limit).await;
        }
        let local = Box::pin(dispatch::handle(self.clone(), to, request));
        tokio::time::timeout(limit, local)
            .await
            .map_err(|_| RequestError::Timeout)
    }

    /// The node that leads, as far as anybody here knows: by the control
    /// group, while its leader is heard, or by who greeted this node last.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let heard = self.control.last_leader_contact();
        let is_heard = heard.is_some_and(|at| clock::boot_now().since(at) < LEADER_SILENCE);
        let led_by = self.control.leadership().borrow().leader;
        led_by
            .filter(|_| is_heard)
            .or_else(|| self.directory.greeted_by())
    }

    /// What this node knows of who can reign.
    pub(super) fn known(&self) -> Known {
        Known {
            epoch: self.control.epoch(),
            has_begun: self.control.read(Cluster::has_begun),
            last_index: self.control.membership().last_index,
        }
    }

    /// Does this node lead?
    pub(super) fn we_lead(&self) -> bool {
        self.control.leadership().borrow().we_lead
    }
}
