//! Change and failure: drains, rollouts, the ledger, hosts on which a job
//! fails, dependencies, evening out.

use super::*;
use crate::{
    auction::StopReason,
    cluster::{RolloutControl, RolloutPhase},
};
use potluck_specs::job::{Amount, AtMost, Dependency, DependencyState, Level, Stage, StageSize};

pub(super) fn web() -> JobName {
    JobName::in_default("web")
}

impl World {
    /// Submits any job; gives its version.
    pub(super) fn submit_job(&mut self, job: &Job) -> u64 {
        let author = UserCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            certificate: signed(vec![]),
        };
        let mut change = [job.version as u8; 16];
        change[..3].copy_from_slice(&job.name.name.as_bytes()[..3]);
        let reply = self.propose(&Command::SubmitJob {
            change: ChangeId(change),
            job: Box::new(SignedJob {
                job: signed(job.encode()),
                author,
            }),
            author: "ada".into(),
            message: String::new(),
            holders: vec![node(1)],
            package_bytes: 1_000,
            further: Vec::new(),
            now: Millis(0),
            expected_version: None,
            origin: Default::default(),
        });
        let version = job.version;
        assert_eq!(reply, Reply::Accepted { version });
        version
    }

    pub(super) fn change(&mut self, make: impl FnOnce(ChangeId) -> Command) -> Reply {
        let mut change = [77; 16];
        change[..8].copy_from_slice(&self.index.to_be_bytes());
        self.propose(&make(ChangeId(change)))
    }

    pub(super) fn drain(&mut self, k: u8, deadline: Option<u64>) {
        let reply = self.change(|change| Command::Drain {
            change,
            node: node(k),
            deadline: deadline.map(Millis),
        });
        assert_eq!(reply, Reply::Done);
    }

    pub(super) fn control(&mut self, control: RolloutControl) -> Reply {
        self.change(|change| Command::ControlRollout {
            change,
            job: web(),
            control,
            author: "ada".into(),
            now: Millis(0),
        })
    }

    /// Tasks that serve on live hosts, of one version or of any.
    pub(super) fn serving(&self, name: &str, version: Option<u64>) -> usize {
        let hosts = self.hosts.values().filter(|host| host.alive);
        hosts
            .flat_map(|host| host.slots.values())
            .filter(|r| r.slot.job.name == name && crate::scheduler::picture::serves(r))
            .filter(|r| version.is_none_or(|version| r.version == version))
            .count()
    }

    pub(super) fn phase(&self) -> RolloutPhase {
        self.cluster
            .rollout(&web())
            .expect("a rollout")
            .phase
            .clone()
    }

    pub(super) fn stage(&self) -> u32 {
        self.cluster.rollout(&web()).expect("a rollout").stage
    }

    /// Tasks end again and again on hosts of which this holds.
    fn fail_where(&mut self, fails: impl Fn(NodeId, &SlotReport) -> bool) {
        let now = self.now;
        for (id, host) in &mut self.hosts {
            let failing: Vec<SlotId> = host
                .slots
                .values()
                .filter(|r| r.state == TaskState::Running && fails(*id, r))
                .map(|r| r.slot.clone())
                .collect();
            for slot in failing {
                host.set(&slot, TaskState::Backoff, now);
                if let Some(report) = host.slots.get_mut(&slot) {
                    report.failures = 3;
                    report.last_end = Some("no space left on device".into());
                }
                // Told at once.
                host.due.insert(slot, (now, TaskState::Backoff));
            }
        }
    }

    /// Runs with tasks failing until something holds.
    pub(super) fn until_failing(
        &mut self,
        fails: impl Fn(NodeId, &SlotReport) -> bool + Copy,
        holds: impl Fn(&World) -> bool,
    ) {
        let start = self.now;
        while !holds(self) {
            assert!(self.now < start + 120_000, "never:\n{}", self.show());
            self.run_failing(HOP, fails);
        }
    }

    /// Runs with tasks failing all the while.
    pub(super) fn run_failing(
        &mut self,
        ms: u64,
        fails: impl Fn(NodeId, &SlotReport) -> bool + Copy,
    ) {
        let end = self.now + ms;
        while self.now < end {
            self.fail_where(fails);
            self.run(HOP);
        }
    }
}

pub(super) fn staged(version: u64, replicas: u32, stages: &[(StageSize, u64)]) -> Job {
    let mut job = job(version, replicas, 400);
    job.task.args = vec![version.to_string()];
    job.change.update.stages = stages
        .iter()
        .map(|(size, bake_ms)| Stage {
            size: *size,
            bake_ms: *bake_ms,
        })
        .collect();
    job
}

#[test]
fn a_drain_starts_the_next_task_before_it_stops_the_last_one() {
    for replicas in [1, 6] {
        let mut world = World::new("abc");
        world.submit(1, replicas, 500);
        world.until("healthy", |w| w.healthy(replicas) == replicas);
        let k = world.on(&slot(0))[0].0[0];
        world.drain(k, None);
        let start = world.now;
        while !world.hosts[&node(k)].slots.is_empty() {
            assert!(world.now < start + 60_000, "{}", world.show());
            world.run(HOP);
            assert!(
                world.serving("web", None) >= replicas as usize,
                "{}",
                world.show()
            );
            let web = world.services["web"].iter().filter(|e| e.healthy);
            assert!(web.count() >= replicas as usize);
        }
        assert_eq!(world.healthy(replicas), replicas);
        assert_eq!(world.scheduler.surge_from(&slot(0)), None);
    }
}

#[test]
fn a_drain_without_room_pays_from_the_budget_and_ends_at_its_deadline() {
    // Two hosts, full: nobody takes a next task.
    let full = |budget: Option<Amount>| {
        let mut world = World::new("ab");
        let mut job = job(1, 2, 3_000);
        job.change.budget = budget;
        world.submit_job(&job);
        world.until("healthy", |w| w.healthy(2) == 2);
        world
    };
    let mut world = full(None);
    world.drain(2, None);
    world.run(25_000);
    assert_eq!(world.healthy(2), 2, "not before a place was looked for");
    world.until("emptied", |w| w.hosts[&node(2)].slots.is_empty());
    assert_eq!(world.healthy(2), 1);

    let mut world = full(Some(Amount::Count(0)));
    let deadline = world.now + 90_000;
    world.drain(2, Some(deadline));
    world.run(85_000);
    assert_eq!(world.healthy(2), 2, "a budget of none is kept");
    let view = world.scheduler.drain_view(&world.cluster, node(2)).unwrap();
    assert_eq!(view.left.len(), 1);
    assert_eq!(view.left[0].1, DrainWait::Budget);
    world.run(7_000);
    assert_eq!(world.healthy(2), 1, "{}", world.show());
    assert!(world.hosts[&node(2)].slots.is_empty());
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("healthy", |w| w.healthy(3) == 3);
    let cordon = |cordoned| {
        move |change| Command::Cordon {
            change,
            node: node(2),
            cordoned,
        }
    };
    world.change(cordon(true));
    world.submit(2, 9, 100);
    world.until("nine", |w| w.serving("web", Some(2)) == 9);
    let there = |w: &World| w.hosts[&node(2)].slots.len();
    assert_eq!(
        there(&world),
        0,
        "its task moved with the version, no other came"
    );
    world.change(cordon(false));
    world.submit(3, 18, 100);
    world.until("eighteen", |w| w.healthy(18) == 18);
    assert!(there(&world) >= 5, "{}", world.show());
}

#[test]
fn a_slot_that_fails_on_one_host_is_moved_and_the_host_avoided() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("healthy", |w| w.healthy(3) == 3);
    let bad = world.on(&slot(1))[0];
    world.run_failing(8_000, move |id, _| id == bad);
    assert_eq!(world.healthy(3), 3, "{}", world.show());
    assert!(world.hosts[&bad].slots.is_empty());
    let now = Millis(world.now);
    assert!(world.scheduler.is_bad_pair(&web(), bad, now));
    // A new version does not stall on it for long either.
    world.submit(2, 3, 600);
    let mut ran = 0;
    while world.serving("web", Some(2)) < 3 {
        world.run_failing(500, move |id, _| id == bad);
        ran += 500;
        assert!(ran < 30_000, "{}", world.show());
    }
    // After a while the host is tried again.
    world.run(121_000);
    let now = Millis(world.now);
    assert!(!world.scheduler.is_bad_pair(&web(), bad, now));
}

#[test]
fn a_job_says_how_often_it_is_tried_in_one_place() {
    let mut world = World::new("abc");
    let mut patient = job(1, 3, 500);
    patient.task.restart.attempts = Some(90);
    world.submit_job(&patient);
    world.until("healthy", |w| w.healthy(3) == 3);
    let bad = world.on(&slot(1))[0];
    world.run_failing(8_000, move |id, _| id == bad);
    assert!(!world.hosts[&bad].slots.is_empty(), "{}", world.show());
    let now = Millis(world.now);
    assert!(!world.scheduler.is_bad_pair(&web(), bad, now));
}

#[test]
fn a_version_that_fails_everywhere_is_in_a_crash_loop_and_its_rollout_stops() {
    for roll_back in [false, true] {
        let mut world = World::new("aabbcc");
        world.submit(1, 6, 400);
        world.until("healthy", |w| w.healthy(6) == 6);
        let mut job = job(2, 6, 500);
        job.change.update.rollback = roll_back;
        world.submit_job(&job);
        world.run_failing(60_000, |_, report| report.version == 2);
        let notes = world.count(|e| {
            matches!(
                e,
                Effect::Note {
                    note: Note::CrashLoop { version: 2, .. }
                }
            )
        });
        assert_eq!(notes, 1, "{}", world.show());
        if roll_back {
            assert!(matches!(world.phase(), RolloutPhase::RolledBack { .. }));
            world.until("back", |w| w.serving("web", Some(1)) == 6);
        } else {
            assert!(matches!(world.phase(), RolloutPhase::Failed { .. }));
            assert_eq!(world.serving("web", Some(1)), 5, "one was risked, no more");
            // Mended: a person lets it go on.
            assert_eq!(world.control(RolloutControl::Resume), Reply::Done);
        }
    }
}

/// As many tasks as hosts, one on each: what failed on a host as the version
/// that is taken back must not keep the one before it from it.
#[test]
fn what_is_rolled_back_goes_where_the_failed_version_was() {
    let mut world = World::new("abc");
    let mut first = job(1, 3, 400);
    first.placement.at_most = vec![AtMost {
        level: Level::Node,
        count: 1,
    }];
    world.submit_job(&first);
    world.until("healthy", |w| w.healthy(3) == 3);
    let mut next = first.clone();
    next.version = 2;
    next.task.args = vec!["bad".into()];
    next.change.update.health_deadline_ms = 20_000;
    next.change.update.rollback = true;
    world.submit_job(&next);
    let start = world.now;
    while world.phase() == RolloutPhase::Rolling {
        assert!(world.now < start + 60_000, "{}", world.show());
        world.run_failing(HOP, |_, report| report.version == 2);
    }
    assert!(matches!(world.phase(), RolloutPhase::RolledBack { .. }));
    let end = world.now + 15_000;
    while world.serving("web", Some(1)) < 3 {
        assert!(world.now < end, "{}", world.show());
        world.run_failing(HOP, |_, report| report.version == 2);
    }
}

#[test]
fn stages_come_one_after_the_other_each_after_its_bake() {
    let mut world = World::new("aabbcc");
    world.submit(1, 8, 400);
    world.until("healthy", |w| w.healthy(8) == 8);
    let stages = [
        (StageSize::Count(1), 10_000),
        (StageSize::Percent(50), 20_000),
    ];
    world.submit_job(&staged(2, 8, &stages));
    world.until("first", |w| w.serving("web", Some(2)) == 1);
    world.run(9_000);
    assert_eq!((world.stage(), world.serving("web", Some(2))), (0, 1));
    world.until("half", |w| w.serving("web", Some(2)) == 4);
    assert_eq!(world.stage(), 1);
    world.run(19_000);
    assert_eq!(world.serving("web", Some(2)), 4);
    // Another scheduler goes on at the same stage.
    world.reign(2);
    world.run(15_000);
    assert_eq!((world.stage(), world.serving("web", Some(2))), (1, 4));
    world.until("all", |w| {
        w.healthy(8) == 8 && w.serving("web", Some(2)) == 8
    });
    world.until("done", |w| w.phase() == RolloutPhase::Done);
}

#[test]
fn a_slot_outside_of_the_stage_comes_back_as_it_was() {
    let mut world = World::new("aabbcc");
    world.submit(1, 6, 400);
    world.until("healthy", |w| w.healthy(6) == 6);
    world.submit_job(&staged(2, 6, &[(StageSize::Count(2), 600_000)]));
    world.until("two", |w| w.serving("web", Some(2)) == 2);
    let mut outside = (2..6).map(|k| world.on(&slot(k))[0]);
    let victim = outside.find(|holder| *holder != node(1)).unwrap();
    world.hosts.get_mut(&victim).unwrap().alive = false;
    world.until("healed", |w| w.healthy(6) == 6);
    assert_eq!(world.serving("web", Some(2)), 2, "{}", world.show());
    assert_eq!(world.serving("web", Some(1)), 4);
}

#[test]
fn a_rollout_can_be_paused_resumed_and_undone() {
    let mut world = World::new("aabbcc");
    world.submit(1, 6, 400);
    assert!(matches!(
        world.control(RolloutControl::Pause),
        Reply::Refused { .. }
    ));
    world.until("healthy", |w| w.healthy(6) == 6);
    world.submit_job(&staged(2, 6, &[(StageSize::All, 0)]));
    world.until("two", |w| w.serving("web", Some(2)) == 2);
    assert_eq!(world.control(RolloutControl::Pause), Reply::Done);
    world.run(10_000);
    let paused_at = world.serving("web", Some(2));
    assert!(paused_at <= 3, "{paused_at}");
    world.run(10_000);
    assert_eq!(world.serving("web", Some(2)), paused_at);
    assert_eq!(world.control(RolloutControl::Resume), Reply::Done);
    world.until("done", |w| w.phase() == RolloutPhase::Done);
    assert_eq!(world.serving("web", Some(2)), 6);
    assert_eq!(world.control(RolloutControl::Undo), Reply::Done);
    let start = world.now;
    while world.serving("web", Some(1)) < 6 {
        assert!(world.now < start + 60_000, "{}", world.show());
        world.run(HOP);
        assert!(world.serving("web", None) >= 5, "the budget is kept");
    }
}

#[test]
fn a_stage_that_is_not_healthy_in_time_fails() {
    let mut world = World::new("abc");
    world.submit(1, 3, 400);
    world.until("healthy", |w| w.healthy(3) == 3);
    let mut job = job(2, 3, 500);
    job.change.update.health_deadline_ms = 20_000;
    job.change.update.rollback = true;
    world.submit_job(&job);
    let end = world.now + 19_000;
    for host in world.hosts.values_mut() {
        host.sick_version = 2;
    }
    world.run(19_000);
    assert_eq!(world.phase(), RolloutPhase::Rolling);
    assert!(world.serving("web", None) >= 2);
    while world.phase() == RolloutPhase::Rolling {
        world.run(HOP);
        assert!(world.now < end + 10_000, "{}", world.show());
    }
    world.until("back", |w| w.serving("web", Some(1)) == 3);
}

#[test]
fn one_budget_for_crashes_drains_and_rollouts() {
    let mut world = World::new("aabbcc");
    let mut wanted = job(1, 6, 400);
    wanted.change.budget = Some(Amount::Count(2));
    world.submit_job(&wanted);
    world.until("healthy", |w| w.healthy(6) == 6);
    // Two tasks crash; a rollout begins and a node is drained.
    let crashed: Vec<NodeId> = (0..2).map(|k| world.on(&slot(k))[0]).collect();
    let now = world.now;
    for (k, host) in crashed.iter().enumerate() {
        let host = world.hosts.get_mut(host).unwrap();
        host.set(&slot(k as u32), TaskState::Backoff, now);
    }
    world.run(1_500);
    let ledger = world.scheduler.ledger(&world.cluster, &web()).unwrap();
    assert_eq!((ledger.budget, ledger.used.len()), (2, 2));
    assert!(ledger.may_disrupt(&slot(0)).is_ok(), "down already");
    assert!(
        world
            .scheduler
            .may_disrupt(&world.cluster, &slot(5))
            .is_err()
    );
    let mut next = wanted.clone();
    next.version = 2;
    world.submit_job(&next);
    let k = world.on(&slot(5))[0].0[0];
    world.drain(k, None);
    let start = world.now;
    while world.serving("web", Some(2)) < 6 || !world.hosts[&node(k)].slots.is_empty() {
        assert!(world.now < start + 60_000, "{}", world.show());
        world.run(HOP);
        assert!(world.serving("web", None) >= 4, "{}", world.show());
    }
}

#[test]
fn a_scheduler_that_was_late_takes_nothing_away_while_a_host_is_silent() {
    let mut world = World::new("abc");
    world.submit(1, 3, 100);
    world.until("healthy", |w| w.healthy(3) == 3);
    world.run(10_000);
    world.host(3).alive = false;
    for _ in 0..6 {
        // It accuses nobody for five seconds from each of these on.
        let lag = Millis(2_000);
        world.step(Event::LaggedFor { lag });
        world.run(500);
    }
    assert_eq!(
        world.scheduler.session(node(3)),
        Some(SessionState::Up),
        "nobody is accused"
    );
    world.seen.clear();
    let mut next = job(2, 3, 100);
    next.task.args = vec!["2".into()];
    world.submit_job(&next);
    world.run(1_000);
    let stops = world.count(|effect| matches!(effect, Effect::Stop { .. }));
    assert_eq!(stops, 0, "one of three may be down, and one is");
    let ledger = world
        .scheduler
        .ledger(&world.cluster, &web())
        .expect("runs");
    assert_eq!(ledger.used.len(), 1, "{ledger:?}");
}

#[test]
fn a_job_starts_after_what_it_depends_on_and_stops_before_it() {
    let mut world = World::new("abc");
    let mut front = job(1, 2, 100);
    front.name = JobName::in_default("front");
    front.task.services.clear();
    front.change.depends_on = vec![Dependency {
        job: web(),
        state: DependencyState::Healthy,
        at_least: Some(2),
    }];
    world.submit_job(&front);
    world.run(3_000);
    assert_eq!(world.serving("front", None), 0);
    assert_eq!(
        world
            .scheduler
            .ledger(&world.cluster, &front.name)
            .unwrap()
            .used
            .values()
            .next(),
        Some(&Use::Dependency {
            on: Unmet {
                job: web(),
                lack: Lack::Missing,
            }
        })
    );
    world.submit(1, 3, 100);
    world.until("both", |w| w.serving("front", None) == 2);
    assert!(world.serving("web", None) >= 2);
    // What runs is not touched when the other job is down.
    let now = world.now;
    for host in world.hosts.values_mut() {
        for slot in (0..3).map(slot) {
            host.set(&slot, TaskState::Backoff, now);
        }
    }
    world.run(3_000);
    assert_eq!(world.serving("front", None), 2);
    for host in world.hosts.values_mut() {
        for slot in (0..3).map(slot) {
            host.set(&slot, TaskState::Running, now);
        }
    }
    for job in [web(), front.name.clone()] {
        world.change(|change| Command::StopJob {
            change,
            job,
            author: "ada".into(),
            now: Millis(0),
        });
    }
    let there = |w: &World, name: &str| {
        let slots = w.hosts.values().flat_map(|h| h.slots.values());
        slots
            .filter(|r| r.slot.job.name == name && r.state != TaskState::Stopped)
            .count()
    };
    let start = world.now;
    while there(&world, "web") > 0 {
        assert!(world.now < start + 30_000, "{}", world.show());
        world.run(HOP);
        let web_stops =
            world.count(|e| matches!(e, Effect::Stop { order, .. } if order.slot.job == web()));
        assert!(
            web_stops == 0 || there(&world, "front") == 0,
            "web stopped first"
        );
    }
}

#[test]
fn a_host_that_joins_is_given_its_share_slowly() {
    let mut world = World::new("abc");
    world.host(3).alive = false;
    world.submit(1, 9, 100);
    world.until("healthy", |w| w.healthy(9) == 9);
    world.until("given up", |w| {
        let hosts = w.scheduler.hosts(&w.cluster);
        hosts
            .iter()
            .any(|host| host.node == node(3) && host.session == SessionState::Dead)
    });
    world.run(1_000);
    world.host(3).alive = true;
    world.run(50_000);
    assert!(world.hosts[&node(3)].slots.is_empty(), "nothing in a hurry");
    let plan = world
        .scheduler
        .rebalance_plan(&world.cluster, Millis(world.now));
    assert_eq!(plan.len(), 1);
    assert_eq!(plan[0].to, node(3));
    assert_eq!(plan[0].why, MoveReason::Returned);
    let (level, there, here) = plan[0].crowd[0];
    assert_eq!(level, Level::Rack);
    assert!(there >= here + 2, "{plan:?}");
    world.seen.clear();
    let start = world.now;
    while world.hosts[&node(3)].slots.len() < 3 {
        assert!(world.now < start + 300_000, "{}", world.show());
        world.run(100);
        assert!(world.serving("web", None) >= 9, "moves cost no budget");
    }
    world.run(300_000);
    let moves = world.count(|e| {
        matches!(
            e,
            Effect::Note {
                note: Note::Surge {
                    reason: StopReason::Moved,
                    ..
                }
            }
        )
    });
    assert_eq!(moves, 3, "moves come to an end");
    assert_eq!(world.healthy(9), 9);
}

#[test]
fn a_host_that_comes_and_goes_gets_work_only_where_nobody_else_takes_it() {
    let mut world = World::new("ab");
    world.run(1_000);
    for _ in 0..3 {
        world.host(2).linked = false;
        world.run(5_500);
        world.host(2).linked = true;
        world.run(1_500);
    }
    assert!(world.scheduler.is_flapping(node(2), Millis(world.now)));
    world.submit(1, 2, 500);
    world.until("placed", |w| w.healthy(2) == 2);
    assert_eq!(world.hosts[&node(1)].slots.len(), 2);
    // Full: better there than nowhere.
    world.submit(2, 2, 3_000);
    world.until("placed", |w| w.healthy(2) == 2);
    world.run(600_000);
    assert!(!world.scheduler.is_flapping(node(2), Millis(world.now)));
}

#[test]
fn a_moved_slot_is_in_the_log_before_its_award_leaves() {
    let mut world = World::new("aabbcc");
    world.submit(1, 6, 500);
    world.until("written", |w| w.cluster.placements().len() == 6);
    let victim = world.on(&slot(0))[0];
    let victim = if victim == node(1) {
        world.on(&slot(1))[0]
    } else {
        victim
    };
    let lost: Vec<SlotId> = world.hosts[&victim].slots.keys().cloned().collect();
    world.hosts.get_mut(&victim).unwrap().alive = false;
    world.seen.clear();
    world.until("healed", |w| w.healthy(6) == 6);
    let before = lost.iter().map(|slot| (slot.clone(), victim));
    let mut recorded: BTreeMap<SlotId, NodeId> = before.collect();
    let mut awarded = BTreeSet::new();
    for (_, effect) in &world.seen {
        match effect {
            Effect::Propose { command } => {
                if let Command::RecordPlacements { filled, freed, .. } = &**command {
                    recorded.extend(filled.iter().map(|p| (p.slot.clone(), p.node)));
                    recorded.retain(|slot, _| !freed.contains(slot));
                }
            }
            Effect::Award { to, award } => {
                for (slot, _) in &award.slots {
                    // Without a record the next scheduler asks everybody.
                    let named = recorded.get(slot);
                    assert!(
                        named.is_none_or(|named| named == to),
                        "{slot} left too soon"
                    );
                    awarded.insert(slot.clone());
                }
            }
            _ => {}
        }
    }
    assert_eq!(awarded.into_iter().collect::<Vec<_>>(), lost);
}
