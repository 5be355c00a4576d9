//! Who should vote in the control group.
//!
//! Answers for the next single change of the control group's membership,
//! given who is there: how many voters, in which racks, when one is replaced.
//! Leaves to the control group carrying it out, and to the scheduler who is
//! dead. Members count whether they are alive or not, so that deaths never
//! shrink the group; only people who remove nodes do.

use potluck_specs::{Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Non-voters that follow the log, so that somebody survives with a copy.
pub const LEARNERS_MAX: usize = 5;

/// From so many members on there are three voters, and five: two can be lost.
const THREE_FROM: usize = 3;
const FIVE_FROM: usize = 10;

/// When voters are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VotersConfig {
    /// How long a voter must have been silent on Raft and dead.
    pub replace_after: Millis,
    /// How long a better spread over racks must have been possible.
    pub respread_after: Millis,
    /// How long a learner must have kept up before it votes.
    pub stable_after: Millis,
}

impl Default for VotersConfig {
    fn default() -> VotersConfig {
        VotersConfig {
            replace_after: Millis(5 * 60_000),
            respread_after: Millis(10 * 60_000),
            stable_after: Millis(10_000),
        }
    }
}

impl VotersConfig {
    /// For a cluster in a box, where hosts are killed to see what happens.
    pub fn testnet() -> VotersConfig {
        VotersConfig {
            replace_after: Millis(5_000),
            stable_after: Millis(1_000),
            ..VotersConfig::default()
        }
    }
}

/// A member as far as voting goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its rack.
    pub rack: String,
    /// Its certificate lets it be chosen.
    pub eligible: bool,
    /// It is being drained: not chosen anew, but stays while it votes.
    pub draining: bool,
    /// Its session is up at this moment.
    pub alive: bool,
    /// Since when it is dead by the scheduler's rule.
    pub dead_since: Option<Millis>,
    /// When Raft last heard from it (as voter or learner).
    pub raft_heard_at: Option<Millis>,
    /// As a learner: since when its log has kept up.
    pub caught_up_since: Option<Millis>,
}

/// The control group as it is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who follows.
    pub learners: BTreeSet<NodeId>,
    /// A change is under way.
    pub changing: bool,
}

/// The next change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoterMove {
    /// Lets a node follow the log.
    AddLearner {
        /// The node.
        node: NodeId,
    },
    /// Changes who votes, in one joint change: the group is never left on an
    /// even number in between, least of all on two, where the death of either
    /// would stop it for good.
    ChangeVoters {
        /// Learners that vote from now on.
        add: BTreeSet<NodeId>,
        /// Voters that become nothing: they left the cluster, are long dead,
        /// or the cluster has fewer nodes than it had.
        remove: BTreeSet<NodeId>,
    },
    /// Lets a follower go that is dead or left.
    RemoveLearner {
        /// The node.
        node: NodeId,
    },
}

/// What is remembered between two questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoterMemory {
    better_spread_since: Option<Millis>,
}

/// How many voters a cluster of so many eligible members has.
pub fn voters_wanted(members: usize) -> usize {
    match members {
        FIVE_FROM.. => 5,
        THREE_FROM.. => 3,
        _ => 1,
    }
}

/// The next change to make, if any: one joint change at a time, asked again
/// once it is committed. `me` is the leader, who never removes itself.
pub fn next_move(
    config: &VotersConfig,
    memory: &mut VoterMemory,
    me: NodeId,
    candidates: &[Candidate],
    membership: &Membership,
    now: Millis,
) -> Option<VoterMove> {
    if membership.changing || !membership.voters.contains(&me) {
        return None;
    }
    let group = Group::new(config, me, candidates, membership, now);
    group
        .replace()
        .or_else(|| group.shrink())
        .or_else(|| group.grow())
        .or_else(|| group.follow())
        .or_else(|| group.respread(memory))
}

/// The rack that holds a majority of the voters, if more than one votes:
/// losing it stops the control group.
pub fn rack_majority_warning(candidates: &[Candidate], membership: &Membership) -> Option<String> {
    let voters = membership.voters.len();
    if voters < 2 {
        return None;
    }
    let mut racks: BTreeMap<&str, usize> = BTreeMap::new();
    for candidate in candidates {
        if membership.voters.contains(&candidate.node) {
            *racks.entry(&candidate.rack).or_default() += 1;
        }
    }
    let heavy = racks.into_iter().find(|(_, count)| count * 2 > voters);
    heavy.map(|(rack, _)| rack.to_string())
}

fn exchange<const A: usize, const R: usize>(add: [NodeId; A], remove: [NodeId; R]) -> VoterMove {
    VoterMove::ChangeVoters {
        add: add.into(),
        remove: remove.into(),
    }
}

struct Group<'a> {
    config: &'a VotersConfig,
    me: NodeId,
    members: BTreeMap<NodeId, &'a Candidate>,
    membership: &'a Membership,
    target: usize,
    now: Millis,
}

impl<'a> Group<'a> {
    fn new(
        config: &'a VotersConfig,
        me: NodeId,
        candidates: &'a [Candidate],
        membership: &'a Membership,
        now: Millis,
    ) -> Group<'a> {
        let members: BTreeMap<_, _> = candidates.iter().map(|c| (c.node, c)).collect();
        let eligible = members.values().filter(|c| c.eligible).count();
        Group {
            config,
            me,
            members,
            membership,
            target: voters_wanted(eligible),
            now,
        }
    }

    /// A voter that left, or is long silent and dead, makes room for another.
    fn replace(&self) -> Option<VoterMove> {
        if self.membership.voters.len() > self.target {
            return None;
        }
        let remove = self.gone_voter()?;
        let add = self.best_ready(Some(remove))?;
        Some(exchange([add], [remove]))
    }

    fn gone_voter(&self) -> Option<NodeId> {
        let others = || self.membership.voters.iter().filter(|n| **n != self.me);
        let left = others().find(|node| !self.members.contains_key(node));
        left.or_else(|| others().find(|node| self.is_long_gone(node)))
            .copied()
    }

    /// Silent on Raft for long, *and* dead by the scheduler's rule.
    fn is_long_gone(&self, node: &NodeId) -> bool {
        let Some(candidate) = self.members.get(node) else {
            return true;
        };
        candidate.dead_since.is_some_and(|dead_since| {
            let heard_at = candidate.raft_heard_at.unwrap_or(dead_since);
            self.now.since(heard_at) >= self.config.replace_after
        })
    }

    /// More voters than the members ask for: people removed nodes. The gone
    /// ones go first, then those of crowded racks.
    fn shrink(&self) -> Option<VoterMove> {
        let excess = self.membership.voters.len().checked_sub(self.target)?;
        let mut racks = self.voters_by_rack(None);
        let mut stay: BTreeSet<NodeId> = self.membership.voters.clone();
        stay.remove(&self.me);
        let mut remove = BTreeSet::new();
        while remove.len() < excess {
            let rank = |node: &NodeId| (self.is_long_gone(node), self.in_rack(&racks, node), *node);
            let node = stay.iter().copied().max_by_key(rank)?;
            stay.remove(&node);
            remove.insert(node);
            let left = self.members.get(&node);
            if let Some(voters) = left.and_then(|left| racks.get_mut(left.rack.as_str())) {
                *voters = voters.saturating_sub(1);
            }
        }
        (!remove.is_empty()).then_some(VoterMove::ChangeVoters {
            add: BTreeSet::new(),
            remove,
        })
    }

    /// Towards the target, from an odd number to the next odd one at once.
    fn grow(&self) -> Option<VoterMove> {
        let voters = self.membership.voters.len();
        if voters >= self.target {
            return None;
        }
        let steps = if voters % 2 == 1 { 2 } else { 1 };
        let mut racks = self.voters_by_rack(None);
        let mut ready: BTreeSet<NodeId> = self.ready().collect();
        let mut add = BTreeSet::new();
        while add.len() < steps {
            let rank = |node: &NodeId| (self.in_rack(&racks, node), *node);
            let node = ready.iter().copied().min_by_key(rank)?;
            ready.remove(&node);
            add.insert(node);
            let rack = self.members.get(&node)?.rack.as_str();
            *racks.entry(rack).or_default() += 1;
        }
        Some(VoterMove::ChangeVoters {
            add,
            remove: BTreeSet::new(),
        })
    }

    /// Followers: let the gone ones go, fill up with live ones.
    fn follow(&self) -> Option<VoterMove> {
        let learners = &self.membership.learners;
        if let Some(left) = learners.iter().find(|n| !self.members.contains_key(n)) {
            return Some(VoterMove::RemoveLearner { node: *left });
        }
        let next = self.best_follower();
        if learners.len() >= LEARNERS_MAX {
            next?;
            let gone = learners.iter().find(|node| self.is_long_gone(node))?;
            return Some(VoterMove::RemoveLearner { node: *gone });
        }
        next.map(|node| VoterMove::AddLearner { node })
    }

    fn best_follower(&self) -> Option<NodeId> {
        let mut racks = self.voters_by_rack(None);
        for node in &self.membership.learners {
            if let Some(candidate) = self.members.get(node) {
                *racks.entry(&candidate.rack).or_default() += 1;
            }
        }
        self.members
            .values()
            .filter(|c| c.eligible && c.alive && !c.draining)
            .filter(|c| !self.membership.voters.contains(&c.node))
            .filter(|c| !self.membership.learners.contains(&c.node))
            .map(|c| c.node)
            .min_by_key(|node| (self.in_rack(&racks, node), *node))
    }

    /// Swaps a voter of a crowded rack for a learner of an emptier one, once
    /// that has been possible for long.
    fn respread(&self, memory: &mut VoterMemory) -> Option<VoterMove> {
        let Some((add, remove)) = self.better_spread() else {
            memory.better_spread_since = None;
            return None;
        };
        let since = *memory.better_spread_since.get_or_insert(self.now);
        if self.now.since(since) < self.config.respread_after {
            return None;
        }
        memory.better_spread_since = None;
        Some(exchange([add], [remove]))
    }

    fn better_spread(&self) -> Option<(NodeId, NodeId)> {
        let racks = self.voters_by_rack(None);
        let add = self.best_ready(None)?;
        let remove = self
            .membership
            .voters
            .iter()
            .filter(|node| **node != self.me)
            .max_by_key(|node| (self.in_rack(&racks, node), **node))?;
        let better = self.in_rack(&racks, &add) + 2 <= self.in_rack(&racks, remove);
        better.then_some((add, *remove))
    }

    /// Learners that may vote: eligible, alive, caught up, stable.
    fn ready(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.membership.learners.iter().copied().filter(|node| {
            self.members.get(node).is_some_and(|c| {
                let stable = c
                    .caught_up_since
                    .is_some_and(|since| self.now.since(since) >= self.config.stable_after);
                c.eligible && c.alive && !c.draining && stable
            })
        })
    }

    fn best_ready(&self, without: Option<NodeId>) -> Option<NodeId> {
        let racks = self.voters_by_rack(without);
        self.ready()
            .min_by_key(|node| (self.in_rack(&racks, node), *node))
    }

    fn voters_by_rack(&self, without: Option<NodeId>) -> BTreeMap<&str, usize> {
        let mut racks = BTreeMap::new();
        for node in self
            .membership
            .voters
            .iter()
            .filter(|n| Some(**n) != without)
        {
            if let Some(candidate) = self.members.get(node) {
                *racks.entry(candidate.rack.as_str()).or_default() += 1;
            }
        }
        racks
    }

    fn in_rack(&self, racks: &BTreeMap<&str, usize>, node: &NodeId) -> usize {
        let rack = self.members.get(node).map(|c| c.rack.as_str());
        rack.and_then(|rack| racks.get(rack)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(10_000_000);

    fn node(k: u8) -> NodeId {
        NodeId([k; 32])
    }

    /// Nodes 0.. with these racks, alive and caught up.
    fn fleet(racks: &str) -> Vec<Candidate> {
        racks
            .chars()
            .enumerate()
            .map(|(k, rack)| Candidate {
                node: node(k as u8),
                rack: rack.to_string(),
                eligible: true,
                draining: false,
                alive: true,
                dead_since: None,
                raft_heard_at: Some(NOW),
                caught_up_since: Some(Millis(0)),
            })
            .collect()
    }

    fn group(voters: &[u8], learners: &[u8]) -> Membership {
        Membership {
            voters: voters.iter().map(|k| node(*k)).collect(),
            learners: learners.iter().map(|k| node(*k)).collect(),
            changing: false,
        }
    }

    fn kill(fleet: &mut [Candidate], k: usize, ago: u64) {
        fleet[k].alive = false;
        fleet[k].dead_since = Some(Millis(NOW.0 - ago));
        fleet[k].raft_heard_at = Some(Millis(NOW.0 - ago));
    }

    fn ask(fleet: &[Candidate], membership: &Membership) -> Option<VoterMove> {
        let config = VotersConfig::default();
        let mut memory = VoterMemory::default();
        next_move(&config, &mut memory, node(0), fleet, membership, NOW)
    }

    fn vote(add: &[u8], remove: &[u8]) -> Option<VoterMove> {
        Some(VoterMove::ChangeVoters {
            add: add.iter().copied().map(node).collect(),
            remove: remove.iter().copied().map(node).collect(),
        })
    }

    fn learn(k: u8) -> Option<VoterMove> {
        Some(VoterMove::AddLearner { node: node(k) })
    }

    #[test]
    fn grows_with_the_cluster() {
        // racks of nodes 0.., voters, learners, next move
        type Row<'a> = (&'a str, &'a [u8], &'a [u8], Option<VoterMove>);
        let table: [Row<'_>; 12] = [
            ("a", &[0], &[], None),
            ("ab", &[0], &[], learn(1)),
            ("ab", &[0], &[1], None),
            ("abc", &[0], &[1], learn(2)),
            // Never two on the way to three.
            ("abc", &[0], &[1, 2], vote(&[1, 2], &[])),
            ("abc", &[0, 1], &[2], vote(&[2], &[])),
            // Other racks first.
            ("aaabc", &[0], &[1, 2, 3, 4], vote(&[3, 4], &[])),
            ("aabb", &[0, 2], &[1, 3], vote(&[1], &[])),
            ("aaaab", &[0, 1, 2], &[], learn(4)),
            ("abcabcabc", &[0, 1, 2], &[3, 4, 5, 6, 7], None),
            (
                "abcabcabca",
                &[0, 1, 2],
                &[3, 4, 5, 6, 7],
                vote(&[3, 4], &[]),
            ),
            ("abcabcabca", &[0, 1, 2], &[3], learn(4)),
        ];
        for (racks, voters, learners, expected) in table {
            let result = ask(&fleet(racks), &group(voters, learners));
            assert_eq!(result, expected, "{racks} {voters:?} {learners:?}");
        }
    }

    #[test]
    fn waits_for_learners_that_are_not_ready() {
        type Spoil = fn(&mut Candidate);
        let table: [(&str, Spoil); 5] = [
            ("not eligible", |c| c.eligible = false),
            ("draining", |c| c.draining = true),
            ("not alive", |c| c.alive = false),
            ("behind", |c| c.caught_up_since = None),
            ("just caught up", |c| c.caught_up_since = Some(NOW)),
        ];
        for (what, spoil) in table {
            let mut fleet = fleet("abc");
            spoil(&mut fleet[2]);
            // One ready learner alone would make two voters.
            assert_eq!(ask(&fleet, &group(&[0], &[1, 2])), None, "{what}");
        }
        let changing = Membership {
            changing: true,
            ..group(&[0], &[1, 2])
        };
        assert_eq!(ask(&fleet("abc"), &changing), None);
    }

    #[test]
    fn replaces_the_long_dead_only() {
        let minutes = |m: u64| m * 60_000;
        let voters = group(&[0, 1, 2], &[3]);
        let mut all = fleet("abca");
        kill(&mut all, 1, minutes(4));
        assert_eq!(ask(&all, &voters), None);
        kill(&mut all, 1, minutes(5));
        assert_eq!(ask(&all, &voters), vote(&[3], &[1]));
        // Heard on Raft: not replaced, whatever the session says.
        all[1].raft_heard_at = Some(NOW);
        assert_eq!(ask(&all, &voters), None);
        // Silent on Raft, not dead.
        all[1].raft_heard_at = Some(Millis(0));
        all[1].dead_since = None;
        assert_eq!(ask(&all, &voters), None);
        // Nobody to take its place: stays, never below target.
        let mut three = fleet("abc");
        kill(&mut three, 1, minutes(60));
        assert_eq!(ask(&three, &group(&[0, 1, 2], &[])), None);
    }

    #[test]
    fn who_left_is_replaced_at_once_or_let_go() {
        let four = fleet("abca");
        let without_1: Vec<_> = four.into_iter().filter(|c| c.node != node(1)).collect();
        let with_spare = group(&[0, 1, 2], &[3]);
        assert_eq!(ask(&without_1, &with_spare), vote(&[3], &[1]));
        let two = fleet("ab");
        assert_eq!(ask(&two, &group(&[0, 1, 2], &[])), vote(&[], &[1, 2]));
        assert_eq!(ask(&two, &group(&[0, 1], &[])), vote(&[], &[1]));
        assert_eq!(ask(&two, &group(&[0], &[])), learn(1));
    }

    #[test]
    fn dead_followers_make_room() {
        let mut all = fleet("abcabcabc");
        kill(&mut all, 4, 600_000);
        let full = group(&[0, 1, 2], &[3, 4, 5, 6, 7]);
        let remove = VoterMove::RemoveLearner { node: node(4) };
        assert_eq!(ask(&all, &full), Some(remove));
    }

    #[test]
    fn swaps_for_a_better_spread_after_a_while() {
        let config = VotersConfig::default();
        let mut memory = VoterMemory::default();
        let fleet = fleet("aaab");
        let crowded = group(&[0, 1, 2], &[3]);
        let mut at = |minute: u64| {
            let now = NOW + Millis(minute * 60_000);
            next_move(&config, &mut memory, node(0), &fleet, &crowded, now)
        };
        assert_eq!(at(0), None);
        assert_eq!(at(9), None);
        assert_eq!(at(10), vote(&[3], &[2]));
    }

    #[test]
    fn warns_of_a_rack_with_a_majority() {
        let table: [(&str, &[u8], Option<&str>); 5] = [
            ("a", &[0], None),
            ("aab", &[0, 1, 2], Some("a")),
            ("abc", &[0, 1, 2], None),
            ("aabbc", &[0, 1, 2, 3, 4], None),
            ("aaabc", &[0, 1, 2, 3, 4], Some("a")),
        ];
        for (racks, voters, expected) in table {
            let warning = rack_majority_warning(&fleet(racks), &group(voters, &[]));
            assert_eq!(warning.as_deref(), expected, "{racks}");
        }
    }

    proptest! {
        /// From one voter, whoever is alive, the moves end; they never remove
        /// the leader, never stand on an even number, never go below target
        /// once it was reached, and keep the learners bounded.
        #[test]
        fn moves_come_to_an_end(
            racks in "[abc]{1,14}",
            dead in proptest::collection::vec(any::<bool>(), 14),
        ) {
            let mut all = fleet(&racks);
            for (k, dead) in dead.iter().enumerate().take(all.len()).skip(1) {
                if *dead {
                    kill(&mut all, k, 3_600_000);
                }
            }
            let target = voters_wanted(all.len());
            let mut membership = group(&[0], &[]);
            let mut reached = false;
            for round in 0.. {
                prop_assert!(round < 100, "moves do not end");
                let Some(next) = ask(&all, &membership) else { break };
                match next {
                    VoterMove::AddLearner { node } => {
                        prop_assert!(membership.learners.insert(node));
                    }
                    VoterMove::ChangeVoters { add, remove } => {
                        prop_assert!(add.is_subset(&membership.learners));
                        prop_assert!(remove.is_subset(&membership.voters));
                        membership.learners.retain(|node| !add.contains(node));
                        membership.voters.extend(add);
                        membership.voters.retain(|node| !remove.contains(node));
                        prop_assert_eq!(membership.voters.len() % 2, 1);
                    }
                    VoterMove::RemoveLearner { node } => {
                        prop_assert!(membership.learners.remove(&node));
                    }
                }
                reached |= membership.voters.len() == target;
                prop_assert!(!reached || membership.voters.len() >= target);
                prop_assert!(membership.voters.contains(&node(0)));
                prop_assert!(membership.learners.len() <= LEARNERS_MAX);
            }
            let alive = all.iter().filter(|c| c.alive).count();
            if alive >= target {
                prop_assert_eq!(membership.voters.len(), target);
            }
        }
    }
}
