//! What was accepted runs: in the end each wanted slot is filled by exactly
//! one running task of the current version, or of one whose task it leaves as
//! it is, nothing else runs, and the
//! published endpoints are those tasks. Work that ends has come to its end, and
//! nothing of it runs.

use super::World;
use potluck_core::{cluster::JobRecord, session::TaskState};
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
    let wanted = running(world).map(|(_, record)| record.current().replicas as usize);
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

/// Jobs that have tasks in the end: neither stopped nor work.
fn running(world: &World) -> impl Iterator<Item = (&JobName, &JobRecord)> {
    let truth = &world.control.truth;
    let jobs = truth.jobs().iter();
    jobs.filter(|(name, record)| !record.stopped && truth.batch(name).is_none())
}

fn work(world: &World) -> Option<String> {
    let truth = &world.control.truth;
    let wanted = truth.jobs().iter().filter(|(_, record)| !record.stopped);
    let mut work = wanted.filter_map(|(name, _)| Some((name, truth.batch(name)?)));
    let (name, batch) = work.find(|(_, batch)| batch.over.is_none())?;
    let (done, all) = (batch.done(), batch.completions);
    Some(format!("{done} of {all} are done of {name}"))
}

/// Each wanted slot with the version that should run.
fn wanted(world: &World) -> BTreeMap<SlotId, u64> {
    let mut wanted = BTreeMap::new();
    for (name, record) in running(world) {
        let current = record.current();
        for index in 0..current.replicas {
            let job = name.clone();
            wanted.insert(SlotId { job, index }, current.version);
        }
    }
    wanted
}

fn slots(world: &World) -> Option<String> {
    let mut wanted = wanted(world);
    let truth = &world.control.truth;
    let is_new = |slot: &SlotId, version| truth.is_current_task(&slot.job, version);
    for (host, machine) in world.machines.iter().enumerate() {
        if !machine.admitted {
            continue;
        }
        let Some(agent) = &machine.host else {
            return Some(format!("h{host} is down"));
        };
        for report in agent.slots() {
            let slot = &report.slot;
            if report.state == TaskState::Stopped {
                continue;
            }
            match wanted.remove(slot) {
                None => return Some(format!("h{host} has {slot}, which is not wanted there")),
                Some(version) if !is_new(slot, report.version) => {
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
    let (slot, version) = wanted.pop_first()?;
    Some(format!("{slot} {version} runs nowhere"))
}

fn processes(world: &World) -> Option<String> {
    let mut missing = wanted(world);
    for (host, machine) in world.machines.iter().enumerate() {
        for process in machine.live() {
            if missing.remove(&process.run.slot).is_none() {
                return Some(format!("h{host} has a surplus process {}", process.run));
            }
        }
    }
    let (slot, _) = missing.pop_first()?;
    Some(format!("{slot} has no process"))
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
