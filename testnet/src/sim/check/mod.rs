//! What must always hold, one file each. They watch from outside, with the
//! truth of the whole world in view and a memory of their own.

pub mod accepted;
pub mod asking;
pub mod budget;
pub mod completions;
pub mod death;
pub mod doubles;
pub mod exclusive;
pub mod fence;
pub mod generations;
pub mod late_inventories;
pub mod log;
pub mod one_process;
pub mod over_commit;
pub mod promises;
pub mod silence;
pub mod spread;
pub mod unknown;
pub mod withdrawn;

use super::{exchange::Request, world::World};
use potluck_core::{
    auction::Authority,
    cluster::{Cluster, JobRecord, JobVersion, Placement, RolloutPhase},
    host::Answer,
    scheduler::Effect,
};
use potluck_specs::{JobName, SlotId};
use std::{collections::BTreeSet, fmt, rc::Rc};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is broken: {}", self.invariant, self.what)
    }
}

/// The slots that a host held in truth at a time.
#[derive(Clone, Debug)]
pub struct Holding {
    /// When.
    pub taken_at: u64,
    /// The agent's start.
    pub life: u64,
    /// Slots that were not over.
    pub slots: Rc<BTreeSet<SlotId>>,
}

/// Something that just happened.
#[derive(Debug)]
pub enum Seen<'a> {
    /// An agent started.
    Started {
        /// Where.
        at: usize,
    },
    /// An agent died, and with the whole host all tasks.
    Died {
        /// Where.
        at: usize,
    },
    /// A host decided and did.
    Stepped {
        /// Which.
        at: usize,
        /// False: the step yielded nothing but a heartbeat, which changes no
        /// slot, process or promise.
        changed: bool,
    },
    /// A leader's `Reign` was applied and its scheduler begins.
    Reigns {
        /// Where.
        at: usize,
    },
    /// A host answered a scheduler.
    Answered {
        /// Which.
        at: usize,
        /// What was asked.
        request: &'a Request,
        /// What it answered.
        answer: &'a Answer,
        /// Whose request.
        authority: Authority,
        /// It passed the fence.
        heard: bool,
        /// It committed or stopped something.
        obeyed: bool,
    },
    /// A scheduler took a report.
    Told {
        /// Where it reigns.
        to: usize,
        /// Whose.
        from: usize,
        /// What was true when it was made.
        holding: &'a Holding,
    },
    /// A report reached a scheduler's host, whatever is made of it.
    Heard {
        /// Where it reigns.
        to: usize,
        /// Whose.
        from: usize,
    },
    /// A member answered a scheduler whether it reaches a host.
    Probed {
        /// Where it reigns.
        to: usize,
        /// Which host.
        about: usize,
        /// What it said.
        reaches: bool,
    },
    /// The log got to know where slots are.
    Recorded {
        /// Where.
        filled: &'a [Placement],
    },
    /// A scheduler decided.
    Decided {
        /// Where it reigns.
        at: usize,
        /// What it wants done.
        effects: &'a [Effect],
    },
}

/// All of them.
#[derive(Debug, Default)]
pub struct Invariants {
    budget: budget::Budget,
    completions: completions::Completions,
    death: death::Death,
    exclusive: exclusive::Exclusive,
    fence: fence::Fence,
    generations: generations::Generations,
    late: late_inventories::LateInventories,
    promises: promises::Promises,
    unknown: unknown::Unknown,
    withdrawn: withdrawn::Withdrawn,
}

impl Invariants {
    /// Checks one event.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        self.fence.see(world, seen)?;
        self.generations.see(seen)?;
        self.promises.see(world, seen)?;
        self.unknown.see(world, seen)?;
        self.withdrawn.see(world, seen)?;
        self.budget.see(world, seen)?;
        self.completions.see(world, seen)?;
        self.death.see(world, seen)?;
        doubles::see(world, seen)?;
        asking::see(world, seen)?;
        self.exclusive.see(world, seen)?;
        log::see(world, seen)?;
        over_commit::see(world, seen)?;
        one_process::see(world, seen)?;
        silence::see(world, seen)?;
        self.late.see(world, seen)
    }
}

/// The version of a job that should run: of a rollout that was undone the one
/// before.
fn due<'t>(truth: &'t Cluster, name: &JobName, record: &'t JobRecord) -> &'t JobVersion {
    let undone = truth
        .rollout(name)
        .filter(|rollout| matches!(rollout.phase, RolloutPhase::RolledBack { .. }));
    let before = undone.and_then(|rollout| record.version(rollout.from));
    before.unwrap_or_else(|| record.current())
}

/// Has it a task on every host, rather than a number of them?
fn is_everywhere(version: &JobVersion) -> bool {
    version.replicas == 0
}

fn broken(invariant: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation { invariant, what })
}
