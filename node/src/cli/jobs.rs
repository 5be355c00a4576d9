//! `potluck status` and `stop`.

use super::{
    args::Global,
    connect::{Session, connect},
    output, time,
};
use crate::{
    api::{
        change::Change,
        client::unexpected,
        error::{ApiError, ErrorCode},
        operate::{RolloutPhase, RolloutStatus},
        protocol::{ApiAnswer, ApiRequest, BatchState, BatchStatus, JobStatus, TaskStatus},
    },
    clock,
};
use potluck_core::session::TaskState;
use potluck_specs::{JobName, Millis};
use std::{process::ExitCode, time::Duration};

/// Pause between two looks at a job that is waited for: short at first, since
/// most of what people wait for is there within a second.
const POLL: Duration = Duration::from_millis(20);
const POLL_SHORT_FOR: Duration = Duration::from_secs(2);

/// And the longest, of what takes longer: work may be waited for for days, and
/// each look is a request to the leader.
const POLL_LONGEST: Duration = Duration::from_millis(500);

/// The pause after this one, that much after the first look.
fn next_pause(pause: Duration, waited: Duration) -> Duration {
    match waited < POLL_SHORT_FOR {
        true => POLL,
        false => (pause * 2).min(POLL_LONGEST),
    }
}

/// Longest wait of `stop`: the longest grace is an hour, but few use it.
const STOP_WAIT: Duration = Duration::from_secs(120);

impl Session {
    /// The job, or all jobs.
    ///
    /// # Errors
    /// What the node says.
    pub(super) async fn jobs(&mut self, job: Option<JobName>) -> Result<Vec<JobStatus>, ApiError> {
        match self.client.ask(&ApiRequest::Jobs { job }).await? {
            ApiAnswer::Jobs(jobs) => Ok(jobs),
            other => Err(unexpected(&other)),
        }
    }

    /// Looks at a job until `done` says so.
    ///
    /// # Errors
    /// What the node says, or [`ErrorCode::Timeout`].
    pub(super) async fn wait_for(
        &mut self,
        job: &JobName,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&JobStatus) -> bool,
    ) -> Result<JobStatus, ApiError> {
        let began = tokio::time::Instant::now();
        let end = began + limit;
        let mut seen = None;
        let mut pause = POLL;
        loop {
            let lost = match self.jobs(Some(job.clone())).await {
                Ok(found) => {
                    if let Some(status) = found.into_iter().next() {
                        if done(&status) {
                            return Ok(status);
                        }
                        seen = Some(status);
                    }
                    None
                }
                Err(error) if error.is_worth_a_retry() => Some(error),
                Err(error) => return Err(error),
            };
            if tokio::time::Instant::now() >= end {
                if let Some(mut error) = lost {
                    error.message = format!(
                        "whether {job} is {what} is not known after {} s: {}",
                        limit.as_secs(),
                        error.message
                    );
                    return Err(error);
                }
                let why = seen.as_ref().and_then(why_not).unwrap_or_default();
                let message = format!("{job} is not {what} after {} s{why}", limit.as_secs());
                return Err(ApiError::new(ErrorCode::Timeout, message).hint(format!(
                    "it goes on; look with: potluck status {job}, or potluck explain '{job}[0]'"
                )));
            }
            tokio::time::sleep(pause).await;
            pause = next_pause(pause, began.elapsed());
        }
    }
}

/// What the first task that is not healthy has to say.
fn why_not(job: &JobStatus) -> Option<String> {
    let task = job.tasks.iter().find(|task| !task.healthy)?;
    let note = task.last_end.clone().or_else(|| {
        let waits_for = task.waits_for.as_ref()?;
        Some(format!("waits for {waits_for}"))
    })?;
    Some(format!(": {}: {note}", task.slot))
}

/// `potluck status [JOB …]`.
pub(super) async fn status(
    named: &[JobName],
    all: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let mut jobs = Vec::new();
    for job in named {
        jobs.extend(session.jobs(Some(job.clone())).await?);
    }
    if named.is_empty() {
        jobs = session.jobs(None).await?;
    }
    let before = jobs.len();
    if named.is_empty() && !all {
        jobs.retain(|job| job_state(job) != STOPPED);
    }
    let hidden = before - jobs.len();
    output::print(global.output, &jobs, |jobs| match named.first() {
        Some(_) => jobs.iter().map(show_job).collect::<Vec<_>>().join("\n\n"),
        None if jobs.is_empty() && hidden > 0 => {
            format!("no job runs; {hidden} stopped, see potluck status --all")
        }
        None if jobs.is_empty() => "no jobs; submit one with: potluck run FILE.star".into(),
        None => show_jobs(jobs),
    });
    Ok(ExitCode::SUCCESS)
}

fn show_jobs(jobs: &[JobStatus]) -> String {
    output::table(
        ["JOB", "VERSION", "STATE", "HEALTHY", "SERVICES", "AUTHOR"],
        jobs.iter().map(|job| {
            [
                job.name.to_string(),
                job.version.to_string(),
                match job.recovered_at.is_some() && !job.stopped {
                    true => format!("{} (recovered)", job_state(job)),
                    false => job_state(job).into(),
                },
                match &job.batch {
                    Some(batch) => format!("{}/{} done", batch.done, batch.completions),
                    None => format!("{}/{}", job.healthy, job.replicas),
                },
                job.services.join(","),
                job.author.clone(),
            ]
        }),
    )
}

/// Are all its tasks healthy? Of one per node that must be known first.
pub(super) fn is_complete(job: &JobStatus) -> bool {
    job.healthy == job.replicas && !job.counting
}

/// The state of a job of which nothing runs and nothing should.
const STOPPED: &str = "stopped";

fn job_state(job: &JobStatus) -> &'static str {
    match job {
        _ if job.stopped && job.running == 0 && job.tasks.iter().all(|t| t.node.is_none()) => {
            STOPPED
        }
        _ if job.stopped => "stopping",
        JobStatus {
            batch: Some(batch), ..
        } => batch.state.name(),
        _ => match (rollout_ended_badly(job), is_complete(job)) {
            (Some(rollout), _) if rollout.phase == RolloutPhase::Failed => "rollout failed",
            (Some(_), _) => "rolled back",
            (None, true) => "healthy",
            (None, false) => "pending",
        },
    }
}

/// The rollout of the newest version, if that is not what runs.
fn rollout_ended_badly(job: &JobStatus) -> Option<&RolloutStatus> {
    let is_bad = |phase| matches!(phase, RolloutPhase::Failed | RolloutPhase::RolledBack);
    let rollout = job.rollout.as_ref()?;
    (is_bad(rollout.phase) && !job.stopped).then_some(rollout)
}

fn show_job(job: &JobStatus) -> String {
    let mut head = format!(
        "{} version {}: {}, {}, package {}\nsubmitted by {} at {}",
        job.name,
        job.version,
        job_state(job),
        job.progress(),
        job.package,
        job.author,
        time::short(job.accepted_at),
    );
    if !job.message.is_empty() {
        head.push_str(&format!(": {}", output::one_line(&job.message)));
    }
    if let Some(at) = job.recovered_at.filter(|_| !job.stopped) {
        let at = time::short(at);
        head.push_str(&format!(
            "\nrecovered at {at}: hosts run it, the log that survived lacked it; \
             it runs until you stop it"
        ));
    }
    if let Some(rollout) = rollout_ended_badly(job) {
        let runs = match rollout.phase {
            RolloutPhase::RolledBack => format!("version {} runs", rollout.from),
            _ => format!(
                "it stays between versions {} and {}",
                rollout.from, job.version
            ),
        };
        let why = rollout.why.as_deref().map_or("", |why| why);
        head.push_str(&format!("\n{runs}: {}", output::one_line(why)));
    }
    if let Some(batch) = &job.batch {
        head.push_str(&show_batch(batch));
    }
    if let Some(by) = &job.stopped_by {
        let at = time::short(by.at);
        head.push_str(&format!("\nstopped by {} at {at}", by.author));
    }
    if job.tasks.is_empty() {
        return head;
    }
    let tasks = output::table(
        [
            "TASK", "VERSION", "NODE", "RACK", "STATE", "HEALTHY", "STARTS", "ADDRESS", "NOTE",
        ],
        job.tasks.iter().map(|task| task_row(job, task)),
    );
    format!("{head}\n{tasks}")
}

/// What there is to say of work that ends beside how far it is.
fn show_batch(batch: &BatchStatus) -> String {
    let mut lines = String::new();
    let mut line = |text: String| {
        lines.push('\n');
        lines.push_str(&text);
    };
    let began = time::short(batch.began_at);
    let most = batch.parallelism;
    match (batch.ended_at, batch.deadline) {
        (Some(at), _) => line(format!("began {began}, ended {}", time::short(at))),
        (None, Some(deadline)) => line(format!(
            "began {began}, {most} at once, to be done by {}",
            time::short(deadline)
        )),
        (None, None) => line(format!("began {began}, {most} at once")),
    }
    if let Some(why) = &batch.why {
        line(output::one_line(why));
    }
    if !batch.failed_indexes.is_empty() {
        let indexes: Vec<String> = batch.failed_indexes.iter().map(u32::to_string).collect();
        let more = match batch.failed as usize > indexes.len() {
            true => ", ...",
            false => "",
        };
        line(format!("failed for good: {}{more}", indexes.join(", ")));
    }
    if batch.state == BatchState::Unknown {
        line("what was done before the recovery is not known: run it again".into());
    }
    lines
}

/// What a task runs: a change that leaves tasks alone does not make them old.
fn version_told(newest: u64, task: &TaskStatus) -> String {
    match task.version {
        None => "-".into(),
        Some(version) if task.up_to_date && version != newest => {
            format!("{newest} (started as {version})")
        }
        Some(version) => version.to_string(),
    }
}

fn task_row(job: &JobStatus, task: &TaskStatus) -> [String; 9] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let ports: Vec<String> = task.ports.values().map(ToString::to_string).collect();
    [
        task.slot.to_string(),
        version_told(job.version, task),
        or_dash(&task.node),
        or_dash(&task.rack),
        task_state(task, clock::unix_now()),
        if task.healthy { "yes" } else { "no" }.into(),
        task.starts.to_string(),
        ports.join(","),
        task.waits_for
            .clone()
            .or_else(|| task.trouble.clone())
            .or_else(|| last_end_told(task))
            .or_else(|| task.volumes_left.as_deref().map(volumes_told))
            .unwrap_or_default(),
    ]
}

/// Nothing moves volumes.
pub(super) fn volumes_told(left_on: &str) -> String {
    format!("its volumes stayed on {left_on}: here they began empty, or as it once left them")
}

/// How its last process ended, if that is not told with its state.
fn last_end_told(task: &TaskStatus) -> Option<String> {
    let in_state = task.state == Some(TaskState::Backoff) && task.failures >= LOOP_FROM;
    let end = task.last_end.as_deref().map(output::one_line);
    end.filter(|_| !task.healthy && !in_state)
}

/// Failures in a row from which a task is said to loop.
const LOOP_FROM: u32 = 2;

/// A task's state; of one that fails again and again, how, and what is next.
fn task_state(task: &TaskStatus, now: Millis) -> String {
    let name = task.state.map_or("waiting", state_name);
    if task.state != Some(TaskState::Backoff) || task.failures < LOOP_FROM {
        return name.into();
    }
    let mut what: Vec<String> = task
        .last_end
        .iter()
        .map(|end| output::one_line(end))
        .collect();
    let next = task.next_try.map(|at| time::span(at.since(now)));
    what.extend(next.map(|span| format!("next try in {span}")));
    match what.is_empty() {
        true => "crash loop".into(),
        false => format!("crash loop ({})", what.join(", ")),
    }
}

/// A task's state in one word.
pub(super) fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Adopting => "adopting",
        TaskState::Fetching => "fetching",
        TaskState::Starting => "starting",
        TaskState::Running => "running",
        TaskState::Backoff => "backoff",
        TaskState::Stopping => "stopping",
        TaskState::Stopped => "stopped",
        TaskState::Ended => "ended",
        TaskState::Other => "unknown",
    }
}

/// `potluck stop JOB`.
pub(super) async fn stop(
    job: JobName,
    no_wait: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let waiting = output::waiting(global.output, &format!("stopping {job}"));
    let change = Change::StopJob { job: job.clone() };
    let work = async {
        session.change(change, |text| waiting.tell(text)).await?;
        if !no_wait {
            waiting.tell(&format!("waiting for the tasks of {job} to end"));
            let ended = |status: &JobStatus| status.tasks.iter().all(|task| task.node.is_none());
            session.wait_for(&job, STOP_WAIT, "stopped", ended).await?;
        }
        Ok::<(), ApiError>(())
    };
    waiting.during(work).await?;
    let done = serde_json::json!({ "job": job.to_string(), "stopped": true });
    output::print(global.output, &done, |_| format!("{job} is stopped"));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn looks_are_close_together_at_first_and_then_rare() {
        let (mut waited, mut pause, mut looks) = (Duration::ZERO, POLL, 0);
        while waited < Duration::from_secs(60) {
            waited += pause;
            looks += 1;
            pause = next_pause(pause, waited);
            assert!(pause <= POLL_LONGEST, "{pause:?}");
        }
        assert_eq!(pause, POLL_LONGEST);
        assert!(looks < 100 + 5 + 120, "{looks} in a minute");
    }

    #[test]
    fn a_crash_loop_is_called_so() {
        let mut task = TaskStatus {
            slot: "web[0]".parse().unwrap(),
            node: Some("r1h1".into()),
            rack: None,
            state: Some(TaskState::Backoff),
            healthy: false,
            generation: None,
            version: Some(1),
            up_to_date: true,
            ports: BTreeMap::new(),
            starts: 4,
            last_end: Some("exited with code 1".into()),
            since: None,
            waits_for: None,
            failures: 4,
            trouble: None,
            next_try: Some(Millis(20_000)),
            volumes_left: None,
        };
        let now = Millis(8_000);
        assert_eq!(
            task_state(&task, now),
            "crash loop (exited with code 1, next try in 12 s)"
        );
        assert_eq!(last_end_told(&task), None, "told once");
        task.failures = 1;
        assert_eq!(task_state(&task, now), "backoff");
        assert_eq!(last_end_told(&task), task.last_end);
        task.failures = 4;
        task.state = Some(TaskState::Running);
        assert_eq!(task_state(&task, now), "running");
        assert_eq!(version_told(1, &task), "1");
        assert_eq!(version_told(3, &task), "3 (started as 1)");
        task.up_to_date = false;
        assert_eq!(version_told(3, &task), "1");
    }
}
