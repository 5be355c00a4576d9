//! One scheduler and real hosts; messages arrive at once and processes start
//! at once.

use potluck_core::{
    attributes::Facts,
    auction::Authority,
    cluster::{Admission, Cluster, Command, Genesis, Reply},
    host::{Answer, Effect as HostEffect, End, Event as HostEvent, Host, HostConfig},
    scheduler::{Effect, Event, Scheduler, SchedulerConfig},
};
use potluck_specs::{
    ChangeId, Epoch, FleetId, Job, JobName, Millis, NodeId, NodeName, SlotId, Topology,
    job::{Resources, SignedJob},
    trust::{NodeCredential, NodeRole, PublicKey, Signed, UserCredential},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Long enough for a placement and its retries, in ticks of 100 ms.
const TICKS: u64 = 30;

struct Machine {
    rack: String,
    host: Host,
    dead: bool,
}

pub(crate) struct World {
    now: u64,
    index: u64,
    cluster: Cluster,
    scheduler: Option<Scheduler>,
    machines: BTreeMap<NodeId, Machine>,
}

impl Default for World {
    fn default() -> World {
        World {
            now: 100_000,
            index: 0,
            cluster: Cluster::new(),
            scheduler: None,
            machines: BTreeMap::new(),
        }
    }
}

fn signed(bytes: Vec<u8>) -> Signed {
    Signed {
        bytes,
        signature: [0; 64],
    }
}

/// Named after the host, so that ties fall alike in every run.
fn node(name: &str) -> NodeId {
    let mut id = [0; 32];
    id[..name.len()].copy_from_slice(name.as_bytes());
    NodeId(id)
}

impl World {
    fn propose(&mut self, command: &Command) -> Reply {
        self.index += 1;
        self.cluster.apply(self.index, command)
    }

    fn change(&self) -> ChangeId {
        let mut change = [0; 16];
        change[..8].copy_from_slice(&self.index.to_be_bytes());
        ChangeId(change)
    }

    pub(crate) fn join(
        &mut self,
        name: &str,
        rack: &str,
        total: Resources,
        labels: &[(&str, &str)],
    ) {
        let admission = Admission {
            node: node(name),
            name: NodeName(name.into()),
            topology: Topology::in_rack("main", rack),
            credential: NodeCredential {
                root: PublicKey([1; 32]),
                issuer: signed(vec![]),
                certificate: signed(vec![]),
            },
            serial: self.index,
            addresses: vec![],
        };
        let roles = vec![NodeRole::Agent, NodeRole::VoterEligible];
        if self.machines.is_empty() {
            let genesis = Box::new(Genesis {
                fleet: FleetId([0; 32]),
                cluster: "main".into(),
                epoch: Epoch(1),
                root: PublicKey([1; 32]),
                issuer: signed(vec![]),
                gossip_keys: vec![],
                first: admission,
                roles,
                now: Millis(0),
            });
            self.propose(&Command::Genesis { genesis });
            let leader = node(name);
            self.propose(&Command::Reign { leader });
            let token = Command::CreateToken {
                change: self.change(),
                id: "t".into(),
                secret_hash: [0; 32],
                roles: vec![NodeRole::Agent],
                rack: None,
                uses: 1_000,
                expires: Millis(u64::MAX),
                now: Millis(0),
            };
            self.propose(&token);
            self.scheduler = Some(Scheduler::new(
                SchedulerConfig::default(),
                self.cluster.authority(),
                leader,
                Millis(self.now),
            ));
        } else {
            let reply = self.propose(&Command::RedeemToken {
                token: "t".into(),
                secret_hash: [0; 32],
                admission: Box::new(admission),
                now: Millis(0),
            });
            assert!(matches!(reply, Reply::Admitted { .. }), "{reply:?}");
        }
        let config = HostConfig {
            node: node(name),
            incarnation: 1,
            total,
            port_first: 20_000,
            port_last: 20_100,
            unix_offset: Millis(0),
            adoption_limit: Millis(0),
        };
        let now = Millis(self.now);
        let mut host = Host::new(config, Authority::default(), vec![], now);
        let mut facts = Facts::of(&[("os", "linux"), ("kernel", "6.18.4"), ("arch", "x86_64")]);
        for (key, value) in labels {
            match *key {
                "gpu" => {
                    let count = value.parse().expect("a number");
                    facts.devices.insert("gpu".into(), count);
                }
                "kernel" => {
                    facts.attributes.insert("kernel".into(), (*value).into());
                }
                key => {
                    let name = format!("label.{key}");
                    facts.attributes.insert(name, (*value).into());
                }
            }
        }
        host.step(HostEvent::SetFacts(facts), now);
        let machine = Machine {
            rack: rack.into(),
            host,
            dead: false,
        };
        self.machines.insert(node(name), machine);
    }

    pub(crate) fn next_version(&self, name: &str) -> u64 {
        let record = self.cluster.jobs().get(&JobName::in_default(name));
        record.map_or(1, |record| record.current().version + 1)
    }

    pub(crate) fn submit(&mut self, job: &Job) {
        let author = UserCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            certificate: signed(vec![]),
        };
        let version = job.version;
        let reply = self.propose(&Command::SubmitJob {
            change: self.change(),
            job: Box::new(SignedJob {
                job: signed(job.encode()),
                author,
            }),
            author: "ada".into(),
            message: String::new(),
            holders: self.machines.keys().copied().collect(),
            package_bytes: 1_000,
            further: Vec::new(),
            now: Millis(0),
            expected_version: None,
            origin: Default::default(),
        });
        assert_eq!(reply, Reply::Accepted { version });
        self.run();
    }

    pub(crate) fn dies(&mut self, name: &str) {
        self.machines.get_mut(&node(name)).expect("a host").dead = true;
        // Until it is given up and what it had is placed anew.
        for _ in 0..5 {
            self.run();
        }
    }

    pub(crate) fn cordon(&mut self, name: &str) {
        let command = Command::Cordon {
            change: self.change(),
            node: node(name),
            cordoned: true,
        };
        let reply = self.propose(&command);
        assert_eq!(reply, Reply::Done);
        self.run();
    }

    pub(crate) fn pressure(&mut self, name: &str, pressure: u8) {
        let machine = self.machines.get_mut(&node(name)).expect("a host");
        let event = HostEvent::SetPressure(pressure);
        machine.host.step(event, Millis(self.now));
    }

    fn run(&mut self) {
        for _ in 0..TICKS {
            self.now += 100;
            let at = Millis(self.now);
            self.step(Event::QuorumConfirmed { at });
            let living: Vec<NodeId> = self
                .machines
                .iter()
                .filter(|(_, machine)| !machine.dead)
                .map(|(node, _)| *node)
                .collect();
            for node in living {
                if let Some(Answer::Heartbeat(heartbeat)) = self.host(node, HostEvent::Heartbeat) {
                    self.step(Event::Heartbeat { heartbeat });
                }
            }
            self.step(Event::Tick);
        }
    }

    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let scheduler = self.scheduler.as_mut().expect("a scheduler");
            let now = Millis(self.now);
            for effect in scheduler.step(&self.cluster, event, now) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::AnswerHeartbeat { to, answer } => {
                self.host(to, HostEvent::HeartbeatAnswered(answer));
                None
            }
            Effect::Greet { node, authority } => {
                match self.host(node, HostEvent::Greet(authority)) {
                    Some(Answer::Greet(Ok(heartbeat))) => Some(Event::Greeted { heartbeat }),
                    _ => Some(Event::GreetFailed { node }),
                }
            }
            Effect::Call { to, call } => {
                let number = call.call;
                let event = HostEvent::Call {
                    call: Arc::unwrap_or_clone(call),
                    missing_bytes: 0,
                };
                Some(match self.host(to, event) {
                    Some(Answer::Call(answer)) => Event::CallAnswered {
                        node: to,
                        call: number,
                        answer,
                    },
                    _ => Event::CallLost {
                        node: to,
                        call: number,
                    },
                })
            }
            Effect::Award { to, award } => {
                let call = award.call;
                let job = award.job.decode_unchecked().expect("a job");
                let event = HostEvent::Award {
                    award: *award,
                    job: Ok(Arc::new(job)),
                };
                Some(match self.host(to, event) {
                    Some(Answer::Award(answer)) => Event::AwardAnswered {
                        node: to,
                        answer,
                        call,
                    },
                    _ => Event::AwardLost { node: to, call },
                })
            }
            Effect::Cancel {
                to,
                authority,
                call,
            } => {
                self.host(to, HostEvent::Cancel { authority, call });
                None
            }
            Effect::Stop { to, order } => {
                self.host(to, HostEvent::Stop(*order));
                None
            }
            Effect::Probe { via, about } => {
                let reachable = !self.machines[&about].dead;
                Some(Event::Probed {
                    by: via,
                    about,
                    reachable,
                })
            }
            Effect::Propose { command } => {
                self.propose(&command);
                Some(Event::ClusterChanged)
            }
            Effect::Publish { .. } | Effect::Note { .. } => None,
        }
    }

    /// One event of a host, and all that its effects bring about there.
    fn host(&mut self, id: NodeId, event: HostEvent) -> Option<Answer> {
        let now = Millis(self.now);
        let machine = self.machines.get_mut(&id).filter(|machine| !machine.dead)?;
        let mut events = VecDeque::from([event]);
        let mut answer = None;
        while let Some(event) = events.pop_front() {
            for effect in machine.host.step(event, now) {
                match effect {
                    HostEffect::Answer(said) => answer = answer.or(Some(said)),
                    HostEffect::Fetch { slot, origin, .. } => {
                        events.push_back(HostEvent::Fetched { slot, origin });
                    }
                    HostEffect::StartHelper(start) => {
                        events.push_back(HostEvent::Running(start.run));
                    }
                    HostEffect::SignalStop { run, .. } | HostEffect::Kill(run) => {
                        let end = End::Signal(15);
                        events.push_back(HostEvent::Exited { run, end });
                    }
                    _ => {}
                }
            }
        }
        answer
    }

    pub(crate) fn explain(&self, name: &str, index: u32) -> String {
        let slot = SlotId {
            job: JobName::in_default(name),
            index,
        };
        let scheduler = self.scheduler.as_ref().expect("a scheduler");
        let explained = scheduler.explain_slot(&self.cluster, &slot, Millis(self.now));
        explained.expect("a job that is to run").to_string()
    }

    /// Racks, hosts and what runs there.
    pub(crate) fn draw(&self) -> String {
        let mut racks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (id, machine) in &self.machines {
            let name = self.cluster.members()[id].name.0.clone();
            let mut slots: Vec<String> = machine
                .host
                .slots()
                .iter()
                .filter(|report| report.state == potluck_core::session::TaskState::Running)
                .map(|report| format!("{}[{}]", report.slot.job.name, report.slot.index))
                .collect();
            if machine.dead {
                slots = vec!["dead".into()];
            } else if slots.is_empty() {
                slots.push("-".into());
            }
            let text = format!("{name}: {}", slots.join(" "));
            racks.entry(&machine.rack).or_default().push(text);
        }
        let racks = racks.iter();
        racks
            .map(|(rack, hosts)| format!("rack {rack} | {}\n", hosts.join(" | ")))
            .collect()
    }
}
