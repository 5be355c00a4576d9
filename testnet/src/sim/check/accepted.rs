//! What was accepted runs: in the end each wanted slot is filled by exactly
//! one running task of the current version, or of one whose task it leaves as
//! it is, nothing else runs, and the
//! published endpoints are those tasks. Work that ends has come to its end, and
//! nothing of it runs.

use super::{World, due, is_everywhere};
use crate::sim::machine::Machine;
use potluck_core::{cluster::JobVersion, session::TaskState};
use potluck_specs::{JobName, NodeId, SlotId};
use std::collections::{BTreeMap, BTreeSet};

/// What is not as it should be, if anything.
pub fn unhealed(world: &World) -> Option<String> {
    lost_change(world)
        .or_else(|| work(world))
        .or_else(|| slots(world))
        .or_else(|| processes(world))
        .or_else(|| endpoints(world))
}

/// As [`unhealed`], as far as counting shows it: cheap, since it is asked again
/// and again while a large world heals.
pub(in crate::sim) fn miscounted(world: &World) -> Option<String> {
    let members = members(world).count();
    let wanted = running(world).map(|(_, version)| match is_everywhere(version) {
        true => members,
        false => version.replicas as usize,
    });
    let wanted: usize = wanted.sum();
    let running: usize = world.machines.iter().map(|m| m.live().count()).sum();
    (wanted != running).then(|| format!("{running} processes run, {wanted} are wanted"))
}

/// A change whose client was told "accepted" is in the log.
fn lost_change(world: &World) -> Option<String> {
    let told = world.clients.iter().filter_map(|c| c.accepted.as_ref());
    for (name, version) in told {
        let record = world.control.truth.jobs().get(name);
        let current = record.map(|record| record.current().version);
        if current.is_none_or(|current| current < *version) {
            return Some(format!("{name} {version} was accepted and is lost"));
        }
    }
    let mut open = world.clients.iter().enumerate();
    open.find(|(_, client)| client.reply.is_none())
        .map(|(number, _)| format!("client {number} has no answer"))
}

/// Jobs that have tasks in the end, neither stopped nor work, with the version
/// that should run.
fn running(world: &World) -> impl Iterator<Item = (&JobName, &JobVersion)> {
    let truth = &world.control.truth;
    let jobs = truth.jobs().iter();
    jobs.filter(|(name, record)| !record.stopped && truth.batch(name).is_none())
        .map(|(name, record)| (name, due(truth, name, record)))
}

/// Hosts that belong to the cluster in the end.
fn members(world: &World) -> impl Iterator<Item = (usize, &Machine)> {
    let hosts = world.machines.iter().enumerate();
    hosts.filter(|(_, machine)| machine.admitted)
}

fn work(world: &World) -> Option<String> {
    let truth = &world.control.truth;
    let wanted = truth.jobs().iter().filter(|(_, record)| !record.stopped);
    let mut work = wanted.filter_map(|(name, _)| Some((name, truth.batch(name)?)));
    let (name, batch) = work.find(|(_, batch)| batch.over.is_none())?;
    let (done, all) = (batch.done(), batch.completions);
    Some(format!("{done} of {all} are done of {name}"))
}

/// What should run.
struct Wanted<'w> {
    /// Each slot with its version.
    slots: BTreeMap<SlotId, u64>,
    /// Jobs with a task on each host, whatever its number, with their versions
    /// and the hosts that still lack it.
    everywhere: BTreeMap<&'w JobName, (u64, BTreeSet<usize>)>,
}

impl<'w> Wanted<'w> {
    fn of(world: &'w World) -> Wanted<'w> {
        let (mut slots, mut everywhere) = (BTreeMap::new(), BTreeMap::new());
        for (name, due) in running(world) {
            for index in 0..due.replicas {
                let job = name.clone();
                slots.insert(SlotId { job, index }, due.version);
            }
            if is_everywhere(due) {
                let hosts = members(world).map(|(host, _)| host).collect();
                everywhere.insert(name, (due.version, hosts));
            }
        }
        Wanted { slots, everywhere }
    }

    /// A host has it: nobody else should; its version, if it is wanted there.
    fn take(&mut self, host: usize, slot: &SlotId) -> Option<u64> {
        match self.everywhere.get_mut(&slot.job) {
            Some((version, lack)) => lack.remove(&host).then_some(*version),
            None => self.slots.remove(slot),
        }
    }

    /// Something that nobody has.
    fn missing(&self) -> Option<String> {
        let mut lacking = self.everywhere.iter();
        let lacking = lacking.find_map(|(job, (_, lack))| Some((job, lack.first()?)));
        match (self.slots.first_key_value(), lacking) {
            (Some((slot, version)), _) => Some(format!("{slot} {version} runs nowhere")),
            (None, Some((job, host))) => Some(format!("h{host} has no task of {job}")),
            (None, None) => None,
        }
    }
}

fn slots(world: &World) -> Option<String> {
    let mut wanted = Wanted::of(world);
    let truth = &world.control.truth;
    let is_due = |slot: &SlotId, version, due| {
        let record = truth.jobs().get(&slot.job);
        record.is_some_and(|record| record.runs_same_tasks(version, due))
    };
    for (host, machine) in members(world) {
        let Some(agent) = &machine.host else {
            return Some(format!("h{host} is down"));
        };
        for report in agent.slots() {
            let slot = &report.slot;
            if report.state == TaskState::Stopped {
                continue;
            }
            match wanted.take(host, slot) {
                None => return Some(format!("h{host} has {slot}, which is not wanted there")),
                Some(version) if !is_due(slot, report.version, version) => {
                    let has = report.version;
                    return Some(format!("h{host} has {slot} at {has}, not {version}"));
                }
                Some(_) if report.state != TaskState::Running || !report.healthy => {
                    return Some(format!("h{host} has {slot}: {:?}", report.state));
                }
                Some(_) => {}
            }
        }
    }
    wanted.missing()
}

fn processes(world: &World) -> Option<String> {
    let mut wanted = Wanted::of(world);
    for (host, machine) in world.machines.iter().enumerate() {
        for process in machine.live() {
            if wanted.take(host, &process.run.slot).is_none() {
                return Some(format!("h{host} has a surplus process {}", process.run));
            }
        }
    }
    wanted.missing()
}

fn endpoints(world: &World) -> Option<String> {
    type Places = BTreeSet<(SlotId, NodeId, u16)>;
    let mut serving: BTreeMap<String, Places> = BTreeMap::new();
    for machine in &world.machines {
        for report in machine.host.iter().flat_map(|host| host.slots()) {
            let port = report.ports.get("http").copied();
            if let (TaskState::Running, Some(port)) = (report.state, port) {
                let places = serving.entry(report.slot.job.name.clone()).or_default();
                places.insert((report.slot, machine.node, port));
            }
        }
    }
    for ((_, name), (_, service)) in &world.published {
        let told = service.endpoints.iter();
        let told: Places = told.map(|e| (e.slot.clone(), e.node, e.port)).collect();
        let true_ones = serving.remove(name).unwrap_or_default();
        if told != true_ones {
            let (told, count) = (told.len(), true_ones.len());
            return Some(format!("{name} is published at {told}, runs at {count}"));
        }
    }
    let (name, _) = serving.pop_first()?;
    Some(format!("{name} runs and is not published"))
}
