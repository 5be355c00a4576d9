//! A new scheduler is blocked by nobody: ten seconds after its begin it has
//! asked, however many hosts hang.
//!
//! Source: "with no known holder, until all live members have reported, at most
//! 10 s".

use super::{Seen, Violation, World, broken};
use crate::sim::queue::{MS, SECOND};

const NAME: &str = "one hung host blocks nobody";

/// How long hosts are waited for.
pub(super) const ASKS: u64 = 10 * SECOND;

/// Two ticks, and what clocks differ.
const SLACK: u64 = 210 * MS;

pub(super) fn see(world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
    let Seen::Decided { at, .. } = *seen else {
        return Ok(());
    };
    let Some(court) = world.courts.get(&at) else {
        return Ok(());
    };
    if court.scheduler.has_asked() || world.now() < court.began + ASKS + SLACK {
        return Ok(());
    }
    let waits = world.machines.iter().filter(|machine| {
        let session = court.scheduler.session(machine.node);
        session == Some(potluck_core::scheduler::SessionState::Unknown)
    });
    let what = format!(
        "h{at} still waits for {} hosts after {} s",
        waits.count(),
        (world.now() - court.began) / SECOND
    );
    broken(NAME, what)
}
