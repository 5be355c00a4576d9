//! A model of the control group: one log, a copy of the state on each voter,
//! leaders that may not know yet that they lead no longer.
//!
//! ```text
//! follower --silence, most voters grant--> leading --hears a later term--> follower
//! ```
//!
//! Answers for what Raft gives its users: an entry is committed once most
//! voters have it and never lost, terms rise, a leader without most voters
//! commits nothing, and a proposal whose leader fell may yet be committed by
//! the next one. Raft itself is tested where it is implemented.

mod recover;

use super::{
    check::Seen,
    kinds::Kind,
    queue::MS,
    world::{Due, World},
};
use potluck_core::cluster::{Cluster, Command, FEATURE_LEVEL, Reply};
use potluck_specs::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Between two heartbeats of a leader.
pub const ROUND: u64 = 50 * MS;

/// How long a voter that has heard a leader grants nobody else.
const LEASE: u64 = 500 * MS;

/// A voter's copy.
#[derive(Debug, Default)]
pub struct Replica {
    /// Entries that it has.
    pub has: usize,
    applied: usize,
    /// The state as far as it was applied.
    pub cluster: Cluster,
    term: u64,
    heard_at: u64,
    timeout: u64,
    /// Entries of a leader that could not commit them.
    tail: Vec<(u64, Command)>,
}

/// Who waits for a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposer {
    /// A leader that begins.
    Reign,
    /// A scheduler; it does not wait.
    Scheduler,
    /// A person's change.
    Client(usize),
}

/// A proposal under way.
#[derive(Clone, Debug)]
pub struct Proposal {
    number: u64,
    /// The leader that makes it.
    pub at: usize,
    term: u64,
    command: Command,
    who: Proposer,
}

/// The group.
#[derive(Debug, Default)]
pub struct Control {
    /// The voters' copies, by host.
    pub replicas: BTreeMap<usize, Replica>,
    /// All that is committed.
    log: Vec<Command>,
    /// The state that all of it gives.
    pub truth: Cluster,
    term: u64,
    /// Who believes that they lead, with their terms.
    leading: BTreeMap<usize, u64>,
    /// When the round was sent that most voters acknowledged last.
    pub acknowledged: BTreeMap<usize, u64>,
    proposals: u64,
    committed: BTreeSet<u64>,
    /// Elections held.
    pub elections: u64,
}

impl Control {
    /// A group that has these entries already.
    pub fn new(voters: &[usize], log: Vec<Command>) -> Control {
        let mut control = Control::default();
        for command in log {
            control.append(command);
        }
        for voter in voters {
            let replica = Replica {
                has: control.log.len(),
                applied: control.log.len(),
                cluster: control.truth.clone(),
                timeout: LEASE,
                ..Replica::default()
            };
            control.replicas.insert(*voter, replica);
        }
        control
    }

    fn append(&mut self, command: Command) -> Reply {
        let newcomer = newcomer(&command);
        let reply = self.put(command);
        if let Some(node) = newcomer.filter(|node| self.truth.members().contains_key(node)) {
            self.put(introduction(node));
        }
        reply
    }

    fn put(&mut self, command: Command) -> Reply {
        let reply = self.truth.apply(self.log.len() as u64 + 1, &command);
        self.log.push(command);
        reply
    }

    fn is_most(&self, voters: usize) -> bool {
        voters > self.replicas.len() / 2
    }

    /// The leader of the latest term.
    pub fn leader(&self) -> Option<usize> {
        let latest = self.leading.iter().max_by_key(|(_, term)| **term);
        latest.map(|(host, _)| *host)
    }

    /// Its process ended: it leads no more.
    pub fn died(&mut self, host: usize) {
        self.leading.remove(&host);
        self.acknowledged.remove(&host);
    }
}

fn newcomer(command: &Command) -> Option<NodeId> {
    match command {
        Command::Genesis { genesis } => Some(genesis.first.node),
        Command::RedeemToken { admission, .. } | Command::RecoverMember { admission, .. } => {
            Some(admission.node)
        }
        _ => None,
    }
}

/// A host tells its version as soon as it is in, again and again until the log
/// has it: here it is in the log at once.
fn introduction(node: NodeId) -> Command {
    Command::RecordMember {
        node,
        addresses: None,
        capacity: None,
        raft_id: None,
        feature_level: Some(FEATURE_LEVEL),
    }
}

impl Replica {
    fn apply(&mut self, log: &[Command]) {
        while self.applied < self.has {
            self.cluster
                .apply(self.applied as u64 + 1, &log[self.applied]);
            self.applied += 1;
        }
    }
}

impl World {
    /// One round of heartbeats and, where they are missed, elections.
    pub(super) fn control_round(&mut self) {
        let now = self.queue.now();
        let leaders: Vec<(usize, u64)> = self.control.leading.clone().into_iter().collect();
        for (leader, term) in leaders {
            self.lead(leader, term, now);
        }
        self.elect(now);
        self.recall();
        self.queue.after(ROUND, Due::Control);
    }

    fn is_alive(&self, host: usize) -> bool {
        self.machines[host].is_alive(self.queue.now())
    }

    /// Voters that this one reaches, there and back, itself included.
    fn connected_voters(&self, host: usize) -> Vec<usize> {
        let voters = self.control.replicas.keys().copied();
        voters
            .filter(|voter| self.is_alive(*voter) && self.net.connects(host, *voter))
            .collect()
    }

    fn lead(&mut self, leader: usize, term: u64, now: u64) {
        if !self.is_alive(leader) {
            return;
        }
        let connected = self.connected_voters(leader);
        let later = connected
            .iter()
            .any(|voter| self.control.replicas[voter].term > term);
        if later {
            self.trace.line(now, || format!("h{leader} leads no more"));
            self.control.died(leader);
            self.end_court(leader);
            return;
        }
        let voters: Vec<usize> = self.control.replicas.keys().copied().collect();
        for voter in voters {
            if self.is_alive(voter) && self.net.passes(leader, voter) {
                let replica = self.replica(voter);
                if replica.term <= term {
                    replica.term = term;
                    replica.heard_at = now;
                    self.machines[voter].session.leader = Some(leader);
                }
            }
        }
        if !self.control.is_most(connected.len()) {
            return;
        }
        let sent = now - self.rng.below(20) * MS;
        self.control.acknowledged.insert(leader, sent);
        if term == self.control.term {
            self.catch_up(&connected);
        }
    }

    fn catch_up(&mut self, voters: &[usize]) {
        for voter in voters {
            let control = &mut self.control;
            if let Some(replica) = control.replicas.get_mut(voter) {
                replica.has = control.log.len();
                replica.apply(&control.log);
                replica.tail.clear();
            }
        }
    }

    fn replica(&mut self, voter: usize) -> &mut Replica {
        self.control
            .replicas
            .get_mut(&voter)
            .expect("a voter has a copy")
    }

    fn elect(&mut self, now: u64) {
        let waiting = |replica: &Replica, wait: u64| now >= replica.heard_at + wait;
        let candidate = self.control.replicas.iter().find(|(host, replica)| {
            self.is_alive(**host)
                && !self.control.leading.contains_key(host)
                && waiting(replica, replica.timeout)
                && replica.has == self.control.log.len()
        });
        let Some(candidate) = candidate.map(|(host, _)| *host) else {
            return;
        };
        let granters: Vec<usize> = self
            .connected_voters(candidate)
            .into_iter()
            .filter(|voter| waiting(&self.control.replicas[voter], LEASE))
            .collect();
        let timeout = LEASE + self.rng.below(200) * MS;
        self.replica(candidate).timeout = timeout;
        if !self.control.is_most(granters.len()) {
            return;
        }
        self.control.term += 1;
        self.control.elections += 1;
        let term = self.control.term;
        self.trace
            .line(now, || format!("h{candidate} leads, term {term}"));
        for voter in &granters {
            let replica = self.replica(*voter);
            replica.term = term;
            replica.heard_at = now;
        }
        self.control.leading.insert(candidate, term);
        for (number, command) in std::mem::take(&mut self.replica(candidate).tail) {
            if self.control.committed.insert(number) {
                self.control.append(command);
            }
        }
        self.catch_up(&granters);
        let leader = self.machines[candidate].node;
        self.propose(candidate, Command::Reign { leader }, Proposer::Reign);
    }

    /// Proposes at a host that believes it leads; false if it does not.
    pub(super) fn propose(&mut self, at: usize, command: Command, who: Proposer) -> bool {
        let Some(term) = self.control.leading.get(&at).copied() else {
            return false;
        };
        self.control.proposals += 1;
        let proposal = Proposal {
            number: self.control.proposals,
            at,
            term,
            command,
            who,
        };
        let wait = self.rng.between(1, 20) * MS;
        self.queue.after(wait, Due::Commit(Box::new(proposal)));
        true
    }

    /// Most voters have it by now, or it is tried again.
    pub(super) fn commit(&mut self, proposal: Proposal) {
        let at = proposal.at;
        if self.control.leading.get(&at) != Some(&proposal.term) {
            return;
        }
        let connected = self.connected_voters(at);
        let commits = proposal.term == self.control.term && self.control.is_most(connected.len());
        if !commits {
            self.leave_behind(&proposal);
            self.queue.after(ROUND, Due::Commit(Box::new(proposal)));
            return;
        }
        if !self.control.committed.insert(proposal.number) {
            return;
        }
        if let Command::RecordPlacements { filled, .. } = &proposal.command {
            self.see(&Seen::Recorded { filled });
        }
        if let Some(kind) = Kind::of_command(&self.control.truth, &proposal.command) {
            self.stats.happened(kind);
        }
        let stood = Kind::of_rollout(&self.control.truth, &proposal.command);
        let reply = self.control.append(proposal.command.clone());
        let stands = Kind::of_rollout(&self.control.truth, &proposal.command);
        if let Some(kind) = stands.filter(|_| stands != stood) {
            self.stats.happened(kind);
        }
        let index = self.control.log.len() as u64;
        self.catch_up(&connected);
        match proposal.who {
            Proposer::Reign => self.begin_court(at, index),
            Proposer::Scheduler => {}
            Proposer::Client(client) => self.answer_client(client, &reply),
        }
        self.court_sees_log(at);
    }

    /// Some voter may have the entry without its leader ever knowing.
    fn leave_behind(&mut self, proposal: &Proposal) {
        let voters: Vec<usize> = self.control.replicas.keys().copied().collect();
        for voter in voters {
            if voter != proposal.at
                && self.is_alive(voter)
                && self.net.passes(proposal.at, voter)
                && proposal.term == self.control.term
            {
                let entry = (proposal.number, proposal.command.clone());
                let replica = self.replica(voter);
                if !replica.tail.contains(&entry) {
                    replica.tail.push(entry);
                }
            }
        }
    }
}
