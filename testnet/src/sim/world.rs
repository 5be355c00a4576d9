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
    machine::Machine,
    network::Network,
    queue::{MS, Popped, Queue},
    rng::Rng,
    sabotage,
    script::Action,
    trace::Trace,
    waits::Waits,
};
use potluck_core::{
    auction::StopReason,
    host::End,
    scheduler::{Note, ServiceEndpoints, SessionState},
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
    /// A line of the script.
    Act(Box<Action>),
    /// A client tries its change.
    Client(usize),
}

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
    /// Doubles that a scheduler saw.
    pub doubles: u64,
    /// Slots that nobody took, as schedulers noted it.
    pub unplaced: u64,
    /// Times that the brake came on.
    pub brakes: u64,
    /// Hosts that a scheduler called unreachable.
    pub unreachable: u64,
    /// Refusals by the fence.
    pub fenced: u64,
    /// Changes accepted.
    pub accepted: u64,
    /// Tasks that were moved to be more even.
    pub moved: u64,
    /// Tasks that made room for others.
    pub preempted: u64,
}

impl Stats {
    /// Both together.
    pub fn add(&mut self, other: &Stats) {
        self.events += other.events;
        self.steps += other.steps;
        self.reigns += other.reigns;
        self.awards += other.awards;
        self.doubles += other.doubles;
        self.unplaced += other.unplaced;
        self.brakes += other.brakes;
        self.unreachable += other.unreachable;
        self.fenced += other.fenced;
        self.accepted += other.accepted;
        self.moved += other.moved;
        self.preempted += other.preempted;
    }

    /// Counts what people would read about.
    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Double { .. } => self.doubles += 1,
            Note::Unplaced { slots, .. } => self.unplaced += u64::from(*slots),
            Note::BrakeOn { .. } => self.brakes += 1,
            Note::Surge {
                reason: StopReason::Moved,
                ..
            } => self.moved += 1,
            Note::Session {
                state: SessionState::Unreachable,
                ..
            } => self.unreachable += 1,
            _ => {}
        }
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
    /// What was published last of each service, and in which reign.
    pub published: BTreeMap<(String, String), (u64, ServiceEndpoints)>,
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
                (rack, Resources::new(cpu(number), 8 << 30))
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
            published: BTreeMap::new(),
            requests: Waits::default(),
            clients: Vec::new(),
            invariants: Some(Box::default()),
            violation: None,
            trace: Trace::new(trace),
            stats: Stats::default(),
            numbers: 0,
            mute: BTreeMap::new(),
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

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
