//! Which versions run the same tasks, and what that does to rollouts.

use super::*;
use crate::cluster::{Rollout, RolloutControl, RolloutPhase, RolloutStep, rollouts::is_under_way};
use potluck_specs::{Job, diff};

fn web() -> JobName {
    JobName::in_default("web")
}

/// A cluster with one job, and everything that was ever submitted of it.
struct Versions {
    cluster: Cluster,
    index: u64,
    all: Vec<Job>,
}

impl Versions {
    fn new() -> Versions {
        let mut versions = Versions {
            cluster: begun(),
            index: 1,
            all: Vec::new(),
        };
        versions.commit(|_| {});
        versions
    }

    fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        self.cluster.apply(self.index, command)
    }

    /// The newest job, changed, as its next version; gives the version.
    fn commit(&mut self, edit: impl FnOnce(&mut Job)) -> u64 {
        let first = || signed_job("web", 1, 2).decode_unchecked().unwrap();
        let mut next = self.all.last().cloned().unwrap_or_else(first);
        edit(&mut next);
        next.version = self.all.len() as u64 + 1;
        let mut command = submit(0, "web", next.version, None);
        if let Command::SubmitJob { change, job, .. } = &mut command {
            change.0[..8].copy_from_slice(&next.version.to_be_bytes());
            job.job.bytes = next.encode();
        }
        let version = next.version;
        assert_eq!(self.apply(&command), Reply::Accepted { version });
        self.all.push(next);
        version
    }

    /// Everything as it was in that version.
    fn go_back(&mut self, version: u64) -> u64 {
        let earlier = self.all[version as usize - 1].clone();
        self.commit(|job| *job = earlier)
    }

    fn advance(&mut self, step: RolloutStep) {
        let (version, stage) = (self.rollout().version, self.rollout().stage);
        let command = Command::AdvanceRollout {
            reign: self.cluster.authority().reign,
            job: web(),
            version,
            stage,
            step,
            now: Millis(9),
        };
        assert_eq!(self.apply(&command), Reply::Done);
    }

    fn control(&mut self, control: RolloutControl) {
        let mut change = [3; 16];
        change[..8].copy_from_slice(&self.index.to_be_bytes());
        let command = Command::ControlRollout {
            change: ChangeId(change),
            job: web(),
            control,
            author: "ada".into(),
            now: Millis(9),
        };
        self.apply(&command);
    }

    fn rollout(&self) -> &Rollout {
        self.cluster.rollout(&web()).unwrap()
    }

    /// Earlier versions whose tasks need not be started again.
    fn like_newest(&self) -> Vec<u64> {
        let newest = self.all.len() as u64;
        let earlier = 1..newest;
        earlier
            .filter(|version| self.cluster.is_current_task(&web(), *version))
            .collect()
    }
}

fn command(job: &mut Job) {
    job.task.command.push('x');
}

fn priority(job: &mut Job) {
    job.priority += 1;
}

#[test]
fn small_changes_in_a_row_leave_tasks_alone_however_many_there_are() {
    let mut versions = Versions::new();
    for _ in 0..VERSIONS_KEPT * 2 {
        versions.commit(priority);
        assert_eq!(versions.rollout().phase, RolloutPhase::Done);
    }
    // Also of versions that are kept no longer.
    let earlier = versions.all.len() as u64 - 1;
    assert_eq!(versions.like_newest(), (1..=earlier).collect::<Vec<_>>());
    versions.commit(command);
    assert_eq!(versions.like_newest(), [0; 0]);
    assert_eq!(versions.rollout().phase, RolloutPhase::Rolling);
    versions.commit(|job| job.kind = JobKind::service(7));
    assert_eq!(versions.like_newest(), [earlier + 2]);
}

#[test]
fn the_same_once_more_is_a_wish_to_start_again() {
    let mut versions = Versions::new();
    versions.commit(|_| {});
    assert_eq!(versions.like_newest(), [0; 0]);
    assert_eq!(versions.rollout().phase, RolloutPhase::Rolling);
}

#[test]
fn a_small_change_in_the_middle_of_a_rollout_lets_it_go_on() {
    let mut versions = Versions::new();
    versions.commit(|job| {
        command(job);
        let stage = potluck_specs::job::Stage {
            size: potluck_specs::job::StageSize::Count(1),
            bake_ms: 9,
        };
        job.change.update.stages = vec![stage; 3];
    });
    versions.advance(RolloutStep::Next { last: false });
    versions.commit(priority);
    let rollout = versions.rollout().clone();
    assert_eq!((rollout.version, rollout.from, rollout.stage), (3, 1, 1));
    assert_eq!(rollout.phase, RolloutPhase::Rolling);
    assert_eq!(versions.like_newest(), [2]);
    // A person's pause is theirs to end.
    versions.control(RolloutControl::Pause);
    versions.commit(priority);
    let rollout = versions.rollout().clone();
    assert_eq!((rollout.version, rollout.from, rollout.stage), (4, 1, 1));
    assert!(matches!(rollout.phase, RolloutPhase::Paused { .. }));
    assert_eq!(versions.like_newest(), [2, 3]);
    // And it still knows what it began from.
    versions.control(RolloutControl::Undo);
    assert!(matches!(
        versions.rollout().phase,
        RolloutPhase::RolledBack { .. }
    ));
    assert_eq!(versions.rollout().from, 1);
}

#[test]
fn going_back_in_the_middle_of_a_rollout_restarts_only_what_it_changed() {
    let mut versions = Versions::new();
    versions.commit(command);
    versions.go_back(1);
    assert_eq!(versions.like_newest(), [1]);
    assert_eq!(versions.rollout().phase, RolloutPhase::Done);
    // What the rollout of 2 has reached is no longer known by a number.
    versions.commit(priority);
    assert_eq!(versions.like_newest(), [1, 3]);
}

#[test]
fn after_a_rollback_the_old_spec_restarts_nothing_and_the_new_one_all() {
    for undone in [true, false] {
        let mut versions = Versions::new();
        versions.commit(command);
        match undone {
            true => versions.control(RolloutControl::Undo),
            false => versions.advance(RolloutStep::Fail {
                why: "sick".into(),
                roll_back: true,
            }),
        }
        let mut again = Versions {
            cluster: versions.cluster.clone(),
            index: versions.index,
            all: versions.all.clone(),
        };
        versions.go_back(1);
        assert_eq!(versions.like_newest(), [1]);
        assert_eq!(versions.rollout().phase, RolloutPhase::Done);
        // One that failed is tried from the beginning, small changes or none.
        again.commit(priority);
        assert_eq!(again.like_newest(), [0; 0]);
        let rollout = again.rollout();
        assert_eq!((rollout.from, rollout.stage), (1, 0));
        assert_eq!(rollout.phase, RolloutPhase::Rolling);
    }
}

#[test]
fn a_stopped_job_keeps_nothing() {
    let mut versions = Versions::new();
    let stop = Command::StopJob {
        change: ChangeId([9; 16]),
        job: web(),
        author: "bob".into(),
        now: Millis(8),
    };
    versions.apply(&stop);
    versions.commit(priority);
    assert_eq!(versions.like_newest(), [0; 0]);
    assert_eq!(versions.cluster.rollout(&web()), None);
}

proptest! {
    /// Whatever is changed and whatever becomes of the rollouts, a task is left
    /// alone only if nothing of it differs, and what runs is left alone if
    /// nothing of it differs and anything was changed.
    #[test]
    fn a_task_is_left_alone_only_if_it_is_the_same(
        steps in proptest::collection::vec((0u8..9, 1u64..40), 1..60),
    ) {
        let mut versions = Versions::new();
        for (step, k) in steps {
            let rolls = versions.cluster.rollout(&web()).is_some_and(|rollout| {
                rollout.phase == RolloutPhase::Rolling
            });
            let coming = versions.cluster.rollout(&web()).is_some_and(is_under_way);
            let runs = versions.cluster.runs_before(&web());
            let before = versions.all.len();
            match step {
                0 | 1 => { versions.commit(priority); }
                2 => { versions.commit(command); }
                3 => { versions.commit(|_| {}); }
                4 => { versions.go_back(k.min(before as u64)); }
                5 => versions.control(RolloutControl::Undo),
                6 => versions.control(RolloutControl::Pause),
                7 if rolls => versions.advance(RolloutStep::Next { last: true }),
                8 if rolls => {
                    let (why, roll_back) = (String::new(), k % 2 == 0);
                    versions.advance(RolloutStep::Fail { why, roll_back });
                }
                _ => {}
            }
            let newest = versions.all.last().unwrap();
            for like in versions.like_newest() {
                let earlier = &versions.all[like as usize - 1];
                prop_assert!(!diff::changes_tasks(earlier, newest), "{like}");
            }
            let last = &versions.all[before - 1];
            if versions.all.len() == before || diff::same_wish(last, newest) {
                continue;
            }
            if coming && !diff::changes_tasks(last, newest) {
                prop_assert!(versions.like_newest().contains(&last.version));
            } else if let Some(runs) = runs
                && versions.cluster.jobs()[&web()].version(runs).is_some()
                && !diff::changes_tasks(&versions.all[runs as usize - 1], newest)
            {
                prop_assert!(versions.like_newest().contains(&runs), "{runs}");
                prop_assert_eq!(&versions.rollout().phase, &RolloutPhase::Done);
            }
        }
    }
}
