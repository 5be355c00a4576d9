//! A survivor goes on alone: the log of a stopped group is given two more
//! entries, the voters are this node and nobody else, the epoch is a later one.
//!
//! Answers for doing that to the files at once: one transaction on the log,
//! whose epoch is the one that counts. After a crash before it nothing has
//! happened, after a crash behind it all has. Everything that the log holds is
//! kept and counts as committed, the tail too that no majority may have
//! confirmed: it may have been accepted, and whoever could know is gone.
//! Leaves to others whether it may be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use potluck_specs::{Epoch, codec};
use redb::{Database, ReadableDatabase, ReadableTable};

use super::{
    EPOCH, META, Marks, StoreError, builder, file,
    log::{LOG, decode_entry, decode_meta},
    marks_of,
    state::{RECORD_BYTES_MAX, SNAPSHOT, read_record},
};
use crate::control::{
    Member,
    consensus::{
        EntryRecord, MembershipRecord, PayloadRecord, Position, SnapshotRecord, VoteRecord,
    },
};

/// Rewrites the group in this folder. `command`, encoded, is the first entry
/// of the epoch. A folder that is at this epoch, or past it, is left alone:
/// it has been done. Blocks on the disk; no group may run on the folder.
///
/// # Errors
/// [`StoreError::Empty`] if there is no log to go on with, else any.
pub fn recover(folder: &Path, me: &Member, epoch: Epoch, command: &[u8]) -> Result<(), StoreError> {
    let paths = [folder.join("log.redb"), folder.join("state.redb")];
    let empty = || StoreError::Empty {
        path: folder.into(),
    };
    let (Some(log), Some(state)) = (marks_of(&paths[0])?, marks_of(&paths[1])?) else {
        return Err(empty());
    };
    if log.raft_id != state.raft_id {
        return Err(empty());
    }
    if log.epoch >= epoch {
        return Ok(());
    }
    let snapshot = snapshot_at(&paths[1])?;
    let path = &paths[0];
    let database = builder().open(path).map_err(|error| file(path, error))?;
    let kept = Kept::read(path, &database)?;
    if kept.last.max_index(snapshot).is_none() {
        return Err(empty());
    }
    let new = Rewritten::after(kept, snapshot, me, log, command);
    new.write(&database, epoch)
        .map_err(|error| file(path, error))
}

/// Up to where the newest snapshot has the log's effects.
fn snapshot_at(path: &Path) -> Result<Option<Position>, StoreError> {
    let database = builder().open(path).map_err(|error| file(path, error))?;
    let exists = {
        let transaction = database.begin_read().map_err(|error| file(path, error))?;
        match transaction.open_table(SNAPSHOT) {
            Ok(_) => true,
            Err(redb::TableError::TableDoesNotExist(_)) => false,
            Err(error) => return Err(file(path, error)),
        }
    };
    if !exists {
        return Ok(None);
    }
    let Some(bytes) = read_record(&database).map_err(|error| file(path, error))? else {
        return Ok(None);
    };
    let record: SnapshotRecord =
        codec::decode("snapshot", &bytes, RECORD_BYTES_MAX).map_err(|error| {
            StoreError::Damaged {
                path: path.into(),
                why: error.to_string(),
            }
        })?;
    Ok(record.at)
}

/// What the log's file holds.
struct Kept {
    vote: Option<VoteRecord>,
    last: Last,
}

/// The last entry, or where the purged ones ended.
struct Last(Option<Position>);

impl Last {
    fn max_index(&self, snapshot: Option<Position>) -> Option<Position> {
        let places = [self.0, snapshot].into_iter().flatten();
        places.max_by_key(|at| (at.index, at.term))
    }
}

impl Kept {
    fn read(path: &Path, database: &Database) -> Result<Kept, StoreError> {
        let failed = |error: redb::Error| file(path, error);
        let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
        let meta = transaction.open_table(META).map_err(|e| failed(e.into()))?;
        let get = |name: &str| -> Result<Option<Vec<u8>>, StoreError> {
            let value = meta.get(name).map_err(|e| failed(e.into()))?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        let purged: Option<Position> = decode_meta(path, get("purged")?)?;
        let last = match transaction.open_table(LOG) {
            Ok(log) => match log.last().map_err(|e| failed(e.into()))? {
                Some((_, bytes)) => Some(decode_entry(path, bytes.value())?.at),
                None => purged,
            },
            Err(redb::TableError::TableDoesNotExist(_)) => purged,
            Err(error) => return Err(failed(error.into())),
        };
        Ok(Kept {
            vote: decode_meta(path, get("vote")?)?,
            last: Last(last),
        })
    }
}

/// What is written.
struct Rewritten {
    entries: [EntryRecord; 2],
    vote: VoteRecord,
    /// Entries up to here are in the snapshot and, since some before it are
    /// missing, not in the log.
    purged: Option<Position>,
}

impl Rewritten {
    fn after(
        kept: Kept,
        snapshot: Option<Position>,
        me: &Member,
        marks: Marks,
        command: &[u8],
    ) -> Rewritten {
        let last = kept.last.max_index(snapshot);
        let (term, index) = last.map_or((0, 0), |at| (at.term, at.index));
        let term = term.max(kept.vote.map_or(0, |vote| vote.term)) + 1;
        let at = |ahead| Position {
            term,
            index: index + ahead,
        };
        let voters = MembershipRecord {
            voters: vec![BTreeSet::from([marks.raft_id])],
            members: BTreeMap::from([(marks.raft_id, me.clone())]),
        };
        let hole = snapshot.filter(|at| kept.last.0.is_none_or(|last| last.index < at.index));
        Rewritten {
            entries: [
                EntryRecord {
                    at: at(1),
                    payload: PayloadRecord::Membership(voters),
                },
                EntryRecord {
                    at: at(2),
                    payload: PayloadRecord::Command(command.to_vec()),
                },
            ],
            // Entries of a term are there, so its leader was elected.
            vote: VoteRecord {
                term,
                raft_id: marks.raft_id,
                elected: true,
            },
            purged: hole,
        }
    }

    fn write(&self, database: &Database, epoch: Epoch) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            if let Some(purged) = self.purged {
                log.retain(|_, _| false)?;
                meta.insert("purged", codec::encode(&purged).as_slice())?;
            }
            for entry in &self.entries {
                log.insert(entry.at.index, codec::encode(entry).as_slice())?;
            }
            let committed = codec::encode(&self.entries[1].at);
            meta.insert("vote", codec::encode(&self.vote).as_slice())?;
            meta.insert("committed", committed.as_slice())?;
            meta.insert(EPOCH, epoch.0.to_be_bytes().as_slice())?;
        }
        transaction.commit()?;
        Ok(())
    }
}
