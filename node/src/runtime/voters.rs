//! While this node leads: who votes is looked at each second, and the next
//! single change is carried out.

use super::shared::Shared;
use crate::{clock, control};
use potluck_core::{
    cluster::{Cluster, Command},
    scheduler::{HostView, SessionState},
    voters::{Candidate, Membership, VoterMemory, VoterMove, VotersConfig, next_move},
};
use potluck_specs::{Millis, NodeId, trust::NodeRole};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the membership is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A learner that lacks no more than this many entries keeps up.
const BEHIND_MAX: u64 = 64;

/// What is remembered between two looks; forgotten with the leadership.
#[derive(Default)]
struct Memory {
    voters: VoterMemory,
    dead_since: BTreeMap<NodeId, Millis>,
    caught_up_since: BTreeMap<NodeId, Millis>,
}

/// Looks until told to stop.
pub(super) async fn run(shared: Arc<Shared>, config: VotersConfig, token: CancellationToken) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = looks.tick() => {}
        }
        if !shared.we_lead() {
            memory = Memory::default();
            continue;
        }
        if let Err(why) = look(&shared, &config, &mut memory).await {
            tracing::debug!(why, "voters were not changed");
        }
    }
}

async fn look(
    shared: &Arc<Shared>,
    config: &VotersConfig,
    memory: &mut Memory,
) -> Result<(), String> {
    let Some(hosts) = shared
        .scheduling
        .look(|scheduler, state| scheduler.hosts(state))
        .await
    else {
        return Ok(());
    };
    let now = clock::boot_now();
    let group = shared.control.membership();
    seal_for_followers(shared, &group).await?;
    let candidates = candidates(shared, &hosts, &group, memory, now);
    let membership = membership(&group);
    let step = next_move(
        config,
        &mut memory.voters,
        shared.me.node,
        &candidates,
        &membership,
        now,
    );
    match step {
        Some(step) => carry_out(shared, &group, step).await,
        None => Ok(()),
    }
}

/// Learners that were added before they were given the issuer's key: any one
/// may have to go on alone.
async fn seal_for_followers(
    shared: &Arc<Shared>,
    group: &control::Membership,
) -> Result<(), String> {
    for learner in &group.learners {
        let node = learner.member.node;
        let is_member = |state: &Cluster| state.members().contains_key(&node);
        if shared.control.read(is_member) {
            seal_issuer(shared, node).await?;
        }
    }
    Ok(())
}

/// The membership in the core's words.
pub(super) fn membership(group: &control::Membership) -> Membership {
    let nodes = |list: &[control::Follower]| list.iter().map(|f| f.member.node).collect();
    Membership {
        voters: nodes(&group.voters),
        learners: nodes(&group.learners),
        changing: group.changing,
    }
}

fn candidates(
    shared: &Shared,
    hosts: &[HostView],
    group: &control::Membership,
    memory: &mut Memory,
    now: Millis,
) -> Vec<Candidate> {
    let followers: BTreeMap<NodeId, &control::Follower> = group
        .voters
        .iter()
        .chain(&group.learners)
        .map(|follower| (follower.member.node, follower))
        .collect();
    shared.control.read(|state| {
        hosts
            .iter()
            .filter_map(|host| {
                let member = state.members().get(&host.node)?;
                let follower = followers.get(&host.node);
                let dead = host.session == SessionState::Dead;
                let caught_up = follower
                    .and_then(|follower| follower.matched)
                    .is_some_and(|matched| matched + BEHIND_MAX >= group.last_index);
                Some(Candidate {
                    node: host.node,
                    rack: member.topology.rack.clone(),
                    eligible: member.roles.contains(&NodeRole::VoterEligible)
                        && member.raft_id.is_some()
                        // It would read the log without what it does not know.
                        && state.may_follow(host.node),
                    draining: member.draining,
                    alive: host.session == SessionState::Up,
                    dead_since: since(&mut memory.dead_since, host.node, dead, now),
                    raft_heard_at: follower.and_then(|follower| follower.last_contact),
                    caught_up_since: since(&mut memory.caught_up_since, host.node, caught_up, now),
                })
            })
            .collect()
    })
}

/// Since when a thing is true of a node.
fn since(
    table: &mut BTreeMap<NodeId, Millis>,
    node: NodeId,
    holds: bool,
    now: Millis,
) -> Option<Millis> {
    if !holds {
        table.remove(&node);
        return None;
    }
    Some(*table.entry(node).or_insert(now))
}

async fn carry_out(
    shared: &Arc<Shared>,
    group: &control::Membership,
    step: VoterMove,
) -> Result<(), String> {
    tracing::info!(change = ?step, "control group changes");
    let text = |error: control::ChangeError| crate::cli::chain(&error);
    match step {
        VoterMove::AddLearner { node } => {
            let (raft_id, member) = raft_member(shared, node)?;
            // If all voters are lost it may have to go on alone.
            seal_issuer(shared, node).await?;
            shared
                .control
                .add_learner(raft_id, member)
                .await
                .map_err(text)
        }
        VoterMove::ChangeVoters { add, remove } => {
            let mut voters: BTreeSet<u64> = group.voters.iter().map(|f| f.raft_id).collect();
            for node in add {
                seal_issuer(shared, node).await?;
                voters.insert(raft_id(group, node)?);
            }
            for node in remove {
                voters.remove(&raft_id(group, node)?);
            }
            shared.control.change_voters(voters).await.map_err(text)
        }
        VoterMove::RemoveLearner { node } => shared
            .control
            .remove_learner(raft_id(group, node)?)
            .await
            .map_err(text),
    }
}

/// Takes a node that leaves out of the voters, with a learner in its place if
/// one keeps up.
///
/// # Errors
/// Why not yet, for people; a repeat goes on from there.
pub(super) async fn let_go(shared: &Arc<Shared>, node: NodeId) -> Result<(), String> {
    let group = shared.control.membership();
    if !group.voters.iter().any(|voter| voter.member.node == node) {
        return Ok(());
    }
    let others: Vec<&control::Follower> = group
        .voters
        .iter()
        .filter(|voter| voter.member.node != node)
        .collect();
    if node == shared.me.node {
        let heir = others.iter().max_by_key(|voter| voter.matched);
        let heir = heir.ok_or("the only voter of a cluster can't leave it")?;
        let handed = shared.control.transfer_leadership(heir.raft_id).await;
        handed.map_err(|error| crate::cli::chain(&error))?;
        return Err("the scheduler hands over before it leaves; ask again".into());
    }
    let mut voters: BTreeSet<u64> = others.iter().map(|voter| voter.raft_id).collect();
    if let Some(heir) = successor(shared, &group).await {
        seal_issuer(shared, heir.member.node).await?;
        voters.insert(heir.raft_id);
    }
    tracing::info!(%node, "a voter leaves");
    let changed = shared.control.change_voters(voters).await;
    changed.map_err(|error| crate::cli::chain(&error))
}

/// A learner that may vote, is up and keeps up.
async fn successor(shared: &Arc<Shared>, group: &control::Membership) -> Option<control::Follower> {
    let up = shared.scheduling.look(|scheduler, state| {
        let hosts = scheduler.hosts(state).into_iter();
        let up = hosts.filter(|host| host.session == SessionState::Up && !host.draining);
        let eligible = up.filter(|host| {
            let member = state.members().get(&host.node);
            member.is_some_and(|member| member.roles.contains(&NodeRole::VoterEligible))
        });
        eligible.map(|host| host.node).collect::<BTreeSet<NodeId>>()
    });
    let up = up.await?;
    let keeps_up = |learner: &&control::Follower| {
        let matched = learner.matched.unwrap_or_default();
        up.contains(&learner.member.node) && matched + BEHIND_MAX >= group.last_index
    };
    group
        .learners
        .iter()
        .filter(keeps_up)
        .max_by_key(|l| l.matched)
        .cloned()
}

fn raft_id(group: &control::Membership, node: NodeId) -> Result<u64, String> {
    group
        .voters
        .iter()
        .chain(&group.learners)
        .find(|follower| follower.member.node == node)
        .map(|follower| follower.raft_id)
        .ok_or_else(|| format!("node {node} is not in the control group"))
}

fn raft_member(shared: &Shared, node: NodeId) -> Result<(u64, control::Member), String> {
    shared
        .control
        .read(|state| {
            let member = state.members().get(&node).ok_or("the node is no member")?;
            let raft_id = member.raft_id.ok_or("the node has not introduced itself")?;
            let info = control::Member {
                node,
                rack: member.topology.rack.clone(),
                addresses: member.addresses.clone(),
            };
            Ok::<_, &str>((raft_id, info))
        })
        .map_err(str::to_owned)
}

/// A voter may come to lead, and a leader signs nodes in: it needs the
/// issuer's key before it votes.
async fn seal_issuer(shared: &Arc<Shared>, node: NodeId) -> Result<(), String> {
    if shared
        .control
        .read(|state: &Cluster| state.sealed_issuer(node).is_some())
    {
        return Ok(());
    }
    let issuer = match shared.admission.issuer(shared) {
        Ok(issuer) => issuer,
        // A survivor that never had the key: voters without it are better than
        // none.
        Err(why)
            if shared
                .control
                .read(|state: &Cluster| state.recovery().is_some()) =>
        {
            tracing::debug!(why, "no admission key to hand on");
            return Ok(());
        }
        Err(why) => return Err(why),
    };
    let sealed = issuer
        .seal_for(node)
        .map_err(|error| crate::cli::chain(&error))?;
    let command = Command::SealIssuer { node, sealed };
    shared
        .control
        .propose(command)
        .await
        .map_err(|error| crate::cli::chain(&error))?;
    Ok(())
}
