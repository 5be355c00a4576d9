//! What `potluck run` waits for, and what may become of it meanwhile.
//!
//! ```text
//!        healthy, or done if that is waited for
//! goes ----------------------------------------> there
//!  |   stopped, replaced by a later version, rolled back, rollout failed
//!  +---------------------------------------------------------------> lost
//! ```

use super::jobs::is_complete;
use crate::api::{
    error::{ApiError, ErrorCode},
    operate::RolloutPhase,
    protocol::{BatchState, JobStatus},
};

/// How a wait stands.
#[derive(Debug)]
pub(super) enum Stand {
    /// Time will tell.
    Goes,
    /// What was waited for is there.
    There,
    /// It will never be there.
    Lost(ApiError),
}

/// How the wait for version `mine` stands; with `done`, for the end of its
/// work.
pub(super) fn stand(status: &JobStatus, mine: u64, done: bool) -> Stand {
    if status.version < mine {
        // An answer of before the change says nothing of it.
        return Stand::Goes;
    }
    match lost(status, mine, done) {
        Some(error) => Stand::Lost(error),
        None if is_there(status, done) => Stand::There,
        None => Stand::Goes,
    }
}

/// Of work that ends its end, or its first tasks; else that all tasks are
/// healthy.
fn is_there(status: &JobStatus, done: bool) -> bool {
    let up_to_date = || status.tasks.iter().all(|task| task.up_to_date);
    match &status.batch {
        None => is_complete(status) && up_to_date(),
        Some(batch) if batch.state != BatchState::Running => true,
        Some(_) if done => false,
        Some(batch) => batch.done > 0 || (status.healthy > 0 && up_to_date()),
    }
}

fn lost(status: &JobStatus, mine: u64, done: bool) -> Option<ApiError> {
    let name = &status.name;
    if status.version > mine {
        let (now, author) = (status.version, &status.author);
        let aim = if done { "done" } else { "healthy" };
        let message = format!(
            "{name}: version {mine} was replaced by version {now} of {author} before it was {aim}"
        );
        let hint = format!("who changed what: potluck history {name}");
        return Some(ApiError::new(ErrorCode::Conflict, message).hint(hint));
    }
    if status.stopped && !is_over(status) {
        let by = status.stopped_by.as_ref();
        let by = by.map_or_else(String::new, |by| format!(" by {}", by.author));
        let message = format!("{name} was stopped{by} while it was waited for");
        let hint = format!("who changed what: potluck history {name}; run it again to go on");
        return Some(ApiError::new(ErrorCode::Failed, message).hint(hint));
    }
    let rollout = status.rollout.as_ref().filter(|r| r.version == mine)?;
    let became = match rollout.phase {
        RolloutPhase::RolledBack => format!("was rolled back to version {}", rollout.from),
        RolloutPhase::Failed => "failed, and stays where it is".into(),
        _ => return None,
    };
    let why = rollout.why.as_deref().unwrap_or("no reason was told");
    let message = format!("{name}: the rollout of version {mine} {became}: {why}");
    let hint = format!(
        "the words of the tasks that failed: potluck logs --previous {name}; \
         what runs now: potluck status {name}"
    );
    Some(ApiError::new(ErrorCode::Failed, message).hint(hint))
}

/// Work that came to its end, well or not, before anything else happened.
fn is_over(status: &JobStatus) -> bool {
    let state = status.batch.as_ref().map(|batch| batch.state);
    matches!(
        state,
        Some(BatchState::Complete | BatchState::Failed | BatchState::DeadlineExceeded)
    )
}

/// Work that was waited for and has failed.
pub(super) fn failure(status: &JobStatus) -> Option<ApiError> {
    let batch = status.batch.as_ref()?;
    let failed = matches!(
        batch.state,
        BatchState::Failed | BatchState::DeadlineExceeded
    );
    failed.then(|| {
        let message = format!("{}: {}", status.name, batch.told());
        let hint = format!(
            "look with: potluck status {0}; run it again to go on with what is not done, \
             or stop it first to begin anew",
            status.name
        );
        ApiError::new(ErrorCode::Failed, message).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{operate::RolloutStatus, protocol::BatchStatus};
    use potluck_core::cluster::Stopped;
    use potluck_specs::{JobName, Millis, PackageId};

    /// Of one task that is healthy.
    fn service(version: u64) -> JobStatus {
        JobStatus {
            name: JobName::in_default("work"),
            version,
            replicas: 1,
            per_node: false,
            counting: false,
            stopped: false,
            running: 1,
            healthy: 1,
            author: "ada".into(),
            accepted_at: Millis(0),
            message: String::new(),
            stopped_by: None,
            recovered_at: None,
            package: PackageId([0; 32]),
            services: Vec::new(),
            rollout: None,
            batch: None,
            tasks: Vec::new(),
        }
    }

    fn stopped(mut status: JobStatus) -> JobStatus {
        status.stopped = true;
        status.stopped_by = Some(Stopped {
            author: "bob".into(),
            at: Millis(1),
        });
        status
    }

    fn work(version: u64, state: BatchState) -> JobStatus {
        let batch = BatchStatus {
            state,
            completions: 2,
            parallelism: 1,
            done: 1,
            failed: 0,
            failed_indexes: Vec::new(),
            why: None,
            began_at: Millis(0),
            ended_at: None,
            deadline: None,
        };
        JobStatus {
            batch: Some(batch),
            ..service(version)
        }
    }

    fn rolling(version: u64, phase: RolloutPhase) -> JobStatus {
        let rollout = RolloutStatus {
            version,
            from: version - 1,
            stage: 1,
            stages: 1,
            place: None,
            phase,
            why: Some("its tasks fail".into()),
        };
        JobStatus {
            rollout: Some(rollout),
            ..service(version)
        }
    }

    /// `goes`, `there`, or what is said of the loss.
    fn told(stand: Stand) -> String {
        match stand {
            Stand::Goes => "goes".into(),
            Stand::There => "there".into(),
            Stand::Lost(error) => format!("{:?}: {}", error.code, error.message),
        }
    }

    #[test]
    fn what_becomes_of_version_3_of_a_service() {
        use RolloutPhase::{Done, Failed, Paused, RolledBack, Rolling};
        let waiting = JobStatus {
            healthy: 0,
            ..service(3)
        };
        let table = [
            (service(2), "goes"),
            (stopped(service(2)), "goes"),
            (waiting, "goes"),
            (service(3), "there"),
            (rolling(3, Rolling), "there"),
            (rolling(3, Paused), "there"),
            (rolling(3, Done), "there"),
            (
                rolling(3, RolledBack),
                "Failed: work: the rollout of version 3 was rolled back to version 2: \
                 its tasks fail",
            ),
            (
                rolling(3, Failed),
                "Failed: work: the rollout of version 3 failed, and stays where it is: \
                 its tasks fail",
            ),
            (
                stopped(service(3)),
                "Failed: work was stopped by bob while it was waited for",
            ),
            (
                service(4),
                "Conflict: work: version 3 was replaced by version 4 of ada before it was healthy",
            ),
        ];
        for (status, said) in table {
            assert_eq!(told(stand(&status, 3, false)), said);
        }
    }

    #[test]
    fn what_becomes_of_version_3_of_work_that_ends() {
        use BatchState::{Complete, DeadlineExceeded, Failed, Running};
        let replaced =
            "Conflict: work: version 3 was replaced by version 4 of ada before it was done";
        let table = [
            (work(3, Running), "goes"),
            (work(3, Complete), "there"),
            (work(3, DeadlineExceeded), "there"),
            (stopped(work(3, Complete)), "there"),
            (stopped(work(3, Failed)), "there"),
            (
                stopped(work(3, Running)),
                "Failed: work was stopped by bob while it was waited for",
            ),
            (work(4, Running), replaced),
            (work(4, Complete), replaced),
        ];
        for (status, said) in table {
            assert_eq!(told(stand(&status, 3, true)), said);
        }
        assert_eq!(told(stand(&work(3, Running), 3, false)), "there");
    }
}
