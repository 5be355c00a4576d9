//! The functions of the spec language: `job`, and what its arguments are made
//! with. Each takes its arguments as they come and tells everything that is
//! wrong with them, rather than the first thing.

use crate::{
    ProblemKind,
    arguments::{Arguments, KIND, Signature, whole_number},
    collect::TooMany,
};
use potluck_specs::{
    FieldPath, JobName, PathStep,
    ids::DEFAULT_NAMESPACE,
    job::{
        HealthCheck, JobDraft, JobKind, PackageSource, PortSpec, Resources, RestartPolicy,
        ServiceSpec, StopPolicy, TaskTemplate,
    },
    validate::{self, Finding, Severity},
};
use starlark::{
    collections::SmallMap,
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{Heap, Value, none::NoneType, structs::AllocStruct, tuple::UnpackTuple},
};
use std::collections::{BTreeMap, BTreeSet};

const JOB: Signature = Signature {
    function: "job",
    arguments: &[
        "name",
        "package",
        "command",
        "args",
        "env",
        "replicas",
        "cpu",
        "memory",
        "ports",
        "services",
        "health",
        "restart",
        "stop",
        "namespace",
    ],
    positional: 0,
    not_yet: &[
        "adaptive",
        "annotations",
        "batch",
        "budget",
        "clusters",
        "constraints",
        "depends_on",
        "devices",
        "disk",
        "exclusive",
        "isolation",
        "labels",
        "logs",
        "maintenance",
        "metrics",
        "mounts",
        "network",
        "owner",
        "preferences",
        "priority",
        "requirements",
        "schedule",
        "secrets",
        "setup",
        "spread",
        "teardown",
        "update",
        "uplink",
        "user",
        "volumes",
    ],
    elsewhere: &[
        ("cmd", "command"),
        ("count", "replicas"),
        ("environment", "env"),
        ("healthcheck", "health"),
        ("image", "package"),
        ("instances", "replicas"),
        ("mem", "memory"),
    ],
};

const TCP: Signature = Signature {
    function: "tcp",
    arguments: &["port"],
    positional: 1,
    not_yet: &["interval", "timeout", "failures", "initial_delay"],
    elsewhere: &[],
};

const HTTP: Signature = Signature {
    function: "http",
    arguments: &["port", "path"],
    positional: 2,
    not_yet: &[
        "interval",
        "timeout",
        "failures",
        "initial_delay",
        "headers",
        "status",
    ],
    elsewhere: &[("url", "path")],
};

const RESTART: Signature = Signature {
    function: "restart",
    arguments: &["backoff", "backoff_max"],
    positional: 0,
    not_yet: &["attempts", "on"],
    elsewhere: &[("delay", "backoff"), ("max", "backoff_max")],
};

const STOP: Signature = Signature {
    function: "stop",
    arguments: &["signal", "grace"],
    positional: 0,
    not_yet: &["drain"],
    elsewhere: &[("timeout", "grace"), ("kill_timeout", "grace")],
};

/// Adds the functions to what a spec file sees.
#[starlark_module]
pub(crate) fn language(builder: &mut GlobalsBuilder) {
    fn job<'v>(
        #[starlark(args)] positional: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: SmallMap<&str, Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let arguments = Arguments::read(&JOB, &positional.items, &named, eval)?;
        read_job(arguments)?;
        Ok(NoneType)
    }

    fn tcp<'v>(
        #[starlark(args)] positional: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: SmallMap<&str, Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut arguments = Arguments::read(&TCP, &positional.items, &named, eval)?;
        let port = arguments.required_text("port")?;
        Ok(make(&TCP, eval.heap(), [("port", eval.heap().alloc(port))]))
    }

    fn http<'v>(
        #[starlark(args)] positional: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: SmallMap<&str, Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut arguments = Arguments::read(&HTTP, &positional.items, &named, eval)?;
        let port = arguments.required_text("port")?;
        let path = arguments.text("path")?.unwrap_or_else(|| "/".into());
        let heap = eval.heap();
        let fields = [("port", heap.alloc(port)), ("path", heap.alloc(path))];
        Ok(make(&HTTP, heap, fields))
    }

    fn restart<'v>(
        #[starlark(args)] positional: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: SmallMap<&str, Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut arguments = Arguments::read(&RESTART, &positional.items, &named, eval)?;
        let default = RestartPolicy::default();
        let first = arguments
            .duration_ms("backoff")?
            .unwrap_or(default.backoff_ms);
        let last = arguments.duration_ms("backoff_max")?;
        let last = last.unwrap_or(default.backoff_max_ms);
        let heap = eval.heap();
        let fields = [
            ("backoff_ms", heap.alloc(first)),
            ("backoff_max_ms", heap.alloc(last)),
        ];
        Ok(make(&RESTART, heap, fields))
    }

    fn stop<'v>(
        #[starlark(args)] positional: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: SmallMap<&str, Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut arguments = Arguments::read(&STOP, &positional.items, &named, eval)?;
        let default = StopPolicy::default();
        let signal = arguments.signal("signal")?.unwrap_or(default.signal);
        let grace = arguments.duration_ms("grace")?.unwrap_or(default.grace_ms);
        let heap = eval.heap();
        let fields = [
            ("signal", heap.alloc(signal)),
            ("grace_ms", heap.alloc(grace)),
        ];
        Ok(make(&STOP, heap, fields))
    }
}

/// A value that only the function of this signature makes: the language has no
/// other way to a struct.
fn make<'v, const N: usize>(
    signature: &Signature,
    heap: Heap<'v>,
    fields: [(&str, Value<'v>); N],
) -> Value<'v> {
    let kind = (KIND, heap.alloc(signature.function));
    let fields: Vec<_> = std::iter::once(kind).chain(fields).collect();
    heap.alloc(AllocStruct(fields))
}

fn read_job(mut arguments: Arguments) -> Result<(), TooMany> {
    let draft = draft(&mut arguments)?;
    let wrong = arguments.wrong().clone();
    for finding in validate::check(&draft) {
        if finding.severity == Severity::Error && !about_a_stand_in(&finding, &wrong) {
            tell(&mut arguments, finding)?;
        }
    }
    let collector = arguments.collector();
    if collector.has_job(&draft) {
        let message = format!("job {} stands twice", draft.name);
        arguments.invalid("name", message, None)?;
    }
    if arguments.all_well() {
        collector.add_job(draft)?;
    }
    Ok(())
}

fn draft(arguments: &mut Arguments) -> Result<JobDraft, TooMany> {
    let name = arguments.required_text("name")?;
    let namespace = arguments.text("namespace")?;
    let package = arguments.required_text("package")?;
    let replicas = arguments.count("replicas")?.unwrap_or(1);
    Ok(JobDraft {
        name: JobName {
            namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
            name,
        },
        kind: JobKind::service(replicas),
        package: PackageSource::Path(package.into()),
        task: task(arguments)?,
        ..JobDraft::default()
    })
}

fn task(arguments: &mut Arguments) -> Result<TaskTemplate, TooMany> {
    let port = |(name, number)| PortSpec {
        name,
        number: (number != 0).then_some(number),
    };
    let service = |(name, port)| ServiceSpec {
        name,
        port,
        ..ServiceSpec::default()
    };
    Ok(TaskTemplate {
        command: arguments.required_text("command")?,
        args: arguments.texts("args")?,
        env: arguments.text_map("env")?.into_iter().collect(),
        resources: Resources {
            cpu_millis: arguments
                .cpu_millis("cpu")?
                .unwrap_or(Resources::OF_A_TASK.cpu_millis),
            memory_bytes: arguments
                .memory_bytes("memory")?
                .unwrap_or(Resources::OF_A_TASK.memory_bytes),
            ..Resources::ZERO
        },
        ports: arguments
            .number_map("ports")?
            .into_iter()
            .map(port)
            .collect(),
        services: arguments
            .text_map("services")?
            .into_iter()
            .map(service)
            .collect(),
        health: health(arguments)?.into_iter().collect(),
        restart: restart_policy(arguments)?,
        stop: stop_policy(arguments)?,
        ..TaskTemplate::default()
    })
}

fn health(arguments: &mut Arguments) -> Result<Option<HealthCheck>, TooMany> {
    let Some((kind, fields)) = arguments.made_by("health", &["tcp", "http"])? else {
        return Ok(None);
    };
    let text = |name| field(&fields, name, |value| Some(value.unpack_str()?.to_owned()));
    let port = text("port");
    Ok(Some(match kind {
        "tcp" => HealthCheck::tcp(&port),
        _ => HealthCheck::http(&port, &text("path")),
    }))
}

fn restart_policy(arguments: &mut Arguments) -> Result<RestartPolicy, TooMany> {
    let Some((_, fields)) = arguments.made_by("restart", &["restart"])? else {
        return Ok(RestartPolicy::default());
    };
    let ms = |name| field(&fields, name, |value| whole_number(value)?.try_into().ok());
    Ok(RestartPolicy {
        backoff_ms: ms("backoff_ms"),
        backoff_max_ms: ms("backoff_max_ms"),
        ..RestartPolicy::default()
    })
}

fn stop_policy(arguments: &mut Arguments) -> Result<StopPolicy, TooMany> {
    let Some((_, fields)) = arguments.made_by("stop", &["stop"])? else {
        return Ok(StopPolicy::default());
    };
    Ok(StopPolicy {
        signal: field(&fields, "signal", |value| value.unpack_i32()),
        grace_ms: field(&fields, "grace_ms", |value| {
            whole_number(value)?.try_into().ok()
        }),
    })
}

/// A field that [`make`] gave.
fn field<'v, T>(
    fields: &BTreeMap<&str, Value<'v>>,
    name: &str,
    read: impl Fn(Value<'v>) -> Option<T>,
) -> T {
    fields
        .get(name)
        .and_then(|value| read(*value))
        .expect("the language's own functions make this field")
}

/// Tells a finding of the checks at the argument that it is about.
fn tell(arguments: &mut Arguments, finding: Finding) -> Result<(), TooMany> {
    let argument = argument_of(&finding.path);
    let meant = finding
        .suggestion
        .map(|word| format!("did you mean {word:?}?"));
    let (message, hint) = (finding.message, meant.or(finding.hint));
    if JOB.arguments.contains(&argument.as_str()) {
        return arguments.invalid(&argument, message, hint);
    }
    arguments.whole(ProblemKind::Invalid, message, hint)
}

/// Is the finding about a value that only stands in for one that was wrong?
fn about_a_stand_in(finding: &Finding, wrong: &BTreeSet<String>) -> bool {
    let argument = argument_of(&finding.path);
    let refers_to_ports = matches!(argument.as_str(), "services" | "health");
    wrong.contains(&argument) || refers_to_ports && wrong.contains("ports")
}

/// The argument that sets a field.
fn argument_of(path: &FieldPath) -> String {
    let fields: Vec<&str> = path
        .0
        .iter()
        .map_while(|step| match step {
            PathStep::Field(name) => Some(name.as_str()),
            PathStep::Index(_) | PathStep::Key(_) => None,
        })
        .collect();
    match fields[..] {
        ["kind", ..] => "replicas",
        ["name", name] => name,
        ["task", "resources", "cpu_millis"] => "cpu",
        ["task", "resources", "memory_bytes"] => "memory",
        ["task", argument, ..] | [argument, ..] => argument,
        [] => "job",
    }
    .into()
}
