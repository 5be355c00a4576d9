//! Scripts: what a scenario does to a world of any size, drawn from a seed.

use super::{
    Options,
    client::{BY_RACK, EXCLUSIVE},
    helper::Directive,
    hosts::{HostSet, only},
    rng::Rng,
    script::{Action, Whom},
    wishes::{Wish, Wishes},
};
use crate::scenario::Scenario;
use potluck_core::cluster::RolloutControl;
use potluck_specs::job::{GANG_MAX, PRIORITY_DEFAULT, Resources};

/// Fewest jobs whose versions and sizes change, and most: more than some
/// hundred show nothing that fewer do not.
const JOBS: (usize, usize) = (4, 200);

/// Hosts for each job.
const HOSTS_PER_JOB: usize = 4;

/// Most slots of a job in a small world and in a large one.
const REPLICAS: (u64, u64) = (12, 40);

/// Thousandths of a core that a host has.
pub(super) const HOST_CPU: u32 = 4_000;

/// Of each host's cores, in tenths, what all jobs ask for together: half, so
/// that the living have room for the dead's.
const SHARE: u32 = 5;

/// A job that is there to be put out by others, and its priority; and that of
/// those who do.
const BULK: &str = "bulk";
const PRIORITY_LOW: u32 = 1;
const PRIORITY_HIGH: u32 = 99;

/// A script in the making.
struct Draft<'a> {
    rng: &'a mut Rng,
    options: &'a Options,
    lines: Vec<(u64, Action)>,
}

/// Draws a script of the options' length, without its end. Times count from
/// its begin.
pub fn draw(rng: &mut Rng, options: &Options) -> Vec<(u64, Action)> {
    let mut draft = Draft {
        rng,
        options,
        lines: Vec::new(),
    };
    match options.scenario {
        Scenario::Random => draft.random(),
        Scenario::JoinStorm => draft.join_storm(),
        Scenario::LeaderLoss => draft.leader_loss(),
        Scenario::RackPartition => draft.rack_partition(),
        Scenario::BrokenSessions => draft.broken_sessions(),
        Scenario::Churn => draft.churn(),
        Scenario::RollingRestart => draft.rolling_restart(),
        Scenario::RestartOfAll => draft.restart_of_all(),
        Scenario::MassReconnect => draft.mass_reconnect(),
        Scenario::RackDrain => draft.rack_drain(),
        Scenario::RolloutDuringFailure => draft.rollout_during_failure(),
        Scenario::Overload => draft.overload(),
        Scenario::Batch => draft.batch(),
        Scenario::Gangs => draft.gangs(),
        Scenario::Quiet => draft.quiet(),
        Scenario::Exclusive => draft.exclusive(),
    }
    draft.lines
}

impl Draft<'_> {
    fn at(&mut self, ms: u64, action: Action) {
        self.lines.push((ms, action));
    }

    fn length(&self) -> u64 {
        self.options.faulty_ms()
    }

    fn any_host(&mut self) -> usize {
        self.rng.below(self.options.hosts as u64) as usize
    }

    /// Some time that leaves so much of the script after it.
    fn time(&mut self, first: u64, leaves: u64) -> u64 {
        let last = self.length().saturating_sub(leaves).max(first);
        self.rng.between(first, last)
    }

    fn jobs(&self) -> Vec<String> {
        let jobs = (self.options.hosts / HOSTS_PER_JOB).clamp(JOBS.0, JOBS.1);
        let names = ["web", "api", "db", "cron"];
        let staged = self.options.scenario == Scenario::RolloutDuringFailure;
        let name = |k: usize| match names.get(k) {
            Some(name) if k == 0 && staged => format!("{name}-{BY_RACK}"),
            Some(name) => (*name).to_owned(),
            None => format!("job-{k}"),
        };
        (0..jobs).map(name).collect()
    }

    fn submit(&mut self, name: &str) -> Action {
        let jobs = self.jobs().len() as u32;
        let share = self.options.hosts as u32 * HOST_CPU / 10 * SHARE / jobs;
        let cpu = 50 * self.rng.between(2, 10) as u32;
        let most = if self.options.hosts > 64 {
            REPLICAS.1
        } else {
            REPLICAS.0
        };
        let most = u64::from(share / cpu).clamp(1, most);
        Action::Submit {
            name: name.to_owned(),
            replicas: self.rng.between(1, most) as u32,
            cpu,
            directive: Directive::drawn(self.rng),
        }
    }

    /// The same, of a job with wishes.
    fn wish(&mut self, name: &str, wishes: &Wishes) -> Action {
        match self.submit(name) {
            Action::Submit {
                name,
                replicas,
                cpu,
                directive,
            } if *wishes != Wishes::default() => {
                let replicas = replicas.min(wishes.most);
                let wishes = Box::new(wishes.clone());
                // A task on every host is a small one, and behaves: where it
                // failed it is tried again later than all must have healed, and
                // there is nowhere else for it.
                let (cpu, directive) = match wishes.wish {
                    Wish::Everywhere => (100, Directive::default()),
                    _ => (cpu, directive),
                };
                Action::Wish {
                    name,
                    replicas,
                    cpu,
                    directive,
                    wishes,
                }
            }
            plain => plain,
        }
    }

    /// Every job once, early.
    fn submit_all(&mut self) {
        for name in self.jobs() {
            let at = self.rng.between(300, self.length() / 6);
            let action = self.submit(&name);
            self.at(at, action);
        }
    }

    fn crash(&mut self, at: u64, whom: Whom, whole: bool, down_ms: u64) {
        self.at(
            at,
            Action::Crash {
                whom,
                whole,
                down_ms,
            },
        );
    }

    fn rack(&self, rack: usize) -> HostSet {
        let hosts = 0..self.options.hosts;
        HostSet::of(hosts.filter(|host| host % self.options.racks == rack))
    }

    fn any_rack(&mut self) -> HostSet {
        let rack = self.rng.below(self.options.racks as u64) as usize;
        self.rack(rack)
    }

    fn random(&mut self) {
        let length = self.length();
        let names = self.jobs();
        let (hosts, racks) = (self.options.hosts, self.options.racks);
        let all = Wishes::drawn(self.rng, &names, hosts, racks);
        for (name, wishes) in names.into_iter().zip(all) {
            let at = self.rng.between(300, length / 3);
            let action = self.wish(&name, &wishes);
            self.at(at, action);
            for _ in 0..self.rng.below(3) {
                let at = self.rng.between(length / 3, length);
                let action = match self.rng.below(10) {
                    0 | 1 if !wishes.needed => Action::Stop { name: name.clone() },
                    2 => Action::Rollout {
                        name: name.clone(),
                        control: RolloutControl::Undo,
                    },
                    _ => self.wish(&name, &wishes),
                };
                self.at(at, action);
            }
        }
        self.faults();
        if self.rng.chance(200) {
            self.crowd();
        }
        if self.rng.chance(200) {
            self.limit();
        }
        // Once at most: what there is must do for all that is asked for.
        if self.rng.chance(200) {
            let first = self.options.voters as u64;
            let host = self.rng.between(first, self.options.hosts as u64 - 1) as usize;
            let at = self.rng.between(length / 2, length);
            self.at(at, Action::Decommission { host });
        }
    }

    /// For a while there is more to do than there is room: work that does not
    /// matter fills what the others leave, then some comes that does.
    fn crowd(&mut self) {
        let (length, hosts) = (self.length(), self.options.hosts as u32);
        let run = |name: &str, replicas, cpu, priority| Action::Run {
            name: name.to_owned(),
            replicas,
            each: Resources::new(cpu, u64::from(cpu) << 20),
            priority,
        };
        let at = self.rng.between(300, length / 4);
        let each = HOST_CPU / 5;
        self.at(at, run(BULK, hosts * 4, each, PRIORITY_LOW));
        let at = self.rng.between(length / 3, length / 2);
        let tasks = self.rng.between(1, u64::from(hosts) / 2) as u32;
        self.at(at, run("urgent", tasks, each + each / 2, PRIORITY_HIGH));
        // So that all that is left fits.
        let at = self.rng.between(length * 3 / 4, length);
        let name = BULK.to_owned();
        self.at(at, Action::Stop { name });
    }

    /// Nobody may ask for room on a disk, which no other job does; then somebody
    /// does.
    fn limit(&mut self) {
        let length = self.length();
        let at = self.rng.between(length / 2, length * 2 / 3);
        let disk_bytes = Some(1);
        self.at(at, Action::Limit { disk_bytes });
        let asks = Action::Run {
            name: "store".to_owned(),
            replicas: 1,
            each: Resources {
                disk_bytes: 1 << 30,
                ..Resources::new(100, 100 << 20)
            },
            priority: PRIORITY_DEFAULT,
        };
        let later = at + self.rng.between(1_000, 5_000);
        self.at(later, asks);
        let end = self.rng.between(later, length);
        let disk_bytes = None;
        self.at(end, Action::Limit { disk_bytes });
    }

    /// A host is away, then all is quiet for long enough that tasks move back
    /// to it, and while they do something fails.
    fn quiet(&mut self) {
        for name in self.jobs() {
            let at = self.rng.between(300, 3_000);
            let (replicas, cpu) = (self.rng.between(3, 12) as u32, 100);
            let directive = Directive::default();
            let action = Action::Submit {
                name,
                replicas,
                cpu,
                directive,
            };
            self.at(at, action);
        }
        let voters = self.options.voters as u64;
        let away = self.rng.between(voters, self.options.hosts as u64 - 1) as usize;
        let back = 40_000;
        self.crash(8_000, Whom::Host(away), true, back - 8_000);
        // A minute of quiet, and then a move each ten seconds.
        let at = self.rng.between(back + 62_000, back + 95_000);
        let whom = match self.rng.below(3) {
            0 => Whom::Leader,
            1 => Whom::Host(away),
            _ => Whom::Host(self.any_host()),
        };
        let whole = self.rng.chance(500);
        let ms = self.rng.between(500, 10_000);
        self.crash(at, whom, whole, ms);
    }

    fn faults(&mut self) {
        let length = self.length();
        let (fewest, most) = self.options.faults;
        // Large worlds get more trouble, though not in proportion.
        let more = 1 + self.options.hosts as u64 / 100;
        for _ in 0..self.rng.between(fewest, most) * more {
            let at = self.rng.between(3_000, length.max(3_001));
            self.fault(at);
        }
    }

    /// Arrays of short tasks among all that the random mix does.
    fn batch(&mut self) {
        for name in ["render", "index", "report"] {
            let times = self.rng.between(1, 3);
            for _ in 0..times {
                let at = self.rng.between(300, self.length() / 2);
                let action = self.work(name);
                self.at(at, action);
            }
        }
        self.random();
    }

    /// Two gangs, each of which needs more than half of all there is.
    fn gangs(&mut self) {
        let cpu = HOST_CPU / 4;
        let tasks = (self.options.hosts as u32 * HOST_CPU / 10 * 6 / cpu).min(GANG_MAX);
        for name in ["solve", "train"] {
            let action = Action::Work {
                name: name.to_owned(),
                completions: tasks,
                parallelism: tasks,
                array: false,
                gang: true,
                cpu,
                runs_ms: self.rng.between(500, 20_000),
                fails: 0,
            };
            let at = self.rng.between(300, 3_000);
            self.at(at, action);
        }
        self.faults();
    }

    /// Exclusive slots, each held for some seconds at least, while hosts,
    /// agents and leaders are cut off, stopped and killed for about as long as
    /// a lease lasts.
    fn exclusive(&mut self) {
        for name in ["db", "queue", "lock"] {
            let versions = self.rng.between(1, 2);
            for version in 0..versions {
                let first = 300 + version * self.length() / 3;
                let at = self.rng.between(first, first + self.length() / 6);
                let action = Action::Submit {
                    name: format!("{EXCLUSIVE}-{name}"),
                    replicas: self.rng.between(1, 4) as u32,
                    cpu: 50 * self.rng.between(2, 10) as u32,
                    directive: Directive::default(),
                };
                self.at(at, action);
            }
        }
        // Answers that are under way for long meet hosts that are stopped.
        let slow = self.rng.below(400);
        self.at(7_000, Action::Weather { loss: 0, slow });
        let mut at = 8_000;
        while at + 12_000 < self.length() {
            let ms = self.rng.between(2_000, 25_000);
            let host = self.any_host();
            let whom = match self.rng.chance(250) {
                true => Whom::Leader,
                false => Whom::Host(host),
            };
            let action = match self.rng.below(5) {
                0 => Action::IsolateLeader { ms },
                1 => Action::Pause { whom, ms },
                2 => Action::Crash {
                    whom,
                    whole: self.rng.chance(500),
                    down_ms: ms,
                },
                _ => {
                    let way = self.rng.below(4);
                    Action::Part {
                        side: only(host),
                        inward: way != 0,
                        outward: way != 1,
                        ms,
                    }
                }
            };
            self.at(at, action);
            at += self.rng.between(1_000, 6_000);
        }
        self.faults();
    }

    fn work(&mut self, name: &str) -> Action {
        Action::Work {
            name: name.to_owned(),
            completions: self.rng.between(1, 30) as u32,
            parallelism: self.rng.between(1, 6) as u32,
            array: self.rng.chance(700),
            gang: false,
            cpu: 50 * self.rng.between(2, 6) as u32,
            // The longest work is done within the time of healing.
            runs_ms: self.rng.between(100, 1_000),
            fails: self.rng.between(0, 300),
        }
    }

    fn join_storm(&mut self) {
        self.submit_all();
        for host in self.options.founders()..self.options.hosts {
            let at = self.rng.between(3_000, 6_000);
            self.at(at, Action::Admit { host });
        }
        let at = self.time(3_000, 20_000);
        self.crash(at, Whom::Leader, false, 2_000);
    }

    fn leader_loss(&mut self) {
        self.submit_all();
        let mut at = self.rng.between(3_000, 8_000);
        while at + 5_000 < self.length() {
            let ms = self.rng.between(600, 8_000);
            match self.rng.below(4) {
                0 => self.crash(at, Whom::Leader, false, ms),
                1 => self.crash(at, Whom::Leader, true, ms),
                2 => self.at(at, Action::IsolateLeader { ms }),
                _ => self.at(
                    at,
                    Action::Pause {
                        whom: Whom::Leader,
                        ms,
                    },
                ),
            }
            at += self.rng.between(2_000, 9_000);
        }
    }

    fn rack_partition(&mut self) {
        self.submit_all();
        for _ in 0..3 {
            let at = self.time(5_000, 15_000);
            let side = self.any_rack();
            let way = self.rng.below(4);
            let ms = self.rng.between(2_000, 40_000);
            let (inward, outward) = (way != 0, way != 1);
            self.at(
                at,
                Action::Part {
                    side,
                    inward,
                    outward,
                    ms,
                },
            );
        }
        let name = self.jobs().swap_remove(0);
        let at = self.time(10_000, 5_000);
        let action = self.submit(&name);
        self.at(at, action);
    }

    fn broken_sessions(&mut self) {
        self.submit_all();
        for _ in 0..4 {
            let at = self.time(5_000, 15_000);
            let host = self.any_host();
            let way = self.rng.below(3);
            let (inward, outward) = (way != 0, way != 1);
            let ms = self.rng.between(3_000, 45_000);
            let action = Action::Estrange {
                host,
                inward,
                outward,
                ms,
            };
            self.at(at, action);
        }
        let at = self.time(8_000, 15_000);
        let host = Whom::Host(self.any_host());
        self.crash(at, host, true, 15_000);
        let name = self.jobs().swap_remove(0);
        let at = self.time(10_000, 10_000);
        let action = self.submit(&name);
        self.at(at, action);
    }

    fn churn(&mut self) {
        self.submit_all();
        let mut at = 4_000;
        let pause = (60_000 / self.options.hosts as u64).clamp(200, 4_000);
        while at < self.length() {
            let host = Whom::Host(self.any_host());
            let whole = self.rng.chance(700);
            let ms = self.rng.between(1_000, 20_000);
            self.crash(at, host, whole, ms);
            at += self.rng.between(pause / 2, pause * 2);
        }
    }

    fn rolling_restart(&mut self) {
        self.submit_all();
        let first = self.length() / 5;
        let each = (self.length() - first) / self.options.hosts as u64;
        for host in 0..self.options.hosts {
            let at = first + each * host as u64;
            let ms = self.rng.between(200, 1_500);
            self.crash(at, Whom::Host(host), false, ms);
        }
    }

    fn restart_of_all(&mut self) {
        self.submit_all();
        let at = self.time(12_000, 20_000);
        let whole = self.rng.chance(500);
        for host in 0..self.options.hosts {
            let late = self.rng.below(300);
            let ms = self.rng.between(1_000, 8_000);
            self.crash(at + late, Whom::Host(host), whole, ms);
        }
    }

    fn mass_reconnect(&mut self) {
        self.submit_all();
        let voters = HostSet::of(0..self.options.voters);
        for _ in 0..2 {
            let at = self.time(10_000, 15_000);
            let ms = self.rng.between(3_000, 12_000);
            let (inward, outward) = (true, true);
            let side = voters.clone();
            self.at(
                at,
                Action::Part {
                    side,
                    inward,
                    outward,
                    ms,
                },
            );
        }
        let at = self.time(10_000, 10_000);
        self.at(at, Action::IsolateLeader { ms: 4_000 });
    }

    fn rack_drain(&mut self) {
        self.submit_all();
        let rack = self.any_rack();
        let begin = self.time(12_000, 30_000);
        let end = self.rng.between(begin + 10_000, begin + 25_000);
        for host in rack.iter() {
            for (at, draining) in [(begin, true), (end, false)] {
                self.at(at, Action::Drain { host, draining });
            }
        }
        let at = self.time(begin, 5_000);
        let whom = Whom::Host(self.any_host());
        let whole = self.rng.chance(500);
        self.crash(at, whom, whole, 5_000);
    }

    fn rollout_during_failure(&mut self) {
        self.submit_all();
        let begin = self.length() / 4;
        for name in self.jobs() {
            for _ in 0..self.rng.between(1, 2) {
                let at = self.rng.between(begin, self.length());
                let action = self.submit(&name);
                self.at(at, action);
            }
            if self.rng.chance(300) {
                let at = self.rng.between(begin, self.length());
                let control = RolloutControl::Pause;
                self.at(at, Action::Rollout { name, control });
            }
        }
        let few = 4 + self.options.hosts as u64 / 50;
        for _ in 0..few {
            let at = self.rng.between(begin, self.length());
            let whom = match self.rng.chance(400) {
                true => Whom::Leader,
                false => Whom::Host(self.any_host()),
            };
            let whole = self.rng.chance(600);
            let ms = self.rng.between(500, 15_000);
            self.crash(at, whom, whole, ms);
        }
    }

    fn overload(&mut self) {
        let hosts = self.options.hosts as u32;
        let each = 1_200;
        // Three and a little more fit on each host; four are asked for.
        for name in ["vast", "huge"] {
            let action = Action::Submit {
                name: name.to_owned(),
                replicas: hosts * 2,
                cpu: each,
                directive: Directive::default(),
            };
            let at = self.rng.between(300, 2_000);
            self.at(at, action);
        }
        self.submit_all();
        let at = self.time(15_000, 20_000);
        let whom = Whom::Host(self.any_host());
        self.crash(at, whom, true, 10_000);
        for name in ["vast", "huge"] {
            let at = self.length() - self.rng.between(1_000, 10_000);
            let name = name.to_owned();
            self.at(at, Action::Stop { name });
        }
    }

    fn fault(&mut self, at: u64) {
        let (rng, options) = (&mut *self.rng, self.options);
        let script = &mut self.lines;
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
        let action = match rng.below(19) {
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
                side: HostSet::of((0..options.hosts).filter(|_| rng.chance(500))),
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
                    side: HostSet::of(hosts),
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
                // A bad day, or one on which hardly anything works.
                let worst = if rng.chance(300) {
                    (400, 500)
                } else {
                    (150, 100)
                };
                let calm = Action::Weather { loss: 0, slow: 0 };
                script.push((at + ms, calm));
                Action::Weather {
                    loss: rng.below(worst.0),
                    slow: rng.below(worst.1),
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
            15 => Action::Hush { host, ms },
            // A third of them for so long that the host is given up.
            16 => match rng.chance(300) {
                true => Action::Hang {
                    host,
                    ms: rng.between(32_000, 45_000),
                },
                false => Action::Hang { host, ms },
            },
            17 => {
                let cordoned = false;
                script.push((at + ms, Action::Cordon { host, cordoned }));
                let cordoned = true;
                Action::Cordon { host, cordoned }
            }
            _ => {
                let draining = false;
                script.push((at + ms, Action::Drain { host, draining }));
                let draining = true;
                Action::Drain { host, draining }
            }
        };
        script.push((at, action));
    }
}
