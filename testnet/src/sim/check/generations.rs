//! A host never obeys an older generation: what it holds of a slot only ever
//! rises, and what was ended there stays ended.
//!
//! Source: "A node keeps, durably, the highest (epoch, reign) it has heard
//! from anyone and refuses lower ones for every slot"; within one authority
//! the sequence orders the instructions about a slot. A late, doubled or
//! overtaken award must not bring back what a later word has ended.

use super::{Seen, Violation, broken};
use crate::sim::exchange::Request;
use potluck_core::host::Answer;
use potluck_specs::{Generation, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "no older generation is obeyed";

/// The highest generation that each host has obeyed of each slot, and whether
/// that was to end it.
#[derive(Debug, Default)]
pub struct Generations {
    obeyed: BTreeMap<(usize, SlotId), (Generation, bool)>,
}

impl Generations {
    pub(super) fn see(&mut self, seen: &Seen<'_>) -> Result<(), Violation> {
        match seen {
            // A connection ends with the process: no message to the life
            // before reaches the next one, so its memory may be shorter.
            Seen::Started { at } => {
                self.obeyed
                    .retain(|(host, _), (_, ended)| host != at || !*ended);
                Ok(())
            }
            Seen::Answered {
                at,
                request: Request::Award(award),
                answer: Answer::Award(answer),
                ..
            } => {
                let mut slots = award.slots.iter().zip(&answer.slots);
                slots.try_for_each(|((slot, generation), (_, answer))| match answer {
                    Ok(()) => self.awarded(*at, slot, *generation),
                    Err(_) => Ok(()),
                })
            }
            Seen::Answered {
                at,
                request: Request::Stop(order),
                answer: Answer::Stop(Ok(())),
                ..
            } => {
                self.stopped(*at, &order.slot, order.generation);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn awarded(&mut self, at: usize, slot: &SlotId, awarded: Generation) -> Result<(), Violation> {
        let key = (at, slot.clone());
        if let Some((known, ended)) = self.obeyed.get(&key)
            && (awarded < *known || (awarded == *known && *ended))
        {
            let how = if *ended { "ended" } else { "filled" };
            let what = format!("h{at} fills {slot} as {awarded}, which it had {how} as {known}");
            return broken(NAME, what);
        }
        self.obeyed.insert(key, (awarded, false));
        Ok(())
    }

    fn stopped(&mut self, at: usize, slot: &SlotId, stopped: Generation) {
        let known = self
            .obeyed
            .entry((at, slot.clone()))
            .or_insert((stopped, true));
        if stopped >= known.0 {
            *known = (stopped, true);
        }
    }
}
