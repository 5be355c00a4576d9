//! Whose logs a request means: at its beginning, and of a follower as tasks
//! come. The scheduler knows.

use crate::{
    api::{
        error::{ApiError, ErrorCode},
        logs::{LogTarget, LogsRequest, MERGED_MAX},
        protocol::{ApiAnswer, BatchState, JobStatus},
    },
    runtime::{operations::ask_leader, shared::Shared},
    wire::{Query, Request, Response},
};
use potluck_specs::{JobName, SlotId};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How long the scheduler may take to say which tasks a job has.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Whose logs are meant.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) slots: BTreeSet<SlotId>,
    /// Jobs of which all tasks are meant: more may come.
    pub(super) jobs: BTreeSet<JobName>,
}

/// What a later look at jobs shows.
pub(super) struct Seen {
    /// Tasks that are somewhere, so that they have logs.
    pub(super) placed: BTreeSet<SlotId>,
    /// No more tasks come.
    pub(super) are_over: bool,
}

/// All tasks that are meant as a reader begins, or goes on.
///
/// # Errors
/// If there are none, or too many, or no scheduler says which.
pub(super) async fn meant(shared: &Arc<Shared>, request: &LogsRequest) -> Result<Meant, ApiError> {
    let mut meant = Meant::default();
    for LogTarget { job, index } in request.targets.iter().take(MERGED_MAX + 1) {
        match index {
            Some(index) => drop(meant.slots.insert(SlotId {
                job: job.clone(),
                index: *index,
            })),
            None => drop(meant.jobs.insert(job.clone())),
        }
    }
    let goes_on = !request.from.is_empty();
    for job in &meant.jobs {
        match status(shared, job).await {
            Ok(status) => meant.slots.extend(tasks(&status, goes_on)),
            // What a reader has begun is read to its end.
            Err(error) if goes_on && error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // Tasks that are wanted no longer are read to their ends, too.
    let begun = request.from.iter().take(MERGED_MAX);
    let begun = begun.filter(|from| meant.jobs.contains(&from.slot.job));
    meant.slots.extend(begun.map(|from| from.slot.clone()));
    check(&meant, request.select.follow)?;
    Ok(meant)
}

fn check(meant: &Meant, follow: bool) -> Result<(), ApiError> {
    if meant.slots.len() > MERGED_MAX {
        let message =
            format!("these are more than {MERGED_MAX} tasks, whose logs can't be merged at once");
        return Err(ApiError::new(ErrorCode::BadRequest, message)
            .hint("name some of them, as in: potluck logs 'web[0]' 'web[1]'"));
    }
    if let (true, Some(job)) = (meant.slots.is_empty() && !follow, meant.jobs.first()) {
        let message = format!("job {job} has no tasks now, and its last version wanted none");
        return Err(ApiError::new(ErrorCode::NotFound, message).hint(format!(
            "logs that are kept can be read by task: potluck logs '{job}[0]'"
        )));
    }
    Ok(())
}

/// The tasks of a job that are wanted, or run still; of one without any, all
/// that its last version wanted: what they said may be kept.
fn tasks(status: &JobStatus, goes_on: bool) -> Vec<SlotId> {
    let now: Vec<SlotId> = status.tasks.iter().map(|task| task.slot.clone()).collect();
    if !now.is_empty() || goes_on {
        return now;
    }
    let wanted = status.batch.as_ref().map(|batch| batch.completions);
    let count = wanted.unwrap_or(status.replicas);
    let slot = |index| SlotId {
        job: status.name.clone(),
        index,
    };
    // One too many is refused as such.
    (0..count).take(MERGED_MAX + 1).map(slot).collect()
}

/// Which tasks the jobs have now.
///
/// # Errors
/// No scheduler says it.
pub(super) async fn look(shared: &Arc<Shared>, jobs: &BTreeSet<JobName>) -> Result<Seen, ApiError> {
    let mut seen = Seen {
        placed: BTreeSet::new(),
        are_over: true,
    };
    for job in jobs {
        let status = match status(shared, job).await {
            Ok(status) => status,
            Err(error) if error.code == ErrorCode::NotFound => continue,
            Err(error) => return Err(error),
        };
        seen.are_over &= is_over(&status);
        let placed = status.tasks.into_iter().filter(|task| task.node.is_some());
        seen.placed.extend(placed.map(|task| task.slot));
    }
    Ok(seen)
}

fn is_over(status: &JobStatus) -> bool {
    let ended = |state| {
        use BatchState::{Complete, DeadlineExceeded, Failed};
        matches!(state, Complete | Failed | DeadlineExceeded)
    };
    status.stopped
        || status
            .batch
            .as_ref()
            .is_some_and(|batch| ended(batch.state))
}

async fn status(shared: &Arc<Shared>, job: &JobName) -> Result<JobStatus, ApiError> {
    let request = Request::Query(Query::Jobs(Some(job.clone())));
    let jobs = match ask_leader(shared, request, ASK_WAIT).await? {
        Response::Answer(answer) => match (*answer)? {
            ApiAnswer::Jobs(jobs) => jobs,
            other => return Err(crate::api::client::unexpected(&other)),
        },
        other => return Err(crate::api::client::unexpected(&other)),
    };
    jobs.into_iter()
        .next()
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no job {job}")))
}
