//! Who holds which slot in truth: by its agent, or by its processes while the
//! agent is down. Kept up to date with each step, since the checks ask for it
//! at each award.

use super::{check::Holding, machine::Machine, world::World};
use potluck_core::session::TaskState;
use potluck_specs::SlotId;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// The truth about slots, in both directions.
#[derive(Debug, Default)]
pub struct Held {
    by_host: Vec<Rc<BTreeSet<SlotId>>>,
    by_slot: BTreeMap<SlotId, BTreeSet<usize>>,
}

impl Held {
    /// Nobody holds anything.
    pub fn nothing(hosts: usize) -> Held {
        Held {
            by_host: vec![Rc::default(); hosts],
            by_slot: BTreeMap::new(),
        }
    }

    /// All hosts that hold a slot.
    pub fn holders(&self, slot: &SlotId) -> impl Iterator<Item = usize> + '_ {
        self.by_slot.get(slot).into_iter().flatten().copied()
    }

    fn put(&mut self, host: usize, slots: BTreeSet<SlotId>) {
        let before = std::mem::take(&mut self.by_host[host]);
        for slot in before.difference(&slots) {
            if let Some(holders) = self.by_slot.get_mut(slot) {
                holders.remove(&host);
                if holders.is_empty() {
                    self.by_slot.remove(slot);
                }
            }
        }
        for slot in slots.difference(&before) {
            self.by_slot.entry(slot.clone()).or_default().insert(host);
        }
        self.by_host[host] = Rc::new(slots);
    }
}

fn truth(machine: &Machine) -> BTreeSet<SlotId> {
    match &machine.host {
        Some(host) => {
            let reports = host.slots().into_iter();
            let held = reports.filter(|report| report.state != TaskState::Stopped);
            held.map(|report| report.slot).collect()
        }
        None => machine.live().map(|p| p.run.slot.clone()).collect(),
    }
}

impl World {
    /// What a host holds in truth, in memory or on disk.
    pub(super) fn holding(&self, at: usize) -> Holding {
        Holding {
            taken_at: self.queue.now(),
            life: self.machines[at].life,
            slots: self.held.by_host[at].clone(),
        }
    }

    /// Something happened to a host that may change what it holds.
    pub(super) fn hold(&mut self, at: usize) {
        let truth = truth(&self.machines[at]);
        if truth != *self.held.by_host[at] {
            self.held.put(at, truth);
        }
    }
}
