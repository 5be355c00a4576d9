//! Recordings of hosts: decided again the same, without secrets.

use super::*;
use crate::record::{self, Decision, Record, Records, Replay, frame};
use potluck_specs::job::RenderedFile;

/// In what a job hands to its tasks.
const SECRET: &str = "hunter2-and-nobody-else";

impl World {
    /// Writes down what the host knows, and each step from here on.
    pub(super) fn begin_recording(&mut self) {
        let began = Record::HostBegan {
            version: record::VERSION,
            now: self.now,
            host: Box::new(self.host.redacted()),
        };
        let recording = self.recording.get_or_insert_default();
        recording.extend(frame(&began));
    }

    pub(super) fn record(&mut self, event: Event, effects: &[Effect]) {
        let step = Record::HostStep {
            now: self.now,
            event: Box::new(event),
            digest: record::host_digest(effects),
        };
        if let Some(recording) = &mut self.recording {
            recording.extend(frame(&step));
        }
    }

    /// Decides all of the recording again, and comes to what the host is.
    pub(super) fn replay(&self) {
        let Some(recording) = &self.recording else {
            return;
        };
        let mut replay = Replay::default();
        for record in Records::new(recording) {
            let decided = replay.take(record.expect("a record"));
            if let Some(Decision::Host(decided)) = decided.expect("it goes on") {
                assert!(decided.same, "{decided:?}");
            }
        }
        let host = replay.host().expect("it has begun");
        assert_eq!(host.slots(), self.host.slots());
        assert_eq!(host.reserved(), self.host.reserved());
    }
}

fn secret_job(version: u64) -> Job {
    let mut job = job("web", version, 100);
    job.task.env.insert("PASSWORD".into(), SECRET.into());
    job.task.args.push(format!("--password={SECRET}"));
    job.task.files.push(RenderedFile {
        path: "secret.txt".into(),
        content: SECRET.into(),
        ..RenderedFile::default()
    });
    job.annotations.insert("note".into(), SECRET.into());
    job
}

#[test]
fn a_recording_holds_no_secrets_and_is_decided_again_the_same() {
    let mut world = World::new();
    // One task of before the recording with a predecessor that still ends,
    // and one of during it.
    world.step(award(1, 1, &secret_job(1), &[(0, 1)]));
    world.settle();
    world.step(award(1, 2, &secret_job(2), &[(0, 2)]));
    world.begin_recording();
    world.step(award(1, 3, &secret_job(2), &[(1, 3)]));
    world.settle();
    // The same job again: only its generation is new.
    world.step(award(1, 4, &secret_job(2), &[(1, 4)]));
    world.restart_agent();
    world.replay();
    let recording = world.recording.expect("it has begun");
    let holds = |text: &str| {
        recording
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    assert!(holds("PASSWORD") && !holds(SECRET));
}

#[test]
fn a_refusal_is_told_with_its_amounts() {
    let mut world = World::new();
    world.begin_recording();
    world.step(call(1, 7, &job("web", 1, 2_000), 3));
    let recording = world.recording.expect("it has begun");
    let mut replay = Replay::default();
    let taken = Records::new(&recording).map(|record| replay.take(record.expect("a record")));
    let decisions: Vec<Decision> = taken.filter_map(|one| one.expect("it goes on")).collect();
    let [Decision::Host(decided)] = &decisions[..] else {
        panic!("one step of a host: {decisions:?}");
    };
    let refusal = Refusal::Cpu {
        need: 2_000,
        free: 1_000,
    };
    let answer = Effect::Answer(Answer::Call(CallAnswer::Refusal(refusal)));
    assert!(decided.effects.contains(&answer), "{decided:?}");
}

#[test]
fn another_decision_shows() {
    let mut world = World::new();
    world.begin_recording();
    world.step(Event::Heartbeat);
    let mut recording = world.recording.expect("it has begun");
    let last = recording.len() - 1;
    recording[last] ^= 1;
    let mut replay = Replay::default();
    let taken = Records::new(&recording).map(|record| replay.take(record.expect("a record")));
    let same: Vec<bool> = taken
        .filter_map(|one| match one.expect("it goes on") {
            Some(Decision::Host(decided)) => Some(decided.same),
            _ => None,
        })
        .collect();
    assert_eq!(same, [false]);
}
