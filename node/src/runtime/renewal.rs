//! What goes on slowly: certificates renewed, revocations obeyed, the folder
//! told who is there, drains passed to the agent, capacity to gossip.

use super::{
    admission,
    certificates::{self, Step, Tries},
    join, revocations,
    shared::Shared,
};
use crate::{
    cli::chain,
    clock,
    identity::{
        Admission, ClusterFile, DataFolder, JoinReply, JoinRequest, KnownMember, MEMBERS_MAX,
    },
    network::Credential,
};
use potluck_core::cluster::Cluster;
use potluck_gossip::{Capacity, Member};
use potluck_specs::{
    NodeId,
    trust::{NodeCertificate, NodeCredential},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often these things are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks until told to stop.
pub(super) async fn run(
    shared: Arc<Shared>,
    folder: Arc<DataFolder>,
    has_leader: Arc<AtomicBool>,
    token: CancellationToken,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeSet::new();
    let mut tries = Tries::default();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = looks.tick() => {}
        }
        let is_led = shared.leader().is_some();
        has_leader.store(is_led, Ordering::Relaxed);
        revocations::obey(&shared);
        pass_drain(&shared).await;
        publish_capacity(&shared).await;
        remember_members(&shared, &folder, &mut told);
        if tries.look(is_led) {
            tries.tried(renew(&shared, &folder).await);
        }
    }
}

async fn pass_drain(shared: &Shared) {
    let draining = shared.control.read(|state: &Cluster| {
        state
            .members()
            .get(&shared.me.node)
            .is_some_and(|member| member.draining)
    });
    shared.gossip.set_draining(draining);
    // The agent may be stopping.
    let _ = shared.agent.set_draining(draining).await;
}

async fn publish_capacity(shared: &Shared) {
    if let Ok(slots) = shared.agent.slots().await {
        let total = shared.me.introduction.capacity;
        let used = slots
            .iter()
            .fold(potluck_specs::job::Resources::default(), |sum, slot| {
                sum.plus(slot.resources)
            });
        shared.gossip.set_capacity(Capacity {
            free: total.minus(used),
            total,
        });
    }
}

/// Keeps the folder's list of members fresh: after a restart of every host
/// somebody must know where the others are.
fn remember_members(shared: &Shared, folder: &DataFolder, told: &mut BTreeSet<SocketAddr>) {
    let members = shared.gossip.members().borrow().clone();
    let addresses: BTreeSet<SocketAddr> = members
        .iter()
        .filter(|m| m.alive)
        .map(|m| m.record.gossip)
        .collect();
    if addresses.is_subset(told) {
        return;
    }
    let Ok(Some(file)) = folder.cluster() else {
        return;
    };
    let list = union(&members, &file.members, shared.me.node);
    if list.is_empty() {
        return;
    }
    let epoch = shared
        .control
        .read(Cluster::authority)
        .epoch
        .max(file.epoch);
    match folder.set_cluster(&ClusterFile {
        members: list,
        epoch,
        ..file
    }) {
        Ok(()) => *told = addresses,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the list of members was not written");
        }
    }
}

/// Those who are alive now, then those who were known before: a host that is
/// away may be the only one to come back.
fn union(members: &[Member], before: &[KnownMember], me: NodeId) -> Vec<KnownMember> {
    let alive = members.iter().filter(|m| m.alive && m.node != me);
    let mut list: Vec<KnownMember> = alive
        .map(|member| KnownMember {
            node: member.node,
            network: member.record.network.clone(),
            gossip: Some(member.record.gossip),
        })
        .collect();
    let fresh: BTreeSet<NodeId> = list.iter().map(|member| member.node).collect();
    list.extend(
        before
            .iter()
            .filter(|old| !fresh.contains(&old.node) && old.node != me)
            .cloned(),
    );
    list.truncate(MEMBERS_MAX);
    list
}

/// Renews the certificate if it is due; is all well?
async fn renew(shared: &Arc<Shared>, folder: &DataFolder) -> bool {
    let credential = shared.admission.credential();
    let (now, we_lead) = (clock::unix_now(), shared.we_lead());
    match certificates::step(&credential, shared.me.fleet, we_lead, now) {
        Step::Nothing => true,
        Step::SignOurselves => sign_ourselves(shared, folder, credential).await,
        Step::AskOthers(certificate) => ask_others(shared, folder, &credential, &certificate).await,
    }
}

/// A leader is not asked by itself over the network: it admits itself.
async fn sign_ourselves(
    shared: &Arc<Shared>,
    folder: &DataFolder,
    credential: NodeCredential,
) -> bool {
    let request = JoinRequest::Renew { credential };
    let reply = admission::admit(shared, shared.me.node, &request.encode()).await;
    match JoinReply::decode(&reply) {
        Ok(JoinReply::Admitted(admission)) => {
            use_credential(shared, folder, *admission);
            true
        }
        other => {
            tracing::warn!(reply = ?other, "this leader did not renew its certificate");
            false
        }
    }
}

async fn ask_others(
    shared: &Shared,
    folder: &DataFolder,
    credential: &NodeCredential,
    certificate: &NodeCertificate,
) -> bool {
    let addresses: Vec<SocketAddr> = shared
        .directory
        .alive()
        .into_iter()
        .filter(|node| *node != shared.me.node)
        .filter_map(|node| shared.directory.get(node)?.address)
        .take(5)
        .collect();
    match join::renew(&shared.network, &addresses, credential, certificate).await {
        Ok(admission) => {
            use_credential(shared, folder, admission);
            true
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the certificate is due and was not renewed");
            false
        }
    }
}

fn use_credential(shared: &Shared, folder: &DataFolder, admission: Admission) {
    let credential = admission.credential;
    if let Err(error) = folder.set_credential(&credential) {
        tracing::warn!(error = %chain(&error), "the new certificate was not written");
    }
    shared
        .network
        .set_credential(Credential::Node(credential.clone()));
    if let Err(error) = shared.gossip.update_credential(credential.clone()) {
        tracing::warn!(error = %chain(&error), "gossip refuses the new certificate");
    }
    shared.admission.set_credential(credential);
    tracing::info!("certificate renewed");
}
