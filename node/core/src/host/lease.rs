//! Leases of exclusive slots, on their host.
//!
//! ```text
//! awarded --its heartbeat is answered with a renewal--> may start
//! may start, runs --no renewal for the lease--> killed by its helper
//!       killed --a renewal of the same generation--> may start
//! ```
//!
//! A lease runs from the moment at which the host *made* the heartbeat that
//! was answered: whatever the answer took on its way is lost to the lease. A
//! restarted agent has none until a scheduler confirms the slot's generation.
//! Answers for counting leases and for starting no exclusive task without one.
//! Ending what outlives its lease is the helper's part, since it goes on when
//! the agent does not.

use super::{
    Effects, Host,
    message::{Effect, Entry},
};
use crate::session::{Renewal, Renewals};
use potluck_specs::{Generation, Millis, SlotId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What schedulers have granted this agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Leases {
    /// When this agent began: no heartbeat of its own is older.
    began: Millis,
    of: BTreeMap<SlotId, Lease>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Lease {
    generation: Generation,
    until: Millis,
}

impl Leases {
    pub(super) fn new(began: Millis) -> Leases {
        Leases {
            began,
            of: BTreeMap::new(),
        }
    }

    /// Until when the slot's present award may run, if it may at all.
    pub(super) fn lasting(&self, entry: &Entry, now: Millis) -> Option<Millis> {
        let lease = self.of.get(&entry.slot)?;
        let lasts = lease.generation == entry.generation && now < lease.until;
        lasts.then_some(lease.until)
    }

    /// Notes a renewal; until when the lease lasts now.
    fn renew(&mut self, renewal: &Renewal, sent_at: Millis) -> Millis {
        let until = sent_at + renewal.lease;
        let generation = renewal.generation;
        let lease = self.of.entry(renewal.slot.clone());
        let lease = lease.or_insert(Lease { generation, until });
        if lease.generation != generation {
            *lease = Lease { generation, until };
        }
        // One that was overtaken by a later one takes nothing away.
        lease.until = lease.until.max(until);
        lease.until
    }

    pub(super) fn forget(&mut self, slot: &SlotId) {
        self.of.remove(slot);
    }
}

/// Is the slot filled at most once at any time?
pub(super) fn is_exclusive(entry: &Entry) -> bool {
    entry.job.change.exclusive.is_some()
}

impl Host {
    /// A scheduler answered with leases. Those of another life of the agent,
    /// of a time that has not come, and of another generation than the slot's
    /// are nothing.
    pub(super) fn renewed(&mut self, renewals: Renewals, now: Millis, effects: &mut Effects) {
        let sent_at = renewals.sent_at;
        let own = renewals.incarnation == self.config.incarnation;
        if !own || sent_at < self.leases.began || sent_at > now {
            return;
        }
        for renewal in renewals.leases {
            let Some(slot) = self.slots.get(&renewal.slot) else {
                continue;
            };
            if slot.entry.generation != renewal.generation || !is_exclusive(&slot.entry) {
                continue;
            }
            let until = self.leases.renew(&renewal, sent_at);
            let slot = renewal.slot;
            effects.then.push(Effect::Lease {
                slot: slot.clone(),
                until,
            });
            self.start_if_ready(&slot, now, effects);
        }
    }
}
