//! Finds two processes that use one node's key, as after a data folder was
//! copied. Pure: the time is an argument.
//!
//! ```text
//! one ──another process is heard──▶ restarted? ──the first is silent──▶ one (the other)
//!                                      │
//!                       the first is heard again, twice
//!                                      ▼
//!                          twins: the later one is refused
//! ```
//!
//! A restart looks like a new process too, but the old one is never heard
//! again, except for a message that was on its way.

use potluck_specs::{Millis, NodeId};
use std::collections::BTreeMap;

/// Returns of the first process after which the second is no restart: one may
/// be a message that was on its way.
const RETURNS: u32 = 2;

/// A process that was not heard for so long is gone: ten heartbeats.
const SILENCE: Millis = Millis(10_000);

/// After a silence of so long another process may be the later one of two:
/// three heartbeats.
const PAUSE: Millis = Millis(3_000);

/// How long people are told of twins: the later one ends at once, so this is
/// for whoever started it and looks why. One that is started again and again
/// is told of again and again.
const TOLD_FOR: Millis = Millis(2 * 60_000);

/// The processes of all nodes. Bounded by the members: only they have
/// sessions.
#[derive(Debug, Default)]
pub(super) struct Twins {
    nodes: BTreeMap<NodeId, Node>,
}

#[derive(Debug)]
struct Node {
    /// The process that was there first, and when it was heard last.
    first: (u64, Millis),
    /// The one that came later, and when it was heard last: it is the node
    /// when the first has gone, though a third has come meanwhile.
    second: Option<(u64, Millis)>,
    /// The second was heard last.
    second_spoke: bool,
    returns: u32,
    found_at: Option<Millis>,
}

impl Twins {
    /// A process of a node is heard: is it the later one of two?
    pub(super) fn is_twin(&mut self, node: NodeId, process: u64, now: Millis) -> bool {
        let known = self.nodes.entry(node).or_insert(Node {
            first: (process, now),
            second: None,
            second_spoke: false,
            returns: 0,
            found_at: None,
        });
        known.hear(process, now)
    }

    /// Nodes of which two processes were found lately.
    pub(super) fn known(&self, now: Millis) -> Vec<NodeId> {
        let lately = |node: &&Node| node.found_at.is_some_and(|at| now.since(at) < TOLD_FOR);
        let found = self.nodes.iter().filter(|(_, node)| lately(node));
        found.map(|(node, _)| *node).collect()
    }
}

impl Node {
    fn hear(&mut self, process: u64, now: Millis) -> bool {
        if process == self.first.0 {
            self.first.1 = now;
            self.returns += u32::from(self.second_spoke);
            self.second_spoke = false;
            return false;
        }
        if now.since(self.first.1) > SILENCE {
            self.first = self.heir(now).unwrap_or((process, now));
            self.second = None;
            self.second_spoke = false;
            self.returns = 0;
            return self.hear(process, now);
        }
        match self.heir(now) {
            Some((second, _)) if second != process => return false,
            Some(_) => {}
            None => self.returns = 0,
        }
        self.second = Some((process, now));
        self.second_spoke = true;
        let is_twin = self.returns >= RETURNS;
        if is_twin {
            self.found_at = Some(now);
        }
        is_twin
    }

    /// The second, if it is still there.
    fn heir(&self, now: Millis) -> Option<(u64, Millis)> {
        self.second.filter(|(_, heard)| now.since(*heard) <= PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    /// Processes heard a second apart; which of them are refused?
    fn refused(heard: &[u64]) -> Vec<bool> {
        let mut twins = Twins::default();
        let at = |k: usize| Millis(1_000 * (k as u64 + 1));
        let each = heard.iter().enumerate();
        each.map(|(k, process)| twins.is_twin(NODE, *process, at(k)))
            .collect()
    }

    #[test]
    fn the_later_of_two_that_alternate_is_refused() {
        let heard = [1, 1, 2, 1, 2, 1, 2, 1, 2];
        let expected = [false, false, false, false, false, false, true, false, true];
        assert_eq!(refused(&heard), expected);
    }

    #[test]
    fn a_restart_is_no_twin() {
        for heard in [
            &[1, 1, 2, 2, 2, 2][..],
            // A heartbeat of the old process was on its way.
            &[1, 2, 1, 2, 2, 2, 2],
            // Restarted again and again.
            &[1, 2, 3, 4, 5, 6],
            // Longer than the first can be silent, so that the next restart
            // meets the second as the first.
            &[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3],
        ] {
            let refused = refused(heard);
            assert!(!refused.contains(&true), "{heard:?}: {refused:?}");
        }
    }

    /// The first was restarted as the second, and the third runs on a copy of
    /// its folder: whoever is heard when the first is given up, it is the third.
    #[test]
    fn of_the_processes_after_a_restart_the_later_is_refused() {
        let pairs = [[2, 3], [3, 2]];
        for pair in pairs {
            let after = pair.iter().cycle().copied().take(24);
            let heard: Vec<u64> = [1, 2].into_iter().chain(after).collect();
            let refused = refused(&heard);
            let whom = |process| {
                let mut all = heard.iter().zip(&refused);
                all.any(|(one, refused)| *one == process && *refused)
            };
            assert!(whom(3) && !whom(2), "{heard:?}: {refused:?}");
        }
    }

    #[test]
    fn nodes_are_told_apart_and_twins_are_remembered_for_a_while() {
        let mut twins = Twins::default();
        for (k, process) in [1, 2, 1, 2, 1, 2].into_iter().enumerate() {
            twins.is_twin(NODE, process, Millis(k as u64 * 100));
            twins.is_twin(NodeId([2; 32]), 7, Millis(k as u64 * 100));
        }
        assert_eq!(twins.known(Millis(1_000)), [NODE]);
        assert_eq!(twins.known(Millis(1_000) + TOLD_FOR), []);
    }
}
