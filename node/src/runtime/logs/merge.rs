//! Lines of several logs in the order of their times. Pure but for `run`,
//! which feeds it.
//!
//! Each log is in order by itself. The oldest line that waits is next once
//! every open log has a line waiting, so that no older one can come; readers
//! who follow don't wait for silent logs longer than [`HOLD`].

use crate::api::{
    logs::{LogLine, LogLines},
    protocol::ApiFrame,
    server::Frames,
};
use futures::{StreamExt, stream::FuturesUnordered};
use potluck_specs::SlotId;
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// How long a follower's lines wait for older ones of other logs.
const HOLD: Duration = Duration::from_millis(100);

/// Text of one log that waits to be merged, unless one batch has more.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// Some lines of one log.
pub(super) type Lines = Vec<LogLine>;

/// What waits of each log.
struct Merge {
    logs: Vec<Log>,
}

#[derive(Default)]
struct Log {
    waiting: VecDeque<LogLine>,
    bytes: usize,
    has_ended: bool,
}

impl Merge {
    fn new(logs: usize) -> Merge {
        let logs = std::iter::repeat_with(Log::default).take(logs).collect();
        Merge { logs }
    }

    fn add(&mut self, log: usize, lines: Lines) {
        let log = &mut self.logs[log];
        log.bytes += lines.iter().map(|line| line.text.len()).sum::<usize>();
        log.waiting.extend(lines);
    }

    fn end(&mut self, log: usize) {
        self.logs[log].has_ended = true;
    }

    fn has_room(&self, log: usize) -> bool {
        self.logs[log].bytes < WAITING_BYTES_MAX
    }

    fn has_waiting(&self) -> bool {
        self.logs.iter().any(|log| !log.waiting.is_empty())
    }

    /// The next lines, of one log. In a hurry, silent logs are not waited for.
    fn next(&mut self, in_hurry: bool) -> Option<(usize, Lines)> {
        let mut lines = Vec::new();
        let first = self.oldest(in_hurry)?;
        loop {
            let log = &mut self.logs[first];
            let line = log.waiting.pop_front().expect("its line is the oldest");
            log.bytes -= line.text.len();
            lines.push(line);
            if self.oldest(in_hurry) != Some(first) {
                return Some((first, lines));
            }
        }
    }

    fn oldest(&self, in_hurry: bool) -> Option<usize> {
        let is_silent = |log: &Log| log.waiting.is_empty() && !log.has_ended;
        if !in_hurry && self.logs.iter().any(is_silent) {
            return None;
        }
        let heads = self.logs.iter().enumerate();
        heads
            .filter_map(|(at, log)| Some((log.waiting.front()?.at, at)))
            .min()
            .map(|(_, at)| at)
    }
}

/// Merges logs into frames until all have ended or the reader has left.
pub(super) async fn run(
    slots: &[SlotId],
    logs: Vec<mpsc::Receiver<Lines>>,
    follow: bool,
    frames: &Frames,
) {
    let mut merge = Merge::new(logs.len());
    let mut asked: FuturesUnordered<_> = logs
        .into_iter()
        .enumerate()
        .map(|(at, log)| receive(at, log))
        .collect();
    let mut full: Vec<(usize, mpsc::Receiver<Lines>)> = Vec::new();
    let mut in_hurry = false;
    loop {
        while let Some((at, lines)) = merge.next(in_hurry) {
            let slot = slots[at].clone();
            let frame = ApiFrame::Lines(LogLines { slot, lines });
            if frames.send(frame).await.is_err() {
                return;
            }
        }
        let (room, still_full) = full.into_iter().partition(|(at, _)| merge.has_room(*at));
        full = still_full;
        let room: Vec<_> = room;
        asked.extend(room.into_iter().map(|(at, log)| receive(at, log)));
        let next = async {
            match follow && merge.has_waiting() {
                true => timeout(HOLD, asked.next()).await,
                false => Ok(asked.next().await),
            }
        };
        let next = tokio::select! {
            next = next => next,
            () = frames.closed() => return,
        };
        in_hurry = next.is_err();
        match next {
            Ok(None) => return,
            Err(_) => {}
            Ok(Some((at, _, None))) => merge.end(at),
            Ok(Some((at, log, Some(lines)))) => {
                merge.add(at, lines);
                full.push((at, log));
            }
        }
    }
}

async fn receive(
    at: usize,
    mut log: mpsc::Receiver<Lines>,
) -> (usize, mpsc::Receiver<Lines>, Option<Lines>) {
    let lines = log.recv().await;
    (at, log, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::spawn;
    use potluck_specs::{Generation, Millis};

    fn line(at: u64, text: &str) -> LogLine {
        LogLine {
            origin: Generation::default(),
            sequence: at,
            at: Millis(at),
            stderr: false,
            text: text.into(),
        }
    }

    fn texts(next: Option<(usize, Lines)>) -> Option<(usize, Vec<String>)> {
        next.map(|(at, lines)| (at, lines.into_iter().map(|line| line.text).collect()))
    }

    fn some(at: usize, texts: &[&str]) -> Option<(usize, Vec<String>)> {
        Some((at, texts.iter().map(|text| (*text).to_owned()).collect()))
    }

    #[test]
    fn lines_come_in_the_order_of_their_times() {
        let mut merge = Merge::new(2);
        merge.add(0, vec![line(1, "a"), line(2, "b"), line(9, "e")]);
        assert_eq!(texts(merge.next(false)), None, "the other may be older");
        merge.add(1, vec![line(3, "c"), line(4, "d")]);
        assert_eq!(texts(merge.next(false)), some(0, &["a", "b"]));
        assert_eq!(texts(merge.next(false)), some(1, &["c", "d"]));
        assert_eq!(texts(merge.next(false)), None);
        merge.end(1);
        assert_eq!(texts(merge.next(false)), some(0, &["e"]));
        assert!(!merge.has_waiting());
    }

    #[test]
    fn in_a_hurry_a_silent_log_is_not_waited_for() {
        let mut merge = Merge::new(3);
        merge.add(0, vec![line(5, "b")]);
        merge.add(2, vec![line(4, "a"), line(6, "c")]);
        assert_eq!(texts(merge.next(true)), some(2, &["a"]));
        assert_eq!(texts(merge.next(true)), some(0, &["b"]));
        assert_eq!(texts(merge.next(true)), some(2, &["c"]));
        assert_eq!(texts(merge.next(true)), None);
    }

    #[test]
    fn a_log_that_runs_ahead_is_held() {
        let mut merge = Merge::new(2);
        merge.add(0, vec![line(1, &"x".repeat(WAITING_BYTES_MAX))]);
        assert!(!merge.has_room(0) && merge.has_room(1));
        merge.end(1);
        merge.next(false).unwrap();
        assert!(merge.has_room(0));
    }

    fn slots(count: u32) -> Vec<SlotId> {
        let slot = |index| format!("web[{index}]").parse().unwrap();
        (0..count).map(slot).collect()
    }

    #[tokio::test]
    async fn a_followed_log_is_shown_though_another_is_silent() {
        let (to, log) = mpsc::channel(1);
        let (_silent, other) = mpsc::channel(1);
        let (frames, mut shown) = mpsc::channel(1);
        spawn("merge", async move {
            run(&slots(2), vec![log, other], true, &frames).await;
        });
        to.send(vec![line(1, "a")]).await.unwrap();
        let Some(ApiFrame::Lines(lines)) = shown.recv().await else {
            panic!("lines are shown");
        };
        assert_eq!((lines.slot.index, lines.lines), (0, vec![line(1, "a")]));
    }

    #[tokio::test]
    async fn logs_that_end_are_merged_to_their_ends() {
        let logs: Vec<_> = (0..3_u64)
            .map(|at| {
                let (to, log) = mpsc::channel(1);
                spawn("log", async move {
                    for round in 0..50 {
                        let lines = vec![line(round * 3 + at, "x")];
                        to.send(lines).await.unwrap();
                    }
                });
                log
            })
            .collect();
        let (frames, mut shown) = mpsc::channel(1);
        spawn("merge", async move {
            run(&slots(3), logs, false, &frames).await;
        });
        let mut times = Vec::new();
        while let Some(ApiFrame::Lines(lines)) = shown.recv().await {
            times.extend(lines.lines.iter().map(|line| line.at.0));
        }
        assert_eq!(times, (0..150).collect::<Vec<u64>>());
    }
}
