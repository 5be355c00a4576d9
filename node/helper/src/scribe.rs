//! The thread that writes the task's log, so that a disk that stalls holds up
//! nothing but lines. Why it is a thread: docs/decisions/log-thread.md.
//!
//! ```text
//! supervisor ── give ──▶ queue, QUEUE_BYTES ──▶ thread ──▶ LogWriter ──▶ disk
//!            ◀─ bell: there is room again, or the disk has another state ─┘
//! ```
//!
//! It answers for when lines are written, flushed and tried again, and for
//! having the thread pause before a clone, and stop before the process becomes
//! another program. What is done while there is no room is decided in
//! [`crate::output`].

use crate::{
    log::{FLUSH_INTERVAL_MS, LogWriter, Refused, Stream},
    supervise::{boot_now, unix_now},
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use potluck_specs::Millis;
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Output that waits for the thread. It is there for the time in which the
/// supervisor is busy with something else; what fills it waits in the pipe.
const QUEUE_BYTES: usize = 512 << 10;

/// What a chunk takes beside its bytes: its place in the queue, and what the
/// allocator adds. A task may write byte by byte.
const CHUNK_BYTES: usize = 96;

/// A disk that has not taken something for so long does not answer. Disks that
/// are only busy were seen to need some hundred milliseconds.
const STALL_MS: u64 = 1_000;

/// Why nobody can enter the task meanwhile.
const NOT_STILL: &str = "the disk of its log does not answer";

/// What is said of such a disk.
pub(crate) const STALLED: &str = "the disk does not answer";

/// And of one that answers, but not fast enough for the end of a log.
const SLOW: &str = "the disk is too slow";

/// How long a clone waits for the thread to pause: some writes of a disk that
/// is well.
const STILL_LIMIT: Duration = Duration::from_millis(500);

/// How long the log's way to rest may take before an upgrade is put off: what
/// the queue holds is written in some milliseconds by a disk that is well, and
/// the helper hears nobody meanwhile.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// How long the end of a log waits for a disk that takes nothing: longer than a
/// busy one needs to sync a segment. Nothing of the task is left by then.
const FINISH_MS: u64 = 10_000;

/// How long it waits for a disk that takes something now and then: queue and
/// pipes hold 5 MiB at most, and whoever waits for the task's end waits too.
const FINISH_ALL_MS: u64 = 30_000;

/// Between looks whether an ending log gets on.
const LOOK: Duration = Duration::from_millis(100);

/// Pause before a disk that refused is tried again.
const RETRY_MS: u64 = 1_000;

/// Between looks for segments that are too old: the least age is as much.
const FORGET_EVERY_MS: u64 = 60_000;

/// Compressing needs some 20 KiB of it.
const STACK_BYTES: usize = 256 << 10;

/// The thread, as the supervisor has it.
pub(crate) struct Scribe {
    shared: Arc<Shared>,
    /// Until it is stopped or ended.
    thread: Option<JoinHandle<()>>,
}

/// While it lives the thread does nothing, and holds no lock of the allocator:
/// this process may be cloned.
pub(crate) struct Still<'a>(&'a Shared);

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    bell: EventFd,
}

/// What both sides see.
#[derive(Default)]
struct Desk {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Since when the thread is at what it does; nothing while it waits.
    busy_since: Option<Millis>,
    /// What the disk said when it refused.
    refused: Option<String>,
    /// The supervisor wants to hear when there is room.
    wants_room: bool,
    /// Something waits in the thread for its time to be flushed.
    has_unflushed: bool,
    is_still: bool,
    /// The log is to come to rest, and then to be put into `stopped`.
    is_stopping: bool,
    stopped: Option<LogWriter>,
    is_ending: bool,
    end: Option<Result<(), Refused>>,
}

/// One thing to write, and the Unix time of it.
enum Chunk {
    Text(Stream, Vec<u8>, u64),
    /// So many lines were thrown away here.
    Lost(u64, u64),
}

enum Work {
    Chunk(Chunk),
    /// Something is due.
    Tick,
    Stop,
    End,
}

impl Scribe {
    /// Begins to write. The process must not be cloned from now on but under
    /// [`Self::still`].
    pub(crate) fn begin(log: LogWriter, has_age: bool) -> io::Result<Scribe> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let shared = Arc::new(Shared {
            // Until it waits for the first time it is busy with its beginning.
            desk: Mutex::new(Desk {
                busy_since: Some(boot_now()),
                ..Desk::default()
            }),
            changed: Condvar::new(),
            bell: EventFd::from_flags(flags)?,
        });
        let theirs = shared.clone();
        let thread = thread::Builder::new().name("log".into());
        let thread = thread.stack_size(STACK_BYTES).spawn(move || {
            // A helper without a log would hold its task up for ever.
            let written = catch_unwind(AssertUnwindSafe(|| write(&theirs, log, has_age)));
            written.unwrap_or_else(|_| std::process::abort());
        })?;
        Ok(Scribe {
            shared,
            thread: Some(thread),
        })
    }

    /// Readable when there may be news.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    /// Takes the bell's word.
    pub(crate) fn hear(&self) {
        let _ = self.shared.bell.read();
    }

    /// May more be given? If not, the bell says when.
    pub(crate) fn has_room(&self) -> bool {
        let mut desk = self.shared.desk();
        desk.wants_room = desk.bytes >= QUEUE_BYTES;
        !desk.wants_room
    }

    /// Hands text on. It is never refused: whoever gives more than there is
    /// room for has its own bound.
    pub(crate) fn give(&self, stream: Stream, bytes: &[u8]) {
        self.put(
            Chunk::Text(stream, bytes.to_vec(), unix_now().0),
            bytes.len(),
        );
    }

    /// So many lines were not given.
    pub(crate) fn lost(&self, lines: u64) {
        self.put(Chunk::Lost(lines, unix_now().0), 0);
    }

    fn put(&self, chunk: Chunk, bytes: usize) {
        let mut desk = self.shared.desk();
        desk.chunks.push_back(chunk);
        desk.bytes += bytes + CHUNK_BYTES;
        drop(desk);
        self.shared.changed.notify_all();
    }

    /// What the disk said, if it refuses.
    pub(crate) fn refused(&self) -> Option<String> {
        self.shared.desk().refused.clone()
    }

    /// Nothing is heard of the disk.
    pub(crate) fn is_stalled(&self) -> bool {
        self.shared.desk().is_at_it_for(STALL_MS)
    }

    /// Something is not written yet, so it may turn out to be stalled.
    pub(crate) fn is_busy(&self) -> bool {
        self.shared.desk().is_busy()
    }

    /// Has the thread pause.
    ///
    /// # Errors
    /// It does not: the disk stalls.
    pub(crate) fn still(&self) -> Result<Still<'_>, &'static str> {
        let mut desk = self.shared.desk();
        if desk.is_at_it_for(STALL_MS) {
            // Nothing else is heard meanwhile: what is known is not waited for.
            return Err(NOT_STILL);
        }
        desk.is_still = true;
        let wait = self
            .shared
            .changed
            .wait_timeout_while(desk, STILL_LIMIT, |desk| desk.busy_since.is_some());
        let still = Still(&self.shared);
        let (desk, timeout) = wait.expect(UNHARMED);
        drop(desk);
        match timeout.timed_out() {
            true => Err(NOT_STILL),
            false => Ok(still),
        }
    }

    /// Has all be written and the thread end, so that this process may become
    /// another program. The log, at rest.
    ///
    /// # Errors
    /// The disk does not take it, and all goes on as it was.
    pub(crate) fn stop(&mut self) -> Result<LogWriter, String> {
        let mut desk = self.shared.desk();
        if let Some(why) = &desk.refused {
            return Err(why.clone());
        }
        desk.is_stopping = true;
        self.shared.changed.notify_all();
        let goes_on = |desk: &mut Desk| desk.stopped.is_none() && desk.refused.is_none();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(desk, STOP_LIMIT, goes_on);
        let mut desk = waited.expect(UNHARMED).0;
        desk.is_stopping = false;
        let Some(log) = desk.stopped.take() else {
            return Err(desk.refused.clone().unwrap_or_else(|| STALLED.into()));
        };
        drop(desk);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Ok(log)
    }

    /// Ends the log.
    ///
    /// # Errors
    /// What of it is lost, and why.
    pub(crate) fn finish(self) -> Result<(), String> {
        self.finish_within(FINISH_MS, FINISH_ALL_MS)
    }

    fn finish_within(mut self, silent_ms: u64, all_ms: u64) -> Result<(), String> {
        let until = boot_now() + Millis(all_ms);
        let mut desk = self.shared.desk();
        desk.is_ending = true;
        self.shared.changed.notify_all();
        while desk.end.is_none() && !desk.is_at_it_for(silent_ms) && boot_now() < until {
            let waited = self.shared.changed.wait_timeout(desk, LOOK);
            desk = waited.expect(UNHARMED).0;
        }
        let Some(end) = desk.end.take() else {
            // What is said to be lost is not written a little later.
            let left = std::mem::take(&mut desk.chunks);
            let lines = left.iter().map(Chunk::lines).sum::<u64>();
            let why = match desk.is_at_it_for(silent_ms) {
                true => STALLED,
                false => SLOW,
            };
            return Err(format!(
                "{why}; at its end {lines} lines were lost, and what was on its way"
            ));
        };
        drop(desk);
        // It has nothing left to do.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        end.map_err(|refused| {
            let Refused { why, lost, .. } = refused;
            format!("{why}; at its end {lost} lines were lost")
        })
    }
}

/// A panic of the thread ends the process.
const UNHARMED: &str = "no one panics with the desk's lock";

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.desk().is_still = false;
        self.0.changed.notify_all();
    }
}

impl Chunk {
    fn lines(&self) -> u64 {
        match self {
            Chunk::Text(_, bytes, _) => count_lines(bytes),
            Chunk::Lost(lines, _) => *lines,
        }
    }
}

/// Lines that end in these bytes.
pub(crate) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

impl Desk {
    fn is_at_it_for(&self, ms: u64) -> bool {
        let now = boot_now();
        self.busy_since
            .is_some_and(|since| now.since(since).0 >= ms)
    }

    fn is_busy(&self) -> bool {
        self.busy_since.is_some() || !self.chunks.is_empty() || self.has_unflushed
    }

    /// What to do now, if there is something. A log that waits for its disk
    /// takes nothing, unless its task has ended.
    fn work(&mut self, waits: bool, due: Option<Millis>) -> Option<Work> {
        if self.is_still {
            return None;
        }
        if due.is_some_and(|due| boot_now() >= due) {
            return Some(Work::Tick);
        }
        if waits && !self.is_ending {
            return None;
        }
        match self.chunks.pop_front() {
            Some(chunk) => {
                self.bytes -= CHUNK_BYTES;
                if let Chunk::Text(_, bytes, _) = &chunk {
                    self.bytes -= bytes.len();
                }
                Some(Work::Chunk(chunk))
            }
            None if self.is_stopping => Some(Work::Stop),
            None => self.is_ending.then_some(Work::End),
        }
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect(UNHARMED)
    }

    /// Waits for something to do.
    fn next(&self, waits: bool, due: Option<Millis>) -> Work {
        let mut desk = self.desk();
        loop {
            if let Some(work) = desk.work(waits, due) {
                desk.busy_since = Some(boot_now());
                return work;
            }
            if desk.busy_since.take().is_some() && desk.is_still {
                self.changed.notify_all();
            }
            desk = match due.filter(|_| !desk.is_still) {
                None => self.changed.wait(desk).expect(UNHARMED),
                Some(due) => {
                    let left = Duration::from_millis(due.since(boot_now()).0.max(1));
                    self.changed.wait_timeout(desk, left).expect(UNHARMED).0
                }
            };
        }
    }

    /// It is done. Nothing is allocated or freed from here to the next wait,
    /// but for the disk's words.
    fn done(&self, refused: Option<&str>, has_unflushed: bool) {
        let mut desk = self.desk();
        desk.has_unflushed = has_unflushed;
        let mut is_news = desk.is_at_it_for(STALL_MS);
        if desk.refused.as_deref() != refused {
            desk.refused = refused.map(String::from);
            is_news = true;
            if desk.is_stopping {
                self.changed.notify_all();
            }
        }
        if desk.wants_room && desk.bytes <= QUEUE_BYTES / 2 {
            desk.wants_room = false;
            is_news = true;
        }
        desk.busy_since = None;
        if desk.is_still {
            self.changed.notify_all();
        }
        drop(desk);
        if is_news {
            // A full counter rings as well.
            let _ = self.bell.write(1);
        }
    }
}

/// What is due, of a log.
#[derive(Default)]
struct Due {
    flush: Option<Millis>,
    retry: Option<Millis>,
    /// When old segments are looked for, of a log that has an age.
    forget: Option<Millis>,
}

impl Due {
    fn next(&self) -> Option<Millis> {
        let all = [self.flush, self.retry, self.forget];
        all.into_iter().flatten().min()
    }

    /// Does what is due.
    fn tick(&mut self, log: &mut LogWriter) {
        let now = boot_now();
        if self.flush.is_some_and(|due| now >= due) {
            self.flush = None;
            log.flush(unix_now().0);
        }
        if self.retry.is_some_and(|due| now >= due) {
            self.retry = None;
            log.retry(unix_now().0);
        }
        if self.forget.is_some_and(|due| now >= due) {
            self.forget = Some(now + Millis(FORGET_EVERY_MS));
            log.forget_old(unix_now().0);
        }
    }

    /// After anything was written or tried.
    fn note(&mut self, log: &LogWriter) {
        let now = boot_now();
        self.flush = match (log.unflushed_bytes(), self.flush) {
            (0, _) => None,
            (_, None) => Some(now + Millis(FLUSH_INTERVAL_MS)),
            (_, due) => due,
        };
        self.retry = match (log.refused(), self.retry) {
            (None, _) => None,
            (Some(_), None) => Some(now + Millis(RETRY_MS)),
            (Some(_), due) => due,
        };
    }
}

/// The thread's life.
fn write(shared: &Shared, mut log: LogWriter, has_age: bool) {
    let mut due = Due {
        forget: has_age.then(boot_now),
        ..Due::default()
    };
    let mut was_tried_at_end = false;
    loop {
        match shared.next(log.waits(), due.next()) {
            Work::Chunk(chunk) => {
                // Its task has ended, and what it left comes now.
                if log.waits() && !std::mem::replace(&mut was_tried_at_end, true) {
                    log.retry(unix_now().0);
                }
                match chunk {
                    Chunk::Text(stream, bytes, at) => log.write(stream, &bytes, at),
                    Chunk::Lost(lines, at) => log.skip(lines, STALLED, at),
                }
            }
            Work::Tick => due.tick(&mut log),
            Work::Stop => match stop(shared, log) {
                None => return,
                Some(back) => log = back,
            },
            Work::End => break,
        }
        due.note(&log);
        let refused = log.refused().map(|refused| refused.why.as_str());
        shared.done(refused, due.flush.is_some());
    }
    let end = log.finish(unix_now().0);
    let mut desk = shared.desk();
    desk.end = Some(end);
    desk.busy_since = None;
    shared.changed.notify_all();
}

/// Puts the log on the desk, at rest; or gives it back, since the disk refuses
/// or nobody waits for it any more.
fn stop(shared: &Shared, mut log: LogWriter) -> Option<LogWriter> {
    let is_well = log.rest(unix_now().0);
    let mut desk = shared.desk();
    if !is_well || !desk.is_stopping || !desk.chunks.is_empty() {
        return Some(log);
    }
    desk.stopped = Some(log);
    desk.busy_since = None;
    shared.changed.notify_all();
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogLimits, LogReader};

    fn log(folder: &std::path::Path) -> LogWriter {
        LogWriter::open(folder, LogLimits::default()).unwrap()
    }

    fn count(folder: &std::path::Path) -> u64 {
        let mut reader = LogReader::new(folder, 0);
        std::iter::from_fn(|| reader.next_line().unwrap()).count() as u64
    }

    #[test]
    fn what_waits_to_be_flushed_is_not_done_with() {
        let mut desk = Desk::default();
        assert!(!desk.is_busy());
        desk.has_unflushed = true;
        assert!(desk.is_busy(), "else nobody looks when that stalls");
    }

    #[test]
    fn a_stopped_log_is_whole_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut scribe = Scribe::begin(log(folder.path()), true).unwrap();
        for _ in 0..1_000 {
            scribe.give(
                Stream::Out,
                b"line
",
            );
        }
        scribe.give(Stream::Err, b"no ");
        let stopped = scribe.stop().unwrap();
        assert_eq!(count(folder.path()), 1_000);
        let rest = stopped.hand_on();
        let next = LogWriter::go_on(folder.path(), LogLimits::default(), rest);
        let scribe = Scribe::begin(next, true).unwrap();
        scribe.give(
            Stream::Err,
            b"end
",
        );
        scribe.finish().unwrap();
        assert_eq!(count(folder.path()), 1_001);
    }

    /// Lines that the slow disk is given, and what it takes for each.
    const LINES: u64 = 40;
    const PAUSE: Duration = Duration::from_millis(50);

    #[test]
    fn a_log_on_a_slow_disk_ends_all_the_same_and_says_what_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut slow = log(folder.path());
        slow.pause_for_test(PAUSE);
        let scribe = Scribe::begin(slow, false).unwrap();
        for _ in 0..LINES {
            scribe.give(
                Stream::Out,
                b"line
",
            );
        }
        let shared = scribe.shared.clone();
        // It is never silent for so long.
        let lost = scribe.finish_within(60_000, 300).unwrap_err();
        assert!(lost.starts_with(SLOW), "{lost}");
        let words = lost.split(' ').find_map(|word| word.parse::<u64>().ok());
        let lost = words.unwrap();
        assert!(lost > 0, "some are on the disk, not all");
        // What was on its way comes, and nothing else.
        let mut desk = shared.desk();
        while desk.end.is_none() {
            desk = shared.changed.wait(desk).unwrap();
        }
        drop(desk);
        assert_eq!(count(folder.path()) + lost, LINES);
    }
}
