//! Which commands older nodes can apply, and that what each level added is
//! still read.

use super::*;

/// What level 1 added, as it was written then: a stage of places goes on.
const COMMANDS_2: &[u8] = include_bytes!("../samples/commands-2.cbor");

fn level(node: u8, level: u32) -> Command {
    Command::RecordMember {
        node: NodeId([node; 32]),
        addresses: None,
        capacity: None,
        raft_id: None,
        feature_level: Some(level),
    }
}

fn covers() -> Vec<Command> {
    codec::decode("commands", COMMANDS_2, 1 << 20).expect("a sample")
}

/// A web job at its second version, whose rollout is at its first stage.
fn rolling() -> Cluster {
    let mut cluster = begun();
    let commands = [
        Command::Reign {
            leader: NodeId([1; 32]),
        },
        submit(1, "web", 1, None),
        submit(2, "web", 2, None),
    ];
    for (k, command) in commands.iter().enumerate() {
        cluster.apply(k as u64 + 2, command);
    }
    cluster
}

#[test]
fn what_level_1_added_is_read_and_applied() {
    let mut cluster = rolling();
    let commands = covers();
    assert_eq!(codec::encode(&commands), COMMANDS_2);
    assert_eq!(cluster.apply(9, &commands[0]), Reply::Done);
    let job = JobName::in_default("web");
    let rollout = cluster.rollout(&job).expect("a rollout").clone();
    assert_eq!(rollout.covered.into_iter().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(
        (rollout.places, rollout.place.as_deref()),
        (1, Some("rack r1"))
    );
    // Proposed twice it is applied once.
    assert!(matches!(
        cluster.apply(10, &commands[0]),
        Reply::Refused { .. }
    ));
    assert_eq!(cluster.rollout(&job).expect("a rollout").places, 1);
}

#[test]
fn a_command_waits_for_the_oldest_of_the_group() {
    let mut cluster = begun();
    cluster.apply(2, &create_token(1, "t", 9, 99_999, 1));
    cluster.apply(3, &redeem("t", 2, "b", 2, 2));
    cluster.apply(4, &redeem("t", 3, "c", 3, 2));
    let old = submit(3, "web", 1, None);
    let new = covers().remove(0);
    let batch = Command::Batch {
        commands: vec![old.clone(), new.clone()],
    };
    let group = [1u8, 2, 3].map(|k| NodeId([k; 32]));
    // What each of the three knows, the command, and who is too old for it.
    let table: [([u32; 3], &Command, Option<&str>); 7] = [
        ([0, 0, 0], &old, None),
        ([0, 0, 0], &new, Some("a")),
        ([1, 0, 0], &new, Some("b")),
        ([1, 1, 0], &batch, Some("c")),
        ([1, 1, 1], &new, None),
        ([1, 1, 1], &batch, None),
        ([2, 2, 1], &batch, None),
    ];
    for (index, (levels, command, older)) in table.into_iter().enumerate() {
        for (node, known) in (1..).zip(levels) {
            cluster.apply(10 + index as u64, &level(node, known));
        }
        let found = cluster.too_old(command, group);
        assert_eq!(found.map(|old| old.node.0).as_deref(), older, "{levels:?}");
    }
    // One of whom the log knows nothing has said nothing either.
    let stranger = [NodeId([8; 32])];
    assert!(cluster.too_old(&new, stranger).is_some());
    assert!(cluster.too_old(&old, stranger).is_none());
}

#[test]
fn a_job_waits_for_those_who_must_follow_its_rollout() {
    let cluster = begun();
    let group = [NodeId([1; 32])];
    let mut job = Job::default();
    let stage = |size| potluck_specs::job::Stage { size, bake_ms: 0 };
    assert!(cluster.too_old_for(&job, group).is_none());
    job.kind = JobKind::Batch(Default::default());
    assert!(cluster.too_old_for(&job, group).is_some());
    job.kind = JobKind::service(1);
    use potluck_specs::job::StageSize::{All, Cluster as Whole, Count, Datacenter, Rack, Region};
    let table = [
        (Count(1), false),
        (All, false),
        (Whole, false),
        (Rack, true),
        (Datacenter, true),
        (Region, true),
    ];
    for (size, waits) in table {
        job.change.update.stages = vec![stage(Count(1)), stage(size)];
        assert_eq!(
            cluster.too_old_for(&job, group).is_some(),
            waits,
            "{size:?}"
        );
    }
}

#[test]
fn no_command_needs_more_than_this_version_knows() {
    for command in covers() {
        assert!(command.feature_level() <= FEATURE_LEVEL);
    }
}

fn work(change: u8) -> Command {
    super::completions::submit_work(change, "work", 1, 2)
}

#[test]
fn who_is_older_than_the_log_follows_it_no_more() {
    let mut cluster = begun();
    let node = NodeId([1; 32]);
    cluster.apply(2, &level(1, 0));
    assert_eq!(cluster.level_in_use(), 0);
    assert!(cluster.may_follow(node));
    assert!(matches!(cluster.apply(3, &work(7)), Reply::Accepted { .. }));
    assert_eq!(cluster.level_in_use(), 1, "its life needs more than itself");
    assert!(!cluster.may_follow(node));
    assert!(
        !cluster.may_follow(NodeId([8; 32])),
        "nothing is known of it"
    );
    cluster.apply(4, &level(1, 1));
    assert!(cluster.may_follow(node));
    // A state of before this was counted.
    cluster.level = 0;
    assert_eq!(cluster.level_in_use(), 1);
}

#[test]
fn members_that_are_too_old_are_told_once_they_have_said_so() {
    let mut cluster = begun();
    cluster.apply(2, &work(7));
    let older = |cluster: &Cluster| cluster.too_old_to_follow().count();
    assert_eq!(older(&cluster), 0, "it has not introduced itself");
    let mut introduction = level(1, 0);
    if let Command::RecordMember { raft_id, .. } = &mut introduction {
        *raft_id = Some(5);
    }
    cluster.apply(3, &introduction);
    assert_eq!(older(&cluster), 1);
    cluster.apply(4, &level(1, 1));
    assert_eq!(older(&cluster), 0);
}

#[test]
fn a_job_of_hosts_needs_what_it_would_need_from_a_person() {
    let recover = |kind| {
        let Command::SubmitJob { mut job, .. } = submit(1, "web", 1, None) else {
            unreachable!("it submits");
        };
        let mut decoded = job.decode_unchecked().unwrap();
        decoded.kind = kind;
        job.job.bytes = decoded.encode();
        Command::RecoverJob {
            job,
            author: "ada".into(),
            holders: vec![],
            package_bytes: 1,
            now: Millis(1),
        }
    };
    assert_eq!(recover(JobKind::service(1)).feature_level(), 0);
    assert_eq!(
        recover(JobKind::Batch(Default::default())).feature_level(),
        1
    );
}
