//! The simulator: many hosts, one clock that is only a number, faults from a
//! seed.
//!
//! Answers for driving the very decisions of production
//! ([`potluck_core::scheduler::Scheduler`], [`potluck_core::host::Host`],
//! [`potluck_core::cluster::Cluster`]) through a model of all around them, and
//! for holding every step against the invariants. Leaves to `net` what only
//! real processes show.
//!
//! A run has two phases: one in which everything fails that the seed wants to
//! fail, and one without faults in which all must heal within a bounded time.

mod agent;
pub mod check;
pub mod client;
pub mod clock;
pub mod control;
pub mod court;
pub mod disk;
mod draw;
mod exchange;
pub mod gossip;
pub mod held;
pub mod helper;
pub mod hosts;
pub mod kinds;
pub mod machine;
pub mod network;
pub mod queue;
pub mod rng;
pub mod sabotage;
pub mod script;
mod session;
pub mod slices;
pub mod trace;
pub mod traces;
mod waits;
mod wishes;
pub mod world;

pub use check::{Violation, accepted::unhealed};
pub use draw::draw;
pub use kinds::Kind;
pub use sabotage::Sabotage;
pub use script::{Action, Whom};
pub use world::{Stats, World};

use crate::scenario::Scenario;
use potluck_specs::job::Resources;
use rng::Rng;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// A host of a trace.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its rack.
    pub rack: String,
    /// All that it has.
    pub total: Resources,
    /// It is not there at the begin.
    pub joins: bool,
}

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many hosts.
    pub hosts: usize,
    /// Over how many racks, in turn.
    pub racks: usize,
    /// Over how many datacenters the racks are, in turn.
    pub datacenters: usize,
    /// How many of the hosts vote, the first ones.
    pub voters: usize,
    /// Thousandths of a core that hosts have, in turn.
    pub cpus: Vec<u32>,
    /// What each host is, of a world that goes through a trace; else none.
    pub shapes: Vec<Shape>,
    /// How long faults go on in each round.
    pub faulty_ms: u64,
    /// Rounds are begun until so much time has passed; at least one.
    pub total_ms: u64,
    /// The kind of trouble.
    pub scenario: Scenario,
    /// Fewest and most faults that are drawn of a random mix.
    pub faults: (u64, u64),
    /// How long healing may take: the brake holds for 60 s before it lets a
    /// first host go, and what it let go is placed within seconds.
    pub heal_ms: u64,
    /// Requests that come twice, of a thousand.
    pub twice: u64,
    /// Fetches that fail, of a thousand.
    pub bad_fetches: u64,
    /// Tasks that don't start, of a thousand.
    pub bad_starts: u64,
    /// A bug put back on purpose.
    pub sabotage: Option<Sabotage>,
    /// What made this world, in arguments of the command, if no scenario did.
    pub arguments: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hosts: 8,
            racks: 3,
            datacenters: 1,
            voters: 3,
            cpus: vec![draw::HOST_CPU],
            shapes: Vec::new(),
            faulty_ms: 60_000,
            total_ms: 0,
            scenario: Scenario::Random,
            faults: (3, 12),
            heal_ms: 90_000,
            twice: 20,
            bad_fetches: 30,
            bad_starts: 20,
            sabotage: None,
            arguments: None,
        }
    }
}

impl Options {
    /// The world of a seed: 6 to 12 hosts, 3 or 5 of which vote. Voters are
    /// never all in one rack.
    pub fn drawn(seed: u64) -> Options {
        let mut rng = Rng::new(seed ^ 0x0070_6f74_6c75_636b);
        Options {
            hosts: rng.between(6, 12) as usize,
            racks: rng.between(2, 4) as usize,
            voters: if rng.chance(300) { 5 } else { 3 },
            datacenters: if rng.chance(250) { 2 } else { 1 },
            ..Options::default()
        }
    }

    /// For running without an end: each seed has a scenario and a size of its
    /// own, most of them small, since small worlds find most.
    pub fn soak(seed: u64) -> Options {
        let mut rng = Rng::new(seed ^ 0x736f_616b);
        let scenario = Scenario::ALL[rng.below(Scenario::ALL.len() as u64) as usize];
        let options = Options {
            scenario,
            ..Options::drawn(seed)
        };
        match rng.below(20) {
            0 => options.with_hosts(rng.between(100, 200) as usize),
            1..4 => options.with_hosts(rng.between(13, 60) as usize),
            _ => options,
        }
    }

    /// The same with so many hosts: racks of 20, 5 voters from 10 hosts on.
    pub fn with_hosts(self, hosts: usize) -> Options {
        const RACK: usize = 20;
        Options {
            hosts,
            racks: hosts.div_ceil(RACK).max(3),
            voters: if hosts < 10 { 3 } else { 5 }.min(hosts),
            ..self
        }
    }

    /// How long the faults of a round go on. A quiet one takes longer: nothing
    /// is evened out before a minute has passed without hosts that come or go.
    pub fn faulty_ms(&self) -> u64 {
        match self.scenario {
            Scenario::Quiet => self.faulty_ms.max(QUIET_MS),
            _ => self.faulty_ms,
        }
    }

    /// How many hosts are members from the begin, the first ones.
    pub fn founders(&self) -> usize {
        if !self.shapes.is_empty() {
            return self.shapes.iter().filter(|shape| !shape.joins).count();
        }
        match self.scenario {
            Scenario::JoinStorm => self.voters.max(self.hosts / 5),
            _ => self.hosts,
        }
    }

    /// A world in which nothing fails by itself.
    pub fn calm() -> Options {
        Options {
            faults: (0, 0),
            twice: 0,
            bad_fetches: 0,
            bad_starts: 0,
            ..Options::default()
        }
    }
}

/// A run that went well.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its seed.
    pub seed: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: u64,
    /// Real time that it took.
    pub real: Duration,
    /// The longest that healing took.
    pub healed_after_ms: u64,
    /// Counts.
    pub stats: Stats,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        write!(
            f,
            "seed {}: {} s in {:.2} s real, healed after {} ms, {} reigns, {} accepted, \
             {} awards, {} doubles, {} brakes, {} preempted, {:.0} events a second",
            self.seed,
            self.virtual_ms / 1_000,
            self.real.as_secs_f64(),
            self.healed_after_ms,
            stats.reigns,
            stats.accepted,
            stats.awards,
            stats.count(Kind::Double),
            stats.count(Kind::Brake),
            stats.count(Kind::Preemption),
            stats.events as f64 / self.real.as_secs_f64(),
        )
    }
}

/// A run that did not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What it was run with.
    pub options: Options,
    /// What broke.
    pub violation: Violation,
    /// What happened before, oldest first.
    pub trace: Vec<String>,
}

impl Failure {
    /// The command that runs the same again.
    pub fn replay(&self) -> String {
        let (is, usual) = (&self.options, Options::drawn(self.seed));
        let mut command = format!("potluck testnet sim --seed {}", self.seed);
        if let Some(arguments) = &is.arguments {
            return format!("{command} {arguments}");
        }
        let scenario = is.scenario.name();
        for (name, value, differs) in [
            (
                "scenario",
                scenario.to_owned(),
                is.scenario != usual.scenario,
            ),
            ("nodes", is.hosts.to_string(), is.hosts != usual.hosts),
            (
                "hours",
                (is.total_ms as f64 / HOUR_MS as f64).to_string(),
                is.total_ms != usual.total_ms,
            ),
        ] {
            if differs {
                command.push_str(&format!(" --{name} {value}"));
            }
        }
        command
    }
}

/// How long a quiet round is: a host is away for half a minute, a minute later
/// tasks move to it one each ten seconds, and then something fails.
const QUIET_MS: u64 = 150_000;

/// An hour in milliseconds.
pub const HOUR_MS: u64 = 3_600_000;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", trace::LEGEND)?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        write!(f, "once more: {}", self.replay())
    }
}

impl std::error::Error for Failure {}

/// Runs one seed. A failing one is run again, the same, with its trace kept.
///
/// # Errors
/// The invariant that broke, or what did not heal.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Box<Failure>> {
    attempt(seed, options, false).or_else(|_| attempt(seed, options, true))
}

fn attempt(seed: u64, options: &Options, trace: bool) -> Result<Summary, Box<Failure>> {
    let began = Instant::now();
    let mut world = World::new(seed, options.clone(), trace);
    let mut rng = Rng::new(seed).fork();
    let outcome = rounds(&mut world, &mut rng, options);
    outcome
        .map(|healed_after_ms| Summary {
            seed,
            virtual_ms: world.now() / queue::MS,
            real: began.elapsed(),
            healed_after_ms,
            stats: world.stats.clone(),
        })
        .map_err(|violation| {
            let trace = std::mem::take(&mut world.trace).about(&violation.what);
            Box::new(Failure {
                seed,
                options: options.clone(),
                violation,
                trace,
            })
        })
}

/// Rounds of faults, each with its healing; the longest that healing took.
fn rounds(world: &mut World, rng: &mut Rng, options: &Options) -> Result<u64, Violation> {
    let mut slowest = 0;
    loop {
        let begin = world.now() / queue::MS;
        world.healed = false;
        for (ms, action) in draw::draw(rng, options) {
            world.at(begin + ms, action);
        }
        world.run_until(begin + options.faulty_ms())?;
        slowest = slowest.max(world.heal_within(options.heal_ms)?);
        if world.now() / queue::MS >= options.total_ms {
            return Ok(slowest);
        }
    }
}

impl World {
    /// Runs without faults until all is as it should be and has been for some
    /// seconds; the milliseconds that it took.
    ///
    /// # Errors
    /// An invariant that broke, or what is still wrong after so long.
    pub fn heal_within(&mut self, limit_ms: u64) -> Result<u64, Violation> {
        /// A state that only passes by does not count.
        const STAYS_MS: u64 = 4_000;
        const LOOK_EVERY_MS: u64 = 250;
        self.act(Action::Heal);
        let began = self.now() / queue::MS;
        let mut well_since = None;
        loop {
            let now = self.now() / queue::MS;
            self.resume_rollouts();
            self.free_hosts();
            // With words only for those who read them.
            let is_over = now - began >= limit_ms;
            let miscounted = match is_over {
                true => None,
                false => check::accepted::miscounted(self),
            };
            match miscounted.or_else(|| unhealed(self)) {
                None => {
                    let since = *well_since.get_or_insert(now);
                    if now - since >= STAYS_MS {
                        return Ok(since - began);
                    }
                }
                Some(why) if is_over => {
                    return Err(Violation {
                        invariant: "all heals",
                        what: why,
                    });
                }
                Some(_) => well_since = None,
            }
            self.run_until(now + LOOK_EVERY_MS)?;
        }
    }
}
