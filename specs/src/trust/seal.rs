//! Secrets for one node's eyes: X25519 (RFC 7748) with the node's own key,
//! ChaCha20-Poly1305 (RFC 8439) under a key derived by BLAKE3.

use super::{PublicKey, SecretKey};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::Aead};
use ed25519_dalek::VerifyingKey;
use x25519_dalek::{PublicKey as Montgomery, StaticSecret};

/// A sealed secret that can't be made or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The reader's key is no point of the curve.
    #[error("the reader's key is not a valid Ed25519 key")]
    BadKey,
    /// Sealed for somebody else, or changed on the way.
    #[error("the secret was not sealed for this key, or was changed")]
    NotForUs,
}

/// Seals `secret` to `reader`. `ephemeral` is 32 fresh random bytes, used once.
///
/// # Errors
/// [`SealError::BadKey`].
pub fn seal(reader: &PublicKey, secret: &[u8], ephemeral: [u8; 32]) -> Result<Vec<u8>, SealError> {
    let reader_point = VerifyingKey::from_bytes(&reader.0).map_err(|_| SealError::BadKey)?;
    let reader_point = Montgomery::from(reader_point.to_montgomery().to_bytes());
    let ephemeral = StaticSecret::from(ephemeral);
    let sender_point = Montgomery::from(&ephemeral);
    let shared = ephemeral.diffie_hellman(&reader_point);
    let cipher = cipher(
        shared.as_bytes(),
        sender_point.as_bytes(),
        reader_point.as_bytes(),
    );
    // The key is used for one message only, so a fixed nonce is sound.
    let sealed = cipher
        .encrypt(&[0; 12].into(), secret)
        .map_err(|_| SealError::BadKey)?;
    Ok([sender_point.as_bytes(), sealed.as_slice()].concat())
}

/// Opens what [`seal`] made for this key.
///
/// # Errors
/// [`SealError::NotForUs`].
pub fn open(key: &SecretKey, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (sender_point, sealed) = sealed
        .split_first_chunk::<32>()
        .ok_or(SealError::NotForUs)?;
    let secret = StaticSecret::from(key.scalar());
    let reader_point = Montgomery::from(&secret);
    let shared = secret.diffie_hellman(&Montgomery::from(*sender_point));
    cipher(shared.as_bytes(), sender_point, reader_point.as_bytes())
        .decrypt(&[0; 12].into(), sealed)
        .map_err(|_| SealError::NotForUs)
}

fn cipher(shared: &[u8; 32], sender: &[u8; 32], reader: &[u8; 32]) -> ChaCha20Poly1305 {
    let material = [shared.as_slice(), sender, reader].concat();
    let key = blake3::derive_key("potluck 2026-11 sealed secret", &material);
    ChaCha20Poly1305::new(&key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reader_opens() {
        let reader = SecretKey::from_seed([1; 32]);
        let sealed = seal(&reader.public(), b"issuer", [9; 32]).unwrap();
        assert_eq!(open(&reader, &sealed).unwrap(), b"issuer");
        assert_eq!(
            open(&SecretKey::from_seed([2; 32]), &sealed),
            Err(SealError::NotForUs)
        );
        for end in 0..sealed.len() {
            assert_eq!(open(&reader, &sealed[..end]), Err(SealError::NotForUs));
        }
    }
}
