//! The handle: what the rest of the node does with a control group.

use std::{collections::BTreeSet, marker::PhantomData, sync::Arc};

use potluck_specs::{Epoch, Millis, NodeId};
use tokio::sync::watch;

use super::{Member, RaftPeers, Replicated, Settings};

/// A running member of a control group. Cheap to clone.
pub struct ControlGroup<S: Replicated> {
    state: PhantomData<S>,
}

impl<S: Replicated> Clone for ControlGroup<S> {
    fn clone(&self) -> Self {
        Self { state: PhantomData }
    }
}

/// A command that has taken effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// Its place in the log.
    pub index: u64,
    /// What the state said.
    pub reply: R,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's node.
    pub leader: Option<NodeId>,
    /// It is this one. True says nothing about a quorum: see
    /// [`ControlGroup::last_quorum_ack`].
    pub we_lead: bool,
    /// The Raft term; rises with each election.
    pub term: u64,
    /// An epoch later than ours that a peer has shown: this node's state is
    /// of the past, it has to join anew.
    pub superseded_by: Option<Epoch>,
}

/// Voters and learners, and on the leader how far each has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those whose majority commits, in the order of their Raft ids.
    pub voters: Vec<Follower>,
    /// Those who only follow.
    pub learners: Vec<Follower>,
    /// A change of voters is under way or not yet committed.
    pub changing: bool,
    /// The last index in this node's log.
    pub last_index: u64,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Its Raft id.
    pub raft_id: u64,
    /// Who it is.
    pub member: Member,
    /// On the leader: the last index that it is known to hold. Caught up when
    /// near [`Membership::last_index`].
    pub matched: Option<u64>,
    /// On the leader: when it last answered, time since boot.
    pub last_contact: Option<Millis>,
}

/// Why a group could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Genesis happens once.
    #[error("the folder already holds a control group")]
    AlreadyThere,
}

/// Why a command did not take effect, as far as this node knows.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader.
    #[error("this node does not lead the control group")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Most voters did not confirm in time. The command may still take effect
    /// later: a repeat must carry the same change id.
    #[error("most voters of the control group can't be reached")]
    NoQuorum,
    /// Larger than [`super::COMMAND_BYTES_MAX`].
    #[error("the command has {bytes} bytes, more than a log entry may have")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// The group has been shut down, or its storage failed.
    #[error("the control group has stopped on this node")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error("this node does not lead the control group")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Most voters did not confirm in time; the change may still happen.
    #[error("most voters of the control group can't be reached")]
    NoQuorum,
    /// One change at a time.
    #[error("another change of the control group is under way")]
    InProgress,
    /// A voter must first be a learner; a group can't be empty.
    #[error("the change of the control group is not possible: {why}")]
    Refused {
        /// What openraft says.
        why: String,
    },
    /// The group has been shut down, or its storage failed.
    #[error("the control group has stopped on this node")]
    Stopped,
}

/// Why a read could not be confirmed.
#[derive(Debug, thiserror::Error)]
pub enum LinearizableError {
    /// Ask the leader.
    #[error("this node does not lead the control group")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Most voters did not confirm in time.
    #[error("most voters of the control group can't be reached")]
    NoQuorum,
    /// The group has been shut down, or its storage failed.
    #[error("the control group has stopped on this node")]
    Stopped,
}

#[allow(unused_variables, clippy::unused_async)]
impl<S: Replicated> ControlGroup<S> {
    /// Genesis, by `potluck init` alone: a new group of this one voter.
    ///
    /// # Errors
    /// [`StartError::AlreadyThere`] if the folder holds a group.
    pub async fn bootstrap(
        settings: Settings,
        peers: Arc<dyn RaftPeers>,
    ) -> Result<Self, StartError> {
        Err(StartError::AlreadyThere)
    }

    /// Starts from what the folder holds; an empty one waits to be added.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: Settings, peers: Arc<dyn RaftPeers>) -> Result<Self, StartError> {
        Err(StartError::AlreadyThere)
    }

    /// This folder's Raft id: random, never reused.
    pub fn raft_id(&self) -> u64 {
        0
    }

    /// Answers a message of another member.
    pub async fn receive(&self, from: NodeId, message: Vec<u8>) -> Vec<u8> {
        Vec::new()
    }

    /// Commits a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`ProposeError`]. Only `NotLeader` and `TooLarge` say that the command
    /// has no effect.
    pub async fn propose(&self, command: S::Command) -> Result<Applied<S::Reply>, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }

    /// The last applied index; changes wake the receiver.
    pub fn applied(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Looks at the state. The closure holds up the log: it must be short.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&S::default())
    }

    /// On the leader: when the messages were sent whose answers last made a
    /// majority, time since boot.
    pub fn last_quorum_ack(&self) -> Option<Millis> {
        None
    }

    /// Voters and learners.
    pub fn membership(&self) -> Membership {
        Membership::default()
    }

    /// Makes a node follow the log. Returns once that is committed; see
    /// [`Follower::matched`] for when it has caught up.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, raft_id: u64, member: Member) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Replaces the set of voters by a joint change. All must be members
    /// already; voters that leave become learners.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Makes the group forget a learner.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_learner(&self, raft_id: u64) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Asks a voter to take over, before this node goes down.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn transfer_leadership(&self, raft_id: u64) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Returns once a read here sees everything that was committed before the
    /// call.
    ///
    /// # Errors
    /// [`LinearizableError`].
    pub async fn linearizable(&self) -> Result<(), LinearizableError> {
        Err(LinearizableError::Stopped)
    }

    /// Stops; the folder can be started again afterwards.
    pub async fn shutdown(&self) {}
}
