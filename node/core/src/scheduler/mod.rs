//! The decider of one reign.
//!
//! Answers for what should happen next, given the replicated state and what
//! the hosts report: whom to greet, call, award and stop, who is dead, what a
//! service's endpoints are. Leaves to its driver: clocks, sending, the log,
//! signing and publishing slices. The driver makes one after its `Reign`
//! entry is applied and drops it when it leads no longer.
//!
//! While most voters have not been heard for an election timeout it decides
//! nothing that anyone could notice: what is to be done is derived from state
//! again once they are.

mod award;
mod backoff;
mod batch;
mod behind;
mod brake;
mod call;
mod candidates;
mod catalog;
mod clearing;
mod crowding;
mod dependencies;
mod drain;
mod endpoints;
mod event;
mod exclusive;
mod explain;
mod explanation;
mod failure;
mod feasible;
mod forecast;
mod gang;
mod host_map;
mod index;
mod ledger;
mod moves;
mod names;
mod notable;
mod per_node;
mod picture;
mod preempt;
mod rank;
mod rebalance;
mod reconcile;
mod relax;
mod rollout;
mod score;
mod stages;
mod stops;
mod tally;
mod unknown;
mod view;

pub use dependencies::{Lack, Unmet};
pub use drain::{DrainView, DrainWait};
pub use event::{Effect, Endpoint, Event, MemberView, Note, ServiceEndpoints};
pub use explanation::{Explanation, HostCase};
pub(crate) use failure::MISSED_AFTER;
pub use feasible::{ISOLATION, Obstacle, Resource};
pub use forecast::{FORECAST_SLOTS_MAX, Forecast, ForecastTask, Room};
pub use ledger::{Ledger, Spent, Use};
pub use rebalance::{Move, MoveReason};
pub use relax::{Relaxation, SmallestChange};
pub use score::Part;
pub use view::{HostView, SessionState, SlotPhase, SlotView};

use crate::{
    auction::Authority,
    cluster::Cluster,
    session::{Heartbeat, HeartbeatAnswer},
};
use names::{JobId, Seat};
use potluck_specs::{Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// A quorum that was away for longer means that this leader was cut off, and
/// may have missed heartbeats that others got.
const CUT_OFF_AFTER: Millis = Millis(1_000);

/// What differs between a real cluster and a test's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchedulerConfig {
    /// How long after the last acknowledgement of most voters a leader may
    /// act: the control group's shortest election timeout.
    pub election_timeout: Millis,
    /// Unix time minus the time that [`Scheduler::step`] is told, for deadlines
    /// that the log holds.
    pub unix_offset: Millis,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            election_timeout: Millis(500),
            unix_offset: Millis(0),
        }
    }
}

/// The decider of one reign.
///
/// ```text
/// asking --all live members told, or 10 s--> asked
/// acting <--quorum confirmed / not confirmed for 500 ms--> silent
/// acting, silent --a later authority is heard of--> superseded (for good)
/// ```
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    authority: Authority,
    me: NodeId,
    began: Millis,
    /// Of the present step, or the last one.
    now: Millis,
    quorum_at: Option<Millis>,
    silent: bool,
    superseded: bool,
    /// Every live member has told what it runs.
    asked: bool,
    /// The first that had not told when last looked at.
    waited_for: Option<NodeId>,
    /// The log's index up to which `catalog` and `picture` follow.
    followed: Option<u64>,
    /// The same of what shapes the cluster: intent and members.
    shaped: Option<u64>,
    /// The same of members alone.
    members: Option<u64>,
    ticked_at: Option<Millis>,
    /// Nobody is accused before this.
    accuse_from: Millis,
    notable: notable::Notable,
    catalog: catalog::Catalog,
    picture: picture::Picture,
    brake: brake::Brake,
    names: names::Names,
    works: names::JobMap<call::Work>,
    /// Jobs whose last call left slots unfilled.
    waiting: BTreeSet<JobId>,
    index: index::Index,
    tallies: tally::Tallies,
    calls: call::Calls,
    last_call: u64,
    awards: award::Awards,
    /// Counts the instructions of this reign.
    sequence: u64,
    stops: BTreeMap<(Seat, NodeId), stops::Stopping>,
    /// Some stop may be due.
    stops_due: bool,
    /// Slots by the host that the log named when the reign began.
    recorded_on: BTreeMap<NodeId, Vec<Seat>>,
    /// Slots whose next task is started before the present one ends.
    surges: names::SlotMap<moves::Surge>,
    backoff: backoff::Backoff,
    rebalance: rebalance::Rebalance,
    /// Room that was made for a job, by host.
    claims: BTreeMap<NodeId, preempt::Claim>,
    rollouts: names::JobMap<rollout::Watched>,
    dependants: dependencies::Dependants,
    /// Stopped jobs whose tasks wait for those of others, since when.
    stop_waits: BTreeMap<JobId, Millis>,
    published: endpoints::Published,
    behind: behind::Behind,
    ends: batch::Ends,
    gangs: gang::Gangs,
    holdings: exclusive::Holdings,
    /// Jobs to look at again.
    dirty: BTreeSet<JobId>,
    /// Jobs to look at again with the next tick.
    deferred: BTreeSet<JobId>,
    /// Jobs to look at again at a time.
    wakes: BTreeMap<JobId, Millis>,
    /// Jobs whose endpoints may have changed.
    to_publish: BTreeSet<JobId>,
    capacity_grew: bool,
    /// Some host came, went, or is another now.
    hosts_changed: bool,
    /// Members that the log says are drained.
    draining: BTreeSet<NodeId>,
    /// Members that the log says are cordoned.
    cordoned: BTreeSet<NodeId>,
    /// The log's index up to which rollouts are followed.
    rollouts_at: u64,
    out: Vec<Effect>,
}

impl Scheduler {
    /// A scheduler at the begin of its reign. `now` is monotonic and runs on
    /// in suspend (CLOCK_BOOTTIME), as in every later step.
    pub fn new(
        config: SchedulerConfig,
        authority: Authority,
        me: NodeId,
        now: Millis,
    ) -> Scheduler {
        Scheduler {
            config,
            authority,
            me,
            began: now,
            now,
            quorum_at: None,
            silent: true,
            superseded: false,
            asked: false,
            waited_for: None,
            followed: None,
            shaped: None,
            members: None,
            ticked_at: None,
            accuse_from: Millis(0),
            notable: notable::Notable::default(),
            catalog: catalog::Catalog::default(),
            picture: picture::Picture::default(),
            brake: brake::Brake::default(),
            names: names::Names::default(),
            works: names::JobMap::default(),
            waiting: BTreeSet::new(),
            index: index::Index::default(),
            tallies: tally::Tallies::default(),
            calls: call::Calls::default(),
            last_call: 0,
            awards: award::Awards::default(),
            sequence: 0,
            stops: BTreeMap::new(),
            stops_due: false,
            recorded_on: BTreeMap::new(),
            surges: names::SlotMap::default(),
            backoff: backoff::Backoff::default(),
            rebalance: rebalance::Rebalance::default(),
            claims: BTreeMap::new(),
            rollouts: names::JobMap::default(),
            dependants: dependencies::Dependants::default(),
            stop_waits: BTreeMap::new(),
            published: endpoints::Published::default(),
            behind: behind::Behind::default(),
            ends: batch::Ends::default(),
            gangs: gang::Gangs::default(),
            holdings: exclusive::Holdings::default(),
            dirty: BTreeSet::new(),
            deferred: BTreeSet::new(),
            wakes: BTreeMap::new(),
            to_publish: BTreeSet::new(),
            capacity_grew: false,
            hosts_changed: true,
            draining: BTreeSet::new(),
            cordoned: BTreeSet::new(),
            rollouts_at: 0,
            out: Vec::new(),
        }
    }

    /// Takes an event, returns what to do about it, in order.
    pub fn step(&mut self, cluster: &Cluster, event: Event, now: Millis) -> Vec<Effect> {
        self.now = now;
        self.follow(cluster, now);
        self.take(cluster, event, now);
        self.end_asking(cluster, now);
        if self.speaks(now) {
            self.act(cluster, now);
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, cluster: &Cluster, event: Event, now: Millis) {
        match event {
            Event::Tick => self.tick(cluster, now),
            Event::ClusterChanged => {}
            Event::QuorumConfirmed { at } => self.quorum_confirmed(at, now),
            Event::Heartbeat { heartbeat } => {
                let to = heartbeat.node;
                let sender = Self::sender_of(&heartbeat);
                let mut answer = self.reported(cluster, heartbeat, now);
                if answer.confirmed.is_some() {
                    answer.renewals = self.renew(cluster, to, sender);
                }
                self.out.push(Effect::AnswerHeartbeat { to, answer });
            }
            Event::Greeted { heartbeat } => {
                self.reported(cluster, heartbeat, now);
            }
            Event::GreetFailed { .. } => {}
            Event::Members { members } => self.gossiped(&members),
            Event::CallAnswered { node, call, answer } => self.call_answered(node, call, answer),
            Event::CallLost { node, call } => self.call_lost(node, call),
            Event::AwardAnswered { node, call, answer } => {
                self.award_answered(node, call, answer, now);
            }
            Event::AwardLost { node, call } => self.award_lost(node, call),
            // The task's report says more than either.
            Event::StopAnswered { .. } | Event::StopLost { .. } => {}
            Event::Probed {
                by,
                about,
                reachable,
            } => self.probed(by, about, Some(reachable), now),
            Event::ProbeLost { by, about } => self.probed(by, about, None, now),
            Event::LaggedFor { lag } => self.lagged(lag, now),
        }
    }

    fn quorum_confirmed(&mut self, at: Millis, now: Millis) {
        if let Some(before) = self.quorum_at
            && at.since(before) > CUT_OFF_AFTER
        {
            self.lagged(at.since(before), now);
        }
        self.quorum_at = self.quorum_at.max(Some(at));
    }

    /// All that others could notice happens here, and only with a quorum.
    fn act(&mut self, cluster: &Cluster, now: Millis) {
        self.close_calls(cluster, now);
        self.send_recorded(cluster, now);
        self.reconcile_dirty(cluster, now);
        self.propose_holders(cluster);
        self.publish(cluster);
        self.send_stops(now);
        self.propose_ends(cluster, now);
        if self.behind.is_urgent() {
            self.write_behind(cluster, now);
        }
    }

    fn tick(&mut self, cluster: &Cluster, now: Millis) {
        if let Some(before) = self.ticked_at.replace(now) {
            self.lagged(now.since(before), now);
        }
        self.stops_due = true;
        self.watch(now);
        self.count_tasks();
        if std::mem::take(&mut self.capacity_grew) {
            self.retry_waiting(now);
        }
        self.dirty.append(&mut self.deferred);
        if std::mem::take(&mut self.hosts_changed) {
            self.dirty.extend(self.catalog.per_node());
        }
        self.take_woken(now);
        self.take_rested(now);
        self.tidy_names();
        if self.may_act(now) {
            self.even_out(cluster, now);
            self.repeat_awards(cluster, now);
            self.write_behind(cluster, now);
        }
    }

    /// Takes over what the log says since the last step.
    fn follow(&mut self, cluster: &Cluster, now: Millis) {
        if self.followed == Some(cluster.applied()) {
            return;
        }
        let at_begin = self.followed.is_none();
        self.followed = Some(cluster.applied());
        if at_begin {
            self.follow_recorded(cluster);
        }
        if cluster.authority() > self.authority {
            self.heard_of(cluster.authority());
        }
        self.follow_batches(cluster);
        self.follow_exclusive(cluster);
        if self.shaped == Some(cluster.shaped_at()) {
            // Only notes of where things are.
            return;
        }
        self.shaped = Some(cluster.shaped_at());
        for job in self.catalog.follow(cluster, &mut self.names) {
            if let Some(work) = self.works.get_mut(job) {
                work.retry_at = now;
                work.refusals.clear();
                work.avoid.clear();
                work.suits.clear();
            }
            self.backoff.job_changed(self.names.name(job), now);
            self.follow_needs(job);
            self.dirty.insert(job);
        }
        self.follow_rollouts(cluster, now);
        if self.members != Some(cluster.members_at()) {
            self.members = Some(cluster.members_at());
            self.follow_members(cluster, at_begin);
        }
    }

    /// Takes over who the members are, and what they are to be used for.
    fn follow_members(&mut self, cluster: &Cluster, at_begin: bool) {
        self.notable.look_at_all();
        let moved = self.index.follow(cluster);
        let draining: BTreeSet<NodeId> = cluster
            .members()
            .values()
            .filter(|member| member.draining)
            .map(|member| member.node)
            .collect();
        for seat in self.picture.follow(cluster.members(), at_begin) {
            self.touch(seat);
        }
        self.capacity_grew |= !moved.is_empty();
        for node in moved {
            self.dirty_host(node);
        }
        self.drop_awards_of_strangers();
        self.awards.meet(self.picture.hosts.keys());
        if *cluster.cordoned() != self.cordoned {
            self.cordoned.clone_from(cluster.cordoned());
            self.capacity_grew = true;
            self.hosts_changed = true;
        }
        if draining != self.draining {
            self.drains_changed(draining);
        }
    }

    /// Forgets names that nothing here goes by any more.
    fn tidy_names(&mut self) {
        let (catalog, picture, dependants) = (&self.catalog, &self.picture, &self.dependants);
        self.names
            .tidy(|job| catalog.names(job) || picture.knows(job) || dependants.names(job));
    }

    fn drains_changed(&mut self, draining: BTreeSet<NodeId>) {
        let changed: Vec<NodeId> = self
            .draining
            .symmetric_difference(&draining)
            .copied()
            .collect();
        self.draining = draining;
        self.capacity_grew = true;
        for node in changed {
            self.dirty_host(node);
        }
    }

    fn drop_awards_of_strangers(&mut self) {
        let strangers: BTreeSet<NodeId> = self
            .awards
            .nodes()
            .filter(|node| !self.picture.hosts.contains_key(node))
            .collect();
        for node in strangers {
            self.drop_awards_of(node);
            self.awards.part(node);
        }
    }

    /// A host's report, by heartbeat or greeting.
    fn reported(
        &mut self,
        cluster: &Cluster,
        mut heartbeat: Heartbeat,
        now: Millis,
    ) -> HeartbeatAnswer {
        let mut answer = HeartbeatAnswer {
            authority: self.authority,
            confirmed: None,
            forget: Vec::new(),
            renewals: None,
        };
        self.heard_of(heartbeat.highest);
        let node = heartbeat.node;
        let was_draining = self.picture.hosts.get(&node).map(|host| host.draining);
        let Some(taken) = self.picture.take(&mut self.names, &mut heartbeat, now) else {
            return answer;
        };
        if taken.confirmed.is_none() {
            self.notable.add(node);
        }
        self.heard(node, now);
        self.index_report(&heartbeat, now);
        if was_draining != Some(heartbeat.draining) {
            self.dirty_host(node);
        }
        if self
            .picture
            .hosts
            .get(&node)
            .is_some_and(|h| h.reports == 1)
        {
            // What it does not report, it is known now not to have.
            self.touch_recorded(node);
        }
        self.capacity_grew |= taken.grew;
        self.settle_stops(&taken.changed, node);
        self.note_failures(cluster, &taken.changed, node, now);
        self.note_ends(&taken.changed, node);
        self.note_released(cluster, &taken.changed, node);
        for seat in taken.changed {
            self.touch(seat);
        }
        self.settle_awards(node, now);
        answer.confirmed = taken.confirmed;
        answer.forget = taken.forget;
        self.keep_uncounted(cluster, node, &mut answer.forget);
        self.keep_unreleased(cluster, node, &mut answer.forget);
        answer
    }

    /// Brings the index up to a host's report.
    fn index_report(&mut self, heartbeat: &Heartbeat, now: Millis) {
        let node = heartbeat.node;
        let Some(host) = self.picture.hosts.get(&node) else {
            return;
        };
        self.hosts_changed |= host.reports == 1;
        if let Some(facts) = &heartbeat.facts
            && self.index.set_facts(node, facts)
        {
            self.hosts_changed = true;
            self.capacity_grew = true;
        }
        let open = host.complete && !host.draining;
        self.index.heard(node, now, heartbeat.pressure);
        self.index.report(node, host.free, host.total, open);
    }

    fn gossiped(&mut self, members: &[MemberView]) {
        for member in members {
            if let Some(host) = self.picture.hosts.get_mut(&member.node) {
                host.gossip_moved_at = host.gossip_moved_at.max(Some(member.heartbeat_moved_at));
            }
        }
    }

    /// Somebody knows of this authority; a later one ends ours.
    fn heard_of(&mut self, by: Authority) {
        if by > self.authority && !self.superseded {
            self.superseded = true;
            self.note(Note::Superseded { by });
        }
    }

    /// As [`Self::may_act`], noting the change.
    fn speaks(&mut self, now: Millis) -> bool {
        let may_act = self.may_act(now);
        if may_act == self.silent && !self.superseded {
            self.silent = !may_act;
            if may_act {
                self.note(Note::SpeaksAgain);
            } else {
                self.note(Note::Silent);
            }
        }
        may_act
    }

    /// Whose word it gives.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// Have most voters been heard within an election timeout, and nobody a
    /// later scheduler?
    pub fn may_act(&self, now: Millis) -> bool {
        let heard = self
            .quorum_at
            .is_some_and(|at| now < at + self.config.election_timeout);
        heard && !self.superseded
    }

    /// Has it asked all live members what they run?
    pub fn has_asked(&self) -> bool {
        self.asked
    }

    /// Something about a slot is different.
    fn touch(&mut self, seat: Seat) {
        self.dirty.insert(seat.job);
        self.tallies.touch(seat);
        self.behind.touch(seat);
    }

    /// Everything on a host is to be looked at again.
    fn dirty_host(&mut self, node: NodeId) {
        self.hosts_changed = true;
        if let Some(host) = self.picture.hosts.get(&node) {
            for seat in host.slots.clone() {
                self.touch(seat);
            }
        }
    }

    /// Every slot that the log placed on a host when the reign began is to be
    /// looked at again. What was placed since, a report or an award tells of.
    fn touch_recorded(&mut self, node: NodeId) {
        for seat in self.recorded_on.get(&node).cloned().unwrap_or_default() {
            self.touch(seat);
        }
    }

    fn follow_recorded(&mut self, cluster: &Cluster) {
        for (slot, placement) in cluster.placements() {
            let seat = self.names.meet_slot(slot);
            let on = self.recorded_on.entry(placement.node).or_default();
            on.push(seat);
        }
    }

    /// What is remembered of a job between two calls.
    fn work_of(&mut self, job: JobId) -> &mut call::Work {
        self.works.of(job)
    }

    fn note(&mut self, note: Note) {
        self.out.push(Effect::Note { note });
    }
}

#[cfg(test)]
mod tests;
