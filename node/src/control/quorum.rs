//! When a quorum last answered, on a clock that suspend does not stop.
//!
//! openraft stamps messages with Rust's monotonic clock, which stands still
//! while a host is suspended: a leader that wakes after an hour would find its
//! quorum "50 ms ago". Leases need the boot clock. The two differ by the time
//! spent suspended, which only grows; a stamp is converted with the difference
//! that was known when it was taken, or an earlier one, so that it may seem
//! older than it is but never younger.

use std::time::Duration;

use openraft::{Instant as _, TokioInstant as Instant};
use potluck_specs::Millis;

/// Clocks that are read one after the other differ by this much without any
/// suspend.
const JITTER: Duration = Duration::from_millis(20);

/// Converts stamps of the monotonic clock to the boot clock.
///
/// ```text
/// stamps ──────before `since`──────┬──────after──────►
///           difference `earlier`   │   difference `now`
/// ```
#[derive(Debug)]
pub(super) struct BootClock {
    origin: Instant,
    /// The boot clock at `origin`, as of the newest suspend.
    now: Millis,
    /// The same for stamps before `since`.
    earlier: Millis,
    since: Instant,
}

impl BootClock {
    pub(super) fn new(now: Instant, boot: Millis) -> BootClock {
        BootClock {
            origin: now,
            now: boot,
            earlier: boot,
            since: now,
        }
    }

    /// Compares the clocks. To be called often: a suspend is noticed here, and
    /// stamps taken between its end and this call seem too old.
    pub(super) fn tick(&mut self, now: Instant, boot: Millis) {
        let expected = self.now + elapsed(self.origin, now);
        let suspended = boot.since(expected);
        if u128::from(suspended.0) > JITTER.as_millis() {
            self.earlier = self.now;
            self.now = self.now + suspended;
            self.since = now;
        }
    }

    /// The boot clock when `stamp` was taken, or a little earlier.
    pub(super) fn boot_of(&self, stamp: Instant) -> Millis {
        let base = if stamp >= self.since {
            self.now
        } else {
            self.earlier
        };
        base + elapsed(self.origin, stamp)
    }
}

fn elapsed(from: Instant, to: Instant) -> Millis {
    Millis(to.saturating_duration_since(from).as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_from_before_a_suspend_stays_old() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = BootClock::new(start, Millis(5_000));
        clock.tick(at(100), Millis(5_100));
        assert_eq!(clock.boot_of(at(90)), Millis(5_090));
        // An hour's suspend after 150 ms, noticed at 200 ms.
        clock.tick(at(200), Millis(5_200 + 3_600_000));
        assert_eq!(clock.boot_of(at(90)), Millis(5_090));
        assert_eq!(
            clock.boot_of(at(190)),
            Millis(5_190),
            "old rather than young"
        );
        assert_eq!(clock.boot_of(at(210)), Millis(5_210 + 3_600_000));
        // The next suspend does not make stamps before it younger either.
        clock.tick(at(400), Millis(5_400 + 7_200_000));
        assert_eq!(clock.boot_of(at(300)), Millis(5_300 + 3_600_000));
        assert_eq!(clock.boot_of(at(500)), Millis(5_500 + 7_200_000));
    }

    #[test]
    fn small_differences_are_no_suspend() {
        let start = Instant::now();
        let mut clock = BootClock::new(start, Millis(1_000));
        for step in 1..1_000_u64 {
            let jitter = step % 5;
            clock.tick(
                start + Duration::from_millis(step),
                Millis(1_000 + step + jitter),
            );
        }
        assert_eq!(clock.boot_of(start), Millis(1_000));
    }
}
