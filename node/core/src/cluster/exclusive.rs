//! Who may run the tasks of exclusive slots: committed before an award leaves,
//! so that whoever reigns next knows for whom a lease may still run.
//!
//! ```text
//! free --held, before the award leaves--> held --its end was told--> free
//!                                          |  ^
//!                                          +--+ held by another, under a higher
//!                                               generation: the lease is over
//! ```
//!
//! Answers for the record: it is written by the present reign alone, and its
//! generations only rise. Leaves to `scheduler::exclusive` when a slot may
//! change hands: no log knows what time it is.

use super::{Cluster, Command, Refused, Reply, jobs::SLOTS_MAX};
use potluck_specs::{Generation, Millis, NodeId, Reign, SlotId};
use serde::{Deserialize, Serialize};

/// The node that alone may run the task of an exclusive slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExclusiveHolder {
    /// The slot.
    pub slot: SlotId,
    /// Who.
    pub node: NodeId,
    /// Under which award.
    pub generation: Generation,
    /// How long each renewal lasts, from when its heartbeat was sent.
    pub lease: Millis,
}

impl Cluster {
    pub(super) fn change_exclusive(&mut self, command: &Command) -> Reply {
        match command {
            Command::RecordExclusive {
                reign,
                held,
                released,
            } => self.record_exclusive(*reign, held, released),
            _ => Reply::Done,
        }
    }

    /// Slots of jobs that the log does not have, or beyond any job's size, are
    /// left out: they would be remembered for ever.
    fn record_exclusive(
        &mut self,
        reign: Reign,
        held: &[ExclusiveHolder],
        released: &[(SlotId, Generation)],
    ) -> Reply {
        if reign != self.authority.reign {
            return Reply::refused(Refused::StaleReign);
        }
        for (slot, generation) in released {
            let known = self.exclusive.get(slot);
            if known.is_some_and(|known| known.generation == *generation) {
                self.exclusive.remove(slot);
                self.exclusive_at = self.applied;
            }
        }
        for holder in held {
            let known = self.exclusive.get(&holder.slot);
            let rises = known.is_none_or(|known| known.generation < holder.generation);
            let slot = &holder.slot;
            if rises
                && self.jobs.contains_key(&slot.job)
                && slot.index < SLOTS_MAX
                && self.members.contains_key(&holder.node)
            {
                self.exclusive.insert(slot.clone(), holder.clone());
                self.exclusive_at = self.applied;
            }
        }
        Reply::Done
    }

    /// Who may run the task of an exclusive slot; nobody if it is free.
    pub fn exclusive_holder(&self, slot: &SlotId) -> Option<&ExclusiveHolder> {
        self.exclusive.get(slot)
    }

    /// Every exclusive slot that somebody holds, in order.
    pub fn exclusive_holders(&self) -> impl Iterator<Item = &ExclusiveHolder> {
        self.exclusive.values()
    }

    /// The index of the last command that changed who holds exclusive slots.
    pub fn exclusive_at(&self) -> u64 {
        self.exclusive_at
    }
}
