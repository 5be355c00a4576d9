//! Which slots a job has: the first so many, those whose turn it is (`batch`),
//! or one on each node that meets its requirements.
//!
//! Answers for which slots a job of the last kind has: a node that holds one keeps it;
//! every other node that suits makes one more, under the lowest number that
//! is free. Which node fills which number does not matter, since no node may
//! have two.

use super::{
    Scheduler, batch::ends, failure::is_fresh, feasible::Suits, names::Seat, rollout::Target,
};
use crate::cluster::Cluster;
use potluck_specs::{Job, Millis, NodeId, job::JobKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The slots that a job is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slots {
    /// The first so many.
    First(u32),
    /// These.
    These(BTreeSet<u32>),
}

impl Slots {
    pub(super) fn contains(&self, index: u32) -> bool {
        match self {
            Slots::First(count) => index < *count,
            Slots::These(these) => these.contains(&index),
        }
    }

    pub(super) fn count(&self) -> u32 {
        match self {
            Slots::First(count) => *count,
            Slots::These(these) => these.len() as u32,
        }
    }

    /// In order.
    pub(super) fn indexes(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Slots::First(count) => Box::new(0..*count),
            Slots::These(these) => Box::new(these.iter().copied()),
        }
    }
}

impl Scheduler {
    /// How many tasks such a job is to have now: one for each node that suits.
    /// None while a new scheduler still asks the hosts. `now` as in
    /// [`Scheduler::step`].
    pub fn count_per_node(&self, cluster: &Cluster, job: &Job, now: Millis) -> Option<u32> {
        let target = Target::all(self.names.id(&job.name), Arc::new(job.clone()));
        let count = self.slots_wanted(cluster, &target, now).count();
        self.asked.then_some(count)
    }

    /// The slots that the job is to have now.
    pub(super) fn slots_wanted(&self, cluster: &Cluster, target: &Target, now: Millis) -> Slots {
        let job = target.current();
        if ends(job) {
            return self.turn_of(cluster, target);
        }
        if job.kind != JobKind::PerNode {
            return Slots::First(target.slots());
        }
        let mut holds: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut hold = |node: NodeId, seat: Seat| {
            holds.entry(node).or_insert(seat.index);
        };
        for seat in self.picture.slots_of(target.id()) {
            for (node, _) in self.picture.holders(seat) {
                hold(node, seat);
            }
        }
        for (seat, award) in self.awards_of(target.id()) {
            hold(award.node, seat);
        }
        let ask = self.ask(target.id(), job);
        let mut these = BTreeSet::new();
        let mut without = 0;
        for entry in self.index.entries() {
            let group = &self.index.groups()[entry.group];
            let suits = ask.suits(&self.index, group) != Suits::No && ask.admits_node(entry);
            let held = holds.get(&entry.node);
            let host = self.picture.hosts.get(&entry.node);
            let fresh = host.is_some_and(|host| is_fresh(host, self.began, now));
            match held {
                // One that is being emptied gives its slot up by the drain.
                Some(index) if suits => {
                    these.insert(*index);
                }
                None if suits && fresh && entry.takes_work() => without += 1,
                _ => {}
            }
        }
        // A number that somebody else still holds is not free.
        let taken: BTreeSet<u32> = holds.values().copied().collect();
        let free = (0..u32::MAX).filter(|index| !taken.contains(index));
        these.extend(free.take(without));
        Slots::These(these)
    }

    /// The slots that the job was last seen to need.
    pub(super) fn slots_last_wanted(&self, target: &Target) -> Slots {
        let job = target.current();
        if !has_chosen_slots(job) {
            return Slots::First(target.slots());
        }
        let work = self.works.get(target.id());
        Slots::These(work.map_or_else(BTreeSet::new, |work| work.chosen.clone()))
    }

    /// Is this one of the slots that the job was last seen to need?
    pub(super) fn is_wanted(&self, target: &Target, index: u32) -> bool {
        let job = target.current();
        if !has_chosen_slots(job) {
            return index < target.slots();
        }
        let work = self.works.get(target.id());
        work.is_some_and(|work| work.chosen.contains(&index))
    }
}

/// Are its slots chosen anew with each look, rather than the first so many?
fn has_chosen_slots(job: &Job) -> bool {
    job.kind == JobKind::PerNode || ends(job)
}
