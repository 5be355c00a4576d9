//! One host of the world: its agent's decisions, its disk, its processes.
//!
//! Answers for what survives what: an agent's death leaves the disk and the
//! processes, a host's death the disk alone, and of the disk only what had to
//! be durable is sure. Leaves to `world` when things happen.

use super::{
    clock::Clock,
    disk::Journal,
    rng::Rng,
    wishes::{DEVICE, DEVICES},
};
use potluck_core::{
    attributes::Facts,
    host::{ADOPTION_LIMIT, End, Event, Host, HostConfig, Run},
    relay::{Path, Way},
};
use potluck_specs::{Generation, Millis, NodeId, SlotId, job::Resources};
use std::collections::{BTreeMap, BTreeSet};

/// Ports of tasks.
const PORT_FIRST: u16 = 20_000;
const PORT_LAST: u16 = 20_999;

/// A task's process with its helper.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which start of which slot.
    pub run: Run,
    /// What it takes.
    pub resources: Resources,
    /// Of the devices.
    pub devices: u32,
    /// Its ports.
    pub ports: Vec<u16>,
    /// It does not end when told to.
    pub deaf: bool,
    /// It has started.
    pub running: bool,
    /// It has been told to stop.
    pub told: bool,
    /// It ended; its helper waits for the agent to hear of it.
    pub ended: Option<End>,
    /// Its helper is connected to the agent.
    pub linked: bool,
    /// The token that it was started with.
    pub generation: Generation,
    /// Of an exclusive slot: its helper ends it then, by the boot clock.
    pub lease_until: Option<Millis>,
}

/// Heartbeats to whoever leads.
#[derive(Debug, Default)]
pub struct Session {
    /// Whom to ask.
    pub leader: Option<usize>,
    /// The way to it.
    pub path: Path,
    /// Which way the last one went.
    pub way: Option<Way>,
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
    /// Where that stands.
    pub datacenter: String,
    /// All that it has for tasks.
    pub total: Resources,
    /// It is a member of the cluster.
    pub admitted: bool,
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
    /// What the agent passes on to the helpers of exclusive slots.
    pub leases: BTreeMap<SlotId, Millis>,
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
    clock: Clock,
}

impl Machine {
    /// A host that has not started yet.
    pub fn new(number: usize, (rack, total): (String, Resources), rng: &mut Rng) -> Machine {
        let mut id = [1; 32];
        id[0] = (rng.below(250) + 1) as u8;
        id[1..3].copy_from_slice(&(number as u16).to_be_bytes());
        Machine {
            node: NodeId(id),
            rack,
            datacenter: "default".into(),
            total,
            admitted: false,
            host: None,
            life: 0,
            journal: Journal::default(),
            processes: BTreeMap::new(),
            paused_until: 0,
            dies_after: None,
            session: Session::default(),
            leases: BTreeMap::new(),
            watched: BTreeSet::new(),
            fetches: BTreeSet::new(),
            booted: true,
            swept: false,
            wake: None,
            clock: Clock::drawn(rng),
        }
    }

    /// Its boot clock at a time of the world.
    pub fn clock(&self, now: u64) -> Millis {
        self.clock.show(now)
    }

    /// When its boot clock shows this.
    pub fn when(&self, clock: Millis) -> u64 {
        self.clock.when(clock)
    }

    /// Runs and is not stopped by anybody.
    pub fn is_alive(&self, now: u64) -> bool {
        self.host.is_some() && self.paused_until <= now
    }

    /// Starts the agent with what the disk holds, and with `total` as what it
    /// believes to have.
    pub fn start(&mut self, now: u64, total: Resources) {
        self.life += 1;
        let config = HostConfig {
            node: self.node,
            incarnation: self.life,
            total,
            port_first: PORT_FIRST,
            port_last: PORT_LAST,
            adoption_limit: match self.booted {
                true => Millis(0),
                false => ADOPTION_LIMIT,
            },
            unix_offset: self.clock.unix_offset(),
        };
        let restored = self.journal.entries.values().cloned().collect();
        let highest = self.journal.highest;
        let mut host = Host::new(config, highest, restored, self.clock(now));
        let mut facts = Facts::default();
        facts.devices.insert(DEVICE.into(), DEVICES);
        // It yields nothing but that there is something to report.
        host.step(Event::SetFacts(facts), self.clock(now));
        self.host = Some(host);
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
        self.leases.clear();
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
