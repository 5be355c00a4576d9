//! Who leads, and what a leader without its quorum can't do.

use std::time::{Duration, Instant};

use super::hub::{World, agree, eventually, leads, member, node, pin, propose_somewhere};
use crate::{
    clock,
    control::{ProposeError, StartError, Timing},
};
use potluck_specs::Millis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_leads_itself_and_keeps_its_log() {
    let world = World::new();
    let group = world.bootstrap(1).await;
    let first = group.propose(pin("a", "1")).await.unwrap();
    let second = group.propose(pin("a", "2")).await.unwrap();
    assert_eq!(second.reply.as_deref(), Some("1"));
    assert!(second.index > first.index);
    assert_eq!(*group.applied().borrow(), second.index);
    group.linearizable().await.unwrap();
    let now = clock::boot_now();
    assert!(group.last_quorum_ack().unwrap() + Millis(1_000) > now);
    assert_eq!(group.leadership().borrow().leader, Some(node(1)));
    let id = group.raft_id();

    world.stop(1).await;
    assert!(matches!(
        group.propose(pin("a", "3")).await,
        Err(ProposeError::Stopped)
    ));
    let group = world.start(1).await;
    assert_eq!(group.raft_id(), id);
    eventually("it leads again", || leads(&group)).await;
    group.linearizable().await.unwrap();
    assert_eq!(
        group.read(|board| (board.applied, board.texts["a"].clone())),
        (2, "2".into())
    );
    world.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn genesis_happens_once() {
    let world = World::new();
    let group = world.bootstrap(1).await;
    group.propose(pin("a", "1")).await.unwrap();
    world.stop(1).await;
    drop(group);
    let settings = world.settings(1, &world.folder_of(1));
    let again = super::hub::Group::bootstrap(settings, world.port(1)).await;
    assert!(matches!(again, Err(StartError::AlreadyThere)));
    // The attempt did no harm.
    let group = world.start(1).await;
    eventually("it leads again", || leads(&group)).await;
    assert_eq!(
        group.propose(pin("a", "2")).await.unwrap().reply.as_deref(),
        Some("1")
    );
    world.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leads_when_the_leader_dies() {
    let world = World::new();
    let groups = world.group(3).await;
    groups[0].propose(pin("a", "1")).await.unwrap();
    agree(&groups, "a", "1").await;
    let refused = groups[1].propose(pin("a", "x")).await.unwrap_err();
    assert!(
        matches!(refused, ProposeError::NotLeader { leader } if leader == Some(node(1))),
        "{refused}"
    );

    world.stop(1).await;
    let dead = Instant::now();
    propose_somewhere(&groups[1..], pin("b", "2")).await;
    println!("leader dead to next commit: {:?}", dead.elapsed());
    agree(&groups[1..], "a", "1").await;
    agree(&groups[1..], "b", "2").await;

    // The dead one comes back and learns what it missed.
    let back = world.start(1).await;
    agree(std::slice::from_ref(&back), "b", "2").await;
    for number in 1..=3 {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_quorum_commits_nothing_and_knows_it() {
    let world = World::new();
    let groups = world.group(3).await;
    groups[0].propose(pin("a", "1")).await.unwrap();
    let acked = groups[0].last_quorum_ack().unwrap();
    world.hub.isolate(1, true);

    // Accepted before the lease ends or refused after, but never committed.
    let stale = groups[0].clone();
    let (lost, ()) = tokio::join!(stale.propose(pin("a", "lost")), async {
        propose_somewhere(&groups[1..], pin("a", "2")).await;
        // The old leader sees by itself that its time is over, though openraft
        // still calls it a leader.
        eventually("the old leader's lease ends", || {
            let Some(acked) = groups[0].last_quorum_ack() else {
                return Some(());
            };
            (clock::boot_now() > acked + groups[0].quorum_lease()).then_some(())
        })
        .await;
        assert!(groups[0].last_quorum_ack().is_none_or(|now| now >= acked));
        world.hub.isolate(1, false);
    });
    assert!(
        matches!(
            lost,
            Err(ProposeError::NoQuorum | ProposeError::NotLeader { .. })
        ),
        "{lost:?}"
    );
    agree(&groups, "a", "2").await;
    assert_eq!(groups[0].read(|board| board.applied), 2);
    for number in 1..=3 {
        world.stop(number).await;
    }
}

/// Fails if pre-vote is off, and if the network's method is openraft's own,
/// which grants unasked: the lonely node's term then rises with each of its
/// elections, and ends the leader's on its return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lonely_node_disturbs_nobody_when_it_returns() {
    let world = World::new();
    let groups = world.group(3).await;
    groups[0].propose(pin("a", "1")).await.unwrap();
    agree(&groups, "a", "1").await;
    let before = groups[0].leadership().borrow().clone();
    assert!(before.we_lead);

    world.hub.isolate(3, true);
    let elections = Millis(world.timing.election_ms_max * 6);
    eventually("the lonely node could have held several elections", || {
        let heard = groups[2].last_leader_contact()?;
        (clock::boot_now() > heard + elections).then_some(())
    })
    .await;
    let lonely = groups[2].leadership().borrow().term;
    assert_eq!(lonely, before.term, "the lonely node's term rose");

    world.hub.isolate(3, false);
    groups[0].propose(pin("a", "2")).await.unwrap();
    agree(&groups, "a", "2").await;
    let after = groups[0].leadership().borrow().clone();
    assert_eq!(after, before);
    for number in 1..=3 {
        world.stop(number).await;
    }
}

/// Elections by silence take a minute here, so only a transfer moves the
/// leadership. Fails if the network's method is openraft's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_whom_it_is_given() {
    let mut world = World::new();
    world.timing = Timing {
        heartbeat_ms: 100,
        election_ms_min: 59_000,
        election_ms_max: 60_000,
    };
    let groups = world.group(3).await;
    let start = Instant::now();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        // Whoever just came to lead has no lease before it was heard.
        propose_somewhere(&groups[from..=from], pin("a", format!("{from}"))).await;
        let heir = groups[to].raft_id();
        groups[from].transfer_leadership(heir).await.unwrap();
        assert_eq!(
            groups[from].last_quorum_ack(),
            None,
            "the heir waits for no lease"
        );
        eventually("the heir leads", || leads(&groups[to])).await;
    }
    assert!(
        start.elapsed() < Duration::from_secs(59),
        "it was an election"
    );
    eventually("who led before follows", || {
        leads(&groups[1]).is_none().then_some(())
    })
    .await;
    let refused = groups[1].transfer_leadership(groups[0].raft_id()).await;
    assert!(refused.is_err());
    for number in 1..=3 {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_group_restart_and_go_on() {
    let world = World::new();
    let groups = world.group(3).await;
    for round in 0..20 {
        groups[0]
            .propose(pin("a", round.to_string()))
            .await
            .unwrap();
    }
    let ids: Vec<u64> = groups.iter().map(|group| group.raft_id()).collect();
    for number in 1..=3 {
        world.stop(number).await;
    }
    drop(groups);
    let mut groups = Vec::new();
    for number in 1..=3 {
        groups.push(world.start(number).await);
    }
    assert_eq!(
        ids,
        groups
            .iter()
            .map(|group| group.raft_id())
            .collect::<Vec<_>>()
    );
    propose_somewhere(&groups, pin("b", "2")).await;
    agree(&groups, "a", "19").await;
    agree(&groups, "b", "2").await;
    let board = groups[0].read(Clone::clone);
    assert_eq!(board.applied, 21);
    let membership = groups[0].membership();
    assert_eq!(membership.voters.len(), 3);
    assert!(
        membership
            .voters
            .iter()
            .any(|voter| voter.member == member(2))
    );
    for number in 1..=3 {
        world.stop(number).await;
    }
}
