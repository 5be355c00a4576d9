//! `potluck cluster recover`: what a survivor says of itself, the signed order
//! to go on alone, and how everybody checks it.
//!
//! The order is a [`SignedChange`]: by it an operator raises the epoch, and
//! nothing else does. Hosts that hold to an older epoch believe a later one
//! only with its order, so that no member can silence the schedulers by a
//! number alone.

use super::change::{CHANGE_BYTES_MAX, Change, ChangeError, ChangeRequest, SignedChange};
use potluck_specs::{Epoch, FleetId, Millis, NodeId, codec};
use serde::{Deserialize, Serialize};

/// What an operator ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryOrder {
    /// The epoch to begin.
    pub epoch: Epoch,
    /// The node whose log is gone on with.
    pub survivor: NodeId,
    /// Who ordered it.
    pub author: String,
    /// When, Unix time.
    pub made: Millis,
}

/// Why an order is none.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The change does not hold.
    #[error("the order of the recovery is not accepted")]
    Change(#[from] ChangeError),
    /// It is another change.
    #[error("the change is no order of a recovery")]
    Another,
}

/// Checks an order that was carried out before: its author is judged as of
/// when it was made, since hosts that were off hear of it much later.
///
/// # Errors
/// Any [`OrderError`].
pub fn verify_order(
    signed: &SignedChange,
    fleet: FleetId,
    cluster: &str,
) -> Result<RecoveryOrder, OrderError> {
    let unverified: ChangeRequest =
        codec::decode_canonical("change", &signed.request.bytes, CHANGE_BYTES_MAX)
            .map_err(ChangeError::from)?;
    let (request, author) = signed.verify(fleet, cluster, unverified.made)?;
    let Change::Recover { epoch, survivor } = request.change else {
        return Err(OrderError::Another);
    };
    Ok(RecoveryOrder {
        epoch,
        survivor,
        author: author.user,
        made: request.made,
    })
}

/// What a node that is to go on alone says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryView {
    /// The asked node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// Its present epoch.
    pub epoch: u64,
    /// The one that would begin.
    pub next_epoch: u64,
    /// `voter`, `learner` or `none`.
    pub role: String,
    /// The last entry of its log.
    pub log_index: u64,
    /// The term of that entry.
    pub log_term: u64,
    /// Jobs in its log.
    pub jobs: u32,
    /// Members in its log.
    pub members: u32,
    /// How long ago it heard a scheduler, or as one was confirmed by most
    /// voters, milliseconds; nothing: not since it was started.
    pub leader_heard_ms: Option<u64>,
    /// The voters by its log, itself among them if it is one.
    pub voters: Vec<VoterView>,
    /// Other nodes that are there and have a copy of the log, the one with the
    /// longest first.
    pub copies: Vec<LogCopy>,
    /// It can sign nodes in and renew certificates.
    pub signs_in: bool,
    /// What speaks against it; `--force` overrides.
    pub objections: Vec<String>,
    /// Why it can't be done here at all.
    pub impossible: Option<String>,
}

/// A voter as the survivor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterView {
    /// Its name.
    pub name: String,
    /// It answers, or is the asked node.
    pub is_there: bool,
}

/// A copy of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCopy {
    /// Who has it.
    pub name: String,
    /// Its last entry.
    pub log_index: u64,
    /// The term of that entry.
    pub log_term: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use potluck_specs::ChangeId;

    const MADE: Millis = Millis(1_800_000_000_000);

    fn request(change: Change) -> ChangeRequest {
        ChangeRequest {
            id: ChangeId([1; 16]),
            fleet: testing::fleet(),
            cluster: "main".into(),
            made: MADE,
            change,
        }
    }

    fn order(epoch: u64) -> Change {
        Change::Recover {
            epoch: Epoch(epoch),
            survivor: NodeId([7; 32]),
        }
    }

    #[test]
    fn an_order_holds_for_ever_and_for_its_cluster_alone() {
        let signed = testing::signed_change(MADE, &request(order(2)), true);
        let taken = verify_order(&signed, testing::fleet(), "main").unwrap();
        assert_eq!((taken.epoch, taken.survivor), (Epoch(2), NodeId([7; 32])));
        assert_eq!(taken.made, MADE);
        for (fleet, cluster) in [(testing::fleet(), "other"), (FleetId([1; 32]), "main")] {
            assert!(verify_order(&signed, fleet, cluster).is_err());
        }
    }

    #[test]
    fn an_order_is_signed_by_who_may_operate() {
        let viewer = testing::signed_change(MADE, &request(order(2)), false);
        let refused = verify_order(&viewer, testing::fleet(), "main");
        assert!(
            matches!(
                refused,
                Err(OrderError::Change(ChangeError::Forbidden { .. }))
            ),
            "{refused:?}"
        );
        // The same order with another epoch.
        let mut raised = testing::signed_change(MADE, &request(order(2)), true);
        raised.request.bytes = codec::encode(&request(order(9)));
        let refused = verify_order(&raised, testing::fleet(), "main");
        assert!(
            matches!(refused, Err(OrderError::Change(ChangeError::Signature(_)))),
            "{refused:?}"
        );
        let other = Change::Remove {
            node: NodeId([7; 32]),
        };
        let signed = testing::signed_change(MADE, &request(other), true);
        let refused = verify_order(&signed, testing::fleet(), "main");
        assert!(matches!(refused, Err(OrderError::Another)), "{refused:?}");
    }
}
