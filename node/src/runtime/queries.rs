//! What people ask, answered by the leader from the scheduler's picture.

use super::{operate, plan, shared::Shared, versions, voters};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        protocol::{
            ApiAnswer, BatchState, BatchStatus, Explained, HostVerdict, JobStatus, NodeStatus,
            TaskStatus,
        },
    },
    clock,
    wire::Query,
};
use potluck_core::{
    cluster::{BatchEnd, BatchRecord, Cluster, JobRecord, Member},
    host::pause,
    scheduler::{HostCase, HostView, Scheduler, SessionState, SlotPhase, SlotView, Unmet},
    session::{SlotReport, TaskState},
};
use potluck_specs::{JobName, Millis, NodeId, SlotId, job::JobKind};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Answers a question on the leader.
///
/// # Errors
/// What it names does not exist, or this node leads no longer.
pub(super) async fn answer(shared: &Arc<Shared>, query: Query) -> Result<ApiAnswer, ApiError> {
    let answer = match query {
        Query::Nodes => {
            let group = voters::membership(&shared.control.membership());
            let asked = shared.clone();
            shared
                .scheduling
                .look(move |scheduler, state| {
                    let hosts = scheduler.hosts(state);
                    let mut nodes = nodes(state, &hosts, &group, asked.me.node);
                    for node in &mut nodes {
                        let by = asked.relays.via(node.node);
                        node.relayed_by = by.map(|by| asked.directory.name(by));
                    }
                    Ok(ApiAnswer::Nodes(nodes))
                })
                .await
        }
        Query::Jobs(job) => {
            shared
                .scheduling
                .look(move |scheduler, state| jobs(scheduler, state, job))
                .await
        }
        Query::Operate(query) => operate::answer(shared, query).await,
        Query::Explain(slot) => {
            shared
                .scheduling
                .look(move |scheduler, state| explain(scheduler, state, &slot))
                .await
        }
        Query::Plan(request) => {
            let jobs = plan::read(&request)?;
            shared
                .scheduling
                .look(move |scheduler, state| {
                    Ok(plan::plan(scheduler, state, &jobs, clock::boot_now()))
                })
                .await
        }
        Query::History(job) => {
            shared
                .scheduling
                .look(move |_, state| versions::history(state, &job))
                .await
        }
        Query::Version(job, version) => {
            shared
                .scheduling
                .look(move |_, state| versions::version(state, &job, version))
                .await
        }
        Query::JobsOfSpec(spec) => {
            shared
                .scheduling
                .look(move |_, state| Ok(ApiAnswer::JobsOfSpec(versions::jobs_of(state, &spec))))
                .await
        }
    };
    answer.unwrap_or_else(|| {
        Err(ApiError::new(
            ErrorCode::Unavailable,
            "the scheduler has only just changed",
        ))
    })
}

fn nodes(
    state: &Cluster,
    hosts: &[HostView],
    group: &potluck_core::voters::Membership,
    leader: NodeId,
) -> Vec<NodeStatus> {
    let seen: BTreeMap<NodeId, &HostView> = hosts.iter().map(|host| (host.node, host)).collect();
    let mut nodes: Vec<NodeStatus> = state
        .members()
        .values()
        .map(|member| {
            node_status(
                state,
                member,
                seen.get(&member.node).copied(),
                group,
                leader,
            )
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn node_status(
    state: &Cluster,
    member: &Member,
    host: Option<&HostView>,
    group: &potluck_core::voters::Membership,
    leader: NodeId,
) -> NodeStatus {
    let role = match member.node {
        node if node == leader => Some("leader"),
        node if group.voters.contains(&node) => Some("voter"),
        node if group.learners.contains(&node) => Some("learner"),
        _ => None,
    };
    let heard = host.filter(|host| host.heard_at.is_some());
    NodeStatus {
        node: member.node,
        name: member.name.0.clone(),
        topology: member.topology.clone(),
        state: host.map_or_else(|| "unknown".into(), host_state),
        draining: member.draining,
        role: role.map(str::to_owned),
        address: member.addresses.first().and_then(|text| text.parse().ok()),
        free: heard.map(|host| host.free),
        total: heard.map(|host| host.total).or(member.capacity),
        tasks: host.map_or(0, |host| host.slots),
        cordoned: state.cordoned().contains(&member.node),
        relayed_by: None,
    }
}

/// The session, and whether the brake keeps the host's slots from being moved.
fn host_state(host: &HostView) -> String {
    let name = session_name(host.session);
    match host.braked {
        true => format!("{name}, held: many hosts are silent at once"),
        false => name.into(),
    }
}

fn session_name(session: SessionState) -> &'static str {
    match session {
        SessionState::Unknown => "unknown",
        SessionState::Up => "up",
        SessionState::Out => "out",
        SessionState::Unreachable => "unreachable",
        SessionState::Dead => "dead",
    }
}

fn jobs(
    scheduler: &Scheduler,
    state: &Cluster,
    only: Option<JobName>,
) -> Result<ApiAnswer, ApiError> {
    if let Some(job) = &only
        && !state.jobs().contains_key(job)
    {
        return Err(no_such_job(state, job));
    }
    let mut slots: BTreeMap<JobName, Vec<SlotView>> = BTreeMap::new();
    for slot in scheduler.slots(state) {
        if only.as_ref().is_none_or(|job| *job == slot.slot.job) {
            slots.entry(slot.slot.job.clone()).or_default().push(slot);
        }
    }
    let statuses = state
        .jobs()
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|job| job == *name))
        .map(|(name, record)| {
            let views = slots.remove(name).unwrap_or_default();
            job_status(scheduler, state, name, record, &views, only.is_some())
        })
        .collect();
    Ok(ApiAnswer::Jobs(statuses))
}

/// Jobs that are named where one was not found.
const NAMED_MAX: usize = 10;

pub(super) fn no_such_job(state: &Cluster, job: &JobName) -> ApiError {
    let error = ApiError::new(ErrorCode::NotFound, format!("there is no job {job}"));
    let jobs = state.jobs().keys();
    let known: Vec<String> = jobs.take(NAMED_MAX).map(ToString::to_string).collect();
    let more = state.jobs().len() - known.len();
    match (known.is_empty(), more) {
        (true, _) => error.hint("there are no jobs at all; submit one with potluck run FILE.star"),
        (false, 0) => error.hint(format!("jobs are: {}", known.join(", "))),
        (false, more) => error.hint(format!(
            "jobs are: {} and {more} more; see potluck status --all",
            known.join(", ")
        )),
    }
}

fn job_status(
    scheduler: &Scheduler,
    state: &Cluster,
    name: &JobName,
    record: &JobRecord,
    views: &[SlotView],
    with_tasks: bool,
) -> JobStatus {
    let current = record.current();
    let unmet = match with_tasks {
        true => scheduler.unmet_dependencies(state, name),
        false => Vec::new(),
    };
    let status = |view| task_status(state, view, unmet.first());
    // What is not wanted and runs no more is no task that anybody waits for.
    let listed = views
        .iter()
        .filter(|view| view.phase != SlotPhase::Unwanted || shown(view).is_some());
    let tasks: Vec<TaskStatus> = listed.map(status).collect();
    let count = |test: fn(&TaskStatus) -> bool| tasks.iter().filter(|task| test(task)).count();
    let running = count(|task| task.state == Some(TaskState::Running));
    let job = current.job.decode_unchecked().ok();
    let services = job.as_ref().map_or_else(Vec::new, |job| {
        let services = job.task.services.iter();
        services.map(|service| service.name.clone()).collect()
    });
    let per_node = job.filter(|job| job.kind == JobKind::PerNode);
    let counted = per_node
        .as_ref()
        .filter(|_| !record.stopped)
        .map(|job| scheduler.count_per_node(state, job, clock::boot_now()));
    JobStatus {
        name: name.clone(),
        version: current.version,
        replicas: counted.map_or(current.replicas, Option::unwrap_or_default),
        per_node: per_node.is_some(),
        counting: counted == Some(None),
        stopped: record.stopped,
        running: running as u32,
        healthy: count(|task| task.healthy && task.version.is_some()) as u32,
        author: current.author.clone(),
        accepted_at: current.accepted_at,
        message: current.message.clone(),
        stopped_by: record.stopped_by.clone(),
        recovered_at: record.recovered_at,
        package: current.package,
        services,
        rollout: operate::rollout_status(scheduler, state, name),
        batch: state.batch(name).map(batch_status),
        tasks: if with_tasks { tasks } else { Vec::new() },
    }
}

/// Failed indexes that are told: with more, nobody reads on.
const FAILED_TOLD: usize = 20;

fn batch_status(batch: &BatchRecord) -> BatchStatus {
    let (state, why, ended_at) = match &batch.over {
        None if batch.unknown => (BatchState::Unknown, None, None),
        None => (BatchState::Running, None, None),
        Some(BatchEnd::Complete { at }) => (BatchState::Complete, None, Some(*at)),
        Some(BatchEnd::Failed { why, at }) => (BatchState::Failed, Some(why.clone()), Some(*at)),
        Some(BatchEnd::DeadlineExceeded { at }) => (BatchState::DeadlineExceeded, None, Some(*at)),
    };
    BatchStatus {
        state,
        completions: batch.completions,
        parallelism: batch.parallelism,
        done: batch.done(),
        failed: batch.failed(),
        failed_indexes: batch.failed_indexes().take(FAILED_TOLD).collect(),
        why,
        began_at: batch.began_at,
        ended_at,
        deadline: batch.deadline,
    }
}

fn task_status(state: &Cluster, view: &SlotView, unmet: Option<&Unmet>) -> TaskStatus {
    let shown = shown(view);
    let member = shown.and_then(|(node, _)| state.members().get(node));
    let report = shown.map(|(_, report)| report);
    let address = member
        .and_then(|member| member.addresses.first())
        .and_then(|text| text.parse::<SocketAddr>().ok())
        .map(|address| address.ip());
    TaskStatus {
        slot: view.slot.clone(),
        node: shown
            .map(|(node, _)| member.map_or_else(|| node.short(), |member| member.name.0.clone())),
        rack: member.map(|member| member.topology.rack.clone()),
        state: report.map(|report| report.state),
        healthy: report.is_some_and(|report| report.healthy),
        generation: report.map(|report| report.generation),
        version: report.map(|report| report.version),
        up_to_date: report
            .is_some_and(|report| state.is_current_task(&report.slot.job, report.version)),
        ports: report.map_or_else(BTreeMap::new, |report| ports(report, address)),
        starts: report.map_or(0, |report| report.starts),
        last_end: report.and_then(|report| report.last_end.clone()),
        since: report.map(|report| report.since),
        waits_for: waits_for(state, view, shown.is_some(), unmet),
        failures: report.map_or(0, |report| report.failures),
        trouble: report.and_then(|report| report.trouble.clone()),
        next_try: report.and_then(|report| next_try(state, report)),
        volumes_left: view.volumes_left.map(|node| name(state, node)),
    }
}

/// When a task that failed is started again, by its job's own policy.
fn next_try(state: &Cluster, report: &SlotReport) -> Option<Millis> {
    let failures = report.failures.checked_sub(1)?;
    if report.state != TaskState::Backoff {
        return None;
    }
    let record = state.jobs().get(&report.slot.job)?;
    let job = record
        .version(report.version)
        .unwrap_or(record.current())
        .job
        .decode_unchecked()
        .ok()?;
    Some(report.since + pause(job.task.restart, failures))
}

/// What people call a node.
fn name(state: &Cluster, node: NodeId) -> String {
    let member = state.members().get(&node);
    member.map_or_else(|| node.short(), |member| member.name.0.clone())
}

fn ports(report: &SlotReport, address: Option<IpAddr>) -> BTreeMap<String, SocketAddr> {
    let Some(address) = address else {
        return BTreeMap::new();
    };
    let socket = |(name, port): (&String, &u16)| (name.clone(), SocketAddr::new(address, *port));
    report.ports.iter().map(socket).collect()
}

/// The holder that people are shown: a healthy one, else a running one, else
/// any that is not stopped.
fn shown(view: &SlotView) -> Option<(&NodeId, &SlotReport)> {
    view.holders
        .iter()
        .filter(|(_, report)| report.state != TaskState::Stopped)
        .max_by_key(|(_, report)| {
            (
                report.healthy,
                report.state == TaskState::Running,
                report.generation,
            )
        })
        .map(|(node, report)| (node, report))
}

fn waits_for(
    state: &Cluster,
    view: &SlotView,
    is_held: bool,
    unmet: Option<&Unmet>,
) -> Option<String> {
    let name = |node: &NodeId| {
        state
            .members()
            .get(node)
            .map_or_else(|| node.short(), |member| member.name.0.clone())
    };
    match &view.phase {
        SlotPhase::Waiting {
            holder: Some(holder),
        } => Some(format!("a word from {}, which held it last", name(holder))),
        SlotPhase::Lease { holder, left } => Some(lease_text(holder.map(|h| name(&h)), *left)),
        SlotPhase::Waiting { holder: None } => Some("all nodes to report to the scheduler".into()),
        SlotPhase::Missing if !is_held && tries(state, &view.slot) > 0 => {
            let failures = tries(state, &view.slot);
            Some(format!("its next try, after {failures} that failed"))
        }
        SlotPhase::Missing if !is_held => Some(match unmet {
            Some(unmet) => format!("job {}, which {}", unmet.job, unmet.lack),
            None => format!("a node that takes it (potluck explain '{}')", view.slot),
        }),
        SlotPhase::Calling => Some("bids".into()),
        SlotPhase::Awarded { node, .. } if !is_held => Some(format!("{} to confirm", name(node))),
        _ => None,
    }
}

/// What an exclusive slot waits for.
fn lease_text(holder: Option<String>, left: Millis) -> String {
    let seconds = left.0.div_ceil(1_000);
    match holder {
        Some(node) => format!("the lease of {node} to end, at most {seconds} s"),
        None => format!("any lease of an earlier epoch to end, at most {seconds} s"),
    }
}

/// How often a piece of work that is tried again has failed.
fn tries(state: &Cluster, slot: &SlotId) -> u32 {
    let batch = state.batch(&slot.job);
    let failures = batch.and_then(|batch| batch.failures(slot.index));
    failures.map_or(0, |failures| failures.count)
}

fn explain(scheduler: &Scheduler, state: &Cluster, slot: &SlotId) -> Result<ApiAnswer, ApiError> {
    if !state.jobs().contains_key(&slot.job) {
        return Err(no_such_job(state, &slot.job));
    }
    let Some(explained) = scheduler.explain_slot(state, slot, clock::boot_now()) else {
        let message = format!("{} is stopped", slot.job);
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    if explained.phase == SlotPhase::Unwanted && !explained.hosts.iter().any(|host| host.holds) {
        let message = format!("{} has no task {}", slot.job, slot.index);
        return Err(ApiError::new(ErrorCode::NotFound, message)
            .hint(format!("its tasks: potluck status {}", slot.job)));
    }
    let nowhere = !explained.fits_somewhere() && !explained.hosts.iter().any(|host| host.holds);
    let closest = explained.closest().map(|host| host.name.clone());
    Ok(ApiAnswer::Explained(Explained {
        closest: if nowhere {
            closest.collect()
        } else {
            Vec::new()
        },
        change: explained.change.as_ref().map(ToString::to_string),
        waits: waits(scheduler, state, &slot.job),
        volumes_left: scheduler
            .slot(state, slot)
            .volumes_left
            .map(|node| name(state, node)),
        hosts: explained.hosts.iter().map(verdict).collect(),
    }))
}

/// What a job's tasks wait for before they start, whatever hosts could take
/// them; and the circle, if they wait for each other.
fn waits(scheduler: &Scheduler, state: &Cluster, job: &JobName) -> Vec<String> {
    let unmet = scheduler.unmet_dependencies(state, job);
    let mut told: Vec<String> = unmet
        .iter()
        .map(|unmet| format!("job {}, which {}", unmet.job, unmet.lack))
        .collect();
    let current = state.jobs().get(job).map(JobRecord::current);
    let decoded = current.and_then(|current| current.job.decode_unchecked().ok());
    let circle = decoded.and_then(|job| state.circle(&job, &[]));
    if let Some(circle) = circle.filter(|_| !told.is_empty()) {
        told.push(plan::circle_text(&circle));
    }
    told
}

fn verdict(host: &HostCase) -> HostVerdict {
    HostVerdict {
        node: host.name.clone(),
        rack: host.rack.clone(),
        holds: host.holds,
        verdict: host.verdict(),
        obstacles: host.obstacles.iter().map(ToString::to_string).collect(),
        price: host.price,
        refusal: host.refused.clone(),
    }
}
