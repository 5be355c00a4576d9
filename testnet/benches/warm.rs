//! How soon a new scheduler is warm: the leader of a large cluster is lost, and
//! from the begin of the next reign on it is counted until a first task is
//! placed, until all living hosts have told what they run, and until any slot
//! may be placed. In the simulator's time, and how long the new scheduler's own
//! steps took in real time, which the simulator's clock does not count.
//!
//! After `--`: how many hosts (1,000), and how many seeds (5).

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a bench is a program that nobody uses as a library"
)]

use potluck_core::scheduler::SessionState;
use potluck_testnet::sim::{
    Action, Options, Whom, World, court::Court, helper::Directive, queue::MS,
};

/// Tasks of each job that runs before.
const REPLICAS: u32 = 40;

/// For each of so many hosts there is such a job: four tasks a host.
const HOSTS_PER_JOB: usize = 10;

/// When the leader is lost.
const LOST_AT: u64 = 30_000;

/// Jobs that are handed in when nobody leads. Each is tried again every 700 ms,
/// so that of so many one comes at once.
const FRESH: u64 = 10;

/// Nothing is watched for longer.
const GIVE_UP: u64 = LOST_AT + 30_000;

fn main() {
    // Cargo adds a flag of its own.
    let mut said = std::env::args().skip(1).filter(|word| word != "--bench");
    let mut number = |usual: usize| {
        said.next().map_or(usual, |word| {
            word.parse().expect("the words are two numbers")
        })
    };
    let (hosts, seeds) = (number(1_000), number(5));
    for (what, lost) in [
        ("the leader's host dies", dies()),
        ("the leader is stopped for a second", stopped()),
    ] {
        println!("{hosts} hosts, {what}; milliseconds after the next reign's begin");
        for seed in 0..seeds as u64 {
            watch(hosts, seed, lost.clone());
        }
    }
}

fn dies() -> Action {
    Action::Crash {
        whom: Whom::Leader,
        whole: true,
        down_ms: 3_600_000,
    }
}

fn stopped() -> Action {
    Action::Pause {
        whom: Whom::Leader,
        ms: 1_000,
    }
}

fn submit(world: &mut World, ms: u64, name: String, replicas: u32) {
    let action = Action::Submit {
        name,
        replicas,
        cpu: 100,
        directive: Directive::default(),
    };
    world.at(ms, action);
}

fn run(world: &mut World, until_ms: u64) {
    if let Err(violation) = world.run_until(until_ms) {
        panic!("{violation}");
    }
}

fn watch(hosts: usize, seed: u64, lost: Action) {
    let mut world = World::new(seed, Options::calm().with_hosts(hosts), false);
    let jobs = hosts / HOSTS_PER_JOB;
    for job in 0..jobs {
        submit(&mut world, 1_000, format!("job-{job}"), REPLICAS);
    }
    run(&mut world, LOST_AT - 1);
    let (awards, reigns) = (world.stats.awards, world.stats.reigns);
    assert_eq!(awards, jobs as u64 * u64::from(REPLICAS), "all are placed");
    world.at(LOST_AT, lost);
    for fresh in 0..FRESH {
        let at = LOST_AT + fresh * 700 / FRESH;
        submit(&mut world, at, format!("fresh-{fresh}"), 1);
    }
    let mut now = LOST_AT;
    let begin = until(&mut world, &mut now, |world| world.stats.reigns > reigns);
    let accepted = world.stats.accepted;
    let accepts = until(&mut world, &mut now, |world| {
        world.stats.accepted > accepted
    });
    let first = until(&mut world, &mut now, |world| world.stats.awards > awards);
    let whole = until(&mut world, &mut now, |world| {
        let scheduler = &newest(world).scheduler;
        let mut living = world
            .machines
            .iter()
            .filter(|machine| machine.host.is_some());
        living.all(|machine| scheduler.session(machine.node) == Some(SessionState::Up))
    });
    let busy = newest(&world).busy;
    let asked = until(&mut world, &mut now, |world| {
        newest(world).scheduler.has_asked()
    });
    println!(
        "  seed {seed}: nobody led for {} ms; a job accepted {}, a first task placed {}, \
         all living hosts heard {} (its steps: {} ms real), any slot may be placed {}",
        begin - LOST_AT,
        accepts - begin,
        first - begin,
        whole - begin,
        busy.as_millis(),
        asked - begin,
    );
}

/// Runs until it is so; when that was.
fn until(world: &mut World, now: &mut u64, is_so: impl Fn(&World) -> bool) -> u64 {
    while !is_so(world) {
        assert!(*now < GIVE_UP, "it never is");
        *now += 1;
        run(world, *now);
    }
    world.now() / MS
}

fn newest(world: &World) -> &Court {
    let courts = world.courts.values();
    let newest = courts.max_by_key(|court| court.reign);
    newest.expect("somebody reigns")
}
