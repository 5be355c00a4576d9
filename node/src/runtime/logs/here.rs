//! Logs of this node: read for its own people, and served to other nodes.

use super::merge::Part;
use crate::{
    agent::{LogBatch, LogPlace, LogQuery, ReadLine},
    api::{
        error::{ApiError, ErrorCode},
        frame,
        logs::{LogLine, LogLines, LogRead, LogSelection, PATTERN_BYTES_MAX, TAIL_LINES_MAX},
        protocol::ApiFrame,
    },
    cli::chain,
    runtime::shared::Shared,
};
use data_encoding::BASE64;
use potluck_helper::log::{LINE_BYTES_MAX, Stream};
use potluck_specs::{Generation, Millis, SlotId};
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

/// Refuses a tail that no node holds in memory.
///
/// # Errors
/// What may be asked instead.
pub(super) fn check_tail(select: &LogSelection) -> Result<(), ApiError> {
    match select.tail {
        Some(tail) if tail > TAIL_LINES_MAX => {
            let message = format!("--tail {tail}: at most {TAIL_LINES_MAX} lines");
            Err(ApiError::new(ErrorCode::BadRequest, message)
                .hint("leave it out for all lines, or use --since 1h"))
        }
        _ => Ok(()),
    }
}

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
    to: &mpsc::Sender<Part>,
) -> Result<(), ApiError> {
    let query = LogQuery {
        follow: read.select.follow,
        tail: read.select.tail,
        origin: read.origin,
        from: read.next(),
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
    to: &mpsc::Sender<Part>,
) {
    loop {
        // A follower that has left is noticed even while the log is quiet.
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            () = to.closed() => return,
        };
        let Some(batch) = batch else { return };
        for part in split(batch) {
            if let Some(next) = part.next {
                read.go_on(next);
            }
            if to.send(part).await.is_err() {
                return;
            }
        }
    }
}

/// Cuts a batch into frames. The last says where the batch ends, which may be
/// behind its last line.
fn split(batch: LogBatch) -> Vec<Part> {
    let mut parts: Vec<Vec<LogLine>> = vec![Vec::new()];
    let mut bytes = 0;
    let LogBatch {
        origin,
        lines,
        next,
    } = batch;
    for line in lines {
        let line = shown(origin, line);
        let size = line.text.len() + line.base64.as_ref().map_or(0, String::len);
        let part = parts.last_mut().expect("there is always one");
        bytes += size;
        let fits = bytes <= TEXT_PER_FRAME_MAX && part.len() < LINES_PER_FRAME_MAX;
        if fits || part.is_empty() {
            part.push(line);
        } else {
            bytes = size;
            parts.push(vec![line]);
        }
    }
    let mut parts: Vec<Part> = parts.into_iter().map(Part::from).collect();
    let last = parts.last_mut().expect("there is always one");
    last.next = Some(LogPlace {
        origin,
        sequence: next,
    });
    parts
}

/// A line as people and programs get it.
fn shown(origin: Generation, read: ReadLine) -> LogLine {
    let line = read.line;
    // The last line of a task may end without a line feed: nothing follows.
    let partial = line.partial && line.text.len() >= LINE_BYTES_MAX;
    let (text, base64) = match String::from_utf8(line.text) {
        Ok(text) => (text, None),
        Err(error) => {
            let bytes = error.as_bytes();
            let text = String::from_utf8_lossy(bytes).into_owned();
            (text, Some(BASE64.encode(bytes)))
        }
    };
    LogLine {
        origin,
        sequence: line.seq,
        at: Millis(line.ms),
        stderr: line.stream == Stream::Err,
        partial,
        removed_before: read.removed_before,
        text,
        base64,
    }
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
    work: impl FnOnce(mpsc::Sender<Part>) -> F,
) where
    F: Future<Output = Result<(), ApiError>>,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let (to, mut queue) = mpsc::channel(QUEUED_MAX);
    let served = async {
        let out = &mut write;
        let written = async move {
            while let Some(Part { lines, next }) = queue.recv().await {
                let slot = slot.clone();
                let frame = ApiFrame::Lines(LogLines { slot, lines, next });
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
    use crate::{agent::Line, spawn::spawn};
    use std::time::Duration;
    use tokio::{io::duplex, sync::oneshot, time::timeout};

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    fn request() -> LogRead {
        LogRead::of("web[0]".parse().unwrap(), LogSelection::default())
    }

    fn batch(numbers: std::ops::Range<u64>, text: &str) -> LogBatch {
        let next = numbers.end + 3;
        let lines = numbers.map(|seq| read_line(seq, false, text.as_bytes()));
        LogBatch {
            origin: Generation::default(),
            lines: lines.collect(),
            next,
        }
    }

    fn read_line(seq: u64, partial: bool, text: &[u8]) -> ReadLine {
        let line = Line {
            seq,
            ms: 7,
            stream: Stream::Out,
            partial,
            text: text.into(),
        };
        ReadLine {
            line,
            removed_before: 0,
        }
    }

    #[test]
    fn frames_are_small_and_nothing_is_lost() {
        for text in ["", "short", &"x".repeat(64 << 10)] {
            let parts = split(batch(0..1_000, text));
            let bytes = |part: &Part| part.lines.iter().map(|line| line.text.len()).sum::<usize>();
            assert!(parts.iter().all(|part| bytes(part) <= TEXT_PER_FRAME_MAX));
            let lines = |part: &Part| part.lines.len();
            assert!(parts.iter().all(|part| lines(part) <= LINES_PER_FRAME_MAX));
            let all = parts.iter().flat_map(|part| &part.lines);
            assert!(all.map(|line| line.sequence).eq(0..1_000));
            // Each says where a reader of it goes on.
            for (part, later) in parts.iter().zip(&parts[1..]) {
                let next = later.lines[0].place();
                assert_eq!(part.next, Some(next));
            }
            let end = parts.last().and_then(|part| part.next);
            assert_eq!(end.map(|place| place.sequence), Some(1_003));
        }
        let [nothing] = &split(batch(0..0, ""))[..] else {
            panic!("a place is told without lines too");
        };
        assert!(nothing.lines.is_empty() && nothing.next.is_some());
    }

    #[test]
    fn parts_of_lines_and_bytes_that_are_no_text_are_marked() {
        let shown =
            |partial, text: &[u8]| shown(Generation::default(), read_line(0, partial, text));
        let long = "x".repeat(LINE_BYTES_MAX);
        assert!(shown(true, long.as_bytes()).partial);
        assert!(!shown(false, long.as_bytes()).partial);
        assert!(!shown(true, b"the end").partial, "nothing follows it");
        assert_eq!(shown(false, "grün".as_bytes()).base64, None);
        let bytes = shown(false, b"a\xffb");
        assert_eq!(bytes.text, "a\u{fffd}b");
        assert_eq!(bytes.base64.as_deref(), Some("Yf9i"));
        // The worst line fits a frame.
        let worst = shown(true, &[0xff; LINE_BYTES_MAX]);
        let lines = LogLines {
            slot: "web[0]".parse().unwrap(),
            lines: vec![worst],
            next: None,
        };
        frame::framed(&ApiFrame::Lines(lines)).expect("it fits");
    }

    #[test]
    fn a_tail_is_bounded_in_words() {
        let select = |tail| LogSelection {
            tail: Some(tail),
            ..LogSelection::default()
        };
        check_tail(&select(TAIL_LINES_MAX)).unwrap();
        let error = check_tail(&select(TAIL_LINES_MAX + 1)).unwrap_err();
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.message.contains("10000"), "{error:?}");
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
        assert_eq!(reader.recv().await.unwrap().lines.len(), 3);
        let next = LogPlace {
            origin: Generation::default(),
            sequence: 9,
        };
        assert_eq!(request.next(), Some(next));
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
                let part = split(batch(1..2, "x")).remove(0);
                to.send(part).await.unwrap();
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
