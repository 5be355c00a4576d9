//! The ledger: which of a job's slots do not serve at this moment, and why.
//!
//! One budget for crashes, drains, rollouts, moves and preemption together.
//! It is derived from the picture at each look and never stored: what a host
//! or a person did counts like what we did, so that our own doing never adds
//! to a failure. Whoever wants to take a serving task away asks here first.
//!
//! Law: a slot is taken away by us only while fewer slots than the budget are
//! down, that slot not counted. A drain's deadline alone overrides it.

use super::{
    Scheduler, Unmet,
    exclusive::Bound,
    names::{JobId, Seat},
    reconcile::MayPlace,
};
use crate::{
    auction::StopReason,
    cluster::Cluster,
    session::{SlotReport, TaskState},
};
use potluck_specs::{Job, JobName, Millis, NodeId, SlotId};
use std::{collections::BTreeMap, fmt};

/// Of a job that names no budget a tenth may be down, and one at least: what
/// services are usually given to spare.
const SHARE_DIVISOR: u32 = 10;

/// Why a slot does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// No host has it yet.
    Unplaced,
    /// It may be filled where the scheduler can't see yet.
    Waiting {
        /// Whose report is waited for; `None`: all.
        holder: Option<NodeId>,
    },
    /// It is exclusive, and the lease of its former holder may still run.
    Lease {
        /// Whose, if that is known.
        holder: Option<NodeId>,
        /// For how long at most.
        left: Millis,
    },
    /// It waits for another job.
    Dependency {
        /// Which, and what that lacks.
        on: Unmet,
    },
    /// Awarded, fetched or started, or found again.
    Starting {
        /// Where.
        node: NodeId,
    },
    /// It ended by itself and is started again.
    Failing {
        /// Where.
        node: NodeId,
        /// Failures in a row.
        failures: u32,
        /// How it ended.
        why: Option<String>,
    },
    /// It runs and does not pass its checks.
    Unhealthy {
        /// Where.
        node: NodeId,
    },
    /// Its host is not heard.
    Silent {
        /// Which.
        node: NodeId,
    },
    /// It is being stopped.
    Stopping {
        /// Where.
        node: NodeId,
        /// Why.
        reason: StopReason,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Unplaced => f.write_str("not placed yet"),
            Use::Waiting { holder: None } => f.write_str("waits for all hosts' reports"),
            Use::Waiting { holder: Some(_) } => f.write_str("waits for its holder's report"),
            Use::Lease { left, .. } => {
                let seconds = left.0.div_ceil(1_000);
                write!(
                    f,
                    "waits until the lease of its holder ends, at most {seconds} s"
                )
            }
            Use::Dependency { on } => write!(f, "waits for {}, which {}", on.job, on.lack),
            Use::Starting { .. } => f.write_str("starting"),
            Use::Failing { failures, why, .. } => {
                write!(f, "failed {failures} times in a row")?;
                match why {
                    Some(why) => write!(f, ", last: {why}"),
                    None => Ok(()),
                }
            }
            Use::Unhealthy { .. } => f.write_str("unhealthy"),
            Use::Silent { .. } => f.write_str("its host is not heard"),
            Use::Stopping { reason, .. } => write!(f, "being stopped: {}", of(*reason)),
        }
    }
}

/// For people.
fn of(reason: StopReason) -> &'static str {
    match reason {
        StopReason::JobStopped => "the job is stopped",
        StopReason::Over => "its work is over",
        StopReason::Incomplete => "others of its gang are missing",
        StopReason::Replaced => "rollout",
        StopReason::ScaledDown => "scaled down",
        StopReason::Drained => "drain",
        StopReason::Double => "filled elsewhere",
        StopReason::Failing => "fails on its host",
        StopReason::Moved => "rebalanced",
        StopReason::Preempted => "preempted",
        StopReason::Other => "another reason",
    }
}

/// A job's disruption budget and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger<K = SlotId> {
    /// How many slots may be down at once before we take no other one away.
    pub budget: u32,
    /// Slots that should serve.
    pub wanted: u32,
    /// Those that do not.
    pub used: BTreeMap<K, Use>,
}

/// A ledger as it is worked with: slots by number alone.
pub(super) type Book = Ledger<u32>;

/// The budget is spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{used} of {budget} slots that may be down are down")]
pub struct Spent {
    /// How many may be.
    pub budget: u32,
    /// How many are.
    pub used: u32,
}

impl<K: Ord> Ledger<K> {
    pub(super) fn new(job: &Job, wanted: u32) -> Ledger<K> {
        Ledger {
            budget: budget(job, wanted),
            wanted,
            used: BTreeMap::new(),
        }
    }

    /// May this slot be taken away? One that is down already costs nothing.
    ///
    /// # Errors
    /// If the budget is spent.
    pub fn may_disrupt(&self, slot: &K) -> Result<(), Spent> {
        let used = self.used.len() as u32;
        if self.used.contains_key(slot) || used < self.budget {
            return Ok(());
        }
        Err(Spent {
            budget: self.budget,
            used,
        })
    }

    pub(super) fn hold(&mut self, slot: K, reason: Use) {
        self.used.insert(slot, reason);
    }
}

/// How many of so many slots of the job may be down.
fn budget(job: &Job, wanted: u32) -> u32 {
    match job.change.budget {
        Some(amount) => amount.of(wanted),
        None => (wanted / SHARE_DIVISOR).max(1),
    }
}

impl Scheduler {
    /// Who holds a job's budget now; nothing if the job is not to run.
    pub fn ledger(&self, cluster: &Cluster, name: &JobName) -> Option<Ledger> {
        let book = self.book(cluster, self.names.id(name))?;
        let used = book.used.into_iter().map(|(index, reason)| {
            let job = name.clone();
            (SlotId { job, index }, reason)
        });
        Some(Ledger {
            budget: book.budget,
            wanted: book.wanted,
            used: used.collect(),
        })
    }

    /// The same, to be worked with.
    pub(super) fn book(&self, cluster: &Cluster, job: JobId) -> Option<Book> {
        let target = self.target(cluster, job)?;
        let slots = self.slots_last_wanted(&target);
        let unmet = self.unmet(cluster, job);
        let unmet = unmet.as_ref();
        let mut book = Book::new(target.current(), slots.count());
        for index in slots.indexes() {
            let seat = job.seat(index);
            if let Some(reason) = self.use_of(cluster, seat, self.kept(seat), unmet) {
                book.hold(index, reason);
            }
        }
        Some(book)
    }

    /// May a task of this slot be taken away for a reason of ours, such as
    /// preemption? Asks the job's ledger; what is decided in the same step
    /// counts.
    ///
    /// # Errors
    /// If the job's budget is spent.
    pub fn may_disrupt(&self, cluster: &Cluster, slot: &SlotId) -> Result<(), Spent> {
        match self.book(cluster, self.names.id(&slot.job)) {
            Some(book) => book.may_disrupt(&slot.index),
            // Nobody wants it.
            None => Ok(()),
        }
    }

    /// Why a wanted slot, kept by this task, does not serve; `None`: it does.
    /// `unmet`: what its job waits for before it starts.
    pub(super) fn use_of(
        &self,
        cluster: &Cluster,
        seat: Seat,
        kept: Option<(NodeId, &SlotReport)>,
        unmet: Option<&Unmet>,
    ) -> Option<Use> {
        let Some((node, report)) = kept else {
            if let Some(award) = self.awards.get(seat) {
                return Some(Use::Starting { node: award.node });
            }
            if let MayPlace::Wait { holder } = self.may_place(cluster, seat) {
                return Some(Use::Waiting { holder });
            }
            if let MayPlace::Lease(Bound { holder, until }) = self.may_place(cluster, seat) {
                let left = until.since(self.now);
                return Some(Use::Lease { holder, left });
            }
            return Some(match unmet {
                Some(on) => Use::Dependency { on: on.clone() },
                None => Use::Unplaced,
            });
        };
        if let Some(stop) = self.stops.get(&(seat, node)) {
            let reason = stop.reason;
            return Some(Use::Stopping { node, reason });
        }
        if !self.is_heard(node) {
            return Some(match self.lease_of_silent(cluster, seat, node) {
                Some(left) => Use::Lease {
                    holder: Some(node),
                    left,
                },
                None => Use::Silent { node },
            });
        }
        match report.state {
            TaskState::Running | TaskState::Ended if report.healthy => None,
            TaskState::Running | TaskState::Ended => Some(Use::Unhealthy { node }),
            TaskState::Backoff => Some(Use::Failing {
                node,
                failures: report.failures,
                why: report.last_end.clone(),
            }),
            TaskState::Stopping | TaskState::Stopped => Some(Use::Stopping {
                node,
                reason: StopReason::Other,
            }),
            TaskState::Adopting | TaskState::Fetching | TaskState::Starting | TaskState::Other => {
                Some(Use::Starting { node })
            }
        }
    }
}
