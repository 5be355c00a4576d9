//! Unknown is never free: a scheduler that has awarded a slot gives it to
//! nobody else while the first host holds it, unless that host is given up.
//!
//! Source: "No answer means unknown: the slot stays with that node until its
//! session answers or it is dead." A lost answer must make no double.

use super::{Seen, Violation, World, broken};
use crate::sim::client::is_exclusive;
use potluck_core::scheduler::{Effect, Scheduler, SessionState};
use potluck_specs::{Generation, NodeId, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "unknown is never free";

/// The last award of each slot, by reign.
#[derive(Debug, Default)]
pub struct Unknown {
    awarded: BTreeMap<SlotId, (u64, NodeId, Generation)>,
}

impl Unknown {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        let Seen::Decided { at, effects } = *seen else {
            return Ok(());
        };
        let Some(court) = world.courts.get(&at) else {
            return Ok(());
        };
        for effect in effects {
            let Effect::Award { to, award } = effect else {
                continue;
            };
            for (slot, generation) in &award.slots {
                let before = self.awarded.get(slot).copied();
                if let Some((reign, node, was)) = before
                    && reign == court.reign
                    && node != *to
                    // Its lease decides: `exclusive` watches that.
                    && !is_exclusive(&slot.job)
                    && holds(world, node, slot, was)
                    && !is_given_up(&court.scheduler, node)
                    // Its next one is started first, on purpose.
                    && court.scheduler.surge_from(slot) != Some(node)
                {
                    let what = format!(
                        "h{at} awards {slot} to h{}, which h{} holds by its award {was}",
                        world.index[to], world.index[&node]
                    );
                    return broken(NAME, what);
                }
                self.awarded
                    .insert(slot.clone(), (court.reign, *to, *generation));
            }
        }
        Ok(())
    }
}

/// By its disk, if it has neither ended nor been told to.
fn holds(world: &World, node: NodeId, slot: &SlotId, generation: Generation) -> bool {
    let machine = &world.machines[world.index[&node]];
    let entry = machine.journal.entries.get(slot);
    entry.is_some_and(|entry| {
        entry.generation == generation && entry.stop.is_none() && entry.ended.is_none()
    })
}

fn is_given_up(scheduler: &Scheduler, node: NodeId) -> bool {
    matches!(
        scheduler.session(node),
        None | Some(SessionState::Dead | SessionState::Unreachable)
    )
}
