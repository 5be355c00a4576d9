//! Dependencies between jobs: they gate starts, put rollouts in order, and
//! order stops the other way round.
//!
//! A task that runs is never touched because another job is down: only what
//! has to be started waits.

use super::{Scheduler, batch::ends, names::JobId, picture::serves, rollout::Target};
use crate::{
    cluster::{BatchRecord, Cluster, RolloutPhase},
    session::TaskState,
};
use potluck_specs::{
    Job, JobName, Millis,
    job::{Dependency, DependencyState},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// How long a stopped job's tasks wait for those of stopped jobs that depend
/// on it: longer than a usual grace; a host that is gone must not keep a job
/// running for ever.
const STOP_ORDER_LONGEST: Millis = Millis(120_000);

/// Between two looks at a job that waits to be stopped.
const LOOK_EVERY: Millis = Millis(1_000);

/// A job that another one waits for before it starts, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Which.
    pub job: JobName,
    /// What keeps it from being there.
    pub lack: Lack,
}

/// What keeps a job from being what others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Nobody ever submitted it.
    Missing,
    /// It was stopped.
    Stopped,
    /// Its work failed, or was too late, before it came so far: it is not
    /// tried again by itself.
    Failed {
        /// So many of its tasks are done.
        done: u32,
        /// So many should be.
        wanted: u32,
    },
    /// Fewer of its tasks are there than are waited for.
    TooFew {
        /// So many are.
        there: u32,
        /// So many should be.
        wanted: u32,
        /// What counts.
        state: DependencyState,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Missing => f.write_str("does not exist"),
            Lack::Stopped => f.write_str("is stopped"),
            Lack::Failed { done, wanted } => write!(
                f,
                "has failed with {done} of {wanted} done and is not tried again by itself: \
                 run it again, or drop the dependency"
            ),
            Lack::TooFew {
                there,
                wanted,
                state,
            } => {
                let state = match state {
                    DependencyState::Started => "started",
                    DependencyState::Healthy => "healthy",
                };
                let tasks = if *wanted == 1 { "task" } else { "tasks" };
                write!(f, "has {there} of {wanted} {tasks} {state}")
            }
        }
    }
}

impl Scheduler {
    /// What a job waits for before its tasks start, by its newest version.
    pub fn unmet_dependencies(&self, cluster: &Cluster, name: &JobName) -> Vec<Unmet> {
        match self.catalog.running(self.names.id(name)) {
            Some(job) => self.all_unmet(cluster, job),
            None => Vec::new(),
        }
    }

    pub(super) fn all_unmet(&self, cluster: &Cluster, job: &Job) -> Vec<Unmet> {
        let needs = job.change.depends_on.iter();
        needs
            .filter_map(|needs| self.unmet_one(cluster, needs))
            .collect()
    }

    /// What a dependency lacks; none if it is met.
    fn lack(&self, cluster: &Cluster, needs: &Dependency) -> Option<Lack> {
        if self.work_is_done(cluster, self.names.id(&needs.job)) {
            return None;
        }
        match cluster.jobs().get(&needs.job) {
            None => return Some(Lack::Missing),
            Some(record) if record.stopped => return Some(Lack::Stopped),
            Some(_) => {}
        }
        if let Some(batch) = cluster.batch(&needs.job).filter(|b| b.over.is_some()) {
            let (done, wanted) = (batch.done(), needs.at_least.unwrap_or(batch.completions));
            return (done < wanted).then_some(Lack::Failed { done, wanted });
        }
        let target = self.target(cluster, self.names.id(&needs.job));
        // One that can't be read, or that the picture does not have yet.
        let slots = target.as_ref().map_or(1, Target::slots);
        let wanted = needs.at_least.unwrap_or(slots);
        let there = match target.as_ref().filter(|target| ends(target.current())) {
            Some(target) => self.has_come_far(cluster, target, needs),
            None => self.there(needs),
        };
        let met = target.is_some() && there >= wanted;
        (!met).then_some(Lack::TooFew {
            there,
            wanted,
            state: needs.state,
        })
    }

    /// The first that the job waits for, if it waits.
    pub(super) fn unmet(&self, cluster: &Cluster, job: JobId) -> Option<Unmet> {
        let job = self.catalog.running(job)?;
        let mut needs = job.change.depends_on.iter();
        needs.find_map(|needs| self.unmet_one(cluster, needs))
    }

    fn unmet_one(&self, cluster: &Cluster, needs: &Dependency) -> Option<Unmet> {
        let lack = self.lack(cluster, needs)?;
        let job = needs.job.clone();
        Some(Unmet { job, lack })
    }

    /// Tasks of the other job that are as far as they should be.
    fn there(&self, needs: &Dependency) -> u32 {
        let job = self.names.id(&needs.job);
        let there = self.picture.slots_of(job).filter(|seat| {
            self.kept(*seat).is_some_and(|(_, report)| {
                serves(report)
                    || (needs.state == DependencyState::Started
                        && report.state == TaskState::Running)
            })
        });
        there.count() as u32
    }

    /// Of work that ends the tasks that are done count: none stays healthy.
    fn has_come_far(&self, cluster: &Cluster, target: &Target, needs: &Dependency) -> u32 {
        let done = cluster.batch(target.name()).map_or(0, BatchRecord::done);
        let running = self.picture.slots_of(target.id()).filter(|seat| {
            let kept = self.kept(*seat);
            kept.is_some_and(|(_, report)| report.state == TaskState::Running)
        });
        match needs.state {
            DependencyState::Started => done + running.count() as u32,
            DependencyState::Healthy => done,
        }
    }

    /// A job that this one depends on, whose rollout comes first.
    pub(super) fn rollout_before<'a>(
        &'a self,
        cluster: &Cluster,
        job: JobId,
    ) -> Option<&'a JobName> {
        let job = self.catalog.running(job)?;
        let needs = job.change.depends_on.iter();
        let mut rolling = needs.filter(|needs| {
            cluster
                .rollout(&needs.job)
                .is_some_and(|rollout| rollout.phase == RolloutPhase::Rolling)
                && cluster.jobs().get(&needs.job).is_some_and(|r| !r.stopped)
        });
        rolling.next().map(|needs| &needs.job)
    }

    /// May a stopped job's tasks end now? Those of stopped jobs that depend on
    /// it end first, for a while.
    pub(super) fn may_stop_job(&mut self, cluster: &Cluster, job: JobId, now: Millis) -> bool {
        let waits = self.dependants.of(job).any(|dependant| {
            let record = cluster.jobs().get(self.names.name(dependant));
            record.is_some_and(|record| record.stopped) && self.has_tasks(dependant)
        });
        if !waits || !self.has_tasks(job) {
            self.stop_waits.remove(&job);
            return true;
        }
        let since = *self.stop_waits.entry(job).or_insert(now);
        if now.since(since) >= STOP_ORDER_LONGEST {
            return true;
        }
        self.wake(job, now + LOOK_EVERY);
        false
    }

    fn has_tasks(&self, job: JobId) -> bool {
        let mut slots = self.picture.slots_of(job);
        slots.any(|seat| self.picture.holders(seat).next().is_some())
    }

    /// Jobs that may wait for this one are looked at with the next tick.
    pub(super) fn look_at_dependants(&mut self, job: JobId) {
        self.deferred.extend(self.dependants.of(job));
    }

    /// The job's newest version is another.
    pub(super) fn follow_needs(&mut self, job: JobId) {
        let needs = self.catalog.latest(job).map_or_else(BTreeSet::new, |job| {
            let needs = job.change.depends_on.iter();
            needs.map(|needs| self.names.meet(&needs.job)).collect()
        });
        self.dependants.replace(job, needs);
    }
}

/// Who depends on whom, by the newest versions.
#[derive(Debug, Default)]
pub(super) struct Dependants {
    needs: BTreeMap<JobId, BTreeSet<JobId>>,
    by_job: BTreeMap<JobId, BTreeSet<JobId>>,
}

impl Dependants {
    /// Does any job depend on this one?
    pub(super) fn names(&self, job: JobId) -> bool {
        self.of(job).next().is_some()
    }

    /// Jobs that depend on this one.
    fn of(&self, job: JobId) -> impl Iterator<Item = JobId> {
        self.by_job.get(&job).into_iter().flatten().copied()
    }

    fn replace(&mut self, job: JobId, needs: BTreeSet<JobId>) {
        for before in self.needs.remove(&job).into_iter().flatten() {
            if let Some(dependants) = self.by_job.get_mut(&before) {
                dependants.remove(&job);
            }
        }
        for needed in &needs {
            self.by_job.entry(*needed).or_default().insert(job);
        }
        if !needs.is_empty() {
            self.needs.insert(job, needs);
        }
    }
}
