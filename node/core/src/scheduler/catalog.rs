//! Jobs as they are read: the log holds signed bytes, and decoding them at
//! each decision would cost more than the decision.

use super::call::has_volumes;
use crate::cluster::Cluster;
use potluck_specs::{
    Job, JobName,
    job::{JobKind, Level},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(super) struct Catalog {
    jobs: BTreeMap<JobName, Known>,
    /// For each job that others must be apart from: those others.
    apart: BTreeMap<JobName, BTreeSet<(JobName, Level)>>,
    per_node: BTreeSet<JobName>,
}

#[derive(Debug, Default)]
struct Known {
    current: u64,
    stopped: bool,
    decoded: BTreeMap<u64, Arc<Job>>,
}

impl Catalog {
    /// Follows the log; gives the jobs that changed.
    pub(super) fn follow(&mut self, cluster: &Cluster) -> BTreeSet<JobName> {
        let mut changed = BTreeSet::new();
        for (name, record) in cluster.jobs() {
            let version = record.current().version;
            let known = self.jobs.entry(name.clone()).or_default();
            if known.current == version && known.stopped == record.stopped {
                continue;
            }
            known.current = version;
            known.stopped = record.stopped;
            known
                .decoded
                .retain(|version, _| record.version(*version).is_some());
            for kept in &record.versions {
                if !known.decoded.contains_key(&kept.version)
                    && let Ok(job) = kept.job.decode_unchecked()
                {
                    known.decoded.insert(kept.version, Arc::new(job));
                }
            }
            changed.insert(name.clone());
        }
        for name in &changed {
            self.note_placement(name);
        }
        changed
    }

    /// Notes what other jobs have to know of this one.
    fn note_placement(&mut self, name: &JobName) {
        self.per_node.remove(name);
        self.apart.retain(|_, others| {
            others.retain(|(other, _)| other != name);
            !others.is_empty()
        });
        let Some(job) = self.newest(name) else { return };
        if job.kind == JobKind::PerNode {
            self.per_node.insert(name.clone());
        }
        for other in &job.placement.apart_from {
            let those = self.apart.entry(other.job.clone()).or_default();
            those.insert((name.clone(), other.level));
        }
    }

    /// The version that should run, if anything of the job should.
    fn newest(&self, name: &JobName) -> Option<Arc<Job>> {
        let known = self.jobs.get(name).filter(|known| !known.stopped)?;
        known.decoded.get(&known.current).cloned()
    }

    /// Jobs that want to be apart from this one.
    pub(super) fn apart_from(&self, name: &JobName) -> impl Iterator<Item = (JobName, Level)> {
        self.apart.get(name).into_iter().flatten().cloned()
    }

    /// Does the one want to be near the other?
    pub(super) fn wants_near(&self, name: &JobName, other: &JobName) -> bool {
        self.newest(name).is_some_and(|job| {
            let mut near = job.placement.together_with.iter();
            near.any(|neighbour| neighbour.job == *other)
        })
    }

    /// Does any job matter less than this priority?
    pub(super) fn has_lower(&self, priority: u32) -> bool {
        self.jobs
            .values()
            .filter(|known| !known.stopped)
            .filter_map(|known| known.decoded.get(&known.current))
            .any(|job| job.priority < priority)
    }

    /// Jobs with one task on each node.
    pub(super) fn per_node(&self) -> impl Iterator<Item = &JobName> {
        self.per_node.iter()
    }

    pub(super) fn is_heavy(&self, name: &JobName) -> bool {
        let job = self.newest(name);
        job.is_some_and(|job| job.placement.bandwidth_heavy)
    }

    pub(super) fn has_volumes(&self, name: &JobName) -> bool {
        self.newest(name).is_some_and(|job| has_volumes(&job))
    }

    /// Every job in the log.
    pub(super) fn names(&self) -> impl Iterator<Item = JobName> + '_ {
        self.jobs.keys().cloned()
    }

    /// A version of a job, if the log still keeps it.
    pub(super) fn version(&self, name: &JobName, version: u64) -> Option<Arc<Job>> {
        self.jobs.get(name)?.decoded.get(&version).cloned()
    }

    /// A version of a job, or the newest where the log keeps that one no longer:
    /// its tasks still run only if they are alike.
    pub(super) fn kept(&self, name: &JobName, version: u64) -> Option<Arc<Job>> {
        let current = || self.jobs.get(name).map(|known| known.current);
        let newest = || self.version(name, current()?);
        self.version(name, version).or_else(newest)
    }

    /// What a task that runs is to be taken by: the version that it was given,
    /// or the newest one where that runs the same tasks, since all else of it
    /// may have changed.
    pub(super) fn of_task(
        &self,
        cluster: &Cluster,
        name: &JobName,
        version: u64,
    ) -> Option<Arc<Job>> {
        let version = match cluster.is_current_task(name, version) {
            true => self.jobs.get(name)?.current,
            false => version,
        };
        self.version(name, version)
    }

    /// What should run, if anything should.
    pub(super) fn running(&self, cluster: &Cluster, name: &JobName) -> Option<Arc<Job>> {
        let record = cluster.jobs().get(name)?;
        if record.stopped {
            return None;
        }
        self.version(name, record.current().version)
    }
}
