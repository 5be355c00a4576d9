//! What of a job no part of potluck executes yet: one table.
//!
//! A job that uses such a field is checked and shown as any other, and is
//! refused when it is to run, rather than run as if the field were not there.
//! Whoever makes potluck execute a field deletes its row here, in the same
//! commit as the test that shows it. The owner and the annotations are kept
//! and shown, which is all that they are for.

use crate::{
    finding::Finding,
    job::{
        AdaptiveMode, HealthAction, HealthCheck, Job, JobDraft, Maintenance, PackageSource, Probe,
        TaskTemplate, wish::Wish,
    },
    path::FieldPath,
};

/// A field that nothing executes.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its path in the job.
    pub field: &'static str,
    /// What it would do: stands before "is not yet supported".
    pub what: &'static str,
    /// What to do meanwhile, if anything can be done.
    pub instead: Option<&'static str>,
    used: fn(&Wish) -> bool,
}

const fn row(field: &'static str, what: &'static str, used: fn(&Wish) -> bool) -> Row {
    Row {
        field,
        what,
        instead: None,
        used,
    }
}

impl Row {
    const fn instead(self, instead: &'static str) -> Row {
        Row {
            instead: Some(instead),
            ..self
        }
    }
}

/// Everything that is said and not done.
pub const UNSUPPORTED: &[Row] = &[
    row("package", "a package from a registry", |w| {
        matches!(w.package, Some(PackageSource::Oci(_)))
    })
    .instead("unpack the image, and name the folder"),
    row("task.devices", "asking for devices", |w| {
        !w.task.devices.is_empty()
    }),
    row("task.adaptive", "adapting requests to the use", |w| {
        w.task.adaptive.mode != AdaptiveMode::Off
    }),
    row("task.services", "a service with tags", |w| {
        w.task
            .services
            .iter()
            .any(|service| !service.tags.is_empty())
    }),
    row("task.health", "a health check by a command", |w| {
        any_check(w.task, |check| matches!(check.probe, Probe::Exec { .. }))
    }),
    row("task.health", "a health check by gRPC", |w| {
        any_check(w.task, |check| matches!(check.probe, Probe::Grpc { .. }))
    }),
    row("task.health", "another action than withdraw", |w| {
        any_check(w.task, |check| check.action != HealthAction::Withdraw)
    }),
    row("task.metrics", "a threshold of a metric", |w| {
        !w.task.metrics.is_empty()
    }),
    row(
        "change.maintenance",
        "another maintenance than migrate",
        |w| w.change.maintenance != Maintenance::Migrate,
    ),
];

fn any_check(task: &TaskTemplate, is: impl Fn(&HealthCheck) -> bool) -> bool {
    task.health.iter().any(is)
}

/// What of a draft would not be executed: an error for each row that it uses.
pub fn unsupported(draft: &JobDraft) -> Vec<Finding> {
    used(&Wish::of_draft(draft))
}

/// The same of a bound job.
pub fn unsupported_job(job: &Job) -> Vec<Finding> {
    used(&Wish::of_job(job))
}

fn used(wish: &Wish) -> Vec<Finding> {
    let rows = UNSUPPORTED.iter().filter(|row| (row.used)(wish));
    rows.map(|row| {
        let message = format!("{} is not yet supported", row.what);
        let mut finding = Finding::error(FieldPath::of(row.field), message);
        finding.hint = row.instead.map(Into::into);
        finding
    })
    .collect()
}

#[cfg(test)]
mod tests;
