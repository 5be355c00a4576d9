//! Evening out: tasks of a job that are crowded while hosts that joined or
//! came back stand by.
//!
//! Answers for proposals, one at a time. A proposed task moves as a drained
//! one does: its successor serves first, so that no budget is used; where
//! nobody takes it nothing happens. Each move lowers the crowd that it leaves
//! by more than it raises the one that it joins, so that moves end.

use super::{
    Scheduler, SessionState,
    failure::is_fresh,
    names::{JobId, Seat},
    picture::serves,
};
use crate::cluster::Cluster;
use potluck_specs::{Millis, NodeId, SlotId};
use std::collections::BTreeMap;

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
}

#[derive(Debug, Default)]
pub(super) struct Rebalance {
    /// What is being moved, and since when.
    moving: Option<(Seat, NodeId, Millis)>,
    /// When something last happened.
    busy_at: Millis,
    moved_at: Option<Millis>,
    moved: BTreeMap<Seat, Millis>,
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
            Some((seat, from, _)) => {
                drop(jobs);
                self.dirty.insert(seat.job);
                self.rebalance.begin(seat, from, now);
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
        let moves = moves.map(|(seat, from, to)| Move {
            slot: self.names.slot(seat),
            from,
            to,
        });
        moves.take(SHOWN_MAX).collect()
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

    fn next_move(
        &self,
        cluster: &Cluster,
        job: JobId,
        now: Millis,
    ) -> Option<(Seat, NodeId, NodeId)> {
        let target = self.target(cluster, job)?;
        if !super::rollout::may_wander(target.current()) || self.waits_for_rollout(cluster, job) {
            return None;
        }
        let mut crowd = Crowd::default();
        let mut tasks = Vec::new();
        for seat in self.picture.slots_of(job) {
            let Some((node, report)) = self.kept(seat) else {
                continue;
            };
            let rack = &self.picture.hosts.get(&node)?.rack;
            *crowd.racks.entry(rack).or_default() += 1;
            *crowd.nodes.entry(node).or_default() += 1;
            if serves(report) && !self.rebalance.rests(seat, now) {
                tasks.push((rack.as_str(), node, seat));
            }
        }
        let need = target.current().task.resources;
        let able = self.picture.hosts.iter().filter(|(node, host)| {
            is_fresh(host, self.began, now)
                && host.state == SessionState::Up
                && host.complete
                && !host.draining
                && host.free.fits(&need)
                && super::call::takes_work(cluster, **node)
                && !self.is_bad_pair(target.name(), **node, now)
                && !self.is_flapping(**node, now)
        });
        let (to_rack, to) = able
            .map(|(node, host)| (host.rack.as_str(), *node))
            .min_by_key(|(rack, node)| (crowd.on(rack, *node), *node))?;
        let (rack_to, node_to) = crowd.on(to_rack, to);
        let better = tasks.into_iter().filter(|(rack, node, _)| {
            let (in_rack, on_node) = crowd.on(rack, *node);
            let evens_racks = *rack != to_rack && in_rack >= rack_to + 2;
            let keeps_racks = *rack == to_rack || in_rack > rack_to;
            evens_racks || (keeps_racks && on_node >= node_to + 2)
        });
        let (_, from, seat) = better.max_by_key(|(rack, node, seat)| {
            (crowd.on(rack, *node), std::cmp::Reverse(seat.index))
        })?;
        Some((seat, from, to))
    }
}
