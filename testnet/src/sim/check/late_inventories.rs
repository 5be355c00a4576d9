//! A new scheduler asks before it places: it never awards a slot that a live
//! host holds, unless that host has told it otherwise, is given up, or could
//! not be known of (no record of it, and the asking is over).

use super::{Holding, Seen, Violation, World, asking::ASKS, broken};
use crate::sim::{client::is_exclusive, machine::Machine, queue::MS};
use potluck_core::scheduler::{Effect, Note, SessionState};
use potluck_specs::{NodeId, SlotId};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "no slot twice for lack of asking";

/// Who has told which scheduler what.
#[derive(Debug, Default)]
pub struct LateInventories {
    /// By reign and host.
    told: BTreeMap<u64, Vec<Option<Holding>>>,
    /// Hosts that some scheduler gave up and none has heard since: what they
    /// held was placed elsewhere, and whoever reigns next goes by that.
    given_up: BTreeSet<NodeId>,
    /// Reigns whose asking ended when it might: whoever is back after that
    /// with a slot of which there is no record is one of two, and trimmed.
    asked: BTreeSet<u64>,
}

impl LateInventories {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match seen {
            Seen::Told { to, from, holding } => {
                self.told(world, *to, *from, holding);
                Ok(())
            }
            Seen::Decided { at, effects } => effects.iter().try_for_each(|effect| match effect {
                Effect::Note {
                    note: Note::Session { node, state },
                } => {
                    self.session(*node, *state);
                    Ok(())
                }
                Effect::Note { note: Note::Asked } => {
                    self.ended_asking(world, *at);
                    Ok(())
                }
                Effect::Award { to, award } => award
                    .slots
                    .iter()
                    .try_for_each(|(slot, _)| self.awarded(world, *at, *to, slot)),
                _ => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    fn session(&mut self, node: NodeId, state: SessionState) {
        match state {
            SessionState::Dead | SessionState::Unreachable => self.given_up.insert(node),
            SessionState::Up => self.given_up.remove(&node),
            SessionState::Unknown | SessionState::Out => false,
        };
    }

    fn ended_asking(&mut self, world: &World, at: usize) {
        if let Some(court) = world.courts.get(&at)
            && self.may_have_asked(world, at)
        {
            self.asked.insert(court.reign);
        }
    }

    fn told(&mut self, world: &World, to: usize, from: usize, holding: &Holding) {
        let Some(court) = world.courts.get(&to) else {
            return;
        };
        let newer =
            |before: &Holding| (before.life, before.taken_at) <= (holding.life, holding.taken_at);
        let told = self.told.entry(court.reign).or_default();
        if from >= told.len() {
            told.resize(from + 1, None);
        }
        if told[from].as_ref().is_none_or(newer) {
            told[from] = Some(holding.clone());
        }
    }

    fn awarded(
        &self,
        world: &World,
        at: usize,
        to: NodeId,
        slot: &SlotId,
    ) -> Result<(), Violation> {
        let Some(court) = world.courts.get(&at) else {
            return Ok(());
        };
        if is_exclusive(&slot.job) {
            // It moves when its lease is over, whoever has told what:
            // `exclusive` watches that.
            return Ok(());
        }
        for host in world.held.holders(slot) {
            let machine = &world.machines[host];
            // A surge starts the next one first, on purpose.
            if machine.node == to || court.scheduler.surge_from(slot) == Some(machine.node) {
                continue;
            }
            let session = court.scheduler.session(machine.node);
            let given_up =
                matches!(
                    session,
                    Some(SessionState::Dead | SessionState::Unreachable) | None
                ) || (matches!(session, Some(SessionState::Unknown | SessionState::Out))
                    && self.given_up.contains(&machine.node));
            let told = self
                .told
                .get(&court.reign)
                .and_then(|told| told.get(host)?.as_ref());
            let excused = match told {
                Some(holding) => !holding.slots.contains(slot),
                None => self.is_unknowable(world, at, slot, machine),
            };
            if !given_up && !excused {
                let what = format!(
                    "h{at} (reign {}) awards {slot} to h{}, h{host} holds it ({session:?}, told: {})",
                    court.reign,
                    world.index[&to],
                    told.is_some()
                );
                return broken(NAME, what);
            }
        }
        Ok(())
    }

    /// Nothing recorded says that the host holds the slot, and the asking is
    /// over. While it is not, a record that names another host excuses nothing:
    /// a slot moves only once the log names where to.
    fn is_unknowable(&self, world: &World, at: usize, slot: &SlotId, machine: &Machine) -> bool {
        let cluster = &world.control.replicas[&at].cluster;
        let names_it = cluster
            .placements()
            .get(slot)
            .is_some_and(|placement| placement.node == machine.node);
        let court = &world.courts[&at];
        let asked = self.asked.contains(&court.reign) || self.may_have_asked(world, at);
        !names_it && court.scheduler.has_asked() && asked
    }

    /// Has every member told, or is given up, or have ten seconds passed? A
    /// scheduler may believe so that was told by somebody else.
    fn may_have_asked(&self, world: &World, at: usize) -> bool {
        let court = &world.courts[&at];
        let told = self.told.get(&court.reign);
        let has_told =
            |host: usize| told.is_some_and(|told| told.get(host).is_some_and(Option::is_some));
        let mut members = world.control.replicas[&at].cluster.members().keys();
        world.now() + MS >= court.began + ASKS
            || members.all(|node| {
                has_told(world.index[node])
                    || matches!(
                        court.scheduler.session(*node),
                        None | Some(SessionState::Dead | SessionState::Unreachable)
                    )
            })
    }
}
