//! Each rule of a job broken alone, and several at once.

use super::*;
use crate::{FleetId, PackageId, job::HealthCheck};

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

/// The change, the field of the finding, a part of its message, and of its hint.
const BROKEN: &[(Change, &str, &str, &str)] = &[
    (|d| d.name.name = "Web".into(), "name", "only a-z", ""),
    (
        |d| d.name.namespace = String::new(),
        "namespace",
        "is empty",
        "",
    ),
    (
        |d| d.kind = JobKind::service(0),
        "replicas",
        "at least 1",
        "`potluck stop web`",
    ),
    (
        |d| d.kind = JobKind::service(10_001),
        "replicas",
        "more than the 10000",
        "",
    ),
    (
        |d| d.task.command = String::new(),
        "command",
        "is empty",
        "bin/server",
    ),
    (
        |d| d.task.command = "../sh".into(),
        "command",
        "'..'",
        "args",
    ),
    (
        |d| d.task.command = "bin//sh".into(),
        "command",
        "empty",
        "args",
    ),
    (
        |d| d.task.command = "x".repeat(4_097),
        "command",
        "longer than 4096",
        "",
    ),
    (
        |d| d.task.args.push("a\0b".into()),
        "args[1]",
        "zero byte",
        "",
    ),
    (
        |d| d.task.args.push("x".repeat(128 << 10)),
        "args[1]",
        "Linux",
        "",
    ),
    (
        |d| drop(d.task.env.insert("1A".into(), "".into())),
        "env.1A",
        "not the name",
        "digit",
    ),
    (
        |d| drop(d.task.env.insert("".into(), "".into())),
        "env.",
        "not the name",
        "digit",
    ),
    (
        |d| drop(d.task.env.insert("A=B".into(), "".into())),
        "env.A=B",
        "not the name",
        "",
    ),
    (
        |d| drop(d.task.env.insert("POTLUCK_SLOT".into(), "".into())),
        "env.POTLUCK_SLOT",
        "set by potluck",
        "",
    ),
    (
        |d| drop(d.task.env.insert("PORT_HTTP".into(), "".into())),
        "env.PORT_HTTP",
        "number of port \"http\"",
        "",
    ),
    (
        |d| drop(d.task.env.insert("A".into(), "\0".into())),
        "env.A",
        "zero byte",
        "",
    ),
    (
        |d| d.task.resources.cpu_millis = 0,
        "cpu",
        "at least 0.001",
        "tenth",
    ),
    (
        |d| d.task.resources.cpu_millis = 1_024_001,
        "cpu",
        "at most 1024",
        "",
    ),
    (
        |d| d.task.resources.memory_bytes = 64,
        "memory",
        "at least 1 MiB",
        "counts bytes",
    ),
    (
        |d| d.task.resources.memory_bytes = u64::MAX,
        "memory",
        "at most 64 TiB",
        "",
    ),
    (
        |d| d.task.ports[1].name = "a_b".into(),
        "ports.a_b",
        "only a-z",
        "",
    ),
    (
        |d| d.task.ports[1].name = "http".into(),
        "ports.http",
        "twice",
        "",
    ),
    (
        |d| d.task.ports[1].number = Some(0),
        "ports.admin",
        "from 1",
        "",
    ),
    (
        |d| d.task.ports[0].number = Some(8080),
        "ports.admin",
        "has the number 8080 already",
        "",
    ),
    (
        |d| d.task.services[0].name = "a.b".into(),
        "services.a.b",
        "only a-z",
        "",
    ),
    (
        |d| d.task.services[0].port = "htpp".into(),
        "services.web",
        "no port \"htpp\"",
        "did you mean \"http\"?",
    ),
    (
        |d| d.task.services[0].port = "metrics".into(),
        "services.web",
        "no port",
        "ports = {\"metrics\": 0}",
    ),
    (
        |d| d.task.health = vec![HealthCheck::tcp("adminn")],
        "health.port",
        "no port",
        "\"admin\"",
    ),
    (
        |d| d.task.health = vec![HealthCheck::http("http", "up")],
        "health.path",
        "'/'",
        "\"/up\"",
    ),
    (
        |d| d.task.health = vec![HealthCheck::http("http", "/ HTTP/1.1\r\n")],
        "health.path",
        "space",
        "%20",
    ),
    (
        |d| d.task.restart.backoff_ms = 0,
        "restart.backoff",
        "shorter than 10 ms",
        "",
    ),
    (
        |d| d.task.restart.backoff_max_ms = 249,
        "restart.backoff_max",
        "shorter than the first",
        "",
    ),
    (
        |d| d.task.restart.backoff_max_ms = 3_600_001,
        "restart.backoff_max",
        "at most 1 hour",
        "",
    ),
    (
        |d| d.task.stop.signal = 0,
        "stop.signal",
        "from 1 to 64",
        "",
    ),
    (
        |d| d.task.stop.signal = 65,
        "stop.signal",
        "from 1 to 64",
        "",
    ),
    (
        |d| d.task.stop.grace_ms = 3_600_001,
        "stop.grace",
        "at most 1 hour",
        "",
    ),
    (
        |d| d.task.args = vec!["x".repeat(100_000); 3],
        "job",
        "262144 are allowed",
        "files of the package",
    ),
];

#[test]
fn a_good_job_has_no_findings() {
    assert_eq!(check(&draft()), []);
    assert_eq!(check_job(&bound(draft())), []);
}

#[test]
fn each_rule_speaks_alone_on_both_sides() {
    for (change, field, message, hint) in BROKEN {
        let mut broken = draft();
        change(&mut broken);
        let on_server = check_job(&bound(broken.clone()));
        let on_client = check(&broken);
        for findings in [on_client, on_server] {
            let [finding] = &findings[..] else {
                panic!("{field}: {message}: {findings:#?}");
            };
            assert_eq!(finding.path.to_string(), *field, "{finding:?}");
            assert_eq!(finding.severity, Severity::Error, "{finding:?}");
            assert!(finding.message.contains(message), "{finding:?}");
            let said = finding.hint.as_deref().unwrap_or_default();
            assert!(said.contains(hint), "{finding:?}");
        }
    }
}

#[test]
fn limits_themselves_are_allowed() {
    let mut edge = draft();
    edge.kind = JobKind::service(REPLICAS_MAX);
    edge.task.command = "x".repeat(PATH_BYTES_MAX);
    edge.task.args = vec!["x".repeat(ARGUMENT_BYTES_MAX)];
    edge.task.resources = RESOURCES_MAX;
    edge.task.ports[1].number = Some(u16::MAX);
    edge.task.restart = RestartPolicy {
        backoff_ms: PAUSE_MS_MAX,
        backoff_max_ms: PAUSE_MS_MAX,
        ..RestartPolicy::default()
    };
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
            "replicas",
            "package",
            "command",
            "services.web",
            "health.port",
            "stop.signal"
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
    assert_eq!(fields, ["ports", "services"]);
}

#[test]
fn a_service_without_a_check_is_a_warning_and_no_refusal() {
    let mut silent = draft();
    silent.task.health.clear();
    let findings = check(&silent);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, Severity::Warning);
    assert!(!refused(&findings));
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
