//! What should run, compared with what runs: the smallest set of moves.
//!
//! Answers for which slots of a job are to be filled and which tasks are to
//! be stopped. One slot at a time is taken away on purpose (a newer version, a
//! drain, a move), and only while all the others serve. Jobs that the log
//! does not have are left alone: they keep running until a person stops them.

use super::{Note, Scheduler, SessionState, call::takes_work, per_node::Slots, picture::serves};
use crate::{
    auction::StopReason,
    cluster::Cluster,
    session::{SlotReport, TaskState},
};
use potluck_specs::{Generation, Job, JobName, Millis, NodeId, SlotId};
use std::collections::BTreeSet;

/// With no record of a slot's holder, all live members are waited for, but
/// no longer than this: one that hangs must not keep jobs from starting.
pub(super) const ASK_LONGEST: Millis = Millis(10_000);

/// A stop order that had no effect yet is repeated.
const STOP_EVERY: Millis = Millis(2_000);

/// More slots than this make a job large: it is looked at as a whole at most
/// once in the time below. Ten looks a second at all slots of the largest job
/// take some hundredths of a core.
const LARGE: u32 = 100;
const LOOK_EVERY: Millis = Millis(100);

/// A stop that was decided and is not yet seen to have happened.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) generation: Generation,
    pub(super) reason: StopReason,
    pub(super) sent_at: Option<Millis>,
}

/// What a look at all slots of a job gives.
#[derive(Debug, Default)]
struct Survey {
    missing: Vec<SlotId>,
    /// Slots that should run and don't serve at the wanted version yet.
    in_flight: u32,
    /// Tasks that should make room: unhealthy first, then by slot.
    movable: BTreeSet<(bool, SlotId, NodeId, StopReason)>,
}

/// Why a slot may not be placed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayPlace {
    Yes,
    /// It may be filled on this node, or on any.
    Wait {
        holder: Option<NodeId>,
    },
}

impl Scheduler {
    /// Decides about all that changed since the last time.
    pub(super) fn reconcile_dirty(&mut self, cluster: &Cluster, now: Millis) {
        let dirty = std::mem::take(&mut self.dirty);
        for name in dirty {
            if self.rests(cluster, &name, now) {
                self.deferred.insert(name);
                continue;
            }
            self.reconcile(cluster, &name, now);
            self.to_publish.insert(name);
        }
    }

    /// A job of many slots is looked at as a whole at most once in a while:
    /// else each of its reports would cost as much as all of them.
    fn rests(&mut self, cluster: &Cluster, name: &JobName, now: Millis) -> bool {
        let Some(record) = cluster.jobs().get(name) else {
            return false;
        };
        if record.current().replicas <= LARGE {
            return false;
        }
        let work = self.works.entry(name.clone()).or_default();
        let rests = work.looked_at.is_some_and(|at| now.since(at) < LOOK_EVERY);
        if !rests {
            work.looked_at = Some(now);
        }
        rests
    }

    fn reconcile(&mut self, cluster: &Cluster, name: &JobName, now: Millis) {
        let Some(record) = cluster.jobs().get(name) else {
            return;
        };
        let job = self.catalog.running(cluster, name);
        let wanted = job
            .as_ref()
            .map_or(Slots::First(0), |job| self.slots_wanted(job, now));
        let surplus = if record.stopped {
            StopReason::JobStopped
        } else {
            StopReason::ScaledDown
        };
        self.stop_surplus(name, &wanted, surplus);
        let Some(job) = job else { return };
        if let Slots::These(these) = &wanted {
            let work = self.works.entry(name.clone()).or_default();
            work.per_node.clone_from(these);
        }
        let survey = self.survey(cluster, &job, wanted);
        if !survey.missing.is_empty() {
            self.call(cluster, &job, &survey.missing, now);
        }
        if survey.in_flight == 0
            && let Some((_, slot, node, reason)) = survey.movable.into_iter().next()
        {
            self.decide_stop(&slot, node, reason);
        }
    }

    /// Stops every task of the job that it has not asked for.
    fn stop_surplus(&mut self, name: &JobName, wanted: &Slots, reason: StopReason) {
        let surplus: Vec<(SlotId, NodeId)> = self
            .picture
            .slots_of(name)
            .filter(|slot| !wanted.contains(slot.index))
            .flat_map(|slot| {
                let holders = self.picture.holders(slot).into_iter();
                holders.map(|(node, _)| (slot.clone(), node))
            })
            .collect();
        for (slot, node) in surplus {
            self.decide_stop(&slot, node, reason);
        }
    }

    fn survey(&mut self, cluster: &Cluster, job: &Job, wanted: Slots) -> Survey {
        let mut survey = Survey::default();
        for index in wanted.indexes() {
            let slot = SlotId {
                job: job.name.clone(),
                index,
            };
            self.survey_slot(cluster, job, slot, &mut survey);
        }
        survey
    }

    fn survey_slot(&mut self, cluster: &Cluster, job: &Job, slot: SlotId, survey: &mut Survey) {
        self.trim_doubles(cluster, &slot);
        let Some((node, report)) = self.kept(&slot) else {
            // Placed but unseen, to be placed, or perhaps placed: none serves.
            survey.in_flight += 1;
            if self.is_missing(cluster, job, &slot) {
                survey.missing.push(slot);
            }
            return;
        };
        let healthy = serves(report);
        let reason = if report.version != job.version {
            Some(StopReason::Replaced)
        } else if self.gives_up(cluster, node) {
            Some(StopReason::Drained)
        } else {
            None
        };
        if self.stops.contains_key(&(slot.clone(), node)) {
            survey.in_flight += 1;
        } else if let Some(reason) = reason {
            survey.movable.insert((healthy, slot, node, reason));
        } else if !healthy {
            survey.in_flight += 1;
        }
    }

    pub(super) fn gives_up(&self, cluster: &Cluster, node: NodeId) -> bool {
        let says_so = self
            .picture
            .hosts
            .get(&node)
            .is_some_and(|host| host.draining);
        says_so || !takes_work(cluster, node)
    }

    /// After a partition, or a host that came back: keeps the healthiest, of
    /// those the one that runs longest, and stops the others. The kept one
    /// keeps its generation: each stop names the generation of the task that
    /// it ends and goes to that task's host alone, so it can't end the other.
    ///
    /// The log has to name the kept one first: the next scheduler would take
    /// the word of the other, that it has ended, for the slot being free.
    fn trim_doubles(&mut self, cluster: &Cluster, slot: &SlotId) {
        let holders = self.picture.holders(slot);
        if holders.len() < 2 {
            return;
        }
        let Some((kept, _)) = self.kept(slot) else {
            return;
        };
        let recorded = cluster.placements().get(slot);
        if recorded.is_none_or(|recorded| recorded.node != kept) {
            self.deferred.insert(slot.job.clone());
            self.behind.touch(slot.clone());
            return;
        }
        let surplus: Vec<NodeId> = holders
            .into_iter()
            .map(|(node, _)| node)
            .filter(|node| *node != kept)
            .collect();
        for node in surplus {
            if self.decide_stop(slot, node, StopReason::Double) {
                self.note(Note::Double {
                    slot: slot.clone(),
                    node,
                });
            }
        }
    }

    /// The one among a slot's holders that is to stay.
    pub(super) fn kept(&self, slot: &SlotId) -> Option<(NodeId, &SlotReport)> {
        self.picture
            .holders(slot)
            .into_iter()
            .min_by_key(|(node, report)| {
                let stopping = self.stops.contains_key(&(slot.clone(), *node));
                let heard = self.is_heard(*node);
                (
                    stopping,
                    !heard,
                    !serves(report),
                    rank_of(report.state),
                    report.since,
                    *node,
                )
            })
    }

    fn is_heard(&self, node: NodeId) -> bool {
        let host = self.picture.hosts.get(&node);
        host.is_some_and(|host| host.state == SessionState::Up)
    }

    /// Is the slot to be filled, and by nobody yet?
    pub(super) fn is_missing(&self, cluster: &Cluster, job: &Job, slot: &SlotId) -> bool {
        self.is_wanted(job, slot.index)
            && !self.awards.contains_key(slot)
            && self.picture.holders(slot).is_empty()
            && self.may_place(cluster, slot) == MayPlace::Yes
    }

    /// A new scheduler asks before it places.
    pub(super) fn may_place(&self, cluster: &Cluster, slot: &SlotId) -> MayPlace {
        let record = cluster.jobs().get(&slot.job);
        if record.is_some_and(|record| record.accepted_reign == self.authority.reign) {
            return MayPlace::Yes;
        }
        match cluster.placements().get(slot) {
            Some(placement) if self.has_told_all(placement.node) => MayPlace::Yes,
            Some(placement) => MayPlace::Wait {
                holder: Some(placement.node),
            },
            None if self.asked => MayPlace::Yes,
            None => MayPlace::Wait { holder: None },
        }
    }

    /// Either reported all that it runs, or is gone for good.
    pub(super) fn has_told_all(&self, node: NodeId) -> bool {
        self.picture
            .hosts
            .get(&node)
            .is_none_or(|host| host.lost || host.reports > 0)
    }

    /// Ends the asking once every live member has told.
    pub(super) fn end_asking(&mut self, cluster: &Cluster, now: Millis) {
        if self.asked {
            return;
        }
        let all_told = self
            .picture
            .hosts
            .values()
            .all(|host| host.reports > 0 || host.lost);
        if !all_told && now.since(self.began) < ASK_LONGEST {
            return;
        }
        self.asked = true;
        self.note(Note::Asked);
        self.dirty.extend(self.catalog.names());
        for slot in cluster.placements().keys() {
            self.touch(slot.clone());
        }
    }

    /// Notes that a task is to be stopped; the order leaves at the end of the
    /// step, behind the endpoints without it. False if it was noted before.
    pub(super) fn decide_stop(&mut self, slot: &SlotId, node: NodeId, reason: StopReason) -> bool {
        let Some(report) = self.picture.report(slot, node) else {
            return false;
        };
        let generation = report.generation;
        let key = (slot.clone(), node);
        if self.stops.contains_key(&key) {
            return false;
        }
        let stopping = Stopping {
            generation,
            reason,
            sent_at: None,
        };
        self.stops.insert(key, stopping);
        self.to_publish.insert(slot.job.clone());
        true
    }

    /// Stops that a report shows to have happened.
    pub(super) fn settle_stops(&mut self, changed: &BTreeSet<SlotId>, node: NodeId) {
        for slot in changed {
            let key = (slot.clone(), node);
            let Some(stop) = self.stops.get(&key) else {
                continue;
            };
            let over = self.picture.report(slot, node).is_none_or(|report| {
                report.state == TaskState::Stopped || report.generation > stop.generation
            });
            if over {
                self.stops.remove(&key);
            }
        }
    }

    /// Sends the orders that are due, to hosts that are heard, once the
    /// endpoints without them could be published.
    pub(super) fn send_stops(&mut self, cluster: &Cluster, now: Millis) {
        let mut orders = Vec::new();
        let mut held: BTreeSet<JobName> = BTreeSet::new();
        if !self.asked {
            let jobs = self.stops.keys().map(|(slot, _)| slot.job.clone());
            held.extend(jobs.filter(|job| !self.knows_endpoints(cluster, job)));
        }
        let gone: Vec<_> = self
            .stops
            .keys()
            .filter(|(slot, node)| self.picture.report(slot, *node).is_none())
            .cloned()
            .collect();
        for key in gone {
            self.stops.remove(&key);
        }
        for ((slot, node), stop) in &mut self.stops {
            if held.contains(&slot.job) {
                continue;
            }
            let up = self
                .picture
                .hosts
                .get(node)
                .is_some_and(|host| host.state == SessionState::Up);
            let taken = self
                .picture
                .report(slot, *node)
                .is_some_and(|report| report.state == TaskState::Stopping);
            let due = stop.sent_at.is_none_or(|at| now.since(at) >= STOP_EVERY);
            if up && due && !(taken && stop.sent_at.is_some()) {
                stop.sent_at = Some(now);
                orders.push((*node, slot.clone(), stop.generation, stop.reason));
            }
        }
        for (to, slot, generation, reason) in orders {
            self.send_stop(to, slot, generation, reason);
        }
    }
}

/// Nearer to serving is smaller.
fn rank_of(state: TaskState) -> u8 {
    match state {
        TaskState::Running => 0,
        TaskState::Starting => 1,
        TaskState::Adopting => 2,
        TaskState::Fetching => 3,
        TaskState::Backoff => 4,
        TaskState::Other => 5,
        TaskState::Stopping => 6,
        TaskState::Stopped => 7,
    }
}
