//! What single fields of a job may hold, as JSON Schema: the bounds are those
//! of the checks, by the same constants. A length here counts characters and
//! there bytes, so it is never the narrower one.

use super::Rule;
use crate::{
    job::{GANG_MAX, PRIORITY_MAX, requirement::ATTRIBUTES},
    validate::*,
};
use serde_json::{Value, json};

/// A DNS label: see [`check_name`](crate::ids::check_name).
const LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// Any text without a zero byte.
const PLAIN: &str = r"^[^\u0000]*$";

/// A part of a path that is a name: not empty, `.` or `..`.
const PART: &str = r"([^/.\u0000][^/\u0000]*|\.[^/.\u0000][^/\u0000]*|\.\.[^/\u0000]+)";

/// A path of HTTP.
const HTTP_PATH: &str = "^/[!-~]*$";

pub(super) fn all() -> Vec<Rule> {
    let lists = [whole(), task(), network(), placement(), change()];
    lists.into_iter().flatten().collect()
}

fn rule(
    definition: &'static str,
    required: &'static [&'static str],
    fields: Vec<(&'static str, Value)>,
) -> Rule {
    Rule {
        definition,
        required,
        fields,
    }
}

fn range(min: impl Into<Value>, max: impl Into<Value>) -> Value {
    json!({"minimum": min.into(), "maximum": max.into()})
}

fn at_least(min: u64) -> Value {
    json!({ "minimum": min })
}

fn pattern(pattern: impl Into<String>) -> Value {
    json!({"pattern": pattern.into()})
}

fn text(bytes_max: usize) -> Value {
    json!({"maxLength": bytes_max, "pattern": PLAIN})
}

fn word(bytes_max: usize) -> Value {
    json!({"minLength": 1, "maxLength": bytes_max, "pattern": PLAIN})
}

fn list(count_max: usize, items: Value) -> Value {
    json!({"maxItems": count_max, "items": items})
}

fn map(count_max: usize, names: Value, values: Value) -> Value {
    json!({
        "maxProperties": count_max,
        "propertyNames": names,
        "additionalProperties": values,
    })
}

/// In the package or absolute.
fn path() -> Value {
    json!({"maxLength": PATH_BYTES_MAX, "pattern": format!("^/?{PART}(/{PART})*$")})
}

/// Absolute, and not the root.
fn place() -> Value {
    json!({
        "maxLength": PATH_BYTES_MAX,
        "pattern": format!("^(/{PART})+$"),
        "not": {"pattern": "^/(dev|proc|sys)(/|$)"},
    })
}

fn http_path() -> Value {
    json!({"maxLength": PATH_BYTES_MAX, "pattern": HTTP_PATH})
}

fn whole() -> Vec<Rule> {
    let notes = map(
        ANNOTATIONS_MAX,
        word(WORD_BYTES_MAX),
        text(ANNOTATION_BYTES_MAX),
    );
    vec![
        rule(
            "",
            &["name", "package", "task"],
            vec![
                ("packages", list(ENTRIES_MAX, json!({}))),
                ("priority", range(0, PRIORITY_MAX)),
                ("owner", text(WORD_BYTES_MAX)),
                ("annotations", notes),
            ],
        ),
        rule(
            "JobName",
            &["namespace", "name"],
            vec![("namespace", pattern(LABEL)), ("name", pattern(LABEL))],
        ),
        rule(
            "JobKind",
            &[],
            vec![("service.replicas", range(1, REPLICAS_MAX))],
        ),
        rule(
            "Batch",
            &[],
            vec![
                ("completions", range(1, REPLICAS_MAX)),
                ("parallelism", at_least(1)),
                ("retries", range(0, ANSWERS_MAX)),
                ("deadline_ms", range(DEADLINE_MS_MIN, WAIT_MS_MAX)),
                ("", gang()),
            ],
        ),
        rule(
            "PackageSource",
            &[],
            vec![
                ("path", word(PATH_BYTES_MAX)),
                (
                    "oci",
                    json!({"maxLength": PATH_BYTES_MAX, "pattern": r"^[^\u0000 \t\n\r]+$"}),
                ),
            ],
        ),
        rule("DraftPackage", &["at", "source"], vec![("at", place())]),
    ]
}

fn gang() -> Value {
    json!({
        "if": {"properties": {"gang": {"const": true}}, "required": ["gang"]},
        "then": {"properties": {"completions": {"maximum": GANG_MAX}}},
    })
}

fn task() -> Vec<Rule> {
    let argument = || text(ARGUMENT_BYTES_MAX);
    let arguments = || list(ARGUMENTS_MAX, argument());
    let entries = || list(ENTRIES_MAX, json!({}));
    let variable = json!({
        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        "not": {"pattern": "^POTLUCK_"},
    });
    let device = pattern(format!("^[A-Za-z0-9._/-]{{1,{WORD_BYTES_MAX}}}$"));
    let user = format!(
        "^([a-z_][a-z0-9_-]{{0,{}}}|[0-9]+(:[0-9]+)?)$",
        USER_BYTES_MAX - 1
    );
    let disk = json!({
        "maximum": RESOURCES_MAX.disk_bytes,
        "anyOf": [{"const": 0}, {"minimum": DISK_BYTES_MIN}],
    });
    let cpu = range(1, RESOURCES_MAX.cpu_millis);
    let memory = range(MEMORY_BYTES_MIN, RESOURCES_MAX.memory_bytes);
    let uplink = range(0, RESOURCES_MAX.uplink_bits_per_s);
    vec![
        rule(
            "TaskTemplate",
            &["command"],
            vec![
                ("command", path()),
                ("args", arguments()),
                ("env", map(ARGUMENTS_MAX, variable, argument())),
                ("files", entries()),
                ("devices", map(ENTRIES_MAX, device, range(1, DEVICES_MAX))),
                ("ports", list(PORTS_MAX, json!({}))),
                ("services", list(PORTS_MAX, json!({}))),
                ("health", entries()),
                ("metrics", entries()),
                ("setup", entries()),
                ("teardown", entries()),
                ("mounts", entries()),
                ("user", pattern(user)),
            ],
        ),
        rule(
            "Resources",
            &["cpu_millis", "memory_bytes"],
            vec![
                ("cpu_millis", cpu),
                ("memory_bytes", memory),
                ("disk_bytes", disk),
                ("uplink_bits_per_s", uplink),
            ],
        ),
        rule(
            "Limits",
            &[],
            vec![
                ("cpu_millis", at_least(1)),
                ("memory_bytes", at_least(MEMORY_BYTES_MIN)),
                ("cpu_burst_millis", at_least(1)),
                ("pids", range(PIDS_MIN, PIDS_MAX)),
                ("io_weight", range(1, IO_WEIGHT_MAX)),
                (
                    "io_read_bytes_per_s",
                    range(IO_BYTES_PER_S_MIN, IO_PER_S_MAX),
                ),
                (
                    "io_write_bytes_per_s",
                    range(IO_BYTES_PER_S_MIN, IO_PER_S_MAX),
                ),
                ("io_read_ops_per_s", range(IO_OPS_PER_S_MIN, IO_PER_S_MAX)),
                ("io_write_ops_per_s", range(IO_OPS_PER_S_MIN, IO_PER_S_MAX)),
            ],
        ),
        rule(
            "Hook",
            &["command"],
            vec![
                ("command", path()),
                ("args", arguments()),
                ("timeout_ms", range(INTERVAL_MS_MIN, PAUSE_MS_MAX)),
            ],
        ),
        rule(
            "RestartPolicy",
            &[],
            vec![
                ("backoff_ms", range(BACKOFF_MS_MIN, PAUSE_MS_MAX)),
                ("backoff_max_ms", range(BACKOFF_MS_MIN, PAUSE_MS_MAX)),
                ("attempts", range(1, ANSWERS_MAX)),
            ],
        ),
        rule(
            "LogPolicy",
            &[],
            vec![
                ("keep_bytes", range(LOG_BYTES_MIN, LOG_BYTES_MAX)),
                ("keep_ms", range(LOG_MS_MIN, LOG_MS_MAX)),
            ],
        ),
        rule(
            "StopPolicy",
            &[],
            vec![
                ("signal", range(1, SIGNAL_MAX)),
                ("grace_ms", range(0, PAUSE_MS_MAX)),
            ],
        ),
        rule(
            "RenderedFile",
            &["path"],
            vec![("path", path()), ("mode", range(0, 0o777))],
        ),
        rule("Mount", &["at", "source"], vec![("at", place())]),
        rule(
            "MountSource",
            &[],
            vec![
                (
                    "bind.path",
                    json!({
                        "maxLength": PATH_BYTES_MAX,
                        "pattern": format!("^(/|(/{PART})+)$"),
                    }),
                ),
                ("tmpfs.bytes", at_least(TMPFS_BYTES_MIN)),
                ("volume.name", pattern(LABEL)),
            ],
        ),
    ]
}

fn network() -> Vec<Rule> {
    let label = || pattern(LABEL);
    let metric = |more: &str| {
        let more_digits = WORD_BYTES_MAX - 1;
        pattern(format!(
            "^[A-Za-z_{more}][A-Za-z0-9_{more}]{{0,{more_digits}}}$"
        ))
    };
    let tags = json!({"maxItems": ENTRIES_MAX, "uniqueItems": true, "items": label()});
    vec![
        rule(
            "PortSpec",
            &["name"],
            vec![("name", label()), ("number", at_least(1))],
        ),
        rule(
            "ServiceSpec",
            &["name", "port"],
            vec![("name", label()), ("port", label()), ("tags", tags)],
        ),
        rule(
            "HealthCheck",
            &["probe"],
            vec![
                ("interval_ms", range(INTERVAL_MS_MIN, PAUSE_MS_MAX)),
                ("timeout_ms", range(TIMEOUT_MS_MIN, PAUSE_MS_MAX)),
                ("healthy_after", range(1, ANSWERS_MAX)),
                ("unhealthy_after", range(1, ANSWERS_MAX)),
                ("start_period_ms", range(0, PAUSE_MS_MAX)),
            ],
        ),
        rule(
            "Probe",
            &[],
            vec![
                ("tcp.port", label()),
                ("http.port", label()),
                ("http.path", http_path()),
                ("exec.command", word(PATH_BYTES_MAX)),
                ("exec.args", list(ARGUMENTS_MAX, text(ARGUMENT_BYTES_MAX))),
                ("grpc.port", label()),
                ("grpc.service", text(WORD_BYTES_MAX)),
            ],
        ),
        rule(
            "MetricThreshold",
            &["port", "metric"],
            vec![
                ("port", label()),
                ("path", http_path()),
                ("metric", metric(":")),
                ("labels", map(ENTRIES_MAX, metric(""), text(WORD_BYTES_MAX))),
                (
                    "threshold",
                    json!({"maxLength": 40, "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}),
                ),
                ("interval_ms", range(INTERVAL_MS_MIN, PAUSE_MS_MAX)),
                ("for_ms", range(0, WAIT_MS_MAX)),
            ],
        ),
    ]
}

fn placement() -> Vec<Rule> {
    let conditions = || list(CONDITIONS_MAX, json!({}));
    let known = ATTRIBUTES.join("|");
    let attribute = json!({
        "maxLength": WORD_BYTES_MAX,
        "pattern": format!("^({known}|(label|attribute)\\.[A-Za-z0-9._/-]+)$"),
    });
    vec![
        rule(
            "Placement",
            &[],
            vec![
                ("requirements", conditions()),
                ("preferences", conditions()),
                ("spread", json!({"uniqueItems": true, "maxItems": LEVELS})),
                ("at_most", json!({"maxItems": LEVELS})),
                ("apart_from", conditions()),
                ("together_with", conditions()),
            ],
        ),
        rule(
            "Requirement",
            &["attribute"],
            vec![
                ("attribute", attribute),
                ("values", list(CONDITIONS_MAX, text(WORD_BYTES_MAX))),
                ("", values_of_operators()),
            ],
        ),
        rule(
            "Preference",
            &["requirement"],
            vec![("weight", range(-WEIGHT_MAX, WEIGHT_MAX))],
        ),
        rule("AtMost", &[], vec![("count", at_least(1))]),
        rule("Neighbour", &["job"], vec![]),
    ]
}

/// Levels of the topology: no list of them is longer without a repetition.
const LEVELS: usize = crate::job::Level::ALL.len();

/// `exists` takes no value, `in` at least one, any other one.
fn values_of_operators() -> Value {
    let is = |operators: &[&str]| json!({"properties": {"operator": {"enum": operators}}, "required": ["operator"]});
    let values = |bounds: Value| json!({"properties": {"values": bounds}});
    let some = json!({"properties": {"values": {"minItems": 1}}, "required": ["values"]});
    json!({"allOf": [
        {"if": is(&["exists"]), "then": values(json!({"maxItems": 0})), "else": some},
        {"if": is(&["exists", "in"]), "else": values(json!({"maxItems": 1}))},
    ]})
}

fn change() -> Vec<Rule> {
    let window = || range(INTERVAL_MS_MIN, WAIT_MS_MAX);
    let conditions = || list(CONDITIONS_MAX, json!({}));
    vec![
        rule("Change", &[], vec![("depends_on", conditions())]),
        rule("Dependency", &["job"], vec![("at_least", at_least(1))]),
        rule(
            "Amount",
            &[],
            vec![("count", at_least(1)), ("percent", range(1, 100))],
        ),
        rule(
            "Update",
            &[],
            vec![
                ("stages", conditions()),
                (
                    "health_deadline_ms",
                    range(HEALTH_DEADLINE_MS_MIN, WAIT_MS_MAX),
                ),
            ],
        ),
        rule("Stage", &[], vec![("bake_ms", range(0, WAIT_MS_MAX))]),
        rule(
            "StageSize",
            &[],
            vec![("count", at_least(1)), ("percent", range(1, 100))],
        ),
        rule(
            "Maintenance",
            &[],
            vec![
                ("ride_out.up_to_ms", window()),
                ("ask.port", pattern(LABEL)),
                ("ask.path", http_path()),
                ("ask.up_to_ms", window()),
            ],
        ),
        rule(
            "Exclusive",
            &[],
            vec![("lease_ms", range(LEASE_MS_MIN, PAUSE_MS_MAX))],
        ),
    ]
}
