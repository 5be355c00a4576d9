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

/// What a change does to the tasks that run. The later, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing at all.
    None,
    /// Tasks keep running; some may come, go or move.
    InPlace,
    /// Each task is changed while it runs, where its host has the room; a task
    /// whose host has not is started again, as by [`Effect::RollingRestart`].
    Live,
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
    let mut changes = Vec::new();
    if same_wish(old, new) {
        return changes;
    }
    for part in PARTS {
        changes.extend(part.changes(old, new));
    }
    // The token and the lease of an exclusive task are what it was started with.
    if old.change.exclusive.is_some() || new.change.exclusive.is_some() {
        for change in changes.iter_mut().filter(|c| c.effect == Effect::Live) {
            change.effect = Effect::RollingRestart;
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
        Some(Effect::None | Effect::InPlace | Effect::Live) => JobChange::ChangedInPlace,
        Some(Effect::RollingRestart) => JobChange::RollingRestart,
        Some(Effect::Replace) => JobChange::Replaced,
    }
}

/// Is a task of `old` another than one of `new`, so that it must be changed or
/// started again? Whoever decides that asks here, so that what [`diff`] tells
/// is what happens.
pub fn changes_tasks(old: &Job, new: &Job) -> bool {
    let changes = |change: &FieldChange| change.effect >= Effect::Live;
    let mut parts = PARTS.iter();
    parts.any(|part| part.changes(old, new).iter().any(changes))
}

/// Can a task of `old` become one of `new` while it runs, and must it be
/// changed for that?
pub fn changes_live(old: &Job, new: &Job) -> bool {
    let most = diff(old, new).iter().map(|change| change.effect).max();
    most == Some(Effect::Live)
}

/// The same of the first and the last of these versions, which are in order:
/// not if one of those between was a wish to start again, since nothing else
/// changed in it.
pub fn changes_live_through<'j>(versions: impl IntoIterator<Item = &'j Job>) -> bool {
    let versions: Vec<&Job> = versions.into_iter().collect();
    let [first, .., last] = versions[..] else {
        return false;
    };
    let again = |pair: &[&Job]| same_wish(pair[0], pair[1]);
    changes_live(first, last) && !versions.windows(2).any(again)
}

/// Do both wish the same, whatever their versions are? Most jobs of a plan
/// don't change, and this is far cheaper than trees. Taken apart in full, so
/// that a new field can't be forgotten here.
pub fn same_wish(old: &Job, new: &Job) -> bool {
    let Job {
        fleet: _,
        cluster: _,
        name: _,
        version: _,
        kind,
        package,
        packages,
        task,
        placement,
        change,
        priority,
        owner,
        annotations,
    } = old;
    *kind == new.kind
        && *package == new.package
        && *packages == new.packages
        && *task == new.task
        && *placement == new.placement
        && *change == new.change
        && *priority == new.priority
        && *owner == new.owner
        && *annotations == new.annotations
}

/// A part of a job that is its wish.
struct Part {
    name: &'static str,
    same: fn(&Job, &Job) -> bool,
    tree: fn(&Job) -> serde_json::Value,
}

impl Part {
    fn changes(&self, old: &Job, new: &Job) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        // Far cheaper than trees, and most parts don't change.
        if (self.same)(old, new) {
            return changes;
        }
        let path = FieldPath::of(self.name);
        value::compare(&path, (self.tree)(old), (self.tree)(new), &mut changes);
        for change in &mut changes {
            change.effect = effect_of(&change.path);
        }
        changes
    }
}

macro_rules! part {
    ($field:ident) => {
        Part {
            name: stringify!($field),
            same: |old, new| old.$field == new.$field,
            tree: |job| value::of(&job.$field),
        }
    };
}

/// In the order in which they are told.
const PARTS: &[Part] = &[
    part!(kind),
    part!(package),
    part!(packages),
    part!(task),
    part!(placement),
    part!(change),
    part!(priority),
    part!(owner),
    part!(annotations),
];

/// What a change of a field does; the longest path that holds it counts.
///
/// A host keeps the job that it was given with a task for as long as the task
/// runs. So only what the scheduler alone goes by can change in place. Of the
/// task, what its control groups hold can change while it runs; the rest is a
/// restart, disk too, since the log is given its part at the start. Of the
/// placement, wishes guide whoever is placed or
/// moved next, while bounds must hold of tasks that run, too.
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
    ("task.resources.cpu_millis", Effect::Live),
    ("task.resources.memory_bytes", Effect::Live),
    ("task.resources.uplink_bits_per_s", Effect::Live),
    ("task.limits", Effect::Live),
    ("placement", Effect::RollingRestart),
    ("placement.preferences", Effect::InPlace),
    ("placement.spread", Effect::InPlace),
    ("placement.bandwidth_heavy", Effect::InPlace),
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

/// Why a change of a field starts tasks anew, by the longest path that holds
/// it. What is read while a task runs is here, too: its host goes by the job
/// that it was given with the task.
const REASONS: &[(&str, &str)] = &[
    (
        "kind",
        "the tasks of the one kind of work can't go on as the other",
    ),
    ("package", "it is another program"),
    ("packages", "they are mounted when a task starts"),
    ("task", "a task gets it when it starts"),
    ("task.health", KEPT),
    ("task.limits", EXCLUSIVE),
    ("task.logs", KEPT),
    ("task.metrics", KEPT),
    ("task.devices", "they are put into its sandbox at the start"),
    ("task.resources", EXCLUSIVE),
    (
        "task.resources.disk_bytes",
        "its log is given its part of it at the start",
    ),
    ("task.restart", KEPT),
    ("task.services", KEPT),
    ("task.stop", KEPT),
    ("task.teardown", KEPT),
    (
        "placement",
        "bounds hold of tasks that run, too, and they are judged at the start",
    ),
    (
        "change.exclusive",
        "a lease is given with the award of a task",
    ),
];

const KEPT: &str = "a node goes by what a task was started with, until it ends";

/// Why the others can change while a task runs, and these not.
const EXCLUSIVE: &str = "an exclusive task keeps what it was given with its lease";

/// Why this change starts tasks anew; none if it does not.
pub fn why_restart(change: &FieldChange) -> Option<&'static str> {
    if change.effect < Effect::RollingRestart {
        return None;
    }
    let path = &change.path;
    let holding = REASONS
        .iter()
        .filter(|(field, _)| FieldPath::of(field).holds(path));
    let longest = holding.max_by_key(|(field, _)| field.len());
    longest.map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests;
