//! Reading the logs of a host's slots.
//!
//! One actor per reader of a log. It waits only for its reader, through a
//! short channel, and ends when the reader leaves, when all is read and nobody
//! asked to follow, when the slot has gone from this host, or with the agent.
//!
//! ```text
//! reading ──nothing more──▶ waiting ──more──▶ reading
//!                             │ a later log is there, or the slot has gone
//!                             ▼
//!                          draining ──nothing more──▶ the later log, or the end
//! ```

use super::{Agent, folders::Folders};
use potluck_core::session::TaskState;
use potluck_helper::log::{Line, LogReader, ReadLogError};
use potluck_specs::{Generation, Millis, SlotId};
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Lines of one batch.
const BATCH_LINES_MAX: usize = 256;

/// Bytes of one batch, unless its first line alone is longer.
const BATCH_BYTES_MAX: usize = 128 << 10;

/// Lines looked at for one batch, wanted or not: a reader that has left is
/// noticed between two batches.
const LOOKED_AT_MAX: usize = 64 << 10;

/// Batches that wait for a slow reader.
pub(super) const BATCHES_WAITING: usize = 4;

/// Most lines of a `tail`: they are held in memory at once.
pub const TAIL_LINES_MAX: u64 = 10_000;

/// Between looks for new lines.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// How often a reader is told how far its log was searched in vain.
const TELL_PLACE: Duration = Duration::from_secs(1);

/// Looks in vain after which the agent is asked if the slot is still here.
const POLLS_TO_ASK: u32 = 5;

/// Which lines of a slot's log are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Go on with new lines until the reader leaves or the slot has gone.
    pub follow: bool,
    /// Only this many last lines, at most [`TAIL_LINES_MAX`]; `None`: all that
    /// are kept.
    pub tail: Option<u64>,
    /// The log of this origin; `None`: the latest.
    pub origin: Option<Generation>,
    /// Only from this line on: `tail` says nothing then.
    pub from: Option<LogPlace>,
    /// Only lines from this Unix time on.
    pub since: Option<Millis>,
    /// Only lines up to this Unix time.
    pub until: Option<Millis>,
    /// Only lines in which this is found.
    pub grep: Option<Regex>,
}

impl LogQuery {
    fn wants(&self, line: &Line) -> bool {
        self.since.is_none_or(|since| line.ms >= since.0)
            && self
                .grep
                .as_ref()
                .is_none_or(|grep| grep.is_match(&line.text))
    }
}

/// A line's place among all lines of a slot, on whichever host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPlace {
    /// The generation with which the task came to its host: names the log.
    pub origin: Generation,
    /// The line's number in it.
    pub sequence: u64,
}

impl LogPlace {
    /// The place of the line behind it.
    #[must_use]
    pub fn behind(self) -> LogPlace {
        let sequence = self.sequence.saturating_add(1);
        LogPlace { sequence, ..self }
    }
}

/// Some lines of one log, in order.
#[derive(Clone, Debug)]
pub struct LogBatch {
    /// See [`LogPlace::origin`].
    pub origin: Generation,
    /// The lines; none, if only the place has moved.
    pub lines: Vec<ReadLine>,
    /// The number of the line that comes next: all before it that is wanted
    /// was sent.
    pub next: u64,
}

/// A line, and what is missing before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLine {
    /// The line.
    pub line: Line,
    /// Lines between the one before and this one that were removed, by the
    /// limits on kept logs, before the reader came to them.
    pub removed_before: u64,
}

/// A log that can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogsError {
    /// The slot has no such log here.
    #[error("no such log of {0} on this node")]
    Unknown(SlotId),
}

/// The log that a query begins with.
///
/// # Errors
/// [`LogsError::Unknown`] if there is none.
pub(super) fn generation(
    folders: &Folders,
    slot: &SlotId,
    query: &LogQuery,
) -> Result<Generation, LogsError> {
    let mut all = folders.generations(slot).into_iter();
    let found = match (query.origin, query.from) {
        (Some(origin), _) => all.find(|one| *one == origin),
        (None, Some(from)) => all.find(|one| *one >= from.origin),
        (None, None) => all.next_back(),
    };
    found.ok_or_else(|| LogsError::Unknown(slot.clone()))
}

/// One reading of a log.
pub(super) struct Reading {
    pub(super) agent: Agent,
    pub(super) slot: SlotId,
    pub(super) generation: Generation,
    pub(super) query: Arc<LogQuery>,
    pub(super) to: mpsc::Sender<LogBatch>,
}

/// A log, and what is missing before its next wanted line.
struct Source {
    log: LogReader,
    removed: u64,
    /// What is missing is told: of a reader that begins, the oldest lines are
    /// gone and nobody asked for them.
    tells_removed: bool,
}

/// What one look at a log brought.
struct Looked {
    source: Source,
    lines: Vec<ReadLine>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// There is more.
    More,
    /// This was all for now.
    End,
    /// Every further line is later than what is wanted.
    Past,
}

impl Reading {
    /// The actor.
    pub(super) async fn run(self, token: CancellationToken) {
        let to = self.to.clone();
        let read = tokio::select! {
            read = self.read() => read,
            () = to.closed() => Ok(()),
            () = token.cancelled() => Ok(()),
        };
        if let Err(error) = read {
            tracing::warn!(%error, "log can't be read");
        }
    }

    async fn read(mut self) -> Result<(), ReadLogError> {
        let Some(mut source) = self.begin().await? else {
            return Ok(());
        };
        // At once, so that a reader whose connection breaks before the first
        // line goes on from here.
        let mut told = source.log.position();
        let mut told_at = Instant::now();
        if !self.send(Vec::new(), told).await {
            return Ok(());
        }
        let mut polls = 0;
        let mut draining = false;
        loop {
            let looked = look(source, self.query.clone()).await?;
            source = looked.source;
            let next = source.log.position();
            if !looked.lines.is_empty() {
                polls = 0;
            }
            let is_news = next != told && source.removed == 0 && told_at.elapsed() >= TELL_PLACE;
            if !looked.lines.is_empty() || is_news {
                if !self.send(looked.lines, next).await {
                    return Ok(());
                }
                (told, told_at) = (next, Instant::now());
            }
            match looked.then {
                Then::More => continue,
                Then::Past => return Ok(()),
                Then::End if !self.query.follow => return Ok(()),
                Then::End => {}
            }
            if draining {
                let Some(later) = self.successor() else {
                    return Ok(());
                };
                self.generation = later;
                source = Source::new(LogReader::new(&self.folder(), 0), true);
                draining = false;
                continue;
            }
            polls += 1;
            draining = self.is_over(polls).await;
            if !draining {
                sleep(FOLLOW_POLL).await;
            }
        }
    }

    /// False if nobody reads any more.
    async fn send(&self, lines: Vec<ReadLine>, next: u64) -> bool {
        let origin = self.generation;
        let batch = LogBatch {
            origin,
            lines,
            next,
        };
        self.to.send(batch).await.is_ok()
    }

    fn folder(&self) -> std::path::PathBuf {
        self.agent.folders.logs(&self.slot, self.generation)
    }

    /// The generation that a follower goes on with.
    fn successor(&self) -> Option<Generation> {
        let mut all = self.agent.folders.generations(&self.slot).into_iter();
        all.find(|one| *one > self.generation)
    }

    /// Nobody writes this log any more: what is there now is all.
    async fn is_over(&self, polls: u32) -> bool {
        if self.successor().is_some() {
            return true;
        }
        if !polls.is_multiple_of(POLLS_TO_ASK) {
            return false;
        }
        match self.agent.slots().await {
            Ok(here) => !here
                .iter()
                .any(|report| report.slot == self.slot && report.state != TaskState::Stopped),
            Err(_) => true,
        }
    }

    /// Where the first wanted line may be. Of a tail, what is there has been
    /// sent, and nothing is returned if nothing can follow.
    async fn begin(&self) -> Result<Option<Source>, ReadLogError> {
        let folder = self.folder();
        if let Some(LogPlace { origin, sequence }) = self.query.from {
            let from = match origin == self.generation {
                true => sequence,
                false => 0,
            };
            return Ok(Some(Source::new(LogReader::new(&folder, from), true)));
        }
        let query = self.query.clone();
        let open = move || match (query.since, query.tail) {
            (Some(since), _) => LogReader::since(&folder, since.0),
            (None, Some(tail)) if query.grep.is_none() && query.until.is_none() => {
                LogReader::tail(&folder, tail.min(TAIL_LINES_MAX))
            }
            (None, _) => Ok(LogReader::new(&folder, 0)),
        };
        let log = spawn_blocking(open)
            .await
            .expect("opening a log does not panic")?;
        let source = Source::new(log, false);
        match self.query.tail {
            None => Ok(Some(source)),
            Some(tail) => self.send_tail(source, tail.min(TAIL_LINES_MAX)).await,
        }
    }

    /// Sends the last lines of those that are wanted.
    async fn send_tail(
        &self,
        mut source: Source,
        tail: u64,
    ) -> Result<Option<Source>, ReadLogError> {
        let mut last = VecDeque::new();
        let then = loop {
            let looked = look(source, self.query.clone()).await?;
            source = looked.source;
            last.extend(looked.lines);
            let over = last.len().saturating_sub(tail as usize);
            last.drain(..over);
            if looked.then != Then::More {
                break looked.then;
            }
        };
        let mut last = Vec::from(last);
        while !last.is_empty() {
            let rest = last.split_off(last.len().min(BATCH_LINES_MAX));
            let first = std::mem::replace(&mut last, rest);
            let next = first.last().map_or(0, |read| read.line.seq + 1);
            if !self.send(first, next).await {
                return Ok(None);
            }
        }
        Ok((then == Then::End).then_some(source))
    }
}

impl Source {
    fn new(log: LogReader, tells_removed: bool) -> Source {
        Source {
            log,
            removed: 0,
            tells_removed,
        }
    }

    fn next_line(&mut self) -> Result<Option<Line>, ReadLogError> {
        let Some(line) = self.log.next_line()? else {
            return Ok(None);
        };
        let removed = self.log.take_removed();
        if std::mem::replace(&mut self.tells_removed, true) {
            self.removed += removed;
        }
        Ok(Some(line))
    }
}

/// Reads what is there and wanted, at most a batch of it.
async fn look(mut source: Source, query: Arc<LogQuery>) -> Result<Looked, ReadLogError> {
    let read = move || {
        let mut lines = Vec::new();
        let mut bytes = 0;
        let mut then = Then::More;
        for _ in 0..LOOKED_AT_MAX {
            if lines.len() >= BATCH_LINES_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            let Some(line) = source.next_line()? else {
                then = Then::End;
                break;
            };
            if query.until.is_some_and(|until| line.ms > until.0) {
                then = Then::Past;
                break;
            }
            if query.wants(&line) {
                bytes += line.text.len();
                let removed_before = std::mem::take(&mut source.removed);
                lines.push(ReadLine {
                    line,
                    removed_before,
                });
            }
        }
        Ok(Looked {
            source,
            lines,
            then,
        })
    };
    spawn_blocking(read)
        .await
        .expect("reading a log does not panic")
}
