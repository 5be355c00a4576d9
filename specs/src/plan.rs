//! What a change will do, told before it does it.
//!
//! Pure description: the client knows the specs, the leader knows the cluster,
//! and both fill in what they know. Plans are sent between our own versions
//! and shown to people's programs, so fields that are not known are ignored.

use crate::{
    JobName,
    diff::{FieldChange, JobChange, diff, of_effects},
    finding::{Finding, refused},
    job::{Job, Level, StageSize, Update},
};
use serde::{Deserialize, Serialize};

/// Everything that a change will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each job of the specs, and those that are removed.
    pub jobs: Vec<JobPlan>,
}

/// What happens to one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// Which.
    pub job: JobName,
    /// What happens to it as a whole.
    pub change: JobChange,
    /// The version that the cluster has; none if it has none. Hand this to
    /// `run --expect-version`.
    pub version: Option<u64>,
    /// Each field that changes; none for a job that is created or removed.
    pub fields: Vec<FieldChange>,
    /// Why it would be refused, and what may not be meant.
    pub findings: Vec<Finding>,
    /// Where its tasks would go, if anyone could tell.
    pub forecast: Option<Forecast>,
    /// The stages of the rollout, in their order; none if nothing restarts.
    pub stages: Vec<PlannedStage>,
}

/// Where tasks would go by the leader's present view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Tasks that stay where they are and are not started again.
    pub kept: u32,
    /// Tasks that would be started, by place.
    pub rows: Vec<ForecastRow>,
    /// Each task that would start, move or stop, where they are few enough to
    /// be read.
    #[serde(default)]
    pub tasks: Vec<PlannedTask>,
    /// Running tasks that would not be wanted any more.
    #[serde(default)]
    pub stops: u32,
    /// Tasks that the look left out: it has a limit.
    #[serde(default)]
    pub not_looked_at: u32,
    /// Tasks that would not find a place, by reason.
    pub unplaced: Vec<Unplaced>,
    /// Other jobs that this one would wait for, each with what is lacking.
    pub waits: Vec<Wait>,
}

/// What happens to one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTask {
    /// Its number.
    pub slot: u32,
    /// The node that it runs on now.
    pub from: Option<String>,
    /// The node that it would be started on; none if it would stop.
    pub to: Option<String>,
}

/// Tasks in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForecastRow {
    /// What the place is: a node, or a rack where there are too many nodes.
    pub level: Level,
    /// Its name.
    pub place: String,
    /// Tasks that would be started there.
    pub tasks: u32,
}

/// Tasks that don't fit anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// How many.
    pub tasks: u32,
    /// Which need failed, by how much: lower case, no full stop.
    pub why: String,
    /// Nodes that say so.
    pub nodes: u32,
}

/// A job that has to be there first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The other job.
    pub on: JobName,
    /// What it lacks: lower case, no full stop.
    pub why: String,
}

/// A stage of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// As the spec says.
    pub size: StageSize,
    /// Tasks of the new version at its end; unknown for a place.
    pub tasks: Option<u32>,
    /// All must stay healthy this long.
    pub bake_ms: u64,
}

impl Plan {
    /// Would `run` change anything? What `potluck plan` tells by its exit
    /// code. A job that left the file runs on, so that alone is no change.
    pub fn has_changes(&self) -> bool {
        let nothing = |change| matches!(change, JobChange::Unchanged | JobChange::Removed);
        self.jobs.iter().any(|job| !nothing(job.change))
    }

    /// Would anything be refused?
    pub fn is_refused(&self) -> bool {
        self.jobs.iter().any(|job| refused(&job.findings))
    }

    /// How long all must take at least, stages baking side by side.
    pub fn least_ms(&self) -> u64 {
        self.jobs.iter().map(JobPlan::least_ms).max().unwrap_or(0)
    }
}

impl JobPlan {
    /// What the jobs themselves tell: everything but findings and forecast.
    /// None if there is neither.
    pub fn of(old: Option<&Job>, new: Option<&Job>) -> Option<JobPlan> {
        let (change, fields) = match (old, new) {
            (None, None) => return None,
            (None, Some(_)) => (JobChange::Created, Vec::new()),
            (Some(_), None) => (JobChange::Removed, Vec::new()),
            (Some(old), Some(new)) => {
                let fields = diff(old, new);
                (of_effects(&fields), fields)
            }
        };
        let restarts = matches!(change, JobChange::RollingRestart | JobChange::Replaced);
        let rollout = new.filter(|_| restarts);
        Some(JobPlan {
            job: new.or(old)?.name.clone(),
            change,
            version: old.map(|job| job.version),
            fields,
            findings: Vec::new(),
            forecast: None,
            stages: rollout.map_or_else(Vec::new, |job| stages(&job.change.update, job.slots())),
        })
    }

    /// How long the rollout must take at least: the time that its stages bake.
    /// The starts themselves are not counted, since nobody knows them.
    pub fn least_ms(&self) -> u64 {
        let bakes = self.stages.iter().map(|stage| stage.bake_ms);
        bakes.fold(0, u64::saturating_add)
    }
}

/// The stages of an update of so many tasks. A last one of all tasks is there
/// even if the spec does not say it; stages that add nothing stay, since they
/// bake.
pub fn stages(update: &Update, tasks: u32) -> Vec<PlannedStage> {
    let planned = |size, bake_ms| PlannedStage {
        size,
        tasks: size.of(tasks),
        bake_ms,
    };
    let said = update.stages.iter();
    let mut stages: Vec<_> = said
        .map(|stage| planned(stage.size, stage.bake_ms))
        .collect();
    let ends = stages.last().is_some_and(|last| last.tasks == Some(tasks));
    if !ends {
        stages.push(planned(StageSize::All, 0));
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobKind, Stage};

    fn job(version: u64) -> Job {
        Job {
            version,
            kind: JobKind::service(10),
            ..Job::default()
        }
    }

    fn plan(old: Option<&Job>, new: Option<&Job>) -> JobPlan {
        JobPlan::of(old, new).unwrap()
    }

    #[test]
    fn stages_end_with_all() {
        let stage = |size| Stage { size, bake_ms: 5 };
        let update = |sizes: &[StageSize]| Update {
            stages: sizes.iter().copied().map(stage).collect(),
            ..Update::default()
        };
        let of = |sizes: &[StageSize]| -> Vec<Option<u32>> {
            stages(&update(sizes), 10)
                .iter()
                .map(|stage| stage.tasks)
                .collect()
        };
        assert_eq!(of(&[]), [Some(10)]);
        assert_eq!(
            of(&[StageSize::Count(1), StageSize::Percent(25)]),
            [Some(1), Some(3), Some(10)]
        );
        assert_eq!(of(&[StageSize::Count(99)]), [Some(10)]);
        assert_eq!(of(&[StageSize::Rack, StageSize::All]), [None, Some(10)]);
        assert_eq!(
            of(&[StageSize::Count(1), StageSize::Cluster]),
            [Some(1), Some(10)]
        );
    }

    #[test]
    fn a_plan_tells_what_the_jobs_tell() {
        let old = job(4);
        let mut new = job(5);
        assert_eq!(JobPlan::of(None, None), None);
        assert_eq!(plan(None, Some(&new)).change, JobChange::Created);
        assert_eq!(plan(Some(&old), None).change, JobChange::Removed);
        let same = plan(Some(&old), Some(&new));
        assert_eq!((same.change, same.version), (JobChange::Unchanged, Some(4)));
        assert!(!Plan { jobs: vec![same] }.has_changes());
        let left = plan(Some(&old), None);
        assert!(
            !Plan { jobs: vec![left] }.has_changes(),
            "run stops nothing"
        );
        new.task.command = "x".into();
        new.change.update.stages = vec![Stage {
            size: StageSize::Count(1),
            bake_ms: 60_000,
        }];
        let changed = plan(Some(&old), Some(&new));
        assert_eq!(changed.change, JobChange::RollingRestart);
        assert_eq!((changed.stages.len(), changed.least_ms()), (2, 60_000));
        let plan = Plan {
            jobs: vec![changed],
        };
        assert!(plan.has_changes() && !plan.is_refused());
        assert_eq!(plan.least_ms(), 60_000);
    }
}
