//! The store under openraft's own suite, and what the suite does not ask.

use openraft::{
    RaftLogReader, StorageError,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use tempfile::TempDir;

use super::hub::{Board, World, eventually, leads, pin};
use crate::control::{
    COMMAND_BYTES_MAX,
    consensus::{CommandBytes, Entry, EntryRecord, LogId, PayloadRecord, Position, Types, Vote},
    messages::{Append, Body, Envelope, MESSAGE_BYTES_MAX},
    store::{
        Store,
        log::{APPEND_BYTES_MAX, LogStore},
        state::StateStore,
    },
};
use potluck_specs::{Epoch, FleetId, codec};

struct Builder;

impl StoreBuilder<Types, LogStore, StateStore<Board>, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateStore<Board>), StorageError<Types>> {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path(), Epoch(1)).unwrap();
        Ok((folder, store.log, StateStore::new(store.snapshots)))
    }
}

#[test]
fn openrafts_own_suite() {
    Types::run(async { Suite::test_all(Builder).await }).unwrap();
}

fn entry(index: u64, bytes: usize) -> Entry {
    let record = EntryRecord {
        at: Position { term: 1, index },
        payload: PayloadRecord::Command(vec![index as u8; bytes]),
    };
    record.into_entry().unwrap()
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> Result<(), StorageError<Types>> {
    log.blocking_append(entries).await
}

fn at(index: u64) -> LogId {
    Position { term: 1, index }.into()
}

async fn indexes(log: &mut LogStore, from: u64, to: u64) -> Vec<u64> {
    let mut reader = log.get_log_reader().await;
    let entries = reader.try_get_log_entries(from..to).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn an_append_stops_at_its_limit() {
    let folder = TempDir::new().unwrap();
    let mut log = Store::open(folder.path(), Epoch(1)).unwrap().log;
    let entries = (1..=5).map(|index| entry(index, 200 << 10)).collect();
    append(&mut log, entries).await.unwrap();
    append(&mut log, vec![entry(6, COMMAND_BYTES_MAX), entry(7, 1)])
        .await
        .unwrap();

    let mut reader = log.get_log_reader().await;
    let lengths = async |reader: &mut crate::control::store::log::LogReader, from| {
        let entries = reader.limited_get_log_entries(from, 8).await.unwrap();
        let total: usize = entries
            .iter()
            .map(|e| codec::encode(&EntryRecord::from(e)).len())
            .sum();
        assert!(entries.len() == 1 || total <= APPEND_BYTES_MAX);
        let message = codec::encode(&Envelope {
            fleet: FleetId([0; 32]),
            cluster: "x".repeat(63),
            epoch: Epoch(u64::MAX),
            from: u64::MAX,
            to: u64::MAX,
            body: Body::Append(Append {
                leader: Vote::new_committed(u64::MAX, u64::MAX).into(),
                previous: Some(Position {
                    term: u64::MAX,
                    index: u64::MAX,
                }),
                entries: entries.iter().map(EntryRecord::from).collect(),
                committed: None,
            }),
        });
        assert!(
            message.len() <= MESSAGE_BYTES_MAX,
            "{} bytes",
            message.len()
        );
        entries.len()
    };
    assert_eq!(lengths(&mut reader, 1).await, 2);
    assert_eq!(lengths(&mut reader, 3).await, 2);
    assert_eq!(lengths(&mut reader, 5).await, 1);
    assert_eq!(lengths(&mut reader, 6).await, 1, "the largest goes alone");
    assert_eq!(lengths(&mut reader, 7).await, 1);
    log.close().await;
}

/// More than the cache holds, so that reads come from disk, from memory, and
/// from both.
#[tokio::test]
async fn reads_cross_from_disk_to_memory() {
    let folder = TempDir::new().unwrap();
    let mut log = Store::open(folder.path(), Epoch(1)).unwrap().log;
    for index in 1..=60 {
        append(&mut log, vec![entry(index, 150 << 10)])
            .await
            .unwrap();
    }
    assert_eq!(
        indexes(&mut log, 0, 100).await,
        (1..=60).collect::<Vec<_>>()
    );
    let mut reader = log.get_log_reader().await;
    for from in 1..=60 {
        let entries = reader.limited_get_log_entries(from, 61).await.unwrap();
        let expected = 3.min(61 - from) as usize;
        assert_eq!(entries.len(), expected, "from {from}");
        assert_eq!(entries[0].log_id.index, from);
        let openraft::EntryPayload::Normal(CommandBytes(bytes)) = &entries[0].payload else {
            panic!("a command was written");
        };
        assert!(bytes.len() == 150 << 10 && bytes.iter().all(|byte| *byte == from as u8));
    }

    log.truncate_after(Some(at(50))).await.unwrap();
    append(&mut log, vec![entry(51, 1)]).await.unwrap();
    log.purge(at(10)).await.unwrap();
    assert_eq!(
        indexes(&mut log, 0, 100).await,
        (11..=51).collect::<Vec<_>>()
    );
    log.close().await;
    assert!(
        append(&mut log, vec![entry(52, 1)]).await.is_err(),
        "closed"
    );
    drop((log, reader));

    let store = Store::open(folder.path(), Epoch(1)).unwrap();
    let mut log = store.log;
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(at(10)), Some(at(51)))
    );
    assert_eq!(
        indexes(&mut log, 0, 100).await,
        (11..=51).collect::<Vec<_>>()
    );
    log.close().await;
}

/// The files are copied while the group runs, as a power cut would leave them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_on_disk() {
    let world = World::new();
    let group = world.bootstrap(1).await;
    for round in 0..50 {
        group
            .propose(pin(format!("{round}"), "kept"))
            .await
            .unwrap();
    }
    let copy = world.folder_of(9);
    std::fs::create_dir_all(&copy).unwrap();
    for file in ["log.redb", "state.redb"] {
        std::fs::copy(world.folder_of(1).join(file), copy.join(file)).unwrap();
    }
    world.stop(1).await;

    let survivor = super::hub::Group::start(world.settings(1, &copy), world.port(1))
        .await
        .unwrap();
    eventually("the copy leads", || leads(&survivor)).await;
    survivor.linearizable().await.unwrap();
    assert_eq!(survivor.read(|board| board.texts.len()), 50);
    survivor.shutdown().await;
}
