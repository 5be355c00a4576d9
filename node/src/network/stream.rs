//! Streams of bytes between admitted peers.
//!
//! ```text
//! opener                     peer
//!   │ purpose (u8)            │
//!   │────────────────────────▶│ place in the queue? allowed?
//!   │◀────────────────────────│ accepted, busy, not allowed, not served
//!   │ bytes, both ways        │
//! ```
//!
//! The place in the queue is reserved before "accepted" is said, so an opener
//! that hears it is never dropped on the way (libp2p-stream's acceptor has no
//! queue and drops under load).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc::error::TrySendError};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::{
    Holder, InboundStream, OpenError, Purpose,
    gate::{Gate, Lane},
    shared::Shared,
};

/// How long an opener may take to say what for.
const PURPOSE_LIMIT: Duration = Duration::from_secs(10);

const ACCEPTED: u8 = 0;
const BUSY: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NOT_SERVED: u8 = 3;

/// Bytes both ways, closed on drop. Implements futures' `AsyncRead` and
/// `AsyncWrite`; [`Stream::into_tokio`] gives tokio's.
///
/// Neither side may write without end before it reads: both windows would
/// fill up, and both wait for ever.
#[derive(Debug)]
pub struct Stream {
    inner: libp2p::Stream,
    /// Its place among the peer's streams.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Stream {
    /// The same stream with tokio's traits.
    pub fn into_tokio(self) -> Compat<Stream> {
        self.compat()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

impl Purpose {
    fn byte(self) -> u8 {
        match self {
            Purpose::Chunks => 1,
            Purpose::Logs => 2,
            Purpose::Api => 3,
            Purpose::Snapshot => 4,
            Purpose::Exec => 5,
        }
    }

    fn from_byte(byte: u8) -> Option<Purpose> {
        [
            Purpose::Chunks,
            Purpose::Logs,
            Purpose::Api,
            Purpose::Snapshot,
            Purpose::Exec,
        ]
        .into_iter()
        .find(|purpose| purpose.byte() == byte)
    }

    pub(super) fn lane(self) -> Lane {
        match self {
            Purpose::Chunks | Purpose::Snapshot | Purpose::Exec => Lane::Bulk,
            Purpose::Logs | Purpose::Api => Lane::Control,
        }
    }

    fn is_open_to(self, holder: &Holder) -> bool {
        match holder {
            Holder::Node(_) => true,
            Holder::User(_) => self == Purpose::Api,
        }
    }
}

/// The opener's side.
pub(super) async fn ask(mut stream: libp2p::Stream, purpose: Purpose) -> Result<Stream, OpenError> {
    let asked = async {
        stream.write_all(&[purpose.byte()]).await?;
        stream.flush().await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        Ok(answer[0])
    };
    match asked.await.map_err(OpenError::Lost)? {
        ACCEPTED => Ok(Stream {
            inner: stream,
            _permit: None,
        }),
        BUSY => Err(OpenError::Busy),
        NOT_ALLOWED => Err(OpenError::NotAllowed),
        _ => Err(OpenError::NotServed),
    }
}

/// The other side. Without `permit` the peer has enough streams already.
pub(super) async fn serve(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    holder: Arc<Holder>,
    mut stream: libp2p::Stream,
    permit: Option<OwnedSemaphorePermit>,
) {
    let mut purpose = [0];
    match tokio::time::timeout(PURPOSE_LIMIT, stream.read_exact(&mut purpose)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    let Some(purpose) = Purpose::from_byte(purpose[0]) else {
        return answer(&mut stream, NOT_SERVED).await;
    };
    if !purpose.is_open_to(&holder) {
        return answer(&mut stream, NOT_ALLOWED).await;
    }
    if purpose.lane() == Lane::Bulk {
        gate.set_lane(Lane::Bulk);
    }
    if permit.is_none() {
        shared.counters.busy.add();
        return answer(&mut stream, BUSY).await;
    }
    let place = match shared.streams.try_reserve() {
        Ok(place) => place,
        Err(TrySendError::Full(())) => {
            shared.counters.busy.add();
            return answer(&mut stream, BUSY).await;
        }
        Err(TrySendError::Closed(())) => return answer(&mut stream, NOT_SERVED).await,
    };
    answer(&mut stream, ACCEPTED).await;
    shared.counters.streams_in.add();
    place.send(InboundStream {
        from: (*holder).clone(),
        purpose,
        stream: Stream {
            inner: stream,
            _permit: permit,
        },
    });
}

async fn answer(stream: &mut libp2p::Stream, byte: u8) {
    let answered = async {
        stream.write_all(&[byte]).await?;
        stream.flush().await
    };
    // One byte fits any window; a peer that is gone shows at the first read.
    if let Err(error) = answered.await {
        tracing::debug!(%error, "answer to a stream's opener not sent");
    }
}
