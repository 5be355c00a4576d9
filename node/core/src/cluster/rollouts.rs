//! Rollouts: how far a job's newest version has come, as far as the next
//! leader must know it.
//!
//! ```text
//!            Pause            Next, at the last stage
//! Paused <----------> Rolling ------------------------> Done
//!            Resume      |  ^                             |
//!                        |  | Resume                      | Undo
//!            failed with |  |                             v
//!            no way back v  |        failed, Undo     RolledBack
//!                      Failed        --------------->
//! ```
//!
//! The stage is kept here, with the slots of its places; whether its tasks are healthy, and for how long,
//! is derived by each leader anew, so that a bake begins again under a new
//! one. Only to the version that ran before can be gone back without a new
//! signature; whoever wants an older one signs it anew.

use super::{Cluster, Command, Refused, Reply};
use potluck_specs::{JobName, Millis, validate::REPLICAS_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Longest reason kept of a failure.
const WHY_BYTES_MAX: usize = 512;

/// How far a job's newest version has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The version that is rolled out.
    pub version: u64,
    /// The version that ran before: slots outside of the stage are filled with
    /// it, and an undone rollout goes back to it.
    pub from: u64,
    /// The present stage, from 0.
    pub stage: u32,
    /// How many places the present stage has begun, if it goes by places.
    #[serde(default)]
    pub places: u32,
    /// The last of them, for people.
    #[serde(default)]
    pub place: Option<String>,
    /// Slots that the places have covered.
    #[serde(default)]
    pub covered: BTreeSet<u32>,
    /// What goes on.
    pub phase: RolloutPhase,
    /// Since when, Unix time.
    pub since: Millis,
    /// The log's index of its last change.
    pub at: u64,
}

/// What goes on in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutPhase {
    /// Slots of the stage are brought to the version.
    Rolling,
    /// A person stopped it where it is.
    Paused {
        /// Who.
        by: String,
    },
    /// A stage failed; it stays where it is until a person decides.
    Failed {
        /// Why.
        why: String,
    },
    /// All slots go back to the version before.
    RolledBack {
        /// Why.
        why: String,
    },
    /// All slots are to have the version.
    Done,
}

/// What a person does to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutControl {
    /// Stop it where it is.
    Pause,
    /// Go on, after a pause or a failure.
    Resume,
    /// Go back to the version before.
    Undo,
}

/// What the scheduler has seen of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutStep {
    /// The stage is over.
    Next {
        /// It was the last.
        last: bool,
    },
    /// The stage goes on to its next place.
    Cover {
        /// How many of its places have begun before.
        number: u32,
        /// The place, for people.
        place: String,
        /// The slots that it has now; those of places before stay covered.
        slots: Vec<u32>,
    },
    /// The stage failed.
    Fail {
        /// Why.
        why: String,
        /// The job wants the version before back.
        roll_back: bool,
    },
}

/// Neither over nor failed.
pub(super) fn is_under_way(rollout: &Rollout) -> bool {
    matches!(
        rollout.phase,
        RolloutPhase::Rolling | RolloutPhase::Paused { .. }
    )
}

impl Cluster {
    /// How far a job's newest version has come; nothing for a first version,
    /// which needs no rollout.
    pub fn rollout(&self, job: &JobName) -> Option<&Rollout> {
        let rollout = self.rollouts.get(job)?;
        let record = self.jobs.get(job)?;
        (rollout.version == record.current().version).then_some(rollout)
    }

    /// The log's index of the last change of any rollout.
    pub fn rollouts_at(&self) -> u64 {
        self.rollouts_at
    }

    /// Jobs whose rollouts changed after this index of the log.
    pub fn rollouts_since(&self, index: u64) -> impl Iterator<Item = JobName> + '_ {
        let changed = self.rollouts.iter().filter(move |(_, r)| r.at > index);
        changed.map(|(name, _)| name.clone())
    }

    /// What a job ran before a submission: what its slots outside of the
    /// first stage go on with. Nothing if nothing was to run.
    pub(super) fn runs_before(&self, job: &JobName) -> Option<u64> {
        let record = self.jobs.get(job).filter(|record| !record.stopped)?;
        let current = record.current().version;
        Some(match self.rollout(job) {
            Some(rollout) => match rollout.phase {
                RolloutPhase::Done => rollout.version,
                _ => rollout.from,
            },
            None => current,
        })
    }

    /// A new version was accepted. One whose tasks are those that run needs
    /// no stages, and one whose tasks are on their way goes on where they are.
    pub(super) fn begin_rollout(&mut self, job: &JobName, before: Option<u64>, now: Millis) {
        let record = self.jobs.get(job);
        let version = record.map_or(0, |record| record.current().version);
        let kept = |from: &u64| record.is_some_and(|record| record.version(*from).is_some());
        match before.filter(kept) {
            Some(from) => {
                let same = |with: u64| record.is_some_and(|r| r.runs_same_tasks(with, version));
                let last = self.rollouts.get(job);
                let under_way = last.filter(|last| is_under_way(last) && same(last.version));
                let anew = |phase| Rollout {
                    version,
                    from,
                    stage: 0,
                    places: 0,
                    place: None,
                    covered: BTreeSet::new(),
                    phase,
                    since: now,
                    at: self.applied,
                };
                let rollout = match under_way {
                    // What runs is to stay, or to come back: nothing is new.
                    _ if same(from) => anew(RolloutPhase::Done),
                    Some(last) => Rollout {
                        version,
                        from,
                        at: self.applied,
                        ..last.clone()
                    },
                    None => anew(RolloutPhase::Rolling),
                };
                self.rollouts_at = self.applied;
                self.rollouts.insert(job.clone(), rollout);
            }
            None => {
                self.rollouts.remove(job);
            }
        }
    }

    pub(super) fn change_rollouts(&mut self, command: &Command) -> Reply {
        match command {
            Command::ControlRollout {
                job,
                control,
                author,
                now,
                ..
            } => self.control_rollout(job, *control, author, *now),
            Command::AdvanceRollout {
                reign,
                job,
                version,
                stage,
                step,
                now,
            } => {
                if *reign != self.authority.reign {
                    return Reply::refused(Refused::StaleReign);
                }
                self.advance_rollout(job, *version, *stage, step, *now)
            }
            _ => Reply::Done,
        }
    }

    fn control_rollout(
        &mut self,
        name: &JobName,
        control: RolloutControl,
        author: &str,
        now: Millis,
    ) -> Reply {
        let Some(record) = self.jobs.get(name) else {
            return Reply::refused(Refused::NoSuchJob { job: name.clone() });
        };
        let job = name.clone();
        let current = record.current().version;
        let rollout = self.rollouts.get_mut(name);
        let Some(rollout) = rollout.filter(|rollout| rollout.version == current) else {
            return Reply::refused(Refused::NoRollout { job });
        };
        use RolloutPhase::{Done, Failed, Paused, RolledBack, Rolling};
        let by = super::versions::bounded_text(author, super::TEXT_BYTES_MAX);
        let phase = match (control, &rollout.phase) {
            (RolloutControl::Pause, Rolling) => Paused { by },
            (RolloutControl::Pause, Paused { .. })
            | (RolloutControl::Resume, Rolling)
            | (RolloutControl::Undo, RolledBack { .. }) => return Reply::Done,
            (RolloutControl::Resume, Paused { .. } | Failed { .. }) => Rolling,
            (RolloutControl::Undo, _) => RolledBack {
                why: format!("undone by {by}"),
            },
            (_, Done | Failed { .. } | RolledBack { .. }) => {
                return Reply::refused(Refused::NoRollout { job });
            }
        };
        rollout.phase = phase;
        rollout.since = now;
        rollout.at = self.applied;
        self.rollouts_at = self.applied;
        Reply::Done
    }

    /// A step that was proposed of another stage or version comes too late,
    /// and one of a rollout that a person has stopped is not taken.
    fn advance_rollout(
        &mut self,
        name: &JobName,
        version: u64,
        stage: u32,
        step: &RolloutStep,
        now: Millis,
    ) -> Reply {
        let rollout = self.rollouts.get_mut(name).filter(|rollout| {
            rollout.version == version
                && rollout.stage == stage
                && rollout.phase == RolloutPhase::Rolling
        });
        let Some(rollout) = rollout else {
            return Reply::refused(Refused::NoRollout { job: name.clone() });
        };
        match step {
            RolloutStep::Next { last: true } => rollout.phase = RolloutPhase::Done,
            RolloutStep::Next { last: false } => {
                rollout.stage += 1;
                rollout.places = 0;
                rollout.place = None;
            }
            // What was proposed before the place that goes on came too late.
            RolloutStep::Cover { number, .. } if *number != rollout.places => {
                return Reply::refused(Refused::NoRollout { job: name.clone() });
            }
            RolloutStep::Cover { place, slots, .. } => {
                let slots = slots.iter().copied().filter(|slot| *slot < REPLICAS_MAX);
                rollout.covered.extend(slots);
                rollout.places += 1;
                rollout.place = Some(super::versions::bounded_text(place, WHY_BYTES_MAX));
            }
            RolloutStep::Fail { why, roll_back } => {
                let why = why.chars().take(WHY_BYTES_MAX / 4).collect();
                rollout.phase = match *roll_back {
                    true => RolloutPhase::RolledBack { why },
                    false => RolloutPhase::Failed { why },
                };
            }
        }
        rollout.since = now;
        rollout.at = self.applied;
        self.rollouts_at = self.applied;
        Reply::Done
    }
}
