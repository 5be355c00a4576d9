//! The JSON Schema of a job against the checks: whatever they accept it
//! accepts, and what is wrong with one field both refuse.

use boon::{Compiler, SchemaIndex, Schemas};
use potluck_specs::{
    job::JobDraft,
    schema,
    validate::{self, Severity},
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

/// The schema as any program would use it.
struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    fn new() -> Schema {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        let added = compiler.add_resource("job.json", schema::of_a_job());
        added.expect("the schema is one");
        let index = compiler.compile("job.json", &mut schemas);
        Schema {
            index: index.expect("the schema is one"),
            schemas,
        }
    }

    fn accepts(&self, job: &Value) -> bool {
        self.schemas.validate(job, self.index).is_ok()
    }

    fn problem(&self, job: &Value) -> String {
        let outcome = self.schemas.validate(job, self.index);
        outcome.err().map_or_else(String::new, |e| format!("{e:#}"))
    }
}

/// Do decoding and checks take it? Warnings are no refusal.
fn checks_accept(job: &Value) -> bool {
    let Ok(draft) = serde_json::from_value::<JobDraft>(job.clone()) else {
        return false;
    };
    // Serde reads `[]` for a record as well, by the order of its fields; that
    // is no form of ours.
    let written = serde_json::to_value(&draft).expect("a draft is JSON");
    if !same_shape(job, &written) {
        return false;
    }
    validate::check(&draft)
        .iter()
        .all(|found| found.severity != Severity::Error)
}

/// Is each list of the one a list of the other?
fn same_shape(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut both = one
                .iter()
                .filter_map(|(name, inner)| Some((inner, other.get(name)?)));
            both.all(|(one, other)| same_shape(one, other))
        }
        (Value::Array(one), Value::Array(other)) => one
            .iter()
            .zip(other)
            .all(|(one, other)| same_shape(one, other)),
        (one, other) => one.is_array() == other.is_array(),
    }
}

/// Jobs in which every field of the format holds something, of each kind.
fn jobs() -> Vec<Value> {
    let task = json!({
        "command": "bin/web",
        "args": ["--port", "${port.http}"],
        "env": {"A": "b"},
        "files": [{"path": "etc/web.toml", "content": "x", "mode": 0o600}],
        "resources": {
            "cpu_millis": 500, "memory_bytes": 64 << 20, "disk_bytes": 1 << 30,
            "uplink_bits_per_s": 1_000_000,
        },
        "limits": {
            "cpu_millis": 1000, "memory_bytes": 128 << 20, "cpu_burst_millis": 500, "pids": 99,
            "io_weight": 200, "io_read_bytes_per_s": 10 << 20, "io_write_bytes_per_s": 5 << 20,
            "io_read_ops_per_s": 100, "io_write_ops_per_s": 50,
        },
        "devices": {"nvidia.com/gpu": 1},
        "adaptive": {
            "mode": "auto", "cpu_millis_min": 100, "cpu_millis_max": 1000,
            "memory_bytes_min": 1 << 20, "memory_bytes_max": 1 << 30,
        },
        "ports": [{"name": "http", "number": 8080}, {"name": "admin", "number": null}],
        "services": [{"name": "web", "port": "http", "tags": ["a", "b"]}],
        "health": [
            {
                "probe": {"http": {"port": "http", "path": "/healthz"}}, "interval_ms": 1000,
                "timeout_ms": 500, "healthy_after": 2, "unhealthy_after": 3,
                "start_period_ms": 5000, "action": "restart",
            },
            {"probe": {"tcp": {"port": "admin"}}},
            {"probe": {"exec": {"command": "bin/check", "args": ["x"]}}},
            {"probe": {"grpc": {"port": "http", "service": "web"}}},
        ],
        "metrics": [{
            "port": "admin", "path": "/metrics", "metric": "queue:length", "labels": {"q": "a"},
            "comparison": "greater", "threshold": "0.95", "interval_ms": 15000, "for_ms": 60000,
            "action": "migrate",
        }],
        "setup": [{"command": "bin/setup", "args": ["x"], "timeout_ms": 1000}],
        "teardown": [{"command": "/bin/true", "args": [], "timeout_ms": 1000}],
        "restart": {"backoff_ms": 100, "backoff_max_ms": 1000, "on": "failure", "attempts": 3},
        "stop": {"signal": 2, "grace_ms": 1000},
        "mounts": [
            {"at": "/data", "source": {"volume": {"name": "data"}}, "read_only": false},
            {"at": "/scratch", "source": {"tmpfs": {"bytes": 1 << 20}}, "read_only": false},
            {"at": "/etc/ssl", "source": {"bind": {"path": "/etc/ssl"}}, "read_only": true},
        ],
        "user": "web",
        "isolation": "strict",
        "logs": {"when_full": "drop", "keep_bytes": 1 << 20, "keep_ms": 60000},
    });
    let placement = json!({
        "requirements": [
            {"attribute": "kernel", "operator": "greater_or_equal", "values": ["6.1"]},
            {"attribute": "label.disk", "operator": "in", "values": ["ssd", "nvme"]},
            {"attribute": "attribute.gpu", "operator": "exists", "values": []},
        ],
        "preferences": [{
            "requirement": {"attribute": "rack", "operator": "equal", "values": ["r1"]},
            "weight": -20,
        }],
        "spread": ["rack", "node"],
        "at_most": [{"level": "rack", "count": 2}],
        "apart_from": [{"job": {"namespace": "default", "name": "db"}, "level": "node"}],
        "together_with": [{"job": {"namespace": "x", "name": "cache"}, "level": "rack"}],
        "bandwidth_heavy": true,
    });
    let change = json!({
        "depends_on": [{
            "job": {"namespace": "default", "name": "db"}, "state": "healthy", "at_least": 1,
        }],
        "budget": {"count": 1},
        "update": {
            "stages": [{"size": {"count": 1}, "bake_ms": 1000}, {"size": "all", "bake_ms": 0}],
            "health_deadline_ms": 60000, "rollback": true,
        },
        "maintenance": {"ride_out": {"up_to_ms": 10000}},
        "exclusive": {"lease_ms": 15000},
    });
    let service = json!({
        "name": {"namespace": "default", "name": "web"},
        "kind": {"service": {"replicas": 4}},
        "package": {"path": "build/web"},
        "packages": [{"at": "/models", "source": {"oci": "registry.example/x:1"}}],
        "task": task, "placement": placement, "change": change,
        "priority": 60, "owner": "team", "annotations": {"a": "b"},
    });
    let mut batch = service.clone();
    batch["kind"] = json!({"batch": {
        "completions": 4, "parallelism": 4, "retries": 2, "deadline_ms": 60000, "array": true,
        "gang": true,
    }});
    batch["change"]["budget"] = json!({"percent": 50});
    batch["change"]["update"]["stages"] = json!([{"size": {"percent": 10}, "bake_ms": 0}]);
    let mut per_node = service.clone();
    per_node["kind"] = json!("per_node");
    per_node["change"]["exclusive"] = Value::Null;
    per_node["change"]["maintenance"] =
        json!({"ask": {"port": "http", "path": "/may-stop", "up_to_ms": 60000}});
    per_node["package"] = json!({"id": "ab".repeat(32)});
    let least = json!({
        "name": {"namespace": "default", "name": "a"},
        "package": {"path": "p"},
        "task": {"command": "c"},
    });
    vec![service, batch, per_node, least]
}

/// What any field might be given instead: every bound of the checks with its
/// neighbours, and texts that are nearly what some field wants.
fn others() -> Vec<Value> {
    let bounds: Vec<u64> = [
        validate::REPLICAS_MAX.into(),
        validate::RESOURCES_MAX.cpu_millis.into(),
        validate::RESOURCES_MAX.memory_bytes,
        validate::RESOURCES_MAX.disk_bytes,
        validate::RESOURCES_MAX.uplink_bits_per_s,
        validate::MEMORY_BYTES_MIN,
        validate::DISK_BYTES_MIN,
        validate::DEVICES_MAX.into(),
        validate::BACKOFF_MS_MIN,
        validate::PAUSE_MS_MAX,
        validate::INTERVAL_MS_MIN,
        validate::ANSWERS_MAX.into(),
        validate::LEASE_MS_MIN,
        validate::WAIT_MS_MAX,
        validate::LOG_BYTES_MAX,
        validate::LOG_MS_MIN,
        validate::LOG_MS_MAX,
        validate::TMPFS_BYTES_MIN,
        validate::DEADLINE_MS_MIN,
        1,
        2,
        64,
        100,
        256,
        0o777,
        65_535,
        u32::MAX.into(),
    ]
    .to_vec();
    let mut others: Vec<Value> = Vec::new();
    for bound in bounds {
        others.extend([json!(bound - 1), json!(bound), json!(bound + 1)]);
    }
    others.extend([json!(u64::MAX), json!(-1), json!(-100), json!(-101)]);
    let texts = [
        "",
        "a",
        "A",
        "web",
        "-a",
        "a-",
        "a.b",
        "http",
        "admin",
        "db",
        "/",
        "/a",
        "/a/../b",
        "..",
        "...",
        ".a",
        "./a",
        "a//b",
        "/dev",
        "/dev/x",
        "/developer",
        "/proc",
        "a b",
        "a\tb",
        "a\0b",
        "é",
        "\n",
        "a\n",
        "/a b",
        "/é",
        "/a%20b",
        "1000",
        "1000:1000",
        "+5",
        "5:",
        "root",
        "Root",
        "kernel",
        "label.",
        "label.x",
        "attribute.a/b",
        "6.1",
        "0.5",
        "-3",
        ".5",
        "1e3",
        "$HOME",
        "POTLUCK_X",
        "A_B",
        "9A",
        "a:b",
        "rack",
        "all",
        "none",
        "strict",
        "never",
        "per_node",
        "\u{feff}",
        "x@y",
        "registry.example/a:1",
        "equal",
        "exists",
        "in",
        "less",
    ];
    others.extend(texts.map(Value::from));
    for length in [63, 64, 256, 257, 4_096, 4_097, 131_072] {
        others.push("x".repeat(length).into());
        others.push(format!("/{}", "x".repeat(length - 1)).into());
    }
    others.extend([Value::Null, json!(true), json!(false)]);
    others.extend([json!([]), json!({}), json!([1]), json!({"a": "b"})]);
    others.extend([
        json!(["a"]),
        json!({"path": ""}),
        json!({"count": 0}),
        json!({"percent": 101}),
    ]);
    others
}

/// The places of all values within a job.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(inner, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                places(inner, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn places_of(job: &Value) -> Vec<String> {
    let mut found = Vec::new();
    places(job, "", &mut found);
    found
}

fn with(job: &Value, place: &str, value: Value) -> Value {
    let mut job = job.clone();
    if let Some(there) = job.pointer_mut(place) {
        *there = value;
    }
    job
}

/// Without what stands there.
fn without(job: &Value, place: &str) -> Value {
    let mut job = job.clone();
    let (parent, last) = place.rsplit_once('/').unwrap_or_default();
    match job.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(last)),
        Some(Value::Array(list)) => {
            if let Some(index) = last.parse().ok().filter(|index| *index < list.len()) {
                list.remove(index);
            }
        }
        _ => {}
    }
    job
}

/// With what stands there so many times.
fn repeated(job: &Value, place: &str, times: usize) -> Value {
    match job.pointer(place) {
        Some(Value::Array(list)) if !list.is_empty() => {
            let longer = list.iter().cycle().take(times).cloned().collect();
            with(job, place, longer)
        }
        _ => job.clone(),
    }
}

#[test]
fn what_has_every_field_is_accepted_by_both() {
    let schema = Schema::new();
    for job in jobs() {
        let draft: JobDraft = serde_json::from_value(job.clone()).unwrap();
        let errors: Vec<_> = validate::check(&draft)
            .into_iter()
            .filter(|found| found.severity == Severity::Error)
            .collect();
        assert_eq!(errors, []);
        assert_eq!(schema.problem(&job), "");
        // As it is written with all its defaults, too.
        let whole = serde_json::to_value(&draft).unwrap();
        assert_eq!(schema.problem(&whole), "");
    }
}

fn same_kind(one: &Value, other: &Value) -> bool {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    one.is_null() || other.is_null() || kind(one) == kind(other)
}

/// Each field of each job with each other value, one at a time.
#[test]
fn one_field_that_the_checks_accept_the_schema_accepts() {
    let schema = Schema::new();
    let alike = others();
    let (mut accepted, mut refused) = (0, 0);
    for job in jobs() {
        for place in places_of(&job) {
            let there = job.pointer(&place).unwrap_or(&Value::Null);
            // What is of another kind no decoder takes.
            let others = alike.iter().filter(|other| same_kind(there, other));
            let others = others.map(|other| with(&job, &place, other.clone()));
            let longer = [1, 33, 65, 1_025].map(|times| repeated(&job, &place, times));
            for changed in others.chain(longer).chain([without(&job, &place)]) {
                if !checks_accept(&changed) {
                    refused += 1;
                    continue;
                }
                accepted += 1;
                let problem = schema.problem(&changed);
                assert_eq!(problem, "", "{place}: {:?}", changed.pointer(&place));
            }
        }
    }
    assert!(accepted > 1_000 && refused > 5_000, "{accepted} {refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Several at once, and texts and numbers that nobody thought of.
    #[test]
    fn what_the_checks_accept_the_schema_accepts(
        job in select(jobs()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), other()), 1..4),
    ) {
        let places = places_of(&job);
        let mut changed = job;
        for (place, value) in changes {
            changed = with(&changed, place.get::<String>(&places), value);
        }
        if checks_accept(&changed) {
            prop_assert_eq!(Schema::new().problem(&changed), "", "{}", changed);
        }
    }
}

fn other() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(others()),
        any::<u64>().prop_map(Value::from),
        (0..70_000_u64).prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[a-zA-Z0-9/.:_-]{0,12}".prop_map(Value::from),
    ]
}

/// What is wrong, by its place, and with what it stands there.
#[test]
fn what_is_wrong_with_one_field_both_refuse() {
    let wrong = [
        ("/name/name", json!("FOO BAR")),
        ("/name/name", json!("x".repeat(64))),
        ("/name/namespace", json!("")),
        ("/kind/service/replicas", json!(0)),
        ("/kind/service/replicas", json!(10_001)),
        ("/package", json!({"path": ""})),
        ("/package", json!({"oci": "a b"})),
        ("/package", json!({"id": "abc"})),
        ("/packages/0/at", json!("models")),
        ("/packages/0/at", json!("/proc/x")),
        ("/priority", json!(999)),
        ("/owner", json!("x".repeat(257))),
        ("/annotations", json!({"": "x"})),
        ("/task/command", json!("")),
        ("/task/command", json!("../x")),
        ("/task/args/0", json!("a\0b")),
        ("/task/env", json!({"9A": "x"})),
        ("/task/env", json!({"POTLUCK_X": "x"})),
        ("/task/files/0/path", json!("a/../b")),
        ("/task/files/0/mode", json!(0o4755)),
        ("/task/resources/cpu_millis", json!(0)),
        ("/task/resources/cpu_millis", json!(1_u64 << 40)),
        ("/task/resources/memory_bytes", json!(64)),
        ("/task/resources/disk_bytes", json!(1)),
        (
            "/task/resources/uplink_bits_per_s",
            json!(2_000_000_000_000_u64),
        ),
        ("/task/resources", json!({})),
        ("/task/devices", json!({"nvidia.com/gpu": 0})),
        ("/task/devices", json!({"a gpu": 1})),
        ("/task/ports/0/name", json!("HTTP")),
        ("/task/ports/0/number", json!(0)),
        ("/task/ports/0/number", json!(70_000)),
        ("/task/services/0/name", json!("a.b")),
        ("/task/services/0/tags", json!(["a", "a"])),
        ("/task/health/0/interval_ms", json!(1)),
        ("/task/health/0/healthy_after", json!(0)),
        ("/task/health/0/probe/http/path", json!("healthz")),
        ("/task/health/0/probe/http/path", json!("/a b")),
        ("/task/metrics/0/metric", json!("9lives")),
        ("/task/metrics/0/threshold", json!("much")),
        ("/task/setup/0/timeout_ms", json!(0)),
        ("/task/restart/backoff_ms", json!(1)),
        ("/task/restart/attempts", json!(0)),
        ("/task/stop/signal", json!(99)),
        ("/task/stop/grace_ms", json!(3_600_001)),
        ("/task/mounts/0/at", json!("/")),
        ("/task/mounts/0/source/volume/name", json!("My Data")),
        ("/task/mounts/1/source/tmpfs/bytes", json!(64)),
        ("/task/mounts/2/source/bind/path", json!("/a/../b")),
        ("/task/user", json!("no one")),
        ("/task/user", json!("+5")),
        ("/task/logs/keep_bytes", json!(1)),
        ("/task/isolation", json!("some")),
        (
            "/placement/requirements/0/attribute",
            json!("label.two words"),
        ),
        ("/placement/requirements/0/values", json!([])),
        ("/placement/requirements/0/values", json!(["1", "2"])),
        ("/placement/requirements/2/values", json!(["x"])),
        ("/placement/preferences/0/weight", json!(101)),
        ("/placement/spread", json!(["rack", "rack"])),
        ("/placement/at_most/0/count", json!(0)),
        ("/change/depends_on/0/at_least", json!(0)),
        ("/change/budget", json!({"percent": 0})),
        ("/change/update/stages/0/size", json!({"count": 0})),
        ("/change/update/stages/0/size", json!({"percent": 101})),
        ("/change/update/health_deadline_ms", json!(1)),
        ("/change/maintenance/ride_out/up_to_ms", json!(1)),
        ("/change/exclusive/lease_ms", json!(1)),
        ("/task/colour", json!("red")),
    ];
    let schema = Schema::new();
    let job = &jobs()[0];
    for (place, value) in wrong {
        let mut changed = with(job, place, value.clone());
        if place == "/task/colour" {
            changed["task"]["colour"] = value.clone();
        }
        assert!(!checks_accept(&changed), "checks: {place} {value}");
        assert!(!schema.accepts(&changed), "schema: {place} {value}");
    }
    for place in ["/name", "/name/name", "/package", "/task", "/task/command"] {
        let changed = without(job, place);
        assert!(!checks_accept(&changed), "checks: without {place}");
        assert!(!schema.accepts(&changed), "schema: without {place}");
    }
}
