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

/// A job of one task that fills a host, and matters less.
fn filler(k: u32) -> Job {
    let mut filler = job(1, 1, 4_000);
    filler.name = JobName::in_default(&format!("f{k:02}"));
    filler.priority = 10;
    filler.task.services.clear();
    filler
}

fn filled(racks: &str) -> World {
    let mut world = World::new(racks);
    let hosts = racks.len() as u32;
    // One after the other: these hosts reserve nothing when they bid.
    for k in 0..hosts {
        let filler = filler(k);
        world.submit_job(&filler);
        let (job, index) = (filler.name, 0);
        let id = SlotId { job, index };
        world.until("its place", |w| w.on(&id).len() == 1);
        world.run(1_500);
    }
    let free = world.hosts.values().map(|host| host.free().cpu_millis);
    assert_eq!(free.sum::<u32>(), 0);
    world.run(3_000);
    world
}

fn preempted(world: &World) -> usize {
    world.count(|effect| {
        matches!(effect, Effect::Stop { order, .. }
            if order.reason == crate::auction::StopReason::Preempted)
    })
}

#[test]
fn nobody_ends_for_a_gang_that_does_not_fit_then_either() {
    let mut world = filled("abcabcabcabc");
    let mut gang = gang(25, 2_000);
    gang.priority = 60;
    world.submit_job(&gang);
    world.run(60_000);
    assert_eq!(preempted(&world), 0);
    assert_eq!(world.there(25), 0);
}

#[test]
fn a_gang_gets_all_its_room_at_once() {
    let mut world = filled("abcabcabcabc");
    let mut gang = gang(24, 2_000);
    gang.priority = 60;
    world.submit_job(&gang);
    world.until("all", |w| w.there(24) == 24);
    let stops = preempted(&world);
    assert_eq!(stops, 12, "each host's filler, once");
    world.run(20_000);
    assert_eq!(world.there(24), 24);
}

#[test]
fn no_more_end_for_a_gang_than_it_needs() {
    let mut world = filled("abcabc");
    world.host(4).slots.clear();
    world.host(4).resources.clear();
    let mut gang = gang(5, 2_000);
    gang.priority = 60;
    world.submit_job(&gang);
    world.until("all", |w| w.there(5) == 5);
    assert!(preempted(&world) <= 3, "five need three hosts at most");
}

#[test]
fn a_gang_takes_no_more_than_budgets_give() {
    let mut world = World::new("abc");
    let mut low = job(1, 3, 4_000);
    low.name = JobName::in_default("low");
    low.priority = 10;
    low.task.services.clear();
    world.submit_job(&low);
    world.run(5_000);
    let mut gang = gang(4, 2_000);
    gang.priority = 60;
    world.submit_job(&gang);
    world.run(30_000);
    assert_eq!(
        preempted(&world),
        0,
        "one of three may be down, two would be"
    );
}

#[test]
fn a_gang_is_called_when_what_it_depends_on_is_there() {
    let mut world = World::new("abc");
    let mut gang = gang(4, 500);
    gang.change.depends_on = vec![potluck_specs::job::Dependency {
        job: JobName::in_default("before"),
        ..Default::default()
    }];
    world.submit_job(&gang);
    world.run(5_000);
    assert_eq!(world.count(|e| matches!(e, Effect::Call { .. })), 0);
    let mut before = job(1, 1, 100);
    before.name = JobName::in_default("before");
    before.task.services.clear();
    world.submit_job(&before);
    world.until("all", |w| w.there(4) == 4);
    // What runs of a gang is not touched because another job is down.
    let index = (0..4).find(|k| world.on(&slot(*k)) != [node(1)]).unwrap();
    let lost = world.on(&slot(index))[0];
    world.propose(&Command::StopJob {
        change: ChangeId([77; 16]),
        job: JobName::in_default("before"),
        author: "ada".into(),
        now: Millis(0),
    });
    world.run(2_000);
    let there = world.there(4) - world.hosts[&lost].slots.len();
    world.hosts.get_mut(&lost).unwrap().alive = false;
    world.run(40_000);
    assert_eq!(world.there(4), there, "the others wait for their job");
    world.submit_job(&Job {
        version: 2,
        ..before
    });
    world.until("all again", |w| w.there(4) == 4);
}
