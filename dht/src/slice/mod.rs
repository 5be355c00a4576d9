//! Where services are: signed slices of endpoints, kept by the nodes nearest
//! to their key and read through a cache that is always asked first.
//!
//! The scheduler signs ([`SignedSlice`]), holders keep the newest revision
//! ([`SliceStore`]), readers remember what they saw ([`ServiceCache`]) and ask
//! through a [`Resolver`]. The network is behind [`SliceLookup`].

mod cache;
mod document;
mod lookup;
mod resolver;
mod table;

pub use cache::{
    ABSENT_FOR, CachedService, Resolution, ResolvedEndpoint, SERVICES_MAX, ServiceCache,
};
pub use document::{
    ENDPOINTS_MAX, Endpoint, LIFE_MAX, PARTS_MAX, Revision, SIGNED_SLICE_BYTES_MAX, ServiceName,
    SignedSlice, Slice, SliceError, SliceKey, split,
};
pub use lookup::{LookupError, PutAnswer, SliceLookup};
pub use resolver::{Clock, HOLDERS_MAX, PublishReport, ResolveError, Resolved, Resolver, Source};
pub use table::{KEPT_PAST_END, SLICES_MAX, SliceRequest, SliceResponse, SliceStore, StoreAnswer};

#[cfg(test)]
mod tests;
