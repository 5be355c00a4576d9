//! Packages kept, and let go: the scheduler replaces lost holders of packages
//! that jobs pin; each node drops the longest unused of those that no job pins
//! once its store has grown too large.

use super::{changes, shared::Shared};
use crate::{
    cli::chain,
    clock,
    wire::{Pinned, Request, Response, SlotVersion},
};
use potluck_core::{
    cluster::{Cluster, Command, PackageRecord},
    scheduler::SessionState,
};
use potluck_specs::{NodeId, PackageId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often lost holders are looked for. Their death itself takes some
/// seconds to be certain of.
const HOLDERS_LOOK: Duration = Duration::from_secs(10);

/// How often a node looks at the size of its store.
const STORE_LOOK: Duration = Duration::from_secs(10 * 60);

/// Compressed bytes of chunks above which packages that no job pins go, the
/// longest unused first: enough that an upload is never among them before its
/// job is accepted, and that going back to an old version is quick.
const STORE_BYTES_MAX: u64 = 10 << 30;

/// Packages, and slots, that are asked about at once; a node that has more
/// keeps the rest.
const ASKED_MAX: usize = 4_096;

/// How long the scheduler may take to say what is pinned: it only looks.
const PINNED_WAIT: Duration = Duration::from_secs(2);

/// Looks until told to stop.
pub(super) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut holders = interval(HOLDERS_LOOK);
    holders.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut store = interval(STORE_LOOK);
    store.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let look = async {
            tokio::select! {
                _ = holders.tick() => replace_holders(&shared).await,
                _ = store.tick() => drop_unpinned(&shared, STORE_BYTES_MAX).await,
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = look => {}
        }
    }
}

/// Packages that are on too few living nodes, with one that has each.
fn thin(
    packages: &BTreeMap<PackageId, PackageRecord>,
    up: &BTreeSet<NodeId>,
    lost: &BTreeSet<NodeId>,
) -> Vec<(PackageId, NodeId)> {
    let wanted = changes::HOLDERS.min(up.len());
    packages
        .iter()
        .filter(|(_, record)| record.holders.difference(lost).count() < wanted)
        // None that lives: nobody can copy it. Whoever comes back may have it.
        .filter_map(|(id, record)| Some((*id, *record.holders.intersection(up).next()?)))
        .collect()
}

/// On the leader: has others hold what lost holders held, one package after
/// the other, so that a lost host is not followed by a storm of copies.
async fn replace_holders(shared: &Arc<Shared>) {
    let thin = shared
        .scheduling
        .look(|scheduler, state| {
            if !scheduler.may_act(clock::boot_now()) {
                return Vec::new();
            }
            let hosts = scheduler.hosts(state);
            let those = |wanted: SessionState| -> BTreeSet<NodeId> {
                let hosts = hosts.iter().filter(|host| host.session == wanted);
                hosts.map(|host| host.node).collect()
            };
            thin(
                state.packages(),
                &those(SessionState::Up),
                &those(SessionState::Dead),
            )
        })
        .await;
    for (package, source) in thin.unwrap_or_default() {
        let kept = changes::keep_package(shared, package, source).await;
        let nodes = match kept {
            Ok((nodes, _)) => nodes,
            Err(error) => {
                tracing::warn!(%package, error = %error.message, "lost holders were not replaced");
                continue;
            }
        };
        let holders = nodes.len();
        let command = Command::RecordPackageHolders { package, nodes };
        match shared.control.propose(command).await {
            Ok(_) => tracing::info!(%package, holders, "lost holders of a package were replaced"),
            Err(error) => {
                tracing::warn!(%package, error = %chain(&error), "new holders were not recorded");
            }
        }
    }
}

/// Which of these packages do jobs pin, as the scheduler answers a node?
pub(super) fn pinned(state: &Cluster, packages: &[PackageId], slots: &[SlotVersion]) -> Pinned {
    let is_pinned = |id: &&PackageId| state.packages().contains_key(*id);
    let is_known = |slot: &SlotVersion| {
        let record = state.jobs().get(&slot.job);
        record.is_some_and(|record| {
            record.version(slot.version).is_some()
                || record.runs_same_tasks(slot.version, record.current().version)
        })
    };
    Pinned {
        packages: packages.iter().filter(is_pinned).copied().collect(),
        covers_slots: slots.iter().all(is_known),
    }
}

/// Drops packages that no job pins, the longest unused first, until the store
/// has at most `bytes_max`. Without the scheduler's word nothing is dropped.
pub(super) async fn drop_unpinned(shared: &Arc<Shared>, bytes_max: u64) {
    if shared.packages.stored_bytes() <= bytes_max {
        return;
    }
    let Some(pinned) = ask_pinned(shared).await else {
        return;
    };
    match shared.packages.drop_unpinned(pinned, bytes_max).await {
        Ok(0) => {}
        Ok(packages) => tracing::info!(packages, "packages that no job pins were dropped"),
        Err(why) => tracing::warn!(error = why, "the package store was not cleaned up"),
    }
}

async fn ask_pinned(shared: &Arc<Shared>) -> Option<BTreeSet<PackageId>> {
    let packages = shared.packages.ids();
    let slots = shared.agent.slots().await.ok()?;
    if packages.len() > ASKED_MAX || slots.len() > ASKED_MAX {
        return None;
    }
    let slots = slots.into_iter().map(|report| SlotVersion {
        job: report.slot.job,
        version: report.version,
    });
    let request = Request::Pinned {
        packages: packages.into_iter().collect(),
        slots: slots.collect(),
    };
    let leader = shared.leader()?;
    match shared.ask(leader, request, PINNED_WAIT).await {
        // A task of a version that the log has forgotten may still run here:
        // nobody knows its package, so all are kept.
        Ok(Response::Pinned(pinned)) if pinned.covers_slots => {
            Some(pinned.packages.into_iter().collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holders, who is up, who is lost; is the package to be copied?
    type Row = (&'static [u8], &'static [u8], &'static [u8], bool);

    fn nodes(list: &[u8]) -> BTreeSet<NodeId> {
        list.iter().map(|k| NodeId([*k; 32])).collect()
    }

    #[test]
    fn a_package_on_too_few_living_nodes_is_copied() {
        let package = PackageId([9; 32]);
        let table: [Row; 7] = [
            (&[1, 2, 3], &[1, 2, 3, 4], &[], false),
            (&[1, 2, 3], &[1, 2, 4], &[3], true),
            // Away for a moment is not lost.
            (&[1, 2, 3], &[1, 2, 4], &[], false),
            // All that there are have it.
            (&[1, 2, 3], &[1, 2], &[3], false),
            // Put out of the cluster, so no longer a holder at all.
            (&[1, 2], &[1, 2, 4], &[], true),
            // Nobody to copy it from.
            (&[1, 2, 3], &[4, 5, 6], &[1, 2, 3], false),
            (&[], &[4, 5, 6], &[], false),
        ];
        for (holders, up, lost, expected) in table {
            let record = PackageRecord {
                bytes: 1,
                holders: nodes(holders),
            };
            let packages = BTreeMap::from([(package, record)]);
            let thin = thin(&packages, &nodes(up), &nodes(lost));
            assert_eq!(!thin.is_empty(), expected, "{holders:?} {up:?} {lost:?}");
            let is_source = |(_, from): &(PackageId, NodeId)| {
                nodes(holders).contains(from) && nodes(up).contains(from)
            };
            assert!(thin.iter().all(is_source), "{thin:?}");
        }
    }
}
