//! Decisions a second: a scheduler of 5,000 hosts on one thread.
//!
//! Counted: every step of the scheduler from a job's commit until the last
//! award is answered: reconcile, choosing whom to call, reading bids, ranking,
//! awards, reading the hosts' answers. Not counted: the hosts' own work, the
//! network, the log. A decision is a slot that was awarded and taken. The
//! reports that follow are a line of their own.

#![allow(
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a bench measures time, and nobody uses it"
)]

mod world;

use potluck_core::scheduler::Event;
use potluck_specs::{NodeId, job::Resources};
use std::time::{Duration, Instant};
use world::World;

fn main() {
    let only: Option<String> = std::env::args().nth(1).filter(|a| !a.starts_with("--"));
    let nodes = std::env::var("NODES").ok().and_then(|n| n.parse().ok());
    let nodes = nodes.unwrap_or(5_000);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    if wanted("plain") {
        plain(nodes);
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn show(name: &str, count: u64, time: Duration, beside: &str) {
    println!(
        "{name:<44} {:>9.0} /s  ({count} in {:.1} ms)  {beside}",
        rate(count, time),
        time.as_secs_f64() * 1_000.0
    );
}

fn plain(nodes: usize) {
    for (jobs, slots) in [(10u32, 1_000u32), (1, 10_000), (1_000, 10)] {
        let mut world = World::new(nodes);
        for k in 0..jobs {
            world.submit(&world::job(&format!("j{k}"), slots));
        }
        world.reset();
        world.step(Event::ClusterChanged);
        while world.placed < u64::from(jobs * slots) && world.steps < 10_000_000 {
            world.tick(100);
        }
        let beside = format!(
            "calls {} bids {} refusals {}; naive scan {:.0} /s",
            world.calls,
            world.bids,
            world.refusals,
            naive(nodes, u64::from(jobs * slots))
        );
        show(
            &format!("plain, {jobs} jobs of {slots}"),
            world.placed,
            world.spent,
            &beside,
        );
        world.reset();
        world.now += 500;
        world.beat();
        show("  its reports", u64::from(jobs * slots), world.spent, "");
    }
}

/// The peer: for each task, all hosts are looked at and the tightest fit is
/// taken; nothing else is kept.
fn naive(nodes: usize, tasks: u64) -> f64 {
    let need = world::job("x", 1).task.resources;
    let total = Resources {
        cpu_millis: 16_000,
        memory_bytes: 64 << 30,
        ..Resources::default()
    };
    let mut hosts: Vec<(NodeId, Resources)> = (0..nodes).map(|k| (world::node(k), total)).collect();
    let begin = Instant::now();
    for _ in 0..tasks {
        let best = hosts
            .iter_mut()
            .filter(|(_, free)| free.fits(&need))
            .min_by_key(|(node, free)| (free.cpu_millis, free.memory_bytes, *node));
        if let Some((_, free)) = best {
            *free = free.minus(need);
        }
    }
    rate(tasks, begin.elapsed())
}
