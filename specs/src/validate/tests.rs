//! Each rule of a job broken alone, and several at once.

mod edits;
mod network;
mod placing;
mod process;
mod whole;

use super::*;
use crate::{
    FleetId, JobName, PackageId,
    job::{
        Adaptive, AdaptiveMode, Amount, AtMost, Batch, Dependency, DraftPackage, Exclusive,
        HealthCheck, Hook, Isolation, JobKind, Level, Limits, Maintenance, MetricThreshold, Mount,
        MountSource, Neighbour, Operator, PackageSource, PortSpec, Preference, Probe, RenderedFile,
        RestartOn, RestartPolicy, ServiceSpec, Stage, StageSize, StopPolicy, TaskTemplate,
    },
};
use edits::*;
use std::collections::BTreeMap;

fn draft() -> JobDraft {
    let port = |name: &str, number| PortSpec {
        name: name.into(),
        number,
    };
    JobDraft {
        name: JobName::in_default("web"),
        kind: JobKind::service(3),
        package: PackageSource::Path("web".into()),
        task: TaskTemplate {
            command: "bin/web".into(),
            args: vec!["--verbose".into()],
            env: BTreeMap::from([("MODE".into(), "fast".into())]),
            ports: vec![port("http", None), port("admin", Some(8080))],
            services: vec![ServiceSpec::new("web", "http")],
            health: vec![HealthCheck::http("http", "/healthz")],
            ..TaskTemplate::default()
        },
        ..JobDraft::default()
    }
}

fn bound(draft: JobDraft) -> Job {
    draft.bind(FleetId([1; 32]), "main", 1, PackageId([2; 32]), &[])
}

type Change = fn(&mut JobDraft);

/// The change, the path of the finding, a part of its message, and of what is
/// said to it: why, how to mend it, what was meant.
type Row = (Change, &'static str, &'static str, &'static str);

/// Each rule alone.
fn rules() -> impl Iterator<Item = &'static Row> {
    [
        whole::BROKEN,
        process::BROKEN,
        network::BROKEN,
        placing::BROKEN,
    ]
    .into_iter()
    .flatten()
}

/// What is accepted and probably not meant.
const DOUBTFUL: &[Row] = &[
    (
        |d| batch(d, |b| b.parallelism = 9),
        "kind.batch.parallelism",
        "9 at once",
        "",
    ),
    (
        |d| d.task.health.clear(),
        "task.health",
        "without a check",
        "http(\"http\", \"/healthz\")",
    ),
    (
        |d| d.task.health[0].timeout_ms = 2_000,
        "task.health[0].timeout_ms",
        "longer than the interval",
        "",
    ),
    (
        |d| d.task.restart.on = RestartOn::Never,
        "task.restart.on",
        "stays down",
        "batch",
    ),
    (
        |d| d.task.stop.signal = 9,
        "task.stop.signal",
        "no program can handle",
        "SIGTERM",
    ),
    (
        |d| d.kind = JobKind::service(6),
        "task.ports[1].number",
        "a node of its own",
        "PORT_NAME",
    ),
    (
        |d| d.task.adaptive.cpu_millis_max = Some(1),
        "task.adaptive",
        "mode is off",
        "",
    ),
    (
        |d| mount(d, "/tmp", tmpfs(1 << 30)),
        "task.mounts[0].source.tmpfs.bytes",
        "1GiB is more than the task's memory of 64MiB",
        "",
    ),
    (
        |d| {
            d.task.isolation = Isolation::Strict;
            mount(
                d,
                "/a",
                MountSource::Bind {
                    path: "/srv".into(),
                },
            );
        },
        "task.mounts[0].read_only",
        "write to the host",
        "",
    ),
    (
        |d| d.placement.preferences = vec![preference(0)],
        "placement.preferences[0].weight",
        "says nothing",
        "",
    ),
    (
        |d| d.placement.spread = vec![Level::Region],
        "placement.spread[0]",
        "nothing to spread",
        "one cluster",
    ),
    (
        |d| d.change.budget = Some(Amount::Count(3)),
        "change.budget",
        "all tasks",
        "",
    ),
    (
        |d| stages(d, &[StageSize::Count(4)]),
        "change.update.stages[0].size",
        "has 3 tasks, not 4",
        "",
    ),
    (
        |d| {
            let sizes = [StageSize::Count(2), StageSize::Percent(34), StageSize::All];
            stages(d, &sizes);
        },
        "change.update.stages[1].size",
        "adds no task",
        "2 of 3",
    ),
    (
        |d| stages(d, &[StageSize::Count(1)]),
        "change.update.stages",
        "behind the last stage",
        "\"all\"",
    ),
    (
        |d| {
            batch(d, |_| {});
            stages(d, &[StageSize::Count(1)]);
        },
        "change.update.stages",
        "no rollout",
        "end by themselves",
    ),
];

/// On the server, what nobody executes is told as well.
fn on_server(draft: &JobDraft) -> Vec<Finding> {
    let further = vec![PackageId([3; 32]); draft.packages.len()];
    let fleet = FleetId([1; 32]);
    let job = draft
        .clone()
        .bind(fleet, "main", 1, PackageId([2; 32]), &further);
    let mut findings = check_job(&job);
    findings.retain(|finding| !finding.message.ends_with("not yet supported"));
    findings
}

#[test]
fn a_good_job_has_no_findings() {
    assert_eq!(check(&draft()), []);
    assert_eq!(on_server(&draft()), []);
}

/// What is wrong with a row of a table: nothing, if its finding is the only
/// one on both sides and says what it should.
fn faults((change, path, message, said): &Row, severity: Severity) -> Vec<String> {
    let mut broken = draft();
    change(&mut broken);
    let both = [check(&broken), on_server(&broken)].into_iter();
    both.filter_map(|findings| {
        let as_wanted = |finding: &Finding| {
            let more = [&finding.why, &finding.hint, &finding.suggestion];
            let more: String = more.into_iter().flatten().cloned().collect();
            finding.path.to_string() == *path
                && finding.severity == severity
                && finding.message.contains(message)
                && more.contains(said)
        };
        match &findings[..] {
            [finding] if as_wanted(finding) => None,
            _ => Some(format!("{path} {message:?} {said:?}: {findings:?}")),
        }
    })
    .collect()
}

#[test]
fn each_rule_speaks_alone_on_both_sides() {
    let faults = rules().flat_map(|row| faults(row, Severity::Error));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn what_is_doubtful_is_a_warning_and_no_refusal() {
    let faults = DOUBTFUL
        .iter()
        .flat_map(|row| faults(row, Severity::Warning));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn only_a_draft_tells_where_its_packages_are() {
    for (source, message) in [
        (PackageSource::Path("".into()), "path is empty"),
        (PackageSource::Oci("a b".into()), "not a reference"),
    ] {
        let mut broken = draft();
        broken.package = source.clone();
        broken.packages = vec![DraftPackage {
            at: "/more".into(),
            source,
        }];
        let findings = check(&broken);
        let paths: Vec<String> = findings.iter().map(|f| f.path.to_string()).collect();
        assert_eq!(paths, ["package", "packages[0].source"]);
        assert!(
            findings.iter().all(|f| f.message.contains(message)),
            "{findings:?}"
        );
    }
}

/// What a bound job must not have at the server is refused there.
#[test]
fn what_nobody_executes_is_refused_when_it_is_to_run() {
    let mut asks = draft();
    asks.task.adaptive.mode = AdaptiveMode::Auto;
    assert_eq!(check(&asks), []);
    assert!(refused(&check_job(&bound(asks))));
}

#[test]
fn limits_themselves_are_allowed() {
    let mut edge = draft();
    edge.kind = JobKind::service(REPLICAS_MAX);
    edge.task.command = "x".repeat(PATH_BYTES_MAX);
    edge.task.args = vec!["x".repeat(ARGUMENT_BYTES_MAX)];
    edge.task.resources = RESOURCES_MAX;
    edge.task.ports = vec![edge.task.ports[0].clone()];
    edge.task.ports[0].number = None;
    edge.task.restart = RestartPolicy {
        backoff_ms: PAUSE_MS_MAX,
        backoff_max_ms: PAUSE_MS_MAX,
        ..RestartPolicy::default()
    };
    edge.change.budget = Some(Amount::Percent(1));
    edge.task.limits = Limits {
        cpu_millis: Some(RESOURCES_MAX.cpu_millis),
        memory_bytes: Some(RESOURCES_MAX.memory_bytes),
        cpu_burst_millis: Some(RESOURCES_MAX.cpu_millis),
        pids: Some(PIDS_MAX),
        io_weight: Some(IO_WEIGHT_MAX),
        io_read_bytes_per_s: Some(IO_PER_S_MAX),
        io_write_bytes_per_s: Some(IO_BYTES_PER_S_MIN),
        io_read_ops_per_s: Some(IO_PER_S_MAX),
        io_write_ops_per_s: Some(IO_OPS_PER_S_MIN),
    };
    edge.task.user = Some("65534:65534".into());
    edge.task.stop = StopPolicy {
        signal: 64,
        grace_ms: PAUSE_MS_MAX,
    };
    assert_eq!(check(&edge), []);
}

#[test]
fn all_findings_come_at_once_in_the_order_of_the_fields() {
    let mut broken = draft();
    broken.kind = JobKind::service(0);
    broken.package = PackageSource::Path("".into());
    broken.task.command = String::new();
    broken.task.ports.clear();
    broken.task.stop.signal = 99;
    let fields: Vec<String> = check(&broken)
        .into_iter()
        .map(|f| f.path.to_string())
        .collect();
    assert_eq!(
        fields,
        [
            "kind.service.replicas",
            "package",
            "task.command",
            "task.stop.signal",
            "task.services[0].port",
            "task.health[0].probe.http.port",
        ]
    );
}

#[test]
fn numbers_of_ports_and_services_are_bounded() {
    let mut broken = draft();
    broken.task.ports.extend((0..PORTS_MAX).map(|k| PortSpec {
        name: format!("p{k}"),
        number: None,
    }));
    broken
        .task
        .services
        .extend((0..PORTS_MAX).map(|k| ServiceSpec {
            name: format!("s{k}"),
            port: "http".into(),
            ..ServiceSpec::default()
        }));
    let fields: Vec<String> = check(&broken)
        .into_iter()
        .map(|f| f.path.to_string())
        .collect();
    assert_eq!(fields, ["task.ports", "task.services"]);
}

#[test]
fn a_bound_job_names_its_cluster_and_version() {
    let mut job = bound(draft());
    job.version = 0;
    job.cluster = "a/b".into();
    let fields: Vec<String> = check_job(&job)
        .into_iter()
        .map(|f| f.path.to_string())
        .collect();
    assert_eq!(fields, ["cluster", "version"]);
}

/// A draft that passes must still pass when it is bound: the client would
/// sign what the leader refuses.
#[test]
fn binding_adds_no_more_than_is_set_aside() {
    let draft = draft();
    let before = encode(&draft).len();
    let fleet = FleetId([255; 32]);
    let job = draft.bind(fleet, &"c".repeat(63), u64::MAX, PackageId([255; 32]), &[]);
    assert!(job.encode().len() <= before + BINDING_BYTES_MAX);
}

mod any {
    use super::*;
    use proptest::{prelude::*, sample::Index};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Several faults together are told, always in the same order.
        #[test]
        fn many_faults_are_all_told(picked in prop::collection::vec(any::<Index>(), 1..6)) {
            let mut broken = draft();
            let all: Vec<&Row> = rules().collect();
            for index in &picked {
                (index.get(&all).0)(&mut broken);
            }
            let findings = check(&broken);
            prop_assert!(!findings.is_empty());
            prop_assert_eq!(&findings, &check(&broken));
            for finding in findings {
                prop_assert!(!finding.message.is_empty() && !finding.message.ends_with('.'));
                prop_assert!(finding.message.len() < 20_000);
            }
        }
    }
}
