//! Each kind of change as people see it, and the laws of comparing.

use super::{value::*, *};
use crate::{
    JobName, PackageId,
    job::{
        Amount, Batch, Dependency, HealthCheck, JobKind, Level, Mount, MountSource, PortSpec,
        Requirement, Resources, ServiceSpec, TaskTemplate,
    },
};
use std::collections::BTreeMap;

fn job() -> Job {
    let port = |name: &str, number| PortSpec {
        name: name.into(),
        number,
    };
    Job {
        cluster: "main".into(),
        name: JobName::in_default("web"),
        version: 3,
        kind: JobKind::service(3),
        package: PackageId([1; 32]),
        task: TaskTemplate {
            args: vec!["a".into()],
            env: BTreeMap::from([("A".into(), "1".into())]),
            ports: vec![port("http", None), port("admin", Some(8080))],
            services: vec![ServiceSpec::new("web", "http")],
            health: vec![HealthCheck::tcp("http")],
            ..TaskTemplate::new("bin/web")
        },
        ..Job::default()
    }
}

type Edit = fn(&mut Job);

/// The change, and each field of it: path, old, new, and what it needs.
type Row = (
    Edit,
    &'static [(&'static str, &'static str, &'static str, Effect)],
);

const ROWS: &[Row] = &[
    (|j| j.version = 4, &[]),
    (
        |j| j.kind = JobKind::service(5),
        &[("kind.service.replicas", "3", "5", Effect::InPlace)],
    ),
    (
        |j| j.kind = JobKind::PerNode,
        &[(
            "kind",
            "service(replicas = 3)",
            "\"per_node\"",
            Effect::Replace,
        )],
    ),
    (
        |j| j.package = PackageId([2; 32]),
        &[("package", "\"0101", "\"0202", Effect::RollingRestart)],
    ),
    (
        |j| j.task.args.push("b c".into()),
        &[(
            "task.args",
            "[\"a\"]",
            "[\"a\", \"b c\"]",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| {
            j.task.env.insert("B".into(), "2".into());
            j.task.env.remove("A");
        },
        &[
            ("task.env[\"A\"]", "\"1\"", "-", Effect::RollingRestart),
            ("task.env[\"B\"]", "-", "\"2\"", Effect::RollingRestart),
        ],
    ),
    (
        |j| j.task.resources = Resources::new(1_500, 2 << 30),
        &[
            ("task.resources.cpu_millis", "0.1", "1.5", Effect::Live),
            ("task.resources.memory_bytes", "64MiB", "2GiB", Effect::Live),
        ],
    ),
    (
        |j| j.task.resources.disk_bytes = 1 << 30,
        &[(
            "task.resources.disk_bytes",
            "0B",
            "1GiB",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| {
            j.task.limits.pids = Some(50);
            j.task.limits.io_write_bytes_per_s = Some(1 << 20);
        },
        &[
            (
                "task.limits.io_write_bytes_per_s",
                "-",
                "1MiB",
                Effect::Live,
            ),
            ("task.limits.pids", "-", "50", Effect::Live),
        ],
    ),
    (
        |j| {
            j.task.ports.remove(0);
            j.task.ports[0].number = Some(81);
        },
        &[
            (
                "task.ports[\"admin\"].number",
                "8080",
                "81",
                Effect::RollingRestart,
            ),
            (
                "task.ports[\"http\"]",
                "name = \"http\"",
                "-",
                Effect::RollingRestart,
            ),
        ],
    ),
    (
        |j| j.task.services[0].tags.push("v2".into()),
        &[(
            "task.services[\"web\"].tags",
            "[]",
            "[\"v2\"]",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| j.task.health[0].interval_ms = 90_500,
        &[(
            "task.health[0].interval_ms",
            "1s",
            "1m30s500ms",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| j.task.health.clear(),
        &[(
            "task.health",
            "[action = \"withdraw\"",
            "[]",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| j.task.stop.grace_ms = 0,
        &[("task.stop.grace_ms", "10s", "0s", Effect::RollingRestart)],
    ),
    (
        |j| {
            j.task.mounts.push(Mount {
                at: "/tmp".into(),
                source: MountSource::Tmpfs { bytes: 1 << 20 },
                read_only: false,
            });
        },
        &[(
            "task.mounts[\"/tmp\"]",
            "-",
            "at = \"/tmp\", read_only = false, source(tmpfs(bytes = 1MiB))",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| {
            let requirement: Requirement = "os = linux".parse().unwrap();
            j.placement.requirements.push(requirement);
            j.placement.spread = vec![Level::Rack];
        },
        &[
            (
                "placement.requirements",
                "[]",
                "[os = \"linux\"]",
                Effect::RollingRestart,
            ),
            ("placement.spread", "[]", "[\"rack\"]", Effect::InPlace),
        ],
    ),
    (
        |j| {
            j.placement.preferences.push(Default::default());
            j.priority = 51;
        },
        &[
            (
                "placement.preferences",
                "[]",
                "[requirement",
                Effect::InPlace,
            ),
            ("priority", "50", "51", Effect::InPlace),
        ],
    ),
    (
        |j| j.change.budget = Some(Amount::Percent(20)),
        &[("change.budget", "-", "percent = 20%", Effect::InPlace)],
    ),
    (
        |j| j.change.depends_on.push(Dependency::default()),
        &[("change.depends_on", "[]", "[job(name", Effect::InPlace)],
    ),
    (
        |j| j.change.exclusive = Some(Default::default()),
        &[(
            "change.exclusive",
            "-",
            "lease_ms = 15s",
            Effect::RollingRestart,
        )],
    ),
    (
        |j| {
            j.owner = "ann".into();
            j.annotations.insert("a.b".into(), "c".into());
        },
        &[
            ("owner", "\"\"", "\"ann\"", Effect::None),
            ("annotations[\"a.b\"]", "-", "\"c\"", Effect::None),
        ],
    ),
];

#[test]
fn each_change_is_told_with_its_values_and_its_effect() {
    for (edit, expected) in ROWS {
        let old = job();
        let mut new = old.clone();
        edit(&mut new);
        let found = diff(&old, &new);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, (path, before, after, effect)) in found.iter().zip(*expected) {
            assert_eq!(found.path.to_string(), *path);
            assert_eq!(found.effect, *effect, "{path}");
            for (found, expected) in [(&found.old, before), (&found.new, after)] {
                let found = found.as_deref().unwrap_or("-");
                assert!(
                    found.starts_with(expected),
                    "{path}: {found} for {expected}"
                );
            }
        }
        let most = expected.iter().map(|(.., effect)| *effect).max();
        assert_eq!(changes_tasks(&old, &new), most >= Some(Effect::Live));
        assert_eq!(changes_live(&old, &new), most == Some(Effect::Live));
        assert_eq!(diff(&old, &new).is_empty(), expected.is_empty());
    }
}

#[test]
fn a_job_is_what_its_worst_field_is() {
    let old = job();
    let mut new = old.clone();
    new.version += 1;
    assert_eq!(classify(None, Some(&new)), JobChange::Created);
    assert_eq!(classify(Some(&old), None), JobChange::Removed);
    assert_eq!(classify(Some(&old), Some(&new)), JobChange::Unchanged);
    new.kind = JobKind::service(9);
    assert_eq!(classify(Some(&old), Some(&new)), JobChange::ChangedInPlace);
    new.task.command = "x".into();
    assert_eq!(classify(Some(&old), Some(&new)), JobChange::RollingRestart);
    new.kind = JobKind::Batch(Batch::default());
    assert_eq!(classify(Some(&old), Some(&new)), JobChange::Replaced);
}

#[test]
fn every_part_of_a_job_is_compared_and_has_an_effect() {
    let all = of(&Job::default());
    let fields: Vec<&String> = all.as_object().unwrap().keys().collect();
    let identity = ["fleet", "cluster", "name", "version"];
    for field in fields {
        let told = PARTS.iter().any(|part| part.name == field);
        assert!(told || identity.contains(&field.as_str()), "{field}");
    }
    for part in PARTS {
        let name = part.name;
        assert!(EFFECTS.iter().any(|(field, _)| *field == name), "{name}");
    }
}

/// Each path of the table of effects leads to a field that exists.
#[test]
fn effects_are_of_fields_that_exist() {
    let kinds = [
        of(&job()),
        of(&Job {
            kind: JobKind::Batch(Batch::default()),
            ..Job::default()
        }),
    ];
    for (field, _) in EFFECTS {
        let pointer = format!("/{}", field.replace('.', "/"));
        let found = kinds.iter().any(|job| job.pointer(&pointer).is_some());
        assert!(found, "{field}");
    }
}

#[test]
fn another_order_of_named_things_is_told_as_one_change() {
    let old = job();
    let mut new = old.clone();
    new.task.ports.reverse();
    let changes = diff(&old, &new);
    assert!(!changes.is_empty());
}

#[test]
fn long_values_are_cut() {
    let old = job();
    let mut new = old.clone();
    new.task.args = vec!["ü".repeat(5_000)];
    let changes = diff(&old, &new);
    assert_eq!(changes[0].new.as_ref().unwrap().chars().count(), 200);
}

#[test]
fn units_are_exact() {
    for (ms, text) in [
        (0, "0s"),
        (1, "1ms"),
        (1_000, "1s"),
        (90_061_001, "1d1h1m1s1ms"),
    ] {
        assert_eq!(duration(ms), text);
    }
    for (bytes, text) in [
        (0, "0B"),
        (1_000, "1000B"),
        (1_024, "1KiB"),
        (3 << 30, "3GiB"),
    ] {
        assert_eq!(size(bytes), text);
    }
    for (millis, text) in [(0, "0"), (1, "0.001"), (250, "0.25"), (10_000, "10")] {
        assert_eq!(cores(millis), text);
    }
}

/// Whatever restarts tasks says why, and nothing else does.
#[test]
fn a_restart_has_a_reason() {
    let change = |path: FieldPath, effect| FieldChange {
        path,
        old: None,
        new: None,
        effect,
    };
    for (field, effect) in EFFECTS {
        assert_eq!(
            why_restart(&change(FieldPath::of(field), *effect)).is_some(),
            *effect >= Effect::RollingRestart,
            "{field}"
        );
    }
    let restart = Effect::RollingRestart;
    for (field, _) in REASONS {
        let change = change(FieldPath::of(field), restart);
        assert!(why_restart(&change).is_some(), "{field}");
    }
    let interval = FieldPath::of("task.health").index(0).field("interval_ms");
    assert_eq!(why_restart(&change(interval, restart)), Some(KEPT));
}

#[test]
fn an_exclusive_task_is_never_changed_while_it_runs() {
    let mut old = job();
    old.change.exclusive = Some(Default::default());
    let mut new = old.clone();
    new.task.resources.memory_bytes += 1 << 20;
    let changes = diff(&old, &new);
    assert_eq!(of_effects(&changes), JobChange::RollingRestart);
    assert_eq!(why_restart(&changes[0]), Some(EXCLUSIVE));
    assert!(!changes_live(&old, &new));
    assert!(changes_tasks(&old, &new));
}

#[test]
fn a_wish_to_start_again_is_not_passed_over() {
    let first = job();
    let mut grown = first.clone();
    grown.task.resources.cpu_millis += 1;
    let mut replicas = first.clone();
    replicas.kind = JobKind::service(4);
    let mut other = grown.clone();
    other.task.command = "x".into();
    let table: &[(&[&Job], bool)] = &[
        (&[], false),
        (&[&first], false),
        (&[&first, &grown], true),
        (&[&first, &replicas, &grown], true),
        // Back and forth through another program is the same program.
        (&[&first, &other, &grown], true),
        (&[&first, &first, &grown], false),
        (&[&first, &grown, &grown], false),
        (&[&first, &grown, &first], false),
        (&[&first, &other], false),
    ];
    for (versions, live) in table {
        let found = changes_live_through(versions.iter().copied());
        assert_eq!(found, *live, "{} versions", versions.len());
    }
}
