//! Fetching a package from several peers at once, and serving it to others.
//!
//! [`FetchPlan`] decides whom to ask for what and is a plain value; [`fetch`]
//! asks, verifies and stores; [`Server`] answers. Who the peers are is told by
//! the caller.

mod fetch;
pub mod frame;
mod plan;
mod report;
mod serve;
mod source;
pub mod wire;

pub use fetch::{FetchError, fetch, fetch_with};
pub use plan::{DropReason, Effect, Event, FetchPlan, Limits, Progress, Received, RequestId};
pub use report::FetchReport;
pub use serve::{Server, answer, ask_over};
pub use source::{Ask, Asking, ChunkSource, PeerHint, SourceError};

#[cfg(test)]
pub(crate) use fetch::tests as test_world;
