//! The seam to the network: how a fetch asks a peer. The node implements it
//! over its streams, the tests in memory.

use super::wire::{ChunkRequest, ChunkResponse, Have, PackedChunk};
use async_trait::async_trait;
use potluck_specs::{ChunkHash, NodeId, PackageId};

/// A node that may hold a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerHint {
    /// Which node.
    pub node: NodeId,
    /// It stands in the rack of the one that fetches, and is asked first.
    pub same_rack: bool,
}

/// A request that got no usable answer. The peer is asked again later, after
/// others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No connection, or it broke.
    #[error("can't reach the peer: {0}")]
    Unreachable(String),
    /// It has too much to do.
    #[error("the peer is busy")]
    Busy,
    /// It answered with a refusal.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// The answer is none that this version knows, or breaks a limit.
    #[error("the peer's answer can't be used: {0}")]
    BadAnswer(String),
}

/// How a fetch asks peers. Answers are not trusted: the fetch verifies every
/// byte. Futures may be dropped at any time; the fetch sets its own time
/// limits.
#[async_trait]
pub trait ChunkSource: Send + Sync + 'static {
    /// The manifest's bytes; nothing if the peer has not got it.
    async fn manifest(&self, from: NodeId, id: PackageId) -> Result<Option<Vec<u8>>, SourceError>;

    /// Which chunks the peer holds.
    async fn have(&self, from: NodeId, id: PackageId) -> Result<Have, SourceError>;

    /// At most [`super::wire::REQUEST_CHUNKS_MAX`] chunks, in the order of
    /// `hashes`; nothing for one that the peer has not got.
    async fn chunks(
        &self,
        from: NodeId,
        id: PackageId,
        hashes: Vec<ChunkHash>,
    ) -> Result<Vec<Option<PackedChunk>>, SourceError>;
}

/// One request and its answer over whatever the node has: all that a
/// [`ChunkSource`] needs.
#[async_trait]
pub trait Ask: Send + Sync + 'static {
    /// Sends `request` to `to` and waits for the answer.
    async fn ask(&self, to: NodeId, request: ChunkRequest) -> Result<ChunkResponse, SourceError>;
}

/// Any [`Ask`] is a source: requests are put into the messages of
/// [`super::wire`], answers taken out.
pub struct Asking<A>(pub A);

#[async_trait]
impl<A: Ask> ChunkSource for Asking<A> {
    async fn manifest(&self, from: NodeId, id: PackageId) -> Result<Option<Vec<u8>>, SourceError> {
        match self.0.ask(from, ChunkRequest::Manifest(id)).await? {
            ChunkResponse::Manifest(bytes) => Ok(bytes.map(serde_bytes::ByteBuf::into_vec)),
            other => Err(unfit(other)),
        }
    }

    async fn have(&self, from: NodeId, id: PackageId) -> Result<Have, SourceError> {
        match self.0.ask(from, ChunkRequest::Have(id)).await? {
            ChunkResponse::Have(have) => Ok(have),
            other => Err(unfit(other)),
        }
    }

    async fn chunks(
        &self,
        from: NodeId,
        id: PackageId,
        hashes: Vec<ChunkHash>,
    ) -> Result<Vec<Option<PackedChunk>>, SourceError> {
        let request = ChunkRequest::Chunks {
            package: id,
            hashes,
        };
        match self.0.ask(from, request).await? {
            ChunkResponse::Chunks(chunks) => Ok(chunks),
            other => Err(unfit(other)),
        }
    }
}

fn unfit(response: ChunkResponse) -> SourceError {
    use ChunkResponse as R;
    match response {
        R::Busy => SourceError::Busy,
        R::Refused(why) => SourceError::Refused(why.chars().take(200).collect()),
        R::Unsupported => SourceError::Refused("it does not know this request".into()),
        R::Manifest(_) | R::Have(_) | R::Chunks(_) => {
            SourceError::BadAnswer("it answers another question".into())
        }
    }
}
