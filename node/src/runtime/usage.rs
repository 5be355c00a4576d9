//! What the tasks of a job use: asked of every node that runs one.

use super::{operations::ask_leader, shared::Shared};
use crate::{
    api::{
        client::unexpected,
        error::{ApiError, ErrorCode},
        protocol::{ApiAnswer, UsageStatus},
    },
    wire::{Query, Request, Response},
};
use futures::future::join_all;
use potluck_core::usage::TaskUsage;
use potluck_specs::JobName;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How long the scheduler or a node may take.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Tasks that a node tells of at most, well within a response.
const TASKS_MAX: usize = 200;

/// What runs here.
pub(super) fn here(shared: &Shared, job: &JobName) -> Vec<TaskUsage> {
    let mut all = shared.agent.usage(job);
    all.truncate(TASKS_MAX);
    all
}

/// All of the job. A node that does not answer is an error: half of the figures
/// would be taken for all.
pub(super) async fn gather(shared: &Arc<Shared>, job: JobName) -> Result<ApiAnswer, ApiError> {
    let query = Query::Jobs(Some(job.clone()));
    let jobs = match ask_leader(shared, Request::Query(query), ASK_WAIT).await? {
        Response::Answer(answer) => match (*answer)? {
            ApiAnswer::Jobs(jobs) => jobs,
            other => return Err(unexpected(&other)),
        },
        other => return Err(unexpected(&other)),
    };
    let tasks = jobs.iter().flat_map(|job| &job.tasks);
    let names: BTreeSet<&String> = tasks.filter_map(|task| task.node.as_ref()).collect();
    let answers = names.into_iter().map(|name| of_node(shared, name, &job));
    let mut all = Vec::new();
    for answer in join_all(answers).await {
        all.extend(answer?);
    }
    all.sort_by(|a, b| a.usage.slot.cmp(&b.usage.slot));
    Ok(ApiAnswer::Usage(all))
}

async fn of_node(
    shared: &Arc<Shared>,
    name: &str,
    job: &JobName,
) -> Result<Vec<UsageStatus>, ApiError> {
    let unavailable = |why: &str| {
        let message = format!("node {name} does not tell what its tasks use: {why}");
        ApiError::new(ErrorCode::Unavailable, message)
    };
    let node = shared.directory.named(name);
    let node = node.ok_or_else(|| unavailable("it is not known here"))?;
    let usages = match node == shared.me.node {
        true => here(shared, job),
        false => match shared
            .ask(node, Request::Usage(job.clone()), ASK_WAIT)
            .await
        {
            Ok(Response::Usage(usages)) => usages,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => return Err(unavailable(&crate::cli::chain(&error))),
        },
    };
    let status = |usage| UsageStatus {
        node: name.to_owned(),
        usage,
    };
    Ok(usages.into_iter().map(status).collect())
}
