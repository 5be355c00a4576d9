//! The job: what a spec evaluates to, and what is signed, stored and run.
//!
//! Durations are in milliseconds, sizes in bytes, and nothing is a float. What
//! a field means stands at the field; whether a value makes sense is asked in
//! [`validate`](crate::validate), and whether anybody executes it in
//! [`support`](crate::support).

pub mod change;
pub mod files;
pub mod health;
pub mod interpolation;
pub mod kind;
pub mod placement;
mod record;
pub mod requirement;
pub mod resources;
mod signed;
pub mod task;
pub mod version;
mod wire;
pub(crate) mod wish;

pub use change::{
    Amount, Change, Dependency, DependencyState, Exclusive, Maintenance, Stage, StageSize, Update,
};
pub use files::{DraftPackage, Mount, MountSource, MountedPackage, RenderedFile};
pub use health::{Comparison, HealthAction, HealthCheck, MetricThreshold, Probe};
pub use kind::{Batch, GANG_MAX, JobKind};
pub use placement::{AtMost, Level, Neighbour, Placement, Preference};
pub use requirement::{Operator, Requirement};
pub use resources::{Adaptive, AdaptiveMode, Limits, Resources};
pub use signed::{SignedJob, SignedJobError};
pub use task::{
    Hook, Isolation, LogPolicy, PortSpec, RestartOn, RestartPolicy, ServiceSpec, StopPolicy,
    TaskTemplate, WhenFull,
};

use crate::{FleetId, JobName, PackageId};
use record::record;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Largest job in its canonical encoding: it travels in awards and stands in
/// the log.
pub const JOB_BYTES_MAX: usize = 256 << 10;

/// Priority of a job that names none, of 0 to [`PRIORITY_MAX`].
pub const PRIORITY_DEFAULT: u32 = 50;

/// Highest priority.
pub const PRIORITY_MAX: u32 = 100;

record! {
    /// A job as its spec file says it: packages may still be paths.
    pub struct JobDraft {
        /// Namespace and name.
        pub name: JobName = JobName::in_default(""),
        /// How many tasks, and whether they end.
        pub kind: JobKind = JobKind::default(),
        /// The program.
        pub package: PackageSource = PackageSource::Path("".into()),
        /// Further packages beside the program's.
        pub packages: Vec<DraftPackage> = Vec::new(),
        /// What each slot runs.
        pub task: TaskTemplate = TaskTemplate::default(),
        /// Where it may go.
        pub placement: Placement = Placement::default(),
        /// How it changes.
        pub change: Change = Change::default(),
        /// Who waits when there is not room for all: higher goes first.
        pub priority: u32 = PRIORITY_DEFAULT,
        /// Whom to ask about it.
        pub owner: String = String::new(),
        /// Notes that potluck keeps and does not read.
        pub annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}

/// Where a spec says that a package is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PackageSource {
    /// A file or folder, relative to the spec file.
    Path(PathBuf),
    /// A package that the cluster has.
    Id(PackageId),
    /// An image of a registry, by its reference.
    Oci(String),
}

record! {
    /// A named, versioned wish. Its bytes ([`Job::encode`]) are signed by the
    /// user's key and never encoded again.
    pub struct Job {
        /// The fleet that it is for.
        pub fleet: FleetId = FleetId([0; 32]),
        /// The cluster that it is for.
        pub cluster: String = String::new(),
        /// Namespace and name.
        pub name: JobName = JobName::in_default(""),
        /// Per-job counter, from 1: the version.
        pub version: u64 = 0,
        /// How many tasks, and whether they end.
        pub kind: JobKind = JobKind::default(),
        /// The program.
        pub package: PackageId = PackageId([0; 32]),
        /// Further packages beside the program's.
        pub packages: Vec<MountedPackage> = Vec::new(),
        /// What each slot runs.
        pub task: TaskTemplate = TaskTemplate::default(),
        /// Where it may go.
        pub placement: Placement = Placement::default(),
        /// How it changes.
        pub change: Change = Change::default(),
        /// Who waits when there is not room for all: higher goes first.
        pub priority: u32 = PRIORITY_DEFAULT,
        /// Whom to ask about it.
        pub owner: String = String::new(),
        /// Notes that potluck keeps and does not read.
        pub annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}

impl Job {
    /// All packages that a task of it needs, each once: the program's first.
    pub fn all_packages(&self) -> Vec<PackageId> {
        let mut all = vec![self.package];
        for further in &self.packages {
            if !all.contains(&further.package) {
                all.push(further.package);
            }
        }
        all
    }

    /// Slots that the job has by itself, numbered from 0: see
    /// [`JobKind::slots`]. None of its own for one task per node.
    pub fn slots(&self) -> u32 {
        self.kind.slots().unwrap_or(0)
    }
}

impl JobDraft {
    /// A service of one task, with everything else at its default.
    pub fn new(name: JobName, package: PackageSource, command: &str) -> JobDraft {
        JobDraft {
            name,
            package,
            task: TaskTemplate::new(command),
            ..JobDraft::default()
        }
    }

    /// The job that a user signs, once its packages are stored: the program's,
    /// and the ids of `self.packages` in their order.
    ///
    /// # Panics
    /// If there are not as many ids as packages.
    pub fn bind(
        self,
        fleet: FleetId,
        cluster: &str,
        version: u64,
        package: PackageId,
        further: &[PackageId],
    ) -> Job {
        assert_eq!(
            self.packages.len(),
            further.len(),
            "one id for each package"
        );
        let mounted = self.packages.into_iter().zip(further);
        Job {
            fleet,
            cluster: cluster.into(),
            name: self.name,
            version,
            kind: self.kind,
            package,
            packages: mounted
                .map(|(draft, id)| MountedPackage {
                    at: draft.at,
                    package: *id,
                })
                .collect(),
            task: self.task,
            placement: self.placement,
            change: self.change,
            priority: self.priority,
            owner: self.owner,
            annotations: self.annotations,
        }
    }
}
