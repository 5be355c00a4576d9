//! What a recording is written through, for `potluck debug record`.
//!
//! Answers for the bounds: time, bytes, a reader that keeps up. What is
//! written is said by who records: `runtime::recording` the scheduler,
//! `agent::recording` the host. The format, and deciding again, are
//! `potluck_core::record`'s.

use potluck_core::record::{Record, frame};
use std::time::Duration;
use tokio::{sync::mpsc, time::Instant};

/// Longest recording: a rollout of hours is looked at in pieces.
pub(crate) const SECONDS_MAX: u64 = 3_600;

/// Most bytes of a recording: an hour of 100 hosts' heartbeats and the state
/// before them.
pub(crate) const BYTES_MAX: u64 = 256 << 20;

/// Frames that wait for their reader: some seconds of a large cluster. A
/// reader that does not keep up has its recording ended, since a gap would
/// make all that follows wrong.
pub(crate) const FRAMES_QUEUED_MAX: usize = 4_096;

/// What a person asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    /// Takes the frames; the recording ends when nobody does.
    pub(crate) to: mpsc::Sender<Vec<u8>>,
    /// At most this long.
    pub(crate) for_at_most: Duration,
    /// At most so many bytes.
    pub(crate) bytes_max: u64,
}

/// Writes a recording down, within its bounds.
#[derive(Debug)]
pub(crate) struct Writer {
    to: mpsc::Sender<Vec<u8>>,
    until: Instant,
    bytes_left: u64,
}

impl Writer {
    /// For this wish.
    pub(crate) fn new(wish: Wish) -> Writer {
        let limit = Duration::from_secs(SECONDS_MAX);
        Writer {
            to: wish.to,
            until: Instant::now() + wish.for_at_most.min(limit),
            bytes_left: wish.bytes_max.min(BYTES_MAX),
        }
    }

    /// Writes a record; does the recording go on?
    pub(crate) fn put(&mut self, record: &Record) -> bool {
        let bytes = frame(record);
        let Some(left) = self.bytes_left.checked_sub(bytes.len() as u64) else {
            tracing::info!("a recording ends: it has as many bytes as it may have");
            return false;
        };
        self.bytes_left = left;
        match self.to.try_send(bytes) {
            Ok(()) => Instant::now() < self.until,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a recording ends: its reader does not keep up");
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}
