//! What should run, compared with what runs: the smallest set of moves.
//!
//! Answers for which slots of a job are to be filled, which tasks are to be
//! stopped, and which have to leave their host and why. How they leave is
//! `moves`' to say, what it may cost `ledger`'s, which version a slot gets
//! `rollout`'s. Jobs that the log does not have are left alone: they keep
//! running until a person stops them.

use super::{
    Note, Scheduler, SessionState,
    dependencies::Unmet,
    exclusive::Bound,
    gang::is_gang,
    ledger::Book,
    moves::Leaving,
    names::{JobId, Seat},
    per_node::Slots,
    picture::{Host, serves},
    rollout::Target,
    unknown::is_unknown,
};
use crate::{
    auction::StopReason,
    cluster::Cluster,
    session::{SlotReport, TaskState},
};
use potluck_specs::{Millis, NodeId, trust::NodeRole};
use std::cmp::Reverse;

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
    missing: Vec<Seat>,
    /// Tasks that have to go from where they are.
    pub(super) leaving: Vec<Leaving>,
    /// Who holds the job's budget.
    pub(super) ledger: Book,
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
    /// The lease of an exclusive slot may still run.
    Lease(Bound),
}

impl Scheduler {
    /// Decides about all that changed since the last time.
    pub(super) fn reconcile_dirty(&mut self, cluster: &Cluster, now: Millis) {
        let dirty = std::mem::take(&mut self.dirty);
        for job in dirty {
            if self.rests(job, now) {
                self.deferred.insert(job);
                continue;
            }
            self.reconcile(cluster, job, now);
            self.look_at_dependants(job);
            self.to_publish.insert(job);
        }
    }

    /// A job of many slots is looked at as a whole at most once in a while:
    /// else each of its reports would cost as much as all of them.
    fn rests(&mut self, job: JobId, now: Millis) -> bool {
        let Some(newest) = self.catalog.latest(job) else {
            return false;
        };
        if newest.slots() <= LARGE {
            return false;
        }
        let work = self.work_of(job);
        let rests = work.looked_at.is_some_and(|at| now.since(at) < LOOK_EVERY);
        if !rests {
            work.looked_at = Some(now);
        }
        rests
    }

    fn reconcile(&mut self, cluster: &Cluster, job: JobId, now: Millis) {
        if !self.catalog.has(job) {
            return;
        }
        self.watch_deadline(cluster, job, now);
        let Some(target) = self.target(cluster, job) else {
            if self.may_stop_job(cluster, job, now) {
                let reason = match self.work_is_over(cluster, job) {
                    true => StopReason::Over,
                    false => StopReason::JobStopped,
                };
                self.stop_surplus(cluster, job, &Slots::First(0), reason);
            }
            self.surges_end(job);
            return;
        };
        let slots = self.slots_wanted(cluster, &target, now);
        if let Slots::These(these) = &slots {
            self.work_of(job).chosen.clone_from(these);
        }
        self.stop_surplus(cluster, job, &slots, StopReason::ScaledDown);
        let mut survey = self.survey(cluster, &target, &slots, now);
        self.follow_rollout(cluster, &target, &survey.ledger, now);
        let mut wanted = std::mem::take(&mut survey.missing);
        wanted.extend(self.move_out(cluster, &target, survey, now));
        // What runs is not touched because another job is down, what is there of
        // a gang neither.
        let waits = self.unmet(cluster, job).is_some();
        if is_gang(target.current()) {
            wanted = match waits {
                true => self.gang_waits(job),
                false => self.gather(&target, &slots, wanted, now),
            };
        }
        if !waits {
            self.fill(cluster, &target, wanted, now);
        }
    }

    /// Calls for the slots, those of one version at a time: a call is for one.
    /// Each failed round the other version has its turn.
    fn fill(&mut self, cluster: &Cluster, target: &Target, wanted: Vec<Seat>, now: Millis) {
        let rounds = self.works.get(target.id()).map_or(0, |w| w.rounds_failed);
        let (new, old): (Vec<Seat>, Vec<Seat>) = wanted
            .into_iter()
            .partition(|seat| target.job_for(seat.index).version == target.current().version);
        let new_first = old.is_empty() || (!new.is_empty() && rounds % 2 == 1);
        let slots = if new_first { new } else { old };
        let Some(first) = slots.first() else { return };
        let job = target.job_for(first.index).clone();
        self.call(cluster, target.id(), &job, &slots, now);
    }

    /// Stops every task of the job that it has not asked for.
    fn stop_surplus(&mut self, cluster: &Cluster, job: JobId, wanted: &Slots, reason: StopReason) {
        let surplus: Vec<(Seat, NodeId)> = self
            .picture
            .slots_of(job)
            .filter(|seat| !wanted.contains(seat.index))
            .flat_map(|seat| {
                let holders = self.picture.holders(seat);
                holders
                    .filter(|(_, at)| !is_unknown(cluster, &at.slot.job, at.version))
                    .map(move |(node, _)| (seat, node))
            })
            .collect();
        for (seat, node) in surplus {
            self.decide_stop(seat, node, reason);
        }
    }

    fn survey(&mut self, cluster: &Cluster, target: &Target, slots: &Slots, now: Millis) -> Survey {
        let mut survey = Survey {
            missing: Vec::new(),
            leaving: Vec::new(),
            ledger: Book::new(target.current(), slots.count()),
            in_flight: 0,
            unsettled: 0,
        };
        let unmet = self.unmet(cluster, target.id());
        for index in slots.indexes() {
            let seat = target.id().seat(index);
            self.survey_slot(cluster, target, seat, unmet.as_ref(), &mut survey, now);
        }
        survey
    }

    fn survey_slot(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        seat: Seat,
        unmet: Option<&Unmet>,
        survey: &mut Survey,
        now: Millis,
    ) {
        self.settle_surge(seat);
        self.stop_overtaken(cluster, seat);
        self.trim_doubles(cluster, seat);
        if self.is_exclusive(seat.job) || self.kept(seat).is_none() {
            self.wake_at_lease_end(cluster, seat);
        }
        let kept = self.kept(seat);
        let kept = kept.filter(|(node, _)| !self.has_lapsed(cluster, seat, *node));
        let reason = self.use_of(cluster, seat, kept, unmet);
        let serves = reason.is_none();
        if let Some(reason) = reason {
            survey.ledger.hold(seat.index, reason);
        }
        let Some((node, report)) = kept else {
            // Placed but unseen, to be placed, or perhaps placed.
            survey.in_flight += 1;
            if self.is_missing(cluster, seat)
                && self.has_rested(cluster, target.current(), seat, now)
            {
                survey.missing.push(seat);
            }
            return;
        };
        let stopping = self.stops.contains_key(&(seat, node));
        let why = match stopping {
            true => None,
            false => self.why_leave(cluster, target, seat, node, report),
        };
        match why {
            Some(reason) => survey.leaving.push(Leaving {
                serves,
                seat,
                node,
                reason,
            }),
            None => {
                survey.in_flight += u32::from(!serves);
                survey.unsettled += u32::from(serves && self.is_unsettled(seat, node, now));
            }
        }
    }

    fn why_leave(
        &self,
        cluster: &Cluster,
        target: &Target,
        seat: Seat,
        node: NodeId,
        report: &SlotReport,
    ) -> Option<StopReason> {
        // Nearly all tasks are of the right version, which is seen without
        // looking the job up by its name.
        if target.is_wrong(cluster, seat.index, report.version)
            && !is_unknown(cluster, target.name(), report.version)
        {
            return Some(StopReason::Replaced);
        }
        if self.gives_up(cluster, node) {
            return Some(StopReason::Drained);
        }
        if self.fails_here(report) {
            return Some(StopReason::Failing);
        }
        self.rebalance
            .is_to_move(seat, node)
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
    fn trim_doubles(&mut self, cluster: &Cluster, seat: Seat) {
        if self.picture.holders(seat).nth(1).is_none() {
            return;
        }
        let holders: Vec<NodeId> = self.picture.holders(seat).map(|(node, _)| node).collect();
        let Some((kept, _)) = self.kept(seat) else {
            return;
        };
        let next = self.next_of_surge(seat);
        if holders.len() == 2 && next.is_some() {
            return;
        }
        let recorded = self.recorded(cluster, seat);
        let is_named = recorded.is_some_and(|recorded| recorded.node == kept);
        // Of an exclusive slot the log named the holder before its award left.
        if !is_named && !self.is_exclusive(seat.job) {
            self.deferred.insert(seat.job);
            self.behind.touch(seat);
            return;
        }
        let surplus = holders
            .into_iter()
            .filter(|node| *node != kept && Some(*node) != next);
        for node in surplus {
            let (reason, is_double) = match self.surges.get(seat) {
                Some(surge) if surge.from == node => (surge.reason, false),
                _ => (StopReason::Double, true),
            };
            if self.decide_stop(seat, node, reason) && is_double {
                let slot = self.names.slot(seat);
                self.note(Note::Double { slot, node });
            }
        }
    }

    /// The one among a slot's holders that is to stay.
    pub(super) fn kept(&self, seat: Seat) -> Option<(NodeId, &SlotReport)> {
        let mut holders = self.picture.holders(seat);
        let first = holders.next()?;
        let Some(second) = holders.next() else {
            return Some(first);
        };
        // Of an exclusive slot the latest award wins.
        let exclusive = self.is_exclusive(seat.job);
        [first, second]
            .into_iter()
            .chain(holders)
            .min_by_key(|(node, report)| {
                let stopping = self.stops.contains_key(&(seat, *node));
                let heard = self.is_heard(*node);
                let newest = exclusive.then_some(Reverse(report.generation));
                (
                    newest,
                    stopping,
                    !heard,
                    !serves(report),
                    self.is_to_go(seat, *node),
                    rank_of(report.state),
                    report.since,
                    *node,
                )
            })
    }

    /// Its next task is being started elsewhere, or its host says that it is
    /// drained: of two that serve the other one stays.
    fn is_to_go(&self, seat: Seat, node: NodeId) -> bool {
        let leaves = self.surges.get(seat).is_some_and(|s| s.from == node);
        leaves || self.picture.hosts.get(&node).is_some_and(|h| h.draining)
    }

    pub(super) fn is_heard(&self, node: NodeId) -> bool {
        let host = self.picture.hosts.get(&node);
        host.is_some_and(|host| host.state == SessionState::Up)
    }

    /// Is the slot filled by nobody yet, or only by the task whose next one is
    /// to be started before it ends?
    pub(super) fn is_missing(&self, cluster: &Cluster, seat: Seat) -> bool {
        if self.awards.contains(seat) || self.is_counted(cluster, seat) {
            return false;
        }
        let from = self.surge_that_holds(cluster, seat);
        let mut holders = self.picture.holders(seat);
        holders.all(|(node, _)| Some(node) == from || self.has_lapsed(cluster, seat, node))
            && !self.has_open_end(cluster, seat)
            && self.may_place(cluster, seat) == MayPlace::Yes
    }

    /// A new scheduler asks before it places.
    pub(super) fn may_place(&self, cluster: &Cluster, seat: Seat) -> MayPlace {
        if let Some(bound) = self.lease_of(cluster, seat) {
            return MayPlace::Lease(bound);
        }
        if self.is_exclusive(seat.job) && self.holder_of(cluster, seat).is_some() {
            // Whoever had it has it no more, seen or not.
            return MayPlace::Yes;
        }
        if self.began_here(seat.job) {
            return MayPlace::Yes;
        }
        match self.recorded(cluster, seat) {
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

    /// Was the job first accepted in this reign? Then nothing of it can run
    /// that is not known here.
    pub(super) fn began_here(&self, job: JobId) -> bool {
        self.catalog.accepted_in(job) == Some(self.authority.reign)
    }

    /// Either reported all that it runs, or is gone for good.
    pub(super) fn has_told_all(&self, node: NodeId) -> bool {
        self.picture
            .hosts
            .get(&node)
            .is_none_or(|host| host.lost || host.reports > 0)
    }

    /// Has every live member told? Asked after each event, so that the one
    /// that was waited for last time is looked at first, then those behind it.
    fn all_told(&mut self) -> bool {
        let waits = |(node, host): (&NodeId, &Host)| {
            let waits = host.reports == 0 && !host.lost;
            waits.then_some(*node)
        };
        let hosts = &self.picture.hosts;
        let from = self.waited_for.unwrap_or(NodeId([0; 32]));
        let next = hosts.iter_from(&from).find_map(waits);
        self.waited_for = next.or_else(|| hosts.iter().find_map(waits));
        self.waited_for.is_none()
    }

    /// Ends the asking once every live member has told.
    pub(super) fn end_asking(&mut self, cluster: &Cluster, now: Millis) {
        if self.asked {
            return;
        }
        if !self.all_told() && now.since(self.began) < ASK_LONGEST {
            return;
        }
        self.asked = true;
        self.stops_due = true;
        self.note(Note::Asked);
        self.dirty.extend(self.catalog.ids());
        for slot in cluster.placements().keys() {
            let seat = self.names.meet_slot(slot);
            self.touch(seat);
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
        TaskState::Ended => 5,
        TaskState::Other => 6,
        TaskState::Stopping => 7,
        TaskState::Stopped => 8,
    }
}
