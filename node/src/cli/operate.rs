//! `potluck drain`, `cordon`, `uncordon`, `decommission`, `rollout`,
//! `why-blocked` and `rebalance`.

use super::{
    args::{Global, RolloutCommand},
    connect::{Session, connect},
    output,
};
use crate::api::{
    change::Change,
    client::unexpected,
    error::{ApiError, ErrorCode},
    operate::{DrainedTask, OperateAnswer, OperateQuery, Operation, RolloutStatus},
    protocol::{ApiAnswer, ApiRequest},
};
use potluck_core::cluster::RolloutControl;
use potluck_specs::{JobName, NodeId};
use std::{process::ExitCode, time::Duration};

/// Pause between two looks at a node that is being drained.
const POLL: Duration = Duration::from_millis(200);

impl Session {
    pub(super) async fn operate(&mut self, query: OperateQuery) -> Result<OperateAnswer, ApiError> {
        match self.client.ask(&ApiRequest::Operate(query)).await? {
            ApiAnswer::Operate(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    async fn node_named(&mut self, name: &str) -> Result<NodeId, ApiError> {
        let nodes = self.nodes().await?;
        if let Some(node) = nodes.iter().find(|node| node.name == name) {
            return Ok(node.node);
        }
        let known: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let error = ApiError::new(ErrorCode::NotFound, format!("there is no node {name:?}"));
        Err(error.hint(format!("nodes are: {}", known.join(", "))))
    }

    async fn left_on(&mut self, node: NodeId) -> Result<Vec<DrainedTask>, ApiError> {
        match self.operate(OperateQuery::Drain(node)).await? {
            OperateAnswer::Drain(left) => Ok(left),
            _ => Err(wrong_answer()),
        }
    }
}

pub(super) fn wrong_answer() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the node answered another question")
}

/// `potluck drain NODE`.
pub(super) async fn drain(
    name: &str,
    deadline: u64,
    wait: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let node = session.node_named(name).await?;
    begin_drain(&mut session, node, deadline).await?;
    if wait {
        emptied(&mut session, name, node, deadline).await?;
    }
    let done = serde_json::json!({ "node": name, "draining": true, "empty": wait });
    output::print(global.output, &done, |_| match wait {
        true => format!("{name} is empty and takes no new work"),
        false => format!("{name} takes no new work; its tasks move away within {deadline} s"),
    });
    Ok(ExitCode::SUCCESS)
}

async fn begin_drain(session: &mut Session, node: NodeId, deadline: u64) -> Result<(), ApiError> {
    let within_ms = deadline.saturating_mul(1_000);
    let operation = Operation::Drain { node, within_ms };
    session
        .change(Change::Operate { operation }, |_| {})
        .await?;
    Ok(())
}

/// Waits until nothing is on the node: the drain's deadline, and what stopping
/// takes after it.
async fn emptied(
    session: &mut Session,
    name: &str,
    node: NodeId,
    deadline: u64,
) -> Result<(), ApiError> {
    let end = tokio::time::Instant::now() + Duration::from_secs(deadline.saturating_add(60));
    loop {
        let left = session.left_on(node).await?;
        let Some(first) = left.first() else {
            return Ok(());
        };
        if tokio::time::Instant::now() >= end {
            let message = format!("{} tasks are still on {name}", left.len());
            let hint = format!("{}: {}", first.slot, first.why);
            return Err(ApiError::new(ErrorCode::Timeout, message).hint(hint));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `potluck cordon NODE` and `uncordon NODE`.
pub(super) async fn cordon(
    name: &str,
    cordoned: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let node = session.node_named(name).await?;
    let operation = Operation::Cordon { node, cordoned };
    session
        .change(Change::Operate { operation }, |_| {})
        .await?;
    let done = serde_json::json!({ "node": name, "cordoned": cordoned });
    output::print(global.output, &done, |_| match cordoned {
        true => format!("{name} keeps what it has and takes nothing new"),
        false => format!("{name} takes work again"),
    });
    Ok(ExitCode::SUCCESS)
}

/// `potluck decommission NODE`.
pub(super) async fn decommission(
    name: &str,
    deadline: u64,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let node = session.node_named(name).await?;
    begin_drain(&mut session, node, deadline).await?;
    emptied(&mut session, name, node, deadline).await?;
    session.change(Change::Remove { node }, |_| {}).await?;
    let done = serde_json::json!({ "node": name, "removed": true });
    output::print(global.output, &done, |_| {
        format!("{name} is empty and no member any more; its process may be stopped")
    });
    Ok(ExitCode::SUCCESS)
}

/// `potluck rollout …`.
pub(super) async fn rollout(
    command: RolloutCommand,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let (job, control) = match command {
        RolloutCommand::Status { job } => (job, None),
        RolloutCommand::Pause { job } => (job, Some(RolloutControl::Pause)),
        RolloutCommand::Resume { job } => (job, Some(RolloutControl::Resume)),
        RolloutCommand::Undo { job } => (job, Some(RolloutControl::Undo)),
    };
    if let Some(control) = control {
        let job = job.clone();
        let operation = Operation::Rollout { job, control };
        session
            .change(Change::Operate { operation }, |_| {})
            .await?;
    }
    let query = OperateQuery::Rollout(job.clone());
    let OperateAnswer::Rollout(status) = session.operate(query).await? else {
        return Err(wrong_answer());
    };
    output::print(global.output, &status, |status| {
        rollout_line(&job, status.as_ref())
    });
    Ok(ExitCode::SUCCESS)
}

fn rollout_line(job: &JobName, status: Option<&RolloutStatus>) -> String {
    let Some(status) = status else {
        return format!("{job} is at its first version: nothing was rolled out over another");
    };
    let why = status
        .why
        .as_ref()
        .map_or(String::new(), |why| format!(" ({why})"));
    let place = status.place.as_ref();
    let place = place.map_or(String::new(), |place| format!(" ({place})"));
    format!(
        "{job}: version {} after {}, stage {} of {}{place}, {}{why}",
        status.version, status.from, status.stage, status.stages, status.phase
    )
}

/// `potluck why-blocked JOB`.
pub(super) async fn why_blocked(job: JobName, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let query = OperateQuery::WhyBlocked(job.clone());
    let OperateAnswer::WhyBlocked(ledger) = session.operate(query).await? else {
        return Err(wrong_answer());
    };
    output::print(global.output, &ledger, |ledger| {
        let head = format!(
            "{job}: {} of {} tasks are down, {} may be",
            ledger.used.len(),
            ledger.wanted,
            ledger.budget
        );
        let mut lines = vec![head];
        if !ledger.used.is_empty() {
            lines.push(output::table(
                ["TASK", "NODE", "WHY"],
                ledger.used.iter().map(|entry| {
                    let node = entry.node.clone().unwrap_or_else(|| "-".into());
                    [entry.slot.to_string(), node, entry.why.clone()]
                }),
            ));
        }
        if !ledger.bad_nodes.is_empty() {
            let nodes = ledger.bad_nodes.join(", ");
            lines.push(format!("its tasks failed again and again on: {nodes}"));
        }
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

/// `potluck rebalance --dry-run`.
pub(super) async fn rebalance(dry_run: bool, global: &Global) -> Result<ExitCode, ApiError> {
    if !dry_run {
        let message = "tasks are moved by themselves, one at a time, when the cluster is quiet";
        return Err(ApiError::new(ErrorCode::BadRequest, message)
            .hint("see what would be moved with potluck rebalance --dry-run"));
    }
    let mut session = connect(global).await?;
    let OperateAnswer::Rebalance(moves) = session.operate(OperateQuery::Rebalance).await? else {
        return Err(wrong_answer());
    };
    output::print(global.output, &moves, |moves| {
        if moves.is_empty() {
            return "nothing would be moved".into();
        }
        output::table(
            ["TASK", "FROM", "TO", "REASON", "GAIN"],
            moves.iter().map(|next| {
                [
                    next.slot.to_string(),
                    next.from.clone(),
                    next.to.clone(),
                    next.reason.clone(),
                    next.gain.clone(),
                ]
            }),
        )
    });
    Ok(ExitCode::SUCCESS)
}
