//! Fields of a job by the arguments that they are written with:
//! `task.resources.cpu_millis` is `cpu`, `placement.at_most[0].count` is
//! `at_most.rack`.

use crate::{
    call::{Call, Data},
    place::Step,
};
use potluck_specs::{
    job::JobKind,
    path::{FieldPath, PathStep},
};

/// Parts of the model that the language has no word for: groups, choices, and
/// the forms that a choice has, by the field that they stand in.
const UNWRITTEN: &[(&str, &[&str])] = &[
    ("", &["task", "placement", "change", "resources", "name"]),
    ("health", &["probe", "tcp", "http", "exec", "grpc"]),
    ("mounts", &["source", "bind", "tmpfs", "volume"]),
    ("maintenance", &["ride_out", "ask", "migrate"]),
    ("packages", &["source", "at"]),
    ("package", &["path", "id", "oci"]),
    ("budget", &["count", "percent"]),
    ("at_most", &["count", "level"]),
    ("apart_from", &["job", "level"]),
    ("together_with", &["job", "level"]),
    ("ports", &["name", "number"]),
    ("update", &["count", "percent"]),
    ("kind", &["service", "batch", "per_node"]),
];

/// Fields that are written under another name.
const RENAMED: &[(&str, &str)] = &[
    ("adaptive", "adaptive"),
    ("bytes", "size"),
    ("comparison", "when"),
    ("cpu_burst_millis", "cpu_burst"),
    ("cpu_millis", "cpu"),
    ("cpu_millis_max", "cpu_max"),
    ("cpu_millis_min", "cpu_min"),
    ("disk_bytes", "disk"),
    ("for_ms", "during"),
    ("io_read_bytes_per_s", "io_read"),
    ("io_read_ops_per_s", "io_read_ops"),
    ("io_write_bytes_per_s", "io_write"),
    ("io_write_ops_per_s", "io_write_ops"),
    ("labels", "when"),
    ("memory_bytes", "memory"),
    ("memory_bytes_max", "memory_max"),
    ("memory_bytes_min", "memory_min"),
    ("metric", "when"),
    ("preferences", "prefer"),
    ("requirement", "condition"),
    ("requirements", "require"),
    ("threshold", "when"),
    ("uplink_bits_per_s", "uplink"),
];

/// The argument that a field is written with.
pub(crate) fn argument(path: &FieldPath, call: &Call) -> Vec<Step> {
    let entry = |within: &str, index, depth| entry(within, index, depth, call);
    follow(path, || kind(call), entry)
}

/// A field as a spec writes it, where no call is known: `update.stages` of
/// `change.update.stages`, `replicas` of `kind.service.replicas`.
pub fn written(path: &FieldPath) -> String {
    if let [PathStep::Field(only)] = &path.0[..]
        && only == "kind"
    {
        return "replicas, per_node or batch".into();
    }
    let kind = || match path.0.get(1) {
        Some(PathStep::Field(name)) if name.starts_with("batch") => "batch",
        Some(PathStep::Field(name)) if name.starts_with("per_node") => "per_node",
        _ => "replicas",
    };
    let steps = follow(path, kind, |_, index, _| Step::Element(index));
    let keys: Vec<&String> = path
        .0
        .iter()
        .filter_map(|step| match step {
            PathStep::Key(key) => Some(key),
            _ => None,
        })
        .collect();
    let mut text = String::new();
    for step in &steps {
        match step {
            Step::Entry(key) if keys.contains(&key) && !text.is_empty() => {
                text += &format!("[{key:?}]");
            }
            Step::Entry(name) if text.is_empty() => text += name,
            Step::Entry(name) => text += &format!(".{name}"),
            Step::Element(index) => text += &format!("[{index}]"),
        }
    }
    match text.is_empty() {
        true => path.to_string(),
        false => text,
    }
}

fn follow(
    path: &FieldPath,
    kind: impl Fn() -> &'static str,
    entry: impl Fn(&str, usize, usize) -> Step,
) -> Vec<Step> {
    if let [PathStep::Field(dotted)] = &path.0[..]
        && dotted.contains(['.', '['])
    {
        return crate::call::steps(dotted);
    }
    let mut steps: Vec<Step> = Vec::new();
    // The argument of `job` that we are in.
    let mut within = String::new();
    let mut left = path.0.iter().peekable();
    if let [PathStep::Field(first), PathStep::Field(second), ..] = &path.0[..]
        && first == "name"
    {
        return vec![Step::Entry(second.clone())];
    }
    if let [PathStep::Field(name)] = &path.0[..]
        && name == "name"
    {
        return vec![Step::Entry("name".into())];
    }
    while let Some(step) = left.next() {
        match step {
            PathStep::Field(name) if is_unwritten(&within, name) => {}
            PathStep::Field(name) if within.is_empty() && name == "kind" => {
                within = kind().into();
                steps.push(Step::Entry(within.clone()));
                // `kind.service.replicas` is `replicas` itself.
                if within != "batch" {
                    return steps;
                }
                while let Some(PathStep::Field(name)) = left.peek()
                    && is_unwritten("kind", name)
                {
                    left.next();
                }
            }
            PathStep::Field(name) => {
                let name = renamed(name);
                if within.is_empty() {
                    within = name.to_owned();
                }
                steps.push(Step::Entry(name.to_owned()));
            }
            PathStep::Key(key) => steps.push(Step::Entry(key.clone())),
            PathStep::Index(index) => steps.push(entry(&within, *index, steps.len())),
        }
    }
    steps
}

fn is_unwritten(within: &str, name: &str) -> bool {
    let mut unwritten = UNWRITTEN.iter().filter(|(field, _)| *field == within);
    unwritten.any(|(_, names)| names.contains(&name))
}

fn renamed(name: &str) -> &str {
    let found = RENAMED.iter().find(|(theirs, _)| *theirs == name);
    let plain = || name.strip_suffix("_ms").unwrap_or(name);
    found.map_or_else(plain, |(_, ours)| *ours)
}

/// What says how many there are.
fn kind(call: &Call) -> &'static str {
    match crate::build::build(call).0.kind {
        JobKind::Service { .. } => "replicas",
        JobKind::PerNode => "per_node",
        JobKind::Batch(_) => "batch",
    }
}

/// A list of the model may be written as a dictionary.
fn entry(within: &str, index: usize, depth: usize, call: &Call) -> Step {
    let written = call.function.param(within).and_then(|_| call.get(within));
    match written {
        Some(Data::Map(entries)) if depth == 1 => match entries.get(index) {
            Some((key, _)) => Step::Entry(key.clone()),
            None => Step::Element(index),
        },
        _ => Step::Element(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_as_they_are_typed() {
        let of = |dotted: &str| {
            let mut path = FieldPath::default();
            for name in dotted.split('.') {
                path = path.field(name);
            }
            path
        };
        for (field, argument) in [
            ("kind.service.replicas", "replicas"),
            ("kind.batch.completions", "batch.completions"),
            ("task.resources.cpu_millis", "cpu"),
            ("task.resources.memory_bytes", "memory"),
            ("change.update.stages", "update.stages"),
            ("task.stop.grace_ms", "stop.grace"),
            ("placement.requirements", "require"),
            ("owner", "owner"),
            ("package", "package"),
            ("kind", "replicas, per_node or batch"),
        ] {
            assert_eq!(written(&of(field)), argument, "{field}");
        }
        let env = FieldPath::of("task").field("env").key("MODE");
        assert_eq!(written(&env), "env[\"MODE\"]");
        let port = FieldPath::of("task")
            .field("ports")
            .key("http")
            .field("number");
        assert_eq!(written(&port), "ports[\"http\"]");
    }
}
