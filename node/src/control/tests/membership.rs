//! Learners, voters, snapshots to newcomers.

use std::{collections::BTreeSet, time::Instant};

use super::hub::{World, agree, eventually, join, member, pin};
use openraft::async_runtime::WatchReceiver;

use crate::control::{COMMAND_BYTES_MAX, ChangeError, ProposeError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_are_replaced_and_learners_forgotten() {
    let world = World::new();
    let groups = world.group(3).await;
    let leader = &groups[0];
    let fourth = world.start(4).await;

    let stranger = BTreeSet::from([leader.raft_id(), fourth.raft_id()]);
    let refused = leader.change_voters(stranger).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Refused { .. }), "{refused}");

    join(leader, &fourth, 4).await;
    let refused = leader.add_learner(fourth.raft_id(), member(5)).await;
    assert!(
        matches!(refused, Err(ChangeError::Refused { .. })),
        "{refused:?}"
    );

    world.stop(3).await;
    let voters: BTreeSet<u64> = [0, 1].map(|k: usize| groups[k].raft_id()).into();
    let with_fourth: BTreeSet<u64> = voters.into_iter().chain([fourth.raft_id()]).collect();
    leader.change_voters(with_fourth.clone()).await.unwrap();
    // The metrics tell of the commit a moment after the caller hears of it.
    eventually("the change is over", || {
        (!leader.membership().changing).then_some(())
    })
    .await;
    let membership = leader.membership();
    let now: BTreeSet<u64> = membership
        .voters
        .iter()
        .map(|voter| voter.raft_id)
        .collect();
    assert_eq!(now, with_fourth);
    assert!(!membership.changing);
    assert_eq!(membership.learners.len(), 1, "the old voter follows on");

    leader.remove_learner(groups[2].raft_id()).await.unwrap();
    assert!(leader.membership().learners.is_empty());
    leader.propose(pin("a", "1")).await.unwrap();
    agree(std::slice::from_ref(&fourth), "a", "1").await;
    let contact = leader.membership().voters;
    assert!(contact.iter().any(|voter| voter.last_contact.is_some()));
    let not_here = fourth.remove_learner(1).await.unwrap_err();
    assert!(
        matches!(not_here, ChangeError::NotLeader { .. }),
        "{not_here}"
    );
    for number in [1, 2, 4] {
        world.stop(number).await;
    }
}

/// The log that a newcomer would need is gone, the state is larger than one
/// message: it comes as a snapshot in parts. A restart takes that snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_gets_a_snapshot_in_parts() {
    let world = World::new();
    let first = world.bootstrap(1).await;
    let text = "x".repeat(300_000);
    for k in 0..6 {
        first.propose(pin(format!("big{k}"), &text)).await.unwrap();
    }
    let raft = &first.inner.raft;
    raft.trigger().snapshot().await.unwrap();
    let upto = *first.applied().borrow();
    eventually("the snapshot is made", || {
        let snapshot = raft.metrics().borrow_watched().snapshot;
        snapshot.filter(|at| at.index >= upto)
    })
    .await;
    raft.trigger().purge_log(upto).await.unwrap();
    eventually("the log is purged", || {
        let purged = raft.metrics().borrow_watched().purged;
        purged.filter(|at| at.index >= upto)
    })
    .await;
    first.propose(pin("small", "1")).await.unwrap();

    let start = Instant::now();
    let second = world.start(2).await;
    join(&first, &second, 2).await;
    agree(std::slice::from_ref(&second), "small", "1").await;
    println!(
        "snapshot of 1.8 MB and the log after it: {:?}",
        start.elapsed()
    );
    assert_eq!(second.read(Clone::clone), first.read(Clone::clone));

    for (number, group) in [(1, first), (2, second)] {
        let expected = group.read(Clone::clone);
        world.stop(number).await;
        drop(group);
        let again = world.start(number).await;
        eventually("the state is there again", || {
            (again.read(Clone::clone) == expected).then_some(())
        })
        .await;
    }
    for number in 1..=2 {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_have_a_largest_size_that_still_travels() {
    let world = World::new();
    let groups = world.group(3).await;
    let frame = potluck_specs::codec::encode(&pin("a", "")).len() + 4;
    let largest = "x".repeat(COMMAND_BYTES_MAX - frame);
    for _ in 0..3 {
        groups[0].propose(pin("a", &largest)).await.unwrap();
    }
    agree(&groups, "a", &largest).await;
    let too_large = groups[0].propose(pin("a", format!("{largest}12345"))).await;
    assert!(matches!(too_large, Err(ProposeError::TooLarge { .. })));
    for number in 1..=3 {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_share_appends() {
    const PROPOSALS: u64 = 2_000;
    let world = World::new();
    let groups = world.group(3).await;
    let before = world.hub.delivered.lock().unwrap()[&super::hub::node(1)];
    let start = Instant::now();
    let all = (0..PROPOSALS).map(|k| groups[0].propose(pin(format!("{}", k % 100), "text")));
    let indexes: BTreeSet<u64> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(|applied| applied.unwrap().index)
        .collect();
    let took = start.elapsed();
    assert_eq!(indexes.len() as u64, PROPOSALS);
    let sent = world.hub.delivered.lock().unwrap()[&super::hub::node(1)] - before;
    println!("{PROPOSALS} proposals, 3 voters on one disk: {took:?}, {sent} requests to followers");
    assert!(
        sent < PROPOSALS,
        "each proposal travelled alone: {sent} requests"
    );
    for number in 1..=3 {
        world.stop(number).await;
    }
}
