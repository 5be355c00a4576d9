//! How many tasks of each job stand in each place.
//!
//! Answers for counting without looking at all slots again: a slot that was
//! touched is counted anew when somebody asks next.

use super::{
    award::Awards,
    index::{Index, LEVELS, Place},
    picture::Picture,
};
use potluck_specs::{JobName, NodeId, SlotId, job::Level};
use std::collections::{BTreeMap, BTreeSet};

/// Where tasks of one job are or will be.
#[derive(Debug, Default)]
pub(super) struct Tally {
    by_place: BTreeMap<u32, u32>,
    slots: BTreeMap<u32, Vec<Place>>,
    heavy: bool,
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
        let places = self.slots.values().flatten();
        places.map(|place| place[level as usize]).collect()
    }

    fn change(&mut self, places: &[Place], more: bool) {
        for place in places.iter().flatten() {
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
    jobs: BTreeMap<JobName, Tally>,
    /// May name a slot twice; emptied with each tick.
    stale: Vec<SlotId>,
    /// Bandwidth-heavy tasks of any job, by rack.
    heavy: BTreeMap<u32, u32>,
    /// Where slots with volumes were last, by slot.
    former: BTreeMap<SlotId, NodeId>,
}

impl Tallies {
    /// Something about a slot is different.
    pub(super) fn touch(&mut self, slot: &SlotId) {
        self.stale.push(slot.clone());
    }

    pub(super) fn of(&self, job: &JobName) -> Option<&Tally> {
        self.jobs.get(job)
    }

    /// Bandwidth-heavy tasks in the rack of a place.
    pub(super) fn heavy_around(&self, place: &Place) -> u32 {
        let rack = place[Level::Rack as usize];
        self.heavy.get(&rack).copied().unwrap_or(0)
    }

    /// Where a slot with volumes was last.
    pub(super) fn former(&self, slot: &SlotId) -> Option<NodeId> {
        self.former.get(slot).copied()
    }

    /// Counts what was touched.
    pub(super) fn settle(
        &mut self,
        picture: &Picture,
        awards: &Awards,
        index: &Index,
        is_heavy: impl Fn(&JobName) -> bool,
        has_volumes: impl Fn(&JobName) -> bool,
    ) {
        for slot in std::mem::take(&mut self.stale) {
            let mut places: Vec<Place> = Vec::new();
            let place_of = |node| index.of(node).map(|entry| entry.place);
            let mut awarded = awards.get(&slot).map(|award| award.node);
            for (node, _) in picture.holders_of(&slot) {
                places.extend(place_of(node));
                awarded = awarded.filter(|to| *to != node);
                if has_volumes(&slot.job) {
                    self.former.insert(slot.clone(), node);
                }
            }
            places.extend(awarded.and_then(place_of));
            self.put(&slot, places, is_heavy(&slot.job));
        }
    }

    fn put(&mut self, slot: &SlotId, places: Vec<Place>, heavy: bool) {
        if !self.jobs.contains_key(&slot.job) {
            if places.is_empty() {
                return;
            }
            self.jobs.insert(slot.job.clone(), Tally::default());
        }
        let Some(tally) = self.jobs.get_mut(&slot.job) else {
            return;
        };
        if tally.heavy != heavy {
            tally.heavy = heavy;
            for place in tally.slots.values().flatten() {
                weigh(&mut self.heavy, place, heavy);
            }
        }
        let before = match places.is_empty() {
            true => tally.slots.remove(&slot.index),
            false => tally.slots.insert(slot.index, places.clone()),
        };
        let before = before.unwrap_or_default();
        tally.change(&before, false);
        tally.change(&places, true);
        if heavy {
            for place in &before {
                weigh(&mut self.heavy, place, false);
            }
            for place in &places {
                weigh(&mut self.heavy, place, true);
            }
        }
        if tally.is_empty() {
            self.jobs.remove(&slot.job);
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
