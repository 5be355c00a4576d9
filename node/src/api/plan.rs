//! A look at what a change of jobs would do. Nothing is stored for it, and
//! what it says holds for the moment at which the leader looked: `run
//! --expect-version` refuses if a job moved on since. What is answered are
//! the plans of `potluck_specs::plan`.

use potluck_specs::Job;
use serde::{Deserialize, Serialize};

/// Bytes of jobs in one request for a plan, unless one job alone has more:
/// the leader keeps the scheduler waiting while it looks.
pub const PLAN_BYTES_MAX: usize = 128 << 10;

/// Most jobs in one request.
pub const PLAN_JOBS_MAX: usize = 256;

/// Jobs that might be submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Canonical bytes of each, its version being any.
    pub jobs: Vec<serde_bytes::ByteBuf>,
}

/// Is it the same job, the version aside?
pub fn is_same(old: &Job, new: &Job) -> bool {
    let mut same = old.clone();
    same.version = new.version;
    same == *new
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::job::TaskTemplate;

    #[test]
    fn the_version_alone_is_no_difference() {
        let job = Job {
            version: 3,
            task: TaskTemplate::new("bin/web"),
            ..Job::default()
        };
        let mut other = job.clone();
        other.version = 9;
        assert!(is_same(&job, &other));
        other.owner = "ann".into();
        assert!(!is_same(&job, &other));
    }
}
