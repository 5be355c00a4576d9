//! What a change of jobs would do, as it is asked and answered.
//!
//! A plan is a look: nothing is stored for it, and what it says holds for the
//! moment at which the leader looked. `run --expect-version` refuses if a job
//! moved on since.

use super::protocol::HostVerdict;
use potluck_specs::{JobName, Millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of jobs in one request for a plan, unless one job alone has more:
/// the leader keeps the scheduler waiting while it looks.
pub const PLAN_BYTES_MAX: usize = 128 << 10;

/// Most jobs in one request.
pub const PLAN_JOBS_MAX: usize = 256;

/// Longest value of a field that is shown, in bytes.
pub const VALUE_BYTES_MAX: usize = 512;

/// Most fields of a job that are shown; the rest is counted.
pub const FIELDS_SHOWN_MAX: usize = 200;

/// Most hosts of which is told why they don't take a task.
pub const HOSTS_TOLD_MAX: usize = 20;

/// Jobs that might be submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Canonical bytes of each, its version being any.
    pub jobs: Vec<serde_bytes::ByteBuf>,
}

/// What becomes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanAction {
    /// Nothing: the cluster has it so.
    Unchanged,
    /// There is no such job.
    Created,
    /// It was stopped and starts again.
    StartedAgain,
    /// Its tasks run on.
    ChangedInPlace,
    /// Its tasks are restarted, stage by stage.
    RollingRestart,
    /// Its tasks are placed anew, stage by stage.
    Replaced,
    /// A kind that a newer version knows.
    #[serde(other)]
    Other,
}

impl PlanAction {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            PlanAction::Unchanged => "unchanged",
            PlanAction::Created => "created",
            PlanAction::StartedAgain => "started again",
            PlanAction::ChangedInPlace => "changed in place",
            PlanAction::RollingRestart => "rolling restart",
            PlanAction::Replaced => "replaced",
            PlanAction::Other => "changed in a way that a newer version knows",
        }
    }
}

/// What becomes of one job, and of its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// The job.
    pub job: JobName,
    /// What becomes of it.
    pub action: PlanAction,
    /// The version that the cluster has; 0 if none.
    pub version: u64,
    /// Fields that differ.
    pub changes: Vec<FieldChange>,
    /// How many more differ.
    pub changes_left_out: u32,
    /// Where its tasks would be; nothing for a job that is unchanged.
    pub forecast: Option<TaskForecast>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where it is, such as `task.env.PORT`.
    pub field: String,
    /// What it was; nothing if it was not there.
    pub old: Option<String>,
    /// What it will be; nothing if it will not be there.
    pub new: Option<String>,
    /// What that does to the tasks.
    pub effect: PlanAction,
}

/// Where a job's tasks would be, by the leader's view at that moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskForecast {
    /// Each task with its node, as far as was looked.
    pub tasks: Vec<PlannedTask>,
    /// Tasks in each rack.
    pub racks: BTreeMap<String, u32>,
    /// Tasks that fit nowhere.
    pub unplaced: u32,
    /// Tasks that were not looked at, since the job is very large.
    pub not_looked_at: u32,
    /// Why hosts take no more, if some task fits nowhere.
    pub refusals: Vec<HostVerdict>,
    /// What the job would wait for before tasks are placed.
    pub waits_for: Vec<String>,
    /// Tasks that end: those of slots that are wanted no more.
    pub stops: u32,
    /// Running tasks that are restarted.
    pub restarts: u32,
    /// One after another: stages in which tasks are restarted.
    pub stages: u32,
    /// How long that takes at least, pauses included, task starts not.
    pub at_least: Millis,
}

/// Where a task would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTask {
    /// Its number.
    pub index: u32,
    /// The node.
    pub node: String,
    /// The node's rack.
    pub rack: String,
    /// It is there now.
    pub stays: bool,
}
