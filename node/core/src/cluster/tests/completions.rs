//! What is done of work that ends is counted once, and lasts.

use super::*;
use crate::session::{Outcome, SlotReport, TaskState};
use potluck_specs::{Generation, job::Batch};
use std::collections::BTreeSet;

const NAME: &str = "work";

fn name() -> JobName {
    JobName::in_default(NAME)
}

fn generation(sequence: u64) -> Generation {
    Generation {
        epoch: Epoch(1),
        reign: Reign(2),
        sequence,
    }
}

fn array(completions: u32, parallelism: u32, retries: u32) -> Batch {
    Batch {
        completions,
        parallelism,
        retries,
        array: true,
        ..Batch::default()
    }
}

fn submit_batch(version: u64, batch: Batch, now: u64) -> Command {
    let mut command = submit(version as u8, NAME, version, None);
    if let Command::SubmitJob { job, now: at, .. } = &mut command {
        let mut decoded = job.decode_unchecked().unwrap();
        decoded.kind = JobKind::Batch(batch);
        job.job.bytes = decoded.encode();
        *at = Millis(now);
    }
    command
}

fn end(index: u32, version: u64, sequence: u64, code: i32) -> TaskEnd {
    TaskEnd {
        slot: SlotId { job: name(), index },
        version,
        generation: generation(sequence),
        outcome: match code {
            0 => Outcome::Succeeded,
            code => Outcome::Failed {
                why: format!("exited with code {code}"),
            },
        },
    }
}

/// Some work as a version of a job, for commands that are generated.
pub(super) fn submit_work(change: u8, name: &str, version: u64, count: u32) -> Command {
    let batch = Batch {
        deadline_ms: Some(100),
        ..array(count, 2, 1)
    };
    let mut command = submit(change, name, version, None);
    if let Command::SubmitJob { job, .. } = &mut command {
        let mut decoded = job.decode_unchecked().unwrap();
        decoded.kind = JobKind::Batch(batch);
        job.job.bytes = decoded.encode();
    }
    command
}

/// One end, for commands that are generated.
pub(super) fn ended(job: &str, reign: u64, index: u32, sequence: u64, ok: bool) -> Command {
    let mut end = end(index, 1, sequence, i32::from(!ok));
    end.slot.job = JobName::in_default(job);
    Command::RecordEnds {
        reign: Reign(reign),
        ends: vec![end],
        now: Millis(50),
    }
}

/// A log with its next index.
struct Log {
    cluster: Cluster,
    next: u64,
}

impl Log {
    fn of(batch: Batch) -> Log {
        let mut log = Log {
            cluster: begun(),
            next: 2,
        };
        log.apply(&Command::Reign {
            leader: NodeId([1; 32]),
        });
        log.apply(&submit_batch(1, batch, 1_000));
        log
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let reply = self.cluster.apply(self.next, command);
        self.next += 1;
        reply
    }

    fn ends(&mut self, ends: &[TaskEnd], now: u64) -> Reply {
        let reign = self.cluster.authority().reign;
        self.apply(&Command::RecordEnds {
            reign,
            ends: ends.to_vec(),
            now: Millis(now),
        })
    }

    fn batch(&self) -> &BatchRecord {
        self.cluster.batch(&name()).unwrap()
    }

    fn turn(&self) -> Vec<u32> {
        self.batch().turn().collect()
    }
}

#[test]
fn indexes_have_their_turn_until_all_are_done() {
    let mut log = Log::of(array(5, 2, 0));
    assert_eq!(log.turn(), [0, 1]);
    log.ends(&[end(1, 1, 2, 0)], 2_000);
    assert_eq!(log.turn(), [0, 2]);
    assert_eq!(log.batch().done(), 1);
    log.ends(&[end(0, 1, 1, 0), end(2, 1, 3, 0)], 3_000);
    assert_eq!(log.turn(), [3, 4]);
    log.ends(&[end(3, 1, 4, 0), end(4, 1, 5, 0)], 4_000);
    assert!(log.turn().is_empty());
    let over = BatchEnd::Complete { at: Millis(4_000) };
    assert_eq!(log.batch().over, Some(over));
}

#[test]
fn an_end_counts_once() {
    let mut log = Log::of(array(2, 2, 2));
    for _ in 0..3 {
        log.ends(&[end(0, 1, 7, 3)], 2_000);
    }
    assert_eq!(log.batch().failures(0).unwrap().count, 1);
    log.ends(&[end(0, 1, 6, 3)], 2_000);
    assert_eq!(
        log.batch().failures(0).unwrap().count,
        1,
        "an earlier task's"
    );
    log.ends(&[end(0, 1, 8, 3)], 2_500);
    assert_eq!(log.batch().failures(0).unwrap().count, 2);
    // A success counts whichever task had it.
    log.ends(&[end(0, 1, 6, 0)], 3_000);
    assert!(log.batch().is_done(0));
    assert_eq!(log.batch().failures(0), None);
    log.ends(&[end(0, 1, 9, 3)], 4_000);
    assert!(log.batch().is_done(0), "done is done");
}

#[test]
fn an_index_is_tried_as_often_as_it_may() {
    let mut log = Log::of(array(3, 3, 1));
    log.ends(&[end(1, 1, 1, 3)], 2_000);
    assert_eq!(log.turn(), [0, 1, 2]);
    log.ends(&[end(1, 1, 2, 4)], 3_000);
    assert!(log.batch().has_failed(1));
    assert_eq!(log.turn(), [0, 2], "an array goes on with the others");
    assert_eq!(log.batch().over, None);
    log.ends(&[end(0, 1, 3, 0), end(2, 1, 4, 0)], 5_000);
    let failed = log.batch();
    let why = "work[1] failed 2 times, last: exited with code 4";
    let over = BatchEnd::Failed {
        why: why.into(),
        at: Millis(5_000),
    };
    assert_eq!(failed.over, Some(over));
    assert_eq!((failed.done(), failed.failed()), (2, 1));
    assert_eq!(failed.failed_indexes().collect::<Vec<_>>(), [1]);
}

#[test]
fn what_is_no_array_fails_as_a_whole() {
    let mut log = Log::of(Batch {
        array: false,
        ..array(3, 2, 0)
    });
    log.ends(&[end(1, 1, 1, 9)], 2_000);
    assert!(log.turn().is_empty());
    let over = BatchEnd::Failed {
        why: "work[1] failed, last: exited with code 9".into(),
        at: Millis(2_000),
    };
    assert_eq!(log.batch().over, Some(over));
}

#[test]
fn a_deadline_ends_the_work_that_it_was_set_for() {
    let limited = Batch {
        deadline_ms: Some(10_000),
        ..array(2, 2, 0)
    };
    let mut log = Log::of(limited.clone());
    let expire = |log: &mut Log, began_version, now| {
        let reign = log.cluster.authority().reign;
        log.apply(&Command::ExpireBatch {
            reign,
            job: name(),
            began_version,
            now: Millis(now),
        });
        log.batch().over.clone()
    };
    assert_eq!(expire(&mut log, 1, 10_999), None, "accepted at 1,000");
    assert_eq!(expire(&mut log, 2, 11_000), None, "other work");
    let over = BatchEnd::DeadlineExceeded { at: Millis(11_000) };
    assert_eq!(expire(&mut log, 1, 11_000), Some(over));
    assert!(log.turn().is_empty());
    // The next version goes on, with a time of its own.
    log.apply(&submit_batch(2, limited, 20_000));
    assert_eq!(log.turn(), [0, 1]);
    assert_eq!(expire(&mut log, 1, 29_000), None);
}

#[test]
fn a_next_version_goes_on_with_what_is_not_done() {
    let mut log = Log::of(array(4, 4, 0));
    log.ends(&[end(0, 1, 1, 0), end(1, 1, 2, 5)], 2_000);
    log.apply(&submit_batch(2, array(4, 4, 0), 3_000));
    assert_eq!(log.turn(), [1, 2, 3], "a failure is forgiven");
    assert_eq!(log.batch().began_at, Millis(1_000), "it was under way");
    // Failures of the version before count no more, its successes do.
    log.ends(&[end(1, 1, 2, 5), end(2, 1, 3, 5), end(3, 1, 4, 0)], 4_000);
    assert_eq!(log.turn(), [1, 2]);
    // Fewer are asked for, and they are done.
    log.ends(&[end(1, 2, 5, 0)], 5_000);
    log.apply(&submit_batch(3, array(2, 2, 0), 6_000));
    let over = BatchEnd::Complete { at: Millis(6_000) };
    assert_eq!(log.batch().over, Some(over));
}

#[test]
fn work_begins_anew_after_it_was_done_or_stopped() {
    let mut log = Log::of(array(1, 1, 0));
    log.ends(&[end(0, 1, 1, 0)], 2_000);
    log.apply(&submit_batch(2, array(1, 1, 0), 3_000));
    assert_eq!(log.turn(), [0]);
    log.ends(&[end(0, 1, 9, 0)], 4_000);
    assert_eq!(log.turn(), [0], "a late word of the work before");
    let stop = Command::StopJob {
        change: ChangeId([77; 16]),
        job: name(),
        author: "bob".into(),
        now: Millis(5_000),
    };
    let mut log = Log::of(array(2, 1, 0));
    log.ends(&[end(0, 1, 1, 0)], 2_000);
    log.apply(&stop);
    log.apply(&submit_batch(2, array(2, 1, 0), 6_000));
    assert_eq!(log.turn(), [0]);
}

#[test]
fn a_picture_of_another_reign_counts_nothing() {
    let mut log = Log::of(array(1, 1, 0));
    let stale = Command::RecordEnds {
        reign: Reign(1),
        ends: vec![end(0, 1, 1, 0)],
        now: Millis(2_000),
    };
    assert_eq!(log.apply(&stale), Reply::refused(Refused::StaleReign));
    assert_eq!(log.batch().done(), 0);
}

#[test]
fn an_end_is_kept_by_its_host_until_it_is_counted() {
    let mut log = Log::of(array(2, 2, 1));
    let report = |job: &str, index, version, sequence, code| {
        let end = end(index, version, sequence, code);
        SlotReport {
            slot: SlotId {
                job: JobName::in_default(job),
                index,
            },
            generation: end.generation,
            version,
            state: TaskState::Stopped,
            healthy: false,
            ports: BTreeMap::new(),
            resources: Resources::default(),
            starts: 1,
            failures: 0,
            last_end: None,
            since: Millis(0),
            ended: Some(end.outcome),
            trouble: None,
        }
    };
    let told = report(NAME, 0, 1, 3, 4);
    assert!(!log.cluster.has_counted(&told));
    log.ends(&[end(0, 1, 3, 4)], 2_000);
    assert!(log.cluster.has_counted(&told));
    assert!(!log.cluster.has_counted(&report(NAME, 0, 1, 4, 4)));
    assert!(
        !log.cluster.has_counted(&report(NAME, 0, 2, 4, 0)),
        "of a later version"
    );
    assert!(
        !log.cluster.has_counted(&report("other", 0, 1, 4, 0)),
        "of a job not known"
    );
    assert!(
        log.cluster.has_counted(&report(NAME, 2, 1, 4, 4)),
        "not wanted"
    );
    log.apply(&submit(9, "other", 1, None));
    assert!(
        log.cluster.has_counted(&report("other", 0, 1, 4, 0)),
        "a service's"
    );
}

#[test]
fn a_service_before_or_after_has_no_part_in_it() {
    let mut log = Log::of(array(2, 2, 0));
    log.apply(&submit(9, NAME, 2, None));
    assert!(log.cluster.batch(&name()).is_none());
    assert!(
        log.cluster.rollout(&name()).is_none(),
        "it does not go back to work"
    );
    log.apply(&submit_batch(3, array(2, 2, 0), 4_000));
    assert_eq!(log.turn(), [0, 1]);
    assert!(log.cluster.rollout(&name()).is_none());
}

#[test]
fn work_that_was_recovered_starts_nothing_more() {
    let mut log = Log::of(array(3, 3, 0));
    log.cluster.recovery = Some(Recovery {
        epoch: Epoch(2),
        survivor: NodeId([1; 32]),
        author: "ada".into(),
        at: Millis(0),
        order: vec![],
    });
    let Command::SubmitJob { job, .. } = submit_batch(2, array(3, 3, 0), 0) else {
        unreachable!("it was made so");
    };
    let recover = Command::RecoverJob {
        job,
        author: "ada".into(),
        holders: vec![],
        package_bytes: 1,
        now: Millis(9_000),
    };
    assert_eq!(log.apply(&recover), Reply::Accepted { version: 2 });
    assert!(log.batch().unknown);
    assert!(log.turn().is_empty());
    log.ends(&[end(2, 2, 1, 0)], 9_500);
    assert!(log.batch().is_done(2), "what ends is noted");
    assert_eq!(log.batch().over, None);
    log.apply(&submit_batch(3, array(3, 3, 0), 10_000));
    assert_eq!(log.turn(), [0, 1, 2], "a person runs it again");
}

proptest! {
    /// In whatever order and however often ends are told: what is done stays
    /// done, counts add up, and no more than may run have their turn.
    #[test]
    fn counts_add_up(
        shape in (1u32..20, 1u32..6, 0u32..3, any::<bool>()),
        told in proptest::collection::vec((0u32..22, 1u64..30, 0i32..2), 0..120),
    ) {
        let (completions, parallelism, retries, is_array) = shape;
        let mut log = Log::of(Batch { array: is_array, ..array(completions, parallelism, retries) });
        let mut done = BTreeSet::new();
        for (index, sequence, code) in told {
            log.ends(&[end(index, 1, sequence, code)], 2_000);
            let batch = log.batch();
            if code == 0 && index < completions {
                done.insert(index);
            }
            prop_assert!(done.iter().all(|index| batch.is_done(*index)));
            prop_assert_eq!(batch.done() as usize, done.len());
            let turn: Vec<u32> = batch.turn().collect();
            prop_assert!(turn.len() <= parallelism as usize);
            prop_assert!(turn.iter().all(|k| !batch.is_done(*k) && !batch.has_failed(*k)));
            let open = completions - batch.done() - batch.failed();
            prop_assert_eq!(turn.is_empty(), batch.over.is_some(), "{} open", open);
        }
    }
}
