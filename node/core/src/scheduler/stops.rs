//! Stops: decided, sent once the endpoints without the task are published,
//! repeated until a report shows that they happened.

use super::{Scheduler, SessionState};
use crate::{auction::StopReason, cluster::Cluster, session::TaskState};
use potluck_specs::{Generation, JobName, Millis, NodeId, SlotId};
use std::collections::BTreeSet;

/// A stop order that had no effect yet is repeated.
const STOP_EVERY: Millis = Millis(2_000);

/// A stop that was decided and is not yet seen to have happened.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) generation: Generation,
    pub(super) reason: StopReason,
    pub(super) sent_at: Option<Millis>,
}

impl Scheduler {
    /// Notes that a task is to be stopped; the order leaves at the end of the
    /// step, behind the endpoints without it. False if it was noted before.
    pub(super) fn decide_stop(&mut self, slot: &SlotId, node: NodeId, reason: StopReason) -> bool {
        let Some(report) = self.picture.report(slot, node) else {
            return false;
        };
        let generation = report.generation;
        let key = (slot.clone(), node);
        if self.stops.contains_key(&key) {
            return false;
        }
        let stopping = Stopping {
            generation,
            reason,
            sent_at: None,
        };
        self.stops.insert(key, stopping);
        self.to_publish.insert(slot.job.clone());
        true
    }

    /// Stops that a report shows to have happened.
    pub(super) fn settle_stops(&mut self, changed: &BTreeSet<SlotId>, node: NodeId) {
        for slot in changed {
            let key = (slot.clone(), node);
            let Some(stop) = self.stops.get(&key) else {
                continue;
            };
            let over = self.picture.report(slot, node).is_none_or(|report| {
                report.state == TaskState::Stopped || report.generation > stop.generation
            });
            if over {
                self.stops.remove(&key);
            }
        }
    }

    /// Sends the orders that are due, to hosts that are heard, once the
    /// endpoints without them could be published.
    pub(super) fn send_stops(&mut self, cluster: &Cluster, now: Millis) {
        let mut orders = Vec::new();
        let mut held: BTreeSet<JobName> = BTreeSet::new();
        if !self.asked {
            let jobs = self.stops.keys().map(|(slot, _)| slot.job.clone());
            held.extend(jobs.filter(|job| !self.knows_endpoints(cluster, job)));
        }
        let gone: Vec<_> = self
            .stops
            .keys()
            .filter(|(slot, node)| self.picture.report(slot, *node).is_none())
            .cloned()
            .collect();
        for key in gone {
            self.stops.remove(&key);
        }
        for ((slot, node), stop) in &mut self.stops {
            if held.contains(&slot.job) {
                continue;
            }
            let up = self
                .picture
                .hosts
                .get(node)
                .is_some_and(|host| host.state == SessionState::Up);
            let taken = self
                .picture
                .report(slot, *node)
                .is_some_and(|report| report.state == TaskState::Stopping);
            let due = stop.sent_at.is_none_or(|at| now.since(at) >= STOP_EVERY);
            if up && due && !(taken && stop.sent_at.is_some()) {
                stop.sent_at = Some(now);
                orders.push((*node, slot.clone(), stop.generation, stop.reason));
            }
        }
        for (to, slot, generation, reason) in orders {
            self.send_stop(to, slot, generation, reason);
        }
    }
}
