//! How even a job is over the places that count for it.
//!
//! Answers for whether a task would stand better elsewhere. The levels are
//! those by which the auction places the job, in its order of weight, so that
//! what one makes even the other does not turn round.

use super::{
    index::{LEVELS, Place},
    score::Weights,
};
use potluck_specs::job::Level;
use std::{cmp::Reverse, collections::BTreeMap};

/// Tasks more in one place than in another where one of them could be: fewer
/// are even, since moving one would only turn them round.
const SKEW_MIN: u32 = 2;

/// Levels that count for a job, those that weigh most first: of the default
/// spread the widest, racks, hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order(Vec<Level>);

impl Order {
    pub(super) fn of(weights: &Weights) -> Order {
        let weight = |level: &Level| weights.spread[*level as usize];
        let mut levels: Vec<Level> = Level::ALL.into_iter().filter(|l| weight(l) > 0).collect();
        levels.sort_by_key(|level| (Reverse(weight(level)), *level));
        Order(levels)
    }

    pub(super) fn levels(&self) -> impl Iterator<Item = Level> {
        self.0.iter().copied()
    }

    /// What there is at each of its levels.
    pub(super) fn pick<T: Copy>(&self, all: &[T; LEVELS]) -> Vec<T> {
        self.0.iter().map(|level| all[*level as usize]).collect()
    }

    /// The level at which the job would be more even with one task moved from
    /// there to here, being no less even at any that weighs more; `None`: it
    /// would not.
    pub(super) fn evened(&self, there: &Spot, here: &Spot) -> Option<Level> {
        for level in &self.0 {
            let at = *level as usize;
            if there.place[at] == here.place[at] {
                continue;
            }
            if there.tasks[at] >= here.tasks[at] + SKEW_MIN {
                return Some(*level);
            }
            // One more there than here: the two would change places.
            if there.tasks[at] <= here.tasks[at] {
                return None;
            }
        }
        None
    }

    /// Where a level stands in it, the first being 0.
    pub(super) fn rank(&self, level: Level) -> usize {
        self.0.iter().take_while(|one| **one != level).count()
    }
}

/// The place of a host, and the job's tasks in it at each level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) place: Place,
    pub(super) tasks: [u32; LEVELS],
}

/// How uneven a job is: at each level, in order, the squares of what its
/// places have, added up. A move is worth it if this falls.
pub(super) type Crowding = Vec<u64>;

/// How many of a job's tasks each place has.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    places: [BTreeMap<u32, u32>; LEVELS],
    pub(super) tasks: u32,
}

impl Crowd {
    pub(super) fn add(&mut self, place: &Place) {
        self.tasks += 1;
        for (places, at) in self.places.iter_mut().zip(place) {
            *places.entry(*at).or_default() += 1;
        }
    }

    /// A place with what it has.
    pub(super) fn spot(&self, place: Place) -> Spot {
        let mut tasks = [0; LEVELS];
        for ((tasks, places), at) in tasks.iter_mut().zip(&self.places).zip(&place) {
            *tasks = places.get(at).copied().unwrap_or(0);
        }
        Spot { place, tasks }
    }

    pub(super) fn crowding(&self, order: &Order) -> Crowding {
        let squares = |level: &Level| {
            let counts = self.places[*level as usize].values();
            counts.map(|count| u64::from(*count).pow(2)).sum()
        };
        order.0.iter().map(squares).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_default() -> Order {
        Order::of(&Weights::new(&[], false, |level| {
            [Level::Datacenter, Level::Rack, Level::Node].contains(&level)
        }))
    }

    /// Host `host` of a rack of a datacenter.
    fn place(datacenter: u32, rack: u32, host: u32) -> Place {
        [
            1,
            10 + datacenter,
            100 + datacenter,
            1_000 + rack,
            10_000 + host,
        ]
    }

    #[test]
    fn the_order_is_that_of_the_weights() {
        let levels = [Level::Datacenter, Level::Rack, Level::Node];
        assert_eq!(by_default().0, levels);
        let asked = Weights::new(&[Level::Rack], false, |_| true);
        assert_eq!(Order::of(&asked).0, [Level::Rack, Level::Node]);
        let turned = Weights::new(&[Level::Node, Level::Region], false, |_| true);
        assert_eq!(Order::of(&turned).0, [Level::Node, Level::Region]);
    }

    #[test]
    fn a_move_must_even_one_level_and_spoil_none_that_weighs_more() {
        // Tasks on hosts, as (datacenter, rack, host) each; from, to, at which
        // level it evens.
        type Row = (
            &'static [(u32, u32, u32)],
            (u32, u32, u32),
            (u32, u32, u32),
            Option<Level>,
        );
        let table: &[Row] = &[
            (
                &[(0, 0, 0), (0, 0, 0)],
                (0, 0, 0),
                (1, 1, 1),
                Some(Level::Datacenter),
            ),
            (
                &[(0, 0, 0), (0, 0, 0)],
                (0, 0, 0),
                (0, 1, 1),
                Some(Level::Rack),
            ),
            (
                &[(0, 0, 0), (0, 0, 0)],
                (0, 0, 0),
                (0, 0, 1),
                Some(Level::Node),
            ),
            // It would only turn round.
            (&[(0, 0, 0)], (0, 0, 0), (1, 1, 1), None),
            (&[(0, 0, 0), (0, 1, 1)], (0, 0, 0), (0, 0, 2), None),
            // Two and two: racks would be more even, datacenters less.
            (
                &[(0, 0, 0), (0, 0, 0), (1, 1, 1), (1, 2, 2)],
                (0, 0, 0),
                (1, 3, 3),
                None,
            ),
            // Three and two: the datacenters change places, the racks gain.
            (
                &[(0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 1, 1), (1, 2, 2)],
                (0, 0, 0),
                (1, 3, 3),
                Some(Level::Rack),
            ),
            // Hosts would gain, their racks would suffer.
            (
                &[(0, 0, 0), (0, 0, 0), (0, 1, 1), (0, 1, 1)],
                (0, 0, 0),
                (0, 1, 2),
                None,
            ),
        ];
        for (tasks, from, to, level) in table {
            let mut crowd = Crowd::default();
            for (datacenter, rack, host) in *tasks {
                crowd.add(&place(*datacenter, *rack, *host));
            }
            let at = |(datacenter, rack, host): (u32, u32, u32)| place(datacenter, rack, host);
            let evened = by_default().evened(&crowd.spot(at(*from)), &crowd.spot(at(*to)));
            assert_eq!(evened, *level, "{tasks:?}: {from:?} to {to:?}");
        }
    }

    proptest! {
        /// Each move lowers the crowding, so that after finitely many moves
        /// none is proposed, in whatever order they are made.
        #[test]
        fn moves_end(
            tasks in proptest::collection::vec(0u32..6, 2..24),
            racks in 1u32..6,
            datacenters in 1u32..4,
            picks in proptest::collection::vec(any::<usize>(), 1..8),
        ) {
            let at = |k: usize| place(k as u32 % racks % datacenters, k as u32 % racks, k as u32);
            let crowd = |tasks: &[u32]| {
                let mut crowd = Crowd::default();
                for (k, count) in tasks.iter().enumerate() {
                    (0..*count).for_each(|_| crowd.add(&at(k)));
                }
                crowd
            };
            let (order, mut tasks) = (by_default(), tasks);
            let mut before = crowd(&tasks).crowding(&order);
            for step in 0.. {
                let now = crowd(&tasks);
                let pairs = (0..tasks.len()).flat_map(|a| (0..tasks.len()).map(move |b| (a, b)));
                let moves: Vec<(usize, usize)> = pairs
                    .filter(|(a, _)| tasks[*a] > 0)
                    .filter(|(a, b)| {
                        let (a, b) = (now.spot(at(*a)), now.spot(at(*b)));
                        order.evened(&a, &b).is_some()
                    })
                    .collect();
                if moves.is_empty() {
                    break;
                }
                let (from, to) = moves[picks[step % picks.len()] % moves.len()];
                tasks[from] -= 1;
                tasks[to] += 1;
                let after = crowd(&tasks).crowding(&order);
                prop_assert!(after < before, "{before:?} {after:?}");
                before = after;
            }
        }
    }
}
