//! Exclusive tasks start on a lease only, and a lease counts from when the
//! heartbeat was made.

use super::*;
use crate::session::{Renewal, Renewals};
use potluck_specs::job::Exclusive;

const LEASE: Millis = Millis(10_000);

fn only(version: u64) -> Job {
    let mut job = job("only", version, 100);
    job.change.exclusive = Some(Exclusive { lease_ms: LEASE.0 });
    job
}

/// The answer to a heartbeat of this life of the agent, made at that time.
fn renewal(incarnation: u64, sent_at: u64, sequence: u64) -> Event {
    Event::HeartbeatAnswered(HeartbeatAnswer {
        authority: authority(1),
        confirmed: None,
        forget: vec![],
        renewals: Some(Renewals {
            incarnation,
            sent_at: Millis(sent_at),
            leases: vec![Renewal {
                slot: slot("only", 0),
                generation: generation(1, sequence),
                lease: LEASE,
            }],
        }),
    })
}

/// A host that was awarded the slot and has its package, at 20 s.
fn awarded_only() -> World {
    let mut world = World::new();
    world.restart_agent();
    world.now = Millis(20_000);
    let awarded = awarded(&world.step(award(1, 1, &only(1), &[(0, 1)])));
    assert_eq!(awarded, [Ok(())]);
    world.settle();
    assert_eq!(world.state("only", 0), TaskState::Fetching);
    world
}

fn started(effects: &[Effect]) -> Vec<Option<Millis>> {
    let starts = effects.iter().filter_map(|effect| match effect {
        Effect::StartHelper(start) => Some(start.lease_until),
        _ => None,
    });
    starts.collect()
}

#[test]
fn a_heartbeat_says_when_it_was_made() {
    let mut world = awarded_only();
    let Answer::Heartbeat(heartbeat) = answer(&world.step(Event::Heartbeat)) else {
        panic!("a heartbeat");
    };
    assert_eq!(heartbeat.sent_at, Some(Millis(20_000)));
}

#[test]
fn only_a_renewal_of_its_own_generation_and_life_starts_it() {
    // Of which life, made when, of which award; does it start, until when?
    let table = [
        (2, 20_000, 1, Some(30_000)),
        // However late the answer is, it counts from the heartbeat.
        (2, 15_000, 1, Some(25_000)),
        // Over before it came.
        (2, 10_000, 1, None),
        // Of the future, of another life of the agent, of another award.
        (2, 20_501, 1, None),
        (1, 20_000, 1, None),
        (2, 20_000, 2, None),
    ];
    for (incarnation, sent_at, sequence, until) in table {
        let mut world = awarded_only();
        world.now = Millis(20_500);
        let effects = world.step(renewal(incarnation, sent_at, sequence));
        let until: Vec<_> = until.map(|until| Some(Millis(until))).into_iter().collect();
        let row = (incarnation, sent_at, sequence);
        assert_eq!(started(&effects), until, "{row:?}");
    }
}

#[test]
fn a_renewal_that_was_overtaken_takes_nothing_away() {
    let mut world = awarded_only();
    world.now = Millis(22_000);
    world.step(renewal(2, 22_000, 1));
    let effects = world.step(renewal(2, 21_000, 1));
    let leases: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Lease { .. }))
        .collect();
    let (slot, until) = (slot("only", 0), Millis(32_000));
    assert_eq!(leases, [&Effect::Lease { slot, until }]);
}

#[test]
fn a_task_whose_lease_ran_out_waits_for_the_next_one_and_has_not_failed() {
    let mut world = awarded_only();
    world.step(renewal(2, 20_000, 1));
    world.settle();
    assert_eq!(world.state("only", 0), TaskState::Running);
    world.now = Millis(30_000);
    let run = world.run("only", 0);
    world.alive.remove(&run);
    let end = End::LeaseExpired;
    world.step(Event::Exited { run, end });
    world.settle();
    let report = world.report("only", 0);
    assert_eq!((report.state, report.failures), (TaskState::Fetching, 0));
    assert_eq!(report.last_end.as_deref(), Some("lease ran out"));
    world.now = Millis(40_000);
    let effects = world.step(renewal(2, 40_000, 1));
    assert_eq!(started(&effects), [Some(Millis(50_000))]);
}

#[test]
fn a_restarted_agent_passes_nothing_on_before_it_is_confirmed() {
    let mut world = awarded_only();
    world.step(renewal(2, 20_000, 1));
    world.settle();
    let run = world.run("only", 0);
    world.restart_agent();
    world.now = Millis(21_000);
    world.step(Event::Running(run));
    assert_eq!(world.state("only", 0), TaskState::Running);
    // An answer to the life before.
    let is_lease = |effect: &Effect| matches!(effect, Effect::Lease { .. });
    assert!(!world.step(renewal(2, 20_000, 1)).iter().any(is_lease));
    assert!(world.step(renewal(3, 21_000, 1)).iter().any(is_lease));
}

/// The token of an exclusive task is the one of its award, so an award of the
/// same task starts it anew, where an ordinary one goes on.
#[test]
fn a_later_award_of_the_same_task_brings_a_later_token() {
    let mut world = awarded_only();
    world.step(renewal(2, 20_000, 1));
    world.settle();
    let before = world.run("only", 0);
    world.step(award(1, 2, &only(1), &[(0, 5)]));
    world.settle();
    assert!(world.alive.is_empty(), "no lease of the later award yet");
    let effects = world.step(renewal(2, 20_000, 5));
    assert_eq!(started(&effects).len(), 1);
    world.settle();
    assert_ne!(world.run("only", 0).origin, before.origin);
}
