//! Most voters lost, and a lagging survivor: scripted runs of the simulator.

use potluck_specs::JobName;
use potluck_testnet::sim::{Action, Options, Sabotage, Violation, Whom, World, helper::Directive};
use std::collections::BTreeSet;

/// The voter that is left.
const SURVIVOR: usize = 2;

/// The others.
const LOST: [usize; 2] = [0, 1];

const SEEDS: u64 = 25;

fn submit(world: &mut World, ms: u64, name: &str, replicas: u32, cpu: u32) {
    let action = Action::Submit {
        name: name.into(),
        replicas,
        cpu,
        directive: Directive::default(),
    };
    world.at(ms, action);
}

#[track_caller]
fn run(world: &mut World, seed: u64, until_ms: u64) {
    if let Err(violation) = world.run_until(until_ms) {
        fail(world, seed, &violation.to_string());
    }
}

#[track_caller]
fn fail(world: &mut World, seed: u64, why: &str) -> ! {
    let trace = std::mem::take(&mut world.trace).about(why);
    panic!("{}\nseed {seed}: {why}", trace.join("\n"));
}

/// Processes of hosts that are left, by number: none has been started anew.
fn processes(world: &World) -> BTreeSet<(usize, String)> {
    let hosts = world.machines.iter().enumerate();
    let left = hosts.filter(|(number, _)| !LOST.contains(number));
    left.flat_map(|(number, machine)| {
        let live = machine.live();
        live.map(move |process| (number, process.run.to_string()))
    })
    .collect()
}

/// A job that the surviving log has, one that it lacks, an update that it
/// lacks, and reigns that it knows nothing of; then two of three voters die.
fn lost(seed: u64) -> World {
    lost_with(seed, Options::calm())
}

fn lost_with(seed: u64, options: Options) -> World {
    let mut world = World::new(seed, options, true);
    submit(&mut world, 1_000, "old", 5, 200);
    submit(&mut world, 8_000, "late", 6, 200);
    // Other resources, so that each task is started anew, and every host that
    // has one knows of the version.
    submit(&mut world, 12_000, "old", 7, 250);
    for ms in [20_000, 26_000, 32_000] {
        let action = Action::Crash {
            whom: Whom::Leader,
            whole: false,
            down_ms: 1_500,
        };
        world.at(ms, action);
    }
    run(&mut world, seed, 45_000);
    for host in LOST {
        let action = Action::Crash {
            whom: Whom::Host(host),
            whole: true,
            down_ms: 3_600_000,
        };
        world.at(45_000, action);
    }
    world
}

#[test]
fn what_hosts_run_is_taken_over_by_a_lagging_log_and_touched_by_nobody() {
    for seed in 0..SEEDS {
        let mut world = lost(seed);
        run(&mut world, seed, 46_000);
        let before = processes(&world);
        let reign = world.control.truth.authority();
        let recover = Action::Recover {
            survivor: SURVIVOR,
            without: "late".into(),
        };
        world.at(46_000, recover);
        run(&mut world, seed, 60_000);
        let truth = &world.control.truth;
        let authority = truth.authority();
        if authority <= reign || authority.reign >= reign.reign {
            let why = format!("{authority:?} after {reign:?}: the hosts knew of later reigns");
            fail(&mut world, seed, &why);
        }
        let version = |name: &str| {
            let record = truth.jobs().get(&JobName::in_default(name));
            record.map(|record| (record.current().version, record.recovered_at.is_some()))
        };
        let found = [version("old"), version("late")];
        if found != [Some((2, true)), Some((1, true))] {
            fail(&mut world, seed, &format!("recovered: {found:?}"));
        }
        let now = processes(&world);
        if !before.is_subset(&now) {
            let ended: Vec<_> = before.difference(&now).collect();
            fail(&mut world, seed, &format!("ended: {ended:?}"));
        }
    }
}

/// A survivor goes on, and later the lost hosts come back.
fn recovers(world: &mut World) -> Result<(), Violation> {
    let recover = Action::Recover {
        survivor: SURVIVOR,
        without: "late".into(),
    };
    world.at(46_000, recover);
    world.run_until(75_000)?;
    world.at(75_000, Action::Heal);
    world.run_until(75_100)?;
    world.heal_within(120_000).map(|_| ())
}

#[test]
fn all_heals_after_a_recovery_also_when_the_lost_hosts_come_back() {
    for seed in 0..SEEDS {
        let mut world = lost(seed);
        if let Err(violation) = recovers(&mut world) {
            fail(&mut world, seed, &violation.to_string());
        }
    }
}

/// The log that is left begins a later epoch at an earlier index than hosts
/// have heard of: those who compare reigns first obey nobody any more.
#[test]
fn hosts_that_compare_reigns_before_epochs_obey_no_recovered_scheduler() {
    for seed in 0..3 {
        let options = Options {
            sabotage: Some(Sabotage::ComparesReignsFirst),
            ..Options::calm()
        };
        let mut world = lost_with(seed, options);
        match recovers(&mut world) {
            Err(violation) if violation.invariant == "all heals" => println!("{violation}"),
            other => fail(&mut world, seed, &format!("not noticed: {other:?}")),
        }
    }
}
