//! Which node a slot is on: for logs and sessions, which go there.

use super::{operations::ask_leader, shared::Shared};
use crate::{
    api::{
        client::unexpected,
        error::{ApiError, ErrorCode},
        protocol::ApiAnswer,
    },
    wire::{Query, Request, Response},
};
use potluck_core::session::TaskState;
use potluck_specs::{NodeId, SlotId};
use std::{sync::Arc, time::Duration};
use tokio::time::{interval, timeout};

/// How long the scheduler may take to answer, and gossip to tell of a node.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Between two looks for what gossip tells.
const LOOK: Duration = Duration::from_millis(100);

/// Where a slot is, by the scheduler.
pub(super) enum Holder {
    /// This node has it, or is to have it.
    On(NodeId),
    /// It is wanted, and placed nowhere.
    Nowhere,
    /// No job wants it.
    Unwanted,
}

/// Which node runs the slot.
///
/// # Errors
/// If it is not known: no scheduler answers, or names a node that is unknown.
pub(super) async fn find(shared: &Arc<Shared>, slot: &SlotId) -> Result<Holder, ApiError> {
    // What runs here needs no leader to be found.
    let here = shared.agent.slots().await.unwrap_or_default();
    let runs = here
        .iter()
        .any(|report| report.slot == *slot && report.state != TaskState::Stopped);
    if runs {
        return Ok(Holder::On(shared.me.node));
    }
    let query = Query::Jobs(Some(slot.job.clone()));
    let jobs = match ask_leader(shared, Request::Query(query), ASK_WAIT).await? {
        Response::Answer(answer) => match *answer {
            Ok(ApiAnswer::Jobs(jobs)) => jobs,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) if error.code == ErrorCode::NotFound => return Ok(Holder::Unwanted),
            Err(error) => return Err(error),
        },
        other => return Err(unexpected(&other)),
    };
    let mut tasks = jobs.iter().flat_map(|job| &job.tasks);
    let Some(task) = tasks.find(|task| task.slot == *slot) else {
        return Ok(Holder::Unwanted);
    };
    match &task.node {
        Some(name) => known(shared, name).await.map(Holder::On),
        None => Ok(Holder::Nowhere),
    }
}

/// The same, where nothing else than a running task will do.
///
/// # Errors
/// Also if the slot runs nowhere.
pub(super) async fn running(shared: &Arc<Shared>, slot: &SlotId) -> Result<NodeId, ApiError> {
    match find(shared, slot).await? {
        Holder::On(node) => Ok(node),
        Holder::Nowhere => Err(nowhere(slot)),
        Holder::Unwanted => Err(unwanted(slot)),
    }
}

/// All nodes that may have kept something: those that the scheduler knows,
/// the silent ones too, or without one those that gossip tells of.
pub(super) async fn members(shared: &Arc<Shared>) -> Vec<NodeId> {
    let asked = ask_leader(shared, Request::Query(Query::Nodes), ASK_WAIT).await;
    let Ok(Response::Answer(answer)) = asked else {
        return shared.directory.alive();
    };
    let Ok(ApiAnswer::Nodes(nodes)) = *answer else {
        return shared.directory.alive();
    };
    let nodes = nodes.into_iter().map(|status| {
        // Gossip may not have told of it yet.
        if let Some(address) = status.address {
            shared.network.learn(status.node, vec![address]);
        }
        status.node
    });
    nodes.collect()
}

/// The node of this name; gossip tells of a new one within seconds.
async fn known(shared: &Arc<Shared>, name: &str) -> Result<NodeId, ApiError> {
    let mut looks = interval(LOOK);
    let known = timeout(ASK_WAIT, async {
        loop {
            looks.tick().await;
            if let Some(node) = shared.directory.named(name) {
                return node;
            }
        }
    });
    known.await.map_err(|_| {
        let message = format!("node {name} is not known here");
        ApiError::new(ErrorCode::Unavailable, message).hint("ask another node with --node")
    })
}

/// Wanted, and placed nowhere.
pub(super) fn nowhere(slot: &SlotId) -> ApiError {
    let message = format!("{slot} runs nowhere at this moment");
    ApiError::new(ErrorCode::NotFound, message)
        .hint(format!("see why with: potluck explain '{slot}'"))
}

/// Wanted by nobody.
pub(super) fn unwanted(slot: &SlotId) -> ApiError {
    let message = format!("there is no task {slot}");
    ApiError::new(ErrorCode::NotFound, message).hint(format!(
        "see which there are with: potluck status {}",
        slot.job
    ))
}
