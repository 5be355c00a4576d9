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

use super::{
    Note, Scheduler,
    batch::ends,
    live::LiveChanges,
    names::{JobId, Seat},
    reconcile::Survey,
    rollout::Target,
};
use crate::{auction::StopReason, cluster::Cluster};
use potluck_specs::{Millis, NodeId, SlotId, job::JobKind};

/// How long a task's successor is looked for before the budget pays: a call
/// and some retries, and the time in which another task's end makes room.
const SURGE_PATIENCE: Millis = Millis(30_000);

/// Between two looks at a surge that found no place.
pub(super) const LOOK_EVERY: Millis = Millis(1_000);

/// Most tasks of a job that are being doubled at once, where the budget is
/// smaller: one at a time is always right.
const SURGES_MIN: u32 = 1;

/// A task that has to go from where it is.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) serves: bool,
    pub(super) seat: Seat,
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
    ) -> Vec<Seat> {
        if !self.knows_endpoints(target.id()) {
            // No order could leave yet, and by the time that one can, the job
            // may have a smaller budget.
            return Vec::new();
        }
        let mut leaving = std::mem::take(&mut survey.leaving);
        leaving.sort_by_key(|task| (task.serves, task.seat));
        self.surges_end_except(target.id(), &leaving);
        let mut surging = Vec::new();
        let mut changes = LiveChanges::default();
        for task in leaving {
            if self.stays_changed(cluster, target, &task, &mut changes, now) {
                continue;
            }
            if ends(target.current()) {
                self.leave_work(cluster, task, &mut survey, now);
                continue;
            }
            if self.leaves_exclusively(cluster, &task) {
                self.leave_exclusively(cluster, target, task, &mut survey, now);
                continue;
            }
            match task.reason {
                StopReason::Replaced => self.replace(cluster, task, &mut survey, &mut surging, now),
                StopReason::Failing => {
                    if self.surges.contains(task.seat)
                        || self.may_try_elsewhere(cluster, target.name(), now)
                    {
                        if !self.surges.contains(task.seat) {
                            self.tried_elsewhere(target.name(), now);
                        }
                        self.surge(&task, &survey, &mut surging, now);
                    }
                    survey.in_flight += 1;
                    self.wake(target.id(), now + LOOK_EVERY);
                }
                _ => self.send_away(cluster, target, task, &mut survey, &mut surging, now),
            }
        }
        self.change_tasks(cluster, target, changes, now);
        surging
    }

    /// A newer version takes the task's place.
    fn replace(
        &mut self,
        cluster: &Cluster,
        task: Leaving,
        survey: &mut Survey,
        surging: &mut Vec<Seat>,
        now: Millis,
    ) {
        let heard = self.is_heard(task.node) && !self.is_late(task.node);
        if self.waits_for_rollout(cluster, task.seat.job) || !heard {
            self.wake(task.seat.job, now + LOOK_EVERY);
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
            self.wake(task.seat.job, now + LOOK_EVERY);
        }
    }

    /// The task's node is drained, or has too much.
    fn send_away(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        task: Leaving,
        survey: &mut Survey,
        surging: &mut Vec<Seat>,
        now: Millis,
    ) {
        if task.reason == StopReason::Drained && self.drain_is_over(cluster, task.node, now) {
            return self.stop_now(task, survey);
        }
        if !task.serves {
            // Down already, and yet no more at once than a healthy job would
            // risk: it may be about to serve.
            let free = survey.in_flight < survey.ledger.budget.max(SURGES_MIN);
            if free && self.is_heard(task.node) && !self.is_late(task.node) {
                self.stop_now(task, survey);
            } else {
                self.wake(task.seat.job, now + LOOK_EVERY);
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
            .get(task.seat)
            .is_some_and(|surge| now.since(surge.began) >= SURGE_PATIENCE);
        let placed = self.awards.contains(task.seat) || self.next_of_surge(task.seat).is_some();
        if task.reason == StopReason::Drained
            && waited
            && !placed
            && survey.ledger.may_disrupt(&task.seat.index).is_ok()
        {
            self.stop_now(task, survey);
        }
    }

    /// How the task of an exclusive slot leaves its host: it is stopped before
    /// its next one is placed, one slot at a time at least, whatever the
    /// budget: there is no other way.
    fn leave_exclusively(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        task: Leaving,
        survey: &mut Survey,
        now: Millis,
    ) {
        let job = task.seat.job;
        // Of a time when it was not exclusive.
        self.surges.remove(task.seat);
        let limit = survey.ledger.budget.max(1);
        let risked = match task.serves {
            true => survey.ledger.used.len() as u32,
            false => survey.in_flight,
        };
        let has_room = risked + survey.unsettled < limit && self.is_heard(task.node);
        let goes = match task.reason {
            StopReason::Drained if self.drain_is_over(cluster, task.node, now) => true,
            StopReason::Replaced => has_room && !self.waits_for_rollout(cluster, job),
            StopReason::Failing => {
                let elsewhere = has_room && self.may_try_elsewhere(cluster, target.name(), now);
                if elsewhere {
                    self.tried_elsewhere(target.name(), now);
                }
                elsewhere
            }
            // Somebody has to be there to take it.
            _ => {
                has_room && {
                    let own = self.index.of(task.node).map(|entry| entry.place);
                    let wanted = target.job_for(task.seat.index);
                    let takers = self.takers(cluster, wanted, None, own.as_ref(), now);
                    takers.iter().any(|taker| *taker != task.node)
                }
            }
        };
        match goes {
            true => self.stop_now(task, survey),
            false => self.wake(job, now + LOOK_EVERY),
        }
    }

    pub(super) fn stop_now(&mut self, task: Leaving, survey: &mut Survey) {
        let (node, reason) = (task.node, task.reason);
        if self.decide_stop(task.seat, node, reason) {
            self.surges.remove(task.seat);
            survey.in_flight += 1;
            survey
                .ledger
                .hold(task.seat.index, super::Use::Stopping { node, reason });
        }
    }

    /// Starts the task's successor, or goes on to.
    fn surge(&mut self, task: &Leaving, survey: &Survey, surging: &mut Vec<Seat>, now: Millis) {
        self.wake(task.seat.job, now + LOOK_EVERY);
        if !self.surges.contains(task.seat) {
            let limit = survey.ledger.budget.max(SURGES_MIN);
            if self.surges.count_of(task.seat.job) as u32 >= limit {
                return;
            }
            let surge = Surge {
                from: task.node,
                reason: task.reason,
                began: now,
            };
            self.surges.insert(task.seat, surge);
            self.note(Note::Surge {
                slot: self.names.slot(task.seat),
                from: task.node,
                reason: task.reason,
            });
        }
        let placed = self.awards.contains(task.seat) || self.next_of_surge(task.seat).is_some();
        if !placed {
            surging.push(task.seat);
        }
    }

    /// Where the task is whose next one is being started elsewhere, if the slot
    /// has such.
    pub fn surge_from(&self, slot: &SlotId) -> Option<NodeId> {
        self.surges
            .get(self.names.seat(slot))
            .map(|surge| surge.from)
    }

    /// As [`Self::surge_from`], if the reason holds still: a drain may have
    /// been ended since, and what failed may serve by now.
    pub(super) fn surge_that_holds(&self, cluster: &Cluster, seat: Seat) -> Option<NodeId> {
        let surge = self.surges.get(seat)?;
        let holds = match surge.reason {
            StopReason::Drained => self.gives_up(cluster, surge.from),
            StopReason::Failing => {
                let report = self.picture.report(seat, surge.from);
                report.is_some_and(|report| self.fails_here(report))
            }
            _ => true,
        };
        holds.then_some(surge.from)
    }

    /// The holder that is to take over from the one that leaves, while that
    /// one still is the one to keep.
    pub(super) fn next_of_surge(&self, seat: Seat) -> Option<NodeId> {
        let surge = self.surges.get(seat)?;
        let (kept, _) = self.kept(seat)?;
        if kept != surge.from {
            return None;
        }
        self.picture
            .holders(seat)
            .filter(|(node, report)| {
                *node != surge.from
                    && !self.fails_here(report)
                    && !self.stops.contains_key(&(seat, *node))
            })
            .map(|(node, _)| node)
            .next()
    }

    /// Ends a surge whose first task is gone.
    pub(super) fn settle_surge(&mut self, seat: Seat) {
        let Some(surge) = self.surges.get(seat) else {
            return;
        };
        let from = surge.from;
        if !self.picture.holders(seat).any(|(n, _)| n == from) {
            self.surges.remove(seat);
        }
    }

    /// Surges of slots that have no reason to leave any more. Where the next
    /// task is the one to keep by now, the surge names whom to stop.
    fn surges_end_except(&mut self, job: JobId, still: &[Leaving]) {
        let over: Vec<Seat> = self
            .surges
            .of_job(job)
            .filter(|(seat, surge)| {
                !still.iter().any(|task| task.seat == *seat)
                    && self.kept(*seat).is_none_or(|(kept, _)| kept == surge.from)
            })
            .map(|(seat, _)| seat)
            .collect();
        for seat in over {
            self.surges.remove(seat);
        }
    }

    pub(super) fn surges_end(&mut self, job: JobId) {
        let all: Vec<Seat> = self.surges.of_job(job).map(|(seat, _)| seat).collect();
        for seat in all {
            self.surges.remove(seat);
        }
    }

    /// Looks at the job again at that time.
    pub(super) fn wake(&mut self, job: JobId, at: Millis) {
        let before = self.wakes.entry(job).or_insert(at);
        *before = at.min(*before);
    }

    /// Jobs that were to be looked at by now. Due with each tick.
    pub(super) fn take_woken(&mut self, now: Millis) {
        let dirty = &mut self.dirty;
        self.wakes.retain(|job, at| {
            let due = *at <= now;
            if due {
                dirty.insert(*job);
            }
            !due
        });
    }
}
