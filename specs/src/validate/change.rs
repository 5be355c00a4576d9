//! How a job changes: budgets that allow nothing, stages that go nowhere,
//! waiting for itself.

use super::{findings::Findings, limits::*, network::check_port};
use crate::{
    diff::duration,
    job::{Amount, Dependency, JobKind, Maintenance, StageSize, Update, wish::Wish},
    path::FieldPath,
};
use std::collections::BTreeSet;

pub(super) fn check(wish: &Wish, findings: &mut Findings) {
    let path = FieldPath::of("change");
    check_dependencies(&path.field("depends_on"), wish, findings);
    if let Some(budget) = wish.change.budget {
        check_budget(&path.field("budget"), budget, wish, findings);
    }
    check_update(&path.field("update"), &wish.change.update, wish, findings);
    check_maintenance(&path.field("maintenance"), wish, findings);
    check_exclusive(&path.field("exclusive"), wish, findings);
}

fn check_dependencies(path: &FieldPath, wish: &Wish, findings: &mut Findings) {
    let dependencies = &wish.change.depends_on;
    findings.at_most(path, "dependencies", dependencies.len(), CONDITIONS_MAX);
    let mut known = BTreeSet::new();
    for (index, Dependency { job, at_least, .. }) in dependencies.iter().enumerate() {
        let entry = path.index(index);
        let path = entry.field("job");
        findings.label(&path, "job", &job.name);
        // A job's own was judged with its name.
        if job.namespace != wish.name.namespace {
            findings.label(&path, "namespace", &job.namespace);
        }
        if job == wish.name {
            findings
                .error(&path, format!("cycle: {job} -> {job}"))
                .why("a job that waits for itself never starts");
        }
        if !known.insert(job) {
            findings.error(&path, format!("job {job} stands twice"));
        }
        if *at_least == Some(0) {
            findings
                .error(&entry.field("at_least"), "at least 0 is always true")
                .hint("leave the dependency away, or wait for 1");
        }
    }
}

fn check_amount(path: &FieldPath, amount: Amount, findings: &mut Findings) -> bool {
    let wrong = match amount {
        Amount::Percent(percent) => percent == 0 || percent > 100,
        Amount::Count(_) => false,
    };
    if wrong {
        findings.error(path, "percentages go from 1 to 100");
    }
    !wrong
}

fn check_budget(path: &FieldPath, budget: Amount, wish: &Wish, findings: &mut Findings) {
    if !check_amount(path, budget, findings) {
        return;
    }
    let slots = wish.kind.slots();
    let allowed = budget.of(slots.unwrap_or(u32::MAX));
    if allowed == 0 && slots != Some(0) {
        let tasks = slots.unwrap_or(0);
        let message = match budget {
            Amount::Count(_) => "a budget of 0 lets no task be replaced".into(),
            Amount::Percent(percent) => format!("{percent}% of {tasks} tasks is less than one"),
        };
        findings
            .error(path, message)
            .why("no update, drain or move could ever begin")
            .hint("allow at least 1");
    }
    if slots.is_some_and(|slots| slots > 1 && allowed >= slots) {
        findings
            .warning(path, "all tasks may be down at once")
            .hint("allow fewer, if clients are to be served meanwhile");
    }
}

fn check_update(path: &FieldPath, update: &Update, wish: &Wish, findings: &mut Findings) {
    let deadline = path.field("health_deadline_ms");
    let ms = update.health_deadline_ms;
    findings.time(
        &deadline,
        "the health deadline",
        ms,
        HEALTH_DEADLINE_MS_MIN,
        WAIT_MS_MAX,
    );
    let list = path.field("stages");
    findings.at_most(&list, "stages", update.stages.len(), CONDITIONS_MAX);
    let is_batch = matches!(wish.kind, JobKind::Batch(_));
    if is_batch && !update.stages.is_empty() {
        findings
            .warning(&list, "a batch has no rollout")
            .why("its tasks end by themselves, and the next ones have the new version");
    }
    // What it would come to of a batch is no matter, since it does not come.
    let slots = wish.kind.slots().filter(|_| !is_batch);
    let mut reached = None;
    for (index, stage) in update.stages.iter().enumerate() {
        let entry = list.index(index);
        let size = entry.field("size");
        findings.time(
            &entry.field("bake_ms"),
            "the bake time",
            stage.bake_ms,
            0,
            WAIT_MS_MAX,
        );
        if check_stage(&size, stage.size, slots, findings)
            && let Some(slots) = slots.filter(|slots| *slots > 0)
            && let Some(tasks) = stage.size.of(slots)
        {
            if reached.is_some_and(|reached| tasks <= reached) {
                findings
                    .warning(&size, "the stage adds no task to the one before")
                    .why(format!("{tasks} of {slots} have the new version by then"));
            }
            reached = Some(tasks);
        }
    }
    let rest = |last: &StageSize| match (last, slots) {
        (StageSize::Percent(percent), _) => (1..100).contains(percent),
        (StageSize::Count(count), Some(slots)) => (1..slots).contains(count),
        _ => false,
    };
    if update.stages.last().is_some_and(|last| rest(&last.size)) && !is_batch {
        findings
            .warning(
                &list,
                "behind the last stage all other tasks follow at once",
            )
            .why("nothing bakes then, and nothing is looked at before")
            .hint("say how far it goes: stages = [..., \"all\"]");
    }
}

fn check_stage(
    path: &FieldPath,
    size: StageSize,
    slots: Option<u32>,
    findings: &mut Findings,
) -> bool {
    match size {
        StageSize::Percent(percent) => check_amount(path, Amount::Percent(percent), findings),
        StageSize::Count(0) => {
            findings.error(path, "a stage has at least 1 task");
            false
        }
        StageSize::Count(count) if slots.is_some_and(|slots| count > slots) => {
            let slots = slots.unwrap_or(0);
            findings.warning(path, format!("the job has {slots} tasks, not {count}"));
            true
        }
        _ => true,
    }
}

fn check_maintenance(path: &FieldPath, wish: &Wish, findings: &mut Findings) {
    match &wish.change.maintenance {
        Maintenance::Migrate => {}
        Maintenance::RideOut { up_to_ms } => {
            let path = path.field("ride_out.up_to_ms");
            findings.time(&path, "the window", *up_to_ms, INTERVAL_MS_MIN, WAIT_MS_MAX);
        }
        Maintenance::Ask {
            port,
            path: asked,
            up_to_ms,
        } => {
            let path = path.field("ask");
            check_port(&path.field("port"), port, &wish.task.ports, findings);
            findings.http_path(&path.field("path"), asked);
            let time = path.field("up_to_ms");
            findings.time(&time, "the time", *up_to_ms, INTERVAL_MS_MIN, WAIT_MS_MAX);
        }
    }
}

fn check_exclusive(path: &FieldPath, wish: &Wish, findings: &mut Findings) {
    let Some(exclusive) = wish.change.exclusive else {
        return;
    };
    let lease = path.field("lease_ms");
    findings.time(
        &lease,
        "the lease",
        exclusive.lease_ms,
        LEASE_MS_MIN,
        PAUSE_MS_MAX,
    );
    if *wish.kind == JobKind::PerNode {
        findings
            .error(path, "one task on each node needs no lease")
            .why("its slot never moves to another node");
    }
    if let Maintenance::RideOut { up_to_ms } = wish.change.maintenance
        && up_to_ms > exclusive.lease_ms
    {
        let message = format!(
            "windows of up to {} are ridden out, but the lease ends after {}",
            duration(up_to_ms),
            duration(exclusive.lease_ms)
        );
        findings
            .warning(&lease, message)
            .why("a node that is away longer than its lease may lose the slot to another");
    }
}
