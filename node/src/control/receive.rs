//! The receiving side: checks envelopes, hands messages to openraft, and puts
//! snapshots together from their parts.
//!
//! A message is looked at only if it is of our fleet, cluster and epoch, meant
//! for our Raft id, sent by the node that the sender's Raft id belongs to (as
//! far as the membership here knows it), and speaks in the sender's own name.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use openraft::{Raft, async_runtime::WatchReceiver, errors::Fatal};
use potluck_specs::{Millis, NodeId, codec};

use super::{
    Replicated,
    consensus::{SnapshotMeta, SnapshotRecord, Types, VoteRecord},
    messages::{
        Answer, Append, AppendAnswer, Body, Envelope, MESSAGE_BYTES_MAX, Refusal,
        SNAPSHOT_PART_BYTES, SnapshotPart, Transfer,
    },
    network::Identity,
    store::state::{SNAPSHOT_BYTES_MAX, StateStore},
};
use crate::clock;

/// What is kept between messages.
#[derive(Default)]
pub(super) struct Incoming {
    /// At most one unfinished snapshot. A new attempt replaces it.
    unfinished: Mutex<Option<Unfinished>>,
    /// When a leader's message was last accepted, time since boot; 0 before.
    leader_contact_ms: AtomicU64,
}

struct Unfinished {
    attempt: u64,
    from: u64,
    snapshot: SnapshotRecord,
    bytes_total: u64,
    state: Vec<u8>,
}

impl Incoming {
    /// When a leader's message was last accepted, time since boot.
    pub(super) fn leader_contact(&self) -> Option<Millis> {
        let at = self.leader_contact_ms.load(Ordering::Relaxed);
        (at > 0).then_some(Millis(at))
    }

    /// Answers one message.
    pub(super) async fn answer<S: Replicated>(
        &self,
        raft: &Raft<Types, StateStore<S>>,
        identity: &Identity,
        from: NodeId,
        message: &[u8],
    ) -> Answer {
        let checked = codec::decode::<Envelope>("message", message, MESSAGE_BYTES_MAX)
            .map_err(|error| {
                tracing::debug!(node = %from, error = %error, "unreadable message");
                Refusal::Unreadable
            })
            .and_then(|envelope| check(raft, identity, from, envelope));
        let answered = match checked {
            Ok((sender, body)) => self.dispatch(raft, sender, body).await,
            Err(refusal) => Err(refusal),
        };
        if let Ok(
            Answer::Append(AppendAnswer::Success | AppendAnswer::Partial(_))
            | Answer::SnapshotContinue,
        ) = &answered
        {
            let now = clock::boot_now().0;
            self.leader_contact_ms.fetch_max(now, Ordering::Relaxed);
        }
        answered.unwrap_or_else(|refusal| {
            tracing::debug!(node = %from, error = %refusal, "refused a message");
            Answer::Refused(refusal)
        })
    }

    async fn dispatch<S: Replicated>(
        &self,
        raft: &Raft<Types, StateStore<S>>,
        sender: u64,
        body: Body,
    ) -> Result<Answer, Refusal> {
        match body {
            Body::Append(append) => receive_append(raft, append).await,
            Body::Vote(ballot) => {
                let response = raft.vote(ballot.into()).await;
                let response = response.map_err(|_| Refusal::Stopped)?;
                Ok(Answer::Vote(response.into()))
            }
            Body::PreVote(ballot) => {
                let response = raft.pre_vote(ballot.into()).await;
                let response = response.map_err(|_| Refusal::Stopped)?;
                Ok(Answer::Vote(response.into()))
            }
            Body::Transfer(transfer) => receive_transfer(raft, transfer).await,
            Body::Snapshot(part) => self.receive_part(raft, sender, part).await,
        }
    }

    async fn receive_part<S: Replicated>(
        &self,
        raft: &Raft<Types, StateStore<S>>,
        sender: u64,
        part: SnapshotPart,
    ) -> Result<Answer, Refusal> {
        let leader = part.leader;
        let Some((snapshot, state)) = self.collect(sender, part)? else {
            return Ok(Answer::SnapshotContinue);
        };
        let meta = SnapshotMeta::try_from(snapshot).map_err(|_| Refusal::Unreadable)?;
        let snapshot = openraft::Snapshot {
            meta,
            snapshot: Arc::new(state),
        };
        let installed = raft.install_full_snapshot(leader.into(), snapshot).await;
        let response = installed.map_err(|_: Fatal<Types>| Refusal::Stopped)?;
        Ok(Answer::SnapshotDone(response.vote.into()))
    }

    /// Adds a part; gives the whole once it is there.
    fn collect(
        &self,
        sender: u64,
        part: SnapshotPart,
    ) -> Result<Option<(SnapshotRecord, Vec<u8>)>, Refusal> {
        if part.bytes_total > SNAPSHOT_BYTES_MAX as u64 || part.bytes.len() > SNAPSHOT_PART_BYTES {
            return Err(Refusal::Unreadable);
        }
        let mut slot = self
            .unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if part.offset == 0 {
            *slot = Some(Unfinished {
                attempt: part.attempt,
                from: sender,
                snapshot: part.snapshot,
                bytes_total: part.bytes_total,
                state: Vec::new(),
            });
        }
        let unfinished = slot
            .as_mut()
            .filter(|unfinished| {
                unfinished.attempt == part.attempt
                    && unfinished.from == sender
                    && unfinished.bytes_total == part.bytes_total
                    && unfinished.state.len() as u64 == part.offset
                    && part.offset + part.bytes.len() as u64 <= part.bytes_total
            })
            .ok_or(Refusal::OutOfOrder)?;
        unfinished.state.extend_from_slice(&part.bytes);
        if (unfinished.state.len() as u64) < unfinished.bytes_total {
            return Ok(None);
        }
        Ok(slot.take().map(|whole| (whole.snapshot, whole.state)))
    }
}

fn check<S: Replicated>(
    raft: &Raft<Types, StateStore<S>>,
    identity: &Identity,
    from: NodeId,
    envelope: Envelope,
) -> Result<(u64, Body), Refusal> {
    if envelope.fleet != identity.fleet || envelope.cluster != identity.cluster {
        return Err(Refusal::Foreign);
    }
    if envelope.epoch < identity.epoch {
        return Err(Refusal::OlderEpoch {
            epoch: identity.epoch,
        });
    }
    if envelope.epoch > identity.epoch {
        identity.saw_epoch(envelope.epoch);
        return Err(Refusal::NewerEpoch {
            epoch: identity.epoch,
        });
    }
    if envelope.to != identity.raft_id {
        return Err(Refusal::NotMe);
    }
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let known = metrics.membership_config.get_node(&envelope.from);
    let speaker = speaker(&envelope.body).raft_id;
    if known.is_some_and(|member| member.node != from) || speaker != envelope.from {
        return Err(Refusal::NotYou);
    }
    Ok((envelope.from, envelope.body))
}

/// In whose name a message speaks.
fn speaker(body: &Body) -> VoteRecord {
    match body {
        Body::Append(append) => append.leader,
        Body::Vote(ballot) | Body::PreVote(ballot) => ballot.vote,
        Body::Transfer(transfer) => transfer.leader,
        Body::Snapshot(part) => part.leader,
    }
}

async fn receive_append<S: Replicated>(
    raft: &Raft<Types, StateStore<S>>,
    append: Append,
) -> Result<Answer, Refusal> {
    let request = append.try_into().map_err(|_| Refusal::Unreadable)?;
    let response = raft.append_entries(request).await;
    let response = response.map_err(|_| Refusal::Stopped)?;
    Ok(Answer::Append(response.into()))
}

async fn receive_transfer<S: Replicated>(
    raft: &Raft<Types, StateStore<S>>,
    transfer: Transfer,
) -> Result<Answer, Refusal> {
    let response = raft.handle_transfer_leader(transfer.into()).await;
    let response = response.map_err(|_| Refusal::Stopped)?;
    Ok(Answer::Transfer(response.into()))
}
