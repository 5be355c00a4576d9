//! What the agent must not forget: the highest authority heard, and the slots
//! that it holds.
//!
//! Answers for bytes on disk: a write that returned has survived a crash of
//! the host, except for those said to be lazy, which go along with the next.
//! What is written when is `potluck_core::host`'s decision.

use potluck_core::{
    auction::{Authority, StopReason},
    host::Entry,
    session::Outcome,
};
use potluck_specs::{
    Generation, NodeId, SlotId,
    codec::{self, CodecError},
    job::{JOB_BYTES_MAX, Resources, SignedJob},
};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Counters and single values, by name.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Slots that are held, by their text form.
const SLOTS: TableDefinition<&str, &[u8]> = TableDefinition::new("slots");

const HIGHEST: &str = "highest";
const AGENT_GENERATION: &str = "agent_generation";
const BOOT_ID: &str = "boot_id";

/// Longest entry: a job with its author's certificates and names of holders.
const ENTRY_BYTES_MAX: usize = JOB_BYTES_MAX + (128 << 10);

/// What this version writes. A journal with a higher number is refused: an
/// older agent would take its slots for lost.
const VERSION: u32 = 1;

/// A slot as it is stored. New fields must have defaults.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    version: u32,
    slot: SlotId,
    generation: Generation,
    origin: Generation,
    signed: SignedJob,
    package_bytes: u64,
    holders: Vec<NodeId>,
    ports: BTreeMap<String, u16>,
    starts: u32,
    stop: Option<StopReason>,
    #[serde(default)]
    ended: Option<Outcome>,
    #[serde(default)]
    limits_before: Option<Resources>,
}

/// A change of the journal.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Highest(Authority),
    Put(Box<Entry>),
    Remove(SlotId),
}

/// What a journal held when it was opened.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) highest: Authority,
    /// Of this start of the agent: one more than the last.
    pub(super) agent_generation: u64,
    /// The host has not been booted since the agent's last start.
    pub(super) same_boot: bool,
    pub(super) entries: Vec<Entry>,
}

/// A journal that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database says no.
    #[error("journal {path} can't be used")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// An entry can't be read.
    #[error("journal {path} holds an entry that can't be read")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
    /// Written by a later potluck.
    #[error("journal {path} is of version {version}, this potluck knows {VERSION}")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// `None` after an error of the disk, until it could be opened again.
    database: Option<Database>,
}

impl Journal {
    /// Opens or makes the journal and counts this start of the agent.
    pub(super) fn open(path: &Path, boot_id: &str) -> Result<(Journal, Restored), JournalError> {
        let fail = |source: redb::Error| JournalError::Database {
            path: path.into(),
            source: Box::new(source),
        };
        let database = open_or_make(path).map_err(fail)?;
        let (agent_generation, same_boot) = count_start(&database, boot_id).map_err(fail)?;
        let (highest, stored) = read_all(&database).map_err(fail)?;
        let unreadable = |source| JournalError::Entry {
            path: path.into(),
            source,
        };
        let highest = match highest {
            None => Authority::default(),
            Some(bytes) => codec::decode("authority", &bytes, 64).map_err(unreadable)?,
        };
        let mut entries = Vec::new();
        for bytes in stored {
            let entry = read_entry(&bytes).map_err(unreadable)?;
            entries.push(entry.map_err(|version| JournalError::TooNew {
                path: path.into(),
                version,
            })?);
        }
        let journal = Journal {
            path: path.into(),
            database: Some(database),
        };
        let restored = Restored {
            highest,
            agent_generation,
            same_boot,
            entries,
        };
        Ok((journal, restored))
    }

    /// Writes all of it or nothing; after an error it may be tried again.
    pub(super) fn write(&mut self, writes: &[Write], durable: bool) -> Result<(), JournalError> {
        let result = self.try_write(writes, durable);
        result.map_err(|source| {
            // After an error of the disk the database refuses everything until
            // it is opened anew.
            self.database = None;
            JournalError::Database {
                path: self.path.clone(),
                source: Box::new(source),
            }
        })
    }

    fn try_write(&mut self, writes: &[Write], durable: bool) -> Result<(), redb::Error> {
        let database = match &self.database {
            Some(database) => database,
            None => self.database.insert(Database::open(&self.path)?),
        };
        let mut transaction = database.begin_write()?;
        if !durable {
            transaction.set_durability(Durability::None)?;
        }
        {
            let mut meta = transaction.open_table(META)?;
            let mut slots = transaction.open_table(SLOTS)?;
            for write in writes {
                match write {
                    Write::Highest(authority) => {
                        meta.insert(HIGHEST, codec::encode(authority).as_slice())?;
                    }
                    Write::Put(entry) => {
                        let key = entry.slot.to_string();
                        slots.insert(key.as_str(), write_entry(entry).as_slice())?;
                    }
                    Write::Remove(slot) => {
                        slots.remove(slot.to_string().as_str())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// A new one is made under another name: under its own there is never a file
/// without a journal in it, so that an empty one is known for a damaged one.
fn open_or_make(path: &Path) -> Result<Database, redb::Error> {
    if path.exists() {
        return Ok(Database::open(path)?);
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        // Of a start that was cut short.
        _ => {}
    }
    let database = Database::create(&new)?;
    fs::rename(&new, path)?;
    Ok(database)
}

/// The generation of this start, and whether the last was in the same boot.
fn count_start(database: &Database, boot_id: &str) -> Result<(u64, bool), redb::Error> {
    let transaction = database.begin_write()?;
    let counted = {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(SLOTS)?;
        let last = meta
            .get(AGENT_GENERATION)?
            .and_then(|bytes| Some(u64::from_be_bytes(bytes.value().try_into().ok()?)));
        let generation = last.unwrap_or(0) + 1;
        meta.insert(AGENT_GENERATION, generation.to_be_bytes().as_slice())?;
        let last_boot = meta.insert(BOOT_ID, boot_id.as_bytes())?;
        let same_boot = last_boot.is_some_and(|last| last.value() == boot_id.as_bytes());
        (generation, same_boot)
    };
    transaction.commit()?;
    Ok(counted)
}

type Stored = (Option<Vec<u8>>, Vec<Vec<u8>>);

fn read_all(database: &Database) -> Result<Stored, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let highest = meta.get(HIGHEST)?.map(|bytes| bytes.value().to_vec());
    let slots = transaction.open_table(SLOTS)?;
    let mut entries = Vec::new();
    for item in slots.iter()? {
        entries.push(item?.1.value().to_vec());
    }
    Ok((highest, entries))
}

fn write_entry(entry: &Entry) -> Vec<u8> {
    codec::encode(&StoredEntry {
        version: VERSION,
        slot: entry.slot.clone(),
        generation: entry.generation,
        origin: entry.origin,
        signed: (*entry.signed).clone(),
        package_bytes: entry.package_bytes,
        holders: entry.holders.clone(),
        ports: entry.ports.clone(),
        starts: entry.starts,
        stop: entry.stop,
        ended: entry.ended.clone(),
        limits_before: entry.limits_before,
    })
}

/// The entry, or its version if that is a later one.
fn read_entry(bytes: &[u8]) -> Result<Result<Entry, u32>, CodecError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = codec::decode("journal entry", bytes, ENTRY_BYTES_MAX)?;
    if version > VERSION {
        return Ok(Err(version));
    }
    let stored: StoredEntry = codec::decode("journal entry", bytes, ENTRY_BYTES_MAX)?;
    let job = stored.signed.decode_unchecked()?;
    Ok(Ok(Entry {
        slot: stored.slot,
        generation: stored.generation,
        origin: stored.origin,
        job: Arc::new(job),
        signed: Arc::new(stored.signed),
        package_bytes: stored.package_bytes,
        holders: stored.holders,
        ports: stored.ports,
        starts: stored.starts,
        stop: stored.stop,
        ended: stored.ended,
        limits_before: stored.limits_before,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{
        Epoch, FleetId, Job, JobName, PackageId, Reign,
        job::TaskTemplate,
        trust::{Context, PublicKey, SecretKey, Signed, UserCredential},
    };

    fn authority(reign: u64) -> Authority {
        Authority {
            epoch: Epoch(1),
            reign: Reign(reign),
        }
    }

    fn entry(index: u32) -> Entry {
        let job = Job {
            fleet: FleetId([1; 32]),
            cluster: "home".into(),
            name: JobName::in_default("web"),
            version: 3,
            package: PackageId([2; 32]),
            task: TaskTemplate {
                command: "run".into(),
                args: vec!["-v".into()],
                resources: Resources::new(100, 1 << 20),
                ..TaskTemplate::default()
            },
            ..Job::default()
        };
        let key = SecretKey::from_seed([3; 32]);
        let nobody = Signed {
            bytes: vec![],
            signature: [0; 64],
        };
        let signed = SignedJob {
            job: Signed::new(&key, Context::Job, job.encode()),
            author: UserCredential {
                root: PublicKey([4; 32]),
                issuer: nobody.clone(),
                certificate: nobody,
            },
        };
        Entry {
            slot: SlotId {
                job: job.name.clone(),
                index,
            },
            generation: authority(5).generation(6),
            origin: authority(4).generation(7),
            job: Arc::new(job),
            signed: Arc::new(signed),
            package_bytes: 8,
            holders: vec![NodeId([9; 32])],
            ports: BTreeMap::from([("http".into(), 8_080)]),
            starts: 10,
            stop: Some(StopReason::Drained),
            ended: Some(Outcome::Failed {
                why: "exited with code 3".into(),
            }),
            limits_before: Some(Resources::new(200, 2 << 20)),
        }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.redb");
        let (mut journal, first) = Journal::open(&path, "one").unwrap();
        assert_eq!((first.agent_generation, first.entries.len()), (1, 0));
        assert_eq!(first.highest, Authority::default());
        let put = |index| Write::Put(Box::new(entry(index)));
        let writes = [Write::Highest(authority(5)), put(0), put(1), put(2)];
        journal.write(&writes, true).unwrap();
        journal
            .write(&[Write::Remove(entry(1).slot)], true)
            .unwrap();
        drop(journal);
        let (journal, second) = Journal::open(&path, "one").unwrap();
        assert_eq!((second.agent_generation, second.same_boot), (2, true));
        assert_eq!(second.highest, authority(5));
        assert_eq!(second.entries, [entry(0), entry(2)]);
        drop(journal);
        let (_, third) = Journal::open(&path, "two").unwrap();
        assert!(!third.same_boot);
    }

    #[test]
    fn a_lazy_write_goes_along_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.redb");
        let (mut journal, _) = Journal::open(&path, "one").unwrap();
        journal
            .write(&[Write::Put(Box::new(entry(0)))], false)
            .unwrap();
        journal
            .write(&[Write::Highest(authority(1))], true)
            .unwrap();
        drop(journal);
        let (_, restored) = Journal::open(&path, "one").unwrap();
        assert_eq!(restored.entries, [entry(0)]);
    }

    #[test]
    fn entries_of_a_later_version_are_refused() {
        #[derive(Serialize)]
        struct Later {
            version: u32,
            secret: bool,
        }
        let later = codec::encode(&Later {
            version: VERSION + 1,
            secret: true,
        });
        assert_eq!(read_entry(&later).unwrap().unwrap_err(), VERSION + 1);
        assert!(read_entry(b"nonsense").is_err());
    }
}
