//! One node, put together: starts the actors in order, connects them, and
//! stops them in reverse.
//!
//! ```text
//! network ─▶ dispatch ─▶ agent, scheduling, control, packages, discovery
//! gossip ──▶ members ──▶ addresses for the network, hints for scheduling
//! control ─▶ scheduling (while this node leads): reign, calls, awards
//!                └▶ voters, discovery's publisher
//! agent ───▶ session ──▶ heartbeats to whoever leads
//! api ─────▶ operations ─▶ changes and queries, handed to whoever leads
//! ```

mod admission;
mod audit;
mod authors;
mod certificates;
mod changes;
mod claims;
mod concerns;
mod conditions;
mod discovery;
mod dispatch;
mod exec;
mod founding;
mod holder;
mod join;
mod keeping;
mod logs;
mod members;
mod operate;
mod operations;
mod packages;
mod peers;
mod plan;
mod queries;
mod recall;
mod recording;
pub(crate) mod recovery;
mod relay;
mod renewal;
mod requests;
mod revocations;
mod scheduling;
mod session;
mod settings;
mod shared;
mod standing;
mod start;
#[cfg(test)]
mod tests;
mod twins;
mod usage;
mod versions;
mod voters;

pub use relay::Letter;
pub use settings::{JoinWish, NodeSettings};
pub use standing::NodeEnded;
pub use start::{Node, StartError};
