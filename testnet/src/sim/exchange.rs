//! Requests between nodes, with their answers, their waits and their losses.
//!
//! Answers for what comes back of what was asked, as the event that production
//! would make of it.

use super::{
    check::{Holding, Seen},
    network::DELAY_MAX,
    queue::MS,
    trace,
    world::{Due, World},
};
use potluck_core::{
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, Refusal, StopOrder},
    host::{Answer, Event as HostEvent},
    scheduler::Event,
    session::{Heartbeat, HeartbeatAnswer},
};
use potluck_specs::{Millis, NodeId, SlotId};
use std::sync::Arc;

/// How long a probe waits for the probed.
const PROBE_PATIENCE: u64 = 800 * MS;

/// How long a member waits for the answer to what it carries.
const RELAY_WAIT: u64 = 1_200 * MS;

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
    /// To be carried to this host; of one hop.
    Relay(usize, Box<Request>),
    /// Carried for this host.
    Relayed(usize, Box<Request>),
}

impl Request {
    /// Whose word it is.
    pub(super) fn authority(&self) -> Option<Authority> {
        match self {
            Request::Greet(authority) | Request::Cancel(authority, _) => Some(*authority),
            Request::Call(call) => Some(call.authority),
            Request::Award(award) => Some(award.authority),
            Request::Stop(order) => Some(order.authority),
            Request::Relay(_, carried) | Request::Relayed(_, carried) => carried.authority(),
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
pub(super) enum Response {
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
pub(super) enum Then {
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
    Beat,
    /// Another's request of this number, carried for that host.
    Relay(u64, usize),
}

/// A request whose answer is waited for.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) from: usize,
    life: u64,
    reign: u64,
    to: usize,
    then: Then,
}

impl World {
    pub(super) fn court_asks(&mut self, at: usize, request: Request, wait: u64, then: Then) {
        let to = match &then {
            Then::Greet(node)
            | Then::Call(node, _)
            | Then::Award(node, _)
            | Then::Cancel(node)
            | Then::Stop(node, _)
            | Then::Probe(node, _) => self.index.get(node).copied(),
            Then::Beat | Then::Relay(..) => None,
        };
        let Some(to) = to else { return };
        let now = Millis(self.queue.now() / MS);
        let court = self.courts.get(&at);
        let reign = court.map_or(0, |court| court.reign);
        let via = court.and_then(|court| court.vias.of(self.machines[to].node, now));
        let by = via.and_then(|via| self.index.get(&via).copied());
        self.ask_by(at, reign, to, by, request, wait, then);
    }

    pub(super) fn ask(
        &mut self,
        from: usize,
        reign: u64,
        to: usize,
        request: Request,
        wait: u64,
        then: Then,
    ) {
        self.ask_by(from, reign, to, None, request, wait, then);
    }

    /// Asks, through a member that carries it if one is named.
    #[expect(clippy::too_many_arguments, reason = "all of one message")]
    pub(super) fn ask_by(
        &mut self,
        from: usize,
        reign: u64,
        to: usize,
        by: Option<usize>,
        request: Request,
        wait: u64,
        then: Then,
    ) {
        let open = Open {
            from,
            life: self.machines[from].life,
            reign,
            to,
            then,
        };
        let id = self.requests.open(open);
        self.queue.expire_after(wait, id);
        let (to, request) = match by {
            Some(by) => (by, Request::Relay(to, Box::new(request))),
            None => (to, request),
        };
        let life = self.machines[to].life;
        let twice = !self.healed && request.may_repeat() && self.rng.chance(self.options.twice);
        for copy in 0..if twice { 2 } else { 1 } {
            if let Some(delay) = self.net.carry(from, to) {
                // The second may come when the first is long answered.
                let late = if copy > 0 {
                    self.rng.below(DELAY_MAX)
                } else {
                    0
                };
                let delay = delay.max(late);
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

    pub(super) fn serve(&mut self, id: u64, from: usize, to: usize, life: u64, request: Request) {
        // A connection ends with the process behind it.
        if self.machines[to].life != life || self.machines[to].host.is_none() {
            return;
        }
        if let Request::Relay(beyond, carried) = request {
            let carried = Request::Relayed(from, carried);
            let then = Then::Relay(id, from);
            return self.ask(to, 0, beyond, carried, RELAY_WAIT, then);
        }
        if self.is_hung(to) && request.authority().is_some() {
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

    pub(super) fn respond(&mut self, from: usize, to: usize, request: Request) -> Option<Response> {
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
                self.see(&Seen::Heard { to, from });
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
            Request::Relayed(origin, carried) => {
                if let Request::Heartbeat(..) = *carried
                    && let Some(court) = self.courts.get_mut(&to)
                {
                    let (origin, by) = (self.machines[origin].node, self.machines[from].node);
                    court.vias.heard(origin, by, Millis(self.queue.now() / MS));
                }
                self.respond(origin, to, *carried)
            }
            request => self.agent_answers(from, to, request),
        }
    }

    pub(super) fn agent_answers(
        &mut self,
        from: usize,
        to: usize,
        request: Request,
    ) -> Option<Response> {
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
            Request::Probe(_)
            | Request::Heartbeat(..)
            | Request::Relay(..)
            | Request::Relayed(..) => return None,
        };
        let event = self.bend_event(to, event);
        if self.swallows(&event) {
            return Some(Response::Done);
        }
        let answer = self.step_host(to, event)?;
        let answer = self.bend_answer(to, &request, answer);
        let heard = !is_fenced(&answer);
        let obeyed = is_obeyed(&answer);
        self.stats.fenced += u64::from(!heard);
        self.trace_answer(from, to, &request, &answer);
        self.see(&Seen::Answered {
            at: to,
            request: &request,
            answer: &answer,
            authority,
            heard,
            obeyed,
        });
        Some(match answer {
            Answer::Greet(Ok(mut heartbeat)) => {
                self.bend_report(&mut heartbeat, true);
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

    pub(super) fn trace_answer(
        &mut self,
        from: usize,
        to: usize,
        request: &Request,
        answer: &Answer,
    ) {
        let now = self.queue.now();
        self.trace.line(now, || match (request, answer) {
            (Request::Award(award), Answer::Award(answer)) => {
                let slots = answer.slots.iter().zip(&award.slots);
                let slots: Vec<String> = slots
                    .map(|((slot, answer), (_, generation))| match answer {
                        Ok(()) => format!("{slot} {generation} ok"),
                        Err(refusal) => format!("{slot} {generation} {}", trace::no(refusal)),
                    })
                    .collect();
                format!("h{to} <- h{from} award: {}", slots.join(", "))
            }
            (Request::Stop(order), Answer::Stop(answer)) => format!(
                "h{to} <- h{from} stop {} {} ({:?}): {}",
                order.slot,
                order.generation,
                order.reason,
                yes(answer)
            ),
            (Request::Greet(authority), Answer::Greet(answer)) => {
                let reign = authority.reign.0;
                match answer {
                    Ok(said) => {
                        let slots = said.inventory.slots.len();
                        format!("h{to} <- h{from} greet of reign {reign}: has {slots} slots")
                    }
                    Err(refusal) => {
                        format!("h{to} <- h{from} greet of {reign}: {}", trace::no(refusal))
                    }
                }
            }
            (Request::Call(call), Answer::Call(answer)) => format!(
                "h{to} <- h{from} call {} for {}: {}",
                call.call,
                call.job,
                trace::bid(answer)
            ),
            (Request::Cancel(_, call), Answer::Cancel(answer)) => {
                format!("h{to} <- h{from} cancel {call}: {}", yes(answer))
            }
            (_, answer) => format!("h{to} <- h{from} {answer:?}"),
        });
    }

    pub(super) fn settle(&mut self, id: u64, response: Option<Response>) {
        let Some(open) = self.requests.close(id) else {
            return;
        };
        if self.machines[open.from].life != open.life {
            return;
        }
        if let Then::Beat = open.then {
            return self.beat_settled(open.from, open.to, response);
        }
        if let Then::Relay(id, origin) = open.then {
            if let Some(response) = response
                && let Some(delay) = self.net.carry(open.from, origin)
            {
                self.queue.after(delay, Due::Answer { id, response });
            }
            return;
        }
        let reigns = self.courts.get(&open.from).map(|court| court.reign);
        if reigns != Some(open.reign) {
            return;
        }
        let told = match &response {
            Some(Response::Inventory(_, holding)) => Some((open.to, holding.clone())),
            _ => None,
        };
        let to = open.from;
        match (&open.then, &response) {
            (Then::Greet(_), Some(Response::Inventory(..))) => {
                let from = open.to;
                self.see(&Seen::Heard { to, from });
            }
            (Then::Probe(_, about), Some(Response::Probe(reaches))) => {
                let (about, reaches) = (self.index[about], *reaches);
                self.see(&Seen::Probed { to, about, reaches });
            }
            _ => {}
        }
        let event = event_of(open.then, response);
        self.step_court(open.from, event);
        if let Some((from, holding)) = told {
            self.see(&Seen::Told {
                to,
                from,
                holding: &holding,
            });
        }
    }
}

fn yes(answer: &Result<(), Refusal>) -> String {
    match answer {
        Ok(()) => "ok".into(),
        Err(refusal) => trace::no(refusal),
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
        (Then::Cancel(_) | Then::Beat | Then::Relay(..), _) => Event::Tick,
    }
}
