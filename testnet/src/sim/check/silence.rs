//! A scheduler without a quorum is silent: it awards, stops and publishes
//! nothing later than an election timeout after most voters acknowledged it.

use super::{Seen, Violation, World, broken};
use crate::sim::queue::MS;
use potluck_core::scheduler::{Effect, SchedulerConfig};

const NAME: &str = "no quorum, no word";

pub(super) fn see(world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
    let Seen::Decided { at, effects } = *seen else {
        return Ok(());
    };
    let act = effects.iter().find(|effect| {
        matches!(
            effect,
            Effect::Award { .. } | Effect::Stop { .. } | Effect::Publish { .. }
        )
    });
    let Some(act) = act else { return Ok(()) };
    let timeout = SchedulerConfig::default().election_timeout.0 * MS;
    // One millisecond: the scheduler's clock counts whole ones.
    let acknowledged = world.control.acknowledged.get(&at).copied();
    let within = acknowledged.is_some_and(|sent| world.now() <= sent + timeout + MS);
    if within {
        return Ok(());
    }
    broken(
        NAME,
        format!(
            "h{at} acts at {} µs, last acknowledged {acknowledged:?}: {act:?}",
            world.now()
        ),
    )
}
