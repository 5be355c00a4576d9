//! What a control group is started with, and openraft's configuration from it.

use std::path::PathBuf;

use potluck_specs::{Epoch, FleetId};

use super::Member;

/// What a control group is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The group's own folder in the data folder.
    pub folder: PathBuf,
    /// Messages of another fleet are refused.
    pub fleet: FleetId,
    /// Messages of another cluster are refused.
    pub cluster: String,
    /// Messages of an older epoch are refused.
    pub epoch: Epoch,
    /// This node.
    pub me: Member,
    /// Heartbeats and elections.
    pub timing: Timing,
}

/// Heartbeats and elections, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// The shortest silence after which a follower stands for election.
    pub election_ms_min: u64,
    /// The longest such silence.
    pub election_ms_max: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat_ms: 100,
            election_ms_min: 400,
            election_ms_max: 500,
        }
    }
}
