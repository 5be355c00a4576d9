//! Drains: until when a node may take to give up what it has, and how far it
//! is. How tasks leave is `moves`' part.

use super::Scheduler;
use crate::{auction::StopReason, cluster::Cluster};
use potluck_specs::{Millis, NodeId, SlotId};

/// How far the drain of a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainView {
    /// What is still there, each with why it is.
    pub left: Vec<(SlotId, DrainWait)>,
    /// Until then; Unix time.
    pub deadline: Option<Millis>,
}

/// Why a task is still on a node that is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainWait {
    /// It is being stopped.
    Stopping,
    /// Its next task is being started there.
    Starting {
        /// Where.
        on: NodeId,
    },
    /// Nobody has taken its next task yet.
    NoPlace,
    /// Others of its job are on the move; it is one of the next.
    ItsTurn,
    /// The job's budget is spent by slots that are down.
    Budget,
    /// Its job is not in the log: only a person stops it.
    Recovered,
}

impl Scheduler {
    /// Is the time over that a drain of the node may take?
    pub(super) fn drain_is_over(&self, cluster: &Cluster, node: NodeId, now: Millis) -> bool {
        let unix_now = now + self.config.unix_offset;
        cluster
            .drain_deadline(node)
            .is_some_and(|deadline| unix_now >= deadline)
    }

    /// How far the drain of a node is; nothing if it is not a member.
    pub fn drain_view(&self, cluster: &Cluster, node: NodeId) -> Option<DrainView> {
        let host = self.picture.hosts.get(&node)?;
        let held = host.slots.iter().filter(|slot| {
            let holders = self.picture.holders(slot);
            holders.iter().any(|(holder, _)| *holder == node)
        });
        Some(DrainView {
            left: held
                .map(|slot| (slot.clone(), self.drain_wait(cluster, slot, node)))
                .collect(),
            deadline: cluster.drain_deadline(node),
        })
    }

    fn drain_wait(&self, cluster: &Cluster, slot: &SlotId, node: NodeId) -> DrainWait {
        if self.stops.contains_key(&(slot.clone(), node)) {
            return DrainWait::Stopping;
        }
        if !cluster.jobs().contains_key(&slot.job) {
            return DrainWait::Recovered;
        }
        let surge = self.surges.get(slot);
        let awarded = self.awards.get(slot).map(|award| award.node);
        match (surge, awarded.or(self.next_of_surge(slot))) {
            (Some(_), Some(on)) => DrainWait::Starting { on },
            (Some(surge), None) if surge.reason == StopReason::Drained => {
                match self.may_disrupt(cluster, slot) {
                    Ok(()) => DrainWait::NoPlace,
                    Err(_) => DrainWait::Budget,
                }
            }
            _ => DrainWait::ItsTurn,
        }
    }
}
