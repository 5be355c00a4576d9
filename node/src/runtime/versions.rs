//! The versions of a job that the log keeps, for people.

use super::queries::no_such_job;
use crate::api::{
    error::{ApiError, ErrorCode},
    protocol::{ApiAnswer, VersionContent, VersionStatus},
};
use potluck_core::cluster::{Cluster, JobRecord, JobVersion};
use potluck_specs::{JobName, job::JobKind};

/// Most names in one answer about a spec file: all that its evaluation could
/// yield, and half a frame.
const NAMES_MAX: usize = 4_000;

/// All versions that are kept, the newest first.
///
/// # Errors
/// No such job.
pub(super) fn history(state: &Cluster, job: &JobName) -> Result<ApiAnswer, ApiError> {
    let record = record(state, job)?;
    let versions = record.versions.iter().rev();
    let statuses = versions.map(|version| status(record, version)).collect();
    Ok(ApiAnswer::History(statuses))
}

/// One version with its content: the one asked for, or the newest.
///
/// # Errors
/// No such job, or no such version of it.
pub(super) fn version(
    state: &Cluster,
    job: &JobName,
    version: Option<u64>,
) -> Result<ApiAnswer, ApiError> {
    let record = record(state, job)?;
    let found = match version {
        Some(number) => record.version(number),
        None => Some(record.current()),
    };
    let found = found.ok_or_else(|| no_such_version(record, job, version.unwrap_or_default()))?;
    Ok(ApiAnswer::Version(Box::new(VersionContent {
        about: status(record, found),
        stopped: record.stopped,
        job: found.job.job.bytes.clone(),
    })))
}

/// Jobs that run and whose newest version came from this spec file.
pub(super) fn jobs_of(state: &Cluster, spec: &str) -> Vec<JobName> {
    let jobs = state.jobs().iter();
    let theirs = jobs.filter(|(_, record)| {
        !record.stopped && record.current().origin.spec.as_deref() == Some(spec)
    });
    theirs
        .map(|(name, _)| name.clone())
        .take(NAMES_MAX)
        .collect()
}

fn record<'a>(state: &'a Cluster, job: &JobName) -> Result<&'a JobRecord, ApiError> {
    state.jobs().get(job).ok_or_else(|| no_such_job(state, job))
}

fn no_such_version(record: &JobRecord, job: &JobName, version: u64) -> ApiError {
    let first = record.versions.front().map_or(0, |v| v.version);
    let last = record.current().version;
    let message = match version {
        0 => format!("job {job} has no version 0: they are numbered from 1"),
        _ if version > last => format!("job {job} has no version {version}, it is at {last}"),
        _ => format!("version {version} of job {job} is kept no longer"),
    };
    ApiError::new(ErrorCode::NotFound, message).hint(format!(
        "versions {first} to {last} are kept; see potluck history {job}"
    ))
}

fn status(record: &JobRecord, version: &JobVersion) -> VersionStatus {
    VersionStatus {
        version: version.version,
        current: version.version == record.current().version,
        author: version.author.clone(),
        accepted_at: version.accepted_at,
        message: version.message.clone(),
        package: version.package,
        replicas: version.replicas,
        per_node: version
            .job
            .decode_unchecked()
            .is_ok_and(|job| job.kind == JobKind::PerNode),
        origin: version.origin.clone(),
    }
}
