//! Decisions a second: a scheduler of 5,000 hosts on one thread.
//!
//! Counted: the processor time of every step of the scheduler from a job's
//! commit until the last award is answered: reconcile, choosing whom to call,
//! reading bids, ranking, awards, reading the hosts' answers. Not counted: the
//! hosts' own work, the network, the log. A decision is a slot that was
//! awarded and taken. The reports that follow have a line of their own.
//!
//! Beside each: a scan of all hosts for each task, which takes the tightest
//! fit and keeps nothing else, over the same hosts in the same run.

#![allow(
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a bench measures time, and nobody uses it"
)]

mod world;

use potluck_core::{
    scheduler::Event,
    session::{SlotReport, TaskState},
};
use potluck_specs::{
    Job,
    job::{AtMost, Level, Operator, Requirement, Resources},
};
use std::time::Duration;
use world::{World, processor_time};

const NODES: usize = 5_000;
const TASKS: u32 = 10_000;

fn main() {
    let only: Option<String> = std::env::args().nth(1).filter(|a| !a.starts_with("--"));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    println!("{NODES} hosts in racks of {}, one thread", world::RACK);
    type Make = fn(&str, u32) -> Job;
    let scenarios: [(&str, u32, u32, Make); 5] = [
        ("plain", 10, 1_000, world::job),
        ("plain, one job", 1, TASKS, world::job),
        ("plain, small jobs", 1_000, 10, world::job),
        ("rack spread, one per node", 10, 1_000, spread),
        ("node affinity, 1 host in 20", 10, 100, affinity),
    ];
    for (name, jobs, slots, make) in scenarios {
        if wanted(name) {
            place(name, jobs, slots, make, 0);
        }
    }
    if wanted("stale") {
        place("10 % of views stale", 10, 1_000, world::job, 10);
    }
    if wanted("full") {
        full();
    }
    if wanted("preemption") {
        preemption();
    }
    if wanted("reconcile") {
        reconcile();
    }
}

fn spread(name: &str, slots: u32) -> Job {
    let mut job = world::job(name, slots);
    job.placement.spread = vec![Level::Rack];
    job.placement.at_most = vec![AtMost {
        level: Level::Node,
        count: 1,
    }];
    job
}

fn affinity(name: &str, slots: u32) -> Job {
    let mut job = world::job(name, slots);
    job.placement.requirements = vec![Requirement {
        attribute: "label.disk".into(),
        operator: Operator::Equal,
        values: vec!["ssd".into()],
    }];
    job
}

fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn show(name: &str, count: u64, time: Duration, beside: &str) {
    println!(
        "{name:<30} {:>9.0} /s  ({count} in {:.1} ms)  {beside}",
        rate(count, time),
        time.as_secs_f64() * 1_000.0
    );
}

fn place(name: &str, jobs: u32, slots: u32, make: fn(&str, u32) -> Job, stale: usize) {
    let tasks = u64::from(jobs * slots);
    let mut world = World::new(NODES);
    for k in 0..jobs {
        world.submit(&make(&format!("j{k}"), slots));
    }
    if stale > 0 {
        world.go_stale(stale);
    }
    world.reset();
    world.step(Event::ClusterChanged);
    for _ in 0..10 {
        if world.placed < tasks {
            world.tick(100);
        }
    }
    let beside = format!(
        "scan of all: {:.0} /s; {} calls, {} refusals",
        scan(tasks, 16_000),
        world.calls,
        world.refusals,
    );
    assert_eq!(world.placed, tasks, "not all placed");
    show(name, world.placed, world.spent, &beside);
    world.reset();
    world.now += 500;
    world.beat();
    show("  reports of them", tasks, world.spent, "");
}

/// Nothing has room: what a job that waits costs each time it is looked at.
fn full() {
    let mut world = World::new(NODES);
    for host in world.hosts.values_mut() {
        host.free = Resources::ZERO;
    }
    world.refresh();
    for k in 0..100 {
        world.submit(&world::job(&format!("j{k}"), 100));
    }
    world.reset();
    world.step(Event::ClusterChanged);
    let first = world.spent;
    world.reset();
    let rounds = 20;
    for round in 0..rounds {
        if round % 2 == 0 {
            world.refresh();
        }
        world.tick(500);
    }
    let beside = format!("scan of all: {:.0} /s", scan(1_000, 0));
    show("full, 100 jobs of 100", 10_000, first, &beside);
    println!(
        "  each second of waiting: {:.2} ms for 10,000 slots that fit nowhere",
        world.spent.as_secs_f64() * 1_000.0 / (f64::from(rounds) / 2.0)
    );
    assert_eq!(world.placed, 0);
}

/// 100,000 tasks run; one ends.
fn reconcile() {
    let mut world = World::new(NODES);
    let mut small = world::job("x", 1_000);
    small.task.resources = Resources::new(100, 64 << 20);
    for k in 0..100 {
        small.name.name = format!("j{k}");
        world.submit(&small);
    }
    world.step(Event::ClusterChanged);
    world.refresh();
    for _ in 0..20 {
        world.tick(100);
    }
    world.refresh();
    world.tick(100);
    let running: usize = world.hosts.values().map(|host| host.slots.len()).sum();
    assert_eq!(running, 100_000);
    let mut spent = Duration::ZERO;
    let mut ticks = 0;
    let changes = 20;
    for _ in 0..changes {
        world.refresh();
        world.tick(100);
        world.tick(100);
        // Hosts here keep what has stopped.
        let runs = |report: &&SlotReport| report.state == TaskState::Running;
        let running = world.hosts.iter().find_map(|(node, host)| {
            let report = host.slots.values().find(runs)?;
            Some((*node, report.slot.clone()))
        });
        let (node, slot) = running.expect("a task");
        world.stop(node, &slot);
        let heartbeat = world.heartbeat(node);
        world.reset();
        world.step(Event::Heartbeat { heartbeat });
        let mut looks = 0;
        while world.placed == 0 && looks < 10 {
            world.tick(100);
            looks += 1;
        }
        ticks += looks;
        spent += world.spent;
        assert_eq!(world.placed, 1);
    }
    let each = spent.as_secs_f64() * 1_000.0 / changes as f64;
    println!(
        "{:<30} {each:>9.2} ms each  (from the report until its next is placed, {ticks} ticks for {changes})",
        "reconcile, 100,000 tasks, 1 ends",
    );
    world.refresh();
    world.reset();
    for _ in 0..10 {
        world.tick(100);
    }
    println!(
        "  each second without a change: {:.2} ms",
        world.spent.as_secs_f64() * 1_000.0
    );
}

/// Each host is full of two tasks of a lower priority; a hundred of a higher
/// one come.
fn preemption() {
    let mut world = World::new(NODES);
    let mut low = world::job("x", 1_000);
    low.task.resources = Resources::new(8_000, 1 << 30);
    for k in 0..10 {
        low.name.name = format!("low{k}");
        world.submit(&low);
    }
    world.step(Event::ClusterChanged);
    for _ in 0..20 {
        world.refresh();
        world.tick(100);
    }
    let running: usize = world.hosts.values().map(|host| host.slots.len()).sum();
    assert_eq!(running, 10_000, "the cluster is full");
    let mut high = world::job("high", 100);
    high.task.resources = Resources::new(8_000, 1 << 30);
    high.priority = low.priority + 1;
    world.submit(&high);
    world.reset();
    world.step(Event::ClusterChanged);
    let mut seconds = 0;
    while world.placed < 100 && seconds < 120 {
        world.refresh();
        world.tick(100);
        seconds += 1;
    }
    let beside = format!(
        "{} tasks made room, in {seconds} s of the cluster's time; reports not counted",
        world.stopped
    );
    assert!(world.placed >= 100, "placed {}", world.placed);
    show(
        "preemption, 100 of 10,000",
        world.placed,
        world.spent,
        &beside,
    );
}

/// The peer: for each task, all hosts are looked at and the tightest fit is
/// taken.
fn scan(tasks: u64, cpu_millis: u32) -> f64 {
    let need = world::job("x", 1).task.resources;
    let total = Resources::new(cpu_millis, 64 << 30);
    let mut hosts = vec![total; NODES];
    let begin = processor_time();
    for _ in 0..tasks {
        let best = hosts
            .iter_mut()
            .filter(|free| free.fits(&need))
            .min_by_key(|free| (free.cpu_millis, free.memory_bytes));
        if let Some(free) = best {
            *free = free.minus(need);
        }
    }
    rate(tasks, processor_time() - begin)
}
