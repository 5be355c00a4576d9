//! What was done is done: an index that the log has as done is awarded to nobody
//! by whoever has read that, and a host forgets no end that the log has not
//! counted.
//!
//! Source: "What must not happen twice is committed before it takes effect:
//! completions and retry counts of batch tasks before the exit is
//! acknowledged." Whoever runs a piece of work that took hours twice, since a
//! leader or an agent was started anew in between, has lost those hours.

use super::{Seen, Violation, World, broken};
use potluck_core::{scheduler::Effect, session::SlotReport};
use potluck_specs::SlotId;
use std::collections::BTreeMap;

const NAME: &str = "done is done";

/// Ends that hosts hold, as they told them first.
#[derive(Debug, Default)]
pub struct Completions {
    held: BTreeMap<(usize, SlotId), SlotReport>,
}

impl Completions {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        if world.control.truth.batches_at() == 0 {
            return Ok(());
        }
        match seen {
            Seen::Stepped { at, changed: true } => self.stepped(world, *at),
            Seen::Decided { at, effects } => decided(world, *at, effects),
            _ => Ok(()),
        }
    }

    fn stepped(&mut self, world: &World, at: usize) -> Result<(), Violation> {
        let Some(host) = &world.machines[at].host else {
            return Ok(());
        };
        let ended = host.slots().into_iter().filter(|slot| slot.ended.is_some());
        let now: BTreeMap<SlotId, SlotReport> =
            ended.map(|report| (report.slot.clone(), report)).collect();
        let gone = self.held.extract_if(.., |(host, slot), before| {
            *host == at
                && now
                    .get(slot)
                    .is_none_or(|now| now.generation != before.generation)
        });
        for (_, before) in gone {
            if !world.control.truth.has_counted(&before) {
                let slot = &before.slot;
                let what = format!("h{at} forgets how {slot} ended, which the log has not");
                return broken(NAME, what);
            }
        }
        let now = now.into_iter();
        self.held
            .extend(now.map(|(slot, report)| ((at, slot), report)));
        Ok(())
    }
}

fn decided(world: &World, at: usize, effects: &[Effect]) -> Result<(), Violation> {
    let Some(replica) = world.control.replicas.get(&at) else {
        return Ok(());
    };
    let awards = effects.iter().filter_map(|effect| match effect {
        Effect::Award { award, .. } => Some(award),
        _ => None,
    });
    for (slot, _) in awards.flat_map(|award| &award.slots) {
        let batch = replica.cluster.batch(&slot.job);
        if batch.is_some_and(|batch| batch.is_done(slot.index)) {
            return broken(NAME, format!("h{at} awards {slot}, which is done"));
        }
    }
    Ok(())
}
