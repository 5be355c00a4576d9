//! `potluck plan`: what a spec would change, before it does.

use super::{
    args::{Global, PlanArgs},
    connect::{Session, connect},
    evaluate::evaluate,
    exit, origin, output,
    run::bind,
    time,
    upload::Package,
    versions::{document, value},
};
use crate::api::{
    client::unexpected,
    error::ApiError,
    plan::{PLAN_BYTES_MAX, PLAN_JOBS_MAX, PlanRequest},
    protocol::{ApiAnswer, ApiRequest},
};
use potluck_specs::{
    Job, JobName, Millis,
    diff::{Effect, JobChange},
    plan::{Forecast, JobPlan, Plan},
};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, process::ExitCode};

/// `potluck plan FILE`.
pub(super) async fn plan(args: &PlanArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let drafts = evaluate(&args.file, &args.set, args.replicas)?;
    let (origin, session) = tokio::join!(origin::of(&args.file), connect(global));
    let (origin, mut session) = (origin?, session?);
    let mut jobs = Vec::new();
    for draft in drafts {
        let package = Package::of(&draft, Path::new(&args.file))?;
        let further = Package::further_of(&draft, Path::new(&args.file))?;
        jobs.push(bind(&session, draft, package.id, &further));
    }
    let waiting = output::waiting(global.output, "asking the scheduler");
    let work = async {
        let mut plans = ask(&mut session, &jobs).await?;
        if let Some(spec) = origin.spec {
            plans.extend(removed(&mut session, spec, &jobs).await?);
        }
        Ok::<_, ApiError>(Plan { jobs: plans })
    };
    let plan = waiting.during(work).await?;
    output::print(global.output, &whole_document(&plan), |_| show(&plan));
    match plan.is_refused() {
        true => Ok(ExitCode::from(1)),
        false => Ok(exit::changes(plan.has_changes())),
    }
}

/// Asks for some jobs at a time. The leader answers for as many of them as
/// fit into an answer, and is asked again for the others.
async fn ask(session: &mut Session, jobs: &[Job]) -> Result<Vec<JobPlan>, ApiError> {
    let encoded: Vec<ByteBuf> = jobs.iter().map(|job| job.encode().into()).collect();
    let mut plans: Vec<JobPlan> = Vec::new();
    while plans.len() < jobs.len() {
        let some = first_of(&encoded[plans.len()..]).to_vec();
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

/// Jobs that run and were submitted from this file, and are in it no longer.
/// They run on until somebody stops them.
async fn removed(
    session: &mut Session,
    spec: String,
    jobs: &[Job],
) -> Result<Vec<JobPlan>, ApiError> {
    let there: BTreeSet<&JobName> = jobs.iter().map(|job| &job.name).collect();
    let before = match session.client.ask(&ApiRequest::JobsOfSpec(spec)).await? {
        ApiAnswer::JobsOfSpec(jobs) => jobs,
        other => return Err(unexpected(&other)),
    };
    let gone = before.into_iter().filter(|job| !there.contains(job));
    let plans = gone.map(|job| JobPlan {
        job,
        change: JobChange::Removed,
        version: None,
        fields: Vec::new(),
        findings: Vec::new(),
        forecast: None,
        stages: Vec::new(),
    });
    Ok(plans.collect())
}

/// For programs, with each field's path as people write it too.
fn whole_document(plan: &Plan) -> Value {
    let jobs = plan.jobs.iter().map(|job| {
        let mut shown = json!(job);
        shown["fields"] = job.fields.iter().map(document).collect();
        shown["least_ms"] = job.least_ms().into();
        shown
    });
    json!({
        "changes": plan.has_changes(),
        "refused": plan.is_refused(),
        "jobs": jobs.collect::<Vec<_>>(),
    })
}

fn show(plan: &Plan) -> String {
    let changed = plan
        .jobs
        .iter()
        .filter(|job| job.change != JobChange::Unchanged || !job.findings.is_empty());
    let mut parts: Vec<String> = changed.map(show_job).collect();
    parts.push(summary(plan));
    parts.join("\n\n")
}

fn summary(plan: &Plan) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for job in &plan.jobs {
        let what = change_text(job);
        match counts.iter_mut().find(|(text, _)| *text == what) {
            Some((_, count)) => *count += 1,
            None => counts.push((what, 1)),
        }
    }
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    match counts.is_empty() {
        true => "no jobs".into(),
        false => format!("jobs: {}", counts.join(", ")),
    }
}

fn change_text(plan: &JobPlan) -> &'static str {
    match plan.change {
        JobChange::Unchanged => "unchanged",
        // It is known, and stopped.
        JobChange::Created if plan.version.is_some() => "started again",
        JobChange::Created => "created",
        JobChange::ChangedInPlace => "changed in place",
        JobChange::RollingRestart => "rolling restart",
        JobChange::Replaced => "replaced",
        JobChange::Removed => "removed from the file",
    }
}

fn effect_text(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "none",
        Effect::InPlace => "in place",
        Effect::RollingRestart => "rolling restart",
        Effect::Replace => "replaced",
    }
}

fn show_job(plan: &JobPlan) -> String {
    let mut head = format!("{}: {}", plan.job, change_text(plan));
    if let Some(version) = plan.version {
        head.push_str(&format!(", now at version {version}"));
    }
    if plan.change == JobChange::Removed {
        head.push_str(&format!("; it runs on until: potluck stop {}", plan.job));
    }
    let mut lines = vec![head];
    lines.extend(plan.findings.iter().map(|finding| format!("  {finding}")));
    if !plan.fields.is_empty() {
        let rows = plan.fields.iter().map(|change| {
            [
                format!("  {}", change.path),
                value(change.old.as_deref()),
                value(change.new.as_deref()),
                effect_text(change.effect).to_owned(),
            ]
        });
        lines.push(output::table(["  FIELD", "OLD", "NEW", "EFFECT"], rows));
    }
    if !plan.stages.is_empty() {
        let mut line = format!("  stages: {}", plan.stages.len());
        if plan.least_ms() > 0 {
            line.push_str(&format!(
                ", at least {}",
                time::span(Millis(plan.least_ms()))
            ));
        }
        lines.push(line);
    }
    if let Some(forecast) = &plan.forecast {
        lines.extend(show_forecast(forecast));
    }
    lines.join("\n")
}

fn show_forecast(forecast: &Forecast) -> Vec<String> {
    let mut lines = Vec::new();
    if forecast.kept > 0 {
        lines.push(format!("  {} tasks stay as they are", forecast.kept));
    }
    if !forecast.rows.is_empty() {
        let rows = forecast.rows.iter();
        let rows = rows.map(|row| format!("{} {} {}", row.tasks, row.level.name(), row.place));
        let rows: Vec<String> = rows.collect();
        lines.push(format!("  tasks would start: {}", rows.join(", ")));
    }
    for wait in &forecast.waits {
        lines.push(format!("  waits for {}, which {}", wait.on, wait.why));
    }
    let mut last = None;
    for reason in &forecast.unplaced {
        if last.replace(reason.tasks) != Some(reason.tasks) {
            lines.push(format!("  {} tasks would have no place:", reason.tasks));
        }
        lines.push(match reason.nodes {
            0 => format!("    {}", reason.why),
            nodes => format!("    {nodes} nodes: {}", reason.why),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{
        diff::diff,
        job::Level,
        plan::{ForecastRow, Unplaced},
    };

    #[test]
    fn requests_are_small_but_never_empty() {
        let jobs = |sizes: &[usize]| -> Vec<ByteBuf> {
            let each = sizes.iter();
            each.map(|size| ByteBuf::from(vec![0; *size])).collect()
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

    #[test]
    fn a_plan_reads_so() {
        let old = Job {
            version: 3,
            name: JobName::in_default("web"),
            ..Job::default()
        };
        let mut new = old.clone();
        new.task.env.insert("MODE".into(), "fast".into());
        let mut changed = JobPlan::of(Some(&old), Some(&new)).unwrap();
        assert_eq!(changed.fields, diff(&old, &new));
        changed.forecast = Some(Forecast {
            kept: 0,
            rows: vec![ForecastRow {
                level: Level::Node,
                place: "r1h1".into(),
                tasks: 1,
            }],
            unplaced: vec![Unplaced {
                tasks: 2,
                why: "cpu: needs 1 core, 0.5 of 2 free".into(),
                nodes: 3,
            }],
            waits: Vec::new(),
        });
        let same = JobPlan::of(Some(&old), Some(&old)).unwrap();
        let plan = Plan {
            jobs: vec![changed, same],
        };
        let text = show(&plan);
        for words in [
            "web: rolling restart, now at version 3",
            "task.env[\"MODE\"]",
            "tasks would start: 1 node r1h1",
            "2 tasks would have no place:\n    3 nodes: cpu: needs 1 core",
            "jobs: 1 rolling restart, 1 unchanged",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
        let read = whole_document(&plan);
        assert_eq!(read["changes"], true);
        assert_eq!(read["jobs"][0]["fields"][0]["field"], "task.env[\"MODE\"]");
    }
}
