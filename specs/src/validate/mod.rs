//! Checks of a job: every finding at once, each with the field that it is
//! about and, where one is known, a way to mend it. The client asks before it
//! signs, the leader before it accepts; both get the same answer. Whether a
//! cluster has room for a job is not asked here.

mod change;
mod findings;
mod limits;
mod network;
mod placement;
mod resources;
mod set;
mod task;
mod whole;

pub use crate::finding::{Finding, Severity, refused};
pub use limits::*;
pub use set::{check_set, is_stranger};

use crate::{
    codec::encode,
    job::{JOB_BYTES_MAX, Job, JobDraft, wish::Wish},
    path::FieldPath,
    support,
};
use findings::Findings;

/// What binding adds to a draft: fleet, cluster, version and package id.
const BINDING_BYTES_MAX: usize = 256;

/// What binding adds for each further package: its id.
const BINDING_PACKAGE_BYTES_MAX: usize = 48;

/// Everything that is to be said about a draft, in the order of its fields.
pub fn check(draft: &JobDraft) -> Vec<Finding> {
    let mut findings = Findings::default();
    check_wish(&Wish::of_draft(draft), &mut findings);
    let binding = BINDING_BYTES_MAX + draft.packages.len() * BINDING_PACKAGE_BYTES_MAX;
    check_size(encode(draft).len() + binding, &mut findings);
    findings.0
}

/// The same for a job that is bound to a cluster and a package and is to run:
/// what nobody executes yet is an error too.
pub fn check_job(job: &Job) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.label(&FieldPath::of("cluster"), "cluster", &job.cluster);
    if job.version == 0 {
        findings.error(&FieldPath::of("version"), "versions count from 1");
    }
    check_wish(&Wish::of_job(job), &mut findings);
    check_size(job.encode().len(), &mut findings);
    findings.0.extend(support::unsupported_job(job));
    findings.0
}

fn check_wish(wish: &Wish, findings: &mut Findings) {
    whole::check(wish, findings);
    task::check(wish, findings);
    resources::check(wish.task, findings);
    network::check(wish, findings);
    placement::check(wish, findings);
    change::check(wish, findings);
}

fn check_size(bytes: usize, findings: &mut Findings) {
    if bytes > JOB_BYTES_MAX {
        let message = format!("the job has {bytes} bytes, {JOB_BYTES_MAX} are allowed");
        findings
            .error(&FieldPath::default(), message)
            .why("it travels in each award and stands in the replicated log")
            .hint("put long arguments and settings into files of the package");
    }
}

#[cfg(test)]
mod tests;
