//! Waiting for conditions, never for time.

use std::{
    fmt,
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
            Err(seen) if start.elapsed() >= limit => {
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
