//! `potluck history` and `potluck diff`: the versions of a job.

use super::{
    args::Global,
    connect::{Session, connect},
    exit, output, time,
};
use crate::api::{
    client::unexpected,
    error::{ApiError, ErrorCode},
    protocol::{ApiAnswer, ApiRequest, VersionContent, VersionStatus},
};
use potluck_core::cluster::Origin;
use potluck_specs::{
    Job, JobName,
    diff::{self, FieldChange},
};
use potluck_starlark::written;
use std::process::ExitCode;

/// Characters of a commit that are shown: as git does in large repositories.
const COMMIT_SHOWN: usize = 12;

impl Session {
    /// A version of a job as the cluster keeps it; the newest, if none is
    /// named.
    ///
    /// # Errors
    /// What the node says.
    pub(super) async fn content(
        &mut self,
        job: &JobName,
        version: Option<u64>,
    ) -> Result<VersionContent, ApiError> {
        let job = job.clone();
        let request = ApiRequest::Version { job, version };
        match self.client.ask(&request).await? {
            ApiAnswer::Version(content) => Ok(*content),
            other => Err(unexpected(&other)),
        }
    }

    /// The same, read.
    ///
    /// # Errors
    /// What the node says, or a job that only a newer program can read.
    pub(super) async fn version(
        &mut self,
        job: &JobName,
        version: Option<u64>,
    ) -> Result<(VersionContent, Job), ApiError> {
        let content = self.content(job, version).await?;
        let decoded = Job::decode(&content.job).map_err(|error| {
            let number = content.about.version;
            let message = format!("can't read version {number} of {job}: {error}");
            ApiError::new(ErrorCode::Failed, message)
                .hint("it may come from a newer version of potluck than this one")
        })?;
        Ok((content, decoded))
    }
}

/// `potluck history JOB`.
pub(super) async fn history(job: JobName, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let versions = match session.client.ask(&ApiRequest::History(job)).await? {
        ApiAnswer::History(versions) => versions,
        other => return Err(unexpected(&other)),
    };
    output::print(global.output, &versions, |versions| {
        output::table(
            [
                "VERSION",
                "ACCEPTED (UTC)",
                "AUTHOR",
                "TASKS",
                "PACKAGE",
                "COMMIT",
                "SPEC",
                "MESSAGE",
            ],
            versions.iter().map(row),
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn row(version: &VersionStatus) -> [String; 8] {
    let origin = &version.origin;
    [
        match version.current {
            true => format!("{} now", version.version),
            false => version.version.to_string(),
        },
        time::short(version.accepted_at),
        version.author.clone(),
        match version.per_node {
            true => "1 per node".into(),
            false => version.replicas.to_string(),
        },
        version.package.to_string(),
        commit(origin),
        origin.spec.as_deref().map_or_else(
            || "-".into(),
            |spec| output::one_line(super::origin::shown(spec)),
        ),
        message(version),
    ]
}

fn commit(origin: &Origin) -> String {
    let Some(commit) = &origin.commit else {
        return "-".into();
    };
    let id: String = commit.id.chars().take(COMMIT_SHOWN).collect();
    match commit.dirty {
        true => format!("{id}, changed"),
        false => id,
    }
}

fn message(version: &VersionStatus) -> String {
    let said = output::one_line(&version.message);
    match version.origin.back_to {
        Some(back) if said.is_empty() => format!("back to {back}"),
        Some(back) => format!("back to {back}: {said}"),
        None => said,
    }
}

/// `potluck diff JOB N [M]`: 0 if they are the same, 2 if not.
pub(super) async fn diff(
    job: JobName,
    from: u64,
    to: Option<u64>,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let (old, old_job) = session.version(&job, Some(from)).await?;
    let (new, new_job) = session.version(&job, to).await?;
    let changes = diff::diff(&old_job, &new_job);
    let shown = serde_json::json!({
        "job": job, "from": old.about, "to": new.about,
        "changes": changes.iter().map(document).collect::<Vec<_>>(),
    });
    output::print(global.output, &shown, |_| {
        let (from, to) = (old.about.version, new.about.version);
        match changes.is_empty() {
            true => format!("versions {from} and {to} of {job} are the same"),
            false => format!("{job} from version {from} to {to}\n{}", table(&changes)),
        }
    });
    Ok(exit::changes(!changes.is_empty()))
}

fn table(changes: &[FieldChange]) -> String {
    output::table(
        ["FIELD", "OLD", "NEW"],
        changes.iter().map(|change| {
            [
                written(&change.path),
                value(change.old.as_deref()),
                value(change.new.as_deref()),
            ]
        }),
    )
}

/// A change for programs, with its path as people write it too.
pub(super) fn document(change: &FieldChange) -> serde_json::Value {
    serde_json::json!({
        "field": change.path.to_string(),
        "written": written(&change.path),
        "path": change.path,
        "old": change.old,
        "new": change.new,
        "effect": change.effect,
    })
}

/// A value of a field, or that there is none.
pub(super) fn value(value: Option<&str>) -> String {
    match value {
        None => "-".into(),
        Some("") => "\"\"".into(),
        Some(text) => output::one_line(text),
    }
}
