//! What people and misfortune do to the world: actions at times, written down
//! by a test or drawn for a scenario (see [`super::draw`]).

use super::{
    client::Change,
    helper::Directive,
    hosts::{HostSet, everybody, only},
    queue::MS,
    wishes::Wishes,
    world::{Due, World},
};
use potluck_core::{
    cluster::RolloutControl,
    host::{End, Event as HostEvent},
};
use potluck_specs::job::{Batch, Resources};

/// More than faults alone use up: work whose tasks are to succeed does.
const WORK_RETRIES: u32 = 12;

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
        /// What its tasks do.
        directive: Directive,
    },
    /// The same of a job that asks for more than room.
    Wish {
        /// The job.
        name: String,
        /// Its slots.
        replicas: u32,
        /// Thousandths of a core that each takes.
        cpu: u32,
        /// What its tasks do.
        directive: Directive,
        /// What it asks for.
        wishes: Box<Wishes>,
    },
    /// A person submits a job whose tasks do nothing but take room.
    Run {
        /// The job.
        name: String,
        /// Its slots.
        replicas: u32,
        /// What each takes.
        each: Resources,
        /// Higher matters more.
        priority: u32,
    },
    /// A person submits the next version of work that ends.
    Work {
        /// The job.
        name: String,
        /// How many of its tasks must succeed.
        completions: u32,
        /// How many run at once.
        parallelism: u32,
        /// Each is a piece of its own.
        array: bool,
        /// All start together.
        gang: bool,
        /// Thousandths of a core that each takes.
        cpu: u32,
        /// How long each runs.
        runs_ms: u64,
        /// Of a thousand starts so many fail.
        fails: u64,
    },
    /// A person stops a job.
    Stop {
        /// The job.
        name: String,
    },
    /// A person pauses a rollout, or lets it go on.
    Rollout {
        /// The job.
        name: String,
        /// What is asked.
        control: RolloutControl,
    },
    /// A person limits what all jobs may ask for together, or ends that.
    Limit {
        /// Most bytes on disk; as many as people like, if there is none.
        disk_bytes: Option<u64>,
    },
    /// A person drains a host, or ends that.
    Drain {
        /// The host.
        host: usize,
        /// Drained or not.
        draining: bool,
    },
    /// A person cordons a host, or ends that.
    Cordon {
        /// The host.
        host: usize,
        /// Cordoned or not.
        cordoned: bool,
    },
    /// A host is taken out of the cluster for good, and switched off.
    Decommission {
        /// The host.
        host: usize,
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
    /// A host is admitted and starts.
    Admit {
        /// Which.
        host: usize,
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
    /// The leader and a host don't hear each other, or one does not hear the
    /// other; everybody else hears both.
    Estrange {
        /// The host.
        host: usize,
        /// The host does not hear the leader.
        inward: bool,
        /// The leader does not hear the host.
        outward: bool,
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
    /// Nobody hears the host's gossip, as when its datagrams are dropped; all
    /// else goes on.
    Hush {
        /// Which.
        host: usize,
        /// For so long.
        ms: u64,
    },
    /// The agent hangs: it neither sends heartbeats nor answers a scheduler.
    /// Its gossip and its answers to probes go on, and so do its tasks.
    Hang {
        /// Whose.
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
    /// The other voters' copies of the log are lost, and this host goes on
    /// from its own, which lags behind.
    Recover {
        /// Which.
        survivor: usize,
        /// Its log ends before this job.
        without: String,
    },
    /// All faults end, all hosts start.
    Heal,
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
                directive,
            } => self.client(Change::Submit {
                name,
                replicas,
                each: Resources::new(cpu, u64::from(cpu) << 20),
                wishes: Box::default(),
                directive,
            }),
            Action::Wish {
                name,
                replicas,
                cpu,
                directive,
                wishes,
            } => self.client(Change::Submit {
                name,
                replicas,
                each: Resources::new(cpu, u64::from(cpu) << 20),
                wishes,
                directive,
            }),
            Action::Run {
                name,
                replicas,
                each,
                priority,
            } => self.client(Change::Submit {
                name,
                replicas,
                each,
                wishes: Box::new(Wishes {
                    priority,
                    ..Wishes::default()
                }),
                directive: Directive::default(),
            }),
            Action::Work {
                name,
                completions,
                parallelism,
                array,
                gang,
                cpu,
                runs_ms,
                fails,
            } => self.client(Change::Work {
                name,
                batch: Batch {
                    completions,
                    parallelism: parallelism.min(completions),
                    retries: WORK_RETRIES,
                    array,
                    gang,
                    ..Batch::default()
                },
                cpu,
                directive: Directive {
                    runs_ms: Some(runs_ms),
                    fails,
                    ..Directive::default()
                },
            }),
            Action::Stop { name } => self.client(Change::Stop { name }),
            Action::Rollout { name, control } => self.client(Change::Rollout { name, control }),
            Action::Limit { disk_bytes } => self.client(Change::Limit { disk_bytes }),
            Action::Drain { host, draining } => self.client(Change::Drain { host, draining }),
            Action::Cordon { host, cordoned } => self.client(Change::Cordon { host, cordoned }),
            Action::Decommission { host } => {
                self.crash(host, true);
                self.machines[host].admitted = false;
                self.client(Change::Decommission { host });
            }
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
            Action::Admit { host } => self.client(Change::Admit { host }),
            Action::Start { host } => self.start(host),
            Action::Part {
                side,
                inward,
                outward,
                ms,
            } => self.part(side, inward, outward, ms),
            Action::Cut { one, other, ms } => self.cut(one, other, true, true, ms),
            Action::Estrange {
                host,
                inward,
                outward,
                ms,
            } => {
                if let Some(leader) = self.control.leader().filter(|leader| *leader != host) {
                    self.cut(only(host), only(leader), inward, outward, ms);
                }
            }
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
            Action::Hush { host, ms } => {
                self.hushed.insert(host, now + ms * MS);
            }
            Action::Hang { host, ms } => {
                self.hung.insert(host, now + ms * MS);
            }
            Action::Exit { host, share } => self.exit_tasks(host, share),
            Action::Sicken { host, ms } => self.sicken(host, ms),
            Action::Recover { survivor, without } => self.recover(survivor, &without),
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
        let others = everybody(self.machines.len()).without(&side);
        self.cut(side, others, inward, outward, ms);
    }

    fn cut(&mut self, side: HostSet, others: HostSet, inward: bool, outward: bool, ms: u64) {
        let cut = self.queue.now();
        if inward {
            self.net.cut(cut, others.clone(), side.clone());
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
        self.hushed.clear();
        self.hung.clear();
        for host in 0..self.machines.len() {
            self.machines[host].dies_after = None;
            if self.machines[host].admitted {
                self.start(host);
            }
        }
    }
}
