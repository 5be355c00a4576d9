//! One scheduler and hosts that do as they are told, in virtual time.
//!
//! The hosts here are small models; the real agent's decisions under faults
//! are the simulator's work.

use super::*;
use crate::{
    attributes::Facts,
    auction::{AwardAnswer, Bid, CallAnswer, Refusal},
    cluster::{Admission, Command, FEATURE_LEVEL, Genesis, Origin, Reply},
    session::{Inventory, SlotReport, TaskState},
};
use potluck_specs::{
    ChangeId, Epoch, FleetId, Generation, Job, JobName, NodeName, PackageId, SlotId, Topology,
    job::{JobKind, Mount, MountSource, PortSpec, Resources, ServiceSpec, SignedJob, TaskTemplate},
    trust::{NodeCredential, NodeRole, PublicKey, Signed, UserCredential},
};

mod batch;
mod change;
mod exclusive;
mod feasible;
mod forecast;
mod gang;
mod in_place;
mod preempt;
mod rebalance;
mod recovery;
mod stages;

/// One way of a message.
const HOP: u64 = 5;

/// From award to healthy, on a host.
const START: u64 = 200;

/// From stop order to stopped.
const STOP: u64 = 300;

const GIB: u64 = 1 << 30;

struct FakeHost {
    alive: bool,
    /// Messages to and from the scheduler get through.
    linked: bool,
    number: u64,
    slots: BTreeMap<SlotId, SlotReport>,
    resources: BTreeMap<SlotId, Resources>,
    due: BTreeMap<SlotId, (u64, TaskState)>,
    refuse_awards: Option<Refusal>,
    lose_award_answers: bool,
    /// Awards do not arrive.
    lose_awards: bool,
    draining: bool,
    /// Tasks of this version never pass their checks.
    sick_version: u64,
    highest: Authority,
    facts: Facts,
    /// Of each slot: devices by kind, and fixed ports.
    extras: BTreeMap<SlotId, (BTreeMap<String, u32>, BTreeSet<u16>)>,
}

struct World {
    now: u64,
    index: u64,
    quorum: bool,
    cluster: Cluster,
    scheduler: Scheduler,
    hosts: BTreeMap<NodeId, FakeHost>,
    /// What happens later, in order.
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    seen: Vec<(u64, Effect)>,
    services: BTreeMap<String, Vec<Endpoint>>,
    /// What is written behind does not reach the log.
    records_wait: bool,
}

fn node(k: u8) -> NodeId {
    NodeId([k; 32])
}

fn slot(index: u32) -> SlotId {
    SlotId {
        job: JobName::in_default("web"),
        index,
    }
}

fn signed(bytes: Vec<u8>) -> Signed {
    Signed {
        bytes,
        signature: [0; 64],
    }
}

/// A rack, or `datacenter/rack`.
fn topology(place: &str) -> Topology {
    let (datacenter, rack) = place.split_once('/').unwrap_or(("default", place));
    Topology {
        datacenter: datacenter.into(),
        ..Topology::in_rack("main", rack)
    }
}

fn admission(k: u8, rack: &str) -> Admission {
    Admission {
        node: node(k),
        name: NodeName(format!("n{k}")),
        topology: topology(rack),
        credential: NodeCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            certificate: signed(vec![]),
        },
        serial: u64::from(k),
        addresses: vec![],
    }
}

/// What node `k` says of its version.
fn introduction(k: u8, level: u32) -> Command {
    Command::RecordMember {
        node: node(k),
        addresses: None,
        capacity: None,
        raft_id: None,
        feature_level: Some(level),
    }
}

fn job(version: u64, replicas: u32, cpu_millis: u32) -> Job {
    Job {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        name: JobName::in_default("web"),
        version,
        kind: JobKind::service(replicas),
        package: PackageId([4; 32]),
        task: TaskTemplate {
            command: "bin/x".into(),
            resources: Resources::new(cpu_millis, GIB / 8),
            ports: vec![PortSpec {
                name: "http".into(),
                number: None,
            }],
            services: vec![ServiceSpec::new("web", "http")],
            ..TaskTemplate::default()
        },
        ..Job::default()
    }
}

/// Fixed ports as they are, others by the slot's number.
fn ports_of(job: &Job, slot: &SlotId) -> BTreeMap<String, u16> {
    let ports = job.task.ports.iter();
    ports
        .map(|port| {
            let number = port.number.unwrap_or(8_000 + slot.index as u16);
            (port.name.clone(), number)
        })
        .collect()
}

impl FakeHost {
    fn new() -> FakeHost {
        FakeHost {
            alive: true,
            linked: true,
            number: 0,
            slots: BTreeMap::new(),
            resources: BTreeMap::new(),
            due: BTreeMap::new(),
            refuse_awards: None,
            lose_award_answers: false,
            lose_awards: false,
            draining: false,
            sick_version: 0,
            highest: Authority::default(),
            facts: Facts::default(),
            extras: BTreeMap::new(),
        }
    }

    fn total() -> Resources {
        Resources::new(4_000, 8 * GIB)
    }

    fn free(&self) -> Resources {
        let used = self.resources.values().copied();
        used.fold(FakeHost::total(), Resources::minus)
    }

    fn heartbeat(&mut self, node: NodeId) -> crate::session::Heartbeat {
        self.number += 1;
        crate::session::Heartbeat {
            node,
            incarnation: 1,
            highest: self.highest,
            free: self.free(),
            total: FakeHost::total(),
            draining: self.draining,
            pressure: 0,
            facts: Some(self.facts.clone()),
            sent_at: Some(Millis(self.number)),
            inventory: Inventory {
                since: None,
                number: self.number,
                slots: self.slots.values().cloned().collect(),
                gone: vec![],
            },
        }
    }

    /// How many tasks there are devices and fixed ports for.
    fn extras_fit(&self, devices: &BTreeMap<String, u32>, ports: &[PortSpec]) -> u32 {
        let mut most = u32::MAX;
        for (kind, need) in devices {
            let all = self.facts.devices.get(kind).copied().unwrap_or(0);
            let used = self.extras.values().filter_map(|(d, _)| d.get(kind));
            let free = all.saturating_sub(used.sum());
            most = most.min(free / (*need).max(1));
        }
        for port in ports.iter().filter_map(|port| port.number) {
            let taken = self.extras.values().any(|(_, p)| p.contains(&port));
            most = most.min(if taken { 0 } else { 1 });
        }
        most
    }

    fn set(&mut self, slot: &SlotId, state: TaskState, now: u64) {
        if let Some(report) = self.slots.get_mut(slot) {
            report.state = state;
            report.healthy = state == TaskState::Running && report.version != self.sick_version;
            report.since = Millis(now);
        }
        if state == TaskState::Stopped {
            self.resources.remove(slot);
            self.extras.remove(slot);
        }
    }
}

impl World {
    /// Hosts 1.. in these racks; host 1 leads and has a quorum.
    fn new(racks: &str) -> World {
        World::placed(racks.chars().map(String::from).collect())
    }

    /// The same with racks by any name, or as `datacenter/rack`.
    fn placed(racks: Vec<String>) -> World {
        let mut cluster = Cluster::new();
        let roles = vec![NodeRole::Agent, NodeRole::VoterEligible];
        let genesis = Genesis {
            fleet: FleetId([7; 32]),
            cluster: "main".into(),
            epoch: Epoch(1),
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            gossip_keys: vec![],
            first: admission(1, &racks[0]),
            roles: roles.clone(),
            now: Millis(0),
        };
        cluster.apply(
            1,
            &Command::Genesis {
                genesis: Box::new(genesis),
            },
        );
        let token = Command::CreateToken {
            change: ChangeId([255; 16]),
            id: "t".into(),
            secret_hash: [0; 32],
            roles,
            rack: None,
            uses: 1_000,
            expires: Millis(u64::MAX),
            now: Millis(0),
        };
        cluster.apply(2, &token);
        for (k, rack) in racks.iter().enumerate().skip(1) {
            let join = Command::RedeemToken {
                token: "t".into(),
                secret_hash: [0; 32],
                admission: Box::new(admission(k as u8 + 1, rack)),
                now: Millis(0),
            };
            assert!(matches!(cluster.apply(3, &join), Reply::Admitted { .. }));
        }
        for k in 1..=racks.len() as u8 {
            cluster.apply(4, &introduction(k, FEATURE_LEVEL));
        }
        let hosts = (1..=racks.len() as u8).map(|k| (node(k), FakeHost::new()));
        let mut world = World {
            now: 100_000,
            index: 10,
            quorum: true,
            scheduler: Scheduler::new(
                SchedulerConfig::default(),
                Authority::default(),
                node(1),
                Millis(0),
            ),
            cluster,
            hosts: hosts.collect(),
            queue: BTreeMap::new(),
            queued: 0,
            seen: Vec::new(),
            services: BTreeMap::new(),
            records_wait: false,
        };
        world.reign(1);
        world
    }

    fn propose(&mut self, command: &Command) -> Reply {
        self.index += 1;
        let reply = self.cluster.apply(self.index, command);
        self.later(1, Event::ClusterChanged);
        reply
    }

    /// A new scheduler takes over.
    fn reign(&mut self, k: u8) {
        self.propose(&Command::Reign { leader: node(k) });
        self.queue.clear();
        self.scheduler = Scheduler::new(
            SchedulerConfig::default(),
            self.cluster.authority(),
            node(k),
            Millis(self.now),
        );
    }

    fn submit(&mut self, version: u64, replicas: u32, cpu_millis: u32) {
        let job = job(version, replicas, cpu_millis);
        let author = UserCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            certificate: signed(vec![]),
        };
        let reply = self.propose(&Command::SubmitJob {
            change: ChangeId([version as u8; 16]),
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
            origin: Origin::default(),
        });
        assert_eq!(reply, Reply::Accepted { version });
    }

    fn later(&mut self, after: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), event);
    }

    fn host(&mut self, k: u8) -> &mut FakeHost {
        self.hosts.get_mut(&node(k)).unwrap()
    }

    /// Runs for so many milliseconds.
    fn run(&mut self, for_ms: u64) {
        let end = self.now + for_ms;
        while self.now < end {
            self.now += HOP;
            self.hosts_live();
            if self.now.is_multiple_of(100) {
                if self.quorum {
                    let at = Millis(self.now);
                    self.step(Event::QuorumConfirmed { at });
                }
                self.step(Event::Tick);
            }
            while let Some(entry) = self.queue.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let event = entry.remove();
                self.step(event);
            }
        }
    }

    /// Runs until it holds; fails after a minute.
    fn until(&mut self, what: &str, holds: impl Fn(&World) -> bool) -> u64 {
        let start = self.now;
        while !holds(self) {
            assert!(self.now < start + 120_000, "never: {what}\n{}", self.show());
            self.run(HOP);
        }
        self.now - start
    }

    fn hosts_live(&mut self) {
        let now = self.now;
        let mut heartbeats = Vec::new();
        let mut members = Vec::new();
        for (id, host) in &mut self.hosts {
            if !host.alive {
                continue;
            }
            members.push(MemberView {
                node: *id,
                heartbeat_moved_at: Millis(now),
            });
            let due: Vec<SlotId> = host
                .due
                .iter()
                .filter(|(_, (at, _))| *at <= now)
                .map(|(slot, _)| slot.clone())
                .collect();
            for slot in &due {
                let (_, state) = host.due.remove(slot).unwrap();
                host.set(slot, state, now);
            }
            let phase = u64::from(id.0[0]) * 35 % 1_000;
            if host.linked && (!due.is_empty() || now % 1_000 == phase) {
                heartbeats.push(host.heartbeat(*id));
            }
        }
        for heartbeat in heartbeats {
            self.later(HOP, Event::Heartbeat { heartbeat });
        }
        if now.is_multiple_of(1_000) {
            self.later(HOP, Event::Members { members });
        }
    }

    fn step(&mut self, event: Event) {
        let effects = self.scheduler.step(&self.cluster, event, Millis(self.now));
        for effect in effects {
            self.seen.push((self.now, effect.clone()));
            self.carry_out(effect);
        }
    }

    fn linked(&self, id: NodeId) -> bool {
        self.hosts.get(&id).is_some_and(|h| h.alive && h.linked)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Greet { node, authority } => {
                if !self.linked(node) {
                    return self.later(1_000, Event::GreetFailed { node });
                }
                let host = self.hosts.get_mut(&node).unwrap();
                host.highest = host.highest.max(authority);
                let heartbeat = host.heartbeat(node);
                self.later(2 * HOP, Event::Greeted { heartbeat });
            }
            Effect::AnswerHeartbeat { to, answer } => {
                let host = self.hosts.get_mut(&to).unwrap();
                for (slot, _) in answer.forget {
                    host.slots.remove(&slot);
                }
            }
            Effect::Call { to, call } => self.call(to, &call),
            Effect::Award { to, award } => self.award(to, &award),
            Effect::Stop { to, order } => {
                let now = self.now;
                if !self.linked(to) {
                    return;
                }
                let host = self.hosts.get_mut(&to).unwrap();
                let fits = host
                    .slots
                    .get(&order.slot)
                    .is_some_and(|r| r.generation <= order.generation);
                if fits {
                    host.set(&order.slot, TaskState::Stopping, now);
                    host.due
                        .insert(order.slot, (now + STOP, TaskState::Stopped));
                }
            }
            Effect::Probe { via, about } => {
                if !self.linked(via) {
                    return self.later(1_000, Event::ProbeLost { by: via, about });
                }
                let reachable = self.hosts[&about].alive;
                let after = if reachable { 2 * HOP } else { 1_000 };
                self.later(
                    after,
                    Event::Probed {
                        by: via,
                        about,
                        reachable,
                    },
                );
            }
            Effect::Propose { command }
                if self.records_wait && matches!(*command, Command::RecordPlacements { .. }) => {}
            Effect::Propose { command } => {
                self.propose(&command);
            }
            Effect::Publish { service } => {
                self.services.insert(service.service, service.endpoints);
            }
            Effect::Cancel { .. } | Effect::Note { .. } => {}
        }
    }

    fn call(&mut self, to: NodeId, call: &crate::auction::Call) {
        if !self.linked(to) {
            let event = Event::CallLost {
                node: to,
                call: call.call,
            };
            return self.later(1_000, event);
        }
        let host = &self.hosts[&to];
        let free = host.free();
        let room = (free.cpu_millis / call.resources.cpu_millis.max(1))
            .min(call.wanted)
            .min(call.each_most.unwrap_or(u32::MAX))
            .min(host.extras_fit(&call.devices, &call.ports));
        let answer = if room == 0 {
            CallAnswer::Refusal(Refusal::Cpu {
                need: call.resources.cpu_millis,
                free: free.cpu_millis,
            })
        } else {
            CallAnswer::Bid(Bid {
                call: call.call,
                slots: room,
                free,
                total: FakeHost::total(),
                missing_bytes: 0,
                failures: 0,
                pressure: 0,
                holds: Millis(3_000),
            })
        };
        let event = Event::CallAnswered {
            node: to,
            call: call.call,
            answer,
        };
        self.later(2 * HOP, event);
    }

    fn award(&mut self, to: NodeId, award: &crate::auction::Award) {
        let lost = Event::AwardLost {
            node: to,
            call: award.call,
        };
        if !self.linked(to) || self.hosts[&to].lose_awards {
            return self.later(1_000, lost);
        }
        let now = self.now;
        let job = award.job.decode_unchecked().unwrap();
        let host = self.hosts.get_mut(&to).unwrap();
        let mut slots = Vec::new();
        for (slot, generation) in &award.slots {
            if let Some(refusal) = &host.refuse_awards {
                slots.push((slot.clone(), Err(refusal.clone())));
                continue;
            }
            slots.push((slot.clone(), Ok(())));
            if host
                .slots
                .get(slot)
                .is_some_and(|r| r.generation >= *generation)
            {
                continue;
            }
            let report = SlotReport {
                slot: slot.clone(),
                generation: *generation,
                version: job.version,
                state: TaskState::Fetching,
                healthy: false,
                ports: ports_of(&job, slot),
                resources: job.task.resources,
                starts: 1,
                failures: 0,
                last_end: None,
                trouble: None,
                since: Millis(now),
                ended: None,
            };
            host.slots.insert(slot.clone(), report);
            host.resources.insert(slot.clone(), job.task.resources);
            let fixed = job.task.ports.iter().filter_map(|port| port.number);
            let extras = (job.task.devices.clone(), fixed.collect());
            host.extras.insert(slot.clone(), extras);
            host.due
                .insert(slot.clone(), (now + START, TaskState::Running));
        }
        if host.lose_award_answers {
            return self.later(1_000, lost);
        }
        let answer = AwardAnswer { slots };
        let event = Event::AwardAnswered {
            node: to,
            call: award.call,
            answer,
        };
        self.later(2 * HOP, event);
    }

    /// A task of the slot runs there, from before this scheduler's time.
    fn give(&mut self, id: NodeId, slot: &SlotId) {
        let since = Millis(self.now);
        let host = self.hosts.get_mut(&id).unwrap();
        let report = SlotReport {
            slot: slot.clone(),
            generation: Generation::default(),
            version: 1,
            state: TaskState::Running,
            healthy: true,
            ports: BTreeMap::from([("http".into(), 8_000)]),
            resources: Resources::default(),
            starts: 1,
            failures: 0,
            last_end: None,
            trouble: None,
            since,
            ended: None,
        };
        host.slots.insert(slot.clone(), report);
    }

    /// Live hosts on which a slot is, stopped tasks left out.
    fn on(&self, slot: &SlotId) -> Vec<NodeId> {
        self.hosts
            .iter()
            .filter(|(_, host)| host.alive)
            .filter(|(_, host)| {
                let report = host.slots.get(slot);
                report.is_some_and(|r| r.state != TaskState::Stopped)
            })
            .map(|(node, _)| *node)
            .collect()
    }

    /// Slots 0.. that run, healthy, on exactly one live host.
    fn healthy(&self, replicas: u32) -> u32 {
        let runs = |index: u32| {
            let on = self.on(&slot(index));
            on.len() == 1 && self.hosts[&on[0]].slots[&slot(index)].healthy
        };
        (0..replicas).filter(|k| runs(*k)).count() as u32
    }

    fn tasks_by_rack(&self) -> BTreeMap<String, u32> {
        let mut racks = BTreeMap::new();
        for (id, host) in self.hosts.iter().filter(|(_, h)| h.alive) {
            let rack = self.cluster.members()[id].topology.rack.clone();
            let running = host
                .slots
                .values()
                .filter(|r| r.state == TaskState::Running);
            *racks.entry(rack).or_default() += running.count() as u32;
        }
        racks
    }

    fn count(&self, matches: impl Fn(&Effect) -> bool) -> usize {
        self.seen
            .iter()
            .filter(|(_, effect)| matches(effect))
            .count()
    }

    fn awards(&self) -> usize {
        self.count(|e| matches!(e, Effect::Award { .. }))
    }

    fn show(&self) -> String {
        let slots = self.scheduler.slots(&self.cluster);
        let slots: Vec<_> = slots.iter().map(|s| (&s.slot, &s.phase)).collect();
        let last = self.seen.iter().rev().take(20).collect::<Vec<_>>();
        format!("{slots:#?}\n{last:#?}")
    }
}

fn is_award(effect: &Effect) -> bool {
    matches!(effect, Effect::Award { .. })
}

#[test]
fn spreads_six_replicas_over_three_racks() {
    let mut world = World::new("abcabcabc");
    world.run(500);
    world.submit(1, 6, 500);
    let took = world.until("six healthy", |w| w.healthy(6) == 6);
    assert!(took < 500, "took {took} ms");
    let two = |rack: &str| (rack.to_string(), 2);
    assert_eq!(
        world.tasks_by_rack(),
        BTreeMap::from([two("a"), two("b"), two("c")])
    );
    // And over hosts: none has two.
    assert!(world.hosts.values().all(|host| host.slots.len() <= 1));
    world.until("published", |w| {
        w.services.get("web").is_some_and(|e| e.len() == 6)
    });
    world.until("written behind", |w| w.cluster.placements().len() == 6);
    // Nothing more to do: a quiet cluster stays quiet.
    let awards = world.awards();
    world.run(20_000);
    assert_eq!(world.awards(), awards);
    assert_eq!(world.count(|e| matches!(e, Effect::Stop { .. })), 0);
}

#[test]
fn a_hundred_tasks_take_a_few_calls() {
    let mut world = World::new("a");
    world.run(500);
    world.submit(1, 100, 40);
    let took = world.until("all healthy", |w| w.healthy(100) == 100);
    assert!(took < 800, "took {took} ms");
}

#[test]
fn a_dead_hosts_slots_are_healthy_elsewhere_in_eight_seconds() {
    let mut world = World::new("abcabc");
    world.submit(1, 6, 500);
    world.until("six healthy", |w| w.healthy(6) == 6);
    for victim in [2u8, 6] {
        world.run(5_000);
        world.host(victim).alive = false;
        let took = world.until("healed", |w| w.healthy(6) == 6);
        assert!(took < 8_000, "took {took} ms");
        assert!(took > 3_000, "too quick to be sure: {took} ms");
        let state = world.scheduler.session(node(victim));
        assert_eq!(state, Some(SessionState::Dead));
        let gone = |w: &World| w.services["web"].iter().all(|e| e.node != node(victim));
        world.until("endpoints gone", gone);
    }
}

#[test]
fn a_slot_that_leaves_its_volumes_behind_says_so() {
    let volume = Mount {
        at: "/data".into(),
        source: MountSource::Volume {
            name: "data".into(),
        },
        read_only: false,
    };
    let mut keeping = job(1, 3, 500);
    keeping.task.mounts.push(volume);
    let told = |w: &World, index| {
        let view = w.scheduler.slot(&w.cluster, &slot(index));
        view.volumes_left
    };
    // By the scheduler that has seen it there, and by the next one, which has
    // only the log's word for it.
    for is_new in [false, true] {
        let mut world = World::new("abcd");
        world.submit_job(&keeping);
        world.until("three healthy", |w| w.healthy(3) == 3);
        world.run(5_000);
        let before = world.on(&slot(0))[0];
        assert!(
            (0..3).all(|k| told(&world, k).is_none()),
            "where they began"
        );
        if is_new {
            world.reign(2);
        }
        world.hosts.get_mut(&before).expect("a host").alive = false;
        world.until("told", |w| told(w, 0) == Some(before));
        assert!((1..3).all(|k| told(&world, k).is_none()), "who stayed");
        let is_note = |effect: &Effect| {
            let Effect::Note { note } = effect else {
                return false;
            };
            matches!(note, Note::VolumesLeft { slot: left, from, .. }
                if *left == slot(0) && *from == before)
        };
        assert_eq!(world.count(is_note), 1);
    }
}

#[test]
fn nothing_is_placed_before_the_hosts_are_asked() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
    world.run(1_000);
    let holders: Vec<_> = (0..3).map(|k| world.on(&slot(k))).collect();
    // A new scheduler, and the hosts can't be heard for a while.
    for host in world.hosts.values_mut() {
        host.linked = false;
    }
    world.reign(2);
    world.seen.clear();
    world.services.clear();
    world.run(2_000);
    assert_eq!(world.awards(), 0);
    assert!(world.services.is_empty(), "published what it can't know");
    let view = world.scheduler.slot(&world.cluster, &slot(0));
    let holder = Some(holders[0][0]);
    assert_eq!(view.phase, SlotPhase::Waiting { holder });
    for host in world.hosts.values_mut() {
        host.linked = true;
    }
    world.run(20_000);
    assert_eq!(world.awards(), 0, "{}", world.show());
    assert_eq!(world.services["web"].len(), 3);
    let after: Vec<_> = (0..3).map(|k| world.on(&slot(k))).collect();
    assert_eq!(after, holders);
}

#[test]
fn unrecorded_slots_wait_for_all_live_members_or_ten_seconds() {
    let mut world = World::new("abc");
    world.submit(1, 1, 500);
    // Before anything was placed, another leads, and one host is mute.
    world.host(3).linked = false;
    world.reign(2);
    world.seen.clear();
    world.run(9_500);
    assert_eq!(world.awards(), 0, "{}", world.show());
    let took = world.until("placed", |w| w.healthy(1) == 1);
    assert!(took < 2_000, "took {took} ms");
}

#[test]
fn a_recorded_holder_that_reports_without_it_frees_it_at_once() {
    let mut world = World::new("abc");
    world.submit(1, 1, 500);
    world.until("written", |w| w.cluster.placements().len() == 1);
    let holder = world.on(&slot(0))[0];
    // The host lost its task, and another one is mute while a new one leads.
    world.hosts.get_mut(&holder).unwrap().slots.clear();
    let mute = world.hosts.keys().find(|n| **n != holder).copied().unwrap();
    world.hosts.get_mut(&mute).unwrap().linked = false;
    world.reign(if holder == node(1) { 2 } else { 1 });
    let took = world.until("placed again", |w| w.healthy(1) == 1);
    assert!(took < 2_000, "took {took} ms");
}

/// The record names one holder of what was a double: the other may be on the
/// host that is mute.
#[test]
fn a_lost_recorded_holder_frees_nothing_before_the_others_are_asked() {
    let mut world = World::new("abcde");
    world.submit(1, 1, 500);
    world.until("written", |w| w.cluster.placements().len() == 1);
    let holder = world.on(&slot(0))[0];
    let mut others = world.hosts.keys().filter(|node| **node != holder).copied();
    let (mute, leader) = (others.next().unwrap(), others.next().unwrap());
    world.hosts.get_mut(&holder).unwrap().alive = false;
    world.hosts.get_mut(&mute).unwrap().linked = false;
    world.seen.clear();
    world.reign((1..=5).find(|k| node(*k) == leader).unwrap());
    world.run(9_500);
    assert_eq!(world.awards(), 0, "{}", world.show());
    let took = world.until("placed", |w| w.healthy(1) == 1);
    assert!(took < 2_000, "took {took} ms");
}

#[test]
fn adopting_counts_as_held() {
    let mut world = World::new("abc");
    world.submit(1, 1, 500);
    world.until("one healthy", |w| w.healthy(1) == 1);
    let holder = world.on(&slot(0))[0];
    let now = world.now;
    world
        .hosts
        .get_mut(&holder)
        .unwrap()
        .set(&slot(0), TaskState::Adopting, now);
    world.seen.clear();
    world.reign(2);
    world.run(15_000);
    assert_eq!(world.awards(), 0);
}

#[test]
fn silent_without_a_quorum() {
    let mut world = World::new("abc");
    world.run(1_000);
    world.quorum = false;
    world.run(600);
    world.seen.clear();
    world.submit(1, 3, 500);
    world.run(5_000);
    let acts = |e: &Effect| {
        matches!(
            e,
            Effect::Award { .. } | Effect::Stop { .. } | Effect::Publish { .. }
        )
    };
    assert_eq!(world.count(acts), 0);
    world.quorum = true;
    let took = world.until("placed", |w| w.healthy(3) == 3);
    assert!(took < 1_000, "took {took} ms");
}

#[test]
fn bids_that_come_when_the_quorum_is_gone_wait() {
    let mut world = World::new("abc");
    world.run(1_000);
    world.submit(1, 3, 500);
    world.until("called", |w| {
        w.count(|e| matches!(e, Effect::Call { .. })) > 0
    });
    // The acknowledgement runs out between call and bids.
    world.quorum = false;
    world.scheduler.quorum_at = Some(Millis(world.now - 500));
    world.run(3_000);
    assert_eq!(world.awards(), 0);
    world.quorum = true;
    world.until("placed", |w| w.healthy(3) == 3);
}

#[test]
fn a_lost_award_stays_unknown_until_it_is_known() {
    let mut world = World::new("ab");
    for k in 1..=2 {
        world.host(k).lose_award_answers = true;
        world.host(k).linked = true;
    }
    world.submit(1, 1, 500);
    world.until("awarded", |w| w.awards() > 0);
    let to = match &world.seen.iter().find(|(_, e)| is_award(e)).unwrap().1 {
        Effect::Award { to, .. } => *to,
        _ => unreachable!(),
    };
    // It committed, its reports are held up, its answer is lost.
    world.hosts.get_mut(&to).unwrap().linked = false;
    world.run(3_000);
    let phase = world.scheduler.slot(&world.cluster, &slot(0)).phase;
    assert!(
        matches!(phase, SlotPhase::Awarded { node, .. } if node == to),
        "{phase:?}"
    );
    let others =
        |w: &World| w.count(|e| matches!(e, Effect::Award { to: other, .. } if *other != to));
    assert_eq!(others(&world), 0);
    world.hosts.get_mut(&to).unwrap().linked = true;
    world.until("seen", |w| {
        w.scheduler.slot(&w.cluster, &slot(0)).phase == SlotPhase::Held
    });
    assert_eq!(others(&world), 0);
}

#[test]
fn a_lost_award_is_repeated_with_its_generation() {
    let mut world = World::new("a");
    world.submit(1, 1, 500);
    world.until("called", |w| {
        w.count(|e| matches!(e, Effect::Call { .. })) > 0
    });
    world.run(HOP);
    // The award itself is lost; heartbeats go on.
    let answer = world.queue.iter().find_map(|(key, e)| match e {
        Event::CallAnswered { .. } => Some(*key),
        _ => None,
    });
    let event = world.queue.remove(&answer.unwrap()).unwrap();
    let now = Millis(world.now);
    let effects = world.scheduler.step(&world.cluster, event, now);
    let first = effects.iter().find_map(|e| match e {
        Effect::Award { award, .. } => Some(award.clone()),
        _ => None,
    });
    let first = first.expect("an award");
    world.later(
        500,
        Event::AwardLost {
            node: node(1),
            call: first.call,
        },
    );
    world.until("repeated", |w| w.awards() > 0);
    let (_, repeated) = world.seen.iter().find(|(_, e)| is_award(e)).unwrap();
    assert_eq!(
        *repeated,
        Effect::Award {
            to: node(1),
            award: first
        }
    );
    world.until("healthy", |w| w.healthy(1) == 1);
}

#[test]
fn a_lost_award_is_not_repeated_once_another_holds_the_slot() {
    let mut world = World::new("ab");
    world.submit(1, 1, 500);
    world.until("called", |w| {
        w.count(|e| matches!(e, Effect::Call { .. })) > 0
    });
    world.run(HOP);
    // Both bid; the award is lost, and a task from before comes to light.
    let mut award = None;
    while award.is_none() {
        let answer = world.queue.iter().find_map(|(key, e)| match e {
            Event::CallAnswered { .. } => Some(*key),
            _ => None,
        });
        let event = world.queue.remove(&answer.expect("an answer")).unwrap();
        let now = Millis(world.now);
        let effects = world.scheduler.step(&world.cluster, event, now);
        award = effects.into_iter().find_map(|e| match e {
            Effect::Award { to, award } => Some((to, award)),
            _ => None,
        });
    }
    let (to, award) = award.unwrap();
    let call = award.call;
    world.later(500, Event::AwardLost { node: to, call });
    let other = if to == node(1) { node(2) } else { node(1) };
    world.give(other, &slot(0));
    world.run(20_000);
    assert_eq!(world.awards(), 0, "{}", world.show());
    assert_eq!(world.on(&slot(0)), [other]);
    let phase = world.scheduler.slot(&world.cluster, &slot(0)).phase;
    assert_eq!(phase, SlotPhase::Held);
}

#[test]
fn a_leftover_does_not_hide_the_recorded_holder() {
    let mut world = World::new("abc");
    world.submit(1, 1, 500);
    world.until("written", |w| w.cluster.placements().len() == 1);
    world.run(1_000);
    let holder = world.on(&slot(0))[0];
    let mut others = world.hosts.keys().copied().filter(|n| *n != holder);
    let (leader, leftover) = (others.next().unwrap(), others.next().unwrap());
    // The holder is mute under a new scheduler; another host has an old task
    // of the slot, which then ends.
    world.hosts.get_mut(&holder).unwrap().linked = false;
    world.give(leftover, &slot(0));
    world.reign(leader.0[0]);
    world.seen.clear();
    world.run(1_500);
    assert_eq!(world.cluster.placements()[&slot(0)].node, holder);
    world.hosts.get_mut(&leftover).unwrap().slots.clear();
    world.run(1_500);
    assert_eq!(world.awards(), 0, "{}", world.show());
    assert_eq!(world.cluster.placements()[&slot(0)].node, holder);
    world.hosts.get_mut(&holder).unwrap().linked = true;
    world.run(20_000);
    assert_eq!(world.awards(), 0, "{}", world.show());
    assert_eq!(world.on(&slot(0)), [holder]);
}

#[test]
fn a_new_scheduler_withdraws_before_it_stops() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("published", |w| {
        w.services.get("web").is_some_and(|e| e.len() == 3)
    });
    // The job is stopped, and before anything follows another leads, who
    // can't reach one host.
    world.propose(&Command::StopJob {
        change: ChangeId([99; 16]),
        job: JobName::in_default("web"),
        author: "ada".into(),
        now: Millis(0),
    });
    world.host(3).linked = false;
    world.reign(2);
    world.seen.clear();
    world.run(5_000);
    world.host(3).linked = true;
    world.until("stopped", |w| (0..3).all(|k| w.on(&slot(k)).is_empty()));
    assert!(world.services["web"].is_empty(), "{}", world.show());
    let first =
        |matches: fn(&Effect) -> bool| world.seen.iter().position(|(_, e)| matches(e)).unwrap();
    let published = first(|e| matches!(e, Effect::Publish { .. }));
    let stopped = first(|e| matches!(e, Effect::Stop { .. }));
    assert!(published < stopped, "{}", world.show());
}

#[test]
fn a_refusal_sends_the_slot_elsewhere() {
    let mut world = World::new("abc");
    world.run(500);
    // Emptiest hosts bid best, so the refusing ones are tried first or not.
    world.host(1).refuse_awards = Some(Refusal::Busy);
    world.host(2).refuse_awards = Some(Refusal::Untrusted {
        why: "policy".into(),
    });
    world.submit(1, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
    assert_eq!(world.host(3).slots.len(), 3);
    let explained = world
        .scheduler
        .explain_slot(&world.cluster, &slot(0), Millis(world.now))
        .expect("the job runs");
    let case = |k| {
        let mut hosts = explained.hosts.iter();
        hosts.find(|host| host.node == node(k)).expect("every host")
    };
    assert_eq!(case(1).refused, Some(Refusal::Busy));
    assert!(matches!(case(2).refused, Some(Refusal::Untrusted { .. })));
    assert!(case(3).holds);
}

#[test]
fn what_does_not_fit_waits_for_room() {
    let mut world = World::new("ab");
    world.run(500);
    world.submit(1, 3, 3_000);
    world.until("two healthy", |w| w.healthy(3) == 2);
    world.run(10_000);
    assert_eq!(world.healthy(3), 2);
    let calls = world.count(|e| matches!(e, Effect::Call { .. }));
    assert!(calls < 40, "{calls} calls for a slot that fits nowhere");
    let why = world
        .scheduler
        .explain_slot(&world.cluster, &slot(2), Millis(world.now))
        .expect("the job runs");
    assert!(
        why.hosts.iter().all(|host| !host.obstacles.is_empty()),
        "{why}"
    );
    assert!(why.change.is_some(), "{why}");
    // A smaller version fits.
    world.submit(2, 3, 1_000);
    world.until("all healthy", |w| w.healthy(3) == 3);
}

#[test]
fn scaling_down_and_stopping_withdraw_first() {
    let mut world = World::new("abc");
    world.submit(1, 6, 500);
    world.until("published", |w| {
        w.services.get("web").is_some_and(|e| e.len() == 6)
    });
    world.seen.clear();
    world.submit(2, 6, 500);
    world.submit(3, 2, 500);
    world.until("scaled down", |w| (2..6).all(|k| w.on(&slot(k)).is_empty()));
    for (at, effect) in &world.seen {
        let Effect::Stop { order, .. } = effect else {
            continue;
        };
        let withdrawn = world
            .seen
            .iter()
            .take_while(|(_, e)| e != effect)
            .any(|(when, e)| {
                *when <= *at
                    && matches!(e, Effect::Publish { service }
                    if service.endpoints.iter().all(|e| e.slot != order.slot))
            });
        assert!(withdrawn, "{order:?} was stopped before it was withdrawn");
    }
    let web = JobName::in_default("web");
    world.propose(&Command::StopJob {
        change: ChangeId([99; 16]),
        job: web,
        author: "ada".into(),
        now: Millis(0),
    });
    world.until("stopped", |w| (0..6).all(|k| w.on(&slot(k)).is_empty()));
    assert!(world.services["web"].is_empty());
    world.until("freed", |w| w.cluster.placements().is_empty());
    // And a new version starts it again.
    world.submit(4, 2, 500);
    world.until("started again", |w| w.healthy(2) == 2);
}

#[test]
fn a_new_version_takes_one_slot_at_a_time() {
    let mut world = World::new("abc");
    world.submit(1, 4, 500);
    world.until("four healthy", |w| w.healthy(4) == 4);
    world.submit(2, 4, 600);
    let all_new = |w: &World| {
        (0..4).all(|k| {
            let on = w.on(&slot(k));
            on.len() == 1 && w.hosts[&on[0]].slots[&slot(k)].version == 2
        })
    };
    let start = world.now;
    while !all_new(&world) {
        assert!(world.now < start + 60_000, "{}", world.show());
        world.run(HOP);
        assert!(world.healthy(4) >= 3, "more than one away");
    }
    world.until("all healthy", |w| w.healthy(4) == 4);
}

#[test]
fn a_broken_version_is_replaced_although_nothing_is_healthy() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
    let now = world.now;
    for host in world.hosts.values_mut() {
        for slot in host.slots.keys().cloned().collect::<Vec<_>>() {
            host.set(&slot, TaskState::Backoff, now);
        }
    }
    world.run(2_000);
    assert_eq!(world.healthy(3), 0);
    world.submit(2, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
}

#[test]
fn a_drained_node_is_emptied_one_by_one() {
    let mut world = World::new("abc");
    world.submit(1, 6, 500);
    world.until("six healthy", |w| w.healthy(6) == 6);
    world.propose(&Command::SetDraining {
        change: ChangeId([50; 16]),
        node: node(2),
        draining: true,
    });
    let start = world.now;
    while !world.hosts[&node(2)].slots.is_empty() {
        assert!(world.now < start + 60_000, "{}", world.show());
        world.run(HOP);
        assert!(world.healthy(6) >= 5, "more than one away");
    }
    world.until("six healthy", |w| w.healthy(6) == 6);
    assert!(world.hosts[&node(2)].slots.is_empty());
}

#[test]
fn a_host_that_comes_back_gives_up_its_doubles() {
    let mut world = World::new("abcabc");
    world.submit(1, 6, 500);
    world.until("six healthy", |w| w.healthy(6) == 6);
    let victim = world.on(&slot(0))[0];
    let victim = if victim == node(1) {
        world.on(&slot(1))[0]
    } else {
        victim
    };
    world.hosts.get_mut(&victim).unwrap().alive = false;
    world.until("healed", |w| w.healthy(6) == 6);
    world.run(1_000);
    // Its tasks ran on all the while: a partition.
    world.hosts.get_mut(&victim).unwrap().alive = true;
    world.until("doubles seen", |w| {
        w.count(|e| {
            matches!(
                e,
                Effect::Note {
                    note: Note::Double { .. }
                }
            )
        }) > 0
    });
    world.until("one of each", |w| w.healthy(6) == 6);
    world.run(5_000);
    assert_eq!(world.healthy(6), 6);
    // The log names the kept one before the other is stopped.
    let mut recorded = BTreeMap::new();
    let mut stops = 0;
    for (_, effect) in &world.seen {
        match effect {
            Effect::Propose { command } => {
                if let Command::RecordPlacements { filled, .. } = &**command {
                    recorded.extend(filled.iter().map(|p| (p.slot.clone(), p.node)));
                }
            }
            Effect::Stop { to, order } => {
                assert_ne!(recorded.get(&order.slot), Some(to), "{order:?}");
                stops += 1;
            }
            _ => {}
        }
    }
    assert!(stops > 0);
}

#[test]
fn a_host_that_others_reach_is_given_up_after_half_a_minute() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
    let cut = node(3);
    world.hosts.get_mut(&cut).unwrap().linked = false;
    world.seen.clear();
    world.run(28_000);
    assert_eq!(world.scheduler.session(cut), Some(SessionState::Out));
    assert_eq!(world.awards(), 0);
    world.run(5_000);
    assert_eq!(
        world.scheduler.session(cut),
        Some(SessionState::Unreachable)
    );
    assert_eq!(world.awards(), 1, "{}", world.show());
    // Its task runs on, and is trimmed when it is heard again.
    world.hosts.get_mut(&cut).unwrap().linked = true;
    world.until("trimmed", |w| w.healthy(3) == 3);
}

#[test]
fn a_silent_rack_is_held_as_a_partition() {
    let mut world = World::new("aaabbbccc");
    world.submit(1, 9, 500);
    world.until("nine healthy", |w| w.healthy(9) == 9);
    world.run(1_000);
    for k in 4..=6 {
        world.host(k).alive = false;
    }
    world.seen.clear();
    world.run(55_000);
    assert_eq!(world.awards(), 0, "{}", world.show());
    assert_eq!(world.scheduler.braked().len(), 3);
    // The endpoints are still there, marked.
    let web = &world.services["web"];
    assert_eq!(web.len(), 9);
    assert_eq!(web.iter().filter(|e| !e.healthy).count(), 3);
    let mut placed = Vec::new();
    for _ in 0..40 {
        world.run(1_000);
        placed.push(world.healthy(9));
    }
    assert!(
        placed.contains(&7) && placed.contains(&8),
        "not one by one: {placed:?}"
    );
    assert_eq!(world.healthy(9), 9);
    assert!(world.scheduler.braked().is_empty());
}

#[test]
fn a_rack_that_comes_back_in_time_keeps_its_tasks() {
    let mut world = World::new("aaabbbccc");
    world.submit(1, 9, 500);
    world.until("nine healthy", |w| w.healthy(9) == 9);
    for k in 4..=6 {
        world.host(k).alive = false;
    }
    world.run(30_000);
    for k in 4..=6 {
        world.host(k).alive = true;
    }
    world.seen.clear();
    world.run(40_000);
    assert_eq!(world.awards(), 0);
    assert_eq!(world.count(|e| matches!(e, Effect::Stop { .. })), 0);
    assert_eq!(world.healthy(9), 9);
}

#[test]
fn a_scheduler_that_lagged_accuses_nobody() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
    world.run(1_000);
    // Nothing is read for ten seconds; then ticks come before heartbeats.
    world.now += 10_000;
    world.queue.clear();
    world.seen.clear();
    let at = Millis(world.now);
    world.step(Event::LaggedFor {
        lag: Millis(10_000),
    });
    world.step(Event::QuorumConfirmed { at });
    world.step(Event::Tick);
    world.run(10_000);
    let accused = world.count(|e| {
        matches!(e, Effect::Note { note: Note::Session { state, .. } } if *state != SessionState::Up)
    });
    assert_eq!(accused, 0);
    assert_eq!(world.awards(), 0);
}

#[test]
fn joining_nodes_are_not_accused_before_their_first_word() {
    let mut world = World::new("a");
    world.run(20_000);
    for k in 2..=9 {
        let join = Command::RedeemToken {
            token: "t".into(),
            secret_hash: [0; 32],
            admission: Box::new(admission(k, "b")),
            now: Millis(0),
        };
        world.propose(&join);
    }
    world.run(20_000);
    assert!(world.scheduler.braked().is_empty());
    assert_eq!(
        world.scheduler.session(node(5)),
        Some(SessionState::Unknown)
    );
}

#[test]
fn who_hears_of_a_later_authority_acts_no_more() {
    let mut world = World::new("abc");
    world.run(1_000);
    let later = Authority {
        epoch: Epoch(1),
        reign: potluck_specs::Reign(10_000),
    };
    world.host(2).highest = later;
    world.run(2_000);
    assert_eq!(
        world.count(|e| matches!(
            e,
            Effect::Note {
                note: Note::Superseded { .. }
            }
        )),
        1
    );
    world.submit(1, 3, 500);
    world.run(3_000);
    assert_eq!(world.awards(), 0);
}

#[test]
fn a_removed_members_slots_are_placed_at_once() {
    let mut world = World::new("abc");
    world.submit(1, 3, 500);
    world.until("three healthy", |w| w.healthy(3) == 3);
    world.host(3).alive = false;
    world.propose(&Command::RemoveMember {
        node: node(3),
        now: Millis(0),
    });
    let took = world.until("healed", |w| w.healthy(3) == 3);
    assert!(took < 1_500, "took {took} ms");
}

#[test]
fn jobs_that_the_log_lacks_run_on() {
    let mut world = World::new("ab");
    world.run(500);
    let stranger = SlotId {
        job: JobName::in_default("stranger"),
        index: 0,
    };
    let report = SlotReport {
        slot: stranger.clone(),
        generation: Generation::default(),
        version: 1,
        state: TaskState::Running,
        healthy: true,
        ports: BTreeMap::new(),
        resources: Resources::default(),
        starts: 1,
        failures: 0,
        last_end: None,
        trouble: None,
        since: Millis(0),
        ended: None,
    };
    world.host(2).slots.insert(stranger.clone(), report);
    world.run(15_000);
    assert_eq!(world.count(|e| matches!(e, Effect::Stop { .. })), 0);
    let view = world.scheduler.slot(&world.cluster, &stranger);
    assert_eq!(view.phase, SlotPhase::Held);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]

    /// Hosts die, return, fall mute, lose answers, are drained; leaders and
    /// versions change. Once it is over, each slot runs exactly once.
    #[test]
    fn after_any_trouble_all_heals(
        troubles in proptest::collection::vec((0u8..10, 1u8..8, 100u64..6_000), 0..14),
    ) {
        let mut world = World::new("aabbccc");
        let mut version = 1;
        world.submit(version, 9, 500);
        for (trouble, k, pause) in troubles {
            match trouble {
                0 => world.host(k).alive = false,
                1 => world.host(k).alive = true,
                2 => world.host(k).linked = false,
                3 => world.host(k).linked = true,
                4 => world.host(k).lose_award_answers ^= true,
                5 => world.host(k).draining ^= true,
                6 => world.quorum ^= true,
                7 => world.reign(k),
                8 => {
                    version += 1;
                    let mut job = job(version, 9, 500);
                    job.priority = 50 + u32::from(k);
                    world.submit_job(&job);
                }
                _ => {
                    version += 1;
                    world.submit(version, 9, 500);
                }
            }
            world.run(pause);
        }
        world.quorum = true;
        for host in world.hosts.values_mut() {
            host.alive = true;
            host.linked = true;
            host.lose_award_answers = false;
            host.draining = false;
        }
        let all_new = move |w: &World| w.healthy(9) == 9 && (0..9).all(|k| {
            let mut on = w.on(&slot(k)).into_iter();
            on.all(|n| {
                let runs = w.hosts[&n].slots[&slot(k)].version;
                w.cluster.is_current_task(&slot(k).job, runs)
            })
        });
        // What was on its way, such as a report of a drain, arrives first.
        world.run(3_000);
        world.until("all heals", all_new);
        // And it stays so.
        world.seen.clear();
        world.run(15_000);
        proptest::prop_assert!(all_new(&world));
        proptest::prop_assert_eq!(world.awards(), 0, "{}", world.show());
        let mut web = world.services["web"].clone();
        web.dedup_by(|a, b| a.slot == b.slot);
        proptest::prop_assert_eq!(web.len(), 9);
        proptest::prop_assert!(web.iter().all(|e| e.healthy));
    }
}
