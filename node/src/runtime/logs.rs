//! A task's log, from whichever node runs the task to whoever asks.

use super::{operations::ask_leader, shared::Shared};
use crate::{
    agent::{Line, LogQuery},
    api::{
        error::{ApiError, ErrorCode},
        frame,
        protocol::{ApiAnswer, ApiFrame, LogLine, LogsRequest},
        server::Frames,
    },
    cli::chain,
    network::Purpose,
    wire::{Query, Request, Response},
};
use potluck_specs::{Millis, NodeId, SlotId};
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a question may take before the stream.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Lines in one frame at most: well under a frame's limit for ordinary lines.
const LINES_PER_FRAME_MAX: usize = 256;

/// Bytes of text in one frame at most; a line has at most 64 KiB.
const TEXT_PER_FRAME_MAX: usize = 512 << 10;

/// Streams a slot's log to a person, from this node or through it.
pub(super) async fn stream(shared: &Arc<Shared>, request: LogsRequest, frames: Frames) {
    let outcome = match holder(shared, &request.slot).await {
        Ok(node) if node == shared.me.node => local(shared, &request, &frames).await,
        Ok(node) => remote(shared, node, &request, &frames).await,
        Err(error) => Err(error),
    };
    let last = match outcome {
        Ok(()) => ApiFrame::End,
        Err(error) => ApiFrame::Failure(error),
    };
    // The client may have left.
    let _ = frames.send(last).await;
}

/// Which node runs the slot, or ran it last.
async fn holder(shared: &Arc<Shared>, slot: &SlotId) -> Result<NodeId, ApiError> {
    // What runs here needs no leader to be found.
    let here = shared.agent.slots().await.unwrap_or_default();
    if here.iter().any(|report| report.slot == *slot) {
        return Ok(shared.me.node);
    }
    let query = Query::Jobs(Some(slot.job.clone()));
    let jobs = match ask_leader(shared, Request::Query(query), ASK_WAIT).await? {
        Response::Answer(answer) => match (*answer)? {
            ApiAnswer::Jobs(jobs) => jobs,
            other => return Err(crate::api::client::unexpected(&other)),
        },
        other => return Err(crate::api::client::unexpected(&other)),
    };
    let task = jobs
        .iter()
        .flat_map(|job| &job.tasks)
        .find(|task| task.slot == *slot);
    let name = task.and_then(|task| task.node.clone());
    let name = name.ok_or_else(|| not_running(slot, task.is_some()))?;
    shared.directory.named(&name).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Unavailable,
            format!("node {name} is not known here"),
        )
    })
}

fn not_running(slot: &SlotId, is_wanted: bool) -> ApiError {
    match is_wanted {
        true => ApiError::new(
            ErrorCode::NotFound,
            format!("{slot} runs nowhere at this moment"),
        )
        .hint(format!("see why with: potluck explain '{slot}'")),
        false => ApiError::new(ErrorCode::NotFound, format!("there is no task {slot}")).hint(
            format!("see which there are with: potluck status {}", slot.job),
        ),
    }
}

async fn local(
    shared: &Arc<Shared>,
    request: &LogsRequest,
    frames: &Frames,
) -> Result<(), ApiError> {
    let query = LogQuery {
        follow: request.follow,
        tail: request.tail,
        previous: false,
    };
    let mut lines = shared
        .agent
        .logs(request.slot.clone(), query)
        .await
        .map_err(|error| ApiError::new(ErrorCode::NotFound, chain(&error)))?;
    loop {
        // A follower that has left is noticed even while the log is quiet.
        let batch = tokio::select! {
            batch = lines.recv() => batch,
            () = frames.closed() => return Ok(()),
        };
        let Some(batch) = batch else { return Ok(()) };
        for part in split(batch) {
            if frames.send(ApiFrame::Lines(part)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Cuts a batch into frames.
fn split(batch: Vec<Line>) -> Vec<Vec<LogLine>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for line in batch {
        let line = shown(line);
        let part = parts.last_mut().expect("there is always one");
        if part.len() >= LINES_PER_FRAME_MAX || bytes + line.text.len() > TEXT_PER_FRAME_MAX {
            bytes = line.text.len();
            parts.push(vec![line]);
        } else {
            bytes += line.text.len();
            part.push(line);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn shown(line: Line) -> LogLine {
    LogLine {
        sequence: line.seq,
        at: Millis(line.ms),
        stderr: line.stream == potluck_helper::log::Stream::Err,
        text: String::from_utf8_lossy(&line.text).into_owned(),
    }
}

async fn remote(
    shared: &Arc<Shared>,
    node: NodeId,
    request: &LogsRequest,
    frames: &Frames,
) -> Result<(), ApiError> {
    let name = shared.directory.name(node);
    let lost = |error: &dyn std::error::Error| {
        let message = format!(
            "the log of {} on {name} can't be read: {}",
            request.slot,
            chain(error)
        );
        ApiError::new(ErrorCode::Unavailable, message)
    };
    let stream = shared
        .network
        .open_stream(node, Purpose::Logs, ASK_WAIT)
        .await
        .map_err(|error| lost(&error))?;
    let mut stream = stream.into_tokio();
    frame::write(&mut stream, request)
        .await
        .map_err(|error| lost(&error))?;
    loop {
        let next = tokio::select! {
            next = frame::read::<ApiFrame>(&mut stream) => next,
            () = frames.closed() => return Ok(()),
        };
        match next.map_err(|error| lost(&error))? {
            ApiFrame::End => return Ok(()),
            ApiFrame::Failure(error) => return Err(error),
            frame => {
                if frames.send(frame).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Serves another node that streams a log on to a person.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send,
) {
    let Ok(request) = frame::read::<LogsRequest>(&mut stream).await else {
        return;
    };
    let (frames, mut queue) = tokio::sync::mpsc::channel(16);
    let work = async {
        let last = match local(&shared, &request, &frames).await {
            Ok(()) => ApiFrame::End,
            Err(error) => ApiFrame::Failure(error),
        };
        let _ = frames.send(last).await;
        drop(frames);
    };
    let write = async {
        while let Some(next) = queue.recv().await {
            if frame::write(&mut stream, &next).await.is_err() {
                return;
            }
        }
    };
    // Either end's leaving ends both.
    let (work, write) = (std::pin::pin!(work), std::pin::pin!(write));
    if let futures::future::Either::Left(((), write)) = futures::future::select(work, write).await {
        write.await;
    }
}
