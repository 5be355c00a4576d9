//! openraft's network over [`RaftPeers`]: puts messages into envelopes, sends
//! them, and cuts snapshots into parts.
//!
//! All of openraft's optional calls are implemented: by default pre-votes are
//! granted unasked and transfers never arrive.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    RPCTypes, RaftNetworkFactory,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use potluck_specs::{Epoch, FleetId, NodeId, codec};
use tokio::sync::watch;

use super::{
    Member, PeerError, RaftPeers,
    consensus::{Snapshot, SnapshotRecord, StateBytes, Types, Vote, VoteRecord},
    messages::{
        Answer, Append, Ballot, Body, Envelope, MESSAGE_BYTES_MAX, Refusal, SNAPSHOT_PART_BYTES,
        SnapshotPart, Transfer,
    },
};

/// What an append with entries may take beyond openraft's limit, which is one
/// heartbeat: 512 KiB at 4 Mbit/s, or a disk that is slow for a moment. Less
/// would send the same entries over and over.
const APPEND_LIMIT: Duration = Duration::from_secs(1);

/// What every message of this member carries.
pub(super) struct Identity {
    pub(super) fleet: FleetId,
    pub(super) cluster: String,
    pub(super) epoch: Epoch,
    pub(super) raft_id: u64,
    /// The highest epoch above ours that a peer has shown.
    pub(super) superseded_by: watch::Sender<Option<Epoch>>,
}

impl Identity {
    /// A peer has shown a later epoch: only a hint, since peers may lie.
    pub(super) fn saw_epoch(&self, epoch: Epoch) {
        if epoch <= self.epoch {
            return;
        }
        self.superseded_by.send_if_modified(|seen| {
            let news = seen.is_none_or(|seen| seen < epoch);
            if news {
                tracing::warn!(
                    ours = self.epoch.0,
                    theirs = epoch.0,
                    "a peer's control group is of a later epoch"
                );
                *seen = Some(epoch);
            }
            news
        });
    }
}

/// Makes a [`Peer`] for each member.
pub(super) struct Network {
    pub(super) identity: Arc<Identity>,
    pub(super) peers: Arc<dyn RaftPeers>,
}

/// One other member.
pub(super) struct Peer {
    identity: Arc<Identity>,
    peers: Arc<dyn RaftPeers>,
    raft_id: u64,
    node: NodeId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        Peer {
            identity: self.identity.clone(),
            peers: self.peers.clone(),
            raft_id: target,
            node: member.node,
        }
    }
}

impl Peer {
    async fn ask(
        &self,
        action: RPCTypes,
        body: Body,
        limit: Duration,
    ) -> Result<Answer, RPCError<Types>> {
        let message = codec::encode(&Envelope {
            fleet: self.identity.fleet,
            cluster: self.identity.cluster.clone(),
            epoch: self.identity.epoch,
            from: self.identity.raft_id,
            to: self.raft_id,
            body,
        });
        let sent = tokio::time::timeout(limit, self.peers.send(self.node, message, limit)).await;
        let bytes = match sent {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error @ PeerError::Unreachable(_))) => {
                return Err(Unreachable::new(&error).into());
            }
            Err(_) | Ok(Err(PeerError::Timeout(_))) => {
                return Err(Timeout {
                    action,
                    id: self.identity.raft_id,
                    target: self.raft_id,
                    timeout: limit,
                }
                .into());
            }
        };
        match codec::decode("answer", &bytes, MESSAGE_BYTES_MAX) {
            Ok(Answer::Refused(refusal)) => Err(self.refused(&refusal)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(NetworkError::new(&error).into()),
        }
    }

    /// A refusal won't change soon: openraft should wait before it tries
    /// again, so it is reported like a peer that is away.
    fn refused(&self, refusal: &Refusal) -> RPCError<Types> {
        if let Refusal::OlderEpoch { epoch } = refusal {
            self.identity.saw_epoch(*epoch);
        }
        tracing::debug!(node = %self.node, raft_id = self.raft_id, error = %refusal, "a member refused a message");
        Unreachable::new(refusal).into()
    }

    async fn ballot(
        &self,
        body: Body,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, body, option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer.into()),
            other => Err(unexpected(&other)),
        }
    }

    async fn send_parts(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        limit: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut attempt = [0; 8];
        getrandom::fill(&mut attempt)
            .map_err(|error| StreamingError::Unreachable(Unreachable::from_string(error)))?;
        let leader = VoteRecord::from(vote);
        let record = SnapshotRecord::from(&snapshot.meta);
        let state = snapshot.snapshot;
        let mut offset = 0;
        loop {
            let end = state.len().min(offset + SNAPSHOT_PART_BYTES);
            let part = SnapshotPart {
                attempt: u64::from_be_bytes(attempt),
                leader,
                snapshot: record.clone(),
                bytes_total: state.len() as u64,
                offset: offset as u64,
                bytes: state[offset..end].to_vec(),
            };
            let answer = self
                .ask(RPCTypes::InstallSnapshot, Body::Snapshot(part), limit)
                .await?;
            match answer {
                Answer::SnapshotDone(vote) => return Ok(SnapshotResponse::new(vote.into())),
                Answer::SnapshotContinue if end < state.len() => offset = end,
                other => return Err(unexpected(&other).into()),
            }
        }
    }
}

fn unexpected(answer: &Answer) -> RPCError<Types> {
    let kind = match answer {
        Answer::Append(_) => "append",
        Answer::Vote(_) => "vote",
        Answer::Transfer(_) => "transfer",
        Answer::SnapshotContinue | Answer::SnapshotDone(_) => "snapshot",
        Answer::Refused(_) => "refusal",
    };
    NetworkError::from_string(format!("an answer of the wrong kind: {kind}")).into()
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = StateBytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let body = Body::Append(Append::from(&rpc));
        let limit = match rpc.entries.is_empty() {
            true => option.soft_ttl(),
            false => option.soft_ttl() + APPEND_LIMIT,
        };
        let answer = self.ask(RPCTypes::AppendEntries, body, limit).await?;
        match answer {
            Answer::Append(answer) => Ok(answer.into()),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ballot(Body::Vote(Ballot::from(&rpc)), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ballot(Body::PreVote(Ballot::from(&rpc)), &option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            done = self.send_parts(vote, snapshot, option.soft_ttl()) => done,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = Body::Transfer(Transfer::from(&request));
        let answer = self
            .ask(RPCTypes::TransferLeader, body, option.soft_ttl())
            .await?;
        match answer {
            Answer::Transfer(answer) => Ok(answer.into()),
            other => Err(unexpected(&other)),
        }
    }
}
