//! Work that ends: which indexes run now, the ends that hosts tell, the
//! deadline.
//!
//! ```text
//! open --its turn--> placed, runs --ended, told--> in the log --> forgotten
//!   ^                   |                             |           by its host
//!   |                   | its host is lost, drained   | failed, may be tried
//!   +-------------------+-----------------------------+ again: after a pause
//! ```
//!
//! Answers for bringing ends into the log before a host may forget them, and
//! for filling no slot whose end is told and not counted. What is done is the
//! log's to say (`cluster::completions`); where a task goes is decided as of
//! any other.
//!
//! A task of such a job is never doubled to make room for a drain or a new
//! version: the same piece of work would run twice. Drained, it is left until
//! it ends or the drain's deadline passes; a new version stops it at once.

use super::{
    Effect, Scheduler,
    moves::Leaving,
    names::{JobId, Seat},
    per_node::Slots,
    reconcile::Survey,
    rollout::Target,
};
use crate::{
    auction::StopReason,
    cluster::{BatchEnd, Cluster, Command, TaskEnd, bounded_text},
    host::pause,
    session::{Outcome, SlotReport, TaskState},
};
use potluck_specs::{Generation, Job, Millis, NodeId, SlotId, job::JobKind};
use std::collections::{BTreeMap, BTreeSet};

/// Most ends in one command: some 100 KB with the longest names and reasons.
const ENDS_MAX: usize = 200;

/// Longest reason of a failure that is proposed: what a host says of it may be
/// as long as its report, and the log keeps no more either.
const WHY_BYTES_MAX: usize = 512;

/// Between two commands with ends: a job of many short tasks must not fill the
/// log with entries of one end each, and none should wait for long.
const EVERY: Millis = Millis(20);

/// What was proposed and is not in the log by now was lost with its leader, or
/// waits; it counts once however often it is proposed.
const PROPOSE_AGAIN: Millis = Millis(2_000);

/// Ends that were told and are not yet seen in the log.
#[derive(Debug, Default)]
pub(super) struct Ends {
    open: BTreeMap<(Seat, NodeId), Option<Millis>>,
    proposed_at: Option<Millis>,
    expired_at: BTreeMap<JobId, Millis>,
    /// The log's index up to which what is done is followed.
    followed: u64,
}

impl Scheduler {
    /// More is done of some jobs.
    pub(super) fn follow_batches(&mut self, cluster: &Cluster) {
        if self.ends.followed == cluster.batches_at() {
            return;
        }
        for name in cluster.batches_since(self.ends.followed) {
            self.dirty.insert(self.names.meet(name));
        }
        self.ends.followed = cluster.batches_at();
    }

    /// Notes what a host's report tells of ends.
    pub(super) fn note_ends(&mut self, changed: &BTreeSet<Seat>, node: NodeId) {
        for seat in changed {
            let report = self.picture.report(*seat, node);
            if report.is_some_and(is_end) {
                self.ends.open.entry((*seat, node)).or_insert(None);
            }
        }
    }

    /// Ends that the log has not counted stay with their host.
    pub(super) fn keep_uncounted(
        &self,
        cluster: &Cluster,
        node: NodeId,
        forget: &mut Vec<(SlotId, Generation)>,
    ) {
        forget.retain(|(slot, _)| {
            let report = self.picture.report(self.names.seat(slot), node);
            report.is_none_or(|report| cluster.has_counted(report))
        });
    }

    /// Was an end of the slot told that the log has not counted? Then nobody
    /// else is to fill it.
    pub(super) fn has_open_end(&self, cluster: &Cluster, seat: Seat) -> bool {
        let mut reports = self.picture.reports(seat);
        reports.any(|(_, report)| is_end(report) && !cluster.has_counted(report))
    }

    /// Is an index of work that ends not to begin any more: is it done, or
    /// failed for good, or all of the work over, stopped, or such that it is not
    /// known what is done? Asked of the log as it is now: what was chosen at the
    /// last look at the job may be counted since.
    pub(super) fn is_counted(&self, cluster: &Cluster, seat: Seat) -> bool {
        if !self.catalog.ends(seat.job) {
            return false;
        }
        let stopped = self.catalog.is_stopped(seat.job);
        let batch = cluster.batch(self.names.name(seat.job));
        stopped
            || batch.is_none_or(|batch| {
                batch.over.is_some()
                    || batch.unknown
                    || batch.is_done(seat.index)
                    || batch.has_failed(seat.index)
            })
    }

    /// Proposes ends to the log.
    pub(super) fn propose_ends(&mut self, cluster: &Cluster, now: Millis) {
        if self.ends.open.is_empty() {
            return;
        }
        let rests = |at: Millis| now.since(at) < EVERY;
        if self.ends.proposed_at.is_some_and(rests) {
            return;
        }
        let picture = &self.picture;
        self.ends.open.retain(|(seat, node), _| {
            let report = picture.report(*seat, *node);
            report.is_some_and(|report| is_end(report) && !cluster.has_counted(report))
        });
        let mut ends = Vec::new();
        for ((seat, node), proposed) in &mut self.ends.open {
            let waits = proposed.is_some_and(|at| now.since(at) < PROPOSE_AGAIN);
            if waits || ends.len() >= ENDS_MAX {
                continue;
            }
            let report = picture.report(*seat, *node);
            if let Some(end) = report.and_then(|report| end_of(cluster, report)) {
                *proposed = Some(now);
                ends.push(end);
            }
        }
        if ends.is_empty() {
            return;
        }
        self.ends.proposed_at = Some(now);
        self.out.push(Effect::Propose {
            command: Box::new(Command::RecordEnds {
                reign: self.authority.reign,
                ends,
                now: now + self.config.unix_offset,
            }),
        });
    }

    /// The slots that work is to have now: those whose turn it is. Of work of
    /// which it is not known what is done, those that run: recovered work, and
    /// work without a record, which a voter that knew none has dropped.
    pub(super) fn turn_of(&self, cluster: &Cluster, target: &Target) -> Slots {
        let batch = cluster.batch(target.name());
        if let Some(batch) = batch.filter(|batch| !batch.unknown) {
            return Slots::These(batch.turn().collect());
        }
        let seats = self.picture.slots_of(target.id());
        let held = seats.filter(|seat| self.picture.holders(*seat).next().is_some());
        Slots::These(held.map(|seat| seat.index).collect())
    }

    /// The slots that a job would have if it were accepted now.
    pub(super) fn forecast_slots(&self, cluster: &Cluster, target: &Target, now: Millis) -> Slots {
        let job = target.current();
        match &job.kind {
            JobKind::Batch(batch) => {
                Slots::These(cluster.would_turn(job, batch).into_iter().collect())
            }
            _ => self.slots_wanted(cluster, target, now),
        }
    }

    /// Is it time to try the slot, after its last failure? If not, the job is
    /// looked at again then.
    pub(super) fn has_rested(
        &mut self,
        cluster: &Cluster,
        job: &Job,
        seat: Seat,
        now: Millis,
    ) -> bool {
        let batch = cluster.batch(&job.name);
        let Some(failures) = batch.and_then(|batch| batch.failures(seat.index)) else {
            return true;
        };
        let pause = pause(job.task.restart, failures.count.saturating_sub(1));
        let rested = now.since(failed_at(failures.at, self.config.unix_offset));
        // Another host's clock may have said when.
        if rested >= pause || failures.at > now + self.config.unix_offset + pause {
            return true;
        }
        self.wake(seat.job, now + Millis(pause.0 - rested.0));
        false
    }

    /// Ends the work of a job when its time is over.
    pub(super) fn watch_deadline(&mut self, cluster: &Cluster, job: JobId, now: Millis) {
        let name = self.names.name(job);
        let stopped = cluster.jobs().get(name).is_none_or(|record| record.stopped);
        let batch = cluster.batch(name).filter(|batch| batch.over.is_none());
        let deadline = batch.and_then(|batch| Some((batch.deadline?, batch.began_version)));
        let Some((deadline, began_version)) = deadline.filter(|_| !stopped) else {
            self.ends.expired_at.remove(&job);
            return;
        };
        let unix_now = now + self.config.unix_offset;
        if unix_now < deadline {
            return self.wake(job, now + Millis(deadline.since(unix_now).0));
        }
        let last = self.ends.expired_at.get(&job);
        if last.is_none_or(|at| now.since(*at) >= PROPOSE_AGAIN) {
            self.ends.expired_at.insert(job, now);
            self.out.push(Effect::Propose {
                command: Box::new(Command::ExpireBatch {
                    reign: self.authority.reign,
                    job: name.clone(),
                    began_version,
                    now: unix_now,
                }),
            });
        }
        self.wake(job, now + PROPOSE_AGAIN);
    }

    /// Does the job's work end, and has it?
    pub(super) fn work_is_over(&self, cluster: &Cluster, job: JobId) -> bool {
        self.catalog.has(job)
            && cluster
                .batch(self.names.name(job))
                .is_some_and(|batch| batch.over.is_some())
    }

    /// Has the job's work ended well?
    pub(super) fn work_is_done(&self, cluster: &Cluster, job: JobId) -> bool {
        let batch = match self.catalog.has(job) {
            true => cluster.batch(self.names.name(job)),
            false => None,
        };
        batch.is_some_and(|batch| matches!(batch.over, Some(BatchEnd::Complete { .. })))
    }

    /// How a task of work that ends leaves its host.
    pub(super) fn leave_work(
        &mut self,
        cluster: &Cluster,
        task: Leaving,
        survey: &mut Survey,
        now: Millis,
    ) {
        let waits = match task.reason {
            StopReason::Drained => task.serves && !self.drain_is_over(cluster, task.node, now),
            StopReason::Failing => {
                let job = self.names.name(task.seat.job).clone();
                let elsewhere = self.may_try_elsewhere(cluster, &job, now);
                if elsewhere {
                    self.tried_elsewhere(&job, now);
                }
                !elsewhere
            }
            _ => false,
        };
        if waits || !self.is_heard(task.node) {
            return self.wake(task.seat.job, now + LOOK_EVERY);
        }
        self.stop_now(task, survey);
    }
}

/// Between two looks at a task that is to leave and can't yet.
const LOOK_EVERY: Millis = Millis(1_000);

pub(super) fn ends(job: &Job) -> bool {
    matches!(job.kind, JobKind::Batch(_))
}

/// Over, and to be counted before it is forgotten.
pub(super) fn is_end(report: &SlotReport) -> bool {
    report.state == TaskState::Stopped && report.ended.is_some()
}

fn failed_at(unix: Millis, offset: Millis) -> Millis {
    Millis(unix.0.saturating_sub(offset.0))
}

/// What the log is told; nothing of a version that it does not know.
fn end_of(cluster: &Cluster, report: &SlotReport) -> Option<TaskEnd> {
    let known = cluster.jobs().get(&report.slot.job)?;
    let end = || TaskEnd {
        slot: report.slot.clone(),
        version: report.version,
        generation: report.generation,
        outcome: match &report.ended {
            Some(Outcome::Failed { why }) => Outcome::Failed {
                why: bounded_text(why, WHY_BYTES_MAX),
            },
            other => other.clone().unwrap_or(Outcome::Other),
        },
    };
    (report.version <= known.current().version).then(end)
}
