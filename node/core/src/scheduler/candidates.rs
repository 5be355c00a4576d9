//! Whom to call.
//!
//! Answers for finding enough hosts that may take a batch of alike slots, the
//! most promising of them, without looking at all: groups of hosts are walked
//! in an order that differs with each call, those in the emptiest places
//! first, and hosts are taken from them in turn until there are enough to
//! choose from. Leaves the last word to the hosts.

use super::{
    Scheduler,
    call::Work,
    feasible::{Ask, Suits},
    index::{Entry, Group, LEVELS, Place},
    names::Seat,
    rank::{self, mix},
    score::Offer,
};
use crate::cluster::{Cluster, PackageRecord};
use potluck_specs::{Millis, NodeId, job::Level};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Out of how many, for each host called, the estimate picks.
const SAMPLE: usize = 2;

/// Groups that are enough to choose from, for each host to be called, and the
/// least: a rack that is passed over now is as likely as any in the next call.
const GROUPS_PER_HOST: usize = 1;
const GROUPS_MIN: usize = 32;

/// A group whose hosts are being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// What a task costs there.
    price: i64,
    /// Its place in the walk, for ties.
    order: usize,
    group: usize,
    /// Members looked at.
    seen: usize,
}

/// One look for hosts: what all of its questions have in common.
struct Search<'s> {
    ask: &'s Ask<'s>,
    /// What each group of hosts is to the job.
    suits: &'s [Suits],
    work: Option<&'s Work>,
    package: Option<&'s PackageRecord>,
    now: Millis,
}

impl Scheduler {
    /// The hosts to call for these slots: at most `limit`.
    pub(super) fn candidates(
        &mut self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        slots: &[Seat],
        limit: usize,
        call: u64,
        now: Millis,
    ) -> Vec<(NodeId, u32)> {
        let mut suits = self
            .works
            .get_mut(ask.id)
            .map(|work| std::mem::take(&mut work.suits))
            .unwrap_or_default();
        let turns = self.turns(ask, &mut suits, limit, call);
        let former = slots
            .first()
            .and_then(|slot| self.former_node(cluster, ask.job, *slot));
        let search = Search {
            ask,
            suits: &suits,
            work: self.works.get(ask.id),
            package: cluster.packages().get(&ask.job.package),
            now,
        };
        let mut offers = self.take_turns(&search, turns, limit * SAMPLE, call);
        self.add_former(&search, former, &mut offers);
        let mut terms = ask.terms(call);
        for level in &mut terms.at_most {
            // More are called than can be taken: some will refuse.
            *level = level.saturating_mul(2);
        }
        let chosen = rank::assign(&offers, &terms, limit);
        if let Some(work) = self.works.get_mut(ask.id) {
            work.suits = suits;
        }
        let numbered = |at: usize| (offers[at].node, offers[at].number);
        chosen.into_iter().map(numbered).collect()
    }

    /// Groups with room that suit, those in the emptiest places first.
    fn turns(
        &self,
        ask: &Ask<'_>,
        suits: &mut Vec<Suits>,
        limit: usize,
        call: u64,
    ) -> BinaryHeap<Reverse<Turn>> {
        let groups = self.index.groups();
        suits.resize(groups.len(), Suits::Unknown);
        // Where a person asked for a spread, or places wider than racks
        // count, the emptiest must not be missed.
        let enough = match ask.must_see_all() {
            true => usize::MAX,
            false => (limit * GROUPS_PER_HOST).max(GROUPS_MIN),
        };
        let mut turns = BinaryHeap::new();
        for (order, at) in walk(groups.len(), call).enumerate() {
            let group = &groups[at];
            if !group.may_have(&ask.need) {
                continue;
            }
            if suits[at] == Suits::Unknown {
                suits[at] = ask.suits(&self.index, group);
            }
            if suits[at] == Suits::No {
                continue;
            }
            if let Some(price) = self.price_of(ask, group, suits[at]) {
                turns.push(Reverse(Turn {
                    price,
                    order,
                    group: at,
                    seen: 0,
                }));
            }
            if turns.len() >= enough {
                break;
            }
        }
        turns
    }

    /// What the place of a group costs; `None` if it is shut.
    fn price_of(&self, ask: &Ask<'_>, group: &Group, suits: Suits) -> Option<i64> {
        let tally = self.tallies.of(ask.id);
        if !ask.admits_place(&group.place, tally) {
            return None;
        }
        let Suits::Yes(preference) = suits else {
            return None;
        };
        let offer = Offer {
            tasks: ask.tasks_around(&group.place, tally),
            heavy: self.heavy_around(ask, &group.place),
            preference,
            ..Offer::at(NodeId([0; 32]), group.place)
        };
        Some(offer.price(&ask.weights, ask.need, &[0; LEVELS]))
    }

    /// Hosts from the groups in turn, until there are enough.
    fn take_turns(
        &self,
        search: &Search<'_>,
        mut turns: BinaryHeap<Reverse<Turn>>,
        enough: usize,
        call: u64,
    ) -> Vec<Offer> {
        let spread = &search.ask.weights.spread;
        let rise: i64 = spread[..Level::Node as usize].iter().sum();
        let mut offers = Vec::with_capacity(enough);
        while offers.len() < enough {
            let Some(Reverse(mut turn)) = turns.pop() else {
                break;
            };
            let members = &self.index.groups()[turn.group].members;
            let begin = call as usize % members.len();
            while turn.seen < members.len() {
                let number = members[(begin + turn.seen) % members.len()];
                turn.seen += 1;
                let entry = self.index.entry(number);
                if let Some(offer) = entry.and_then(|entry| self.estimate(search, entry)) {
                    offers.push(offer);
                    break;
                }
            }
            if turn.seen < members.len() {
                turn.price += rise.max(1);
                turns.push(Reverse(turn));
            }
        }
        offers
    }

    /// Bandwidth-heavy tasks in the rack of a place, if that matters.
    pub(super) fn heavy_around(&self, ask: &Ask<'_>, place: &Place) -> u32 {
        match ask.weights.heavy {
            true => self.tallies.heavy_around(place),
            false => 0,
        }
    }

    /// The host that has a slot's volumes is called in any case.
    fn add_former(&self, search: &Search<'_>, former: Option<NodeId>, offers: &mut Vec<Offer>) {
        let Some(former) = former else { return };
        if !offers.iter().any(|offer| offer.node == former)
            && let Some(entry) = self.index.of(former)
        {
            offers.extend(self.estimate(search, entry));
        }
        for offer in offers.iter_mut() {
            offer.former = offer.node == former;
        }
    }

    /// What a host is likely to offer, by its last word.
    fn estimate(&self, search: &Search<'_>, entry: &Entry) -> Option<Offer> {
        let Search {
            ask,
            suits,
            work,
            package,
            now,
        } = *search;
        let age = now.since(entry.heard_at?);
        let tally = self.tallies.of(ask.id);
        let Some(Suits::Yes(preferred)) = suits.get(entry.group) else {
            return None;
        };
        if !self.may_take(ask, entry, work, now) {
            return None;
        }
        let missing = package.filter(|package| !package.holders.contains(&entry.node));
        Some(Offer {
            node: entry.node,
            number: entry.number,
            place: entry.place,
            slots: 1,
            free: entry.free,
            total: entry.total,
            tasks: ask.tasks_around(&entry.place, tally),
            heavy: self.heavy_around(ask, &entry.place),
            preference: preferred + ask.prefers(entry),
            former: false,
            flapping: self.is_flapping(entry.node, now),
            failures: 0,
            missing_bytes: missing.map_or(0, |package| package.bytes),
            pressure: entry.pressure,
            age_ms: age.0,
        })
    }
}

/// Every number below `count` once, in an order that `seed` stirs.
pub(super) fn walk(count: usize, seed: u64) -> impl Iterator<Item = usize> {
    let stirred = mix(seed, NodeId([0; 32])) as usize;
    let wide = count.max(1);
    let begin = stirred % wide;
    let mut stride = (stirred >> 20) % wide + 1;
    while gcd(stride, wide) != 1 {
        stride += 1;
    }
    (0..count).map(move |k| (begin + k * stride) % wide)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
impl Scheduler {
    /// Would a call for the job consider this host now?
    pub(super) fn considers(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        node: NodeId,
        now: Millis,
    ) -> bool {
        let groups = self.index.groups().iter();
        let suits: Vec<Suits> = groups.map(|group| ask.suits(&self.index, group)).collect();
        let search = Search {
            ask,
            suits: &suits,
            work: self.works.get(ask.id),
            package: cluster.packages().get(&ask.job.package),
            now,
        };
        let entry = self.index.of(node);
        entry.is_some_and(|entry| self.estimate(&search, entry).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_everything_once() {
        for count in [0, 1, 2, 6, 7, 12, 250] {
            for seed in 0..20 {
                let mut met: Vec<usize> = walk(count, seed).collect();
                met.sort_unstable();
                assert_eq!(met, (0..count).collect::<Vec<_>>(), "{count} {seed}");
            }
        }
        assert_ne!(
            walk(12, 1).collect::<Vec<_>>(),
            walk(12, 2).collect::<Vec<_>>()
        );
    }
}
