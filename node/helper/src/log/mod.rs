//! A task's log on disk: written by its helper, read by the agent.
//!
//! This module answers for the format, its writer and its reader. Who may
//! read, and how lines are shown, is decided elsewhere.
//!
//! A folder holds numbered *segments* (`00000007.log.zst`). A segment is a
//! row of pairs: a skippable frame with a 32-byte header, then a zstd frame
//! of at most 1 MiB of text, so that plain `zstdcat` reads it:
//!
//! ```text
//! 50 2a 4d 18 | 20 00 00 00 | first_seq  first_ms  text_before  version   (each u64, little-endian)
//! 28 b5 2f fd | blocks ...
//! ```
//!
//! The text is lines `milliseconds stream text`, where the stream is `O` or
//! `E`, with `P` behind it if the line goes on (`OP`). Lines are counted from
//! 0 over all segments of the folder; the headers carry the count, so it
//! holds across rotation and restarts, and a jump in it means lost lines.
//!
//! Invariants:
//! - frames begin and end between lines;
//! - only one writer appends to a segment, and none to an older one: every
//!   start opens a new segment, a torn frame stays as it is;
//! - what was flushed can be read whatever happens to the writer.

mod frames;
mod reader;
mod segment;
mod writer;

pub use reader::{LogReader, ReadLogError};
pub use segment::{SegmentFile, segments};
pub use writer::{LogLimits, LogRest, LogWriter, Refused};

/// Longest text of one line; what is longer is cut and marked.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// Text in one frame: the unit of seeking.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Compressed size at which a segment is closed.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// The same for a log of which little is kept: below it, headers and
/// half-filled windows would be much of the file.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Full segments in what a task keeps of its log. The default of 128 MiB is
/// about 650 MB of text of the usual kind.
pub const SEGMENTS_KEPT: u64 = 8;

/// Files that are kept however small they are: each start of a task that
/// crashes at once makes one.
pub const SEGMENT_FILES_MAX: usize = 64;

/// Text after which a block is flushed, for those who follow. Blocks of this
/// size cost no compression worth speaking of.
pub const FLUSH_BYTES: usize = 4 << 10;

/// Time after which a block is flushed, however short.
pub const FLUSH_INTERVAL_MS: u64 = 200;

/// From which of the task's outputs a line came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts the lines of the folder, from 0, over all starts.
    pub seq: u64,
    /// When the helper took it, Unix time.
    pub ms: u64,
    /// Where it came from.
    pub stream: Stream,
    /// It goes on in the next line of the same stream: the whole was longer
    /// than [`LINE_BYTES_MAX`], or the task ended without a line feed.
    pub partial: bool,
    /// Without the line feed. Any bytes.
    pub text: Vec<u8>,
}

/// Longest line with what stands before it: 20 digits, a space, two letters,
/// a space; and the line feed.
const RECORD_BYTES_MAX: usize = LINE_BYTES_MAX + 25;

/// 64 KiB: on access logs no larger window compresses better at level 1, and
/// most of a helper's memory hangs on it (1.6 MB with 256 KiB).
const WINDOW_LOG: u32 = 16;

/// What a reader allows, so that a later writer may use more.
const WINDOW_LOG_MAX: u32 = 20;

/// Position of the first line feed. The C library's search is vectorised
/// whatever this crate's optimisation is.
fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    // SAFETY: pointer and length are those of one live slice.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), i32::from(b'\n'), bytes.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}

#[cfg(test)]
mod tests;
