//! openraft's types with our parameters, and our own form of each that goes
//! to disk or to other nodes.
//!
//! openraft is an alpha: its encodings may change with any release. What
//! outlives a process is therefore ours ([`EntryRecord`] and its parts), and
//! only this file converts. Commands and replies are opaque bytes here, so
//! that no generic reaches openraft and the size of a command is its size in
//! the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use openraft::{EntryPayload, impls::leader_id_std, type_config::alias};
use serde::{Deserialize, Serialize};

use super::Member;

openraft::declare_raft_types!(
    /// Raft as potluck configures it: one leader per term.
    pub(super) Types:
        D = CommandBytes,
        R = ReplyBytes,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub(super) type LogId = alias::LogIdOf<Types>;
pub(super) type Vote = alias::VoteOf<Types>;
pub(super) type Entry = alias::EntryOf<Types>;
pub(super) type Voters = openraft::Membership<u64, Member>;
pub(super) type StoredVoters = alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
/// A snapshot, its state encoded.
pub(super) type Snapshot = alias::SnapshotOf<Types, StateBytes>;
/// An encoded state.
pub(super) type StateBytes = Arc<Vec<u8>>;

/// A command as the log holds it: the CBOR of [`super::Replicated::Command`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct CommandBytes(#[serde(with = "serde_bytes")] pub(super) Vec<u8>);

impl fmt::Debug for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A reply; empty for entries that carry no command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ReplyBytes(#[serde(with = "serde_bytes")] pub(super) Vec<u8>);

/// A place in the log: openraft's log id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) term: u64,
    pub(super) index: u64,
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Position {
        Position {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<Position> for LogId {
    fn from(position: Position) -> LogId {
        LogId::new(
            alias::CommittedLeaderIdOf::<Types>::new(position.term),
            position.index,
        )
    }
}

/// A vote, or the claim of a leader that has been elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VoteRecord {
    pub(super) term: u64,
    pub(super) raft_id: u64,
    pub(super) elected: bool,
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> VoteRecord {
        VoteRecord {
            term: vote.leader_id.term,
            raft_id: vote.leader_id.voted_for,
            elected: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Vote {
        if record.elected {
            Vote::new_committed(record.term, record.raft_id)
        } else {
            Vote::new(record.term, record.raft_id)
        }
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    pub(super) at: Position,
    pub(super) payload: PayloadRecord,
}

/// What an entry says. Its first encoding; a later one gets a new variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PayloadRecord {
    /// Nothing: the first entry of a leader.
    Blank,
    /// A command.
    Command(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Who votes and who follows from here on.
    Membership(MembershipRecord),
}

/// Who votes and who follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembershipRecord {
    /// Two sets while a change is under way, else one.
    pub(super) voters: Vec<BTreeSet<u64>>,
    /// Everybody, learners too.
    pub(super) members: BTreeMap<u64, Member>,
}

/// A membership that names a voter it does not describe.
#[derive(Debug, thiserror::Error)]
#[error("the membership names a voter without describing it, or an empty set of voters")]
pub(super) struct IncompleteMembership;

impl From<&Voters> for MembershipRecord {
    fn from(voters: &Voters) -> MembershipRecord {
        MembershipRecord {
            voters: voters.get_joint_config().clone(),
            members: voters
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect(),
        }
    }
}

impl TryFrom<MembershipRecord> for Voters {
    type Error = IncompleteMembership;

    fn try_from(record: MembershipRecord) -> Result<Voters, IncompleteMembership> {
        Voters::new(record.voters, record.members).map_err(|_| IncompleteMembership)
    }
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> EntryRecord {
        EntryRecord {
            at: entry.log_id.into(),
            payload: match &entry.payload {
                EntryPayload::Blank => PayloadRecord::Blank,
                EntryPayload::Normal(command) => PayloadRecord::Command(command.0.clone()),
                EntryPayload::Membership(voters) => PayloadRecord::Membership(voters.into()),
            },
        }
    }
}

impl EntryRecord {
    /// The entry. (A `TryFrom` would collide with openraft's blanket ones.)
    pub(super) fn into_entry(self) -> Result<Entry, IncompleteMembership> {
        let payload = match self.payload {
            PayloadRecord::Blank => EntryPayload::Blank,
            PayloadRecord::Command(bytes) => EntryPayload::Normal(CommandBytes(bytes)),
            PayloadRecord::Membership(voters) => EntryPayload::Membership(voters.try_into()?),
        };
        Ok(Entry {
            log_id: self.at.into(),
            payload,
        })
    }
}

/// What a snapshot is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    /// The last entry whose effect it has.
    pub(super) at: Option<Position>,
    /// Where the membership stands in the log.
    pub(super) membership_at: Option<Position>,
    /// The membership.
    pub(super) membership: MembershipRecord,
}

impl From<&SnapshotMeta> for SnapshotRecord {
    fn from(meta: &SnapshotMeta) -> SnapshotRecord {
        SnapshotRecord {
            at: meta.last_log_id.map(Position::from),
            membership_at: meta.last_membership.log_id().map(Position::from),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<SnapshotRecord> for SnapshotMeta {
    type Error = IncompleteMembership;

    fn try_from(record: SnapshotRecord) -> Result<SnapshotMeta, IncompleteMembership> {
        Ok(SnapshotMeta {
            last_log_id: record.at.map(LogId::from),
            last_membership: StoredVoters::new(
                record.membership_at.map(LogId::from),
                record.membership.try_into()?,
            ),
        })
    }
}
