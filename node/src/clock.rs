//! The one place that reads clocks.

use nix::time::{ClockId, clock_gettime};
use potluck_specs::Millis;

/// Time since the Unix epoch: for certificates, logs and what is stored.
pub fn unix_now() -> Millis {
    read(ClockId::CLOCK_REALTIME)
}

/// Time since boot, suspended time included: for leases and everything that is
/// compared with another host's leases. Tokio's and Rust's own clocks stop in
/// suspend.
pub fn boot_now() -> Millis {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> Millis {
    let time = clock_gettime(clock).expect("clocks of a Linux of the last decade can be read");
    let millis = time.tv_sec() as u64 * 1_000 + time.tv_nsec() as u64 / 1_000_000;
    Millis(millis)
}
