//! Tables and laws of the host's decisions, against a small model of the
//! world that carries effects out.

use super::*;
use crate::{auction::StopReason, session::TaskState};
use potluck_specs::{
    Epoch, FleetId, JobName, PackageId, Reign,
    job::{HealthCheck, JobKind, MountedPackage, PortSpec, ServiceSpec, SignedJob, TaskTemplate},
    trust::{Context, PublicKey, SecretKey, Signed, UserCredential},
};
use proptest::prelude::*;

mod ends;
mod lease;
mod recording;

fn authority(reign: u64) -> Authority {
    Authority {
        epoch: Epoch(1),
        reign: Reign(reign),
    }
}

fn generation(reign: u64, sequence: u64) -> Generation {
    authority(reign).generation(sequence)
}

fn config() -> HostConfig {
    HostConfig {
        node: NodeId([1; 32]),
        incarnation: 1,
        total: Resources::new(1_000, 1_000),
        port_first: 100,
        port_last: 109,
        unix_offset: Millis(0),
        adoption_limit: ADOPTION_LIMIT,
    }
}

fn job(name: &str, version: u64, share: u32) -> Job {
    Job {
        fleet: FleetId([0; 32]),
        cluster: "home".into(),
        name: JobName::in_default(name),
        version,
        kind: JobKind::service(10),
        package: PackageId([version as u8; 32]),
        task: TaskTemplate {
            command: "run".into(),
            resources: Resources::new(share, share.into()),
            ports: vec![PortSpec {
                name: "http".into(),
                number: None,
            }],
            ..TaskTemplate::default()
        },
        ..Job::default()
    }
}

/// Bytes that tell versions apart; nobody checks the signature here.
fn signed(job: &Job) -> SignedJob {
    let nobody = Signed {
        bytes: vec![],
        signature: [0; 64],
    };
    let key = SecretKey::from_seed([1; 32]);
    SignedJob {
        job: Signed::new(&key, Context::Job, job.encode()),
        author: UserCredential {
            root: PublicKey([0; 32]),
            issuer: nobody.clone(),
            certificate: nobody,
        },
    }
}

fn slot(name: &str, index: u32) -> SlotId {
    SlotId {
        job: JobName::in_default(name),
        index,
    }
}

fn award(reign: u64, call: u64, job: &Job, slots: &[(u32, u64)]) -> Event {
    Event::Award {
        award: Award {
            authority: authority(reign),
            call,
            slots: slots
                .iter()
                .map(|(index, sequence)| {
                    let id = SlotId {
                        job: job.name.clone(),
                        index: *index,
                    };
                    (id, generation(reign, *sequence))
                })
                .collect(),
            job: Arc::new(signed(job)),
            package_bytes: 1,
            holders: vec![],
        },
        job: Ok(Arc::new(job.clone())),
    }
}

fn call(reign: u64, call: u64, job: &Job, wanted: u32) -> Event {
    Event::Call {
        call: Call {
            authority: authority(reign),
            call,
            job: job.name.clone(),
            version: job.version,
            wanted,
            resources: job.task.resources,
            ports: job.task.ports.clone(),
            package: job.package,
            package_bytes: 1,
            each_most: None,
            devices: BTreeMap::new(),
        },
        missing_bytes: 0,
    }
}

fn stop_order(reign: u64, id: SlotId, sequence: u64) -> Event {
    Event::Stop(StopOrder {
        authority: authority(reign),
        slot: id,
        generation: generation(reign, sequence),
        reason: StopReason::JobStopped,
    })
}

fn answer(effects: &[Effect]) -> Answer {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Answer(answer) => Some(answer.clone()),
            _ => None,
        })
        .expect("this event is answered")
}

fn awarded(effects: &[Effect]) -> Vec<Result<(), Refusal>> {
    match answer(effects) {
        Answer::Award(answer) => answer.slots.into_iter().map(|(_, result)| result).collect(),
        other => panic!("no answer to an award: {other:?}"),
    }
}

fn bid(effects: &[Effect]) -> CallAnswer {
    match answer(effects) {
        Answer::Call(answer) => answer,
        other => panic!("no answer to a call: {other:?}"),
    }
}

/// A host and what its effects have made of the world.
struct World {
    host: Host,
    now: Millis,
    journal: BTreeMap<SlotId, Entry>,
    highest: Authority,
    /// Fetches under way.
    fetching: BTreeSet<(SlotId, Generation)>,
    /// Helpers and their tasks.
    alive: BTreeSet<Run>,
    told_to_stop: BTreeSet<Run>,
    /// All steps since it began, if it has.
    recording: Option<Vec<u8>>,
}

impl World {
    fn new() -> World {
        World {
            host: Host::new(config(), Authority::default(), vec![], Millis(0)),
            now: Millis(0),
            journal: BTreeMap::new(),
            highest: Authority::default(),
            fetching: BTreeSet::new(),
            alive: BTreeSet::new(),
            told_to_stop: BTreeSet::new(),
            recording: None,
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let redacted = event.redacted();
        let effects = self.host.step(event, self.now);
        self.record(redacted, &effects);
        for effect in &effects {
            self.carry_out(effect);
        }
        self.check();
        effects
    }

    fn carry_out(&mut self, effect: &Effect) {
        match effect {
            Effect::PersistAuthority(authority) => {
                assert!(*authority > self.highest, "the fence fell");
                self.highest = *authority;
            }
            Effect::JournalPut { entry, .. } => {
                self.journal.insert(entry.slot.clone(), (**entry).clone());
            }
            Effect::JournalRemove(id) => {
                self.journal.remove(id);
            }
            Effect::Fetch { slot, origin, .. } => {
                self.fetching.insert((slot.clone(), *origin));
            }
            Effect::CancelFetch { slot, origin } => {
                self.fetching.remove(&(slot.clone(), *origin));
            }
            Effect::StartHelper(start) => {
                let twins = self.alive.iter().filter(|run| run.slot == start.run.slot);
                assert_eq!(twins.count(), 0, "{} runs twice", start.run.slot);
                self.alive.insert(start.run.clone());
            }
            Effect::SignalStop { run, .. } => {
                self.told_to_stop.insert(run.clone());
            }
            _ => {}
        }
    }

    /// What holds after every step.
    fn check(&self) {
        let total = self.host.config.total;
        let taken = self.host.committed().plus(self.host.reserved());
        assert!(total.fits(&taken), "{taken:?} of {total:?} are taken");
        assert_eq!(self.host.highest(), self.highest, "the fence is durable");

        let mut ports = BTreeSet::new();
        for (id, slot) in &self.host.slots {
            let own: BTreeSet<u16> = slot.ports().collect();
            for port in own {
                assert!(ports.insert(port), "port {port} is given twice, to {id}");
            }
            let journalled = self.journal.get(id);
            match slot.state {
                State::Stopped if slot.entry.ended.is_none() => {
                    assert_eq!(journalled, None, "{id} is over");
                }
                _ => {
                    let journalled = journalled.expect("what is held is in the journal");
                    assert_eq!(journalled.generation, slot.entry.generation, "{id}");
                    assert_eq!(journalled.stop, slot.entry.stop, "{id}");
                }
            }
        }
        assert!(self.journal.len() <= self.host.slots.len());
    }

    /// Lets fetches and starts succeed and those told to stop end.
    fn settle(&mut self) {
        for _ in 0..100 {
            if let Some((slot, origin)) = self.fetching.pop_first() {
                self.step(Event::Fetched { slot, origin });
            } else if let Some(run) = self.told_to_stop.pop_first() {
                if self.alive.remove(&run) {
                    let end = End::Signal(15);
                    self.step(Event::Exited { run, end });
                }
            } else if let Some(run) = self.starting() {
                self.step(Event::Running(run));
            } else {
                return;
            }
        }
        panic!("the world does not settle");
    }

    fn starting(&self) -> Option<Run> {
        self.alive
            .iter()
            .find(|run| {
                self.host.slots.get(&run.slot).is_some_and(|slot| {
                    matches!(slot.state, State::Starting { .. }) && slot.is(run)
                })
            })
            .cloned()
    }

    fn state(&self, name: &str, index: u32) -> TaskState {
        self.report(name, index).state
    }

    fn report(&self, name: &str, index: u32) -> SlotReport {
        let mut all = self.host.slots().into_iter();
        all.find(|report| report.slot == slot(name, index))
            .expect("the slot is held")
    }

    fn run(&self, name: &str, index: u32) -> Run {
        let wanted = slot(name, index);
        let mut runs = self.alive.iter().filter(|run| run.slot == wanted);
        let run = runs.next().expect("the task runs").clone();
        assert_eq!(runs.next(), None, "one run at a time");
        run
    }

    /// The agent's end and new start; tasks go on.
    fn restart_agent(&mut self) {
        let restored = self.journal.values().cloned().collect();
        let mut config = config();
        config.incarnation = self.host.config.incarnation + 1;
        self.host = Host::new(config, self.highest, restored, self.now);
        if self.recording.is_some() {
            self.begin_recording();
        }
        self.fetching.clear();
        self.told_to_stop.clear();
    }
}

#[test]
fn a_bid_reserves_and_an_award_uses_it() {
    let mut world = World::new();
    let web = job("web", 1, 300);
    let CallAnswer::Bid(first) = bid(&world.step(call(1, 1, &web, 2))) else {
        panic!("there is room for two");
    };
    assert_eq!((first.slots, first.free.cpu_millis), (2, 1_000));
    let CallAnswer::Bid(second) = bid(&world.step(call(1, 2, &web, 2))) else {
        panic!("there is room for one more");
    };
    assert_eq!(second.slots, 1, "400 of 1000 are free");
    assert!(matches!(
        bid(&world.step(call(1, 3, &web, 2))),
        CallAnswer::Refusal(Refusal::Cpu {
            need: 300,
            free: 100
        })
    ));
    assert_eq!(
        awarded(&world.step(award(1, 1, &web, &[(0, 1), (1, 2)]))),
        [Ok(()), Ok(())]
    );
    assert_eq!(world.host.committed().cpu_millis, 600);
    world.now = HOLDS;
    world.step(Event::Tick);
    assert_eq!(
        world.host.reserved().cpu_millis,
        0,
        "the second bid is over"
    );
    assert_eq!(
        awarded(&world.step(award(1, 2, &web, &[(2, 3)]))),
        [Ok(())],
        "it still fits"
    );
    assert_eq!(
        awarded(&world.step(award(1, 9, &web, &[(3, 4)]))),
        [Err(Refusal::Cpu {
            need: 300,
            free: 100
        })]
    );
}

#[test]
fn a_fixed_port_is_promised_once() {
    let mut world = World::new();
    let mut web = job("web", 1, 100);
    web.task.ports[0].number = Some(80);
    let CallAnswer::Bid(first) = bid(&world.step(call(1, 1, &web, 5))) else {
        panic!("the port is free");
    };
    assert_eq!(first.slots, 1, "two can't have the same port");
    let taken = Refusal::PortTaken { port: 80 };
    let second = bid(&world.step(call(1, 2, &web, 5)));
    assert_eq!(second, CallAnswer::Refusal(taken.clone()));
    let without_bid = awarded(&world.step(award(1, 9, &web, &[(0, 1)])));
    assert_eq!(without_bid, [Err(taken.clone())]);
    assert_eq!(
        awarded(&world.step(award(1, 1, &web, &[(0, 1), (1, 2)]))),
        [Ok(()), Err(taken)]
    );
    world.settle();
    web.version = 2;
    assert_eq!(
        awarded(&world.step(award(1, 3, &web, &[(0, 3)]))),
        [Ok(())],
        "its own"
    );
    world.settle();
    assert_eq!(world.report("web", 0).ports["http"], 80);
}

#[test]
fn a_repeated_award_has_the_same_answer_and_no_effect() {
    let mut world = World::new();
    let web = job("web", 1, 600);
    let first = world.step(award(1, 1, &web, &[(0, 1), (1, 2)]));
    let second = world.step(award(1, 1, &web, &[(0, 1), (1, 2)]));
    assert_eq!(awarded(&first), awarded(&second));
    assert_eq!(second.len(), 1, "only the answer: {second:?}");
}

#[test]
fn lower_authorities_are_refused_and_higher_ones_are_durable_first() {
    let mut world = World::new();
    let web = job("web", 1, 100);
    let effects = world.step(award(5, 1, &web, &[(0, 1)]));
    assert_eq!(effects[0], Effect::PersistAuthority(authority(5)));
    let stale = Refusal::StaleAuthority {
        highest: authority(5),
    };
    assert_eq!(
        awarded(&world.step(award(4, 1, &web, &[(1, 1)]))),
        [Err(stale.clone())]
    );
    assert_eq!(
        bid(&world.step(call(4, 1, &web, 1))),
        CallAnswer::Refusal(stale.clone())
    );
    for event in [
        stop_order(4, slot("web", 0), 1),
        Event::Cancel {
            authority: authority(4),
            call: 1,
        },
        Event::Greet(authority(4)),
    ] {
        let refused = match answer(&world.step(event)) {
            Answer::Stop(result) | Answer::Cancel(result) => result,
            Answer::Greet(result) => result.map(|_| ()),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused, Err(stale.clone()));
    }
    assert_eq!(world.state("web", 0), TaskState::Fetching);
}

#[test]
fn a_task_lives_fails_and_is_started_again() {
    let mut world = World::new();
    let web = job("web", 1, 100);
    world.step(award(1, 1, &web, &[(0, 1)]));
    assert_eq!(world.state("web", 0), TaskState::Fetching);
    world.settle();
    let report = world.report("web", 0);
    assert_eq!(
        (report.state, report.healthy, report.starts),
        (TaskState::Running, true, 1)
    );
    assert_eq!(report.ports["http"], 100);

    for (failure, pause) in [(1, 250), (2, 500), (3, 1_000)] {
        let run = world.run("web", 0);
        world.alive.remove(&run);
        world.step(Event::Exited {
            run,
            end: End::Code(3),
        });
        assert_eq!(world.state("web", 0), TaskState::Backoff);
        assert_eq!(
            world.report("web", 0).last_end.as_deref(),
            Some("exited with code 3")
        );
        assert_eq!(world.host.wake_at(), Some(world.now + Millis(pause)));
        world.now = world.now + Millis(pause);
        world.step(Event::Tick);
        world.settle();
        assert_eq!(world.report("web", 0).starts, failure + 1);
    }
    let CallAnswer::Bid(bid) = bid(&world.step(call(1, 2, &web, 1))) else {
        panic!("there is room");
    };
    assert_eq!(bid.failures, 3);
}

#[test]
fn a_failed_fetch_is_tried_again() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1)]));
    world.fetching.clear();
    world.step(Event::FetchFailed {
        slot: slot("web", 0),
        origin: generation(1, 1),
        why: "nobody has it".into(),
    });
    let report = world.report("web", 0);
    assert_eq!(report.state, TaskState::Backoff);
    assert_eq!(
        report.last_end.as_deref(),
        Some("no package: nobody has it")
    );
    world.now = Millis(250);
    world.step(Event::Tick);
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Running);
}

#[test]
fn a_stopped_slot_is_reported_until_it_may_be_forgotten() {
    let mut world = World::new();
    let web = job("web", 1, 1_000);
    world.step(award(1, 1, &web, &[(0, 5)]));
    world.settle();
    let refused = answer(&world.step(stop_order(1, slot("web", 0), 4)));
    let holds = generation(1, 5);
    assert_eq!(
        refused,
        Answer::Stop(Err(Refusal::StaleGeneration { holds }))
    );
    let effects = world.step(stop_order(1, slot("web", 0), 5));
    assert!(
        matches!(effects[0], Effect::JournalPut { .. }),
        "durable before the answer"
    );
    assert_eq!(answer(&effects), Answer::Stop(Ok(())));
    assert_eq!(world.state("web", 0), TaskState::Stopping);
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Stopped);
    assert_eq!(world.host.free(), world.host.config.total);
    let late = awarded(&world.step(award(1, 1, &web, &[(0, 5)])));
    assert_eq!(late, [Err(Refusal::StaleGeneration { holds })]);

    let forget = |generation| {
        Event::HeartbeatAnswered(HeartbeatAnswer {
            authority: authority(1),
            confirmed: None,
            forget: vec![(slot("web", 0), generation)],
            renewals: None,
        })
    };
    world.step(forget(generation(1, 4)));
    assert_eq!(
        world.state("web", 0),
        TaskState::Stopped,
        "another generation was meant"
    );
    world.step(forget(generation(1, 5)));
    assert_eq!(world.host.slots(), []);
    let late = awarded(&world.step(award(1, 1, &web, &[(0, 5)])));
    assert_eq!(
        late,
        [Err(Refusal::StaleGeneration { holds })],
        "even when forgotten"
    );
}

#[test]
fn a_stop_for_a_slot_that_never_came_keeps_a_late_award_out() {
    let mut world = World::new();
    let stopped = answer(&world.step(stop_order(1, slot("web", 0), 7)));
    assert_eq!(stopped, Answer::Stop(Ok(())));
    let web = job("web", 1, 100);
    let holds = generation(1, 7);
    assert_eq!(
        awarded(&world.step(award(1, 1, &web, &[(0, 7)]))),
        [Err(Refusal::StaleGeneration { holds })]
    );
    assert_eq!(awarded(&world.step(award(1, 1, &web, &[(0, 8)]))), [Ok(())]);
}

#[test]
fn a_task_that_does_not_stop_is_killed_until_it_is_gone() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1)]));
    world.settle();
    world.step(stop_order(1, slot("web", 0), 1));
    let run = world.run("web", 0);
    for _ in 0..3 {
        world.now = world.host.wake_at().expect("a kill is planned");
        let effects = world.step(Event::Tick);
        assert_eq!(effects, [Effect::Kill(run.clone())]);
    }
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Stopped);
    assert_eq!(world.host.wake_at(), None);
}

#[test]
fn a_newer_generation_of_the_same_version_keeps_the_process() {
    let mut world = World::new();
    let web = job("web", 1, 1_000);
    world.step(award(1, 1, &web, &[(0, 1)]));
    world.settle();
    let run = world.run("web", 0);
    assert_eq!(awarded(&world.step(award(2, 1, &web, &[(0, 1)]))), [Ok(())]);
    world.settle();
    assert_eq!(world.run("web", 0), run);
    assert_eq!(world.report("web", 0).generation, generation(2, 1));
    let holds = generation(2, 1);
    world.step(Event::Greet(authority(3)));
    let older = Award {
        slots: vec![(slot("web", 0), generation(1, 9))],
        ..match award(3, 1, &web, &[]) {
            Event::Award { award, .. } => award,
            _ => unreachable!("an award was made"),
        }
    };
    let older = Event::Award {
        award: older,
        job: Ok(Arc::new(web)),
    };
    assert_eq!(
        awarded(&world.step(older)),
        [Err(Refusal::StaleGeneration { holds })]
    );
}

#[test]
fn another_version_waits_for_the_end_of_the_one_before() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 700), &[(0, 1)]));
    world.settle();
    let old = world.run("web", 0);
    let effects = world.step(award(1, 2, &job("web", 2, 800), &[(0, 2)]));
    assert_eq!(
        awarded(&effects),
        [Ok(())],
        "never both at once: 800 of 1000 are enough"
    );
    assert_eq!(world.host.committed().cpu_millis, 800);
    let origin = generation(1, 2);
    world.fetching.clear();
    world.step(Event::Fetched {
        slot: slot("web", 0),
        origin,
    });
    assert_eq!(world.report("web", 0).version, 2);
    assert_eq!(world.run("web", 0), old, "the new one is not started yet");
    // A third version takes over while the first still ends.
    world.step(award(1, 3, &job("web", 3, 100), &[(0, 3)]));
    assert_eq!(world.host.committed().cpu_millis, 700);
    world.settle();
    assert_eq!(world.report("web", 0).version, 3);
    assert_eq!(world.state("web", 0), TaskState::Running);
    assert_ne!(world.run("web", 0), old);
    assert_eq!(world.host.committed().cpu_millis, 100);
}

#[test]
fn a_stop_during_a_replacement_waits_for_the_one_before() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1)]));
    world.settle();
    world.step(award(1, 2, &job("web", 2, 100), &[(0, 2)]));
    world.step(stop_order(1, slot("web", 0), 2));
    assert_eq!(world.state("web", 0), TaskState::Stopping);
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Stopped);
    assert_eq!(world.alive, BTreeSet::new());
}

#[test]
fn services_are_checked_before_clients_are_sent() {
    let mut world = World::new();
    let mut web = job("web", 1, 100);
    web.task.services = vec![ServiceSpec::new("web", "http")];
    world.step(award(1, 1, &web, &[(0, 1)]));
    world.fetching.clear();
    world.step(Event::Fetched {
        slot: slot("web", 0),
        origin: generation(1, 1),
    });
    let run = world.run("web", 0);
    let effects = world.step(Event::Running(run.clone()));
    let check = HealthCheck::tcp("http");
    assert!(effects.contains(&Effect::WatchHealth {
        run: run.clone(),
        checks: vec![(check, 100)]
    }));
    assert!(!world.report("web", 0).healthy);
    let healthy = true;
    world.step(Event::HealthChanged { run, healthy });
    assert!(world.report("web", 0).healthy);
}

#[test]
fn disk_is_counted_as_any_resource_and_watched_while_the_task_runs() {
    let mut world = World::new();
    let mut hungry = job("web", 1, 100);
    hungry.task.resources.disk_bytes = 1;
    assert_eq!(
        awarded(&world.step(award(1, 1, &hungry, &[(0, 1)]))),
        [Err(Refusal::Disk { need: 1, free: 0 })]
    );
    let mut config = config();
    config.total.disk_bytes = 25;
    world.host = Host::new(config, world.highest, vec![], world.now);
    hungry.task.resources.disk_bytes = 10;
    let CallAnswer::Bid(offer) = bid(&world.step(call(1, 1, &hungry, 5))) else {
        panic!("there is room");
    };
    assert_eq!(offer.slots, 2, "as often as the disk has room");
    hungry.packages = vec![MountedPackage {
        at: "/opt/data".into(),
        package: PackageId([77; 32]),
    }];
    let effects = world.step(award(1, 1, &hungry, &[(0, 1)]));
    let fetched = effects.iter().find_map(|effect| match effect {
        Effect::Fetch { packages, .. } => Some(packages.clone()),
        _ => None,
    });
    let wanted = vec![PackageId([1; 32]), PackageId([77; 32])];
    assert_eq!(fetched, Some(wanted), "the program's first");
    world.fetching.clear();
    world.step(Event::Fetched {
        slot: slot("web", 0),
        origin: generation(1, 1),
    });
    let run = world.run("web", 0);
    let effects = world.step(Event::Running(run.clone()));
    assert!(effects.contains(&Effect::WatchDisk {
        run: run.clone(),
        bytes_max: 10
    }));
    assert_eq!(world.host.free().disk_bytes, 15);
    world.alive.remove(&run);
    let end = End::DiskLimit("2 of 1".into());
    world.step(Event::Exited { run, end });
    let report = world.report("web", 0);
    assert_eq!(report.last_end.as_deref(), Some("disk-limit: 2 of 1"));
    assert_eq!((report.state, report.failures), (TaskState::Backoff, 1));
}

#[test]
fn trouble_of_a_start_is_told_until_the_next() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1)]));
    world.settle();
    let run = world.run("web", 0);
    let troubled = |start: u32, trouble: Option<&str>| Event::Troubled {
        run: Run {
            start,
            ..run.clone()
        },
        trouble: trouble.map(Into::into),
    };
    let effects = world.step(troubled(1, Some("its log waits")));
    assert!(effects.contains(&Effect::ReportChanged));
    let told = |world: &World| world.report("web", 0).trouble;
    assert_eq!(told(&world).as_deref(), Some("its log waits"));
    let again = world.step(troubled(1, Some("its log waits")));
    assert!(!again.contains(&Effect::ReportChanged), "nothing new");
    world.step(troubled(7, None));
    assert!(told(&world).is_some(), "that is another start");
    world.alive.remove(&run);
    world.step(Event::Exited {
        run,
        end: End::Code(1),
    });
    assert!(
        told(&world).is_some(),
        "how it ended may be explained by it"
    );
    world.now = world.now + Millis(250);
    world.step(Event::Tick);
    world.settle();
    assert_eq!(told(&world), None);
}

#[test]
fn a_restarted_agent_finds_its_tasks() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1), (1, 2), (2, 3)]));
    world.settle();
    world.step(stop_order(1, slot("web", 2), 3));
    let (found, lost) = (world.run("web", 0), world.run("web", 1));
    let stopping = world.run("web", 2);
    world.restart_agent();
    assert_eq!(world.state("web", 0), TaskState::Adopting);
    let web = job("web", 1, 100);
    assert_eq!(
        bid(&world.step(call(1, 7, &web, 1))),
        CallAnswer::Refusal(Refusal::Adopting)
    );
    assert_eq!(
        awarded(&world.step(award(1, 7, &web, &[(7, 7)]))),
        [Err(Refusal::Adopting)]
    );
    world.step(Event::Running(found.clone()));
    assert_eq!(world.report("web", 0).starts, 1);
    assert_eq!(world.run("web", 0), found);
    let effects = world.step(Event::Running(stopping.clone()));
    assert!(matches!(&effects[0], Effect::SignalStop { run, .. } if *run == stopping));
    let stray = Run {
        start: 9,
        ..found.clone()
    };
    assert_eq!(
        world.step(Event::Running(stray.clone())),
        [Effect::Kill(stray)]
    );

    world.now = ADOPTION_LIMIT;
    let effects = world.step(Event::Tick);
    assert!(
        effects.contains(&Effect::KillLost(lost.clone())),
        "{effects:?}"
    );
    assert_eq!(
        world.state("web", 1),
        TaskState::Adopting,
        "until it is surely gone"
    );
    world.alive.remove(&lost);
    world.step(Event::Exited {
        run: lost,
        end: End::HelperLost,
    });
    assert_eq!(
        world.report("web", 1).last_end.as_deref(),
        Some("helper lost")
    );
    world.now = world.now + Millis(250);
    world.step(Event::Tick);
    world.settle();
    assert_eq!(world.report("web", 1).starts, 2);
    assert_eq!(world.state("web", 2), TaskState::Stopped);
}

#[test]
fn a_restart_between_award_and_first_start_goes_on_with_the_fetch() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1)]));
    world.restart_agent();
    world.now = ADOPTION_LIMIT;
    let effects = world.step(Event::Tick);
    let run = world.host.slots[&slot("web", 0)].run();
    assert!(effects.contains(&Effect::KillLost(run.clone())));
    world.step(Event::Exited {
        run,
        end: End::HelperLost,
    });
    world.settle();
    let report = world.report("web", 0);
    assert_eq!((report.state, report.last_end), (TaskState::Running, None));
}

#[test]
fn a_restart_during_a_replacement_still_waits_for_the_one_before() {
    let mut world = World::new();
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1)]));
    world.settle();
    let old = world.run("web", 0);
    world.step(award(1, 2, &job("web", 2, 100), &[(0, 2)]));
    world.restart_agent();
    let effects = world.step(Event::Running(old.clone()));
    assert!(matches!(&effects[0], Effect::SignalStop { run, .. } if *run == old));
    world.now = ADOPTION_LIMIT;
    world.step(Event::Tick);
    let lost = world.host.slots[&slot("web", 0)].run();
    world.step(Event::Exited {
        run: lost,
        end: End::HelperLost,
    });
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Running);
    assert_ne!(world.run("web", 0), old);
}

#[test]
fn heartbeats_tell_what_changed_since_the_confirmed_one() {
    let mut world = World::new();
    let beat = |world: &mut World| match answer(&world.step(Event::Heartbeat)) {
        Answer::Heartbeat(beat) => beat.inventory,
        other => panic!("{other:?}"),
    };
    let confirm = |number, forget| {
        Event::HeartbeatAnswered(HeartbeatAnswer {
            authority: authority(1),
            confirmed: number,
            forget,
            renewals: None,
        })
    };
    world.step(award(1, 1, &job("web", 1, 100), &[(0, 1), (1, 2)]));
    let first = beat(&mut world);
    assert_eq!((first.since, first.slots.len()), (None, 2));
    world.step(confirm(Some(first.number), vec![]));
    let quiet = beat(&mut world);
    assert_eq!((quiet.since, quiet.slots.len()), (Some(first.number), 0));
    world.settle();
    world.step(stop_order(1, slot("web", 0), 1));
    world.settle();
    let second = beat(&mut world);
    assert_eq!(second.slots.len(), 2);
    let forget = vec![(slot("web", 0), generation(1, 1))];
    world.step(confirm(Some(second.number), forget));
    let third = beat(&mut world);
    assert_eq!((third.slots.len(), third.gone), (0, vec![slot("web", 0)]));
    world.step(confirm(Some(third.number), vec![]));
    assert_eq!(beat(&mut world).gone, vec![]);
    world.step(confirm(Some(first.number), vec![]));
    assert_eq!(
        beat(&mut world).since,
        Some(third.number),
        "an old answer changes nothing"
    );
    world.step(Event::Greet(authority(2)));
    assert_eq!(
        beat(&mut world).since,
        None,
        "a new scheduler knows nothing"
    );
}

#[test]
fn what_is_not_trusted_or_named_otherwise_is_refused() {
    let mut world = World::new();
    let web = job("web", 1, 100);
    let Event::Award { award: message, .. } = award(1, 1, &web, &[(0, 1)]) else {
        unreachable!("an award was made")
    };
    let untrusted = Event::Award {
        award: message.clone(),
        job: Err("bad signature".into()),
    };
    let why = "bad signature".into();
    assert_eq!(
        awarded(&world.step(untrusted)),
        [Err(Refusal::Untrusted { why })]
    );
    let other = Event::Award {
        award: message,
        job: Ok(Arc::new(job("other", 1, 100))),
    };
    assert!(matches!(
        awarded(&world.step(other))[..],
        [Err(Refusal::Untrusted { .. })]
    ));
}

#[test]
fn a_draining_node_keeps_its_tasks_and_a_leaving_one_ends_them() {
    let mut world = World::new();
    let web = job("web", 1, 100);
    world.step(award(1, 1, &web, &[(0, 1)]));
    world.settle();
    world.step(Event::SetDraining(true));
    assert_eq!(
        bid(&world.step(call(1, 2, &web, 1))),
        CallAnswer::Refusal(Refusal::Draining)
    );
    assert_eq!(
        awarded(&world.step(award(1, 2, &web, &[(1, 2)]))),
        [Err(Refusal::Draining)]
    );
    assert_eq!(awarded(&world.step(award(2, 1, &web, &[(0, 3)]))), [Ok(())]);
    assert_eq!(world.state("web", 0), TaskState::Running);
    world.step(Event::Leave);
    world.settle();
    assert_eq!(world.state("web", 0), TaskState::Stopped);
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Move {
    Call {
        reign: u64,
        call: u64,
        share: u32,
        wanted: u32,
    },
    Award {
        reign: u64,
        call: u64,
        version: u64,
        share: u32,
        index: u32,
        sequence: u64,
    },
    Cancel {
        reign: u64,
        call: u64,
    },
    Stop {
        reign: u64,
        index: u32,
        sequence: u64,
    },
    Greet {
        reign: u64,
    },
    Fetch {
        ok: bool,
    },
    Run,
    Exit {
        pick: usize,
    },
    Obey,
    Wait {
        ms: u64,
    },
    Confirm {
        reign: u64,
    },
    RestartAgent,
    FindAll,
}

fn moves() -> impl Strategy<Value = Move> {
    let reign = 1..4u64;
    let share = prop_oneof![Just(0u32), Just(150), Just(400), Just(1_100)];
    prop_oneof![
        3 => (reign.clone(), 0..5u64, share.clone(), 0..5u32)
            .prop_map(|(reign, call, share, wanted)| Move::Call { reign, call, share, wanted }),
        6 => (reign.clone(), 0..5u64, 1..4u64, share, 0..5u32, 1..9u64).prop_map(
            |(reign, call, version, share, index, sequence)| Move::Award {
                reign, call, version, share, index, sequence
            }
        ),
        1 => (reign.clone(), 0..5u64).prop_map(|(reign, call)| Move::Cancel { reign, call }),
        2 => (reign.clone(), 0..5u32, 1..9u64)
            .prop_map(|(reign, index, sequence)| Move::Stop { reign, index, sequence }),
        1 => reign.clone().prop_map(|reign| Move::Greet { reign }),
        4 => any::<bool>().prop_map(|ok| Move::Fetch { ok }),
        4 => Just(Move::Run),
        2 => (0..8usize).prop_map(|pick| Move::Exit { pick }),
        2 => Just(Move::Obey),
        3 => (0..4_000u64).prop_map(|ms| Move::Wait { ms }),
        2 => reign.prop_map(|reign| Move::Confirm { reign }),
        1 => Just(Move::RestartAgent),
        2 => Just(Move::FindAll),
    ]
}

impl World {
    fn act(&mut self, action: Move) {
        match action {
            Move::Call {
                reign,
                call: number,
                share,
                wanted,
            } => {
                self.step(call(reign, number, &job("web", 1, share), wanted));
            }
            Move::Award {
                reign,
                call,
                version,
                share,
                index,
                sequence,
            } => {
                // The share belongs to the version: signed bytes don't change.
                let share = share + version as u32;
                let event = award(
                    reign,
                    call,
                    &job("web", version, share),
                    &[(index, sequence)],
                );
                let first = awarded(&self.step(event.clone()));
                let before = self.host.clone();
                let second = awarded(&self.step(event));
                if first == [Ok(())] {
                    assert_eq!(first, second, "an award that was taken stays taken");
                    assert_eq!(before.slots(), self.host.slots(), "and changes nothing");
                }
            }
            Move::Cancel { reign, call } => {
                let authority = authority(reign);
                self.step(Event::Cancel { authority, call });
            }
            Move::Stop {
                reign,
                index,
                sequence,
            } => {
                self.step(stop_order(reign, slot("web", index), sequence));
            }
            Move::Greet { reign } => {
                self.step(Event::Greet(authority(reign)));
            }
            Move::Fetch { ok } => {
                let Some((slot, origin)) = self.fetching.pop_first() else {
                    return;
                };
                self.step(match ok {
                    true => Event::Fetched { slot, origin },
                    false => Event::FetchFailed {
                        slot,
                        origin,
                        why: "no".into(),
                    },
                });
            }
            Move::Run => {
                if let Some(run) = self.starting() {
                    self.step(Event::Running(run));
                }
            }
            Move::Exit { pick } => {
                if let Some(run) = self.alive.iter().nth(pick).cloned() {
                    self.alive.remove(&run);
                    self.step(Event::Exited {
                        run,
                        end: End::Code(1),
                    });
                }
            }
            Move::Obey => {
                if let Some(run) = self.told_to_stop.pop_first()
                    && self.alive.remove(&run)
                {
                    let end = End::Signal(15);
                    self.step(Event::Exited { run, end });
                }
            }
            Move::Wait { ms } => {
                self.now = self.now + Millis(ms);
                let effects = self.step(Event::Tick);
                self.kill(&effects);
            }
            Move::Confirm { reign } => {
                let stopped = self.host.slots.values();
                let forget = stopped
                    .filter(|slot| slot.state == State::Stopped)
                    .map(|slot| (slot.entry.slot.clone(), slot.entry.generation))
                    .collect();
                let confirmed = Some(self.host.reports.number());
                self.step(Event::HeartbeatAnswered(HeartbeatAnswer {
                    authority: authority(reign),
                    confirmed,
                    forget,
                    renewals: None,
                }));
            }
            Move::RestartAgent => self.restart_agent(),
            Move::FindAll => {
                for run in self.alive.clone() {
                    let effects = self.step(Event::Running(run));
                    self.kill(&effects);
                }
            }
        }
    }

    /// Kills are carried out at once and reported.
    fn kill(&mut self, effects: &[Effect]) {
        for effect in effects {
            let (Effect::Kill(run) | Effect::KillLost(run)) = effect else {
                continue;
            };
            let lost = matches!(effect, Effect::KillLost(_));
            let held = self.host.slots.get(&run.slot);
            let before = held
                .and_then(|slot| slot.before.clone())
                .map(|before| before.run);
            self.alive.retain(|alive| {
                let of_lost = lost && alive.slot == run.slot && Some(alive) != before.as_ref();
                alive != run && !of_lost
            });
            self.step(Event::Exited {
                run: run.clone(),
                end: End::HelperLost,
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// [`World::check`] holds after every step of every history, no slot runs
    /// twice, and in the end a quiet host comes to rest. What was recorded of it
    /// is decided again the same.
    #[test]
    fn the_laws_hold_in_any_history(
        history in prop::collection::vec(moves(), 1..80),
        recorded_from in 0..40_usize,
    ) {
        let mut world = World::new();
        for (number, action) in history.into_iter().enumerate() {
            if number == recorded_from {
                world.begin_recording();
            }
            world.act(action);
        }
        world.act(Move::FindAll);
        for _ in 0..200 {
            world.settle();
            let Some(at) = world.host.wake_at() else { break };
            world.now = world.now.max(at);
            world.act(Move::Wait { ms: 0 });
        }
        for report in world.host.slots() {
            prop_assert!(
                matches!(report.state, TaskState::Running | TaskState::Stopped),
                "{report:?} does not come to rest"
            );
        }
        world.replay();
    }
}
