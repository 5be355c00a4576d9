//! What peers say to each other about packages.
//!
//! Carried by the node over a bulk stream, one [`ChunkRequest`] and one
//! [`ChunkResponse`] at a time, each in a frame of [`super::frame`]. Between
//! our own versions: unknown fields are ignored, and an unknown request is
//! answered with [`ChunkResponse::Unsupported`].

use potluck_specs::{ChunkHash, PackageId, package::CHUNK_BYTES_MAX};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Chunks in one request: 16 of 256 KiB are 4 MiB, enough to hide a round trip
/// in a data centre and little enough to lose with a peer.
pub const REQUEST_CHUNKS_MAX: usize = 16;

/// Largest request frame: 16 hashes of 34 bytes with their names.
pub const CHUNK_REQUEST_BYTES_MAX: usize = 4 << 10;

/// Longest compressed chunk: zstd adds less than 1/128 and a header to what it
/// can't compress.
pub const PACKED_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize + (16 << 10);

/// Largest response frame: 16 chunks that don't compress.
pub const CHUNK_RESPONSE_BYTES_MAX: usize = REQUEST_CHUNKS_MAX * (PACKED_BYTES_MAX + 16) + 1_024;

/// A request about a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkRequest {
    /// The manifest's bytes.
    Manifest(PackageId),
    /// Which chunks of the package are there.
    Have(PackageId),
    /// Some chunks.
    Chunks {
        /// Of which package.
        package: PackageId,
        /// At most [`REQUEST_CHUNKS_MAX`].
        hashes: Vec<ChunkHash>,
    },
    /// A request of a newer version.
    #[serde(other)]
    Unknown,
}

/// The answer to a [`ChunkRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkResponse {
    /// The manifest's bytes, if there.
    Manifest(Option<ByteBuf>),
    /// What is there.
    Have(Have),
    /// In the order of the request; nothing for a chunk that is not there.
    Chunks(Vec<Option<PackedChunk>>),
    /// Too much to do at this moment; ask somebody else, or later.
    Busy,
    /// The request breaks a limit, or the disk fails.
    Refused(String),
    /// A request of a newer version.
    #[serde(other)]
    Unsupported,
}

/// A chunk as it is stored and sent: one zstd frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackedChunk(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// Which chunks of a package a peer holds: one bit for each *different* chunk
/// in the order of its first use in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Have {
    /// Not even the manifest.
    Nothing,
    /// Everything.
    All,
    /// Bit `k` is bit `k % 8` of byte `k / 8`; missing bytes are zeros.
    Some(#[serde(with = "serde_bytes")] Vec<u8>),
}

impl Have {
    /// Reads one bit for each different chunk.
    pub fn from_bits(bits: impl IntoIterator<Item = bool>) -> Have {
        let mut bytes = Vec::new();
        let (mut count, mut set) = (0usize, 0usize);
        for bit in bits {
            if count.is_multiple_of(8) {
                bytes.push(0u8);
            }
            if bit {
                *bytes.last_mut().expect("pushed above") |= 1 << (count % 8);
                set += 1;
            }
            count += 1;
        }
        match set {
            _ if set == count => Have::All,
            0 => Have::Nothing,
            _ => Have::Some(bytes),
        }
    }

    /// Is the k-th different chunk there?
    pub fn holds(&self, k: usize) -> bool {
        match self {
            Have::Nothing => false,
            Have::All => true,
            Have::Some(bytes) => bytes
                .get(k / 8)
                .is_some_and(|byte| byte >> (k % 8) & 1 == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::codec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_kept(bits in proptest::collection::vec(any::<bool>(), 1..70)) {
            let have = Have::from_bits(bits.iter().copied());
            for (k, bit) in bits.iter().enumerate() {
                prop_assert_eq!(have.holds(k), *bit);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = codec::decode::<ChunkRequest>("request", &bytes, CHUNK_REQUEST_BYTES_MAX);
            let _ = codec::decode::<ChunkResponse>("response", &bytes, CHUNK_RESPONSE_BYTES_MAX);
        }
    }

    #[test]
    fn the_largest_messages_pass_their_limits() {
        let request = ChunkRequest::Chunks {
            package: PackageId([1; 32]),
            hashes: vec![ChunkHash([2; 32]); REQUEST_CHUNKS_MAX],
        };
        assert!(codec::encode(&request).len() <= CHUNK_REQUEST_BYTES_MAX);
        let chunk = Some(PackedChunk(vec![7; PACKED_BYTES_MAX]));
        let response = ChunkResponse::Chunks(vec![chunk; REQUEST_CHUNKS_MAX]);
        assert!(codec::encode(&response).len() <= CHUNK_RESPONSE_BYTES_MAX);
    }

    #[test]
    fn a_newer_request_is_known_as_unknown() {
        #[derive(Serialize)]
        enum Newer {
            Defragment(u8),
        }
        let bytes = codec::encode(&Newer::Defragment(1));
        let request = codec::decode::<ChunkRequest>("request", &bytes, CHUNK_REQUEST_BYTES_MAX);
        // A unit variant is all that `serde(other)` takes; one with a payload
        // is an error, which the server answers in the same way.
        assert!(matches!(request, Ok(ChunkRequest::Unknown) | Err(_)));
    }
}
