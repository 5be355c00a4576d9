//! Stops: decided, sent once the endpoints without the task are published,
//! repeated until a report shows that they happened.

use super::{
    Effect, Scheduler, SessionState,
    names::{JobId, Seat},
};
use crate::{
    auction::{StopOrder, StopReason},
    session::TaskState,
};
use potluck_specs::{Generation, Millis, NodeId};
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
    pub(super) fn decide_stop(&mut self, seat: Seat, node: NodeId, reason: StopReason) -> bool {
        let Some(report) = self.picture.report(seat, node) else {
            return false;
        };
        let generation = report.generation;
        let key = (seat, node);
        if self.stops.contains_key(&key) {
            return false;
        }
        let stopping = Stopping {
            generation,
            reason,
            sent_at: None,
        };
        self.stops.insert(key, stopping);
        self.stops_due = true;
        self.to_publish.insert(seat.job);
        true
    }

    /// Stops that a report shows to have happened.
    pub(super) fn settle_stops(&mut self, changed: &BTreeSet<Seat>, node: NodeId) {
        if self.stops.is_empty() {
            return;
        }
        for seat in changed {
            let key = (*seat, node);
            let Some(stop) = self.stops.get(&key) else {
                continue;
            };
            let over = self.picture.report(*seat, node).is_none_or(|report| {
                report.state == TaskState::Stopped || report.generation > stop.generation
            });
            if over {
                self.stops.remove(&key);
            }
        }
    }

    /// Sends the orders that are due, to hosts that are heard, once the
    /// endpoints without them could be published. Looked at with each tick,
    /// and at once when one was decided or may leave that could not before.
    pub(super) fn send_stops(&mut self, now: Millis) {
        if !std::mem::take(&mut self.stops_due) || self.stops.is_empty() {
            return;
        }
        let mut held: BTreeSet<JobId> = BTreeSet::new();
        if !self.asked {
            let jobs = self.stops.keys().map(|(seat, _)| seat.job);
            held.extend(jobs.filter(|job| !self.knows_endpoints(*job)));
        }
        let picture = &self.picture;
        self.stops
            .retain(|(seat, node), _| picture.report(*seat, *node).is_some());
        for ((seat, node), stop) in &mut self.stops {
            if held.contains(&seat.job) {
                continue;
            }
            let due = stop.sent_at.is_none_or(|at| now.since(at) >= STOP_EVERY);
            if !due {
                continue;
            }
            let up = picture
                .hosts
                .get(node)
                .is_some_and(|host| host.state == SessionState::Up);
            let taken = picture
                .report(*seat, *node)
                .is_some_and(|report| report.state == TaskState::Stopping);
            if up && !(taken && stop.sent_at.is_some()) {
                stop.sent_at = Some(now);
                let order = StopOrder {
                    authority: self.authority,
                    slot: self.names.slot(*seat),
                    generation: stop.generation,
                    reason: stop.reason,
                };
                let order = Box::new(order);
                self.out.push(Effect::Stop { to: *node, order });
            }
        }
    }
}
