//! Everything that a node or a scheduler decides.
//!
//! This crate decides and does nothing: `step(event, now) -> effects`. No
//! clock, socket, file, async, randomness or unordered map. The node drives it
//! with real events, the simulator drives the same lines with virtual ones.

pub mod attributes;
pub mod auction;
pub mod cluster;
pub mod host;
pub mod record;
pub mod relay;
pub mod scheduler;
pub mod session;
pub mod usage;
pub mod voters;
