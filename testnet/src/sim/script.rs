//! What people and misfortune do to the world: actions at times, written down
//! for a scenario or drawn from a seed.

use super::{
    Options,
    control::Proposer,
    machine::{Machine, everybody},
    network::{HostSet, only},
    queue::MS,
    rng::Rng,
    world::{Due, World},
};
use potluck_core::{
    cluster::{Admission, Cluster, Command, Genesis, Origin, Reply},
    host::{End, Event as HostEvent},
};
use potluck_specs::{
    ChangeId, Epoch, FleetId, Job, JobName, Millis, NodeName, PackageId, Topology,
    job::{
        JobKind, PortSpec, Resources, RestartPolicy, ServiceSpec, SignedJob, StopPolicy,
        TaskTemplate,
    },
    trust::{NodeCredential, NodeRole, PublicKey, Signed, UserCredential},
};

/// Between two tries of a client.
const CLIENT_EVERY: u64 = 700 * MS;

/// Who something happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// This host.
    Host(usize),
    /// Whoever leads at that moment.
    Leader,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Action {
    /// A person submits the next version of a job.
    Submit {
        /// The job.
        name: String,
        /// Its slots.
        replicas: u32,
        /// Thousandths of a core that each takes.
        cpu: u32,
    },
    /// A person stops a job.
    Stop {
        /// The job.
        name: String,
    },
    /// A person drains a host, or ends that.
    Drain {
        /// The host.
        host: usize,
        /// Drained or not.
        draining: bool,
    },
    /// An agent dies, or its whole host; started again after so long.
    Crash {
        /// Which.
        whom: Whom,
        /// With all tasks.
        whole: bool,
        /// Milliseconds until it starts again.
        down_ms: u64,
    },
    /// An agent dies between two effects of a step.
    CrashBetween {
        /// Which.
        host: usize,
        /// After so many.
        effects: usize,
    },
    /// An agent starts.
    Start {
        /// Which.
        host: usize,
    },
    /// Two sides don't hear each other, or one does not hear the other.
    Part {
        /// One side.
        side: HostSet,
        /// The side does not hear the others.
        inward: bool,
        /// The others do not hear the side.
        outward: bool,
        /// For so long.
        ms: u64,
    },
    /// Two sets of hosts don't hear each other.
    Cut {
        /// One.
        one: HostSet,
        /// The other.
        other: HostSet,
        /// For so long.
        ms: u64,
    },
    /// The leader is cut off from all others.
    IsolateLeader {
        /// For so long.
        ms: u64,
    },
    /// Ends a cut.
    Join {
        /// Its number.
        cut: u64,
    },
    /// A process of an agent is stopped for a while.
    Pause {
        /// Whose.
        whom: Whom,
        /// For so long.
        ms: u64,
    },
    /// Messages get lost or slow.
    Weather {
        /// Lost, of a thousand.
        loss: u64,
        /// Slow, of a thousand.
        slow: u64,
    },
    /// Answers of awards are lost.
    Mute {
        /// From this host.
        host: usize,
        /// For so long.
        ms: u64,
    },
    /// Tasks end by themselves.
    Exit {
        /// On this host.
        host: usize,
        /// Of a thousand.
        share: u64,
    },
    /// Tasks fail their health checks for a while.
    Sicken {
        /// On this host.
        host: usize,
        /// For so long.
        ms: u64,
    },
    /// All faults end, all hosts start.
    Heal,
}

/// What a client wants.
#[derive(Clone, Debug)]
enum Change {
    Submit {
        name: String,
        replicas: u32,
        cpu: u32,
    },
    Stop {
        name: String,
    },
    Drain {
        host: usize,
        draining: bool,
    },
}

/// Somebody who repeats a change until it is answered.
#[derive(Debug)]
pub struct Client {
    change: Change,
    id: ChangeId,
    command: Option<Command>,
    /// What it was told.
    pub reply: Option<Reply>,
    /// The job and version that it was told is accepted.
    pub accepted: Option<(JobName, u64)>,
}

impl World {
    pub(super) fn act(&mut self, action: Action) {
        let now = self.queue.now();
        self.trace.line(now, || format!("-- {action:?}"));
        match action {
            Action::Submit {
                name,
                replicas,
                cpu,
            } => self.client(Change::Submit {
                name,
                replicas,
                cpu,
            }),
            Action::Stop { name } => self.client(Change::Stop { name }),
            Action::Drain { host, draining } => self.client(Change::Drain { host, draining }),
            Action::Crash {
                whom,
                whole,
                down_ms,
            } => {
                if let Some(host) = self.whom(whom) {
                    self.crash(host, whole);
                    let action = Action::Start { host };
                    self.queue.after(down_ms * MS, Due::Act(Box::new(action)));
                }
            }
            Action::CrashBetween { host, effects } => {
                self.machines[host].dies_after = Some(effects);
            }
            Action::Start { host } => self.start(host),
            Action::Part {
                side,
                inward,
                outward,
                ms,
            } => self.part(side, inward, outward, ms),
            Action::Cut { one, other, ms } => self.cut(one, other, true, true, ms),
            Action::IsolateLeader { ms } => {
                if let Some(leader) = self.control.leader() {
                    self.part(only(leader), true, true, ms);
                }
            }
            Action::Join { cut } => self.net.join(cut),
            Action::Pause { whom, ms } => {
                if let Some(host) = self.whom(whom) {
                    self.machines[host].paused_until = now + ms * MS;
                }
            }
            Action::Weather { loss, slow } => {
                self.net.loss = loss;
                self.net.slow = slow;
            }
            Action::Mute { host, ms } => {
                self.mute.insert(host, now + ms * MS);
            }
            Action::Exit { host, share } => self.exit_tasks(host, share),
            Action::Sicken { host, ms } => self.sicken(host, ms),
            Action::Heal => self.heal(),
        }
    }

    fn whom(&self, whom: Whom) -> Option<usize> {
        match whom {
            Whom::Host(host) => Some(host),
            Whom::Leader => self.control.leader(),
        }
    }

    fn part(&mut self, side: HostSet, inward: bool, outward: bool, ms: u64) {
        let others = everybody(self.machines.len()) & !side;
        self.cut(side, others, inward, outward, ms);
    }

    fn cut(&mut self, side: HostSet, others: HostSet, inward: bool, outward: bool, ms: u64) {
        let cut = self.queue.now();
        if inward {
            self.net.cut(cut, others, side);
        }
        if outward {
            self.net.cut(cut, side, others);
        }
        let action = Action::Join { cut };
        self.queue.after(ms * MS, Due::Act(Box::new(action)));
    }

    fn exit_tasks(&mut self, host: usize, share: u64) {
        let running: Vec<u64> = self.machines[host].processes.keys().copied().collect();
        for process in running {
            if self.rng.chance(share) {
                let code = self.rng.below(3) as i32;
                self.process_ended(host, process, End::Code(code));
            }
        }
    }

    fn sicken(&mut self, host: usize, ms: u64) {
        let watched: Vec<_> = self.machines[host].watched.iter().cloned().collect();
        let life = self.machines[host].life;
        for run in watched {
            let due = super::agent::HostDue::Health(run.clone(), true);
            self.queue.after(
                ms * MS,
                Due::Host {
                    at: host,
                    life,
                    due,
                },
            );
            let healthy = false;
            self.step_host(host, HostEvent::HealthChanged { run, healthy });
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.net.heal();
        self.mute.clear();
        for host in 0..self.machines.len() {
            self.machines[host].dies_after = None;
            self.start(host);
        }
    }

    // Clients.

    fn client(&mut self, change: Change) {
        let number = self.clients.len();
        let mut id = [7; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        self.clients.push(Client {
            change,
            id: ChangeId(id),
            command: None,
            reply: None,
            accepted: None,
        });
        self.queue.after(0, Due::Client(number));
    }

    /// Asks whoever reigns; of several, any: an old one may not know.
    pub(super) fn client_tries(&mut self, number: usize) {
        if self.clients[number].reply.is_some() {
            return;
        }
        self.queue.after(CLIENT_EVERY, Due::Client(number));
        let reigning: Vec<usize> = self.courts.keys().copied().collect();
        let pick = self.rng.below(reigning.len() as u64) as usize;
        let Some(leader) = reigning.get(pick).copied() else {
            return;
        };
        if self.machines[leader].paused_until > self.queue.now() {
            return;
        }
        let cluster = &self.control.replicas[&leader].cluster;
        let client = &self.clients[number];
        let command = client
            .command
            .clone()
            .unwrap_or_else(|| self.command(client, cluster));
        self.clients[number].command = Some(command.clone());
        self.propose(leader, command, Proposer::Client(number));
    }

    fn command(&self, client: &Client, cluster: &Cluster) -> Command {
        let change = client.id;
        let now = Millis(self.queue.now() / MS);
        let author = "ada".to_owned();
        match &client.change {
            Change::Submit {
                name,
                replicas,
                cpu,
            } => {
                let name = JobName::in_default(name);
                let version = cluster.next_version(&name);
                Command::SubmitJob {
                    change,
                    job: Box::new(signed(&job(name, version, *replicas, *cpu))),
                    author,
                    message: String::new(),
                    holders: Vec::new(),
                    package_bytes: 1,
                    now,
                    expected_version: None,
                    origin: Origin::default(),
                }
            }
            Change::Stop { name } => Command::StopJob {
                change,
                job: JobName::in_default(name),
                author,
                now,
            },
            Change::Drain { host, draining } => Command::SetDraining {
                change,
                node: self.machines[*host].node,
                draining: *draining,
            },
        }
    }

    pub(super) fn answer_client(&mut self, number: usize, reply: &Reply) {
        let now = self.queue.now();
        self.trace
            .line(now, || format!("client {number} is told {reply:?}"));
        let client = &mut self.clients[number];
        client.reply = Some(reply.clone());
        if let (Reply::Accepted { version }, Change::Submit { name, .. }) = (reply, &client.change)
        {
            client.accepted = Some((JobName::in_default(name), *version));
            self.stats.accepted += 1;
        }
    }
}

fn nobody() -> Signed {
    Signed {
        bytes: Vec::new(),
        signature: [0; 64],
    }
}

/// Signatures are checked before the core hears of a job: here they are none.
fn signed(job: &Job) -> SignedJob {
    SignedJob {
        job: Signed {
            bytes: job.encode(),
            signature: [0; 64],
        },
        author: UserCredential {
            root: PublicKey([1; 32]),
            issuer: nobody(),
            certificate: nobody(),
        },
    }
}

fn job(name: JobName, version: u64, replicas: u32, cpu: u32) -> Job {
    let service = name.name.clone();
    Job {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        name,
        version,
        kind: JobKind::service(replicas),
        package: PackageId([version as u8; 32]),
        task: TaskTemplate {
            command: "run".into(),
            resources: Resources::new(cpu, u64::from(cpu) << 20),
            ports: vec![PortSpec {
                name: "http".into(),
                number: None,
            }],
            services: vec![ServiceSpec::new(&service, "http")],
            restart: RestartPolicy {
                backoff_ms: 250,
                backoff_max_ms: 4_000,
                ..RestartPolicy::default()
            },
            stop: StopPolicy {
                signal: 15,
                grace_ms: 2_000,
            },
            ..TaskTemplate::default()
        },
        ..Job::default()
    }
}

/// The log of a cluster that has admitted these hosts.
pub(super) fn founding(machines: &[Machine]) -> Vec<Command> {
    let roles = vec![NodeRole::Agent, NodeRole::VoterEligible];
    let mut admissions = machines.iter().enumerate().map(|(number, machine)| {
        let credential = NodeCredential {
            root: PublicKey([1; 32]),
            issuer: nobody(),
            certificate: nobody(),
        };
        Admission {
            node: machine.node,
            name: NodeName(format!("h{number}")),
            topology: Topology::in_rack("main", &machine.rack),
            credential,
            serial: number as u64 + 1,
            addresses: Vec::new(),
        }
    });
    let Some(first) = admissions.next() else {
        return Vec::new();
    };
    let genesis = Genesis {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        epoch: Epoch(1),
        root: PublicKey([1; 32]),
        issuer: nobody(),
        gossip_keys: Vec::new(),
        first,
        roles: roles.clone(),
        now: Millis(1),
    };
    let mut log = vec![
        Command::Genesis {
            genesis: Box::new(genesis),
        },
        Command::CreateToken {
            change: ChangeId([9; 16]),
            id: "all".into(),
            secret_hash: [1; 32],
            roles,
            rack: None,
            uses: 1_000,
            expires: Millis::DAY,
            now: Millis(1),
        },
    ];
    log.extend(admissions.map(|admission| Command::RedeemToken {
        token: "all".into(),
        secret_hash: [1; 32],
        admission: Box::new(admission),
        now: Millis(1),
    }));
    log
}

/// Jobs whose versions and sizes change.
const JOBS: [&str; 4] = ["web", "api", "db", "cron"];

/// Draws a script of the options' length, without its end.
pub(super) fn draw(rng: &mut Rng, options: &Options) -> Vec<(u64, Action)> {
    let mut script = Vec::new();
    let length = options.faulty_ms;
    let hosts = options.hosts as u64;
    // Half of the cluster at most, so that the living have room for the dead's.
    let share = (hosts * 4_000 / 2 / JOBS.len() as u64) as u32;
    let submit = |rng: &mut Rng, name: &str| {
        let cpu = 50 * rng.between(2, 10) as u32;
        let replicas = rng.between(1, u64::from((share / cpu).clamp(1, 12))) as u32;
        let name = name.to_owned();
        Action::Submit {
            name,
            replicas,
            cpu,
        }
    };
    for name in JOBS {
        let at = rng.between(300, length / 3);
        script.push((at, submit(rng, name)));
        for _ in 0..rng.below(3) {
            let at = rng.between(length / 3, length);
            let action = match rng.below(5) {
                0 => Action::Stop { name: name.into() },
                _ => submit(rng, name),
            };
            script.push((at, action));
        }
    }
    for _ in 0..rng.between(options.faults.0, options.faults.1) {
        let at = rng.between(3_000, length.max(3_001));
        draw_fault(rng, options, at, &mut script);
    }
    script
}

fn draw_fault(rng: &mut Rng, options: &Options, at: u64, script: &mut Vec<(u64, Action)>) {
    let host = rng.below(options.hosts as u64) as usize;
    let whom = match rng.chance(250) {
        true => Whom::Leader,
        false => Whom::Host(host),
    };
    let ms = match rng.below(3) {
        0 => rng.between(300, 3_000),
        1 => rng.between(3_000, 9_000),
        _ => rng.between(9_000, 40_000),
    };
    let action = match rng.below(16) {
        0..=2 => Action::Crash {
            whom,
            whole: false,
            down_ms: ms.min(15_000),
        },
        3..=4 => Action::Crash {
            whom,
            whole: true,
            down_ms: ms,
        },
        5 => Action::CrashBetween {
            host,
            effects: rng.below(4) as usize,
        },
        6 => Action::IsolateLeader { ms },
        7 => Action::Part {
            side: rng.number() & everybody(options.hosts),
            inward: true,
            outward: true,
            ms,
        },
        8 => Action::Part {
            side: only(host),
            inward: true,
            outward: rng.chance(500),
            ms,
        },
        9 => {
            let inward = rng.chance(500);
            Action::Part {
                side: only(host),
                inward,
                outward: !inward,
                ms,
            }
        }
        10 => {
            let rack = host % options.racks;
            let hosts = (0..options.hosts).filter(|host| host % options.racks == rack);
            Action::Part {
                side: hosts.fold(0, |side, host| side | only(host)),
                inward: true,
                outward: true,
                ms,
            }
        }
        11 => Action::Pause {
            whom,
            ms: ms.min(12_000),
        },
        12 => {
            let calm = Action::Weather { loss: 0, slow: 0 };
            script.push((at + ms, calm));
            Action::Weather {
                loss: rng.below(150),
                slow: rng.below(100),
            }
        }
        13 => Action::Mute {
            host,
            ms: ms.min(10_000),
        },
        14 => match rng.chance(500) {
            true => Action::Exit { host, share: 500 },
            false => Action::Sicken {
                host,
                ms: ms.min(8_000),
            },
        },
        _ => {
            let draining = false;
            script.push((at + ms, Action::Drain { host, draining }));
            let draining = true;
            Action::Drain { host, draining }
        }
    };
    script.push((at, action));
}
