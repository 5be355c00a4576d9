//! Which counters of one sender were seen: what is older than the window
//! counts as seen.

/// Counters that are told apart behind the highest: UDP reorders a few
/// datagrams, never a thousand messages of one sender, who sends nine a second.
pub(crate) const WINDOW: u64 = 1_024;

const WORDS: usize = (WINDOW / 64) as usize;

/// The window of one sender and epoch. Counters begin at 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    highest: u64,
    /// Bit `counter % WINDOW`, for the counters from `highest - WINDOW + 1`.
    bits: [u64; WORDS],
}

impl Window {
    /// Was it marked, or is it too old to tell?
    pub(crate) fn has_seen(&self, counter: u64) -> bool {
        if counter > self.highest {
            return false;
        }
        self.highest - counter >= WINDOW || self.bits[word(counter)] & bit(counter) != 0
    }

    /// Marks a counter as seen.
    pub(crate) fn mark(&mut self, counter: u64) {
        if counter > self.highest {
            self.advance(counter);
        }
        if self.highest - counter < WINDOW {
            self.bits[word(counter)] |= bit(counter);
        }
    }

    fn advance(&mut self, counter: u64) {
        if counter - self.highest >= WINDOW {
            self.bits = [0; WORDS];
        } else {
            for passed in self.highest + 1..=counter {
                self.bits[word(passed)] &= !bit(passed);
            }
        }
        self.highest = counter;
    }
}

fn word(counter: u64) -> usize {
    (counter % WINDOW / 64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn tells_seen_from_unseen(counters in prop::collection::vec(
            prop_oneof![1u64..3_000, (u64::MAX - 3_000)..=u64::MAX], 1..200,
        )) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            for counter in counters {
                let highest = seen.last().copied().unwrap_or(0u64);
                let expected = seen.contains(&counter)
                    || highest.checked_sub(counter).is_some_and(|age| age >= WINDOW);
                prop_assert_eq!(window.has_seen(counter), expected);
                window.mark(counter);
                seen.insert(counter);
                prop_assert!(window.has_seen(counter));
            }
        }
    }
}
