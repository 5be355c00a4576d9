//! What operators ask, on the leader: into commands for the log, and from the
//! scheduler's picture into words.

use super::shared::Shared;
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        operate::{
            DrainedTask, LedgerEntry, LedgerStatus, MoveStatus, OperateAnswer, OperateQuery,
            Operation, RolloutPhase as Phase, RolloutStatus, TokenStatus,
        },
        protocol::ApiAnswer,
    },
    clock,
};
use potluck_core::{
    cluster::{Cluster, Command, RolloutPhase},
    scheduler::{DrainWait, Move, MoveReason, Scheduler, Use},
};
use potluck_specs::{ChangeId, JobName, Millis, NodeId, job::Level};
use std::sync::Arc;

/// The command that an operation becomes.
pub(super) fn command(operation: Operation, change: ChangeId, author: String) -> Command {
    let now = clock::unix_now();
    match operation {
        Operation::Drain { node, within_ms } => Command::Drain {
            change,
            node,
            deadline: Some(now + Millis(within_ms)),
        },
        Operation::Cordon { node, cordoned } => Command::Cordon {
            change,
            node,
            cordoned,
        },
        Operation::SetQuota { namespace, quota } => Command::SetQuota {
            change,
            namespace,
            quota,
        },
        Operation::Rollout { job, control } => Command::ControlRollout {
            change,
            job,
            control,
            author,
            now,
        },
    }
}

/// Answers a question on the leader; nothing if this node leads no longer.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    query: OperateQuery,
) -> Option<Result<ApiAnswer, ApiError>> {
    shared
        .scheduling
        .look(move |scheduler, state| {
            let answer = match query {
                OperateQuery::Rollout(job) => rollout(scheduler, state, &job)?,
                OperateQuery::WhyBlocked(job) => why_blocked(scheduler, state, &job)?,
                OperateQuery::Drain(node) => drain(scheduler, state, node)?,
                OperateQuery::Rebalance => rebalance(scheduler, state),
                OperateQuery::Namespaces => OperateAnswer::Namespaces(state.namespaces()),
                OperateQuery::Tokens => OperateAnswer::Tokens(tokens(state)),
            };
            Ok(ApiAnswer::Operate(answer))
        })
        .await
}

/// Join tokens, used ones and ended ones included, as long as the log keeps
/// them.
fn tokens(state: &Cluster) -> Vec<TokenStatus> {
    let tokens = state.tokens().iter();
    tokens
        .map(|(id, token)| TokenStatus {
            id: id.clone(),
            roles: token.roles.clone(),
            rack: token.rack.clone(),
            uses_left: token.uses_left,
            expires: token.expires,
            nodes: token
                .redeemed
                .keys()
                .map(|node| name(state, *node))
                .collect(),
        })
        .collect()
}

fn no_job(job: &JobName) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no job {job}"))
}

fn name(state: &Cluster, node: NodeId) -> String {
    let member = state.members().get(&node);
    member.map_or_else(|| node.to_string(), |member| member.name.0.clone())
}

fn rollout(
    scheduler: &Scheduler,
    state: &Cluster,
    job: &JobName,
) -> Result<OperateAnswer, ApiError> {
    if !state.jobs().contains_key(job) {
        return Err(no_job(job));
    }
    Ok(OperateAnswer::Rollout(rollout_status(
        scheduler, state, job,
    )))
}

/// How far the rollout of the job's newest version is; nothing for a first
/// version.
pub(super) fn rollout_status(
    scheduler: &Scheduler,
    state: &Cluster,
    job: &JobName,
) -> Option<RolloutStatus> {
    let rollout = state.rollout(job)?;
    let stages = scheduler.rollout_stages(state, job);
    let (phase, why) = match &rollout.phase {
        RolloutPhase::Rolling => (Phase::Rolling, None),
        RolloutPhase::Paused { by } => (Phase::Paused, Some(format!("by {by}"))),
        RolloutPhase::Failed { why } => (Phase::Failed, Some(why.clone())),
        RolloutPhase::RolledBack { why } => (Phase::RolledBack, Some(why.clone())),
        RolloutPhase::Done => (Phase::Done, None),
    };
    Some(RolloutStatus {
        version: rollout.version,
        from: rollout.from,
        stage: match rollout.phase {
            // One that restarts nothing has no stages to go through.
            RolloutPhase::Done => stages,
            _ => rollout.stage + 1,
        },
        stages,
        place: rollout.place.clone(),
        phase,
        why,
    })
}

fn why_blocked(
    scheduler: &Scheduler,
    state: &Cluster,
    job: &JobName,
) -> Result<OperateAnswer, ApiError> {
    let Some(ledger) = scheduler.ledger(state, job) else {
        let known = state.jobs().contains_key(job);
        return Err(match known {
            true => ApiError::new(ErrorCode::BadRequest, format!("{job} is stopped")),
            false => no_job(job),
        });
    };
    let used = ledger.used.into_iter().map(|(slot, reason)| LedgerEntry {
        slot,
        node: node_of(&reason).map(|node| name(state, node)),
        why: reason.to_string(),
    });
    let bad = scheduler.bad_hosts(job, clock::boot_now()).into_iter();
    Ok(OperateAnswer::WhyBlocked(LedgerStatus {
        budget: ledger.budget,
        wanted: ledger.wanted,
        used: used.collect(),
        bad_nodes: bad.map(|(node, _)| name(state, node)).collect(),
    }))
}

fn node_of(reason: &Use) -> Option<NodeId> {
    match reason {
        Use::Unplaced | Use::Dependency { .. } => None,
        Use::Waiting { holder } | Use::Lease { holder, .. } => *holder,
        Use::Starting { node }
        | Use::Failing { node, .. }
        | Use::Unhealthy { node }
        | Use::Silent { node }
        | Use::Stopping { node, .. } => Some(*node),
    }
}

fn drain(scheduler: &Scheduler, state: &Cluster, node: NodeId) -> Result<OperateAnswer, ApiError> {
    let Some(view) = scheduler.drain_view(state, node) else {
        let message = format!("{node} is not a member");
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    let left = view.left.into_iter().map(|(slot, wait)| DrainedTask {
        slot,
        why: match wait {
            DrainWait::Stopping => "being stopped".into(),
            DrainWait::Starting { on } => format!("its next task starts on {}", name(state, on)),
            DrainWait::NoPlace => "no other node takes it yet".into(),
            DrainWait::ItsTurn => "one of the next".into(),
            DrainWait::Budget => "its job's budget is spent; see potluck why-blocked".into(),
            DrainWait::Ends => "it is work that ends; the drain's deadline stops it".into(),
            DrainWait::Recovered => "its job is not in the log: only a person stops it".into(),
        },
    });
    Ok(OperateAnswer::Drain(left.collect()))
}

fn rebalance(scheduler: &Scheduler, state: &Cluster) -> OperateAnswer {
    let moves = scheduler.rebalance_plan(state, clock::boot_now());
    let moves = moves.into_iter().map(|next| MoveStatus {
        from: name(state, next.from),
        to: name(state, next.to),
        reason: reason(state, &next),
        gain: gain(&next),
        slot: next.slot,
    });
    OperateAnswer::Rebalance(moves.collect())
}

fn reason(state: &Cluster, next: &Move) -> String {
    let to = name(state, next.to);
    match next.why {
        MoveReason::Joined => format!("{to} has joined"),
        MoveReason::Returned => format!("{to} has come back"),
        MoveReason::Skewed { level } => format!("{} are skewed", several(level)),
    }
}

/// Tasks of the job in both places at each level that counts, before and
/// after. A place that has no more than the other is the same one, or counts
/// less than what the move evens.
fn gain(next: &Move) -> String {
    let crowd = next.crowd.iter().filter(|(_, there, here)| there > here);
    let changes = crowd.map(|(level, there, here)| {
        let (level, less, more) = (several(*level), there - 1, here + 1);
        format!("{level} {there}:{here} -> {less}:{more}")
    });
    changes.collect::<Vec<_>>().join(", ")
}

fn several(level: Level) -> &'static str {
    match level {
        Level::Region => "regions",
        Level::Datacenter => "datacenters",
        Level::Cluster => "clusters",
        Level::Rack => "racks",
        Level::Node => "hosts",
    }
}
