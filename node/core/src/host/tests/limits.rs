//! Tasks whose amounts change while they run.

use super::*;
use crate::attributes::{LIMITS_IO, YES};
use potluck_specs::Millis;

/// One program with as much as is said.
fn sized(version: u64, share: u32) -> Job {
    let mut job = job("web", version, share);
    job.package = PackageId([9; 32]);
    job
}

fn runs(share: u32) -> World {
    let mut world = World::new();
    world.step(award(1, 1, &sized(1, share), &[(0, 1)]));
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Running);
    world
}

fn told(effects: &[Effect]) -> Vec<u32> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::SetLimits { job, .. } => Some(job.task.resources.cpu_millis),
            _ => None,
        })
        .collect()
}

impl World {
    fn limits_set(&mut self, refused: &[&str]) {
        let run = self.run("web", 0);
        let refused = refused.iter().map(|text| (*text).to_owned()).collect();
        self.step(Event::LimitsSet { run, refused });
    }

    fn taken(&self) -> u32 {
        self.host.committed().cpu_millis
    }
}

#[test]
fn the_same_process_has_more_or_less() {
    let mut world = runs(300);
    let run = world.run("web", 0);
    let effects = world.step(award(1, 2, &sized(2, 500), &[(0, 2)]));
    assert_eq!(awarded(&effects), [Ok(())]);
    assert_eq!(told(&effects), [500]);
    let durable = effects.iter().position(|effect| {
        matches!(effect, Effect::JournalPut { entry, durable: true } if entry.job.version == 2)
    });
    let tells = effects
        .iter()
        .position(|effect| matches!(effect, Effect::SetLimits { .. }));
    assert!(durable.unwrap() < tells.unwrap(), "in the journal first");
    assert_eq!(world.taken(), 500);
    let report = world.report("web", 0);
    assert_eq!((report.version, report.starts), (2, 1));
    assert_eq!(report.generation, generation(1, 2));
    assert_eq!(report.resources.cpu_millis, 500);
    assert!(report.healthy);
    world.limits_set(&[]);
    // Less is free for others only when the task has no more.
    let effects = world.step(award(1, 3, &sized(3, 200), &[(0, 3)]));
    assert_eq!(told(&effects), [200]);
    assert_eq!(world.taken(), 500);
    world.limits_set(&[]);
    assert_eq!(world.taken(), 200);
    assert_eq!(world.report("web", 0).resources.cpu_millis, 200);
    assert_eq!(world.run("web", 0), run);
    assert_eq!(world.report("web", 0).trouble, None);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut world = runs(300);
    world.step(award(1, 2, &job("other", 1, 500), &[(0, 2)]));
    world.settle();
    let before = world.host.slots();
    let effects = world.step(award(1, 3, &sized(2, 600), &[(0, 3)]));
    let refusal = Refusal::Cpu {
        need: 300,
        free: 200,
    };
    assert_eq!(awarded(&effects), [Err(refusal)]);
    assert_eq!(told(&effects), [0; 0]);
    assert_eq!(world.host.slots(), before);
    // A host that is to be emptied gives what it has.
    world.step(Event::SetDraining(true));
    let effects = world.step(award(1, 4, &sized(2, 400), &[(0, 4)]));
    assert_eq!(awarded(&effects), [Ok(())]);
}

#[test]
fn a_limit_that_the_host_lacks_is_refused_by_name() {
    let mut world = runs(300);
    let mut limited = sized(2, 300);
    limited.task.limits.io_write_bytes_per_s = Some(1 << 20);
    let refusal = Refusal::Requirement {
        requirement: "limits.io = \"yes\"".into(),
        has: None,
    };
    for slots in [[(0, 2)], [(1, 3)]] {
        let effects = world.step(award(1, 2, &limited, &slots));
        assert_eq!(awarded(&effects), [Err(refusal.clone())]);
    }
    let facts = Facts::of(&[(LIMITS_IO, YES)]);
    world.step(Event::SetFacts(facts));
    let effects = world.step(award(1, 3, &limited, &[(0, 4)]));
    assert_eq!(awarded(&effects), [Ok(())]);
    assert_eq!(told(&effects), [300]);
}

#[test]
fn what_could_not_be_set_is_told_and_stays_reserved_until_the_next_start() {
    let mut world = runs(500);
    world.step(award(1, 2, &sized(2, 200), &[(0, 2)]));
    world.limits_set(&["memory limit: it uses more"]);
    assert_eq!(world.taken(), 500);
    let run = world.run("web", 0);
    let trouble = Some("its log waits".to_owned());
    world.step(Event::Troubled { run, trouble });
    let told = world.report("web", 0).trouble.unwrap();
    assert_eq!(
        told,
        "its log waits; its limits are not as wanted: memory limit: it uses more"
    );
    let run = world.run("web", 0);
    world.alive.remove(&run);
    let end = End::Code(1);
    world.step(Event::Exited { run, end });
    world.now = world.now + Millis(60_000);
    world.step(Event::Tick);
    world.settle();
    assert_eq!(world.taken(), 200);
    assert_eq!(world.report("web", 0).trouble, None);
}

#[test]
fn only_the_answer_to_the_last_order_counts() {
    let mut world = runs(500);
    world.step(award(1, 2, &sized(2, 300), &[(0, 2)]));
    world.step(award(1, 3, &sized(3, 200), &[(0, 3)]));
    world.limits_set(&["of the one before"]);
    assert_eq!(world.report("web", 0).trouble, None);
    assert_eq!(world.taken(), 500);
    world.limits_set(&[]);
    assert_eq!(world.taken(), 200);
}

#[test]
fn a_helper_that_may_not_have_heard_is_told_again() {
    let mut world = runs(500);
    world.step(award(1, 2, &sized(2, 200), &[(0, 2)]));
    let run = world.run("web", 0);
    // Its connection was down.
    assert_eq!(told(&world.step(Event::Running(run.clone()))), [200]);
    // The agent was.
    world.restart_agent();
    assert_eq!(world.taken(), 500, "what it has is not known");
    assert_eq!(told(&world.step(Event::Running(run.clone()))), [200]);
    assert_eq!(world.taken(), 500);
    world.limits_set(&[]);
    assert_eq!(world.taken(), 200);
    // Once it has said so, no more.
    assert_eq!(told(&world.step(Event::Running(run.clone()))), [0; 0]);
    world.restart_agent();
    assert_eq!(told(&world.step(Event::Running(run))), [0; 0]);
    assert_eq!(world.report("web", 0).version, 2);
}

#[test]
fn what_waits_or_is_being_started_gets_the_new_amounts() {
    // The package is on its way: nothing to tell.
    let mut world = World::new();
    world.step(award(1, 1, &sized(1, 300), &[(0, 1)]));
    let effects = world.step(award(1, 2, &sized(2, 200), &[(0, 2)]));
    assert_eq!((told(&effects), world.taken()), (vec![], 200));
    world.settle();
    assert_eq!(world.report("web", 0).version, 2);
    // Its helper was given the former amounts.
    let mut world = World::new();
    world.step(award(1, 1, &sized(1, 300), &[(0, 1)]));
    let (id, origin) = world.fetching.pop_first().unwrap();
    world.step(Event::Fetched { slot: id, origin });
    let effects = world.step(award(1, 2, &sized(2, 200), &[(0, 2)]));
    assert_eq!((told(&effects), world.taken()), (vec![], 300));
    let run = world.run("web", 0);
    assert_eq!(told(&world.step(Event::Running(run))), [200]);
    // One that failed may have lacked just that: it does not wait on.
    let mut world = runs(300);
    let run = world.run("web", 0);
    world.alive.remove(&run);
    let end = End::MemoryLimit(String::new());
    world.step(Event::Exited { run, end });
    assert_eq!(world.state("web", 0), TaskState::Backoff);
    world.step(award(1, 2, &sized(2, 400), &[(0, 2)]));
    assert_eq!(world.state("web", 0), TaskState::Fetching);
    assert_eq!(world.taken(), 400);
}

#[test]
fn another_program_or_an_exclusive_task_starts_again() {
    let mut other = sized(2, 300);
    other.task.args.push("x".into());
    let mut exclusive = sized(2, 300);
    exclusive.change.exclusive = Some(Default::default());
    let same = sized(2, 300);
    for next in [other, exclusive, same] {
        let mut world = runs(300);
        let effects = world.step(award(1, 2, &next, &[(0, 2)]));
        assert_eq!(awarded(&effects), [Ok(())]);
        assert_eq!(told(&effects), [0; 0]);
        assert_eq!(world.told_to_stop.len(), 1);
    }
}
