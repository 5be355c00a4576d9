//! The gossip keys of a cluster: who has none is not in the pool.
//!
//! Rotation goes in three steps, each finished everywhere before the next:
//! install the new key behind the old one, promote it, remove the old one.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Most keys in a ring: the old, the new, and one more for a rotation that was
/// begun again half-way.
pub const RING_KEYS_MAX: usize = 3;

/// Names a key on the wire without telling it.
pub type KeyId = [u8; 4];

/// Keys by which datagrams open; the first also seals.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRing {
    keys: Vec<serde_bytes::ByteArray<32>>,
}

impl KeyRing {
    /// A ring of one key, of 32 random bytes.
    pub fn new(key: [u8; 32]) -> KeyRing {
        KeyRing {
            keys: vec![key.into()],
        }
    }

    /// A ring of these keys, as [`Self::keys`] gives them.
    pub fn from_keys(keys: impl IntoIterator<Item = [u8; 32]>) -> Option<KeyRing> {
        let keys = keys.into_iter().take(RING_KEYS_MAX + 1);
        let ring = KeyRing {
            keys: keys.map(Into::into).collect(),
        };
        ring.is_valid().then_some(ring)
    }

    /// The keys, the sealing one first: for the log, which keeps them.
    pub fn keys(&self) -> impl Iterator<Item = [u8; 32]> {
        self.keys.iter().map(|key| key.into_array())
    }

    /// Adds a key by which datagrams open from now on. A full ring loses the
    /// last key that does not seal.
    pub fn install(&mut self, key: [u8; 32]) {
        if self.find(key_id(&key)).is_some() {
            return;
        }
        self.keys.truncate(RING_KEYS_MAX - 1);
        self.keys.push(key.into());
    }

    /// Seals with this key from now on. False if it is not in the ring.
    pub fn promote(&mut self, id: KeyId) -> bool {
        let Some(at) = self.keys.iter().position(|key| key_id(key) == id) else {
            return false;
        };
        self.keys.swap(0, at);
        true
    }

    /// Forgets a key, unless it is the one that seals.
    pub fn remove(&mut self, id: KeyId) {
        let sealing = self.sealing_id();
        self.keys.retain(|key| {
            let this = key_id(key);
            this == sealing || this != id
        });
    }

    /// The ids of all keys, the sealing one first.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key_id(key)).collect()
    }

    /// A ring that came from outside: has it a key, and not too many?
    pub fn is_valid(&self) -> bool {
        (1..=RING_KEYS_MAX).contains(&self.keys.len())
    }

    pub(crate) fn sealing(&self) -> &[u8; 32] {
        &self.keys[0]
    }

    pub(crate) fn sealing_id(&self) -> KeyId {
        key_id(self.sealing())
    }

    pub(crate) fn find(&self, id: KeyId) -> Option<&[u8; 32]> {
        let key = self.keys.iter().find(|key| key_id(key) == id)?;
        Some(key)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({:02x?})", self.ids())
    }
}

fn key_id(key: &[u8; 32]) -> KeyId {
    let hash = blake3::derive_key("potluck 2026-11 gossip key id", key);
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_a_sealing_key() {
        let mut ring = KeyRing::new([1; 32]);
        let old = ring.sealing_id();
        ring.install([2; 32]);
        ring.install([2; 32]);
        assert_eq!(ring.ids().len(), 2);
        assert_eq!(ring.sealing_id(), old);
        let new = ring.ids()[1];
        ring.remove(old);
        assert!(ring.find(old).is_some(), "the sealing key stays");
        assert!(ring.promote(new));
        ring.remove(old);
        assert_eq!(ring.ids(), vec![new]);
        assert!(!ring.promote(old));
    }

    #[test]
    fn a_ring_is_bounded_and_shows_no_secret() {
        let mut ring = KeyRing::new([1; 32]);
        for key in 2..9 {
            ring.install([key; 32]);
        }
        assert_eq!(ring.ids().len(), RING_KEYS_MAX);
        assert!(ring.is_valid());
        assert!(!format!("{ring:?}").contains("1, 1, 1"));
    }
}
