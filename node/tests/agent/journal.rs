//! A journal that is damaged: the agent names it and does not start, and the
//! tasks of the agent before go on until one starts that can read it.

use super::*;
use potluck_specs::codec;
use redb::{Database, TableDefinition};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// An entry as a later potluck may write it.
#[derive(serde::Serialize)]
struct Later {
    version: u32,
    mood: &'static str,
}

/// Adds a slot to a journal that a later potluck has written.
fn add_later_entry(journal: &Path) {
    const SLOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("slots");
    let later = codec::encode(&Later {
        version: 2,
        mood: "good",
    });
    let database = Database::open(journal).expect("the journal");
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut slots = transaction.open_table(SLOTS).expect("its table");
        let before = slots.insert("later[0]", &*later).expect("a value");
        assert!(before.is_none(), "there is one already");
    }
    transaction.commit().expect("written");
}

/// Makes a journal one of another boot.
pub(super) fn set_boot_id(journal: &Path, boot_id: &str) {
    let database = Database::open(journal).expect("the journal");
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut meta = transaction.open_table(META).expect("its table");
        let before = meta.insert("boot_id", boot_id.as_bytes()).expect("a value");
        assert!(before.is_some(), "the journal's format has changed");
    }
    transaction.commit().expect("written");
}

/// Why the next agent does not start.
async fn refusal(node: &Node, how: &str) -> String {
    let token = CancellationToken::new();
    let started = launch(
        node.data.path(),
        node.package.path(),
        node.seed,
        &(helper(), false),
        &token,
    )
    .await;
    let Err(error) = started else {
        panic!("it starts from a journal that is {how}");
    };
    potluck_specs::cause::chain(&error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_is_named_and_harms_no_task() {
    let mut node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let before = node.helpers();
    node.token.cancel();
    node.agent.stopped().await;
    let journal = node.data.path().join("agent.redb");
    let whole = fs::read(&journal).expect("the journal");
    let mut scribbled = whole.clone();
    scribbled[..512].fill(0x5a);
    let cases = [
        ("torn in the middle", &whole[..whole.len() / 2]),
        ("a stub", &whole[..100]),
        ("empty", &[]),
        ("scribbled over", &scribbled),
    ];
    for (how, damaged) in cases {
        fs::write(&journal, damaged).expect("a write");
        let error = refusal(&node, how).await;
        assert!(error.contains("agent.redb"), "{how}: {error}");
        assert_eq!(node.helpers(), before, "{how}: {error}");
    }
    fs::write(&journal, &whole).expect("a write");
    add_later_entry(&journal);
    let error = refusal(&node, "of a later potluck").await;
    assert!(error.contains("is of version 2"), "{error}");
    assert_eq!(node.helpers(), before, "{error}");
    fs::write(&journal, &whole).expect("a write");
    node.restart().await;
    let report = node.until_running(&job, 0).await;
    assert_eq!((report.starts, node.helpers()), (1, before));
    node.assert_nothing_leaks();
    node.end().await;
}
