//! What people ask of logs, and what they are told.

use crate::agent::LogPlace;
pub use crate::agent::TAIL_LINES_MAX;
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
    /// How far a reader has come whose connection was lost: it has everything
    /// of these tasks before these lines, and nothing of any other task. At
    /// most [`MERGED_MAX`]. Empty: a reader that begins.
    #[serde(default)]
    pub from: Vec<LogFrom>,
}

/// How far a reader has come in one task's logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFrom {
    /// Whose.
    pub slot: SlotId,
    /// The line that comes next.
    pub next: LogPlace,
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
    /// Only the last so many lines, then what follows; at most
    /// [`TAIL_LINES_MAX`].
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
    /// Only from this line on, whatever `tail` and `since` say: how a reader
    /// goes on where a lost stream ended.
    #[serde(default)]
    pub from: Option<LogPlace>,
    /// The line before it, for nodes that don't know `from` yet.
    pub after: Option<LogPlace>,
}

impl LogRead {
    /// Of a reader that begins.
    pub fn of(slot: SlotId, select: LogSelection) -> LogRead {
        LogRead {
            slot,
            select,
            origin: None,
            from: None,
            after: None,
        }
    }

    /// Goes on with this line.
    pub fn go_on(&mut self, next: LogPlace) {
        let before = next.sequence.checked_sub(1);
        self.after = before.map(|sequence| LogPlace { sequence, ..next });
        self.from = Some(next);
    }

    /// The line to go on with, by whichever of the two says it.
    pub fn next(&self) -> Option<LogPlace> {
        self.from.or(self.after.map(LogPlace::behind))
    }
}

/// Some lines of one task's log, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// Whose.
    pub slot: SlotId,
    /// The lines; none, if only the place has moved.
    pub lines: Vec<LogLine>,
    /// The line that comes next: all that is wanted before it was told. From
    /// it a reader goes on whose connection breaks. Nothing from older nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<LogPlace>,
}

impl LogLines {
    /// From where a reader of these lines goes on.
    pub fn next(&self) -> Option<LogPlace> {
        let behind = |line: &LogLine| line.place().behind();
        self.next.or_else(|| self.lines.last().map(behind))
    }
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
    /// It goes on in the next line of the same stream: the whole is longer
    /// than a line of a log may be (64 KiB).
    #[serde(default)]
    pub partial: bool,
    /// Lines just before it that were removed, by the limits on kept logs,
    /// before this reader came to them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed_before: u64,
    /// The text. What is no UTF-8 is replaced.
    pub text: String,
    /// The bytes, in base64, of a text that is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
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
    use potluck_specs::codec;

    /// The request as nodes of before know it.
    #[derive(Serialize, Deserialize)]
    struct OldRead {
        slot: SlotId,
        select: LogSelection,
        origin: Option<Generation>,
        after: Option<LogPlace>,
    }

    #[test]
    fn readers_go_on_with_older_nodes_too() {
        let place = |sequence| LogPlace {
            origin: Generation::default(),
            sequence,
        };
        for next in [0, 1, 7] {
            let mut read = LogRead::of("web[0]".parse().unwrap(), LogSelection::default());
            assert_eq!(read.next(), None);
            read.go_on(place(next));
            assert_eq!(read.next(), Some(place(next)));
            let old: OldRead = codec::decode("read", &codec::encode(&read), 4_096).unwrap();
            assert_eq!(
                old.after.map(LogPlace::behind),
                (next > 0).then_some(place(next))
            );
            let new: LogRead = codec::decode("read", &codec::encode(&old), 4_096).unwrap();
            assert_eq!(new.next(), (next > 0).then_some(place(next)));
        }
    }

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
