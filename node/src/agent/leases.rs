//! What is left of the scheduler's leases of exclusive slots, for the helpers
//! that ask.
//!
//! The actor that owns the host's decisions writes; the connections read, each
//! on its own, so that helpers are answered however busy the actor is. Empty
//! when the agent starts: nothing is passed on before a scheduler has granted
//! it to this agent. A time stands here, not a length, so that an old entry is
//! worth what is left of it and nothing once it is over.

use potluck_specs::{Millis, SlotId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// Until when slots may be run, on the boot clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    until: Arc<Mutex<BTreeMap<SlotId, Millis>>>,
}

impl Leases {
    pub(super) fn set(&self, slot: SlotId, until: Millis) {
        self.locked().insert(slot, until);
    }

    pub(super) fn forget(&self, slot: &SlotId) {
        self.locked().remove(slot);
    }

    /// Milliseconds that are left, if any were granted.
    pub(super) fn left_ms(&self, slot: &SlotId, now: Millis) -> Option<u64> {
        let until = self.locked().get(slot).copied();
        until.map(|until| until.since(now).0)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<SlotId, Millis>> {
        self.until.lock().expect("no one panics with this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_passed_on_and_never_less_than_nothing() {
        let leases = Leases::default();
        let slot: SlotId = "db[0]".parse().expect("a slot");
        assert_eq!(leases.left_ms(&slot, Millis(5)), None);
        leases.set(slot.clone(), Millis(20));
        assert_eq!(leases.left_ms(&slot, Millis(5)), Some(15));
        assert_eq!(leases.left_ms(&slot, Millis(25)), Some(0));
        leases.forget(&slot);
        assert_eq!(leases.left_ms(&slot, Millis(5)), None);
    }
}
