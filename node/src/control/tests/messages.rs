//! What is refused, and the encodings that must not change.

use potluck_specs::{Epoch, FleetId, codec};
use proptest::prelude::*;

use super::hub::{World, eventually, join, leads, member, node, pin};
use crate::control::{
    consensus::{EntryRecord, MembershipRecord, PayloadRecord, Position, VoteRecord},
    messages::{Answer, Append, Ballot, Body, Envelope, MESSAGE_BYTES_MAX, Refusal},
};

fn ballot(from: u64, to: u64) -> Envelope {
    Envelope {
        fleet: FleetId([9; 32]),
        cluster: "test".into(),
        epoch: Epoch(1),
        from,
        to,
        body: Body::PreVote(Ballot {
            vote: VoteRecord {
                term: 1,
                raft_id: from,
                elected: false,
            },
            last: None,
            transfer: false,
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_the_past_are_refused() {
    let mut world = World::new();
    world.epoch = Epoch(2);
    let group = world.bootstrap(1).await;
    let me = group.raft_id();
    let ask = async |from: u8, envelope: Envelope| {
        let answer = group.receive(node(from), codec::encode(&envelope)).await;
        codec::decode::<Answer>("answer", &answer, MESSAGE_BYTES_MAX).unwrap()
    };
    let good = Envelope {
        epoch: Epoch(2),
        ..ballot(7, me)
    };
    assert!(matches!(ask(2, good.clone()).await, Answer::Vote(_)));

    let epoch = Epoch(2);
    let cases = [
        (
            Envelope {
                fleet: FleetId([8; 32]),
                ..good.clone()
            },
            Refusal::Foreign,
        ),
        (
            Envelope {
                cluster: "other".into(),
                ..good.clone()
            },
            Refusal::Foreign,
        ),
        (
            Envelope {
                epoch: Epoch(1),
                ..good.clone()
            },
            Refusal::OlderEpoch { epoch },
        ),
        (
            Envelope {
                epoch: Epoch(3),
                ..good.clone()
            },
            Refusal::NewerEpoch { epoch },
        ),
        (
            Envelope {
                to: me ^ 1,
                ..good.clone()
            },
            Refusal::NotMe,
        ),
        // A Raft id that belongs to node 1, and a vote in another's name.
        (
            Envelope {
                epoch,
                ..ballot(me, me)
            },
            Refusal::NotYou,
        ),
        (
            Envelope {
                from: 8,
                ..good.clone()
            },
            Refusal::NotYou,
        ),
    ];
    for (envelope, expected) in cases {
        match ask(2, envelope).await {
            Answer::Refused(refusal) => assert_eq!(refusal, expected),
            answer => panic!("{expected:?} expected, not {answer:?}"),
        }
    }
    let seen = group.leadership();
    eventually("the newer epoch is noticed", || {
        (seen.borrow().superseded_by == Some(Epoch(3))).then_some(())
    })
    .await;
    world.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_of_an_older_epoch_is_told() {
    let mut world = World::new();
    let old = world.bootstrap(1).await;
    world.epoch = Epoch(2);
    let new = world.start(2).await;
    old.add_learner(new.raft_id(), member(2)).await.unwrap();
    let seen = old.leadership();
    eventually("the old leader hears of the new epoch", || {
        (seen.borrow().superseded_by == Some(Epoch(2))).then_some(())
    })
    .await;
    old.propose(pin("a", "1")).await.unwrap();
    assert_eq!(new.read(|board| board.applied), 0);
    world.stop(1).await;
    world.stop(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_was_lost_gets_a_new_id() {
    let world = World::new();
    let first = world.bootstrap(1).await;
    let second = world.start(2).await;
    join(&first, &second, 2).await;
    let lost = second.raft_id();
    world.stop(2).await;
    drop(second);

    std::fs::remove_file(world.folder_of(2).join("state.redb")).unwrap();
    let second = world.start(2).await;
    assert_ne!(second.raft_id(), lost);
    assert!(world.folder_of(2).join("log.lost-1").exists());
    assert!(leads(&second).is_none());
    // The old id's messages reach the same node, which refuses them.
    first.propose(pin("a", "1")).await.unwrap();
    join(&first, &second, 2).await;
    assert_eq!(second.read(|board| board.applied), 1);
    world.stop(2).await;
    drop(second);

    std::fs::remove_dir_all(world.folder_of(2)).unwrap();
    let third = world.start(2).await;
    assert_ne!(third.raft_id(), lost);
    world.stop(1).await;
    world.stop(2).await;
}

#[test]
fn entries_on_disk_keep_their_first_encoding() {
    let entry = EntryRecord {
        at: Position {
            term: 3,
            index: 500,
        },
        payload: PayloadRecord::Command(vec![1, 2, 3]),
    };
    let shipped =
        "a2626174a2647465726d0365696e6465781901f4677061796c6f6164a167436f6d6d616e6443010203";
    let bytes = data_encoding::HEXLOWER.decode(shipped.as_bytes()).unwrap();
    assert_eq!(
        codec::decode::<EntryRecord>("entry", &bytes, 1 << 10).unwrap(),
        entry
    );
    assert_eq!(
        data_encoding::HEXLOWER.encode(&codec::encode(&entry)),
        shipped
    );

    let membership = EntryRecord {
        at: Position { term: 1, index: 0 },
        payload: PayloadRecord::Membership(MembershipRecord {
            voters: vec![[7].into()],
            members: [(7, member(1))].into(),
        }),
    };
    let bytes = codec::encode(&membership);
    assert_eq!(
        codec::decode::<EntryRecord>("entry", &bytes, 1 << 10).unwrap(),
        membership
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode::<Envelope>("message", &bytes, MESSAGE_BYTES_MAX);
        let _ = codec::decode::<Answer>("answer", &bytes, MESSAGE_BYTES_MAX);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(at in 0_usize..1_000, with in any::<u8>()) {
        let mut bytes = codec::encode(&Envelope {
            body: Body::Append(Append {
                leader: VoteRecord { term: 1, raft_id: 7, elected: true },
                previous: Some(Position { term: 1, index: 4 }),
                entries: vec![EntryRecord {
                    at: Position { term: 1, index: 5 },
                    payload: PayloadRecord::Command(vec![5; 40]),
                }],
                committed: None,
            }),
            ..ballot(7, 8)
        });
        let at = at % bytes.len();
        bytes[at] = with;
        let _ = codec::decode::<Envelope>("message", &bytes, MESSAGE_BYTES_MAX);
    }
}
