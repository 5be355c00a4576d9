//! A task whose amounts are changed while it runs.
//!
//! ```text
//! award of a version that differs in amounts alone
//!   --no room, or no such limit here--> refused: the scheduler has it start again
//!   --fits--> in the journal, answered, then the helper is told
//!                |--all set and read back--> the former amounts are free
//!                '--something is not as wanted--> told in the status; the larger of
//!                   both amounts stays reserved until the task starts again
//! ```
//!
//! Answers for what stays reserved meanwhile, and for telling a helper again
//! that may not have heard: one that dialled anew, one that was found after the
//! agent's restart. Which versions differ in amounts alone is said by
//! [`potluck_specs::diff`].

use super::{
    Effects, Host, Offer,
    life::put,
    message::{Effect, Run},
    slot::{Slot, State},
};
use crate::{attributes::ability_lacks, auction::Refusal};
use potluck_specs::{Generation, Job, Millis, SlotId};

/// Longest text about limits that were refused: it travels with each full
/// inventory, for each task.
const REFUSED_CHARS_MAX: usize = 300;

impl Host {
    /// Refuses a job that asks for a limit that this host can't set, or a user
    /// that it can't be.
    pub(super) fn is_able(&self, job: &Job) -> Result<(), Refusal> {
        match ability_lacks(job, &self.facts) {
            None => Ok(()),
            Some(attribute) => Err(Refusal::Requirement {
                requirement: format!("{attribute} = \"yes\""),
                has: self.facts.get(attribute).map(str::to_owned),
            }),
        }
    }

    /// What fills the slot becomes of the offered version as it is. A host that
    /// takes no new work does that too: it is none.
    pub(super) fn change_live(
        &mut self,
        id: &SlotId,
        generation: Generation,
        offer: &Offer,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        self.is_able(&offer.job)?;
        self.check_room(id, offer.job.task.resources)?;
        let Some(slot) = self.slots.get_mut(id) else {
            return Ok(());
        };
        let entry = &mut slot.entry;
        entry.limits_before = Some(entry.needs());
        entry.generation = generation;
        entry.job = offer.job.clone();
        entry.signed = offer.signed.clone();
        if !slot.has_process() {
            slot.entry.limits_before = None;
        }
        effects.durable.push(put(slot, true));
        match slot.state {
            State::Running { .. } => tell(slot, effects),
            // It may be what it lacked.
            State::Backoff { .. } => {
                slot.failures_in_row = 0;
                slot.state = State::Backoff { until: now };
            }
            _ => {}
        }
        self.touch(id, effects);
        Ok(())
    }

    /// A helper tried to set what it was told last.
    pub(super) fn limits_set(&mut self, run: &Run, refused: &[String], effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&run.slot).filter(|slot| slot.is(run)) else {
            return;
        };
        slot.limits_told = slot.limits_told.saturating_sub(1);
        if slot.limits_told > 0 {
            return;
        }
        slot.limits_refused = (!refused.is_empty()).then(|| {
            let told = format!("its limits are not as wanted: {}", refused.join("; "));
            told.chars().take(REFUSED_CHARS_MAX).collect()
        });
        if slot.limits_refused.is_none() && slot.entry.limits_before.take().is_some() {
            // Lost with a crash, it is told and set once more.
            effects.then.push(put(slot, false));
        }
        self.touch(&run.slot, effects);
    }
}

/// A process begins with what the job says now.
pub(super) fn begin(slot: &mut Slot) {
    slot.entry.limits_before = None;
    slot.limits_told = 0;
    slot.limits_refused = None;
}

/// The helper may not have heard what its task is to have.
pub(super) fn tell_again(slot: &mut Slot, effects: &mut Effects) {
    if slot.entry.limits_before.is_some() {
        slot.limits_told = 0;
        tell(slot, effects);
    }
}

fn tell(slot: &mut Slot, effects: &mut Effects) {
    slot.limits_told += 1;
    effects.then.push(Effect::SetLimits {
        run: slot.run(),
        job: slot.entry.job.clone(),
    });
}
