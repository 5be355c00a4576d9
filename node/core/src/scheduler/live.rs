//! Tasks that become of a newer version while they run, since it differs in
//! amounts alone that a host can change under a task.
//!
//! ```text
//! wrong version --award to its own host--> report of the new version
//!                   \--refused: no room, no such limit--> leaves as any other
//! ```
//!
//! Nothing is disrupted, so the budget is not asked; stages are, since a task
//! may do worse with less. The host's room and abilities are its own to judge.
//! What differs how is said by [`potluck_specs::diff`].

use super::{
    Note, Scheduler,
    moves::{LOOK_EVERY, Leaving},
    names::{JobId, Seat},
    rollout::Target,
};
use crate::{
    auction::StopReason,
    cluster::{Cluster, LIVE_CHANGES_LEVEL},
};
use potluck_specs::{Job, Millis, NodeId, diff, job::Resources};
use std::collections::BTreeMap;

/// A host that refused to change a task in place, and for which version: it is
/// not asked again in this reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedLive {
    pub(super) node: NodeId,
    pub(super) version: u64,
}

/// One look at a job's tasks of other versions.
#[derive(Debug, Default)]
pub(super) struct LiveChanges {
    /// By the version that runs and the one that is wanted: can the one become
    /// the other? Most tasks of a job have the same two.
    known: BTreeMap<(u64, u64), bool>,
    /// Tasks to change, by host and version.
    tasks: BTreeMap<(NodeId, u64), Vec<Seat>>,
}

impl Scheduler {
    /// Can tasks of a version become of another one while they run?
    pub(super) fn can_become(&self, id: JobId, from: u64, to: &Job) -> bool {
        let Some(old) = self.catalog.version(id, from) else {
            return false;
        };
        let between = self.catalog.between(id, from, to.version);
        let versions = [&**old].into_iter().chain(between).chain([to]);
        diff::changes_live_through(versions)
    }

    /// Is the task changed where it is? Then nothing else is done about it now.
    pub(super) fn stays_changed(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        task: &Leaving,
        changes: &mut LiveChanges,
        now: Millis,
    ) -> bool {
        let (seat, node) = (task.seat, task.node);
        if task.reason != StopReason::Replaced || self.surges.contains(seat) {
            return false;
        }
        let Some(runs) = self.picture.report(seat, node).map(|report| report.version) else {
            return false;
        };
        let to = target.job_for(seat.index).clone();
        let refused = RefusedLive {
            node,
            version: to.version,
        };
        let level = self.index.of(node).map_or(0, |entry| entry.level);
        if level < LIVE_CHANGES_LEVEL || self.refused_live.get(seat) == Some(&refused) {
            return false;
        }
        let known = changes.known.get(&(runs, to.version)).copied();
        let can = known.unwrap_or_else(|| self.can_become(target.id(), runs, &to));
        changes.known.insert((runs, to.version), can);
        if !can {
            return false;
        }
        let heard = self.is_heard(node) && !self.is_late(node);
        // Of two holders one goes first: no award leaves until then.
        let double = self.picture.holders(seat).nth(1).is_some();
        if self.waits_for_rollout(cluster, seat.job) || !heard || double {
            self.wake(seat.job, now + LOOK_EVERY);
        } else if !self.awards.contains(seat) {
            let of = changes.tasks.entry((node, to.version)).or_default();
            of.push(seat);
        }
        true
    }

    /// Awards what was found, each host its tasks at once.
    pub(super) fn change_tasks(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        changes: LiveChanges,
        now: Millis,
    ) {
        for ((node, version), seats) in changes.tasks {
            let Some(job) = target.version(version).cloned() else {
                continue;
            };
            let Some(number) = self.index.of(node).map(|entry| entry.number) else {
                continue;
            };
            let more = seats
                .iter()
                .filter_map(|seat| self.picture.report(*seat, node));
            let more = more
                .map(|report| job.task.resources.minus(report.resources))
                .fold(Resources::ZERO, Resources::plus);
            for seat in &seats {
                let slot = self.names.slot(*seat);
                self.note(Note::Changed {
                    slot,
                    node,
                    version,
                });
            }
            self.award_in_place(cluster, (node, number), &job, &seats, more, now);
        }
    }
}
