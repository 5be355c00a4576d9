//! Frames on a session's stream: a length of four bytes, then CBOR.

use potluck_helper::session::ssh::SSH_FRAME_BYTES_MAX;
use potluck_specs::codec;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one. Not safe to drop half-way.
pub(crate) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let length = stream.read_u32().await? as usize;
    if length > SSH_FRAME_BYTES_MAX {
        let message = format!("a frame of {length} bytes is more than {SSH_FRAME_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    codec::decode("frame", &bytes, SSH_FRAME_BYTES_MAX).map_err(io::Error::other)
}

/// Writes one.
pub(crate) async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> io::Result<()> {
    let bytes = codec::encode(value);
    let mut framed = Vec::with_capacity(bytes.len() + 4);
    framed.extend((bytes.len() as u32).to_be_bytes());
    framed.extend(bytes);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_and_long_ones_are_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut a, mut b) = tokio::io::duplex(1 << 20);
            write(&mut a, &"x".repeat(100)).await.unwrap();
            assert_eq!(read::<String>(&mut b).await.unwrap(), "x".repeat(100));
            a.write_u32(u32::MAX).await.unwrap();
            let refused = read::<String>(&mut b).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        });
    }
}
