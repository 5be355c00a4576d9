//! The task's output on its way into the log: when it is taken, flushed, and
//! tried again.
//!
//! It answers for pace alone. What lines and files are is the business of
//! [`crate::log`]; which pipe has something to say, of the supervisor.

use crate::{
    launch::PIPE_BYTES,
    log::{FLUSH_INTERVAL_MS, LogWriter, Stream},
    protocol::LogState,
    supervise::{boot_now, unix_now},
};
use nix::errno::Errno;
use potluck_specs::{Millis, job::LogPolicy};
use std::os::fd::OwnedFd;

/// Output taken in one go.
const READ_BYTES: usize = 64 << 10;

/// Goes per stream before everything else gets its turn.
const READS_PER_TURN: usize = 4;

/// Goes per stream when the task is gone: what its pipe can hold, twice over.
/// Nobody of the task can write any more, but it may have given its pipe to
/// someone outside.
const READS_AT_END: usize = 2 * PIPE_BYTES as usize / (4 << 10);

/// Pause before a disk that refused is tried again.
const RETRY_MS: u64 = 1_000;

/// Between looks for segments that are too old: the least age is as much.
const FORGET_EVERY_MS: u64 = 60_000;

/// What a task prints, and its log.
pub(crate) struct Output {
    log: LogWriter,
    buffer: Vec<u8>,
    flush_at: Option<Millis>,
    retry_at: Option<Millis>,
    /// When old segments are looked for, of a log that has an age.
    forget_at: Option<Millis>,
    /// What the agent was told last.
    told: LogState,
}

impl Output {
    pub(crate) fn new(log: LogWriter, policy: LogPolicy) -> Output {
        Output {
            forget_at: policy.keep_ms.map(|_| boot_now()),
            log,
            buffer: Vec::new(),
            flush_at: None,
            retry_at: None,
            told: LogState::Written,
        }
    }

    /// Reads a pipe, unless the log waits. Returns `false` when it is closed.
    pub(crate) fn take(&mut self, pipe: &OwnedFd, stream: Stream) -> bool {
        let is_open = self.read(pipe, stream, READS_PER_TURN, LogWriter::waits);
        self.note();
        is_open
    }

    /// Reads what a task left behind; nobody waits for anything any more.
    pub(crate) fn take_rest(&mut self, pipe: &OwnedFd, stream: Stream) {
        self.log.retry(unix_now().0);
        self.read(pipe, stream, READS_AT_END, |_| false);
    }

    fn read(
        &mut self,
        pipe: &OwnedFd,
        stream: Stream,
        reads: usize,
        enough: impl Fn(&LogWriter) -> bool,
    ) -> bool {
        // Grows with the first output only.
        self.buffer.resize(READ_BYTES, 0);
        for _ in 0..reads {
            if enough(&self.log) {
                return true;
            }
            match nix::unistd::read(pipe, &mut self.buffer) {
                Ok(0) => return false,
                Ok(length) => self.log.write(stream, &self.buffer[..length], unix_now().0),
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// A line of ours in the task's log.
    pub(crate) fn say(&mut self, text: &str) {
        let line = format!("-- {text} --\n");
        self.log.write(Stream::Err, line.as_bytes(), unix_now().0);
        self.note();
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self) {
        let now = boot_now();
        if self.flush_at.is_some_and(|due| now >= due) {
            self.log.flush(unix_now().0);
        }
        if self.retry_at.is_some_and(|due| now >= due) {
            self.retry_at = None;
            self.log.retry(unix_now().0);
        }
        if self.forget_at.is_some_and(|due| now >= due) {
            self.forget_at = Some(now + Millis(FORGET_EVERY_MS));
            self.log.forget_old(unix_now().0);
        }
        self.note();
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        let all = [self.flush_at, self.retry_at, self.forget_at];
        all.into_iter().flatten().min()
    }

    /// Nothing may be taken from the task now: its log waits for the disk.
    pub(crate) fn waits(&self) -> bool {
        self.log.waits()
    }

    /// How the log is.
    pub(crate) fn state(&self) -> LogState {
        match self.log.refused() {
            None => LogState::Written,
            Some(refused) if self.log.waits() => LogState::Waits(refused.why.clone()),
            Some(refused) => LogState::Drops(refused.why.clone()),
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
    pub(crate) fn finish(self) -> Option<LogState> {
        let refused = self.log.finish(unix_now().0).err()?;
        Some(LogState::Drops(format!(
            "{}; at its end {} lines were lost",
            refused.why, refused.lost
        )))
    }

    fn note(&mut self) {
        let now = boot_now();
        self.flush_at = match (self.log.unflushed_bytes(), self.flush_at) {
            (0, _) => None,
            (_, None) => Some(now + Millis(FLUSH_INTERVAL_MS)),
            (_, due) => due,
        };
        self.retry_at = match (self.log.refused(), self.retry_at) {
            (None, _) => None,
            (Some(_), None) => Some(now + Millis(RETRY_MS)),
            (Some(_), due) => due,
        };
    }
}
