//! No accepted job is lost: whoever begins to reign has every job and version
//! in its state that somebody was told is accepted.
//!
//! Source: "committed to a Raft log on most voters before the caller hears
//! 'accepted'".

use super::{Seen, Violation, World, broken};

const NAME: &str = "no accepted job is lost";

pub(super) fn see(world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
    let Seen::Reigns { at } = *seen else {
        return Ok(());
    };
    let jobs = world.control.replicas[&at].cluster.jobs();
    for (name, version) in world.clients.iter().filter_map(|c| c.accepted.as_ref()) {
        let current = jobs.get(name).map(|record| record.current().version);
        if current.is_none_or(|current| current < *version) {
            let what = format!("{name} {version} was accepted; h{at} reigns and has {current:?}");
            return broken(NAME, what);
        }
    }
    Ok(())
}
