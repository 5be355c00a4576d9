//! Takes what a task prints and makes segments of it.
//!
//! It never fails towards its caller, since a task must not die of a full
//! disk: lines that can't be written are counted and given their numbers, and
//! the next segment that can be opened says so in a line of its own.

use super::{
    FLUSH_BYTES, FRAME_BYTES_MAX, LINE_BYTES_MAX, RECORD_BYTES_MAX, SEGMENT_BYTES_MAX,
    SEGMENT_FILES_MAX, SEGMENTS_KEPT, Stream, WINDOW_LOG, find_line_feed,
    reader::next_seq,
    segment::{self, FrameHeader},
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

/// Compressed bytes between two writes to the file.
const OUTPUT_BYTES: usize = 16 << 10;

/// Pause before a segment is opened again after an error.
const RETRY_MS: u64 = 1_000;

/// The sizes, so that tests can have small ones.
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
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            frame_bytes: FRAME_BYTES_MAX,
            segment_bytes: SEGMENT_BYTES_MAX,
            total_bytes: SEGMENT_BYTES_MAX * SEGMENTS_KEPT,
            files: SEGMENT_FILES_MAX,
        }
    }
}

/// The part of a task's disk that its log may have: the rest is the task's.
const LOG_PART: u64 = 4;

/// Smallest segment for a task of little disk, in compressed bytes: a frame
/// must hold a longest line. The least that a job may ask for is 4 MiB, of
/// which its log has a third then.
const SEGMENT_BYTES_MIN: u64 = 128 << 10;

impl LogLimits {
    /// For a task that may use so much of the disk in all: its log has at most
    /// a quarter of it, so that a task is never stopped for its lines alone.
    pub fn of_disk(disk_bytes: Option<u64>) -> LogLimits {
        let usual = LogLimits::default();
        let Some(disk_bytes) = disk_bytes else {
            return usual;
        };
        // The open segment comes on top of those that are kept, and ends at
        // the end of a frame, which is at most as long.
        let share = disk_bytes / LOG_PART / (SEGMENTS_KEPT + 2);
        let segment_bytes = share.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        LogLimits {
            frame_bytes: usual.frame_bytes.min(segment_bytes as usize),
            segment_bytes,
            total_bytes: segment_bytes * SEGMENTS_KEPT,
            files: usual.files,
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
    segment: Option<Segment>,
    unfinished: [Vec<u8>; 2],
    record: Vec<u8>,
    lost: Lost,
}

/// Lines that no segment has, since the last time that one could be written.
#[derive(Default)]
struct Lost {
    lines: u64,
    why: String,
    retry_at: u64,
}

impl LogWriter {
    /// Continues the log of a folder, which is made if it is missing.
    ///
    /// # Errors
    /// If the folder can't be made or read.
    pub fn open(folder: &Path, limits: LogLimits) -> io::Result<LogWriter> {
        fs::create_dir_all(folder)?;
        let last = segment::list(folder)?.last().copied();
        Ok(LogWriter {
            folder: folder.into(),
            limits,
            next_seq: next_seq(folder)?,
            next_number: last.map_or(0, |last| last.saturating_add(1)),
            segment: None,
            unfinished: [Vec::new(), Vec::new()],
            record: Vec::new(),
            lost: Lost::default(),
        })
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
        if let Some(segment) = &mut self.segment
            && let Err(error) = segment.flush()
        {
            self.lose(&error, 0, now);
        }
    }

    /// Text that readers can't see yet: there is something to flush.
    pub fn unflushed_bytes(&self) -> usize {
        let segment = self.segment.as_ref();
        segment.map_or(0, |segment| segment.unflushed_bytes)
    }

    /// Ends the log: lines without an end are written as they are, the
    /// segment is closed and synced.
    pub fn finish(mut self, now: u64) {
        for stream in [Stream::Out, Stream::Err] {
            let rest = std::mem::take(&mut self.unfinished[stream as usize]);
            if !rest.is_empty() {
                self.append(stream, true, &rest, now);
            }
        }
        if let Some(segment) = self.segment.take() {
            // Nobody is left to tell.
            let _ = segment.finish();
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
        if self.lost.lines > 0 && !self.recover(now) {
            self.lost.lines += 1;
            self.next_seq += 1;
            return;
        }
        let mut record = std::mem::take(&mut self.record);
        write_record(&mut record, stream, partial, text, now);
        if let Err(error) = self.append_record(&record, now) {
            self.lose(&error, 1, now);
        }
        record.clear();
        record.shrink_to(FLUSH_BYTES);
        self.record = record;
    }

    fn append_record(&mut self, record: &[u8], now: u64) -> io::Result<()> {
        debug_assert!(record.len() <= RECORD_BYTES_MAX);
        let seq = self.next_seq;
        self.next_seq += 1;
        if let Some(segment) = &mut self.segment
            && segment.frame_text_bytes + record.len() > self.limits.frame_bytes
        {
            segment.end_frame()?;
            if segment.bytes >= self.limits.segment_bytes
                && let Some(segment) = self.segment.take()
            {
                segment.finish()?;
            }
        }
        if self.segment.is_none() {
            self.segment = Some(self.next_segment()?);
        }
        let segment = self.segment.as_mut().expect("it was just opened");
        segment.append(record, seq, now)
    }

    fn next_segment(&mut self) -> io::Result<Segment> {
        self.make_room();
        let segment = Segment::create(&segment::path(&self.folder, self.next_number))?;
        self.next_number += 1;
        Ok(segment)
    }

    /// Removes the oldest segments until one more is within the limits. What
    /// can't be removed stays: the disk will say so soon enough.
    fn make_room(&self) {
        let mut kept_bytes = 0;
        let numbers = segment::list(&self.folder).unwrap_or_default();
        for (kept_files, number) in numbers.iter().rev().enumerate() {
            let path = segment::path(&self.folder, *number);
            kept_bytes += fs::metadata(&path).map_or(0, |meta| meta.len());
            if kept_files + 1 >= self.limits.files || kept_bytes > self.limits.total_bytes {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Leaves the segment as it is, torn; what was not flushed is lost with
    /// the `lines` that could not be added.
    fn lose(&mut self, error: &io::Error, lines: u64, now: u64) {
        let torn = self.segment.take();
        let unflushed = torn.map_or(0, |segment| segment.unflushed_lines);
        self.lost.lines += lines + unflushed;
        self.lost.why = error.to_string();
        self.lost.retry_at = now.saturating_add(RETRY_MS);
    }

    /// As if the disk had refused the open segment's next bytes.
    #[cfg(test)]
    pub(super) fn fail_for_test(&mut self, now: u64) {
        self.lose(&io::Error::other("the test says no"), 1, now);
    }

    /// After a loss: opens a segment whose first line tells of it.
    fn recover(&mut self, now: u64) -> bool {
        if now < self.lost.retry_at {
            return false;
        }
        let lost = std::mem::take(&mut self.lost);
        let text = format!("-- {} lines lost: {} --", lost.lines, lost.why);
        let mut record = Vec::new();
        write_record(&mut record, Stream::Err, false, text.as_bytes(), now);
        match self.append_record(&record, now) {
            Ok(()) => true,
            Err(error) => {
                self.lose(&error, lost.lines, now);
                false
            }
        }
    }
}

/// A segment that is being written.
struct Segment {
    file: File,
    encoder: Encoder,
    /// Compressed, with headers.
    bytes: u64,
    /// Of text, all frames.
    text_bytes: u64,
    /// Of text in the open frame; none is open at 0.
    frame_text_bytes: usize,
    unflushed_bytes: usize,
    unflushed_lines: u64,
}

impl Segment {
    fn create(path: &Path) -> io::Result<Segment> {
        Ok(Segment {
            encoder: Encoder::new()?,
            file: File::create_new(path)?,
            bytes: 0,
            text_bytes: 0,
            frame_text_bytes: 0,
            unflushed_bytes: 0,
            unflushed_lines: 0,
        })
    }

    fn append(&mut self, record: &[u8], seq: u64, now: u64) -> io::Result<()> {
        if self.frame_text_bytes == 0 {
            let header = FrameHeader {
                first_seq: seq,
                first_ms: now,
                text_before: self.text_bytes,
            };
            self.file.write_all(&header.encode())?;
            self.bytes += segment::HEADER_BYTES as u64;
        }
        self.bytes += self.encoder.write(record, &mut self.file)?;
        self.text_bytes += record.len() as u64;
        self.frame_text_bytes += record.len();
        self.unflushed_bytes += record.len();
        self.unflushed_lines += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unflushed_bytes > 0 {
            self.bytes += self.encoder.flush(&mut self.file)?;
            self.unflushed_bytes = 0;
            self.unflushed_lines = 0;
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        if self.frame_text_bytes > 0 {
            self.bytes += self.encoder.end(&mut self.file)?;
            self.frame_text_bytes = 0;
            self.unflushed_bytes = 0;
            self.unflushed_lines = 0;
        }
        Ok(())
    }

    /// Synced here only: a sync for each frame would hold up the helper's one
    /// thread, and with it the lease, for as long as the disk likes.
    fn finish(mut self) -> io::Result<()> {
        self.end_frame()?;
        self.file.sync_data()
    }
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

/// A zstd stream without a buffer of its own beyond what is on its way to the
/// file.
struct Encoder {
    context: CCtx<'static>,
    output: Vec<u8>,
}

impl Encoder {
    fn new() -> io::Result<Encoder> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        for parameter in [
            CParameter::CompressionLevel(1),
            CParameter::WindowLog(WINDOW_LOG),
            CParameter::ChecksumFlag(true),
        ] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        Ok(Encoder {
            context,
            output: Vec::with_capacity(OUTPUT_BYTES),
        })
    }

    fn write(&mut self, text: &[u8], file: &mut File) -> io::Result<u64> {
        let mut input = InBuffer::around(text);
        let mut written = 0;
        while input.pos() < text.len() {
            self.output.clear();
            let mut output = OutBuffer::around(&mut self.output);
            self.context
                .compress_stream(&mut output, &mut input)
                .map_err(zstd_error)?;
            file.write_all(&self.output)?;
            written += self.output.len() as u64;
        }
        Ok(written)
    }

    fn flush(&mut self, file: &mut File) -> io::Result<u64> {
        self.drain(file, |context, output| context.flush_stream(output))
    }

    fn end(&mut self, file: &mut File) -> io::Result<u64> {
        let written = self.drain(file, |context, output| context.end_stream(output))?;
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(zstd_error)?;
        Ok(written)
    }

    fn drain(
        &mut self,
        file: &mut File,
        step: impl Fn(&mut CCtx<'static>, &mut OutBuffer<'_, Vec<u8>>) -> Result<usize, usize>,
    ) -> io::Result<u64> {
        let mut written = 0;
        loop {
            self.output.clear();
            let mut output = OutBuffer::around(&mut self.output);
            let left = step(&mut self.context, &mut output).map_err(zstd_error)?;
            file.write_all(&self.output)?;
            written += self.output.len() as u64;
            if left == 0 {
                return Ok(written);
            }
        }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}
