//! How a job changes and is disturbed: dependencies, budget, update stages,
//! maintenance, exclusive slots.

use super::record::record;
use crate::JobName;
use serde::{Deserialize, Serialize};

record! {
    /// How a job changes.
    pub struct Change {
        /// Its tasks start when all of these hold.
        pub depends_on: Vec<Dependency> = Vec::new(),
        /// Most tasks that may be down at once for reasons of our own
        /// (updates, drains, moves).
        pub budget: Option<Amount> = None,
        /// How a new version comes.
        pub update: Update = Update::default(),
        /// What happens in a maintenance window of its node.
        pub maintenance: Maintenance = Maintenance::Migrate,
        /// A slot is never filled twice at once, at the price of waiting.
        pub exclusive: Option<Exclusive> = None,
    }
}

record! {
    /// Another job that must be there first.
    pub struct Dependency {
        /// The other job.
        pub job: JobName = JobName::in_default(""),
        /// What its tasks must be.
        pub state: DependencyState = DependencyState::Healthy,
        /// How many of them; without a number, all.
        pub at_least: Option<u32> = None,
    }
}

/// What a task of another job must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DependencyState {
    /// Its process runs.
    Started,
    /// Its checks are good.
    Healthy,
}

/// A number of a job's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Amount {
    /// Of so many tasks, rounded down: for what may be down.
    pub fn of(self, tasks: u32) -> u32 {
        match self {
            Amount::Count(count) => count.min(tasks),
            Amount::Percent(percent) => part(tasks, percent, 0),
        }
    }

    /// Of so many tasks, rounded up: for what is to be done.
    pub fn of_rounded_up(self, tasks: u32) -> u32 {
        match self {
            Amount::Count(count) => count.min(tasks),
            Amount::Percent(percent) => part(tasks, percent, 99),
        }
    }
}

fn part(tasks: u32, percent: u32, up: u64) -> u32 {
    let part = (u64::from(tasks) * u64::from(percent) + up) / 100;
    // Not above `tasks`, so it fits.
    part.min(tasks.into()) as u32
}

record! {
    /// How a new version comes.
    pub struct Update {
        /// Each stage waits for the one before. Without any: one stage, all.
        pub stages: Vec<Stage> = Vec::new(),
        /// A task of the new version must be healthy this long after its
        /// award, or the stage has failed.
        pub health_deadline_ms: u64 = 300_000,
        /// A stage that failed brings the version of before back.
        pub rollback: bool = false,
    }
}

record! {
    /// A step of an update.
    #[derive(Copy)]
    pub struct Stage {
        /// How far the new version has come at its end.
        pub size: StageSize = StageSize::All,
        /// All must stay healthy this long before the next stage.
        pub bake_ms: u64 = 0,
    }
}

/// How many tasks have the new version at the end of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StageSize {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded up.
    Percent(u32),
    /// All of a rack, then of the next, until all of the cluster have it.
    Rack,
    /// All of one cluster.
    Cluster,
    /// All of one datacenter.
    Datacenter,
    /// All of one region.
    Region,
    /// All.
    All,
}

impl StageSize {
    /// Of a job of so many tasks in one cluster, how many; unknown for racks.
    pub fn of(self, tasks: u32) -> Option<u32> {
        match self {
            StageSize::Count(count) => Some(count.min(tasks)),
            StageSize::Percent(percent) => Some(part(tasks, percent, 99)),
            StageSize::Rack => None,
            // A job names one cluster.
            StageSize::Cluster | StageSize::Datacenter | StageSize::Region | StageSize::All => {
                Some(tasks)
            }
        }
    }
}

/// What happens when a node is to be worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Maintenance {
    /// The task moves away before.
    Migrate,
    /// The task is stopped and starts again on the same node, if the work
    /// takes no longer than this; else it moves.
    RideOut {
        /// Longest window.
        up_to_ms: u64,
    },
    /// The task is asked first, by `GET` on its port: 200 lets it move, 503
    /// puts it off.
    Ask {
        /// By its name.
        port: String,
        /// Begins with `/`.
        path: String,
        /// How long it may put it off.
        up_to_ms: u64,
    },
}

record! {
    /// A slot that is filled at most once at any time.
    #[derive(Copy)]
    pub struct Exclusive {
        /// A node that hears nothing from the scheduler this long stops the
        /// task; another may start it soon after.
        pub lease_ms: u64 = 15_000,
    }
}
