//! Exclusive slots: what is waited for, by whom, and what people are told of
//! it. That nothing ever runs twice is the simulator's to watch.

use super::change::staged;
use super::*;
use potluck_specs::job::{Amount, Exclusive, StageSize};

const LEASE: u64 = 10_000;

/// Lease and what is waited for beyond it.
const WAIT: u64 = LEASE + LEASE / 100 + 4_000;

/// Heartbeats are a second apart.
const BEAT: u64 = 1_000 + 2 * HOP;

fn only(version: u64) -> Job {
    let mut job = job(version, 1, 500);
    job.change.exclusive = Some(Exclusive { lease_ms: LEASE });
    job
}

/// Three hosts; the slot runs on the one that is returned.
fn running() -> (World, u8) {
    let mut world = World::new("abc");
    world.run(3_000);
    world.submit_job(&only(1));
    world.until("it runs", |world| !world.on(&slot(0)).is_empty());
    world.run(2_000);
    let holder = world.on(&slot(0))[0].0[0];
    (world, holder)
}

fn phase(world: &World) -> SlotPhase {
    world.scheduler.slot(&world.cluster, &slot(0)).phase
}

fn blocked(world: &World) -> Option<String> {
    let name = JobName::in_default("web");
    let ledger = world.scheduler.ledger(&world.cluster, &name)?;
    ledger.used.values().next().map(ToString::to_string)
}

/// Awards of the slot, each with when it left.
fn awards(world: &World) -> Vec<(u64, Generation)> {
    let seen = world.seen.iter().filter_map(|(at, effect)| match effect {
        Effect::Award { award, .. } => Some((*at, award.slots[0].1)),
        _ => None,
    });
    seen.collect()
}

fn renewals(world: &World) -> usize {
    let seen = world.seen.iter().filter(|(_, effect)| match effect {
        Effect::AnswerHeartbeat { answer, .. } => {
            let renewals = answer.renewals.as_ref();
            renewals.is_some_and(|renewals| !renewals.leases.is_empty())
        }
        _ => false,
    });
    seen.count()
}

#[test]
fn the_log_names_the_holder_before_the_award_leaves() {
    let (world, holder) = running();
    let recorded = world.cluster.exclusive_holder(&slot(0)).expect("a holder");
    let [(at, generation)] = awards(&world)[..] else {
        panic!("one award: {:?}", awards(&world));
    };
    assert_eq!(
        (recorded.node, recorded.generation),
        (node(holder), generation)
    );
    let proposed = world.seen.iter().find_map(|(at, effect)| match effect {
        Effect::Propose { command } => {
            matches!(**command, Command::RecordExclusive { .. }).then_some(*at)
        }
        _ => None,
    });
    assert!(proposed.is_some_and(|proposed| proposed < at));
    assert!(renewals(&world) > 0);
}

#[test]
fn a_dead_holders_lease_is_waited_for_and_people_are_told() {
    let (mut world, holder) = running();
    let died = world.now;
    world.host(holder).alive = false;
    world.run(6_000);
    let holder = Some(node(holder));
    let SlotPhase::Lease { holder: of, left } = phase(&world) else {
        panic!("{:?}", phase(&world));
    };
    assert_eq!(of, holder);
    assert!(left <= Millis(WAIT - 6_000 + BEAT), "{left}");
    let told = blocked(&world).expect("it is down");
    assert!(
        told.starts_with("waits until the lease of its holder ends, at most "),
        "{told}"
    );
    world.until("it runs elsewhere", |world| !world.on(&slot(0)).is_empty());
    let awards = awards(&world);
    assert_eq!(awards.len(), 2);
    assert!(awards[1].0 >= died + WAIT - BEAT, "{awards:?} died {died}");
    assert!(awards[1].0 <= died + WAIT + BEAT, "{awards:?} died {died}");
    assert!(awards[1].1 > awards[0].1);
}

#[test]
fn a_new_scheduler_waits_from_the_begin_of_its_reign() {
    let (mut world, holder) = running();
    world.host(holder).alive = false;
    world.run(5_000);
    let other = (1..=3).find(|k| *k != holder).expect("three hosts");
    world.reign(other);
    let began = world.now;
    world.until("it runs elsewhere", |world| !world.on(&slot(0)).is_empty());
    let (at, _) = *awards(&world).last().expect("an award");
    assert!((began + WAIT..began + WAIT + BEAT).contains(&at), "{at}");
}

/// Silent is enough: an end of the session without a death, here of the link.
#[test]
fn a_silent_holder_that_comes_back_late_is_stopped() {
    let (mut world, holder) = running();
    world.host(holder).linked = false;
    world.run(WAIT + 3_000);
    assert_eq!(awards(&world).len(), 2, "{}", world.show());
    world.host(holder).linked = true;
    world.run(4_000);
    let on = world.on(&slot(0));
    assert_eq!(on.len(), 1, "{on:?}");
    assert_ne!(on[0], node(holder));
}

#[test]
fn without_a_quorum_nothing_is_renewed() {
    let (mut world, _) = running();
    world.quorum = false;
    world.run(1_000);
    let before = renewals(&world);
    world.run(10_000);
    assert_eq!(renewals(&world), before);
    world.quorum = true;
    world.run(2_000);
    assert!(renewals(&world) > before);
}

#[test]
fn a_told_end_frees_the_slot_at_once_and_stays_with_its_host_until_the_log_has_it() {
    let (mut world, holder) = running();
    world.propose(&Command::SetDraining {
        change: ChangeId([99; 16]),
        node: node(holder),
        draining: true,
    });
    let drained = world.now;
    world.until("it runs elsewhere", |world| {
        world.on(&slot(0)).iter().any(|on| *on != node(holder))
    });
    assert!(world.now - drained < 5_000, "no lease is waited for");
    let stop = world
        .seen
        .iter()
        .position(|(_, effect)| matches!(effect, Effect::Stop { .. }));
    let award = world
        .seen
        .iter()
        .rposition(|(_, effect)| matches!(effect, Effect::Award { .. }));
    assert!(stop < award, "stopped before it is placed");
    world.propose(&Command::StopJob {
        change: ChangeId([98; 16]),
        job: JobName::in_default("web"),
        author: "ada".into(),
        now: Millis(0),
    });
    world.until("it is forgotten", |world| {
        world.hosts.values().all(|host| host.slots.is_empty())
    });
    assert_eq!(world.cluster.exclusive_holder(&slot(0)), None);
}

#[test]
fn a_host_of_an_older_version_gets_none() {
    let mut world = World::new("abc");
    for k in [1, 3] {
        world.propose(&introduction(k, 2));
    }
    world.run(3_000);
    world.submit_job(&only(1));
    world.until("it runs", |world| !world.on(&slot(0)).is_empty());
    assert_eq!(world.on(&slot(0)), [node(2)]);
}

/// What runs decides how it leaves, not what the newest version says: a task
/// with a lease can't have its next one beside it.
#[test]
fn a_version_that_is_exclusive_no_longer_takes_the_place_of_one_that_is() {
    let (mut world, _) = running();
    let mut next = only(2);
    next.change.exclusive = None;
    next.change.budget = Some(Amount::Count(0));
    next.task.args = vec!["next".into()];
    world.submit_job(&next);
    world.until("the next runs", |world| world.serving("web", Some(2)) == 1);
}

/// Tasks of a version that the log keeps no longer are not taken for exclusive
/// because the newest is.
#[test]
fn tasks_of_before_a_job_was_exclusive_are_left_to_its_rollout() {
    let mut world = World::new("abc");
    world.submit(1, 3, 400);
    world.until("healthy", |world| world.healthy(3) == 3);
    for version in 2..=crate::cluster::VERSIONS_KEPT as u64 + 2 {
        let mut next = staged(version, 3, &[(StageSize::Count(1), 3_600_000)]);
        next.change.exclusive = Some(Exclusive { lease_ms: LEASE });
        world.submit_job(&next);
        world.run(2_000);
    }
    let kept = &world.cluster.jobs()[&JobName::in_default("web")].versions;
    assert!(kept.iter().all(|version| version.version != 1));
    world.run(20_000);
    assert_eq!(world.serving("web", Some(1)), 2, "{}", world.show());
}
