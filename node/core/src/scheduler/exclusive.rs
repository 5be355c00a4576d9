//! Exclusive slots: filled at most once at any time, at the price of waiting.
//!
//! ```text
//! free --award decided--> recorded --committed--> award leaves --renewed--> runs
//!   ^                                                                        |
//!   |---its holder tells the end of that generation's task-------------------|
//!   +---lease x 1.01 + 4 s after the last renewal that can have been given---+
//! ```
//!
//! Answers for who may run such a slot's task: its holder is in the log before
//! the award leaves, it alone gets renewals, and the slot changes hands only
//! as drawn. The death of a host is neither required nor enough. A renewal
//! counts from when the host sent its heartbeat, and here from when it was
//! answered, which is later; so what is waited for here ends after what the
//! host has left.
//!
//! The last renewal of an earlier reign was given before this one began: its
//! scheduler was silent by then. After a recovery the log may lack the latest
//! holders. Nothing of an earlier epoch is renewed, and what the log does not
//! have is waited for like what it has.

use super::{
    Effect, Scheduler,
    award::Pending,
    moves::Leaving,
    names::{JobId, Seat},
    reconcile::Survey,
    rollout::Target,
    unknown::is_unknown,
};
use crate::{
    auction::StopReason,
    cluster::{Cluster, Command, ExclusiveHolder},
    session::{Heartbeat, Renewal, Renewals, SlotReport, TaskState},
};
use potluck_specs::{Generation, Millis, NodeId, SlotId, job::Exclusive};
use std::collections::{BTreeMap, BTreeSet};

/// Two clocks apart by a percent: the worst of quartz is some hundredths of
/// that, and a virtual machine's clock that is being corrected half of it.
const DRIFT_DIVISOR: u64 = 100;

/// The helper's own end of a task: its init watches on for 2 s in its stead,
/// and killing takes as long on a host that is short of everything.
const MARGIN: Millis = Millis(4_000);

/// What was proposed and is not in the log by now was lost with its leader, or
/// waits; proposing it again does no harm.
const PROPOSE_AGAIN: Millis = Millis(2_000);

/// Most slots in one command: some 100 KB, well below the log's limit for one
/// message.
const BATCH: usize = 500;

/// Between two looks at a task that is to leave and can't yet.
const LOOK_EVERY: Millis = Millis(1_000);

/// How long a lease is waited for after the last renewal.
fn wait(lease: Millis) -> Millis {
    lease + Millis(lease.0.div_ceil(DRIFT_DIVISOR)) + MARGIN
}

/// What this reign knows of exclusive slots beside the log.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// The last renewal given in this reign.
    given: BTreeMap<Seat, Given>,
    /// Generations whose task's end was told by their holder.
    ended: BTreeMap<Seat, Generation>,
    /// Holders that were proposed and are not yet seen in the log.
    proposed: BTreeMap<Seat, (Generation, Millis)>,
    /// The same of releases.
    releases: BTreeMap<Seat, (Generation, Option<Millis>)>,
    /// Slots by the node that the log names.
    by_node: BTreeMap<NodeId, Vec<Seat>>,
    /// The log's index up to which it is followed.
    followed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    generation: Generation,
    /// Until when it may last, by the slowest clock.
    until: Millis,
}

/// A lease that may still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Whose, if that is known.
    pub(super) holder: Option<NodeId>,
    /// Over at this time.
    pub(super) until: Millis,
}

impl Scheduler {
    /// Takes over who holds what by the log.
    pub(super) fn follow_exclusive(&mut self, cluster: &Cluster) {
        if self.holdings.followed == cluster.exclusive_at() {
            return;
        }
        self.holdings.followed = cluster.exclusive_at();
        self.holdings.by_node.clear();
        for holder in cluster.exclusive_holders() {
            let seat = self.names.meet_slot(&holder.slot);
            let of_node = self.holdings.by_node.entry(holder.node).or_default();
            of_node.push(seat);
        }
        let names = &self.names;
        let recorded = |seat: &Seat| cluster.exclusive_holder(&names.slot(*seat));
        self.holdings.proposed.retain(|seat, (generation, _)| {
            recorded(seat).is_none_or(|holder| holder.generation < *generation)
        });
        self.holdings.releases.retain(|seat, (generation, _)| {
            recorded(seat).is_some_and(|holder| holder.generation == *generation)
        });
    }

    /// What the job's newest version says of its slots.
    fn exclusive(&self, job: JobId) -> Option<Exclusive> {
        self.catalog.latest(job)?.change.exclusive
    }

    /// Must the task be stopped before its next one is placed? Its own version
    /// may have been exclusive when the newest is not, or the other way round.
    pub(super) fn leaves_exclusively(&self, cluster: &Cluster, task: &Leaving) -> bool {
        let report = self.picture.report(task.seat, task.node);
        self.is_exclusive(task.seat.job)
            || report.is_some_and(|report| self.ran_on_lease(cluster, task.seat, report))
    }

    pub(super) fn is_exclusive(&self, job: JobId) -> bool {
        self.exclusive(job).is_some()
    }

    /// Who may run the slot's task, by the log.
    pub(super) fn holder_of<'c>(
        &self,
        cluster: &'c Cluster,
        seat: Seat,
    ) -> Option<&'c ExclusiveHolder> {
        match cluster.exclusive_at() {
            0 => None,
            _ => cluster.exclusive_holder(&self.names.slot(seat)),
        }
    }

    /// The lease that has to end before the slot may be filled anew; `None` if
    /// it may be now.
    pub(super) fn lease_of(&self, cluster: &Cluster, seat: Seat) -> Option<Bound> {
        let record = self.holder_of(cluster, seat);
        let bound = match record {
            Some(record) => self.lease_of_holder(seat, record),
            None => self.lease_that_may_be(cluster, seat),
        }?;
        (self.now < bound.until).then_some(bound)
    }

    fn lease_of_holder(&self, seat: Seat, record: &ExclusiveHolder) -> Option<Bound> {
        let ended = self.holdings.ended.get(&seat).copied();
        let given = self.holdings.given.get(&seat);
        // Also of a holder whose award was overtaken by one that never left.
        let given = given.filter(|given| ended.is_none_or(|ended| ended < given.generation));
        let given = given.map(|given| given.until);
        let over = ended.is_some_and(|ended| ended >= record.generation);
        // Of an earlier epoch there may have been later holders than it names.
        let over = over && self.is_of_this_epoch(record.generation);
        let before = match over || self.is_of_this_reign(record.generation) {
            // Its award left in this reign, if at all: all renewals are known.
            true => None,
            false => {
                let own = self.exclusive(seat.job).map(|own| Millis(own.lease_ms));
                let lease = match self.is_of_this_epoch(record.generation) {
                    true => record.lease,
                    // Somebody may hold it whom this log does not know.
                    false => record.lease.max(own.unwrap_or_default()),
                };
                Some(self.began + wait(lease))
            }
        };
        let until = given.max(before)?;
        let holder = Some(record.node);
        Some(Bound { holder, until })
    }

    /// Nobody holds it by the log, which after a recovery may lack who does.
    fn lease_that_may_be(&self, cluster: &Cluster, seat: Seat) -> Option<Bound> {
        let ended = self.holdings.ended.get(&seat);
        if cluster.recovery().is_none() || ended.is_some_and(|end| self.is_of_this_epoch(*end)) {
            return None;
        }
        // Nor is a job that was accepted in this reign new for sure: the log
        // that was lost may have had it.
        let own = self.exclusive(seat.job)?;
        Some(Bound {
            holder: None,
            until: self.began + wait(Millis(own.lease_ms)),
        })
    }

    fn is_of_this_epoch(&self, generation: Generation) -> bool {
        generation.epoch == self.authority.epoch
    }

    fn is_of_this_reign(&self, generation: Generation) -> bool {
        self.is_of_this_epoch(generation) && generation.reign == self.authority.reign
    }

    /// The leases of a host that may go on, for the answer to its heartbeat.
    /// Nobody but a scheduler with a quorum gives any.
    pub(super) fn renew(
        &mut self,
        cluster: &Cluster,
        node: NodeId,
        (incarnation, sent_at): (u64, Option<Millis>),
    ) -> Option<Renewals> {
        let sent_at = sent_at?;
        let seats = self.holdings.by_node.get(&node)?;
        if !self.may_act(self.now) {
            return None;
        }
        let mut leases = Vec::new();
        for seat in seats.clone() {
            let slot = self.names.slot(seat);
            let Some(record) = cluster.exclusive_holder(&slot) else {
                continue;
            };
            if record.node != node || !self.may_be_renewed(seat, record) {
                continue;
            }
            let given = Given {
                generation: record.generation,
                until: self.now + wait(record.lease),
            };
            self.holdings.given.insert(seat, given);
            leases.push(Renewal {
                slot,
                generation: record.generation,
                lease: record.lease,
            });
        }
        Some(Renewals {
            incarnation,
            sent_at,
            leases,
        })
    }

    /// Only what its host reports under the generation of the log, and that
    /// nobody else is about to get.
    fn may_be_renewed(&self, seat: Seat, record: &ExclusiveHolder) -> bool {
        let generation = record.generation;
        let over = self.holdings.ended.get(&seat);
        let overtaken = |next: Option<Generation>| next.is_some_and(|next| next > generation);
        let pending = self.awards.get(seat).map(|award| award.generation);
        let proposed = self.holdings.proposed.get(&seat);
        let holds = self.picture.report(seat, record.node);
        self.is_of_this_epoch(generation)
            && over.is_none_or(|over| *over < generation)
            && !overtaken(pending)
            && !overtaken(proposed.map(|(next, _)| *next))
            && holds.is_some_and(|report| {
                report.generation == generation && report.state != TaskState::Stopped
            })
    }

    /// Who sent it, for [`Self::renew`].
    pub(super) fn sender_of(heartbeat: &Heartbeat) -> (u64, Option<Millis>) {
        (heartbeat.incarnation, heartbeat.sent_at)
    }

    /// Notes what a host's report tells of the ends of exclusive tasks.
    pub(super) fn note_released(
        &mut self,
        cluster: &Cluster,
        changed: &BTreeSet<Seat>,
        node: NodeId,
    ) {
        if cluster.exclusive_at() == 0 {
            return;
        }
        for seat in changed {
            let Some(record) = self.holder_of(cluster, *seat) else {
                continue;
            };
            let report = self.picture.report(*seat, node);
            let ended = report.is_some_and(|report| {
                report.state == TaskState::Stopped && report.generation >= record.generation
            });
            if record.node == node && ended {
                let generation = record.generation;
                self.holdings.ended.insert(*seat, generation);
                let release = self.holdings.releases.entry(*seat);
                release.or_insert((generation, None)).0 = generation;
            }
        }
    }

    /// The end of an exclusive task stays with its host until the log has it:
    /// the next scheduler would wait for its lease.
    pub(super) fn keep_unreleased(
        &self,
        cluster: &Cluster,
        node: NodeId,
        forget: &mut Vec<(SlotId, Generation)>,
    ) {
        forget.retain(|(slot, generation)| {
            let record = cluster.exclusive_holder(slot);
            record.is_none_or(|record| record.node != node || record.generation > *generation)
        });
    }

    /// Must an award wait for the log to name its holder?
    pub(super) fn awaits_record(&self, cluster: &Cluster, seat: Seat, pending: &Pending) -> bool {
        if self.lease_ms(seat.job, pending.version).is_none() {
            return false;
        }
        let record = self.holder_of(cluster, seat);
        record.is_none_or(|record| {
            (record.node, record.generation) != (pending.node, pending.generation)
        })
    }

    /// The lease of a version's slots, if they are exclusive.
    pub(super) fn lease_ms(&self, job: JobId, version: u64) -> Option<u64> {
        let job = self.catalog.version_or_newest(job, version)?;
        Some(job.change.exclusive?.lease_ms)
    }

    /// Proposes holders of slots whose awards wait for it, and releases.
    pub(super) fn propose_holders(&mut self, cluster: &Cluster) {
        let now = self.now;
        let waits = |at: Millis| now.since(at) < PROPOSE_AGAIN;
        let mut held = Vec::new();
        for seat in self.awards.unsent() {
            let Some(pending) = self.awards.get(seat) else {
                continue;
            };
            let Some(lease) = self.lease_ms(seat.job, pending.version) else {
                continue;
            };
            let proposed = self.holdings.proposed.get(&seat);
            let is_proposed = proposed
                .is_some_and(|(generation, at)| *generation == pending.generation && waits(*at));
            if is_proposed || held.len() >= BATCH || !self.awaits_record(cluster, seat, pending) {
                continue;
            }
            let holder = ExclusiveHolder {
                slot: self.names.slot(seat),
                node: pending.node,
                generation: pending.generation,
                lease: Millis(lease),
            };
            held.push((seat, holder));
        }
        let mut released = Vec::new();
        for (seat, (generation, at)) in &mut self.holdings.releases {
            if at.is_none_or(|at| !waits(at)) && released.len() < BATCH {
                *at = Some(now);
                released.push((self.names.slot(*seat), *generation));
            }
        }
        if held.is_empty() && released.is_empty() {
            return;
        }
        for (seat, holder) in &held {
            let proposed = (holder.generation, now);
            self.holdings.proposed.insert(*seat, proposed);
        }
        self.out.push(Effect::Propose {
            command: Box::new(Command::RecordExclusive {
                reign: self.authority.reign,
                held: held.into_iter().map(|(_, holder)| holder).collect(),
                released,
            }),
        });
    }

    /// Is the lease of a silent host over? Then its task is, too, whatever
    /// became of the host.
    pub(super) fn has_lapsed(&self, cluster: &Cluster, seat: Seat, node: NodeId) -> bool {
        !self.is_heard(node)
            && self
                .picture
                .report(seat, node)
                .is_some_and(|report| self.ran_on_lease(cluster, seat, report))
            && self.lease_of(cluster, seat).is_none()
    }

    /// How much of a silent holder's lease may be left: the slot is filled anew
    /// then, if it stays silent.
    pub(super) fn lease_of_silent(
        &self,
        cluster: &Cluster,
        seat: Seat,
        node: NodeId,
    ) -> Option<Millis> {
        if self.is_heard(node) {
            return None;
        }
        let bound = self.lease_of(cluster, seat)?;
        Some(bound.until.since(self.now))
    }

    /// Was the task awarded as an exclusive one? Of a version that the log
    /// keeps no longer that is known only if the newest runs the same tasks.
    fn ran_on_lease(&self, cluster: &Cluster, seat: Seat, report: &SlotReport) -> bool {
        let job = &report.slot.job;
        let version = self.catalog.of_task(cluster, seat.job, job, report.version);
        let is_known = !is_unknown(cluster, job, report.version);
        is_known && version.is_some_and(|job| job.change.exclusive.is_some())
    }

    /// Stops what holds an exclusive slot under an older award than the log's,
    /// or under one that the log never had or gave back.
    pub(super) fn stop_overtaken(&mut self, cluster: &Cluster, seat: Seat) {
        if !self.is_exclusive(seat.job) && cluster.exclusive_at() == 0 {
            return;
        }
        let record = self
            .holder_of(cluster, seat)
            .map(|record| record.generation);
        let pending = self.awards.get(seat);
        let overtaken: Vec<NodeId> = self
            .picture
            .holders(seat)
            .filter(|(node, report)| {
                let awarded = pending.is_some_and(|pending| {
                    pending.node == *node && pending.generation <= report.generation
                });
                let valid = record.is_some_and(|record| report.generation >= record)
                    && self.is_of_this_epoch(report.generation);
                let ran_on_lease = self.ran_on_lease(cluster, seat, report);
                self.is_heard(*node) && ran_on_lease && !awarded && !valid
            })
            .map(|(node, _)| node)
            .collect();
        for node in overtaken {
            self.decide_stop(seat, node, StopReason::Double);
        }
    }

    /// Looks at a slot again when the lease that it waits for is over.
    pub(super) fn wake_at_lease_end(&mut self, cluster: &Cluster, seat: Seat) {
        if let Some(bound) = self.lease_of(cluster, seat) {
            self.wake(seat.job, bound.until);
        }
    }

    /// How the task of an exclusive slot leaves its host: it is stopped before
    /// its next one is placed, one slot at a time at least, whatever the
    /// budget: there is no other way.
    pub(super) fn leave_exclusively(
        &mut self,
        cluster: &Cluster,
        target: &Target,
        task: Leaving,
        survey: &mut Survey,
        now: Millis,
    ) {
        let job = task.seat.job;
        // Of a time when it was not exclusive.
        self.surges.remove(task.seat);
        let limit = survey.ledger.budget.max(1);
        let risked = match task.serves {
            true => survey.ledger.used.len() as u32,
            false => survey.in_flight,
        };
        let has_room = risked + survey.unsettled < limit && self.is_heard(task.node);
        let goes = match task.reason {
            StopReason::Drained if self.drain_is_over(cluster, task.node, now) => true,
            StopReason::Replaced => has_room && !self.waits_for_rollout(cluster, job),
            StopReason::Failing => {
                let elsewhere = has_room && self.may_try_elsewhere(cluster, target.name(), now);
                if elsewhere {
                    self.tried_elsewhere(target.name(), now);
                }
                elsewhere
            }
            // Somebody has to be there to take it.
            _ => {
                has_room && {
                    let own = self.index.of(task.node).map(|entry| entry.place);
                    let wanted = target.job_for(task.seat.index);
                    let takers = self.takers(cluster, wanted, None, own.as_ref(), now);
                    takers.iter().any(|taker| *taker != task.node)
                }
            }
        };
        match goes {
            true => self.stop_now(task, survey),
            false => self.wake(job, now + LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_waited_for_longer_than_it_lasts_on_any_clock() {
        // Lease, the longest that its host may count, what is waited for.
        let table = [(2_000, 6_020), (15_000, 19_150), (1_500_000, 1_519_000)];
        for (lease, waited) in table {
            assert_eq!(wait(Millis(lease)), Millis(waited));
        }
        assert_eq!(wait(Millis(1)), Millis(4_002));
    }
}
