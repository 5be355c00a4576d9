//! How many tasks a job has, and whether they end.

use super::record::record;
use serde::{Deserialize, Serialize};

/// Most tasks that start together: as many as the scheduler calls at once.
pub const GANG_MAX: u32 = 256;

/// What kind of work a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum JobKind {
    /// Runs until it is stopped.
    Service {
        /// How many tasks.
        replicas: u32,
    },
    /// One task on each node that meets the requirements, also on nodes that
    /// come later.
    PerNode,
    /// Runs to its end.
    Batch(Batch),
}

record! {
    /// Work that ends.
    pub struct Batch {
        /// How many tasks must succeed: exit with code 0. Each is run at least
        /// once, and not again once it is known to have succeeded.
        pub completions: u32 = 1,
        /// How many run at once, at most.
        pub parallelism: u32 = 1,
        /// How often a task that failed is tried again, wherever there is room;
        /// the pauses are those of `restart`. A task that ends with its host, is
        /// drained or preempted has not failed.
        pub retries: u32 = 0,
        /// The whole job fails if it is not done this long after it was
        /// accepted.
        pub deadline_ms: Option<u64> = None,
        /// Each completion is a piece of its own: its index is told to the task
        /// as `${slot.index}` and `POTLUCK_ARRAY_INDEX`, and the others go on
        /// when it has failed for good. Otherwise the job fails with the first
        /// task that does.
        pub array: bool = false,
        /// All tasks start together or none does. When one is gone and finds no
        /// place within seconds, the others are stopped, and all start again
        /// together.
        pub gang: bool = false,
    }
}

impl Default for JobKind {
    fn default() -> JobKind {
        JobKind::Service { replicas: 1 }
    }
}

impl JobKind {
    /// A service of so many tasks.
    pub fn service(replicas: u32) -> JobKind {
        JobKind::Service { replicas }
    }

    /// How many slots the job has by itself: the replicas of a service, the
    /// completions of a batch. None for one task per node, since only the
    /// scheduler knows how many nodes match.
    pub fn slots(&self) -> Option<u32> {
        match self {
            JobKind::Service { replicas } => Some(*replicas),
            JobKind::PerNode => None,
            JobKind::Batch(batch) => Some(batch.completions),
        }
    }
}
