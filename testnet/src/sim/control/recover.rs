//! Most voters are lost for good, and a survivor goes on from a log that lags
//! behind: as `potluck cluster recover` and `node::runtime::recall` do it.
//!
//! Answers for the new epoch on a log that is cut short, and for the leader's
//! asking hosts for what it lacks. What the others learn of the order itself
//! is modelled as known at once: they hear it by the first words of the new
//! scheduler, whose authority outranks all before.

use super::{Control, Proposer, Replica, World};
use potluck_core::cluster::{Cluster, Command, Recovery};
use potluck_specs::{Epoch, JobName, Millis, NodeId};
use std::collections::BTreeMap;

impl World {
    /// Host `survivor` goes on alone, from a log that ends just before this
    /// job was accepted first; nobody else has a copy any more.
    pub(in crate::sim) fn recover(&mut self, survivor: usize, without: &str) {
        let courts: Vec<usize> = self.courts.keys().copied().collect();
        for at in courts {
            self.end_court(at);
        }
        let node = self.machines[survivor].node;
        let name = JobName::in_default(without);
        self.control.go_on_from(survivor, node, &name);
        // What the log lacks was accepted, and is promised no more: what runs
        // somewhere has to come back all the same.
        let jobs = self.control.truth.jobs();
        for client in &mut self.clients {
            let is_there = |(name, version): &(JobName, u64)| {
                let current = jobs.get(name).map(|record| record.current().version);
                current.is_some_and(|current| current >= *version)
            };
            client.accepted = client.accepted.take().filter(is_there);
        }
    }

    /// A leader of a recovered log asks for what it lacks.
    pub(super) fn recall(&mut self) {
        if self.control.truth.recovery().is_none() {
            return;
        }
        let courts: Vec<usize> = self.courts.keys().copied().collect();
        for at in courts {
            let court = &self.courts[&at].scheduler;
            let unknown = court.unknown_jobs(&self.control.replicas[&at].cluster);
            for (job, (_, node)) in unknown {
                self.take_back(at, &job, node);
            }
        }
    }

    fn take_back(&mut self, at: usize, job: &JobName, node: NodeId) {
        let from = self.index[&node];
        if !self.net.connects(at, from) {
            return;
        }
        let host = self.machines[from].host.as_ref();
        let Some(entry) = host.and_then(|host| host.held(job)) else {
            return;
        };
        let command = Command::RecoverJob {
            job: Box::new((*entry.signed).clone()),
            author: "recovered".into(),
            holders: vec![node],
            package_bytes: entry.package_bytes,
            now: Millis(0),
        };
        self.propose(at, command, Proposer::Scheduler);
    }
}

impl Control {
    fn go_on_from(&mut self, survivor: usize, node: NodeId, without: &JobName) {
        let is_its_first = |command: &Command| match command {
            Command::SubmitJob { job, .. } => job
                .decode_unchecked()
                .is_ok_and(|job| job.name == *without && job.version == 1),
            _ => false,
        };
        let end = self.log.iter().position(is_its_first);
        self.log.truncate(end.unwrap_or(self.log.len()));
        self.truth = Cluster::new();
        for (command, index) in self.log.iter().zip(1..) {
            self.truth.apply(index, command);
        }
        self.term += 1;
        self.leading.clear();
        self.acknowledged.clear();
        let epoch = Epoch(self.truth.authority().epoch.0 + 1);
        self.append(Command::Recover {
            recovery: Box::new(Recovery {
                epoch,
                survivor: node,
                author: "somebody".into(),
                at: Millis(0),
                order: vec![1],
            }),
        });
        let mut replica = Replica {
            has: self.log.len(),
            term: self.term,
            ..Replica::default()
        };
        replica.apply(&self.log);
        self.replicas = BTreeMap::from([(survivor, replica)]);
    }
}
