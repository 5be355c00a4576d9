//! What one member carries for others, and who gets its places.
//!
//! Answers for the bounds: sessions and letters under way, in all and by who
//! asks. Without the latter one member could use up every carrier. Leaves the
//! carrying to the driver.

use potluck_specs::{Millis, NodeId};
use std::collections::BTreeMap;

/// Sessions that one member carries: a rack's. Whoever is refused asks another
/// member.
pub const SESSIONS_MAX: usize = 32;

/// Sessions that one node may have begun here: with the scheduler, and with
/// the ones before and after it. A scheduler begins none: it answers the way
/// that a heartbeat came.
pub const SESSIONS_EACH_MAX: usize = 3;

/// Letters under way at once through one member: with the largest letter
/// 24 MiB at most, and mostly some KiB.
pub const LETTERS_MAX: usize = 32;

/// A session that was not heard for this long is carried no longer: several
/// heartbeats.
const SESSION_HOLDS: Millis = Millis(5_000);

/// What a member carries.
#[derive(Debug, Default)]
pub struct Carrier {
    /// By the pair, lower first: who began it, and when it was heard last.
    sessions: BTreeMap<(NodeId, NodeId), (NodeId, Millis)>,
    /// Letters under way by who sent them.
    letters: BTreeMap<NodeId, usize>,
}

impl Carrier {
    /// Is there room for a letter of `from` in its session with `to`?
    pub fn admit(&mut self, from: NodeId, to: NodeId, now: Millis) -> bool {
        self.sessions
            .retain(|_, (_, at)| now.since(*at) < SESSION_HOLDS);
        let pair = (from.min(to), from.max(to));
        if let Some((_, at)) = self.sessions.get_mut(&pair) {
            *at = now;
            return true;
        }
        let own = self.sessions.values().filter(|(by, _)| *by == from);
        let has_room = self.sessions.len() < SESSIONS_MAX && own.count() < SESSIONS_EACH_MAX;
        if has_room {
            self.sessions.insert(pair, (from, now));
        }
        has_room
    }

    /// Takes a place for a letter of this node, if there is one for it: it may
    /// have no more of them than are left then. One alone can so have half,
    /// which a scheduler with a rack behind one carrier needs, and each that
    /// comes after finds one until as many fill them as it takes to halve
    /// them away.
    pub fn take_place(&mut self, from: NodeId) -> bool {
        let taken: usize = self.letters.values().sum();
        let own = self.letters.get(&from).copied().unwrap_or(0);
        let is_free = own < LETTERS_MAX.saturating_sub(taken);
        if is_free {
            *self.letters.entry(from).or_default() += 1;
        }
        is_free
    }

    /// The letter has been answered or given up.
    pub fn give_place_back(&mut self, from: NodeId) {
        if let Some(own) = self.letters.get_mut(&from) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.letters.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    /// The places that a node gets which takes all it can.
    fn greedy(carrier: &mut Carrier, from: NodeId) -> usize {
        let places = (0..=LETTERS_MAX).take_while(|_| carrier.take_place(from));
        places.count()
    }

    #[test]
    fn a_member_carries_so_many_sessions_and_forgets_those_that_ended() {
        let mut carrier = Carrier::default();
        let most = SESSIONS_MAX as u8;
        for number in 1..=most {
            assert!(carrier.admit(node(number), node(0), Millis(1_000)));
        }
        assert!(!carrier.admit(node(most + 1), node(0), Millis(1_000)));
        // Both directions of one that is carried are one session.
        assert!(carrier.admit(node(0), node(1), Millis(4_000)));
        assert!(carrier.admit(node(most + 1), node(0), Millis(6_000)));
        assert_eq!(carrier.sessions.len(), 2);
    }

    #[test]
    fn one_node_begins_a_few_sessions_and_answers_in_many() {
        let mut carrier = Carrier::default();
        let begun = (1..=20).filter(|to| carrier.admit(node(0), node(*to), Millis(0)));
        assert_eq!(begun.count(), SESSIONS_EACH_MAX);
        let mut carrier = Carrier::default();
        for host in 1..=20 {
            assert!(carrier.admit(node(host), node(0), Millis(0)));
            assert!(carrier.admit(node(0), node(host), Millis(0)), "{host}");
        }
    }

    #[test]
    fn one_node_leaves_places_to_others() {
        let mut carrier = Carrier::default();
        assert_eq!(greedy(&mut carrier, node(1)), LETTERS_MAX / 2);
        assert!(carrier.take_place(node(2)), "another finds a place");
        carrier.give_place_back(node(2));
        // Several of them, too.
        let took: Vec<usize> = (2..5).map(|k| greedy(&mut carrier, node(k))).collect();
        assert_eq!(took, [8, 4, 2]);
        assert!(carrier.take_place(node(9)));
    }

    #[test]
    fn places_come_back() {
        let mut carrier = Carrier::default();
        for _ in 0..3 {
            let took = greedy(&mut carrier, node(1));
            assert_eq!(took, LETTERS_MAX / 2);
            (0..took).for_each(|_| carrier.give_place_back(node(1)));
            assert!(carrier.letters.is_empty());
        }
        carrier.give_place_back(node(1));
        assert!(carrier.letters.is_empty(), "given back once too often");
    }

    #[test]
    fn never_more_letters_than_may_be() {
        let mut carrier = Carrier::default();
        let took: usize = (0..100).map(|k| greedy(&mut carrier, node(k))).sum();
        assert_eq!(took, LETTERS_MAX);
    }
}
