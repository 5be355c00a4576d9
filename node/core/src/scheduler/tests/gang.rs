//! Gangs: all or nothing.

use super::*;
use potluck_specs::job::Batch;

fn gang(tasks: u32, cpu_millis: u32) -> Job {
    let mut job = job(1, 1, cpu_millis);
    job.kind = JobKind::Batch(Batch {
        completions: tasks,
        parallelism: tasks,
        gang: true,
        ..Batch::default()
    });
    job.task.ports.clear();
    job.task.services.clear();
    job
}

impl World {
    fn there(&self, tasks: u32) -> usize {
        (0..tasks)
            .filter(|index| !self.on(&slot(*index)).is_empty())
            .count()
    }
}

#[test]
fn a_gang_that_does_not_fit_holds_nothing() {
    let mut world = World::new("abc");
    // Two fit on each host.
    world.submit_job(&gang(7, 2_000));
    world.run(20_000);
    let awards = world.count(|effect| matches!(effect, Effect::Award { .. }));
    assert_eq!(awards, 0);
    let cancels = world.count(|effect| matches!(effect, Effect::Cancel { .. }));
    assert!(cancels >= 3, "what was reserved is given back");
}

#[test]
fn a_gang_that_fits_is_placed_as_a_whole() {
    let mut world = World::new("abc");
    world.submit_job(&gang(6, 2_000));
    world.until("all", |w| {
        let there = w.there(6);
        assert!([0, 6].contains(&there), "{there} of 6");
        there == 6
    });
}

#[test]
fn what_is_left_of_a_gang_gives_its_room_up_and_comes_back_with_the_rest() {
    let mut world = World::new("abcd");
    world.submit_job(&gang(8, 2_000));
    world.until("all", |w| w.there(8) == 8);
    world.host(3).alive = false;
    world.until("the others to be stopped", |w| w.there(8) == 0);
    world.run(10_000);
    assert_eq!(world.there(8), 0, "six of eight are none");
    world.host(3).alive = true;
    world.host(3).slots.clear();
    world.host(3).resources.clear();
    world.until("all again", |w| w.there(8) == 8);
    let name = JobName::in_default("web");
    assert_eq!(world.cluster.batch(&name).unwrap().failures(0), None);
}
