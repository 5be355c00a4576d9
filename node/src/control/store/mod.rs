//! The group's folder: two redb files and the Raft id that ties them.
//!
//! `log.redb` has the log and the vote, `state.redb` the newest snapshot, so
//! that writing a snapshot never delays an append. Both carry the folder's
//! random Raft id. If either is missing or they disagree, the folder has lost
//! state: what is left is put aside and the folder gets a new id, since a
//! member that forgot its log or its vote and kept its id could make a quorum
//! of those who voted for someone else. A folder of an earlier epoch than the
//! node's is put aside in the same way: its log is not the cluster's any more.

pub(super) mod log;
pub(super) mod recover;
pub(super) mod state;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use potluck_specs::Epoch;
use redb::{Database, ReadableDatabase, TableDefinition};

use self::{log::LogStore, state::SnapshotFile};

/// Pages of one file that redb keeps in memory. The log's newest entries are
/// cached beside it and the state is in memory anyway, so little is read.
const CACHE_BYTES: usize = 4 << 20;

/// Small values by name, in both files.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The epoch of the log, in both files; that of the log's counts.
const EPOCH: &str = "epoch";

/// The encoding of everything in both files; a newer one is refused.
const FORMAT: u64 = 1;

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder itself.
    #[error("can't use the folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// One of its files.
    #[error("can't use the control group's file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<redb::Error>,
    },
    /// Written by a later version.
    #[error("the control group's file {path} is of a later version of potluck")]
    Newer {
        /// Which.
        path: PathBuf,
    },
    /// The contents can't be decoded.
    #[error("the control group's file {path} is damaged: {why}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no log to go on with.
    #[error("the folder {path} holds no log of the cluster")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// No randomness for a new id.
    #[error("no random numbers for a new raft id")]
    Random,
    /// No thread for the writer.
    #[error("can't start the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// An open folder.
pub(super) struct Store {
    pub(super) raft_id: u64,
    /// Of its log.
    pub(super) epoch: Epoch,
    /// It held nothing before.
    pub(super) fresh: bool,
    pub(super) log: LogStore,
    pub(super) snapshots: SnapshotFile,
}

impl Store {
    /// Opens a folder, or makes a new one of this epoch. One of an earlier
    /// epoch is put aside. Blocks on the disk.
    pub(super) fn open(folder: &Path, epoch: Epoch) -> Result<Store, StoreError> {
        let in_folder = |source| StoreError::Folder {
            path: folder.into(),
            source,
        };
        fs::create_dir_all(folder).map_err(in_folder)?;
        let paths = [folder.join("log.redb"), folder.join("state.redb")];
        let found = [marks_of(&paths[0])?, marks_of(&paths[1])?];
        let (marks, fresh) = match found {
            [Some(log), Some(state)] if log.raft_id == state.raft_id && log.epoch >= epoch => {
                (log, false)
            }
            _ => {
                let is_whole =
                    matches!(found, [Some(log), Some(state)] if log.raft_id == state.raft_id);
                let why = if is_whole { "epoch-past" } else { "lost" };
                for path in paths.iter().filter(|path| path.exists()) {
                    put_aside(path, why).map_err(in_folder)?;
                }
                let raft_id = random_id()?;
                (Marks { raft_id, epoch }, true)
            }
        };
        let log = open_file(&paths[0], marks)?;
        let state = open_file(&paths[1], marks)?;
        if fresh {
            fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(in_folder)?;
        }
        Ok(Store {
            raft_id: marks.raft_id,
            epoch: marks.epoch,
            fresh,
            log: LogStore::open(&paths[0], log)?,
            snapshots: SnapshotFile::open(&paths[1], state)?,
        })
    }
}

fn random_id() -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Random)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Keeps a file under another name: a person may still want to look at it.
fn put_aside(path: &Path, why: &str) -> io::Result<()> {
    let mut aside = path.to_path_buf();
    for number in 1_u32.. {
        aside.set_extension(format!("{why}-{number}"));
        if !aside.exists() {
            break;
        }
    }
    tracing::warn!(path = %path.display(), to = %aside.display(), why, "the control group's file is put aside, starting with a new raft id");
    fs::rename(path, aside)
}

/// What ties the two files.
#[derive(Clone, Copy, Debug)]
struct Marks {
    raft_id: u64,
    /// Of the first one in files that were made before there was another.
    epoch: Epoch,
}

/// The marks of a file; `None` if there is none, or it was never finished.
fn marks_of(path: &Path) -> Result<Option<Marks>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let database = builder().open(path).map_err(|error| file(path, error))?;
    let damaged = |why: &str| StoreError::Damaged {
        path: path.into(),
        why: why.into(),
    };
    let transaction = database.begin_read().map_err(|error| file(path, error))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(file(path, error)),
    };
    let number = |name: &str| -> Result<Option<u64>, StoreError> {
        let Some(value) = meta.get(name).map_err(|error| file(path, error))? else {
            return Ok(None);
        };
        let bytes = value
            .value()
            .try_into()
            .map_err(|_| damaged("a number is cut"))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    };
    let missing = || damaged("a number is missing");
    if number("format")?.ok_or_else(missing)? > FORMAT {
        return Err(StoreError::Newer { path: path.into() });
    }
    Ok(Some(Marks {
        raft_id: number("raft_id")?.ok_or_else(missing)?,
        epoch: Epoch(number(EPOCH)?.unwrap_or(1)),
    }))
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn open_file(path: &Path, marks: Marks) -> Result<Database, StoreError> {
    let existed = path.exists();
    let database = builder().create(path).map_err(|error| file(path, error))?;
    if !existed {
        write_meta(&database, marks).map_err(|error| file(path, error))?;
    }
    Ok(database)
}

fn write_meta(database: &Database, marks: Marks) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
        meta.insert("raft_id", marks.raft_id.to_be_bytes().as_slice())?;
        meta.insert(EPOCH, marks.epoch.0.to_be_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

fn file(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    StoreError::File {
        path: path.into(),
        source: Box::new(error.into()),
    }
}
