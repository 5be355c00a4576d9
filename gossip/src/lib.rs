//! Who is there and what is free: one gossip pool per cluster.
//!
//! This crate answers for a view of the members of one cluster: identity,
//! coarse capacity, heartbeat counter, and chitchat's opinion on who is alive.
//! It is a hint: "dead" here is only suspicion, and what runs where is not
//! told here at all. It wraps chitchat in a sealed UDP transport and runs it
//! on a thread of its own, so that bulk traffic can't make a node look dead.
//!
//! ```text
//! handle ──watch──▶ publisher ─▶ chitchat ─▶ codec on loopback ─▶ seal ─▶ UDP
//! handle ◀─watch─── view ◀────── chitchat ◀─ codec on loopback ◀─ open ◀─ UDP
//! ```

mod counters;
mod datagram;
mod gossip;
mod pool;
mod reassembly;
mod record;
mod ring;
mod socket;
#[cfg(test)]
mod testing;
mod view;
mod window;

pub use counters::{Counters, DropCause};
pub use gossip::{Gossip, GossipConfig, GossipError, start};
pub use record::{Capacity, IdentityRecord, Member};
pub use ring::{KeyId, KeyRing, RING_KEYS_MAX};

/// Size of a gossip digest from which an admission is to be refused: past
/// 64 KiB gossip stops.
pub const DIGEST_BYTES_MAX: u64 = 40 << 10;
