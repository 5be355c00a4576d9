//! Stages of places: rack after rack, with bakes, failures and new schedulers
//! in between.

use super::{
    change::{staged, web},
    *,
};
use crate::cluster::{Rollout, RolloutPhase};
use potluck_specs::job::StageSize;

impl World {
    fn rollout(&self) -> &Rollout {
        self.cluster.rollout(&web()).expect("a rollout")
    }

    /// Endpoints that the scheduler calls healthy.
    fn serving_published(&self) -> usize {
        let web = self.services.get("web");
        web.map_or(0, |web| web.iter().filter(|e| e.healthy).count())
    }

    fn place(&self) -> Option<&str> {
        self.rollout().place.as_deref()
    }

    /// Slots whose tasks are in each rack.
    fn slots_by_rack(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let mut racks: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (id, host) in &self.hosts {
            let rack = self.cluster.members()[id].topology.rack.clone();
            let slots = host.slots.keys().map(|slot| slot.index);
            racks.entry(rack).or_default().extend(slots);
        }
        racks
    }
}

fn healthy_world() -> World {
    let mut world = World::new("bbaacc");
    world.submit(1, 8, 400);
    world.until("healthy", |w| w.healthy(8) == 8);
    // The scheduler has heard of it, too.
    world.until("published", |w| w.serving_published() == 8);
    world
}

#[test]
fn a_stage_of_racks_goes_from_rack_to_rack() {
    let mut world = healthy_world();
    let racks = world.slots_by_rack();
    let stages = [(StageSize::Count(1), 3_000), (StageSize::Rack, 10_000)];
    world.submit_job(&staged(2, 8, &stages));
    world.until("the first task", |w| w.serving("web", Some(2)) == 1);
    assert_eq!(world.place(), None);
    let mut covered = BTreeSet::from([0]);
    let mut story = Vec::new();
    for (rack, slots) in &racks {
        let place = format!("rack {rack}");
        world.until(&place, |w| w.place() == Some(&place));
        covered.extend(slots);
        world.until("all of the rack", |w| {
            w.serving("web", Some(2)) == covered.len() && w.healthy(8) == 8
        });
        // What is elsewhere stays as it was, for the whole bake.
        world.run(9_000);
        assert_eq!(world.place(), Some(&*place), "{}", world.show());
        assert_eq!(world.serving("web", Some(2)), covered.len());
        story.push(format!("{place}: {} have it", covered.len()));
        if rack == "a" {
            // The next scheduler goes on with the same slots.
            let before = world.rollout().covered.clone();
            world.reign(2);
            world.run(5_000);
            assert_eq!(world.rollout().covered, before);
            assert_eq!(world.place(), Some("rack a"));
        }
    }
    world.until("done", |w| w.rollout().phase == RolloutPhase::Done);
    assert_eq!(world.serving("web", Some(2)), 8);
    let golden = [
        "rack a: 4 have it",
        "rack b: 6 have it",
        "rack c: 8 have it",
    ];
    assert_eq!(story, golden);
}

#[test]
fn a_cluster_in_one_datacenter_is_one_place() {
    for size in [StageSize::Datacenter, StageSize::Region] {
        let mut world = healthy_world();
        world.submit_job(&staged(2, 8, &[(size, 5_000)]));
        world.until("all", |w| w.serving("web", Some(2)) == 8);
        assert_eq!(world.rollout().places, 1, "{:?}", world.place());
        world.until("done", |w| w.rollout().phase == RolloutPhase::Done);
    }
}

#[test]
fn a_rack_that_fails_brings_the_version_before_back_everywhere() {
    let mut world = healthy_world();
    let mut next = staged(2, 8, &[(StageSize::Rack, 10_000)]);
    next.change.update.rollback = true;
    next.change.update.health_deadline_ms = 15_000;
    world.submit_job(&next);
    world.until("rack b", |w| w.place() == Some("rack b"));
    // What is new falls over wherever it is, again and again.
    world.until_failing(
        |_, report| report.version == 2,
        |w| matches!(w.rollout().phase, RolloutPhase::RolledBack { .. }),
    );
    world.until("back", |w| w.serving("web", Some(1)) == 8);
}

#[test]
fn a_host_that_dies_within_its_racks_turn_holds_nothing_up() {
    let mut world = healthy_world();
    world.submit_job(&staged(2, 8, &[(StageSize::Rack, 5_000)]));
    world.until("rack a", |w| w.place() == Some("rack a"));
    let victim = *world.hosts.keys().nth(2).expect("six hosts");
    world.hosts.get_mut(&victim).expect("a host").alive = false;
    world.until("done", |w| w.rollout().phase == RolloutPhase::Done);
    world.until("healed", |w| w.healthy(8) == 8);
    assert_eq!(world.serving("web", Some(2)), 8, "{}", world.show());
}
