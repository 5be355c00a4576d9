//! A model of gossip: each host knows of the others by what others say, late,
//! and in bad weather with gaps.
//!
//! Answers for what the schedulers are told of heartbeat counters: a counter
//! that moved is heard of up to a second and a half later (measured on
//! chitchat: a change reaches 300 nodes in 2.7 s at the median, a counter that
//! moves each second is thus never older), word passes through anybody who is
//! alive, and nothing else is promised.

use super::{hosts::HostSet, queue::MS, world::World};
use potluck_core::scheduler::MemberView;
use std::collections::BTreeMap;

/// How old word of a counter is.
const LATE_MAX_MS: u64 = 1_500;

/// Who has heard what of whom.
#[derive(Debug, Default)]
pub struct Gossip {
    /// By the hearing host: when it last heard each other's counter move, 0
    /// for never. Only hosts that were ever asked are kept.
    moved: BTreeMap<usize, Vec<u64>>,
}

impl Gossip {
    /// When the host's counter was last heard to move; `None`: never.
    pub(super) fn moved(&self, at: usize, host: usize) -> Option<u64> {
        let moved = self.moved.get(&at)?.get(host).copied();
        moved.filter(|moved| *moved > 0)
    }
}

impl World {
    /// Whose counters move, as far as word of it gets here.
    pub(super) fn gossip_at(&mut self, at: usize) -> Vec<MemberView> {
        let now = self.queue.now();
        let heard = self.heard_by(at);
        let hosts = self.machines.len();
        let moved = self
            .gossip
            .moved
            .entry(at)
            .or_insert_with(|| vec![0; hosts]);
        for (host, moved) in moved.iter_mut().enumerate() {
            // A datagram that is lost costs a round; three peers are told.
            let missed = self.net.loss > 0 && self.rng.chance(self.net.loss);
            if heard.contains(host) && !missed {
                *moved = now
                    .saturating_sub(self.rng.below(LATE_MAX_MS) * MS)
                    .max(*moved)
                    .max(1);
            }
        }
        let observer = &self.machines[at];
        let views = self.machines.iter().zip(&*moved);
        views
            .filter(|(_, moved)| **moved > 0)
            .map(|(machine, moved)| MemberView {
                node: machine.node,
                heartbeat_moved_at: observer.clock(*moved),
            })
            .collect()
    }

    /// Everybody whose gossip reaches this host, through whomever.
    fn heard_by(&self, at: usize) -> HostSet {
        let now = self.queue.now();
        let alive: Vec<usize> = (0..self.machines.len())
            .filter(|host| self.machines[*host].is_alive(now))
            .filter(|host| self.hushed.get(host).is_none_or(|until| *until <= now))
            .collect();
        let mut heard = HostSet::of([at]);
        if self.net.is_whole() {
            heard.unite(&HostSet::of(alive));
            return heard;
        }
        loop {
            let mut grew = false;
            for from in &alive {
                if !heard.contains(*from) && self.net.passes_to_any(*from, &heard) {
                    grew |= heard.insert(*from);
                }
            }
            if !grew {
                return heard;
            }
        }
    }
}
