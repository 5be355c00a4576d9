//! A model of disks: what had to be durable is there after a crash, what did
//! not may be gone, and writes that waited become durable with the next one
//! that must.

use potluck_core::{
    auction::Authority,
    host::{Effect, Entry},
};
use potluck_specs::SlotId;
use std::collections::BTreeMap;

/// What is on a host's disk.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The highest authority that was stored.
    pub highest: Authority,
    /// Slots that are held.
    pub entries: BTreeMap<SlotId, Entry>,
    /// Writes that wait for the next one that must be durable.
    lazy: BTreeMap<SlotId, Entry>,
}

impl Journal {
    fn flush(&mut self) {
        self.entries.append(&mut self.lazy);
    }

    /// Carries out a write; false if the effect is none.
    pub fn write(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::PersistAuthority(authority) => {
                self.flush();
                self.highest = *authority;
            }
            Effect::JournalPut { entry, durable } => {
                self.lazy.insert(entry.slot.clone(), (**entry).clone());
                if *durable {
                    self.flush();
                }
            }
            Effect::JournalRemove(slot) => {
                self.flush();
                self.entries.remove(slot);
            }
            _ => return false,
        }
        true
    }

    /// What a restart finds: lazy writes are there or not.
    pub(super) fn crash(&mut self, lost: bool) {
        if lost {
            self.lazy.clear();
        } else {
            self.flush();
        }
    }
}
