//! Where things are, and fetching them.
//!
//! This crate answers for packages (a content-addressed store of chunks,
//! packing, unpacking, fetching from several peers at once) and for service
//! discovery (signed slices of endpoints, the table of a holder, the cache of
//! a reader). It knows no network: the node crate carries its requests by
//! implementing [`exchange::ChunkSource`] and [`slice::SliceLookup`], and
//! answers its peers with [`exchange::Server`] and [`slice::SliceStore`].

pub mod exchange;
mod flight;
pub mod pack;
pub mod packages;
pub mod rendezvous;
#[cfg(test)]
mod scratch;
pub mod slice;
mod spawn;
pub mod store;
pub mod unpack;

pub use exchange::{ChunkSource, PeerHint};
pub use packages::Packages;
pub use slice::{Resolver, SignedSlice, SliceLookup, SliceStore};
pub use store::ChunkStore;
