//! What is kept of a job's versions: where each came from, and how many stay.
//!
//! Answers for the bounds of a job's history. A version is kept whole, with
//! its signed bytes, so that it can be compared and gone back to, and its
//! package stays pinned as long as it is kept.

use super::{JobRecord, JobVersion};
use potluck_specs::Millis;
use serde::{Deserialize, Serialize};

/// Versions kept of a job: some weeks of a service that is deployed daily.
pub const VERSIONS_KEPT: usize = 20;

/// Versions kept of a job in any case: the one that runs, and the one that a
/// failed rollout returns to.
pub const VERSIONS_KEPT_MIN: usize = 2;

/// Bytes of signed jobs kept of one job, beyond [`VERSIONS_KEPT_MIN`]: all
/// twenty of a usual job of a few KiB, four of the largest.
pub const VERSIONS_BYTES_MAX: usize = 1 << 20;

/// Bytes of signed jobs kept in all: with everything else in the state, half
/// of the largest snapshot.
pub const JOBS_BYTES_MAX: usize = 192 << 20;

/// What a version costs beside its texts: signatures, keys, names of fields.
const VERSION_BYTES: usize = 1_024;

/// Longest name of an author, message or path of a spec kept with a version.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Longest name of a commit: SHA-256 in hexadecimal.
const COMMIT_BYTES_MAX: usize = 64;

/// Where a version came from, by the word of its author's client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The spec file: its path below the root of its specs. The jobs of one
    /// file are known by it.
    pub spec: Option<String>,
    /// The commit that the spec was read at.
    pub commit: Option<Commit>,
    /// The earlier version whose content this is.
    pub back_to: Option<u64>,
}

/// A commit of git.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its name, in hexadecimal.
    pub id: String,
    /// The spec, or one that it may load, was changed since.
    pub dirty: bool,
}

/// Who stopped a job, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Who asked.
    pub author: String,
    /// Unix time.
    pub at: Millis,
}

impl Origin {
    /// The same, no longer than the log keeps.
    pub(super) fn bounded(&self) -> Origin {
        Origin {
            spec: self
                .spec
                .as_deref()
                .map(|spec| bounded_text(spec, TEXT_BYTES_MAX)),
            commit: self.commit.as_ref().map(|commit| Commit {
                id: bounded_text(&commit.id, COMMIT_BYTES_MAX),
                dirty: commit.dirty,
            }),
            back_to: self.back_to,
        }
    }
}

impl JobVersion {
    /// What it costs to keep.
    pub(super) fn bytes(&self) -> usize {
        let author = &self.job.author;
        self.job.job.bytes.len()
            + author.issuer.bytes.len()
            + author.certificate.bytes.len()
            + self.message.len()
            + VERSION_BYTES
    }
}

impl JobRecord {
    /// What its versions cost to keep.
    pub(super) fn bytes(&self) -> usize {
        self.versions.iter().map(JobVersion::bytes).sum()
    }

    /// Drops the oldest versions until count and bytes are within bounds.
    pub(super) fn trim(&mut self, bytes_max: usize) -> Vec<JobVersion> {
        let bytes_max = bytes_max.min(VERSIONS_BYTES_MAX);
        let mut bytes = self.bytes();
        let mut dropped = Vec::new();
        while self.versions.len() > VERSIONS_KEPT
            || self.versions.len() > VERSIONS_KEPT_MIN && bytes > bytes_max
        {
            let Some(oldest) = self.versions.pop_front() else {
                break;
            };
            bytes -= oldest.bytes();
            dropped.push(oldest);
        }
        dropped
    }
}

/// The beginning of a text, cut between characters.
pub(crate) fn bounded_text(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_string()
}
