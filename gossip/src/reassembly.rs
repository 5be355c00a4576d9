//! Messages of several datagrams, until they are whole.
//!
//! Only parts that opened under a gossip key come here, so these bounds hold
//! back a broken member, not strangers.

use crate::counters::DropCause;
use potluck_specs::{Millis, NodeId};
use std::collections::BTreeMap;

/// Unfinished messages of one sender: it sends to a node one after another.
const PER_SENDER_MAX: usize = 4;

/// Unfinished messages of all senders: about as many as reach a node within
/// [`TIMEOUT`] in a cluster of the largest size.
const MESSAGES_MAX: usize = 64;

/// Bytes of all unfinished messages; sixty-four of the largest.
const BYTES_MAX: usize = 4 << 20;

/// The parts of a message leave back to back; what is not whole by then has
/// lost a part.
const TIMEOUT: Millis = Millis(2_000);

/// Names a message: sender, epoch, counter.
pub(crate) type MessageKey = (NodeId, u64, u64);

#[derive(Debug)]
struct Partial {
    since: Millis,
    bytes: usize,
    missing: usize,
    parts: Vec<Option<Vec<u8>>>,
}

/// The unfinished messages.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partials: BTreeMap<MessageKey, Partial>,
    bytes: usize,
}

impl Reassembly {
    /// Adds a part; gives the message when it was the last one missing.
    /// `dropped` hears of each message that is given up.
    pub(crate) fn add(
        &mut self,
        key: MessageKey,
        (index, count): (u8, u8),
        part: Vec<u8>,
        now: Millis,
        mut dropped: impl FnMut(DropCause),
    ) -> Option<Vec<u8>> {
        if count == 1 {
            return Some(part);
        }
        self.expire(now, &mut dropped);
        if !self.partials.contains_key(&key) {
            self.make_room(key.0, &mut dropped);
        }
        let partial = self.partials.entry(key).or_insert_with(|| Partial {
            since: now,
            bytes: 0,
            missing: count.into(),
            parts: vec![None; count.into()],
        });
        if partial.parts.len() != usize::from(count) {
            self.give_up(key, &mut dropped);
            return None;
        }
        let slot = partial.parts.get_mut(usize::from(index))?;
        if slot.is_some() {
            return None;
        }
        partial.missing -= 1;
        partial.bytes += part.len();
        self.bytes += part.len();
        *slot = Some(part);
        if partial.missing > 0 {
            return None;
        }
        let whole = self.remove(key)?;
        Some(whole.parts.into_iter().flatten().flatten().collect())
    }

    fn expire(&mut self, now: Millis, dropped: &mut impl FnMut(DropCause)) {
        let late = |partial: &Partial| now.since(partial.since) > TIMEOUT;
        let keys: Vec<_> = self
            .partials
            .iter()
            .filter(|(_, partial)| late(partial))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.give_up(key, dropped);
        }
    }

    /// Gives up the oldest messages until one more fits.
    fn make_room(&mut self, sender: NodeId, dropped: &mut impl FnMut(DropCause)) {
        let range = (sender, 0, 0)..=(sender, u64::MAX, u64::MAX);
        if self.partials.range(range.clone()).count() >= PER_SENDER_MAX {
            let oldest = self.partials.range(range).min_by_key(|(_, p)| p.since);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.give_up(key, dropped);
            }
        }
        while self.partials.len() >= MESSAGES_MAX || self.bytes >= BYTES_MAX {
            let oldest = self.partials.iter().min_by_key(|(_, p)| p.since);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                return;
            };
            self.give_up(key, dropped);
        }
    }

    fn give_up(&mut self, key: MessageKey, dropped: &mut impl FnMut(DropCause)) {
        if self.remove(key).is_some() {
            dropped(DropCause::Reassembly);
        }
    }

    fn remove(&mut self, key: MessageKey) -> Option<Partial> {
        let partial = self.partials.remove(&key)?;
        self.bytes -= partial.bytes;
        Some(partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn parts_come_in_any_order_and_twice() {
        let mut reassembly = Reassembly::default();
        let mut add = |index, part: &[u8]| {
            reassembly.add(
                (A, 1, 1),
                (index, 3),
                part.to_vec(),
                Millis(0),
                |_| unreachable!(),
            )
        };
        assert_eq!(add(2, b"c"), None);
        assert_eq!(add(0, b"a"), None);
        assert_eq!(add(0, b"a"), None);
        assert_eq!(add(1, b"b"), Some(b"abc".to_vec()));
        assert_eq!(reassembly.bytes, 0);
        assert!(reassembly.partials.is_empty());
    }

    #[test]
    fn contradictions_and_late_parts_are_given_up() {
        let mut reassembly = Reassembly::default();
        let mut dropped = 0;
        let key = (A, 1, 1);
        reassembly.add(key, (0, 3), vec![0], Millis(0), |_| dropped += 1);
        reassembly.add(key, (1, 4), vec![0], Millis(0), |_| dropped += 1);
        assert_eq!(dropped, 1, "the counts contradict each other");
        reassembly.add(key, (0, 3), vec![0], Millis(0), |_| dropped += 1);
        reassembly.add((A, 1, 2), (0, 3), vec![0], Millis(2_001), |_| dropped += 1);
        assert_eq!(dropped, 2, "the first one is late");
        assert_eq!(reassembly.partials.len(), 1);
        // An index past the count can't come from the header's reader; even so
        // it is harmless.
        assert_eq!(
            reassembly.add((A, 1, 2), (9, 3), vec![0], Millis(2_001), |_| ()),
            None
        );
    }

    #[test]
    fn memory_is_bounded_for_one_sender_and_for_all() {
        let mut reassembly = Reassembly::default();
        for counter in 0..100 {
            reassembly.add((A, 1, counter), (0, 2), vec![0], Millis(0), |_| ());
        }
        assert_eq!(reassembly.partials.len(), PER_SENDER_MAX);
        for number in 0..200 {
            reassembly.add((node(number), 1, 1), (0, 2), vec![0; 9], Millis(0), |_| ());
        }
        assert_eq!(reassembly.partials.len(), MESSAGES_MAX);
        let bytes: usize = reassembly.partials.values().map(|p| p.bytes).sum();
        assert_eq!(bytes, reassembly.bytes);
    }
}
