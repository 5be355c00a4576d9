//! Evening out: tasks of a job that are crowded while hosts that joined or
//! came back stand by, or places that are skewed.
//!
//! Answers for proposals, one at a time. A proposed task moves as a drained
//! one does: its successor serves first, so that no budget is used; where
//! nobody takes it nothing happens. What is even says `crowding`, where a task
//! may go `feasible`: the auction asks both alike.
//!
//! Moves end. Each lowers the job's crowding if it ends where it was proposed
//! to; the auction may think otherwise (it also weighs preferences, bytes to
//! fetch and room), and a job that is no more even after a move is left alone
//! until another host comes (`Rebalance::stubborn`). So between two changes of
//! the hosts a job is moved no more often than its crowding can fall, and once
//! in vain.

use super::{
    Scheduler, SessionState,
    crowding::{Crowd, Crowding, Order, Spot},
    feasible::{Ask, Suits},
    index::Entry,
    names::{JobId, Seat},
    picture::serves,
};
use crate::cluster::Cluster;
use potluck_specs::{Millis, NodeId, SlotId, job::Level};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Nothing moves before no host has come or gone for this long: what settles by
/// itself needs no help. Awards, stops and rollouts hold back the job that they
/// are of, and no other.
const QUIET: Millis = Millis(60_000);

/// Between two moves in the whole cluster: a move costs a fetch and a start,
/// and nothing is at stake.
const EVERY: Millis = Millis(10_000);

/// The same slot is not moved again for this long.
const SLOT_RESTS: Millis = Millis(600_000);

/// Moved slots that are remembered: as many as can be moved while they rest.
const MOVED_MAX: usize = 128;

/// Jobs looked at with each tick: each is held against all hosts, and all of
/// ten thousand would make the tick late. So many a tick are all of them within
/// a minute, which is `QUIET`.
const JOBS_AT_ONCE: usize = 16;

/// For how long a host that came is given as the reason of a move.
const CAME_LATELY: Millis = Millis(1_800_000);

/// How long after its begin a reign hears hosts that were there before it.
const FIRST_HEARD: Millis = Millis(15_000);

/// A move that has found no place after this long is given up.
const GIVE_UP: Millis = Millis(30_000);

/// Most moves shown of a dry run.
const SHOWN_MAX: usize = 100;

/// A move that would even things out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The slot.
    pub slot: SlotId,
    /// Where it is.
    pub from: NodeId,
    /// A host that would be better; the auction decides.
    pub to: NodeId,
    /// Why now.
    pub why: MoveReason,
    /// For each level that counts for the job, those that weigh most first:
    /// its tasks in the one place and in the other, before the move.
    pub crowd: Vec<(Level, u32, u32)>,
}

/// What makes a move worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveReason {
    /// The host joined lately.
    Joined,
    /// The host was given up and came back lately.
    Returned,
    /// One place of this level has more of the job's tasks than another could
    /// have.
    Skewed {
        /// Racks, hosts, or something wider.
        level: Level,
    },
}

#[derive(Debug, Default)]
pub(super) struct Rebalance {
    /// What is being moved, and since when.
    moving: Option<(Seat, NodeId, Millis)>,
    /// When a host last came or went, or nothing was to be done.
    busy_at: Millis,
    moved_at: Option<Millis>,
    moved: BTreeMap<Seat, Millis>,
    /// The crowding of the job before the move that goes on.
    before: Option<(JobId, Order, Crowding)>,
    /// Jobs that were looked at since one was last moved.
    looked_at: usize,
    /// Jobs whose last move lowered nothing.
    stubborn: BTreeSet<JobId>,
    /// Hosts that joined or came back, and when.
    came: BTreeMap<NodeId, (MoveReason, Millis)>,
}

impl Rebalance {
    pub(super) fn is_to_move(&self, seat: Seat, node: NodeId) -> bool {
        self.moving
            .is_some_and(|(moving, from, _)| moving == seat && from == node)
    }

    /// A host came or went, or nothing is to be done.
    pub(super) fn busy(&mut self, now: Millis) {
        self.busy_at = now;
        self.looked_at = 0;
    }

    /// A host is there that was not: what was in vain may not be now.
    pub(super) fn came(&mut self, node: NodeId, why: MoveReason, now: Millis) {
        self.came.retain(|_, (_, at)| now.since(*at) < CAME_LATELY);
        self.came.insert(node, (why, now));
        self.stubborn.clear();
    }

    /// Whether the host's coming is why something moves there.
    fn came_lately(&self, node: NodeId, now: Millis) -> Option<MoveReason> {
        let (why, at) = self.came.get(&node)?;
        (now.since(*at) < CAME_LATELY).then_some(*why)
    }

    fn begin(&mut self, seat: Seat, from: NodeId, now: Millis) {
        self.moved.retain(|_, at| now.since(*at) < SLOT_RESTS);
        if self.moved.len() >= MOVED_MAX {
            self.moved.pop_first();
        }
        self.moved.insert(seat, now);
        self.moved_at = Some(now);
        self.moving = Some((seat, from, now));
    }

    fn rests(&self, seat: Seat, now: Millis) -> bool {
        let moved = self.moved.get(&seat);
        moved.is_some_and(|at| now.since(*at) < SLOT_RESTS)
    }
}

impl Scheduler {
    /// Proposes the next move, or gives the present one up. Due with each tick.
    pub(super) fn even_out(&mut self, cluster: &Cluster, now: Millis) {
        if let Some((seat, from, since)) = self.rebalance.moving {
            let still = self.kept(seat).is_some_and(|(n, _)| n == from);
            let placed = self.awards.contains(seat) || self.next_of_surge(seat).is_some();
            if !still || (!placed && now.since(since) >= GIVE_UP) {
                self.rebalance.moving = None;
                self.dirty.insert(seat.job);
                self.judge_move();
            }
            return;
        }
        let at_rest = now.since(self.rebalance.busy_at) >= QUIET
            && now.since(self.began) >= QUIET
            && self
                .rebalance
                .moved_at
                .is_none_or(|at| now.since(at) >= EVERY);
        if !at_rest || !self.is_calm() {
            return;
        }
        let jobs = self.catalog.ids().skip(self.rebalance.looked_at);
        let jobs: Vec<JobId> = jobs.take(JOBS_AT_ONCE).collect();
        let mut calm = jobs.iter().filter(|job| self.job_is_calm(**job));
        match calm.find_map(|job| self.next_move(cluster, *job, now)) {
            Some(next) => {
                let job = next.seat.job;
                let crowding = self.crowd_of(job).crowding(&next.order);
                self.rebalance.before = Some((job, next.order, crowding));
                self.rebalance.looked_at = 0;
                self.dirty.insert(job);
                self.rebalance.begin(next.seat, next.from, now);
            }
            // Nothing to do: look again when something happened, or later.
            None if jobs.len() < JOBS_AT_ONCE => self.rebalance.busy(now),
            None => self.rebalance.looked_at += jobs.len(),
        }
    }

    /// Moves that would even things out, for `rebalance --dry-run`: the ones
    /// that come next, one a job.
    pub fn rebalance_plan(&self, cluster: &Cluster, now: Millis) -> Vec<Move> {
        let jobs = self.catalog.ids();
        let moves = jobs.filter_map(|job| self.next_move(cluster, job, now));
        let moves = moves.map(|next| Move {
            slot: self.names.slot(next.seat),
            from: next.from,
            to: next.to,
            why: next.why,
            crowd: next.crowd,
        });
        moves.take(SHOWN_MAX).collect()
    }

    /// A host that was not there is: notes it as a reason to move.
    pub(super) fn note_coming(&mut self, node: NodeId, was: SessionState, lost: bool, now: Millis) {
        match was {
            SessionState::Unknown if now.since(self.began) >= FIRST_HEARD => {
                self.rebalance.came(node, MoveReason::Joined, now);
            }
            SessionState::Dead | SessionState::Unreachable if lost => {
                self.rebalance.came(node, MoveReason::Returned, now);
            }
            _ => {}
        }
    }

    /// The move is over: a job that is no more even for it is left alone.
    fn judge_move(&mut self) {
        if let Some((job, order, before)) = self.rebalance.before.take()
            && self.crowd_of(job).crowding(&order) >= before
        {
            self.rebalance.stubborn.insert(job);
        }
    }

    /// Where the job's tasks are.
    fn crowd_of(&self, job: JobId) -> Crowd {
        let mut crowd = Crowd::default();
        for seat in self.picture.slots_of(job) {
            let kept = self.kept(seat).and_then(|(node, _)| self.index.of(node));
            if let Some(entry) = kept {
                crowd.add(&entry.place);
            }
        }
        crowd
    }

    /// Every host is heard, and none is being emptied. One that is empty may
    /// be drained for as long as its owner likes.
    fn is_calm(&self) -> bool {
        let hosts = self.picture.hosts.values();
        let mut missed = hosts.filter(|h| h.suspected_at.is_some() && !h.lost);
        let mut draining = self.draining.iter();
        self.asked
            && missed.next().is_none()
            && !self.brake.is_on()
            && draining.all(|node| self.tasks_on(*node).next().is_none())
    }

    /// Nothing of the job is on its way.
    fn job_is_calm(&self, job: JobId) -> bool {
        let (first, last) = (NodeId([0; 32]), NodeId([u8::MAX; 32]));
        let stops = (job.seat(0), first)..=(job.seat(u32::MAX), last);
        !self.awards.has_any_of(job)
            && self.surges.count_of(job) == 0
            && self.stops.range(stops).next().is_none()
    }

    fn next_move(&self, cluster: &Cluster, job: JobId, now: Millis) -> Option<Next> {
        if self.rebalance.stubborn.contains(&job) {
            return None;
        }
        let target = self.target(cluster, job)?;
        if !super::rollout::may_wander(target.current()) || self.waits_for_rollout(cluster, job) {
            return None;
        }
        let crowd = self.crowd_of(job);
        if crowd.tasks < 2 {
            return None;
        }
        let ask = self.ask(job, target.current());
        let order = Order::of(&ask.weights);
        let tasks = self.tasks_that_may_move(job, &crowd, now);
        let hosts = self.hosts_that_may_take(&ask, &crowd, now);
        let pairs = tasks
            .values()
            .flat_map(|task| hosts.values().map(move |host| (task, host)));
        let better = pairs.filter_map(|(task, host)| {
            let level = order.evened(&task.spot, &host.spot)?;
            Some((task, host, level))
        });
        // What weighs most first, from the fullest place to the emptiest.
        let (task, host, level) = better.min_by_key(|(task, host, level)| {
            let full = Reverse(order.pick(&task.spot.tasks));
            let empty = order.pick(&host.spot.tasks);
            (order.rank(*level), empty, full, host.node, task.seat)
        })?;
        let came = self.rebalance.came_lately(host.node, now);
        let counts = |level: Level| {
            let at = level as usize;
            (level, task.spot.tasks[at], host.spot.tasks[at])
        };
        Some(Next {
            seat: task.seat,
            from: task.node,
            to: host.node,
            why: came.unwrap_or(MoveReason::Skewed { level }),
            crowd: order.levels().map(counts).collect(),
            order,
        })
    }

    /// In each rack one on the host that has most: whatever a move from there
    /// would even, this one does.
    fn tasks_that_may_move(
        &self,
        job: JobId,
        crowd: &Crowd,
        now: Millis,
    ) -> BTreeMap<u32, Movable> {
        let mut racks: BTreeMap<u32, Movable> = BTreeMap::new();
        for seat in self.picture.slots_of(job) {
            let kept = self.kept(seat).filter(|(_, report)| serves(report));
            let Some((node, _)) = kept.filter(|_| !self.rebalance.rests(seat, now)) else {
                continue;
            };
            let Some(entry) = self.index.of(node) else {
                continue;
            };
            let spot = crowd.spot(entry.place);
            let known = racks.get(&spot.place[RACK]);
            if known.is_none_or(|known| spot.tasks[NODE] > known.spot.tasks[NODE]) {
                racks.insert(spot.place[RACK], Movable { spot, node, seat });
            }
        }
        racks
    }

    /// In each rack the host that has least, of those that the auction would
    /// call and that don't come and go.
    fn hosts_that_may_take(
        &self,
        ask: &Ask<'_>,
        crowd: &Crowd,
        now: Millis,
    ) -> BTreeMap<u32, Able> {
        let groups = self.index.groups().iter();
        let suits: Vec<bool> = groups
            .map(|group| ask.suits(&self.index, group) != Suits::No)
            .collect();
        let work = self.works.get(ask.id);
        let may = |entry: &&Entry| {
            suits.get(entry.group).is_some_and(|suits| *suits)
                && self.may_take(ask, entry, work, now)
                && !self.is_flapping(entry.node, now)
        };
        let mut racks: BTreeMap<u32, Able> = BTreeMap::new();
        for entry in self.index.entries().filter(may) {
            let (spot, node) = (crowd.spot(entry.place), entry.node);
            let known = racks.get(&spot.place[RACK]);
            let less =
                |known: &Able| (spot.tasks[NODE], node) < (known.spot.tasks[NODE], known.node);
            if known.is_none_or(less) {
                racks.insert(spot.place[RACK], Able { spot, node });
            }
        }
        racks
    }
}

const RACK: usize = Level::Rack as usize;
const NODE: usize = Level::Node as usize;

/// A task that may move.
struct Movable {
    spot: Spot,
    node: NodeId,
    seat: Seat,
}

/// A host that may take one.
struct Able {
    spot: Spot,
    node: NodeId,
}

/// The next move of a job.
struct Next {
    seat: Seat,
    from: NodeId,
    to: NodeId,
    why: MoveReason,
    crowd: Vec<(Level, u32, u32)>,
    order: Order,
}
