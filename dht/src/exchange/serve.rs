//! Answering peers out of the store, within bounds.

use std::{sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncWrite};
use potluck_specs::{ChunkHash, PackageId};
use serde_bytes::ByteBuf;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    frame::{self, FrameError},
    wire::{
        CHUNK_REQUEST_BYTES_MAX, CHUNK_RESPONSE_BYTES_MAX, ChunkRequest, ChunkResponse, Have,
        PackedChunk, REQUEST_CHUNKS_MAX,
    },
};
use crate::{
    spawn::blocking,
    store::{ChunkStore, GetError, ManifestStoreError, distinct_chunks},
};

/// Requests answered at a time: the disk gets no faster with more, and each may
/// hold 16 MiB.
const ANSWERS_MAX: usize = 8;

/// Requests that wait for their turn; who comes after them is told to ask
/// somebody else.
const WAITING_MAX: usize = 256;

/// A stream on which nothing is asked for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Time to take an answer of up to 16 MiB: a peer that reads more slowly would
/// hold that memory, and gave up on us long ago.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Answers peers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    store: ChunkStore,
    working: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

impl Server {
    /// Serves what is in `store`.
    pub fn new(store: ChunkStore) -> Server {
        Server {
            store,
            working: Arc::new(Semaphore::new(ANSWERS_MAX)),
            admitted: Arc::new(Semaphore::new(ANSWERS_MAX + WAITING_MAX)),
        }
    }

    /// Answers one peer's requests on a stream, one after the other, until it
    /// closes it or is idle.
    ///
    /// # Errors
    /// [`FrameError`] if the stream breaks or holds no frames.
    pub async fn serve(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(), FrameError> {
        loop {
            let request = frame::read(stream, "chunk request", CHUNK_REQUEST_BYTES_MAX);
            let request = match timeout(IDLE_MAX, request).await {
                Ok(Ok(Some(request))) => request,
                Ok(Ok(None)) | Err(_) => return Ok(()),
                Ok(Err(FrameError::Message(_))) => ChunkRequest::Unknown,
                Ok(Err(error)) => return Err(error),
            };
            let response = self.answer(request).await;
            let taken = frame::write(stream, &response, CHUNK_RESPONSE_BYTES_MAX);
            match timeout(TAKEN_WITHIN, taken).await {
                Ok(written) => written?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// The answer to one request. Waits for its turn; dropping it is safe.
    pub async fn answer(&self, request: ChunkRequest) -> ChunkResponse {
        let Ok(_admitted) = self.admitted.try_acquire() else {
            return ChunkResponse::Busy;
        };
        let Ok(working) = Arc::clone(&self.working).acquire_owned().await else {
            return ChunkResponse::Busy;
        };
        let store = self.store.clone();
        blocking(move || {
            // Held by the work itself: it goes on if the peer goes away.
            let _working = working;
            answer(&store, request)
        })
        .await
    }
}

/// Asks over a stream whose other end [`Server::serve`]s; nothing if the peer
/// closed it instead of answering. The stream can be used again.
///
/// # Errors
/// Any [`FrameError`].
pub async fn ask_over(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &ChunkRequest,
) -> Result<Option<ChunkResponse>, FrameError> {
    frame::write(stream, request, CHUNK_REQUEST_BYTES_MAX).await?;
    frame::read(stream, "chunk response", CHUNK_RESPONSE_BYTES_MAX).await
}

/// The answer to one request; blocks on the disk.
pub fn answer(store: &ChunkStore, request: ChunkRequest) -> ChunkResponse {
    match request {
        ChunkRequest::Manifest(id) => manifest(store, id),
        ChunkRequest::Have(id) => have(store, id),
        ChunkRequest::Chunks { hashes, .. } => chunks(store, &hashes),
        ChunkRequest::Unknown => ChunkResponse::Unsupported,
    }
}

fn manifest(store: &ChunkStore, id: PackageId) -> ChunkResponse {
    match store.manifest_bytes(id) {
        Ok((bytes, _)) => ChunkResponse::Manifest(Some(ByteBuf::from(bytes))),
        Err(ManifestStoreError::Missing(_)) => ChunkResponse::Manifest(None),
        Err(error) => refuse(&error),
    }
}

fn have(store: &ChunkStore, id: PackageId) -> ChunkResponse {
    match store.manifest(id) {
        Ok(manifest) => {
            let chunks = distinct_chunks(&manifest);
            let bits = chunks.iter().map(|chunk| store.has(chunk.hash));
            ChunkResponse::Have(Have::from_bits(bits))
        }
        Err(ManifestStoreError::Missing(_)) => ChunkResponse::Have(Have::Nothing),
        Err(error) => refuse(&error),
    }
}

fn chunks(store: &ChunkStore, hashes: &[ChunkHash]) -> ChunkResponse {
    if hashes.len() > REQUEST_CHUNKS_MAX {
        return ChunkResponse::Refused("more chunks than one request may ask for".into());
    }
    let mut chunks: Vec<Option<PackedChunk>> = Vec::with_capacity(hashes.len());
    for hash in hashes {
        match store.get_packed(*hash) {
            Ok(chunk) => chunks.push(Some(chunk)),
            Err(GetError::Missing(_) | GetError::Damaged(_)) => chunks.push(None),
            Err(error) => return refuse(&error),
        }
    }
    ChunkResponse::Chunks(chunks)
}

/// Paths and causes are for our own log, not for peers.
fn refuse(error: &(dyn std::error::Error + 'static)) -> ChunkResponse {
    tracing::warn!(error, "can't answer a peer out of the store");
    ChunkResponse::Refused("the store fails".into())
}
