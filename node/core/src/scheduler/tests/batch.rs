//! Work that ends, under one scheduler and the next.

use super::*;
use crate::{
    cluster::{BatchEnd, BatchRecord},
    session::Outcome,
};
use potluck_specs::job::Batch;

fn array(completions: u32, parallelism: u32, retries: u32) -> Batch {
    Batch {
        completions,
        parallelism,
        retries,
        array: true,
        ..Batch::default()
    }
}

fn work(version: u64, batch: Batch) -> Job {
    let mut job = job(version, 1, 100);
    job.kind = JobKind::Batch(batch);
    job.task.ports.clear();
    job.task.services.clear();
    // What the task is changes with the version.
    job.task.args = vec![version.to_string()];
    job
}

fn failed() -> Outcome {
    Outcome::Failed {
        why: "exited with code 3".into(),
    }
}

impl World {
    fn batch(&self) -> &BatchRecord {
        let name = JobName::in_default("web");
        self.cluster.batch(&name).expect("it is work that ends")
    }

    /// Indexes whose tasks run, each once, in order.
    fn works(&self) -> Vec<u32> {
        let running = (0..40).filter(|index| {
            let on = self.on(&slot(*index));
            assert!(on.len() <= 1, "web[{index}] runs twice");
            let host = on.first().map(|node| &self.hosts[node]);
            host.is_some_and(|host| host.slots[&slot(*index)].state == TaskState::Running)
        });
        running.collect()
    }

    /// The task of this index ends; its host tells at its next heartbeat.
    fn end(&mut self, index: u32, outcome: Outcome) -> NodeId {
        let id = slot(index);
        let node = self.on(&id)[0];
        let host = self.hosts.get_mut(&node).unwrap();
        host.due.remove(&id);
        host.set(&id, TaskState::Stopped, self.now);
        host.slots.get_mut(&id).unwrap().ended = Some(outcome);
        node
    }
}

#[test]
fn an_array_runs_to_its_end() {
    let mut world = World::new("abc");
    world.submit_job(&work(1, array(6, 2, 0)));
    world.until("the first two", |w| w.works() == [0, 1]);
    world.end(1, Outcome::Succeeded);
    world.until("the next", |w| w.works() == [0, 2]);
    world.end(0, Outcome::Succeeded);
    world.end(2, Outcome::Succeeded);
    world.until("two more", |w| w.works() == [3, 4]);
    for index in 3..6 {
        world.until("it runs", |w| w.works().contains(&index));
        world.end(index, Outcome::Succeeded);
    }
    world.until("complete", |w| {
        matches!(w.batch().over, Some(BatchEnd::Complete { .. }))
    });
    world.run(5_000);
    assert!(world.works().is_empty());
    let kept: usize = world.hosts.values().map(|host| host.slots.len()).sum();
    assert_eq!(kept, 0, "hosts have forgotten what is counted");
}

#[test]
fn an_end_that_is_not_in_the_log_is_not_forgotten_and_not_tried_again() {
    let mut world = World::new("abc");
    world.submit_job(&work(1, array(1, 1, 5)));
    world.until("it runs", |w| w.works() == [0]);
    world.quorum = false;
    world.run(1_000);
    let node = world.end(0, Outcome::Succeeded);
    world.run(4_000);
    assert!(world.hosts[&node].slots.contains_key(&slot(0)));
    assert_eq!(world.batch().done(), 0);
    // The next leader hears of it first.
    world.quorum = true;
    world.reign(2);
    world.until("complete", |w| w.batch().over.is_some());
    world.run(5_000);
    assert_eq!(world.batch().done(), 1);
    let awards = world.count(|effect| matches!(effect, Effect::Award { .. }));
    assert_eq!(awards, 1, "it ran once");
}

#[test]
fn a_failed_index_is_tried_again_after_a_pause_as_often_as_it_may() {
    let mut world = World::new("abc");
    let mut job = work(1, array(2, 2, 2));
    job.task.restart.backoff_ms = 3_000;
    job.task.restart.backoff_max_ms = 4_000;
    world.submit_job(&job);
    world.until("both run", |w| w.works() == [0, 1]);
    for (times, pause) in [(1, 3_000), (2, 4_000)] {
        world.end(1, failed());
        world.until("counted", |w| {
            w.batch().failures(1).is_some_and(|f| f.count == times)
        });
        let took = world.until("again", |w| w.works() == [0, 1]);
        assert!(
            (pause..pause + 1_500).contains(&took),
            "{took} ms, not {pause}"
        );
    }
    world.end(1, failed());
    world.until("given up", |w| w.batch().has_failed(1));
    world.run(10_000);
    assert_eq!(world.works(), [0], "the other goes on");
    world.end(0, Outcome::Succeeded);
    world.until("failed", |w| {
        matches!(w.batch().over, Some(BatchEnd::Failed { .. }))
    });
}

#[test]
fn what_is_done_is_not_run_again_by_the_next_leader() {
    let mut world = World::new("abc");
    world.submit_job(&work(1, array(4, 2, 0)));
    world.until("they run", |w| w.works() == [0, 1]);
    world.end(0, Outcome::Succeeded);
    world.until("counted", |w| w.batch().is_done(0));
    world.reign(2);
    world.until("the next", |w| w.works() == [1, 2]);
    world.run(12_000);
    assert_eq!(world.works(), [1, 2], "no more than may run at once");
}

#[test]
fn the_work_of_a_lost_host_is_done_elsewhere() {
    let mut world = World::new("abc");
    world.submit_job(&work(1, array(3, 3, 0)));
    world.until("they run", |w| w.works() == [0, 1, 2]);
    let lost = world.on(&slot(0))[0];
    let lost = if lost == node(1) {
        world.on(&slot(1))[0]
    } else {
        lost
    };
    world.hosts.get_mut(&lost).unwrap().alive = false;
    world.until("all run again", |w| w.works() == [0, 1, 2]);
    assert_eq!(world.batch().failed(), 0, "that was not the task's fault");
}

#[test]
fn a_deadline_stops_what_runs() {
    let mut world = World::new("abc");
    let deadline_ms = Some(world.now + 5_000);
    world.submit_job(&work(
        1,
        Batch {
            deadline_ms,
            ..array(2, 1, 0)
        },
    ));
    world.until("it runs", |w| w.works() == [0]);
    world.until("too late", |w| {
        matches!(w.batch().over, Some(BatchEnd::DeadlineExceeded { .. }))
    });
    world.until("stopped", |w| w.on(&slot(0)).is_empty());
    world.run(5_000);
    assert!(world.works().is_empty());
}

#[test]
fn a_next_version_replaces_what_is_not_done() {
    let mut world = World::new("abc");
    world.submit_job(&work(1, array(4, 2, 0)));
    world.until("they run", |w| w.works() == [0, 1]);
    world.end(0, Outcome::Succeeded);
    world.until("counted", |w| w.batch().is_done(0));
    world.submit_job(&work(2, array(4, 2, 0)));
    world.until("the new version runs", |w| {
        let versions = [1, 2].map(|index| {
            let on = w.on(&slot(index));
            let host = on.first().map(|node| &w.hosts[node]);
            host.map(|host| host.slots[&slot(index)].version)
        });
        versions == [Some(2), Some(2)] && w.works() == [1, 2]
    });
    assert!(world.batch().is_done(0));
}

#[test]
fn a_drained_node_keeps_its_work_until_it_ends() {
    let mut world = World::new("abc");
    world.submit_job(&work(1, array(1, 1, 0)));
    world.until("it runs", |w| w.works() == [0]);
    let at = world.on(&slot(0))[0];
    world.propose(&Command::Drain {
        change: ChangeId([99; 16]),
        node: at,
        deadline: Some(Millis(world.now + 20_000)),
    });
    world.run(15_000);
    assert_eq!(world.on(&slot(0)), [at], "neither stopped nor doubled");
    let view = world.scheduler.drain_view(&world.cluster, at).unwrap();
    assert_eq!(view.left[0].1, DrainWait::Ends);
    world.until("it moved", |w| w.works() == [0] && w.on(&slot(0)) != [at]);
    assert_eq!(world.batch().failures(0), None);
}

#[test]
fn what_depends_on_work_waits_until_it_is_done() {
    let mut world = World::new("abc");
    let mut after = job(1, 1, 100);
    after.name = JobName::in_default("after");
    after.task.services.clear();
    after.change.depends_on = vec![potluck_specs::job::Dependency {
        job: JobName::in_default("web"),
        ..Default::default()
    }];
    world.submit_job(&work(1, array(1, 1, 0)));
    world.submit_job(&after);
    let second = SlotId {
        job: JobName::in_default("after"),
        index: 0,
    };
    world.until("it runs", |w| w.works() == [0]);
    world.run(5_000);
    assert!(world.on(&second).is_empty());
    world.end(0, Outcome::Succeeded);
    world.until("the other starts", |w| w.on(&second).len() == 1);
}

/// How often the slot was awarded to the node since `from`.
fn awarded(world: &World, index: u32, to: NodeId, from: u64) -> usize {
    let seen = world.seen.iter().filter(|(at, _)| *at >= from);
    seen.filter(|(_, effect)| match effect {
        Effect::Award { to: at, award } => {
            *at == to && award.slots.iter().any(|(id, _)| *id == slot(index))
        }
        _ => false,
    })
    .count()
}

/// One piece of work on a host that then is lost, and was to be taken up by the
/// other one, which is given.
fn lost_and_taken_up(world: &mut World, prepare: impl Fn(&mut World)) -> (NodeId, NodeId) {
    world.submit_job(&work(1, array(1, 1, 0)));
    world.until("it runs", |w| w.works() == [0]);
    let first = world.on(&slot(0))[0];
    let other = world.hosts.keys().copied().find(|node| *node != first);
    let other = other.expect("there are two");
    world.run(3_000);
    prepare(world);
    world.hosts.get_mut(&other).unwrap().lose_awards = true;
    world.hosts.get_mut(&first).unwrap().alive = false;
    world.until("awarded elsewhere", |w| {
        w.scheduler
            .awards_of(w.scheduler.names.id(&JobName::in_default("web")))
            .any(|(_, pending)| pending.node == other)
    });
    (first, other)
}

#[test]
fn an_award_that_was_not_sent_is_taken_back_when_its_index_is_done() {
    let mut world = World::new("ab");
    // The log goes on to name the first host, so that the award waits.
    let (first, other) = lost_and_taken_up(&mut world, |w| w.records_wait = true);
    world.run(1_000);
    assert_eq!(awarded(&world, 0, other, 0), 0, "it waits for the log");
    world.host(first.0[0]).alive = true;
    world.end(0, Outcome::Succeeded);
    world.until("counted", |w| w.batch().is_done(0));
    world.records_wait = false;
    world.hosts.get_mut(&other).unwrap().lose_awards = false;
    world.run(20_000);
    assert_eq!(awarded(&world, 0, other, 0), 0);
    assert!(
        world.scheduler.awards.nodes().next().is_none(),
        "nothing is kept of it"
    );
}

#[test]
fn an_award_without_an_answer_is_not_repeated_when_its_index_is_done() {
    let mut world = World::new("ab");
    let (first, other) = lost_and_taken_up(&mut world, |_| ());
    world.until("sent", |w| awarded(w, 0, other, 0) > 0);
    world.host(first.0[0]).alive = true;
    world.end(0, Outcome::Succeeded);
    world.until("counted", |w| w.batch().is_done(0));
    let counted = world.now;
    world.hosts.get_mut(&other).unwrap().lose_awards = false;
    world.run(30_000);
    assert_eq!(awarded(&world, 0, other, counted), 0);
    assert!(
        world.scheduler.awards.nodes().next().is_none(),
        "reports have settled it"
    );
}

#[test]
fn an_index_that_is_done_while_bids_come_in_is_not_awarded() {
    let mut world = World::new("ab");
    world.submit_job(&work(1, array(1, 1, 0)));
    world.until("it runs", |w| w.works() == [0]);
    let first = world.on(&slot(0))[0];
    world.hosts.get_mut(&first).unwrap().alive = false;
    let phase = |w: &World| w.scheduler.slots(&w.cluster)[0].phase.clone();
    world.until("called elsewhere", |w| phase(w) == SlotPhase::Calling);
    // The log counts it while the call is open, and before the job is looked at.
    let reign = world.cluster.authority().reign;
    let ends = vec![crate::cluster::TaskEnd {
        slot: slot(0),
        version: 1,
        generation: world.hosts[&first].slots[&slot(0)].generation,
        outcome: Outcome::Succeeded,
    }];
    let now = Millis(world.now);
    let counted = world.now;
    world.propose(&Command::RecordEnds { reign, ends, now });
    world.run(5_000);
    for node in world.hosts.keys() {
        assert_eq!(awarded(&world, 0, *node, counted), 0);
    }
}

#[test]
fn an_older_host_gets_no_work_that_ends_and_is_named() {
    let mut world = World::new("ab");
    for k in [1, 2] {
        world.propose(&introduction(k, 0));
    }
    world.submit_job(&work(1, array(1, 1, 0)));
    world.run(5_000);
    assert_eq!(world.awards(), 0);
    let explained = world
        .scheduler
        .explain_slot(&world.cluster, &slot(0), Millis(world.now))
        .unwrap();
    for host in &explained.hosts {
        let older = Obstacle::OlderVersion { level: 0, needs: 1 };
        assert_eq!(host.obstacles, [older]);
        assert!(host.to_string().contains("too old"), "{host}");
    }
    world.propose(&introduction(2, 1));
    let took = world.until("the newer one has it", |w| w.on(&slot(0)) == [node(2)]);
    assert!(took < 3_000, "waits for no longer than a round: {took} ms");
    let mut further = job(1, 1, 100);
    further.name = JobName::in_default("further");
    let package = potluck_specs::job::MountedPackage {
        package: PackageId([5; 32]),
        at: "/opt/more".into(),
    };
    further.packages.push(package);
    assert_eq!(crate::cluster::level_of_tasks(&further), 1);
}

#[test]
fn a_reason_without_end_is_told_to_the_log_in_short() {
    let mut world = World::new("a");
    world.submit_job(&work(1, array(1, 1, 0)));
    world.until("it runs", |w| w.works() == [0]);
    let why = "x".repeat(1 << 20);
    world.end(0, Outcome::Failed { why });
    world.until("failed", |w| w.batch().over.is_some());
    let longest = world.seen.iter().filter_map(|(_, effect)| match effect {
        Effect::Propose { command } => Some(potluck_specs::codec::encode(command).len()),
        _ => None,
    });
    assert!(longest.max().unwrap() < 2_000);
}

#[test]
fn what_depends_on_work_that_failed_says_so() {
    let mut world = World::new("abc");
    let after = |name: &str, at_least| {
        let mut after = job(1, 1, 100);
        after.name = JobName::in_default(name);
        after.task.services.clear();
        after.change.depends_on = vec![potluck_specs::job::Dependency {
            job: JobName::in_default("web"),
            at_least,
            ..Default::default()
        }];
        after
    };
    world.submit_job(&work(1, array(3, 3, 0)));
    world.submit_job(&after("all", None));
    world.submit_job(&after("two", Some(2)));
    world.until("they run", |w| w.works() == [0, 1, 2]);
    world.end(0, Outcome::Succeeded);
    world.end(1, failed());
    world.until("counted", |w| w.batch().failed() == 1);
    world.end(2, failed());
    world.until("failed", |w| w.batch().over.is_some());
    for (name, wanted) in [("all", 3), ("two", 2)] {
        let name = JobName::in_default(name);
        let unmet = world.scheduler.unmet_dependencies(&world.cluster, &name);
        assert_eq!(unmet[0].lack, Lack::Failed { done: 1, wanted });
        let text = unmet[0].lack.to_string();
        assert!(text.contains("run it again"), "{text}");
        let ledger = world.scheduler.ledger(&world.cluster, &name).unwrap();
        let blocked = ledger.used.values().next().unwrap().to_string();
        assert!(
            blocked.contains("web") && blocked.contains(&text),
            "{blocked}"
        );
    }
    // Run again it goes on, and what waits for a part of it starts.
    world.submit_job(&work(2, array(3, 3, 0)));
    world.until("it goes on", |w| w.works() == [1, 2]);
    world.end(1, Outcome::Succeeded);
    let second = SlotId {
        job: JobName::in_default("two"),
        index: 0,
    };
    world.until("two are done", |w| w.on(&second).len() == 1);
    world.end(2, failed());
    world.until("failed again", |w| w.batch().over.is_some());
    let two = JobName::in_default("two");
    assert!(
        world
            .scheduler
            .unmet_dependencies(&world.cluster, &two)
            .is_empty()
    );
}
