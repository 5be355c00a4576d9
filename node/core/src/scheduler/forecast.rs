//! Where the tasks of a job would go if it were accepted now.
//!
//! Answers for a look ahead on the present picture: the same calls, with the
//! bids that the hosts would make by their last reports. Changes nothing. What
//! it can't know is what only hosts know, such as ports that strangers hold,
//! and what happens between the look and the change.

use super::{
    Obstacle, Scheduler, Unmet,
    failure::is_fresh,
    feasible::{Ask, Suits},
    index::{Entry, LEVELS, Place},
    names::Seat,
    per_node::Slots,
    rank,
    reconcile::MayPlace,
    rollout::Target,
    score::Offer,
};
use crate::{
    attributes::ability_lacks,
    cluster::{Cluster, LIVE_CHANGES_LEVEL},
};
use potluck_specs::{
    Job, Millis, NodeId,
    job::{Level, Resources},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    pub obstacles: Vec<(NodeId, Vec<Obstacle>)>,
    /// Running tasks that would be restarted.
    pub restarts: u32,
    /// Running tasks whose slot would not be wanted any more, by slot and
    /// node.
    pub stops: Vec<(u32, NodeId)>,
    /// The scheduler is new and asks all hosts before it places such slots.
    pub waits_for_hosts: bool,
    /// Jobs that must be there before its tasks start, and are not.
    pub waits_for_jobs: Vec<Unmet>,
}

/// Slots by number, each with its node and the version that runs there.
type Held = BTreeMap<u32, (NodeId, u64)>;

/// A slot and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastTask {
    /// The slot's number.
    pub index: u32,
    /// Where it would be.
    pub node: NodeId,
    /// It is there now.
    pub stays: bool,
    /// It runs now, there or elsewhere, and is started again.
    pub restarts: bool,
    /// Where it is now.
    pub from: Option<NodeId>,
}

impl Room {
    fn free(&self, entry: &Entry) -> Resources {
        let freed = self.freed.get(&entry.node).copied().unwrap_or_default();
        let taken = self.taken.get(&entry.node).copied().unwrap_or_default();
        entry.free.plus(freed).minus(taken)
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
    /// Where the job's tasks would go. `keep`: the version whose tasks are
    /// left as they are, see [`Cluster::would_keep_tasks_of`]. `now` as in
    /// [`Scheduler::step`].
    pub fn forecast(
        &self,
        cluster: &Cluster,
        job: &Job,
        keep: Option<u64>,
        room: &mut Room,
        now: Millis,
    ) -> Forecast {
        let target = Target::all(self.names.id(&job.name), Arc::new(job.clone()));
        let wanted = self.forecast_slots(cluster, &target, now);
        let all = wanted.indexes().count();
        let looked_at: Vec<u32> = wanted.indexes().take(room.slots_left as usize).collect();
        room.slots_left -= looked_at.len() as u32;
        let (at, surplus) = self.present(job, &wanted);
        for (index, (node, _)) in &surplus {
            self.free_slot(job, *index, *node, room);
        }
        let mut look = Look::new(self, cluster, job, now, &at);
        look.ended.extend(surplus.keys());
        let missing: Vec<u32> = looked_at
            .iter()
            .copied()
            .filter(|index| !at.contains_key(index))
            .collect();
        let held = looked_at.iter().filter_map(|k| Some((*k, *at.get(k)?)));
        let record = cluster.jobs().get(&job.name);
        let is_kept = |version| {
            let kept = record.zip(keep);
            kept.is_some_and(|(record, keep)| record.runs_same_tasks(version, keep))
        };
        let (moved, mut stay): (Vec<_>, Vec<_>) = held
            .partition(|(_, (node, version))| !is_kept(*version) || self.gives_up(cluster, *node));
        let mut becomes: BTreeMap<u64, bool> = BTreeMap::new();
        let (changed, moved): (Vec<_>, Vec<_>) =
            moved.into_iter().partition(|(index, (node, version))| {
                let id = self.names.id(&job.name);
                let can = becomes.entry(*version);
                *can.or_insert_with(|| self.can_become(id, *version, job))
                    && !self.gives_up(cluster, *node)
                    && self.grows_in_place(job, *index, *node, room)
            });
        stay.extend(changed);
        let mut forecast = Forecast {
            not_looked_at: (all - looked_at.len()) as u32,
            restarts: moved.len() as u32,
            stops: surplus
                .iter()
                .map(|(index, (node, _))| (*index, *node))
                .collect(),
            waits_for_hosts: missing.iter().any(|index| look.waits(*index)),
            waits_for_jobs: self.all_unmet(cluster, job),
            ..Forecast::default()
        };
        let stays = |(index, (node, _))| ForecastTask {
            index,
            node,
            stays: true,
            restarts: false,
            from: Some(node),
        };
        forecast.tasks.extend(stay.into_iter().map(stays));
        look.place_missing(&missing, room, &mut forecast);
        for (index, (node, _)) in moved {
            look.restart(index, node, room, &mut forecast);
        }
        if !forecast.unplaced.is_empty() {
            forecast.waits_for_hosts |= !self.asked;
            forecast.obstacles = look.obstacles(room);
        }
        forecast.unplaced.sort_unstable();
        forecast.tasks.sort_by_key(|task| task.index);
        forecast
    }

    /// Would the host have the room to change the task while it runs? Takes it.
    fn grows_in_place(&self, job: &Job, index: u32, node: NodeId, room: &mut Room) -> bool {
        let report = self.picture.report(self.seat_of(job, index), node);
        let (Some(report), Some(entry)) = (report, self.index.of(node)) else {
            return false;
        };
        let facts = self.index.facts_on(entry);
        let limits = facts.is_some_and(|facts| ability_lacks(job, facts).is_none());
        let more = job.task.resources.minus(report.resources);
        let fits = limits && entry.level >= LIVE_CHANGES_LEVEL && room.free(entry).fits(&more);
        if fits {
            let taken = room.taken.entry(node).or_default();
            *taken = taken.plus(more);
            room.give(node, report.resources.minus(job.task.resources));
        }
        fits
    }

    /// Slots that are filled or awarded: those that are wanted, and the others.
    fn present(&self, job: &Job, wanted: &Slots) -> (Held, Held) {
        let id = self.names.id(&job.name);
        let mut at: Held = self
            .awards_of(id)
            .map(|(seat, award)| (seat.index, (award.node, award.version)))
            .collect();
        for seat in self.picture.slots_of(id) {
            if let Some((node, report)) = self.kept(seat) {
                at.insert(seat.index, (node, report.version));
            }
        }
        at.into_iter()
            .partition(|(index, _)| wanted.contains(*index))
    }

    fn free_slot(&self, job: &Job, index: u32, node: NodeId, room: &mut Room) {
        if let Some(report) = self.picture.report(self.seat_of(job, index), node) {
            room.give(node, report.resources);
        }
    }

    fn seat_of(&self, job: &Job, index: u32) -> Seat {
        self.names.id(&job.name).seat(index)
    }
}

/// One look at one job.
struct Look<'a> {
    scheduler: &'a Scheduler,
    cluster: &'a Cluster,
    ask: Ask<'a>,
    now: Millis,
    /// Tasks of the job in each place.
    tasks: BTreeMap<u32, u32>,
    /// Slots whose tasks would have ended by then.
    ended: BTreeSet<u32>,
    /// As calls are numbered: ties fall differently each time.
    call: u64,
}

impl<'a> Look<'a> {
    fn new(
        scheduler: &'a Scheduler,
        cluster: &'a Cluster,
        job: &'a Job,
        now: Millis,
        at: &Held,
    ) -> Look<'a> {
        let mut look = Look {
            scheduler,
            cluster,
            ask: scheduler.ask(scheduler.names.id(&job.name), job),
            now,
            tasks: BTreeMap::new(),
            ended: BTreeSet::new(),
            call: scheduler.last_call,
        };
        for (node, _) in at.values() {
            look.count(*node, true);
        }
        look
    }

    fn count(&mut self, node: NodeId, more: bool) {
        let Some(entry) = self.scheduler.index.of(node) else {
            return;
        };
        for place in entry.place {
            let count = self.tasks.entry(place).or_default();
            *count = if more {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
        }
    }

    fn around(&self, place: &Place) -> [u32; LEVELS] {
        place.map(|place| self.tasks.get(&place).copied().unwrap_or(0))
    }

    /// Places slots all together, as calls do.
    fn place_missing(&mut self, missing: &[u32], room: &mut Room, forecast: &mut Forecast) {
        let nodes = self.call(missing.len(), None, room);
        for (index, node) in missing.iter().zip(&nodes) {
            self.put((*index, *node), None, room, forecast);
        }
        forecast.unplaced.extend(&missing[nodes.len()..]);
    }

    /// Takes one task away and places its slot again.
    fn restart(&mut self, index: u32, from: NodeId, room: &mut Room, forecast: &mut Forecast) {
        self.scheduler.free_slot(self.ask.job, index, from, room);
        self.ended.insert(index);
        self.count(from, false);
        match self.call(1, Some((index, from)), room).first() {
            Some(node) => self.put((index, *node), Some(from), room, forecast),
            None => forecast.unplaced.push(index),
        }
    }

    fn put(
        &mut self,
        (index, node): (u32, NodeId),
        from: Option<NodeId>,
        room: &mut Room,
        forecast: &mut Forecast,
    ) {
        room.take(node, self.ask.job);
        self.count(node, true);
        forecast.tasks.push(ForecastTask {
            index,
            node,
            stays: from == Some(node),
            restarts: from.is_some(),
            from,
        });
    }

    /// One call of all hosts for so many slots, with offers made up from the
    /// last reports.
    fn call(&mut self, wanted: usize, from: Option<(u32, NodeId)>, room: &Room) -> Vec<NodeId> {
        if wanted == 0 {
            return Vec::new();
        }
        self.call += 1;
        let former = from.and_then(|(index, _)| {
            self.scheduler
                .former_node(self.cluster, self.ask.job, self.ask.id.seat(index))
        });
        let offers: Vec<Offer> = self
            .scheduler
            .index
            .entries()
            .filter_map(|entry| self.offer(entry, from.map(|(_, node)| node), former, room))
            .collect();
        let chosen = rank::assign(&offers, &self.ask.terms(self.call), wanted);
        chosen.into_iter().map(|at| offers[at].node).collect()
    }

    /// What a host would offer; nothing if something is in the way. `from`: a
    /// task of the job has just made room there.
    fn offer(
        &self,
        entry: &Entry,
        from: Option<NodeId>,
        former: Option<NodeId>,
        room: &Room,
    ) -> Option<Offer> {
        let scheduler = self.scheduler;
        let host = scheduler.picture.hosts.get(&entry.node)?;
        let group = &scheduler.index.groups()[entry.group];
        let Suits::Yes(preferred) = self.ask.suits(&scheduler.index, group) else {
            return None;
        };
        let free = room.free(entry);
        let job = self.ask.job;
        let may = is_fresh(host, scheduler.began, self.now)
            && entry.takes_work()
            && free.fits(&self.ask.need)
            && self.ask.admits_node(entry)
            && self.ask.admits_neighbours(&entry.place)
            && (from == Some(entry.node) || scheduler.lacking_device(job, entry).is_none())
            && self.taken_port(entry.node, room).is_none();
        if !may {
            return None;
        }
        let package = self.cluster.packages().get(&job.package);
        let missing = package.filter(|package| !package.holders.contains(&entry.node));
        Some(Offer {
            slots: match fixed_ports(job).next() {
                Some(_) => 1,
                None => times(free, self.ask.need),
            },
            free,
            total: entry.total,
            tasks: self.around(&entry.place),
            heavy: scheduler.tallies.heavy_around(&entry.place),
            preference: preferred + self.ask.prefers(entry),
            former: former == Some(entry.node),
            missing_bytes: missing.map_or(0, |package| package.bytes),
            pressure: entry.pressure,
            ..Offer::at(entry.node, entry.place)
        })
    }

    fn taken_port(&self, node: NodeId, room: &Room) -> Option<u16> {
        let picture = &self.scheduler.picture;
        let job = self.ask.job;
        let is_held = |port: u16| {
            picture.hosts.get(&node).is_some_and(|host| {
                host.slots
                    .iter()
                    // A task that has ended by then makes room.
                    .filter(|seat| seat.job != self.ask.id || !self.ended.contains(&seat.index))
                    .filter_map(|seat| picture.report(*seat, node))
                    .any(|report| report.ports.values().any(|number| *number == port))
            })
        };
        fixed_ports(job).find(|port| room.ports.contains(&(node, *port)) || is_held(*port))
    }

    /// All that keeps one more task off each host.
    fn obstacles(&self, room: &Room) -> Vec<(NodeId, Vec<Obstacle>)> {
        let entries = self.scheduler.index.entries();
        entries
            .map(|entry| {
                let then = Entry {
                    free: room.free(entry),
                    ..entry.clone()
                };
                let mut found =
                    self.scheduler
                        .obstacles(self.cluster, &self.ask, &then, None, self.now);
                // These would be others then.
                found.retain(|o| !matches!(o, Obstacle::Port { .. } | Obstacle::AtMost { .. }));
                let port = self.taken_port(entry.node, room);
                found.extend(port.map(|port| Obstacle::Port { port }));
                found.extend(self.full_places(entry));
                (entry.node, found)
            })
            .collect()
    }

    fn full_places<'s>(&'s self, entry: &'s Entry) -> impl Iterator<Item = Obstacle> + 's {
        let tasks = self.around(&entry.place);
        let levels = Level::ALL.into_iter().map(|level| (level, level as usize));
        let full = levels.filter(move |(_, at)| tasks[*at] >= self.ask.at_most[*at]);
        full.map(move |(level, at)| Obstacle::AtMost {
            level,
            place: self.scheduler.index.name(entry.place[at]).to_owned(),
            tasks: tasks[at],
            limit: self.ask.at_most[at],
        })
    }

    /// A slot that may be filled where this scheduler can't see yet.
    fn waits(&self, index: u32) -> bool {
        let job = &self.ask.job.name;
        let seat = self.ask.id.seat(index);
        self.cluster.jobs().contains_key(job)
            && self.scheduler.may_place(self.cluster, seat) != MayPlace::Yes
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
