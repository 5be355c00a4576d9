//! Where the tasks of a job would go if it were accepted now.
//!
//! Answers for a look ahead on the present picture: the same calls, with the
//! bids that the hosts would make by their last reports. Changes nothing. What
//! it can't know is what only hosts know, such as ports that strangers hold,
//! and what happens between the look and the change.

use super::{
    Scheduler, SessionState, Verdict,
    call::{SLOTS_PER_CALL, takes_work},
    failure::is_fresh,
    picture::Host,
    rank::{self, Candidate, Spread},
    reconcile::MayPlace,
};
use crate::{
    auction::{Bid, Refusal},
    cluster::Cluster,
};
use potluck_specs::{Job, Millis, NodeId, SlotId, job::Resources};
use std::collections::{BTreeMap, BTreeSet};

/// Most slots that are looked at for one question, of all its jobs: the
/// scheduler decides nothing meanwhile, and a thousand restarts among a
/// thousand hosts take a tenth of a second.
pub const FORECAST_SLOTS_MAX: u32 = 1_000;

/// What jobs looked at before would take, so that several can be looked at
/// together.
#[derive(Clone, Debug)]
pub struct Room {
    /// Added to what the host has free, and taken from it.
    freed: BTreeMap<NodeId, Resources>,
    taken: BTreeMap<NodeId, Resources>,
    ports: BTreeSet<(NodeId, u16)>,
    slots_left: u32,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            freed: BTreeMap::new(),
            taken: BTreeMap::new(),
            ports: BTreeSet::new(),
            slots_left: FORECAST_SLOTS_MAX,
        }
    }
}

/// Where the tasks of a job would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Slots with their nodes, in order.
    pub tasks: Vec<ForecastTask>,
    /// Slots that fit nowhere.
    pub unplaced: Vec<u32>,
    /// Slots that were not looked at: [`FORECAST_SLOTS_MAX`].
    pub not_looked_at: u32,
    /// If some slot fits nowhere: why each host takes none.
    pub refusals: Vec<(NodeId, Verdict)>,
    /// Running tasks that would be restarted.
    pub restarts: u32,
    /// Running tasks whose slot would not be wanted any more.
    pub stops: u32,
    /// The scheduler is new and asks all hosts before it places such slots.
    pub waits_for_hosts: bool,
}

/// A slot and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastTask {
    /// The slot's number.
    pub index: u32,
    /// Where it would be.
    pub node: NodeId,
    /// It is there now.
    pub stays: bool,
}

impl Room {
    fn free(&self, node: NodeId, host: &Host) -> Resources {
        let freed = self.freed.get(&node).copied().unwrap_or_default();
        let taken = self.taken.get(&node).copied().unwrap_or_default();
        host.free.plus(freed).minus(taken)
    }

    fn give(&mut self, node: NodeId, resources: Resources) {
        let freed = self.freed.entry(node).or_default();
        *freed = freed.plus(resources);
    }

    fn take(&mut self, node: NodeId, job: &Job) {
        let taken = self.taken.entry(node).or_default();
        *taken = taken.plus(job.task.resources);
        self.ports.extend(fixed_ports(job).map(|port| (node, port)));
    }
}

impl Scheduler {
    /// Where the job's tasks would go. `restarts`: running tasks are replaced
    /// rather than left as they are. `now` as in [`Scheduler::step`].
    pub fn forecast(
        &self,
        cluster: &Cluster,
        job: &Job,
        restarts: bool,
        room: &mut Room,
        now: Millis,
    ) -> Forecast {
        let wanted = job.slots();
        let looked_at = wanted.min(room.slots_left);
        room.slots_left -= looked_at;
        let mut at = self.present(job);
        let surplus = at.split_off(&wanted);
        for (index, node) in &surplus {
            self.free_slot(job, *index, *node, room);
        }
        at.split_off(&looked_at);
        let mut look = Look {
            scheduler: self,
            cluster,
            job,
            now,
            spread: self.spread_of(at.values()),
            ended: surplus.keys().copied().collect(),
            call: self.last_call,
        };
        let missing: Vec<u32> = (0..looked_at).filter(|k| !at.contains_key(k)).collect();
        let moving = |node: NodeId| restarts || self.gives_up(cluster, node);
        let (moved, stay): (Vec<_>, Vec<_>) = at.iter().partition(|(_, node)| moving(**node));
        let mut forecast = Forecast {
            not_looked_at: wanted - looked_at,
            restarts: moved.len() as u32,
            stops: surplus.len() as u32,
            waits_for_hosts: missing.iter().any(|index| look.waits(*index)),
            ..Forecast::default()
        };
        forecast
            .tasks
            .extend(stay.into_iter().map(|(index, node)| ForecastTask {
                index: *index,
                node: *node,
                stays: true,
            }));
        look.place_missing(&missing, room, &mut forecast);
        for (index, node) in moved {
            look.restart(*index, *node, room, &mut forecast);
        }
        if !forecast.unplaced.is_empty() {
            forecast.waits_for_hosts |= !self.asked;
            forecast.refusals = look.refusals(room);
        }
        forecast.unplaced.sort_unstable();
        forecast.tasks.sort_by_key(|task| task.index);
        forecast
    }

    /// Slots that are filled or awarded, with their nodes.
    fn present(&self, job: &Job) -> BTreeMap<u32, NodeId> {
        let mut at: BTreeMap<u32, NodeId> = self
            .awards_of(&job.name)
            .map(|(slot, award)| (slot.index, award.node))
            .collect();
        for slot in self.picture.slots_of(&job.name) {
            if let Some((node, _)) = self.kept(slot) {
                at.insert(slot.index, node);
            }
        }
        at
    }

    fn free_slot(&self, job: &Job, index: u32, node: NodeId, room: &mut Room) {
        if let Some(report) = self.picture.report(&slot_of(job, index), node) {
            room.give(node, report.resources);
        }
    }

    fn spread_of<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> Spread {
        let mut spread = Spread::default();
        for node in nodes {
            if let Some(host) = self.picture.hosts.get(node) {
                spread.add(&host.rack, *node);
            }
        }
        spread
    }
}

/// One look at one job.
struct Look<'a> {
    scheduler: &'a Scheduler,
    cluster: &'a Cluster,
    job: &'a Job,
    now: Millis,
    spread: Spread,
    /// Slots whose tasks would have ended by then.
    ended: BTreeSet<u32>,
    /// As calls are numbered: they fall differently each time.
    call: u64,
}

impl Look<'_> {
    /// Places slots as calls do: some at a time, until one finds no room.
    fn place_missing(&mut self, missing: &[u32], room: &mut Room, forecast: &mut Forecast) {
        let mut left = missing;
        while !left.is_empty() {
            let some = &left[..left.len().min(SLOTS_PER_CALL)];
            let nodes = self.call(some.len(), room);
            if nodes.is_empty() {
                break;
            }
            for (index, node) in some.iter().zip(&nodes) {
                self.put(*index, *node, false, room, forecast);
            }
            left = &left[nodes.len()..];
        }
        forecast.unplaced.extend(left);
    }

    /// Takes one task away and places its slot again.
    fn restart(&mut self, index: u32, from: NodeId, room: &mut Room, forecast: &mut Forecast) {
        self.scheduler.free_slot(self.job, index, from, room);
        self.ended.insert(index);
        if let Some(host) = self.scheduler.picture.hosts.get(&from) {
            let less = |count: &mut u32| *count = count.saturating_sub(1);
            self.spread.by_rack.get_mut(&host.rack).map(less);
            self.spread.by_node.get_mut(&from).map(less);
        }
        match self.call(1, room).first() {
            Some(node) => self.put(index, *node, *node == from, room, forecast),
            None => forecast.unplaced.push(index),
        }
    }

    fn put(
        &mut self,
        index: u32,
        node: NodeId,
        stays: bool,
        room: &mut Room,
        forecast: &mut Forecast,
    ) {
        room.take(node, self.job);
        if let Some(host) = self.scheduler.picture.hosts.get(&node) {
            self.spread.add(&host.rack, node);
        }
        forecast.tasks.push(ForecastTask { index, node, stays });
    }

    /// One call for so many slots, with bids made up from the last reports.
    fn call(&mut self, wanted: usize, room: &Room) -> Vec<NodeId> {
        self.call += 1;
        let need = self.job.task.resources;
        let hosts = &self.scheduler.picture.hosts;
        let feasible: Vec<Candidate<'_>> = hosts
            .iter()
            .filter(|(node, host)| self.verdict(**node, host, room).is_none())
            .map(|(node, host)| Candidate {
                node: *node,
                rack: &host.rack,
                free: room.free(*node, host),
                total: host.total,
            })
            .collect();
        let called = rank::choose(feasible, &self.spread, need, wanted, self.call);
        let bids: BTreeMap<NodeId, (String, Bid)> = called
            .into_iter()
            .filter_map(|node| {
                let host = hosts.get(&node)?;
                Some((node, (host.rack.clone(), self.bid(node, host, room))))
            })
            .collect();
        rank::assign(&bids, self.spread.clone(), need, wanted)
    }

    fn bid(&self, node: NodeId, host: &Host, room: &Room) -> Bid {
        let free = room.free(node, host);
        let package = self.cluster.packages().get(&self.job.package);
        let has_package = package.is_some_and(|package| package.holders.contains(&node));
        Bid {
            call: self.call,
            slots: match fixed_ports(self.job).next() {
                Some(_) => 1,
                None => times(free, self.job.task.resources),
            },
            free,
            total: host.total,
            missing_bytes: package
                .filter(|_| !has_package)
                .map_or(0, |package| package.bytes),
            failures: 0,
            holds: Millis(0),
        }
    }

    /// Why the host takes no task of the job; nothing if it does.
    fn verdict(&self, node: NodeId, host: &Host, room: &Room) -> Option<Verdict> {
        if host.state != SessionState::Up {
            return Some(Verdict::Session { state: host.state });
        }
        if !is_fresh(host, self.scheduler.began, self.now) || !host.complete {
            let state = SessionState::Unknown;
            return Some(Verdict::Session { state });
        }
        if host.draining || !takes_work(self.cluster, node) {
            return Some(Verdict::Draining);
        }
        let (need, free) = (self.job.task.resources, room.free(node, host));
        if !free.fits(&need) {
            return Some(Verdict::TooSmall { need, free });
        }
        let taken = fixed_ports(self.job).find(|port| self.port_is_taken(node, *port, room))?;
        let refusal = Refusal::PortTaken { port: taken };
        Some(Verdict::Refused { refusal })
    }

    fn port_is_taken(&self, node: NodeId, port: u16, room: &Room) -> bool {
        let picture = &self.scheduler.picture;
        let held = picture.hosts.get(&node).is_some_and(|host| {
            host.slots
                .iter()
                .filter(|slot| slot.job != self.job.name || !self.ended.contains(&slot.index))
                .filter_map(|slot| picture.report(slot, node))
                .any(|report| report.ports.values().any(|number| *number == port))
        });
        held || room.ports.contains(&(node, port))
    }

    fn refusals(&self, room: &Room) -> Vec<(NodeId, Verdict)> {
        let hosts = self.scheduler.picture.hosts.iter();
        hosts
            .filter_map(|(node, host)| Some((*node, self.verdict(*node, host, room)?)))
            .collect()
    }

    /// A slot that may be filled where this scheduler can't see yet.
    fn waits(&self, index: u32) -> bool {
        let slot = slot_of(self.job, index);
        self.cluster.jobs().contains_key(&self.job.name)
            && self.scheduler.may_place(self.cluster, &slot) != MayPlace::Yes
    }
}

fn slot_of(job: &Job, index: u32) -> SlotId {
    SlotId {
        job: job.name.clone(),
        index,
    }
}

fn fixed_ports(job: &Job) -> impl Iterator<Item = u16> + '_ {
    job.task.ports.iter().filter_map(|port| port.number)
}

/// How often `need` fits into `free`.
fn times(free: Resources, need: Resources) -> u32 {
    let each = [
        u64::from(free.cpu_millis).checked_div(need.cpu_millis.into()),
        free.memory_bytes.checked_div(need.memory_bytes),
        free.disk_bytes.checked_div(need.disk_bytes),
        free.uplink_bits_per_s.checked_div(need.uplink_bits_per_s),
    ];
    let least = each.into_iter().flatten().min();
    least.map_or(u32::MAX, |times| u32::try_from(times).unwrap_or(u32::MAX))
}
