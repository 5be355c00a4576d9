//! Each rule of a job broken alone, and several at once.

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

const BROKEN: &[Row] = &[
    (|d| d.name.name = "Web".into(), "name.name", "only a-z", ""),
    (
        |d| d.name.namespace = String::new(),
        "name.namespace",
        "is empty",
        "",
    ),
    (
        |d| d.kind = JobKind::service(0),
        "kind.service.replicas",
        "at least 1",
        "`potluck stop web`",
    ),
    (
        |d| d.kind = JobKind::service(10_001),
        "kind.service.replicas",
        "more than the 10000",
        "",
    ),
    (
        |d| batch(d, |b| b.completions = 0),
        "kind.batch.completions",
        "at least 1",
        "",
    ),
    (
        |d| batch(d, |b| b.completions = 10_001),
        "kind.batch.completions",
        "more than the 10000",
        "",
    ),
    (
        |d| batch(d, |b| b.parallelism = 0),
        "kind.batch.parallelism",
        "nothing would run",
        "",
    ),
    (
        |d| batch(d, |b| b.gang = true),
        "kind.batch.parallelism",
        "starts together",
        "to 5",
    ),
    (
        |d| batch(d, |b| b.retries = 5_000),
        "kind.batch.retries",
        "at most 1000",
        "",
    ),
    (
        |d| batch(d, |b| b.deadline_ms = Some(9)),
        "kind.batch.deadline_ms",
        "shorter than 1s",
        "",
    ),
    (
        |d| d.packages = vec![package("/a"); 2],
        "packages[1].at",
        "already",
        "",
    ),
    (
        |d| d.packages = vec![package("/a/../b")],
        "packages[0].at",
        "'..'",
        "",
    ),
    (|d| d.priority = 101, "priority", "from 0 to 100", ""),
    (
        |d| d.owner = "x".repeat(257),
        "owner",
        "longer than 256",
        "",
    ),
    (
        |d| drop(d.annotations.insert("".into(), "".into())),
        "annotations[\"\"]",
        "needs a name",
        "",
    ),
    (
        |d| drop(d.annotations.insert("a".into(), "x".repeat(5_000))),
        "annotations[\"a\"]",
        "longer than 4096",
        "",
    ),
    (
        |d| d.annotations = (0..65).map(|k| (k.to_string(), String::new())).collect(),
        "annotations",
        "65 annotations are more than the 64",
        "",
    ),
    (
        |d| d.task.command = String::new(),
        "task.command",
        "is empty",
        "bin/server",
    ),
    (
        |d| d.task.command = "../sh".into(),
        "task.command",
        "'..'",
        "args",
    ),
    (
        |d| d.task.command = "bin//sh".into(),
        "task.command",
        "empty",
        "args",
    ),
    (
        |d| d.task.command = "x".repeat(4_097),
        "task.command",
        "longer than 4096",
        "",
    ),
    (
        |d| d.task.args.push("a\0b".into()),
        "task.args[1]",
        "zero byte",
        "",
    ),
    (
        |d| d.task.args.push("x".repeat(128 << 10)),
        "task.args[1]",
        "longer than",
        "Linux",
    ),
    (
        |d| d.task.args = vec![String::new(); 1_025],
        "task.args",
        "more than the 1024",
        "",
    ),
    (
        |d| d.task.args.push("${slot.indx}".into()),
        "task.args[1]",
        "stands for nothing",
        "slot.index",
    ),
    (
        |d| drop(d.task.env.insert("A".into(), "${port.htpp}".into())),
        "task.env[\"A\"]",
        "${port.htpp} stands for nothing",
        "port.http",
    ),
    (
        |d| d.task.files = vec![file("a", "${node.nam}", 0o644)],
        "task.files[0].content",
        "stands for nothing",
        "node.name",
    ),
    (
        |d| env(d, "1A", ""),
        "task.env[\"1A\"]",
        "not the name",
        "digit",
    ),
    (
        |d| env(d, "", ""),
        "task.env[\"\"]",
        "not the name",
        "digit",
    ),
    (
        |d| env(d, "A=B", ""),
        "task.env[\"A=B\"]",
        "not the name",
        "",
    ),
    (
        |d| env(d, "POTLUCK_SLOT", ""),
        "task.env[\"POTLUCK_SLOT\"]",
        "set by potluck",
        "",
    ),
    (
        |d| env(d, "PORT_HTTP", ""),
        "task.env[\"PORT_HTTP\"]",
        "number of port \"http\"",
        "",
    ),
    (|d| env(d, "A", "\0"), "task.env[\"A\"]", "zero byte", ""),
    (
        |d| d.task.files = vec![file("../a", "", 0o644)],
        "task.files[0].path",
        "'..'",
        "",
    ),
    (
        |d| d.task.files = vec![file("", "", 0o644)],
        "task.files[0].path",
        "needs a path",
        "",
    ),
    (
        |d| d.task.files = vec![file("a", "", 0o644); 2],
        "task.files[1].path",
        "twice",
        "",
    ),
    (
        |d| d.task.files = vec![file("a", "", 0o4755)],
        "task.files[0].mode",
        "other bits",
        "0o755",
    ),
    (
        |d| d.task.setup = vec![hook("", 1_000)],
        "task.setup[0].command",
        "is empty",
        "",
    ),
    (
        |d| d.task.teardown = vec![hook("a", 1)],
        "task.teardown[0].timeout_ms",
        "shorter",
        "",
    ),
    (
        |d| d.task.teardown = vec![hook("a", 1_000); 33],
        "task.teardown",
        "more than the 32",
        "",
    ),
    (
        |d| d.task.resources.cpu_millis = 0,
        "task.resources.cpu_millis",
        "at least 0.001",
        "tenth",
    ),
    (
        |d| d.task.resources.cpu_millis = 1_024_001,
        "task.resources.cpu_millis",
        "at most 1024",
        "",
    ),
    (
        |d| d.task.resources.memory_bytes = 64,
        "task.resources.memory_bytes",
        "at least 1 MiB",
        "counts bytes",
    ),
    (
        |d| d.task.resources.memory_bytes = u64::MAX,
        "task.resources.memory_bytes",
        "at most 64 TiB",
        "",
    ),
    (
        |d| d.task.resources.disk_bytes = u64::MAX,
        "task.resources.disk_bytes",
        "at most 1 PiB",
        "",
    ),
    (
        |d| d.task.resources.uplink_bits_per_s = u64::MAX,
        "task.resources.uplink_bits_per_s",
        "at most 1 Tbit/s",
        "",
    ),
    (
        |d| d.task.limits.cpu_millis = Some(50),
        "task.limits.cpu_millis",
        "0.05 cores is below the request of 0.1",
        "never use",
    ),
    (
        |d| d.task.limits.memory_bytes = Some(1 << 20),
        "task.limits.memory_bytes",
        "1MiB is below the request of 64MiB",
        "killed",
    ),
    (
        |d| d.task.devices = [("gpu".into(), 0)].into(),
        "task.devices[\"gpu\"]",
        "from 1",
        "",
    ),
    (
        |d| d.task.devices = [("a b".into(), 1)].into(),
        "task.devices[\"a b\"]",
        "not a kind",
        "nvidia.com/gpu",
    ),
    (
        |d| {
            adapt(d, |a| {
                (a.cpu_millis_min, a.cpu_millis_max) = (Some(200), Some(100))
            })
        },
        "task.adaptive.cpu_millis_min",
        "floor of 0.2 is above the ceiling of 0.1",
        "",
    ),
    (
        |d| adapt(d, |a| a.memory_bytes_min = Some(1 << 30)),
        "task.adaptive.memory_bytes_min",
        "request of 64MiB is not between",
        "begins with",
    ),
    (
        |d| d.task.ports[1].name = "a_b".into(),
        "task.ports[1].name",
        "only a-z",
        "",
    ),
    (
        |d| d.task.ports[1].name = "http".into(),
        "task.ports[1].name",
        "twice",
        "",
    ),
    (
        |d| d.task.ports[1].number = Some(0),
        "task.ports[1].number",
        "from 1",
        "",
    ),
    (
        |d| d.task.ports[0].number = Some(8080),
        "task.ports[1].number",
        "has the number 8080 already",
        "",
    ),
    (
        |d| d.task.services[0].name = "a.b".into(),
        "task.services[0].name",
        "only a-z",
        "",
    ),
    (
        |d| d.task.services[0].port = "htpp".into(),
        "task.services[0].port",
        "no port \"htpp\"",
        "http",
    ),
    (
        |d| d.task.services[0].port = "metrics".into(),
        "task.services[0].port",
        "no port",
        "ports = {\"metrics\": 0}",
    ),
    (
        |d| d.task.services[0].tags = vec!["A".into()],
        "task.services[0].tags[0]",
        "only a-z",
        "",
    ),
    (
        |d| d.task.services[0].tags = vec!["a".into(); 2],
        "task.services[0].tags[1]",
        "twice",
        "",
    ),
    (
        |d| d.task.health = vec![HealthCheck::tcp("adminn")],
        "task.health[0].probe.tcp.port",
        "no port",
        "admin",
    ),
    (
        |d| d.task.health = vec![HealthCheck::http("http", "up")],
        "task.health[0].probe.http.path",
        "'/'",
        "/up",
    ),
    (
        |d| d.task.health = vec![HealthCheck::http("http", "/ HTTP/1.1\r\n")],
        "task.health[0].probe.http.path",
        "space",
        "%20",
    ),
    (
        |d| {
            probe(
                d,
                Probe::Grpc {
                    port: "x".into(),
                    service: "".into(),
                },
            )
        },
        "task.health[0].probe.grpc.port",
        "no port",
        "",
    ),
    (
        |d| {
            probe(
                d,
                Probe::Exec {
                    command: "".into(),
                    args: vec![],
                },
            )
        },
        "task.health[0].probe.exec.command",
        "is empty",
        "",
    ),
    (
        |d| (d.task.health[0].interval_ms, d.task.health[0].timeout_ms) = (99, 99),
        "task.health[0].interval_ms",
        "shorter than 100ms",
        "",
    ),
    (
        |d| d.task.health[0].timeout_ms = 0,
        "task.health[0].timeout_ms",
        "shorter than 10ms",
        "",
    ),
    (
        |d| d.task.health[0].healthy_after = 0,
        "task.health[0].healthy_after",
        "from 1",
        "",
    ),
    (
        |d| d.task.health[0].unhealthy_after = 0,
        "task.health[0].unhealthy_after",
        "from 1",
        "",
    ),
    (
        |d| d.task.health[0].start_period_ms = 600_000,
        "task.health[0].start_period_ms",
        "10m is longer than an update waits for health, 5m",
        "deadline",
    ),
    (
        |d| metric(d, |m| m.port = "x".into()),
        "task.metrics[0].port",
        "no port",
        "",
    ),
    (
        |d| metric(d, |m| m.path = "m".into()),
        "task.metrics[0].path",
        "'/'",
        "/m",
    ),
    (
        |d| metric(d, |m| m.metric = "a b".into()),
        "task.metrics[0].metric",
        "not the name of a metric",
        "",
    ),
    (
        |d| metric(d, |m| m.threshold = "1e5".into()),
        "task.metrics[0].threshold",
        "not a number",
        "0.95",
    ),
    (
        |d| metric(d, |m| m.threshold = "1.".into()),
        "task.metrics[0].threshold",
        "not a number",
        "",
    ),
    (
        |d| metric(d, |m| m.for_ms = 1_000),
        "task.metrics[0].for_ms",
        "1s is shorter than the interval of 15s",
        "one reading",
    ),
    (
        |d| metric(d, |m| m.labels = [("a:b".into(), "".into())].into()),
        "task.metrics[0].labels[\"a:b\"]",
        "name of a label",
        "",
    ),
    (
        |d| d.task.restart.backoff_ms = 0,
        "task.restart.backoff_ms",
        "shorter than 10ms",
        "",
    ),
    (
        |d| d.task.restart.backoff_max_ms = 249,
        "task.restart.backoff_max_ms",
        "249ms, is shorter than the first, 250ms",
        "",
    ),
    (
        |d| d.task.restart.backoff_max_ms = 3_600_001,
        "task.restart.backoff_max_ms",
        "longer than 1h",
        "",
    ),
    (
        |d| d.task.restart.attempts = Some(0),
        "task.restart.attempts",
        "from 1",
        "never",
    ),
    (
        |d| d.task.stop.signal = 0,
        "task.stop.signal",
        "from 1 to 64",
        "",
    ),
    (
        |d| d.task.stop.signal = 65,
        "task.stop.signal",
        "from 1 to 64",
        "",
    ),
    (
        |d| d.task.stop.grace_ms = 3_600_001,
        "task.stop.grace_ms",
        "longer than 1h",
        "",
    ),
    (
        |d| d.change.maintenance = Maintenance::RideOut { up_to_ms: 10_000 },
        "task.stop.grace_ms",
        "grace of 10s is no shorter than the window of 10s",
        "ride out",
    ),
    (
        |d| d.change.exclusive = Some(Exclusive { lease_ms: 5_000 }),
        "task.stop.grace_ms",
        "grace of 10s is no shorter than the lease of 5s",
        "another may start",
    ),
    (
        |d| mount(d, "tmp", tmpfs(4_096)),
        "task.mounts[0].at",
        "not an absolute path",
        "",
    ),
    (
        |d| mount(d, "/a//b", tmpfs(4_096)),
        "task.mounts[0].at",
        "empty",
        "",
    ),
    (
        |d| mount(d, "/proc/x", tmpfs(4_096)),
        "task.mounts[0].at",
        "belongs to the system",
        "",
    ),
    (
        |d| mount(d, "/", tmpfs(4_096)),
        "task.mounts[0].at",
        "belongs to the system",
        "",
    ),
    (
        |d| mount(d, "/tmp", tmpfs(1)),
        "task.mounts[0].source.tmpfs.bytes",
        "at least 4 KiB",
        "64MiB",
    ),
    (
        |d| mount(d, "/a", MountSource::Bind { path: "x".into() }),
        "task.mounts[0].source.bind.path",
        "not an absolute",
        "",
    ),
    (
        |d| mount(d, "/a", MountSource::Volume { name: "A".into() }),
        "task.mounts[0].source.volume.name",
        "only a-z",
        "",
    ),
    (
        |d| {
            mount(d, "/a", MountSource::Volume { name: "v".into() });
            mount(d, "/b", MountSource::Volume { name: "v".into() });
        },
        "task.mounts[1].source.volume.name",
        "twice",
        "",
    ),
    (
        |d| d.task.user = Some("a b".into()),
        "task.user",
        "not a user",
        "uid:gid",
    ),
    (
        |d| d.task.user = Some("1000:x".into()),
        "task.user",
        "not a user",
        "",
    ),
    (
        |d| require(d, "kernl >= 6.1"),
        "placement.requirements[0].attribute",
        "no attribute \"kernl\"",
        "kernel",
    ),
    (
        |d| require(d, "label. = x"),
        "placement.requirements[0].attribute",
        "no attribute",
        "label.NAME",
    ),
    (
        |d| require(d, "os >= linux"),
        "placement.requirements[0].values[0]",
        "neither a version",
        "in",
    ),
    (
        |d| {
            require(d, "os = linux");
            d.placement.requirements[0].values.clear();
        },
        "placement.requirements[0].values",
        "= takes one value",
        "",
    ),
    (
        |d| {
            require(d, "rack in [a]");
            d.placement.requirements[0].values.clear();
        },
        "placement.requirements[0].values",
        "at least one",
        "",
    ),
    (
        |d| {
            require(d, "rack = a");
            d.placement.requirements[0].operator = Operator::Exists;
        },
        "placement.requirements[0].values",
        "takes no value",
        "",
    ),
    (
        |d| {
            require(d, "arch = x86_64");
            require(d, "arch = arm64");
        },
        "placement.requirements[1]",
        "no node has both",
        "use in",
    ),
    (
        |d| d.placement.preferences = vec![preference(101)],
        "placement.preferences[0].weight",
        "from -100 to 100",
        "",
    ),
    (
        |d| d.placement.spread = vec![Level::Rack; 2],
        "placement.spread[1]",
        "rack stands twice",
        "",
    ),
    (
        |d| at_most(d, Level::Rack, 0),
        "placement.at_most[0].count",
        "no rack could",
        "at least 1",
    ),
    (
        |d| {
            at_most(d, Level::Rack, 1);
            at_most(d, Level::Rack, 2);
        },
        "placement.at_most[1].level",
        "twice",
        "",
    ),
    (
        |d| at_most(d, Level::Datacenter, 2),
        "placement.at_most[0].count",
        "2 of 3 tasks",
        "one cluster",
    ),
    (
        |d| d.placement.apart_from = vec![neighbour("web", Level::Node)],
        "placement.apart_from[0].job",
        "itself",
        "at most 1",
    ),
    (
        |d| d.placement.apart_from = vec![neighbour("db", Level::Node); 2],
        "placement.apart_from[1].job",
        "twice",
        "",
    ),
    (
        |d| d.placement.together_with = vec![neighbour("D", Level::Node)],
        "placement.together_with[0].job",
        "only a-z",
        "",
    ),
    (
        |d| {
            d.placement.apart_from = vec![neighbour("db", Level::Rack)];
            d.placement.together_with = vec![neighbour("db", Level::Node)];
        },
        "placement.together_with[0]",
        "on one node with db and apart from its rack",
        "",
    ),
    (
        |d| depend(d, "web", None),
        "change.depends_on[0].job",
        "cycle: web -> web",
        "itself",
    ),
    (
        |d| depend(d, "db", Some(0)),
        "change.depends_on[0].at_least",
        "always true",
        "",
    ),
    (
        |d| {
            depend(d, "db", None);
            depend(d, "db", Some(1));
        },
        "change.depends_on[1].job",
        "twice",
        "",
    ),
    (
        |d| d.change.budget = Some(Amount::Count(0)),
        "change.budget",
        "budget of 0",
        "at least 1",
    ),
    (
        |d| d.change.budget = Some(Amount::Percent(33)),
        "change.budget",
        "33% of 3 tasks is less than one",
        "at least 1",
    ),
    (
        |d| d.change.budget = Some(Amount::Percent(101)),
        "change.budget",
        "from 1 to 100",
        "",
    ),
    (
        |d| stages(d, &[StageSize::Count(0)]),
        "change.update.stages[0].size",
        "at least 1 task",
        "",
    ),
    (
        |d| stages(d, &[StageSize::Percent(0)]),
        "change.update.stages[0].size",
        "from 1 to 100",
        "",
    ),
    (
        |d| {
            stages(d, &[StageSize::All]);
            d.change.update.stages[0].bake_ms = u64::MAX;
        },
        "change.update.stages[0].bake_ms",
        "longer than 30d",
        "",
    ),
    (
        |d| {
            d.task.health[0].start_period_ms = 0;
            d.change.update.health_deadline_ms = 1;
        },
        "change.update.health_deadline_ms",
        "shorter than 1s",
        "",
    ),
    (
        |d| {
            d.change.maintenance = Maintenance::Ask {
                port: "x".into(),
                path: "/".into(),
                up_to_ms: 60_000,
            }
        },
        "change.maintenance.ask.port",
        "no port",
        "",
    ),
    (
        |d| {
            d.task.stop.grace_ms = 0;
            d.change.exclusive = Some(Exclusive { lease_ms: 1 });
        },
        "change.exclusive.lease_ms",
        "shorter than 2s",
        "",
    ),
    (
        |d| {
            d.kind = JobKind::PerNode;
            d.change.exclusive = Some(Exclusive::default());
        },
        "change.exclusive",
        "needs no lease",
        "",
    ),
    (
        |d| d.task.args = vec!["x".repeat(100_000); 3],
        "job",
        "262144 are allowed",
        "files of the package",
    ),
];

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
        |d| stages(d, &[StageSize::Count(2), StageSize::Percent(34)]),
        "change.update.stages[1].size",
        "adds no task",
        "2 of 3",
    ),
];

fn batch(draft: &mut JobDraft, edit: impl Fn(&mut Batch)) {
    let mut batch = Batch {
        completions: 5,
        parallelism: 2,
        ..Batch::default()
    };
    edit(&mut batch);
    draft.kind = JobKind::Batch(batch);
}

fn package(at: &str) -> DraftPackage {
    DraftPackage {
        at: at.into(),
        source: PackageSource::Path("more".into()),
    }
}

fn env(draft: &mut JobDraft, name: &str, value: &str) {
    draft.task.env.insert(name.into(), value.into());
}

fn file(path: &str, content: &str, mode: u32) -> RenderedFile {
    let (path, content) = (path.into(), content.into());
    RenderedFile {
        path,
        content,
        mode,
    }
}

fn hook(command: &str, timeout_ms: u64) -> Hook {
    Hook {
        command: command.into(),
        timeout_ms,
        ..Hook::default()
    }
}

fn adapt(draft: &mut JobDraft, edit: impl Fn(&mut Adaptive)) {
    draft.task.adaptive.mode = AdaptiveMode::Auto;
    edit(&mut draft.task.adaptive);
}

fn probe(draft: &mut JobDraft, probe: Probe) {
    draft.task.health = vec![HealthCheck::of(probe)];
}

fn metric(draft: &mut JobDraft, edit: impl Fn(&mut MetricThreshold)) {
    let mut metric = MetricThreshold {
        port: "http".into(),
        metric: "queue_length".into(),
        threshold: "-0.5".into(),
        ..MetricThreshold::default()
    };
    edit(&mut metric);
    draft.task.metrics = vec![metric];
}

fn mount(draft: &mut JobDraft, at: &str, source: MountSource) {
    draft.task.mounts.push(Mount {
        at: at.into(),
        source,
        read_only: false,
    });
}

fn tmpfs(bytes: u64) -> MountSource {
    MountSource::Tmpfs { bytes }
}

fn require(draft: &mut JobDraft, text: &str) {
    draft.placement.requirements.push(text.parse().unwrap());
}

fn preference(weight: i32) -> Preference {
    Preference {
        requirement: "label.ssd exists".parse().unwrap(),
        weight,
    }
}

fn at_most(draft: &mut JobDraft, level: Level, count: u32) {
    draft.placement.at_most.push(AtMost { level, count });
}

fn neighbour(job: &str, level: Level) -> Neighbour {
    Neighbour {
        job: JobName::in_default(job),
        level,
    }
}

fn depend(draft: &mut JobDraft, on: &str, at_least: Option<u32>) {
    draft.change.depends_on.push(Dependency {
        job: JobName::in_default(on),
        at_least,
        ..Dependency::default()
    });
}

fn stages(draft: &mut JobDraft, sizes: &[StageSize]) {
    let stage = |size: &StageSize| Stage {
        size: *size,
        bake_ms: 0,
    };
    draft.change.update.stages = sizes.iter().map(stage).collect();
}

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
    let faults = BROKEN.iter().flat_map(|row| faults(row, Severity::Error));
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
    asks.priority = 70;
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
        /// Several changes together: each finding of one alone that does not
        /// hang on what the others changed is told with them, and nothing
        /// panics.
        #[test]
        fn many_faults_are_all_told(picked in prop::collection::vec(any::<Index>(), 1..6)) {
            let mut broken = draft();
            let all: Vec<&Row> = BROKEN.iter().chain(DOUBTFUL).collect();
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
