//! Which version each slot is to have, and when a stage is over or failed.
//!
//! ```text
//! stage: the slots that it covers to the new version, within the ledger
//!   all healthy --bake time--> its next place, the next stage, or done
//!   one not healthy by its deadline, or a crash loop --> failed: the version
//!   before comes back if the job says so, else it stops there
//! ```
//!
//! Answers for a rollout's steps and proposes them to the log; what a stage
//! covers is said by `stages`, replacing the tasks is `moves`' part. Slots outside of the stage are left as they are:
//! one that has to be filled anew gets the version before.

use super::{
    Effect, Scheduler,
    ledger::Book,
    names::{JobId, Seat},
    per_node::Slots,
    stages::stages,
};
use crate::cluster::{Cluster, Command, RolloutPhase, RolloutStep};
use potluck_specs::{
    Job, JobName, Millis, NodeId,
    job::{JobKind, MountSource},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A step that is proposed and not applied by then was lost.
const PROPOSE_AGAIN: Millis = Millis(2_000);

/// Between two looks at a stage that waits for time alone.
const LOOK_EVERY: Millis = Millis(1_000);

/// A task of a new version must serve this long before the next one is
/// replaced: one without checks of its own counts as healthy until it falls
/// over, which most do that will within a second.
const MIN_HEALTHY: Millis = Millis(2_000);

/// What should run of a job: how many slots, and which version in each.
#[derive(Clone, Debug)]
pub(super) struct Target {
    id: JobId,
    new: Arc<Job>,
    old: Option<Arc<Job>>,
    /// Slots before this one get the new version.
    reach: u32,
    /// And these, which a stage of places has covered.
    covered: BTreeSet<u32>,
    slots: u32,
}

impl Target {
    pub(super) fn all(id: JobId, job: Arc<Job>) -> Target {
        let slots = job.slots();
        Target {
            id,
            new: job,
            old: None,
            reach: slots,
            covered: BTreeSet::new(),
            slots,
        }
    }

    /// The first `reach` slots and those covered of the new version, the others
    /// as before. Only the last stage takes slots away.
    fn partly(
        id: JobId,
        new: Arc<Job>,
        old: Arc<Job>,
        reach: u32,
        covered: BTreeSet<u32>,
    ) -> Target {
        let end = covered.last().map_or(0, |last| last.saturating_add(1));
        let slots = reach.max(end).max(old.slots());
        Target {
            id,
            new,
            old: Some(old),
            reach,
            covered,
            slots,
        }
    }

    pub(super) fn id(&self) -> JobId {
        self.id
    }

    pub(super) fn name(&self) -> &JobName {
        &self.new.name
    }

    /// The version that is to be everywhere in the end.
    pub(super) fn current(&self) -> &Job {
        &self.new
    }

    /// Slots from the first on; none of its own for one task per node.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Is this slot to have the new version by now?
    pub(super) fn covers(&self, index: u32) -> bool {
        index < self.reach || self.covered.contains(&index)
    }

    /// What this slot is filled with.
    pub(super) fn job_for(&self, index: u32) -> &Arc<Job> {
        match &self.old {
            Some(old) if !self.covers(index) => old,
            _ => &self.new,
        }
    }

    /// This version, if some slot is to have it.
    pub(super) fn version(&self, version: u64) -> Option<&Arc<Job>> {
        let both = [Some(&self.new), self.old.as_ref()];
        let mut both = both.into_iter().flatten();
        both.find(|job| job.version == version)
    }

    /// Is the version that runs in the slot to make room? Not if its task is
    /// the one that the newer version wants, too.
    pub(super) fn is_wrong(&self, cluster: &Cluster, index: u32, version: u64) -> bool {
        (self.covers(index) || self.old.is_none()) && !self.is_new(cluster, version)
    }

    /// Is a task of this version one of the version that is to be everywhere?
    fn is_new(&self, cluster: &Cluster, version: u64) -> bool {
        let new = self.new.version;
        let record = || cluster.jobs().get(self.name());
        version == new || record().is_some_and(|record| record.runs_same_tasks(version, new))
    }
}

/// What is seen of a job's present stage.
#[derive(Debug)]
pub(super) struct Watched {
    version: u64,
    stage: u32,
    /// How many of the stage's places have begun.
    places: u32,
    /// Since when all slots of the stage serve at the new version.
    healthy_since: Option<Millis>,
    /// Slots that were given the new version and do not serve, since when.
    late_since: BTreeMap<u32, Millis>,
    proposed_at: Option<Millis>,
}

impl Watched {
    fn new(version: u64, stage: u32, places: u32) -> Watched {
        Watched {
            version,
            stage,
            places,
            healthy_since: None,
            late_since: BTreeMap::new(),
            proposed_at: None,
        }
    }
}

/// How a stage stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    /// Time will tell.
    Goes,
    Over,
    Failed(String),
}

impl Scheduler {
    /// What should run of a job; nothing if nothing should.
    pub(super) fn target(&self, cluster: &Cluster, id: JobId) -> Option<Target> {
        let new = self.catalog.running(id)?.clone();
        if self.work_is_over(cluster, id) {
            return None;
        }
        let Some(rollout) = cluster.rollout(&new.name) else {
            return Some(Target::all(id, new));
        };
        let before = self.catalog.version(id, rollout.from).cloned();
        let target = match (&rollout.phase, before) {
            (RolloutPhase::RolledBack { .. }, Some(before)) => Target::all(id, before),
            (RolloutPhase::Done, _) | (_, None) => Target::all(id, new),
            (_, Some(before)) => {
                let stages = stages(&new);
                match stages.get(rollout.stage as usize) {
                    Some(stage) if stage.by.is_some() => {
                        let covered = rollout.covered.clone();
                        Target::partly(id, new, before, stage.from, covered)
                    }
                    Some(stage) if stage.reach < new.slots() => {
                        Target::partly(id, new, before, stage.reach, BTreeSet::new())
                    }
                    _ => Target::all(id, new),
                }
            }
        };
        Some(target)
    }

    /// How many stages the rollout of the job's newest version has.
    pub fn rollout_stages(&self, cluster: &Cluster, name: &JobName) -> u32 {
        let newest = cluster.jobs().get(name).map(|r| r.current().version);
        let id = self.names.id(name);
        let job = newest.and_then(|version| self.catalog.version(id, version));
        job.map_or(0, |job| stages(job).len() as u32)
    }

    /// Has the slot's task served for too short a time to build upon?
    pub(super) fn is_unsettled(&self, seat: Seat, node: NodeId, now: Millis) -> bool {
        self.picture
            .served_since(seat, node)
            .is_some_and(|since| now.since(since) < MIN_HEALTHY)
    }

    /// Some rollout is at another stage or phase. Where the version that failed
    /// was tried, the one before it may go again.
    pub(super) fn follow_rollouts(&mut self, cluster: &Cluster, now: Millis) {
        if self.rollouts_at != cluster.rollouts_at() {
            for name in cluster.rollouts_since(self.rollouts_at) {
                let phase = cluster.rollout(&name).map(|rollout| &rollout.phase);
                if matches!(phase, Some(RolloutPhase::RolledBack { .. })) {
                    self.backoff.job_changed(&name, now);
                }
                self.dirty.insert(self.names.meet(&name));
            }
            self.rollouts_at = cluster.rollouts_at();
        }
    }

    /// Watches the present stage and proposes what follows from it.
    pub(super) fn follow_rollout(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        ledger: &Book,
        now: Millis,
    ) {
        let (id, name) = (target.id(), target.name().clone());
        let version = target.current().version;
        let looping = self.watch_crash_loop(cluster, &name, version, now);
        let rollout = cluster.rollout(&name);
        let Some(rollout) = rollout.filter(|r| r.phase == RolloutPhase::Rolling) else {
            self.rollouts.remove(id);
            return;
        };
        let (stage, version, places) = (rollout.stage, rollout.version, rollout.places);
        let watched = self.rollouts.remove(id);
        let mut watched = watched
            .filter(|w| (w.stage, w.places) == (stage, places))
            .filter(|w| target.is_new(cluster, w.version))
            .unwrap_or_else(|| Watched::new(version, stage, places));
        if watched.version != version {
            // What was proposed of another version was refused.
            watched.version = version;
            watched.proposed_at = None;
        }
        let stand = match looping {
            true => Stand::Failed("its tasks fail wherever they are tried".into()),
            false => self.stand(cluster, target, ledger, &mut watched, now),
        };
        let step = match stand {
            Stand::Goes => None,
            Stand::Over => Some(self.next_of_stage(cluster, target)),
            Stand::Failed(why) => Some(RolloutStep::Fail {
                why,
                roll_back: target.current().change.update.rollback,
            }),
        };
        if let Some(step) = step
            && watched
                .proposed_at
                .is_none_or(|at| now.since(at) >= PROPOSE_AGAIN)
        {
            watched.proposed_at = Some(now);
            self.out.push(Effect::Propose {
                command: Box::new(Command::AdvanceRollout {
                    reign: self.authority.reign,
                    job: name.clone(),
                    version,
                    stage,
                    step,
                    now: now + self.config.unix_offset,
                }),
            });
        }
        self.rollouts.insert(id, watched);
        self.wake(id, now + LOOK_EVERY);
    }

    fn stand(
        &self,
        cluster: &Cluster,
        target: &Target,
        ledger: &Book,
        watched: &mut Watched,
        now: Millis,
    ) -> Stand {
        if self.awaits_place(cluster, target) {
            return Stand::Over;
        }
        let is_new = |version| target.is_new(cluster, version);
        let mut all_serve = true;
        let stage_slots = match target.new.kind {
            JobKind::PerNode => self.slots_last_wanted(target),
            _ => Slots::First(target.slots()),
        };
        // One task per node goes by places or all at once.
        let by_number = target.covered.is_empty() && target.new.kind == JobKind::PerNode;
        let covered = |index: &u32| by_number || target.covers(*index);
        for index in stage_slots.indexes().filter(covered) {
            let seat = target.id().seat(index);
            let has = self.kept(seat).is_some_and(|(_, r)| is_new(r.version));
            let serves = has && !ledger.used.contains_key(&index);
            all_serve &= serves;
            let given = has || self.awards.get(seat).is_some_and(|a| is_new(a.version));
            match given && !serves {
                true => {
                    watched.late_since.entry(index).or_insert(now);
                }
                false => {
                    watched.late_since.remove(&index);
                }
            }
        }
        let deadline = Millis(target.current().change.update.health_deadline_ms);
        let late = watched.late_since.iter();
        let mut late = late.filter(|(_, since)| now.since(**since) >= deadline);
        if let Some((index, _)) = late.next() {
            let seconds = deadline.0 / 1_000;
            let name = target.name();
            return Stand::Failed(format!(
                "{name}[{index}] was not healthy within {seconds} s"
            ));
        }
        if !all_serve {
            watched.healthy_since = None;
            return Stand::Goes;
        }
        let since = *watched.healthy_since.get_or_insert(now);
        let stages = stages(target.current());
        let bake = stages
            .get(watched.stage as usize)
            .map_or(Millis(0), |stage| stage.bake);
        match now.since(since) >= bake.max(MIN_HEALTHY) {
            true => Stand::Over,
            false => Stand::Goes,
        }
    }

    /// Does the job's rollout wait: paused, failed, or for that of a job that
    /// it depends on?
    pub(super) fn waits_for_rollout(&self, cluster: &Cluster, job: JobId) -> bool {
        let held = cluster
            .rollout(self.names.name(job))
            .is_some_and(|rollout| {
                matches!(
                    rollout.phase,
                    RolloutPhase::Paused { .. } | RolloutPhase::Failed { .. }
                )
            });
        held || self.rollout_before(cluster, job).is_some()
    }
}

/// May its tasks be moved for no other reason than evenness? Not if they keep
/// something where they are, nor if they end by themselves.
pub(super) fn may_wander(job: &Job) -> bool {
    let mut mounts = job.task.mounts.iter();
    matches!(job.kind, JobKind::Service { .. })
        && job.change.exclusive.is_none()
        && !mounts.any(|mount| matches!(mount.source, MountSource::Volume { .. }))
}
