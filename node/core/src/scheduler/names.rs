//! Jobs by number, and what is kept of slots by those numbers.
//!
//! Answers for keys that are copied and compared at no cost: a name is two
//! strings, and the scheduler looks a slot up a dozen times for each decision.
//! Names come in with events and leave with effects; in between there are
//! numbers. They say nothing about order: whatever must not depend on which
//! job was met first sorts by name.

use potluck_specs::{JobName, SlotId};
use std::collections::BTreeMap;

/// So many names make those that nobody uses any more be forgotten: hosts may
/// report any, and the log holds ten thousand at most.
const TIDY_FROM: usize = 20_000;

/// A job by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobId(u32);

/// A job that was never met: nothing is known of any of its slots.
pub(super) const NOBODY: JobId = JobId(u32::MAX);

/// A slot, by its job's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) job: JobId,
    pub(super) index: u32,
}

impl JobId {
    /// One of its slots.
    pub(super) fn seat(self, index: u32) -> Seat {
        Seat { job: self, index }
    }
}

/// All names that have been met.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: BTreeMap<JobName, JobId>,
    names: Vec<JobName>,
    vacant: Vec<JobId>,
}

impl Names {
    /// The number of a job that may not have been met before.
    pub(super) fn meet(&mut self, name: &JobName) -> JobId {
        if let Some(known) = self.ids.get(name) {
            return *known;
        }
        let id = match self.vacant.pop() {
            Some(id) => {
                self.names[id.0 as usize].clone_from(name);
                id
            }
            None => {
                self.names.push(name.clone());
                JobId((self.names.len() - 1) as u32)
            }
        };
        self.ids.insert(name.clone(), id);
        id
    }

    /// The number of a slot of such a job.
    pub(super) fn meet_slot(&mut self, slot: &SlotId) -> Seat {
        self.meet(&slot.job).seat(slot.index)
    }

    /// The number of a job, [`NOBODY`]'s if it was never met.
    pub(super) fn id(&self, name: &JobName) -> JobId {
        self.ids.get(name).copied().unwrap_or(NOBODY)
    }

    /// The number of a slot, one of [`NOBODY`] if its job was never met.
    pub(super) fn seat(&self, slot: &SlotId) -> Seat {
        self.id(&slot.job).seat(slot.index)
    }

    pub(super) fn name(&self, job: JobId) -> &JobName {
        &self.names[job.0 as usize]
    }

    pub(super) fn slot(&self, seat: Seat) -> SlotId {
        SlotId {
            job: self.name(seat.job).clone(),
            index: seat.index,
        }
    }

    /// Forgets names that nobody uses, once there are too many.
    pub(super) fn tidy(&mut self, is_used: impl Fn(JobId) -> bool) {
        if self.ids.len() < TIDY_FROM {
            return;
        }
        let vacant = &mut self.vacant;
        self.ids.retain(|_, id| {
            let used = is_used(*id);
            if !used {
                vacant.push(*id);
            }
            used
        });
    }
}

/// Something for each of some jobs.
#[derive(Debug)]
pub(super) struct JobMap<T>(Vec<Option<T>>);

impl<T> Default for JobMap<T> {
    fn default() -> JobMap<T> {
        JobMap(Vec::new())
    }
}

impl<T> JobMap<T> {
    pub(super) fn get(&self, job: JobId) -> Option<&T> {
        self.0.get(job.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, job: JobId) -> Option<&mut T> {
        self.0.get_mut(job.0 as usize)?.as_mut()
    }

    fn place(&mut self, job: JobId) -> &mut Option<T> {
        let at = job.0 as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        &mut self.0[at]
    }

    pub(super) fn insert(&mut self, job: JobId, value: T) -> Option<T> {
        self.place(job).replace(value)
    }

    pub(super) fn remove(&mut self, job: JobId) -> Option<T> {
        self.0.get_mut(job.0 as usize)?.take()
    }

    /// All, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (JobId, &T)> {
        let all = self.0.iter().enumerate();
        all.filter_map(|(at, value)| Some((JobId(at as u32), value.as_ref()?)))
    }
}

impl<T: Default> JobMap<T> {
    pub(super) fn of(&mut self, job: JobId) -> &mut T {
        self.place(job).get_or_insert_with(T::default)
    }
}

/// Something for each of some slots.
#[derive(Debug)]
pub(super) struct SlotMap<T> {
    jobs: Vec<BTreeMap<u32, T>>,
}

impl<T> Default for SlotMap<T> {
    fn default() -> SlotMap<T> {
        SlotMap { jobs: Vec::new() }
    }
}

impl<T> SlotMap<T> {
    pub(super) fn get(&self, seat: Seat) -> Option<&T> {
        self.jobs.get(seat.job.0 as usize)?.get(&seat.index)
    }

    pub(super) fn get_mut(&mut self, seat: Seat) -> Option<&mut T> {
        self.jobs.get_mut(seat.job.0 as usize)?.get_mut(&seat.index)
    }

    pub(super) fn contains(&self, seat: Seat) -> bool {
        self.get(seat).is_some()
    }

    fn of(&mut self, job: JobId) -> &mut BTreeMap<u32, T> {
        let at = job.0 as usize;
        if at >= self.jobs.len() {
            self.jobs.resize_with(at + 1, BTreeMap::new);
        }
        &mut self.jobs[at]
    }

    pub(super) fn insert(&mut self, seat: Seat, value: T) -> Option<T> {
        self.of(seat.job).insert(seat.index, value)
    }

    pub(super) fn get_or_insert_with(&mut self, seat: Seat, make: impl FnOnce() -> T) -> &mut T {
        if !self.contains(seat) {
            self.insert(seat, make());
        }
        self.of(seat.job).get_mut(&seat.index).expect("just put in")
    }

    pub(super) fn remove(&mut self, seat: Seat) -> Option<T> {
        self.jobs.get_mut(seat.job.0 as usize)?.remove(&seat.index)
    }

    /// Those of one job, in order.
    pub(super) fn of_job(&self, job: JobId) -> impl Iterator<Item = (Seat, &T)> {
        let of_job = self.jobs.get(job.0 as usize).into_iter().flatten();
        of_job.map(move |(index, value)| (job.seat(*index), value))
    }

    /// How many of one job there are.
    pub(super) fn count_of(&self, job: JobId) -> usize {
        self.jobs.get(job.0 as usize).map_or(0, BTreeMap::len)
    }

    /// All, by job.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seat, &T)> {
        let jobs = self.jobs.iter().enumerate();
        jobs.flat_map(|(job, slots)| {
            let job = JobId(job as u32);
            slots
                .iter()
                .map(move |(index, value)| (job.seat(*index), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_until_nobody_uses_it() {
        let mut names = Names::default();
        let name = |k: usize| JobName::in_default(&format!("j{k}"));
        for k in 0..TIDY_FROM {
            let id = names.meet(&name(k));
            assert_eq!(id, names.meet(&name(k)));
            assert_eq!(names.name(id), &name(k));
        }
        names.tidy(|id| id.0 % 2 == 0);
        assert!(names.id(&name(2)) != NOBODY && names.id(&name(3)) == NOBODY);
        let id = names.meet(&JobName::in_default("new"));
        assert_eq!(names.name(id).name, "new");
        assert_eq!(names.names.len(), TIDY_FROM, "numbers are given again");
    }

    #[test]
    fn slots_are_found_by_number_and_by_job() {
        let mut names = Names::default();
        let a = names.meet(&JobName::in_default("a"));
        let b = names.meet(&JobName::in_default("b"));
        let mut map = SlotMap::default();
        assert_eq!(map.insert(b.seat(7), 1), None);
        assert_eq!(map.insert(b.seat(7), 2), Some(1));
        *map.get_or_insert_with(a.seat(0), || 5) += 1;
        let all: Vec<_> = map.iter().map(|(seat, n)| (seat, *n)).collect();
        assert_eq!(all, [(a.seat(0), 6), (b.seat(7), 2)]);
        assert_eq!(map.of_job(b).count(), 1);
        assert_eq!(map.remove(a.seat(0)), Some(6));
        assert_eq!((map.remove(a.seat(0)), map.count_of(b)), (None, 1));
        map.remove(b.seat(7));
        assert!(map.iter().next().is_none() && map.count_of(b) == 0);
    }
}
