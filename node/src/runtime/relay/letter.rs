//! A signed request or answer that a third node carries, and which of them
//! came before. Leaves to `relay` who may write one.

use potluck_core::relay::echo::Token;
use potluck_specs::{
    FleetId, NodeId, codec,
    trust::{Context, NodeCredential, PublicKey, SecretKey, Signed},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most that a letter's body or the whole of it may have: an award with a job
/// of 256 KiB and its slots, or an inventory of some thousand slots; below
/// what a request between nodes may have.
pub(super) const LETTER_BYTES_MAX: usize = 768 << 10;

/// Numbers of one writer that are remembered: more than can be under way.
const NUMBERS_MAX: usize = 256;

/// Writers that are remembered: the most members that a cluster may have.
const WRITERS_MAX: usize = 1_000;

/// A signed letter with the certificate of who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    credential: NodeCredential,
    signed: Signed,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub(super) fleet: FleetId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    /// Of the request; its answer bears the same.
    pub(super) number: u64,
    pub(super) kind: Kind,
    #[serde(with = "serde_bytes")]
    pub(super) body: Vec<u8>,
}

/// Which way a letter goes: an answer is never taken for a request, nor a
/// request for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Kind {
    /// Somebody asks.
    Request {
        /// The receiver's last token, if the writer has one.
        echo: Option<Token>,
    },
    /// To the request of the same number.
    Answer {
        /// For the next request.
        token: Token,
        /// The request was served; else it echoed no fresh token, and the body
        /// says nothing.
        served: bool,
    },
}

/// Why a letter can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LetterError {
    #[error("the letter is malformed: {0}")]
    Malformed(#[from] codec::CodecError),
    #[error("the letter is not by the node that it names")]
    Forged(#[from] potluck_specs::trust::SignatureError),
}

impl Letter {
    pub(super) fn write(content: &Content, key: &SecretKey, credential: NodeCredential) -> Letter {
        let signed = Signed::new(key, Context::Letter, codec::encode(content));
        Letter { credential, signed }
    }

    /// What it says, if the node that it names has signed it. Whether that
    /// node is a member its credential has to show.
    pub(super) fn read(&self) -> Result<Content, LetterError> {
        let bytes = &self.signed.bytes;
        let content: Content = codec::decode_canonical("letter", bytes, LETTER_BYTES_MAX + 1_024)?;
        let key = PublicKey::from(content.from);
        self.signed.verify(&key, Context::Letter)?;
        Ok(content)
    }

    pub(super) fn credential(&self) -> &NodeCredential {
        &self.credential
    }

    pub(super) fn bytes(&self) -> usize {
        self.signed.bytes.len()
    }
}

/// Numbers of letters that came, by who wrote them.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<NodeId, BTreeSet<u64>>);

impl Seen {
    /// Has no letter of this number come, and is it none that is too old to
    /// know? Call it only for what a member has signed.
    pub(super) fn is_new(&mut self, from: NodeId, number: u64) -> bool {
        if !self.0.contains_key(&from) && self.0.len() >= WRITERS_MAX {
            // The one whose last letter is oldest.
            let oldest = self.0.iter().min_by_key(|(_, numbers)| numbers.last());
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.0.remove(&oldest);
            }
        }
        let numbers = self.0.entry(from).or_default();
        let is_old =
            numbers.len() >= NUMBERS_MAX && numbers.first().is_some_and(|first| number < *first);
        if is_old || !numbers.insert(number) {
            return false;
        }
        if numbers.len() > NUMBERS_MAX {
            numbers.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use potluck_specs::{Millis, NodeName, Topology, trust::NodeRole};

    fn letter(key: &SecretKey) -> (Letter, Content) {
        let content = Content {
            fleet: FleetId([7; 32]),
            from: key.node(),
            to: NodeId([2; 32]),
            number: 5,
            kind: Kind::Request { echo: None },
            body: b"hello".to_vec(),
        };
        let (name, place) = (NodeName("n1".into()), Topology::in_rack("main", "r1"));
        let roles = [NodeRole::Agent];
        let credential = testing::issuer().issue(key.node(), name, place, &roles, Millis(0), 1);
        (Letter::write(&content, key, credential), content)
    }

    #[test]
    fn a_letter_says_what_its_writer_signed_and_nothing_else() {
        let key = SecretKey::from_seed([3; 32]);
        let (letter, content) = letter(&key);
        assert_eq!(letter.read().expect("as written"), content);

        let mut forged = letter.clone();
        let other = Content {
            from: SecretKey::from_seed([4; 32]).node(),
            ..content.clone()
        };
        forged.signed.bytes = codec::encode(&other);
        assert!(matches!(forged.read(), Err(LetterError::Forged(_))));
        let mut changed = letter.clone();
        let other = Content {
            number: 6,
            ..content.clone()
        };
        changed.signed.bytes = codec::encode(&other);
        assert!(matches!(changed.read(), Err(LetterError::Forged(_))));
        let (process, at) = (1, Millis(1));
        let echo = Some(Token { process, at });
        let other = Content {
            kind: Kind::Request { echo },
            ..content
        };
        changed.signed.bytes = codec::encode(&other);
        assert!(matches!(changed.read(), Err(LetterError::Forged(_))));
        let mut cut = letter;
        cut.signed.bytes.pop();
        assert!(matches!(cut.read(), Err(LetterError::Malformed(_))));
    }

    #[test]
    fn a_letter_is_taken_once_in_any_order() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut seen = Seen::default();
        let table = [
            (a, 10, true),
            (a, 10, false),
            (b, 10, true),
            (a, 9, true),
            (a, 9, false),
        ];
        for (from, number, new) in table {
            assert_eq!(seen.is_new(from, number), new, "{number}");
        }
        for number in 1_000..1_000 + NUMBERS_MAX as u64 {
            assert!(seen.is_new(a, number));
        }
        assert!(!seen.is_new(a, 11), "older than all that are remembered");
        assert_eq!(seen.0[&a].len(), NUMBERS_MAX);
    }

    #[test]
    fn writers_fill_no_memory() {
        let mut seen = Seen::default();
        for number in 0..=WRITERS_MAX as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            assert!(seen.is_new(NodeId(id), number));
        }
        assert_eq!(seen.0.len(), WRITERS_MAX);
    }
}
