//! CBOR in two strictnesses.
//!
//! *Canonical*, for what is signed or hashed: unknown fields are refused by
//! the types (`deny_unknown_fields`) and any other encoding of the same value
//! by decode, re-encode, compare, since the reader below accepts trailing
//! bytes and indefinite lengths. *Lenient*, for messages between our own
//! versions: unknown fields are ignored. Both are given a limit.

use serde::{Serialize, de::DeserializeOwned};
use std::io;

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than the caller allows.
    #[error("{bytes} bytes are more than the {bytes_max} allowed for a {what}")]
    TooLarge {
        /// The kind of document.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not a value of the type.
    #[error("not a valid {what}: {why}")]
    Invalid {
        /// The kind of document.
        what: &'static str,
        /// What the reader says.
        why: String,
    },
    /// A second encoding of the same value: refused, since signatures and
    /// hashes are over bytes.
    #[error("the {what} is not in its canonical encoding")]
    NotCanonical {
        /// The kind of document.
        what: &'static str,
    },
}

/// Encodes a value. Types with a fallible `Serialize` don't belong on the wire.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), value).expect("our own types encode")
}

/// The same, if it comes to at most `bytes_max`; never takes much more memory.
pub fn encode_within<T: Serialize>(value: &T, bytes_max: usize) -> Option<Vec<u8>> {
    let mut bounded = Bounded {
        bytes: Vec::new(),
        bytes_max,
    };
    let encoded = cbor4ii::serde::to_writer(&mut bounded, value);
    encoded.is_ok().then_some(bounded.bytes)
}

/// Takes so many bytes.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes a message of at most `bytes_max`, ignoring fields that the type
/// does not know.
///
/// # Errors
/// [`CodecError::TooLarge`], [`CodecError::Invalid`].
pub fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, CodecError> {
    if bytes.len() > bytes_max {
        return Err(CodecError::TooLarge {
            what,
            bytes: bytes.len(),
            bytes_max,
        });
    }
    cbor4ii::serde::from_slice(bytes).map_err(|error| CodecError::Invalid {
        what,
        why: error.to_string(),
    })
}

/// Decodes a document whose bytes are signed or hashed: only the one encoding
/// that [`encode`] gives is accepted.
///
/// # Errors
/// Any [`CodecError`].
pub fn decode_canonical<T: DeserializeOwned + Serialize>(
    what: &'static str,
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, CodecError> {
    let value: T = decode(what, bytes, bytes_max)?;
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical { what });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Point {
        x: u32,
    }

    #[test]
    fn what_is_too_long_is_not_encoded() {
        let value = vec![Point { x: 1 }; 3];
        let whole = encode(&value);
        assert_eq!(encode_within(&value, whole.len()), Some(whole.clone()));
        for bytes_max in 0..whole.len() {
            assert_eq!(encode_within(&value, bytes_max), None);
        }
    }

    #[test]
    fn canonical_refuses_what_lenient_lets_pass() {
        let good = encode(&Point { x: 1 });
        assert_eq!(
            decode_canonical::<Point>("point", &good, 64).unwrap(),
            Point { x: 1 }
        );
        let mut trailing = good.clone();
        trailing.push(0);
        let indefinite = [&[0xbf][..], &good[1..], &[0xff]].concat();
        let long_form = [&good[..3], &[0x18, 0x01]].concat();
        for bad in [trailing, indefinite, long_form] {
            assert!(
                decode_canonical::<Point>("point", &bad, 64).is_err(),
                "{bad:x?}"
            );
        }
    }

    #[test]
    fn limits_come_before_decoding() {
        let error = decode::<Point>("point", &[0; 65], 64).unwrap_err();
        assert!(matches!(
            error,
            CodecError::TooLarge {
                bytes: 65,
                bytes_max: 64,
                ..
            }
        ));
    }
}
