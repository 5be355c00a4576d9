//! What should run, compared with what runs: the smallest set of moves.
//!
//! Answers for which slots of a job are to be filled, which tasks are to be
//! stopped, and which have to leave their host and why. How they leave is
//! `moves`' to say, what it may cost `ledger`'s, which version a slot gets
//! `rollout`'s. Jobs that the log does not have are left alone: they keep
//! running until a person stops them.

use super::{
    Note, Scheduler, SessionState, ledger::Ledger, moves::Leaving, per_node::Slots,
    picture::serves, rollout::Target, unknown::is_unknown,
};
use crate::{
    auction::StopReason,
    cluster::Cluster,
    session::{SlotReport, TaskState},
};
use potluck_specs::{Job, JobName, Millis, NodeId, SlotId, trust::NodeRole};

/// With no record of a slot's holder, all live members are waited for, but
/// no longer than this: one that hangs must not keep jobs from starting.
pub(super) const ASK_LONGEST: Millis = Millis(10_000);

/// More slots than this make a job large: it is looked at as a whole at most
/// once in the time below. Ten looks a second at all slots of the largest job
/// take some hundredths of a core.
const LARGE: u32 = 100;
const LOOK_EVERY: Millis = Millis(100);

/// What a look at all slots of a job gives.
#[derive(Debug)]
pub(super) struct Survey {
    /// Slots that nobody fills.
    missing: Vec<SlotId>,
    /// Tasks that have to go from where they are.
    pub(super) leaving: Vec<Leaving>,
    /// Who holds the job's budget.
    pub(super) ledger: Ledger,
    /// Slots on their way, of those that the ledger has: placed or started,
    /// not merely waiting to leave.
    pub(super) in_flight: u32,
    /// Slots that serve, for too short a time to build a rollout upon.
    pub(super) unsettled: u32,
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
            self.look_at_dependants(&name);
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
        let Some(target) = self.target(cluster, name) else {
            if self.may_stop_job(cluster, name, now) {
                self.stop_surplus(cluster, name, &Slots::First(0), StopReason::JobStopped);
            }
            self.surges_end(name);
            return;
        };
        debug_assert!(!record.stopped, "a stopped job has no target");
        let slots = self.slots_wanted(&target, now);
        if let Slots::These(these) = &slots {
            let work = self.works.entry(name.clone()).or_default();
            work.per_node.clone_from(these);
        }
        self.stop_surplus(cluster, name, &slots, StopReason::ScaledDown);
        let mut survey = self.survey(cluster, &target, &slots, now);
        self.follow_rollout(cluster, &target, &survey.ledger, now);
        let mut wanted = std::mem::take(&mut survey.missing);
        wanted.extend(self.move_out(cluster, &target, survey, now));
        self.fill(cluster, &target, wanted, now);
    }

    /// Calls for the slots, those of one version at a time: a call is for one.
    /// Each failed round the other version has its turn.
    fn fill(&mut self, cluster: &Cluster, target: &Target, wanted: Vec<SlotId>, now: Millis) {
        if wanted.is_empty() || self.unmet_dependency(cluster, target.name()).is_some() {
            return;
        }
        let rounds = self.works.get(target.name()).map_or(0, |w| w.rounds_failed);
        let (new, old): (Vec<SlotId>, Vec<SlotId>) = wanted
            .into_iter()
            .partition(|slot| target.job_for(slot.index).version == target.current().version);
        let new_first = old.is_empty() || (!new.is_empty() && rounds % 2 == 1);
        let slots = if new_first { new } else { old };
        let Some(first) = slots.first() else { return };
        let job = target.job_for(first.index).clone();
        self.call(cluster, &job, &slots, now);
    }

    /// Stops every task of the job that it has not asked for.
    fn stop_surplus(
        &mut self,
        cluster: &Cluster,
        name: &JobName,
        wanted: &Slots,
        reason: StopReason,
    ) {
        let surplus: Vec<(SlotId, NodeId)> = self
            .picture
            .slots_of(name)
            .filter(|slot| !wanted.contains(slot.index))
            .flat_map(|slot| {
                let holders = self.picture.holders(slot).into_iter();
                holders
                    .filter(|(_, report)| !is_unknown(cluster, name, report.version))
                    .map(|(node, _)| (slot.clone(), node))
            })
            .collect();
        for (slot, node) in surplus {
            self.decide_stop(&slot, node, reason);
        }
    }

    fn survey(&mut self, cluster: &Cluster, target: &Target, slots: &Slots, now: Millis) -> Survey {
        let mut survey = Survey {
            missing: Vec::new(),
            leaving: Vec::new(),
            ledger: Ledger::new(target.current(), slots.count()),
            in_flight: 0,
            unsettled: 0,
        };
        for index in slots.indexes() {
            let slot = SlotId {
                job: target.name().clone(),
                index,
            };
            self.survey_slot(cluster, target, slot, &mut survey, now);
        }
        survey
    }

    fn survey_slot(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        slot: SlotId,
        survey: &mut Survey,
        now: Millis,
    ) {
        self.settle_surge(&slot);
        self.trim_doubles(cluster, &slot);
        let kept = self.kept(&slot);
        let reason = self.use_of(cluster, &slot, kept);
        let serves = reason.is_none();
        if let Some(reason) = reason {
            survey.ledger.hold(slot.clone(), reason);
        }
        let Some((node, report)) = kept else {
            // Placed but unseen, to be placed, or perhaps placed.
            survey.in_flight += 1;
            if self.is_missing(cluster, target.job_for(slot.index), &slot) {
                survey.missing.push(slot);
            }
            return;
        };
        let stopping = self.stops.contains_key(&(slot.clone(), node));
        let why = match stopping {
            true => None,
            false => self.why_leave(cluster, target, &slot, node, report),
        };
        match why {
            Some(reason) => survey.leaving.push(Leaving {
                serves,
                slot,
                node,
                reason,
            }),
            None => {
                survey.in_flight += u32::from(!serves);
                survey.unsettled += u32::from(serves && self.is_unsettled(&slot, node, now));
            }
        }
    }

    fn why_leave(
        &self,
        cluster: &Cluster,
        target: &Target,
        slot: &SlotId,
        node: NodeId,
        report: &SlotReport,
    ) -> Option<StopReason> {
        let unknown = is_unknown(cluster, &slot.job, report.version);
        if !unknown && target.is_wrong(cluster, slot.index, report.version) {
            return Some(StopReason::Replaced);
        }
        if self.gives_up(cluster, node) {
            return Some(StopReason::Drained);
        }
        if self.fails_here(report) {
            return Some(StopReason::Failing);
        }
        self.rebalance
            .is_to_move(slot, node)
            .then_some(StopReason::Moved)
    }

    /// Is the node to be emptied? A cordoned one keeps what it has.
    pub(super) fn gives_up(&self, cluster: &Cluster, node: NodeId) -> bool {
        let says_so = self
            .picture
            .hosts
            .get(&node)
            .is_some_and(|host| host.draining);
        let member = cluster.members().get(&node);
        says_so || member.is_none_or(|m| m.draining || !m.roles.contains(&NodeRole::Agent))
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
        if holders.len() == 2 && self.next_of_surge(slot).is_some() {
            return;
        }
        let recorded = cluster.placements().get(slot);
        if recorded.is_none_or(|recorded| recorded.node != kept) {
            self.deferred.insert(slot.job.clone());
            self.behind.touch(slot.clone());
            return;
        }
        let next = self.next_of_surge(slot);
        let surplus: Vec<NodeId> = holders
            .into_iter()
            .map(|(node, _)| node)
            .filter(|node| *node != kept && Some(*node) != next)
            .collect();
        for node in surplus {
            let (reason, is_double) = match self.surges.get(slot) {
                Some(surge) if surge.from == node => (surge.reason, false),
                _ => (StopReason::Double, true),
            };
            if self.decide_stop(slot, node, reason) && is_double {
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
                    self.is_to_go(slot, *node),
                    rank_of(report.state),
                    report.since,
                    *node,
                )
            })
    }

    /// Its next task is being started elsewhere, or its host says that it is
    /// drained: of two that serve the other one stays.
    fn is_to_go(&self, slot: &SlotId, node: NodeId) -> bool {
        let leaves = self.surges.get(slot).is_some_and(|s| s.from == node);
        leaves || self.picture.hosts.get(&node).is_some_and(|h| h.draining)
    }

    pub(super) fn is_heard(&self, node: NodeId) -> bool {
        let host = self.picture.hosts.get(&node);
        host.is_some_and(|host| host.state == SessionState::Up)
    }

    /// Is the slot to be filled with this version, and by nobody yet, or only
    /// by the task whose next one is to be started before it ends?
    pub(super) fn is_missing(&self, cluster: &Cluster, job: &Job, slot: &SlotId) -> bool {
        let wanted = self.target(cluster, &slot.job).is_some_and(|target| {
            self.is_wanted(&target, slot.index) && target.job_for(slot.index).version == job.version
        });
        let from = self.surge_that_holds(cluster, slot);
        let holders = self.picture.holders(slot);
        wanted
            && !self.awards.contains_key(slot)
            && holders.iter().all(|(node, _)| Some(*node) == from)
            && self.may_place(cluster, slot) == MayPlace::Yes
    }

    /// A new scheduler asks before it places.
    pub(super) fn may_place(&self, cluster: &Cluster, slot: &SlotId) -> MayPlace {
        let record = cluster.jobs().get(&slot.job);
        if record.is_some_and(|record| record.accepted_reign == self.authority.reign) {
            return MayPlace::Yes;
        }
        match cluster.placements().get(slot) {
            Some(placement) if !self.has_told_all(placement.node) => MayPlace::Wait {
                holder: Some(placement.node),
            },
            Some(placement) if !self.picture.is_lost(placement.node) => MayPlace::Yes,
            // A lost holder can't say whether it was the only one: a double of
            // the reign before may be on a host that has not told yet.
            Some(_) | None if self.asked => MayPlace::Yes,
            Some(_) | None => MayPlace::Wait { holder: None },
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
