//! Answers to people: what is where. Why it is there stands in `explanation`.

use super::{
    HostView, Scheduler, SessionState, SlotPhase, SlotView, exclusive::Bound, names::Seat,
    reconcile::MayPlace,
};
use crate::cluster::Cluster;
use potluck_specs::{NodeId, SlotId, job::JobKind};
use std::collections::BTreeSet;

impl Scheduler {
    /// Hosts that the brake holds back, for `status`; empty while it is off.
    pub fn braked(&self) -> Vec<NodeId> {
        if !self.brake.is_on() {
            return Vec::new();
        }
        self.picture
            .hosts
            .iter()
            .filter(|(_, host)| host.suspected_at.is_some() && !host.lost)
            .map(|(node, _)| *node)
            .collect()
    }

    /// Every member as the scheduler sees it, in order.
    pub fn hosts(&self, cluster: &Cluster) -> Vec<HostView> {
        let braked: BTreeSet<NodeId> = self.braked().into_iter().collect();
        self.picture
            .hosts
            .iter()
            .map(|(node, host)| HostView {
                node: *node,
                session: host.state,
                heard_at: host.heard_at,
                free: host.free,
                total: host.total,
                draining: host.draining || cluster.members().get(node).is_some_and(|m| m.draining),
                slots: host.slots.len() as u32,
                braked: braked.contains(node),
            })
            .collect()
    }

    /// How a member stands, for choosing voters and for `status`.
    pub fn session(&self, node: NodeId) -> Option<SessionState> {
        self.picture.hosts.get(&node).map(|host| host.state)
    }

    /// Every slot that is wanted or filled, in order.
    pub fn slots(&self, cluster: &Cluster) -> Vec<SlotView> {
        let mut all: BTreeSet<SlotId> = self
            .picture
            .slots()
            .map(|seat| self.names.slot(seat))
            .collect();
        for (name, record) in cluster.jobs().iter().filter(|(_, r)| !r.stopped) {
            let slot = |index| SlotId {
                job: name.clone(),
                index,
            };
            let indexes: Box<dyn Iterator<Item = u32>> = match cluster.batch(name) {
                Some(batch) => Box::new(batch.turn()),
                None => Box::new(0..record.current().replicas),
            };
            all.extend(indexes.map(slot));
            // One on each node that suits: as many as were last counted.
            if let Some(target) = self.target(cluster, self.names.id(name))
                && target.current().kind == JobKind::PerNode
            {
                all.extend(self.slots_last_wanted(&target).indexes().map(slot));
            }
        }
        all.iter().map(|slot| self.slot(cluster, slot)).collect()
    }

    /// One slot.
    pub fn slot(&self, cluster: &Cluster, slot: &SlotId) -> SlotView {
        let seat = self.names.seat(slot);
        SlotView {
            slot: slot.clone(),
            phase: self.phase(cluster, seat),
            holders: self
                .picture
                .reports(seat)
                .map(|(node, report)| (node, report.clone()))
                .collect(),
            volumes_left: self
                .picture
                .holders(seat)
                .find_map(|(node, _)| self.tallies.left(seat, node)),
        }
    }

    fn phase(&self, cluster: &Cluster, seat: Seat) -> SlotPhase {
        let kept = self.kept(seat);
        let kept = kept.filter(|(node, _)| !self.has_lapsed(cluster, seat, *node));
        if let Some((node, _)) = kept {
            if let Some(left) = self.lease_of_silent(cluster, seat, node) {
                let holder = Some(node);
                return SlotPhase::Lease { holder, left };
            }
            return match self.stops.contains_key(&(seat, node)) {
                true => SlotPhase::Stopping,
                false => SlotPhase::Held,
            };
        }
        if let Some(award) = self.awards.get(seat) {
            return SlotPhase::Awarded {
                node: award.node,
                generation: award.generation,
            };
        }
        let target = self.target(cluster, seat.job);
        if target.is_none_or(|target| !self.is_wanted(&target, seat.index)) {
            return SlotPhase::Unwanted;
        }
        if let MayPlace::Wait { holder } = self.may_place(cluster, seat) {
            return SlotPhase::Waiting { holder };
        }
        if let MayPlace::Lease(Bound { holder, until }) = self.may_place(cluster, seat) {
            let left = until.since(self.now);
            return SlotPhase::Lease { holder, left };
        }
        let called = self.works.get(seat.job).and_then(|work| work.call);
        match called.and_then(|call| self.calls.get(call)) {
            Some(open) if open.slots.contains(&seat) => SlotPhase::Calling,
            _ => SlotPhase::Missing,
        }
    }
}
