//! The world: its clock, its hosts, its wires, and what is due on them.
//!
//! Answers for delivering: requests with their answers and waits, timers, and
//! the doing of what hosts decide. Every event is followed by all invariants.

use super::{
    Broken, Options,
    control::{Control, Proposal},
    court::{Court, CourtDue},
    invariants::{Holding, Invariants, Seen, Violation},
    machine::{Machine, Process},
    network::Network,
    queue::{MS, Queue, SECOND},
    rng::Rng,
    script::{Action, Client},
    trace::Trace,
};
use potluck_core::{
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, Refusal, StopOrder},
    host::{Answer, Effect, End, Event as HostEvent, Run, Start},
    scheduler::{Event, Note, ServiceEndpoints},
    session::{Heartbeat, HeartbeatAnswer},
};
use potluck_specs::{Generation, NodeId, SlotId, job::Resources};
use std::{collections::BTreeMap, sync::Arc};

/// Heartbeats, as `node::runtime::session` sends them.
const HEARTBEAT: u64 = SECOND;
const HEARTBEAT_MIN: u64 = 2 * MS;
const HEARTBEAT_WAIT: u64 = 1_500 * MS;
const LEADERLESS_PAUSE: u64 = 100 * MS;

/// How long a probe waits for the probed.
const PROBE_PATIENCE: u64 = 800 * MS;

/// What a node asks of another.
#[derive(Clone, Debug)]
pub enum Request {
    /// All that it runs.
    Greet(Authority),
    /// For a bid.
    Call(Call),
    /// To fill slots.
    Award(Box<Award>),
    /// To end a reservation.
    Cancel(Authority, u64),
    /// To stop a slot.
    Stop(StopOrder),
    /// Whether it reaches another.
    Probe(NodeId),
    /// A session's heartbeat, with the truth about its sender then.
    Heartbeat(Heartbeat, Holding),
}

impl Request {
    /// Whose word it is.
    pub fn authority(&self) -> Option<Authority> {
        match self {
            Request::Greet(authority) | Request::Cancel(authority, _) => Some(*authority),
            Request::Call(call) => Some(call.authority),
            Request::Award(award) => Some(award.authority),
            Request::Stop(order) => Some(order.authority),
            Request::Probe(_) | Request::Heartbeat(..) => None,
        }
    }

    /// Carried out twice it does no harm: these may come twice.
    fn may_repeat(&self) -> bool {
        matches!(
            self,
            Request::Award(_) | Request::Stop(_) | Request::Greet(_)
        )
    }
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Response {
    /// To a greeting, with the truth about its sender then.
    Inventory(Heartbeat, Holding),
    /// To a call.
    Call(CallAnswer),
    /// To an award.
    Award(AwardAnswer),
    /// To a cancel or a stop.
    Done,
    /// To a probe.
    Probe(bool),
    /// To a heartbeat.
    Heartbeat(HeartbeatAnswer),
    /// To a heartbeat at one that does not lead.
    NotLeader(Option<usize>),
    /// The fence, or an agent that is stopping.
    Refused,
}

/// What an answer is for.
#[derive(Clone, Debug)]
pub enum Then {
    /// A greeting of this node.
    Greet(NodeId),
    /// A call to this node.
    Call(NodeId, u64),
    /// An award to this node.
    Award(NodeId, u64),
    /// A cancel to this node.
    Cancel(NodeId),
    /// A stop on this node.
    Stop(NodeId, SlotId),
    /// A probe by one about another.
    Probe(NodeId, NodeId),
    /// A heartbeat.
    Beat(u64),
}

/// A request whose answer is waited for.
#[derive(Debug)]
pub struct Open {
    from: usize,
    life: u64,
    reign: u64,
    to: usize,
    then: Then,
}

/// What is due at a host's agent; nothing once it has died.
#[derive(Debug)]
pub enum HostDue {
    /// A timer of the host's decisions.
    Tick,
    /// The planned heartbeat of this number.
    Beat(u64),
    /// A fetch ends.
    Fetched(SlotId, Generation, bool),
    /// A check of a task's health.
    Health(Run, bool),
    /// A helper of a former life dials.
    Redial(u64),
    /// All that was lost of a slot has been killed.
    LostKilled(Run),
    /// A kill of what is not there.
    Nothing(Run),
}

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
    /// Times that the brake came on.
    pub brakes: u64,
    /// Refusals by the fence.
    pub fenced: u64,
    /// Changes accepted.
    pub accepted: u64,
}

impl Stats {
    /// Both together.
    pub fn add(&mut self, other: &Stats) {
        self.events += other.events;
        self.steps += other.steps;
        self.reigns += other.reigns;
        self.awards += other.awards;
        self.doubles += other.doubles;
        self.brakes += other.brakes;
        self.fenced += other.fenced;
        self.accepted += other.accepted;
    }

    /// Counts what people would read about.
    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Double { .. } => self.doubles += 1,
            Note::BrakeOn { .. } => self.brakes += 1,
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
    /// By the hearing host, then the heard: when its counter moved.
    pub(super) gossip: Vec<Vec<u64>>,
    pub(super) requests: BTreeMap<u64, Open>,
    pub(super) clients: Vec<Client>,
    invariants: Invariants,
    /// The first broken one.
    pub violation: Option<Violation>,
    /// What happened.
    pub trace: Trace,
    /// Counts.
    pub stats: Stats,
    numbers: u64,
    /// Answers of awards from these hosts are lost until then.
    pub(super) mute: BTreeMap<usize, u64>,
    /// Faults are over: nothing fails by itself any more.
    pub(super) healed: bool,
}

impl World {
    /// A world at its begin: all hosts just started, nobody leads.
    pub fn new(seed: u64, options: Options, trace: bool) -> World {
        let mut rng = Rng::new(seed);
        let total = Resources {
            cpu_millis: 4_000,
            memory_bytes: 8 << 30,
        };
        let machines: Vec<Machine> = (0..options.hosts)
            .map(|number| Machine::new(number, options.racks, total, &mut rng))
            .collect();
        let index = machines.iter().enumerate();
        let index = index.map(|(number, host)| (host.node, number)).collect();
        let voters: Vec<usize> = (0..options.voters).collect();
        let log = super::script::founding(&machines);
        let mut world = World {
            net: Network::new(rng.fork()),
            control: Control::new(&voters, log),
            gossip: vec![vec![0; options.hosts]; options.hosts],
            queue: Queue::default(),
            rng,
            machines,
            index,
            courts: BTreeMap::new(),
            published: BTreeMap::new(),
            requests: BTreeMap::new(),
            clients: Vec::new(),
            invariants: Invariants::new(),
            violation: None,
            trace: Trace::new(trace),
            stats: Stats::default(),
            numbers: 0,
            mute: BTreeMap::new(),
            healed: false,
            options,
        };
        for host in 0..world.machines.len() {
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
        while let Some(due) = self.queue.pop_until(ms * MS) {
            self.stats.events += 1;
            self.happen(due);
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
                self.requests.get(id).map(|open| open.from)
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
        let mut invariants = std::mem::take(&mut self.invariants);
        if let Err(violation) = invariants.see(self, seen) {
            self.violation.get_or_insert(violation);
        }
        self.invariants = invariants;
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    // Requests and answers.

    pub(super) fn court_asks(&mut self, at: usize, request: Request, wait: u64, then: Then) {
        let to = match &then {
            Then::Greet(node)
            | Then::Call(node, _)
            | Then::Award(node, _)
            | Then::Cancel(node)
            | Then::Stop(node, _)
            | Then::Probe(node, _) => self.index.get(node).copied(),
            Then::Beat(_) => None,
        };
        let Some(to) = to else { return };
        let reign = self.courts.get(&at).map_or(0, |court| court.reign);
        self.ask(at, reign, to, request, wait, then);
    }

    fn ask(&mut self, from: usize, reign: u64, to: usize, request: Request, wait: u64, then: Then) {
        let id = self.number();
        let open = Open {
            from,
            life: self.machines[from].life,
            reign,
            to,
            then,
        };
        self.requests.insert(id, open);
        self.queue.after(wait, Due::GiveUp { id });
        let life = self.machines[to].life;
        let twice = !self.healed && request.may_repeat() && self.rng.chance(self.options.twice);
        for _ in 0..if twice { 2 } else { 1 } {
            if let Some(delay) = self.net.carry(from, to) {
                let request = request.clone();
                self.queue.after(
                    delay,
                    Due::Request {
                        id,
                        from,
                        to,
                        life,
                        request,
                    },
                );
            }
        }
    }

    fn serve(&mut self, id: u64, from: usize, to: usize, life: u64, request: Request) {
        // A connection ends with the process behind it.
        if self.machines[to].life != life || self.machines[to].host.is_none() {
            return;
        }
        let is_award = matches!(request, Request::Award(_));
        let Some(response) = self.respond(from, to, request) else {
            return;
        };
        let muted = self.mute.get(&to).is_some_and(|t| *t > self.queue.now());
        if is_award && muted {
            let now = self.queue.now();
            return self
                .trace
                .line(now, || format!("an award's answer from h{to} is lost"));
        }
        let wait = match response {
            Response::Probe(false) => PROBE_PATIENCE,
            _ => 0,
        };
        if let Some(delay) = self.net.carry(to, from) {
            self.queue.after(wait + delay, Due::Answer { id, response });
        }
    }

    fn respond(&mut self, from: usize, to: usize, request: Request) -> Option<Response> {
        match request {
            Request::Probe(about) => {
                let about = *self.index.get(&about)?;
                let alive = self.machines[about].is_alive(self.queue.now());
                Some(Response::Probe(alive && self.net.connects(to, about)))
            }
            Request::Heartbeat(heartbeat, holding) => {
                if !self.courts.contains_key(&to) {
                    return Some(Response::NotLeader(self.machines[to].session.leader));
                }
                let confirmed = heartbeat.inventory.number;
                let said = self.step_court(to, Event::Heartbeat { heartbeat })?;
                if said.confirmed == Some(confirmed) {
                    self.see(&Seen::Told {
                        to,
                        from,
                        holding: &holding,
                    });
                }
                Some(Response::Heartbeat(said))
            }
            request => self.agent_answers(from, to, request),
        }
    }

    fn agent_answers(&mut self, from: usize, to: usize, request: Request) -> Option<Response> {
        let authority = request.authority()?;
        let event = match request.clone() {
            Request::Greet(authority) => HostEvent::Greet(authority),
            Request::Call(call) => HostEvent::Call {
                call,
                missing_bytes: 0,
            },
            Request::Award(award) => {
                let job = award.job.decode_unchecked().map(Arc::new);
                let award = *award;
                HostEvent::Award {
                    award,
                    job: job.map_err(|error| error.to_string()),
                }
            }
            Request::Cancel(authority, call) => HostEvent::Cancel { authority, call },
            Request::Stop(order) => HostEvent::Stop(order),
            Request::Probe(_) | Request::Heartbeat(..) => return None,
        };
        let event = match self.options.broken {
            Some(Broken::IgnoresFence) => self.without_fence(to, event),
            _ => event,
        };
        let drops = self.options.broken == Some(Broken::DropsStops);
        if drops && matches!(event, HostEvent::Stop(_)) {
            return Some(Response::Done);
        }
        let answer = self.step_host(to, event)?;
        let heard = !is_fenced(&answer);
        let obeyed = is_obeyed(&answer);
        self.stats.fenced += u64::from(!heard);
        self.trace_answer(from, to, &request, &answer);
        self.see(&Seen::Answered {
            at: to,
            authority,
            heard,
            obeyed,
        });
        Some(match answer {
            Answer::Greet(Ok(mut heartbeat)) => {
                if self.options.broken == Some(Broken::HidesInventories) {
                    heartbeat.inventory.slots.clear();
                }
                self.machines[to].session.leader = Some(from);
                let holding = self.holding(to);
                Response::Inventory(heartbeat, holding)
            }
            Answer::Call(answer) => Response::Call(answer),
            Answer::Award(answer) => Response::Award(answer),
            Answer::Cancel(Ok(())) | Answer::Stop(Ok(())) => Response::Done,
            Answer::Greet(Err(_)) | Answer::Cancel(Err(_)) | Answer::Stop(Err(_)) => {
                Response::Refused
            }
            Answer::Heartbeat(_) => return None,
        })
    }

    /// A host that obeys whomever it hears: for showing that it is noticed.
    fn without_fence(&self, at: usize, event: HostEvent) -> HostEvent {
        let highest = self.machines[at].journal.highest;
        match event {
            HostEvent::Award { mut award, job } => {
                award.authority = award.authority.max(highest);
                HostEvent::Award { award, job }
            }
            HostEvent::Call {
                mut call,
                missing_bytes,
            } => {
                call.authority = call.authority.max(highest);
                HostEvent::Call {
                    call,
                    missing_bytes,
                }
            }
            other => other,
        }
    }

    fn trace_answer(&mut self, from: usize, to: usize, request: &Request, answer: &Answer) {
        let now = self.queue.now();
        self.trace.line(now, || match (request, answer) {
            (Request::Award(award), Answer::Award(answer)) => {
                let slots: Vec<String> = answer
                    .slots
                    .iter()
                    .zip(&award.slots)
                    .map(|((slot, answer), (_, generation))| {
                        format!("{slot} {generation} {answer:?}")
                    })
                    .collect();
                format!("h{to} <- h{from} award: {}", slots.join(", "))
            }
            (Request::Stop(order), Answer::Stop(answer)) => format!(
                "h{to} <- h{from} stop {} {} {:?}: {answer:?}",
                order.slot, order.generation, order.reason
            ),
            (Request::Greet(authority), Answer::Greet(answer)) => format!(
                "h{to} <- h{from} greet {}: {:?}",
                authority.reign.0,
                answer.as_ref().map(|_| ())
            ),
            (Request::Call(call), Answer::Call(answer)) => {
                format!(
                    "h{to} <- h{from} call {} {}: {answer:?}",
                    call.call, call.job
                )
            }
            (_, answer) => format!("h{to} <- h{from} {answer:?}"),
        });
    }

    /// What a host holds in truth, in memory or on disk.
    pub fn holding(&self, at: usize) -> Holding {
        Holding::of(&self.machines[at], self.queue.now())
    }

    fn settle(&mut self, id: u64, response: Option<Response>) {
        let Some(open) = self.requests.remove(&id) else {
            return;
        };
        if self.machines[open.from].life != open.life {
            return;
        }
        if let Then::Beat(_) = open.then {
            return self.beat_settled(open.from, open.to, response);
        }
        let reigns = self.courts.get(&open.from).map(|court| court.reign);
        if reigns != Some(open.reign) {
            return;
        }
        let told = match &response {
            Some(Response::Inventory(_, holding)) => Some((open.to, holding.clone())),
            _ => None,
        };
        let event = event_of(open.then, response);
        self.step_court(open.from, event);
        if let Some((from, holding)) = told {
            let to = open.from;
            self.see(&Seen::Told {
                to,
                from,
                holding: &holding,
            });
        }
    }

    // The session.

    fn plan_beat(&mut self, at: usize, time: u64) {
        let session = &mut self.machines[at].session;
        session.planned += 1;
        let due = HostDue::Beat(session.planned);
        let life = self.machines[at].life;
        self.queue.at(time, Due::Host { at, life, due });
    }

    fn beat(&mut self, at: usize) {
        let now = self.queue.now();
        let Some(to) = self.machines[at]
            .session
            .leader
            .or_else(|| self.anybody(at))
        else {
            return self.plan_beat(at, now + LEADERLESS_PAUSE);
        };
        let Some(Answer::Heartbeat(heartbeat)) = self.step_host(at, HostEvent::Heartbeat) else {
            return;
        };
        let session = &mut self.machines[at].session;
        session.waits = true;
        session.sent_at = now;
        let holding = self.holding(at);
        let request = Request::Heartbeat(heartbeat, holding);
        self.ask(at, 0, to, request, HEARTBEAT_WAIT, Then::Beat(0));
    }

    fn anybody(&mut self, at: usize) -> Option<usize> {
        let others = self.machines.len() as u64 - 1;
        let pick = self.rng.below(others) as usize;
        (others > 0).then_some(if pick >= at { pick + 1 } else { pick })
    }

    fn beat_settled(&mut self, at: usize, asked: usize, response: Option<Response>) {
        let sent_at = self.machines[at].session.sent_at;
        let session = &mut self.machines[at].session;
        session.waits = false;
        session.answered = matches!(response, Some(Response::Heartbeat(_)));
        match response {
            Some(Response::Heartbeat(answer)) => {
                session.leader = Some(asked);
                let changed = std::mem::take(&mut session.changed);
                let pause = if changed { HEARTBEAT_MIN } else { HEARTBEAT };
                self.plan_beat(at, sent_at + pause);
                self.step_host(at, HostEvent::HeartbeatAnswered(answer));
            }
            other => {
                session.leader = match other {
                    Some(Response::NotLeader(Some(hint))) if hint != asked => Some(hint),
                    _ => None,
                };
                self.plan_beat(at, sent_at + LEADERLESS_PAUSE);
            }
        }
    }

    // Hosts.

    /// Starts an agent.
    pub(super) fn start(&mut self, at: usize) {
        let now = self.queue.now();
        if self.machines[at].host.is_some() {
            return;
        }
        self.machines[at].start(now);
        self.trace.line(now, || format!("h{at} starts"));
        let life = self.machines[at].life;
        let helpers: Vec<u64> = self.machines[at].processes.keys().copied().collect();
        for process in helpers {
            let late = !self.healed && self.rng.chance(30);
            let longest = if late { 7_000 } else { 400 };
            let wait = self.rng.between(5, longest) * MS;
            let due = HostDue::Redial(process);
            self.queue.after(wait, Due::Host { at, life, due });
        }
        self.see(&Seen::Started { at });
        self.step_host(at, HostEvent::Tick);
        let wait = self.rng.below(50) * MS;
        self.plan_beat(at, now + wait);
    }

    /// Ends an agent, and with the whole host its tasks.
    pub(super) fn crash(&mut self, at: usize, whole: bool) {
        let now = self.queue.now();
        if self.machines[at].host.is_none() && !whole {
            return;
        }
        let lost = self.rng.chance(500);
        self.machines[at].crash(whole, lost);
        self.control.died(at);
        self.end_court(at);
        let what = if whole {
            "dies whole"
        } else {
            "loses its agent"
        };
        self.trace.line(now, || format!("h{at} {what}"));
    }

    fn host_due(&mut self, at: usize, due: HostDue) {
        match due {
            HostDue::Tick => {
                self.machines[at].wake = None;
                self.step_host(at, HostEvent::Tick);
            }
            HostDue::Beat(planned) => {
                let session = &self.machines[at].session;
                if session.planned == planned && !session.waits {
                    self.beat(at);
                }
            }
            HostDue::Fetched(slot, origin, well) => {
                if self.machines[at].fetches.remove(&(slot.clone(), origin)) {
                    let why = "no peer has it".to_owned();
                    let event = match well {
                        true => HostEvent::Fetched { slot, origin },
                        false => HostEvent::FetchFailed { slot, origin, why },
                    };
                    self.step_host(at, event);
                }
            }
            HostDue::Health(run, healthy) => {
                if self.machines[at].watched.contains(&run) {
                    self.step_host(at, HostEvent::HealthChanged { run, healthy });
                }
            }
            HostDue::Redial(process) => self.redial(at, process),
            HostDue::LostKilled(run) | HostDue::Nothing(run) => {
                let end = End::HelperLost;
                self.step_host(at, HostEvent::Exited { run, end });
            }
        }
    }

    fn redial(&mut self, at: usize, number: u64) {
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        process.linked = true;
        let run = process.run.clone();
        match process.ended.clone() {
            Some(end) => {
                self.machines[at].processes.remove(&number);
                self.step_host(at, HostEvent::Exited { run, end });
            }
            None if process.running => {
                self.step_host(at, HostEvent::Running(run));
            }
            None => {}
        }
    }

    pub(super) fn process_started(&mut self, at: usize, number: u64) {
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        if process.ended.is_some() {
            return;
        }
        process.running = true;
        let run = process.run.clone();
        if process.linked && self.machines[at].host.is_some() {
            self.step_host(at, HostEvent::Running(run));
        }
    }

    pub(super) fn process_ended(&mut self, at: usize, number: u64, end: End) {
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        if process.ended.is_some() {
            return;
        }
        process.ended = Some(end.clone());
        let run = process.run.clone();
        if process.linked && self.machines[at].host.is_some() {
            self.machines[at].processes.remove(&number);
            self.step_host(at, HostEvent::Exited { run, end });
        }
    }

    /// One step of a host and what follows from it; `None` also if it dies on
    /// the way.
    pub(super) fn step_host(&mut self, at: usize, event: HostEvent) -> Option<Answer> {
        let now = self.queue.now();
        let clock = self.machines[at].clock(now);
        let effects = self.machines[at].host.as_mut()?.step(event, clock);
        let dies_after = match effects.is_empty() {
            true => None,
            false => self.machines[at].dies_after.take(),
        };
        let mut answer = None;
        for (done, effect) in effects.into_iter().enumerate() {
            if dies_after.is_some_and(|after| after <= done) {
                break;
            }
            self.host_does(at, effect, &mut answer);
        }
        if dies_after.is_some() {
            self.crash(at, false);
            let wait = self.rng.between(200, 4_000) * MS;
            let action = Action::Start { host: at };
            self.queue.after(wait, Due::Act(Box::new(action)));
            return None;
        }
        self.sweep(at);
        self.plan_tick(at);
        self.see(&Seen::Stepped { at });
        answer
    }

    fn plan_tick(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(wake) = machine.host.as_ref().and_then(|host| host.wake_at()) else {
            return;
        };
        if machine.wake.is_some_and(|planned| planned <= wake) {
            return;
        }
        machine.wake = Some(wake);
        let (life, time) = (machine.life, machine.when(wake));
        let due = HostDue::Tick;
        self.queue
            .at(time.max(self.queue.now() + MS), Due::Host { at, life, due });
    }

    /// What no slot claims is ended once the adoption is over.
    fn sweep(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(host) = &machine.host else { return };
        if machine.swept || host.adopting() {
            return;
        }
        machine.swept = true;
        let held: Vec<SlotId> = host.slots().into_iter().map(|report| report.slot).collect();
        machine
            .processes
            .retain(|_, process| process.linked || held.contains(&process.run.slot));
    }

    fn host_does(&mut self, at: usize, effect: Effect, answer: &mut Option<Answer>) {
        if self.machines[at].journal.write(&effect) {
            return;
        }
        let life = self.machines[at].life;
        match effect {
            Effect::Answer(given) => *answer = Some(given),
            Effect::Fetch { slot, origin, .. } => {
                self.machines[at].fetches.insert((slot.clone(), origin));
                let well = self.healed || !self.rng.chance(self.options.bad_fetches);
                let wait = self.rng.between(1, 300) * MS;
                let due = HostDue::Fetched(slot, origin, well);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            Effect::CancelFetch { slot, origin } => {
                self.machines[at].fetches.remove(&(slot, origin));
            }
            Effect::StartHelper(start) => self.start_process(at, &start),
            Effect::SignalStop { run, grace_ms, .. } => self.signal(at, &run, grace_ms),
            Effect::Kill(run) => match self.machines[at].process_of(&run) {
                Some(process) => {
                    let wait = self.rng.between(1, 30) * MS;
                    let end = End::Signal(9);
                    self.queue.after(wait, Due::Ended { at, process, end });
                    // Its end reaches the agent with or without a helper.
                    if let Some(process) = self.machines[at].processes.get_mut(&process) {
                        process.linked = true;
                    }
                }
                None => {
                    let due = HostDue::Nothing(run);
                    self.queue.after(MS, Due::Host { at, life, due });
                }
            },
            Effect::KillLost(run) => {
                let slot = &run.slot;
                let processes = &mut self.machines[at].processes;
                processes.retain(|_, process| process.linked || process.run.slot != *slot);
                let wait = self.rng.between(1, 30) * MS;
                let due = HostDue::LostKilled(run);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            Effect::WatchHealth { run, .. } => {
                self.machines[at].watched.insert(run.clone());
                let wait = self.rng.between(5, 300) * MS;
                let due = HostDue::Health(run, true);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            Effect::UnwatchHealth(run) => {
                self.machines[at].watched.remove(&run);
            }
            Effect::ReportChanged => {
                let session = &mut self.machines[at].session;
                session.changed |= session.waits;
                if session.answered && !session.waits {
                    let soonest = session.sent_at + HEARTBEAT_MIN;
                    self.plan_beat(at, soonest);
                }
            }
            Effect::Forgotten(_) => {}
            Effect::PersistAuthority(_) | Effect::JournalPut { .. } | Effect::JournalRemove(_) => {}
        }
    }

    fn start_process(&mut self, at: usize, start: &Start) {
        let number = self.number();
        let process = Process {
            run: start.run.clone(),
            resources: start.job.task.resources,
            running: false,
            told: false,
            ended: None,
            linked: true,
        };
        self.machines[at].processes.insert(number, process);
        let now = self.queue.now();
        self.trace
            .line(now, || format!("h{at} starts {}", start.run));
        let wait = self.rng.between(3, 150) * MS;
        let fails = !self.healed && self.rng.chance(self.options.bad_starts);
        let due = match fails {
            true => Due::Ended {
                at,
                process: number,
                end: End::NotStarted("the dice said so".into()),
            },
            false => Due::Started {
                at,
                process: number,
            },
        };
        self.queue.after(wait, due);
    }

    fn signal(&mut self, at: usize, run: &Run, grace_ms: u64) {
        let Some(number) = self.machines[at].process_of(run) else {
            return;
        };
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        if !process.linked || std::mem::replace(&mut process.told, true) {
            return;
        }
        let deaf = self.rng.chance(50);
        let wait = if deaf {
            grace_ms
        } else {
            self.rng.between(1, 400).min(grace_ms)
        };
        let end = End::Signal(if deaf { 9 } else { 15 });
        let process = number;
        self.queue.after(wait * MS, Due::Ended { at, process, end });
    }
}

fn is_fenced(answer: &Answer) -> bool {
    let stale = |refusal: &Refusal| matches!(refusal, Refusal::StaleAuthority { .. });
    match answer {
        Answer::Call(CallAnswer::Refusal(refusal)) => stale(refusal),
        Answer::Award(answer) => {
            let mut slots = answer.slots.iter();
            slots.any(|(_, answer)| answer.as_ref().is_err_and(stale))
        }
        Answer::Cancel(Err(refusal)) | Answer::Stop(Err(refusal)) | Answer::Greet(Err(refusal)) => {
            stale(refusal)
        }
        _ => false,
    }
}

fn is_obeyed(answer: &Answer) -> bool {
    match answer {
        Answer::Award(answer) => answer.slots.iter().any(|(_, answer)| answer.is_ok()),
        Answer::Stop(answer) => answer.is_ok(),
        _ => false,
    }
}

fn event_of(then: Then, response: Option<Response>) -> Event {
    match (then, response) {
        (Then::Greet(_), Some(Response::Inventory(heartbeat, _))) => Event::Greeted { heartbeat },
        (Then::Greet(node), _) => Event::GreetFailed { node },
        (Then::Call(node, call), Some(Response::Call(answer))) => {
            Event::CallAnswered { node, call, answer }
        }
        (Then::Call(node, call), _) => Event::CallLost { node, call },
        (Then::Award(node, call), Some(Response::Award(answer))) => {
            Event::AwardAnswered { node, answer, call }
        }
        (Then::Award(node, call), _) => Event::AwardLost { node, call },
        (Then::Stop(node, slot), Some(Response::Done)) => Event::StopAnswered { node, slot },
        (Then::Stop(node, slot), _) => Event::StopLost { node, slot },
        (Then::Probe(by, about), Some(Response::Probe(reachable))) => Event::Probed {
            by,
            about,
            reachable,
        },
        (Then::Probe(by, about), _) => Event::ProbeLost { by, about },
        (Then::Cancel(_) | Then::Beat(_), _) => Event::Tick,
    }
}
