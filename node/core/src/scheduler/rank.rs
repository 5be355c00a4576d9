//! Whom to call, and which bids to take.
//!
//! Answers for the order among hosts: spread over racks first, then over
//! hosts, then what starts fastest and fits best. Pure functions over what
//! the caller collected.

use crate::auction::Bid;
use potluck_specs::{NodeId, job::Resources};
use std::collections::BTreeMap;

/// Fewest hosts called, so that one or two that refuse cost no second round.
const CANDIDATES_MIN: usize = 8;

/// Hosts called for each wanted slot.
const CANDIDATES_PER_SLOT: usize = 2;

/// Most hosts called at once: the answers of more take longer to read than a
/// better one among them saves.
const CANDIDATES_MAX: usize = 128;

/// Out of how many, for each host called, the estimate picks.
const SAMPLE: usize = 4;

/// How many of the job's tasks each rack and each host has.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    pub(super) by_rack: BTreeMap<String, u32>,
    pub(super) by_node: BTreeMap<NodeId, u32>,
}

impl Spread {
    pub(super) fn add(&mut self, rack: &str, node: NodeId) {
        *self.by_rack.entry(rack.to_string()).or_default() += 1;
        *self.by_node.entry(node).or_default() += 1;
    }

    fn of(&self, rack: &str, node: NodeId) -> (u32, u32) {
        let in_rack = self.by_rack.get(rack).copied().unwrap_or(0);
        let on_node = self.by_node.get(&node).copied().unwrap_or(0);
        (in_rack, on_node)
    }
}

/// A host that may be called.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) node: NodeId,
    pub(super) rack: &'a str,
    pub(super) free: Resources,
    pub(super) total: Resources,
}

/// The hosts to call for `wanted` slots: a sample of the feasible ones, other
/// ones each call, and of those the best by the last reports.
pub(super) fn choose(
    mut feasible: Vec<Candidate<'_>>,
    spread: &Spread,
    need: Resources,
    wanted: usize,
    call: u64,
) -> Vec<NodeId> {
    let limit = (wanted * CANDIDATES_PER_SLOT).clamp(CANDIDATES_MIN, CANDIDATES_MAX);
    if feasible.len() > limit * SAMPLE {
        feasible.sort_by_cached_key(|host| (mix(call, host.node), host.node));
        feasible.truncate(limit * SAMPLE);
    }
    let mut racks: BTreeMap<&str, Vec<(u32, u64, u64, NodeId)>> = BTreeMap::new();
    for host in feasible {
        let (_, on_node) = spread.of(host.rack, host.node);
        let load = load(host.total, host.free.minus(need));
        let key = (on_node, load, mix(call, host.node), host.node);
        racks.entry(host.rack).or_default().push(key);
    }
    for hosts in racks.values_mut() {
        // Best last, to be popped.
        hosts.sort_unstable_by(|a, b| b.cmp(a));
    }
    deal(racks, spread, limit)
}

/// Hosts rack by rack, from the rack that has fewest, so that no rack's hosts
/// crowd out the others'.
fn deal(
    mut racks: BTreeMap<&str, Vec<(u32, u64, u64, NodeId)>>,
    spread: &Spread,
    limit: usize,
) -> Vec<NodeId> {
    let mut dealt: BTreeMap<&str, u32> = racks
        .keys()
        .map(|rack| (*rack, spread.by_rack.get(*rack).copied().unwrap_or(0)))
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < limit {
        let next = racks
            .iter()
            .filter(|(_, hosts)| !hosts.is_empty())
            .min_by_key(|(rack, _)| dealt[**rack])
            .map(|(rack, _)| *rack);
        let Some(rack) = next else { break };
        if let Some((.., node)) = racks.get_mut(rack).and_then(Vec::pop) {
            chosen.push(node);
        }
        *dealt.entry(rack).or_default() += 1;
    }
    chosen
}

/// Gives up to `wanted` slots to bids, one by one; each changes the spread
/// for the next. In the order of the slots.
pub(super) fn assign(
    bids: &BTreeMap<NodeId, (String, Bid)>,
    mut spread: Spread,
    need: Resources,
    wanted: usize,
) -> Vec<NodeId> {
    let mut taken: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut chosen = Vec::new();
    while chosen.len() < wanted {
        let best = bids
            .iter()
            .filter(|(node, (_, bid))| taken.get(node).copied().unwrap_or(0) < bid.slots)
            .min_by_key(|(node, (rack, bid))| {
                let already = taken.get(node).copied().unwrap_or(0);
                let (in_rack, on_node) = spread.of(rack, **node);
                let fetch = u64::BITS - bid.missing_bytes.leading_zeros();
                let load = load(bid.total, after(bid.free, need, already + 1));
                (
                    in_rack,
                    on_node,
                    fetch,
                    load,
                    bid.failures,
                    mix(bid.call, **node),
                )
            });
        let Some((node, (rack, _))) = best else { break };
        *taken.entry(*node).or_default() += 1;
        spread.add(rack, *node);
        chosen.push(*node);
    }
    chosen
}

fn after(free: Resources, need: Resources, times: u32) -> Resources {
    free.minus(need.times(times))
}

/// Tenths in use of the scarcer resource: finer differences are noise.
fn load(total: Resources, free: Resources) -> u64 {
    let used = total.minus(free);
    let cpu = u64::from(used.cpu_millis) * 10 / u64::from(total.cpu_millis).max(1);
    let memory = u128::from(used.memory_bytes) * 10 / u128::from(total.memory_bytes).max(1);
    cpu.max(u64::try_from(memory).unwrap_or(u64::MAX))
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
    use potluck_specs::Millis;
    use proptest::prelude::*;

    const NEED: Resources = Resources::new(100, 100);
    const TOTAL: Resources = Resources::new(1_000, 1_000);

    fn node(k: u8) -> NodeId {
        NodeId([k; 32])
    }

    fn bid(slots: u32, free: u32, missing_bytes: u64, failures: u32) -> Bid {
        Bid {
            call: 1,
            slots,
            free: Resources::new(free, u64::from(free)),
            total: TOTAL,
            missing_bytes,
            failures,
            holds: Millis(3_000),
        }
    }

    fn winner(bids: &[(u8, &str, Bid)], spread: Spread) -> Vec<NodeId> {
        let bids = bids
            .iter()
            .map(|(k, rack, bid)| (node(*k), (rack.to_string(), bid.clone())))
            .collect();
        assign(&bids, spread, NEED, 1)
    }

    #[test]
    fn ranks_in_the_order_of_the_design() {
        let mut crowded = Spread::default();
        crowded.add("a", node(1));
        let fresh = Spread::default;
        // Each row: the first host is better in everything that counts less.
        let table = [
            (
                "rack",
                crowded,
                [(1, "a", bid(9, 900, 0, 0)), (2, "b", bid(9, 200, 99, 9))],
            ),
            (
                "fetch",
                fresh(),
                [(1, "a", bid(9, 900, 99, 0)), (2, "b", bid(9, 200, 0, 9))],
            ),
            (
                "load",
                fresh(),
                [(1, "a", bid(9, 200, 0, 0)), (2, "b", bid(9, 900, 0, 9))],
            ),
            (
                "failures",
                fresh(),
                [(1, "a", bid(9, 900, 0, 1)), (2, "b", bid(9, 900, 0, 0))],
            ),
        ];
        for (what, spread, bids) in table {
            assert_eq!(winner(&bids, spread), [node(2)], "{what}");
        }
    }

    #[test]
    fn every_rack_is_called() {
        let feasible: Vec<Candidate<'_>> = (0..100)
            .map(|k| Candidate {
                node: node(k),
                rack: if k < 90 { "big" } else { "small" },
                free: TOTAL,
                total: TOTAL,
            })
            .collect();
        let chosen = choose(feasible, &Spread::default(), NEED, 4, 1);
        assert_eq!(chosen.len(), 8);
        let small = chosen.iter().filter(|n| n.0[0] >= 90).count();
        assert!(small >= 1, "{chosen:?}");
    }

    proptest! {
        /// No host gets more than it bid, and racks with room differ by at
        /// most one slot.
        #[test]
        fn assignments_are_fair_and_within_bids(
            slots in proptest::collection::vec(1u32..20, 1..12),
            wanted in 1usize..40,
        ) {
            let bids: BTreeMap<_, _> = slots
                .iter()
                .enumerate()
                .map(|(k, slots)| {
                    (node(k as u8), (format!("r{}", k % 3), bid(*slots, 900, 0, 0)))
                })
                .collect();
            let chosen = assign(&bids, Spread::default(), NEED, wanted);
            let room: u32 = slots.iter().sum();
            prop_assert_eq!(chosen.len(), wanted.min(room as usize));
            let mut racks: BTreeMap<String, (u32, u32)> = BTreeMap::new();
            for (node, (rack, bid)) in &bids {
                let got = chosen.iter().filter(|n| *n == node).count() as u32;
                prop_assert!(got <= bid.slots);
                let entry = racks.entry(rack.clone()).or_default();
                entry.0 += got;
                entry.1 += bid.slots;
            }
            let most = racks.values().map(|(got, _)| *got).max().unwrap_or(0);
            for (got, room) in racks.values() {
                prop_assert!(got == room || *got + 1 >= most);
            }
        }
    }
}
