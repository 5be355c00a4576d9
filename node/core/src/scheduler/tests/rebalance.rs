//! Evening out: over which levels, to which hosts, and what holds it back.

use super::*;
use crate::auction::StopReason;
use potluck_specs::job::{Level, Neighbour};

impl World {
    fn moves(&self) -> usize {
        self.count(|effect| {
            matches!(
                effect,
                Effect::Note {
                    note: Note::Surge {
                        reason: StopReason::Moved,
                        ..
                    }
                }
            )
        })
    }

    fn plan(&self) -> Vec<Move> {
        let now = Millis(self.now);
        self.scheduler.rebalance_plan(&self.cluster, now)
    }

    /// Tasks there that have not ended.
    fn on_host(&self, k: u8) -> usize {
        let slots = self.hosts[&node(k)].slots.values();
        slots.filter(|r| r.state != TaskState::Stopped).count()
    }

    /// The last host of these racks is not there while nine tasks are placed.
    fn without_the_last(racks: &str) -> World {
        let mut world = World::new(racks);
        world.host(racks.len() as u8).alive = false;
        world.submit(1, 9, 100);
        world.until("healthy", |w| w.healthy(9) == 9);
        world.run(20_000);
        world
    }
}

fn other(name: &str, version: u64, replicas: u32) -> Job {
    let mut job = job(version, replicas, 100);
    job.name = JobName::in_default(name);
    job.task.services.clear();
    job
}

#[test]
fn two_datacenters_stay_even_though_their_racks_are_not() {
    let racks = ["a/1", "b/1", "b/2", "b/3"].map(String::from);
    let mut world = World::placed(racks.to_vec());
    world.submit(1, 4, 100);
    world.until("healthy", |w| w.healthy(4) == 4);
    let in_a = |w: &World| w.hosts[&node(1)].slots.len();
    assert_eq!(in_a(&world), 2);
    assert_eq!(world.plan(), []);
    world.run(300_000);
    assert_eq!((world.moves(), in_a(&world)), (0, 2));
}

#[test]
fn a_datacenter_that_comes_back_is_given_its_half() {
    let racks = ["a/1", "a/2", "b/1"].map(String::from);
    let mut world = World::placed(racks.to_vec());
    world.host(3).alive = false;
    world.submit(1, 4, 100);
    world.until("healthy", |w| w.healthy(4) == 4);
    world.run(20_000);
    world.host(3).alive = true;
    world.run(300_000);
    assert_eq!(world.hosts[&node(3)].slots.len(), 2);
    assert_eq!(world.moves(), 2);
}

#[test]
fn no_move_is_named_that_the_auction_would_refuse() {
    // Host 3 joins late, and what the others have can't go there.
    type Change = fn(&mut Job);
    let table: &[(&str, Change)] = &[
        ("a port that is taken there", |job| {
            job.task.ports[0].number = Some(9_000);
        }),
        ("a device that it has not", |job| {
            job.task.devices.insert("gpu".into(), 1);
        }),
        ("a job to be apart from", |job| {
            let (other, level) = (JobName::in_default("there"), Level::Node);
            job.placement
                .apart_from
                .push(Neighbour { job: other, level });
        }),
    ];
    for (what, change) in table {
        let mut world = World::new("aab");
        for k in [1, 2] {
            let facts = &mut world.host(k).facts;
            facts.devices.insert("gpu".into(), 8);
        }
        let mut there = other("there", 1, 1);
        there.task.ports[0].number = Some(9_000);
        there.placement.requirements = vec!["rack = b".parse().unwrap()];
        world.submit_job(&there);
        world.until("there", |w| w.serving("there", None) == 1);
        let mut web = job(1, 2, 100);
        change(&mut web);
        world.submit_job(&web);
        world.until("healthy", |w| w.serving("web", None) == 2);
        assert_eq!(world.hosts[&node(3)].slots.len(), 1, "{what}");
        assert_eq!(world.plan(), [], "{what}");
    }
}

#[test]
fn an_empty_host_may_be_drained_for_ever() {
    let mut world = World::without_the_last("abcd");
    world.drain(2, None);
    world.until("empty", |w| w.on_host(2) == 0);
    world.host(4).alive = true;
    world.run(300_000);
    let spread = [1, 2, 3, 4].map(|k| world.on_host(k));
    assert_eq!(spread, [3, 0, 3, 3]);
}

#[test]
fn a_job_that_is_always_at_work_holds_back_no_other() {
    let mut world = World::without_the_last("abc");
    world.host(3).alive = true;
    for version in 1..=250 {
        let mut busy = other("busy", version, 4);
        busy.task.args = vec![version.to_string()];
        world.submit_job(&busy);
        world.run(600);
    }
    let web = |k: u8| {
        let slots = world.hosts[&node(k)].slots.values();
        let running = slots.filter(|r| r.state == TaskState::Running);
        running.filter(|r| r.slot.job.name == "web").count()
    };
    assert_eq!([1, 2, 3].map(web), [3, 3, 3]);
}
