//! What a new version of a job changes: field by field, and what that does to
//! the tasks that run.
//!
//! Only what the job wishes is compared; version, author and signature are no
//! change. Where things have names (ports, services, files, mounts, packages,
//! other jobs), they are compared by name, and the path names them:
//! `task.ports["http"].number`.

mod value;

pub(crate) use value::{cores, duration, size};

use crate::{Job, path::FieldPath};
use serde::{Deserialize, Serialize};

/// Does the scheduler leave a task alone whose job's new version does not
/// need a restart? Until it does, each change is told as a rolling restart:
/// that is what will happen. Set to true in the commit that executes it.
pub const KEEPS_TASKS: bool = false;

/// What a change does to the tasks that run. The later, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing at all.
    None,
    /// Tasks keep running; some may come, go or move.
    InPlace,
    /// Each task is started again, a few at a time.
    RollingRestart,
    /// All tasks end, then others begin: it is another kind of job.
    Replace,
}

/// One field that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Which.
    pub path: FieldPath,
    /// What it was, as people write it; none if it was not there.
    pub old: Option<String>,
    /// What it will be; none if it goes.
    pub new: Option<String>,
    /// What that does.
    pub effect: Effect,
}

/// What happens to a job as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobChange {
    /// As it was.
    Unchanged,
    /// There was none of its name.
    Created,
    /// Tasks keep running.
    ChangedInPlace,
    /// Each task is started again.
    RollingRestart,
    /// All tasks end, then others begin.
    Replaced,
    /// It is no longer wished.
    Removed,
}

/// The fields that change, in the order of the job's parts.
pub fn diff(old: &Job, new: &Job) -> Vec<FieldChange> {
    let mut changes = needed(old, new);
    if !KEEPS_TASKS {
        for change in &mut changes {
            change.effect = change.effect.max(Effect::RollingRestart);
        }
    }
    changes
}

/// What happens to a job that has, and will have, these versions.
pub fn classify(old: Option<&Job>, new: Option<&Job>) -> JobChange {
    match (old, new) {
        (None, None) => JobChange::Unchanged,
        (None, Some(_)) => JobChange::Created,
        (Some(_), None) => JobChange::Removed,
        (Some(old), Some(new)) => of_effects(&diff(old, new)),
    }
}

/// The same, of the fields that change.
pub fn of_effects(changes: &[FieldChange]) -> JobChange {
    let most = changes.iter().map(|change| change.effect).max();
    match most {
        None => JobChange::Unchanged,
        Some(Effect::None | Effect::InPlace) => JobChange::ChangedInPlace,
        Some(Effect::RollingRestart) => JobChange::RollingRestart,
        Some(Effect::Replace) => JobChange::Replaced,
    }
}

/// Must a task of `old` be started again to be one of `new`? For whoever
/// decides that: whatever [`KEEPS_TASKS`] says.
pub fn needs_restart(old: &Job, new: &Job) -> bool {
    let effects = needed(old, new).into_iter().map(|change| change.effect);
    effects
        .max()
        .is_some_and(|most| most >= Effect::RollingRestart)
}

/// What each change needs by its nature.
fn needed(old: &Job, new: &Job) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    for (part, of) in PARTS {
        value::compare(&FieldPath::of(part), of(old), of(new), &mut changes);
    }
    for change in &mut changes {
        change.effect = effect_of(&change.path);
    }
    changes
}

type Part = fn(&Job) -> serde_json::Value;

/// The parts of a job that are its wish, in the order in which they are told.
const PARTS: &[(&str, Part)] = &[
    ("kind", |job| value::of(&job.kind)),
    ("package", |job| value::of(&job.package)),
    ("packages", |job| value::of(&job.packages)),
    ("task", |job| value::of(&job.task)),
    ("placement", |job| value::of(&job.placement)),
    ("change", |job| value::of(&job.change)),
    ("priority", |job| value::of(&job.priority)),
    ("owner", |job| value::of(&job.owner)),
    ("annotations", |job| value::of(&job.annotations)),
];

/// What a change of a field does; the longest path that holds it counts.
const EFFECTS: &[(&str, Effect)] = &[
    ("kind", Effect::Replace),
    ("kind.service.replicas", Effect::InPlace),
    ("kind.batch.completions", Effect::InPlace),
    ("kind.batch.parallelism", Effect::InPlace),
    ("kind.batch.retries", Effect::InPlace),
    ("kind.batch.deadline_ms", Effect::InPlace),
    ("package", Effect::RollingRestart),
    ("packages", Effect::RollingRestart),
    ("task", Effect::RollingRestart),
    ("task.adaptive", Effect::InPlace),
    ("task.health", Effect::InPlace),
    ("task.metrics", Effect::InPlace),
    ("task.restart", Effect::InPlace),
    ("task.services", Effect::InPlace),
    ("task.stop", Effect::InPlace),
    ("task.teardown", Effect::InPlace),
    ("placement", Effect::InPlace),
    ("change", Effect::InPlace),
    // Only an award that was given as an exclusive one has a lease.
    ("change.exclusive", Effect::RollingRestart),
    ("priority", Effect::InPlace),
    ("owner", Effect::None),
    ("annotations", Effect::None),
];

fn effect_of(path: &FieldPath) -> Effect {
    let holding = EFFECTS
        .iter()
        .filter(|(field, _)| FieldPath::of(field).holds(path));
    holding
        .max_by_key(|(field, _)| field.len())
        .map_or(Effect::RollingRestart, |(_, effect)| *effect)
}

#[cfg(test)]
mod tests;
