//! `potluck explain`: why tasks are where they are, or nowhere.

use super::{
    args::Global,
    connect::{Session, connect},
    jobs::volumes_told,
    output,
};
use crate::api::{
    client::unexpected,
    error::{ApiError, ErrorCode},
    logs::LogTarget,
    protocol::{ApiAnswer, ApiRequest, Explained, JobStatus},
};
use potluck_specs::{JobName, SlotId};
use serde::Serialize;
use std::process::ExitCode;

/// Tasks of a job that are explained at once: each asks the leader for every
/// host, and a person reads no more.
const TASKS_MAX: usize = 10;

/// One of several tasks.
#[derive(Serialize)]
struct One {
    task: SlotId,
    explained: Explained,
}

/// `potluck explain TASK`, or a job's name.
pub(super) async fn explain(target: LogTarget, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let LogTarget { job, index } = target;
    if let Some(index) = index {
        let explained = session.explain(SlotId { job, index }).await?;
        output::print(global.output, &explained, show);
        return Ok(ExitCode::SUCCESS);
    }
    let (tasks, left_out) = tasks_of(&mut session, &job).await?;
    let mut all = Vec::new();
    for task in tasks {
        let explained = session.explain(task.clone()).await?;
        all.push(One { task, explained });
    }
    output::print(global.output, &all, |all| {
        let mut parts: Vec<String> = all
            .iter()
            .map(|one| format!("{}:\n{}", one.task, show(&one.explained)))
            .collect();
        if left_out > 0 {
            parts.push(format!("{left_out} more are left out; name one: {job}[K]"));
        }
        parts.join("\n\n")
    });
    Ok(ExitCode::SUCCESS)
}

impl Session {
    async fn explain(&mut self, task: SlotId) -> Result<Explained, ApiError> {
        match self.client.ask(&ApiRequest::Explain(task)).await? {
            ApiAnswer::Explained(explained) => Ok(explained),
            other => Err(unexpected(&other)),
        }
    }
}

/// What a person who names a job wants explained, and how much more there is.
async fn tasks_of(session: &mut Session, job: &JobName) -> Result<(Vec<SlotId>, usize), ApiError> {
    let found = session.jobs(Some(job.clone())).await?;
    let tasks = found.first().map(choose).unwrap_or_default();
    if tasks.is_empty() {
        let message = format!("{job} has no tasks");
        return Err(ApiError::new(ErrorCode::NotFound, message)
            .hint(format!("how it stands: potluck status {job}")));
    }
    let left_out = tasks.len().saturating_sub(TASKS_MAX);
    Ok((tasks.into_iter().take(TASKS_MAX).collect(), left_out))
}

/// Those that wait for a place, or all if none does.
fn choose(job: &JobStatus) -> Vec<SlotId> {
    let waiting = job.tasks.iter().filter(|task| task.node.is_none());
    let waiting: Vec<SlotId> = waiting.map(|task| task.slot.clone()).collect();
    match waiting.is_empty() {
        true => job.tasks.iter().map(|task| task.slot.clone()).collect(),
        false => waiting,
    }
}

fn show(explained: &Explained) -> String {
    let hosts = explained.hosts.iter();
    let mut text = output::table(
        ["NODE", "RACK", "VERDICT"],
        hosts.map(|v| [v.node.clone(), v.rack.clone(), v.verdict.clone()]),
    );
    if !explained.closest.is_empty() {
        text.push_str(&format!("\nclosest: {}", explained.closest.join(", ")));
    }
    for wait in &explained.waits {
        text.push_str(&format!("\nwaits first for {wait}"));
    }
    if let Some(change) = &explained.change {
        text.push_str(&format!("\nwould place it: {change}"));
    }
    if let Some(left_on) = &explained.volumes_left {
        text.push_str(&format!("\n{}", volumes_told(left_on)));
    }
    text
}
