//! Jobs as they are read: the log holds signed bytes, and decoding them at
//! each decision would cost more than the decision.

use super::{
    batch::ends,
    call::has_volumes,
    names::{JobId, JobMap, Names},
};
use crate::cluster::Cluster;
use potluck_specs::{
    Job, JobName, Reign,
    job::{JobKind, Level, SignedJob},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(super) struct Catalog {
    jobs: JobMap<Known>,
    /// For each job that others must be apart from: those others.
    apart: BTreeMap<JobId, BTreeSet<(JobId, Level)>>,
    per_node: BTreeSet<JobId>,
}

#[derive(Debug, Default)]
struct Known {
    current: u64,
    stopped: bool,
    accepted: Option<Reign>,
    kept: BTreeMap<u64, Kept>,
    /// Of the newest version, for counting: its tasks are bandwidth-heavy,
    /// keep volumes.
    heavy: bool,
    volumes: bool,
    /// Its newest version is work that ends.
    ends: bool,
}

/// A version that the log keeps.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) job: Arc<Job>,
    pub(super) signed: Arc<SignedJob>,
}

impl Catalog {
    /// Follows the log; gives the jobs that changed.
    pub(super) fn follow(&mut self, cluster: &Cluster, names: &mut Names) -> Vec<JobId> {
        let mut changed = Vec::new();
        for (name, record) in cluster.jobs() {
            let version = record.current().version;
            let id = names.meet(name);
            let known = self.jobs.of(id);
            if known.current == version && known.stopped == record.stopped {
                continue;
            }
            known.current = version;
            known.accepted = Some(record.accepted_reign);
            known.stopped = record.stopped;
            known
                .kept
                .retain(|version, _| record.version(*version).is_some());
            for kept in &record.versions {
                if !known.kept.contains_key(&kept.version)
                    && let Ok(job) = kept.job.decode_unchecked()
                {
                    let version = Kept {
                        job: Arc::new(job),
                        signed: Arc::new(kept.job.clone()),
                    };
                    known.kept.insert(kept.version, version);
                }
            }
            changed.push(id);
        }
        for id in &changed {
            self.note_placement(*id, names);
        }
        changed
    }

    /// Notes what other jobs have to know of this one.
    fn note_placement(&mut self, id: JobId, names: &mut Names) {
        self.per_node.remove(&id);
        self.apart.retain(|_, others| {
            others.retain(|(other, _)| *other != id);
            !others.is_empty()
        });
        let newest = self.running(id).cloned();
        let ends = self.latest(id).is_some_and(|job| ends(job));
        if let Some(known) = self.jobs.get_mut(id) {
            known.ends = ends;
            let job = newest.as_deref();
            known.heavy = job.is_some_and(|job| job.placement.bandwidth_heavy);
            known.volumes = job.is_some_and(has_volumes);
        }
        let Some(job) = newest else { return };
        if job.kind == JobKind::PerNode {
            self.per_node.insert(id);
        }
        for other in &job.placement.apart_from {
            let those = self.apart.entry(names.meet(&other.job)).or_default();
            those.insert((id, other.level));
        }
    }

    /// The version that should run, if anything of the job should.
    pub(super) fn running(&self, id: JobId) -> Option<&Arc<Job>> {
        let known = self.jobs.get(id).filter(|known| !known.stopped)?;
        known.kept.get(&known.current).map(|kept| &kept.job)
    }

    /// The reign in which the job was first accepted.
    pub(super) fn accepted_in(&self, id: JobId) -> Option<Reign> {
        self.jobs.get(id)?.accepted
    }

    /// Does the log have the job?
    pub(super) fn has(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some()
    }

    /// Does the log have the job, or does one of its jobs name it?
    pub(super) fn names(&self, id: JobId) -> bool {
        self.has(id) || self.apart.contains_key(&id)
    }

    /// Does any kept version of the job have a service?
    pub(super) fn serves(&self, id: JobId) -> bool {
        let known = self.jobs.get(id);
        let mut kept = known.into_iter().flat_map(|known| known.kept.values());
        kept.any(|kept| !kept.job.task.services.is_empty())
    }

    /// Jobs that want to be apart from this one.
    pub(super) fn apart_from(&self, id: JobId) -> impl Iterator<Item = (JobId, Level)> {
        self.apart.get(&id).into_iter().flatten().copied()
    }

    /// Does the one want to be near the other?
    pub(super) fn wants_near(&self, id: JobId, other: &Job) -> bool {
        self.running(id).is_some_and(|job| {
            let mut near = job.placement.together_with.iter();
            near.any(|neighbour| neighbour.job == other.name)
        })
    }

    /// Does any job matter less than this priority?
    pub(super) fn has_lower(&self, priority: u32) -> bool {
        self.jobs
            .iter()
            .filter(|(_, known)| !known.stopped)
            .filter_map(|(_, known)| known.kept.get(&known.current))
            .any(|kept| kept.job.priority < priority)
    }

    /// Jobs with one task on each node.
    pub(super) fn per_node(&self) -> impl Iterator<Item = JobId> {
        self.per_node.iter().copied()
    }

    pub(super) fn is_heavy(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some_and(|known| known.heavy)
    }

    pub(super) fn has_volumes(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some_and(|known| known.volumes)
    }

    /// Does the job's work end, whether or not it should run?
    pub(super) fn ends(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some_and(|known| known.ends)
    }

    pub(super) fn is_stopped(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some_and(|known| known.stopped)
    }

    /// Every job in the log.
    pub(super) fn ids(&self) -> impl Iterator<Item = JobId> + '_ {
        self.jobs.iter().map(|(id, _)| id)
    }

    /// A version of a job with its signed bytes, if the log still keeps it.
    pub(super) fn kept(&self, id: JobId, version: u64) -> Option<&Kept> {
        self.jobs.get(id)?.kept.get(&version)
    }

    /// A version of a job, if the log still keeps it.
    pub(super) fn version(&self, id: JobId, version: u64) -> Option<&Arc<Job>> {
        self.kept(id, version).map(|kept| &kept.job)
    }

    /// Versions after the one and before the other that the log still keeps, in
    /// order.
    pub(super) fn between(&self, id: JobId, from: u64, to: u64) -> impl Iterator<Item = &Job> {
        let known = self.jobs.get(id).into_iter();
        let kept = known.flat_map(move |known| {
            let after = known
                .kept
                .iter()
                .filter(move |(version, _)| **version > from);
            after.take_while(move |(version, _)| **version < to)
        });
        kept.map(|(_, kept)| &*kept.job)
    }

    /// The newest version, whether or not it should run.
    pub(super) fn latest(&self, id: JobId) -> Option<&Arc<Job>> {
        self.version(id, self.jobs.get(id)?.current)
    }

    /// A version of a job, or the newest where the log keeps that one no longer:
    /// its tasks still run only if they are alike.
    pub(super) fn version_or_newest(&self, id: JobId, version: u64) -> Option<&Arc<Job>> {
        self.version(id, version).or_else(|| self.latest(id))
    }

    /// What a task that runs is to be taken by: the version that it was given,
    /// or the newest one where that runs the same tasks, since all else of it
    /// may have changed.
    pub(super) fn of_task(
        &self,
        cluster: &Cluster,
        id: JobId,
        name: &JobName,
        version: u64,
    ) -> Option<&Arc<Job>> {
        let current = self.jobs.get(id)?.current;
        let version = match version == current || cluster.is_current_task(name, version) {
            true => current,
            false => version,
        };
        self.version(id, version)
    }
}
