//! Where services are: signed slices of endpoints.

mod document;
mod lookup;
mod table;

pub use document::{
    ENDPOINTS_MAX, Endpoint, PARTS_MAX, Revision, SIGNED_SLICE_BYTES_MAX, ServiceName, SignedSlice,
    Slice, SliceError, SliceKey, split,
};
pub use lookup::{LookupError, PutAnswer, SliceLookup};
pub use table::{SliceRequest, SliceResponse, SliceStore, StoreAnswer};
