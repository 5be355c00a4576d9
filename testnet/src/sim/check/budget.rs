//! The ledger is never exceeded by our own doing: of the slots of a job that
//! are down because somebody was told to make room (a newer version, a
//! drained node), there are never more than its budget allows.
//!
//! Source: "Reconcile honours one disruption budget per job". Counted in
//! truth: from a host's "yes" to the stop until the slot serves again under a
//! later generation, anywhere. Crashes are nobody's doing and count not here.
//! One reign at a time: a stop of the last one that was under way when the
//! next began is the price of a change of leaders.

use super::{Seen, Violation, World, broken};
use crate::sim::exchange::Request;
use potluck_core::{auction::StopReason, host::Answer, session::TaskState};
use potluck_specs::{Generation, JobName, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "the budget";

/// How many slots of a job may be down on purpose at a time.
const BUDGET: usize = 1;

/// Slots that were taken away on purpose and don't serve again yet, with the
/// reign that did it and the generation that ended.
#[derive(Debug, Default)]
pub struct Budget {
    down: BTreeMap<SlotId, (u64, Generation)>,
}

impl Budget {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match seen {
            Seen::Stepped { at, changed: true } => {
                self.serves_again(world, *at);
                Ok(())
            }
            Seen::Answered {
                at,
                request: Request::Stop(order),
                answer: Answer::Stop(Ok(())),
                ..
            } if matches!(order.reason, StopReason::Replaced | StopReason::Drained) => {
                // A double of what serves elsewhere is not missed.
                if serves_elsewhere(world, *at, &order.slot) {
                    return Ok(());
                }
                let was = (order.authority.reign.0, order.generation);
                let known = self.down.insert(order.slot.clone(), was);
                // A repeat of an order, or of one that a crash has overtaken.
                if known.is_some() || !world.held.holders(&order.slot).any(|h| h == *at) {
                    return Ok(());
                }
                self.judge(world, &order.slot.job, was.0)
            }
            _ => Ok(()),
        }
    }

    fn serves_again(&mut self, world: &World, at: usize) {
        let Some(host) = &world.machines[at].host else {
            return;
        };
        if !self
            .down
            .keys()
            .any(|slot| world.held.holders(slot).any(|h| h == at))
        {
            return;
        }
        for report in host.slots() {
            let serves = report.state == TaskState::Running && report.healthy;
            let down = self.down.get(&report.slot);
            if serves && down.is_some_and(|(_, ended)| report.generation > *ended) {
                self.down.remove(&report.slot);
            }
        }
    }

    fn judge(&mut self, world: &World, job: &JobName, reign: u64) -> Result<(), Violation> {
        let record = world.control.truth.jobs().get(job);
        let wanted = record.filter(|record| !record.stopped);
        let wanted = wanted.map_or(0, |record| record.current().replicas);
        // What is no longer wanted is not missed.
        self.down
            .retain(|slot, _| slot.job != *job || slot.index < wanted);
        let mut down = self.down.iter();
        let down: Vec<String> = down
            .by_ref()
            .filter(|(slot, (by, _))| slot.job == *job && *by == reign)
            .map(|(slot, _)| slot.to_string())
            .collect();
        if down.len() > BUDGET {
            let what = format!("reign {reign} has taken away {} together", down.join(", "));
            return broken(NAME, what);
        }
        Ok(())
    }
}

fn serves_elsewhere(world: &World, at: usize, slot: &SlotId) -> bool {
    let mut others = world.held.holders(slot).filter(|host| *host != at);
    others.any(|host| {
        let agent = world.machines[host].host.iter();
        let mut reports = agent.flat_map(|agent| agent.slots());
        reports.any(|report| {
            report.slot == *slot && report.state == TaskState::Running && report.healthy
        })
    })
}
