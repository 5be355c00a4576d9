//! The world: its clock, its hosts, its wires, and what is due on them.
//!
//! Answers for order: one event after the other, those of a stopped process
//! later, and every one followed by the invariants.

use super::{
    Options,
    agent::HostDue,
    check::{Invariants, Seen, Violation},
    client::Client,
    control::{Control, Proposal},
    court::{Court, CourtDue},
    exchange::{Open, Request, Response},
    gossip::Gossip,
    held::Held,
    kinds::Kind,
    machine::Machine,
    network::Network,
    queue::{MS, Popped, Queue},
    rng::Rng,
    sabotage,
    script::Action,
    slices::{Published, Revision},
    trace::Trace,
    waits::Waits,
};
use potluck_core::{
    host::End,
    scheduler::{Note, ServiceEndpoints},
};
use potluck_specs::{NodeId, job::Resources};
use std::collections::BTreeMap;

/// What is due.
#[derive(Debug)]
pub(super) enum Due {
    /// A request arrives.
    Request {
        id: u64,
        from: usize,
        to: usize,
        life: u64,
        request: Request,
    },
    /// An answer arrives.
    Answer { id: u64, response: Response },
    /// An answer is waited for no longer.
    GiveUp { id: u64 },
    /// At an agent.
    Host { at: usize, life: u64, due: HostDue },
    /// A process has started.
    Started { at: usize, process: u64 },
    /// The helper of an exclusive task pings.
    Ping { at: usize, process: u64 },
    /// A process ends.
    Ended { at: usize, process: u64, end: End },
    /// At a scheduler.
    Court {
        at: usize,
        reign: u64,
        what: CourtDue,
    },
    /// A round of the control group.
    Control,
    /// A proposal has been sent around.
    Commit(Box<Proposal>),
    /// A slice comes once more.
    Slice {
        revision: Revision,
        service: Box<ServiceEndpoints>,
    },
    /// A line of the script.
    Act(Box<Action>),
    /// A client tries its change.
    Client(usize),
}

/// What a host's disk has for tasks.
const DISK_BYTES: u64 = 100 << 30;

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Events handled.
    pub events: u64,
    /// Steps of schedulers.
    pub steps: u64,
    /// Reigns begun.
    pub reigns: u64,
    /// Slots awarded.
    pub awards: u64,
    /// Slots that nobody took, as schedulers noted it.
    pub unplaced: u64,
    /// Refusals by the fence.
    pub fenced: u64,
    /// Changes accepted.
    pub accepted: u64,
    /// What happened, by kind.
    pub kinds: BTreeMap<Kind, u64>,
}

impl Stats {
    /// Both together.
    pub fn add(&mut self, other: &Stats) {
        self.events += other.events;
        self.steps += other.steps;
        self.reigns += other.reigns;
        self.awards += other.awards;
        self.unplaced += other.unplaced;
        self.fenced += other.fenced;
        self.accepted += other.accepted;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(*kind).or_default() += count;
        }
    }

    /// Counts what people would read about.
    pub fn note(&mut self, note: &Note) {
        if let Note::Unplaced { slots, .. } = note {
            self.unplaced += u64::from(*slots);
        }
        if let Some(kind) = Kind::of_note(note) {
            self.happened(kind);
        }
    }

    /// Something happened.
    pub(super) fn happened(&mut self, kind: Kind) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// How often it did.
    pub fn count(&self, kind: Kind) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or(0)
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// What it was made with.
    pub options: Options,
    pub(super) queue: Queue<Due>,
    pub(super) rng: Rng,
    /// Hosts by number.
    pub machines: Vec<Machine>,
    /// Numbers of hosts by id.
    pub index: BTreeMap<NodeId, usize>,
    pub(super) net: Network,
    /// The control group.
    pub control: Control,
    /// Schedulers by host.
    pub courts: BTreeMap<usize, Court>,
    /// What is published of each service.
    pub published: Published,
    pub(super) gossip: Gossip,
    /// Who holds what in truth.
    pub held: Held,
    /// Requests that wait for their answers.
    pub(super) requests: Waits<Open>,
    pub(super) clients: Vec<Client>,
    /// `None` while they look, since they look at the world.
    invariants: Option<Box<Invariants>>,
    /// The first broken one.
    pub violation: Option<Violation>,
    /// What happened.
    pub trace: Trace,
    /// Counts.
    pub stats: Stats,
    numbers: u64,
    /// Answers of awards from these hosts are lost until then.
    pub(super) mute: BTreeMap<usize, u64>,
    /// Nobody hears the gossip of these hosts until then.
    pub(super) hushed: BTreeMap<usize, u64>,
    /// The agents of these hosts neither ask nor answer until then.
    pub(super) hung: BTreeMap<usize, u64>,
    pub(super) sabotage: sabotage::Notes,
    /// Faults are over: nothing fails by itself any more.
    pub(super) healed: bool,
}

impl World {
    /// A world at its begin: all hosts just started, nobody leads.
    pub fn new(seed: u64, options: Options, trace: bool) -> World {
        let mut rng = Rng::new(seed);
        let cpu = |number: usize| options.cpus[number % options.cpus.len()];
        let shape = |number: usize| match options.shapes.get(number) {
            Some(shape) => (shape.rack.clone(), shape.total),
            None => {
                let rack = format!("r{}", number % options.racks);
                let total = Resources {
                    disk_bytes: DISK_BYTES,
                    ..Resources::new(cpu(number), 8 << 30)
                };
                (rack, total)
            }
        };
        let mut machines: Vec<Machine> = (0..options.hosts)
            .map(|number| Machine::new(number, shape(number), &mut rng))
            .collect();
        if options.datacenters > 1 {
            for (number, machine) in machines.iter_mut().enumerate() {
                let datacenter = number % options.racks % options.datacenters;
                machine.datacenter = format!("d{datacenter}");
            }
        }
        for machine in &mut machines[..options.founders()] {
            machine.admitted = true;
        }
        let index = machines.iter().enumerate();
        let index = index.map(|(number, host)| (host.node, number)).collect();
        let voters: Vec<usize> = (0..options.voters).collect();
        let log = super::client::founding(&machines);
        let mut world = World {
            net: Network::new(rng.fork()),
            control: Control::new(&voters, log),
            gossip: Gossip::default(),
            held: Held::nothing(options.hosts),
            queue: Queue::default(),
            rng,
            machines,
            index,
            courts: BTreeMap::new(),
            published: Published::new(),
            requests: Waits::default(),
            clients: Vec::new(),
            invariants: Some(Box::default()),
            violation: None,
            trace: Trace::new(trace),
            stats: Stats::default(),
            numbers: 0,
            mute: BTreeMap::new(),
            hushed: BTreeMap::new(),
            hung: BTreeMap::new(),
            sabotage: sabotage::Notes::default(),
            healed: false,
            options,
        };
        for host in 0..world.options.founders() {
            world.start(host);
        }
        world.queue.after(0, Due::Control);
        world
    }

    /// The time, in microseconds.
    pub fn now(&self) -> u64 {
        self.queue.now()
    }

    /// Something of the script, then.
    pub fn at(&mut self, ms: u64, action: Action) {
        self.queue.at(ms * MS, Due::Act(Box::new(action)));
    }

    /// Runs until then or until an invariant breaks.
    ///
    /// # Errors
    /// The invariant that broke.
    pub fn run_until(&mut self, ms: u64) -> Result<(), Violation> {
        while let Some(popped) = {
            let requests = &self.requests;
            self.queue
                .pop_until(ms * MS, |id| requests.get(id).is_some())
        } {
            self.stats.events += 1;
            self.happen(match popped {
                Popped::Due(due) => due,
                Popped::Expired(id) => Due::GiveUp { id },
            });
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    /// Whose being stopped delays the event.
    fn owner(&self, due: &Due) -> Option<usize> {
        match due {
            Due::Request { to, .. } => Some(*to),
            Due::Answer { id, .. } | Due::GiveUp { id } => {
                self.requests.get(*id).map(|open| open.from)
            }
            Due::Host { at, .. } | Due::Court { at, .. } => Some(*at),
            Due::Commit(proposal) => Some(proposal.at),
            _ => None,
        }
    }

    fn happen(&mut self, due: Due) {
        if let Some(owner) = self.owner(&due) {
            let until = self.machines[owner].paused_until;
            if until > self.queue.now() {
                return self.queue.at(until, due);
            }
        }
        match due {
            Due::Request {
                id,
                from,
                to,
                life,
                request,
            } => self.serve(id, from, to, life, request),
            Due::Answer { id, response } => self.settle(id, Some(response)),
            Due::GiveUp { id } => self.settle(id, None),
            Due::Host { at, life, due } if self.machines[at].life == life => self.host_due(at, due),
            Due::Host { .. } => {}
            Due::Started { at, process } => self.process_started(at, process),
            Due::Ping { at, process } => self.ping(at, process),
            Due::Ended { at, process, end } => self.process_ended(at, process, end),
            Due::Court { at, reign, what } => self.court_due(at, reign, what),
            Due::Control => self.control_round(),
            Due::Commit(proposal) => self.commit(*proposal),
            Due::Slice { revision, service } => self.take_slice(revision, *service),
            Due::Act(action) => self.act(*action),
            Due::Client(client) => self.client_tries(client),
        }
    }

    /// Shows the invariants what happened.
    pub(super) fn see(&mut self, seen: &Seen<'_>) {
        let Some(mut invariants) = self.invariants.take() else {
            return;
        };
        if let Err(violation) = invariants.see(self, seen) {
            self.violation.get_or_insert(violation);
        }
        self.invariants = Some(invariants);
    }

    /// Does the host's agent neither ask nor answer?
    pub(super) fn is_hung(&self, host: usize) -> bool {
        let until = self.hung.get(&host);
        until.is_some_and(|until| *until > self.queue.now())
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
