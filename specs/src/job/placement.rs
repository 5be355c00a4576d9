//! Where tasks may go, and where they would rather go.

use super::{record::record, requirement::Requirement};
use crate::{JobName, Topology};
use serde::{Deserialize, Serialize};

record! {
    /// Where a job's tasks may go.
    pub struct Placement {
        /// A node must meet all of them.
        pub requirements: Vec<Requirement> = Vec::new(),
        /// A node that meets them is better, or worse.
        pub preferences: Vec<Preference> = Vec::new(),
        /// Tasks are spread evenly over these levels, the first counts most.
        /// Without any, over racks.
        pub spread: Vec<Level> = Vec::new(),
        /// Most tasks of this job in one place.
        pub at_most: Vec<AtMost> = Vec::new(),
        /// Never in one place with tasks of these jobs.
        pub apart_from: Vec<Neighbour> = Vec::new(),
        /// Only in one place with a task of these jobs.
        pub together_with: Vec<Neighbour> = Vec::new(),
        /// Its traffic would fill a rack's uplink: such tasks are kept in
        /// different racks.
        pub bandwidth_heavy: bool = false,
    }
}

record! {
    /// A wish about nodes.
    pub struct Preference {
        /// What is wished.
        pub requirement: Requirement = Requirement::default(),
        /// How much, from -100 (rather not) to 100.
        pub weight: i32 = 50,
    }
}

record! {
    /// A bound on how many tasks share a place.
    #[derive(Copy)]
    pub struct AtMost {
        /// What counts as a place.
        pub level: Level = Level::Rack,
        /// Tasks of this job in each.
        pub count: u32 = 1,
    }
}

record! {
    /// Another job, and how near is near.
    pub struct Neighbour {
        /// The other job.
        pub job: JobName = JobName::in_default(""),
        /// What counts as one place.
        pub level: Level = Level::Node,
    }
}

/// A level of the topology, widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Widest.
    Region,
    /// A building or campus.
    Datacenter,
    /// One gossip pool and one control group.
    Cluster,
    /// What fails together.
    Rack,
    /// One host.
    Node,
}

impl Level {
    /// All, widest first.
    pub const ALL: [Level; 5] = [
        Level::Region,
        Level::Datacenter,
        Level::Cluster,
        Level::Rack,
        Level::Node,
    ];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Region => "region",
            Level::Datacenter => "datacenter",
            Level::Cluster => "cluster",
            Level::Rack => "rack",
            Level::Node => "node",
        }
    }

    /// Are both hosts in one place at this level? Two of a rack's name in
    /// different clusters are not. Nothing can be said about nodes here.
    pub fn shared(self, a: &Topology, b: &Topology) -> bool {
        let levels = |t: &Topology| {
            let Topology {
                region,
                datacenter,
                cluster,
                rack,
            } = t.clone();
            [region, datacenter, cluster, rack]
        };
        let depth = (self as usize + 1).min(4);
        levels(a)[..depth] == levels(b)[..depth]
    }
}
