//! Work that ends: which indexes of a job are done, and how often the others
//! have failed.
//!
//! ```text
//!          all indexes done
//! running ------------------> complete --next version--> running, from nothing
//!    |
//!    |  an index has failed more often than it may be tried (an array goes on
//!    |  with its others first), or the deadline has passed
//!    +----> failed --next version--> running, with what is not done
//! ```
//!
//! Answers for what must be counted once, whoever leads and whoever is started
//! anew: an end that a host reports counts here before the host may forget it,
//! and an index that is done is never wanted again. Leaves to `scheduler` which
//! of the open indexes run where, and to `host` what an end is.
//!
//! Bounds: two bits for each index of a job, of which there are at most
//! [`super::SLOTS_MAX`], and one counter for each index that failed and is open,
//! which are no more than run at once.

use super::{Cluster, Command, Refused, Reply, jobs::SLOTS_MAX, versions::bounded_text};
use crate::session::{Outcome, SlotReport};
use potluck_specs::{
    Generation, Job, JobName, Millis, Reign, SlotId,
    job::{Batch, JobKind},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest text kept of a failure.
const WHY_BYTES_MAX: usize = 512;

/// How a task came to its end, as its host tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Which.
    pub slot: SlotId,
    /// The job's version that it was started as.
    pub version: u64,
    /// Under which generation: an end is told again until it is counted.
    pub generation: Generation,
    /// How.
    pub outcome: Outcome,
}

/// What is done of a job whose work ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// The version with which this work was begun: ends of tasks of earlier
    /// ones belong to earlier work.
    pub began_version: u64,
    /// The version that goes on with it: failures of tasks of earlier ones are
    /// forgiven, those too that are told only now.
    goes_on_as: u64,
    /// When it was begun, or begun again after a failure; Unix time.
    pub began_at: Millis,
    /// Indexes that have to be done: those before this one.
    pub completions: u32,
    /// Most that run at once.
    pub parallelism: u32,
    /// How often each is tried again.
    pub retries: u32,
    /// Unix time after which it has failed.
    pub deadline: Option<Millis>,
    /// The others go on when one has failed for good.
    pub each_alone: bool,
    done: Indexes,
    failed: Indexes,
    failures: BTreeMap<u32, Failures>,
    /// Of those that failed for good, how the first one did.
    why: Option<String>,
    /// How it ended, if it has.
    pub over: Option<BatchEnd>,
    /// Taken from a host into a recovered log: what was done before is not
    /// known, so that nothing more is started.
    pub unknown: bool,
    at: u64,
}

/// Failures of an index that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the last was counted, Unix time.
    pub at: Millis,
    /// Of the last task that failed: what is not later is counted.
    generation: Generation,
}

/// How work came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchEnd {
    /// All of it is done.
    Complete {
        /// Unix time.
        at: Millis,
    },
    /// Some of it failed for good.
    Failed {
        /// The first that did, and how.
        why: String,
        /// Unix time.
        at: Millis,
    },
    /// It was not done in time.
    DeadlineExceeded {
        /// Unix time.
        at: Millis,
    },
}

impl BatchRecord {
    fn new(job: &Job, batch: &Batch, now: Millis) -> BatchRecord {
        let mut record = BatchRecord {
            began_version: job.version,
            goes_on_as: job.version,
            began_at: now,
            completions: 0,
            parallelism: 0,
            retries: 0,
            deadline: None,
            each_alone: false,
            done: Indexes::default(),
            failed: Indexes::default(),
            failures: BTreeMap::new(),
            why: None,
            over: None,
            unknown: false,
            at: 0,
        };
        record.follow(batch);
        record
    }

    /// Takes over what a version says.
    fn follow(&mut self, batch: &Batch) {
        self.completions = batch.completions.min(SLOTS_MAX);
        self.parallelism = batch.parallelism;
        self.retries = batch.retries;
        self.deadline = batch.deadline_ms.map(|ms| self.began_at + Millis(ms));
        self.each_alone = batch.array && !batch.gang;
        self.failures
            .retain(|index, _| *index < batch.completions.min(SLOTS_MAX));
    }

    /// A further version goes on with what is not done; a failure is forgiven.
    fn go_on(&mut self, version: u64, batch: &Batch, now: Millis) {
        self.goes_on_as = version;
        if self.over.take().is_some() {
            self.began_at = now;
        }
        self.failed = Indexes::default();
        self.failures.clear();
        self.why = None;
        self.follow(batch);
    }

    /// Has the index been done?
    pub fn is_done(&self, index: u32) -> bool {
        self.done.contains(index)
    }

    /// Has it failed more often than it may be tried?
    pub fn has_failed(&self, index: u32) -> bool {
        self.failed.contains(index)
    }

    /// How many are done.
    pub fn done(&self) -> u32 {
        self.done.count_before(self.completions)
    }

    /// How many have failed for good.
    pub fn failed(&self) -> u32 {
        self.failed.count_before(self.completions)
    }

    /// Those that have failed for good, in order.
    pub fn failed_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.completions).filter(|index| self.has_failed(*index))
    }

    /// Failures of an index that is tried again.
    pub fn failures(&self, index: u32) -> Option<&Failures> {
        self.failures.get(&index)
    }

    fn open(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.completions).filter(|index| !self.is_done(*index) && !self.has_failed(*index))
    }

    /// Indexes that are to run now: the first that are neither done nor given
    /// up, as many as may run at once. One that waits to be tried again keeps
    /// its turn, so that an index leaves this set by its end alone, and a job
    /// that fails everywhere does not race through all of its indexes.
    pub fn turn(&self) -> impl Iterator<Item = u32> + '_ {
        let most = match self.over.is_none() && !self.unknown {
            true => self.parallelism as usize,
            false => 0,
        };
        self.open().take(most)
    }

    /// Counts an end; false if it makes no difference.
    fn count(&mut self, end: &TaskEnd, now: Millis) -> bool {
        let index = end.slot.index;
        if self.has_counted(index, end.version, end.generation, &end.outcome) {
            return false;
        }
        match &end.outcome {
            Outcome::Succeeded => {
                self.failures.remove(&index);
                self.failed.remove(index);
                self.done.insert(index);
            }
            Outcome::Failed { why } => self.count_failure(end, why, now),
            Outcome::Other => {}
        }
        self.settle(now);
        true
    }

    fn count_failure(&mut self, end: &TaskEnd, why: &str, now: Millis) {
        let index = end.slot.index;
        let before = self.failures.get(&index).map_or(0, |before| before.count);
        let count = before.saturating_add(1);
        if count > self.retries {
            self.failures.remove(&index);
            self.failed.insert(index);
            let times = match count {
                1 => String::new(),
                _ => format!(" {count} times"),
            };
            let text = format!("{} failed{times}, last: {why}", end.slot);
            self.why
                .get_or_insert_with(|| bounded_text(&text, WHY_BYTES_MAX));
            return;
        }
        let failures = Failures {
            count,
            at: now,
            generation: end.generation,
        };
        self.failures.insert(index, failures);
    }

    /// Is it over by now?
    fn settle(&mut self, now: Millis) {
        if self.over.is_some() || self.unknown {
            return;
        }
        if self.done() == self.completions {
            self.over = Some(BatchEnd::Complete { at: now });
        } else if self.failed() > 0 && (!self.each_alone || self.open().next().is_none()) {
            let why = self.why.clone().unwrap_or_default();
            self.over = Some(BatchEnd::Failed { why, at: now });
        }
    }

    /// Does an end of this index make no difference any more: is it counted, or
    /// of earlier work, or of what nobody wants?
    fn has_counted(
        &self,
        index: u32,
        version: u64,
        generation: Generation,
        outcome: &Outcome,
    ) -> bool {
        let last = self.failures.get(&index);
        let told = last.is_some_and(|last| generation <= last.generation);
        version < self.began_version
            || self.is_done(index)
            || match outcome {
                // Also of work that is over and may go on.
                Outcome::Succeeded => index >= SLOTS_MAX,
                Outcome::Failed { .. } => {
                    self.over.is_some()
                        || version < self.goes_on_as
                        || index >= self.completions
                        || self.has_failed(index)
                        || told
                }
                Outcome::Other => true,
            }
    }
}

/// A set of small numbers, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Indexes(#[serde(with = "serde_bytes")] Vec<u8>);

impl Indexes {
    fn contains(&self, index: u32) -> bool {
        let byte = self.0.get((index / 8) as usize);
        byte.is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Those beyond the longest job are left out.
    fn insert(&mut self, index: u32) {
        if index >= SLOTS_MAX {
            return;
        }
        let at = (index / 8) as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (index % 8);
    }

    fn remove(&mut self, index: u32) {
        if let Some(byte) = self.0.get_mut((index / 8) as usize) {
            *byte &= !(1 << (index % 8));
        }
    }

    fn count_before(&self, end: u32) -> u32 {
        let whole = (end / 8) as usize;
        let full = self.0.iter().take(whole).map(|byte| byte.count_ones());
        let rest = (whole as u32 * 8..end).filter(|index| self.contains(*index));
        full.sum::<u32>() + rest.count() as u32
    }
}

impl Cluster {
    /// What is done of a job, if its work ends.
    pub fn batch(&self, job: &JobName) -> Option<&BatchRecord> {
        self.batches.get(job)
    }

    /// The log's index of the last change of what is done.
    pub fn batches_at(&self) -> u64 {
        self.batches_at
    }

    /// Jobs of which more is done since this index of the log.
    pub fn batches_since(&self, index: u64) -> impl Iterator<Item = &JobName> {
        let changed = self.batches.iter().filter(move |(_, r)| r.at > index);
        changed.map(|(name, _)| name)
    }

    /// Need the end that is told be kept no longer? Of a job that the log does
    /// not know it must: a recovered one may come to know it. One of a version
    /// whose number another has got since says nothing of that one.
    pub fn has_counted(&self, report: &SlotReport) -> bool {
        let Some(outcome) = &report.ended else {
            return true;
        };
        let slot = &report.slot;
        let known = self.jobs.get(&slot.job);
        let Some(job) = known.filter(|job| report.version <= job.current().version) else {
            return false;
        };
        let (version, generation) = (report.version, report.generation);
        let batch = self.batches.get(&slot.job);
        job.stopped
            || job.is_namesake(version, generation)
            || batch.is_none_or(|batch| batch.has_counted(slot.index, version, generation, outcome))
    }

    /// A version was accepted: its work is begun, or goes on. `ran`: something
    /// of the job was to run before. False if neither this version nor the one
    /// before is work that ends.
    pub(super) fn begin_batch(&mut self, name: &JobName, ran: bool, now: Millis) -> bool {
        let job = self.jobs.get(name).map(|record| record.current());
        let Some(Ok(job)) = job.map(|version| version.job.decode_unchecked()) else {
            return false;
        };
        let JobKind::Batch(batch) = &job.kind else {
            return self.batches.remove(name).is_some();
        };
        let mut record = self.next_batch(&job, batch, ran, now);
        record.at = self.applied;
        self.batches_at = self.applied;
        self.batches.insert(name.clone(), record);
        true
    }

    /// What is done of the job once it is accepted as its next version.
    fn next_batch(&self, job: &Job, batch: &Batch, ran: bool, now: Millis) -> BatchRecord {
        let goes_on = |record: &&BatchRecord| {
            let complete = matches!(record.over, Some(BatchEnd::Complete { .. }));
            ran && !complete && !record.unknown
        };
        let before = self.batches.get(&job.name).filter(goes_on).cloned();
        let mut record = match before {
            Some(mut record) => {
                record.go_on(job.version, batch, now);
                record
            }
            None => BatchRecord::new(job, batch, now),
        };
        record.settle(now);
        record
    }

    /// The indexes that would run if this job, whose work ends, were accepted
    /// now as its next version.
    pub fn would_turn(&self, job: &Job, batch: &Batch) -> Vec<u32> {
        let ran = self.runs_before(&job.name).is_some();
        self.next_batch(job, batch, ran, Millis(0)).turn().collect()
    }

    /// A job was taken from a host: what was done of it is not known.
    pub(super) fn recover_batch(&mut self, job: &Job, now: Millis) {
        self.batches.remove(&job.name);
        if let JobKind::Batch(batch) = &job.kind {
            let record = BatchRecord {
                unknown: true,
                deadline: None,
                at: self.applied,
                ..BatchRecord::new(job, batch, now)
            };
            self.batches_at = self.applied;
            self.batches.insert(job.name.clone(), record);
        }
    }

    pub(super) fn change_batches(&mut self, command: &Command) -> Reply {
        match command {
            Command::RecordEnds { reign, ends, now } => self.record_ends(*reign, ends, *now),
            Command::ExpireBatch {
                reign,
                job,
                began_version,
                now,
            } => self.expire_batch(*reign, job, *began_version, *now),
            _ => Reply::Done,
        }
    }

    fn record_ends(&mut self, reign: Reign, ends: &[TaskEnd], now: Millis) -> Reply {
        if reign != self.authority.reign {
            return Reply::refused(Refused::StaleReign);
        }
        for end in ends {
            let job = self.jobs.get(&end.slot.job);
            if job.is_none_or(|job| job.is_namesake(end.version, end.generation)) {
                continue;
            }
            if let Some(record) = self.batches.get_mut(&end.slot.job)
                && record.count(end, now)
            {
                record.at = self.applied;
                self.batches_at = self.applied;
            }
        }
        Reply::Done
    }

    /// The time is judged here again: the work may have been begun anew since.
    fn expire_batch(
        &mut self,
        reign: Reign,
        name: &JobName,
        began_version: u64,
        now: Millis,
    ) -> Reply {
        if reign != self.authority.reign {
            return Reply::refused(Refused::StaleReign);
        }
        let record = self.batches.get_mut(name).filter(|record| {
            record.began_version == began_version
                && record.over.is_none()
                && record.deadline.is_some_and(|deadline| now >= deadline)
        });
        if let Some(record) = record {
            record.over = Some(BatchEnd::DeadlineExceeded { at: now });
            record.at = self.applied;
            self.batches_at = self.applied;
        }
        Reply::Done
    }
}
