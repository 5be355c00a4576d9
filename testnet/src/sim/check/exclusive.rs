//! An exclusive slot is never filled twice: of the processes of one such slot
//! at most one lives in all the world at any true time, whatever the hosts'
//! clocks show; its holder is in the log before the award leaves; and each
//! process carries at least the token of every one before it.
//!
//! Source: "An exclusive slot moves once its recorded holder reports it
//! stopped, or at lease x 1.01 + 4 s after the last renewal"; "what must not
//! happen twice is committed before it takes effect". A process counts from the
//! start of its helper to its own end, also on a host that nobody hears. A
//! storage that knows the highest token that it has seen refuses all others,
//! so one that falls would lock out the task that should run.

use super::{Seen, Violation, World, broken};
use crate::sim::client::is_exclusive;
use potluck_core::scheduler::Effect;
use potluck_specs::{Generation, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "no exclusive slot twice";

const FIRST: &str = "exclusive holders are in the log first";

/// The highest token that a task of each slot was started with.
#[derive(Debug, Default)]
pub struct Exclusive {
    tokens: BTreeMap<SlotId, Generation>,
}

impl Exclusive {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match *seen {
            Seen::Stepped { at, changed: true } => self.stepped(world, at),
            Seen::Decided { at, effects } => effects.iter().try_for_each(|effect| match effect {
                Effect::Award { to, award } => {
                    let to = world.index[to];
                    let mut slots = award.slots.iter();
                    slots.try_for_each(|(slot, generation)| {
                        awarded(world, (at, to), slot, *generation)
                    })
                }
                _ => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    fn stepped(&mut self, world: &World, at: usize) -> Result<(), Violation> {
        for process in world.machines[at].live() {
            let (slot, token) = (&process.run.slot, process.generation);
            if !is_exclusive(&slot.job) {
                continue;
            }
            if process.lease_until.is_none() {
                return broken(NAME, format!("h{at} runs {slot} without a lease"));
            }
            let others = world.machines.iter().enumerate();
            let mut others = others.filter(|(other, _)| *other != at);
            if let Some((other, _)) = others.find(|(_, machine)| {
                let mut live = machine.live();
                live.any(|other| other.run.slot == *slot)
            }) {
                return broken(NAME, format!("{slot} runs on h{at} and on h{other}"));
            }
            let highest = self.tokens.entry(slot.clone()).or_insert(token);
            if token < *highest {
                let what = format!("h{at} runs {slot} as {token}, which ran as {highest}");
                return broken(NAME, what);
            }
            *highest = token;
        }
        Ok(())
    }
}

/// What was recorded and is overtaken by now was recorded all the same.
fn awarded(
    world: &World,
    (at, to): (usize, usize),
    slot: &SlotId,
    generation: Generation,
) -> Result<(), Violation> {
    let holder = world.control.truth.exclusive_holder(slot);
    let recorded = holder.is_some_and(|holder| holder.generation >= generation);
    match recorded || !is_exclusive(&slot.job) {
        true => Ok(()),
        false => broken(
            FIRST,
            format!("h{at} awards {slot} to h{to} as {generation}, the log has {holder:?}"),
        ),
    }
}
