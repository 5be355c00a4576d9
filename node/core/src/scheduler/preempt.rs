//! Room for what matters more, taken from what matters less.
//!
//! Answers for which tasks of strictly lower priority make room when a job
//! finds none: the fewest and least important on one host, and only those
//! whose job's ledger allows it. The room is then claimed, so that the victim
//! does not take it back. Leaves to `stops` how they end, to `call` what is
//! placed there, to `clearing` gangs, which need all their room at once.
//!
//! ```text
//! a call finds no room --victims on the cheapest host--> stopped, room claimed
//! claimed --the job is awarded it, or 15 s--> free for all
//! ```

use super::{
    Scheduler,
    candidates::walk,
    feasible::Ask,
    gang::is_gang,
    index::Entry,
    ledger::Book,
    names::{JobId, Seat},
};
use crate::{
    auction::StopReason,
    cluster::Cluster,
    session::{SlotReport, TaskState},
};
use potluck_specs::{Job, JobName, Millis, NodeId, job::Resources};
use std::collections::{BTreeMap, BTreeSet};

/// Hosts on which somebody could make room that are compared, each time that a
/// job finds none: more would seldom show a cheaper one. Hosts on which nobody
/// could don't count, or the job would never come to those that follow.
const COMPARED: usize = 64;

/// Hosts looked at for that: each costs a look at all that it runs, and a full
/// cluster is asked again and again. Each time they are others, so that of a
/// larger cluster all are met.
const LOOKED_AT: usize = 512;

/// Hosts that are emptied for one job at a time: what one host's victims lose
/// is known before the next ones'.
const AT_ONCE: usize = 8;

/// How long room is kept for the job that it was made for: the victims' grace
/// is some ten seconds, and a call comes after.
pub(super) const CLAIM: Millis = Millis(15_000);

/// Room that was made for a job.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) job: JobName,
    pub(super) need: Resources,
    pub(super) devices: BTreeMap<String, u32>,
    pub(super) ports: BTreeSet<u16>,
    pub(super) until: Millis,
}

impl Claim {
    /// Room for so many tasks of the job.
    pub(super) fn of(job: &Job, tasks: u32, until: Millis) -> Claim {
        let (kinds, ports) = (job.task.devices.iter(), job.task.ports.iter());
        Claim {
            job: job.name.clone(),
            need: job.task.resources.times(tasks),
            devices: kinds.map(|(kind, n)| (kind.clone(), n * tasks)).collect(),
            ports: ports.filter_map(|port| port.number).collect(),
            until,
        }
    }
}

/// A task that could make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) priority: u32,
    pub(super) seat: Seat,
    pub(super) has: Room,
    /// How long it may take to end.
    pub(super) grace: Millis,
}

/// What is free on a host, or would be, of all that one job needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) resources: Resources,
    /// Of each kind that is needed, in that order.
    devices: Vec<u32>,
    /// Fixed ports that are needed.
    ports: BTreeSet<u16>,
}

impl Room {
    pub(super) fn fits(&self, need: &Room) -> bool {
        let mut devices = self.devices.iter().zip(&need.devices);
        self.resources.fits(&need.resources)
            && devices.all(|(free, need)| free >= need)
            && self.ports.is_superset(&need.ports)
    }

    pub(super) fn add(&mut self, victim: &Room) {
        self.resources = self.resources.plus(victim.resources);
        for (free, more) in self.devices.iter_mut().zip(&victim.devices) {
            *free = free.saturating_add(*more);
        }
        self.ports.extend(&victim.ports);
    }

    pub(super) fn without(&self, victim: &Room) -> Room {
        let devices = self.devices.iter().zip(&victim.devices);
        Room {
            resources: self.resources.minus(victim.resources),
            devices: devices
                .map(|(free, less)| free.saturating_sub(*less))
                .collect(),
            ports: &self.ports - &victim.ports,
        }
    }
}

/// Tasks that would make room on one host. Ordered by how much that hurts:
/// the highest priority among them, then how many.
#[derive(Clone, Debug)]
struct Sacrifice {
    node: NodeId,
    victims: Vec<Victim>,
}

impl Sacrifice {
    fn pain(&self) -> (u32, usize, u64, NodeId) {
        let worst = self.victims.iter().map(|victim| victim.priority).max();
        let memory = self.victims.iter();
        let memory = memory.map(|v| v.has.resources.memory_bytes).sum();
        (worst.unwrap_or(0), self.victims.len(), memory, self.node)
    }
}

impl Ask<'_> {
    /// What one task needs.
    pub(super) fn room(&self) -> Room {
        Room {
            resources: self.need,
            devices: self.job.task.devices.values().copied().collect(),
            ports: self.ports.iter().copied().collect(),
        }
    }
}

impl Scheduler {
    /// No host had room for so many slots of the job: has lower ones make it.
    pub(super) fn make_room(
        &mut self,
        cluster: &Cluster,
        id: JobId,
        job: &Job,
        missing: usize,
        now: Millis,
    ) {
        // Room may be where nobody has told of it yet; and orders to stop wait
        // for the same, when what is down now, and costs nothing, may serve.
        if !self.asked {
            return;
        }
        self.claims.retain(|_, claim| now < claim.until);
        if is_gang(job) {
            if self.catalog.has_lower(job.priority) {
                self.make_room_for_gang(cluster, id, job, missing, now);
            }
            return;
        }
        let claimed = self.claims.values().filter(|claim| claim.job == job.name);
        let wanted = missing.min(AT_ONCE).saturating_sub(claimed.count());
        if wanted == 0 || !self.catalog.has_lower(job.priority) {
            return;
        }
        let ask = self.ask(id, job);
        let mut ledgers = BTreeMap::new();
        // Others each time: every failed call has a number of its own.
        let walk = walk(self.index.len(), self.last_call);
        let mut found: Vec<Sacrifice> = walk
            .filter_map(|number| self.index.entry(number as u32))
            .filter(|entry| !self.claims.contains_key(&entry.node))
            .filter(|entry| self.suits_but_for_room(&ask, entry, now))
            .take(LOOKED_AT)
            .filter_map(|entry| self.sacrifice(cluster, &ask, entry, &mut ledgers))
            .take(COMPARED)
            .collect();
        found.sort_by_key(Sacrifice::pain);
        for sacrifice in found.into_iter().take(wanted) {
            self.sacrifice_now(&ask, sacrifice, &mut ledgers, now);
        }
    }

    /// Could a host take the job if it were empty?
    pub(super) fn suits_but_for_room(&self, ask: &Ask<'_>, entry: &Entry, now: Millis) -> bool {
        let devices = &mut ask.job.task.devices.iter();
        entry.takes_work()
            && entry.total.fits(&ask.need)
            && devices.all(|(kind, need)| self.devices_on(entry, kind) >= *need)
            && ask.suits_group(&self.index, entry.group)
            && ask.admits_node(entry)
            && ask.admits_place(&entry.place, self.tallies.of(ask.id))
            && self.admits_lately(ask, entry, self.works.get(ask.id), now)
    }

    /// The least that has to go from a host; nothing if that is not enough.
    fn sacrifice(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        entry: &Entry,
        ledgers: &mut BTreeMap<JobId, Option<Book>>,
    ) -> Option<Sacrifice> {
        let victims = self.victims(cluster, ask, entry, ledgers);
        if victims.is_empty() {
            return None;
        }
        let chosen = least(&ask.room(), self.room_on(ask, entry), victims)?;
        (!chosen.is_empty()).then_some(Sacrifice {
            node: entry.node,
            victims: chosen,
        })
    }

    /// What is free on a host, of all that the job needs.
    pub(super) fn room_on(&self, ask: &Ask<'_>, entry: &Entry) -> Room {
        let kinds = ask.job.task.devices.keys();
        let mut ports: BTreeSet<u16> = ask.ports.iter().copied().collect();
        for port in self.ports_taken(entry.node) {
            ports.remove(&port);
        }
        Room {
            resources: entry.free,
            devices: kinds.map(|kind| self.devices_free(entry, kind)).collect(),
            ports,
        }
    }

    /// What of the job's needs a task has.
    fn has(&self, ask: &Ask<'_>, job: JobId, report: &SlotReport) -> Room {
        let version = self.catalog.version_or_newest(job, report.version);
        let kinds = ask.job.task.devices.keys();
        let used = |kind| version.and_then(|job| job.task.devices.get(kind).copied());
        let ports = report.ports.values();
        Room {
            resources: report.resources,
            devices: kinds.map(|kind| used(kind).unwrap_or(0)).collect(),
            ports: ports
                .copied()
                .filter(|port| ask.ports.contains(port))
                .collect(),
        }
    }

    /// Tasks on a host that may be stopped for one of the job's priority.
    pub(super) fn victims(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        entry: &Entry,
        ledgers: &mut BTreeMap<JobId, Option<Book>>,
    ) -> Vec<Victim> {
        let Some(host) = self.picture.hosts.get(&entry.node) else {
            return Vec::new();
        };
        let mut victims = Vec::new();
        for seat in &host.slots {
            let seat = *seat;
            let Some(report) = self.picture.report(seat, entry.node) else {
                continue;
            };
            let ends = matches!(report.state, TaskState::Stopped | TaskState::Stopping)
                || self.stops.contains_key(&(seat, entry.node));
            // A job that the log lacks is nobody's to stop.
            let name = &report.slot.job;
            let job = self
                .catalog
                .of_task(cluster, seat.job, name, report.version);
            let Some(job) = job.filter(|job| job.priority < ask.job.priority && !ends) else {
                continue;
            };
            let ledger = ledgers
                .entry(seat.job)
                .or_insert_with(|| self.book(cluster, seat.job));
            let allowed = ledger
                .as_ref()
                .is_some_and(|ledger| ledger.may_disrupt(&seat.index).is_ok());
            if allowed {
                victims.push(Victim {
                    priority: job.priority,
                    seat,
                    has: self.has(ask, seat.job, report),
                    grace: Millis(job.task.stop.grace_ms),
                });
            }
        }
        victims
    }

    /// Stops the victims, if their ledgers still allow all of it.
    fn sacrifice_now(
        &mut self,
        ask: &Ask<'_>,
        sacrifice: Sacrifice,
        ledgers: &mut BTreeMap<JobId, Option<Book>>,
        now: Millis,
    ) {
        let mut held = ledgers.clone();
        for victim in &sacrifice.victims {
            let (job, index) = (victim.seat.job, victim.seat.index);
            let ledger = held.get_mut(&job).and_then(Option::as_mut);
            let Some(ledger) = ledger.filter(|l| l.may_disrupt(&index).is_ok()) else {
                return;
            };
            ledger.hold(
                index,
                super::Use::Stopping {
                    node: sacrifice.node,
                    reason: StopReason::Preempted,
                },
            );
        }
        *ledgers = held;
        for victim in sacrifice.victims {
            self.decide_stop(victim.seat, sacrifice.node, StopReason::Preempted);
        }
        let claim = Claim::of(ask.job, 1, now + CLAIM);
        self.claims.insert(sacrifice.node, claim);
    }

    /// Is there room beside what was made for another job?
    pub(super) fn leaves_claims(&self, ask: &Ask<'_>, entry: &Entry, now: Millis) -> bool {
        let Some(claim) = self.claims.get(&entry.node) else {
            return true;
        };
        if claim.job == ask.job.name || claim.until <= now {
            return true;
        }
        let both = |kind: &str| {
            let (own, claimed) = (ask.job.task.devices.get(kind), claim.devices.get(kind));
            Some(own?.saturating_add(*claimed?))
        };
        let mut devices = claim.devices.keys();
        entry.free.fits(&ask.need.plus(claim.need))
            && !ask.ports.iter().any(|port| claim.ports.contains(port))
            && devices.all(|kind| both(kind).is_none_or(|n| self.devices_free(entry, kind) >= n))
    }

    /// A job got what was made for it.
    pub(super) fn claim_used(&mut self, node: NodeId, job: &JobName) {
        if self
            .claims
            .get(&node)
            .is_some_and(|claim| claim.job == *job)
        {
            self.claims.remove(&node);
        }
    }
}

/// The least that has to go beside what is free, out of those that may; `None`
/// if that is not enough.
pub(super) fn least(need: &Room, mut free: Room, mut victims: Vec<Victim>) -> Option<Vec<Victim>> {
    // The least important first, of those the largest: fewer have to go.
    victims.sort_by(|a, b| {
        let order = a.priority.cmp(&b.priority);
        let memory = |victim: &Victim| victim.has.resources.memory_bytes;
        let larger = memory(b).cmp(&memory(a));
        order.then(larger).then(a.seat.cmp(&b.seat))
    });
    let mut chosen: Vec<Victim> = Vec::new();
    for victim in victims {
        if free.fits(need) {
            break;
        }
        free.add(&victim.has);
        chosen.push(victim);
    }
    if !free.fits(need) {
        return None;
    }
    // What the later ones make needless, the more important first.
    for at in (0..chosen.len()).rev() {
        let without = free.without(&chosen[at].has);
        if without.fits(need) {
            free = without;
            chosen.remove(at);
        }
    }
    Some(chosen)
}
