//! Changes that leave tasks alone.

use super::*;
use crate::cluster::{RolloutControl, RolloutPhase};
use potluck_specs::job::StageSize;

impl World {
    /// What runs where, with what would tell that it was started again.
    pub(super) fn tasks(&self) -> BTreeMap<SlotId, (NodeId, Generation, u32)> {
        let hosts = self.hosts.iter().filter(|(_, host)| host.alive);
        let reports = hosts.flat_map(|(node, host)| {
            let slots = host.slots.values();
            slots.map(|report| (*node, report))
        });
        reports
            .map(|(node, report)| {
                let what = (node, report.generation, report.starts);
                (report.slot.clone(), what)
            })
            .collect()
    }
}

fn web() -> JobName {
    JobName::in_default("web")
}

#[test]
fn a_change_beside_the_task_restarts_none() {
    let mut world = World::new("aabbcc");
    world.submit(1, 6, 400);
    world.until("healthy", |w| w.healthy(6) == 6);
    let published = |w: &World| w.services.get("web").map_or(0, Vec::len);
    world.until("published", |w| published(w) == 6);
    let before = world.tasks();
    let endpoints = world.services["web"].clone();
    let mut next = job(2, 6, 400);
    next.priority = 80;
    next.owner = "ann".into();
    next.change.budget = Some(potluck_specs::job::Amount::Count(3));
    next.change.update.health_deadline_ms = 77_000;
    world.submit_job(&next);
    assert_eq!(world.phase(), RolloutPhase::Done);
    world.run(20_000);
    assert_eq!(world.tasks(), before, "{}", world.show());
    assert_eq!(world.services["web"], endpoints);
    let ledger = world.scheduler.ledger(&world.cluster, &web()).unwrap();
    assert_eq!(ledger.budget, 3, "the new budget counts");
    // More tasks, in any number of steps, and after each scheduler.
    for (version, replicas) in [(3, 7), (4, 9)] {
        world.submit(version, replicas, 400);
        world.until("more", |w| w.healthy(replicas) == replicas);
    }
    world.reign(2);
    world.run(20_000);
    let now = world.tasks();
    assert_eq!(now.len(), 9);
    assert!(before.iter().all(|(slot, task)| now[slot] == *task));
    assert_eq!(world.serving("web", Some(1)), 6);
    assert_eq!(published(&world), 9);
    // One that has to start anew is of the newest version.
    let lost = world.on(&slot(0))[0];
    world.host(lost.0[0]).alive = false;
    world.until("healed", |w| w.healthy(9) == 9);
    let holder = world.on(&slot(0))[0];
    assert_eq!(world.hosts[&holder].slots[&slot(0)].version, 4);
    // And fewer.
    world.submit(5, 2, 400);
    world.until("fewer", |w| w.tasks().len() == 2);
}

#[test]
fn a_small_change_in_a_rollout_neither_stops_nor_repeats_it() {
    let mut world = World::new("aabbcc");
    world.submit(1, 6, 400);
    world.until("healthy", |w| w.healthy(6) == 6);
    let mut next = change::staged(2, 6, &[(StageSize::Count(2), 5_000)]);
    world.submit_job(&next);
    world.until("two", |w| w.serving("web", Some(2)) == 2);
    let before = world.tasks();
    next.version = 3;
    next.priority = 70;
    world.submit_job(&next);
    world.run(2_000);
    assert_eq!(world.tasks(), before, "{}", world.show());
    world.until("done", |w| w.phase() == RolloutPhase::Done);
    assert_eq!(world.serving("web", Some(2)), 2);
    assert_eq!(world.serving("web", Some(3)), 4);
    let all: BTreeMap<_, _> = world.tasks().into_iter().collect();
    for k in 0..2 {
        assert_eq!(all[&slot(k)], before[&slot(k)]);
    }
    // Undone, it is undone whole.
    assert_eq!(world.control(RolloutControl::Undo), Reply::Done);
    world.until("back", |w| w.serving("web", Some(1)) == 6);
}

#[test]
fn a_stage_is_not_given_more_time_by_a_small_change() {
    let mut world = World::new("abc");
    world.submit(1, 3, 400);
    world.until("healthy", |w| w.healthy(3) == 3);
    let mut next = job(2, 3, 500);
    next.change.update.health_deadline_ms = 20_000;
    for host in world.hosts.values_mut() {
        host.sick_version = 2;
    }
    world.submit_job(&next);
    world.run(15_000);
    next.version = 3;
    next.priority = 70;
    world.submit_job(&next);
    assert_eq!(world.phase(), RolloutPhase::Rolling);
    world.run(7_000);
    assert!(
        matches!(world.phase(), RolloutPhase::Failed { .. }),
        "{}",
        world.show()
    );
}

#[test]
fn the_newest_priority_says_who_makes_room() {
    let mut world = World::new("a");
    let mut low = job(1, 1, 3_000);
    low.priority = 10;
    world.submit_job(&low);
    world.until("healthy", |w| w.healthy(1) == 1);
    low.version = 2;
    low.priority = 90;
    world.submit_job(&low);
    let mut other = job(1, 1, 3_000);
    other.name = JobName::in_default("other");
    other.priority = 50;
    world.submit_job(&other);
    world.run(20_000);
    assert_eq!(world.serving("web", Some(1)), 1, "{}", world.show());
    low.version = 3;
    low.priority = 20;
    world.submit_job(&low);
    world.until("preempted", |w| w.serving("other", None) == 1);
    assert_eq!(world.serving("web", None), 0);
}
