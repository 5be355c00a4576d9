//! No host promises or runs more than it has: slots and open bids together by
//! its own account, and its live processes by ours.

use super::{Seen, Violation, World, broken};
use potluck_specs::job::Resources;

const NAME: &str = "no host takes more than it has";

pub(super) fn see(world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
    let Seen::Stepped { at, changed: true } = *seen else {
        return Ok(());
    };
    let machine = &world.machines[at];
    let Some(host) = &machine.host else {
        return Ok(());
    };
    let (committed, reserved) = (host.committed(), host.reserved());
    if !machine.total.fits(&committed.plus(reserved)) {
        let what = format!("h{at} committed {committed:?} and reserved {reserved:?}");
        return broken(NAME, what);
    }
    let running = machine.live().fold(Resources::default(), |sum, process| {
        sum.plus(process.resources)
    });
    if !machine.total.fits(&running) {
        return broken(NAME, format!("h{at} runs {running:?}"));
    }
    Ok(())
}
