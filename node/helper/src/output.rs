//! The task's output on its way into the log: what is taken from its pipes, and
//! what is done when the log can't take it.
//!
//! ```text
//! taken ──no room──▶ waits ──the disk stalls, and lines may be dropped──▶ thrown away, counted
//!   ▲                  │                                                      │
//!   └────── room ──────┴──────────────────────────────────────────────────────┘
//! ```
//!
//! When lines are written is the business of [`crate::scribe`], what lines and
//! files are of [`crate::log`]; which pipe has something to say, of the
//! supervisor.

use crate::{
    launch::PIPE_BYTES,
    log::{LogWriter, Stream},
    protocol::LogState,
    scribe::{STALLED, Scribe, Still, count_lines},
    supervise::boot_now,
};
use nix::errno::Errno;
use potluck_specs::{
    Millis,
    job::{LogPolicy, WhenFull},
};
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

/// Output taken in one go.
const READ_BYTES: usize = 64 << 10;

/// Goes per stream before everything else gets its turn.
const READS_PER_TURN: usize = 4;

/// Taken per stream when the task is gone: what its pipe can hold, twice over.
/// Nobody of the task can write any more, but it may have given its pipe to
/// someone outside.
const REST_BYTES: usize = 2 * PIPE_BYTES as usize;

/// Between looks whether a disk still answers, while it has something to do.
const LOOK_MS: u64 = 500;

/// What a task prints, and its log.
pub(crate) struct Output {
    scribe: Scribe,
    policy: LogPolicy,
    buffer: Vec<u8>,
    /// Lines thrown away that the log was not told of.
    lost: Option<u64>,
    /// When the disk is looked at again.
    look_at: Option<Millis>,
    /// What the agent was told last.
    told: LogState,
}

impl Output {
    pub(crate) fn new(log: LogWriter, policy: LogPolicy) -> io::Result<Output> {
        Ok(Output {
            scribe: Scribe::begin(log, policy.keep_ms.is_some())?,
            policy,
            buffer: Vec::new(),
            lost: None,
            look_at: None,
            told: LogState::Written,
        })
    }

    /// Readable when there may be news; [`Self::hear`] takes its word.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.scribe.bell()
    }

    pub(crate) fn hear(&self) {
        self.scribe.hear();
    }

    /// While what is returned lives, this process may be cloned.
    ///
    /// # Errors
    /// It may not, for this reason.
    pub(crate) fn still(&self) -> Result<Still<'_>, &'static str> {
        self.scribe.still()
    }

    /// Has all that was taken be written, and ends the thread. The log, for
    /// [`Self::go_on`] or for another program.
    ///
    /// # Errors
    /// Why the log can't come to rest; all goes on as it was.
    pub(crate) fn stop(&mut self) -> Result<LogWriter, String> {
        self.tell_lost();
        self.scribe.stop()
    }

    /// Goes on after a stop.
    pub(crate) fn go_on(&mut self, log: LogWriter) -> io::Result<()> {
        self.scribe = Scribe::begin(log, self.policy.keep_ms.is_some())?;
        Ok(())
    }

    /// Reads a pipe, as long as there is room. Returns `false` when it is
    /// closed.
    pub(crate) fn take(&mut self, pipe: &OwnedFd, stream: Stream) -> bool {
        for _ in 0..READS_PER_TURN {
            if self.waits() {
                return true;
            }
            let is_kept = self.scribe.has_room();
            match self.read(pipe) {
                Ok(0) => return false,
                Ok(length) if is_kept => self.give(stream, length),
                Ok(length) => {
                    let lines = count_lines(&self.buffer[..length]);
                    *self.lost.get_or_insert(0) += lines;
                }
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// Reads what a task left behind; nobody waits for anything any more.
    pub(crate) fn take_rest(&mut self, pipe: &OwnedFd, stream: Stream) {
        let mut left = REST_BYTES;
        while left > 0 {
            match self.read(pipe) {
                Ok(0) => return,
                Ok(length) => {
                    self.give(stream, length);
                    left = left.saturating_sub(length);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn read(&mut self, pipe: &OwnedFd) -> Result<usize, Errno> {
        // Grows with the first output only.
        self.buffer.resize(READ_BYTES, 0);
        nix::unistd::read(pipe, &mut self.buffer)
    }

    fn give(&mut self, stream: Stream, length: usize) {
        self.tell_lost();
        self.scribe.give(stream, &self.buffer[..length]);
        self.look_later();
    }

    fn tell_lost(&mut self) {
        if let Some(lines) = self.lost.take() {
            // The line that was cut at least.
            self.scribe.lost(lines.max(1));
        }
    }

    /// A line of ours in the task's log.
    pub(crate) fn say(&mut self, text: &str) {
        self.tell_lost();
        let line = format!("-- {text} --\n");
        self.scribe.give(Stream::Err, line.as_bytes());
        self.look_later();
    }

    fn look_later(&mut self) {
        let next = boot_now() + Millis(LOOK_MS);
        self.look_at.get_or_insert(next);
    }

    /// Looks whether the disk answers, when it is time.
    pub(crate) fn tick(&mut self) {
        let now = boot_now();
        if self.look_at.is_some_and(|due| now >= due) {
            let goes_on = self.scribe.is_busy() || self.lost.is_some();
            self.look_at = goes_on.then(|| now + Millis(LOOK_MS));
        }
        if self.lost.is_some() && self.scribe.has_room() {
            self.tell_lost();
        }
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        self.look_at
    }

    /// Nothing may be taken from the task now: its log waits for the disk.
    pub(crate) fn waits(&self) -> bool {
        let drops = self.policy.when_full == WhenFull::Drop && self.scribe.is_stalled();
        !drops && !self.scribe.has_room()
    }

    /// How the log is.
    pub(crate) fn state(&self) -> LogState {
        let stalled = || self.scribe.is_stalled().then(|| STALLED.to_owned());
        let Some(why) = self.scribe.refused().or_else(stalled) else {
            return LogState::Written;
        };
        match self.policy.when_full {
            WhenFull::Block => LogState::Waits(why),
            WhenFull::Drop => LogState::Drops(why),
        }
    }

    /// How the log is, if that is another than at the last call.
    pub(crate) fn news(&mut self) -> Option<LogState> {
        let state = self.state();
        (state != self.told).then(|| {
            self.told = state.clone();
            state
        })
    }

    /// Ends the log. A task that has ended does not wait for a disk: what it
    /// refuses now is lost, and is what is returned.
    pub(crate) fn finish(mut self) -> Option<LogState> {
        self.tell_lost();
        self.scribe.finish().err().map(LogState::Drops)
    }
}
