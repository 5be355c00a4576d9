//! What a member says about itself: its signed identity record and its
//! unsigned, quantised capacity.

use potluck_specs::{NodeId, NodeName, Topology, job::Resources};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Who a member is and where it is reached. Name and place come from its
/// certificate, the rest is signed by its own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRecord {
    /// Its key.
    pub node: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// Where its gossip socket is reached.
    pub gossip: SocketAddr,
    /// Where its libp2p swarm is reached.
    pub network: Vec<SocketAddr>,
    /// Grows with each start of its process: its boot epoch.
    pub incarnation: u64,
    /// Version of potluck that it runs.
    pub version: String,
}

/// What a node has and what is free of it: a hint for picking candidates, the
/// truth is in the node's bid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Free now.
    pub free: Resources,
    /// All that the node has for tasks.
    pub total: Resources,
}

/// A member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub node: NodeId,
    /// Its verified record.
    pub record: IdentityRecord,
    /// What it last published, if anything.
    pub capacity: Option<Capacity>,
    /// It takes no new work.
    pub draining: bool,
    /// chitchat's counter: moves while the member lives. Starts again with
    /// each incarnation, so compare it together with `record.incarnation`.
    pub heartbeat: u64,
    /// chitchat's opinion; the node itself is always alive.
    pub alive: bool,
}
