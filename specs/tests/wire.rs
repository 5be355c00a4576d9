//! The bytes of a job: what was ever signed is read for ever, there is one
//! encoding of each job, and what a job does not know is refused.

use cbor4ii::core::Value;
use data_encoding::HEXLOWER;
use potluck_specs::{
    FleetId, Job, JobName, PackageId,
    codec::{self, CodecError},
    job::*,
};
use proptest::{prelude::*, sample::Index};
use std::{collections::BTreeMap, fs, path::Path};

/// Bytes of a job that a version of potluck wrote, as `tests/fixtures` holds
/// them. They are never changed; a new format brings files of its own.
fn shipped(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let text = fs::read_to_string(folder.join(format!("job-{name}.hex"))).unwrap();
    let digits: String = text.split_whitespace().collect();
    HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(Into::into).into()
}

/// What the files of format 0 hold, with the health check of each.
fn of_format_0(health: HealthCheck) -> Job {
    let port = |name: &str, number| PortSpec {
        name: name.into(),
        number,
    };
    Job {
        fleet: FleetId([1; 32]),
        cluster: "main".into(),
        name: "shop/web".parse().unwrap(),
        version: 7,
        kind: JobKind::service(3),
        package: PackageId([2; 32]),
        task: TaskTemplate {
            // Then `${port.http}` was only text, so it has to stay that.
            args: texts(["--port", "$${port.http} $$$${slot.index} ${HOME}"]),
            env: BTreeMap::from([
                ("A".into(), "1".into()),
                ("B".into(), "x$${job.name}y".into()),
            ]),
            resources: Resources::new(500, 1 << 30),
            ports: vec![port("http", None), port("admin", Some(8080))],
            services: vec![ServiceSpec::new("web", "http")],
            health: vec![health],
            restart: RestartPolicy {
                backoff_ms: 1_000,
                backoff_max_ms: 60_000,
                ..RestartPolicy::default()
            },
            stop: StopPolicy {
                signal: 2,
                grace_ms: 500,
            },
            ..TaskTemplate::new("bin/web")
        },
        ..Job::default()
    }
}

fn least() -> Job {
    Job {
        fleet: FleetId([1; 32]),
        cluster: "main".into(),
        name: JobName::in_default("least"),
        version: 1,
        package: PackageId([2; 32]),
        task: TaskTemplate::new("/bin/true"),
        ..Job::default()
    }
}

/// A job in which no field has its default. Held by `v1-full`, so it is not
/// changed: fields of later get a job and a file of their own.
fn full() -> Job {
    let health = |probe, action| HealthCheck {
        probe,
        interval_ms: 2_000,
        timeout_ms: 500,
        healthy_after: 2,
        unhealthy_after: 5,
        start_period_ms: 30_000,
        action,
    };
    let hook = |command: &str| Hook {
        command: command.into(),
        args: texts(["${slot.index}"]),
        timeout_ms: 5_000,
    };
    let mount = |at: &str, source| Mount {
        at: at.into(),
        source,
        read_only: true,
    };
    let (port, path) = ("admin".to_owned(), "/ready".to_owned());
    let mut job = of_format_0(HealthCheck::tcp("http"));
    job.kind = JobKind::Batch(Batch {
        completions: 9,
        parallelism: 3,
        retries: 2,
        deadline_ms: Some(60_000),
        array: true,
        gang: true,
    });
    job.packages = vec![MountedPackage {
        at: "/opt/more".into(),
        package: PackageId([3; 32]),
    }];
    job.priority = 70;
    job.owner = "ann".into();
    job.annotations = BTreeMap::from([("ticket".into(), "1".into())]);
    job.placement = placement();
    job.change = change();
    let task = &mut job.task;
    task.files = vec![RenderedFile {
        path: "etc/x".into(),
        content: "${node.name}".into(),
        mode: 0o600,
    }];
    task.resources.disk_bytes = 1 << 30;
    task.resources.uplink_bits_per_s = 1_000_000;
    task.limits = Limits {
        cpu_millis: Some(1_000),
        memory_bytes: Some(2 << 30),
        cpu_burst_millis: Some(500),
        pids: Some(99),
        io_weight: Some(200),
        io_read_bytes_per_s: Some(10 << 20),
        io_write_bytes_per_s: Some(5 << 20),
        io_read_ops_per_s: Some(100),
        io_write_ops_per_s: Some(50),
    };
    task.devices = BTreeMap::from([("gpu".into(), 2)]);
    task.adaptive = Adaptive {
        mode: AdaptiveMode::Auto,
        cpu_millis_min: Some(100),
        cpu_millis_max: Some(2_000),
        memory_bytes_min: Some(1 << 20),
        memory_bytes_max: Some(4 << 30),
    };
    task.services[0].tags = texts(["blue"]);
    let (command, args) = ("bin/ok".into(), texts(["-q"]));
    let service = "web.Health".into();
    task.health = vec![
        health(Probe::Exec { command, args }, HealthAction::Restart),
        health(Probe::Http { port, path }, HealthAction::Withdraw),
        health(
            Probe::Grpc {
                port: "http".into(),
                service,
            },
            HealthAction::Migrate,
        ),
    ];
    task.metrics = vec![MetricThreshold {
        port: "admin".into(),
        path: "/m".into(),
        metric: "queue_length".into(),
        labels: BTreeMap::from([("kind".into(), "in".into())]),
        comparison: Comparison::GreaterOrEqual,
        threshold: "0.95".into(),
        interval_ms: 1_000,
        for_ms: 30_000,
        action: HealthAction::Migrate,
    }];
    task.setup = vec![hook("bin/before")];
    task.teardown = vec![hook("bin/after")];
    task.restart.on = RestartOn::Failure;
    task.restart.attempts = Some(4);
    task.mounts = vec![
        mount(
            "/a",
            MountSource::Bind {
                path: "/srv".into(),
            },
        ),
        mount("/b", MountSource::Tmpfs { bytes: 1 << 20 }),
        mount(
            "/c",
            MountSource::Volume {
                name: "data".into(),
            },
        ),
    ];
    task.user = Some("web".into());
    task.isolation = Isolation::Strict;
    task.logs = LogPolicy {
        when_full: WhenFull::Drop,
        keep_bytes: 1 << 30,
        keep_ms: Some(86_400_000),
    };
    job
}

fn placement() -> Placement {
    let neighbour = |job: &str, level| Neighbour {
        job: job.parse().unwrap(),
        level,
    };
    Placement {
        requirements: vec![
            "kernel >= 6.1".parse().unwrap(),
            "rack in [r1, r2]".parse().unwrap(),
        ],
        preferences: vec![Preference {
            requirement: "label.ssd exists".parse().unwrap(),
            weight: -3,
        }],
        spread: vec![Level::Rack, Level::Node],
        at_most: vec![AtMost {
            level: Level::Node,
            count: 2,
        }],
        apart_from: vec![neighbour("db", Level::Rack)],
        together_with: vec![neighbour("shop/cache", Level::Cluster)],
        bandwidth_heavy: true,
    }
}

fn change() -> Change {
    let stage = |size, bake_ms| Stage { size, bake_ms };
    Change {
        depends_on: vec![Dependency {
            job: JobName::in_default("db"),
            state: DependencyState::Started,
            at_least: Some(2),
        }],
        budget: Some(Amount::Percent(34)),
        update: Update {
            stages: vec![
                stage(StageSize::Count(1), 60_000),
                stage(StageSize::Percent(50), 1_000),
                stage(StageSize::Rack, 2_000),
                stage(StageSize::Datacenter, 3_000),
            ],
            health_deadline_ms: 90_000,
            rollback: true,
        },
        maintenance: Maintenance::Ask {
            port: "admin".into(),
            path: "/may-move".into(),
            up_to_ms: 600_000,
        },
        exclusive: Some(Exclusive { lease_ms: 20_000 }),
    }
}

#[test]
fn every_format_that_was_shipped_is_read() {
    let http = HealthCheck::http("http", "/healthz");
    let mut before_limits = full();
    before_limits.task.limits = Limits {
        cpu_millis: before_limits.task.limits.cpu_millis,
        memory_bytes: before_limits.task.limits.memory_bytes,
        ..Limits::default()
    };
    let mut before_logs = before_limits.clone();
    before_logs.task.logs = LogPolicy::default();
    for (name, expected) in [
        ("v0-full", of_format_0(http)),
        ("v0-tcp", of_format_0(HealthCheck::tcp("admin"))),
        ("v0-least", least()),
        ("v1-full", before_logs),
        ("v1-full-logs", before_limits),
        ("v1-full-limits", full()),
        ("v1-least", least()),
    ] {
        assert_eq!(Job::decode(&shipped(name)).expect(name), expected, "{name}");
    }
}

#[test]
fn the_present_format_is_what_was_shipped() {
    for (name, job) in [("v1-full-limits", full()), ("v1-least", least())] {
        let hex = HEXLOWER.encode(&job.encode());
        assert_eq!(hex, HEXLOWER.encode(&shipped(name)), "{name}");
    }
}

/// `full` would hold less than it says if a field of it had its default.
#[test]
fn no_field_of_the_full_job_has_its_default() {
    let (full, usual) = (json(&full()), json(&Job::default()));
    let (full, usual) = (full.as_object().unwrap(), usual.as_object().unwrap());
    let part = |job: &serde_json::Map<String, serde_json::Value>, name: &str| job[name].clone();
    for name in full.keys() {
        assert_ne!(full[name], usual[name], "{name}");
    }
    for part_name in ["task", "placement", "change"] {
        let (full, usual) = (part(full, part_name), part(usual, part_name));
        for (name, value) in full.as_object().unwrap() {
            assert_ne!(*value, usual[name], "{part_name}.{name}");
        }
    }
}

#[test]
fn a_small_job_has_few_bytes() {
    let bytes = least().encode().len();
    assert!(bytes < 200, "{bytes}");
}

fn json(job: &Job) -> serde_json::Value {
    serde_json::to_value(job).unwrap()
}

#[test]
fn people_see_every_field() {
    let shown = json(&least());
    for pointer in [
        "/priority",
        "/task/args",
        "/task/stop/grace_ms",
        "/task/restart/attempts",
        "/placement/spread",
        "/change/update/rollback",
    ] {
        assert!(shown.pointer(pointer).is_some(), "{pointer}");
    }
    for job in [least(), full()] {
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
    }
}

fn tree(job: &Job) -> Value {
    let bytes = job.encode();
    let tree: Value = codec::decode("tree", &bytes, JOB_BYTES_MAX).unwrap();
    assert_eq!(codec::encode(&tree), bytes, "a tree is the bytes");
    tree
}

type Entries = Vec<(Value, Value)>;

/// Changes the map of that number, in the order of the bytes. False if there
/// are not so many.
fn edit_map(tree: &mut Value, left: &mut usize, edit: &dyn Fn(&mut Entries)) -> bool {
    match tree {
        Value::Array(entries) => entries.iter_mut().any(|entry| edit_map(entry, left, edit)),
        Value::Map(entries) => {
            if *left == 0 {
                edit(entries);
                return true;
            }
            *left -= 1;
            entries
                .iter_mut()
                .any(|(_, value)| edit_map(value, left, edit))
        }
        _ => false,
    }
}

#[test]
fn a_field_that_nobody_knows_is_refused_anywhere() {
    let unknown = (Value::Text("zzz".into()), Value::Integer(1));
    let mut accepted = Vec::new();
    let mut number = 0;
    loop {
        let mut tree = tree(&full());
        let add = |map: &mut Entries| map.push(unknown.clone());
        if !edit_map(&mut tree, &mut number.clone(), &add) {
            break;
        }
        if let Ok(job) = Job::decode(&codec::encode(&tree)) {
            accepted.push(job);
        }
        number += 1;
    }
    assert!(number > 40, "{number} maps");
    // Kinds of devices are people's words, with a number each.
    let [job] = &accepted[..] else {
        panic!("{accepted:#?}");
    };
    assert_eq!(job.task.devices["zzz"], 1);
}

#[test]
fn a_default_that_is_written_down_is_refused() {
    let mut tree = tree(&least());
    let usual = (Value::Text("priority".into()), Value::Integer(50));
    assert!(edit_map(&mut tree, &mut 0, &|job| job.push(usual.clone())));
    let refused = Job::decode(&codec::encode(&tree)).unwrap_err();
    assert!(
        matches!(refused, CodecError::NotCanonical { .. }),
        "{refused}"
    );
}

#[test]
fn a_format_of_later_is_refused_by_its_number() {
    let refused = Job::decode(&codec::encode(&(2, least()))).unwrap_err();
    assert!(
        refused.to_string().contains("format 2 is not known"),
        "{refused}"
    );
    for wrong in [
        codec::encode(&(0, least())),
        codec::encode(&least()),
        codec::encode(&(1,)),
        codec::encode(&(1, least(), 0)),
        Vec::new(),
    ] {
        assert!(Job::decode(&wrong).is_err(), "{wrong:x?}");
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let mut long = least();
    long.task.args = vec!["x".repeat(JOB_BYTES_MAX - 1_000)];
    assert!(Job::decode(&long.encode()).is_ok());
    long.task.args[0] += &"x".repeat(1_000);
    let refused = Job::decode(&long.encode()).unwrap_err();
    assert!(matches!(refused, CodecError::TooLarge { .. }), "{refused}");
}

/// Takes parts from the full job, so that any of them may have its default.
const PARTS: &[fn(&mut Job, Job)] = &[
    |j, f| j.kind = f.kind,
    |j, f| j.packages = f.packages,
    |j, f| j.priority = f.priority,
    |j, f| j.owner = f.owner,
    |j, f| j.annotations = f.annotations,
    |j, f| j.placement = f.placement,
    |j, f| j.placement.requirements = f.placement.requirements,
    |j, f| j.placement.spread = f.placement.spread,
    |j, f| j.change = f.change,
    |j, f| j.change.depends_on = f.change.depends_on,
    |j, f| j.change.update = f.change.update,
    |j, f| j.change.update.stages = f.change.update.stages,
    |j, f| j.change.maintenance = f.change.maintenance,
    |j, f| j.task.files = f.task.files,
    |j, f| j.task.resources = f.task.resources,
    |j, f| j.task.limits = f.task.limits,
    |j, f| j.task.devices = f.task.devices,
    |j, f| j.task.adaptive.mode = f.task.adaptive.mode,
    |j, f| j.task.adaptive = f.task.adaptive,
    |j, f| j.task.services = f.task.services,
    |j, f| j.task.ports = f.task.ports,
    |j, f| j.task.health = f.task.health,
    |j, f| j.task.metrics = f.task.metrics,
    |j, f| j.task.setup = f.task.setup,
    |j, f| j.task.teardown = f.task.teardown,
    |j, f| j.task.restart = f.task.restart,
    |j, f| j.task.stop = f.task.stop,
    |j, f| j.task.mounts = f.task.mounts,
    |j, f| j.task.user = f.task.user,
    |j, f| j.task.isolation = f.task.isolation,
    |j, f| j.task.logs = f.task.logs,
    |j, _| j.kind = JobKind::PerNode,
    |j, _| j.task.resources = Resources::ZERO,
];

fn any_job() -> impl Strategy<Value = Job> {
    let picked = prop::collection::vec(any::<Index>(), 0..12);
    let text = "\\PC{0,12}";
    let numbers = (
        any::<u32>(),
        any::<u64>(),
        any::<i32>(),
        any::<Option<u16>>(),
    );
    (picked, prop::collection::vec(text, 0..4), numbers).prop_map(|(picked, texts, numbers)| {
        let mut job = least();
        for index in picked {
            (index.get(PARTS))(&mut job, full());
        }
        job.task.env = texts.iter().map(|t| (t.clone(), t.clone())).collect();
        job.task.args.extend(texts);
        let (small, large, signed, port) = numbers;
        job.version = large;
        job.task.resources.cpu_millis = small;
        job.task.stop.signal = signed;
        job.task.ports.push(PortSpec {
            name: "p".into(),
            number: port,
        });
        job
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_job_comes_back_as_it_was(job in any_job()) {
        let bytes = job.encode();
        let read = Job::decode(&bytes).unwrap();
        prop_assert_eq!(&read, &job);
        prop_assert_eq!(read.encode(), bytes);
        let text = serde_json::to_string(&job).unwrap();
        prop_assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
    }

    /// Damaged bytes are refused, or are the one encoding of another job.
    #[test]
    fn there_is_one_encoding(job in any_job(), at in any::<Index>(), mask in 1u8.., cut in any::<bool>()) {
        let mut bytes = job.encode();
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= mask,
        }
        if let Ok(read) = Job::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn damage_to_old_formats_is_no_trouble(at in any::<Index>(), mask in 1u8..) {
        let mut bytes = shipped("v0-full");
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        if let Ok(read) = Job::decode(&bytes) {
            let _ = potluck_specs::validate::check_job(&read);
            prop_assert_eq!(&Job::decode(&read.encode()).unwrap(), &read);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..400), head in 0usize..3) {
        let head: &[u8] = [&[][..], &[0x82, 0x01], &[0xa7]][head];
        let bytes = [head, &bytes].concat();
        if let Ok(read) = Job::decode(&bytes) {
            prop_assert_eq!(&Job::decode(&read.encode()).unwrap(), &read);
        }
    }
}
