//! The network between hosts: who reaches whom, how long it takes, what is
//! lost.

use super::{
    queue::{MS, SECOND},
    rng::Rng,
};

/// A set of hosts, by number.
pub type HostSet = u64;

/// Most hosts in a world: what a [`HostSet`] holds.
pub const HOSTS_MAX: usize = 64;

/// One host as a set.
pub fn only(host: usize) -> HostSet {
    1 << host
}

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

    /// Does anything pass in this direction?
    pub fn passes(&self, from: usize, to: usize) -> bool {
        from == to
            || !self
                .cuts
                .iter()
                .any(|cut| cut.from & only(from) != 0 && cut.to & only(to) != 0)
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
