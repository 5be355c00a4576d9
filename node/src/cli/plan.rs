//! `potluck plan`: what a spec would change, before it does.

use super::{
    args::{Global, PlanArgs},
    connect::{Session, connect},
    evaluate::evaluate,
    exit, origin, output,
    run::bind,
    time,
    upload::Package,
    versions::value,
};
use crate::api::{
    client::unexpected,
    error::ApiError,
    plan::{JobPlan, PLAN_BYTES_MAX, PLAN_JOBS_MAX, PlanAction, PlanRequest, TaskForecast},
    protocol::{ApiAnswer, ApiRequest},
};
use potluck_specs::{JobName, Millis};
use serde::Serialize;
use serde_bytes::ByteBuf;
use std::{collections::BTreeSet, path::Path, process::ExitCode};

/// What a spec file would change.
#[derive(Debug, Serialize)]
struct Plan {
    /// Anything at all.
    changes: bool,
    jobs: Vec<JobPlan>,
    /// Jobs that run and were submitted from this file, and are in it no
    /// longer. They run on until somebody stops them.
    removed: Vec<JobName>,
}

/// `potluck plan FILE`.
pub(super) async fn plan(args: &PlanArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let drafts = evaluate(&args.file, args.replicas)?;
    let names: BTreeSet<JobName> = drafts.iter().map(|draft| draft.name.clone()).collect();
    let (origin, session) = tokio::join!(origin::of(&args.file), connect(global));
    let (origin, mut session) = (origin?, session?);
    let mut encoded = Vec::new();
    for draft in drafts {
        let package = Package::of(&draft, Path::new(&args.file))?;
        encoded.push(ByteBuf::from(bind(&session, draft, package.id).encode()));
    }
    let waiting = output::waiting(global.output, "asking the scheduler");
    let work = async {
        let jobs = ask(&mut session, encoded).await?;
        let mut removed = match origin.spec {
            Some(spec) => jobs_of(&mut session, spec).await?,
            None => Vec::new(),
        };
        removed.retain(|job| !names.contains(job));
        Ok::<_, ApiError>((jobs, removed))
    };
    let (jobs, removed) = waiting.during(work).await?;
    let changed = jobs.iter().any(|job| job.action != PlanAction::Unchanged);
    let plan = Plan {
        changes: changed || !removed.is_empty(),
        jobs,
        removed,
    };
    output::print(global.output, &plan, show);
    Ok(exit::changes(plan.changes))
}

/// Asks for some jobs at a time. The leader answers for as many of them as
/// fit into an answer, and is asked again for the others.
async fn ask(session: &mut Session, jobs: Vec<ByteBuf>) -> Result<Vec<JobPlan>, ApiError> {
    let mut plans: Vec<JobPlan> = Vec::new();
    while plans.len() < jobs.len() {
        let some = first_of(&jobs[plans.len()..]).to_vec();
        let request = ApiRequest::Plan(PlanRequest { jobs: some });
        match session.client.ask(&request).await? {
            ApiAnswer::Planned(planned) if !planned.is_empty() => plans.extend(planned),
            other => return Err(unexpected(&other)),
        }
    }
    Ok(plans)
}

/// As many as one request may hold, and at least one.
fn first_of(jobs: &[ByteBuf]) -> &[ByteBuf] {
    let mut bytes = 0;
    let fitting = jobs.iter().take(PLAN_JOBS_MAX).take_while(|job| {
        bytes += job.len();
        bytes <= PLAN_BYTES_MAX
    });
    &jobs[..fitting.count().max(1)]
}

async fn jobs_of(session: &mut Session, spec: String) -> Result<Vec<JobName>, ApiError> {
    match session.client.ask(&ApiRequest::JobsOfSpec(spec)).await? {
        ApiAnswer::JobsOfSpec(jobs) => Ok(jobs),
        other => Err(unexpected(&other)),
    }
}

fn show(plan: &Plan) -> String {
    let mut parts: Vec<String> = Vec::new();
    let changed = |job: &&JobPlan| job.action != PlanAction::Unchanged;
    parts.extend(plan.jobs.iter().filter(changed).map(show_job));
    let removed = plan.removed.iter().map(|job| {
        format!("{job}: removed from the file; it runs on until you stop it: potluck stop {job}")
    });
    parts.extend(removed);
    parts.push(summary(plan));
    parts.join("\n\n")
}

fn summary(plan: &Plan) -> String {
    let count = |action| plan.jobs.iter().filter(|job| job.action == action).count();
    let actions = [
        PlanAction::Created,
        PlanAction::StartedAgain,
        PlanAction::ChangedInPlace,
        PlanAction::RollingRestart,
        PlanAction::Replaced,
        PlanAction::Other,
        PlanAction::Unchanged,
    ];
    let mut counts: Vec<String> = actions
        .into_iter()
        .filter(|action| count(*action) > 0)
        .map(|action| format!("{} {}", count(action), action.text()))
        .collect();
    if !plan.removed.is_empty() {
        counts.push(format!("{} removed from the file", plan.removed.len()));
    }
    match counts.is_empty() {
        true => "no jobs".into(),
        false => format!("jobs: {}", counts.join(", ")),
    }
}

fn show_job(plan: &JobPlan) -> String {
    let mut lines = vec![match plan.version {
        0 => format!("{}: {}", plan.job, plan.action.text()),
        version => format!(
            "{}: {}, now at version {version}",
            plan.job,
            plan.action.text()
        ),
    }];
    if !plan.changes.is_empty() {
        let rows = plan.changes.iter().map(|change| {
            [
                format!("  {}", change.field),
                value(change.old.as_deref()),
                value(change.new.as_deref()),
                change.effect.text().to_owned(),
            ]
        });
        lines.push(output::table(["  FIELD", "OLD", "NEW", "EFFECT"], rows));
    }
    if plan.changes_left_out > 0 {
        lines.push(format!("  and {} more fields", plan.changes_left_out));
    }
    if let Some(forecast) = &plan.forecast {
        lines.extend(show_forecast(forecast));
    }
    lines.join("\n")
}

fn show_forecast(forecast: &TaskForecast) -> Vec<String> {
    let mut lines = Vec::new();
    if !forecast.racks.is_empty() {
        let racks = forecast
            .racks
            .iter()
            .map(|(rack, tasks)| format!("{tasks} in {rack}"));
        let racks: Vec<String> = racks.collect();
        lines.push(format!("  tasks would be: {}", racks.join(", ")));
    }
    if forecast.restarts > 0 {
        let mut line = format!("  {} tasks restart", forecast.restarts);
        if forecast.stages > 0 {
            line.push_str(&format!(", in {} stages", forecast.stages));
        }
        if forecast.at_least > Millis(0) {
            line.push_str(&format!(", at least {}", time::span(forecast.at_least)));
        }
        lines.push(line);
    }
    if forecast.stops > 0 {
        lines.push(format!("  {} tasks end", forecast.stops));
    }
    if forecast.not_looked_at > 0 {
        let count = forecast.not_looked_at;
        lines.push(format!("  {count} more tasks were not looked at"));
    }
    for what in &forecast.waits_for {
        lines.push(format!("  waits for {what}"));
    }
    if forecast.unplaced > 0 {
        lines.push(format!("  {} tasks fit nowhere now:", forecast.unplaced));
        let why = forecast.refusals.iter();
        lines.extend(why.map(|host| format!("    {}: {}", host.node, host.verdict)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_small_but_never_empty() {
        let jobs = |sizes: &[usize]| -> Vec<ByteBuf> {
            sizes
                .iter()
                .map(|size| ByteBuf::from(vec![0; *size]))
                .collect()
        };
        let half = PLAN_BYTES_MAX / 2;
        for (sizes, first) in [
            (&[half, half, 1][..], 2),
            (&[PLAN_BYTES_MAX + 1, 1], 1),
            (&[1, PLAN_BYTES_MAX], 1),
            (&[7], 1),
        ] {
            assert_eq!(first_of(&jobs(sizes)).len(), first, "{sizes:?}");
        }
        let many = vec![1; PLAN_JOBS_MAX + 9];
        assert_eq!(first_of(&jobs(&many)).len(), PLAN_JOBS_MAX);
    }
}
