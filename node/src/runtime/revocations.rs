//! Certificates that are not accepted any more. Nodes that follow the log read
//! it; the others learn from the answers to their heartbeats that the list has
//! changed, and ask for it. So it reaches every node within a second or two.

use super::{relay, shared::Shared};
use crate::wire::{Request, Response};
use potluck_core::{cluster::Cluster, relay::Way};
use potluck_specs::NodeId;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Serials that are taken from a scheduler: what the log holds at most.
const SERIALS_MAX: usize = 65_536;

/// How long the list may take to come.
const LIST_WAIT: Duration = Duration::from_secs(2);

/// The lists that are known here.
#[derive(Default)]
pub(super) struct Revocations(Mutex<Lists>);

#[derive(Default)]
struct Lists {
    /// The newest that a scheduler has told.
    told: List,
    /// That of this node's log, as of the last look.
    logged: List,
}

#[derive(Default)]
struct List {
    serials: BTreeSet<u64>,
    revision: Option<u64>,
}

impl List {
    fn new(serials: BTreeSet<u64>) -> List {
        List {
            revision: Some(revision(&serials)),
            serials,
        }
    }
}

impl Revocations {
    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node's log holds now. Returns all that is known: a list that
    /// lags behind can take nothing back that the other has.
    fn look(&self, logged: BTreeSet<u64>) -> BTreeSet<u64> {
        let mut lists = self.lock();
        if lists.logged.revision.is_none() || lists.logged.serials != logged {
            lists.logged = List::new(logged);
        }
        lists
            .logged
            .serials
            .union(&lists.told.serials)
            .copied()
            .collect()
    }

    /// The name of the list of this node's log, as of the last look.
    pub(super) fn revision(&self) -> u64 {
        let logged = self.lock().logged.revision;
        logged.unwrap_or_else(|| revision(&BTreeSet::new()))
    }

    /// Is this list here?
    fn has(&self, revision: u64) -> bool {
        let lists = self.lock();
        [lists.told.revision, lists.logged.revision].contains(&Some(revision))
    }

    /// What a scheduler has told.
    #[cfg(test)]
    pub(super) fn told(&self) -> BTreeSet<u64> {
        self.lock().told.serials.clone()
    }

    /// As if this node had just started, and followed no log.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        *self.lock() = Lists::default();
    }

    fn learn(&self, serials: Vec<u64>) {
        let serials = serials.into_iter().take(SERIALS_MAX).collect();
        self.lock().told = List::new(serials);
    }
}

/// Names a list: equal lists have equal names.
fn revision(serials: &BTreeSet<u64>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for serial in serials {
        hasher.update(&serial.to_be_bytes());
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_be_bytes(first)
}

/// The list of this node's log, in order.
pub(super) fn all(shared: &Shared) -> Vec<u64> {
    shared
        .control
        .read(|state: &Cluster| state.revoked().keys().copied().collect())
}

/// Fetches the scheduler's list if it is another than this node's.
pub(super) async fn catch_up(shared: &Arc<Shared>, way: Way, leader: NodeId, wanted: u64) {
    if shared.revocations.has(wanted) {
        return;
    }
    let list = relay::ask_by(shared, way, leader, Request::Revocations, LIST_WAIT).await;
    if let Ok(Response::Revocations(serials)) = list {
        tracing::info!(
            count = serials.len(),
            "revocations learnt from the scheduler"
        );
        shared.revocations.learn(serials);
        obey(shared);
    }
}

/// Closes the door to all whose certificates are revoked.
pub(super) fn obey(shared: &Shared) {
    let serials = shared.revocations.look(all(shared).into_iter().collect());
    shared.gossip.set_revoked(serials.clone());
    shared.network.set_revoked(serials);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(serials: &[u64]) -> BTreeSet<u64> {
        serials.iter().copied().collect()
    }

    #[test]
    fn a_list_is_known_by_its_name() {
        let revocations = Revocations::default();
        assert_eq!(revocations.revision(), revision(&set(&[])));
        let wanted = revision(&set(&[3, 5]));
        assert!(!revocations.has(wanted));
        revocations.learn(vec![5, 3]);
        assert!(revocations.has(wanted), "order is no difference");
        for other in [&[3][..], &[3, 6], &[3, 5, 7]] {
            assert!(!revocations.has(revision(&set(other))), "{other:?}");
        }
        // Whoever follows the log need not ask.
        revocations.look(set(&[8]));
        assert!(revocations.has(revision(&set(&[8]))));
        assert_eq!(revocations.revision(), revision(&set(&[8])));
    }

    #[test]
    fn neither_list_takes_back_what_the_other_has() {
        let revocations = Revocations::default();
        revocations.learn(vec![1]);
        assert_eq!(revocations.look(set(&[2])), set(&[1, 2]));
        assert_eq!(revocations.look(set(&[])), set(&[1]));
    }

    #[test]
    fn a_scheduler_can_fill_no_memory() {
        let revocations = Revocations::default();
        let most = SERIALS_MAX as u64;
        revocations.learn((0..most + 10).collect());
        assert_eq!(revocations.look(set(&[])).len(), SERIALS_MAX);
    }
}
