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

/// Slots that a host holds in truth, in order.
fn truth(machine: &Machine) -> Box<dyn Iterator<Item = &SlotId> + '_> {
    match &machine.host {
        Some(host) => {
            let held = host.glances().filter(|at| at.state != TaskState::Stopped);
            Box::new(held.map(|at| at.slot))
        }
        None => {
            let held: BTreeSet<&SlotId> = machine.live().map(|p| &p.run.slot).collect();
            Box::new(held.into_iter())
        }
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
        let machine = &self.machines[at];
        if !truth(machine).eq(self.held.by_host[at].iter()) {
            let truth = truth(machine).cloned().collect();
            self.held.put(at, truth);
        }
    }
}
