//! Recordings for `potluck debug record`: of what goes into the scheduler, and
//! sending them to who asked.
//!
//! Answers for leaving secrets out. A recording of the scheduler begins with a
//! reign, since a scheduler begins with nothing but the log: the driver starts
//! a new one for it. That of the host is written in `agent::recording`. The
//! bounds are `crate::recording`'s.

use super::shared::Shared;
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        protocol::ApiFrame,
        server::Frames,
    },
    recording::{FRAMES_QUEUED_MAX, Wish, Writer},
};
use potluck_core::{
    auction::Authority,
    cluster::{Cluster, Command},
    record::{Record, SCHEDULER_VERSION, digest},
    scheduler::{Effect, Event, SchedulerConfig},
};
use potluck_specs::{Millis, NodeId};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// Bytes of a recording in one frame: a quarter of the largest.
const RECORDED_BYTES_MAX: usize = 256 << 10;

/// A recording ends with a step; where none comes it ends so long after its
/// time.
const LAST_STEP_WAIT: Duration = Duration::from_secs(2);

/// Bytes of commands that may be applied between two steps.
pub(super) const TAP_BYTES_MAX: usize = 16 << 20;

/// A recording under way.
#[derive(Debug)]
pub(super) struct Recorder(Writer);

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
        let mut writer = Writer::new(wish);
        let record = Record::Began {
            version: SCHEDULER_VERSION,
            config: began.config,
            authority: began.authority,
            me: began.me,
            now: began.now,
            cluster: Box::new(began.cluster.redacted()),
        };
        writer.put(&record).then_some(Recorder(writer))
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
            if !self.0.put(&Record::Applied { index, command }) {
                return false;
            }
        }
        let step = Record::Step {
            now,
            event: Box::new(event),
            digest: digest(effects),
        };
        self.0.put(&step)
    }
}

/// Streams a recording of this node's scheduler until it is over or nobody
/// reads any more.
pub(super) async fn scheduler(shared: &Arc<Shared>, limit: (Duration, u64), frames: &Frames) {
    if !shared.we_lead() {
        let error = led_elsewhere(shared);
        // The client may have left.
        return drop(frames.send(ApiFrame::Failure(error)).await);
    }
    let (wish, recorded) = wish(limit);
    shared.scheduling.record(wish).await;
    let begun = "a new reign begins with the recording";
    let _ = frames.send(ApiFrame::Progress(begun.into())).await;
    pass_on(recorded, limit.0, frames).await;
}

/// The same of what this node's host decides; nothing stops for it.
pub(super) async fn host(shared: &Arc<Shared>, limit: (Duration, u64), frames: &Frames) {
    let (wish, recorded) = wish(limit);
    shared.agent.record(wish).await;
    pass_on(recorded, limit.0, frames).await;
}

fn wish((for_at_most, bytes_max): (Duration, u64)) -> (Wish, mpsc::Receiver<Vec<u8>>) {
    let (to, recorded) = mpsc::channel(FRAMES_QUEUED_MAX);
    let wish = Wish {
        to,
        for_at_most,
        bytes_max,
    };
    (wish, recorded)
}

fn led_elsewhere(shared: &Shared) -> ApiError {
    let message = "the scheduler is on another node";
    let error = ApiError::new(ErrorCode::BadRequest, message);
    match shared.leader() {
        Some(leader) => {
            let name = shared.directory.name(leader);
            error.hint(format!(
                "ask {name}, with --node; what this node's host decides: --of host"
            ))
        }
        None => error.hint("there is none at this moment; see potluck info"),
    }
}

async fn pass_on(mut recorded: mpsc::Receiver<Vec<u8>>, limit: Duration, frames: &Frames) {
    let end = Instant::now() + limit + LAST_STEP_WAIT;
    while let Ok(Some(frame)) = timeout_at(end, recorded.recv()).await {
        for part in frame.chunks(RECORDED_BYTES_MAX) {
            let part = ApiFrame::Recorded(part.to_vec());
            if frames.send(part).await.is_err() {
                return;
            }
        }
    }
    let _ = frames.send(ApiFrame::End).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_core::record::{Decision, Records, Replay};
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
            .filter_map(|decision| match decision.expect("a decision")? {
                Decision::Scheduler(decided) => Some(decided.same),
                Decision::Host(decided) => panic!("a scheduler's, not {decided:?}"),
            })
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
