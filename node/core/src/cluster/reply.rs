//! What a command comes to: the answer that its proposer gets.

use super::Excess;
use crate::auction::Authority;
use potluck_specs::{Epoch, JobName, NodeId, NodeName, PackageId, trust::NodeCredential};
use serde::{Deserialize, Serialize};

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// The leader's authority from here on.
    Reigns {
        /// Epoch and reign.
        authority: Authority,
    },
    /// The node is a member, with this certificate.
    Admitted {
        /// The first one that was given for this node and token, even if the
        /// command carried another.
        credential: Box<NodeCredential>,
    },
    /// The token admits nobody, for this reason.
    TokenRefused {
        /// Why.
        why: TokenRefusal,
    },
    /// The job's version is what should run from here on.
    Accepted {
        /// The version.
        version: u64,
    },
    /// The job is at another version than its author has seen.
    Conflict {
        /// The version that the job is at; 0 if there is no such job.
        current: u64,
    },
    /// Not done, for this reason.
    Refused {
        /// Why.
        why: Refused,
    },
    /// The answers to a batch, in its order.
    Batch {
        /// One for each command.
        replies: Vec<Reply>,
    },
}

impl Reply {
    pub(super) fn refused(why: Refused) -> Reply {
        Reply::Refused { why }
    }

    pub(super) fn too_many(what: &str, limit: usize) -> Reply {
        Reply::refused(Refused::TooMany {
            what: what.into(),
            limit: limit as u64,
        })
    }
}

/// Why a token does not admit a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TokenRefusal {
    /// Never made, withdrawn or long expired.
    #[error("the cluster knows no such token")]
    Unknown,
    /// The id is a token's, the secret is not.
    #[error("the token's secret is not the right one")]
    WrongSecret,
    /// Past its end.
    #[error("the token expired")]
    Expired,
    /// It has admitted as many nodes as it may.
    #[error("the token has been used up")]
    UsedUp,
    /// It admits to another rack only.
    #[error("the token admits to rack {allowed:?} only")]
    WrongRack {
        /// The rack that it admits to.
        allowed: String,
    },
    /// The node names another cluster.
    #[error("this is cluster {ours:?}")]
    WrongCluster {
        /// This cluster.
        ours: String,
    },
    /// Another node has this name.
    #[error("the name {name} is taken by node {by}")]
    NameTaken {
        /// The name.
        name: NodeName,
        /// Whose it is.
        by: NodeId,
    },
    /// As many members as one gossip pool carries.
    #[error("the cluster has {members} nodes and takes no more")]
    ClusterFull {
        /// How many it has.
        members: u32,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The cluster has begun already.
    #[error("the cluster has begun already")]
    AlreadyBegun,
    /// Nothing comes before genesis.
    #[error("the cluster has not begun yet")]
    NotBegun,
    /// No member has this id.
    #[error("node {node} is not a member")]
    NotAMember {
        /// The id.
        node: NodeId,
    },
    /// No job has this name.
    #[error("there is no job {job}")]
    NoSuchJob {
        /// The name.
        job: JobName,
    },
    /// The job has no rollout that this could be done to.
    #[error("job {job} has no rollout under way that this applies to")]
    NoRollout {
        /// The job.
        job: JobName,
    },
    /// No token has this id.
    #[error("there is no token {id:?}")]
    NoSuchToken {
        /// The id.
        id: String,
    },
    /// Another token has this id.
    #[error("there is a token {id:?} already")]
    TokenExists {
        /// The id.
        id: String,
    },
    /// No job pins this package.
    #[error("no job pins package {package}")]
    NoSuchPackage {
        /// The package.
        package: PackageId,
    },
    /// The bytes are no job.
    #[error("the job can't be read: {why}")]
    MalformedJob {
        /// What the reader says.
        why: String,
    },
    /// The picture of a scheduler that reigns no longer.
    #[error("another leader reigns by now")]
    StaleReign,
    /// Another member has this number in the control group, or had it.
    #[error("the raft id {raft_id} was given out before")]
    RaftIdTaken {
        /// The number.
        raft_id: u64,
    },
    /// A table is at its limit.
    #[error("the cluster holds {limit} {what} and takes no more")]
    TooMany {
        /// Of what.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Beyond what its namespace may ask for.
    #[error(
        "the quota of namespace {:?} has no room: {}",
        .job.namespace,
        listed(.excess)
    )]
    OverQuota {
        /// The job.
        job: JobName,
        /// Of what, and by how much.
        excess: Vec<Excess>,
    },
    /// No job can be in a namespace of this name.
    #[error("a quota is for a namespace: {why}")]
    BadNamespace {
        /// The rule that it breaks.
        why: String,
    },
    /// Epochs rise.
    #[error("epoch {} has passed, or its order is too long", .epoch.0)]
    StaleEpoch {
        /// Which.
        epoch: Epoch,
    },
    /// Only after a recovery is something taken from hosts.
    #[error("the cluster was never recovered")]
    NotRecovered,
    /// A batch in a batch.
    #[error("a batch holds no batches")]
    NestedBatch,
}

fn listed(excess: &[Excess]) -> String {
    let texts: Vec<String> = excess.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
