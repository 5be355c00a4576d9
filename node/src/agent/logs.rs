//! Reading the logs of a host's slots.
//!
//! One actor per reader of a log. It waits only for its reader, through a
//! short channel, and ends when the reader leaves, when all is read and nobody
//! asked to follow, or with the agent.

use super::{LogQuery, LogsError, folders::Folders};
use potluck_helper::log::{Line, LogReader, ReadLogError};
use potluck_specs::{Generation, SlotId};
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

/// Lines of one batch.
const BATCH_LINES_MAX: usize = 256;

/// Bytes of one batch, unless its first line alone is longer.
const BATCH_BYTES_MAX: usize = 128 << 10;

/// Batches that wait for a slow reader.
pub(super) const BATCHES_WAITING: usize = 4;

/// Largest `tail`; its lines are held in memory at once.
const TAIL_LINES_MAX: u64 = 10_000;

/// Between looks for new lines.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// The generations of a query: the one to read, and whether a later one may
/// take its place.
pub(super) fn generation(
    folders: &Folders,
    slot: &SlotId,
    query: &LogQuery,
) -> Result<Generation, LogsError> {
    let back = if query.previous { 2 } else { 1 };
    let all = folders.generations(slot);
    let index = all.len().checked_sub(back);
    index
        .map(|index| all[index])
        .ok_or_else(|| LogsError::Unknown(slot.clone()))
}

/// One reading of a log.
pub(super) struct Reading {
    pub(super) folders: Folders,
    pub(super) slot: SlotId,
    pub(super) generation: Generation,
    pub(super) query: LogQuery,
    pub(super) to: mpsc::Sender<Vec<Line>>,
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
        let mut reader = self.begin().await?;
        loop {
            let (back, lines) = batch(reader).await?;
            reader = back;
            if !lines.is_empty() {
                if self.to.send(lines).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            if !self.query.follow {
                return Ok(());
            }
            match self.successor() {
                Some(later) => {
                    self.generation = later;
                    reader = LogReader::new(&self.folder(), 0);
                }
                None => sleep(FOLLOW_POLL).await,
            }
        }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.folders.logs(&self.slot, self.generation)
    }

    /// The generation that a follower goes on with.
    fn successor(&self) -> Option<Generation> {
        let mut all = self.folders.generations(&self.slot).into_iter();
        all.find(|one| *one > self.generation)
    }

    /// At the start, or behind the last lines that were asked for, which have
    /// been sent.
    async fn begin(&self) -> Result<LogReader, ReadLogError> {
        let folder = self.folder();
        let Some(tail) = self.query.tail else {
            return Ok(LogReader::new(&folder, 0));
        };
        let tail = tail.min(TAIL_LINES_MAX);
        let mut reader = LogReader::tail(&folder, tail)?;
        let mut last = VecDeque::new();
        loop {
            let (back, lines) = batch(reader).await?;
            reader = back;
            if lines.is_empty() {
                break;
            }
            last.extend(lines);
            let over = last.len().saturating_sub(tail as usize);
            last.drain(..over);
        }
        let mut last = Vec::from(last);
        while !last.is_empty() {
            let rest = last.split_off(last.len().min(BATCH_LINES_MAX));
            let first = std::mem::replace(&mut last, rest);
            if self.to.send(first).await.is_err() {
                break;
            }
        }
        Ok(reader)
    }
}

/// Reads what is there, at most a batch of it.
async fn batch(mut reader: LogReader) -> Result<(LogReader, Vec<Line>), ReadLogError> {
    let read = move || {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < BATCH_LINES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(line) = reader.next_line()? else {
                break;
            };
            bytes += line.text.len();
            lines.push(line);
        }
        Ok((reader, lines))
    };
    spawn_blocking(read)
        .await
        .expect("reading a log does not panic")
}
