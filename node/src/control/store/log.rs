//! The log and the vote: one redb file with one writer thread.
//!
//! Answers for openraft's `RaftLogStorage`: what an append's callback or a
//! returned `save_vote` reports is on disk. Writes are queued in order; the
//! thread takes all that wait, writes them in one transaction with one fsync
//! and reports each (group commit). Entries can be read as soon as they are
//! queued: the newest are kept encoded in memory, so followers that keep up
//! cost no disk reads.
//!
//! ```text
//! queued ──(transaction commits)──► durable ──(cache full)──► on disk only
//!    └─────── readable from memory ─────┘
//! ```
//!
//! A failed transaction is final: it and everything after it is reported as
//! failed, and openraft stops.

use std::{
    collections::BTreeMap,
    io,
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use potluck_specs::codec;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::{META, StoreError, file};
use crate::control::{
    COMMAND_BYTES_MAX,
    consensus::{Entry, EntryRecord, LogId, Position, Types, Vote, VoteRecord},
};

/// Entries by index.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Most bytes of entries in one append, encoded. One request to a node is at
/// most 1 MiB, and a single entry may already have [`COMMAND_BYTES_MAX`].
pub(in crate::control) const APPEND_BYTES_MAX: usize = 512 << 10;

/// An encoded entry with the largest command, or a membership of hundreds.
const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + (64 << 10);

/// Encoded entries that stay in memory after they are durable: some appends
/// for each follower, a few thousand usual commands.
const CACHE_BYTES_MAX: usize = 4 << 20;

/// Operations that may wait for the writer: openraft itself waits for all but
/// appends, and those are limited by its own batches.
const QUEUE_MAX: usize = 1_024;

/// Operations in one transaction: bounds how long the first waits for the
/// last.
const BATCH_MAX: usize = 256;

type Done = oneshot::Sender<Result<(), io::Error>>;

/// What the writer is asked to do, in order.
enum Write {
    Append(Vec<(u64, Arc<[u8]>)>, IOFlushed<Types>),
    Vote(Vec<u8>, Done),
    /// Rides along with the next transaction: losing it costs a restarted node
    /// some commits that it learns again.
    Committed(Vec<u8>),
    /// Removes this index and all after it.
    Truncate(u64, Done),
    /// Removes this index and all before it. Not waited for: a purge that is
    /// lost leaves entries that nobody reads.
    Purge(Position),
    Close(Done),
}

/// The log, as openraft uses it. Clones share it.
#[derive(Clone)]
pub(in crate::control) struct LogStore {
    shared: Arc<Shared>,
    writes: mpsc::Sender<Write>,
}

/// The reading side.
#[derive(Clone)]
pub(in crate::control) struct LogReader {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// `None` once closed.
    database: RwLock<Option<Database>>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    vote: Option<VoteRecord>,
    committed: Option<Position>,
    purged: Option<Position>,
    last: Option<Position>,
    /// The newest entries, without a gap up to the last.
    tail: BTreeMap<u64, Arc<[u8]>>,
    tail_bytes: usize,
    /// Entries before this index are on disk.
    durable_to: u64,
}

impl Memory {
    fn push(&mut self, index: u64, bytes: Arc<[u8]>) {
        self.tail_bytes += bytes.len();
        if let Some(old) = self.tail.insert(index, bytes) {
            self.tail_bytes -= old.len();
        }
    }

    fn forget_from(&mut self, index: u64) {
        let gone = self.tail.split_off(&index);
        self.tail_bytes -= gone.values().map(|bytes| bytes.len()).sum::<usize>();
        self.durable_to = self.durable_to.min(index);
    }

    fn forget_to(&mut self, index: u64) {
        let kept = self.tail.split_off(&index.saturating_add(1));
        self.tail_bytes -= self.tail.values().map(|bytes| bytes.len()).sum::<usize>();
        self.tail = kept;
    }

    fn evict(&mut self) {
        while self.tail_bytes > CACHE_BYTES_MAX {
            let Some(oldest) = self.tail.first_entry() else {
                return;
            };
            if *oldest.key() >= self.durable_to {
                return;
            }
            self.tail_bytes -= oldest.remove().len();
        }
    }

    /// The indexes that exist, as a half-open range.
    fn bounds(&self) -> (u64, u64) {
        let next = |position: Option<Position>| position.map_or(0, |at| at.index + 1);
        (next(self.purged), next(self.last))
    }
}

impl Shared {
    /// The memory is only touched by short straight code that can't panic
    /// half-way; a poisoned lock is used on.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_database<R>(
        &self,
        use_it: impl FnOnce(&Database) -> Result<R, redb::Error>,
    ) -> io::Result<R> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        use_it(database).map_err(io::Error::other)
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

impl LogStore {
    /// Reads what the file holds and starts the writer.
    pub(super) fn open(path: &Path, database: Database) -> Result<LogStore, StoreError> {
        let memory = load(path, &database)?;
        let shared = Arc::new(Shared {
            path: path.into(),
            database: RwLock::new(Some(database)),
            memory: Mutex::new(memory),
        });
        let (writes, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            shared: shared.clone(),
            committed: None,
        };
        std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || writer.run(queue))
            .map_err(StoreError::Thread)?;
        Ok(LogStore { shared, writes })
    }

    /// Writes what is left and closes the file.
    pub(in crate::control) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.writes.send(Write::Close(done)).await.is_ok() {
            // An error means that the writer is gone, and with it the file.
            let _ = closed.await;
        }
    }

    /// The last entry's place.
    pub(in crate::control) fn last(&self) -> Option<Position> {
        self.shared.memory().last
    }

    async fn write_and_wait(&self, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.writes.send(write(done)).await.map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }
}

fn load(path: &Path, database: &Database) -> Result<Memory, StoreError> {
    let failed = |error: redb::Error| file(path, error);
    // Makes the table, so that readers never miss it.
    let transaction = database.begin_write().map_err(|e| failed(e.into()))?;
    let mut memory = Memory::default();
    {
        let log = transaction.open_table(LOG).map_err(|e| failed(e.into()))?;
        let meta = transaction.open_table(META).map_err(|e| failed(e.into()))?;
        let get = |name: &str| -> Result<Option<Vec<u8>>, StoreError> {
            let value = meta.get(name).map_err(|e| failed(e.into()))?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        memory.vote = decode_meta(path, get("vote")?)?;
        memory.committed = decode_meta(path, get("committed")?)?;
        memory.purged = decode_meta(path, get("purged")?)?;
        memory.last = match log.last().map_err(|e| failed(e.into()))? {
            Some((_, bytes)) => Some(decode_entry(path, bytes.value())?.at),
            None => memory.purged,
        };
        memory.durable_to = memory.last.map_or(0, |last| last.index + 1);
    }
    transaction.commit().map_err(|e| failed(e.into()))?;
    Ok(memory)
}

pub(super) fn decode_meta<T: DeserializeOwned>(
    path: &Path,
    bytes: Option<Vec<u8>>,
) -> Result<Option<T>, StoreError> {
    bytes
        .map(|bytes| {
            codec::decode("record", &bytes, 1 << 10).map_err(|error| StoreError::Damaged {
                path: path.into(),
                why: error.to_string(),
            })
        })
        .transpose()
}

pub(super) fn decode_entry(path: &Path, bytes: &[u8]) -> Result<EntryRecord, StoreError> {
    codec::decode("log entry", bytes, ENTRY_BYTES_MAX).map_err(|error| StoreError::Damaged {
        path: path.into(),
        why: error.to_string(),
    })
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    /// The newest committed position that is not yet written.
    committed: Option<Vec<u8>>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let mut failed = false;
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX {
                match queue.try_recv() {
                    Ok(next) => batch.push(next),
                    Err(_) => break,
                }
            }
            let result = match failed {
                true => Err(io::Error::other("an earlier write of the log failed")),
                false => self.commit(&batch),
            };
            if let Err(error) = &result
                && !failed
            {
                tracing::error!(error = %error, path = %self.shared.path.display(), "writing the control group's log failed");
                failed = true;
            }
            if self.report(batch, &result) {
                return;
            }
        }
        // Every handle is gone without a close: the file closes with us.
        let _ = self.write_committed();
    }

    /// Writes a batch in one transaction.
    fn commit(&mut self, batch: &[Write]) -> io::Result<()> {
        if let Some(Write::Committed(newest)) = batch
            .iter()
            .rev()
            .find(|write| matches!(write, Write::Committed(_)))
        {
            self.committed = Some(newest.clone());
        }
        let only_committed = batch
            .iter()
            .all(|write| matches!(write, Write::Committed(_)));
        if only_committed {
            return Ok(());
        }
        let committed = self.committed.take();
        self.shared.with_database(|database| {
            let transaction = database.begin_write()?;
            {
                let mut log = transaction.open_table(LOG)?;
                let mut meta = transaction.open_table(META)?;
                for write in batch {
                    apply(write, &mut log, &mut meta)?;
                }
                if let Some(committed) = &committed {
                    meta.insert("committed", committed.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })?;
        let mut memory = self.shared.memory();
        for write in batch {
            match write {
                Write::Append(entries, _) => {
                    if let Some((last, _)) = entries.last() {
                        memory.durable_to = last + 1;
                    }
                }
                Write::Truncate(from, _) => {
                    memory.durable_to = memory.durable_to.min(*from);
                }
                _ => {}
            }
        }
        memory.evict();
        Ok(())
    }

    /// Tells each who waits; true if that was the end.
    fn report(&mut self, batch: Vec<Write>, result: &io::Result<()>) -> bool {
        let copy = || match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let mut close = None;
        for write in batch {
            match write {
                Write::Append(_, done) => done.io_completed(copy()),
                // Whoever stopped waiting needs no answer.
                Write::Vote(_, done) | Write::Truncate(_, done) => drop(done.send(copy())),
                Write::Close(done) => close = Some(done),
                Write::Committed(_) | Write::Purge(_) => {}
            }
        }
        let Some(done) = close else { return false };
        if let Err(error) = self.write_committed() {
            tracing::warn!(error = %error, "the last committed index was not written");
        }
        *self
            .shared
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
        drop(done.send(Ok(())));
        true
    }

    fn write_committed(&mut self) -> io::Result<()> {
        let Some(committed) = self.committed.take() else {
            return Ok(());
        };
        self.shared.with_database(|database| {
            let transaction = database.begin_write()?;
            transaction
                .open_table(META)?
                .insert("committed", committed.as_slice())?;
            transaction.commit()?;
            Ok(())
        })
    }
}

fn apply(
    write: &Write,
    log: &mut redb::Table<'_, u64, &[u8]>,
    meta: &mut redb::Table<'_, &str, &[u8]>,
) -> Result<(), redb::Error> {
    match write {
        Write::Append(entries, _) => {
            for (index, bytes) in entries {
                log.insert(index, bytes.as_ref())?;
            }
        }
        Write::Vote(vote, _) => {
            meta.insert("vote", vote.as_slice())?;
        }
        Write::Truncate(from, _) => log.retain_in(*from.., |_, _| false)?,
        Write::Purge(upto) => {
            log.retain_in(..=upto.index, |_, _| false)?;
            meta.insert("purged", codec::encode(upto).as_slice())?;
        }
        Write::Committed(_) | Write::Close(_) => {}
    }
    Ok(())
}

impl LogReader {
    /// Entries of a half-open range that exist, in order, up to about
    /// `bytes_max` but at least one.
    async fn entries(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (on_disk, in_memory) = self.split(from, to);
        let mut budget = Budget {
            left: bytes_max,
            first: true,
        };
        let mut encoded = Vec::new();
        if !on_disk.is_empty() {
            let shared = self.shared.clone();
            (encoded, budget) =
                tokio::task::spawn_blocking(move || shared.read_disk(on_disk, budget))
                    .await
                    .map_err(io::Error::other)??;
        }
        if budget.left > 0 || budget.first {
            encoded.extend(
                in_memory
                    .into_iter()
                    .take_while(|bytes| budget.take(bytes.len())),
            );
        }
        encoded
            .iter()
            .map(|bytes| {
                let record = decode_entry(&self.shared.path, bytes).map_err(io::Error::other)?;
                record.into_entry().map_err(io::Error::other)
            })
            .collect()
    }

    /// Which indexes must be read from disk, and the rest from memory.
    fn split(&self, from: u64, to: u64) -> (std::ops::Range<u64>, Vec<Arc<[u8]>>) {
        let memory = self.shared.memory();
        let (first, next) = memory.bounds();
        let (from, to) = (from.max(first), to.min(next));
        if from >= to {
            return (0..0, Vec::new());
        }
        let cached_from = memory.tail.keys().next().copied().unwrap_or(next);
        let middle = cached_from.clamp(from, to);
        let cached = memory
            .tail
            .range(middle..to)
            .map(|(_, bytes)| bytes.clone())
            .collect();
        (from..middle, cached)
    }
}

/// How many more bytes a read may return.
struct Budget {
    left: usize,
    first: bool,
}

impl Budget {
    /// Whether one more entry fits. The first always does; after one that did
    /// not, none does.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.first || bytes <= self.left;
        self.left = if fits {
            self.left.saturating_sub(bytes)
        } else {
            0
        };
        self.first = false;
        fits
    }
}

impl Shared {
    fn read_disk(
        &self,
        range: std::ops::Range<u64>,
        mut budget: Budget,
    ) -> io::Result<(Vec<Arc<[u8]>>, Budget)> {
        self.with_database(|database| {
            let transaction = database.begin_read()?;
            let log = transaction.open_table(LOG)?;
            let mut encoded = Vec::new();
            for item in log.range(range)? {
                let (_, bytes) = item?;
                if !budget.take(bytes.value().len()) {
                    break;
                }
                encoded.push(Arc::from(bytes.value()));
            }
            Ok((encoded, budget))
        })
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend,
    {
        let (from, to) = half_open(&range);
        self.entries(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.memory().vote.map(Vote::from))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, APPEND_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.shared.memory();
        Ok(LogState {
            last_purged_log_id: memory.purged.map(LogId::from),
            last_log_id: memory.last.map(LogId::from),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            shared: self.shared.clone(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let record = VoteRecord::from(*vote);
        self.write_and_wait(|done| Write::Vote(codec::encode(&record), done))
            .await?;
        self.shared.memory().vote = Some(record);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed.map(Position::from) else {
            return Ok(());
        };
        self.shared.memory().committed = Some(committed);
        let write = Write::Committed(codec::encode(&committed));
        self.writes.send(write).await.map_err(|_| closed())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.memory().committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut memory = self.shared.memory();
            for entry in entries {
                let record = EntryRecord::from(&entry);
                let bytes: Arc<[u8]> = codec::encode(&record).into();
                memory.push(record.at.index, bytes.clone());
                memory.last = Some(record.at);
                encoded.push((record.at.index, bytes));
            }
        }
        let write = Write::Append(encoded, callback);
        self.writes.send(write).await.map_err(|_| closed())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        {
            let mut memory = self.shared.memory();
            memory.forget_from(from);
            if memory.last.is_some_and(|now| now.index >= from) {
                memory.last = last.map(Position::from).or(memory.purged);
            }
        }
        self.write_and_wait(|done| Write::Truncate(from, done))
            .await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let upto = Position::from(upto);
        {
            let mut memory = self.shared.memory();
            memory.forget_to(upto.index);
            memory.purged = Some(upto);
            if memory.last.is_none_or(|last| last.index < upto.index) {
                memory.last = Some(upto);
            }
        }
        let write = Write::Purge(upto);
        self.writes.send(write).await.map_err(|_| closed())
    }
}
