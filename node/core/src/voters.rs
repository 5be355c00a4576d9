//! Who should vote in the control group.
//!
//! Answers for the next single change of the control group's membership,
//! given who is there. Leaves to the control group carrying it out, and to
//! the scheduler who is dead.

use potluck_specs::{Millis, NodeId};
use std::collections::BTreeSet;

/// When voters are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VotersConfig {
    /// How long a voter must have been silent on Raft and dead.
    pub replace_after: Millis,
    /// How long a better spread over racks must have been possible.
    pub respread_after: Millis,
}

impl Default for VotersConfig {
    fn default() -> VotersConfig {
        VotersConfig {
            replace_after: Millis(5 * 60_000),
            respread_after: Millis(10 * 60_000),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoterMove {
    /// Lets a node follow the log.
    AddLearner {
        /// The node.
        node: NodeId,
    },
    /// Lets a learner vote and, in the same joint change, a voter no longer.
    Promote {
        /// The learner.
        add: NodeId,
        /// The voter, which becomes nothing.
        remove: Option<NodeId>,
    },
    /// Lets a dead follower go, to make room for a live one.
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

/// The next change to make, if any. `me` is the leader, who never removes
/// itself.
pub fn next_move(
    config: &VotersConfig,
    memory: &mut VoterMemory,
    me: NodeId,
    candidates: &[Candidate],
    membership: &Membership,
    now: Millis,
) -> Option<VoterMove> {
    let _ = (
        config,
        me,
        candidates,
        membership,
        now,
        memory.better_spread_since,
    );
    None
}

/// The rack that holds a majority of the voters, if more than one votes:
/// losing it stops the control group.
pub fn rack_majority_warning(candidates: &[Candidate], membership: &Membership) -> Option<String> {
    let _ = (candidates, membership);
    None
}
