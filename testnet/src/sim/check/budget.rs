//! The ledger is never exceeded by our own doing: of the slots of a job that
//! served and were told to make room (a newer version, a drained node, a move)
//! never more are down at a time than its budget allows.
//!
//! Source: "Reconcile honours one disruption budget per job". Counted in
//! truth: from a host's "yes" to the stop until the slot serves again under a
//! later generation, anywhere. Crashes are nobody's doing and not counted; nor
//! is a task that nobody can know to serve yet, or one that serves elsewhere.
//! One reign at a time: a stop of the last one that was under way when the
//! next began is the price of a change of leaders.

use super::{Seen, Violation, World, broken};
use crate::sim::{exchange::Request, queue::SECOND};
use potluck_core::{
    auction::{StopOrder, StopReason},
    host::{Answer, Glance},
    session::TaskState,
};
use potluck_specs::{Generation, JobName, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "the budget";

/// A task that serves for so long is known to serve, if its host is heard.
const KNOWN_AFTER: u64 = 5 * SECOND;

/// Of a job that names no budget a tenth may be down, and one at least.
const SHARE_DIVISOR: u32 = 10;

/// What is down, and what served.
#[derive(Debug, Default)]
pub struct Budget {
    /// Slots that were taken away on purpose and don't serve again yet, with
    /// the reign that did it and the generation that ended.
    down: BTreeMap<SlotId, (u64, Generation)>,
    /// By host: since when a slot served, and until when if it no longer does.
    served: BTreeMap<usize, BTreeMap<SlotId, (u64, Option<u64>)>>,
}

impl Budget {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match seen {
            Seen::Stepped { at, changed: true } => {
                self.follow(world, *at);
                Ok(())
            }
            Seen::Answered {
                at,
                request: Request::Stop(order),
                answer: Answer::Stop(Ok(())),
                ..
            } if is_ours(order.reason) => self.stopped(world, *at, order),
            _ => Ok(()),
        }
    }

    fn follow(&mut self, world: &World, at: usize) {
        let now = world.now();
        let Some(host) = &world.machines[at].host else {
            return;
        };
        let served = self.served.entry(at).or_default();
        served.retain(|slot, _| host.origin(slot).is_some());
        for at in host.glances() {
            if !serves(&at) {
                if let Some((_, until)) = served.get_mut(at.slot) {
                    until.get_or_insert(now);
                }
                continue;
            }
            match served.get_mut(at.slot) {
                Some((_, None)) => {}
                Some(before) => *before = (now, None),
                None => {
                    served.insert(at.slot.clone(), (now, None));
                }
            }
            let down = self.down.get(at.slot);
            if down.is_some_and(|(_, ended)| at.generation > *ended) {
                self.down.remove(at.slot);
            }
        }
    }

    fn stopped(&mut self, world: &World, at: usize, order: &StopOrder) -> Result<(), Violation> {
        let now = world.now();
        let served = self
            .served
            .get(&at)
            .and_then(|slots| slots.get(&order.slot));
        let known = served.is_some_and(|(since, until)| {
            now - since >= KNOWN_AFTER && until.is_none_or(|until| until == now)
        });
        if !known || serves_elsewhere(world, at, &order.slot) {
            return Ok(());
        }
        let reign = order.authority.reign.0;
        let was = (reign, order.generation);
        if self.down.insert(order.slot.clone(), was).is_some() {
            return Ok(());
        }
        self.judge(world, &order.slot.job, reign)
    }

    fn judge(&mut self, world: &World, job: &JobName, reign: u64) -> Result<(), Violation> {
        let record = world.control.truth.jobs().get(job);
        let ends = world.control.truth.batch(job).is_some();
        let record = record.filter(|record| !record.stopped && !ends);
        let wanted = record.map_or(0, |record| record.current().replicas);
        let named = record.and_then(|record| record.current().job.decode_unchecked().ok());
        let named = named.and_then(|job| job.change.budget);
        let budget = match named {
            Some(amount) => amount.of(wanted),
            None => (wanted / SHARE_DIVISOR).max(1),
        };
        // What is no longer wanted is not missed.
        self.down
            .retain(|slot, _| slot.job != *job || slot.index < wanted);
        let down = self.down.iter();
        let down: Vec<String> = down
            .filter(|(slot, (by, _))| slot.job == *job && *by == reign)
            .map(|(slot, _)| slot.to_string())
            .collect();
        if down.len() > budget as usize {
            let slots = down.join(", ");
            let what = format!("reign {reign} has taken away {slots} together of {budget} allowed");
            return broken(NAME, what);
        }
        Ok(())
    }
}

fn is_ours(reason: StopReason) -> bool {
    match reason {
        StopReason::Replaced
        | StopReason::Drained
        | StopReason::Failing
        | StopReason::Moved
        | StopReason::Preempted => true,
        StopReason::JobStopped
        | StopReason::ScaledDown
        | StopReason::Double
        | StopReason::Over
        | StopReason::Incomplete
        | StopReason::Other => false,
    }
}

fn serves(at: &Glance<'_>) -> bool {
    at.state == TaskState::Running && at.healthy
}

fn serves_elsewhere(world: &World, at: usize, slot: &SlotId) -> bool {
    let mut others = world.held.holders(slot).filter(|host| *host != at);
    others.any(|host| {
        let agent = world.machines[host].host.iter();
        let mut all = agent.flat_map(|agent| agent.glances());
        all.any(|at| at.slot == slot && serves(&at))
    })
}
