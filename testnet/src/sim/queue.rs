//! Virtual time: what is due when, in microseconds since the world began.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// A millisecond in the queue's unit.
pub const MS: u64 = 1_000;

/// A second in the queue's unit.
pub const SECOND: u64 = 1_000 * MS;

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    /// Something is due.
    Due(T),
    /// What was opened under this number is waited for no longer.
    Expired(u64),
}

/// Waits of one length, which end in the order in which they began.
#[derive(Debug)]
struct Lane {
    wait: u64,
    /// When, in which order of all that was ever due, and of what number.
    ends: VecDeque<(u64, u64, u64)>,
}

/// What is due, earliest first; at the same time in the order of its coming.
///
/// The heap orders small keys only; what is due waits beside it and is moved
/// twice, however large it is. Waits for answers never enter it: there are a
/// few lengths of them, so that a row for each is in order by itself, and
/// nearly all are over before they end.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: Vec<Lane>,
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    due: Vec<Option<T>>,
    vacant: Vec<usize>,
    pushed: u64,
    now: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            lanes: Vec::new(),
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

    /// Waits so long for what was opened under this number.
    pub fn expire_after(&mut self, wait: u64, number: u64) {
        self.pushed += 1;
        let end = (self.now + wait, self.pushed, number);
        match self.lanes.iter_mut().find(|lane| lane.wait == wait) {
            Some(lane) => lane.ends.push_back(end),
            None => self.lanes.push(Lane {
                wait,
                ends: VecDeque::from([end]),
            }),
        }
    }

    /// The next that is due until then; time moves to it. Waits for what is no
    /// longer open are passed by.
    pub fn pop_until(&mut self, end: u64, is_open: impl Fn(u64) -> bool) -> Option<Popped<T>> {
        let expired = self.next_expired(is_open);
        let due = self
            .order
            .peek()
            .map(|Reverse((time, order, _))| (*time, *order));
        let ends = expired.and_then(|lane| self.lanes[lane].ends.front());
        let ends = ends.map(|(time, order, _)| (*time, *order));
        let (time, _) = due.into_iter().chain(ends).min()?;
        if time > end {
            self.now = end;
            return None;
        }
        self.now = time;
        if let Some(lane) = expired.filter(|_| due.is_none_or(|due| ends < Some(due))) {
            let (.., number) = self.lanes[lane].ends.pop_front()?;
            return Some(Popped::Expired(number));
        }
        let Reverse((.., place)) = self.order.pop()?;
        self.vacant.push(place);
        self.due[place].take().map(Popped::Due)
    }

    /// The lane whose first wait ends next, of those for what is still open.
    fn next_expired(&mut self, is_open: impl Fn(u64) -> bool) -> Option<usize> {
        for lane in &mut self.lanes {
            while lane
                .ends
                .front()
                .is_some_and(|(.., number)| !is_open(*number))
            {
                lane.ends.pop_front();
            }
        }
        let lanes = self.lanes.iter().enumerate();
        let first = lanes.filter_map(|(at, lane)| Some((*lane.ends.front()?, at)));
        first.min().map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop<T>(queue: &mut Queue<T>, end: u64) -> Option<T> {
        match queue.pop_until(end, |_| true)? {
            Popped::Due(what) => Some(what),
            Popped::Expired(number) => panic!("{number} is waited for by nobody"),
        }
    }

    #[test]
    fn earliest_first_then_in_the_order_of_coming() {
        let mut queue = Queue::default();
        for (time, what) in [(5, "c"), (1, "a"), (5, "d"), (3, "b")] {
            queue.at(time, what);
        }
        assert_eq!(pop(&mut queue, 4), Some("a"));
        queue.after(0, "now");
        assert_eq!(pop(&mut queue, 4), Some("now"));
        assert_eq!(pop(&mut queue, 4), Some("b"));
        assert_eq!((pop(&mut queue, 4), queue.now()), (None, 4));
        assert_eq!(pop(&mut queue, 9), Some("c"));
        queue.at(0, "late");
        assert_eq!(pop(&mut queue, 9), Some("d"));
        assert_eq!((pop(&mut queue, 9), queue.now()), (Some("late"), 5));
        assert_eq!(pop(&mut queue, 9), None);
    }

    #[test]
    fn waits_end_in_their_turn_unless_they_are_over() {
        let mut queue = Queue::default();
        queue.at(7, "before");
        queue.expire_after(7, 1);
        queue.expire_after(5, 2);
        queue.expire_after(5, 3);
        queue.at(7, "after");
        let is_open = |number| number != 2;
        let all: Vec<_> = std::iter::from_fn(|| {
            let popped = queue.pop_until(20, is_open)?;
            Some((queue.now(), popped))
        })
        .collect();
        assert_eq!(
            all,
            [
                (5, Popped::Expired(3)),
                (7, Popped::Due("before")),
                (7, Popped::Expired(1)),
                (7, Popped::Due("after")),
            ]
        );
    }
}
