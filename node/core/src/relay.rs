//! Which way a session goes when its two ends don't reach each other.
//!
//! Answers for when an agent has a member carry its heartbeats to the
//! scheduler ([`Path`]), for which member the scheduler then sends its orders
//! through ([`Vias`]), for what a member carries ([`carrier`]) and for what
//! comes too late ([`echo`]). Leaves to the driver the sending, and proving
//! that what was carried is the sender's word.
//!
//! A leader that died is relayed to by nobody: only a member that names a
//! leader which this node has just failed to reach is asked to carry, and one
//! that has heard of the death names it no longer.

pub mod carrier;
pub mod echo;

use crate::scheduler::MISSED_AFTER;
use potluck_specs::{Millis, NodeId};
use std::collections::BTreeMap;

/// How long a failure to reach a leader is held against the way to it: several
/// heartbeats, so that a member that is asked in between is still believed.
const FAILURE_HOLDS: Millis = Millis(10_000);

/// While a session is carried, how often the straight way is tried.
const STRAIGHT_EVERY: Millis = Millis(5_000);

/// How long such a try may take. With the heartbeat's second it stays below
/// what makes a host missed.
const STRAIGHT_WAIT: Millis = Millis(700);
const _: () = assert!(STRAIGHT_WAIT.0 + 1_000 < MISSED_AFTER.0);

/// How long a heartbeat may take otherwise before it is given up for the next.
const ANSWER_WAIT: Millis = Millis(1_500);

/// For how long orders follow the way of the last carried heartbeat: three of
/// them are lost by then.
const VIA_HOLDS: Millis = Millis(3_500);

/// Which way the next heartbeat goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the leader itself.
    Straight,
    /// Carried by this member.
    Through(NodeId),
}

/// The way from an agent to the scheduler.
///
/// ```text
/// straight --unanswered, and a member names the same leader--> through it
/// through a member --it fails--> straight, until another member names it
/// through a member --each 5 s a heartbeat goes straight; answered--> straight
/// ```
#[derive(Debug, Default)]
pub struct Path {
    /// The leader that did not answer, and when.
    lost: Option<(NodeId, Millis)>,
    carried: Option<Carried>,
}

#[derive(Debug)]
struct Carried {
    leader: NodeId,
    by: NodeId,
    straight_at: Millis,
}

impl Path {
    /// The leader to which heartbeats are carried.
    pub fn carried_to(&self) -> Option<NodeId> {
        self.carried.as_ref().map(|carried| carried.leader)
    }

    /// Which way the next heartbeat goes, and how long it may take.
    pub fn next(&self, leader: NodeId, now: Millis) -> (Way, Millis) {
        match &self.carried {
            Some(carried) if carried.leader != leader => (Way::Straight, ANSWER_WAIT),
            Some(carried) if now.since(carried.straight_at) >= STRAIGHT_EVERY => {
                (Way::Straight, STRAIGHT_WAIT)
            }
            Some(carried) => (Way::Through(carried.by), ANSWER_WAIT),
            None => (Way::Straight, ANSWER_WAIT),
        }
    }

    /// The leader answered, by this way.
    pub fn answered(&mut self, way: Way) {
        if way == Way::Straight {
            *self = Path::default();
        }
    }

    /// The leader did not answer.
    pub fn unanswered(&mut self, leader: NodeId, way: Way, now: Millis) {
        self.lost = Some((leader, now));
        match way {
            Way::Through(_) => self.carried = None,
            Way::Straight => {
                if let Some(carried) = &mut self.carried {
                    carried.straight_at = now;
                }
            }
        }
    }

    /// A member says who leads. Returns whether the session goes through that
    /// member from now on: it names one that this node does not reach.
    pub fn named(&mut self, by: NodeId, leader: NodeId, now: Millis) -> bool {
        let failed = self
            .lost
            .is_some_and(|(lost, at)| lost == leader && now.since(at) < FAILURE_HOLDS);
        if failed && by != leader {
            self.carried = Some(Carried {
                leader,
                by,
                straight_at: now,
            });
        }
        failed && by != leader
    }

    /// Another node leads, or nobody known does.
    pub fn forget(&mut self) {
        *self = Path::default();
    }
}

/// For each host whose session is carried: by whom. Kept by the scheduler's
/// driver, bounded by the cluster's members.
#[derive(Debug, Default)]
pub struct Vias(BTreeMap<NodeId, (NodeId, Millis)>);

impl Vias {
    /// A heartbeat of a member came, carried by another.
    pub fn heard(&mut self, from: NodeId, by: NodeId, now: Millis) {
        self.0.retain(|_, (_, at)| now.since(*at) < VIA_HOLDS);
        self.0.insert(from, (by, now));
    }

    /// Who carries this host's session. A host that sends its heartbeats
    /// through another does not hear us, whatever we hear of it.
    pub fn of(&self, node: NodeId, now: Millis) -> Option<NodeId> {
        let (by, at) = self.0.get(&node)?;
        (now.since(*at) < VIA_HOLDS).then_some(*by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);
    const THIRD: NodeId = NodeId([3; 32]);

    /// A path whose straight way failed just now, and that `OTHER` carries.
    fn carried() -> Path {
        let mut path = Path::default();
        path.unanswered(LEADER, Way::Straight, Millis(1_000));
        assert!(path.named(OTHER, LEADER, Millis(1_100)));
        path
    }

    #[test]
    fn only_a_leader_that_was_just_missed_is_relayed_to() {
        // Who was missed when, who names whom when, and is it taken?
        let table = [
            (Some((LEADER, 1_000)), OTHER, LEADER, 1_100, true),
            (None, OTHER, LEADER, 1_100, false),
            (Some((THIRD, 1_000)), OTHER, LEADER, 1_100, false),
            (Some((LEADER, 1_000)), LEADER, LEADER, 1_100, false),
            (Some((LEADER, 1_000)), OTHER, LEADER, 10_999, true),
            (Some((LEADER, 1_000)), OTHER, LEADER, 11_000, false),
        ];
        for (missed, by, leader, at, taken) in table {
            let mut path = Path::default();
            if let Some((missed, at)) = missed {
                path.unanswered(missed, Way::Straight, Millis(at));
            }
            let now = Millis(at);
            assert_eq!(path.named(by, leader, now), taken, "{missed:?} {by:?} {at}");
            let way = match taken {
                true => Way::Through(by),
                false => Way::Straight,
            };
            assert_eq!(path.next(leader, now).0, way);
        }
    }

    #[test]
    fn the_straight_way_is_tried_again_and_again() {
        let mut path = carried();
        assert_eq!(path.next(LEADER, Millis(6_000)).0, Way::Through(OTHER));
        assert_eq!(
            path.next(LEADER, Millis(6_100)),
            (Way::Straight, STRAIGHT_WAIT)
        );
        path.unanswered(LEADER, Way::Straight, Millis(6_800));
        assert_eq!(path.next(LEADER, Millis(6_800)).0, Way::Through(OTHER));
        path.answered(Way::Through(OTHER));
        assert_eq!(path.carried_to(), Some(LEADER));
        path.answered(Way::Straight);
        assert_eq!(path.carried_to(), None);
    }

    #[test]
    fn a_member_that_fails_makes_room_for_another() {
        let mut path = carried();
        path.unanswered(LEADER, Way::Through(OTHER), Millis(2_000));
        assert_eq!(path.next(LEADER, Millis(2_000)).0, Way::Straight);
        assert!(path.named(THIRD, LEADER, Millis(2_100)));
        assert_eq!(path.next(LEADER, Millis(2_200)).0, Way::Through(THIRD));
        // Another leads: it is asked itself.
        assert_eq!(path.next(THIRD, Millis(2_300)).0, Way::Straight);
    }

    #[test]
    fn orders_follow_the_way_of_the_last_carried_heartbeat() {
        let mut vias = Vias::default();
        vias.heard(LEADER, OTHER, Millis(1_000));
        assert_eq!(vias.of(LEADER, Millis(1_500)), Some(OTHER));
        vias.heard(LEADER, THIRD, Millis(2_000));
        assert_eq!(vias.of(LEADER, Millis(5_499)), Some(THIRD));
        assert_eq!(vias.of(LEADER, Millis(5_500)), None);
        assert_eq!(vias.of(OTHER, Millis(1_500)), None);
        vias.heard(OTHER, THIRD, Millis(9_000));
        assert_eq!(vias.0.len(), 1, "what is over is forgotten");
    }
}
