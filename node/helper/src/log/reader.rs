//! Reads a log from a number on, and follows it.

use super::{
    FRAME_BYTES_MAX, Line, RECORD_BYTES_MAX, Stream, WINDOW_LOG_MAX, find_line_feed,
    segment::{self, FrameHeader, HEADER_BYTES},
};
use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

/// Compressed bytes taken from a file at once.
const INPUT_BYTES: usize = 32 << 10;

/// Text decoded at once: a block of zstd.
const OUTPUT_BYTES: usize = 128 << 10;

/// A log that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// The file system says no.
    #[error("log {path} can't be read")]
    Io {
        /// Folder or segment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads and follows the log of a folder.
///
/// A segment that is torn or damaged ends where it can't be read any more;
/// the reader waits there until there is a newer segment. Lines that were
/// removed or lost show as a jump in the numbers.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    /// Lines before it are not wanted.
    from_seq: u64,
    current: Option<SegmentReader>,
    /// Segments before the present one are gone that had wanted lines.
    is_behind_gap: bool,
    /// Wanted lines that were in them, not yet told.
    removed: u64,
}

impl LogReader {
    /// Starts at line `from_seq`, or at the oldest that is still kept. The
    /// folder need not exist yet.
    pub fn new(folder: &Path, from_seq: u64) -> LogReader {
        LogReader {
            folder: folder.into(),
            from_seq,
            current: None,
            is_behind_gap: false,
            removed: 0,
        }
    }

    /// Starts at the `lines` last lines.
    ///
    /// # Errors
    /// Any [`ReadLogError`].
    pub fn tail(folder: &Path, lines: u64) -> Result<LogReader, ReadLogError> {
        let end = next_seq(folder).map_err(|source| ReadLogError::Io {
            path: folder.into(),
            source,
        })?;
        Ok(LogReader::new(folder, end.saturating_sub(lines)))
    }

    /// Starts at most a frame before the first line of this Unix time, by the
    /// writer's clock: if that was set back, lines before it may be missed.
    ///
    /// # Errors
    /// Any [`ReadLogError`].
    pub fn since(folder: &Path, ms: u64) -> Result<LogReader, ReadLogError> {
        let seq = seq_at(folder, ms).map_err(|source| ReadLogError::Io {
            path: folder.into(),
            source,
        })?;
        Ok(LogReader::new(folder, seq))
    }

    /// The next line; `None` if there is none *yet*: call again later to
    /// follow. Never repeats a line nor skips one that is kept.
    ///
    /// # Errors
    /// Any [`ReadLogError`].
    pub fn next_line(&mut self) -> Result<Option<Line>, ReadLogError> {
        self.try_next_line().map_err(|source| ReadLogError::Io {
            path: self.folder.clone(),
            source,
        })
    }

    /// The number of the line that comes next, if it is kept until it is read:
    /// all before it were returned, or are not there.
    pub fn position(&self) -> u64 {
        self.from_seq
    }

    /// How many lines were removed with their segments before this reader came
    /// to them, since it was asked last. Lines that the disk refused are not
    /// among them: the log itself says so.
    pub fn take_removed(&mut self) -> u64 {
        std::mem::take(&mut self.removed)
    }

    fn try_next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(current) = &mut self.current else {
                let Some(first) = first_segment(&self.folder, self.from_seq)? else {
                    return Ok(None);
                };
                self.is_behind_gap = !first.has_wanted;
                self.current = Some(first.segment);
                continue;
            };
            if let Some(line) = next_wanted(current, self.from_seq)? {
                return Ok(Some(self.passed(line)));
            }
            let Some(newer) = next_segment(&self.folder, current.number)? else {
                return Ok(None);
            };
            // Between the end of this segment and the look into the folder
            // the writer may have finished it and opened the newer one.
            if let Some(line) = next_wanted(current, self.from_seq)? {
                return Ok(Some(self.passed(line)));
            }
            self.is_behind_gap |= newer.number > current.number.saturating_add(1);
            self.current = Some(newer);
        }
    }

    fn passed(&mut self, line: Line) -> Line {
        if std::mem::take(&mut self.is_behind_gap) {
            self.removed += line.seq.saturating_sub(self.from_seq);
        }
        self.from_seq = line.seq.saturating_add(1);
        line
    }
}

/// Where a reader begins.
struct First {
    segment: SegmentReader,
    /// It begins at or before the first wanted line.
    has_wanted: bool,
}

fn next_wanted(segment: &mut SegmentReader, from_seq: u64) -> io::Result<Option<Line>> {
    loop {
        match segment.next_line()? {
            Some(line) if line.seq < from_seq => {}
            other => return Ok(other),
        }
    }
}

/// The segment with line `from_seq`, else the oldest.
fn first_segment(folder: &Path, from_seq: u64) -> io::Result<Option<First>> {
    let mut oldest = None;
    for number in segment::list(folder)?.into_iter().rev() {
        let Some(mut reader) = SegmentReader::open(folder, number)? else {
            continue;
        };
        let first = segment::first_header(&mut reader.file)?;
        reader.file.seek(SeekFrom::Start(0))?;
        if first.is_some_and(|header| header.first_seq <= from_seq) {
            reader.seek(|header| header.first_seq <= from_seq)?;
            let segment = reader;
            let has_wanted = true;
            return Ok(Some(First {
                segment,
                has_wanted,
            }));
        }
        oldest = Some(reader);
    }
    let has_wanted = false;
    Ok(oldest.map(|segment| First {
        segment,
        has_wanted,
    }))
}

/// The oldest segment after `number`. It may be gone before it is opened.
fn next_segment(folder: &Path, number: u64) -> io::Result<Option<SegmentReader>> {
    for newer in segment::list(folder)? {
        if newer > number
            && let Some(reader) = SegmentReader::open(folder, newer)?
        {
            return Ok(Some(reader));
        }
    }
    Ok(None)
}

/// The first line of the last frame that began by then, else of the log.
fn seq_at(folder: &Path, ms: u64) -> io::Result<u64> {
    for number in segment::list(folder)?.into_iter().rev() {
        let Some(mut reader) = SegmentReader::open(folder, number)? else {
            continue;
        };
        let found = segment::last_header_where(&mut reader.file, |header| header.first_ms <= ms)?;
        if let Some((_, header)) = found {
            return Ok(header.first_seq);
        }
    }
    Ok(0)
}

/// The number of the line after the last that can be read.
pub(super) fn next_seq(folder: &Path) -> io::Result<u64> {
    for number in segment::list(folder)?.into_iter().rev() {
        let Some(mut reader) = SegmentReader::open(folder, number)? else {
            continue;
        };
        if !reader.seek(|_| true)? {
            continue;
        }
        while reader.next_line()?.is_some() {}
        return Ok(reader.next_seq);
    }
    Ok(0)
}

/// Reads one segment.
///
/// ```text
/// Header -> Frame -> Header -> ...
///    |        |
///    +--------+--> Damaged
/// ```
struct SegmentReader {
    number: u64,
    file: File,
    state: State,
    decoder: DCtx<'static>,
    /// Compressed, from `input_at` on not yet used.
    input: Vec<u8>,
    input_at: usize,
    /// Decoded, from `text_at` on not yet returned.
    text: Vec<u8>,
    text_at: usize,
    next_seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Between frames.
    Header,
    /// In a frame.
    Frame {
        /// Text of the frame so far.
        text_bytes: usize,
        /// The decoder holds text for which there was no room.
        more: bool,
    },
    /// Nothing more can be read here.
    Damaged,
}

enum Step {
    Progress,
    /// Everything that the file has was used.
    Starved,
}

impl fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentReader")
            .field("number", &self.number)
            .field("state", &self.state)
            .field("next_seq", &self.next_seq)
            .finish_non_exhaustive()
    }
}

impl SegmentReader {
    /// `None` if the file is gone.
    fn open(folder: &Path, number: u64) -> io::Result<Option<SegmentReader>> {
        let file = match File::open(segment::path(folder, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut decoder = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        // A damaged file must not ask for any amount of memory.
        decoder
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(|_| io::Error::other("zstd refuses the window"))?;
        Ok(Some(SegmentReader {
            number,
            file,
            state: State::Header,
            decoder,
            input: Vec::new(),
            input_at: 0,
            text: Vec::new(),
            text_at: 0,
            next_seq: 0,
        }))
    }

    /// Goes to the last frame for which `wanted` holds; false and back to the
    /// beginning if there is none.
    fn seek(&mut self, wanted: impl Fn(&FrameHeader) -> bool) -> io::Result<bool> {
        let found = segment::last_header_where(&mut self.file, wanted)?;
        let offset = found.map_or(0, |(offset, _)| offset);
        self.file.seek(SeekFrom::Start(offset))?;
        Ok(found.is_some())
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let rest = &self.text[self.text_at..];
            if let Some(end) = find_line_feed(rest) {
                let Some(line) = parse(&rest[..end], self.next_seq) else {
                    self.damaged();
                    return Ok(None);
                };
                self.text_at += end + 1;
                self.next_seq = self.next_seq.saturating_add(1);
                return Ok(Some(line));
            }
            if rest.len() > RECORD_BYTES_MAX {
                self.damaged();
            }
            let step = match self.state {
                State::Header => self.read_header()?,
                State::Frame { text_bytes, more } => self.decode(text_bytes, more)?,
                State::Damaged => Step::Starved,
            };
            if let Step::Starved = step {
                return Ok(None);
            }
        }
    }

    fn read_header(&mut self) -> io::Result<Step> {
        while self.input.len() - self.input_at < HEADER_BYTES {
            if let Step::Starved = self.read_input()? {
                return Ok(Step::Starved);
            }
        }
        let bytes = &self.input[self.input_at..self.input_at + HEADER_BYTES];
        let bytes = bytes.try_into().expect("it has this length");
        let reset = self.decoder.reset(ResetDirective::SessionOnly);
        match FrameHeader::decode(bytes) {
            // Text without a line feed at the end of a frame, or numbers that
            // go back: not what the writer does.
            Some(header)
                if self.text_at == self.text.len()
                    && header.first_seq >= self.next_seq
                    && reset.is_ok() =>
            {
                self.next_seq = header.first_seq;
                self.input_at += HEADER_BYTES;
                self.state = State::Frame {
                    text_bytes: 0,
                    more: false,
                };
            }
            _ => self.damaged(),
        }
        Ok(Step::Progress)
    }

    fn decode(&mut self, text_bytes: usize, more: bool) -> io::Result<Step> {
        if self.input_at == self.input.len()
            && !more
            && let Step::Starved = self.read_input()?
        {
            return Ok(Step::Starved);
        }
        self.text.drain(..self.text_at);
        self.text_at = 0;
        let before = self.text.len();
        self.text.reserve(OUTPUT_BYTES);
        let mut input = InBuffer::around(&self.input[self.input_at..]);
        let mut output = OutBuffer::around_pos(&mut self.text, before);
        let result = self.decoder.decompress_stream(&mut output, &mut input);
        let full = output.pos() == output.capacity();
        self.input_at += input.pos();
        let text_bytes = text_bytes + (self.text.len() - before);
        self.state = match result {
            Err(_) => State::Damaged,
            Ok(_) if text_bytes > FRAME_BYTES_MAX + RECORD_BYTES_MAX => State::Damaged,
            Ok(0) => State::Header,
            Ok(_) => State::Frame {
                text_bytes,
                more: full,
            },
        };
        Ok(Step::Progress)
    }

    /// More compressed bytes. The end of the file is not the end of the
    /// segment: the writer may add to it.
    fn read_input(&mut self) -> io::Result<Step> {
        self.input.drain(..self.input_at);
        self.input_at = 0;
        let taken = (&mut self.file)
            .take(INPUT_BYTES as u64)
            .read_to_end(&mut self.input)?;
        Ok(if taken == 0 {
            Step::Starved
        } else {
            Step::Progress
        })
    }

    fn damaged(&mut self) {
        self.state = State::Damaged;
        self.text.clear();
        self.text_at = 0;
    }
}

/// `milliseconds stream text`.
fn parse(record: &[u8], seq: u64) -> Option<Line> {
    let mut parts = record.splitn(3, |byte| *byte == b' ');
    let ms = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let (stream, partial) = match parts.next()? {
        b"O" => (Stream::Out, false),
        b"OP" => (Stream::Out, true),
        b"E" => (Stream::Err, false),
        b"EP" => (Stream::Err, true),
        _ => return None,
    };
    Some(Line {
        seq,
        ms,
        stream,
        partial,
        text: parts.next()?.into(),
    })
}
