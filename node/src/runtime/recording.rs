//! A recording of what goes into the scheduler, for `potluck debug record`.
//!
//! Answers for the bounds (time, bytes, a reader that keeps up) and for
//! leaving secrets out. A recording begins with a reign, since a scheduler
//! begins with nothing but the log: the driver starts a new one for it. The
//! format, and deciding again, are `potluck_core::record`'s.

use potluck_core::{
    auction::Authority,
    cluster::{Cluster, Command},
    record::{Record, VERSION, digest, frame},
    scheduler::{Effect, Event, SchedulerConfig},
};
use potluck_specs::{Millis, NodeId};
use std::time::Duration;
use tokio::{sync::mpsc, time::Instant};

/// Longest recording: a rollout of hours is looked at in pieces.
pub(super) const SECONDS_MAX: u64 = 3_600;

/// Most bytes of a recording: an hour of 100 hosts' heartbeats and the state
/// before them.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// Frames that wait for their reader: some seconds of a large cluster. A
/// reader that does not keep up has its recording ended, since a gap would
/// make all that follows wrong.
pub(super) const FRAMES_QUEUED_MAX: usize = 4_096;

/// Bytes of commands that may be applied between two steps.
pub(super) const TAP_BYTES_MAX: usize = 16 << 20;

/// What a person asked for.
#[derive(Debug)]
pub(super) struct Wish {
    /// Takes the frames; the recording ends when nobody does.
    pub to: mpsc::Sender<Vec<u8>>,
    /// At most this long.
    pub for_at_most: Duration,
    /// At most so many bytes.
    pub bytes_max: u64,
}

/// A recording under way.
#[derive(Debug)]
pub(super) struct Recorder {
    to: mpsc::Sender<Vec<u8>>,
    until: Instant,
    bytes_left: u64,
}

/// With what a scheduler began.
pub(super) struct Began<'a> {
    /// As it was made.
    pub config: SchedulerConfig,
    /// Whose word it gives.
    pub authority: Authority,
    /// The leader.
    pub me: NodeId,
    /// When.
    pub now: Millis,
    /// The state by then.
    pub cluster: &'a Cluster,
}

impl Recorder {
    /// Begins one; nothing if it is over already.
    pub(super) fn begin(wish: Wish, began: &Began<'_>) -> Option<Recorder> {
        let limit = Duration::from_secs(SECONDS_MAX);
        let mut recorder = Recorder {
            to: wish.to,
            until: Instant::now() + wish.for_at_most.min(limit),
            bytes_left: wish.bytes_max.min(BYTES_MAX),
        };
        let record = Record::Began {
            version: VERSION,
            config: began.config,
            authority: began.authority,
            me: began.me,
            now: began.now,
            cluster: Box::new(began.cluster.redacted()),
        };
        recorder.put(&record).then_some(recorder)
    }

    /// Writes a step down, with what was applied before it; does the
    /// recording go on?
    pub(super) fn step(
        &mut self,
        applied: Option<Vec<(u64, Command)>>,
        event: Event,
        effects: &[Effect],
        now: Millis,
    ) -> bool {
        let Some(applied) = applied else {
            tracing::warn!("a recording ends: more was applied at once than it holds");
            return false;
        };
        for (index, command) in applied {
            let command = Box::new(command.redacted());
            if !self.put(&Record::Applied { index, command }) {
                return false;
            }
        }
        let step = Record::Step {
            now,
            event: Box::new(event),
            digest: digest(effects),
        };
        self.put(&step) && Instant::now() < self.until
    }

    fn put(&mut self, record: &Record) -> bool {
        let bytes = frame(record);
        let Some(left) = self.bytes_left.checked_sub(bytes.len() as u64) else {
            tracing::info!("a recording ends: it has as many bytes as it may have");
            return false;
        };
        self.bytes_left = left;
        match self.to.try_send(bytes) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a recording ends: its reader does not keep up");
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_core::record::{Records, Replay};
    use potluck_core::scheduler::Scheduler;

    const ME: NodeId = NodeId([1; 32]);

    fn began(cluster: &Cluster) -> Began<'_> {
        Began {
            config: SchedulerConfig::default(),
            authority: Authority::default(),
            me: ME,
            now: Millis(5),
            cluster,
        }
    }

    fn wish(bytes_max: u64, queue: usize) -> (Wish, mpsc::Receiver<Vec<u8>>) {
        let (to, frames) = mpsc::channel(queue);
        let wish = Wish {
            to,
            for_at_most: Duration::from_secs(60),
            bytes_max,
        };
        (wish, frames)
    }

    #[tokio::test]
    async fn what_is_written_is_decided_again_the_same() {
        let (wish, mut frames) = wish(1 << 20, 16);
        let cluster = Cluster::new();
        let began = began(&cluster);
        let mut scheduler = Scheduler::new(began.config, began.authority, ME, began.now);
        let mut recorder = Recorder::begin(wish, &began).expect("it begins");
        for k in 0..3 {
            let now = Millis(10 + k);
            let effects = scheduler.step(&cluster, Event::Tick, now);
            assert!(recorder.step(Some(Vec::new()), Event::Tick, &effects, now));
        }
        drop(recorder);
        let mut file = Vec::new();
        while let Some(frame) = frames.recv().await {
            file.extend(frame);
        }
        let mut replay = Replay::default();
        let taken = Records::new(&file).map(|record| replay.take(record.expect("a record")));
        let decided: Vec<bool> = taken
            .filter_map(|decision| Some(decision.expect("a decision")?.same))
            .collect();
        assert_eq!(decided, [true; 3]);
    }

    #[tokio::test]
    async fn a_recording_is_bounded_in_bytes_and_by_its_reader() {
        let cluster = Cluster::new();
        let (few, _frames) = wish(10, 16);
        assert!(Recorder::begin(few, &began(&cluster)).is_none());
        let (slow, frames) = wish(1 << 20, 2);
        let mut recorder = Recorder::begin(slow, &began(&cluster)).expect("it begins");
        let mut put = || recorder.step(Some(Vec::new()), Event::Tick, &[], Millis(6));
        assert!(put());
        assert!(!put(), "two frames wait already");
        drop(frames);
        let (lost, frames) = wish(1 << 20, 2);
        let mut recorder = Recorder::begin(lost, &began(&cluster)).expect("it begins");
        drop(frames);
        assert!(!recorder.step(Some(Vec::new()), Event::Tick, &[], Millis(6)));
        let (gap, _frames) = wish(1 << 20, 16);
        let mut recorder = Recorder::begin(gap, &began(&cluster)).expect("it begins");
        assert!(!recorder.step(None, Event::Tick, &[], Millis(6)));
    }
}
