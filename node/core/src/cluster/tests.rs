//! The laws of the replicated state.

use super::*;
use potluck_specs::{
    ChangeId, Epoch, FleetId, JobName, Millis, NodeId, NodeName, PackageId, Reign, SlotId,
    Topology, codec,
    job::{Job, JobKind, MountedPackage, Resources, SignedJob, TaskTemplate},
    trust::{NodeCredential, NodeRole, PublicKey, Signed, UserCredential},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

mod circles;
mod completions;
mod exclusive;
mod feature;
mod history;
mod quotas;
mod recovery;
mod redacted;
mod same_tasks;

fn signed(bytes: Vec<u8>) -> Signed {
    Signed {
        bytes,
        signature: [0; 64],
    }
}

fn credential(tag: u8) -> NodeCredential {
    NodeCredential {
        root: PublicKey([1; 32]),
        issuer: signed(vec![]),
        certificate: signed(vec![tag]),
    }
}

fn admission(node: u8, name: &str, tag: u8) -> Box<Admission> {
    Box::new(Admission {
        node: NodeId([node; 32]),
        name: NodeName(name.into()),
        topology: Topology::in_rack("main", "r1"),
        credential: credential(tag),
        serial: u64::from(tag),
        addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
    })
}

fn genesis() -> Command {
    Command::Genesis {
        genesis: Box::new(Genesis {
            fleet: FleetId([7; 32]),
            cluster: "main".into(),
            epoch: Epoch(1),
            root: PublicKey([1; 32]),
            issuer: signed(vec![1]),
            gossip_keys: vec![GossipKey {
                id: 1,
                key: [3; 32],
            }],
            first: *admission(1, "a", 1),
            roles: vec![NodeRole::Agent, NodeRole::VoterEligible],
            now: Millis(1_000),
        }),
    }
}

fn signed_job(name: &str, version: u64, replicas: u32) -> Box<SignedJob> {
    let job = Job {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        name: JobName::in_default(name),
        version,
        kind: JobKind::service(replicas),
        package: PackageId([version as u8; 32]),
        task: TaskTemplate {
            command: "bin/x".into(),
            resources: Resources::default(),
            ..TaskTemplate::default()
        },
        ..Job::default()
    };
    let author = UserCredential {
        root: PublicKey([1; 32]),
        issuer: signed(vec![]),
        certificate: signed(vec![]),
    };
    Box::new(SignedJob {
        job: signed(job.encode()),
        author,
    })
}

/// The same as [`submit`] with further packages, of which some are said to be
/// held by node 1.
fn submit_with(change: u8, name: &str, version: u64, further: &[u8], held: &[u8]) -> Command {
    let mut command = submit(change, name, version, None);
    if let Command::SubmitJob {
        job, further: told, ..
    } = &mut command
    {
        let mut content = job.decode_unchecked().unwrap();
        content.packages = further
            .iter()
            .map(|k| MountedPackage {
                at: format!("/opt/{k}"),
                package: PackageId([*k; 32]),
            })
            .collect();
        job.job = signed(content.encode());
        *told = held
            .iter()
            .map(|k| HeldPackage {
                package: PackageId([*k; 32]),
                bytes: u64::from(*k),
                holders: vec![NodeId([1; 32]), NodeId([99; 32])],
            })
            .collect();
    }
    command
}

fn submit(change: u8, name: &str, version: u64, expected: Option<u64>) -> Command {
    Command::SubmitJob {
        change: ChangeId([change; 16]),
        job: signed_job(name, version, 2),
        author: "ada".into(),
        message: "because".into(),
        holders: vec![NodeId([1; 32]), NodeId([99; 32])],
        package_bytes: 10,
        further: Vec::new(),
        now: Millis(5),
        expected_version: expected,
        origin: Origin::default(),
    }
}

fn create_token(change: u8, id: &str, uses: u32, expires: u64, now: u64) -> Command {
    Command::CreateToken {
        change: ChangeId([change; 16]),
        id: id.into(),
        secret_hash: [5; 32],
        roles: vec![NodeRole::Agent],
        rack: None,
        uses,
        expires: Millis(expires),
        now: Millis(now),
    }
}

fn redeem(id: &str, node: u8, name: &str, tag: u8, now: u64) -> Command {
    Command::RedeemToken {
        token: id.into(),
        secret_hash: [5; 32],
        admission: admission(node, name, tag),
        now: Millis(now),
    }
}

fn begun() -> Cluster {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.apply(1, &genesis()), Reply::Done);
    cluster
}

fn admitted(tag: u8) -> Reply {
    Reply::Admitted {
        credential: Box::new(credential(tag)),
    }
}

fn no_entry(why: TokenRefusal) -> Reply {
    Reply::TokenRefused { why }
}

#[test]
fn genesis_happens_once_and_first() {
    let mut cluster = Cluster::new();
    let reign = Command::Reign {
        leader: NodeId([1; 32]),
    };
    assert_eq!(cluster.apply(1, &reign), Reply::refused(Refused::NotBegun));
    assert_eq!(cluster.apply(2, &genesis()), Reply::Done);
    assert_eq!(
        cluster.apply(3, &genesis()),
        Reply::refused(Refused::AlreadyBegun)
    );
    cluster.apply(9, &reign);
    assert_eq!(cluster.authority().epoch, Epoch(1));
    assert_eq!(cluster.authority().reign, Reign(9));
    assert_eq!(cluster.leader(), Some(NodeId([1; 32])));
}

#[test]
fn a_token_refuses_with_the_reason() {
    let mut cluster = begun();
    cluster.apply(2, &create_token(1, "t", 2, 100, 0));
    let mut wrong = redeem("t", 2, "b", 2, 50);
    if let Command::RedeemToken { secret_hash, .. } = &mut wrong {
        *secret_hash = [6; 32];
    }
    let mut elsewhere = redeem("t", 2, "b", 2, 50);
    if let Command::RedeemToken { admission, .. } = &mut elsewhere {
        admission.topology.cluster = "other".into();
    }
    let table = [
        (redeem("u", 2, "b", 2, 50), no_entry(TokenRefusal::Unknown)),
        (wrong, no_entry(TokenRefusal::WrongSecret)),
        (redeem("t", 2, "b", 2, 101), no_entry(TokenRefusal::Expired)),
        (
            elsewhere,
            no_entry(TokenRefusal::WrongCluster {
                ours: "main".into(),
            }),
        ),
        (
            redeem("t", 2, "a", 2, 50),
            no_entry(TokenRefusal::NameTaken {
                name: NodeName("a".into()),
                by: NodeId([1; 32]),
            }),
        ),
        (redeem("t", 2, "b", 2, 50), admitted(2)),
        (redeem("t", 3, "c", 3, 50), admitted(3)),
        (redeem("t", 4, "d", 4, 50), no_entry(TokenRefusal::UsedUp)),
        // The same node again, with another certificate, late, used up: the
        // answer that it got.
        (redeem("t", 2, "b", 77, 1_000), admitted(2)),
    ];
    for (index, (command, reply)) in table.into_iter().enumerate() {
        assert_eq!(
            cluster.apply(index as u64 + 3, &command),
            reply,
            "{command:?}"
        );
    }
    assert_eq!(cluster.members().len(), 3);
}

#[test]
fn a_rack_token_admits_to_its_rack() {
    let mut cluster = begun();
    let mut create = create_token(1, "t", 1, 100, 0);
    if let Command::CreateToken { rack, .. } = &mut create {
        *rack = Some("r2".into());
    }
    cluster.apply(2, &create);
    assert_eq!(
        cluster.apply(3, &redeem("t", 2, "b", 2, 50)),
        no_entry(TokenRefusal::WrongRack {
            allowed: "r2".into()
        })
    );
}

#[test]
fn tables_are_bounded() {
    let mut cluster = begun();
    let uses = MEMBERS_MAX as u32 + 10;
    cluster.apply(2, &create_token(1, "t", uses, 100, 0));
    let mut last = Reply::Done;
    for k in 0..MEMBERS_MAX as u32 {
        let mut command = redeem("t", 2, &format!("n{k}"), 2, 50);
        if let Command::RedeemToken { admission, .. } = &mut command {
            admission.node.0[..4].copy_from_slice(&k.to_be_bytes());
        }
        last = cluster.apply(3, &command);
    }
    let members = MEMBERS_MAX as u32;
    assert_eq!(last, no_entry(TokenRefusal::ClusterFull { members }));
    for k in 0..TOKENS_MAX as u64 {
        let mut create = create_token(0, &format!("x{k}"), 1, 100, 0);
        if let Command::CreateToken { change, .. } = &mut create {
            change.0[..8].copy_from_slice(&(k + 1).to_be_bytes());
        }
        last = cluster.apply(4, &create);
    }
    assert!(matches!(
        &last,
        Reply::Refused {
            why: Refused::TooMany { .. }
        }
    ));
    // Expired ones make room.
    assert_eq!(
        cluster.apply(5, &create_token(250, "late", 1, 300, 200)),
        Reply::Done
    );
    assert_eq!(cluster.tokens().len(), 1);
}

#[test]
fn versions_follow_each_other() {
    let mut cluster = begun();
    let table = [
        (submit(1, "web", 2, None), Reply::Conflict { current: 0 }),
        (submit(2, "web", 1, None), Reply::Accepted { version: 1 }),
        (submit(3, "web", 1, None), Reply::Conflict { current: 1 }),
        (submit(4, "web", 2, Some(0)), Reply::Conflict { current: 1 }),
        (submit(5, "web", 2, Some(1)), Reply::Accepted { version: 2 }),
        // Repeats get the first answer, whatever happened since.
        (submit(2, "web", 1, None), Reply::Accepted { version: 1 }),
        (submit(1, "web", 2, None), Reply::Conflict { current: 0 }),
    ];
    for (index, (command, reply)) in table.into_iter().enumerate() {
        assert_eq!(cluster.apply(index as u64 + 2, &command), reply);
    }
    let job = &cluster.jobs()[&JobName::in_default("web")];
    assert_eq!(job.current().version, 2);
    assert_eq!(job.current().replicas, 2);
}

#[test]
fn a_stopped_job_starts_again_with_a_new_version() {
    let mut cluster = begun();
    let web = JobName::in_default("web");
    let stop = Command::StopJob {
        change: ChangeId([9; 16]),
        job: web.clone(),
        author: "ada".into(),
        now: Millis(1),
    };
    assert!(matches!(
        cluster.clone().apply(2, &stop),
        Reply::Refused { .. }
    ));
    cluster.apply(2, &submit(1, "web", 1, None));
    assert_eq!(cluster.apply(3, &stop), Reply::Done);
    assert!(cluster.jobs()[&web].stopped);
    cluster.apply(4, &submit(2, "web", 2, None));
    assert!(!cluster.jobs()[&web].stopped);
}

#[test]
fn further_packages_are_pinned_as_long_as_a_version_has_them() {
    let mut cluster = begun();
    let pinned =
        |cluster: &Cluster| -> Vec<u8> { cluster.packages().keys().map(|id| id.0[0]).collect() };
    // Of what is told only that counts which the job names; the program again
    // is no further one.
    cluster.apply(
        2,
        &submit_with(1, "web", 1, &[1, 100, 101, 100], &[100, 102]),
    );
    assert_eq!(pinned(&cluster), [1, 100, 101]);
    let record = |k: u8| cluster.packages()[&PackageId([k; 32])].clone();
    let (known, unknown) = (record(100), record(101));
    assert_eq!((known.bytes, known.holders.len()), (100, 1), "a member");
    assert_eq!((unknown.bytes, unknown.holders.len()), (0, 0));
    // Another job has one of them too, under its first version.
    cluster.apply(3, &submit_with(2, "db", 1, &[101], &[101]));
    let last = VERSIONS_KEPT as u64 + 1;
    for version in 2..=last {
        cluster.apply(
            version + 2,
            &submit(version as u8 + 1, "web", version, None),
        );
    }
    let has = |k: u8| cluster.packages().contains_key(&PackageId([k; 32]));
    assert!(!has(100), "it went with its last version");
    assert!(has(101) && has(1), "the other job has them");
    assert_eq!(cluster.packages()[&PackageId([101; 32])].holders.len(), 1);
    // A snapshot holds to it.
    let bytes = codec::encode(&cluster);
    let restored: Cluster = codec::decode("cluster", &bytes, 64 << 20).unwrap();
    assert_eq!(restored, cluster);
}

#[test]
fn a_command_without_further_packages_is_encoded_as_ever() {
    let bytes = codec::encode(&submit(1, "web", 1, None));
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("package_bytes") && !text.contains("further"));
}

#[test]
fn old_versions_and_their_packages_go() {
    let mut cluster = begun();
    for version in 1..=VERSIONS_KEPT as u64 + 3 {
        cluster.apply(version + 1, &submit(version as u8, "web", version, None));
    }
    let job = &cluster.jobs()[&JobName::in_default("web")];
    assert_eq!(job.versions.len(), VERSIONS_KEPT);
    assert!(job.version(3).is_none() && job.version(4).is_some());
    assert_eq!(cluster.packages().len(), VERSIONS_KEPT);
    // Only members count as holders.
    let holders = &cluster.packages()[&PackageId([9; 32])].holders;
    assert_eq!(holders.len(), 1);
}

#[test]
fn placements_are_of_the_reign_that_saw_them() {
    let mut cluster = begun();
    cluster.apply(2, &submit(1, "web", 1, None));
    cluster.apply(
        3,
        &Command::Reign {
            leader: NodeId([1; 32]),
        },
    );
    let slot = |name: &str, index| SlotId {
        job: JobName::in_default(name),
        index,
    };
    let record = |reign, name: &str, freed| Command::RecordPlacements {
        reign: Reign(reign),
        filled: vec![Placement {
            slot: slot(name, 0),
            node: NodeId([1; 32]),
            generation: Default::default(),
        }],
        freed,
    };
    assert_eq!(
        cluster.apply(4, &record(2, "web", vec![])),
        Reply::refused(Refused::StaleReign)
    );
    cluster.apply(5, &record(3, "nobody", vec![]));
    assert!(cluster.placements().is_empty());
    cluster.apply(6, &record(3, "web", vec![]));
    assert!(cluster.placements().contains_key(&slot("web", 0)));
    cluster.apply(7, &record(3, "nobody", vec![slot("web", 0)]));
    assert!(cluster.placements().is_empty());
}

#[test]
fn who_leaves_is_forgotten_and_revoked() {
    let mut cluster = begun();
    cluster.apply(2, &create_token(1, "t", 2, 100, 0));
    cluster.apply(3, &redeem("t", 2, "b", 2, 1));
    let node = NodeId([2; 32]);
    let raft = |raft_id| Command::RecordMember {
        node,
        addresses: None,
        capacity: None,
        raft_id: Some(raft_id),
        feature_level: Some(1),
    };
    assert_eq!(cluster.apply(4, &raft(5)), Reply::Done);
    assert_eq!(cluster.apply(5, &raft(5)), Reply::Done);
    // A new folder brings a new id, lower or higher; an old one never returns.
    assert_eq!(cluster.apply(5, &raft(4)), Reply::Done);
    let taken = Reply::refused(Refused::RaftIdTaken { raft_id: 5 });
    assert_eq!(cluster.apply(6, &raft(5)), taken);
    let remove = Command::RemoveMember {
        node,
        now: Millis(10),
    };
    assert_eq!(cluster.apply(7, &remove), Reply::Done);
    assert!(cluster.is_revoked(2));
    // It may come back, as a new use of the token.
    assert_eq!(cluster.apply(8, &redeem("t", 2, "b", 8, 11)), admitted(8));
    assert_eq!(cluster.tokens()["t"].uses_left, 0);
    // Revocations outlive certificates, not more.
    let later = Command::Revoke {
        serial: 99,
        now: Millis(90 * 86_400_000),
    };
    cluster.apply(9, &later);
    assert!(!cluster.is_revoked(2) && cluster.is_revoked(99));
}

#[test]
fn no_member_uses_up_the_ids_of_the_control_group() {
    let mut state = begun();
    state.apply(2, &create_token(1, "t", 2, 9_000, 10));
    assert_eq!(state.apply(3, &redeem("t", 2, "n2", 7, 20)), admitted(7));
    let raft = |node: u8, raft_id| Command::RecordMember {
        node: NodeId([node; 32]),
        addresses: None,
        capacity: None,
        raft_id: Some(raft_id),
        feature_level: None,
    };
    let most = u64::from(members::RAFT_IDS_EACH_MAX);
    for id in 100..100 + most {
        assert_eq!(state.apply(id, &raft(2, id)), Reply::Done);
        // What is known already is no new one.
        assert_eq!(state.apply(id, &raft(2, id)), Reply::Done);
    }
    let refused = state.apply(900, &raft(2, 900));
    assert!(
        matches!(
            refused,
            Reply::Refused {
                why: Refused::TooMany { .. }
            }
        ),
        "{refused:?}"
    );
    let newest = state.members()[&NodeId([2; 32])].raft_id;
    assert_eq!(newest, Some(99 + most));
    // Others still get theirs.
    assert_eq!(state.apply(901, &raft(1, 901)), Reply::Done);
}

#[test]
fn a_batch_is_its_commands_in_order() {
    let mut cluster = begun();
    let batch = Command::Batch {
        commands: vec![
            create_token(1, "t", 1, 100, 0),
            redeem("t", 2, "b", 2, 1),
            Command::Batch { commands: vec![] },
        ],
    };
    let replies = vec![
        Reply::Done,
        admitted(2),
        Reply::refused(Refused::NestedBatch),
    ];
    assert_eq!(cluster.apply(2, &batch), Reply::Batch { replies });
}

fn any_command() -> impl Strategy<Value = Command> {
    let node = 0u8..5;
    let change = 0u8..12;
    prop_oneof![
        Just(genesis()),
        node.clone().prop_map(|n| Command::Reign {
            leader: NodeId([n; 32])
        }),
        (change.clone(), 0u8..3, 0u32..3, 0u64..50)
            .prop_map(|(c, id, uses, now)| { create_token(c, &format!("t{id}"), uses, 40, now) }),
        (0u8..3, node.clone(), 0u8..4, any::<u8>(), 0u64..60).prop_map(
            |(id, n, name, tag, now)| redeem(&format!("t{id}"), n, &format!("n{name}"), tag, now)
        ),
        (
            change.clone(),
            0u8..2,
            0u64..4,
            proptest::option::of(0u64..4)
        )
            .prop_map(|(c, name, version, expected)| submit(
                c,
                &format!("j{name}"),
                version,
                expected
            )),
        (change.clone(), 0u64..4, 1u32..5)
            .prop_map(|(c, version, count)| { completions::submit_work(c, "j0", version, count) }),
        (0u64..20, 0u32..6, 0u64..9, any::<bool>()).prop_map(|(reign, index, sequence, ok)| {
            completions::ended("j0", reign, index, sequence, ok)
        }),
        (0u64..20, 0u64..4, 0u64..200).prop_map(|(reign, began_version, now)| {
            Command::ExpireBatch {
                reign: Reign(reign),
                job: JobName::in_default("j0"),
                began_version,
                now: Millis(now),
            }
        }),
        (change.clone(), 0u8..2).prop_map(|(c, name)| Command::StopJob {
            change: ChangeId([c; 16]),
            job: JobName::in_default(&format!("j{name}")),
            author: "bob".into(),
            now: Millis(3),
        }),
        (change.clone(), 0u64..3, any::<bool>()).prop_map(|(c, jobs, is_set)| Command::SetQuota {
            change: ChangeId([c; 16]),
            namespace: "default".into(),
            quota: is_set.then_some(Quota {
                jobs: Some(jobs),
                ..Quota::default()
            }),
        }),
        (change, node.clone(), any::<bool>()).prop_map(|(c, n, draining)| Command::SetDraining {
            change: ChangeId([c; 16]),
            node: NodeId([n; 32]),
            draining,
        }),
        (node.clone(), 0u64..100).prop_map(|(n, now)| Command::RemoveMember {
            node: NodeId([n; 32]),
            now: Millis(now),
        }),
        (node.clone(), proptest::collection::vec(any::<u8>(), 0..600)).prop_map(|(n, sealed)| {
            Command::SealIssuer {
                node: NodeId([n; 32]),
                sealed,
            }
        }),
        (node.clone(), 0u64..9).prop_map(|(n, raft_id)| Command::RecordMember {
            node: NodeId([n; 32]),
            addresses: Some(vec!["x".repeat(400), "y".into()]),
            capacity: None,
            raft_id: Some(raft_id),
            feature_level: None,
        }),
        (0u64..20, 0u32..3, node).prop_map(|(reign, index, n)| Command::RecordPlacements {
            reign: Reign(reign),
            filled: vec![Placement {
                slot: SlotId {
                    job: JobName::in_default("j0"),
                    index
                },
                node: NodeId([n; 32]),
                generation: Default::default(),
            }],
            freed: vec![SlotId {
                job: JobName::in_default("j0"),
                index: index + 1
            }],
        }),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| {
            let mut command = submit(200, "bad", 1, None);
            if let Command::SubmitJob { job, .. } = &mut command {
                job.job.bytes = bytes;
            }
            command
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The same log gives the same state, and a snapshot taken anywhere in it
    /// changes nothing about what follows.
    #[test]
    fn a_snapshot_continues_like_the_original(
        commands in proptest::collection::vec(any_command(), 1..60),
        cut in 0usize..60,
    ) {
        let mut original = begun();
        let mut restored = begun();
        for (index, command) in commands.iter().enumerate() {
            if index == cut {
                let bytes = codec::encode(&restored);
                restored = codec::decode("cluster", &bytes, 64 << 20).unwrap();
                prop_assert_eq!(&restored, &original);
            }
            let bytes = codec::encode(command);
            let travelled: Command = codec::decode("command", &bytes, 4 << 20).unwrap();
            let index = index as u64 + 2;
            prop_assert_eq!(original.apply(index, command), restored.apply(index, &travelled));
        }
        prop_assert_eq!(codec::encode(&original), codec::encode(&restored));
    }

    /// However often and in whatever order nodes come, a token admits as many
    /// of them as it says, and tells each the same each time.
    #[test]
    fn a_token_is_counted_once_per_node(
        uses in 0u32..4,
        comers in proptest::collection::vec((2u8..9, any::<u8>()), 0..40),
    ) {
        let mut cluster = begun();
        cluster.apply(2, &create_token(1, "t", uses, 100, 0));
        let mut answers: BTreeMap<u8, Reply> = BTreeMap::new();
        for (node, tag) in comers {
            let reply = cluster.apply(3, &redeem("t", node, &format!("n{node}"), tag, 1));
            if let Some(earlier) = answers.get(&node) {
                prop_assert_eq!(&reply, earlier);
            } else if matches!(reply, Reply::Admitted { .. }) {
                answers.insert(node, reply);
            }
        }
        prop_assert!(answers.len() <= uses as usize);
        prop_assert_eq!(cluster.members().len(), answers.len() + 1);
    }

    /// A repeated change changes nothing and gets the first answer.
    #[test]
    fn repeats_get_the_first_answer(commands in proptest::collection::vec(any_command(), 1..40)) {
        let mut once = begun();
        let mut twice = begun();
        for (index, command) in commands.iter().enumerate() {
            let index = index as u64 + 2;
            let repeats = matches!(
                command,
                Command::SubmitJob { .. } | Command::CreateToken { .. } | Command::SetDraining { .. }
            );
            let first = once.apply(index, command);
            prop_assert_eq!(&twice.apply(index, command), &first);
            if repeats {
                prop_assert_eq!(&twice.apply(index, command), &first);
            }
        }
        prop_assert_eq!(once, twice);
    }
}
