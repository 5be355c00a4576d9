//! One host of the world: its agent's decisions, its disk, its processes.
//!
//! Answers for what survives what: an agent's death leaves the disk and the
//! processes, a host's death the disk alone, and of the disk only what had to
//! be durable is sure. Leaves to `world` when things happen.

use super::{network::HostSet, rng::Rng};
use potluck_core::{
    auction::Authority,
    host::{ADOPTION_LIMIT, Effect, End, Entry, Host, HostConfig, Run},
};
use potluck_specs::{Generation, Millis, NodeId, SlotId, job::Resources};
use std::collections::{BTreeMap, BTreeSet};

/// Ports of tasks.
const PORT_FIRST: u16 = 20_000;
const PORT_LAST: u16 = 20_999;

/// What is on a host's disk.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The highest authority that was stored.
    pub highest: Authority,
    /// Slots that are held.
    pub entries: BTreeMap<SlotId, Entry>,
    /// Writes that wait for the next one that must be durable.
    lazy: BTreeMap<SlotId, Entry>,
}

impl Journal {
    fn flush(&mut self) {
        self.entries.append(&mut self.lazy);
    }

    /// Carries out a write; false if the effect is none.
    pub fn write(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::PersistAuthority(authority) => {
                self.flush();
                self.highest = *authority;
            }
            Effect::JournalPut { entry, durable } => {
                self.lazy.insert(entry.slot.clone(), (**entry).clone());
                if *durable {
                    self.flush();
                }
            }
            Effect::JournalRemove(slot) => {
                self.flush();
                self.entries.remove(slot);
            }
            _ => return false,
        }
        true
    }

    /// What a restart finds: lazy writes are there or not.
    fn crash(&mut self, lost: bool) {
        if lost {
            self.lazy.clear();
        } else {
            self.flush();
        }
    }
}

/// A task's process with its helper.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which start of which slot.
    pub run: Run,
    /// What it takes.
    pub resources: Resources,
    /// It has started.
    pub running: bool,
    /// It has been told to stop.
    pub told: bool,
    /// It ended; its helper waits for the agent to hear of it.
    pub ended: Option<End>,
    /// Its helper is connected to the agent.
    pub linked: bool,
}

/// Heartbeats to whoever leads.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Whom to ask.
    pub leader: Option<usize>,
    /// One is under way.
    pub waits: bool,
    /// Something changed while it was under way.
    pub changed: bool,
    /// The last one was answered.
    pub answered: bool,
    /// When it was sent.
    pub sent_at: u64,
    /// Counts the beats, so that a planned one that was overtaken is skipped.
    pub planned: u64,
}

/// A host.
#[derive(Debug)]
pub struct Machine {
    /// Its id.
    pub node: NodeId,
    /// Its rack.
    pub rack: String,
    /// All that it has for tasks.
    pub total: Resources,
    /// The agent; `None`: it is down.
    pub host: Option<Host>,
    /// Counts the agent's starts.
    pub life: u64,
    /// The disk.
    pub journal: Journal,
    /// Processes by number.
    pub processes: BTreeMap<u64, Process>,
    /// Stopped by somebody until then.
    pub paused_until: u64,
    /// Dies after so many effects of its next step that has any.
    pub dies_after: Option<usize>,
    /// Heartbeats.
    pub session: Session,
    /// Health checks that run.
    pub watched: BTreeSet<Run>,
    /// Fetches that run.
    pub fetches: BTreeSet<(SlotId, Generation)>,
    /// No helper of a former life can be there.
    booted: bool,
    /// Leftovers of former lives have been looked for.
    pub swept: bool,
    /// The next tick that is planned.
    pub wake: Option<Millis>,
    /// What its boot clock is ahead of the world's, in milliseconds.
    offset: u64,
    /// The error of its wall clock, in milliseconds.
    skew: u64,
}

impl Machine {
    /// A host that has not started yet.
    pub fn new(number: usize, racks: usize, total: Resources, rng: &mut Rng) -> Machine {
        let mut id = [number as u8 + 1; 32];
        id[0] = (rng.below(250) + 1) as u8;
        Machine {
            node: NodeId(id),
            rack: format!("r{}", number % racks),
            total,
            host: None,
            life: 0,
            journal: Journal::default(),
            processes: BTreeMap::new(),
            paused_until: 0,
            dies_after: None,
            session: Session::default(),
            watched: BTreeSet::new(),
            fetches: BTreeSet::new(),
            booted: true,
            swept: false,
            wake: None,
            offset: rng.between(1_000, 1_000_000),
            skew: rng.below(400),
        }
    }

    /// Its boot clock at a time of the world.
    pub fn clock(&self, now: u64) -> Millis {
        Millis(now / 1_000 + self.offset)
    }

    /// When its boot clock shows this.
    pub fn when(&self, clock: Millis) -> u64 {
        clock.0.saturating_sub(self.offset) * 1_000
    }

    /// Runs and is not stopped by anybody.
    pub fn is_alive(&self, now: u64) -> bool {
        self.host.is_some() && self.paused_until <= now
    }

    /// Starts the agent with what the disk holds.
    pub fn start(&mut self, now: u64) {
        self.life += 1;
        let config = HostConfig {
            node: self.node,
            incarnation: self.life,
            total: self.total,
            port_first: PORT_FIRST,
            port_last: PORT_LAST,
            adoption_limit: match self.booted {
                true => Millis(0),
                false => ADOPTION_LIMIT,
            },
            unix_offset: Millis(1_700_000_000_000 + self.skew - self.offset),
        };
        let restored = self.journal.entries.values().cloned().collect();
        let highest = self.journal.highest;
        self.host = Some(Host::new(config, highest, restored, self.clock(now)));
        self.session = Session::default();
        self.booted = false;
        self.swept = false;
        self.wake = None;
    }

    /// The agent dies, and with the whole host all processes.
    pub fn crash(&mut self, whole: bool, lazy_lost: bool) {
        self.host = None;
        self.life += 1;
        self.journal.crash(lazy_lost);
        self.watched.clear();
        self.fetches.clear();
        self.dies_after = None;
        self.paused_until = 0;
        for process in self.processes.values_mut() {
            process.linked = false;
        }
        if whole {
            self.booted = true;
            self.processes.clear();
        }
    }

    /// Processes that have not ended.
    pub fn live(&self) -> impl Iterator<Item = &Process> {
        self.processes
            .values()
            .filter(|process| process.ended.is_none())
    }

    /// The process of a run.
    pub fn process_of(&self, run: &Run) -> Option<u64> {
        let mut all = self.processes.iter();
        all.find(|(_, process)| process.run == *run)
            .map(|(number, _)| *number)
    }
}

/// All hosts of a world of this size.
pub fn everybody(hosts: usize) -> HostSet {
    if hosts >= 64 {
        u64::MAX
    } else {
        (1 << hosts) - 1
    }
}
