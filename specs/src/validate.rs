//! Checks of a job: every finding at once, each with the field that it is
//! about and, where one is known, a way to mend it. The client asks before it
//! signs, the leader before it accepts; both get the same answer. Whether a
//! cluster has room for a job is not asked here.

use crate::{
    JobName,
    codec::encode,
    ids::check_name,
    job::{
        JOB_BYTES_MAX, Job, JobDraft, JobKind, PackageSource, PortSpec, Probe, Resources,
        RestartPolicy, ServiceSpec, StopPolicy, TaskTemplate,
    },
    path::{FieldPath, PathStep},
    suggestion::nearest,
    support,
};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::finding::{Finding, Severity, refused};

/// Most slots of one job: ten on each of the 1,000 nodes of a full cluster.
pub const REPLICAS_MAX: u32 = 10_000;

/// Most ports, and most services, of one task: each port is a number that the
/// node sets aside, each service an endpoint to publish.
pub const PORTS_MAX: usize = 64;

/// Most that a task may ask for: beyond any host, far below where sums over a
/// cluster would overflow.
pub const RESOURCES_MAX: Resources = Resources {
    cpu_millis: 1_024_000,
    memory_bytes: 64 << 40,
    disk_bytes: 1 << 50,
    uplink_bits_per_s: 1_000_000_000_000,
};

/// Least memory: a process with less can't start.
pub const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// Longest command, and longest path of a health check.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Longest single argument or variable that Linux passes to a program
/// (`MAX_ARG_STRLEN`, its closing zero included).
pub const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;

/// Shortest pause between restarts: a task that fails at once must not take a
/// core with it.
pub const BACKOFF_MS_MIN: u64 = 10;

/// Longest pause between restarts, and longest grace at a stop: one hour. More
/// would look like a task that is forgotten.
pub const PAUSE_MS_MAX: u64 = 3_600_000;

/// What binding adds to a draft: fleet, cluster, version and package id.
const BINDING_BYTES_MAX: usize = 256;

/// Everything that is to be said about a draft, in the order of its fields.
pub fn check(draft: &JobDraft) -> Vec<Finding> {
    let mut findings = Findings::default();
    check_job_name(&draft.name, &mut findings);
    check_kind(&draft.kind, &draft.name, &mut findings);
    if let PackageSource::Path(path) = &draft.package
        && path.as_os_str().is_empty()
    {
        findings
            .error("package", "the package's path is empty")
            .hint("name a file or folder beside the spec");
    }
    check_task(&draft.task, &mut findings);
    check_size(encode(draft).len() + BINDING_BYTES_MAX, &mut findings);
    findings.0
}

/// The same for a job that is bound to a cluster and a package and is to run:
/// what nobody executes yet is an error too.
pub fn check_job(job: &Job) -> Vec<Finding> {
    let mut findings = Findings::default();
    check_label("cluster", "cluster", &job.cluster, &mut findings);
    check_job_name(&job.name, &mut findings);
    if job.version == 0 {
        findings.error("version", "versions count from 1");
    }
    check_kind(&job.kind, &job.name, &mut findings);
    check_task(&job.task, &mut findings);
    check_size(job.encode().len(), &mut findings);
    findings.0.extend(support::unsupported_job(job));
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) -> &mut Finding {
        self.push(Severity::Error, field.into(), message.into())
    }

    fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) -> &mut Finding {
        self.push(Severity::Warning, field.into(), message.into())
    }

    fn push(&mut self, severity: Severity, field: String, message: String) -> &mut Finding {
        let path = FieldPath(vec![PathStep::Field(field)]);
        self.0.push(Finding {
            severity,
            ..Finding::error(path, message)
        });
        self.0.last_mut().expect("one was pushed")
    }
}

fn check_label(field: &str, what: &str, name: &str, findings: &mut Findings) {
    if let Err(error) = check_name(name) {
        findings.error(field, format!("{what} {error}"));
    }
}

fn check_job_name(name: &JobName, findings: &mut Findings) {
    check_label("namespace", "namespace", &name.namespace, findings);
    check_label("name", "job", &name.name, findings);
}

fn check_kind(kind: &JobKind, name: &JobName, findings: &mut Findings) {
    let Some(replicas) = kind.slots() else { return };
    if replicas == 0 {
        findings
            .error("replicas", "a job has at least 1 replica")
            .hint(format!("to stop a job, use `potluck stop {name}`"));
    }
    if replicas > REPLICAS_MAX {
        findings.error(
            "replicas",
            format!("{replicas} replicas are more than the {REPLICAS_MAX} that a job may have"),
        );
    }
}

fn check_task(task: &TaskTemplate, findings: &mut Findings) {
    check_command(&task.command, findings);
    for (index, arg) in task.args.iter().enumerate() {
        check_text(format!("args[{index}]"), "the argument", arg, findings);
    }
    check_env(&task.env, &task.ports, findings);
    check_resources(&task.resources, findings);
    check_ports(&task.ports, findings);
    check_services(&task.services, &task.ports, findings);
    check_health(task, findings);
    check_restart(&task.restart, findings);
    check_stop(&task.stop, findings);
}

fn check_command(command: &str, findings: &mut Findings) {
    if command.is_empty() {
        findings.error("command", "the command is empty").hint(
            "name a program in the package (\"bin/server\"), or one on the host (\"/bin/sh\")",
        );
        return;
    }
    if command.len() > PATH_BYTES_MAX {
        let message = format!("the command is longer than {PATH_BYTES_MAX} bytes");
        findings.error("command", message);
    }
    check_text("command".into(), "the command", command, findings);
    let inside = command.strip_prefix('/').unwrap_or(command);
    if inside
        .split('/')
        .any(|part| matches!(part, "" | "." | ".."))
    {
        findings
            .error("command", "the command has an empty, '.' or '..' part")
            .hint("arguments go into `args`, and the path is the one inside the package");
    }
}

fn check_text(field: String, what: &str, text: &str, findings: &mut Findings) {
    if text.contains('\0') {
        findings.error(field.clone(), format!("{what} holds a zero byte"));
    }
    if text.len() > ARGUMENT_BYTES_MAX {
        let message =
            format!("{what} is longer than the {ARGUMENT_BYTES_MAX} bytes that Linux passes on");
        findings.error(field, message);
    }
}

fn check_env(env: &BTreeMap<String, String>, ports: &[PortSpec], findings: &mut Findings) {
    for (name, value) in env {
        let field = format!("env.{name}");
        if !is_variable(name) {
            findings
                .error(&field, format!("{name:?} is not the name of a variable"))
                .hint("letters, digits and '_' are allowed, and no digit in front");
        }
        if name.starts_with("POTLUCK_") {
            findings.error(
                &field,
                "variables that begin with POTLUCK_ are set by potluck",
            );
        }
        if let Some(port) = ports.iter().find(|port| port.variable() == *name) {
            let message = format!(
                "{name} is set by potluck, to the number of port {:?}",
                port.name
            );
            findings.error(&field, message);
        }
        check_text(field, "the value", value, findings);
    }
}

fn is_variable(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(allowed) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn check_resources(resources: &Resources, findings: &mut Findings) {
    if resources.cpu_millis == 0 {
        findings
            .error("cpu", "a task needs at least 0.001 cores")
            .hint("cpu = 0.1 is a tenth of a core");
    }
    if resources.cpu_millis > RESOURCES_MAX.cpu_millis {
        findings.error("cpu", "a task may ask for at most 1024 cores");
    }
    if resources.memory_bytes < MEMORY_BYTES_MIN {
        findings
            .error("memory", "a task needs at least 1 MiB of memory")
            .hint("a number counts bytes; write \"64MiB\"");
    }
    if resources.memory_bytes > RESOURCES_MAX.memory_bytes {
        findings.error("memory", "a task may ask for at most 64 TiB of memory");
    }
}

fn check_ports(ports: &[PortSpec], findings: &mut Findings) {
    if ports.len() > PORTS_MAX {
        findings.error("ports", format!("a task has at most {PORTS_MAX} ports"));
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for port in ports {
        let field = format!("ports.{}", port.name);
        check_label(&field, "port", &port.name, findings);
        if !names.insert(&port.name) {
            findings.error(&field, format!("port {:?} stands twice", port.name));
        }
        let Some(number) = port.number else { continue };
        if number == 0 {
            findings.error(&field, "port numbers count from 1");
        }
        if let Some(other) = numbers.insert(number, &port.name) {
            findings.error(
                &field,
                format!("port {other:?} has the number {number} already"),
            );
        }
    }
}

fn check_services(services: &[ServiceSpec], ports: &[PortSpec], findings: &mut Findings) {
    if services.len() > PORTS_MAX {
        findings.error(
            "services",
            format!("a task has at most {PORTS_MAX} services"),
        );
    }
    let mut names = BTreeSet::new();
    for service in services {
        let field = format!("services.{}", service.name);
        check_label(&field, "service", &service.name, findings);
        if !names.insert(&service.name) {
            findings.error(&field, format!("service {:?} stands twice", service.name));
        }
        check_port_name(&field, &service.port, ports, findings);
    }
}

fn check_port_name(field: &str, name: &str, ports: &[PortSpec], findings: &mut Findings) {
    if ports.iter().any(|port| port.name == name) {
        return;
    }
    let finding = findings.error(field, format!("there is no port {name:?}"));
    match nearest(name, ports.iter().map(|port| port.name.as_str())) {
        Some(near) => finding.hint(format!("did you mean {near:?}?")),
        None => finding.hint(format!("declare it: ports = {{{name:?}: 0}}")),
    };
}

fn check_health(task: &TaskTemplate, findings: &mut Findings) {
    if task.health.is_empty() && !task.services.is_empty() {
        findings
            .warning(
                "health",
                "without a check, a task is offered to clients as soon as it runs",
            )
            .hint(format!("health = tcp({:?})", task.services[0].port));
    }
    for check in &task.health {
        if let Some(port) = check.probe.port() {
            check_port_name("health.port", port, &task.ports, findings);
        }
        if let Probe::Http { path, .. } = &check.probe {
            check_http_path(path, findings);
        }
    }
}

fn check_http_path(path: &str, findings: &mut Findings) {
    if !path.starts_with('/') {
        findings
            .error(
                "health.path",
                format!("the path {path:?} does not begin with '/'"),
            )
            .hint(format!("did you mean \"/{path}\"?"));
    }
    if path.len() > PATH_BYTES_MAX {
        let message = format!("the path is longer than {PATH_BYTES_MAX} bytes");
        findings.error("health.path", message);
    }
    // A space or a line end would let the path write the rest of the request.
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        findings
            .error(
                "health.path",
                "the path holds a space or a character outside ASCII",
            )
            .hint("write such characters as %20");
    }
}

fn check_restart(restart: &RestartPolicy, findings: &mut Findings) {
    if restart.backoff_ms < BACKOFF_MS_MIN {
        let message = format!("the first pause is shorter than {BACKOFF_MS_MIN} ms");
        findings.error("restart.backoff", message);
    }
    if restart.backoff_max_ms < restart.backoff_ms {
        findings.error(
            "restart.backoff_max",
            "the longest pause is shorter than the first",
        );
    }
    if restart.backoff_ms.max(restart.backoff_max_ms) > PAUSE_MS_MAX {
        findings.error("restart.backoff_max", "a pause lasts at most 1 hour");
    }
}

fn check_stop(stop: &StopPolicy, findings: &mut Findings) {
    if !(1..=64).contains(&stop.signal) {
        let message = format!("{} is not a signal: they count from 1 to 64", stop.signal);
        findings.error("stop.signal", message);
    }
    if stop.grace_ms > PAUSE_MS_MAX {
        findings.error("stop.grace", "the grace lasts at most 1 hour");
    }
}

fn check_size(bytes: usize, findings: &mut Findings) {
    if bytes > JOB_BYTES_MAX {
        findings
            .error(
                "job",
                format!("the job has {bytes} bytes, {JOB_BYTES_MAX} are allowed"),
            )
            .hint("put long arguments and settings into files of the package");
    }
}

#[cfg(test)]
mod tests;
