//! What operators ask of nodes and rollouts, and what they are told: drains
//! with a deadline, cordons, rollouts, quotas, who holds a job's budget, evening out.

use potluck_core::cluster::{NamespaceView, Quota, RolloutControl};
use potluck_specs::{
    JobName, Millis, NodeId, SlotId,
    trust::{NodeRole, UserCertificate},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A change that an operator, or who may deploy the job, asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Operation {
    /// Empty a node, and stop in any case what is still there after a while.
    Drain {
        /// Which.
        node: NodeId,
        /// How long it may take.
        within_ms: u64,
    },
    /// Give a node nothing new, and leave it what it has; or end that.
    Cordon {
        /// Which.
        node: NodeId,
        /// Begin or end.
        cordoned: bool,
    },
    /// Limit what the jobs of a namespace may ask for together, or end that.
    SetQuota {
        /// Which.
        namespace: String,
        /// None: as much as they like.
        quota: Option<Quota>,
    },
    /// Stop, continue or undo a rollout.
    Rollout {
        /// Of which job.
        job: JobName,
        /// What is asked.
        control: RolloutControl,
    },
}

impl Operation {
    /// May this person do it, and which right is it that they need?
    pub fn right_of(&self, author: &UserCertificate) -> (bool, String) {
        match self {
            Operation::Drain { .. } | Operation::Cordon { .. } | Operation::SetQuota { .. } => {
                (author.may_operate(), "operator".into())
            }
            Operation::Rollout { job, .. } => (
                author.may_deploy(&job.namespace),
                format!("deployer of namespace {:?}", job.namespace),
            ),
        }
    }
}

/// What an operator wants to know; the scheduler answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperateQuery {
    /// How far is the rollout of this job?
    Rollout(JobName),
    /// Who holds this job's disruption budget?
    WhyBlocked(JobName),
    /// How far is the drain of this node?
    Drain(NodeId),
    /// Which moves would even things out?
    Rebalance,
    /// What do the jobs of each namespace ask for, and what may they?
    Namespaces,
    /// Which join tokens are there?
    Tokens,
}

/// The answer to an [`OperateQuery`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum OperateAnswer {
    /// To `Rollout`; nothing for a job at its first version.
    Rollout(Option<RolloutStatus>),
    /// To `WhyBlocked`.
    WhyBlocked(LedgerStatus),
    /// To `Drain`.
    Drain(Vec<DrainedTask>),
    /// To `Rebalance`.
    Rebalance(Vec<MoveStatus>),
    /// To `Namespaces`, by name.
    Namespaces(Vec<NamespaceView>),
    /// To `Tokens`, by id.
    Tokens(Vec<TokenStatus>),
}

/// One join token; its secret is known to nobody but who made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its public name.
    pub id: String,
    /// What its nodes may be chosen for.
    pub roles: Vec<NodeRole>,
    /// The only rack that it admits to.
    pub rack: Option<String>,
    /// How many more nodes it admits.
    pub uses_left: u32,
    /// Its end, Unix time.
    pub expires: Millis,
    /// Names of the nodes that it let in.
    pub nodes: Vec<String>,
}

/// How far a rollout is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The version that is rolled out.
    pub version: u64,
    /// The version that ran before.
    pub from: u64,
    /// The present stage, from 1.
    pub stage: u32,
    /// How many there are.
    pub stages: u32,
    /// The place that a stage of places is at.
    #[serde(default)]
    pub place: Option<String>,
    /// How it stands.
    pub phase: RolloutPhase,
    /// Why it failed or was undone, or who paused it.
    pub why: Option<String>,
}

/// How a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutPhase {
    /// It goes from stage to stage.
    #[serde(rename = "rolling")]
    Rolling,
    /// A person stopped it where it is.
    #[serde(rename = "paused")]
    Paused,
    /// A stage failed; it stays where it is until a person decides.
    #[serde(rename = "failed")]
    Failed,
    /// The version before runs again.
    #[serde(rename = "rolled back")]
    RolledBack,
    /// The version is everywhere.
    #[serde(rename = "done")]
    Done,
    /// One that a newer version of potluck knows.
    #[serde(other, rename = "other")]
    Other,
}

impl fmt::Display for RolloutPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RolloutPhase::Rolling => "rolling",
            RolloutPhase::Paused => "paused",
            RolloutPhase::Failed => "failed",
            RolloutPhase::RolledBack => "rolled back",
            RolloutPhase::Done => "done",
            RolloutPhase::Other => "other",
        })
    }
}

impl RolloutStatus {
    /// Does nothing more come of it by itself?
    pub fn is_over(&self) -> bool {
        !matches!(self.phase, RolloutPhase::Rolling | RolloutPhase::Paused)
    }
}

/// A job's disruption budget and who holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// How many slots may be down at once.
    pub budget: u32,
    /// How many should serve.
    pub wanted: u32,
    /// Slots that are down.
    pub used: Vec<LedgerEntry>,
    /// Nodes on which the job's tasks failed, and which get none for a while.
    pub bad_nodes: Vec<String>,
}

/// A slot that is down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Which.
    pub slot: SlotId,
    /// Where, if anywhere.
    pub node: Option<String>,
    /// Why.
    pub why: String,
}

/// A task on a node that is drained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainedTask {
    /// Which.
    pub slot: SlotId,
    /// Why it is still there.
    pub why: String,
}

/// A move that would even things out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MoveStatus {
    /// Which task.
    pub slot: SlotId,
    /// From where.
    pub from: String,
    /// To where; the auction decides.
    pub to: String,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// What it changes, for people.
    #[serde(default)]
    pub gain: String,
}
