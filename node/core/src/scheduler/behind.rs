//! Placements, written behind to the log in batches, so that the next
//! scheduler knows whom to wait for.

use super::{Effect, Scheduler, names::Seat, reconcile::MayPlace};
use crate::cluster::{Cluster, Command, Placement, SLOTS_MAX};
use potluck_specs::{Millis, NodeId};
use std::collections::BTreeSet;

/// Between two batches: a few entries a second, whatever happens.
const EVERY: Millis = Millis(200);

/// Most slots in a batch: some 100 KB, well below the log's limit for one
/// message.
const BATCH: usize = 500;

/// A proposal that has not been applied by now was lost with its leader, or
/// waits; proposing it again does no harm.
const CHECK_AFTER: Millis = Millis(2_000);

#[derive(Debug, Default)]
pub(super) struct Behind {
    dirty: BTreeSet<Seat>,
    proposed: BTreeSet<Seat>,
    proposed_at: Millis,
    /// Something waits for the log.
    urgent: bool,
}

impl Behind {
    pub(super) fn touch(&mut self, seat: Seat) {
        self.dirty.insert(seat);
    }

    /// An award waits until the log knows of this slot.
    pub(super) fn hurry(&mut self, seat: Seat) {
        if !self.proposed.contains(&seat) {
            self.dirty.insert(seat);
            self.urgent = true;
        }
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }
}

impl Scheduler {
    /// Proposes what changed. Due with each tick, and at once when an award
    /// waits for it.
    pub(super) fn write_behind(&mut self, cluster: &Cluster, now: Millis) {
        let urgent = std::mem::take(&mut self.behind.urgent);
        if !urgent && now.since(self.behind.proposed_at) < EVERY {
            return;
        }
        if now.since(self.behind.proposed_at) >= CHECK_AFTER {
            let unconfirmed = std::mem::take(&mut self.behind.proposed);
            self.behind.dirty.extend(unconfirmed);
        }
        let mut filled = Vec::new();
        let mut freed = Vec::new();
        while filled.len() + freed.len() < BATCH {
            let Some(seat) = self.behind.dirty.pop_first() else {
                break;
            };
            match self.placement_to_record(cluster, seat) {
                None => continue,
                Some(Some(placement)) => filled.push(placement),
                Some(None) => freed.push(self.names.slot(seat)),
            }
            self.behind.proposed.insert(seat);
        }
        if filled.is_empty() && freed.is_empty() {
            return;
        }
        self.behind.proposed_at = now;
        let reign = self.authority.reign;
        self.out.push(Effect::Propose {
            command: Box::new(Command::RecordPlacements {
                reign,
                filled,
                freed,
            }),
        });
    }

    /// `None`: the log says it already, or it is not known yet.
    fn placement_to_record(&self, cluster: &Cluster, seat: Seat) -> Option<Option<Placement>> {
        if !self.catalog.has(seat.job) || seat.index >= SLOTS_MAX {
            return None;
        }
        let recorded = self.recorded(cluster, seat);
        let actual = match (self.kept(seat), self.awards.get(seat)) {
            (Some((node, report)), _) => Some((node, report.generation)),
            (None, Some(award)) => Some((award.node, award.generation)),
            (None, None) => None,
        };
        let waited_for = |node: NodeId| {
            recorded
                .is_some_and(|recorded| recorded.node != node && !self.has_told_all(recorded.node))
        };
        match actual {
            // The record is all that says that another holder has to be heard
            // first: what is seen of the slot may be a leftover.
            Some((node, _)) if waited_for(node) => None,
            Some((node, generation)) => {
                let known = recorded.is_some_and(|r| (r.node, r.generation) == (node, generation));
                (!known).then(|| {
                    Some(Placement {
                        slot: self.names.slot(seat),
                        node,
                        generation,
                    })
                })
            }
            None if recorded.is_none() => None,
            // While the hosts are being asked the record is what says that its
            // holder, and no other, had to be waited for.
            None if !self.asked => None,
            None => (self.may_place(cluster, seat) == MayPlace::Yes).then_some(None),
        }
    }
}
