//! Length-prefixed CBOR over any byte stream: four bytes of length, highest
//! first, then one message.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use potluck_specs::codec::{self, CodecError};
use serde::{Serialize, de::DeserializeOwned};

/// Memory grows by this much at a time while a frame arrives, so that a peer
/// which only announces a large one costs nothing.
const STEP_BYTES: usize = 64 << 10;

/// A frame that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke, or ended within a frame.
    #[error("the stream broke")]
    Io(#[from] io::Error),
    /// Longer than allowed.
    #[error("a frame of {bytes} bytes, {bytes_max} are allowed")]
    TooLarge {
        /// Announced.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not a message of the type.
    #[error("the frame holds no known message")]
    Message(#[from] CodecError),
}

/// Writes one message and flushes.
///
/// # Errors
/// [`FrameError::TooLarge`] before anything is written, [`FrameError::Io`].
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    bytes_max: usize,
) -> Result<(), FrameError> {
    let body = codec::encode(message);
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= bytes_max);
    let Some(length) = length else {
        return Err(FrameError::TooLarge {
            bytes: body.len(),
            bytes_max,
        });
    };
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message; nothing if the stream ended before it began.
///
/// # Errors
/// Any [`FrameError`]. After any but [`FrameError::Message`] the stream is of no
/// more use.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    what: &'static str,
    bytes_max: usize,
) -> Result<Option<T>, FrameError> {
    let Some(length) = read_length(stream).await? else {
        return Ok(None);
    };
    if length > bytes_max {
        return Err(FrameError::TooLarge {
            bytes: length,
            bytes_max,
        });
    }
    let mut body = Vec::new();
    while body.len() < length {
        let read = body.len();
        body.resize(length.min(read + STEP_BYTES), 0);
        stream.read_exact(&mut body[read..]).await?;
    }
    Ok(Some(codec::decode(what, &body, bytes_max)?))
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<usize>, io::Error> {
    let mut prefix = [0; 4];
    if stream.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[1..]).await?;
    Ok(Some(u32::from_be_bytes(prefix) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, io::Cursor};
    use proptest::prelude::*;

    fn framed(message: &str) -> Vec<u8> {
        let mut stream = Cursor::new(Vec::new());
        block_on(write(&mut stream, &message, 1 << 20)).unwrap();
        stream.into_inner()
    }

    #[test]
    fn messages_come_back_in_order_and_then_nothing() {
        let long = "x".repeat(200_000);
        let mut stream = Cursor::new([framed("a"), framed(&long)].concat());
        let mut next = || block_on(read::<String>(&mut stream, "text", 1 << 20)).unwrap();
        assert_eq!(next().as_deref(), Some("a"));
        assert_eq!(next(), Some(long));
        assert_eq!(next(), None);
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let refused = block_on(write(&mut Cursor::new(Vec::new()), &"long", 3));
        assert!(matches!(refused, Err(FrameError::TooLarge { .. })));
        let mut stream = Cursor::new(framed("long"));
        let refused = block_on(read::<String>(&mut stream, "text", 3));
        assert!(matches!(refused, Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn a_torn_frame_is_an_error() {
        let whole = framed("hello");
        for end in 1..whole.len() {
            let mut stream = Cursor::new(whole[..end].to_vec());
            let torn = block_on(read::<String>(&mut stream, "text", 64));
            assert!(matches!(torn, Err(FrameError::Io(_))), "{end}: {torn:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = Cursor::new(bytes);
            while let Ok(Some(_)) = block_on(read::<Vec<String>>(&mut stream, "texts", 128)) {}
        }
    }
}
