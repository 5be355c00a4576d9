//! Who is up, out, unreachable, dead.
//!
//! Answers for turning silence into a verdict: a session is out after 4 s;
//! dead needs gossip standing still and probes failing as well; and a
//! scheduler that was itself late accuses nobody. Leaves to `brake` whether
//! the verdict may have consequences.

use super::{Effect, Note, Scheduler, SessionState, picture::Host, rank::mix};
use potluck_specs::{Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Silence after which a host is missed: gets no new work, is probed, counts
/// for the brake. Two heartbeats and some; so that all hosts of a rack that
/// failed together, whose heartbeats lie up to a second apart, are missed
/// before the first of them is declared dead.
pub(crate) const MISSED_AFTER: Millis = Millis(2_500);

/// Silence after which a session is out: three heartbeats lost and a slow one.
const OUT_AFTER: Millis = Millis(4_000);

/// Silence after which a host that others reach is given up.
const UNREACHABLE_AFTER: Millis = Millis(30_000);

/// Gossip's counter moves each second and spreads in two; standing still for
/// this long it moves no more.
const GOSSIP_STILL: Millis = Millis(3_000);

/// How many members are asked whether they reach a host.
const PROBERS: usize = 3;

/// Between two rounds of probes about one host.
const PROBE_EVERY: Millis = Millis(1_000);

/// How long a round waits for its slowest answer before it counts without it.
const PROBE_PATIENCE: Millis = Millis(1_500);

/// How long the outcome of a round is believed.
const PROBE_HOLDS: Millis = Millis(4_000);

/// A scheduler that was late by this may have missed heartbeats that came.
const LAG_MAX: Millis = Millis(1_000);

/// For how long it then accuses nobody: every live host is heard by then.
const LAG_GRACE: Millis = Millis(5_000);

/// How often a host is greeted that was never heard, that is silent, and that
/// is dead.
const GREET_UNKNOWN_EVERY: Millis = Millis(1_000);
const GREET_SILENT_EVERY: Millis = Millis(2_000);
const GREET_DEAD_EVERY: Millis = Millis(5_000);

/// Rounds of probes about one host.
#[derive(Debug, Default)]
pub(super) struct Probes {
    round: u64,
    sent_at: Option<Millis>,
    asked: BTreeSet<NodeId>,
    answers: BTreeMap<NodeId, bool>,
    outcome: Option<(Millis, bool)>,
}

impl Probes {
    fn begin(&mut self, asked: BTreeSet<NodeId>, now: Millis) {
        self.round += 1;
        self.sent_at = Some(now);
        self.asked = asked;
        self.answers.clear();
    }

    fn answer(&mut self, by: NodeId, reachable: bool) {
        if self.asked.contains(&by) {
            self.answers.insert(by, reachable);
        }
    }

    fn lost(&mut self, by: NodeId) {
        self.asked.remove(&by);
    }

    /// One member that reaches the host outweighs all that do not.
    fn settle(&mut self, now: Millis) {
        let Some(sent_at) = self.sent_at else { return };
        let waited = now.since(sent_at) >= PROBE_PATIENCE;
        if self.answers.values().any(|reachable| *reachable) {
            self.outcome = Some((now, true));
        } else if !self.answers.is_empty() && (waited || self.answers.len() == self.asked.len()) {
            self.outcome = Some((now, false));
        } else if !waited && !self.asked.is_empty() {
            return;
        }
        self.asked.clear();
        self.answers.clear();
    }

    fn is_due(&self, now: Millis) -> bool {
        self.asked.is_empty() && self.sent_at.is_none_or(|at| now.since(at) >= PROBE_EVERY)
    }

    fn outcome(&self, now: Millis) -> Option<bool> {
        self.outcome
            .filter(|(at, _)| now.since(*at) <= PROBE_HOLDS)
            .map(|(_, reachable)| reachable)
    }
}

impl Scheduler {
    /// The scheduler was late by itself.
    pub(super) fn lagged(&mut self, lag: Millis, now: Millis) {
        if lag > LAG_MAX {
            self.accuse_from = now + LAG_GRACE;
        }
    }

    pub(super) fn probed(
        &mut self,
        by: NodeId,
        about: NodeId,
        reachable: Option<bool>,
        now: Millis,
    ) {
        if let Some(host) = self.picture.hosts.get_mut(&about) {
            match reachable {
                Some(reachable) => host.probes.answer(by, reachable),
                None => host.probes.lost(by),
            }
            host.probes.settle(now);
        }
    }

    /// A host was heard: whatever was thought of it is over.
    pub(super) fn heard(&mut self, node: NodeId, now: Millis) {
        let Some(host) = self.picture.hosts.get_mut(&node) else {
            return;
        };
        host.suspected_at = None;
        host.probes = Probes::default();
        if host.state == SessionState::Up {
            return;
        }
        let was = std::mem::replace(&mut host.state, SessionState::Up);
        let lost = std::mem::replace(&mut host.lost, false);
        self.note_coming(node, was, lost, now);
        self.stops_due = true;
        self.came_back(node, was, now);
        self.rebalance.busy(now);
        self.note_session(node, SessionState::Up);
        self.dirty_host(node);
        self.capacity_grew = true;
    }

    /// Looks at the silence of every host that may be silent. Due with each
    /// tick.
    pub(super) fn watch(&mut self, now: Millis) {
        self.notable.follow(&self.picture, self.began, now);
        self.greet(now);
        if now < self.accuse_from {
            return;
        }
        let (hosts, began) = (&self.picture.hosts, self.began);
        let notable = self.notable.nodes.iter().copied();
        let silent = notable.filter(|node| is_missed(&hosts[node], began, now));
        let silent: Vec<NodeId> = silent.collect();
        for node in silent {
            self.watch_host(node, now);
        }
        self.release(now);
    }

    fn watch_host(&mut self, node: NodeId, now: Millis) {
        let began = self.began;
        let is_me = node == self.me;
        let Some(host) = self.picture.hosts.get_mut(&node) else {
            return;
        };
        let silence = host.silence(began, now);
        if !is_missed(host, began, now) {
            return;
        }
        host.suspected_at.get_or_insert(now);
        if host.state == SessionState::Dead {
            return;
        }
        host.probes.settle(now);
        if host.probes.is_due(now) {
            self.probe(node, now);
        }
        let next = self.judge(node, silence, is_me, now);
        let Some(host) = self.picture.hosts.get_mut(&node) else {
            return;
        };
        if next != host.state {
            host.state = next;
            self.rebalance.busy(now);
            self.note_session(node, next);
            self.dirty_host(node);
        }
    }

    fn judge(&self, node: NodeId, silence: Millis, is_me: bool, now: Millis) -> SessionState {
        let host = &self.picture.hosts[&node];
        if silence < OUT_AFTER {
            return host.state;
        }
        let moved_at = host.gossip_moved_at.unwrap_or(self.began);
        let gossip_moves = now.since(moved_at) < GOSSIP_STILL;
        let outcome = host.probes.outcome(now);
        let no_probe_reaches = match outcome {
            Some(reaches) => !reaches,
            None => self.able_probers(node, now).next().is_none(),
        };
        if !gossip_moves && no_probe_reaches && !is_me {
            return SessionState::Dead;
        }
        // Gossip that moves shows a living host as well as a probe does.
        let lives = gossip_moves || outcome == Some(true);
        match host.state {
            SessionState::Unreachable => SessionState::Unreachable,
            _ if silence >= UNREACHABLE_AFTER && lives && !is_me => SessionState::Unreachable,
            _ => SessionState::Out,
        }
    }

    fn probe(&mut self, about: NodeId, now: Millis) {
        let asked = self.probers(about, now);
        if asked.is_empty() {
            return;
        }
        for via in &asked {
            self.out.push(Effect::Probe { via: *via, about });
        }
        if let Some(host) = self.picture.hosts.get_mut(&about) {
            host.probes.begin(asked, now);
        }
    }

    /// Members just heard, other racks first; others each round.
    fn probers(&self, about: NodeId, now: Millis) -> BTreeSet<NodeId> {
        let Some(host) = self.picture.hosts.get(&about) else {
            return BTreeSet::new();
        };
        let round = host.probes.round;
        // The first of them all, without sorting them all: hundreds may be
        // silent at once, and each of them is asked about.
        let mut first: Vec<(bool, u64, NodeId)> = Vec::with_capacity(PROBERS + 1);
        for (node, other) in self.able_probers(about, now) {
            let able = (other.rack == host.rack, mix(round, node), node);
            if first.len() == PROBERS && first[PROBERS - 1] < able {
                continue;
            }
            first.insert(first.partition_point(|one| *one < able), able);
            first.truncate(PROBERS);
        }
        first.into_iter().map(|(_, _, node)| node).collect()
    }

    fn able_probers(&self, about: NodeId, now: Millis) -> impl Iterator<Item = (NodeId, &Host)> {
        let others = self.picture.hosts.iter().map(|(node, host)| (*node, host));
        others
            .filter(move |(node, _)| *node != about && *node != self.me)
            .filter(move |(_, other)| is_fresh(other, self.began, now))
    }

    /// Lets go of the hosts that the brake lets go.
    fn release(&mut self, now: Millis) {
        let suspects = self.notable.suspects(&self.picture);
        if suspects.is_empty() && !self.brake.is_on() {
            return;
        }
        let was_on = self.brake.is_on();
        let verdict = self.brake.judge(&suspects, &self.notable.racks, now);
        if let Some(suspects) = verdict.came_on {
            self.note(Note::BrakeOn { suspects });
        }
        for node in verdict.release {
            self.lose(node);
            if was_on {
                self.note(Note::BrakeReleased { node });
            }
        }
        if verdict.went_off {
            self.note(Note::BrakeOff);
        }
    }

    /// A host's slots are free from here on.
    fn lose(&mut self, node: NodeId) {
        if let Some(host) = self.picture.hosts.get_mut(&node) {
            host.lost = true;
        }
        self.dirty_host(node);
        self.drop_awards_of(node);
        self.touch_recorded(node);
    }

    fn greet(&mut self, now: Millis) {
        let authority = self.authority;
        let began = self.began;
        for node in &self.notable.nodes {
            let Some(host) = self.picture.hosts.get_mut(node) else {
                continue;
            };
            let every = match host.state {
                SessionState::Up if is_fresh(host, began, now) && host.complete => continue,
                SessionState::Unknown | SessionState::Up => GREET_UNKNOWN_EVERY,
                SessionState::Out | SessionState::Unreachable => GREET_SILENT_EVERY,
                SessionState::Dead => GREET_DEAD_EVERY,
            };
            if host.greeted_at.is_none_or(|at| now.since(at) >= every) {
                host.greeted_at = Some(now);
                self.out.push(Effect::Greet {
                    node: *node,
                    authority,
                });
            }
        }
    }

    fn note_session(&mut self, node: NodeId, state: SessionState) {
        self.note(Note::Session { node, state });
    }
}

/// Silent for so long that it is missed.
pub(super) fn is_missed(host: &Host, began: Millis, now: Millis) -> bool {
    host.expected && host.silence(began, now) >= MISSED_AFTER
}

/// Up, and heard just now.
pub(super) fn is_fresh(host: &Host, began: Millis, now: Millis) -> bool {
    host.state == SessionState::Up && host.silence(began, now) < MISSED_AFTER
}
