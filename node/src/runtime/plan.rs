//! What a change of jobs would do, by the leader's view at this moment: what
//! differs, what that does to the tasks, and where they would go. Decides
//! and changes nothing.

use crate::api::{
    error::{ApiError, ErrorCode},
    plan::{PLAN_JOBS_MAX, PlanRequest},
    protocol::ApiAnswer,
};
use potluck_core::{
    cluster::Cluster,
    scheduler::{Forecast, ForecastTask, Room, Scheduler},
};
use potluck_specs::{
    Job, JobName, Millis, NodeId, codec,
    diff::{Effect, JobChange},
    finding::Finding,
    job::Level,
    path::FieldPath,
    plan::{self, ForecastRow, JobPlan, PlannedTask, Unplaced, Wait},
    validate,
};
use std::collections::BTreeMap;

/// Bytes of one answer: half of what a frame holds. What does not fit is asked
/// for again.
const ANSWER_BYTES_MAX: usize = 512 << 10;

/// Fields of one job that are told: with their values, what fits well into an
/// answer, and more than anybody reads.
const FIELDS_MAX: usize = 500;

/// Most nodes that are told one by one; of more, their racks are.
const NODES_TOLD_MAX: usize = 20;

/// Most tasks that are told one by one; of more, how many each place gets.
const TASKS_TOLD_MAX: usize = 20;

/// Reasons that are told, those of most nodes first.
const REASONS_TOLD_MAX: usize = 10;

/// The jobs of a request.
///
/// # Errors
/// Bytes that are no job.
pub(super) fn read(request: &PlanRequest) -> Result<Vec<Job>, ApiError> {
    let jobs = request.jobs.iter().take(PLAN_JOBS_MAX);
    let read = |error: codec::CodecError| {
        ApiError::new(ErrorCode::BadRequest, error.to_string())
            .hint("does the cluster run an older version of potluck than this one?")
    };
    jobs.map(|encoded| Job::decode(encoded).map_err(read))
        .collect()
}

/// The plans of the first jobs, as many as fit into an answer.
pub(super) fn plan(scheduler: &Scheduler, state: &Cluster, jobs: &[Job], now: Millis) -> ApiAnswer {
    let mut room = Room::default();
    let mut plans = Vec::new();
    let mut bytes = 0;
    for (position, job) in jobs.iter().enumerate() {
        let mut plan = plan_job(scheduler, state, job, &mut room, now);
        if let Some(plan) = &mut plan {
            plan.findings.extend(circle(state, job, jobs));
            plan.findings
                .extend(over_quota(state, job, &jobs[..position]));
        }
        bytes += plan.as_ref().map_or(0, |plan| codec::encode(plan).len());
        if bytes > ANSWER_BYTES_MAX && !plans.is_empty() {
            break;
        }
        plans.extend(plan);
    }
    ApiAnswer::Planned(plans)
}

/// An error if the job would wait for itself over others.
fn circle(state: &Cluster, job: &Job, jobs: &[Job]) -> Option<Finding> {
    let circle = state.circle(job, jobs)?;
    let next = circle.get(1)?;
    let needs = job.change.depends_on.iter();
    let position = needs.map(|needs| &needs.job).position(|on| on == next)?;
    let path = FieldPath::of("change.depends_on").index(position);
    let mut finding = Finding::error(path, circle_text(&circle));
    finding
        .why("each waits for the next, so none ever starts")
        .hint("let one of them start without the other");
    // A job that waits for itself is told by the checks of it alone.
    (circle.len() > 2).then_some(finding)
}

/// An error if the job asks for more than its namespace has left beside those
/// that are submitted before it.
fn over_quota(state: &Cluster, job: &Job, before: &[Job]) -> Option<Finding> {
    let why = state.over_quota(job, before)?;
    let mut finding = Finding::error(FieldPath::of("name"), why.to_string());
    finding
        .hint("stop or shrink other jobs of the namespace, or ask an operator: potluck quota list");
    Some(finding)
}

/// `cycle: a -> b -> a`.
pub(super) fn circle_text(circle: &[JobName]) -> String {
    let names: Vec<String> = circle.iter().map(ToString::to_string).collect();
    format!("cycle: {}", names.join(" -> "))
}

fn plan_job(
    scheduler: &Scheduler,
    state: &Cluster,
    job: &Job,
    room: &mut Room,
    now: Millis,
) -> Option<JobPlan> {
    let record = state.jobs().get(&job.name);
    // One of a newer program counts as none: all of it will be different.
    let current = record.and_then(|record| record.current().job.decode_unchecked().ok());
    let mut plan = JobPlan::of(current.as_ref(), Some(job))?;
    plan.version = record.map(|record| record.current().version);
    if record.is_some_and(|record| record.stopped) {
        plan.change = JobChange::Created;
        plan.stages.clear();
    }
    plan.findings = validate::check_job(job);
    let is_live = plan.fields.iter().any(|field| field.effect == Effect::Live);
    let more = plan.fields.len().saturating_sub(FIELDS_MAX);
    if more > 0 {
        plan.fields.truncate(FIELDS_MAX);
        let message = format!("{more} more fields change than are shown");
        plan.findings
            .push(Finding::warning(FieldPath::default(), message));
    }
    if plan.change != JobChange::Unchanged {
        let keep = state.would_keep_tasks_of(job);
        let forecast = scheduler.forecast(state, job, keep, room, now);
        if plan.change == JobChange::ChangedInPlace && keep.is_none() {
            plan.stages = plan::stages(&job.change.update, job.slots());
            // A version that failed is tried again even if little changes, and
            // what has no room to grow where it is starts again.
            if !is_live || forecast.restarts > 0 {
                plan.change = JobChange::RollingRestart;
            }
        }
        plan.forecast = Some(shown(state, &forecast));
    }
    Some(plan)
}

/// A forecast with names instead of ids.
fn shown(state: &Cluster, forecast: &Forecast) -> plan::Forecast {
    let is_kept = |task: &&ForecastTask| task.stays && !task.restarts;
    let kept = forecast.tasks.iter().filter(is_kept).count();
    let started = forecast.tasks.iter().filter(|task| !is_kept(task));
    let waits = forecast.waits_for_jobs.iter().map(|unmet| Wait {
        on: unmet.job.clone(),
        why: unmet.lack.to_string(),
    });
    plan::Forecast {
        kept: kept as u32,
        tasks: tasks(state, forecast, started.clone()),
        rows: rows(state, started.map(|task| task.node)),
        stops: forecast.stops.len() as u32,
        not_looked_at: forecast.not_looked_at,
        unplaced: unplaced(forecast),
        waits: waits.collect(),
    }
}

/// Each task with its nodes, unless there are too many to read.
fn tasks<'a>(
    state: &Cluster,
    forecast: &Forecast,
    started: impl Iterator<Item = &'a ForecastTask>,
) -> Vec<PlannedTask> {
    let name = |node: NodeId| match state.members().get(&node) {
        Some(member) => member.name.0.clone(),
        None => node.short(),
    };
    let starts = started.map(|task| PlannedTask {
        slot: task.index,
        from: task.from.map(name),
        to: Some(name(task.node)),
    });
    let stops = forecast.stops.iter().map(|(slot, node)| PlannedTask {
        slot: *slot,
        from: Some(name(*node)),
        to: None,
    });
    let mut tasks: Vec<PlannedTask> = starts.chain(stops).take(TASKS_TOLD_MAX + 1).collect();
    tasks.sort_by_key(|task| task.slot);
    match tasks.len() <= TASKS_TOLD_MAX {
        true => tasks,
        false => Vec::new(),
    }
}

fn rows(state: &Cluster, nodes: impl Iterator<Item = NodeId>) -> Vec<ForecastRow> {
    let mut by_node: BTreeMap<String, u32> = BTreeMap::new();
    let mut by_rack: BTreeMap<String, u32> = BTreeMap::new();
    for node in nodes {
        let member = state.members().get(&node);
        let (name, rack) = member.map_or_else(
            || (node.short(), String::new()),
            |member| (member.name.0.clone(), member.topology.rack.clone()),
        );
        *by_node.entry(name).or_default() += 1;
        *by_rack.entry(rack).or_default() += 1;
    }
    let (level, places) = match by_node.len() {
        0..=NODES_TOLD_MAX => (Level::Node, by_node),
        _ => (Level::Rack, by_rack),
    };
    let rows = places.into_iter().map(|(place, tasks)| ForecastRow {
        level,
        place,
        tasks,
    });
    rows.collect()
}

/// Each reason with the nodes that have it.
fn unplaced(forecast: &Forecast) -> Vec<Unplaced> {
    let tasks = forecast.unplaced.len() as u32;
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    for (_, obstacles) in &forecast.obstacles {
        // A node that could take one more would have got it.
        let why = obstacles.first().map(ToString::to_string);
        *reasons.entry(why.unwrap_or_default()).or_default() += 1;
    }
    let mut told: Vec<Unplaced> = reasons
        .into_iter()
        .map(|(why, nodes)| Unplaced { tasks, why, nodes })
        .collect();
    told.sort_by_key(|reason| std::cmp::Reverse(reason.nodes));
    told.truncate(REASONS_TOLD_MAX);
    if forecast.waits_for_hosts {
        let why = "the scheduler is new and waits for all nodes to report";
        told.insert(0, reason(tasks, why.into()));
    } else if told.is_empty() && tasks > 0 {
        told.push(reason(tasks, "no node is heard".into()));
    }
    told
}

fn reason(tasks: u32, why: String) -> Unplaced {
    Unplaced {
        tasks,
        why,
        nodes: 0,
    }
}
