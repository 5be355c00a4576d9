//! From a spec file to the drafts that `run` and `plan` go on with.

use super::{args::Format, beside, spec};
use crate::api::error::{ApiError, ErrorCode};
use potluck_specs::{
    JobName,
    job::{JobDraft, JobKind},
};
use potluck_starlark::{EvaluatedJob, Finding, FindingKind, Severity};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What is to be evaluated, and how.
pub(super) struct Wanted<'a> {
    pub(super) file: &'a Path,
    /// Params, `name=value`.
    pub(super) set: &'a [String],
    /// Takes the place of each job's own number.
    pub(super) replicas: Option<u32>,
    /// Packages may lie anywhere.
    pub(super) allow_outside: bool,
    /// A file without a job is no mistake.
    pub(super) may_be_empty: bool,
    pub(super) format: Format,
}

/// A spec file, evaluated.
pub(super) struct Spec {
    pub(super) drafts: Vec<JobDraft>,
    /// Warnings: told already to who reads text.
    pub(super) findings: Vec<Finding>,
    /// All that its jobs are made of: what it loads, and local packages.
    pub(super) inputs: Vec<PathBuf>,
    jobs: Vec<EvaluatedJob>,
    /// What may be wrong with jobs that it waits for; only the cluster knows.
    strangers: Vec<Finding>,
}

/// Evaluates a spec with its params.
///
/// # Errors
/// All that is wrong with the spec and its packages.
pub(super) fn evaluate(wanted: &Wanted) -> Result<Spec, ApiError> {
    let evaluated = spec::evaluate(wanted)?;
    let root = beside::root(wanted.file)?;
    let place = beside::Place {
        root: root.folder(),
        spec: wanted.file,
        allow_outside: wanted.allow_outside,
    };
    let wrong: Vec<Finding> = evaluated
        .jobs
        .iter()
        .filter_map(|job| beside::check(&place, job))
        .collect();
    if !wrong.is_empty() {
        return Err(spec::refuse(&wrong, wanted.format));
    }
    let is_stranger = |finding: &Finding| finding.kind == FindingKind::UnknownJob;
    let (strangers, findings): (Vec<_>, Vec<_>) =
        evaluated.findings.into_iter().partition(is_stranger);
    spec::tell(&findings, wanted.format);
    let mut inputs: Vec<PathBuf> = evaluated
        .files
        .iter()
        .map(|path| root.folder().join(path))
        .collect();
    let mut drafts: Vec<JobDraft> = Vec::new();
    for job in &evaluated.jobs {
        inputs.extend(place.packages(&job.draft));
        drafts.push(job.draft.clone());
    }
    if let Some(replicas) = wanted.replicas {
        for draft in &mut drafts {
            set_replicas(draft, replicas)?;
        }
    }
    Ok(Spec {
        drafts,
        findings,
        inputs,
        jobs: evaluated.jobs,
        strangers,
    })
}

impl Spec {
    /// Warnings about jobs that are waited for and that the cluster does not
    /// have either, each where it is named.
    pub(super) fn missing(&self, missing: &BTreeSet<JobName>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for job in &self.jobs {
            let needs = job.draft.change.depends_on.iter();
            for (needed, at) in needs.zip(&job.depends_on_at) {
                if !missing.contains(&needed.job) {
                    continue;
                }
                let message = format!("job {} does not exist", needed.job);
                let mut finding = Finding::error(at.clone(), FindingKind::UnknownJob, message).why(
                    format!("{} starts nothing until it is there", job.draft.name),
                );
                finding.severity = Severity::Warning;
                let told = self.strangers.iter().find(|told| told.at == *at);
                finding.hint = told.and_then(|told| told.hint.clone());
                findings.push(finding);
            }
        }
        findings
    }
}

fn set_replicas(draft: &mut JobDraft, wanted: u32) -> Result<(), ApiError> {
    let JobKind::Service { replicas } = &mut draft.kind else {
        let message = format!("{} is not a service: it has no replicas", draft.name);
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    };
    *replicas = wanted;
    Ok(())
}
