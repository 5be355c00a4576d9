//! Takes what a task prints and makes segments of it.
//!
//! It never fails towards its caller, since a task must not die of a full
//! disk. What follows when the disk refuses is the task's choice:
//!
//! ```text
//! writing ──the disk refuses──▶ refused ──retried, it takes──▶ writing
//! ```
//!
//! - *Wait*: nothing is lost. Lines that no flush brought to the file are kept
//!   in memory and written again later; meanwhile the caller takes no more
//!   from the task ([`LogWriter::waits`]), which waits at its full pipe.
//! - *Drop*: lines are counted, keep their numbers, and are gone.
//!
//! Either way a line of its own says so once the disk takes lines again.

use super::{
    FLUSH_BYTES, FRAME_BYTES_MAX, LINE_BYTES_MAX, RECORD_BYTES_MAX, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, SEGMENT_FILES_MAX, SEGMENTS_KEPT, Stream, find_line_feed,
    frames::OpenSegment,
    reader::next_seq,
    segment::{self, segments},
};
use potluck_specs::job::{LogPolicy, WhenFull};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Text that a log that waits keeps for a second try at most, but for what
/// one call of [`LogWriter::write`] brings: then it is flushed.
const KEPT_BYTES: usize = 64 << 10;

/// What it keeps at most while the disk refuses: what one read of a pipe may
/// come to when it is all line feeds. Only a task that has ended can bring
/// more, and loses it.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// The sizes, so that tests can have small ones, and the task's choice.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Text in one frame.
    pub frame_bytes: usize,
    /// Compressed size at which a segment is closed, at the end of a frame.
    pub segment_bytes: u64,
    /// All segments but the open one: the oldest go first.
    pub total_bytes: u64,
    /// Number of files.
    pub files: usize,
    /// Segments that nothing was added to for so long go. Such a log turns to
    /// a new one several times in that time.
    pub age_ms: Option<u64>,
    /// What follows when the disk refuses.
    pub when_full: WhenFull,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits::from(LogPolicy::default())
    }
}

impl From<LogPolicy> for LogLimits {
    fn from(policy: LogPolicy) -> LogLimits {
        let segment_bytes = policy.keep_bytes / SEGMENTS_KEPT;
        LogLimits {
            frame_bytes: FRAME_BYTES_MAX,
            segment_bytes: segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            total_bytes: policy.keep_bytes,
            files: SEGMENT_FILES_MAX,
            age_ms: policy.keep_ms,
            when_full: policy.when_full,
        }
    }
}

impl LogLimits {
    /// The same, for a task that may use so much of the disk in all: its log
    /// has at most a quarter of it, so that a task is never stopped for its
    /// lines alone.
    pub fn within(self, disk_bytes: Option<u64>) -> LogLimits {
        const PART: u64 = 4;
        /// Smallest segment: its one frame must hold a longest line. A job may
        /// not ask for less than 4 MiB, of which its log has a third then.
        const SEGMENT_LEAST: u64 = 128 << 10;
        let Some(disk_bytes) = disk_bytes else {
            return self;
        };
        // The open segment comes on top of those that are kept, and ends at
        // the end of a frame, which is at most as long.
        let share = disk_bytes / PART / (SEGMENTS_KEPT + 2);
        let segment_bytes = share.clamp(SEGMENT_LEAST, SEGMENT_BYTES_MAX);
        LogLimits {
            frame_bytes: self.frame_bytes.min(segment_bytes as usize),
            segment_bytes: self.segment_bytes.min(segment_bytes),
            total_bytes: self.total_bytes.min(segment_bytes * SEGMENTS_KEPT),
            ..self
        }
    }
}

/// Writes the log of one start of a task.
pub struct LogWriter {
    folder: PathBuf,
    limits: LogLimits,
    next_seq: u64,
    next_number: u64,
    /// Opened with the first line: a silent task costs nothing.
    segment: Option<OpenSegment>,
    unfinished: [Vec<u8>; 2],
    record: Vec<u8>,
    kept: Kept,
    refused: Option<Refused>,
    /// Ends of frames until one is refused.
    #[cfg(test)]
    refuse_after: Option<u32>,
    /// What each line takes: a slow disk.
    #[cfg(test)]
    pause_for_test: Option<std::time::Duration>,
}

/// A log between two writers of the same start: what the next one can't read
/// from the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRest {
    /// Of the next line.
    next_seq: u64,
    /// Of the next segment.
    next_number: u64,
    /// Output and errors: the line that has no end yet.
    #[serde(with = "serde_bytes")]
    unfinished_out: Vec<u8>,
    #[serde(with = "serde_bytes")]
    unfinished_err: Vec<u8>,
}

/// Lines in a row that no flush has brought to the file.
#[derive(Default)]
struct Kept {
    /// Of the first.
    from_seq: u64,
    lines: u64,
    records: Vec<u8>,
}

/// The disk refuses lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The disk's words.
    pub why: String,
    /// Unix time of the first refusal.
    pub since: u64,
    /// Lines that are lost by now.
    pub lost: u64,
}

impl LogWriter {
    /// Continues the log of a folder, which is made if it is missing.
    ///
    /// # Errors
    /// If the folder can't be made or read.
    pub fn open(folder: &Path, limits: LogLimits) -> io::Result<LogWriter> {
        fs::create_dir_all(folder)?;
        let last = segment::list(folder)?.last().copied();
        let rest = LogRest {
            next_seq: next_seq(folder)?,
            next_number: last.map_or(0, |last| last.saturating_add(1)),
            unfinished_out: Vec::new(),
            unfinished_err: Vec::new(),
        };
        Ok(LogWriter::go_on(folder, limits, rest))
    }

    /// Continues where another writer of the same start came to rest. Touches
    /// no disk.
    pub fn go_on(folder: &Path, limits: LogLimits, rest: LogRest) -> LogWriter {
        LogWriter {
            folder: folder.into(),
            limits,
            next_seq: rest.next_seq,
            next_number: rest.next_number,
            segment: None,
            unfinished: [rest.unfinished_out, rest.unfinished_err],
            record: Vec::new(),
            kept: Kept::default(),
            refused: None,
            #[cfg(test)]
            refuse_after: None,
            #[cfg(test)]
            pause_for_test: None,
        }
    }

    /// Comes to rest: all lines are in files that readers read to their ends,
    /// and no segment is open. It can be written to afterwards. `false` if the
    /// disk refuses.
    pub fn rest(&mut self, now: u64) -> bool {
        self.flush(now);
        match self.segment.take().map_or(Ok(()), OpenSegment::close) {
            Ok(()) if self.refused.is_none() => self.kept.forget_before(self.next_seq),
            Ok(()) => {}
            Err(error) => self.refuse(&error, now),
        }
        self.refused.is_none()
    }

    /// What another writer needs to go on. Only for one at rest.
    pub fn hand_on(&self) -> LogRest {
        let [unfinished_out, unfinished_err] = self.unfinished.clone();
        LogRest {
            next_seq: self.next_seq,
            next_number: self.next_number,
            unfinished_out,
            unfinished_err,
        }
    }

    /// Takes bytes as the task wrote them; `now` is Unix time.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8], now: u64) {
        while let Some(end) = find_line_feed(bytes) {
            self.end_line(stream, &bytes[..end], now);
            bytes = &bytes[end + 1..];
        }
        self.keep_unfinished(stream, bytes, now);
        if self.unflushed_bytes() >= FLUSH_BYTES {
            self.flush(now);
        }
    }

    /// Brings all lines taken so far into the file, so that readers see them.
    /// A line without an end waits for it.
    pub fn flush(&mut self, now: u64) {
        let Some(segment) = &mut self.segment else {
            return;
        };
        match segment.flush() {
            Ok(()) => self.kept.forget_before(self.next_seq),
            Err(error) => self.refuse(&error, now),
        }
    }

    /// Lines that were thrown away before they came here, by whom a disk that
    /// does not answer would have held up. They keep their numbers, a line of
    /// its own tells of them, and what they interrupt ends there.
    pub fn skip(&mut self, lines: u64, why: &str, now: u64) {
        for stream in [Stream::Out, Stream::Err] {
            self.end_unfinished(stream, now);
        }
        // Within a frame lines are counted without a jump.
        match self.segment.as_mut().map(OpenSegment::end_frame) {
            Some(Ok(())) => self.kept.forget_before(self.next_seq),
            Some(Err(error)) => self.refuse(&error, now),
            None => {}
        }
        self.next_seq += lines;
        match &mut self.refused {
            Some(refused) => refused.lost += lines,
            None => {
                let note = lost_words(lines, why);
                self.append(Stream::Err, false, note.as_bytes(), now);
            }
        }
    }

    /// Text that readers can't see yet: there is something to flush.
    pub fn unflushed_bytes(&self) -> usize {
        let segment = self.segment.as_ref();
        segment.map_or(0, OpenSegment::unflushed_bytes)
    }

    /// What is amiss with the disk. While there is something, call
    /// [`Self::retry`] now and then.
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// It can take no more from the task now.
    pub fn waits(&self) -> bool {
        self.refused.is_some() && self.limits.when_full == WhenFull::Block
    }

    /// Tries the disk again: what was kept is written, then a line that tells
    /// what happened.
    pub fn retry(&mut self, now: u64) {
        let Some(refused) = self.refused.take() else {
            return;
        };
        match self.write_again(&refused, now) {
            Ok(()) => {
                self.next_seq += 1;
                self.kept.forget_before(self.next_seq);
            }
            Err(error) => {
                self.refuse(&error, now);
                self.refused = self.refused.take().map(|again| Refused {
                    why: again.why,
                    ..refused
                });
            }
        }
    }

    fn write_again(&mut self, refused: &Refused, now: u64) -> io::Result<()> {
        // What reaches the file on the way is kept no longer, so that a second
        // refusal doubles nothing.
        let (records, from_seq) = (self.kept.records.clone(), self.kept.from_seq);
        self.write_records(&records, from_seq)?;
        let mut note = Vec::new();
        let text = refused.words(now);
        write_record(&mut note, Stream::Err, false, text.as_bytes(), now);
        self.place(&note, self.next_seq, now)?;
        self.segment.as_mut().map_or(Ok(()), OpenSegment::flush)
    }

    fn write_records(&mut self, records: &[u8], from_seq: u64) -> io::Result<()> {
        for (record, seq) in records
            .split_inclusive(|byte| *byte == b'\n')
            .zip(from_seq..)
        {
            self.place(record, seq, taken_at(record))?;
        }
        Ok(())
    }

    /// Ends the log: lines without an end are written as they are, the
    /// segment is closed and synced. What the disk refuses now is lost: a task
    /// that has ended does not wait for it.
    ///
    /// # Errors
    /// What was refused.
    pub fn finish(mut self, now: u64) -> Result<(), Refused> {
        self.retry(now);
        for stream in [Stream::Out, Stream::Err] {
            self.end_unfinished(stream, now);
        }
        self.flush(now);
        if let Some(segment) = self.segment.take()
            && let Err(error) = segment.finish()
        {
            self.refuse(&error, now);
        }
        match self.refused {
            None => Ok(()),
            Some(refused) => Err(Refused {
                lost: refused.lost + self.kept.lines,
                ..refused
            }),
        }
    }

    fn end_unfinished(&mut self, stream: Stream, now: u64) {
        let rest = std::mem::take(&mut self.unfinished[stream as usize]);
        if !rest.is_empty() {
            self.append(stream, true, &rest, now);
        }
    }

    fn end_line(&mut self, stream: Stream, text: &[u8], now: u64) {
        if self.unfinished[stream as usize].is_empty() && text.len() <= LINE_BYTES_MAX {
            return self.append(stream, false, text, now);
        }
        self.keep_unfinished(stream, text, now);
        let mut line = std::mem::take(&mut self.unfinished[stream as usize]);
        self.append(stream, false, &line, now);
        line.clear();
        // A long line now and then must not stay in memory for ever.
        line.shrink_to(FLUSH_BYTES);
        self.unfinished[stream as usize] = line;
    }

    /// Adds to the line that has no end yet; what exceeds the limit of a line
    /// goes out as parts of it.
    fn keep_unfinished(&mut self, stream: Stream, mut text: &[u8], now: u64) {
        loop {
            let kept = &mut self.unfinished[stream as usize];
            let room = LINE_BYTES_MAX - kept.len();
            if text.len() <= room {
                return kept.extend_from_slice(text);
            }
            kept.extend_from_slice(&text[..room]);
            text = &text[room..];
            let part = std::mem::take(kept);
            self.append(stream, true, &part, now);
        }
    }

    /// One line, one number, whether it can be written or not.
    fn append(&mut self, stream: Stream, partial: bool, text: &[u8], now: u64) {
        #[cfg(test)]
        self.pause();
        let seq = self.next_seq;
        self.next_seq += 1;
        let waits = self.limits.when_full == WhenFull::Block;
        if let Some(refused) = &mut self.refused
            && (!waits || refused.lost > 0 || self.kept.records.len() > KEPT_BYTES_MAX)
        {
            refused.lost += 1;
            return;
        }
        let mut record = std::mem::take(&mut self.record);
        write_record(&mut record, stream, partial, text, now);
        debug_assert!(record.len() <= RECORD_BYTES_MAX);
        let written = match self.refused {
            Some(_) => Ok(()),
            None => self.place(&record, seq, now),
        };
        if waits {
            self.kept.add(&record, seq);
        }
        if let Err(error) = written {
            self.refuse(&error, now);
            self.lose(u64::from(!waits));
        }
        record.clear();
        record.shrink_to(FLUSH_BYTES);
        self.record = record;
        if self.kept.records.len() >= KEPT_BYTES {
            self.flush(now);
        }
    }

    /// Writes a line behind the others, in a new frame or segment if its time
    /// has come.
    fn place(&mut self, record: &[u8], seq: u64, ms: u64) -> io::Result<()> {
        if let Some(segment) = &mut self.segment {
            let is_old = self.limits.age_ms.is_some_and(|age_ms| {
                ms.saturating_sub(segment.first_ms()) > age_ms / SEGMENTS_KEPT
            });
            if is_old || segment.frame_text_bytes() + record.len() > self.limits.frame_bytes {
                segment.end_frame()?;
                self.kept.forget_before(seq);
                #[cfg(test)]
                refuse_in_test(&mut self.refuse_after)?;
                if is_old || segment.bytes() >= self.limits.segment_bytes {
                    self.segment.take().map_or(Ok(()), OpenSegment::finish)?;
                }
            }
        }
        if self.segment.is_none() {
            self.segment = Some(self.next_segment()?);
        }
        let segment = self.segment.as_mut().expect("it was just opened");
        segment.append(record, seq, ms)
    }

    fn next_segment(&mut self) -> io::Result<OpenSegment> {
        self.make_room();
        match OpenSegment::create(&self.folder, self.next_number) {
            // Made by a try that the disk called a failure, or that could not
            // be removed: its number is used up.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let last = segment::list(&self.folder)?.last().copied();
                let used = last.unwrap_or_default().max(self.next_number);
                self.next_number = used.saturating_add(1);
            }
            created => {
                let segment = created?;
                self.next_number += 1;
                return Ok(segment);
            }
        }
        let segment = OpenSegment::create(&self.folder, self.next_number)?;
        self.next_number += 1;
        Ok(segment)
    }

    /// Removes the oldest segments until one more is within the limits. The
    /// newest stays, since the numbers of further lines go on from it. What
    /// can't be removed stays too: the disk will say so soon enough.
    pub(super) fn make_room(&self) {
        let mut kept_bytes = 0;
        let all = segments(&self.folder).unwrap_or_default();
        for (kept_files, one) in all.iter().rev().enumerate() {
            kept_bytes += one.bytes;
            let is_too_much =
                kept_files + 1 >= self.limits.files || kept_bytes > self.limits.total_bytes;
            if is_too_much && !one.is_newest {
                let _ = fs::remove_file(&one.path);
            }
        }
    }

    /// Removes segments that are too old. The newest stays, since the numbers
    /// of further lines go on from it.
    pub fn forget_old(&self, now: u64) {
        let Some(age_ms) = self.limits.age_ms else {
            return;
        };
        let all = segments(&self.folder).unwrap_or_default();
        for one in all.iter().filter(|one| !one.is_newest) {
            if now.saturating_sub(one.written_at.0) > age_ms {
                let _ = fs::remove_file(&one.path);
            }
        }
    }

    /// The segment ends at what was flushed; what was not is lost, or kept.
    fn refuse(&mut self, error: &io::Error, now: u64) {
        let unflushed = self.segment.take().map_or(0, OpenSegment::abandon);
        let refused = self.refused.get_or_insert_with(|| Refused {
            why: String::new(),
            since: now,
            lost: 0,
        });
        refused.why = error.to_string();
        if self.limits.when_full == WhenFull::Drop {
            self.lose(unflushed);
        }
    }

    fn lose(&mut self, lines: u64) {
        if let Some(refused) = &mut self.refused {
            refused.lost += lines;
        }
    }

    /// As if the disk refused what comes after so many ends of frames.
    #[cfg(test)]
    pub(super) fn refuse_after_for_test(&mut self, frames: u32) {
        self.refuse_after = Some(frames);
    }

    /// As if the disk took so long for each line.
    #[cfg(test)]
    pub(crate) fn pause_for_test(&mut self, pause: std::time::Duration) {
        self.pause_for_test = Some(pause);
    }

    #[cfg(test)]
    #[allow(
        clippy::disallowed_methods,
        reason = "nothing is waited for: it is slow"
    )]
    fn pause(&self) {
        std::thread::sleep(self.pause_for_test.unwrap_or_default());
    }

    /// As if the disk had refused the open segment's next bytes.
    #[cfg(test)]
    pub(super) fn refuse_for_test(&mut self, now: u64) {
        self.refuse(&io::Error::other("the test says no"), now);
    }
}

impl Kept {
    fn add(&mut self, record: &[u8], seq: u64) {
        if self.lines == 0 {
            self.from_seq = seq;
        }
        self.lines += 1;
        self.records.extend_from_slice(record);
    }

    /// All lines with lower numbers are in the file.
    fn forget_before(&mut self, seq: u64) {
        let gone = seq.saturating_sub(self.from_seq).min(self.lines);
        if gone == self.lines {
            self.records.clear();
        } else {
            let lines = self.records.split_inclusive(|byte| *byte == b'\n');
            let bytes: usize = lines.take(gone as usize).map(<[u8]>::len).sum();
            self.records.drain(..bytes);
        }
        self.lines -= gone;
        self.from_seq += gone;
        self.records.shrink_to(2 * FLUSH_BYTES);
    }
}

impl Refused {
    fn words(&self, now: u64) -> String {
        let why = &self.why;
        match self.lost {
            0 => {
                let seconds = now.saturating_sub(self.since) / 1_000;
                format!("-- the log waited {seconds} s: {why} --")
            }
            lost => lost_words(lost, why),
        }
    }
}

#[cfg(test)]
fn refuse_in_test(after: &mut Option<u32>) -> io::Result<()> {
    match after {
        Some(0) => {
            *after = None;
            Err(io::Error::other("the test says no"))
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

fn lost_words(lines: u64, why: &str) -> String {
    match lines {
        1 => format!("-- 1 line lost: {why} --"),
        lines => format!("-- {lines} lines lost: {why} --"),
    }
}

/// When a line was taken, which is how its record begins.
fn taken_at(record: &[u8]) -> u64 {
    let digits = record.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |time: u64, digit| {
        time.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
    })
}

fn write_record(record: &mut Vec<u8>, stream: Stream, partial: bool, text: &[u8], now: u64) {
    let stream = match (stream, partial) {
        (Stream::Out, false) => "O",
        (Stream::Out, true) => "OP",
        (Stream::Err, false) => "E",
        (Stream::Err, true) => "EP",
    };
    write!(record, "{now} {stream} ").expect("memory takes every write");
    record.extend_from_slice(text);
    record.push(b'\n');
}
