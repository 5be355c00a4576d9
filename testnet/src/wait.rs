//! Waiting for conditions, never for time.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// A condition that did not come true.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not happen within {} s; last seen: {last}", .limit.as_secs())]
pub struct TimedOut {
    /// The condition.
    pub what: String,
    /// The limit.
    pub limit: Duration,
    /// What the last look saw.
    pub last: String,
}

/// A person pressed Ctrl-C: waits end, so that what they guard is tidied up.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C ends waits instead of the process.
pub fn end_waits_on_interrupt() {
    let action = SigAction::new(
        SigHandler::Handler(interrupt),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler only stores to an atomic.
    let installed = unsafe { sigaction(Signal::SIGINT, &action) };
    installed.expect("SIGINT can be handled");
}

/// Waits work again: for tidying up after an interrupt.
pub fn forget_interrupt() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Looks until the look gives a value; a failed look says what it saw.
///
/// # Errors
/// [`TimedOut`] with what the last look saw.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that waits, for a condition"
)]
pub fn until<T, E: fmt::Display>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= limit || INTERRUPTED.load(Ordering::Relaxed) => {
                return Err(TimedOut {
                    what: what.into(),
                    limit,
                    last: seen.to_string(),
                });
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
