//! What comes after a task's end: another start in place, an end for good, or
//! nothing that counts.
//!
//! | job | ended | then |
//! |---|---|---|
//! | service, one per node | `restart.on` asks for a start | again, after a pause |
//! | | else | `Ended`: the slot stays filled, by a task that runs no more |
//! | work that ends | code 0 | `Stopped`, succeeded |
//! | | with its helper or its lease | `Stopped`, as if it had never been placed |
//! | | else | `Stopped`, failed: whether it is tried again says the log |
//!
//! An end for good is in the journal before anybody hears of it, and stays
//! there until it is heard: a restarted agent would start the task again.

use super::{
    Effects, Host,
    life::{put, set},
    message::{End, Entry},
    slot::State,
};
use crate::session::Outcome;
use potluck_specs::{
    Job, Millis, SlotId,
    job::{JobKind, RestartOn},
};

/// What comes after an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The task is started again here.
    Again,
    /// It is over.
    Ended(Outcome),
    /// Nothing: the host's fault is not the task's.
    Gone,
}

pub(super) fn after(job: &Job, end: &End) -> After {
    let outcome = match end {
        End::Code(0) => Outcome::Succeeded,
        other => Outcome::Failed {
            why: other.to_string(),
        },
    };
    if matches!(job.kind, JobKind::Batch(_)) {
        return match end {
            End::HelperLost | End::LeaseExpired => After::Gone,
            _ => After::Ended(outcome),
        };
    }
    match (job.task.restart.on, &outcome) {
        (RestartOn::Always, _) | (RestartOn::Failure, Outcome::Failed { .. }) => After::Again,
        _ => After::Ended(outcome),
    }
}

/// The state of a slot from the journal.
pub(super) fn restored(entry: &Entry) -> State {
    match &entry.ended {
        Some(_) => over(&entry.job),
        None => State::Adopting,
    }
}

fn over(job: &Job) -> State {
    match job.kind {
        JobKind::Batch(_) => State::Stopped,
        _ => State::Ended,
    }
}

impl Host {
    /// The task has ended for good.
    pub(super) fn finish(
        &mut self,
        id: &SlotId,
        outcome: Outcome,
        now: Millis,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let succeeded = outcome == Outcome::Succeeded;
        slot.entry.ended = Some(outcome);
        let state = over(&slot.entry.job);
        set(slot, state, now);
        slot.healthy = succeeded && state == State::Ended;
        self.ports.give_back(&slot.entry.ports, now);
        effects.durable.push(put(slot, true));
        if state == State::Stopped {
            self.ended.record(id, slot.entry.generation);
        }
        if !succeeded {
            self.failures.record(&id.job, now);
        }
        self.touch(id, effects);
    }
}
