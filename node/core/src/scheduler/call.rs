//! Calls: asking hosts for bids, and closing the auction.
//!
//! ```text
//! open --all answered, or 500 ms--> closed: awards to the best, the others'
//!                                   reservations cancelled
//! ```

use super::{
    Effect, Note, Scheduler,
    failure::is_fresh,
    rank::{self, Candidate, Spread},
};
use crate::{
    auction::{Authority, Bid, Call, CallAnswer, Refusal},
    cluster::Cluster,
};
use potluck_specs::{Job, JobName, Millis, NodeId, SlotId, trust::NodeRole};
use std::collections::{BTreeMap, BTreeSet};

/// How long bids are waited for: a live host answers within its network's
/// round trip, and a hung one must not hold up the others.
const CALL_DEADLINE: Millis = Millis(500);

/// A new scheduler waits this long for the hosts' first words before it calls,
/// unless all have told: whoever answers first would get everything.
const SETTLE: Millis = Millis(300);

/// Most slots in one call; a larger job takes several in a row, each of which
/// sees the spread that the ones before made.
pub(super) const SLOTS_PER_CALL: usize = 64;

/// First and longest pause after a call that left slots unfilled.
const RETRY_FIRST: Millis = Millis(200);
const RETRY_LONGEST: Millis = Millis(5_000);

/// When a host has more free, jobs that wait are called again, but not sooner
/// than this after their last call.
pub(super) const RETRY_GROWN: Millis = Millis(1_000);

/// How long a host that refused an award is left alone by that job: it bid
/// and then refused, so its next bid says little.
const AVOID: Millis = Millis(10_000);

/// The same for a host that does not trust the job's author, which only a new
/// policy changes.
const AVOID_UNTRUSTED: Millis = Millis(300_000);

/// A call under way.
#[derive(Debug)]
pub(super) struct OpenCall {
    pub(super) job: JobName,
    pub(super) slots: Vec<SlotId>,
    version: u64,
    waiting: BTreeSet<NodeId>,
    bids: BTreeMap<NodeId, (String, Bid)>,
    deadline: Millis,
}

/// What is remembered of a job between two calls.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The call that is open.
    pub(super) call: Option<u64>,
    /// Not called before this.
    pub(super) retry_at: Millis,
    pub(super) called_at: Option<Millis>,
    /// Calls in a row that left slots unfilled.
    pub(super) rounds_failed: u32,
    /// The last answer of each host, for `explain`.
    pub(super) answers: BTreeMap<NodeId, Answered>,
    /// Hosts left alone until then.
    pub(super) avoid: BTreeMap<NodeId, Millis>,
}

/// How a host answered the last call that it got.
#[derive(Clone, Debug)]
pub(super) enum Answered {
    Bid,
    Refused(Refusal),
}

impl Work {
    pub(super) fn avoids(&self, node: NodeId, now: Millis) -> bool {
        self.avoid.get(&node).is_some_and(|until| now < *until)
    }

    pub(super) fn avoid(&mut self, node: NodeId, refusal: Option<&Refusal>, now: Millis) {
        let pause = match refusal {
            Some(Refusal::Untrusted { .. }) => AVOID_UNTRUSTED,
            _ => AVOID,
        };
        self.avoid.retain(|_, until| now < *until);
        self.avoid.insert(node, now + pause);
    }

    fn fail(&mut self, now: Millis) {
        let pause = RETRY_FIRST.0 << self.rounds_failed.min(8);
        self.retry_at = now + Millis(pause.min(RETRY_LONGEST.0));
        self.rounds_failed = self.rounds_failed.saturating_add(1);
    }
}

impl Scheduler {
    /// Opens a call for slots of one job that are to be filled.
    pub(super) fn call(&mut self, cluster: &Cluster, job: &Job, missing: &[SlotId], now: Millis) {
        if !self.asked && now.since(self.began) < SETTLE {
            self.deferred.insert(job.name.clone());
            return;
        }
        let work = self.works.entry(job.name.clone()).or_default();
        if work.call.is_some() || now < work.retry_at {
            return;
        }
        let slots: Vec<SlotId> = missing.iter().take(SLOTS_PER_CALL).cloned().collect();
        self.last_call += 1;
        let number = self.last_call;
        let spread = self.spread(&job.name);
        let need = job.task.resources;
        let feasible = self.feasible(cluster, job, now);
        let chosen = rank::choose(feasible, &spread, need, slots.len(), number);
        let work = self.works.entry(job.name.clone()).or_default();
        work.called_at = Some(now);
        if chosen.is_empty() {
            work.fail(now);
            if work.rounds_failed == 1 {
                self.unplaced(&job.name, missing.len());
            }
            return;
        }
        work.call = Some(number);
        let call = Call {
            authority: self.authority,
            call: number,
            job: job.name.clone(),
            version: job.version,
            wanted: slots.len() as u32,
            resources: need,
            ports: job.task.ports.clone(),
            package: job.package,
            package_bytes: package_bytes(cluster, job),
            tasks_by_rack: spread.by_rack,
        };
        for to in &chosen {
            self.out.push(Effect::Call {
                to: *to,
                call: call.clone(),
            });
        }
        let open = OpenCall {
            job: job.name.clone(),
            slots,
            version: job.version,
            waiting: chosen.into_iter().collect(),
            bids: BTreeMap::new(),
            deadline: now + CALL_DEADLINE,
        };
        self.calls.insert(number, open);
    }

    fn feasible(&self, cluster: &Cluster, job: &Job, now: Millis) -> Vec<Candidate<'_>> {
        let work = self.works.get(&job.name);
        self.picture
            .hosts
            .iter()
            .filter(|(node, host)| {
                is_fresh(host, self.began, now)
                    && host.complete
                    && host.free.fits(&job.task.resources)
                    && !work.is_some_and(|work| work.avoids(**node, now))
                    && takes_work(cluster, **node)
                    && !host.draining
            })
            .map(|(node, host)| Candidate {
                node: *node,
                rack: &host.rack,
                free: host.free,
                total: host.total,
            })
            .collect()
    }

    /// Where the job's tasks are or will be.
    fn spread(&self, job: &JobName) -> Spread {
        let mut spread = Spread::default();
        for slot in self.picture.slots_of(job) {
            for (node, _) in self.picture.holders(slot) {
                self.spread_one(&mut spread, node);
            }
        }
        for (slot, award) in self.awards_of(job) {
            if self.picture.report(slot, award.node).is_none() {
                self.spread_one(&mut spread, award.node);
            }
        }
        spread
    }

    fn spread_one(&self, spread: &mut Spread, node: NodeId) {
        if let Some(host) = self.picture.hosts.get(&node) {
            spread.add(&host.rack, node);
        }
    }

    pub(super) fn call_answered(&mut self, node: NodeId, number: u64, answer: CallAnswer) {
        if let CallAnswer::Refusal(Refusal::StaleAuthority { highest }) = &answer {
            self.heard_of(*highest);
        }
        let rack = self.picture.hosts.get(&node).map(|host| host.rack.clone());
        let (Some(open), Some(rack)) = (self.calls.get_mut(&number), rack) else {
            // Too late: what it reserved is needed no more.
            if matches!(answer, CallAnswer::Bid(_)) {
                self.cancel(node, number);
            }
            return;
        };
        if !open.waiting.remove(&node) {
            return;
        }
        let answered = match answer {
            CallAnswer::Bid(bid) => {
                open.bids.insert(node, (rack, bid));
                Answered::Bid
            }
            CallAnswer::Refusal(refusal) => Answered::Refused(refusal),
        };
        let job = open.job.clone();
        if let Some(work) = self.works.get_mut(&job) {
            work.answers.insert(node, answered);
        }
    }

    pub(super) fn call_lost(&mut self, node: NodeId, number: u64) {
        if let Some(open) = self.calls.get_mut(&number) {
            open.waiting.remove(&node);
        }
    }

    /// Closes the calls that are answered, or were waited for long enough.
    pub(super) fn close_calls(&mut self, cluster: &Cluster, now: Millis) {
        let ready: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, open)| open.waiting.is_empty() || now >= open.deadline)
            .map(|(number, _)| *number)
            .collect();
        for number in ready {
            if let Some(open) = self.calls.remove(&number) {
                self.close(cluster, number, open, now);
            }
        }
    }

    fn close(&mut self, cluster: &Cluster, number: u64, open: OpenCall, now: Millis) {
        self.dirty.insert(open.job.clone());
        if let Some(work) = self.works.get_mut(&open.job) {
            work.call = None;
        }
        let job = self
            .catalog
            .running(cluster, &open.job)
            .filter(|job| job.version == open.version);
        let Some(job) = job else {
            self.cancel_all(open.bids.keys(), number);
            return;
        };
        let wanted: Vec<SlotId> = open
            .slots
            .into_iter()
            .filter(|slot| self.is_missing(cluster, &job, slot))
            .collect();
        let bids: BTreeMap<_, _> = open
            .bids
            .into_iter()
            .filter(|(node, _)| {
                let host = self.picture.hosts.get(node);
                host.is_some_and(|host| is_fresh(host, self.began, now))
            })
            .collect();
        let spread = self.spread(&job.name);
        let chosen = rank::assign(&bids, spread, job.task.resources, wanted.len());
        let filled = chosen.len();
        let mut by_node: BTreeMap<NodeId, Vec<SlotId>> = BTreeMap::new();
        for (slot, node) in wanted.iter().zip(&chosen) {
            by_node.entry(*node).or_default().push(slot.clone());
        }
        self.cancel_all(bids.keys().filter(|n| !by_node.contains_key(n)), number);
        for (node, slots) in by_node {
            self.award(cluster, node, number, &job, slots, now);
        }
        self.account(&job.name, wanted.len(), filled, now);
    }

    fn account(&mut self, job: &JobName, wanted: usize, filled: usize, now: Millis) {
        let Some(work) = self.works.get_mut(job) else {
            return;
        };
        if filled == wanted {
            work.rounds_failed = 0;
            work.retry_at = now;
            return;
        }
        work.fail(now);
        if work.rounds_failed == 1 {
            self.unplaced(job, wanted - filled);
        }
    }

    fn unplaced(&mut self, job: &JobName, slots: usize) {
        self.note(Note::Unplaced {
            job: job.clone(),
            slots: slots as u32,
        });
    }

    fn cancel_all<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeId>, call: u64) {
        for node in nodes {
            self.cancel(*node, call);
        }
    }

    fn cancel(&mut self, to: NodeId, call: u64) {
        let authority: Authority = self.authority;
        self.out.push(Effect::Cancel {
            to,
            authority,
            call,
        });
    }

    /// Some host has more room: jobs that wait for it need not wait longer.
    pub(super) fn retry_waiting(&mut self, now: Millis) {
        for (job, work) in &mut self.works {
            let rested = work.called_at.is_none_or(|at| now.since(at) >= RETRY_GROWN);
            if work.rounds_failed > 0 && work.call.is_none() && rested && work.retry_at > now {
                work.retry_at = now;
                self.dirty.insert(job.clone());
            }
        }
    }
}

/// May the member be given work at all?
pub(super) fn takes_work(cluster: &Cluster, node: NodeId) -> bool {
    cluster
        .members()
        .get(&node)
        .is_some_and(|member| !member.draining && member.roles.contains(&NodeRole::Agent))
}

pub(super) fn package_bytes(cluster: &Cluster, job: &Job) -> u64 {
    cluster
        .packages()
        .get(&job.package)
        .map_or(0, |package| package.bytes)
}
