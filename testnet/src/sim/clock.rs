//! A model of clocks: each host's boot clock began at its own time and runs a
//! little fast or slow, and its wall clock is off.

use super::rng::Rng;
use potluck_specs::Millis;

/// How far a host's clock runs fast or slow, in millionths: a poor quartz
/// without time synchronisation.
const DRIFT_MAX: u64 = 200;

/// How far a wall clock is off, in milliseconds, with time synchronisation.
const SKEW_MAX: u64 = 400;

/// Unix time at which worlds begin, in milliseconds.
const UNIX_BEGIN: u64 = 1_700_000_000_000;

/// The clocks of a host.
#[derive(Clone, Debug)]
pub struct Clock {
    /// What its boot clock showed when the world began, in milliseconds.
    offset: u64,
    /// How many microseconds it counts in a second.
    rate: u64,
    /// The error of its wall clock, in milliseconds.
    skew: u64,
}

/// Microseconds in a second.
const TRUE_RATE: u64 = 1_000_000;

impl Clock {
    /// Some clock.
    pub fn drawn(rng: &mut Rng) -> Clock {
        Clock {
            offset: rng.between(1_000, 1_000_000),
            rate: TRUE_RATE - DRIFT_MAX + rng.below(2 * DRIFT_MAX + 1),
            skew: rng.below(SKEW_MAX),
        }
    }

    /// What it shows at a time of the world (in microseconds).
    pub fn show(&self, now: u64) -> Millis {
        let ran = u128::from(now) * u128::from(self.rate) / u128::from(TRUE_RATE);
        Millis(ran as u64 / 1_000 + self.offset)
    }

    /// The first time of the world at which it shows this.
    pub fn when(&self, shown: Millis) -> u64 {
        let ran = u128::from(shown.0.saturating_sub(self.offset)) * 1_000;
        let rate = u128::from(self.rate);
        (ran * u128::from(TRUE_RATE)).div_ceil(rate) as u64
    }

    /// Unix time minus the boot clock, as the host believes.
    pub fn unix_offset(&self) -> Millis {
        Millis(UNIX_BEGIN + self.skew - self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_drifts_within_its_bound_and_knows_its_way_back() {
        let mut rng = Rng::new(3);
        for _ in 0..200 {
            let clock = Clock::drawn(&mut rng);
            let hour = 3_600 * TRUE_RATE;
            let ran = clock.show(hour).since(clock.show(0)).0;
            assert!(ran.abs_diff(3_600_000) <= 3_600 * DRIFT_MAX / 1_000 + 1);
            let at = clock.when(clock.show(hour));
            assert_eq!(clock.show(at), clock.show(hour));
            assert!(at <= hour && clock.show(at - 1) < clock.show(hour));
        }
    }
}
