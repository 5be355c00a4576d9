//! Which offers to take.
//!
//! Answers for the order among hosts, one slot after the other, each of which
//! changes the price of the next. Pure functions over what the caller
//! collected; prices are `score`'s.

use super::{
    index::LEVELS,
    score::{Offer, Weights},
};
use potluck_specs::{
    NodeId,
    job::{Level, Resources},
};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Fewest hosts called, so that one or two that refuse cost no second round.
const CANDIDATES_MIN: usize = 8;

/// A host for each slot, and a quarter more for those that refuse.
const SPARE: usize = 4;

/// Hosts to call for so many slots.
pub(super) fn candidates(slots: usize) -> usize {
    slots + (slots / SPARE).max(CANDIDATES_MIN)
}

/// What the slots of one call have in common.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) need: Resources,
    pub(super) weights: Weights,
    /// Most tasks of the job in one place, by level.
    pub(super) at_most: [u32; LEVELS],
    /// Stirred into ties, which fall differently in each call and alike in
    /// each replay.
    pub(super) seed: u64,
}

impl Terms {
    /// Does it matter how many tasks a place of this level has?
    fn counts(&self, level: usize) -> bool {
        self.weights.spread[level] != 0
            || self.at_most[level] != u32::MAX
            || (self.weights.heavy && level == Level::Rack as usize)
    }
}

/// Tasks given in this round, by place; places have small numbers.
#[derive(Debug)]
struct Given(Vec<u32>);

impl Given {
    /// Nothing is given to any of these yet.
    fn nothing(offers: &[Offer]) -> Given {
        let places = offers.iter().flat_map(|offer| offer.place).max();
        Given(vec![0; places.map_or(0, |last| last as usize + 1)])
    }

    fn at(&self, offer: &Offer, terms: &Terms, taken: u32) -> [u32; LEVELS] {
        let mut more = [0; LEVELS];
        more[Level::Node as usize] = taken;
        for (level, more) in more.iter_mut().enumerate().take(Level::Node as usize) {
            if terms.counts(level) {
                *more = self.0[offer.place[level] as usize];
            }
        }
        more
    }

    fn add(&mut self, offer: &Offer, terms: &Terms) {
        let wider = offer.place[..Level::Node as usize].iter().enumerate();
        for (_, place) in wider.filter(|(level, _)| terms.counts(*level)) {
            self.0[*place as usize] += 1;
        }
    }
}

fn is_full(offer: &Offer, terms: &Terms, more: &[u32; LEVELS]) -> bool {
    (0..LEVELS).any(|level| {
        terms.at_most[level] != u32::MAX
            && offer.tasks[level].saturating_add(more[level]) >= terms.at_most[level]
    })
}

/// Gives up to `wanted` slots to offers, one by one, always to the lowest
/// price; gives their positions in `offers`, in the order of the slots.
///
/// A price only rises while others are given slots. So an offer whose price,
/// asked anew, is still not above the next one's old price is the lowest, and
/// few are asked anew for each slot.
pub(super) fn assign(offers: &[Offer], terms: &Terms, wanted: usize) -> Vec<usize> {
    let mut given = Given::nothing(offers);
    let mut taken = vec![0u32; offers.len()];
    let none = [0; LEVELS];
    let mut queue: BinaryHeap<Reverse<(i64, u64, usize)>> = offers
        .iter()
        .enumerate()
        .filter(|(_, offer)| offer.slots > 0 && !is_full(offer, terms, &none))
        .map(|(at, offer)| {
            let price = offer.price(&terms.weights, terms.need, &none);
            Reverse((price, mix(terms.seed, offer.node), at))
        })
        .collect();
    let mut chosen = Vec::with_capacity(wanted);
    while chosen.len() < wanted {
        let Some(Reverse((price, tie, at))) = queue.pop() else {
            break;
        };
        let offer = &offers[at];
        let more = given.at(offer, terms, taken[at]);
        if is_full(offer, terms, &more) {
            continue;
        }
        let now = offer.price(&terms.weights, terms.need, &more);
        if now > price {
            queue.push(Reverse((now, tie, at)));
            continue;
        }
        chosen.push(at);
        given.add(offer, terms);
        taken[at] += 1;
        if taken[at] < offer.slots {
            let more = given.at(offer, terms, taken[at]);
            let next = offer.price(&terms.weights, terms.need, &more);
            queue.push(Reverse((next, tie, at)));
        }
    }
    chosen
}

/// Stirs a number and a node into one, so that ties fall differently each
/// time and yet the same way in every replay (the finisher of SplitMix64).
pub(super) fn mix(number: u64, node: NodeId) -> u64 {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in node.0.chunks_exact(8) {
        let mut eight = [0; 8];
        eight.copy_from_slice(part);
        x ^= u64::from_le_bytes(eight);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NEED: Resources = Resources::new(100, 100 << 20);
    const TOTAL: Resources = Resources::new(1_000, 1_000 << 20);

    fn node(k: u8) -> NodeId {
        NodeId([k; 32])
    }

    /// A host of rack `rack` with so many hundredths free.
    fn offer(k: u8, rack: u32, slots: u32, free: u32) -> Offer {
        Offer {
            node: node(k),
            number: u32::from(k),
            place: [1, 2, 3, 10 + rack, 100 + u32::from(k)],
            slots,
            free: Resources::new(free * 10, u64::from(free * 10) << 20),
            total: TOTAL,
            tasks: [0; LEVELS],
            heavy: 0,
            preference: 0,
            former: false,
            flapping: false,
            failures: 0,
            missing_bytes: 0,
            pressure: 0,
            age_ms: 0,
        }
    }

    fn terms(asked: &[Level], heavy: bool) -> Terms {
        Terms {
            need: NEED,
            weights: Weights::new(asked, heavy, |level| level >= Level::Rack),
            at_most: [u32::MAX; LEVELS],
            seed: 1,
        }
    }

    #[test]
    fn each_thing_outweighs_all_that_follows() {
        let best = || offer(1, 1, 9, 20);
        // Each row spoils the better host in one thing alone; what is to win
        // is worse in all that counts less than that.
        type Spoil = fn(&mut Offer);
        let table: &[(&str, &[Level], bool, Spoil, Spoil)] = &[
            (
                "uplink",
                &[Level::Rack],
                true,
                |o| o.heavy = 1,
                |o| {
                    o.tasks = [10_000; LEVELS];
                    o.flapping = true;
                },
            ),
            (
                "flapping",
                &[Level::Rack],
                false,
                |o| o.flapping = true,
                |o| o.tasks = [10_000; LEVELS],
            ),
            (
                "asked",
                &[Level::Rack],
                false,
                |o| o.tasks[3] = 1,
                |o| o.preference = -100,
            ),
            (
                "preference",
                &[],
                false,
                |o| o.preference = -50,
                |o| o.tasks[3] = 1,
            ),
            (
                "volumes",
                &[],
                false,
                |_| {},
                |o| {
                    o.former = true;
                    o.tasks[3] = 2;
                },
            ),
            (
                "rack",
                &[],
                false,
                |o| o.tasks[3] = 1,
                |o| o.missing_bytes = 1 << 30,
            ),
            (
                "failures",
                &[],
                false,
                |o| o.failures = 1,
                |o| o.missing_bytes = 1 << 30,
            ),
            (
                "node",
                &[],
                false,
                |o| o.tasks[4] = 1,
                |o| o.missing_bytes = 1 << 30,
            ),
            (
                "fetch",
                &[],
                false,
                |o| o.missing_bytes = 1 << 30,
                |o| o.free = TOTAL,
            ),
            (
                "pressure",
                &[],
                false,
                |o| o.pressure = 90,
                |o| o.free = TOTAL,
            ),
            ("fit", &[], false, |o| o.free = TOTAL, |_| {}),
        ];
        for (what, asked, heavy, worse, better) in table {
            let (mut a, mut b) = (best(), offer(2, 2, 9, 20));
            worse(&mut a);
            better(&mut b);
            let chosen = assign(&[a, b], &terms(asked, *heavy), 1);
            assert_eq!(chosen, [1], "{what}");
        }
    }

    #[test]
    fn no_place_gets_more_than_at_most() {
        let offers: Vec<Offer> = (0..8).map(|k| offer(k, u32::from(k) / 4, 9, 90)).collect();
        let mut terms = terms(&[], false);
        terms.at_most[Level::Rack as usize] = 3;
        terms.at_most[Level::Node as usize] = 1;
        let chosen = assign(&offers, &terms, 20);
        assert_eq!(chosen.len(), 6);
        for rack in 0..2 {
            let here = chosen.iter().filter(|at| **at / 4 == rack);
            assert_eq!(here.count(), 3);
        }
    }

    #[test]
    fn ties_fall_by_hash_and_not_by_order() {
        let mut offers: Vec<Offer> = (0..9).map(|k| offer(k, 1, 1, 50)).collect();
        let nodes = |offers: &[Offer]| -> Vec<NodeId> {
            let chosen = assign(offers, &terms(&[], false), 4);
            chosen.iter().map(|at| offers[*at].node).collect()
        };
        let first = nodes(&offers);
        offers.reverse();
        assert_eq!(nodes(&offers), first);
        offers.rotate_left(4);
        assert_eq!(nodes(&offers), first);
    }

    /// What `assign` is to give, found the slow way: all prices anew for each
    /// slot.
    fn assign_slowly(offers: &[Offer], terms: &Terms, wanted: usize) -> Vec<usize> {
        let mut given = Given::nothing(offers);
        let mut taken = vec![0u32; offers.len()];
        let mut chosen = Vec::new();
        while chosen.len() < wanted {
            let best = offers
                .iter()
                .enumerate()
                .filter(|(at, offer)| taken[*at] < offer.slots)
                .filter_map(|(at, offer)| {
                    let more = given.at(offer, terms, taken[at]);
                    let price = offer.price(&terms.weights, terms.need, &more);
                    let key = (price, mix(terms.seed, offer.node), at);
                    (!is_full(offer, terms, &more)).then_some(key)
                })
                .min();
            let Some((.., at)) = best else { break };
            given.add(&offers[at], terms);
            taken[at] += 1;
            chosen.push(at);
        }
        chosen
    }

    proptest! {
        /// The queue finds what looking at everything finds; no host gets
        /// more than it offered; racks with room differ by one slot at most.
        #[test]
        fn assignments_are_the_cheapest_fair_and_within_offers(
            hosts in proptest::collection::vec((1u32..20, 0u32..4, 20u32..100), 1..14),
            wanted in 1usize..40,
            heavy in any::<bool>(),
            asked in any::<bool>(),
        ) {
            let offers: Vec<Offer> = hosts
                .iter()
                .enumerate()
                .map(|(k, (slots, rack, free))| offer(k as u8, *rack, *slots, *free))
                .collect();
            let asked: &[Level] = if asked { &[Level::Rack] } else { &[] };
            let terms = terms(asked, heavy);
            let chosen = assign(&offers, &terms, wanted);
            prop_assert_eq!(&chosen, &assign_slowly(&offers, &terms, wanted));
            let room: u32 = offers.iter().map(|offer| offer.slots).sum();
            prop_assert_eq!(chosen.len(), wanted.min(room as usize));
            let mut racks: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
            for (at, offer) in offers.iter().enumerate() {
                let got = chosen.iter().filter(|n| **n == at).count() as u32;
                prop_assert!(got <= offer.slots);
                let entry = racks.entry(offer.place[3]).or_default();
                entry.0 += got;
                entry.1 += offer.slots;
            }
            if heavy || asked == [Level::Rack] {
                let most = racks.values().map(|(got, _)| *got).max().unwrap_or(0);
                for (got, room) in racks.values() {
                    prop_assert!(got == room || *got + 1 >= most);
                }
            }
        }
    }
}
