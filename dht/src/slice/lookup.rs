//! The seam to the network: how slices are asked for and put. The node
//! implements it over its DHT, the tests in memory.

use super::{
    document::{SIGNED_SLICE_BYTES_MAX, SliceKey},
    table::{SliceRequest, SliceResponse},
};
use async_trait::async_trait;
use potluck_specs::NodeId;

/// A peer that gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No connection, or it broke, or the peer refused.
    #[error("can't ask the peer: {0}")]
    Unreachable(String),
    /// The answer is none that this version knows.
    #[error("the peer's answer can't be used")]
    BadAnswer,
}

/// A holder's answer to a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutAnswer {
    /// It keeps the slice.
    Stored,
    /// It has a newer one: here it is.
    Newer(Vec<u8>),
    /// It does not keep it, for people.
    Refused(String),
}

/// How slices are asked for and put. Answers are not trusted: the resolver
/// verifies each slice. Futures may be dropped at any time; the resolver sets
/// its own time limits.
#[async_trait]
pub trait SliceLookup: Send + Sync + 'static {
    /// The nodes nearest to a key, nearest first, this one included if it is
    /// one of them; at most 20 are used.
    async fn closest(&self, key: SliceKey) -> Vec<NodeId>;

    /// Sends a request and waits for the answer.
    async fn ask(&self, to: NodeId, request: SliceRequest) -> Result<SliceResponse, LookupError>;

    /// The signed slice that a node holds.
    async fn get(&self, from: NodeId, key: SliceKey) -> Result<Option<Vec<u8>>, LookupError> {
        match self.ask(from, SliceRequest::Get(key)).await? {
            SliceResponse::Found(None) => Ok(None),
            SliceResponse::Found(Some(bytes)) if bytes.len() <= SIGNED_SLICE_BYTES_MAX => {
                Ok(Some(bytes.into_vec()))
            }
            _ => Err(LookupError::BadAnswer),
        }
    }

    /// Hands a signed slice to a node.
    async fn put(&self, to: NodeId, signed: Vec<u8>) -> Result<PutAnswer, LookupError> {
        match self.ask(to, SliceRequest::Put(signed.into())).await? {
            SliceResponse::Stored => Ok(PutAnswer::Stored),
            SliceResponse::Newer(bytes) if bytes.len() <= SIGNED_SLICE_BYTES_MAX => {
                Ok(PutAnswer::Newer(bytes.into_vec()))
            }
            SliceResponse::Refused(why) => Ok(PutAnswer::Refused(why)),
            _ => Err(LookupError::BadAnswer),
        }
    }
}
