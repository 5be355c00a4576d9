//! A new scheduler asks before it places: it never awards a slot that a live
//! host holds, unless that host has told it otherwise, is given up, or could
//! not be known of (no record of it, and the asking is over).

use super::{Holding, Seen, Violation, World, broken};
use potluck_core::scheduler::{Effect, SessionState};
use potluck_specs::{NodeId, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "no slot twice for lack of asking";

/// Who has told which scheduler what.
#[derive(Debug, Default)]
pub struct LateInventories {
    told: BTreeMap<(u64, usize), Holding>,
}

impl LateInventories {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match seen {
            Seen::Told { to, from, holding } => {
                self.told(world, *to, *from, holding);
                Ok(())
            }
            Seen::Decided { at, effects } => effects.iter().try_for_each(|effect| match effect {
                Effect::Award { to, award } => award
                    .slots
                    .iter()
                    .try_for_each(|(slot, _)| self.awarded(world, *at, *to, slot)),
                _ => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    fn told(&mut self, world: &World, to: usize, from: usize, holding: &Holding) {
        let Some(court) = world.courts.get(&to) else {
            return;
        };
        let key = (court.reign, from);
        let newer = |before: &Holding| {
            (before.life, before.taken_at) <= (holding.life, holding.taken_at)
        };
        if self.told.get(&key).is_none_or(newer) {
            self.told.insert(key, holding.clone());
        }
    }

    fn awarded(
        &self,
        world: &World,
        at: usize,
        to: NodeId,
        slot: &SlotId,
    ) -> Result<(), Violation> {
        let now = world.now();
        let Some(court) = world.courts.get(&at) else {
            return Ok(());
        };
        for (host, machine) in world.machines.iter().enumerate() {
            if machine.node == to || !Holding::of(machine, now).slots.contains(slot) {
                continue;
            }
            let session = court.scheduler.session(machine.node);
            let given_up = matches!(
                session,
                Some(SessionState::Dead | SessionState::Unreachable) | None
            );
            let told = self.told.get(&(court.reign, host));
            let excused = match told {
                Some(holding) => !holding.slots.contains(slot),
                None => unknowable(world, at, slot, machine.node),
            };
            if !given_up && !excused {
                let what = format!(
                    "h{at} (reign {}) awards {slot} to {to}, h{host} holds it ({session:?}, told: {})",
                    court.reign,
                    told.is_some()
                );
                return broken(NAME, what);
            }
        }
        Ok(())
    }
}

/// Nothing recorded that the host holds the slot, and the asking is over.
fn unknowable(world: &World, at: usize, slot: &SlotId, node: NodeId) -> bool {
    let cluster = &world.control.replicas[&at].cluster;
    let recorded = cluster.placements().get(slot);
    let asked = world.courts[&at].scheduler.has_asked();
    asked && recorded.is_none_or(|placement| placement.node != node)
}
