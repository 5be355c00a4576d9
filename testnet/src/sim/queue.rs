//! Virtual time: what is due when, in microseconds since the world began.

use std::collections::BTreeMap;

/// A millisecond in the queue's unit.
pub const MS: u64 = 1_000;

/// A second in the queue's unit.
pub const SECOND: u64 = 1_000 * MS;

/// What is due, earliest first; at the same time in the order of its coming.
#[derive(Debug)]
pub struct Queue<T> {
    due: BTreeMap<(u64, u64), T>,
    pushed: u64,
    now: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            due: BTreeMap::new(),
            pushed: 0,
            now: 0,
        }
    }
}

impl<T> Queue<T> {
    /// The time.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// To be due then, or now if that is past.
    pub fn at(&mut self, time: u64, what: T) {
        self.pushed += 1;
        self.due.insert((time.max(self.now), self.pushed), what);
    }

    /// To be due after so long.
    pub fn after(&mut self, wait: u64, what: T) {
        self.at(self.now + wait, what);
    }

    /// The next that is due until then; time moves to it.
    pub fn pop_until(&mut self, end: u64) -> Option<T> {
        let (key, _) = self.due.first_key_value()?;
        if key.0 > end {
            self.now = end;
            return None;
        }
        let ((time, _), what) = self.due.pop_first()?;
        self.now = time;
        Some(what)
    }
}
