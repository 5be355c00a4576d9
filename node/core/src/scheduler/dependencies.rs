//! Dependencies between jobs: they gate starts, put rollouts in order, and
//! order stops the other way round.
//!
//! A task that runs is never touched because another job is down: only what
//! has to be started waits.

use super::{Scheduler, picture::serves};
use crate::{
    cluster::{Cluster, RolloutPhase},
    session::TaskState,
};
use potluck_specs::{
    JobName, Millis,
    job::{Dependency, DependencyState},
};
use std::collections::{BTreeMap, BTreeSet};

/// How long a stopped job's tasks wait for those of stopped jobs that depend
/// on it: longer than a usual grace; a host that is gone must not keep a job
/// running for ever.
const STOP_ORDER_LONGEST: Millis = Millis(120_000);

/// Between two looks at a job that waits to be stopped.
const LOOK_EVERY: Millis = Millis(1_000);

impl Scheduler {
    /// A job that this one waits for before it starts, if any.
    pub fn unmet_dependency(&self, cluster: &Cluster, name: &JobName) -> Option<JobName> {
        let job = self.catalog.running(cluster, name)?;
        let needs = job.change.depends_on.iter();
        let mut unmet = needs.filter(|needs| !self.is_met(cluster, needs));
        unmet.next().map(|needs| needs.job.clone())
    }

    pub(super) fn is_met(&self, cluster: &Cluster, needs: &Dependency) -> bool {
        let Some(target) = self.target(cluster, &needs.job) else {
            return false;
        };
        let wanted = needs.at_least.unwrap_or(target.slots());
        let there = self.picture.slots_of(&needs.job).filter(|slot| {
            self.kept(slot).is_some_and(|(_, report)| {
                serves(report)
                    || (needs.state == DependencyState::Started
                        && report.state == TaskState::Running)
            })
        });
        there.count() as u32 >= wanted
    }

    /// A job that this one depends on, whose rollout comes first.
    pub(super) fn rollout_before(&self, cluster: &Cluster, name: &JobName) -> Option<JobName> {
        let job = self.catalog.running(cluster, name)?;
        let needs = job.change.depends_on.iter();
        let mut rolling = needs.filter(|needs| {
            cluster
                .rollout(&needs.job)
                .is_some_and(|rollout| rollout.phase == RolloutPhase::Rolling)
                && cluster.jobs().get(&needs.job).is_some_and(|r| !r.stopped)
        });
        rolling.next().map(|needs| needs.job.clone())
    }

    /// May a stopped job's tasks end now? Those of stopped jobs that depend on
    /// it end first, for a while.
    pub(super) fn may_stop_job(&mut self, cluster: &Cluster, name: &JobName, now: Millis) -> bool {
        let waits = self.dependants(name).into_iter().any(|dependant| {
            let record = cluster.jobs().get(&dependant);
            record.is_some_and(|record| record.stopped) && self.has_tasks(&dependant)
        });
        if !waits || !self.has_tasks(name) {
            self.stop_waits.remove(name);
            return true;
        }
        let since = *self.stop_waits.entry(name.clone()).or_insert(now);
        if now.since(since) >= STOP_ORDER_LONGEST {
            return true;
        }
        self.wake(name, now + LOOK_EVERY);
        false
    }

    fn has_tasks(&self, name: &JobName) -> bool {
        let mut slots = self.picture.slots_of(name);
        slots.any(|slot| !self.picture.holders(slot).is_empty())
    }

    /// Jobs whose newest version depends on this one.
    fn dependants(&self, name: &JobName) -> Vec<JobName> {
        let known = self.dependants.by_job.get(name).into_iter().flatten();
        known.cloned().collect()
    }

    /// Jobs that may wait for this one are looked at with the next tick.
    pub(super) fn look_at_dependants(&mut self, name: &JobName) {
        let dependants = self.dependants(name);
        self.deferred.extend(dependants);
    }

    /// The job's newest version is another.
    pub(super) fn follow_needs(&mut self, cluster: &Cluster, name: &JobName) {
        let newest = cluster
            .jobs()
            .get(name)
            .map(|record| record.current().version);
        let job = newest.and_then(|version| self.catalog.version(name, version));
        let needs = job.map_or_else(BTreeSet::new, |job| {
            let needs = job.change.depends_on.iter();
            needs.map(|needs| needs.job.clone()).collect()
        });
        self.dependants.replace(name, needs);
    }
}

/// Who depends on whom, by the newest versions.
#[derive(Debug, Default)]
pub(super) struct Dependants {
    needs: BTreeMap<JobName, BTreeSet<JobName>>,
    by_job: BTreeMap<JobName, BTreeSet<JobName>>,
}

impl Dependants {
    fn replace(&mut self, name: &JobName, needs: BTreeSet<JobName>) {
        for before in self.needs.remove(name).into_iter().flatten() {
            if let Some(dependants) = self.by_job.get_mut(&before) {
                dependants.remove(name);
            }
        }
        for job in &needs {
            self.by_job
                .entry(job.clone())
                .or_default()
                .insert(name.clone());
        }
        if !needs.is_empty() {
            self.needs.insert(name.clone(), needs);
        }
    }
}
