//! Lines of several logs in the order of their times. Pure but for `run`,
//! which feeds it.
//!
//! Each log is in order by itself. The oldest line that waits is next once
//! every open log has a line waiting, so that no older one can come; readers
//! who follow don't wait for silent logs longer than [`HOLD`].

use crate::{
    agent::LogPlace,
    api::{
        logs::{LogLine, LogLines},
        protocol::ApiFrame,
        server::Frames,
    },
};
use futures::{StreamExt, stream::FuturesUnordered};
use potluck_specs::SlotId;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// How long a follower's lines wait for older ones of other logs.
const HOLD: Duration = Duration::from_millis(100);

/// Text of one log that waits to be merged, unless one batch has more.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// Some lines of one log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) lines: Vec<LogLine>,
    /// See [`LogLines::next`].
    pub(super) next: Option<LogPlace>,
}

impl From<Vec<LogLine>> for Part {
    fn from(lines: Vec<LogLine>) -> Part {
        let next = lines.last().map(|line| line.place().behind());
        Part { lines, next }
    }
}

/// A log to merge.
pub(super) struct Source {
    /// Whose.
    pub(super) slot: SlotId,
    /// Its lines.
    pub(super) parts: mpsc::Receiver<Part>,
}

/// What waits of each log.
#[derive(Default)]
struct Merge {
    /// By the order in which they came. One that has ended goes with its last
    /// line.
    logs: BTreeMap<u64, Log>,
    opened: u64,
}

struct Log {
    slot: SlotId,
    waiting: VecDeque<LogLine>,
    bytes: usize,
    has_ended: bool,
    /// Where it goes on behind all that waits, until that is told.
    next: Option<LogPlace>,
}

impl Merge {
    fn open(&mut self, slot: SlotId) -> u64 {
        let at = self.opened;
        self.opened += 1;
        let log = Log {
            slot,
            waiting: VecDeque::new(),
            bytes: 0,
            has_ended: false,
            next: None,
        };
        self.logs.insert(at, log);
        at
    }

    fn log(&mut self, at: u64) -> &mut Log {
        self.logs.get_mut(&at).expect("it has not ended")
    }

    fn add(&mut self, at: u64, part: Part) {
        let log = self.log(at);
        log.bytes += part.lines.iter().map(|line| line.text.len()).sum::<usize>();
        log.waiting.extend(part.lines);
        log.next = part.next.or(log.next);
    }

    fn end(&mut self, at: u64) {
        self.log(at).has_ended = true;
        self.forget_ended(at);
    }

    fn forget_ended(&mut self, at: u64) {
        let log = self.log(at);
        if log.has_ended && log.waiting.is_empty() && log.next.is_none() {
            self.logs.remove(&at);
        }
    }

    fn has_room(&self, at: u64) -> bool {
        let log = self.logs.get(&at);
        log.is_none_or(|log| log.bytes < WAITING_BYTES_MAX)
    }

    fn has_waiting(&self) -> bool {
        self.logs.values().any(|log| !log.waiting.is_empty())
    }

    /// The next lines, of one log; or, if there are none, how far one was
    /// searched for them. In a hurry, silent logs are not waited for.
    fn next(&mut self, in_hurry: bool) -> Option<LogLines> {
        let Some(first) = self.oldest(in_hurry) else {
            return self.moved();
        };
        let mut lines = Vec::new();
        while self.oldest(in_hurry) == Some(first) {
            let log = self.log(first);
            let line = log.waiting.pop_front().expect("its line is the oldest");
            log.bytes -= line.text.len();
            lines.push(line);
        }
        let log = self.log(first);
        let next = match log.waiting.is_empty() {
            true => log.next.take(),
            false => lines.last().map(|line| line.place().behind()),
        };
        let slot = log.slot.clone();
        self.forget_ended(first);
        Some(LogLines { slot, lines, next })
    }

    /// A place that no line tells.
    fn moved(&mut self) -> Option<LogLines> {
        let told = |log: &Log| log.waiting.is_empty() && log.next.is_some();
        let (at, log) = self.logs.iter_mut().find(|(_, log)| told(log))?;
        let (at, next, slot) = (*at, log.next.take(), log.slot.clone());
        self.forget_ended(at);
        let lines = Vec::new();
        Some(LogLines { slot, lines, next })
    }

    fn oldest(&self, in_hurry: bool) -> Option<u64> {
        let is_silent = |log: &Log| log.waiting.is_empty() && !log.has_ended;
        if !in_hurry && self.logs.values().any(is_silent) {
            return None;
        }
        let heads = self.logs.iter();
        heads
            .filter_map(|(at, log)| Some((log.waiting.front()?.at, *at)))
            .min()
            .map(|(_, at)| at)
    }
}

/// Merges logs into frames until all have ended and no more come, or the
/// reader has left.
pub(super) async fn run(
    sources: Vec<Source>,
    mut more: mpsc::Receiver<Source>,
    follow: bool,
    frames: &Frames,
) {
    let mut merge = Merge::default();
    let mut asked = FuturesUnordered::new();
    for source in sources {
        asked.push(receive(merge.open(source.slot), source.parts));
    }
    let mut full: Vec<(u64, mpsc::Receiver<Part>)> = Vec::new();
    let mut in_hurry = false;
    let mut may_grow = true;
    loop {
        while let Some(lines) = merge.next(in_hurry) {
            if frames.send(ApiFrame::Lines(lines)).await.is_err() {
                return;
            }
        }
        let (room, still_full) = full.into_iter().partition(|(at, _)| merge.has_room(*at));
        full = still_full;
        let room: Vec<_> = room;
        asked.extend(room.into_iter().map(|(at, log)| receive(at, log)));
        if asked.is_empty() && !may_grow {
            return;
        }
        let hold = match follow && merge.has_waiting() {
            true => HOLD,
            false => Duration::MAX,
        };
        in_hurry = false;
        tokio::select! {
            next = timeout(hold, asked.next()), if !asked.is_empty() => match next {
                Ok(None) => {}
                Err(_) => in_hurry = true,
                Ok(Some((at, _, None))) => merge.end(at),
                Ok(Some((at, log, Some(part)))) => {
                    merge.add(at, part);
                    full.push((at, log));
                }
            },
            source = more.recv(), if may_grow => match source {
                Some(source) => asked.push(receive(merge.open(source.slot), source.parts)),
                None => may_grow = false,
            },
            () = frames.closed() => return,
        }
    }
}

async fn receive(
    at: u64,
    mut log: mpsc::Receiver<Part>,
) -> (u64, mpsc::Receiver<Part>, Option<Part>) {
    let part = log.recv().await;
    (at, log, part)
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
            partial: false,
            removed_before: 0,
            text: text.into(),
            base64: None,
        }
    }

    fn place(sequence: u64) -> LogPlace {
        let origin = Generation::default();
        LogPlace { origin, sequence }
    }

    fn slot(index: u32) -> SlotId {
        format!("web[{index}]").parse().unwrap()
    }

    fn merge(logs: u32) -> Merge {
        let mut merge = Merge::default();
        for index in 0..logs {
            merge.open(slot(index));
        }
        merge
    }

    /// Whose, the lines, and where it goes on.
    fn texts(next: Option<LogLines>) -> Option<(u32, Vec<String>, Option<u64>)> {
        next.map(|part| {
            let lines = part.lines.into_iter().map(|line| line.text);
            let next = part.next.map(|place| place.sequence);
            (part.slot.index, lines.collect(), next)
        })
    }

    fn some(at: u32, texts: &[&str], next: u64) -> Option<(u32, Vec<String>, Option<u64>)> {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Some((at, texts, Some(next)))
    }

    #[test]
    fn lines_come_in_the_order_of_their_times() {
        let mut merge = merge(2);
        merge.add(0, vec![line(1, "a"), line(2, "b"), line(9, "e")].into());
        assert_eq!(texts(merge.next(false)), None, "the other may be older");
        merge.add(1, vec![line(3, "c"), line(4, "d")].into());
        assert_eq!(texts(merge.next(false)), some(0, &["a", "b"], 3));
        assert_eq!(texts(merge.next(false)), some(1, &["c", "d"], 5));
        assert_eq!(texts(merge.next(false)), None);
        merge.end(1);
        assert_eq!(texts(merge.next(false)), some(0, &["e"], 10));
        assert!(!merge.has_waiting());
        merge.end(0);
        assert!(merge.logs.is_empty(), "what has ended is forgotten");
    }

    #[test]
    fn in_a_hurry_a_silent_log_is_not_waited_for() {
        let mut merge = merge(3);
        merge.add(0, vec![line(5, "b")].into());
        merge.add(2, vec![line(4, "a"), line(6, "c")].into());
        assert_eq!(texts(merge.next(true)), some(2, &["a"], 5));
        assert_eq!(texts(merge.next(true)), some(0, &["b"], 6));
        assert_eq!(texts(merge.next(true)), some(2, &["c"], 7));
        assert_eq!(texts(merge.next(true)), None);
    }

    #[test]
    fn a_place_is_told_behind_the_lines_before_it_and_never_ahead_of_them() {
        let mut merge = merge(2);
        let moved = |sequence| Part {
            lines: Vec::new(),
            next: Some(place(sequence)),
        };
        merge.add(1, moved(7));
        assert_eq!(texts(merge.next(false)), some(1, &[], 7));
        merge.add(0, vec![line(3, "a"), line(5, "b")].into());
        merge.add(0, moved(20));
        assert_eq!(texts(merge.next(false)), None, "its lines wait");
        merge.add(1, vec![line(4, "x")].into());
        assert_eq!(texts(merge.next(false)), some(0, &["a"], 4));
        assert_eq!(texts(merge.next(false)), some(1, &["x"], 5));
        merge.end(1);
        assert_eq!(texts(merge.next(false)), some(0, &["b"], 20));
        assert_eq!(texts(merge.next(false)), None);
    }

    #[test]
    fn a_log_that_runs_ahead_is_held() {
        let mut merge = merge(2);
        merge.add(0, vec![line(1, &"x".repeat(WAITING_BYTES_MAX))].into());
        assert!(!merge.has_room(0) && merge.has_room(1));
        merge.end(1);
        merge.next(false).unwrap();
        assert!(merge.has_room(0));
    }

    fn source(index: u32) -> (mpsc::Sender<Part>, Source) {
        let (to, parts) = mpsc::channel(1);
        let slot = slot(index);
        (to, Source { slot, parts })
    }

    #[tokio::test]
    async fn a_followed_log_is_shown_though_another_is_silent() {
        let (to, log) = source(0);
        let (_silent, other) = source(1);
        let (frames, mut shown) = mpsc::channel(1);
        let (_, none) = mpsc::channel(1);
        spawn("merge", async move {
            run(vec![log, other], none, true, &frames).await;
        });
        to.send(vec![line(1, "a")].into()).await.unwrap();
        let Some(ApiFrame::Lines(lines)) = shown.recv().await else {
            panic!("lines are shown");
        };
        assert_eq!((lines.slot.index, lines.lines), (0, vec![line(1, "a")]));
    }

    #[tokio::test]
    async fn a_log_that_comes_later_is_shown_too() {
        let (first, log) = source(0);
        let (frames, mut shown) = mpsc::channel(1);
        let (more, sources) = mpsc::channel(1);
        let merged = spawn("merge", async move {
            run(vec![log], sources, true, &frames).await;
        });
        drop(first);
        let (to, later) = source(7);
        more.send(later).await.ok().unwrap();
        to.send(vec![line(1, "a")].into()).await.unwrap();
        let Some(ApiFrame::Lines(lines)) = shown.recv().await else {
            panic!("lines are shown");
        };
        assert_eq!((lines.slot.index, lines.lines), (7, vec![line(1, "a")]));
        drop((to, more));
        merged.await.unwrap();
        assert!(shown.recv().await.is_none(), "it ends with the last log");
    }

    #[tokio::test]
    async fn logs_that_end_are_merged_to_their_ends() {
        let logs: Vec<_> = (0..3_u64)
            .map(|at| {
                let (to, log) = source(at as u32);
                spawn("log", async move {
                    for round in 0..50 {
                        let lines = vec![line(round * 3 + at, "x")];
                        to.send(lines.into()).await.unwrap();
                    }
                });
                log
            })
            .collect();
        let (frames, mut shown) = mpsc::channel(1);
        let (_, none) = mpsc::channel(1);
        spawn("merge", async move {
            run(logs, none, false, &frames).await;
        });
        let mut times = Vec::new();
        while let Some(ApiFrame::Lines(lines)) = shown.recv().await {
            times.extend(lines.lines.iter().map(|line| line.at.0));
        }
        assert_eq!(times, (0..150).collect::<Vec<u64>>());
    }
}
