//! How a task ended, and the record of it on disk.
//!
//! The record is written, synced and renamed into place before the agent is
//! told, so that an end survives a crash of the agent, the helper and the
//! host. It lies beside the task's description.

use crate::{description::read_limited, protocol::TaskKey};
use potluck_specs::{
    Millis,
    codec::{self, CodecError},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Name of the record in the folder of a start.
pub const END_FILE: &str = "exit";

/// Longest record: a few numbers and a sentence.
pub const END_BYTES_MAX: usize = 16 << 10;

/// Longest explanation in a record, in bytes.
pub const WHY_BYTES_MAX: usize = 4 << 10;

/// Why a task's process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// By itself.
    Exited,
    /// After a `Stop` and within its grace.
    Stopped,
    /// After a `Stop`, killed when the grace was over.
    StoppedByKill,
    /// After a `Kill`.
    Killed,
    /// The agent did not answer for the length of the lease.
    LeaseExpired,
    /// It reached its memory limit, and was stopped or killed for it.
    MemoryLimit,
    /// It used more disk than it may, and was stopped for it.
    DiskLimit,
    /// Our init inside the sandbox ended without a report, for example killed
    /// from outside; everything in the sandbox is gone.
    InitLost,
    /// A reason that a newer version knows.
    #[serde(other)]
    Other,
}

/// The end of a task's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskExit {
    /// What it returned, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What lay behind it.
    pub reason: ExitReason,
    /// When, Unix time.
    pub at: Millis,
    /// Highest memory use of the task, where the host tells it.
    pub memory_peak_bytes: Option<u64>,
    /// More about the reason, for people: who used how much memory,
    /// where how much disk is used.
    #[serde(default)]
    pub note: Option<String>,
}

/// How one start of a task came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskEnd {
    /// The process ran and is gone.
    Exited(TaskExit),
    /// There never was a process of the task.
    NotStarted {
        /// For people.
        why: String,
        /// When, Unix time.
        at: Millis,
    },
}

/// The record on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Which start of which task.
    pub key: TaskKey,
    /// The boot of the host in which it ran.
    pub boot_id: String,
    /// How it ended.
    pub end: TaskEnd,
}

/// A record that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum EndRecordError {
    /// The file system says no.
    #[error("record {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a record.
    #[error("record {path} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
}

impl EndRecord {
    /// The record in a start's folder, `None` if there is none yet.
    ///
    /// # Errors
    /// Any [`EndRecordError`].
    pub fn read(folder: &Path) -> Result<Option<EndRecord>, EndRecordError> {
        let path = folder.join(END_FILE);
        let bytes = match read_limited(&path, END_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EndRecordError::Read { path, source }),
            Ok(bytes) => bytes,
        };
        codec::decode("record of a task's end", &bytes, END_BYTES_MAX)
            .map(Some)
            .map_err(|source| EndRecordError::Malformed { path, source })
    }

    /// Writes the record so that it is either there as a whole or not at all,
    /// and still there after a crash of the host.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join("exit.new");
        let mut file = fs::File::create(&temporary)?;
        io::Write::write_all(&mut file, &codec::encode(self))?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(END_FILE))?;
        fs::File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(EndRecord::read(folder.path()).unwrap(), None);
        let record = EndRecord {
            key: TaskKey {
                slot: "web[0]".parse().unwrap(),
                generation: Default::default(),
                start: 1,
            },
            boot_id: "boot".into(),
            end: TaskEnd::Exited(TaskExit {
                code: Some(1),
                signal: None,
                reason: ExitReason::Exited,
                at: Millis(1),
                memory_peak_bytes: None,
                note: None,
            }),
        };
        record.write(folder.path()).unwrap();
        assert_eq!(EndRecord::read(folder.path()).unwrap(), Some(record));
        fs::write(folder.path().join(END_FILE), b"junk").unwrap();
        let error = EndRecord::read(folder.path()).unwrap_err();
        assert!(matches!(error, EndRecordError::Malformed { .. }));
    }

    #[test]
    fn a_later_reason_is_read_as_other() {
        let bytes = codec::encode(&"Abducted");
        let reason: ExitReason = codec::decode("reason", &bytes, 64).unwrap();
        assert_eq!(reason, ExitReason::Other);
    }
}
