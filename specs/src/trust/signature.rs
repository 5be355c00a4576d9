//! Ed25519 (RFC 8032) over a context line and exact bytes.

use crate::{
    FleetId,
    ids::{NodeId, bytes_id},
};
use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::fmt;

bytes_id!(
    /// An Ed25519 public key of a root, an issuer, a user or a node.
    PublicKey, 32
);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..16])
    }
}

impl PublicKey {
    /// The fleet whose root this key is.
    pub fn fleet(&self) -> FleetId {
        FleetId(*blake3::hash(&self.0).as_bytes())
    }

    /// Checks `signature` over `context` and `bytes`, refusing weak keys and
    /// malleable signatures.
    ///
    /// # Errors
    /// [`SignatureError`] if it is not this key's.
    pub fn verify(
        &self,
        context: Context,
        bytes: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), SignatureError> {
        let refuse = SignatureError {
            context,
            key: *self,
        };
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| refuse.clone())?;
        key.verify_strict(
            &context.message(bytes),
            &ed25519_dalek::Signature::from_bytes(signature),
        )
        .map_err(|_| refuse)
    }
}

impl From<NodeId> for PublicKey {
    fn from(node: NodeId) -> PublicKey {
        PublicKey(node.0)
    }
}

/// What a signature is for, so that one kind of document never passes as
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// A root signs an issuer.
    Issuer,
    /// The admission issuer signs a node.
    Node,
    /// The people issuer signs a user.
    User,
    /// A user signs a job.
    Job,
    /// A user signs any other change.
    Change,
    /// A node signs its identity record in gossip.
    Identity,
    /// A node signs a datagram.
    Datagram,
    /// A voter signs a slice of endpoints.
    Slice,
    /// A person proves a session's key to a node.
    Session,
    /// A person opens a session in a task.
    Exec,
    /// A node vouches for the key that its server of ssh shows.
    SshHost,
    /// A node signs what another carries for it.
    Letter,
}

impl Context {
    fn line(self) -> &'static str {
        match self {
            Context::Issuer => "potluck issuer certificate 1\n",
            Context::Node => "potluck node certificate 1\n",
            Context::User => "potluck user certificate 1\n",
            Context::Job => "potluck job 1\n",
            Context::Change => "potluck change 1\n",
            Context::Identity => "potluck identity record 1\n",
            Context::Datagram => "potluck gossip datagram 1\n",
            Context::Slice => "potluck slice 1\n",
            Context::Session => "potluck api session 1\n",
            Context::Exec => "potluck exec 1\n",
            Context::SshHost => "potluck ssh host 1\n",
            Context::Letter => "potluck letter 1\n",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.line().as_bytes(), bytes].concat()
    }
}

/// A signature that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature on this {context:?} document is not by key {key}")]
pub struct SignatureError {
    /// What the document claims to be.
    pub context: Context,
    /// Who should have signed.
    pub key: PublicKey,
}

/// An Ed25519 secret key. Not printable; wiped on drop.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes a key of 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> SecretKey {
        SecretKey(SigningKey::from_bytes(&seed))
    }

    /// The 32 bytes that [`Self::from_seed`] takes.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The public half as the id of a node.
    pub fn node(&self) -> NodeId {
        NodeId(self.public().0)
    }

    /// Signs `context` and `bytes`.
    pub fn sign(&self, context: Context, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(&context.message(bytes)).to_bytes()
    }

    pub(super) fn scalar(&self) -> [u8; 32] {
        self.0.to_scalar_bytes()
    }

    /// Reads the hexadecimal text of a seed, as key files hold it.
    pub fn from_hex(text: &str) -> Option<SecretKey> {
        let seed = HEXLOWER
            .decode(text.trim().as_bytes())
            .ok()?
            .try_into()
            .ok()?;
        Some(SecretKey::from_seed(seed))
    }

    /// The text that [`Self::from_hex`] reads.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.seed())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// Exact bytes and a signature over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The document, never encoded again.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Ed25519.
    #[serde(with = "serde_bytes")]
    pub signature: [u8; 64],
}

impl Signed {
    /// Signs `bytes`.
    pub fn new(key: &SecretKey, context: Context, bytes: Vec<u8>) -> Signed {
        let signature = key.sign(context, &bytes);
        Signed { bytes, signature }
    }

    /// The bytes, if `key` signed them as `context`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, key: &PublicKey, context: Context) -> Result<&[u8], SignatureError> {
        key.verify(context, &self.bytes, &self.signature)?;
        Ok(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_one_context_key_and_text() {
        let key = SecretKey::from_seed([1; 32]);
        let other = SecretKey::from_seed([2; 32]);
        let signed = Signed::new(&key, Context::Job, b"job".to_vec());
        assert_eq!(signed.verify(&key.public(), Context::Job), Ok(&b"job"[..]));
        assert!(signed.verify(&key.public(), Context::Change).is_err());
        assert!(signed.verify(&other.public(), Context::Job).is_err());
        let changed = Signed {
            bytes: b"jab".to_vec(),
            ..signed
        };
        assert!(changed.verify(&key.public(), Context::Job).is_err());
    }
}
