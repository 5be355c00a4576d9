//! A task's log, from whichever node runs the task to whoever asks.

use super::{operations::ask_leader, shared::Shared};
use crate::{
    agent::{Line, LogQuery},
    api::{
        error::{ApiError, ErrorCode},
        frame::{self, FrameError},
        protocol::{ApiAnswer, ApiFrame, LinePlace, LogLine, LogsRequest},
        server::Frames,
    },
    cli::chain,
    network::Purpose,
    wire::{Query, Request, Response},
};
use potluck_specs::{Millis, NodeId, SlotId};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
    time::Instant,
};

/// How long a question may take before the stream.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// Frames that wait for a slow reader before the log waits too.
const FRAMES_QUEUED_MAX: usize = 16;

/// Lines in one frame at most: well under a frame's limit for ordinary lines.
const LINES_PER_FRAME_MAX: usize = 256;

/// Bytes of text in one frame at most; a line has at most 64 KiB.
const TEXT_PER_FRAME_MAX: usize = 512 << 10;

/// How long a follower waits for a log's node to come back.
const REOPEN_WAIT: Duration = Duration::from_secs(60);

/// Pause between two tries.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Streams a slot's log to a person, from this node or through it. A follower
/// is served on over the restart of the node that has the log.
pub(super) async fn stream(shared: &Arc<Shared>, mut request: LogsRequest, frames: Frames) {
    let mut lost_at = None;
    let last = loop {
        let before = request.after;
        match once(shared, &mut request, &frames).await {
            Ok(()) => break ApiFrame::End,
            Err(error) => {
                // Only a stream that was once there is waited for.
                let is_over = !request.follow || request.after.is_none() || frames.is_closed();
                if request.after != before {
                    lost_at = None;
                }
                let since = *lost_at.get_or_insert_with(Instant::now);
                if is_over || since.elapsed() > REOPEN_WAIT {
                    break ApiFrame::Failure(error);
                }
            }
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    };
    // The client may have left.
    let _ = frames.send(last).await;
}

async fn once(
    shared: &Arc<Shared>,
    request: &mut LogsRequest,
    frames: &Frames,
) -> Result<(), ApiError> {
    let node = holder(shared, &request.slot).await?;
    if node == shared.me.node {
        return local(shared, request, frames).await;
    }
    remote(shared, node, request, frames).await
}

/// Which node runs the slot, or ran it last.
pub(super) async fn holder(shared: &Arc<Shared>, slot: &SlotId) -> Result<NodeId, ApiError> {
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
    forward(&mut lines, request.after, frames).await;
    Ok(())
}

/// Sends lines on until the log ends or its reader has left.
async fn forward(lines: &mut mpsc::Receiver<Vec<Line>>, after: Option<LinePlace>, frames: &Frames) {
    loop {
        // A follower that has left is noticed even while the log is quiet.
        let batch = tokio::select! {
            batch = lines.recv() => batch,
            () = frames.closed() => return,
        };
        let Some(batch) = batch else { return };
        for part in split(batch, after) {
            if frames.send(ApiFrame::Lines(part)).await.is_err() {
                return;
            }
        }
    }
}

/// Cuts a batch into frames.
fn split(batch: Vec<Line>, after: Option<LinePlace>) -> Vec<Vec<LogLine>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    let fresh = |line: &LogLine| after.is_none_or(|place| !line.is_up_to(place));
    for line in batch.into_iter().map(shown).filter(fresh) {
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
    request: &mut LogsRequest,
    frames: &Frames,
) -> Result<(), ApiError> {
    let (name, slot) = (shared.directory.name(node), request.slot.clone());
    let lost = |error: &dyn std::error::Error| {
        let message = format!(
            "the log of {slot} on {name} can't be read: {}",
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
    frame::write(&mut stream, &*request)
        .await
        .map_err(|error| lost(&error))?;
    match pass_on(&mut stream, request, frames).await {
        Ok(outcome) => outcome,
        Err(error) => Err(lost(&error)),
    }
}

/// Passes another node's frames on until they end or their reader has left,
/// and notes in the request how far it came.
async fn pass_on(
    stream: &mut (impl AsyncRead + Unpin),
    request: &mut LogsRequest,
    frames: &Frames,
) -> Result<Result<(), ApiError>, FrameError> {
    loop {
        let next = tokio::select! {
            next = frame::read::<ApiFrame>(stream) => next,
            () = frames.closed() => return Ok(Ok(())),
        };
        match next? {
            ApiFrame::End => return Ok(Ok(())),
            ApiFrame::Failure(error) => return Ok(Err(error)),
            frame => {
                if let ApiFrame::Lines(lines) = &frame
                    && let Some(line) = lines.last()
                {
                    request.after = Some(line.place());
                    request.tail = None;
                }
                if frames.send(frame).await.is_err() {
                    return Ok(Ok(()));
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
    serve_reader(stream, |frames| async move {
        local(&shared, &request, &frames).await
    })
    .await;
}

/// Writes the frames of `work` until it ends or the reader has left.
async fn serve_reader<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    work: impl FnOnce(Frames) -> F,
) where
    F: Future<Output = Result<(), ApiError>>,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let (frames, mut queue) = mpsc::channel(FRAMES_QUEUED_MAX);
    let work = async {
        let last = match work(frames.clone()).await {
            Ok(()) => ApiFrame::End,
            Err(error) => ApiFrame::Failure(error),
        };
        let _ = frames.send(last).await;
        drop(frames);
    };
    let written = async {
        while let Some(next) = queue.recv().await {
            if frame::write(&mut write, &next).await.is_err() {
                return;
            }
        }
    };
    // The other node says nothing more: whatever comes is its leaving.
    tokio::select! {
        _ = futures::future::join(work, written) => {}
        _ = read.read_u8() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::spawn;
    use potluck_specs::JobName;
    use tokio::{io::duplex, sync::oneshot, time::timeout};

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    fn request() -> LogsRequest {
        let (namespace, name) = ("default".into(), "web".into());
        LogsRequest {
            slot: SlotId {
                job: JobName { namespace, name },
                index: 0,
            },
            follow: true,
            tail: Some(3),
            after: None,
        }
    }

    fn line(sequence: u64) -> LogLine {
        LogLine {
            sequence,
            at: Millis(7),
            stderr: false,
            text: "hello".into(),
        }
    }

    #[tokio::test]
    async fn a_quiet_log_notices_that_its_reader_left() {
        let (_log, mut lines) = mpsc::channel(1);
        let (frames, reader) = mpsc::channel(1);
        let work = forward(&mut lines, None, &frames);
        drop(reader);
        timeout(LIMIT, work).await.expect("it ends");
    }

    #[tokio::test]
    async fn a_quiet_log_of_another_node_notices_it_too() {
        let (mut other, mut stream) = duplex(4_096);
        let (frames, mut reader) = mpsc::channel(4);
        let mut request = request();
        let lines = ApiFrame::Lines(vec![line(4), line(5)]);
        frame::write(&mut other, &lines).await.unwrap();
        let passed = async {
            let outcome = pass_on(&mut stream, &mut request, &frames).await;
            outcome.unwrap().unwrap();
        };
        let read = async {
            assert!(matches!(reader.recv().await, Some(ApiFrame::Lines(_))));
            drop(reader);
        };
        let both = futures::future::join(passed, read);
        timeout(LIMIT, both).await.expect("it ends");
        // Where a further reader would go on.
        assert_eq!(request.after, Some(line(5).place()));
        assert_eq!(request.tail, None);
    }

    #[tokio::test]
    async fn a_node_that_left_is_served_no_longer() {
        let (other, stream) = duplex(4_096);
        let (alive, ended) = oneshot::channel::<()>();
        let served = spawn(
            "test server",
            serve_reader(stream, |_frames| async move {
                let _alive = alive;
                std::future::pending().await
            }),
        );
        drop(other);
        timeout(LIMIT, served).await.expect("it ends").unwrap();
        ended.await.expect_err("the work was dropped");
    }

    #[tokio::test]
    async fn a_log_that_ends_is_told_to_its_end() {
        let (mut other, stream) = duplex(4_096);
        let served = spawn(
            "test server",
            serve_reader(stream, |frames| async move {
                let _ = frames.send(ApiFrame::Lines(vec![line(1)])).await;
                Ok(())
            }),
        );
        let first = frame::read::<ApiFrame>(&mut other).await.unwrap();
        assert!(matches!(first, ApiFrame::Lines(lines) if lines.len() == 1));
        let last = frame::read::<ApiFrame>(&mut other).await.unwrap();
        assert!(matches!(last, ApiFrame::End), "{last:?}");
        timeout(LIMIT, served).await.expect("it ends").unwrap();
    }
}
