//! The scheduler's driver in the world, as `node::runtime::scheduling` is in
//! production: the same waits, the same events for answers and their absence.

use super::{
    Sabotage,
    check::Seen,
    control::Proposer,
    exchange::{Request, Then},
    kinds::Kind,
    queue::{MS, SECOND},
    world::{Due, World},
};
use potluck_core::{
    relay::Vias,
    scheduler::{Effect, Event, Note, Scheduler, SchedulerConfig},
    session::HeartbeatAnswer,
};
use potluck_specs::Millis;

const TICK: u64 = 100 * MS;

/// A tick that comes this late shows that the host lags.
const LAG: u64 = SECOND;

const MEMBERS_EVERY: u64 = SECOND;
const ANSWER_WAIT: u64 = 2 * SECOND;
const PROBE_WAIT: u64 = 1_200 * MS;
const GREET_WAIT: u64 = 1_500 * MS;

/// A scheduler and when its loop last turned.
#[derive(Debug)]
pub struct Court {
    /// The index of its `Reign`.
    pub reign: u64,
    /// The decider; boxed, since it is large beside the rest.
    pub scheduler: Box<Scheduler>,
    /// When it began, on the world's clock.
    pub began: u64,
    /// Whose sessions are carried by whom.
    pub(super) vias: Vias,
    /// How many slices it has published.
    pub(super) slices: u64,
    ticked_at: u64,
}

/// What happens at a court.
#[derive(Debug)]
pub enum CourtDue {
    /// Time passes.
    Tick,
    /// Gossip says who is there.
    Members,
    /// An answer or its absence.
    Event(Box<Event>),
}

impl World {
    /// A leader's `Reign` was applied.
    pub(super) fn begin_court(&mut self, at: usize, reign: u64) {
        let now = self.queue.now();
        let authority = self.control.replicas[&at].cluster.authority();
        let machine = &self.machines[at];
        let config = SchedulerConfig::default();
        let clock = self.bend_begin(machine.clock(now));
        let scheduler = Box::new(Scheduler::new(config, authority, machine.node, clock));
        let court = Court {
            reign,
            scheduler,
            began: now,
            vias: Vias::default(),
            slices: 0,
            ticked_at: now,
        };
        self.trace
            .line(now, || format!("h{at} reigns, reign {reign}"));
        self.stats.reigns += 1;
        self.courts.insert(at, court);
        self.machines[at].session.leader = Some(at);
        self.see(&Seen::Reigns { at });
        self.confirm_quorum(at);
        for what in [CourtDue::Tick, CourtDue::Members] {
            self.queue.after(0, Due::Court { at, reign, what });
        }
    }

    pub(super) fn end_court(&mut self, at: usize) {
        if let Some(court) = self.courts.remove(&at) {
            let now = self.queue.now();
            self.trace
                .line(now, || format!("h{at}'s reign {} ends", court.reign));
        }
    }

    pub(super) fn court_sees_log(&mut self, at: usize) {
        self.step_court(at, Event::ClusterChanged);
    }

    pub(super) fn court_due(&mut self, at: usize, reign: u64, what: CourtDue) {
        let now = self.queue.now();
        let Some(court) = self.courts.get_mut(&at).filter(|c| c.reign == reign) else {
            return;
        };
        match what {
            CourtDue::Tick => {
                let late = (now - court.ticked_at).saturating_sub(TICK);
                court.ticked_at = now;
                if late > LAG {
                    let lag = Millis(late / MS);
                    self.step_court(at, Event::LaggedFor { lag });
                }
                self.confirm_quorum(at);
                self.step_court(at, Event::Tick);
                let what = CourtDue::Tick;
                self.queue.after(TICK, Due::Court { at, reign, what });
            }
            CourtDue::Members => {
                let members = self.gossip_at(at);
                self.step_court(at, Event::Members { members });
                let what = CourtDue::Members;
                self.queue
                    .after(MEMBERS_EVERY, Due::Court { at, reign, what });
            }
            CourtDue::Event(event) => {
                self.step_court(at, *event);
            }
        }
    }

    fn confirm_quorum(&mut self, at: usize) {
        let machine = &self.machines[at];
        let confirmed = match self.options.sabotage {
            Some(Sabotage::ActsWithoutQuorum) => Some(self.queue.now()),
            _ => self.control.acknowledged.get(&at).copied(),
        };
        if let Some(sent) = confirmed {
            let at_clock = machine.clock(sent);
            self.step_court(at, Event::QuorumConfirmed { at: at_clock });
        }
    }

    /// One step of a scheduler and what follows from it.
    pub(super) fn step_court(&mut self, at: usize, event: Event) -> Option<HeartbeatAnswer> {
        let now = self.queue.now();
        let clock = self.machines[at].clock(now);
        let event = self.bend_presence(at, event)?;
        let event = self.bend_news(event);
        let court = self.courts.get_mut(&at)?;
        let cluster = &self.control.replicas[&at].cluster;
        let effects = court.scheduler.step(cluster, event, clock);
        self.stats.steps += 1;
        let effects = self.bend_effects(effects);
        self.see(&Seen::Decided {
            at,
            effects: &effects,
        });
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::AnswerHeartbeat { to, answer: said } => {
                    answer = Some(self.bend_forgetting(to, said));
                }
                effect => self.court_does(at, effect),
            }
        }
        answer
    }

    fn court_does(&mut self, at: usize, effect: Effect) {
        let now = self.queue.now();
        match effect {
            Effect::AnswerHeartbeat { .. } => {}
            Effect::Greet { node, authority } => {
                self.court_asks(at, Request::Greet(authority), GREET_WAIT, Then::Greet(node));
            }
            Effect::Call { to, call } => {
                let then = Then::Call(to, call.call);
                let call = std::sync::Arc::unwrap_or_clone(call);
                self.court_asks(at, Request::Call(call), ANSWER_WAIT, then);
            }
            Effect::Award { to, award } => {
                self.stats.awards += award.slots.len() as u64;
                if let Some(kind) = Kind::of_award(&award) {
                    self.stats.happened(kind);
                }
                let then = Then::Award(to, award.call);
                self.court_asks(at, Request::Award(award), ANSWER_WAIT, then);
            }
            Effect::Cancel {
                to,
                authority,
                call,
            } => {
                let request = Request::Cancel(authority, call);
                self.court_asks(at, request, ANSWER_WAIT, Then::Cancel(to));
            }
            Effect::Stop { to, order } => {
                if let Some(kind) = Kind::of_stop(&order) {
                    self.stats.happened(kind);
                }
                let then = Then::Stop(to, order.slot.clone());
                self.court_asks(at, Request::Stop(*order), ANSWER_WAIT, then);
            }
            Effect::Probe { via, about } => {
                let then = Then::Probe(via, about);
                self.court_asks(at, Request::Probe(about), PROBE_WAIT, then);
            }
            Effect::Propose { command } => {
                let command = self.bend_record(*command);
                let command = self.bend_proposal(at, command);
                self.propose(at, command, Proposer::Scheduler);
            }
            Effect::Publish { service } => self.publish(at, service),
            Effect::Note { note } => {
                self.stats.note(&note);
                let index = &self.index;
                self.trace.line(now, || match &note {
                    Note::Placed {
                        slot,
                        node,
                        generation,
                    } => format!("h{at} places {slot} on h{} as {generation}", index[node]),
                    Note::Session { node, state } => {
                        format!("h{at} sees h{} as {state:?}", index[node])
                    }
                    Note::AwardRefused { slot, node } => {
                        format!("h{at} notes that h{} refused {slot}", index[node])
                    }
                    Note::Double { slot, node } => {
                        format!("h{at} notes a double of {slot} on h{}", index[node])
                    }
                    Note::Unplaced { job, slots } => {
                        format!("h{at} notes that nobody takes {slots} slots of {job}")
                    }
                    Note::BrakeOn { suspects } => {
                        format!("h{at} notes BrakeOn: {suspects} are silent at once")
                    }
                    Note::BrakeReleased { node } => {
                        format!("h{at} notes BrakeReleased: h{} is given up", index[node])
                    }
                    note => format!("h{at} notes {note:?}"),
                });
            }
        }
    }
}
