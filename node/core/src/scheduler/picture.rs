//! The picture: hosts and what they report, as far as the scheduler has heard.
//!
//! Answers for putting reports in order: full ones replace, deltas add, gaps
//! ask for everything. Leaves to `failure` what silence means.

use super::{
    SessionState,
    host_map::HostMap,
    names::{JobId, Names, Seat, SlotMap},
};
use crate::{
    cluster::Member,
    session::{Heartbeat, SlotReport, TaskState},
};
use potluck_specs::{Generation, Millis, NodeId, SlotId, job::Resources};
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
    pub(super) slots: BTreeSet<Seat>,
    /// Those of them whose tasks have ended: to be acknowledged.
    stopped: BTreeSet<Seat>,
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
            stopped: BTreeSet::new(),
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
    pub(super) hosts: HostMap<Host>,
    /// Who reports each slot, by node; mostly one.
    slots: SlotMap<Vec<Told>>,
}

/// What a node says of a slot.
#[derive(Debug)]
struct Told {
    node: NodeId,
    report: SlotReport,
    /// Since when its task serves, if it was seen to begin.
    served_since: Option<Millis>,
}

/// What a report changed.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Slots that differ from before.
    pub(super) changed: BTreeSet<Seat>,
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
    ) -> BTreeSet<Seat> {
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
                for seat in &host.slots {
                    self.drop_report(*seat, node);
                }
                changed.extend(host.slots);
            }
        }
        changed
    }

    /// Takes a report of a known host. `None`: not a member, or out of order.
    pub(super) fn take(
        &mut self,
        names: &mut Names,
        heartbeat: &mut Heartbeat,
        now: Millis,
    ) -> Option<Taken> {
        let node = heartbeat.node;
        let host = self.hosts.get_mut(&node)?;
        host.heard_at = Some(now);
        host.expected = true;
        let same_life = host.incarnation == Some(heartbeat.incarnation);
        if same_life && heartbeat.inventory.number < host.number {
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
        let inventory = &mut heartbeat.inventory;
        let reports = std::mem::take(&mut inventory.slots);
        match inventory.since {
            None => self.replace(names, node, reports, now, &mut taken.changed),
            Some(since) if follows && since <= host.number => {
                for report in reports {
                    let seat = names.meet_slot(&report.slot);
                    self.put(node, seat, report, now, &mut taken.changed);
                }
                for slot in &inventory.gone {
                    self.forget(node, names.seat(slot), &mut taken.changed);
                }
            }
            Some(_) => {
                host.doubt();
                return Some(taken);
            }
        }
        let host = self.hosts.get_mut(&node)?;
        host.incarnation = Some(heartbeat.incarnation);
        host.number = heartbeat.inventory.number;
        host.complete = true;
        host.reports += 1;
        taken.confirmed = Some(heartbeat.inventory.number);
        taken.forget = self.stopped_on(node);
        Some(taken)
    }

    fn replace(
        &mut self,
        names: &mut Names,
        node: NodeId,
        reports: Vec<SlotReport>,
        now: Millis,
        changed: &mut BTreeSet<Seat>,
    ) {
        let reports: Vec<(Seat, SlotReport)> = reports
            .into_iter()
            .map(|report| (names.meet_slot(&report.slot), report))
            .collect();
        let now_there: BTreeSet<Seat> = reports.iter().map(|(seat, _)| *seat).collect();
        let before = self
            .hosts
            .get(&node)
            .map_or_else(BTreeSet::new, |h| h.slots.clone());
        for seat in before.difference(&now_there) {
            self.forget(node, *seat, changed);
        }
        for (seat, report) in reports {
            self.put(node, seat, report, now, changed);
        }
    }

    fn put(
        &mut self,
        node: NodeId,
        seat: Seat,
        report: SlotReport,
        now: Millis,
        changed: &mut BTreeSet<Seat>,
    ) {
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        host.slots.insert(seat);
        // What serves in a host's first report may have for long.
        let host_is_known = host.reports > 0;
        let told = self
            .slots
            .get_or_insert_with(seat, || Vec::with_capacity(1));
        let place = told.binary_search_by_key(&node, |told| told.node);
        let before = place.ok().map(|at| &told[at]);
        if before.is_some_and(|before| before.report == report) {
            return;
        }
        match report.state {
            TaskState::Stopped => host.stopped.insert(seat),
            _ => host.stopped.remove(&seat),
        };
        let begins = match before {
            None => host_is_known,
            Some(Told { report: before, .. }) => {
                !serves(before)
                    || (before.starts, before.version) != (report.starts, report.version)
            }
        };
        let served_since = match (serves(&report), begins) {
            (false, _) => None,
            (true, true) => Some(now),
            (true, false) => before.and_then(|before| before.served_since),
        };
        let next = Told {
            node,
            report,
            served_since,
        };
        match place {
            Ok(at) => told[at] = next,
            Err(at) => told.insert(at, next),
        }
        changed.insert(seat);
    }

    fn forget(&mut self, node: NodeId, seat: Seat, changed: &mut BTreeSet<Seat>) {
        if let Some(host) = self.hosts.get_mut(&node)
            && host.slots.remove(&seat)
        {
            host.stopped.remove(&seat);
            changed.insert(seat);
        }
        self.drop_report(seat, node);
    }

    fn drop_report(&mut self, seat: Seat, node: NodeId) {
        if let Some(told) = self.slots.get_mut(seat) {
            told.retain(|told| told.node != node);
            if told.is_empty() {
                self.slots.remove(seat);
            }
        }
    }

    fn stopped_on(&self, node: NodeId) -> Vec<(SlotId, Generation)> {
        let Some(host) = self.hosts.get(&node) else {
            return Vec::new();
        };
        host.stopped
            .iter()
            .filter_map(|seat| self.report(*seat, node))
            .map(|report| (report.slot.clone(), report.generation))
            .collect()
    }

    fn told(&self, seat: Seat) -> &[Told] {
        self.slots.get(seat).map_or(&[], Vec::as_slice)
    }

    fn told_by(&self, seat: Seat, node: NodeId) -> Option<&Told> {
        self.told(seat).iter().find(|told| told.node == node)
    }

    /// What a node says of a slot.
    pub(super) fn report(&self, seat: Seat, node: NodeId) -> Option<&SlotReport> {
        self.told_by(seat, node).map(|told| &told.report)
    }

    /// Since when a task serves that was seen to begin.
    pub(super) fn served_since(&self, seat: Seat, node: NodeId) -> Option<Millis> {
        self.told_by(seat, node)?.served_since
    }

    /// Everybody who says anything of a slot.
    pub(super) fn reports(&self, seat: Seat) -> impl Iterator<Item = (NodeId, &SlotReport)> {
        self.told(seat).iter().map(|told| (told.node, &told.report))
    }

    /// Who fills a slot, as far as known: silent hosts still do, lost ones
    /// and those that stopped it do not.
    pub(super) fn holders(&self, seat: Seat) -> impl Iterator<Item = (NodeId, &SlotReport)> {
        self.reports(seat)
            .filter(|(node, report)| report.state != TaskState::Stopped && !self.is_lost(*node))
    }

    /// Not a member any more, or gone with the brake's consent.
    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        self.hosts.get(&node).is_none_or(|host| host.lost)
    }

    /// Slots of a job that anybody reports, in order.
    pub(super) fn slots_of(&self, job: JobId) -> impl Iterator<Item = Seat> {
        self.slots.of_job(job).map(|(seat, _)| seat)
    }

    /// Does anybody report a slot of the job?
    pub(super) fn knows(&self, job: JobId) -> bool {
        self.slots.count_of(job) > 0
    }

    /// Slots that anybody reports.
    pub(super) fn slots(&self) -> impl Iterator<Item = Seat> {
        self.slots.iter().map(|(seat, _)| seat)
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
