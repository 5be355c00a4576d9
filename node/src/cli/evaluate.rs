//! From a spec file to the drafts that `run` and `plan` go on with.

use super::spec;
use crate::api::error::{ApiError, ErrorCode};
use potluck_specs::job::{JobDraft, JobKind};
use std::path::Path;

/// Evaluates a spec with its params; `replicas` takes the place of each job's
/// own number.
///
/// # Errors
/// All that is wrong with the spec.
pub(super) fn evaluate(
    file: &Path,
    set: &[String],
    replicas: Option<u32>,
) -> Result<Vec<JobDraft>, ApiError> {
    let mut drafts = spec::evaluate(file, set)?;
    if let Some(replicas) = replicas {
        for draft in &mut drafts {
            set_replicas(draft, replicas)?;
        }
    }
    Ok(drafts)
}

fn set_replicas(draft: &mut JobDraft, wanted: u32) -> Result<(), ApiError> {
    let JobKind::Service { replicas } = &mut draft.kind else {
        let message = format!("{} is not a service: it has no replicas", draft.name);
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    };
    *replicas = wanted;
    Ok(())
}
