//! The order of instructions: epoch, reign, sequence.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Rises with each recovery of a cluster; carried in every message.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// One continuous leadership: the log index of the `Reign` entry that a leader
/// commits and applies before it acts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Reign(pub u64);

/// Orders every instruction about a slot. Field order is comparison order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation {
    /// The cluster's epoch.
    pub epoch: Epoch,
    /// The leadership that gave the instruction.
    pub reign: Reign,
    /// Counts the instructions of one reign, from 1.
    pub sequence: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch.0, self.reign.0, self.sequence)
    }
}
