//! Logs of this node: read for its own people, and served to other nodes.

use super::merge::Lines;
use crate::{
    agent::{LogBatch, LogQuery},
    api::{
        error::{ApiError, ErrorCode},
        frame,
        logs::{LogLine, LogLines, LogRead, LogSelection, PATTERN_BYTES_MAX},
        protocol::ApiFrame,
    },
    cli::chain,
    runtime::shared::Shared,
};
use potluck_specs::{Millis, SlotId};
use regex::bytes::{Regex, RegexBuilder};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
};

/// Batches that wait for another node before the log waits too.
const QUEUED_MAX: usize = 4;

/// Lines in one frame at most: well under a frame's limit for ordinary lines.
const LINES_PER_FRAME_MAX: usize = 256;

/// Bytes of text in one frame at most, unless one line has more: 64 KiB.
const TEXT_PER_FRAME_MAX: usize = 128 << 10;

/// Memory for a compiled pattern, and again for its search: patterns of people
/// need some kilobytes, and somebody's may be meant to cost.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// The pattern that lines are searched for.
///
/// # Errors
/// Why it is none.
pub(super) fn pattern(select: &LogSelection) -> Result<Option<Regex>, ApiError> {
    let Some(text) = &select.grep else {
        return Ok(None);
    };
    let bad = |why: String| {
        ApiError::new(ErrorCode::BadRequest, format!("--grep: {why}"))
            .hint("it is a regular expression; put a \\ before . * + ? ( ) [ ] { } | ^ $")
    };
    if text.len() > PATTERN_BYTES_MAX {
        return Err(bad(format!(
            "a pattern has at most {PATTERN_BYTES_MAX} bytes"
        )));
    }
    let built = RegexBuilder::new(text)
        .size_limit(PATTERN_MEMORY_MAX)
        .dfa_size_limit(PATTERN_MEMORY_MAX)
        .build();
    match built {
        Ok(pattern) => Ok(Some(pattern)),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Reads a log of this node until it ends or its reader has left.
pub(super) async fn read(
    shared: &Arc<Shared>,
    read: &mut LogRead,
    to: &mpsc::Sender<Lines>,
) -> Result<(), ApiError> {
    let query = LogQuery {
        follow: read.select.follow,
        tail: read.select.tail,
        origin: read.origin,
        after: read.after,
        since: read.select.since,
        until: read.select.until,
        grep: pattern(&read.select)?,
    };
    let mut batches = shared
        .agent
        .logs(read.slot.clone(), query)
        .await
        .map_err(|error| ApiError::new(ErrorCode::NotFound, chain(&error)))?;
    forward(&mut batches, read, to).await;
    Ok(())
}

/// Sends lines on, and notes how far they came.
async fn forward(
    batches: &mut mpsc::Receiver<LogBatch>,
    read: &mut LogRead,
    to: &mpsc::Sender<Lines>,
) {
    loop {
        // A follower that has left is noticed even while the log is quiet.
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            () = to.closed() => return,
        };
        let Some(batch) = batch else { return };
        for lines in split(batch) {
            read.after = lines.last().map(LogLine::place);
            if to.send(lines).await.is_err() {
                return;
            }
        }
    }
}

/// Cuts a batch into frames.
fn split(batch: LogBatch) -> Vec<Lines> {
    let mut parts: Vec<Lines> = Vec::new();
    let mut bytes = 0;
    let origin = batch.origin;
    for line in batch.lines {
        let line = LogLine {
            origin,
            sequence: line.seq,
            at: Millis(line.ms),
            stderr: line.stream == potluck_helper::log::Stream::Err,
            text: String::from_utf8_lossy(&line.text).into_owned(),
        };
        let fits = bytes + line.text.len() <= TEXT_PER_FRAME_MAX;
        bytes += line.text.len();
        match parts.last_mut() {
            Some(part) if fits && part.len() < LINES_PER_FRAME_MAX => part.push(line),
            _ => {
                bytes = line.text.len();
                parts.push(vec![line]);
            }
        }
    }
    parts
}

/// Serves another node that reads a log for a person.
pub(in crate::runtime) async fn serve(
    shared: Arc<Shared>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send,
) {
    let Ok(mut request) = frame::read::<LogRead>(&mut stream).await else {
        return;
    };
    let slot = request.slot.clone();
    serve_reader(stream, slot, |to| async move {
        read(&shared, &mut request, &to).await
    })
    .await;
}

/// Writes the lines of `work` until it ends or the reader has left.
async fn serve_reader<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    slot: SlotId,
    work: impl FnOnce(mpsc::Sender<Lines>) -> F,
) where
    F: Future<Output = Result<(), ApiError>>,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let (to, mut queue) = mpsc::channel(QUEUED_MAX);
    let served = async {
        let out = &mut write;
        let written = async move {
            while let Some(lines) = queue.recv().await {
                let slot = slot.clone();
                let frame = ApiFrame::Lines(LogLines { slot, lines });
                frame::write(out, &frame).await?;
            }
            Ok(())
        };
        let (outcome, written) = futures::future::join(work(to), written).await;
        let last = match (written, outcome) {
            (Err(lost), _) => return Err(lost),
            (Ok(()), Ok(())) => ApiFrame::End,
            (Ok(()), Err(error)) => ApiFrame::Failure(error),
        };
        frame::write(&mut write, &last).await
    };
    // The other node says nothing more: whatever comes is its leaving.
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(error = %chain(&error), "the reader of a log was lost");
        },
        _ = read.read_u8() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::Line, agent::LogPlace, spawn::spawn};
    use potluck_specs::Generation;
    use std::time::Duration;
    use tokio::{io::duplex, sync::oneshot, time::timeout};

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    fn request() -> LogRead {
        LogRead {
            slot: "web[0]".parse().unwrap(),
            select: LogSelection::default(),
            origin: None,
            after: None,
        }
    }

    fn batch(numbers: std::ops::Range<u64>, text: &str) -> LogBatch {
        let line = |seq| Line {
            seq,
            ms: 7,
            stream: potluck_helper::log::Stream::Out,
            partial: false,
            text: text.into(),
        };
        LogBatch {
            origin: Generation::default(),
            lines: numbers.map(line).collect(),
        }
    }

    #[test]
    fn frames_are_small_and_nothing_is_lost() {
        for text in ["", "short", &"x".repeat(64 << 10)] {
            let parts = split(batch(0..1_000, text));
            let bytes = |part: &Lines| part.iter().map(|line| line.text.len()).sum::<usize>();
            assert!(parts.iter().all(|part| bytes(part) <= TEXT_PER_FRAME_MAX));
            assert!(parts.iter().all(|part| part.len() <= LINES_PER_FRAME_MAX));
            let numbers = parts.iter().flatten().map(|line| line.sequence);
            assert!(numbers.eq(0..1_000));
        }
        assert!(split(batch(0..0, "")).is_empty());
    }

    #[test]
    fn bad_patterns_are_refused_in_words() {
        let select = |grep: &str| LogSelection {
            grep: Some(grep.into()),
            ..LogSelection::default()
        };
        assert!(pattern(&select("GET /[a-z]+")).unwrap().is_some());
        assert!(pattern(&LogSelection::default()).unwrap().is_none());
        let huge = "x".repeat(PATTERN_BYTES_MAX + 1);
        for bad in ["(", "a{1000}{1000}{1000}", &huge] {
            let error = pattern(&select(bad)).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{error:?}");
            assert!(error.message.starts_with("--grep: "), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_quiet_log_notices_that_its_reader_left() {
        let (_log, mut batches) = mpsc::channel(1);
        let (to, reader) = mpsc::channel(1);
        let mut request = request();
        let work = forward(&mut batches, &mut request, &to);
        drop(reader);
        timeout(LIMIT, work).await.expect("it ends");
    }

    #[tokio::test]
    async fn how_far_a_reader_came_is_noted() {
        let (log, mut batches) = mpsc::channel(1);
        let (to, mut reader) = mpsc::channel(1);
        log.send(batch(3..6, "x")).await.unwrap();
        drop(log);
        let mut request = request();
        forward(&mut batches, &mut request, &to).await;
        assert_eq!(reader.recv().await.unwrap().len(), 3);
        let last = LogPlace {
            origin: Generation::default(),
            sequence: 5,
        };
        assert_eq!(request.after, Some(last));
    }

    #[tokio::test]
    async fn a_node_that_left_is_served_no_longer() {
        let (other, stream) = duplex(4_096);
        let (alive, ended) = oneshot::channel::<()>();
        let served = spawn(
            "test server",
            serve_reader(stream, request().slot, |_to| async move {
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
            serve_reader(stream, request().slot, |to| async move {
                let lines = split(batch(1..2, "x")).remove(0);
                to.send(lines).await.unwrap();
                Ok(())
            }),
        );
        let first = frame::read::<ApiFrame>(&mut other).await.unwrap();
        assert!(matches!(first, ApiFrame::Lines(lines) if lines.lines.len() == 1));
        let last = frame::read::<ApiFrame>(&mut other).await.unwrap();
        assert!(matches!(last, ApiFrame::End), "{last:?}");
        timeout(LIMIT, served).await.expect("it ends").unwrap();
    }
}
