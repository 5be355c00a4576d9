//! What a control group is started with, and openraft's configuration from it.

use std::{path::PathBuf, time::Duration};

use openraft::SnapshotPolicy;
use potluck_specs::{Epoch, FleetId};

use super::Member;

/// Entries between two snapshots: a restart applies at most about this many,
/// which takes well under a second.
const SNAPSHOT_EVERY_ENTRIES: u64 = 5_000;

/// Entries that stay in the log behind a snapshot, so that a follower that was
/// away for a moment needs no snapshot.
const KEPT_ENTRIES: u64 = 1_000;

/// Entries in one append at most; the limit in bytes is the log store's.
const APPEND_ENTRIES_MAX: u64 = 300;

/// For one part of a snapshot; the last one includes installing it.
const SNAPSHOT_PART_LIMIT: Duration = Duration::from_secs(20);

/// How long to leave a peer alone that could not be reached: it should not
/// cost a returning node a second, nor the leader a busy loop.
const BACKOFF: &str = "50ms 100ms 200ms ...400ms";

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
    /// The longest such silence. Also how long a quorum's acknowledgement lets
    /// a leader act.
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

/// Overrides the timing, see [`Timing::parse`].
pub const TIMING_VARIABLE: &str = "POTLUCK_RAFT_TIMING";

impl Timing {
    /// The default, or what the environment's [`TIMING_VARIABLE`] says.
    pub fn from_environment() -> Timing {
        let Ok(text) = std::env::var(TIMING_VARIABLE) else {
            return Timing::default();
        };
        Timing::parse(&text).unwrap_or_else(|| {
            tracing::warn!(text, "{TIMING_VARIABLE} is not heartbeat,election_min,election_max in milliseconds, using the default");
            Timing::default()
        })
    }

    /// Reads `heartbeat,election_min,election_max` in milliseconds, as in
    /// `300,1200,1500`: for machines so slow that the default elects all day.
    pub fn parse(text: &str) -> Option<Timing> {
        let numbers: Result<Vec<u64>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        let [heartbeat_ms, election_ms_min, election_ms_max] = numbers.ok()?[..] else {
            return None;
        };
        let timing = Timing {
            heartbeat_ms,
            election_ms_min,
            election_ms_max,
        };
        let sane = heartbeat_ms > 0
            && heartbeat_ms * 2 < election_ms_min
            && election_ms_min < election_ms_max
            && election_ms_max <= 60_000;
        sane.then_some(timing)
    }
}

/// openraft's configuration. Its defaults don't fit: no pre-vote, faster
/// elections, and a leader that may restore itself without a vote.
pub(super) fn openraft(settings: &Settings) -> openraft::Config {
    openraft::Config {
        cluster_name: settings.cluster.clone(),
        heartbeat_interval: settings.timing.heartbeat_ms,
        election_timeout_min: settings.timing.election_ms_min,
        election_timeout_max: settings.timing.election_ms_max,
        install_snapshot_timeout: SNAPSHOT_PART_LIMIT.as_millis() as u64,
        max_payload_entries: APPEND_ENTRIES_MAX,
        // Must be more than entries between snapshots, see its documentation.
        replication_lag_threshold: 2 * SNAPSHOT_EVERY_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        // A member that comes back with an older copy of its folder gets the
        // log anew. The other choice does not undo what it forgot, it only
        // ends the leader, each time.
        allow_log_reversion: Some(true),
        backoff: BACKOFF.into(),
        ..openraft::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_is_read_or_refused() {
        let slow = Timing {
            heartbeat_ms: 300,
            election_ms_min: 1_200,
            election_ms_max: 1_500,
        };
        assert_eq!(Timing::parse("300, 1200, 1500"), Some(slow));
        for bad in [
            "",
            "1",
            "0,10,20",
            "100,150,300",
            "100,500,400",
            "1,2,x",
            "1,9,99999",
        ] {
            assert_eq!(Timing::parse(bad), None, "{bad}");
        }
    }
}
