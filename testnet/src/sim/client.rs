//! People: each repeats a change until it is answered, whoever leads; and the
//! jobs that they write.

use super::{
    Sabotage,
    control::Proposer,
    helper::Directive,
    kinds::Kind,
    machine::Machine,
    queue::MS,
    wishes::Wishes,
    world::{Due, World},
};
use potluck_core::cluster::{
    Admission, Cluster, Command, Genesis, Quota, Refused, Reply, RolloutControl, RolloutPhase,
};
use potluck_specs::{
    ChangeId, Epoch, FleetId, Job, JobName, Millis, NodeName, PackageId, Topology,
    job::{
        Batch, Exclusive, JobKind, PortSpec, Resources, RestartPolicy, ServiceSpec, SignedJob,
        Stage, StageSize, StopPolicy, TaskTemplate, Update,
    },
    trust::{NodeCredential, NodeRole, PublicKey, Signed, UserCredential},
};

/// Between two tries of a client.
const CLIENT_EVERY: u64 = 700 * MS;

/// What a client wants.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Submit {
        name: String,
        replicas: u32,
        each: Resources,
        wishes: Box<Wishes>,
        directive: Directive,
    },
    Work {
        name: String,
        batch: Batch,
        cpu: u32,
        directive: Directive,
    },
    Admit {
        host: usize,
    },
    Rollout {
        name: String,
        control: RolloutControl,
    },
    Stop {
        name: String,
    },
    Drain {
        host: usize,
        draining: bool,
    },
    Cordon {
        host: usize,
        cordoned: bool,
    },
    Decommission {
        host: usize,
    },
    Limit {
        disk_bytes: Option<u64>,
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
    pub(super) fn client(&mut self, change: Change) {
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

    /// When all is well again somebody lets go on what failed or was paused.
    pub(super) fn resume_rollouts(&mut self) {
        let truth = &self.control.truth;
        let rollouts = truth
            .jobs()
            .keys()
            .filter_map(|name| truth.rollout(name).map(|r| (name, r)));
        let held = rollouts.filter(|(_, rollout)| {
            matches!(
                rollout.phase,
                RolloutPhase::Failed { .. } | RolloutPhase::Paused { .. }
            )
        });
        let held: Vec<String> = held.map(|(job, _)| job.name.clone()).collect();
        for name in held {
            let asked = self.clients.iter().any(|client| {
                client.reply.is_none()
                    && matches!(&client.change, Change::Rollout { name: of, .. } if *of == name)
            });
            if !asked {
                let control = RolloutControl::Resume;
                self.client(Change::Rollout { name, control });
            }
        }
    }

    /// And ends the drains and cordons that are left: of two changes that were
    /// under way at once the one that began may have come last.
    pub(super) fn free_hosts(&mut self) {
        let truth = &self.control.truth;
        let open = |host: usize| {
            self.clients.iter().any(|client| {
                client.reply.is_none()
                    && matches!(client.change,
                        Change::Drain { host: of, .. } | Change::Cordon { host: of, .. }
                            if of == host)
            })
        };
        let members = truth.members().values();
        let left = members.filter_map(|member| {
            let host = self.index[&member.node];
            let change = match (member.draining, truth.is_cordoned(member.node)) {
                (true, _) => Change::Drain {
                    host,
                    draining: false,
                },
                (false, true) => Change::Cordon {
                    host,
                    cordoned: false,
                },
                (false, false) => return None,
            };
            (!open(host)).then_some(change)
        });
        for change in left.collect::<Vec<_>>() {
            self.client(change);
        }
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
        let early = self.is_sabotaged(Sabotage::AcceptsEarly);
        if let (true, Command::SubmitJob { job, .. }) = (early, &command)
            && let Ok(job) = job.decode_unchecked()
        {
            let version = job.version;
            self.answer_client(number, &Reply::Accepted { version });
        }
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
                each,
                wishes,
                directive,
            } => {
                let name = JobName::in_default(name);
                let version = cluster.next_version(&name);
                let mut job = job(name, version, *replicas, *each, *directive);
                wishes.put(&mut job);
                submit(change, &job, now)
            }
            Change::Work {
                name,
                batch,
                cpu,
                directive,
            } => {
                let name = JobName::in_default(name);
                let version = cluster.next_version(&name);
                let each = Resources::new(*cpu, u64::from(*cpu) << 20);
                let service = job(name, version, 1, each, *directive);
                submit(change, &work(service, batch), now)
            }
            Change::Admit { host } => Command::RedeemToken {
                token: "all".into(),
                secret_hash: [1; 32],
                admission: Box::new(admission(*host, &self.machines[*host])),
                now,
            },
            Change::Rollout { name, control } => Command::ControlRollout {
                change,
                job: JobName::in_default(name),
                control: *control,
                author,
                now,
            },
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
            Change::Cordon { host, cordoned } => Command::Cordon {
                change,
                node: self.machines[*host].node,
                cordoned: *cordoned,
            },
            Change::Limit { disk_bytes } => Command::SetQuota {
                change,
                namespace: "default".into(),
                quota: disk_bytes.map(|most| Quota {
                    disk_bytes: Some(most),
                    ..Quota::default()
                }),
            },
            Change::Decommission { host } => Command::RemoveMember {
                node: self.machines[*host].node,
                now,
            },
        }
    }

    pub(super) fn answer_client(&mut self, number: usize, reply: &Reply) {
        let now = self.queue.now();
        self.trace
            .line(now, || format!("client {number} is told {reply:?}"));
        let client = &mut self.clients[number];
        client.reply = Some(reply.clone());
        if let Reply::Refused {
            why: Refused::OverQuota { .. },
        } = reply
        {
            self.stats.happened(Kind::QuotaRefusal);
        }
        if let (Reply::Admitted { .. }, Change::Admit { host }) = (reply, &client.change) {
            let host = *host;
            self.machines[host].admitted = true;
            return self.start(host);
        }
        if let (
            Reply::Accepted { version },
            Change::Submit { name, .. } | Change::Work { name, .. },
        ) = (reply, &client.change)
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

fn job(name: JobName, version: u64, replicas: u32, each: Resources, directive: Directive) -> Job {
    let service = name.name.clone();
    Job {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        name,
        version,
        kind: JobKind::service(replicas),
        // Of two versions the second changes its tasks only if its task does.
        package: PackageId([version.div_ceil(2) as u8; 32]),
        task: TaskTemplate {
            command: "run".into(),
            args: directive.to_args(),
            resources: each,
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
        change: potluck_specs::job::Change {
            update: Update {
                stages: stages(&service),
                ..Update::default()
            },
            exclusive: service
                .starts_with(EXCLUSIVE)
                .then_some(Exclusive { lease_ms: LEASE_MS }),
            ..potluck_specs::job::Change::default()
        },
        ..Job::default()
    }
}

fn submit(change: ChangeId, job: &Job, now: Millis) -> Command {
    Command::SubmitJob {
        change,
        job: Box::new(signed(job)),
        author: "ada".into(),
        message: String::new(),
        holders: Vec::new(),
        package_bytes: 1,
        now,
        expected_version: None,
        origin: Default::default(),
        further: Vec::new(),
    }
}

/// A service's tasks as work that ends.
fn work(mut job: Job, batch: &Batch) -> Job {
    job.kind = JobKind::Batch(batch.clone());
    job.task.ports.clear();
    job.task.services.clear();
    job
}

/// Jobs with this in their name are rolled out rack by rack, after one task.
pub(super) const BY_RACK: &str = "by-rack";

/// Jobs whose names begin so have exclusive slots.
pub(super) const EXCLUSIVE: &str = "only";

/// The lease of those: twice of what is waited for beyond it.
pub const LEASE_MS: u64 = 8_000;

/// Are the job's slots exclusive?
pub(super) fn is_exclusive(job: &JobName) -> bool {
    job.name.starts_with(EXCLUSIVE)
}

fn stages(name: &str) -> Vec<Stage> {
    let sizes: &[StageSize] = match name.contains(BY_RACK) {
        true => &[StageSize::Count(1), StageSize::Rack],
        false => &[],
    };
    let stage = |size: &StageSize| Stage {
        size: *size,
        bake_ms: 2_000,
    };
    sizes.iter().map(stage).collect()
}

fn admission(number: usize, machine: &Machine) -> Admission {
    Admission {
        node: machine.node,
        name: NodeName(format!("h{number}")),
        topology: Topology {
            datacenter: machine.datacenter.clone(),
            ..Topology::in_rack("main", &machine.rack)
        },
        credential: NodeCredential {
            root: PublicKey([1; 32]),
            issuer: nobody(),
            certificate: nobody(),
        },
        serial: number as u64 + 1,
        addresses: Vec::new(),
    }
}

/// The log of a cluster that has admitted those hosts that are admitted.
pub(super) fn founding(machines: &[Machine]) -> Vec<Command> {
    let roles = vec![NodeRole::Agent, NodeRole::VoterEligible];
    let admitted = machines.iter().enumerate();
    let admitted = admitted.filter(|(_, machine)| machine.admitted);
    let mut admissions = admitted.map(|(number, machine)| admission(number, machine));
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
