//! A host never runs two processes of one slot: a successor starts after its
//! predecessor's end, whatever died in between.

use super::{Seen, Violation, World, broken};
use std::collections::BTreeSet;

const NAME: &str = "one process of a slot on a host";

pub(super) fn see(world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
    let Seen::Stepped { at, changed: true } = *seen else {
        return Ok(());
    };
    let mut slots = BTreeSet::new();
    for process in world.machines[at].live() {
        if !slots.insert(&process.run.slot) {
            return broken(NAME, format!("h{at} runs {} twice", process.run.slot));
        }
    }
    Ok(())
}
