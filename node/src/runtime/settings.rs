//! What a node is started with, defaults filled in.

use crate::agent::LogRetention;
use potluck_core::attributes::Facts;
use potluck_specs::{Millis, job::Resources, trust::Token};
use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its data folder.
    pub data: PathBuf,
    /// How to come in, on the first start of this host.
    pub join: Option<JoinWish>,
    /// What to call it, on the first start.
    pub name: String,
    /// Its rack, on the first start; the token's or `default` if it says none.
    pub rack: Option<String>,
    /// Where TCP and gossip's UDP listen.
    pub listen: SocketAddr,
    /// Where others reach both.
    pub advertise: SocketAddr,
    /// All that is offered to tasks.
    pub total: Resources,
    /// What the host says of itself.
    pub facts: Facts,
    /// Ports that may be chosen for tasks.
    pub ports: RangeInclusive<u16>,
    /// How long tasks outlive an agent that is gone.
    pub agent_lease: Millis,
    /// Whether helpers that other builds have left are brought to this one.
    pub upgrade_helpers: bool,
    /// Whether people may enter its tasks by ssh.
    pub ssh: bool,
    /// What is kept of all tasks' logs.
    pub logs: LogRetention,
    /// How long a voter must be silent before another takes its place.
    pub replace_voter_after: Duration,
}

/// Whom to ask to be let in, and by what right.
#[derive(Clone, Debug)]
pub struct JoinWish {
    /// Any member.
    pub address: SocketAddr,
    /// From `potluck token create`.
    pub token: Token,
}
