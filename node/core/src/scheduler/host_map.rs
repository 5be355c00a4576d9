//! Something for each of some hosts, in the order of their ids.
//!
//! Answers for finding a host fast: the scheduler does so some ten times for each
//! decision, and a tree of five thousand is four nodes deep, of which each look
//! reads several lines of memory. The first bytes of all ids stand beside each
//! other here, and where one of them stands is guessed from its value: ids are
//! public keys, spread evenly. A guess that is far off, as with ids that somebody
//! chose, costs a search by doubled steps from there and by halves between them,
//! so never more than twice a search by halves.
//!
//! Putting in and taking out moves all that follows: hosts come and go rarely.

use potluck_specs::NodeId;
use std::ops::Index;

/// First step away from the guess: ids that are spread evenly are found within a
/// few of them.
const STEP: usize = 8;

#[derive(Debug)]
pub(super) struct HostMap<T> {
    /// The first bytes of each id, rising.
    firsts: Vec<u64>,
    /// In the same order.
    entries: Vec<(NodeId, T)>,
}

impl<T> Default for HostMap<T> {
    fn default() -> HostMap<T> {
        HostMap {
            firsts: Vec::new(),
            entries: Vec::new(),
        }
    }
}

impl<T> HostMap<T> {
    pub(super) fn get(&self, node: &NodeId) -> Option<&T> {
        let at = self.find(node).ok()?;
        Some(&self.entries[at].1)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut T> {
        let at = self.find(node).ok()?;
        Some(&mut self.entries[at].1)
    }

    pub(super) fn contains_key(&self, node: &NodeId) -> bool {
        self.find(node).is_ok()
    }

    pub(super) fn insert(&mut self, node: NodeId, value: T) -> Option<T> {
        match self.find(&node) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.put(at, node, value);
                None
            }
        }
    }

    pub(super) fn get_or_insert_with(&mut self, node: NodeId, make: impl FnOnce() -> T) -> &mut T {
        let at = match self.find(&node) {
            Ok(at) => at,
            Err(at) => {
                self.put(at, node, make());
                at
            }
        };
        &mut self.entries[at].1
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> Option<T> {
        let at = self.find(node).ok()?;
        self.firsts.remove(at);
        Some(self.entries.remove(at).1)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &T)> {
        self.entries.iter().map(|(node, value)| (node, value))
    }

    /// All from this id on, by id.
    pub(super) fn iter_from(&self, node: &NodeId) -> impl Iterator<Item = (&NodeId, &T)> {
        let from = self.find(node).unwrap_or_else(|at| at);
        let rest = self.entries[from..].iter();
        rest.map(|(node, value)| (node, value))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.entries.iter().map(|(node, _)| node)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    fn put(&mut self, at: usize, node: NodeId, value: T) {
        self.firsts.insert(at, first_of(&node));
        self.entries.insert(at, (node, value));
    }

    /// Where it is, or where it would be.
    fn find(&self, node: &NodeId) -> Result<usize, usize> {
        let first = first_of(node);
        let mut at = self.first_from(first);
        while self.firsts.get(at) == Some(&first) && self.entries[at].0 < *node {
            at += 1;
        }
        match self.entries.get(at) {
            Some((here, _)) if here == node => Ok(at),
            _ => Err(at),
        }
    }

    /// The place of the first that is not below.
    fn first_from(&self, first: u64) -> usize {
        let firsts = self.firsts.as_slice();
        let guess = (u128::from(first) * firsts.len() as u128) >> 64;
        let (mut low, mut high) = (guess as usize, guess as usize);
        let mut step = STEP;
        while low > 0 && firsts[low - 1] >= first {
            high = low - 1;
            low = low.saturating_sub(step);
            step *= 2;
        }
        while high < firsts.len() && firsts[high] < first {
            low = high + 1;
            high = (high + step).min(firsts.len());
            step *= 2;
        }
        low + firsts[low..high].partition_point(|one| *one < first)
    }
}

impl<T> Index<&NodeId> for HostMap<T> {
    type Output = T;

    fn index(&self, node: &NodeId) -> &T {
        self.get(node).expect("a host that is known")
    }
}

/// In the order of ids.
fn first_of(node: &NodeId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&node.0[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Ids of all kinds: spread, crowded, and alike in their first bytes.
    fn id() -> impl Strategy<Value = NodeId> {
        let spread = any::<u64>().prop_map(|first| (first, 0));
        let crowded = (0u64..40).prop_map(|first| (first, 0));
        let high = (0u64..40).prop_map(|k| (u64::MAX - k, 0));
        let alike = (0u64..3, 0u8..20);
        prop_oneof![spread, crowded, high, alike].prop_map(|(first, last)| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&first.to_be_bytes());
            id[31] = last;
            NodeId(id)
        })
    }

    proptest! {
        /// It is a map in order, whatever the ids are.
        #[test]
        fn it_does_what_a_tree_does(
            changes in proptest::collection::vec((id(), any::<u8>(), 0u8..4), 0..300),
            asked in proptest::collection::vec(id(), 1..40),
        ) {
            let mut map = HostMap::default();
            let mut tree = BTreeMap::new();
            for (node, value, what) in changes {
                match what {
                    0 => prop_assert_eq!(map.remove(&node), tree.remove(&node)),
                    1 => {
                        let known = *tree.entry(node).or_insert(value);
                        prop_assert_eq!(*map.get_or_insert_with(node, || value), known);
                    }
                    _ => prop_assert_eq!(map.insert(node, value), tree.insert(node, value)),
                }
            }
            prop_assert_eq!(map.len(), tree.len());
            prop_assert!(map.iter().eq(tree.iter()));
            prop_assert!(map.keys().eq(tree.keys()) && map.values().eq(tree.values()));
            for node in asked.iter().chain(tree.keys()) {
                prop_assert_eq!(map.get(node), tree.get(node));
                prop_assert_eq!(map.contains_key(node), tree.contains_key(node));
                prop_assert!(map.iter_from(node).eq(tree.range(*node..)));
            }
        }
    }
}
