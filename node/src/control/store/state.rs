//! The state: in memory, with its snapshots on disk.
//!
//! Answers for openraft's `RaftStateMachine`. Applying a command touches no
//! disk: the log has it. Every few thousand entries the whole state is written
//! as a snapshot, in one transaction, and a restart takes the newest snapshot
//! and applies the log from there. The log is purged only up to a snapshot
//! that is on disk.
//!
//! A command that this version can't decode stops the group on this node: to
//! skip it would make the states differ in silence.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use futures::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use potluck_specs::codec;
use redb::{Database, ReadableDatabase, TableDefinition};
use tokio::sync::watch;

use super::{StoreError, file};
use crate::control::{
    COMMAND_BYTES_MAX, Replicated,
    consensus::{
        Entry, LogId, Position, ReplyBytes, Snapshot, SnapshotMeta, SnapshotRecord, StateBytes,
        StoredVoters, Types,
    },
};

/// The newest snapshot: under 0 the encoded [`SnapshotRecord`], from 1 on the
/// encoded state in parts.
pub(super) const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");

/// Size of a part in the file: redb rewrites and caches whole values.
const PART_BYTES: usize = 1 << 20;

/// Largest encoded state: far above a cluster of 1,000 nodes and 10,000 jobs,
/// low enough to be held twice in memory.
pub(in crate::control) const SNAPSHOT_BYTES_MAX: usize = 512 << 20;

/// The description of a snapshot: a membership of hundreds with addresses.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;

/// The file with the newest snapshot. Clones share it.
#[derive(Clone)]
pub(in crate::control) struct SnapshotFile {
    path: Arc<PathBuf>,
    /// `None` once closed. The lock also makes one writer at a time.
    database: Arc<Mutex<Option<Database>>>,
}

impl SnapshotFile {
    pub(super) fn open(path: &Path, database: Database) -> Result<SnapshotFile, StoreError> {
        let made = (|| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(SNAPSHOT)?;
            transaction.commit()?;
            Ok(())
        })();
        made.map_err(|error| file(path, error))?;
        Ok(SnapshotFile {
            path: Arc::new(path.into()),
            database: Arc::new(Mutex::new(Some(database))),
        })
    }

    /// Closes the file for all clones.
    pub(in crate::control) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the newest snapshot. Blocks on the disk.
    fn read(&self) -> io::Result<Option<(SnapshotRecord, Vec<u8>)>> {
        let database = self.lock();
        let database = database.as_ref().ok_or_else(closed)?;
        let parts = read_parts(database).map_err(io::Error::other)?;
        let Some((record, state)) = parts else {
            return Ok(None);
        };
        let record = codec::decode("snapshot", &record, RECORD_BYTES_MAX).map_err(|error| {
            io::Error::other(StoreError::Damaged {
                path: self.path.to_path_buf(),
                why: error.to_string(),
            })
        })?;
        Ok(Some((record, state)))
    }

    /// Replaces the snapshot, unless the file's is newer or the same.
    /// Blocks on the disk.
    pub(in crate::control) fn write(
        &self,
        record: &SnapshotRecord,
        state: &[u8],
    ) -> io::Result<()> {
        let database = self.lock();
        let database = database.as_ref().ok_or_else(closed)?;
        let index = |at: Option<Position>| at.map(|at| at.index);
        if let Some(old) = read_record(database).map_err(io::Error::other)?
            && let Ok(old) = codec::decode::<SnapshotRecord>("snapshot", &old, RECORD_BYTES_MAX)
            && (index(old.at) > index(record.at) || old == *record)
        {
            return Ok(());
        }
        write_parts(database, record, state).map_err(io::Error::other)
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the snapshot file is closed")
}

pub(super) fn read_record(database: &Database) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(SNAPSHOT)?;
    Ok(table.get(0)?.map(|bytes| bytes.value().to_vec()))
}

/// An encoded record and the encoded state.
type Parts = (Vec<u8>, Vec<u8>);

fn read_parts(database: &Database) -> Result<Option<Parts>, redb::Error> {
    let table = database.begin_read()?.open_table(SNAPSHOT)?;
    let Some(record) = table.get(0)? else {
        return Ok(None);
    };
    let mut state = Vec::new();
    for part in table.range(1..)? {
        state.extend_from_slice(part?.1.value());
    }
    Ok(Some((record.value().to_vec(), state)))
}

fn write_parts(
    database: &Database,
    record: &SnapshotRecord,
    state: &[u8],
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(SNAPSHOT)?;
        table.retain(|_, _| false)?;
        table.insert(0, codec::encode(record).as_slice())?;
        for (number, part) in (1_u64..).zip(state.chunks(PART_BYTES)) {
            table.insert(number, part)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// The state with its place in the log.
#[derive(Clone)]
pub(in crate::control) struct At<S> {
    pub(in crate::control) state: S,
    pub(in crate::control) applied: Option<LogId>,
    pub(in crate::control) membership: StoredVoters,
}

/// Commands as they are applied, for somebody who follows them one by one.
#[derive(Default)]
struct Tap {
    bytes_left: usize,
    /// Index and encoded command. `None`: more came than it holds.
    applied: Option<Vec<(u64, Vec<u8>)>>,
}

impl Tap {
    fn take(&mut self, index: u64, command: &[u8]) {
        let Some(applied) = &mut self.applied else {
            return;
        };
        match self.bytes_left.checked_sub(command.len()) {
            Some(left) => {
                self.bytes_left = left;
                applied.push((index, command.to_vec()));
            }
            None => self.applied = None,
        }
    }
}

/// The state machine. Clones share it.
pub(in crate::control) struct StateStore<S> {
    now: Arc<RwLock<At<S>>>,
    /// Taken behind `now`, so that what it holds and the state fit together.
    tap: Arc<Mutex<Option<Tap>>>,
    applied: watch::Sender<u64>,
    file: SnapshotFile,
}

impl<S> Clone for StateStore<S> {
    fn clone(&self) -> Self {
        Self {
            now: self.now.clone(),
            tap: self.tap.clone(),
            applied: self.applied.clone(),
            file: self.file.clone(),
        }
    }
}

impl<S: Replicated> StateStore<S> {
    pub(in crate::control) fn new(file: SnapshotFile) -> StateStore<S> {
        StateStore {
            now: Arc::new(RwLock::new(At {
                state: S::default(),
                applied: None,
                membership: StoredVoters::default(),
            })),
            tap: Arc::default(),
            applied: watch::channel(0).0,
            file,
        }
    }

    fn tap(&self) -> std::sync::MutexGuard<'_, Option<Tap>> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to keep what is applied, at most so many bytes between two calls
    /// of [`Self::read_tapped`], and looks at the state before it.
    pub(in crate::control) fn open_tap<R>(
        &self,
        bytes_max: usize,
        look: impl FnOnce(&S) -> R,
    ) -> R {
        let now = self.read();
        *self.tap() = Some(Tap {
            bytes_left: bytes_max,
            applied: Some(Vec::new()),
        });
        look(&now.state)
    }

    /// Keeps nothing any more.
    pub(in crate::control) fn close_tap(&self) {
        *self.tap() = None;
    }

    /// Looks at the state, with what was applied since the last look; `None`
    /// if that was more than is kept, or nothing is.
    pub(in crate::control) fn read_tapped<R>(
        &self,
        bytes_max: usize,
        look: impl FnOnce(&S, Option<Vec<(u64, S::Command)>>) -> R,
    ) -> R {
        let now = self.read();
        let applied = self.tap().as_mut().and_then(|tap| {
            tap.bytes_left = bytes_max;
            // Once something was missed, all that follows is of no use.
            tap.applied.as_mut().map(std::mem::take)
        });
        let decoded = applied.and_then(|applied| {
            let decode = |(index, bytes): (u64, Vec<u8>)| {
                let command = codec::decode("command", &bytes, COMMAND_BYTES_MAX);
                Some((index, command.ok()?))
            };
            applied.into_iter().map(decode).collect()
        });
        look(&now.state, decoded)
    }

    /// Looks at the state; nothing is applied meanwhile.
    pub(in crate::control) fn read(&self) -> RwLockReadGuard<'_, At<S>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last applied index.
    pub(in crate::control) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Closes the file.
    pub(in crate::control) fn close(&self) {
        self.file.close();
    }

    fn write(&self) -> RwLockWriteGuard<'_, At<S>> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_one(&self, entry: Entry) -> io::Result<ReplyBytes> {
        let (at, payload) = (entry.log_id, entry.payload);
        let command = match &payload {
            EntryPayload::Normal(bytes) => {
                let command = codec::decode("command", &bytes.0, COMMAND_BYTES_MAX);
                Some(command.map_err(|error| {
                    tracing::error!(index = at.index, error = %error, "the log holds a command that this version can't read");
                    io::Error::other(error)
                })?)
            }
            _ => None,
        };
        let mut now = self.write();
        if let (EntryPayload::Normal(bytes), Some(tap)) = (&payload, self.tap().as_mut()) {
            tap.take(at.index, &bytes.0);
        }
        now.applied = Some(at);
        if let EntryPayload::Membership(voters) = payload {
            now.membership = StoredVoters::new(Some(at), voters);
        }
        let reply = command.map(|command| now.state.apply(at.index, &command));
        drop(now);
        self.applied.send_replace(at.index);
        Ok(reply.map_or_else(ReplyBytes::default, |reply| {
            ReplyBytes(codec::encode(&reply))
        }))
    }
}

impl<S: Replicated> RaftStateMachine<Types> for StateStore<S> {
    type SnapshotData = StateBytes;
    type SnapshotBuilder = SnapshotBuilder<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredVoters), io::Error> {
        let now = self.read();
        Ok((now.applied, now.membership.clone()))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> Result<(), io::Error>
    where
        Entries: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<S> {
        SnapshotBuilder {
            view: self.read().clone(),
            file: self.file.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: StateBytes,
    ) -> Result<(), io::Error> {
        let state =
            codec::decode("snapshot", &snapshot, SNAPSHOT_BYTES_MAX).map_err(io::Error::other)?;
        persist(&self.file, SnapshotRecord::from(meta), snapshot).await?;
        let mut now = self.write();
        if let Some(tap) = self.tap().as_mut() {
            // What the snapshot jumps over is not known.
            tap.applied = None;
        }
        *now = At {
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        drop(now);
        self.applied
            .send_replace(meta.last_log_id.map_or(0, |at| at.index));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let file = self.file.clone();
        let found = tokio::task::spawn_blocking(move || file.read())
            .await
            .map_err(io::Error::other)??;
        let Some((record, state)) = found else {
            return Ok(None);
        };
        Ok(Some(openraft::Snapshot {
            meta: record.try_into().map_err(io::Error::other)?,
            snapshot: Arc::new(state),
        }))
    }
}

async fn persist(file: &SnapshotFile, record: SnapshotRecord, state: StateBytes) -> io::Result<()> {
    let file = file.clone();
    tokio::task::spawn_blocking(move || file.write(&record, &state))
        .await
        .map_err(io::Error::other)?
}

/// Writes a snapshot of one moment while the state moves on.
pub(in crate::control) struct SnapshotBuilder<S> {
    view: At<S>,
    file: SnapshotFile,
}

impl<S: Replicated> RaftSnapshotBuilder<Types> for SnapshotBuilder<S> {
    type SnapshotData = StateBytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = SnapshotMeta {
            last_log_id: self.view.applied,
            last_membership: self.view.membership.clone(),
        };
        let state = Arc::new(codec::encode(&self.view.state));
        persist(&self.file, SnapshotRecord::from(&meta), state.clone()).await?;
        Ok(openraft::Snapshot {
            meta,
            snapshot: state,
        })
    }
}
