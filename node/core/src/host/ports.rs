//! Which port numbers a task gets.
//!
//! A node's tasks share its address. Numbers are chosen lowest first, so that
//! a replay chooses the same; one that was just given back is left alone for
//! a while, since clients may still know it as another task's.

use super::message::Entry;
use crate::auction::Refusal;
use potluck_specs::{Millis, job::PortSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a number that was given back is avoided: as long as endpoints of
/// a stopped task may stand in a cache.
const REST: Millis = Millis(60_000);

/// The numbers that a node may choose from, and those lately given back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ports {
    first: u16,
    last: u16,
    /// By number: until when it rests. Bounded by the range and by the fixed
    /// numbers of the tasks that ran in the last minute.
    resting: BTreeMap<u16, Millis>,
}

impl Ports {
    pub(super) fn new(first: u16, last: u16) -> Ports {
        Ports {
            first,
            last,
            resting: BTreeMap::new(),
        }
    }

    /// Numbers for `specs`, none of them in `taken`, and only fixed ones in
    /// `own`.
    pub(super) fn choose(
        &self,
        specs: &[PortSpec],
        taken: &BTreeSet<u16>,
        own: &BTreeSet<u16>,
    ) -> Result<BTreeMap<String, u16>, Refusal> {
        let mut used = taken.clone();
        let mut chosen = BTreeMap::new();
        for spec in specs {
            if let Some(port) = spec.number {
                if !used.insert(port) {
                    return Err(Refusal::PortTaken { port });
                }
                chosen.insert(spec.name.clone(), port);
            }
        }
        used.extend(own);
        for spec in specs.iter().filter(|spec| spec.number.is_none()) {
            let port = self
                .lowest(&used)
                .ok_or(Refusal::PortTaken { port: self.last })?;
            used.insert(port);
            chosen.insert(spec.name.clone(), port);
        }
        Ok(chosen)
    }

    /// The lowest free number that does not rest; when all rest, the one that
    /// has rested longest.
    fn lowest(&self, used: &BTreeSet<u16>) -> Option<u16> {
        let free = |port: &u16| !used.contains(port);
        let mut range = self.first..=self.last;
        range
            .find(|port| free(port) && !self.resting.contains_key(port))
            .or_else(|| {
                (self.first..=self.last)
                    .filter(free)
                    .min_by_key(|port| self.resting.get(port))
            })
    }

    /// How many alike tasks could have their ports now.
    pub(super) fn room(&self, specs: &[PortSpec], taken: &BTreeSet<u16>) -> Result<u32, Refusal> {
        self.choose(specs, taken, &BTreeSet::new())?;
        if specs.iter().any(|spec| spec.number.is_some()) {
            return Ok(1);
        }
        let each = specs.len();
        let free = (self.first..=self.last)
            .filter(|port| !taken.contains(port))
            .count();
        Ok(free
            .checked_div(each)
            .map_or(u32::MAX, |tasks| tasks as u32))
    }

    /// The numbers of an ended task.
    pub(super) fn give_back(&mut self, ports: &BTreeMap<String, u16>, now: Millis) {
        self.resting.retain(|_, until| *until > now);
        for port in ports.values() {
            self.resting.insert(*port, now + REST);
        }
    }

    /// Time passed.
    pub(super) fn expire(&mut self, now: Millis) {
        self.resting.retain(|_, until| *until > now);
    }
}

/// The numbers that an entry holds.
pub(super) fn of(entry: &Entry) -> impl Iterator<Item = u16> + '_ {
    entry.ports.values().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, number: Option<u16>) -> PortSpec {
        PortSpec {
            name: name.into(),
            number,
        }
    }

    #[test]
    fn lowest_free_first_and_fixed_ones_as_they_are() {
        let ports = Ports::new(100, 103);
        let taken = BTreeSet::from([100]);
        let chosen = ports
            .choose(
                &[spec("a", None), spec("b", Some(101)), spec("c", None)],
                &taken,
                &BTreeSet::new(),
            )
            .unwrap();
        assert_eq!(
            chosen.values().copied().collect::<Vec<_>>(),
            [102, 101, 103]
        );
    }

    #[test]
    fn a_taken_or_missing_number_is_a_refusal() {
        let ports = Ports::new(100, 100);
        let taken = BTreeSet::from([100, 80]);
        assert_eq!(
            ports.choose(&[spec("a", Some(80))], &taken, &BTreeSet::new()),
            Err(Refusal::PortTaken { port: 80 })
        );
        assert_eq!(
            ports.choose(&[spec("a", None)], &taken, &BTreeSet::new()),
            Err(Refusal::PortTaken { port: 100 })
        );
        let twice = [spec("a", Some(9)), spec("b", Some(9))];
        assert_eq!(
            ports.choose(&twice, &taken, &BTreeSet::new()),
            Err(Refusal::PortTaken { port: 9 })
        );
    }

    #[test]
    fn a_number_given_back_rests_unless_it_is_the_last() {
        let mut ports = Ports::new(100, 101);
        let one = BTreeMap::from([("a".to_string(), 100)]);
        ports.give_back(&one, Millis(0));
        let none = BTreeSet::new();
        let want = [spec("a", None)];
        assert_eq!(ports.choose(&want, &none, &none).unwrap()["a"], 101);
        let taken = BTreeSet::from([101]);
        assert_eq!(ports.choose(&want, &taken, &none).unwrap()["a"], 100);
        ports.expire(REST);
        assert_eq!(ports.choose(&want, &none, &none).unwrap()["a"], 100);
    }

    #[test]
    fn room_counts_whole_tasks() {
        let ports = Ports::new(100, 104);
        let none = BTreeSet::new();
        let two = [spec("a", None), spec("b", None)];
        assert_eq!(ports.room(&two, &none), Ok(2));
        assert_eq!(ports.room(&[], &none), Ok(u32::MAX));
        assert_eq!(ports.room(&[spec("a", Some(80))], &none), Ok(1));
    }
}
