//! A cluster in memory: hosts that bid from what they have, and a stopwatch
//! around the scheduler's steps.

use potluck_core::{
    attributes::Facts,
    auction::{Award, AwardAnswer, Bid, Call, CallAnswer, Refusal},
    cluster::{Admission, Cluster, Command, Genesis, Reply},
    scheduler::{Effect, Event, Scheduler, SchedulerConfig},
    session::{Heartbeat, Inventory, SlotReport, TaskState},
};
use potluck_specs::{
    ChangeId, Epoch, FleetId, Job, JobName, Millis, NodeId, NodeName, PackageId, SlotId, Topology,
    job::{JobKind, Resources, SignedJob, TaskTemplate},
    trust::{NodeCredential, NodeRole, PublicKey, Signed, UserCredential},
};
use std::{collections::BTreeMap, time::Duration};

/// Hosts of a rack.
pub const RACK: usize = 20;

const GIB: u64 = 1 << 30;

/// What a host is in this bench: what it has, and what it runs.
pub struct BenchHost {
    pub total: Resources,
    pub free: Resources,
    pub slots: BTreeMap<SlotId, SlotReport>,
    number: u64,
    told: u64,
    news: Vec<SlotId>,
    facts: Facts,
}

/// The scheduler, its hosts, and the time that the scheduler took.
pub struct World {
    pub cluster: Cluster,
    pub scheduler: Scheduler,
    pub hosts: BTreeMap<NodeId, BenchHost>,
    pub now: u64,
    index: u64,
    /// In the scheduler's steps.
    pub spent: Duration,
    pub steps: u64,
    pub calls: u64,
    pub bids: u64,
    pub refusals: u64,
    pub placed: u64,
    pub unplaced: u64,
    pub stopped: u64,
}

pub fn node(k: usize) -> NodeId {
    // Scattered, as keys are.
    let mut x = (k as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&x.to_be_bytes());
    bytes[8..16].copy_from_slice(&(k as u64).to_be_bytes());
    NodeId(bytes)
}

/// What this thread has used of a processor: others on the machine count for
/// nothing.
pub fn processor_time() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.expect("a clock of the thread").into()
}

fn signed(bytes: Vec<u8>) -> Signed {
    Signed {
        bytes,
        signature: [0; 64],
    }
}

fn admission(k: usize, topology: Topology) -> Admission {
    Admission {
        node: node(k),
        name: NodeName(format!("n{k}")),
        topology,
        credential: NodeCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            certificate: signed(vec![]),
        },
        serial: k as u64,
        addresses: vec![],
    }
}

/// One host in twenty has an SSD.
fn facts(k: usize) -> Facts {
    let disk = if k % 20 == 7 { "ssd" } else { "hdd" };
    Facts::of(&[("os", "linux"), ("arch", "x86_64"), ("label.disk", disk)])
}

fn place(k: usize) -> Topology {
    Topology::in_rack("main", &format!("r{}", k / RACK))
}

/// The log admits a thousand members at most; the scheduler is measured
/// beyond that, so the state is written down and read with more of them.
fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster::new();
    let genesis = Genesis {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        epoch: Epoch(1),
        root: PublicKey([1; 32]),
        issuer: signed(vec![]),
        gossip_keys: vec![],
        first: admission(0, place(0)),
        roles: vec![NodeRole::Agent, NodeRole::VoterEligible],
        now: Millis(0),
    };
    cluster.apply(
        1,
        &Command::Genesis {
            genesis: Box::new(genesis),
        },
    );
    let mut written = serde_json::to_value(&cluster).expect("a cluster can be written");
    let members = written["members"].as_object_mut().expect("members");
    let first = members.values().next().expect("the first member").clone();
    for k in 1..nodes {
        let mut member = first.clone();
        let id = serde_json::to_value(node(k)).expect("an id can be written");
        member["node"] = id.clone();
        member["name"] = format!("n{k}").into();
        member["topology"] = serde_json::to_value(place(k)).expect("a place can be written");
        members.insert(id.as_str().expect("hexadecimal").to_owned(), member);
    }
    serde_json::from_value(written).expect("a cluster can be read")
}

impl World {
    /// So many hosts, each with 16 cores and 64 GiB, all heard of.
    pub fn new(nodes: usize) -> World {
        let total = Resources {
            cpu_millis: 16_000,
            memory_bytes: 64 * GIB,
            ..Resources::ZERO
        };
        let mut cluster = cluster(nodes);
        let leader = node(0);
        cluster.apply(2, &Command::Reign { leader });
        let now = 1_000_000;
        let scheduler = Scheduler::new(
            SchedulerConfig::default(),
            cluster.authority(),
            leader,
            Millis(now),
        );
        let host = |k: usize| BenchHost {
            facts: facts(k),
            total,
            free: total,
            slots: BTreeMap::new(),
            number: 0,
            told: 0,
            news: Vec::new(),
        };
        let mut world = World {
            cluster,
            scheduler,
            hosts: (0..nodes).map(|k| (node(k), host(k))).collect(),
            now,
            index: 2,
            spent: Duration::ZERO,
            steps: 0,
            calls: 0,
            bids: 0,
            refusals: 0,
            placed: 0,
            unplaced: 0,
            stopped: 0,
        };
        world.settle();
        world
    }

    /// Every host reports, and the pause after a reign's begin passes.
    pub fn settle(&mut self) {
        self.now += 400;
        self.beat();
    }

    pub fn reset(&mut self) {
        self.spent = Duration::ZERO;
        (self.steps, self.calls, self.bids) = (0, 0, 0);
        (self.refusals, self.placed, self.unplaced) = (0, 0, 0);
    }

    pub fn propose(&mut self, command: &Command) -> Reply {
        self.index += 1;
        self.cluster.apply(self.index, command)
    }

    /// A job of so many slots; the caller steps.
    pub fn submit(&mut self, job: &Job) {
        let author = UserCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![0; 250]),
            certificate: signed(vec![0; 250]),
        };
        let mut change = [0; 16];
        change[..8].copy_from_slice(&self.index.to_be_bytes());
        let reply = self.propose(&Command::SubmitJob {
            change: ChangeId(change),
            job: Box::new(SignedJob {
                job: signed(job.encode()),
                author,
            }),
            author: "ada".into(),
            message: String::new(),
            holders: vec![node(0), node(1), node(2)],
            package_bytes: 1_000_000,
            further: Vec::new(),
            now: Millis(0),
            expected_version: None,
            origin: Default::default(),
        });
        assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
    }

    /// Steps with these events; the clock runs meanwhile, and only then.
    fn timed(&mut self, events: Vec<Event>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.steps += events.len() as u64;
        let begin = processor_time();
        for event in events {
            effects.extend(self.scheduler.step(&self.cluster, event, Millis(self.now)));
        }
        self.spent += processor_time() - begin;
        effects
    }

    /// Steps with an event, and with all that follows from it at once.
    pub fn step(&mut self, event: Event) {
        self.step_all(vec![event]);
    }

    pub fn step_all(&mut self, mut events: Vec<Event>) {
        while !events.is_empty() {
            let effects = self.timed(events);
            events = effects
                .into_iter()
                .filter_map(|effect| self.carry_out(effect))
                .collect();
        }
    }

    pub fn tick(&mut self, after: u64) {
        self.now += after;
        let at = Millis(self.now);
        self.step(Event::QuorumConfirmed { at });
        self.step(Event::Tick);
    }

    /// Every host's heartbeat.
    pub fn beat(&mut self) {
        let at = Millis(self.now);
        self.step(Event::QuorumConfirmed { at });
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        let beats = nodes.into_iter().map(|node| Event::Heartbeat {
            heartbeat: self.heartbeat(node),
        });
        let beats = beats.collect();
        self.step_all(beats);
    }

    /// Every host's heartbeat, in time to be believed for the next seconds,
    /// not counted.
    pub fn refresh(&mut self) {
        self.now += 1_000;
        let spent = self.spent;
        self.beat();
        self.spent = spent;
    }

    /// Takes everything away on so many of a hundred hosts, unseen by the
    /// scheduler until they are asked.
    pub fn go_stale(&mut self, of_a_hundred: usize) {
        for host in self.hosts.values_mut().step_by(100 / of_a_hundred.max(1)) {
            host.free = Resources::ZERO;
        }
    }

    pub fn heartbeat(&mut self, node: NodeId) -> Heartbeat {
        let host = self.hosts.get_mut(&node).expect("a host");
        host.number += 1;
        let first = host.told == 0;
        let news = std::mem::take(&mut host.news);
        let slots = match first {
            true => host.slots.values().cloned().collect(),
            false => news
                .iter()
                .filter_map(|slot| host.slots.get(slot).cloned())
                .collect(),
        };
        let inventory = Inventory {
            since: (!first).then_some(host.told),
            number: host.number,
            slots,
            gone: vec![],
        };
        host.told = host.number;
        Heartbeat {
            node,
            incarnation: 1,
            highest: self.cluster.authority(),
            free: host.free,
            total: host.total,
            draining: false,
            pressure: 0,
            sent_at: None,
            facts: first.then(|| host.facts.clone()),
            inventory,
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Call { to, call } => {
                self.calls += 1;
                Some(self.bid(to, &call))
            }
            Effect::Award { to, award } => Some(self.award(to, &award)),
            Effect::Propose { command } => {
                self.propose(&command);
                None
            }
            Effect::Stop { to, order } => {
                self.stop(to, &order.slot);
                None
            }
            Effect::Note {
                note: potluck_core::scheduler::Note::Unplaced { slots, .. },
            } => {
                self.unplaced += u64::from(slots);
                None
            }
            _ => None,
        }
    }

    /// A task ends at once.
    pub fn stop(&mut self, on: NodeId, slot: &SlotId) {
        let host = self.hosts.get_mut(&on).expect("a host");
        if let Some(report) = host.slots.get_mut(slot)
            && report.state != TaskState::Stopped
        {
            report.state = TaskState::Stopped;
            host.free = host.free.plus(report.resources);
            host.news.push(slot.clone());
            self.stopped += 1;
        }
    }

    fn bid(&mut self, to: NodeId, call: &Call) -> Event {
        let host = &self.hosts[&to];
        let need = call.resources;
        let cpu = host.free.cpu_millis.checked_div(need.cpu_millis);
        let memory = host.free.memory_bytes.checked_div(need.memory_bytes);
        let room = u64::from(cpu.unwrap_or(u32::MAX)).min(memory.unwrap_or(u64::MAX));
        let slots = room
            .min(u64::from(call.wanted))
            .min(call.each_most.unwrap_or(u32::MAX).into()) as u32;
        let answer = if slots == 0 {
            self.refusals += 1;
            CallAnswer::Refusal(Refusal::Cpu {
                need: need.cpu_millis,
                free: host.free.cpu_millis,
            })
        } else {
            self.bids += 1;
            CallAnswer::Bid(Bid {
                call: call.call,
                slots,
                free: host.free,
                total: host.total,
                missing_bytes: 0,
                failures: 0,
                pressure: 0,
                holds: Millis(3_000),
            })
        };
        Event::CallAnswered {
            node: to,
            call: call.call,
            answer,
        }
    }

    fn award(&mut self, to: NodeId, award: &Award) -> Event {
        let job = award.job.decode_unchecked().expect("a job");
        let host = self.hosts.get_mut(&to).expect("a host");
        let mut slots = Vec::new();
        for (slot, generation) in &award.slots {
            if !host.free.fits(&job.task.resources) {
                let refusal = Refusal::Cpu {
                    need: job.task.resources.cpu_millis,
                    free: host.free.cpu_millis,
                };
                slots.push((slot.clone(), Err(refusal)));
                continue;
            }
            host.free = host.free.minus(job.task.resources);
            let report = SlotReport {
                slot: slot.clone(),
                generation: *generation,
                version: job.version,
                state: TaskState::Running,
                healthy: true,
                ports: BTreeMap::new(),
                resources: job.task.resources,
                starts: 1,
                failures: 0,
                last_end: None,
                trouble: None,
                since: Millis(self.now),
                ended: None,
            };
            host.slots.insert(slot.clone(), report);
            host.news.push(slot.clone());
            self.placed += 1;
            slots.push((slot.clone(), Ok(())));
        }
        Event::AwardAnswered {
            node: to,
            call: award.call,
            answer: AwardAnswer { slots },
        }
    }
}

/// A job of the bench: half a core and a GiB each.
pub fn job(name: &str, replicas: u32) -> Job {
    Job {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        name: JobName::in_default(name),
        version: 1,
        kind: JobKind::service(replicas),
        package: PackageId([4; 32]),
        task: TaskTemplate {
            resources: Resources::new(500, GIB),
            ..TaskTemplate::new("bin/x")
        },
        ..Job::default()
    }
}
