//! Members: admission, certificates, drains, leaving.

use potluck_specs::{
    Millis, NodeId, NodeName, Topology,
    job::Resources,
    trust::{NodeCredential, NodeRole},
};
use serde::{Deserialize, Serialize};

/// A node that was admitted and has not left, present or absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// What people call it; unique in the cluster.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// What it may be chosen for.
    pub roles: Vec<NodeRole>,
    /// Its newest certificate with the chain.
    pub credential: NodeCredential,
    /// Serials of its certificates that may still be valid, oldest first.
    pub serials: Vec<u64>,
    /// Where it was reached last.
    pub addresses: Vec<String>,
    /// When it was admitted, Unix time.
    pub admitted_at: Millis,
    /// All that it had for tasks when it was last heard of.
    pub capacity: Option<Resources>,
    /// Its number in the control group, once it has one.
    pub raft_id: Option<u64>,
    /// The newest kind of command that it can apply.
    pub feature_level: u32,
    /// It takes no new work and gives up what it has.
    pub draining: bool,
}
