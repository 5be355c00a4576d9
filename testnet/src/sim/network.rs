//! A model of the network: who reaches whom in each direction, how long a
//! message takes, what is lost, doubled, overtaken.
//!
//! Messages between the same two hosts may overtake each other: each draws its
//! own delay. Partitions are sets of cuts, each in one direction.

use super::{
    hosts::HostSet,
    queue::{MS, SECOND},
    rng::Rng,
};

/// Longest delay of a message, as after a lost packet or two.
pub const DELAY_MAX: u64 = 2 * SECOND;

#[derive(Debug)]
struct Cut {
    id: u64,
    from: HostSet,
    to: HostSet,
}

/// Links between hosts, each direction by itself.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    cuts: Vec<Cut>,
    /// Messages lost, of a thousand.
    pub loss: u64,
    /// Messages that take up to [`DELAY_MAX`], of a thousand.
    pub slow: u64,
}

impl Network {
    /// A network without faults.
    pub fn new(rng: Rng) -> Network {
        Network {
            rng,
            cuts: Vec::new(),
            loss: 0,
            slow: 0,
        }
    }

    /// Nothing passes from these to those any more.
    pub fn cut(&mut self, id: u64, from: HostSet, to: HostSet) {
        self.cuts.push(Cut { id, from, to });
    }

    /// Ends the cuts of this number.
    pub fn join(&mut self, id: u64) {
        self.cuts.retain(|cut| cut.id != id);
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.loss = 0;
        self.slow = 0;
    }

    /// Nobody is cut off from anybody.
    pub fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Does anything pass in this direction?
    pub fn passes(&self, from: usize, to: usize) -> bool {
        from == to
            || !self
                .cuts
                .iter()
                .any(|cut| cut.from.contains(from) && cut.to.contains(to))
    }

    /// Does anything pass to anybody of these?
    pub fn passes_to_any(&self, from: usize, to: &HostSet) -> bool {
        let mut open = to.clone();
        for cut in self.cuts.iter().filter(|cut| cut.from.contains(from)) {
            open = open.without(&cut.to);
        }
        !open.is_empty()
    }

    /// Does it pass there and back?
    pub fn connects(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    /// How long a message takes; `None`: it is lost.
    pub fn carry(&mut self, from: usize, to: usize) -> Option<u64> {
        if from == to {
            return Some(50);
        }
        if !self.passes(from, to) || self.rng.chance(self.loss) {
            return None;
        }
        let slow = self.rng.chance(self.slow);
        Some(match self.rng.below(100) {
            _ if slow => self.rng.between(100 * MS, DELAY_MAX),
            0..90 => self.rng.between(200, 2 * MS),
            _ => self.rng.between(2 * MS, 30 * MS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::hosts::{everybody, only};

    #[test]
    fn a_cut_is_of_one_direction_and_of_its_number() {
        let mut net = Network::new(Rng::new(1));
        net.cut(7, only(0), only(1));
        assert!(!net.passes(0, 1) && net.passes(1, 0) && !net.connects(0, 1));
        assert!(net.passes_to_any(0, &everybody(3)) && !net.passes_to_any(0, &only(1)));
        assert_eq!(net.carry(0, 1), None);
        net.join(8);
        assert!(!net.is_whole());
        net.join(7);
        assert!(net.is_whole() && net.connects(0, 1));
    }

    #[test]
    fn weather_loses_delays_and_lets_messages_overtake() {
        let mut net = Network::new(Rng::new(1));
        (net.loss, net.slow) = (500, 100);
        let delays: Vec<Option<u64>> = (0..1_000).map(|_| net.carry(0, 1)).collect();
        let lost = delays.iter().filter(|delay| delay.is_none()).count();
        assert!((400..600).contains(&lost), "{lost}");
        let kept: Vec<u64> = delays.into_iter().flatten().collect();
        assert!(kept.iter().any(|delay| *delay > 100 * MS) && !kept.is_sorted());
        assert!(kept.iter().all(|delay| *delay <= DELAY_MAX));
    }
}
