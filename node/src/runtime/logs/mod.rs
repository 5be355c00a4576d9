//! Logs of tasks, from whichever nodes have them to whoever asks.
//!
//! `tasks` says whose are meant, `many` reads them all, `follow` one task's log
//! wherever it is, `here` what is on this node, `merge` puts several into one
//! order.

mod follow;
mod here;
mod many;
mod merge;
mod tasks;

pub(super) use here::serve;

use super::shared::Shared;
use crate::api::{error::ApiError, logs::LogsRequest, protocol::ApiFrame, server::Frames};
use futures::future::join;
use many::Readers;
use std::sync::Arc;
use tokio::sync::mpsc;

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
    here::check_tail(&request.select)?;
    let meant = tasks::meant(shared, &request).await?;
    let follow = request.select.follow;
    let (readers, sources) = Readers::start(shared, request, meant, frames);
    let (more, later) = mpsc::channel(1);
    let merging = merge::run(sources, later, follow, frames);
    let (outcome, ()) = join(readers.run(more), merging).await;
    outcome
}
