//! What spec files evaluate to. What people read when they don't: `golden`.

mod common;

use common::{evaluate_with, jobs, text, told, with};
use potluck_specs::{JobName, PackageId, codec, job::*, support, validate};
use potluck_starlark::{FindingKind, Severity, Starting, starting_file};
use proptest::prelude::*;

fn one(more: &str) -> JobDraft {
    jobs(&with(more)).remove(0)
}

#[test]
fn every_field_arrives() {
    let source = r#"
job(
    name = "web",
    namespace = "shop",
    package = "../web",
    packages = {"/opt/tools": built("ID"), "/opt/more": oci("r.example/x:1")},
    command = "bin/web",
    args = ["--verbose", "x y"],
    env = {"B": "2", "A": "1"},
    user = "www",
    replicas = 40,
    cpu = 0.5,
    memory = "1GiB",
    disk = "2GiB",
    uplink = "10Mbit/s",
    devices = {"nvidia.com/gpu": 1},
    limits = limits(
        cpu = 2, memory = "2GiB", cpu_burst = 1, pids = 99, io_weight = 200,
        io_read = "10MiB", io_write = "5MiB", io_read_ops = 100, io_write_ops = 50,
    ),
    adaptive = adaptive("auto", cpu_min = "100m", cpu_max = 4, memory_min = "64MiB", memory_max = "4GiB"),
    ports = {"http": 0, "admin": 8080},
    services = [service("web", "http", tags = ["v2"])],
    health = [
        http("http", "/healthz", interval = "5s", timeout = "2s", healthy_after = 2,
             unhealthy_after = 4, start_period = "1m", action = "restart"),
        exec("bin/check", args = ["-q"]),
        grpc("admin", "shop.Cart"),
    ],
    metrics = [metric('depth{queue="mail"} > 1000', "admin", path = "/m", interval = "5s", during = "2m", action = "migrate")],
    setup = ["bin/prepare", hook("bin/migrate", args = ["up"], timeout = "5m")],
    teardown = ["bin/clean"],
    restart = restart(backoff = "1s", backoff_max = "1m", on = "failure", attempts = 5),
    stop = stop(signal = "SIGINT", grace = "500ms"),
    logs = logs(when_full = "drop", keep = "1GiB", keep_for = "7d"),
    files = [file("etc/web.conf", "listen ${port.http}\n", mode = 0o600)],
    mounts = [
        bind("/etc/ssl", at = "/etc/ssl"),
        bind("/srv", "/srv", read_only = False),
        tmpfs("/tmp", size = "64MiB"),
        volume("data", at = "/var/lib/web"),
    ],
    isolation = "strict",
    require = ["kernel >= 6.1", "rack in [a, b]", "label.ssd exists"],
    prefer = ["arch == arm64", prefer("label.slow exists", weight = -20)],
    spread = ["rack", "node"],
    at_most = {"rack": 2, "node": 1},
    apart_from = {"batch": "rack", "infra/db": "node"},
    together_with = ["cache"],
    bandwidth_heavy = True,
    depends_on = ["db", depends("infra/queue", state = "started", at_least = 2)],
    budget = "25%",
    update = update(stages = [1, "10%", stage("rack", bake = "10m"), "all"], bake = "1m", health_deadline = "3m", rollback = True),
    maintenance = ride_out("30m"),
    exclusive = exclusive(lease = "30s"),
    priority = 70,
    owner = "shop@example.org",
    annotations = {"ticket": "7"},
)
"#
    .replace("ID", &"ab".repeat(32));
    let evaluated = evaluate_with(&source, &[], &[]);
    // Whether all of it goes together is not asked here.
    let draft = match &evaluated.jobs[..] {
        [job] => job.draft.clone(),
        _ => panic!("{}", text(&evaluated.findings)),
    };
    let map = |entries: &[(&str, &str)]| {
        entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let name = |namespace: &str, name: &str| JobName {
        namespace: namespace.into(),
        name: name.into(),
    };
    let requirement = |attribute: &str, operator, values: &[&str]| Requirement {
        attribute: attribute.into(),
        operator,
        values: values.iter().map(|value| (*value).into()).collect(),
    };
    let mount = |at: &str, source, read_only| Mount {
        at: at.into(),
        source,
        read_only,
    };
    let expected = JobDraft {
        name: name("shop", "web"),
        kind: JobKind::service(40),
        package: PackageSource::Path("../web".into()),
        packages: vec![
            DraftPackage {
                at: "/opt/tools".into(),
                source: PackageSource::Id(PackageId([0xab; 32])),
            },
            DraftPackage {
                at: "/opt/more".into(),
                source: PackageSource::Oci("r.example/x:1".into()),
            },
        ],
        task: TaskTemplate {
            command: "bin/web".into(),
            args: vec!["--verbose".into(), "x y".into()],
            env: map(&[("A", "1"), ("B", "2")]),
            files: vec![RenderedFile {
                path: "etc/web.conf".into(),
                content: "listen ${port.http}\n".into(),
                mode: 0o600,
            }],
            resources: Resources {
                cpu_millis: 500,
                memory_bytes: 1 << 30,
                disk_bytes: 2 << 30,
                uplink_bits_per_s: 10_000_000,
            },
            limits: Limits {
                cpu_millis: Some(2_000),
                memory_bytes: Some(2 << 30),
                cpu_burst_millis: Some(1_000),
                pids: Some(99),
                io_weight: Some(200),
                io_read_bytes_per_s: Some(10 << 20),
                io_write_bytes_per_s: Some(5 << 20),
                io_read_ops_per_s: Some(100),
                io_write_ops_per_s: Some(50),
            },
            devices: [("nvidia.com/gpu".to_owned(), 1)].into(),
            adaptive: Adaptive {
                mode: AdaptiveMode::Auto,
                cpu_millis_min: Some(100),
                cpu_millis_max: Some(4_000),
                memory_bytes_min: Some(64 << 20),
                memory_bytes_max: Some(4 << 30),
            },
            ports: vec![
                PortSpec {
                    name: "http".into(),
                    number: None,
                },
                PortSpec {
                    name: "admin".into(),
                    number: Some(8080),
                },
            ],
            services: vec![ServiceSpec {
                name: "web".into(),
                port: "http".into(),
                tags: vec!["v2".into()],
            }],
            health: vec![
                HealthCheck {
                    probe: Probe::Http {
                        port: "http".into(),
                        path: "/healthz".into(),
                    },
                    interval_ms: 5_000,
                    timeout_ms: 2_000,
                    healthy_after: 2,
                    unhealthy_after: 4,
                    start_period_ms: 60_000,
                    action: HealthAction::Restart,
                },
                HealthCheck::of(Probe::Exec {
                    command: "bin/check".into(),
                    args: vec!["-q".into()],
                }),
                HealthCheck::of(Probe::Grpc {
                    port: "admin".into(),
                    service: "shop.Cart".into(),
                }),
            ],
            metrics: vec![MetricThreshold {
                port: "admin".into(),
                path: "/m".into(),
                metric: "depth".into(),
                labels: map(&[("queue", "mail")]),
                comparison: Comparison::Greater,
                threshold: "1000".into(),
                interval_ms: 5_000,
                for_ms: 120_000,
                action: HealthAction::Migrate,
            }],
            setup: vec![
                Hook {
                    command: "bin/prepare".into(),
                    ..Hook::default()
                },
                Hook {
                    command: "bin/migrate".into(),
                    args: vec!["up".into()],
                    timeout_ms: 300_000,
                },
            ],
            teardown: vec![Hook {
                command: "bin/clean".into(),
                ..Hook::default()
            }],
            restart: RestartPolicy {
                backoff_ms: 1_000,
                backoff_max_ms: 60_000,
                on: RestartOn::Failure,
                attempts: Some(5),
            },
            stop: StopPolicy {
                signal: 2,
                grace_ms: 500,
            },
            mounts: vec![
                mount(
                    "/etc/ssl",
                    MountSource::Bind {
                        path: "/etc/ssl".into(),
                    },
                    true,
                ),
                mount(
                    "/srv",
                    MountSource::Bind {
                        path: "/srv".into(),
                    },
                    false,
                ),
                mount("/tmp", MountSource::Tmpfs { bytes: 64 << 20 }, false),
                mount(
                    "/var/lib/web",
                    MountSource::Volume {
                        name: "data".into(),
                    },
                    false,
                ),
            ],
            user: Some("www".into()),
            isolation: Isolation::Strict,
            logs: LogPolicy {
                when_full: WhenFull::Drop,
                keep_bytes: 1 << 30,
                keep_ms: Some(7 * 86_400_000),
            },
        },
        placement: Placement {
            requirements: vec![
                requirement("kernel", Operator::GreaterOrEqual, &["6.1"]),
                requirement("rack", Operator::In, &["a", "b"]),
                requirement("label.ssd", Operator::Exists, &[]),
            ],
            preferences: vec![
                Preference {
                    requirement: requirement("arch", Operator::Equal, &["arm64"]),
                    weight: 50,
                },
                Preference {
                    requirement: requirement("label.slow", Operator::Exists, &[]),
                    weight: -20,
                },
            ],
            spread: vec![Level::Rack, Level::Node],
            at_most: vec![
                AtMost {
                    level: Level::Rack,
                    count: 2,
                },
                AtMost {
                    level: Level::Node,
                    count: 1,
                },
            ],
            apart_from: vec![
                Neighbour {
                    job: name("shop", "batch"),
                    level: Level::Rack,
                },
                Neighbour {
                    job: name("infra", "db"),
                    level: Level::Node,
                },
            ],
            together_with: vec![Neighbour {
                job: name("shop", "cache"),
                level: Level::Node,
            }],
            bandwidth_heavy: true,
        },
        change: Change {
            depends_on: vec![
                Dependency {
                    job: name("shop", "db"),
                    ..Dependency::default()
                },
                Dependency {
                    job: name("infra", "queue"),
                    state: DependencyState::Started,
                    at_least: Some(2),
                },
            ],
            budget: Some(Amount::Percent(25)),
            update: Update {
                stages: vec![
                    Stage {
                        size: StageSize::Count(1),
                        bake_ms: 60_000,
                    },
                    Stage {
                        size: StageSize::Percent(10),
                        bake_ms: 60_000,
                    },
                    Stage {
                        size: StageSize::Rack,
                        bake_ms: 600_000,
                    },
                    Stage {
                        size: StageSize::All,
                        bake_ms: 60_000,
                    },
                ],
                health_deadline_ms: 180_000,
                rollback: true,
            },
            maintenance: Maintenance::RideOut {
                up_to_ms: 1_800_000,
            },
            exclusive: Some(Exclusive { lease_ms: 30_000 }),
        },
        priority: 70,
        owner: "shop@example.org".into(),
        annotations: map(&[("ticket", "7")]),
    };
    assert_eq!(draft, expected);
}

/// The defaults of the language are those of the model, so that what `spec
/// show` calls a default is one.
#[test]
fn what_is_left_away_has_a_default() {
    let expected = JobDraft::new(
        JobName::in_default("a"),
        PackageSource::Path("p".into()),
        "c",
    );
    assert_eq!(one(""), expected);
    // None passes through wrappers as "not given".
    assert_eq!(one("replicas = None, health = None, env = None"), expected);
    let mut given =
        one("ports = ['x'], services = {'w': 'x'}, mounts = [tmpfs('/t', size = 4096)]");
    // Whoever has a service is asked whether it listens.
    assert_eq!(given.task.health, [HealthCheck::tcp("x")]);
    let none = one("ports = ['x'], services = {'w': 'x'}, health = []");
    assert_eq!(none.task.health, []);
    given.task = expected.task.clone();
    assert_eq!(given, expected);
    // The functions, too, say what the model says.
    let task = one(
        "ports = ['x'], health = tcp('x'), restart = restart(), stop = stop(), logs = logs(), \
         limits = limits(), adaptive = adaptive(), setup = ['x', hook('x')], \
         metrics = [metric('m > 0', 'x')], files = [file('p', 'c')]",
    )
    .task;
    assert_eq!(task.health, [HealthCheck::tcp("x")]);
    assert_eq!(task.restart, RestartPolicy::default());
    assert_eq!(task.stop, StopPolicy::default());
    assert_eq!(task.limits, Limits::default());
    assert_eq!(task.adaptive, Adaptive::default());
    assert_eq!(task.setup[0], task.setup[1]);
    assert_eq!(
        task.metrics,
        [MetricThreshold {
            port: "x".into(),
            metric: "m".into(),
            ..MetricThreshold::default()
        }]
    );
    assert_eq!(task.files[0].mode, RenderedFile::default().mode);
    let change = one("update = update(), exclusive = True, depends_on = [depends('b')]").change;
    assert_eq!(change.update, Update::default());
    assert_eq!(change.exclusive, Some(Exclusive::default()));
    assert_eq!(change.depends_on[0].state, Dependency::default().state);
    let kind = one("batch = batch()").kind;
    assert_eq!(kind, JobKind::Batch(Batch::default()));
}

#[test]
fn each_way_of_writing_a_value() {
    for (more, millis) in [
        ("cpu = 2", 2_000),
        ("cpu = 0.001", 1),
        ("cpu = '250m'", 250),
    ] {
        assert_eq!(one(more).task.resources.cpu_millis, millis, "{more}");
    }
    for (more, bytes) in [
        ("memory = 33554432", 32 << 20),
        ("memory = '64MB'", 64_000_000),
    ] {
        assert_eq!(one(more).task.resources.memory_bytes, bytes, "{more}");
    }
    for (more, signal) in [
        ("stop = stop(signal = 9)", 9),
        ("stop = stop(signal = 'HUP')", 1),
    ] {
        assert_eq!(one(more).task.stop.signal, signal, "{more}");
    }
    for health in ["tcp('x')", "tcp(port = 'x')", "[tcp('x')]", "(tcp('x'),)"] {
        let task = one(&format!("ports = {{'x': 0}}, health = {health}")).task;
        assert_eq!(task.health, [HealthCheck::tcp("x")], "{health}");
    }
    assert_eq!(one("per_node = True").kind, JobKind::PerNode);
    assert_eq!(
        one("per_node = False, replicas = 2").kind,
        JobKind::service(2)
    );
    assert_eq!(
        one("budget = 2, replicas = 9").change.budget,
        Some(Amount::Count(2))
    );
    assert_eq!(one("spread = 'node'").placement.spread, [Level::Node]);
    let ask = Maintenance::Ask {
        port: "x".into(),
        path: "/may".into(),
        up_to_ms: 3_600_000,
    };
    let more = "ports = ['x'], maintenance = ask('x', '/may', up_to = '1h')";
    assert_eq!(one(more).change.maintenance, ask);
}

#[test]
fn a_file_is_a_program() {
    let source = r#"
SIZES = struct(small = "64MiB", large = "1GiB")

def web(name: str, replicas: int = 1, **more):
    job(name = name, package = "p", command = "c", replicas = replicas, **more)

for k in range(3):
    web(f"web-{k}" if k else "web", replicas = k + 1)
if True:
    web("last", args = [str(k) for k in range(2)], memory = SIZES.large)
"#;
    let drafts = jobs(source);
    let names: Vec<(&str, Option<u32>)> = drafts
        .iter()
        .map(|job| (job.name.name.as_str(), job.kind.slots()))
        .collect();
    let expected = [("web", 1), ("web-1", 2), ("web-2", 3), ("last", 1)];
    assert_eq!(
        names,
        expected.map(|(name, replicas)| (name, Some(replicas)))
    );
    assert_eq!(drafts[3].task.args, ["0", "1"]);
    assert_eq!(drafts[3].task.resources.memory_bytes, 1 << 30);
}

#[test]
fn jobs_share_a_task() {
    let source = "\
COMMON = task(command = 'c', memory = '1GiB', ports = ['http'])
job(name = 'a', package = 'p', task = COMMON)
job(name = 'b', package = 'p', task = COMMON, memory = '2GiB')";
    let drafts = jobs(source);
    let memory: Vec<u64> = drafts
        .iter()
        .map(|job| job.task.resources.memory_bytes)
        .collect();
    assert_eq!(memory, [1 << 30, 2 << 30]);
    assert!(
        drafts
            .iter()
            .all(|job| job.task.command == "c" && job.task.ports.len() == 1)
    );
}

const LIBRARY: &[(&str, &str)] = &[
    (
        "lib/web.star",
        "load(':sizes.star', 'LARGE')\nCHECK = http('http', '/up')\n\
         def web_service(name, **more):\n    job(name = name, package = 'p', command = 'c', \
         ports = ['http'], health = CHECK, memory = LARGE, **more)\n",
    ),
    ("lib/sizes.star", "LARGE = '1GiB'"),
];

#[test]
fn libraries_are_loaded_from_the_root() {
    let source = "load('//lib/web.star', 'web_service', check = 'CHECK')\n\
                  web_service('a')\nweb_service('b', replicas = 2)\n\
                  job(name = 'c', package = 'p', command = 'c', ports = ['http'], health = check)";
    let evaluated = evaluate_with(source, LIBRARY, &[]);
    assert!(!evaluated.is_refused(), "{}", text(&evaluated.findings));
    let drafts: Vec<&JobDraft> = evaluated.jobs.iter().map(|job| &job.draft).collect();
    assert_eq!(drafts.len(), 3);
    assert_eq!(drafts[1].kind, JobKind::service(2));
    assert_eq!(drafts[0].task.resources.memory_bytes, 1 << 30);
    assert!(
        drafts
            .iter()
            .all(|job| job.task.health == [HealthCheck::http("http", "/up")])
    );
}

#[test]
fn values_remember_where_they_are_written() {
    let source = "load('//lib/web.star', 'web_service')\n\
                  web_service(\n    'a',\n    replicas = 2,\n    env = {'A': '1'},\n)";
    let evaluated = evaluate_with(source, LIBRARY, &[]);
    let values = &evaluated.jobs[0].values;
    let shown = |field: &str| {
        let found = values.iter().find(|value| value.field == field);
        let value = found.unwrap_or_else(|| panic!("{field} is not shown"));
        let at = value
            .at
            .as_ref()
            .map(|at| format!("{}:{}", at.file, at.line));
        (
            value.value.clone().unwrap_or_default(),
            at.unwrap_or_default(),
        )
    };
    let pair = |value: &str, at: &str| (value.to_owned(), at.to_owned());
    assert_eq!(shown("name"), pair("\"a\"", "a.star:3"));
    assert_eq!(shown("replicas"), pair("2", "a.star:4"));
    assert_eq!(shown("env"), pair("{\"A\": \"1\"}", "a.star:5"));
    assert_eq!(shown("command"), pair("\"c\"", "lib/web.star:4"));
    assert_eq!(shown("memory"), pair("\"1GiB\"", "lib/web.star:4"));
    assert_eq!(shown("health.path"), pair("\"/up\"", "lib/web.star:2"));
    assert_eq!(shown("health.interval"), pair("\"1s\"", ""));
    assert_eq!(shown("restart.backoff"), pair("\"250ms\"", ""));
    assert_eq!(shown("cpu"), pair("0.1", ""));
    assert_eq!(shown("batch").0, "");
}

#[test]
fn params_are_set_with_their_types() {
    let source = "\
n = param('n', 'int', 1, doc = 'How many.')
debug = param('debug', default = False)
zones = param('zones', 'list', ['a'])
tag = param('tag')
job(name = 'a', package = 'p', command = 'c', replicas = n,
    args = [tag] + zones + (['-v'] if debug else []))";
    let set = ["n=3", "debug=true", "zones=x,y", "tag=v=1"];
    let evaluated = evaluate_with(source, &[], &set);
    assert!(!evaluated.is_refused(), "{}", text(&evaluated.findings));
    let draft = &evaluated.jobs[0].draft;
    assert_eq!(draft.kind, JobKind::service(3));
    assert_eq!(draft.task.args, ["v=1", "x", "y", "-v"]);
    let params: Vec<(&str, &str, Option<&str>)> = evaluated
        .params
        .iter()
        .map(|p| (p.name.as_str(), p.kind.as_str(), p.value.as_deref()))
        .collect();
    let expected = [
        ("n", "int", Some("3")),
        ("debug", "bool", Some("True")),
        ("zones", "list", Some("[\"x\", \"y\"]")),
        ("tag", "string", Some("\"v=1\"")),
    ];
    assert_eq!(params, expected);
    let plain = evaluate_with(source, &[], &["tag=x"]);
    assert_eq!(plain.jobs[0].draft.task.args, ["x", "a"]);
}

#[test]
fn each_kind_of_finding() {
    use FindingKind::*;
    for (source, kind, message, hint) in [
        (
            "x = (",
            Syntax,
            "the line ends before its expression",
            "brackets",
        ),
        (
            "x = 'a",
            Syntax,
            "the string does not end on its line",
            "close it",
        ),
        ("load('//b.star', 'b')", Load, "no such file", ""),
        (
            "1 + 'a'",
            Evaluation,
            "int + string has no meaning",
            "str(...)",
        ),
        ("fail('no', 'way')", Evaluation, "no way", ""),
        (
            "import_it()",
            UnknownName,
            "no function or variable import_it",
            "",
        ),
        ("def f(): f()\nf()", Limit, "more than 100 deep", ""),
        ("", Invalid, "the file declares no job", "job(name = ..."),
        ("job('web')", Invalid, "named arguments only", "name = ..."),
        ("tcp('a', 'b')", Invalid, "at most 1 argument", ""),
        ("http('a', port = 'a')", Invalid, "port is given twice", ""),
        (
            "http(url = '/')",
            UnknownArgument,
            "http() has no argument url",
            "did you mean path?",
        ),
        (
            "ride_out(forever = 1)",
            UnknownArgument,
            "no argument forever",
            "takes up_to",
        ),
    ] {
        let evaluated = evaluate_with(source, &[], &[]);
        let said = evaluated.findings.iter().any(|finding| {
            let hinted = finding.hint.as_deref().unwrap_or_default();
            finding.kind == kind && finding.message.contains(message) && hinted.contains(hint)
        });
        assert!(said, "{source}\n{}", text(&evaluated.findings));
    }
}

/// Where something is missing at the end, the last line that says anything is
/// shown.
#[test]
fn the_end_of_a_file_is_a_place() {
    for (source, place) in [
        ("x = [1,2\n", "a.star:1:9]"),
        ("a = 1\nx = [1,2\n\n  \n", "a.star:2:9]"),
        ("x = (", "a.star:1:6]"),
    ] {
        let told = told(source);
        assert!(told.contains(place), "{source}\n{told}");
        let last = source.trim_end().lines().last().unwrap();
        assert!(told.contains(&format!(" │ {last}")), "{source}\n{told}");
    }
}

/// What a check saw in place of a wrong value is not told as well.
#[test]
fn one_mistake_is_told_once() {
    for source in [
        with("ports = {'http': 'x'}, services = {'web': 'http'}, health = tcp('http')"),
        "job(package = 'p', command = 'c')".into(),
        "job(name = 'a', package = 'p', command = None)".into(),
        with("stop = stop(grace = 5)"),
        with("require = ['os linux']"),
        with("files = [file('x', 7)]"),
        "for k in range(50): job(name = 'a%d' % k, package = 'p', command = '')".into(),
        "C = task(command = 7)\njob(name = 'a', package = 'p', task = C)".into(),
    ] {
        let told = told(&source);
        assert_eq!(told.matches(" × ").count(), 1, "{source}\n{told}");
    }
}

#[test]
fn warnings_refuse_nothing() {
    let evaluated = evaluate_with(
        &with("ports = ['x'], services = {'w': 'x'}, health = []"),
        &[],
        &[],
    );
    assert_eq!(evaluated.jobs.len(), 1);
    assert!(!evaluated.is_refused());
    let severities: Vec<Severity> = evaluated.findings.iter().map(|f| f.severity).collect();
    assert_eq!(severities, [Severity::Warning]);
}

proptest! {
    /// The same file gives the same bytes, and what it gives passes the checks.
    #[test]
    fn evaluation_is_deterministic(
        replicas in 1u32..20,
        env in prop::collection::btree_map("[A-Z]{1,4}", "[a-z \"'\\\\\n]{0,8}", 0..5),
        ports in prop::collection::btree_map("[a-z]{1,5}", 0u16..2000, 0..4),
        millis in 1u32..8_000,
    ) {
        let quoted = |text: &str| format!("{text:?}");
        let env: Vec<String> = env.iter().map(|(k, v)| format!("{}: {}", quoted(k), quoted(v))).collect();
        let ports: Vec<String> = ports.iter().map(|(k, v)| format!("{}: {v}", quoted(k))).collect();
        let source = with(&format!(
            "replicas = {replicas}, cpu = {}, env = {{{}}}, ports = {{{}}}",
            f64::from(millis) / 1_000.0, env.join(", "), ports.join(", "),
        ));
        let first = evaluate_with(&source, &[], &[]);
        let second = evaluate_with(&source, &[], &[]);
        prop_assert_eq!(codec::encode(&first), codec::encode(&second));
        match &first.jobs[..] {
            [job] => {
                prop_assert_eq!(job.draft.task.resources.cpu_millis, millis);
                prop_assert!(!validate::refused(&validate::check(&job.draft)));
            }
            // Two ports may have got the same number.
            _ => prop_assert!(text(&first.findings).contains("already"), "{}", source),
        }
    }
}

#[test]
fn the_starting_file_is_good() {
    for port in [None, Some("http-alt".to_owned())] {
        let text_of_file = starting_file(&Starting {
            name: "web".into(),
            package: "a \"quoted\" folder".into(),
            command: "bin/web".into(),
            port: port.clone(),
            replicas: 3,
        });
        let evaluated = evaluate_with(&text_of_file, &[], &[]);
        assert_eq!(evaluated.findings, [], "{text_of_file}");
        let draft = &evaluated.jobs[0].draft;
        assert_eq!(draft.kind, JobKind::service(3));
        assert_eq!(draft.task.ports.len(), usize::from(port.is_some()));
    }
}

const GUIDE: &str = include_str!("../../../docs/spec/from-compose-and-nomad.md");

/// The text of the guide's block in a language.
fn block_of_guide(language: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let blocks: Vec<&str> = GUIDE.split(&fence).collect();
    let [_, block] = blocks[..] else {
        panic!("the guide has one block of {language}");
    };
    block.split("```").next().unwrap()
}

/// The guide's own service means what it says, and `run` takes it.
#[test]
fn the_guide_evaluates() {
    let evaluated = evaluate_with(block_of_guide("python"), &[], &[]);
    assert_eq!(evaluated.findings, [], "{}", text(&evaluated.findings));
    let [job] = &evaluated.jobs[..] else {
        panic!("{:?}", evaluated.jobs);
    };
    assert_eq!(job.draft.task.mounts.len(), 3);
    assert_eq!(job.draft.change.depends_on.len(), 1);
    assert_eq!(job.not_yet, []);
    assert_eq!(support::unsupported(&job.draft), []);
}

/// Each row of the guide's table says what stands in the three files, and
/// potluck's column is the whole of its own.
#[test]
fn the_guide_is_one_service_three_times() {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let files = ["yaml", "hcl", "python"].map(|language| plain(block_of_guide(language)));
    let rows = GUIDE.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let mut own = Vec::new();
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 4, "{row}");
        for (cell, file) in cells[1..].iter().zip(&files) {
            for said in cell.split("<br>") {
                let said = plain(said.trim().trim_matches('`'));
                // Lists over several lines end with a comma there.
                let loose = |text: &str| text.replace(", ]", "]").replace("[ ", "[");
                assert!(loose(file).contains(&loose(&said)), "{said:?}: {file}");
            }
        }
        own.extend(
            cells[3]
                .split("<br>")
                .map(|said| said.trim().trim_matches('`').to_owned()),
        );
        count += 1;
    }
    assert!(count > 12, "{count}");
    let of_table = evaluate_with(&format!("job({})", own.join(", ")), &[], &[]);
    let whole = evaluate_with(block_of_guide("python"), &[], &[]);
    assert_eq!(of_table.findings, [], "{}", text(&of_table.findings));
    assert_eq!(of_table.jobs[0].draft, whole.jobs[0].draft);
}

/// Four lines run something, and none of them is long.
#[test]
fn the_four_line_example_has_four_short_lines() {
    let example = include_str!("../../examples/minimal.star");
    assert_eq!(example.lines().count(), 4);
    for line in example.lines() {
        assert!(
            line.len() <= 60 && line.matches(" = ").count() == 1,
            "{line}"
        );
    }
}

#[test]
fn a_value_does_not_know_where_its_file_lies() {
    struct Named(&'static str);
    impl potluck_starlark::Files for Named {
        fn read(
            &mut self,
            _label: &potluck_starlark::Label,
        ) -> Result<potluck_starlark::Text, String> {
            Ok(potluck_starlark::Text {
                name: self.0.into(),
                text: "def f(): pass\njob(name = 'a', package = 'p', command = 'c', args = [str(f)])\n"
                    .into(),
            })
        }
    }
    let of = |name| {
        let mut files = Named(name);
        let wanted = potluck_starlark::Wanted::default();
        let mut evaluator = potluck_starlark::Evaluator::new(&mut files, wanted);
        evaluator.evaluate(&"//d/p.star".parse().unwrap())
    };
    let (one, two) = (of("p.star"), of("../../d/p.star"));
    assert_eq!(one.jobs[0].draft, two.jobs[0].draft);
    assert_eq!(one.files, ["d/p.star"]);
    assert_eq!(one.jobs[0].at.file, "p.star", "people read what they typed");
    assert_eq!(two.jobs[0].package_at.file, "../../d/p.star");
}

#[test]
fn a_mark_at_the_beginning_is_no_mistake() {
    let text = format!("\u{feff}{}", common::with(""));
    assert_eq!(common::jobs(&text), common::jobs(&common::with("")));
}

#[test]
fn all_that_is_loaded_is_told() {
    let source = "load(':b.star', 'b')\n".to_owned() + &common::with("");
    let files = [
        ("b.star", "load(':c.star', c = 'd')\nb = c"),
        ("c.star", "d = 1"),
        ("x.star", ""),
    ];
    let evaluated = common::evaluate_with(&source, &files, &[]);
    assert_eq!(evaluated.files, ["a.star", "b.star", "c.star"]);
}
