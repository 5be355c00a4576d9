//! What every actor of a node may reach: the handles of the others.

use super::{
    admission::Admission, discovery::Discovery, dispatch, members::Directory, packages::Packages,
    scheduling::Scheduling,
};
use crate::{
    agent::Agent,
    clock,
    control::ControlGroup,
    network::{Network, RequestError},
    wire::{Introduction, Request, Response},
};
use potluck_core::{auction::Authority, cluster::Cluster};
use potluck_gossip::Gossip;
use potluck_specs::{FleetId, Millis, NodeId, Topology, trust::SecretKey};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How far ahead of this node's log a reign may be: more than a follower that
/// was cut off for weeks lacks, far less than what would silence schedulers.
const REIGN_AHEAD_MAX: u64 = 100_000_000;

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

    /// Can a scheduler of this cluster have this authority? Epochs rise by
    /// recovery only, which restarts every node; a reign is an index of the
    /// log, which a node that follows it knows well enough.
    pub(super) fn is_believable(&self, authority: Authority) -> bool {
        let known = self.control.read(Cluster::authority);
        if !self.control.read(Cluster::has_begun) {
            return true;
        }
        let reign_max = self.control.membership().last_index + REIGN_AHEAD_MAX;
        authority.epoch <= known.epoch && authority.reign.0 <= reign_max
    }

    /// Does this node lead?
    pub(super) fn we_lead(&self) -> bool {
        self.control.leadership().borrow().we_lead
    }
}
