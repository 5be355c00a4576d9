//! Jobs, their versions, their packages, and where they were last seen.

use super::{
    Cluster, Command, Demand, HeldPackage, Placement, Refused, Reply, SameTasks,
    versions::{JOBS_BYTES_MAX, Origin, Stopped, TEXT_BYTES_MAX, bounded_text},
};
use crate::auction::Authority;
use potluck_specs::{
    Generation, Job, JobName, Millis, NodeId, PackageId, Reign, SlotId, job::SignedJob,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// Most jobs, stopped ones included: ten a node in a full cluster.
pub const JOBS_MAX: usize = 10_000;

/// Most slots of one job: ten a node in a full cluster.
pub const SLOTS_MAX: u32 = 10_000;

/// A job: what should run under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its newest versions, oldest first; never empty.
    pub versions: VecDeque<JobVersion>,
    /// A person stopped it; a next version starts it again.
    pub stopped: bool,
    /// Who did, and when; not known of stops before this was kept.
    #[serde(default)]
    pub stopped_by: Option<Stopped>,
    /// The reign in which its first version was accepted: under that one, and
    /// no other, nothing of it can run that the scheduler does not know.
    pub accepted_reign: Reign,
    /// When its newest version was taken from a host, after a recovery whose
    /// log lacked it; ended by a person's next version.
    #[serde(default)]
    pub recovered_at: Option<Millis>,
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
    /// Under whom it was accepted: after a recovery whose log lacked it, a
    /// version may be given the number of an earlier one, whose tasks are of
    /// earlier generations. Zero where all tasks of this number are its own.
    #[serde(default)]
    pub accepted_under: Authority,
    /// The package that it runs.
    pub package: PackageId,
    /// Its further packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<PackageId>,
    /// How many slots it asks for.
    pub replicas: u32,
    /// Where it came from.
    #[serde(default)]
    pub origin: Origin,
    /// Whose tasks its tasks are.
    #[serde(default)]
    pub same_tasks: SameTasks,
    /// What it asks for; to be read from its bytes where it was accepted
    /// before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Demand>,
}

/// A package that a job in the log pins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Its size.
    pub bytes: u64,
    /// Nodes that hold it whole.
    pub holders: BTreeSet<NodeId>,
}

/// Beside the program's.
pub(super) fn further_packages(job: &Job) -> Vec<PackageId> {
    job.all_packages().split_off(1)
}

impl JobVersion {
    /// All that its tasks need.
    pub fn packages(&self) -> impl Iterator<Item = PackageId> + '_ {
        [self.package]
            .into_iter()
            .chain(self.further.iter().copied())
    }
}

impl JobRecord {
    /// The version that should run.
    pub fn current(&self) -> &JobVersion {
        self.versions
            .back()
            .expect("a record is made with its first version")
    }

    /// Was a task of this version and generation started as another one, which
    /// had the number before a recovery whose log lacked it?
    pub(super) fn is_namesake(&self, version: u64, generation: Generation) -> bool {
        self.version(version)
            .is_some_and(|version| generation < version.accepted_under.generation(0))
    }

    /// The version of this number, if it is still kept.
    pub fn version(&self, version: u64) -> Option<&JobVersion> {
        self.versions.iter().find(|v| v.version == version)
    }
}

impl Cluster {
    pub(super) fn change_jobs(&mut self, command: &Command) -> Reply {
        match command {
            Command::SubmitJob {
                change: _,
                job,
                author,
                message,
                holders,
                package_bytes,
                further,
                now,
                expected_version,
                origin,
            } => {
                let decoded = match job.decode_unchecked() {
                    Ok(decoded) => decoded,
                    Err(error) => {
                        return Reply::refused(Refused::MalformedJob {
                            why: error.to_string(),
                        });
                    }
                };
                let version = JobVersion {
                    version: decoded.version,
                    job: (**job).clone(),
                    author: bounded_text(author, TEXT_BYTES_MAX),
                    message: bounded_text(message, TEXT_BYTES_MAX),
                    accepted_at: *now,
                    accepted_under: self.authority,
                    package: decoded.package,
                    further: further_packages(&decoded),
                    replicas: decoded.slots(),
                    origin: origin.bounded(),
                    same_tasks: self.same_tasks(&decoded),
                    demand: Some(Demand::of(&decoded)),
                };
                let reply = self.submit(&decoded, version, *expected_version);
                if matches!(reply, Reply::Accepted { .. }) {
                    self.pin(decoded.package, *package_bytes, holders);
                    self.pin_further(&decoded, further);
                }
                reply
            }
            Command::StopJob {
                job, author, now, ..
            } => match self.jobs.get_mut(job) {
                Some(record) => {
                    record.stopped = true;
                    record.stopped_by = Some(Stopped {
                        author: bounded_text(author, TEXT_BYTES_MAX),
                        at: *now,
                    });
                    Reply::Done
                }
                None => Reply::refused(Refused::NoSuchJob { job: job.clone() }),
            },
            Command::RecordPlacements {
                reign,
                filled,
                freed,
            } => self.record_placements(*reign, filled, freed),
            Command::RecordPackageHolders { package, nodes } => {
                self.record_holders(*package, nodes)
            }
            _ => Reply::Done,
        }
    }

    /// The version that a job of this name must be signed as to be accepted.
    pub fn next_version(&self, job: &JobName) -> u64 {
        self.jobs
            .get(job)
            .map_or(1, |record| record.current().version.saturating_add(1))
    }

    fn submit(&mut self, job: &Job, version: JobVersion, expected: Option<u64>) -> Reply {
        let next = self.next_version(&job.name);
        let current = next - 1;
        if job.version != next || expected.is_some_and(|expected| expected != current) {
            return Reply::Conflict { current };
        }
        if job.slots() > SLOTS_MAX {
            return Reply::too_many("slots in a job", SLOTS_MAX as usize);
        }
        if let Some(why) = self.over_quota(job, &[]) {
            return Reply::refused(why);
        }
        let bytes_left = match self.room_for(&job.name, &version) {
            Ok(bytes_left) => bytes_left,
            Err(reply) => return reply,
        };
        let reign = self.authority.reign;
        let record = self
            .jobs
            .entry(job.name.clone())
            .or_insert_with(|| JobRecord {
                versions: VecDeque::new(),
                stopped: false,
                stopped_by: None,
                accepted_reign: reign,
                recovered_at: None,
            });
        record.stopped = false;
        record.stopped_by = None;
        record.recovered_at = None;
        record.versions.push_back(version);
        for dropped in record.trim(bytes_left) {
            self.unpin(&dropped);
        }
        Reply::Accepted { version: next }
    }

    /// How many bytes the versions of this job may have in all, if one more
    /// has room.
    pub(super) fn room_for(&self, job: &JobName, version: &JobVersion) -> Result<usize, Reply> {
        let record = self.jobs.get(job);
        if record.is_none() && self.jobs.len() >= JOBS_MAX {
            return Err(Reply::too_many("jobs", JOBS_MAX));
        }
        let bytes_left = JOBS_BYTES_MAX.saturating_sub(self.bytes_of_others(job));
        let least = version.bytes() + record.map_or(0, |record| record.current().bytes());
        match least > bytes_left {
            true => Err(Reply::too_many("bytes of jobs", JOBS_BYTES_MAX)),
            false => Ok(bytes_left),
        }
    }

    fn bytes_of_others(&self, job: &JobName) -> usize {
        let others = self.jobs.iter().filter(|(name, _)| *name != job);
        others.map(|(_, record)| record.bytes()).sum()
    }

    pub(super) fn pin(&mut self, package: PackageId, bytes: u64, holders: &[NodeId]) {
        let holders: BTreeSet<NodeId> = self.members_among(holders);
        let record = self
            .packages
            .entry(package)
            .or_insert_with(|| PackageRecord {
                bytes,
                holders: BTreeSet::new(),
            });
        record.holders.extend(holders);
    }

    /// Those that the job names and nothing else, with what is known of them.
    pub(super) fn pin_further(&mut self, job: &Job, known: &[HeldPackage]) {
        for package in further_packages(job) {
            let held = known.iter().find(|held| held.package == package);
            let (bytes, holders) = held.map_or((0, &[][..]), |held| (held.bytes, &held.holders));
            self.pin(package, bytes, holders);
        }
    }

    /// What no other version has is no longer pinned.
    pub(super) fn unpin(&mut self, dropped: &JobVersion) {
        for package in dropped.packages() {
            let mut versions = self.jobs.values().flat_map(|record| &record.versions);
            if !versions.any(|version| version.packages().any(|one| one == package)) {
                self.packages.remove(&package);
            }
        }
    }

    fn record_holders(&mut self, package: PackageId, nodes: &[NodeId]) -> Reply {
        let holders = self.members_among(nodes);
        match self.packages.get_mut(&package) {
            Some(record) => {
                record.holders = holders;
                Reply::Done
            }
            None => Reply::refused(Refused::NoSuchPackage { package }),
        }
    }

    fn members_among(&self, nodes: &[NodeId]) -> BTreeSet<NodeId> {
        nodes
            .iter()
            .copied()
            .filter(|node| self.members.contains_key(node))
            .collect()
    }

    /// Slots of jobs that the log does not have, or beyond any job's size,
    /// are left out: they would be remembered for ever.
    fn record_placements(&mut self, reign: Reign, filled: &[Placement], freed: &[SlotId]) -> Reply {
        if reign != self.authority.reign {
            return Reply::refused(Refused::StaleReign);
        }
        for slot in freed {
            self.placements.remove(slot);
        }
        for placement in filled {
            let slot = &placement.slot;
            if self.jobs.contains_key(&slot.job)
                && slot.index < SLOTS_MAX
                && self.members.contains_key(&placement.node)
            {
                self.placements.insert(slot.clone(), placement.clone());
            }
        }
        Reply::Done
    }
}
