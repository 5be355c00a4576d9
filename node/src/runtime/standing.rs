//! Whether this node is still a member, and the only one of its key. One that
//! is not ends with a clear error instead of running on beside the cluster.

use super::shared::Shared;
use crate::{
    api::error::{ApiError, ErrorCode},
    clock,
    network::RefusalCode,
};
use potluck_core::cluster::Cluster;
use potluck_specs::Millis;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the node looks.
const LOOK: Duration = Duration::from_secs(1);

/// How long it must look so: `potluck leave` stops the process itself, and a
/// member that lags behind may refuse a certificate for a moment.
const CERTAIN_AFTER: Millis = Millis(5_000);

/// Why a node ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeEnded {
    /// It is no member any more.
    #[error("this node was put out of the cluster: its certificate is revoked")]
    PutOut,
    /// Another process of the same key came first.
    #[error("another process runs with this node's key, and was there first")]
    Twin,
    /// An operator ordered it to go on alone: it starts anew and does.
    #[error("the cluster is recovered from this node")]
    Recover,
    /// The cluster was recovered elsewhere: it starts anew and follows.
    #[error("the cluster was recovered, as a later epoch")]
    NewEpoch,
}

impl NodeEnded {
    /// Is the node to be started again at once?
    pub fn starts_anew(self) -> bool {
        matches!(self, NodeEnded::Recover | NodeEnded::NewEpoch)
    }

    /// For the person who started it.
    pub fn to_api_error(self) -> ApiError {
        let hint = match self {
            NodeEnded::PutOut => {
                "its tasks end with the agent lease; to come in again, start it on an \
                 empty data folder (--data) with --join ADDRESS and a new --token"
            }
            NodeEnded::Twin => {
                "was its data folder copied? each host needs a folder of its own: start \
                 this one on an empty one (--data) with --join ADDRESS --token TOKEN"
            }
            NodeEnded::Recover | NodeEnded::NewEpoch => "start it again: its tasks go on",
        };
        ApiError::new(ErrorCode::Denied, self.to_string()).hint(hint)
    }
}

/// What can be seen at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sight {
    /// This node's log has the revocation of its certificate.
    revoked_in_log: bool,
    /// Members that call its certificate revoked.
    revoked_by: usize,
    /// Members that admit it.
    admitted_by: usize,
}

impl Sight {
    /// A few liars can't put a node out: one member that admits it is enough.
    fn looks_put_out(self) -> bool {
        self.revoked_in_log || (self.revoked_by > 0 && self.admitted_by == 0)
    }
}

/// Since when it looks as if this node had been put out.
#[derive(Debug, Default)]
struct Standing(Option<Millis>);

impl Standing {
    /// Is it certain now?
    fn is_put_out(&mut self, sight: Sight, now: Millis) -> bool {
        if !sight.looks_put_out() {
            self.0 = None;
            return false;
        }
        now.since(*self.0.get_or_insert(now)) >= CERTAIN_AFTER
    }
}

/// Looks until told to stop.
pub(super) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut standing = Standing::default();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = looks.tick() => {}
        }
        let now = clock::boot_now();
        let acked_at = shared.control.last_quorum_ack();
        shared.quorum_seen.note(shared.we_lead(), acked_at, now);
        if standing.is_put_out(sight(&shared), now) {
            tracing::error!("this node was put out of the cluster, it ends");
            let ended = &shared.ended;
            ended.send_if_modified(|why| why.replace(NodeEnded::PutOut).is_none());
        }
    }
}

fn sight(shared: &Shared) -> Sight {
    let credential = shared.admission.credential();
    let serial = credential
        .verify(shared.me.fleet, clock::unix_now(), Millis(u64::MAX / 2))
        .map(|certificate| certificate.serial);
    let refusals = shared.network.refusals();
    Sight {
        revoked_in_log: serial.is_ok_and(|serial| {
            let revoked = |state: &Cluster| state.is_revoked(serial);
            shared.control.read(revoked)
        }),
        revoked_by: refusals
            .values()
            .filter(|code| **code == RefusalCode::Revoked)
            .count(),
        admitted_by: shared.network.admitted_by(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(revoked_in_log: bool, revoked_by: usize, admitted_by: usize) -> Sight {
        Sight {
            revoked_in_log,
            revoked_by,
            admitted_by,
        }
    }

    #[test]
    fn a_node_is_put_out_by_its_log_or_by_all_whom_it_reaches() {
        let table = [
            (sight(false, 0, 0), false, "alone"),
            (sight(false, 0, 3), false, "a member"),
            (sight(false, 1, 3), false, "one liar"),
            (sight(false, 1, 0), true, "refused by all"),
            (sight(true, 0, 0), true, "by its log"),
            (sight(true, 0, 2), true, "by its log, others lag behind"),
        ];
        for (sight, expected, what) in table {
            let mut standing = Standing::default();
            assert!(
                !standing.is_put_out(sight, Millis(1_000)),
                "{what}: at once"
            );
            let later = Millis(1_000) + CERTAIN_AFTER;
            assert_eq!(standing.is_put_out(sight, later), expected, "{what}");
        }
    }

    #[test]
    fn a_moment_of_doubt_passes() {
        let mut standing = Standing::default();
        assert!(!standing.is_put_out(sight(false, 1, 0), Millis(0)));
        assert!(!standing.is_put_out(sight(false, 1, 1), Millis(3_000)));
        assert!(!standing.is_put_out(sight(false, 1, 0), Millis(5_000)));
        assert!(!standing.is_put_out(sight(false, 1, 0), Millis(9_999)));
        assert!(standing.is_put_out(sight(false, 1, 0), Millis(10_000)));
    }
}
