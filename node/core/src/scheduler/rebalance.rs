//! Evening out: tasks of a job that are crowded while hosts that joined or
//! came back stand by, or racks that are skewed.
//!
//! Answers for proposals, one at a time. A proposed task moves as a drained
//! one does: its successor serves first, so that no budget is used; where
//! nobody takes it nothing happens.
//!
//! Moves end. Each lowers the job's crowding (`Crowding`) if it ends where it
//! was proposed to; the auction may think otherwise, and then the job is left
//! alone until another host comes (`Rebalance::stubborn`). So between two
//! changes of the hosts a job is moved no more often than its crowding can
//! fall, and once in vain.

use super::{
    Scheduler, SessionState,
    failure::is_fresh,
    feasible::Suits,
    names::{JobId, Seat},
    picture::serves,
};
use crate::cluster::Cluster;
use potluck_specs::{Job, Millis, NodeId, SlotId};
use std::collections::{BTreeMap, BTreeSet};

/// Nothing moves before the cluster has been quiet for this long: no host came
/// or went, nothing was placed, stopped or rolled out. What settles by itself
/// needs no help.
const QUIET: Millis = Millis(60_000);

/// Between two moves in the whole cluster: a move costs a fetch and a start,
/// and nothing is at stake.
const EVERY: Millis = Millis(10_000);

/// The same slot is not moved again for this long.
const SLOT_RESTS: Millis = Millis(600_000);

/// Moved slots that are remembered: as many as can be moved while they rest.
const MOVED_MAX: usize = 128;

/// Tasks more in one rack, or on one host, than in another where one of them
/// could be: fewer are even, since moving one would only turn them round.
const SKEW_MIN: u32 = 2;

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
    /// Tasks of the job in its rack and on its host now, itself included.
    pub crowd_from: (u32, u32),
    /// Tasks of the job in that rack and on that host, before the move.
    pub crowd_to: (u32, u32),
}

/// What makes a move worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveReason {
    /// The host joined lately.
    Joined,
    /// The host was given up and came back lately.
    Returned,
    /// One rack has more of the job's tasks than another could have.
    RacksSkewed,
    /// One host has more of them than another could have.
    HostsSkewed,
}

/// How uneven a job is: squares of what its racks have, added up, then of
/// what its hosts have. A move is worth it if this falls.
type Crowding = (u64, u64);

#[derive(Debug, Default)]
pub(super) struct Rebalance {
    /// What is being moved, and since when.
    moving: Option<(Seat, NodeId, Millis)>,
    /// When something last happened.
    busy_at: Millis,
    moved_at: Option<Millis>,
    moved: BTreeMap<Seat, Millis>,
    /// The crowding of the job before the move that goes on.
    before: Option<(JobId, Crowding)>,
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

    /// Something happened.
    pub(super) fn busy(&mut self, now: Millis) {
        self.busy_at = now;
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

/// How many of a job's tasks each rack and host has, moves counted in.
#[derive(Default)]
struct Crowd<'a> {
    racks: BTreeMap<&'a str, u32>,
    nodes: BTreeMap<NodeId, u32>,
}

impl Crowd<'_> {
    fn on(&self, rack: &str, node: NodeId) -> (u32, u32) {
        let in_rack = self.racks.get(rack).copied().unwrap_or(0);
        (in_rack, self.nodes.get(&node).copied().unwrap_or(0))
    }

    fn crowding(&self) -> Crowding {
        let squares = |count: &u32| u64::from(*count).pow(2);
        let racks = self.racks.values().map(squares).sum();
        (racks, self.nodes.values().map(squares).sum())
    }
}

/// Would the job be more even with one task moved from there to here? Tasks
/// in the rack and on the host, each.
fn is_better(from: (u32, u32), to: (u32, u32), same_rack: bool) -> bool {
    let evens_racks = !same_rack && from.0 >= to.0 + SKEW_MIN;
    let keeps_racks = same_rack || from.0 > to.0;
    evens_racks || (keeps_racks && from.1 >= to.1 + SKEW_MIN)
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
        if !at_rest || !self.is_calm(cluster) {
            return;
        }
        let mut jobs = self.catalog.ids();
        let next = jobs.find_map(|job| self.next_move(cluster, job, now));
        match next {
            Some(next) => {
                drop(jobs);
                let crowding = self.crowd_of(next.seat.job).crowding();
                self.rebalance.before = Some((next.seat.job, crowding));
                self.dirty.insert(next.seat.job);
                self.rebalance.begin(next.seat, next.from, now);
            }
            // Nothing to do: look again when something happened, or later.
            None => self.rebalance.busy(now),
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
            crowd_from: next.crowd_from,
            crowd_to: next.crowd_to,
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
        if let Some((job, before)) = self.rebalance.before.take()
            && self.crowd_of(job).crowding() >= before
        {
            self.rebalance.stubborn.insert(job);
        }
    }

    /// Where the job's tasks are.
    fn crowd_of(&self, job: JobId) -> Crowd<'_> {
        let mut crowd = Crowd::default();
        let kept = self
            .picture
            .slots_of(job)
            .filter_map(|seat| self.kept(seat));
        for (node, _) in kept {
            if let Some(host) = self.picture.hosts.get(&node) {
                *crowd.racks.entry(&host.rack).or_default() += 1;
                *crowd.nodes.entry(node).or_default() += 1;
            }
        }
        crowd
    }

    /// Every host is heard, nothing is on its way.
    fn is_calm(&self, cluster: &Cluster) -> bool {
        let hosts = self.picture.hosts.values();
        let mut missed = hosts.filter(|h| h.suspected_at.is_some() && !h.lost);
        self.asked
            && missed.next().is_none()
            && !self.brake.is_on()
            && self.awards.is_empty()
            && self.stops.is_empty()
            && self.surges.is_empty()
            && !cluster.members().values().any(|member| member.draining)
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
        let mut tasks = Vec::new();
        for seat in self.picture.slots_of(job) {
            let Some((node, report)) = self.kept(seat) else {
                continue;
            };
            let rack = &self.picture.hosts.get(&node)?.rack;
            if serves(report) && !self.rebalance.rests(seat, now) {
                tasks.push((rack.as_str(), node, seat));
            }
        }
        let need = target.current().task.resources;
        let suitable = self.suitable_hosts(job, target.current());
        let able = self.picture.hosts.iter().filter(|(node, host)| {
            is_fresh(host, self.began, now)
                && host.state == SessionState::Up
                && host.complete
                && !host.draining
                && host.free.fits(&need)
                && suitable.contains(*node)
                && super::call::takes_work(cluster, **node)
                && !self.is_bad_pair(target.name(), **node, now)
                && !self.is_flapping(**node, now)
        });
        let (to_rack, to) = able
            .map(|(node, host)| (host.rack.as_str(), *node))
            .min_by_key(|(rack, node)| (crowd.on(rack, *node), *node))?;
        let crowd_to = crowd.on(to_rack, to);
        let better = tasks
            .into_iter()
            .filter(|(rack, node, _)| is_better(crowd.on(rack, *node), crowd_to, *rack == to_rack));
        let (rack, from, seat) = better.max_by_key(|(rack, node, seat)| {
            (crowd.on(rack, *node), std::cmp::Reverse(seat.index))
        })?;
        let crowd_from = crowd.on(rack, from);
        let skewed = match rack != to_rack && crowd_from.0 >= crowd_to.0 + SKEW_MIN {
            true => MoveReason::RacksSkewed,
            false => MoveReason::HostsSkewed,
        };
        Some(Next {
            seat,
            from,
            to,
            why: self.rebalance.came_lately(to, now).unwrap_or(skewed),
            crowd_from,
            crowd_to,
        })
    }

    /// Hosts that meet what the job asks of a host.
    fn suitable_hosts(&self, id: JobId, job: &Job) -> BTreeSet<NodeId> {
        let ask = self.ask(id, job);
        let entries = self.index.entries().filter(|entry| {
            let group = &self.index.groups()[entry.group];
            ask.suits(&self.index, group) != Suits::No && ask.admits_node(entry)
        });
        entries.map(|entry| entry.node).collect()
    }
}

/// The next move of a job.
struct Next {
    seat: Seat,
    from: NodeId,
    to: NodeId,
    why: MoveReason,
    crowd_from: (u32, u32),
    crowd_to: (u32, u32),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_move_must_even_racks_or_hosts_and_spoil_neither() {
        // From, to, in the same rack, worth it?
        let table = [
            ((3, 2), (1, 0), false, true),
            ((2, 2), (1, 0), false, true), // hosts, and racks stay as even
            ((2, 1), (1, 0), false, false), // it would only turn round
            ((2, 2), (2, 0), false, false), // hosts, but racks would suffer
            ((4, 3), (4, 1), true, true),
            ((4, 2), (4, 1), true, false),
            ((3, 1), (1, 1), false, true),
        ];
        for (from, to, same_rack, worth) in table {
            assert_eq!(is_better(from, to, same_rack), worth, "{from:?} {to:?}");
        }
    }

    proptest! {
        /// Each move lowers the crowding, so that after finitely many moves
        /// none is proposed, in whatever order they are made.
        #[test]
        fn moves_end(
            tasks in proptest::collection::vec(0u32..6, 2..24),
            racks in 1usize..6,
            picks in proptest::collection::vec(any::<usize>(), 1..8),
        ) {
            let node = |k: usize| NodeId([k as u8; 32]);
            let rack = |k: usize| (k % racks).to_string();
            let names: Vec<String> = (0..tasks.len()).map(rack).collect();
            let mut tasks = tasks;
            let crowd = |tasks: &[u32]| {
                let mut racks: BTreeMap<&str, u32> = BTreeMap::new();
                for (k, count) in tasks.iter().enumerate() {
                    *racks.entry(names[k].as_str()).or_default() += count;
                }
                let nodes = tasks.iter().enumerate().map(|(k, count)| (node(k), *count));
                (racks.into_iter().map(|(r, n)| (r.to_owned(), n)).collect::<BTreeMap<_, _>>(), nodes.collect::<BTreeMap<_, _>>())
            };
            let crowding = |tasks: &[u32]| {
                let (racks, nodes) = crowd(tasks);
                let racks = racks.iter().map(|(r, n)| (r.as_str(), *n)).collect();
                Crowd { racks, nodes }.crowding()
            };
            let mut before = crowding(&tasks);
            for step in 0.. {
                let (racks_now, nodes_now) = crowd(&tasks);
                let at = |k: usize| (racks_now[&names[k]], nodes_now[&node(k)]);
                let pairs = (0..tasks.len()).flat_map(|a| (0..tasks.len()).map(move |b| (a, b)));
                let moves: Vec<(usize, usize)> = pairs
                    .filter(|(a, b)| a != b && tasks[*a] > 0)
                    .filter(|(a, b)| is_better(at(*a), at(*b), names[*a] == names[*b]))
                    .collect();
                if moves.is_empty() {
                    break;
                }
                let (from, to) = moves[picks[step % picks.len()] % moves.len()];
                tasks[from] -= 1;
                tasks[to] += 1;
                let after = crowding(&tasks);
                prop_assert!(after < before, "{before:?} {after:?}");
                before = after;
            }
        }
    }
}
