//! The control group: the 1, 3 or 5 nodes of a cluster that keep its
//! replicated state, and the learners that follow them.
//!
//! Answers for: an ordered, durable log of commands and the state that
//! applying them gives; who leads; who votes. It is openraft behind a handle
//! of our own, so that nothing outside this folder names it. Leaves to others:
//! what commands mean ([`Replicated`]), who should vote (the scheduler's core
//! decides, [`ControlGroup::change_voters`] carries out), and how bytes reach
//! another node ([`RaftPeers`]).
//!
//! ```text
//! propose ──► openraft ──► store/log.rs   log and vote, one writer thread
//!                │  └────► store/state.rs state in memory, snapshots on disk
//!                ▼
//!            network.rs ──► RaftPeers ──► … ──► ControlGroup::receive
//! ```
//!
//! Genesis happens once, by [`ControlGroup::bootstrap`]; nothing else ever
//! initializes a group. [`recover`] rewrites a stopped one to a single voter
//! under a later epoch. A node that joins starts with an empty store and waits
//! until the leader adds it as a learner.

mod config;
mod consensus;
mod handle;
mod messages;
mod network;
mod quorum;
mod receive;
mod store;
#[cfg(test)]
mod tests;

pub use config::{Settings, TIMING_VARIABLE, Timing};
pub use handle::{
    Applied, ChangeError, ControlGroup, Follower, Leadership, LinearizableError, LogEnd,
    Membership, ProposeError, StartError,
};
pub use store::{StoreError, recover::recover};

use std::time::Duration;

use async_trait::async_trait;
use potluck_core::cluster::{Cluster, Command, Reply};
use potluck_specs::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest command, encoded: a job of 256 KiB and its frame, twice over. An
/// append always carries at least one entry, so this plus its frame must stay
/// under what one message may hold (1 MiB).
pub const COMMAND_BYTES_MAX: usize = 512 << 10;

/// What the group replicates: a state that only commands change.
///
/// `apply` must be deterministic and total: the same commands at the same
/// indexes give the same state on every node, and none of them panics.
pub trait Replicated:
    Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// A change.
    type Command: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the proposer of a command hears.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The level of versions that can apply the command; all can at 0.
    fn feature_level(_command: &Self::Command) -> u32 {
        0
    }

    /// The first of these nodes that can't apply the command, since it runs an
    /// older version, for people. None where commands never change.
    fn too_old(&self, _command: &Self::Command, _group: &[NodeId]) -> Option<String> {
        None
    }

    /// Carries out one command. Indexes rise, with gaps.
    fn apply(&mut self, index: u64, command: &Self::Command) -> Self::Reply;
}

impl Replicated for Cluster {
    type Command = Command;
    type Reply = Reply;

    fn feature_level(command: &Command) -> u32 {
        command.feature_level()
    }

    fn too_old(&self, command: &Command, group: &[NodeId]) -> Option<String> {
        let old = Cluster::too_old(self, command, group.iter().copied())?;
        Some(old.node.0)
    }

    fn apply(&mut self, index: u64, command: &Command) -> Reply {
        Cluster::apply(self, index, command)
    }
}

/// Who stands behind a Raft id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its rack, for the spread of voters.
    pub rack: String,
    /// Where it was last reachable, for whoever has no gossip yet.
    pub addresses: Vec<String>,
}

impl Default for Member {
    fn default() -> Member {
        Member {
            node: NodeId([0; 32]),
            rack: String::new(),
            addresses: Vec::new(),
        }
    }
}

/// Why a message did not come back with an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection: waiting a little before the next try makes
    /// sense.
    #[error("node {0} is unreachable")]
    Unreachable(NodeId),
    /// No answer within the limit.
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
}

/// Carries messages to other nodes; the answer is what their
/// [`ControlGroup::receive`] gave. Messages and answers are at most 1 MiB.
#[async_trait]
pub trait RaftPeers: Send + Sync + 'static {
    /// Sends one message and waits for its answer, at most for `limit`.
    async fn send(
        &self,
        to: NodeId,
        message: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, PeerError>;
}
