//! Each row of the table speaks, and nothing that is executed does.

use super::*;
use crate::{FleetId, JobName, PackageId, job::*};
use std::collections::BTreeSet;

fn draft() -> JobDraft {
    JobDraft::new(
        JobName::in_default("web"),
        PackageSource::Path("web".into()),
        "bin/web",
    )
}

type Use = fn(&mut JobDraft);

/// A change that uses each row, and the beginning of what is said. A row that
/// is deleted takes its line here along.
const USES: &[(&str, Use)] = &[
    ("a package from a registry", |d| {
        d.package = PackageSource::Oci("x".into())
    }),
    ("asking for devices", |d| {
        d.task.devices = [("gpu".into(), 1)].into()
    }),
    ("adapting requests", |d| {
        d.task.adaptive.mode = AdaptiveMode::Recommend
    }),
    ("a service with tags", |d| {
        d.task.services = vec![ServiceSpec::new("web", "http")];
        d.task.services[0].tags.push("a".into());
    }),
    ("a health check by a command", |d| {
        let (command, args) = ("x".into(), vec![]);
        d.task.health = vec![HealthCheck::of(Probe::Exec { command, args })];
    }),
    ("a health check by gRPC", |d| {
        let (port, service) = ("x".into(), String::new());
        d.task.health = vec![HealthCheck::of(Probe::Grpc { port, service })];
    }),
    ("another action than withdraw", |d| {
        d.task.health = vec![HealthCheck::tcp("a")];
        d.task.health[0].action = HealthAction::Restart;
    }),
    ("a threshold of a metric", |d| {
        d.task.metrics.push(MetricThreshold::default())
    }),
    ("another maintenance", |d| {
        d.change.maintenance = Maintenance::RideOut { up_to_ms: 1 }
    }),
];

#[test]
fn each_row_speaks_alone() {
    let mut spoken = BTreeSet::new();
    for (what, change) in USES {
        let mut draft = draft();
        change(&mut draft);
        let findings = unsupported(&draft);
        let [finding] = &findings[..] else {
            panic!("{what}: {findings:?}");
        };
        assert!(finding.message.starts_with(what), "{what}: {finding:?}");
        spoken.insert(finding.message.clone());
    }
    let rows = UNSUPPORTED
        .iter()
        .map(|row| format!("{} is not yet supported", row.what));
    assert_eq!(spoken, rows.collect());
}

#[test]
fn what_is_executed_is_not_refused() {
    let mut draft = draft();
    draft.kind = JobKind::service(7);
    draft.task.args.push("$HOME ${HOME} ${slot.index}".into());
    draft.task.ports.push(PortSpec {
        name: "http".into(),
        number: None,
    });
    draft.task.services.push(ServiceSpec::new("web", "http"));
    draft.task.health.push(HealthCheck::http("http", "/"));
    draft.task.health.push(HealthCheck {
        interval_ms: 500,
        healthy_after: 2,
        ..HealthCheck::tcp("http")
    });
    draft.task.resources.disk_bytes = 1 << 30;
    draft.task.resources.uplink_bits_per_s = 1;
    draft.task.restart.backoff_ms = 1_000;
    draft.task.restart.attempts = Some(5);
    draft.task.restart.on = RestartOn::Never;
    draft.task.stop.grace_ms = 1;
    draft.task.isolation = Isolation::None;
    draft.owner = "ann".into();
    draft.annotations.insert("a".into(), "b".into());
    draft.packages.push(DraftPackage::default());
    draft.change.exclusive = Some(Exclusive::default());
    assert_eq!(unsupported(&draft), []);
    let (package, further) = (PackageId([0; 32]), [PackageId([1; 32])]);
    let job = draft.bind(FleetId([0; 32]), "main", 1, package, &further);
    assert_eq!(unsupported_job(&job), []);
}

#[test]
fn work_that_ends_is_not_refused() {
    let mut draft = draft();
    draft.kind = JobKind::Batch(Batch {
        completions: 20,
        parallelism: 4,
        retries: 2,
        deadline_ms: Some(60_000),
        array: true,
        gang: true,
    });
    assert_eq!(unsupported(&draft), []);
}

#[test]
fn a_bound_job_is_refused_as_its_draft() {
    let mut draft = draft();
    draft.task.devices = [("gpu".into(), 1)].into();
    let before = unsupported(&draft);
    let job = draft.bind(FleetId([0; 32]), "main", 1, PackageId([0; 32]), &[]);
    assert_eq!(unsupported_job(&job), before);
}
