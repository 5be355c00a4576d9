//! The machine: agent, network, control group, API and command line of one
//! potluck node.
//!
//! ```text
//! cli ── api ──┐
//!              ▼
//!           runtime ── agent ── helpers and tasks
//!           │ │  │
//!   control ┘ │  └ packages, discovery
//!             network (libp2p), gossip
//! ```
//!
//! `runtime` starts the actors in order and stops them in reverse. Decisions
//! are `potluck-core`'s; this crate carries them out.

pub mod agent;
pub mod api;
pub mod cli;
pub mod clock;
pub mod control;
pub mod identity;
pub mod network;
mod recording;
pub mod runtime;
pub mod spawn;
#[cfg(test)]
mod testing;
pub mod wire;
