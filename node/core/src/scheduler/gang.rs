//! Gangs: work whose tasks start all together or not at all.
//!
//! ```text
//! apart --a call that finds room for all--> gathering --all are there--> whole
//!   ^                                           |                          |
//!   |  not whole again within 10 s: all that    |  a task is gone: its     |
//!   +--  is there is stopped ---<---------------+--  place is called  --<--+
//! ```
//!
//! Answers for three rules by which no two gangs wait for each other for ever:
//!
//! 1. A call for a gang awards all that it asks for, or nothing.
//! 2. One gang is called at a time: bids reserve, and two that are called
//!    together could each keep the half that the other lacks, again and again.
//! 3. A gang of which a part is missing gives the rest up after a while. An
//!    award may be refused although its bid was good, and hosts die: without
//!    this rule two gangs that have lost a task each, with room for one, hold
//!    what the other needs.
//!
//! What is given up has not failed. Slots whose holder is not known, or which
//! wait to be tried again after a failure, are waited for: a gang is called
//! when all that it lacks can be called, and the jobs that it depends on are
//! there.

use super::{
    Scheduler,
    names::{JobId, Seat},
    per_node::Slots,
    rollout::Target,
};
use crate::auction::StopReason;
use potluck_specs::{Job, Millis, NodeId, job::JobKind};
use std::collections::BTreeMap;

/// How long a part of a gang keeps its room: some rounds of calls, and the time
/// in which a host that is suspected shows that it lives.
const PATIENCE: Millis = Millis(10_000);

/// Between two looks at a gang that is not whole.
const LOOK_EVERY: Millis = Millis(500);

/// What is remembered of gangs.
#[derive(Debug, Default)]
pub(super) struct Gangs {
    /// The call that is or was open last.
    call: Option<u64>,
    /// Since when a part of the gang is missing.
    partial_since: BTreeMap<JobId, Millis>,
}

pub(super) fn is_gang(job: &Job) -> bool {
    matches!(&job.kind, JobKind::Batch(batch) if batch.gang)
}

impl Scheduler {
    /// What of a gang is to be called now: all that it lacks, or nothing.
    pub(super) fn gather(
        &mut self,
        target: &Target,
        slots: &Slots,
        missing: Vec<Seat>,
        now: Millis,
    ) -> Vec<Seat> {
        let job = target.id();
        let there = self.part_that_is_there(job, slots);
        if missing.is_empty() || there.is_empty() {
            self.gangs.partial_since.remove(&job);
        } else {
            let since = *self.gangs.partial_since.entry(job).or_insert(now);
            if now.since(since) >= PATIENCE {
                self.give_up(job, there);
                return Vec::new();
            }
            self.wake(job, now + LOOK_EVERY);
        }
        let lacks = (slots.count() as usize).saturating_sub(self.count_there(job, slots));
        if missing.len() < lacks {
            return Vec::new();
        }
        if self.another_gang_is_called(job) {
            self.deferred.insert(job);
            return Vec::new();
        }
        missing
    }

    /// A gang that waits for another job is called by no one, and a part of it
    /// keeps what it has until the others may be called.
    pub(super) fn gang_waits(&mut self, job: JobId) -> Vec<Seat> {
        self.gangs.partial_since.remove(&job);
        Vec::new()
    }

    /// Tasks of the gang that are to stay, each with its host.
    fn part_that_is_there(&self, job: JobId, slots: &Slots) -> Vec<(Seat, NodeId)> {
        let seats = slots.indexes().map(|index| job.seat(index));
        let held = seats.filter_map(|seat| Some((seat, self.kept(seat)?.0)));
        held.filter(|held| !self.stops.contains_key(held)).collect()
    }

    fn count_there(&self, job: JobId, slots: &Slots) -> usize {
        let there = slots.indexes().map(|index| job.seat(index)).filter(|seat| {
            let stays = |(node, _)| !self.stops.contains_key(&(*seat, node));
            self.awards.contains(*seat) || self.kept(*seat).is_some_and(stays)
        });
        there.count()
    }

    fn give_up(&mut self, job: JobId, there: Vec<(Seat, NodeId)>) {
        self.gangs.partial_since.remove(&job);
        for (seat, node) in there {
            self.decide_stop(seat, node, StopReason::Incomplete);
        }
    }

    fn another_gang_is_called(&self, job: JobId) -> bool {
        let open = self.gangs.call.and_then(|call| self.calls.get(call));
        open.is_some_and(|open| open.job != job)
    }

    /// A call is opened; of a gang it is the only one.
    pub(super) fn note_gang_call(&mut self, job: &Job, call: u64) {
        if is_gang(job) {
            self.gangs.call = Some(call);
        }
    }
}
