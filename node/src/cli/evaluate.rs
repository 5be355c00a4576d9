//! From a spec file to drafts, in a child process with limits: a spec can't
//! hurt the process that holds the person's keys.

use super::exit::chain;
use crate::api::error::{ApiError, ErrorCode};
use potluck_specs::{
    job::{JobDraft, JobKind},
    support,
};
use std::{ffi::OsStr, path::Path, process::ExitCode};

/// Evaluates a spec; `replicas` takes the place of each job's own number.
///
/// # Errors
/// All that is wrong with the spec.
pub(super) fn evaluate(file: &Path, replicas: Option<u32>) -> Result<Vec<JobDraft>, ApiError> {
    let bad = |text: String| ApiError::new(ErrorCode::BadRequest, text);
    let program = std::env::current_exe()
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    let evaluated = potluck_starlark::sandboxed(&program, &[OsStr::new("internal-evaluate")], file);
    let mut drafts = evaluated
        // The list of problems begins each with "error:", as we do.
        .map_err(|error| bad(chain(&error).trim_start_matches("error: ").into()))?;
    if let Some(replicas) = replicas {
        for draft in &mut drafts {
            set_replicas(draft, replicas)?;
        }
    }
    refuse_unsupported(&drafts)?;
    Ok(drafts)
}

/// What nobody executes yet is said before anything else is done.
fn refuse_unsupported(drafts: &[JobDraft]) -> Result<(), ApiError> {
    let findings = drafts.iter().flat_map(|draft| {
        let about = |finding| format!("job {}: {finding}", draft.name);
        support::unsupported(draft).into_iter().map(about)
    });
    let findings: Vec<String> = findings.collect();
    match findings.is_empty() {
        true => Ok(()),
        false => Err(ApiError::new(ErrorCode::BadRequest, findings.join("\n"))),
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

/// The child's side of [`evaluate`].
pub(super) fn evaluate_child(file: &Path) -> ExitCode {
    ExitCode::from(potluck_starlark::child_main(file))
}
