//! The ledger is never exceeded by our own doing: of the slots of a job that
//! served and were told to make room (a newer version, a drained node, a move)
//! never more are down at a time than its budget allows.
//!
//! Source: "Reconcile honours one disruption budget per job". Counted in
//! truth: from a host's "yes" to the stop until the slot serves again under a
//! later generation, anywhere. Crashes are nobody's doing and break nothing, but
//! they use the budget too: when an order leaves that takes a serving task away,
//! slots that served and have been down for so long that the scheduler knows are
//! counted with it. Not counted is a task that nobody can know to serve yet, or
//! one that serves elsewhere. One reign at a time: a stop of the last one that
//! was under way when the next began is the price of a change of leaders. Of a
//! job with a task on every host the numbers mean nothing: a host that serves
//! again has made up for what was taken from it, under whatever number.

use super::{Seen, Violation, World, broken, due, is_everywhere};
use crate::sim::{exchange::Request, queue::SECOND};
use potluck_core::{
    auction::{StopOrder, StopReason},
    cluster::JobVersion,
    host::{Answer, Glance},
    scheduler::Effect,
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
    /// the reign that did it, the generation that ended, and where.
    down: BTreeMap<SlotId, (u64, Generation, usize)>,
    /// By host: since when a slot served, and until when if it no longer does.
    served: BTreeMap<usize, BTreeMap<SlotId, (u64, Option<u64>)>>,
    /// When a task of a slot last ceased to serve, on any host.
    ceased: BTreeMap<SlotId, u64>,
    /// Orders that have left before, with the reign of the last sending.
    ordered: BTreeMap<SlotId, (u64, Generation)>,
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
            Seen::Died { at } => {
                let served = self.served.remove(at).into_iter().flatten();
                let now = world.now();
                self.ceased
                    .extend(served.map(|(slot, (_, until))| (slot, until.unwrap_or(now))));
                Ok(())
            }
            Seen::Decided { at, effects } => effects.iter().try_for_each(|effect| match effect {
                Effect::Stop { to, order } if is_ours(order.reason) => {
                    self.ordered(world, *at, world.index[to], order)
                }
                _ => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    fn follow(&mut self, world: &World, host: usize) {
        let now = world.now();
        let Some(agent) = &world.machines[host].host else {
            return;
        };
        let served = self.served.entry(host).or_default();
        served.retain(|slot, _| agent.origin(slot).is_some());
        for at in agent.glances() {
            if !serves(&at) {
                if let Some((_, until @ None)) = served.get_mut(at.slot) {
                    *until = Some(now);
                    self.ceased.insert(at.slot.clone(), now);
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
            if down.is_some_and(|(_, ended, _)| at.generation > *ended) {
                self.down.remove(at.slot);
            }
            if self.down.is_empty() {
                continue;
            }
            let due = due_of(world, &at.slot.job);
            if due.is_some_and(is_everywhere) {
                self.down.retain(|slot, (_, ended, on)| {
                    *on != host || slot.job != at.slot.job || at.generation <= *ended
                });
            }
        }
    }

    /// Is the task known to serve, and the only one of its slot?
    fn is_missed(&self, world: &World, at: usize, slot: &SlotId) -> bool {
        let now = world.now();
        let served = self.served.get(&at).and_then(|slots| slots.get(slot));
        let known = served.is_some_and(|(since, until)| {
            now - since >= KNOWN_AFTER && until.is_none_or(|until| until == now)
        });
        known && !serves_elsewhere(world, at, slot)
    }

    /// An order leaves: what is down by itself counts, if the scheduler has had
    /// the time to hear of it.
    fn ordered(
        &mut self,
        world: &World,
        by: usize,
        at: usize,
        order: &StopOrder,
    ) -> Result<(), Violation> {
        let now = world.now();
        let reign = order.authority.reign.0;
        let sending = (reign, order.generation);
        let before = self.ordered.insert(order.slot.clone(), sending);
        let long = world
            .courts
            .get(&by)
            .is_some_and(|court| now - court.began >= 2 * KNOWN_AFTER);
        if before == Some(sending) || !long || !self.is_missed(world, at, &order.slot) {
            return Ok(());
        }
        let job = &order.slot.job;
        let Some((budget, wanted)) = allowed(world, job) else {
            return Ok(());
        };
        let known_down = |slot: &SlotId| {
            let since = self.ceased.get(slot);
            since.is_some_and(|since| now - since >= KNOWN_AFTER) && !serves_anywhere(world, slot)
        };
        let Slots::First(wanted) = wanted else {
            return Ok(());
        };
        let slots = (0..wanted).map(|index| SlotId {
            job: job.clone(),
            index,
        });
        let down: Vec<String> = slots
            .filter(|slot| *slot != order.slot && known_down(slot))
            .map(|slot| slot.to_string())
            .collect();
        if down.len() >= budget as usize {
            let (slot, slots) = (&order.slot, down.join(", "));
            let what =
                format!("reign {reign} takes away {slot} while {slots} are down, of {budget}");
            return broken(NAME, what);
        }
        Ok(())
    }

    fn stopped(&mut self, world: &World, at: usize, order: &StopOrder) -> Result<(), Violation> {
        if !self.is_missed(world, at, &order.slot) {
            return Ok(());
        }
        let reign = order.authority.reign.0;
        let was = (reign, order.generation, at);
        if self.down.insert(order.slot.clone(), was).is_some() {
            return Ok(());
        }
        self.judge(world, &order.slot.job, reign)
    }

    fn judge(&mut self, world: &World, job: &JobName, reign: u64) -> Result<(), Violation> {
        let (budget, wanted) = allowed(world, job).unwrap_or((1, Slots::First(0)));
        // What is no longer wanted is not missed.
        self.down
            .retain(|slot, (.., on)| slot.job != *job || wanted.is_missed(world, slot, *on));
        let down = self.down.iter();
        let down: Vec<String> = down
            .filter(|(slot, (by, ..))| slot.job == *job && *by == reign)
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

/// The version that should run of a job that goes on.
fn due_of<'w>(world: &'w World, job: &JobName) -> Option<&'w JobVersion> {
    let truth = &world.control.truth;
    let record = truth.jobs().get(job).filter(|record| !record.stopped)?;
    truth
        .batch(job)
        .is_none()
        .then(|| due(truth, job, record))
}

/// Slots that a job should have.
#[derive(Clone, Copy, Debug)]
enum Slots {
    /// The first so many.
    First(u32),
    /// One on each host that takes work.
    Everywhere,
}

impl Slots {
    /// What is no longer wanted is not missed.
    fn is_missed(self, world: &World, slot: &SlotId, on: usize) -> bool {
        let (truth, machine) = (&world.control.truth, &world.machines[on]);
        match self {
            Slots::First(count) => slot.index < count,
            Slots::Everywhere => {
                let member = truth.members().get(&machine.node);
                let takes_work = member.is_some_and(|member| !member.draining);
                takes_work && !truth.is_cordoned(machine.node) && machine.host.is_some()
            }
        }
    }
}

/// How many of a job's slots may be down at once, and which are wanted; nothing
/// if it is stopped, or ends by itself.
fn allowed(world: &World, job: &JobName) -> Option<(u32, Slots)> {
    let truth = &world.control.truth;
    let due = due_of(world, job)?;
    let (wanted, slots) = match is_everywhere(due) {
        true => (truth.members().len() as u32, Slots::Everywhere),
        false => (due.replicas, Slots::First(due.replicas)),
    };
    let named = due.job.decode_unchecked().ok()?.change.budget;
    let budget = match named {
        Some(amount) => amount.of(wanted),
        None => (wanted / SHARE_DIVISOR).max(1),
    };
    Some((budget, slots))
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
    others.any(|host| serves_on(world, host, slot))
}

/// Does it, or may it: of a host whose agent is away nobody can tell.
fn serves_anywhere(world: &World, slot: &SlotId) -> bool {
    let mut holders = world.held.holders(slot);
    holders.any(|host| world.machines[host].host.is_none() || serves_on(world, host, slot))
}

fn serves_on(world: &World, host: usize, slot: &SlotId) -> bool {
    let agent = world.machines[host].host.iter();
    let mut all = agent.flat_map(|agent| agent.glances());
    all.any(|at| at.slot == slot && serves(&at))
}
