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
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
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

/// Largest `tail`; its lines are held in memory at once.
const TAIL_LINES_MAX: u64 = 10_000;

/// Between looks for new lines.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// Looks in vain after which the agent is asked if the slot is still here.
const POLLS_TO_ASK: u32 = 5;

/// Which lines of a slot's log are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Go on with new lines until the reader leaves or the slot has gone.
    pub follow: bool,
    /// Only this many last lines; `None`: all that are kept.
    pub tail: Option<u64>,
    /// The log of this origin; `None`: the latest.
    pub origin: Option<Generation>,
    /// Only what comes behind this line: `tail` and `since` say nothing then.
    pub after: Option<LogPlace>,
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

/// Some lines of one log, in order.
#[derive(Clone, Debug)]
pub struct LogBatch {
    /// See [`LogPlace::origin`].
    pub origin: Generation,
    /// The lines.
    pub lines: Vec<Line>,
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
    let found = match (query.origin, query.after) {
        (Some(origin), _) => all.find(|one| *one == origin),
        (None, Some(after)) => all.find(|one| *one >= after.origin),
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

/// What one look at a log brought.
struct Looked {
    reader: LogReader,
    lines: Vec<Line>,
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
        let Some(mut reader) = self.begin().await? else {
            return Ok(());
        };
        let mut polls = 0;
        let mut draining = false;
        loop {
            let looked = look(reader, self.query.clone()).await?;
            reader = looked.reader;
            if !looked.lines.is_empty() {
                polls = 0;
                if !self.send(looked.lines).await {
                    return Ok(());
                }
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
                reader = LogReader::new(&self.folder(), 0);
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
    async fn send(&self, lines: Vec<Line>) -> bool {
        let origin = self.generation;
        self.to.send(LogBatch { origin, lines }).await.is_ok()
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
    async fn begin(&self) -> Result<Option<LogReader>, ReadLogError> {
        let folder = self.folder();
        if let Some(LogPlace { origin, sequence }) = self.query.after {
            let from = match origin == self.generation {
                true => sequence.saturating_add(1),
                false => 0,
            };
            return Ok(Some(LogReader::new(&folder, from)));
        }
        let query = self.query.clone();
        let open = move || match (query.since, query.tail) {
            (Some(since), _) => LogReader::since(&folder, since.0),
            (None, Some(tail)) if query.grep.is_none() && query.until.is_none() => {
                LogReader::tail(&folder, tail.min(TAIL_LINES_MAX))
            }
            (None, _) => Ok(LogReader::new(&folder, 0)),
        };
        let reader = spawn_blocking(open)
            .await
            .expect("opening a log does not panic")?;
        match self.query.tail {
            None => Ok(Some(reader)),
            Some(tail) => self.send_tail(reader, tail.min(TAIL_LINES_MAX)).await,
        }
    }

    /// Sends the last lines of those that are wanted.
    async fn send_tail(
        &self,
        mut reader: LogReader,
        tail: u64,
    ) -> Result<Option<LogReader>, ReadLogError> {
        let mut last = VecDeque::new();
        let then = loop {
            let looked = look(reader, self.query.clone()).await?;
            reader = looked.reader;
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
            if !self.send(first).await {
                return Ok(None);
            }
        }
        Ok((then == Then::End).then_some(reader))
    }
}

/// Reads what is there and wanted, at most a batch of it.
async fn look(mut reader: LogReader, query: Arc<LogQuery>) -> Result<Looked, ReadLogError> {
    let read = move || {
        let mut lines = Vec::new();
        let mut bytes = 0;
        let mut then = Then::More;
        for _ in 0..LOOKED_AT_MAX {
            if lines.len() >= BATCH_LINES_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            let Some(line) = reader.next_line()? else {
                then = Then::End;
                break;
            };
            if query.until.is_some_and(|until| line.ms > until.0) {
                then = Then::Past;
                break;
            }
            if query.wants(&line) {
                bytes += line.text.len();
                lines.push(line);
            }
        }
        Ok(Looked {
            reader,
            lines,
            then,
        })
    };
    spawn_blocking(read)
        .await
        .expect("reading a log does not panic")
}
