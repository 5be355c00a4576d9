//! Jobs, their versions, their packages, and where they were last seen.

use potluck_specs::{Millis, NodeId, PackageId, Reign, job::SignedJob};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// A job: what should run under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its newest versions, oldest first; never empty.
    pub versions: VecDeque<JobVersion>,
    /// A person stopped it; a next version starts it again.
    pub stopped: bool,
    /// The reign in which its first version was accepted: under that one, and
    /// no other, nothing of it can run that the scheduler does not know.
    pub accepted_reign: Reign,
}

/// One version of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobVersion {
    /// From 1.
    pub version: u64,
    /// The signed bytes.
    pub job: SignedJob,
    /// Who asked.
    pub author: String,
    /// What the author says about the change.
    pub message: String,
    /// Unix time.
    pub accepted_at: Millis,
    /// The package that it runs.
    pub package: PackageId,
    /// How many slots it asks for.
    pub replicas: u32,
}

/// A package that a job in the log pins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Its size.
    pub bytes: u64,
    /// Nodes that hold it whole.
    pub holders: BTreeSet<NodeId>,
}

impl JobRecord {
    /// The version that should run.
    pub fn current(&self) -> &JobVersion {
        self.versions
            .back()
            .expect("a record is made with its first version")
    }

    /// The version of this number, if it is still kept.
    pub fn version(&self, version: u64) -> Option<&JobVersion> {
        self.versions.iter().find(|v| v.version == version)
    }
}
