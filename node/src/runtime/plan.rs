//! What a change of jobs would do, by the leader's view at this moment: what
//! differs, what that does to the tasks, and where they would go. Decides
//! and changes nothing.

use super::queries::verdict_text;
use crate::api::{
    difference::differences,
    error::{ApiError, ErrorCode},
    plan::{
        FIELDS_SHOWN_MAX, FieldChange, HOSTS_TOLD_MAX, JobPlan, PLAN_JOBS_MAX, PlanAction,
        PlanRequest, PlannedTask, TaskForecast,
    },
    protocol::{ApiAnswer, HostVerdict},
};
use potluck_core::{
    auction::Refusal,
    cluster::{Cluster, JobRecord},
    scheduler::{Forecast, Room, Scheduler, Verdict},
};
use potluck_specs::{Job, Millis, NodeId, codec};
use std::collections::BTreeMap;

/// Bytes of one answer: half of what a frame holds. What does not fit is asked
/// for again.
const ANSWER_BYTES_MAX: usize = 512 << 10;

/// The jobs of a request.
///
/// # Errors
/// Bytes that are no job, or a job that would be refused.
pub(super) fn read(request: &PlanRequest) -> Result<Vec<Job>, ApiError> {
    let jobs = request.jobs.iter().take(PLAN_JOBS_MAX);
    jobs.map(|encoded| {
        let job = Job::decode(encoded)
            .map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
        super::changes::check(&job)?;
        Ok(job)
    })
    .collect()
}

/// The plans of the first jobs, as many as fit into an answer.
pub(super) fn plan(scheduler: &Scheduler, state: &Cluster, jobs: &[Job], now: Millis) -> ApiAnswer {
    let mut room = Room::default();
    let mut plans = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        let plan = plan_job(scheduler, state, job, &mut room, now);
        bytes += codec::encode(&plan).len();
        if bytes > ANSWER_BYTES_MAX && !plans.is_empty() {
            break;
        }
        plans.push(plan);
    }
    ApiAnswer::Planned(plans)
}

fn plan_job(
    scheduler: &Scheduler,
    state: &Cluster,
    job: &Job,
    room: &mut Room,
    now: Millis,
) -> JobPlan {
    let record = state.jobs().get(&job.name);
    let current = record.and_then(|record| record.current().job.decode_unchecked().ok());
    let mut changes = current
        .as_ref()
        .map_or_else(Vec::new, |current| differences(current, job));
    let action = action(record, current.is_some(), &changes);
    let forecast = (action != PlanAction::Unchanged).then(|| {
        // The scheduler gives every task the newest version.
        let restarts = matches!(
            action,
            PlanAction::RollingRestart | PlanAction::Replaced | PlanAction::ChangedInPlace
        );
        let forecast = scheduler.forecast(state, job, restarts, room, now);
        shown(state, forecast)
    });
    let changes_left_out = changes.len().saturating_sub(FIELDS_SHOWN_MAX) as u32;
    changes.truncate(FIELDS_SHOWN_MAX);
    JobPlan {
        job: job.name.clone(),
        action,
        version: record.map_or(0, |record| record.current().version),
        changes,
        changes_left_out,
        forecast,
    }
}

fn action(record: Option<&JobRecord>, is_read: bool, changes: &[FieldChange]) -> PlanAction {
    match record {
        None => PlanAction::Created,
        Some(record) if record.stopped => PlanAction::StartedAgain,
        // Written by a newer version: whatever differs, it is replaced.
        Some(_) if !is_read => PlanAction::Replaced,
        Some(_) => changes
            .iter()
            .map(|change| change.effect)
            .max()
            .unwrap_or(PlanAction::Unchanged),
    }
}

/// A forecast with names instead of ids.
fn shown(state: &Cluster, forecast: Forecast) -> TaskForecast {
    let place = |node: NodeId| {
        let member = state.members().get(&node);
        member.map_or_else(
            || (node.short(), String::new()),
            |member| (member.name.0.clone(), member.topology.rack.clone()),
        )
    };
    let mut racks: BTreeMap<String, u32> = BTreeMap::new();
    let mut tasks = Vec::new();
    for task in &forecast.tasks {
        let (node, rack) = place(task.node);
        *racks.entry(rack.clone()).or_default() += 1;
        tasks.push(PlannedTask {
            index: task.index,
            node,
            rack,
            stays: task.stays,
        });
    }
    let refusals = forecast.refusals.iter().take(HOSTS_TOLD_MAX);
    TaskForecast {
        tasks,
        racks,
        unplaced: forecast.unplaced.len() as u32,
        not_looked_at: forecast.not_looked_at,
        refusals: refusals
            .map(|(node, verdict)| {
                let (node, rack) = place(*node);
                host_verdict(node, rack, verdict)
            })
            .collect(),
        waits_for: match forecast.waits_for_hosts {
            true => vec!["all nodes to report to the scheduler, which is new".into()],
            false => Vec::new(),
        },
        stops: forecast.stops,
        restarts: forecast.restarts,
        stages: forecast.restarts,
        at_least: Millis(0),
    }
}

fn host_verdict(node: String, rack: String, verdict: &Verdict) -> HostVerdict {
    let refusal: Option<Refusal> = match verdict {
        Verdict::Refused { refusal } => Some(refusal.clone()),
        _ => None,
    };
    HostVerdict {
        node,
        rack,
        verdict: verdict_text(verdict),
        refusal,
    }
}
