//! Fetching a package from several peers at once, and serving it to others.

pub mod frame;
mod source;
pub mod wire;

pub use source::{Ask, Asking, ChunkSource, PeerHint, SourceError};
