//! Recordings that are read and decided again.

use super::*;

fn recording() -> Vec<u8> {
    let began = Record::Began {
        version: SCHEDULER_VERSION,
        config: SchedulerConfig::default(),
        authority: Authority::default(),
        me: NodeId([1; 32]),
        now: Millis(5),
        cluster: Box::default(),
    };
    let effects = Scheduler::new(
        SchedulerConfig::default(),
        Authority::default(),
        NodeId([1; 32]),
        Millis(5),
    )
    .step(&Cluster::default(), Event::Tick, Millis(6));
    let step = Record::Step {
        now: Millis(6),
        event: Box::new(Event::Tick),
        digest: digest(&effects),
    };
    [frame(&began), frame(&step)].concat()
}

fn decisions(bytes: &[u8]) -> Result<Vec<Decided<Event, Effect>>, RecordError> {
    let mut replay = Replay::default();
    let records = Records::new(bytes);
    let taken = records.map(|record| replay.take(record?));
    let decided = taken.map(|taken| {
        Ok(match taken? {
            Some(Decision::Scheduler(decided)) => Some(decided),
            Some(Decision::Host(decided)) => panic!("a scheduler's, not {decided:?}"),
            None => None,
        })
    });
    decided.filter_map(Result::transpose).collect()
}

#[test]
fn a_recording_is_decided_again_the_same() {
    let decided = decisions(&recording()).expect("a recording");
    assert_eq!(decided.len(), 1);
    assert!(decided[0].same && decided[0].now == Millis(6));
}

/// Of a real cluster, made before hosts were recorded: two tasks are placed.
const SCHEDULER_1: &[u8] = include_bytes!("samples/scheduler-1.bin");

#[test]
fn recordings_of_every_version_are_read() {
    let decided = decisions(SCHEDULER_1).expect("a recording");
    assert_eq!(decided.len(), 188);
    let effects = decided.iter().flat_map(|one| &one.effects);
    let awards = effects.filter(|effect| matches!(effect, Effect::Award { .. }));
    assert_eq!(awards.count(), 1);
}

#[test]
fn another_decision_shows() {
    let mut bytes = recording();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let decided = decisions(&bytes).expect("a recording");
    assert!(!decided[0].same);
}

#[test]
fn a_torn_end_is_no_error_and_damage_is() {
    let bytes = recording();
    for cut in 0..bytes.len() {
        assert!(decisions(&bytes[..cut]).is_ok_and(|decided| decided.is_empty()));
    }
    let mut damaged = bytes.clone();
    damaged[4] = 0xff;
    assert!(matches!(
        decisions(&damaged),
        Err(RecordError::Damaged { at: 0, .. })
    ));
    let step = &bytes[4 + u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize..];
    assert!(matches!(decisions(step), Err(RecordError::NoBegin)));
}

#[test]
fn a_host_that_was_not_begun_with_decides_nothing() {
    let step = Record::HostStep {
        now: Millis(6),
        event: Box::new(host::Event::Tick),
        digest: 0,
    };
    assert!(matches!(
        decisions(&frame(&step)),
        Err(RecordError::NoBegin)
    ));
}

#[test]
fn a_newer_recording_is_refused_by_its_version() {
    let mut bytes = recording();
    let text = b"version";
    let at = bytes.windows(text.len()).position(|part| part == text);
    let at = at.expect("it says its version") + text.len();
    assert_eq!(bytes[at], SCHEDULER_VERSION as u8, "one small number");
    bytes[at] = VERSION as u8 + 1;
    assert!(matches!(
        decisions(&bytes),
        Err(RecordError::TooNew { version }) if version == VERSION + 1
    ));
}
