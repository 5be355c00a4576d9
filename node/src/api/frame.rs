//! Frames: a length of four bytes, then CBOR.

use potluck_specs::codec::{self, CodecError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame: a chunk of 1 MiB or a job, and what is around it.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side is gone.
    #[error("the connection ended")]
    Closed,
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[source] std::io::Error),
    /// The other side announces more than is allowed.
    #[error("a frame of {0} bytes is more than the {FRAME_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// The bytes are no message.
    #[error("a frame can't be read")]
    Malformed(#[from] CodecError),
}

/// Writes one frame and flushes it.
///
/// # Errors
/// [`FrameError::TooLarge`], [`FrameError::Closed`], [`FrameError::Io`].
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), FrameError> {
    stream.write_all(&framed(value)?).await.map_err(io)?;
    stream.flush().await.map_err(io)
}

/// The bytes of one frame.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub(crate) fn framed<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = codec::encode(value);
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(bytes.len()));
    }
    let mut framed = Vec::with_capacity(bytes.len() + 4);
    framed.extend((bytes.len() as u32).to_be_bytes());
    framed.extend(bytes);
    Ok(framed)
}

/// Reads one frame. Not safe to drop half-way: the rest of the frame would be
/// taken for the next.
///
/// # Errors
/// Any [`FrameError`]; [`FrameError::Closed`] if the stream ends.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<T, FrameError> {
    let length = stream.read_u32().await.map_err(io)? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    // The buffer grows with what arrives, not with what is announced.
    let mut bytes = Vec::new();
    stream
        .take(length as u64)
        .read_to_end(&mut bytes)
        .await
        .map_err(io)?;
    if bytes.len() < length {
        return Err(FrameError::Closed);
    }
    Ok(codec::decode("frame", &bytes, FRAME_BYTES_MAX)?)
}

fn io(error: std::io::Error) -> FrameError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | BrokenPipe | ConnectionReset => FrameError::Closed,
        _ => FrameError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_cross_and_bounds_hold() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let big = "x".repeat(1_000);
        let (sent, got) = tokio::join!(write(&mut a, &big), read::<String>(&mut b));
        sent.unwrap();
        assert_eq!(got.unwrap(), big);
        a.write_u32(u32::MAX).await.unwrap();
        assert!(matches!(
            read::<String>(&mut b).await,
            Err(FrameError::TooLarge(_))
        ));
    }

    #[tokio::test]
    async fn a_torn_frame_is_a_closed_connection() {
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_u32(10).await.unwrap();
        a.write_all(b"abc").await.unwrap();
        drop(a);
        assert!(matches!(
            read::<String>(&mut b).await,
            Err(FrameError::Closed)
        ));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_end_in_bounded_time(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4_096),
            length in 0_u32..8_192,
        ) {
            use crate::api::protocol::{ApiRequest, Hello};
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let framed = [&length.to_be_bytes()[..], &bytes].concat();
            // Whatever comes of it, it comes without a panic and without more
            // memory than has arrived.
            let mut stream = &framed[..];
            let _ = runtime.block_on(read::<ApiRequest>(&mut stream));
            let mut stream = &framed[..];
            let hello = runtime.block_on(read::<Hello>(&mut stream));
            proptest::prop_assert!(hello.is_err());
        }
    }
}
