//! Heartbeats to whoever leads, as `node::runtime::session` sends them.

use super::{
    Sabotage,
    agent::HostDue,
    exchange::{Request, Response, Then},
    queue::{MS, SECOND},
    world::{Due, World},
};
use potluck_core::{
    host::{Answer, Event as HostEvent},
    relay::{Path, Way},
};
use potluck_specs::Millis;

const HEARTBEAT: u64 = SECOND;
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
        if self.is_hung(at) {
            return self.plan_beat(at, now + HEARTBEAT);
        }
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
        let (way, wait) = self.way(at, to);
        let by = match way {
            Way::Through(by) => self.index.get(&by).copied(),
            Way::Straight => None,
        };
        self.machines[at].session.way = Some(way);
        self.ask_by(at, 0, to, by, request, wait.0 * MS, Then::Beat);
    }

    /// Which way a heartbeat goes, and how long it may take.
    fn way(&self, at: usize, to: usize) -> (Way, Millis) {
        if self.is_sabotaged(Sabotage::NobodyCarries) {
            return Path::default().next(self.machines[to].node, Millis(0));
        }
        let now = Millis(self.queue.now() / MS);
        let (leader, path) = (self.machines[to].node, &self.machines[at].session.path);
        path.next(leader, now)
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
        let way = session.way.take().unwrap_or(Way::Straight);
        self.follow_path(at, asked, way, response.as_ref());
        let session = &mut self.machines[at].session;
        match response {
            Some(Response::Heartbeat(answer)) => {
                session.leader = Some(asked);
                let changed = std::mem::take(&mut session.changed);
                let pause = if changed { HEARTBEAT_MIN } else { HEARTBEAT };
                self.plan_beat(at, sent_at + pause);
                let answer = self.bend_answer_to_beat(at, answer);
                let event = self.bend_event(at, HostEvent::HeartbeatAnswered(answer));
                self.step_host(at, event);
            }
            other => {
                let carried_to = session.path.carried_to();
                session.leader = match other {
                    Some(Response::NotLeader(Some(hint))) if hint != asked => Some(hint),
                    // The straight way was tried in vain, the other is there.
                    None => carried_to.and_then(|leader| self.index.get(&leader).copied()),
                    _ => None,
                };
                self.plan_beat(at, sent_at + LEADERLESS_PAUSE);
            }
        }
    }

    /// What a heartbeat's outcome says of the way to the leader.
    fn follow_path(&mut self, at: usize, asked: usize, way: Way, response: Option<&Response>) {
        let now = Millis(self.queue.now() / MS);
        let node = |host: usize| self.machines[host].node;
        let asked = node(asked);
        let named = match response {
            Some(Response::NotLeader(Some(hint))) => Some(node(*hint)),
            _ => None,
        };
        let path = &mut self.machines[at].session.path;
        match (response, named) {
            (Some(Response::Heartbeat(_)), _) => path.answered(way),
            (None, _) => path.unanswered(asked, way, now),
            (_, Some(leader)) if way == Way::Straight => {
                path.named(asked, leader, now);
            }
            _ => path.forget(),
        }
    }
}
