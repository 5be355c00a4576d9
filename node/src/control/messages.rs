//! What members of a control group say to each other.
//!
//! One envelope for all: fleet, cluster, epoch, and the Raft ids of sender
//! and receiver, checked before anything else. Encoded as CBOR; unknown fields
//! are ignored; a message that can't be read is answered with
//! [`Refusal::Unreadable`].
//!
//! A snapshot travels as a sequence of [`Body::Snapshot`] requests of at most
//! [`SNAPSHOT_PART_BYTES`], each answered before the next is sent; the last
//! one is answered after it is installed.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use potluck_specs::{Epoch, FleetId};
use serde::{Deserialize, Serialize};

use super::consensus::{
    Entry, EntryRecord, IncompleteMembership, LogId, Position, SnapshotRecord, Types, Vote,
    VoteRecord,
};

/// Most bytes of a message or answer: what one request to a node may hold,
/// less its own frame.
pub(super) const MESSAGE_BYTES_MAX: usize = (1 << 20) - (4 << 10);

/// Bytes of a snapshot in one message: few enough that a heartbeat behind one
/// on the same connection waits a few milliseconds at 1 Gbit/s.
pub(super) const SNAPSHOT_PART_BYTES: usize = 256 << 10;

/// A message with its address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) fleet: FleetId,
    pub(super) cluster: String,
    pub(super) epoch: Epoch,
    /// The sender's Raft id.
    pub(super) from: u64,
    /// The Raft id that is meant: a node whose folder was lost has another.
    pub(super) to: u64,
    pub(super) body: Body,
}

/// A message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Body {
    Append(Append),
    Vote(Ballot),
    PreVote(Ballot),
    Transfer(Transfer),
    Snapshot(SnapshotPart),
}

/// Entries, or none: a heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Append {
    pub(super) leader: VoteRecord,
    pub(super) previous: Option<Position>,
    pub(super) entries: Vec<EntryRecord>,
    pub(super) committed: Option<Position>,
}

/// A request for a vote, or for the promise of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ballot {
    pub(super) vote: VoteRecord,
    pub(super) last: Option<Position>,
    /// The leader itself asked the sender to take over.
    pub(super) transfer: bool,
}

/// The leader hands over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) leader: VoteRecord,
    pub(super) heir: u64,
    pub(super) last: Option<Position>,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotPart {
    /// Random, one for each attempt.
    pub(super) attempt: u64,
    pub(super) leader: VoteRecord,
    pub(super) snapshot: SnapshotRecord,
    pub(super) bytes_total: u64,
    pub(super) offset: u64,
    #[serde(with = "serde_bytes")]
    pub(super) bytes: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Append(AppendAnswer),
    /// To both kinds of ballot.
    Vote(VoteAnswer),
    Transfer(TransferAnswer),
    /// The part is kept, go on.
    SnapshotContinue,
    /// The whole snapshot has been handled; the receiver's vote.
    SnapshotDone(VoteRecord),
    Refused(Refusal),
}

/// To an append.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum AppendAnswer {
    Success,
    Partial(Option<Position>),
    Conflict,
    HigherVote(VoteRecord),
}

/// To a ballot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct VoteAnswer {
    pub(super) vote: VoteRecord,
    pub(super) granted: bool,
    pub(super) last: Option<Position>,
}

/// To a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum TransferAnswer {
    Accepted,
    VoteChanged {
        expected: VoteRecord,
        actual: VoteRecord,
    },
    NotFlushed {
        expected: Option<Position>,
        actual: Option<Position>,
    },
}

/// Why a message was not looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(super) enum Refusal {
    #[error("the message can't be read")]
    Unreadable,
    #[error("the message is of another fleet or cluster")]
    Foreign,
    /// Clusters never go back.
    #[error("the message is of an older epoch than {epoch:?}")]
    OlderEpoch { epoch: Epoch },
    /// The receiver's state is of the past.
    #[error("the message is of a newer epoch than {epoch:?}")]
    NewerEpoch { epoch: Epoch },
    #[error("the message is for another raft id")]
    NotMe,
    #[error("the raft id belongs to another node")]
    NotYou,
    #[error("the snapshot's part does not follow the one before")]
    OutOfOrder,
    #[error("the control group has stopped")]
    Stopped,
}

fn positions(id: Option<LogId>) -> Option<Position> {
    id.map(Position::from)
}

fn log_ids(position: Option<Position>) -> Option<LogId> {
    position.map(LogId::from)
}

impl From<&AppendEntriesRequest<Types>> for Append {
    fn from(request: &AppendEntriesRequest<Types>) -> Append {
        Append {
            leader: request.vote.into(),
            previous: positions(request.prev_log_id),
            entries: request.entries.iter().map(EntryRecord::from).collect(),
            committed: positions(request.leader_commit),
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<Types> {
    type Error = IncompleteMembership;

    fn try_from(append: Append) -> Result<Self, IncompleteMembership> {
        let entries: Result<Vec<Entry>, _> = append
            .entries
            .into_iter()
            .map(EntryRecord::into_entry)
            .collect();
        Ok(AppendEntriesRequest {
            vote: append.leader.into(),
            prev_log_id: log_ids(append.previous),
            entries: entries?,
            leader_commit: log_ids(append.committed),
        })
    }
}

impl From<AppendEntriesResponse<Types>> for AppendAnswer {
    fn from(response: AppendEntriesResponse<Types>) -> AppendAnswer {
        match response {
            AppendEntriesResponse::Success => AppendAnswer::Success,
            AppendEntriesResponse::PartialSuccess(upto) => AppendAnswer::Partial(positions(upto)),
            AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote(vote.into()),
        }
    }
}

impl From<AppendAnswer> for AppendEntriesResponse<Types> {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Success => AppendEntriesResponse::Success,
            AppendAnswer::Partial(upto) => AppendEntriesResponse::PartialSuccess(log_ids(upto)),
            AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
            AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        }
    }
}

impl From<&VoteRequest<Types>> for Ballot {
    fn from(request: &VoteRequest<Types>) -> Ballot {
        Ballot {
            vote: request.vote.into(),
            last: positions(request.last_log_id),
            transfer: request.leadership_transfer,
        }
    }
}

impl From<Ballot> for VoteRequest<Types> {
    fn from(ballot: Ballot) -> Self {
        VoteRequest {
            vote: ballot.vote.into(),
            last_log_id: log_ids(ballot.last),
            leadership_transfer: ballot.transfer,
        }
    }
}

impl From<VoteResponse<Types>> for VoteAnswer {
    fn from(response: VoteResponse<Types>) -> VoteAnswer {
        VoteAnswer {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last: positions(response.last_log_id),
        }
    }
}

impl From<VoteAnswer> for VoteResponse<Types> {
    fn from(answer: VoteAnswer) -> Self {
        VoteResponse::new(
            Vote::from(answer.vote),
            log_ids(answer.last),
            answer.granted,
        )
    }
}

impl From<&TransferLeaderRequest<Types>> for Transfer {
    fn from(request: &TransferLeaderRequest<Types>) -> Transfer {
        Transfer {
            leader: (*request.from_leader()).into(),
            heir: *request.to_node_id(),
            last: request.last_log_id().copied().map(Position::from),
        }
    }
}

impl From<Transfer> for TransferLeaderRequest<Types> {
    fn from(transfer: Transfer) -> Self {
        TransferLeaderRequest::new(
            transfer.leader.into(),
            transfer.heir,
            log_ids(transfer.last),
        )
    }
}

impl From<TransferLeaderResponse<Types>> for TransferAnswer {
    fn from(response: TransferLeaderResponse<Types>) -> TransferAnswer {
        match response {
            Ok(()) => TransferAnswer::Accepted,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                TransferAnswer::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                TransferAnswer::NotFlushed {
                    expected: positions(expected),
                    actual: positions(actual),
                }
            }
        }
    }
}

impl From<TransferAnswer> for TransferLeaderResponse<Types> {
    fn from(answer: TransferAnswer) -> Self {
        match answer {
            TransferAnswer::Accepted => Ok(()),
            TransferAnswer::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferAnswer::NotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: log_ids(expected),
                    actual: log_ids(actual),
                })
            }
        }
    }
}
