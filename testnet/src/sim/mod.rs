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
pub mod control;
pub mod court;
mod exchange;
pub mod invariants;
pub mod machine;
pub mod network;
pub mod queue;
pub mod rng;
pub mod script;
mod session;
pub mod trace;
pub mod world;

pub use invariants::{Violation, accepted::unhealed};
pub use script::{Action, Whom};
pub use world::{Stats, World};

use rng::Rng;
use std::fmt;

/// What is broken on purpose, to show that the invariants notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Hosts take awards of any scheduler.
    IgnoresFence,
    /// Schedulers act as if most voters were always heard.
    ActsWithoutQuorum,
    /// Hosts say to a greeting that they run nothing.
    HidesInventories,
    /// Hosts say "yes" to a stop and go on.
    DropsStops,
}

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many hosts.
    pub hosts: usize,
    /// Over how many racks, in turn.
    pub racks: usize,
    /// How many of the hosts vote, the first ones.
    pub voters: usize,
    /// How long faults go on.
    pub faulty_ms: u64,
    /// Fewest and most faults that are drawn.
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
    /// Broken on purpose.
    pub broken: Option<Broken>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hosts: 8,
            racks: 3,
            voters: 3,
            faulty_ms: 60_000,
            faults: (3, 12),
            heal_ms: 90_000,
            twice: 20,
            bad_fetches: 30,
            bad_starts: 20,
            broken: None,
        }
    }
}

impl Options {
    /// The world of a seed: 6 to 12 hosts, 3 or 5 of which vote.
    pub fn drawn(seed: u64) -> Options {
        let mut rng = Rng::new(seed ^ 0x0070_6f74_6c75_636b);
        Options {
            hosts: rng.between(6, 12) as usize,
            racks: rng.between(2, 4) as usize,
            voters: if rng.chance(300) { 5 } else { 3 },
            ..Options::default()
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
    /// How long healing took.
    pub healed_after_ms: u64,
    /// Counts.
    pub stats: Stats,
}

/// A run that did not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What broke.
    pub violation: Violation,
    /// What happened before, oldest first.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.violation)
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
    let mut world = World::new(seed, options.clone(), trace);
    let mut rng = Rng::new(seed).fork();
    for (ms, action) in script::draw(&mut rng, options) {
        world.at(ms, action);
    }
    world.at(options.faulty_ms, Action::Heal);
    let outcome = finish(&mut world, options);
    outcome
        .map(|healed_after_ms| Summary {
            seed,
            virtual_ms: world.now() / queue::MS,
            healed_after_ms,
            stats: world.stats.clone(),
        })
        .map_err(|violation| {
            let trace = std::mem::take(&mut world.trace).into_lines();
            Box::new(Failure {
                seed,
                violation,
                trace,
            })
        })
}

/// Runs to the end of the faults and then until all is healed and stays so.
fn finish(world: &mut World, options: &Options) -> Result<u64, Violation> {
    world.run_until(options.faulty_ms + 1)?;
    world.heal_within(options.heal_ms)
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
            match unhealed(self) {
                None => {
                    let since = *well_since.get_or_insert(now);
                    if now - since >= STAYS_MS {
                        return Ok(since - began);
                    }
                }
                Some(why) if now - began >= limit_ms => {
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
