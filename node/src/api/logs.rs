//! What people ask of logs, and what they are told.

use crate::agent::LogPlace;
use potluck_specs::{Generation, JobName, Millis, SlotId, ids::NameError};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Tasks whose logs one request may merge: for each some hundred kilobytes may
/// wait in the node that merges them.
pub const MERGED_MAX: usize = 50;

/// Longest pattern of a request.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Which lines of which logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogsRequest {
    /// Whose logs; at most [`MERGED_MAX`] tasks in all.
    pub targets: Vec<LogTarget>,
    /// Which lines of each.
    pub select: LogSelection,
}

/// A job's tasks, or one of them: `web`, `web[0]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The job.
    pub job: JobName,
    /// One task; all of them, if nothing is said.
    pub index: Option<u32>,
}

/// Which lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSelection {
    /// Go on with new lines as they come, wherever the task moves.
    pub follow: bool,
    /// Only the last so many lines, then what follows.
    pub tail: Option<u64>,
    /// Only lines from this Unix time on.
    pub since: Option<Millis>,
    /// Only lines up to this Unix time.
    pub until: Option<Millis>,
    /// Only lines in which this regular expression is found; at most
    /// [`PATTERN_BYTES_MAX`].
    pub grep: Option<String>,
    /// The log of the task's placement before the present one.
    pub previous: bool,
}

/// What one node asks of another for a person: one log, or the logs of a slot
/// there one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRead {
    /// Whose.
    pub slot: SlotId,
    /// Which lines; `previous` says nothing here.
    pub select: LogSelection,
    /// The log of this origin; `None`: the latest.
    pub origin: Option<Generation>,
    /// Only what comes behind this line: how a reader goes on where a lost
    /// stream ended.
    pub after: Option<LogPlace>,
}

/// Some lines of one task's log, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// Whose.
    pub slot: SlotId,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The generation with which the task came to its host.
    pub origin: Generation,
    /// Its number in the log of this origin.
    pub sequence: u64,
    /// When the helper read it, Unix time.
    pub at: Millis,
    /// From standard error rather than standard output.
    pub stderr: bool,
    /// The text.
    pub text: String,
}

impl LogLine {
    /// Where it stands among all lines of its slot.
    pub fn place(&self) -> LogPlace {
        LogPlace {
            origin: self.origin,
            sequence: self.sequence,
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}[{index}]", self.job),
            None => self.job.fmt(f),
        }
    }
}

impl FromStr for LogTarget {
    type Err = NameError;

    fn from_str(text: &str) -> Result<LogTarget, NameError> {
        if text.contains('[') {
            let SlotId { job, index } = text.parse()?;
            let index = Some(index);
            return Ok(LogTarget { job, index });
        }
        let job = text.parse()?;
        Ok(LogTarget { job, index: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_jobs_or_tasks() {
        for text in ["web", "web[3]", "team/web", "team/web[0]"] {
            let target: LogTarget = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        for text in ["web[", "web[x]", "web[1", "", "W", "a/b/c"] {
            assert!(text.parse::<LogTarget>().is_err(), "{text}");
        }
    }
}
