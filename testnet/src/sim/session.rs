//! Heartbeats to whoever leads, as `node::runtime::session` sends them.

use super::{
    agent::HostDue,
    exchange::{Request, Response, Then},
    queue::{MS, SECOND},
    world::{Due, World},
};
use potluck_core::host::{Answer, Event as HostEvent};

const HEARTBEAT: u64 = SECOND;
const WAIT: u64 = 1_500 * MS;
const LEADERLESS_PAUSE: u64 = 100 * MS;

/// Least time between two: a burst of changes travels as one.
pub(super) const HEARTBEAT_MIN: u64 = 2 * MS;

impl World {
    pub(super) fn plan_beat(&mut self, at: usize, time: u64) {
        let session = &mut self.machines[at].session;
        session.planned += 1;
        let due = HostDue::Beat(session.planned);
        let life = self.machines[at].life;
        self.queue.at(time, Due::Host { at, life, due });
    }

    pub(super) fn beat(&mut self, at: usize) {
        let now = self.queue.now();
        let Some(to) = self.machines[at]
            .session
            .leader
            .or_else(|| self.anybody(at))
        else {
            return self.plan_beat(at, now + LEADERLESS_PAUSE);
        };
        let Some(Answer::Heartbeat(mut heartbeat)) = self.step_host(at, HostEvent::Heartbeat)
        else {
            return;
        };
        self.bend_report(&mut heartbeat, false);
        let session = &mut self.machines[at].session;
        session.waits = true;
        session.sent_at = now;
        let holding = self.holding(at);
        let request = Request::Heartbeat(heartbeat, holding);
        self.ask(at, 0, to, request, WAIT, Then::Beat);
    }

    pub(super) fn anybody(&mut self, at: usize) -> Option<usize> {
        let others = self.machines.len() as u64 - 1;
        let pick = self.rng.below(others) as usize;
        (others > 0).then_some(if pick >= at { pick + 1 } else { pick })
    }

    pub(super) fn beat_settled(&mut self, at: usize, asked: usize, response: Option<Response>) {
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
}
