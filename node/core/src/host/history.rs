//! What a node remembers for a while: which generations of slots are over,
//! and which jobs failed here. Both are bounded: losing the oldest costs a
//! guard against a very late message, or a bid that looks too good.

use potluck_specs::{Generation, JobName, Millis, SlotId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Ended generations that are remembered. A delayed award is minutes old at
/// most, and no node ends this many slots in minutes.
const ENDED_MAX: usize = 4_096;

/// Jobs whose failures are remembered: more than a node runs at a time.
const JOBS_MAX: usize = 256;

/// Failures that are remembered of each job; a bid does not get worse after.
const FAILURES_MAX: usize = 16;

/// How long a failure counts.
const FAILURE_AGE: Millis = Millis(10 * 60_000);

/// The last generation under which each slot ended here, so that an award that
/// was under way when its slot was stopped does not bring it back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ended {
    by_slot: BTreeMap<SlotId, Generation>,
    order: VecDeque<SlotId>,
}

impl Ended {
    pub(super) fn record(&mut self, slot: &SlotId, generation: Generation) {
        match self.by_slot.get_mut(slot) {
            Some(known) => *known = generation.max(*known),
            None => {
                self.by_slot.insert(slot.clone(), generation);
                self.order.push_back(slot.clone());
            }
        }
        if self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_slot.remove(&oldest);
        }
    }

    pub(super) fn generation(&self, slot: &SlotId) -> Option<Generation> {
        self.by_slot.get(slot).copied()
    }
}

/// When tasks of each job failed here lately.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Failures(BTreeMap<JobName, VecDeque<Millis>>);

impl Failures {
    pub(super) fn record(&mut self, job: &JobName, now: Millis) {
        if !self.0.contains_key(job) && self.0.len() >= JOBS_MAX {
            self.forget_stalest();
        }
        let times = self.0.entry(job.clone()).or_default();
        times.push_back(now);
        if times.len() > FAILURES_MAX {
            times.pop_front();
        }
    }

    fn forget_stalest(&mut self) {
        let stalest = self
            .0
            .iter()
            .min_by_key(|(_, times)| times.back().copied())
            .map(|(job, _)| job.clone());
        if let Some(job) = stalest {
            self.0.remove(&job);
        }
    }

    pub(super) fn count(&self, job: &JobName, now: Millis) -> u32 {
        let recent = |time: &&Millis| now.since(**time) < FAILURE_AGE;
        self.0
            .get(job)
            .map_or(0, |times| times.iter().filter(recent).count() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{Epoch, Reign};

    fn generation(sequence: u64) -> Generation {
        Generation {
            epoch: Epoch(1),
            reign: Reign(1),
            sequence,
        }
    }

    fn slot(index: u32) -> SlotId {
        SlotId {
            job: JobName::in_default("web"),
            index,
        }
    }

    #[test]
    fn the_highest_generation_of_a_slot_is_kept() {
        let mut ended = Ended::default();
        ended.record(&slot(0), generation(5));
        ended.record(&slot(0), generation(3));
        assert_eq!(ended.generation(&slot(0)), Some(generation(5)));
        assert_eq!(ended.generation(&slot(1)), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut ended = Ended::default();
        for index in 0..=ENDED_MAX as u32 {
            ended.record(&slot(index), generation(1));
        }
        assert_eq!(ended.generation(&slot(0)), None);
        assert_eq!(ended.by_slot.len(), ENDED_MAX);

        let mut failures = Failures::default();
        for job in 0..=JOBS_MAX {
            let name = JobName::in_default(&format!("job-{job}"));
            failures.record(&name, Millis(job as u64));
        }
        assert_eq!(failures.0.len(), JOBS_MAX);
        assert_eq!(
            failures.count(&JobName::in_default("job-0"), Millis(300)),
            0
        );
        assert_eq!(
            failures.count(&JobName::in_default("job-1"), Millis(300)),
            1
        );
    }

    #[test]
    fn failures_age() {
        let mut failures = Failures::default();
        let job = JobName::in_default("web");
        for time in 0..20 {
            failures.record(&job, Millis(time));
        }
        assert_eq!(failures.count(&job, Millis(20)), FAILURES_MAX as u32);
        assert_eq!(failures.count(&job, FAILURE_AGE + Millis(19)), 0);
    }
}
