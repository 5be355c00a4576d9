//! `potluck plan`: what a spec would change, before it does.

use super::{
    args::{Global, PlanArgs},
    connect::{Session, connect},
    evaluate::{Wanted, evaluate},
    exit, origin, output,
    run::bind,
    spec, time,
    upload::Packages,
    versions::{document, value},
};
use crate::api::{
    client::unexpected,
    error::ApiError,
    plan::{PLAN_BYTES_MAX, PLAN_JOBS_MAX, PlanRequest},
    protocol::{ApiAnswer, ApiRequest},
};
use potluck_core::scheduler::Lack;
use potluck_specs::{
    Job, JobName, Millis,
    diff::{Effect, JobChange, why_restart},
    finding::Severity,
    plan::{Forecast, JobPlan, Plan, PlannedTask},
};
use potluck_starlark::{Finding, written};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use std::{collections::BTreeSet, process::ExitCode};

/// What `potluck plan` tells.
struct Told {
    plan: Plan,
    /// Warnings about the spec.
    findings: Vec<Finding>,
    /// Why jobs that left the file were not looked for.
    removals_unknown: Option<&'static str>,
}

/// Said of a spec in a tree that can't be told from another.
const NO_TREE: &str = "jobs that left the file are not looked for: its tree has no name. \
                       Put it into a repository, or write a name into potluck.root";

/// `potluck plan FILE`.
pub(super) async fn plan(args: &PlanArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let spec = evaluate(&Wanted {
        file: &args.file,
        set: &args.set,
        replicas: args.replicas,
        allow_outside: args.allow_outside,
        // Its jobs may all have left it.
        may_be_empty: true,
        format: global.output,
    })?;
    let (origin, session) = tokio::join!(origin::of(&args.file, &spec.inputs), connect(global));
    let (origin, mut session) = (origin?, session?);
    let mut jobs = Vec::new();
    let mut packages = Packages::of(&args.file);
    for draft in spec.drafts.clone() {
        let package = packages.program(&draft)?;
        let further = packages.further(&draft)?;
        jobs.push(bind(&session, draft, package.id, &further));
    }
    let known = origin::known(&origin);
    let mut told = Told {
        plan: Plan::default(),
        findings: spec.findings.clone(),
        removals_unknown: known.is_none().then_some(NO_TREE),
    };
    let waiting = output::waiting(global.output, "asking the scheduler");
    let work = async {
        let mut plans = ask(&mut session, &jobs).await?;
        if let Some(spec) = known {
            plans.extend(removed(&mut session, spec, &jobs).await?);
        }
        Ok::<_, ApiError>(Plan { jobs: plans })
    };
    told.plan = waiting.during(work).await?;
    let missing = spec.missing(&missing(&told.plan.jobs));
    spec::tell(&missing, global.output);
    told.findings.extend(missing);
    // What the leader finds in a job by itself was told with its line.
    for job in &mut told.plan.jobs {
        let known = |message: &str| told.findings.iter().any(|told| told.message == message);
        job.findings.retain(|found| !known(&found.message));
    }
    output::print(global.output, &whole_document(&told), |_| show(&told));
    match told.plan.is_refused() {
        true => Ok(ExitCode::from(1)),
        false => Ok(exit::changes(told.plan.has_changes())),
    }
}

/// Jobs that are waited for and do not exist.
pub(super) fn missing(plans: &[JobPlan]) -> BTreeSet<JobName> {
    let gone = Lack::Missing.to_string();
    let planned: BTreeSet<&JobName> = plans.iter().map(|plan| &plan.job).collect();
    let waits = plans.iter().filter_map(|plan| plan.forecast.as_ref());
    let waits = waits.flat_map(|forecast| &forecast.waits);
    // One that is submitted with it will be there.
    let missing = waits.filter(|wait| wait.why == gone && !planned.contains(&wait.on));
    missing.map(|wait| wait.on.clone()).collect()
}

/// Asks for some jobs at a time. The leader answers for as many of them as
/// fit into an answer, and is asked again for the others.
pub(super) async fn ask(session: &mut Session, jobs: &[Job]) -> Result<Vec<JobPlan>, ApiError> {
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
fn whole_document(told: &Told) -> Value {
    let jobs = told.plan.jobs.iter().map(|job| {
        let mut shown = json!(job);
        let fields = job.fields.iter().map(|field| {
            let mut shown = document(field);
            shown["why"] = why_restart(field).into();
            shown
        });
        shown["fields"] = fields.collect();
        shown["least_ms"] = job.least_ms().into();
        shown
    });
    json!({
        "changes": told.plan.has_changes(),
        "refused": told.plan.is_refused(),
        "findings": told.findings,
        "removals_known": told.removals_unknown.is_none(),
        "jobs": jobs.collect::<Vec<_>>(),
    })
}

fn show(told: &Told) -> String {
    let jobs = told.plan.jobs.iter();
    let changed = jobs.filter(|job| job.change != JobChange::Unchanged || !job.findings.is_empty());
    let mut parts: Vec<String> = changed.map(show_job).collect();
    parts.push(summary(&told.plan));
    parts.extend(told.removals_unknown.map(|why| format!("note: {why}")));
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
        JobChange::ChangedInPlace
            if plan.fields.iter().all(|field| field.effect == Effect::None) =>
        {
            "changed without effect on tasks"
        }
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
        Effect::Live => "while it runs",
        Effect::RollingRestart => "rolling restart",
        Effect::Replace => "replaced",
    }
}

fn show_finding(finding: &potluck_specs::finding::Finding) -> String {
    let kind = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut line = format!("  {kind}: {}: {}", written(&finding.path), finding.message);
    if let Some(why) = &finding.why {
        line += &format!(" ({why})");
    }
    line
}

/// `1 task`, `2 tasks`.
fn counted(count: u32, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
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
    lines.extend(plan.findings.iter().map(show_finding));
    if !plan.fields.is_empty() {
        let rows = plan.fields.iter().map(|change| {
            [
                format!("  {}", written(&change.path)),
                value(change.old.as_deref()),
                value(change.new.as_deref()),
                effect_text(change.effect).to_owned(),
            ]
        });
        lines.push(output::table(["  FIELD", "OLD", "NEW", "EFFECT"], rows));
        lines.extend(reasons(plan));
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

/// Why tasks start anew, each reason with the fields that have it.
fn reasons(plan: &JobPlan) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for field in &plan.fields {
        let Some(why) = why_restart(field) else {
            continue;
        };
        let name = written(&field.path);
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, fields)) => fields.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    let shown = reasons.into_iter().map(|(why, mut fields)| {
        let more = fields.len().saturating_sub(FIELDS_TOLD_MAX);
        fields.truncate(FIELDS_TOLD_MAX);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("  restarts for {}{more}: {why}", fields.join(", "))
    });
    shown.collect()
}

/// Fields that are named with one reason.
const FIELDS_TOLD_MAX: usize = 5;

fn show_forecast(forecast: &Forecast) -> Vec<String> {
    let mut lines = Vec::new();
    if forecast.kept > 0 {
        let stay = if forecast.kept == 1 {
            "stays as it is"
        } else {
            "stay as they are"
        };
        lines.push(format!("  {} {stay}", counted(forecast.kept, "task")));
    }
    if forecast.tasks.is_empty() {
        if !forecast.rows.is_empty() {
            let rows = forecast.rows.iter();
            let rows = rows.map(|row| format!("{} {} {}", row.tasks, row.level.name(), row.place));
            let rows: Vec<String> = rows.collect();
            lines.push(format!("  tasks would start: {}", rows.join(", ")));
        }
        if forecast.stops > 0 {
            lines.push(format!("  {} would stop", counted(forecast.stops, "task")));
        }
    }
    lines.extend(forecast.tasks.iter().map(show_task));
    for wait in &forecast.waits {
        lines.push(format!("  waits for {}, which {}", wait.on, wait.why));
    }
    let mut last = None;
    for reason in &forecast.unplaced {
        if last.replace(reason.tasks) != Some(reason.tasks) {
            let tasks = counted(reason.tasks, "task");
            lines.push(format!("  {tasks} would have no place:"));
        }
        lines.push(match reason.nodes {
            0 => format!("    {}", reason.why),
            nodes => format!("    {}: {}", counted(nodes, "node"), reason.why),
        });
    }
    if forecast.not_looked_at > 0 {
        lines.push(format!(
            "  {} more were not looked at: a forecast has a limit",
            counted(forecast.not_looked_at, "task")
        ));
    }
    lines
}

fn show_task(task: &PlannedTask) -> String {
    let slot = task.slot;
    match (&task.from, &task.to) {
        (None, Some(to)) => format!("  [{slot}] would start on {to}"),
        (Some(from), Some(to)) if from == to => format!("  [{slot}] would restart on {to}"),
        (Some(from), Some(to)) => format!("  [{slot}] would move from {from} to {to}"),
        (Some(from), None) => format!("  [{slot}] would stop on {from}"),
        (None, None) => format!("  [{slot}] has no place"),
    }
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
            tasks: vec![
                PlannedTask {
                    slot: 0,
                    from: Some("r2h1".into()),
                    to: Some("r1h1".into()),
                },
                PlannedTask {
                    slot: 7,
                    from: Some("r3h1".into()),
                    to: None,
                },
            ],
            stops: 1,
            not_looked_at: 5,
            unplaced: vec![Unplaced {
                tasks: 2,
                why: "cpu: needs 1 core, 0.5 of 2 free".into(),
                nodes: 3,
            }],
            waits: Vec::new(),
        });
        let same = JobPlan::of(Some(&old), Some(&old)).unwrap();
        let told = Told {
            plan: Plan {
                jobs: vec![changed, same],
            },
            findings: Vec::new(),
            removals_unknown: Some(NO_TREE),
        };
        let text = show(&told);
        for words in [
            "web: rolling restart, now at version 3",
            "  env[\"MODE\"]",
            "  restarts for env[\"MODE\"]: a task gets it when it starts",
            "[0] would move from r2h1 to r1h1\n  [7] would stop on r3h1",
            "5 tasks more were not looked at",
            "note: jobs that left the file are not looked for",
            "2 tasks would have no place:\n    3 nodes: cpu: needs 1 core",
            "jobs: 1 rolling restart, 1 unchanged",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
        let read = whole_document(&told);
        assert_eq!(read["removals_known"], false);
        assert_eq!(read["changes"], true);
        assert_eq!(read["jobs"][0]["fields"][0]["field"], "task.env[\"MODE\"]");
    }
}
