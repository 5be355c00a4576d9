//! Drains: until when a node may take to give up what it has, and how far it
//! is. How tasks leave is `moves`' part.

use super::{Scheduler, batch::ends, names::Seat};
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
    /// It is work that ends, and is left until it has.
    Ends,
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
        let held = host.slots.iter().copied().filter(|seat| {
            let mut holders = self.picture.holders(*seat);
            holders.any(|(holder, _)| holder == node)
        });
        let mut left: Vec<(SlotId, DrainWait)> = held
            .map(|seat| (self.names.slot(seat), self.drain_wait(cluster, seat, node)))
            .collect();
        left.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(DrainView {
            left,
            deadline: cluster.drain_deadline(node),
        })
    }

    fn drain_wait(&self, cluster: &Cluster, seat: Seat, node: NodeId) -> DrainWait {
        if self.stops.contains_key(&(seat, node)) {
            return DrainWait::Stopping;
        }
        if !self.catalog.has(seat.job) {
            return DrainWait::Recovered;
        }
        if self.catalog.running(seat.job).is_some_and(|job| ends(job)) {
            return DrainWait::Ends;
        }
        if self.is_exclusive(seat.job) {
            // It is stopped as soon as somebody could take it.
            return DrainWait::NoPlace;
        }
        let surge = self.surges.get(seat);
        let awarded = self.awards.get(seat).map(|award| award.node);
        match (surge, awarded.or(self.next_of_surge(seat))) {
            (Some(_), Some(on)) => DrainWait::Starting { on },
            (Some(surge), None) if surge.reason == StopReason::Drained => {
                let book = self.book(cluster, seat.job);
                match book.is_none_or(|book| book.may_disrupt(&seat.index).is_ok()) {
                    true => DrainWait::NoPlace,
                    false => DrainWait::Budget,
                }
            }
            _ => DrainWait::ItsTurn,
        }
    }
}
