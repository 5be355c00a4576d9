//! Most voters lost for good: a survivor's log goes on under a later epoch.

use potluck_specs::{Epoch, codec};

use super::hub::{Group, World, agree, eventually, join, leads, member, pin, propose_somewhere};
use crate::control::{StoreError, recover};

/// Rewrites a stopped group's folder, as a start after the order does.
fn rewrite(world: &World, number: u8, epoch: u64) -> Result<(), StoreError> {
    let command = codec::encode(&pin("recovered", epoch.to_string()));
    let folder = world.folder_of(number);
    recover(&folder, &member(number), Epoch(epoch), &command)
}

fn voters(group: &Group) -> Vec<u64> {
    let membership = group.membership();
    membership.voters.iter().map(|v| v.raft_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_voters_goes_on_alone_and_grows_again() {
    let mut world = World::new();
    let groups = world.group(3).await;
    propose_somewhere(&groups, pin("a", "1")).await;
    agree(&groups, "a", "1").await;
    let old_ids: Vec<u64> = groups.iter().map(Group::raft_id).collect();
    for number in 1..=3 {
        world.stop(number).await;
    }
    drop(groups);
    rewrite(&world, 3, 2).unwrap();

    // Even with the epoch of before in its other files: the log's counts.
    let survivor = world.start(3).await;
    eventually("the survivor leads", || leads(&survivor)).await;
    assert_eq!(survivor.epoch(), Epoch(2));
    assert_eq!(voters(&survivor), [old_ids[2]], "this node and nobody else");
    agree(std::slice::from_ref(&survivor), "a", "1").await;
    agree(std::slice::from_ref(&survivor), "recovered", "2").await;
    survivor.propose(pin("b", "2")).await.unwrap();

    // The others of the old epoch, a majority of it, are told and do no harm.
    let (old_first, old_second) = (world.start(1).await, world.start(2).await);
    propose_somewhere(&[old_first.clone(), old_second.clone()], pin("a", "old")).await;
    let seen = [old_first.leadership(), old_second.leadership()];
    eventually("the old leader hears of the new epoch", || {
        let superseded = |seen| Some(Epoch(2)) == seen;
        seen.iter()
            .any(|seen| superseded(seen.borrow().superseded_by))
            .then_some(())
    })
    .await;
    assert!(survivor.read(|board| board.texts["a"] == "1"));
    world.stop(1).await;
    world.stop(2).await;
    drop((old_first, old_second));

    // At the new epoch they come with new ids and nothing of their own.
    world.epoch = Epoch(2);
    let mut all = vec![survivor.clone()];
    for number in [1, 2] {
        let again = world.start(number).await;
        assert!(!old_ids.contains(&again.raft_id()), "ids are never reused");
        assert!(again.read(|board| board.texts.is_empty()));
        let aside = world.folder_of(number).join("log.epoch-past-1");
        assert!(aside.exists(), "the old log is kept");
        join(&survivor, &again, number).await;
        all.push(again);
    }
    let ids = all.iter().map(Group::raft_id).collect();
    survivor.change_voters(ids).await.unwrap();
    propose_somewhere(&all, pin("c", "3")).await;
    for (name, text) in [("a", "1"), ("b", "2"), ("c", "3")] {
        agree(&all, name, text).await;
    }
    for number in 1..=3 {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_with_a_snapshot_only_goes_on_alone() {
    let world = World::new();
    let first = world.bootstrap(1).await;
    first.propose(pin("a", "1")).await.unwrap();
    let raft = &first.inner.raft;
    raft.trigger().snapshot().await.unwrap();
    let upto = *first.applied().borrow();
    raft.trigger().purge_log(upto).await.unwrap();
    let learner = world.start(2).await;
    join(&first, &learner, 2).await;
    agree(std::slice::from_ref(&learner), "a", "1").await;
    world.stop(1).await;
    world.stop(2).await;
    drop((first, learner));

    rewrite(&world, 2, 7).unwrap();
    // A second time, as after a crash behind the first: nothing more happens.
    rewrite(&world, 2, 7).unwrap();
    let survivor = world.start(2).await;
    eventually("the survivor leads", || leads(&survivor)).await;
    assert_eq!(survivor.epoch(), Epoch(7));
    agree(std::slice::from_ref(&survivor), "a", "1").await;
    agree(std::slice::from_ref(&survivor), "recovered", "7").await;
    survivor.propose(pin("b", "2")).await.unwrap();

    // A restart finds all of it again.
    world.stop(2).await;
    drop(survivor);
    let again = world.start(2).await;
    eventually("it leads again", || leads(&again)).await;
    for (name, text) in [("a", "1"), ("recovered", "7"), ("b", "2")] {
        agree(std::slice::from_ref(&again), name, text).await;
    }
    world.stop(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_nothing_to_go_on_with_in_a_folder_without_a_log() {
    let world = World::new();
    let nowhere = rewrite(&world, 1, 2).unwrap_err();
    assert!(matches!(nowhere, StoreError::Empty { .. }), "{nowhere}");
    let waiting = world.start(1).await;
    world.stop(1).await;
    drop(waiting);
    let empty = rewrite(&world, 1, 2).unwrap_err();
    assert!(matches!(empty, StoreError::Empty { .. }), "{empty}");
}
