//! Where services are, as whoever asks is told: published slices, each under a
//! revision, of which the highest stays.
//!
//! Answers for word that comes late: what a scheduler published may reach the
//! holders of a slice long after, out of the outbox of a host that was stopped,
//! when another reigns. Who holds a slice, and that a holder refuses a lower
//! revision, is the DHT's to implement and to test.

use super::{
    kinds::Kind,
    queue::MS,
    world::{Due, World},
};
use potluck_core::{auction::Authority, scheduler::ServiceEndpoints};
use std::collections::BTreeMap;

/// Of a thousand slices so many come once more, late.
const AGAIN: u64 = 100;

/// How late at most.
const AGAIN_WITHIN: u64 = 15_000 * MS;

/// Orders what is published of a service: the epoch counts before the reign,
/// and that before the number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// Whose word it is.
    pub authority: Authority,
    /// Its number among that scheduler's.
    pub counter: u64,
}

/// What is published of each service, by namespace and name.
pub type Published = BTreeMap<(String, String), (Revision, ServiceEndpoints)>;

impl World {
    /// A scheduler publishes: its word is there at once, and perhaps again.
    pub(super) fn publish(&mut self, at: usize, service: ServiceEndpoints) {
        let now = self.queue.now();
        self.trace.line(now, || {
            let who = service.endpoints.iter();
            let who: Vec<String> = who.map(|e| e.slot.to_string()).collect();
            format!("h{at} publishes {}: {}", service.service, who.join(" "))
        });
        let Some(court) = self.courts.get_mut(&at) else {
            return;
        };
        court.slices += 1;
        let revision = Revision {
            authority: court.scheduler.authority(),
            counter: court.slices,
        };
        if self.options.twice > 0 && !self.healed && self.rng.chance(AGAIN) {
            let wait = self.rng.below(AGAIN_WITHIN);
            let service = Box::new(service.clone());
            self.queue.after(wait, Due::Slice { revision, service });
        }
        self.take_slice(revision, service);
    }

    /// A slice arrives at those who keep it.
    pub(super) fn take_slice(&mut self, revision: Revision, service: ServiceEndpoints) {
        let key = (service.namespace.clone(), service.service.clone());
        let before = self.published.get(&key).map(|(before, _)| *before);
        let newer = before.is_none_or(|before| before <= revision);
        if newer || self.takes_old_slices() {
            self.published.insert(key, (revision, service));
            return;
        }
        let now = self.queue.now();
        self.stats.happened(Kind::LateSlice);
        self.trace.line(now, || {
            let reign = revision.authority.reign.0;
            format!("a slice of {} of reign {reign} comes late", key.1)
        });
    }
}
