//! No host promises or runs more than it has: slots and open bids together by
//! its own account, its live processes by ours, with their devices; and no two
//! of those have one port.

use super::{Seen, Violation, World, broken};
use crate::sim::wishes::DEVICES;
use potluck_specs::job::Resources;
use std::collections::BTreeSet;

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
    let devices: u32 = machine.live().map(|process| process.devices).sum();
    if devices > DEVICES {
        return broken(NAME, format!("h{at} has given out {devices} devices"));
    }
    let mut taken = BTreeSet::new();
    let ports = machine.live().flat_map(|process| &process.ports);
    if let Some(port) = ports.into_iter().find(|port| !taken.insert(**port)) {
        return broken(NAME, format!("h{at} has given port {port} twice"));
    }
    Ok(())
}
