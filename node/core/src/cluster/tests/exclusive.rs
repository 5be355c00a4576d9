//! Who holds exclusive slots: written by the present reign alone, under
//! generations that rise.

use super::*;
use potluck_specs::Generation;

/// What level 3 added, as it was written then: two holders, one release.
const EXCLUSIVE_1: &[u8] = include_bytes!("../samples/exclusive-1.cbor");

fn generation(reign: u64, sequence: u64) -> Generation {
    Generation {
        epoch: Epoch(1),
        reign: Reign(reign),
        sequence,
    }
}

fn slot(index: u32) -> SlotId {
    SlotId {
        job: JobName::in_default("web"),
        index,
    }
}

fn holder(index: u32, node: u8, reign: u64, sequence: u64) -> ExclusiveHolder {
    ExclusiveHolder {
        slot: slot(index),
        node: NodeId([node; 32]),
        generation: generation(reign, sequence),
        lease: Millis(15_000),
    }
}

fn record(reign: u64, held: Vec<ExclusiveHolder>, released: Vec<(SlotId, Generation)>) -> Command {
    Command::RecordExclusive {
        reign: Reign(reign),
        held,
        released,
    }
}

/// A job, and a reign that began at index 2.
fn reigned() -> Cluster {
    let mut cluster = begun();
    let leader = NodeId([1; 32]);
    cluster.apply(2, &Command::Reign { leader });
    cluster.apply(3, &submit(1, "web", 1, None));
    cluster
}

fn held(cluster: &Cluster, index: u32) -> Option<u64> {
    let holder = cluster.exclusive_holder(&slot(index));
    holder.map(|holder| holder.generation.sequence)
}

#[test]
fn holders_only_rise_and_only_the_generation_that_ended_is_released() {
    let mut cluster = reigned();
    // What is recorded, what is released; who holds the slot then.
    let table = [
        (vec![holder(0, 1, 2, 5)], vec![], Some(5)),
        // Proposed again, or overtaken on the way.
        (vec![holder(0, 1, 2, 5)], vec![], Some(5)),
        (vec![holder(0, 1, 2, 4)], vec![], Some(5)),
        (vec![holder(0, 1, 2, 7)], vec![], Some(7)),
        (vec![], vec![(slot(0), generation(2, 5))], Some(7)),
        (vec![], vec![(slot(0), generation(2, 7))], None),
        (vec![], vec![(slot(0), generation(2, 7))], None),
    ];
    for (index, (holders, released, then)) in (4..).zip(table) {
        let before = cluster.clone();
        let reply = cluster.apply(index, &record(2, holders, released));
        assert_eq!(reply, Reply::Done);
        assert_eq!(held(&cluster, 0), then, "at {index}");
        let changed = before.exclusive != cluster.exclusive;
        assert_eq!(cluster.exclusive_at() == index, changed, "at {index}");
        // Notes of where things are shape nothing.
        assert_eq!(cluster.shaped_at(), before.shaped_at());
    }
}

#[test]
fn nothing_is_remembered_of_strangers_nor_by_another_reign() {
    let mut cluster = reigned();
    let mut no_job = holder(0, 1, 2, 1);
    no_job.slot.job = JobName::in_default("other");
    let strange = vec![
        no_job,
        holder(SLOTS_MAX, 1, 2, 2),
        // No such member.
        holder(1, 88, 2, 3),
    ];
    cluster.apply(4, &record(2, strange, vec![]));
    assert_eq!(cluster.exclusive_holders().count(), 0);
    let refused = cluster.apply(5, &record(1, vec![holder(0, 1, 2, 1)], vec![]));
    assert!(matches!(refused, Reply::Refused { .. }));
    assert_eq!(cluster.exclusive_holders().count(), 0);
}

#[test]
fn what_level_3_added_is_read_and_applied() {
    let commands: Vec<Command> = codec::decode("commands", EXCLUSIVE_1, 1 << 20).expect("a sample");
    assert_eq!(codec::encode(&commands), EXCLUSIVE_1);
    let mut cluster = reigned();
    for (index, command) in (4..).zip(&commands) {
        assert_eq!(command.feature_level(), 3);
        assert!(command.feature_level() <= FEATURE_LEVEL);
        assert_eq!(cluster.apply(index, command), Reply::Done);
    }
    assert_eq!((held(&cluster, 0), held(&cluster, 1)), (None, Some(8)));
    // And a snapshot of that brings it back.
    let bytes = codec::encode(&cluster);
    let read: Cluster = codec::decode("cluster", &bytes, 1 << 20).expect("a snapshot");
    assert_eq!(read, cluster);
}

#[test]
fn an_exclusive_job_waits_for_those_who_must_follow_its_holders() {
    let cluster = begun();
    let group = [NodeId([1; 32])];
    let mut job = Job::default();
    assert!(cluster.too_old_for(&job, group).is_none());
    job.change.exclusive = Some(Default::default());
    let too_old = cluster.too_old_for(&job, group).expect("it knows nothing");
    assert_eq!((too_old.level, too_old.needs), (0, 3));
}
