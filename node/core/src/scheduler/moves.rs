//! How a task leaves its host: its next one first where that is possible,
//! within the ledger where it is not.
//!
//! ```text
//! serves, has to go --surge--> called elsewhere --> both run --next serves,
//!       |                                            recorded--> old stopped
//!       |--nobody takes it for 30 s, budget left--> stopped, then called
//!       |--the drain's deadline--> stopped, whatever the budget says
//! does not serve --> stopped, then called: it costs nothing more
//! ```
//!
//! A surge is the scheduler's own intention and dies with its reign: the next
//! one finds a double, keeps the older task, and begins anew if the reason
//! still holds.

use super::{Note, Scheduler, reconcile::Survey, rollout::Target};
use crate::{auction::StopReason, cluster::Cluster};
use potluck_specs::{JobName, Millis, NodeId, SlotId, job::JobKind};

/// How long a task's successor is looked for before the budget pays: a call
/// and some retries, and the time in which another task's end makes room.
const SURGE_PATIENCE: Millis = Millis(30_000);

/// Between two looks at a surge that found no place.
const LOOK_EVERY: Millis = Millis(1_000);

/// Most tasks of a job that are being doubled at once, where the budget is
/// smaller: one at a time is always right.
const SURGES_MIN: u32 = 1;

/// A task that has to go from where it is.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) serves: bool,
    pub(super) slot: SlotId,
    pub(super) node: NodeId,
    pub(super) reason: StopReason,
}

/// A slot whose next task is started before the present one ends.
#[derive(Debug)]
pub(super) struct Surge {
    pub(super) from: NodeId,
    pub(super) reason: StopReason,
    began: Millis,
}

impl Scheduler {
    /// Decides about tasks that have to go; gives the slots that are to be
    /// filled elsewhere while they are still held.
    pub(super) fn move_out(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        mut survey: Survey,
        now: Millis,
    ) -> Vec<SlotId> {
        let mut leaving = std::mem::take(&mut survey.leaving);
        leaving.sort_by(|a, b| (a.serves, &a.slot).cmp(&(b.serves, &b.slot)));
        let still: Vec<&SlotId> = leaving.iter().map(|l| &l.slot).collect();
        self.surges_end_except(target.name(), &still);
        let mut surging = Vec::new();
        for task in leaving {
            match task.reason {
                StopReason::Replaced => self.replace(cluster, task, &mut survey, &mut surging, now),
                StopReason::Failing => {
                    if self.surges.contains_key(&task.slot)
                        || self.may_try_elsewhere(cluster, target.name(), now)
                    {
                        if !self.surges.contains_key(&task.slot) {
                            self.tried_elsewhere(target.name(), now);
                        }
                        self.surge(&task, &survey, &mut surging, now);
                    }
                    survey.in_flight += 1;
                    self.wake(target.name(), now + LOOK_EVERY);
                }
                _ => self.send_away(cluster, target, task, &mut survey, &mut surging, now),
            }
        }
        surging
    }

    /// A newer version takes the task's place.
    fn replace(
        &mut self,
        cluster: &Cluster,
        task: Leaving,
        survey: &mut Survey,
        surging: &mut Vec<SlotId>,
        now: Millis,
    ) {
        if self.waits_for_rollout(cluster, &task.slot.job) || !self.is_heard(task.node) {
            self.wake(&task.slot.job, now + LOOK_EVERY);
            return;
        }
        if survey.ledger.budget == 0 {
            return self.surge(&task, survey, surging, now);
        }
        // Of those that are down already a new version is tried on as few as a
        // healthy job would risk.
        let risked = match task.serves {
            true => survey.ledger.used.len() as u32,
            false => survey.in_flight,
        };
        if risked + survey.unsettled < survey.ledger.budget {
            self.stop_now(task, survey);
        } else if survey.unsettled > 0 {
            self.wake(&task.slot.job, now + LOOK_EVERY);
        }
    }

    /// The task's node is drained, or has too much.
    fn send_away(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        task: Leaving,
        survey: &mut Survey,
        surging: &mut Vec<SlotId>,
        now: Millis,
    ) {
        if task.reason == StopReason::Drained && self.drain_is_over(cluster, task.node, now) {
            return self.stop_now(task, survey);
        }
        if !task.serves {
            // Down already, and yet no more at once than a healthy job would
            // risk: it may be about to serve.
            let free = survey.in_flight < survey.ledger.budget.max(SURGES_MIN);
            if free && self.is_heard(task.node) {
                self.stop_now(task, survey);
            } else {
                self.wake(&task.slot.job, now + LOOK_EVERY);
            }
            return;
        }
        if target.current().kind == JobKind::PerNode {
            // It belongs to its node: nobody else is to have it.
            return self.stop_now(task, survey);
        }
        self.surge(&task, survey, surging, now);
        let waited = self
            .surges
            .get(&task.slot)
            .is_some_and(|surge| now.since(surge.began) >= SURGE_PATIENCE);
        let placed =
            self.awards.contains_key(&task.slot) || self.next_of_surge(&task.slot).is_some();
        if task.reason == StopReason::Drained
            && waited
            && !placed
            && survey.ledger.may_disrupt(&task.slot).is_ok()
        {
            self.stop_now(task, survey);
        }
    }

    fn stop_now(&mut self, task: Leaving, survey: &mut Survey) {
        let (node, reason) = (task.node, task.reason);
        if self.decide_stop(&task.slot, node, reason) {
            self.surges.remove(&task.slot);
            survey.in_flight += 1;
            survey
                .ledger
                .hold(task.slot, super::Use::Stopping { node, reason });
        }
    }

    /// Starts the task's successor, or goes on to.
    fn surge(&mut self, task: &Leaving, survey: &Survey, surging: &mut Vec<SlotId>, now: Millis) {
        self.wake(&task.slot.job, now + LOOK_EVERY);
        if !self.surges.contains_key(&task.slot) {
            let limit = survey.ledger.budget.max(SURGES_MIN);
            if self.surges_of(&task.slot.job) >= limit {
                return;
            }
            let surge = Surge {
                from: task.node,
                reason: task.reason,
                began: now,
            };
            self.surges.insert(task.slot.clone(), surge);
            self.note(Note::Surge {
                slot: task.slot.clone(),
                from: task.node,
                reason: task.reason,
            });
        }
        let placed =
            self.awards.contains_key(&task.slot) || self.next_of_surge(&task.slot).is_some();
        if !placed {
            surging.push(task.slot.clone());
        }
    }

    /// Where the task is whose next one is being started elsewhere, if the slot
    /// has such.
    pub fn surge_from(&self, slot: &SlotId) -> Option<NodeId> {
        self.surges.get(slot).map(|surge| surge.from)
    }

    /// As [`Self::surge_from`], if the reason holds still: a drain may have
    /// been ended since.
    pub(super) fn surge_that_holds(&self, cluster: &Cluster, slot: &SlotId) -> Option<NodeId> {
        let surge = self.surges.get(slot)?;
        let holds = surge.reason != StopReason::Drained || self.gives_up(cluster, surge.from);
        holds.then_some(surge.from)
    }

    fn surges_of(&self, job: &JobName) -> u32 {
        self.surges.keys().filter(|slot| slot.job == *job).count() as u32
    }

    /// The holder that is to take over from the one that leaves, while that
    /// one still is the one to keep.
    pub(super) fn next_of_surge(&self, slot: &SlotId) -> Option<NodeId> {
        let surge = self.surges.get(slot)?;
        let (kept, _) = self.kept(slot)?;
        if kept != surge.from {
            return None;
        }
        let holders = self.picture.holders(slot).into_iter();
        holders
            .filter(|(node, report)| {
                *node != surge.from
                    && !self.fails_here(report)
                    && !self.stops.contains_key(&(slot.clone(), *node))
            })
            .map(|(node, _)| node)
            .next()
    }

    /// Ends a surge whose first task is gone.
    pub(super) fn settle_surge(&mut self, slot: &SlotId) {
        let Some(surge) = self.surges.get(slot) else {
            return;
        };
        let from = surge.from;
        let holds = self.picture.holders(slot).iter().any(|(n, _)| *n == from);
        if !holds {
            self.surges.remove(slot);
        }
    }

    /// Surges of slots that have no reason to leave any more. Where the next
    /// task is the one to keep by now, the surge names whom to stop.
    fn surges_end_except(&mut self, job: &JobName, still: &[&SlotId]) {
        let over: Vec<SlotId> = self
            .surges
            .iter()
            .filter(|(slot, surge)| {
                slot.job == *job
                    && !still.contains(slot)
                    && self.kept(slot).is_none_or(|(kept, _)| kept == surge.from)
            })
            .map(|(slot, _)| slot.clone())
            .collect();
        for slot in over {
            self.surges.remove(&slot);
        }
    }

    pub(super) fn surges_end(&mut self, job: &JobName) {
        self.surges.retain(|slot, _| slot.job != *job);
    }

    /// Looks at the job again at that time.
    pub(super) fn wake(&mut self, job: &JobName, at: Millis) {
        match self.wakes.get_mut(job) {
            Some(before) => *before = at.min(*before),
            None => {
                self.wakes.insert(job.clone(), at);
            }
        }
    }

    /// Jobs that were to be looked at by now. Due with each tick.
    pub(super) fn take_woken(&mut self, now: Millis) {
        let due: Vec<JobName> = self
            .wakes
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(job, _)| job.clone())
            .collect();
        for job in due {
            self.wakes.remove(&job);
            self.dirty.insert(job);
        }
    }
}
