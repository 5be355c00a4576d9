//! What comes after a task's end, and that it is not forgotten.

use super::*;
use crate::session::Outcome;
use potluck_specs::job::{Batch, RestartOn};

fn failed(why: &str) -> Outcome {
    Outcome::Failed { why: why.into() }
}

fn work() -> Job {
    Job {
        kind: JobKind::Batch(Batch::default()),
        ..job("work", 1, 100)
    }
}

fn service(on: RestartOn) -> Job {
    let mut job = job("work", 1, 100);
    job.task.restart.on = on;
    job
}

/// A host on which the job's first slot runs.
fn running(job: &Job) -> World {
    let mut world = World::new();
    assert_eq!(awarded(&world.step(award(1, 1, job, &[(0, 1)]))), [Ok(())]);
    world.settle();
    assert_eq!(world.state("work", 0), TaskState::Running);
    world
}

fn end(world: &mut World, end: End) {
    let run = world.run("work", 0);
    world.alive.remove(&run);
    world.step(Event::Exited { run, end });
}

fn forget(reign: u64, sequence: u64) -> Event {
    Event::HeartbeatAnswered(HeartbeatAnswer {
        authority: authority(reign),
        confirmed: None,
        forget: vec![(slot("work", 0), generation(reign, sequence))],
        renewals: None,
    })
}

#[test]
fn an_end_is_followed_by_what_the_job_says() {
    use TaskState::{Backoff, Ended, Stopped};
    let ok = Some(Outcome::Succeeded);
    let code = Some(failed("exited with code 3"));
    let lost = Some(failed("helper lost"));
    let table = [
        (work(), End::Code(0), Stopped, ok.clone()),
        (work(), End::Code(3), Stopped, code.clone()),
        (work(), End::HelperLost, Stopped, None),
        (work(), End::LeaseExpired, Stopped, None),
        (
            work(),
            End::NotStarted("no such file".into()),
            Stopped,
            Some(failed("could not start: no such file")),
        ),
        (service(RestartOn::Always), End::Code(0), Backoff, None),
        (service(RestartOn::Always), End::Code(3), Backoff, None),
        (service(RestartOn::Failure), End::Code(0), Ended, ok.clone()),
        (service(RestartOn::Failure), End::Code(3), Backoff, None),
        (service(RestartOn::Failure), End::HelperLost, Backoff, None),
        (service(RestartOn::Never), End::Code(0), Ended, ok),
        (service(RestartOn::Never), End::Code(3), Ended, code),
        (service(RestartOn::Never), End::HelperLost, Ended, lost),
    ];
    for (job, how, state, outcome) in table {
        let mut world = running(&job);
        end(&mut world, how.clone());
        let report = world.report("work", 0);
        let row = (&job.kind, job.task.restart.on, &how);
        assert_eq!(report.state, state, "{row:?}");
        assert_eq!(report.ended, outcome, "{row:?}");
        assert_eq!(report.last_end, Some(how.to_string()), "{row:?}");
        let healthy = state == Ended && how == End::Code(0);
        assert_eq!(report.healthy, healthy, "{row:?}");
        let held = match state {
            Backoff => 100,
            _ => 0,
        };
        assert_eq!(world.host.committed().cpu_millis, held, "{row:?}");
    }
}

#[test]
fn an_end_outlives_the_agent_until_it_was_heard() {
    for (job, state) in [
        (work(), TaskState::Stopped),
        (service(RestartOn::Never), TaskState::Ended),
    ] {
        let mut world = running(&job);
        end(&mut world, End::Code(0));
        for _ in 0..2 {
            world.restart_agent();
            world.now = world.now + ADOPTION_LIMIT;
            let effects = world.step(Event::Tick);
            let starts =
                |effect: &Effect| matches!(effect, Effect::StartHelper(_) | Effect::Fetch { .. });
            assert!(!effects.iter().any(starts), "{effects:?}");
            let report = world.report("work", 0);
            assert_eq!(report.state, state);
            assert_eq!(report.ended, Some(Outcome::Succeeded));
            assert_eq!(report.healthy, state == TaskState::Ended);
        }
        world.step(forget(1, 1));
        let kept = world.host.slots().len();
        assert_eq!(kept, usize::from(state == TaskState::Ended), "{state:?}");
        assert_eq!(world.journal.len(), kept);
    }
}

#[test]
fn a_slot_that_ended_is_filled_again_by_a_later_award_alone() {
    let mut world = running(&work());
    end(&mut world, End::Code(3));
    let repeated = awarded(&world.step(award(1, 1, &work(), &[(0, 1)])));
    assert!(
        matches!(&repeated[..], [Err(Refusal::StaleGeneration { .. })]),
        "{repeated:?}"
    );
    assert_eq!(world.alive.len(), 0, "it is not started by a repeat");
    let again = awarded(&world.step(award(1, 2, &work(), &[(0, 5)])));
    assert_eq!(again, [Ok(())]);
    world.settle();
    let report = world.report("work", 0);
    assert_eq!(report.state, TaskState::Running);
    assert_eq!((report.ended, report.starts), (None, 1));
    // What is acknowledged now was the task before.
    world.step(forget(1, 1));
    assert_eq!(world.state("work", 0), TaskState::Running);
}

#[test]
fn work_that_went_with_its_helper_is_started_again_by_the_next_award() {
    let mut world = running(&work());
    end(&mut world, End::HelperLost);
    assert_eq!(
        awarded(&world.step(award(1, 2, &work(), &[(0, 2)]))),
        [Ok(())]
    );
    world.settle();
    assert_eq!(world.state("work", 0), TaskState::Running);
}

#[test]
fn what_is_told_to_stop_has_not_succeeded() {
    let mut world = running(&work());
    world.step(stop_order(1, slot("work", 0), 1));
    end(&mut world, End::Code(0));
    let report = world.report("work", 0);
    assert_eq!(report.state, TaskState::Stopped);
    assert_eq!(report.ended, None, "many programs exit with 0 when stopped");
}

#[test]
fn a_task_that_ended_gives_its_slot_up_when_told_to() {
    let mut world = running(&service(RestartOn::Never));
    end(&mut world, End::Code(3));
    world.step(stop_order(1, slot("work", 0), 1));
    assert_eq!(world.state("work", 0), TaskState::Stopped);
    assert!(world.journal.is_empty());
    world.step(forget(1, 1));
    assert!(world.host.slots().is_empty());
}
