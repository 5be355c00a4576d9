//! The form of a datagram and of the message that a few of them carry.
//!
//! ```text
//! datagram: version 1 | key id 4 | sender 32 | epoch 8 | counter 8 | index 1 | count 1
//!           | sealed part of the message
//! message:  signature 64 | kind 1 | sent at 8 | receiver's certificate that
//!           the sender knows 8 | length 2 | sender's certificate | payload
//! ```
//!
//! Each part is sealed by itself (ChaCha20-Poly1305, RFC 8439), so that only
//! who has a gossip key can fill the reassembly; the whole message is signed
//! once. The cipher's key is derived per sender and epoch and the nonce is
//! counter and index, so that no two parts share both. Fleet and cluster are
//! associated data, and under the signature. Numbers are little-endian.

use crate::ring::KeyId;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use potluck_specs::{
    FleetId, Millis, NodeId,
    trust::{Context, PublicKey, SecretKey},
};

/// Largest datagram: an Ethernet frame less IPv6, UDP and a tunnel's headers,
/// so that IP never has to cut it.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1_400;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 32 + 8 + 8 + 1 + 1;
const TAG_BYTES: usize = 16;

/// Bytes of a message in one datagram.
pub(crate) const PART_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES;

/// Most datagrams of a message: chitchat's largest (65,507 bytes) and a
/// certificate.
pub(crate) const PARTS_MAX: usize = 52;

/// Longest certificate with its chain, as attached to a message.
pub(crate) const CREDENTIAL_BYTES_MAX: usize = 3_072;

const SIGNATURE_BYTES: usize = 64;
const BODY_HEAD_BYTES: usize = 1 + 8 + 8 + 2;

/// Eight bytes of a certificate's hash.
pub(crate) type CredentialHash = [u8; 8];

/// What the sender knows of the receiver's certificate: nothing.
pub(crate) const NOTHING: CredentialHash = [0; 8];

/// The clear part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) key: KeyId,
    pub(crate) sender: NodeId,
    pub(crate) epoch: u64,
    pub(crate) counter: u64,
    pub(crate) index: u8,
    pub(crate) count: u8,
}

impl Header {
    /// Header and sealed part; `None` if it is not of this form.
    pub(crate) fn read(datagram: &[u8]) -> Option<(Header, &[u8])> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return None;
        }
        let mut rest = datagram;
        let [version] = take(&mut rest)?;
        let header = Header {
            key: take(&mut rest)?,
            sender: NodeId(take(&mut rest)?),
            epoch: u64::from_le_bytes(take(&mut rest)?),
            counter: u64::from_le_bytes(take(&mut rest)?),
            index: take::<1>(&mut rest)?[0],
            count: take::<1>(&mut rest)?[0],
        };
        let counts = header.index < header.count && usize::from(header.count) <= PARTS_MAX;
        let good = version == VERSION && counts && header.counter > 0 && rest.len() >= TAG_BYTES;
        good.then_some((header, rest))
    }

    fn write(&self) -> [u8; HEADER_BYTES] {
        let bytes = [
            &[VERSION][..],
            &self.key,
            &self.sender.0,
            &self.epoch.to_le_bytes(),
            &self.counter.to_le_bytes(),
            &[self.index, self.count],
        ]
        .concat();
        bytes.try_into().expect("the parts add up to the header")
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.counter.to_le_bytes());
        nonce[8] = self.index;
        nonce
    }

    fn cipher(&self, ring_key: &[u8; 32]) -> ChaCha20Poly1305 {
        let material = [&ring_key[..], &self.sender.0, &self.epoch.to_le_bytes()].concat();
        let key = blake3::derive_key("potluck 2026-11 gossip datagram key", &material);
        ChaCha20Poly1305::new(&key.into())
    }
}

/// Fleet and cluster, as associated data.
#[derive(Clone, Debug)]
pub(crate) struct Scope(Vec<u8>);

impl Scope {
    pub(crate) fn new(fleet: FleetId, cluster: &str) -> Scope {
        Scope([&fleet.0[..], cluster.as_bytes()].concat())
    }

    fn with(&self, bytes: &[u8]) -> Vec<u8> {
        let length = (self.0.len() as u32).to_le_bytes();
        [&length[..], &self.0, bytes].concat()
    }

    /// Seals one part into a datagram.
    pub(crate) fn seal(&self, ring_key: &[u8; 32], header: &Header, part: &[u8]) -> Vec<u8> {
        let head = header.write();
        let payload = Payload {
            msg: part,
            aad: &self.with(&head),
        };
        let sealed = header
            .cipher(ring_key)
            .encrypt(&header.nonce().into(), payload)
            .expect("a part is far below the cipher's limit");
        [&head[..], &sealed].concat()
    }

    /// Opens one part.
    pub(crate) fn open(
        &self,
        ring_key: &[u8; 32],
        header: &Header,
        sealed: &[u8],
    ) -> Option<Vec<u8>> {
        let payload = Payload {
            msg: sealed,
            aad: &self.with(&header.write()),
        };
        header
            .cipher(ring_key)
            .decrypt(&header.nonce().into(), payload)
            .ok()
    }

    pub(crate) fn signed_bytes(&self, header: &Header, body: &[u8]) -> Vec<u8> {
        let name = [
            &header.sender.0[..],
            &header.epoch.to_le_bytes(),
            &header.counter.to_le_bytes(),
        ]
        .concat();
        [self.with(&name).as_slice(), body].concat()
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The payload is chitchat's.
    Gossip,
    /// "I don't have your certificate": no payload.
    Hello,
}

/// The signed part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body<'a> {
    pub(crate) kind: Kind,
    pub(crate) sent_at: Millis,
    /// Which certificate of the receiver the sender has.
    pub(crate) knows: CredentialHash,
    /// The sender's certificate in CBOR; empty if the receiver has it.
    pub(crate) credential: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Body<'a> {
    /// Signs it and gives the whole message.
    pub(crate) fn sign(&self, scope: &Scope, header: &Header, key: &SecretKey) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Gossip => 0,
            Kind::Hello => 1,
        };
        let body = [
            &[kind][..],
            &self.sent_at.0.to_le_bytes(),
            &self.knows,
            &(self.credential.len() as u16).to_le_bytes(),
            self.credential,
            self.payload,
        ]
        .concat();
        let signature = key.sign(Context::Datagram, &scope.signed_bytes(header, &body));
        [&signature[..], &body].concat()
    }

    /// Does the sender's signature hold? Gives the bytes that it covers.
    pub(crate) fn verify<'m>(
        scope: &Scope,
        header: &Header,
        message: &'m [u8],
    ) -> Option<&'m [u8]> {
        let (signature, body) = message.split_first_chunk::<SIGNATURE_BYTES>()?;
        PublicKey::from(header.sender)
            .verify(
                Context::Datagram,
                &scope.signed_bytes(header, body),
                signature,
            )
            .ok()?;
        Some(body)
    }

    /// Reads what [`Self::verify`] gave.
    pub(crate) fn read(body: &'a [u8]) -> Option<Body<'a>> {
        let mut rest = body;
        let kind = match take::<1>(&mut rest)? {
            [0] => Kind::Gossip,
            [1] => Kind::Hello,
            _ => return None,
        };
        let sent_at = Millis(u64::from_le_bytes(take(&mut rest)?));
        let knows = take(&mut rest)?;
        let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (credential, payload) = rest.split_at_checked(length)?;
        Some(Body {
            kind,
            sent_at,
            knows,
            credential,
            payload,
        })
    }
}

/// Longest payload of a message that carries a certificate of this length.
pub(crate) fn payload_bytes_max(credential_bytes: usize) -> usize {
    PARTS_MAX * PART_BYTES_MAX - SIGNATURE_BYTES - BODY_HEAD_BYTES - credential_bytes
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            key: [1, 2, 3, 4],
            sender: SecretKey::from_seed([1; 32]).node(),
            epoch: 5,
            counter: 6,
            index: 0,
            count: 1,
        }
    }

    #[test]
    fn the_largest_message_of_chitchat_fits() {
        assert!(payload_bytes_max(CREDENTIAL_BYTES_MAX) >= 65_507 - CREDENTIAL_BYTES_MAX);
        assert!(payload_bytes_max(1_024) >= 65_507);
        // The header counts parts in one byte.
        assert!(u8::try_from(PARTS_MAX).is_ok());
    }

    #[test]
    fn a_part_opens_for_one_key_scope_and_header() {
        let scope = Scope::new(FleetId([1; 32]), "main");
        let datagram = scope.seal(&[7; 32], &header(), b"part");
        let (read, sealed) = Header::read(&datagram).unwrap();
        assert_eq!(read, header());
        assert_eq!(scope.open(&[7; 32], &read, sealed), Some(b"part".to_vec()));
        assert_eq!(scope.open(&[8; 32], &read, sealed), None);
        for other in [
            Scope::new(FleetId([2; 32]), "main"),
            Scope::new(FleetId([1; 32]), "mai"),
        ] {
            assert_eq!(other.open(&[7; 32], &read, sealed), None);
        }
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            let opened = Header::read(&changed)
                .and_then(|(header, sealed)| scope.open(&[7; 32], &header, sealed));
            // The key's id is no part of the cipher, it only finds the key;
            // but it is associated data.
            assert_eq!(opened, None, "byte {at} is not protected");
        }
    }

    #[test]
    fn a_body_reads_what_it_signs() {
        let scope = Scope::new(FleetId([1; 32]), "main");
        let key = SecretKey::from_seed([1; 32]);
        let body = Body {
            kind: Kind::Gossip,
            sent_at: Millis(9),
            knows: [3; 8],
            credential: b"certificate",
            payload: b"payload",
        };
        let message = body.sign(&scope, &header(), &key);
        let bytes = Body::verify(&scope, &header(), &message).unwrap();
        assert_eq!(Body::read(bytes), Some(body));
        let other = Header {
            counter: 7,
            ..header()
        };
        assert_eq!(Body::verify(&scope, &other, &message), None);
    }

    proptest! {
        #[test]
        fn readers_take_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1_500)) {
            let scope = Scope::new(FleetId([1; 32]), "main");
            if let Some((header, sealed)) = Header::read(&bytes) {
                prop_assert!(scope.open(&[0; 32], &header, sealed).is_none());
            }
            let _ = Body::read(&bytes);
            prop_assert!(Body::verify(&scope, &header(), &bytes).is_none());
        }
    }
}
