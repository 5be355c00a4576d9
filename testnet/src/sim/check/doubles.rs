//! Of two tasks of one slot the better one stays: that which serves, and if both
//! do that which has done so for longer.
//!
//! Source: "Doubles of an ordinary slot after a partition: the scheduler picks
//! (default healthiest, then oldest)". Judged when it is decided that one is to
//! stop, by what the hosts say in truth, as far as the scheduler has heard the
//! same of their state: a silent host's task is no better than one that is seen. Ages are as each host tells them, since that
//! is all that anybody has. Not judged: slots that only one may hold, and tasks
//! that are on their way elsewhere or on a drained host.

use super::{Seen, Violation, World, broken};
use crate::sim::client::is_exclusive;
use potluck_core::{
    scheduler::{Effect, Note, SessionState},
    session::{SlotReport, TaskState},
};
use potluck_specs::{Millis, NodeId, SlotId};

const NAME: &str = "the better double stays";

pub(super) fn see(world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
    let Seen::Decided { at, effects } = *seen else {
        return Ok(());
    };
    effects.iter().try_for_each(|effect| match effect {
        Effect::Note {
            note: Note::Double { slot, node },
        } => judge(world, at, *node, slot),
        _ => Ok(()),
    })
}

fn judge(world: &World, at: usize, to: NodeId, slot: &SlotId) -> Result<(), Violation> {
    let (Some(court), Some(replica)) = (world.courts.get(&at), world.control.replicas.get(&at))
    else {
        return Ok(());
    };
    let cluster = &replica.cluster;
    let leaves = |node: NodeId| {
        let member = cluster.members().get(&node);
        member.is_none_or(|member| member.draining)
            || court.scheduler.session(node) != Some(SessionState::Up)
    };
    if is_exclusive(&slot.job) || court.scheduler.surge_from(slot).is_some() || leaves(to) {
        return Ok(());
    }
    let view = court.scheduler.slot(cluster, slot);
    // What is heard of the state, and the rest as the host says it.
    let known: Option<Vec<(NodeId, SlotReport)>> = view
        .holders
        .iter()
        .filter(|(_, heard)| heard.state != TaskState::Stopped)
        .map(|(node, heard)| {
            let truth = truth(world, *node, slot)?;
            let state = |report: &SlotReport| (report.state, report.healthy, report.generation);
            let same = state(&truth) == state(heard);
            (same && !leaves(*node)).then_some((*node, truth))
        })
        .collect();
    let Some(known) = known else { return Ok(()) };
    let Some((_, stopped)) = known.iter().find(|(node, _)| *node == to) else {
        return Ok(());
    };
    let others = known.iter().filter(|(node, _)| *node != to);
    let Some((kept, best)) = others.min_by_key(|(_, report)| worth(report)) else {
        return Ok(());
    };
    if !serves(stopped) || worth(best) <= worth(stopped) {
        return Ok(());
    }
    let (kept, stops) = (world.index[kept], world.index[&to]);
    let what = format!(
        "h{at} stops {slot} on h{stops} {:?} and keeps h{kept}'s {:?}",
        worth(stopped),
        worth(best)
    );
    broken(NAME, what)
}

fn truth(world: &World, node: NodeId, slot: &SlotId) -> Option<SlotReport> {
    let host = world.machines[world.index[&node]].host.as_ref()?;
    host.slots().into_iter().find(|report| report.slot == *slot)
}

fn serves(report: &SlotReport) -> bool {
    report.state == TaskState::Running && report.healthy
}

/// The smaller stays.
fn worth(report: &SlotReport) -> (bool, Millis) {
    (!serves(report), report.since)
}
