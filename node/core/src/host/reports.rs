//! The numbering of inventories: what the scheduler knows, and what changed
//! since.

use potluck_specs::SlotId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Forgotten slots that are kept for the next delta; with more, everything is
/// sent instead.
const GONE_MAX: usize = 1_024;

/// Numbers each change, and knows up to which the scheduler has heard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reports {
    number: u64,
    confirmed: Option<u64>,
    /// Forgotten slots, each with the number of its end.
    gone: BTreeMap<SlotId, u64>,
}

impl Reports {
    /// The number of a change that happens now.
    pub(super) fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A slot was forgotten.
    pub(super) fn forgot(&mut self, slot: SlotId) {
        let number = self.next();
        self.gone.insert(slot, number);
        if self.gone.len() > GONE_MAX {
            self.restart();
        }
    }

    /// A slot is filled that may have been forgotten before.
    pub(super) fn filled(&mut self, slot: &SlotId) {
        self.gone.remove(slot);
    }

    /// The next inventory holds everything.
    pub(super) fn restart(&mut self) {
        self.confirmed = None;
        self.gone.clear();
    }

    /// The scheduler knows the host up to `number`; `None`: not at all. An
    /// answer that was overtaken by a later one changes nothing.
    pub(super) fn confirm(&mut self, number: Option<u64>) {
        match number {
            Some(number) if number <= self.number => {
                self.confirmed = self.confirmed.max(Some(number));
                let confirmed = self.confirmed;
                self.gone.retain(|_, ended| Some(*ended) > confirmed);
            }
            _ => self.restart(),
        }
    }

    /// Which changes are still to be told: all after this number. `None`: all.
    pub(super) fn since(&self) -> Option<u64> {
        self.confirmed
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn gone(&self) -> Vec<SlotId> {
        self.gone.keys().cloned().collect()
    }
}
