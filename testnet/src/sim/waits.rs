//! What is waited for, by numbers that are given in order.
//!
//! Answers for finding it without a search: nearly all of it is closed soon
//! after it was opened, so that what is open lies in a short window of numbers.

use std::collections::VecDeque;

/// Some things that are open.
#[derive(Debug)]
pub(super) struct Waits<T> {
    /// The number of the first in the window.
    first: u64,
    window: VecDeque<Option<T>>,
}

impl<T> Default for Waits<T> {
    fn default() -> Waits<T> {
        Waits {
            first: 0,
            window: VecDeque::new(),
        }
    }
}

impl<T> Waits<T> {
    /// Opens one; its number.
    pub(super) fn open(&mut self, what: T) -> u64 {
        self.window.push_back(Some(what));
        self.first + self.window.len() as u64 - 1
    }

    fn place(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.first).map(|place| place as usize)
    }

    /// What is open under a number.
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.window.get(self.place(number)?)?.as_ref()
    }

    /// Closes one that is open.
    pub(super) fn close(&mut self, number: u64) -> Option<T> {
        let place = self.place(number)?;
        let closed = self.window.get_mut(place)?.take();
        while let Some(None) = self.window.front() {
            self.window.pop_front();
            self.first += 1;
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_given_twice_and_the_window_stays_short() {
        let mut waits = Waits::default();
        let numbers: Vec<u64> = (0..5).map(|k| waits.open(k)).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert_eq!((waits.close(1), waits.close(1)), (Some(1), None));
        assert_eq!((waits.get(0), waits.get(1)), (Some(&0), None));
        assert_eq!(waits.close(0), Some(0));
        assert_eq!((waits.first, waits.window.len()), (2, 3));
        for number in 2..5 {
            assert_eq!(waits.close(number), Some(number));
        }
        assert_eq!((waits.open(9), waits.get(5)), (5, Some(&9)));
        assert_eq!(waits.get(4), None);
        assert_eq!(waits.close(77), None);
    }
}
