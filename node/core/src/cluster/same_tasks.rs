//! Which versions of a job run the same tasks, so that a change of anything
//! else, such as the number of replicas, restarts none.
//!
//! ```text
//! version      1    2         3          4         5
//! changed           replicas  command    priority  back to 2
//! tasks of     1    1         3          3         1 if the rollout of 3 was
//!                                                  undone or under way, else 5
//! ```
//!
//! Answers for the mark that each version gets when it is committed. It is
//! compared with what runs alone: the version that fills the slots, and the
//! one that is being rolled out, if that has not failed. A version in which
//! nothing changes is a wish to start again: no other is ever accepted.
//!
//! A host runs a task by the version that it was given, and verifies that
//! one's signature, until the task ends; a task started later is of the newest.

use super::{Cluster, JobRecord, JobVersion, rollouts::is_under_way};
use potluck_specs::{Job, JobName, diff};
use serde::{Deserialize, Serialize};

/// The mark of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SameTasks {
    /// The version that first ran these tasks; 0 if this one does, as
    /// versions of before this was kept.
    began: u64,
    /// All versions since that one run them too, kept or not; 0: this one.
    unbroken: u64,
}

impl JobVersion {
    /// The same number for all versions that run the same tasks.
    fn tasks(&self) -> u64 {
        match self.same_tasks.began {
            0 => self.version,
            began => began,
        }
    }

    fn unbroken(&self) -> u64 {
        match self.same_tasks.unbroken {
            0 => self.version,
            unbroken => unbroken,
        }
    }
}

impl JobRecord {
    /// Is a task of the one version as good as one of the other? Of a version
    /// that is kept no longer it is known only if nothing but small changes
    /// came after it.
    pub fn runs_same_tasks(&self, one: u64, other: u64) -> bool {
        let (older, newer) = (one.min(other), one.max(other));
        if older == newer {
            return true;
        }
        match (self.version(older), self.version(newer)) {
            (Some(older), Some(newer)) => older.tasks() == newer.tasks(),
            (None, Some(newer)) => newer.unbroken() <= older,
            (_, None) => false,
        }
    }
}

impl Cluster {
    /// The version whose tasks would be left alone if this job were accepted
    /// now as its next version; none if all are started again.
    pub fn would_keep_tasks_of(&self, job: &Job) -> Option<u64> {
        let runs = self.runs_before(&job.name)?;
        let record = self.jobs.get(&job.name)?;
        let newest = record.current();
        let is_of = |kept: &JobVersion, test: fn(&Job, &Job) -> bool| {
            let kept = kept.job.decode_unchecked();
            kept.is_ok_and(|kept| test(&kept, job))
        };
        if is_of(newest, diff::same_wish) {
            return None;
        }
        let comes = self.is_coming(&job.name).then_some(newest.version);
        let mut candidates = comes.into_iter().chain([runs]);
        candidates.find(|candidate| {
            let kept = record.version(*candidate);
            kept.is_some_and(|kept| is_of(kept, |old, new| !diff::changes_tasks(old, new)))
        })
    }

    /// The mark of the job's next version.
    pub(super) fn same_tasks(&self, job: &Job) -> SameTasks {
        let record = self.jobs.get(&job.name);
        let kept = self.would_keep_tasks_of(job);
        let (Some(record), Some(kept)) = (record, kept) else {
            return SameTasks::default();
        };
        let began = record.version(kept).map_or(kept, JobVersion::tasks);
        let newest = record.current();
        SameTasks {
            began,
            unbroken: match newest.tasks() == began {
                true => newest.unbroken(),
                false => 0,
            },
        }
    }

    /// Is the newest version on its way, and nothing wrong with it?
    fn is_coming(&self, job: &JobName) -> bool {
        self.rollout(job).is_some_and(is_under_way)
    }

    /// Do tasks of this version run by the newest one? Then that says what
    /// they are worth, and what may be done with them.
    pub fn is_current_task(&self, job: &JobName, version: u64) -> bool {
        let record = self.jobs.get(job);
        record.is_some_and(|record| record.runs_same_tasks(version, record.current().version))
    }
}
