//! Virtual time: what is due when, in microseconds since the world began.

use std::{cmp::Reverse, collections::BinaryHeap};

/// A millisecond in the queue's unit.
pub const MS: u64 = 1_000;

/// A second in the queue's unit.
pub const SECOND: u64 = 1_000 * MS;

/// What is due, earliest first; at the same time in the order of its coming.
///
/// The heap orders small keys only; what is due waits beside it and is moved
/// twice, however large it is.
#[derive(Debug)]
pub struct Queue<T> {
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    due: Vec<Option<T>>,
    vacant: Vec<usize>,
    pushed: u64,
    now: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            order: BinaryHeap::new(),
            due: Vec::new(),
            vacant: Vec::new(),
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
        let place = match self.vacant.pop() {
            Some(place) => {
                self.due[place] = Some(what);
                place
            }
            None => {
                self.due.push(Some(what));
                self.due.len() - 1
            }
        };
        self.order
            .push(Reverse((time.max(self.now), self.pushed, place)));
    }

    /// To be due after so long.
    pub fn after(&mut self, wait: u64, what: T) {
        self.at(self.now + wait, what);
    }

    /// The next that is due until then; time moves to it.
    pub fn pop_until(&mut self, end: u64) -> Option<T> {
        let Reverse((time, _, place)) = *self.order.peek()?;
        if time > end {
            self.now = end;
            return None;
        }
        self.order.pop();
        self.now = time;
        self.vacant.push(place);
        self.due[place].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_then_in_the_order_of_coming() {
        let mut queue = Queue::default();
        for (time, what) in [(5, "c"), (1, "a"), (5, "d"), (3, "b")] {
            queue.at(time, what);
        }
        assert_eq!(queue.pop_until(4), Some("a"));
        queue.after(0, "now");
        assert_eq!(queue.pop_until(4), Some("now"));
        assert_eq!(queue.pop_until(4), Some("b"));
        assert_eq!((queue.pop_until(4), queue.now()), (None, 4));
        assert_eq!(queue.pop_until(9), Some("c"));
        queue.at(0, "late");
        assert_eq!(queue.pop_until(9), Some("d"));
        assert_eq!((queue.pop_until(9), queue.now()), (Some("late"), 5));
        assert_eq!(queue.pop_until(9), None);
    }
}
