//! Logs of tasks, from whichever nodes have them to whoever asks.
//!
//! `follow` reads one task's log wherever it is, `here` what is on this node,
//! `merge` puts several into one order.

mod follow;
mod here;
mod merge;

pub(super) use here::serve;

use super::{operations::ask_leader, shared::Shared};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        logs::{LogRead, LogTarget, LogsRequest, MERGED_MAX},
        protocol::{ApiAnswer, ApiFrame},
        server::Frames,
    },
    wire::{Query, Request, Response},
};
use follow::Follower;
use futures::future::{join, join_all};
use potluck_specs::SlotId;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How long the scheduler may take to say which tasks a job has.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Streams logs to a person, from this node or through it. A follower is
/// served on over restarts and moves of the task and its node.
pub(super) async fn stream(shared: &Arc<Shared>, request: LogsRequest, frames: Frames) {
    let last = match merged(shared, request, &frames).await {
        Ok(()) => ApiFrame::End,
        Err(error) => ApiFrame::Failure(error),
    };
    // The client may have left.
    let _ = frames.send(last).await;
}

async fn merged(
    shared: &Arc<Shared>,
    request: LogsRequest,
    frames: &Frames,
) -> Result<(), ApiError> {
    // Refused once, not by each node that is asked.
    here::pattern(&request.select)?;
    let slots = slots(shared, &request.targets).await?;
    let mut logs = Vec::new();
    let readers = slots.iter().map(|slot| {
        let (to, log) = mpsc::channel(1);
        logs.push(log);
        let read = LogRead {
            slot: slot.clone(),
            select: request.select.clone(),
            origin: None,
            after: None,
        };
        let follower = Follower {
            shared,
            read,
            to,
            notes: frames,
            at: None,
        };
        follower.run()
    });
    let reading = join_all(readers);
    let follow = request.select.follow;
    let merging = merge::run(&slots, logs, follow, frames);
    let (outcomes, ()) = join(reading, merging).await;
    judge(outcomes, frames).await
}

/// All tasks that are meant, each once, in order.
async fn slots(shared: &Arc<Shared>, targets: &[LogTarget]) -> Result<Vec<SlotId>, ApiError> {
    let mut slots = Vec::new();
    for LogTarget { job, index } in targets.iter().take(MERGED_MAX + 1) {
        let job = job.clone();
        match index {
            Some(index) => slots.push(SlotId { job, index: *index }),
            None => {
                let request = Request::Query(Query::Jobs(Some(job.clone())));
                let jobs = match ask_leader(shared, request, ASK_WAIT).await? {
                    Response::Answer(answer) => match (*answer)? {
                        ApiAnswer::Jobs(jobs) => jobs,
                        other => return Err(crate::api::client::unexpected(&other)),
                    },
                    other => return Err(crate::api::client::unexpected(&other)),
                };
                let tasks = jobs.into_iter().flat_map(|job| job.tasks);
                let before = slots.len();
                slots.extend(tasks.map(|task| task.slot));
                if slots.len() == before {
                    let message = format!("job {job} has no tasks now");
                    return Err(ApiError::new(ErrorCode::NotFound, message).hint(format!(
                        "logs that are kept can be read by task: potluck logs '{job}[0]'"
                    )));
                }
            }
        }
    }
    slots.sort();
    slots.dedup();
    if slots.len() > MERGED_MAX {
        let message =
            format!("these are more than {MERGED_MAX} tasks, whose logs can't be merged at once");
        return Err(ApiError::new(ErrorCode::BadRequest, message)
            .hint("name some of them, as in: potluck logs 'web[0]' 'web[1]'"));
    }
    Ok(slots)
}

/// What came of all logs together: one that can't be read is told beside the
/// others.
async fn judge(outcomes: Vec<Result<(), ApiError>>, frames: &Frames) -> Result<(), ApiError> {
    let all = outcomes.len();
    let mut errors: Vec<ApiError> = outcomes.into_iter().filter_map(Result::err).collect();
    let failed = errors.len();
    if all == 1 || failed == 0 {
        return errors.pop().map_or(Ok(()), Err);
    }
    let code = errors[0].code;
    for error in errors {
        // The client may have left.
        let _ = frames.send(ApiFrame::Warning(error.message)).await;
    }
    Err(ApiError::new(
        code,
        format!("the logs of {failed} of {all} tasks were not read"),
    ))
}
