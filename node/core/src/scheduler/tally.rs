//! How many tasks of each job stand in each place.
//!
//! Answers for counting without looking at all slots again: a slot that was
//! touched is counted anew when somebody asks next.

use super::{
    award::Awards,
    index::{Index, LEVELS, Place},
    names::{JobId, JobMap, Seat, SlotMap},
    picture::Picture,
};
use potluck_specs::{NodeId, job::Level};
use std::collections::{BTreeMap, BTreeSet};

/// Where tasks of one job are or will be.
#[derive(Debug, Default)]
pub(super) struct Tally {
    by_place: BTreeMap<u32, u32>,
    slots: BTreeMap<u32, Places>,
    heavy: bool,
}

/// Where one slot has tasks; mostly in one place, which takes no memory of its
/// own.
#[derive(Debug)]
struct Places {
    first: Place,
    further: Vec<Place>,
}

impl Places {
    fn of(places: &[Place]) -> Option<Places> {
        let (first, further) = places.split_first()?;
        Some(Places {
            first: *first,
            further: further.to_vec(),
        })
    }

    fn iter(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.first).chain(&self.further)
    }
}

impl Tally {
    /// Tasks in this place.
    pub(super) fn at(&self, place: u32) -> u32 {
        self.by_place.get(&place).copied().unwrap_or(0)
    }

    /// Tasks in the place of a host, at each level.
    pub(super) fn around(&self, place: &Place) -> [u32; LEVELS] {
        place.map(|place| self.at(place))
    }

    /// No task of it is anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Places of a level with tasks of the job.
    pub(super) fn places_at(&self, level: Level) -> BTreeSet<u32> {
        let places = self.slots.values().flat_map(Places::iter);
        places.map(|place| place[level as usize]).collect()
    }

    fn change<'p>(&mut self, places: impl Iterator<Item = &'p Place>, more: bool) {
        for place in places.flatten() {
            let count = self.by_place.entry(*place).or_default();
            *count = if more {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if *count == 0 {
                self.by_place.remove(place);
            }
        }
    }
}

/// The tallies of all jobs.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    jobs: JobMap<Tally>,
    /// May name a slot twice; emptied with each tick.
    stale: Vec<Seat>,
    /// Bandwidth-heavy tasks of any job, by rack.
    heavy: BTreeMap<u32, u32>,
    /// Where slots with volumes were last, by slot.
    former: SlotMap<NodeId>,
    /// Slots that were awarded away from their volumes.
    left: SlotMap<Left>,
}

/// Volumes stay on the host that a slot moves away from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    from: NodeId,
    to: NodeId,
}

impl Tallies {
    /// Something about a slot is different.
    pub(super) fn touch(&mut self, seat: Seat) {
        self.stale.push(seat);
    }

    pub(super) fn of(&self, job: JobId) -> Option<&Tally> {
        self.jobs.get(job)
    }

    /// Bandwidth-heavy tasks in the rack of a place.
    pub(super) fn heavy_around(&self, place: &Place) -> u32 {
        let rack = place[Level::Rack as usize];
        self.heavy.get(&rack).copied().unwrap_or(0)
    }

    /// Where a slot with volumes was last.
    pub(super) fn former(&self, seat: Seat) -> Option<NodeId> {
        self.former.get(seat).copied()
    }

    /// A slot goes to another host than the one that has its volumes.
    pub(super) fn leaves(&mut self, seat: Seat, from: NodeId, to: NodeId) {
        self.left.insert(seat, Left { from, to });
    }

    /// Where the volumes stayed of a slot that is on this host now.
    pub(super) fn left(&self, seat: Seat, now_on: NodeId) -> Option<NodeId> {
        let left = self.left.get(seat)?;
        (left.to == now_on).then_some(left.from)
    }

    /// Counts what was touched.
    pub(super) fn settle(
        &mut self,
        picture: &Picture,
        awards: &Awards,
        index: &Index,
        is_heavy: impl Fn(JobId) -> bool,
        has_volumes: impl Fn(JobId) -> bool,
    ) {
        let mut stale = std::mem::take(&mut self.stale);
        let mut places: Vec<Place> = Vec::new();
        for seat in stale.drain(..) {
            places.clear();
            let place_of = |node| index.of(node).map(|entry| entry.place);
            let mut awarded = awards.get(seat).map(|award| award.node);
            for (node, _) in picture.holders(seat) {
                places.extend(place_of(node));
                awarded = awarded.filter(|to| *to != node);
                if has_volumes(seat.job) {
                    self.former.insert(seat, node);
                }
            }
            places.extend(awarded.and_then(place_of));
            self.put(seat, &places, is_heavy(seat.job));
        }
        // Its room is kept for the next ones.
        self.stale = stale;
    }

    fn put(&mut self, seat: Seat, places: &[Place], heavy: bool) {
        if self.jobs.get(seat.job).is_none() && places.is_empty() {
            return;
        }
        let tally = self.jobs.of(seat.job);
        if tally.heavy != heavy {
            tally.heavy = heavy;
            for place in tally.slots.values().flat_map(Places::iter) {
                weigh(&mut self.heavy, place, heavy);
            }
        }
        let known = tally.slots.get(&seat.index).into_iter();
        if known.flat_map(Places::iter).eq(places) {
            return;
        }
        let before = match Places::of(places) {
            None => tally.slots.remove(&seat.index),
            Some(places) => tally.slots.insert(seat.index, places),
        };
        let before = || before.iter().flat_map(Places::iter);
        tally.change(before(), false);
        tally.change(places.iter(), true);
        if heavy {
            for place in before() {
                weigh(&mut self.heavy, place, false);
            }
            for place in places {
                weigh(&mut self.heavy, place, true);
            }
        }
        if tally.is_empty() {
            self.jobs.remove(seat.job);
        }
    }
}

fn weigh(heavy: &mut BTreeMap<u32, u32>, place: &Place, more: bool) {
    let rack = place[Level::Rack as usize];
    let count = heavy.entry(rack).or_default();
    *count = if more {
        *count + 1
    } else {
        count.saturating_sub(1)
    };
}
