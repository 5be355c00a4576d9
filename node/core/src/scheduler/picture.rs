//! The picture: hosts and what they report, as far as the scheduler has heard.
//!
//! Answers for putting reports in order: full ones replace, deltas add, gaps
//! ask for everything. Leaves to `failure` what silence means.

use super::SessionState;
use crate::{
    cluster::Member,
    session::{Heartbeat, SlotReport, TaskState},
};
use potluck_specs::{Generation, JobName, Millis, NodeId, SlotId, job::Resources};
use std::collections::{BTreeMap, BTreeSet};

/// One host, from what it says and from how long it says nothing.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) rack: String,
    pub(super) state: SessionState,
    /// When it was last heard in this reign.
    pub(super) heard_at: Option<Millis>,
    /// A member when the reign began, or heard since: its silence means
    /// something. One that is just joining needs time for its first word.
    pub(super) expected: bool,
    /// Since when it is missed, if it is.
    pub(super) suspected_at: Option<Millis>,
    /// Declared gone, and the brake let go: its slots are free.
    pub(super) lost: bool,
    pub(super) gossip_moved_at: Option<Millis>,
    pub(super) greeted_at: Option<Millis>,
    pub(super) probes: super::failure::Probes,
    incarnation: Option<u64>,
    number: u64,
    /// Everything that it runs is known.
    pub(super) complete: bool,
    /// Reports taken in this reign.
    pub(super) reports: u64,
    pub(super) free: Resources,
    pub(super) total: Resources,
    pub(super) draining: bool,
    pub(super) slots: BTreeSet<SlotId>,
}

impl Host {
    pub(super) fn new(rack: String, expected: bool) -> Host {
        Host {
            rack,
            state: SessionState::Unknown,
            heard_at: None,
            expected,
            suspected_at: None,
            lost: false,
            gossip_moved_at: None,
            greeted_at: None,
            probes: super::failure::Probes::default(),
            incarnation: None,
            number: 0,
            complete: false,
            reports: 0,
            free: Resources::default(),
            total: Resources::default(),
            draining: false,
            slots: BTreeSet::new(),
        }
    }

    /// Asks for everything again.
    pub(super) fn doubt(&mut self) {
        self.complete = false;
    }

    /// Silent since then, or since the reign began.
    pub(super) fn silence(&self, began: Millis, now: Millis) -> Millis {
        now.since(self.heard_at.unwrap_or(began))
    }
}

/// All hosts and all slots that they report.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) hosts: BTreeMap<NodeId, Host>,
    slots: BTreeMap<SlotId, BTreeMap<NodeId, SlotReport>>,
    /// Since when tasks serve that were seen to begin.
    served_since: BTreeMap<(SlotId, NodeId), Millis>,
}

/// What a report changed.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Slots that differ from before.
    pub(super) changed: BTreeSet<SlotId>,
    /// The host has more free than it had, or takes work again.
    pub(super) grew: bool,
    /// What the host may relate its next report to.
    pub(super) confirmed: Option<u64>,
    /// `Stopped` reports, acknowledged.
    pub(super) forget: Vec<(SlotId, Generation)>,
}

impl Picture {
    /// Hosts follow the members; what a removed one held is changed.
    pub(super) fn follow(
        &mut self,
        members: &BTreeMap<NodeId, Member>,
        at_begin: bool,
    ) -> BTreeSet<SlotId> {
        for (node, member) in members {
            let rack = &member.topology.rack;
            match self.hosts.get_mut(node) {
                Some(host) if host.rack == *rack => {}
                Some(host) => host.rack.clone_from(rack),
                None => {
                    let host = Host::new(rack.clone(), at_begin);
                    self.hosts.insert(*node, host);
                }
            }
        }
        if self.hosts.len() == members.len() {
            return BTreeSet::new();
        }
        let left: Vec<NodeId> = self
            .hosts
            .keys()
            .filter(|node| !members.contains_key(node))
            .copied()
            .collect();
        let mut changed = BTreeSet::new();
        for node in left {
            if let Some(host) = self.hosts.remove(&node) {
                for slot in &host.slots {
                    self.drop_report(slot, node);
                }
                changed.extend(host.slots);
            }
        }
        changed
    }

    /// Takes a report of a known host. `None`: not a member, or out of order.
    pub(super) fn take(&mut self, heartbeat: &Heartbeat, now: Millis) -> Option<Taken> {
        let node = heartbeat.node;
        let host = self.hosts.get_mut(&node)?;
        host.heard_at = Some(now);
        host.expected = true;
        let same_life = host.incarnation == Some(heartbeat.incarnation);
        let inventory = &heartbeat.inventory;
        if same_life && inventory.number < host.number {
            return None;
        }
        let mut taken = Taken {
            grew: grew(host, heartbeat),
            ..Taken::default()
        };
        host.free = heartbeat.free;
        host.total = heartbeat.total;
        host.draining = heartbeat.draining;
        let follows = same_life && host.complete;
        match inventory.since {
            None => self.replace(node, &inventory.slots, now, &mut taken.changed),
            Some(since) if follows && since <= host.number => {
                for report in &inventory.slots {
                    self.put(node, report, now, &mut taken.changed);
                }
                for slot in &inventory.gone {
                    self.forget(node, slot, &mut taken.changed);
                }
            }
            Some(_) => {
                host.doubt();
                return Some(taken);
            }
        }
        let host = self.hosts.get_mut(&node)?;
        host.incarnation = Some(heartbeat.incarnation);
        host.number = inventory.number;
        host.complete = true;
        host.reports += 1;
        taken.confirmed = Some(inventory.number);
        taken.forget = self.stopped_on(node);
        Some(taken)
    }

    fn replace(
        &mut self,
        node: NodeId,
        reports: &[SlotReport],
        now: Millis,
        changed: &mut BTreeSet<SlotId>,
    ) {
        let now_there: BTreeSet<&SlotId> = reports.iter().map(|r| &r.slot).collect();
        let before = self
            .hosts
            .get(&node)
            .map_or_else(BTreeSet::new, |h| h.slots.clone());
        for slot in before.iter().filter(|slot| !now_there.contains(slot)) {
            self.forget(node, slot, changed);
        }
        for report in reports {
            self.put(node, report, now, changed);
        }
    }

    fn put(
        &mut self,
        node: NodeId,
        report: &SlotReport,
        now: Millis,
        changed: &mut BTreeSet<SlotId>,
    ) {
        let holders = self.slots.entry(report.slot.clone()).or_default();
        let before = holders.get(&node);
        if before != Some(report) {
            let key = (report.slot.clone(), node);
            // What serves in a host's first report may have for long.
            let host_is_known = self.hosts.get(&node).is_some_and(|host| host.reports > 0);
            let begins = match before {
                None => host_is_known,
                Some(before) => {
                    !serves(before)
                        || (before.starts, before.version) != (report.starts, report.version)
                }
            };
            if !serves(report) {
                self.served_since.remove(&key);
            } else if begins {
                self.served_since.insert(key, now);
            }
            holders.insert(node, report.clone());
            changed.insert(report.slot.clone());
        }
        if let Some(host) = self.hosts.get_mut(&node) {
            host.slots.insert(report.slot.clone());
        }
    }

    fn forget(&mut self, node: NodeId, slot: &SlotId, changed: &mut BTreeSet<SlotId>) {
        if let Some(host) = self.hosts.get_mut(&node)
            && host.slots.remove(slot)
        {
            changed.insert(slot.clone());
        }
        self.drop_report(slot, node);
    }

    fn drop_report(&mut self, slot: &SlotId, node: NodeId) {
        self.served_since.remove(&(slot.clone(), node));
        if let Some(holders) = self.slots.get_mut(slot) {
            holders.remove(&node);
            if holders.is_empty() {
                self.slots.remove(slot);
            }
        }
    }

    fn stopped_on(&self, node: NodeId) -> Vec<(SlotId, Generation)> {
        let Some(host) = self.hosts.get(&node) else {
            return Vec::new();
        };
        host.slots
            .iter()
            .filter_map(|slot| self.report(slot, node))
            .filter(|report| report.state == TaskState::Stopped)
            .map(|report| (report.slot.clone(), report.generation))
            .collect()
    }

    /// What a node says of a slot.
    pub(super) fn report(&self, slot: &SlotId, node: NodeId) -> Option<&SlotReport> {
        self.slots.get(slot)?.get(&node)
    }

    /// Since when a task serves that was seen to begin.
    pub(super) fn served_since(&self, slot: &SlotId, node: NodeId) -> Option<Millis> {
        self.served_since.get(&(slot.clone(), node)).copied()
    }

    /// Everybody who says anything of a slot.
    pub(super) fn reports(&self, slot: &SlotId) -> impl Iterator<Item = (NodeId, &SlotReport)> {
        self.slots
            .get(slot)
            .into_iter()
            .flatten()
            .map(|(node, report)| (*node, report))
    }

    /// Who fills a slot, as far as known: silent hosts still do, lost ones
    /// and those that stopped it do not.
    pub(super) fn holders(&self, slot: &SlotId) -> Vec<(NodeId, &SlotReport)> {
        self.holders_of(slot).collect()
    }

    /// The same, one by one.
    pub(super) fn holders_of(&self, slot: &SlotId) -> impl Iterator<Item = (NodeId, &SlotReport)> {
        self.reports(slot)
            .filter(|(node, report)| report.state != TaskState::Stopped && !self.is_lost(*node))
    }

    /// Not a member any more, or gone with the brake's consent.
    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        self.hosts.get(&node).is_none_or(|host| host.lost)
    }

    /// Slots of a job that anybody reports, in order.
    pub(super) fn slots_of(&self, job: &JobName) -> impl Iterator<Item = &SlotId> {
        let first = SlotId {
            job: job.clone(),
            index: 0,
        };
        let last = SlotId {
            job: job.clone(),
            index: u32::MAX,
        };
        self.slots.range(first..=last).map(|(slot, _)| slot)
    }

    /// Slots that anybody reports.
    pub(super) fn slots(&self) -> impl Iterator<Item = &SlotId> {
        self.slots.keys()
    }
}

fn grew(host: &Host, heartbeat: &Heartbeat) -> bool {
    heartbeat.free.cpu_millis > host.free.cpu_millis
        || heartbeat.free.memory_bytes > host.free.memory_bytes
        || heartbeat.free.disk_bytes > host.free.disk_bytes
        || heartbeat.free.uplink_bits_per_s > host.free.uplink_bits_per_s
        || (host.draining && !heartbeat.draining)
}

/// Runs and passes its health check.
pub(super) fn serves(report: &SlotReport) -> bool {
    report.state == TaskState::Running && report.healthy
}
