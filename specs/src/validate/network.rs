//! Ports, services, health checks and metrics.

use super::{findings::Findings, limits::*};
use crate::{
    diff::duration,
    job::{HealthCheck, JobKind, MetricThreshold, PortSpec, Probe, ServiceSpec, wish::Wish},
    path::FieldPath,
    suggestion::nearest,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(wish: &Wish, findings: &mut Findings) {
    let task = wish.task;
    let path = FieldPath::of("task");
    check_ports(&path.field("ports"), &task.ports, wish, findings);
    check_services(
        &path.field("services"),
        &task.services,
        &task.ports,
        findings,
    );
    check_health(&path.field("health"), wish, findings);
    let metrics = path.field("metrics");
    findings.at_most(&metrics, "metrics", task.metrics.len(), ENTRIES_MAX);
    for (index, metric) in task.metrics.iter().enumerate() {
        check_metric(&metrics.index(index), metric, &task.ports, findings);
    }
}

fn check_ports(path: &FieldPath, ports: &[PortSpec], wish: &Wish, findings: &mut Findings) {
    findings.at_most(path, "ports", ports.len(), PORTS_MAX);
    let mut names = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for (index, port) in ports.iter().enumerate() {
        let entry = path.index(index);
        findings.label(&entry.field("name"), "port", &port.name);
        if !names.insert(&port.name) {
            findings.error(
                &entry.field("name"),
                format!("port {:?} stands twice", port.name),
            );
        }
        let Some(number) = port.number else { continue };
        let path = entry.field("number");
        if number == 0 {
            findings.error(&path, "port numbers count from 1");
        }
        if let Some(other) = numbers.insert(number, &port.name) {
            findings.error(
                &path,
                format!("port {other:?} has the number {number} already"),
            );
        }
    }
    check_fixed_ports(path, ports, wish, findings);
}

/// A host has each number once, so each task with a fixed one needs its own.
fn check_fixed_ports(path: &FieldPath, ports: &[PortSpec], wish: &Wish, findings: &mut Findings) {
    let fixed = ports.iter().position(|port| port.number.is_some());
    let (Some(index), JobKind::Service { replicas }) = (fixed, wish.kind) else {
        return;
    };
    if (SMALL_CLUSTER + 1..=REPLICAS_MAX).contains(replicas) {
        findings
            .warning(
                &path.index(index).field("number"),
                format!("each of the {replicas} replicas needs a node of its own"),
            )
            .why("a node has each port number once")
            .hint("let the node choose: 0, and read PORT_NAME");
    }
}

/// Replicas from which a fixed port is worth a warning: fewer fit on the few
/// nodes that most clusters have.
const SMALL_CLUSTER: u32 = 5;

fn check_services(
    path: &FieldPath,
    services: &[ServiceSpec],
    ports: &[PortSpec],
    findings: &mut Findings,
) {
    findings.at_most(path, "services", services.len(), PORTS_MAX);
    let mut names = BTreeSet::new();
    for (index, service) in services.iter().enumerate() {
        let entry = path.index(index);
        findings.label(&entry.field("name"), "service", &service.name);
        if !names.insert(&service.name) {
            let message = format!("service {:?} stands twice", service.name);
            findings.error(&entry.field("name"), message);
        }
        check_port(&entry.field("port"), &service.port, ports, findings);
        let tags = entry.field("tags");
        findings.at_most(&tags, "tags", service.tags.len(), ENTRIES_MAX);
        let mut known = BTreeSet::new();
        for (index, tag) in service.tags.iter().enumerate() {
            findings.label(&tags.index(index), "tag", tag);
            if !known.insert(tag) {
                findings.error(&tags.index(index), format!("tag {tag:?} stands twice"));
            }
        }
    }
}

/// A port by its name.
pub(super) fn check_port(
    path: &FieldPath,
    name: &str,
    ports: &[PortSpec],
    findings: &mut Findings,
) {
    if ports.iter().any(|port| port.name == name) {
        return;
    }
    let finding = findings.error(path, format!("there is no port {name:?}"));
    match nearest(name, ports.iter().map(|port| port.name.as_str())) {
        Some(near) => finding.meant(Some(near)),
        None => finding.hint(format!("declare it: ports = {{{name:?}: 0}}")),
    };
}

fn check_health(path: &FieldPath, wish: &Wish, findings: &mut Findings) {
    let task = wish.task;
    if task.health.is_empty()
        && let Some(service) = task.services.first()
    {
        findings
            .warning(
                path,
                "without a check, a task is offered to clients once its port answers",
            )
            .why("a port may accept connections long before the program can serve")
            .hint(format!("health = http({:?}, \"/healthz\")", service.port));
    }
    findings.at_most(path, "health checks", task.health.len(), ENTRIES_MAX);
    for (index, check) in task.health.iter().enumerate() {
        check_probe(
            &path.index(index).field("probe"),
            &check.probe,
            &task.ports,
            findings,
        );
        check_times(&path.index(index), check, wish, findings);
    }
}

fn check_probe(path: &FieldPath, probe: &Probe, ports: &[PortSpec], findings: &mut Findings) {
    match probe {
        Probe::Tcp { port } => check_port(&path.field("tcp.port"), port, ports, findings),
        Probe::Http { port, path: asked } => {
            check_port(&path.field("http.port"), port, ports, findings);
            findings.http_path(&path.field("http.path"), asked);
        }
        Probe::Grpc { port, service } => {
            check_port(&path.field("grpc.port"), port, ports, findings);
            findings.text(
                &path.field("grpc.service"),
                "the service",
                service,
                WORD_BYTES_MAX,
            );
        }
        Probe::Exec { command, args } => {
            let path = path.field("exec");
            if command.is_empty() {
                findings.error(&path.field("command"), "the command is empty");
            }
            findings.text(
                &path.field("command"),
                "the command",
                command,
                PATH_BYTES_MAX,
            );
            findings.at_most(&path.field("args"), "arguments", args.len(), ARGUMENTS_MAX);
            for (index, arg) in args.iter().enumerate() {
                let path = path.field("args").index(index);
                findings.text(&path, "the argument", arg, ARGUMENT_BYTES_MAX);
            }
        }
    }
}

fn check_times(path: &FieldPath, check: &HealthCheck, wish: &Wish, findings: &mut Findings) {
    let interval = path.field("interval_ms");
    findings.time(
        &interval,
        "the interval",
        check.interval_ms,
        INTERVAL_MS_MIN,
        PAUSE_MS_MAX,
    );
    let timeout = path.field("timeout_ms");
    findings.time(
        &timeout,
        "the timeout",
        check.timeout_ms,
        TIMEOUT_MS_MIN,
        PAUSE_MS_MAX,
    );
    if check.timeout_ms > check.interval_ms {
        let message = format!(
            "the timeout of {} is longer than the interval of {}",
            duration(check.timeout_ms),
            duration(check.interval_ms)
        );
        findings
            .warning(&timeout, message)
            .why("a task that hangs is asked less often than was said");
    }
    let start = path.field("start_period_ms");
    findings.time(
        &start,
        "the start period",
        check.start_period_ms,
        0,
        PAUSE_MS_MAX,
    );
    for (field, count) in [
        ("healthy_after", check.healthy_after),
        ("unhealthy_after", check.unhealthy_after),
    ] {
        if !(1..=ANSWERS_MAX).contains(&count) {
            let message = format!("answers in a row are counted from 1 to {ANSWERS_MAX}");
            findings.error(&path.field(field), message);
        }
    }
    let deadline = wish.change.update.health_deadline_ms;
    let rounds = u64::from(check.healthy_after.saturating_sub(1));
    let earliest = check.interval_ms.saturating_mul(rounds);
    if earliest > deadline {
        let message = format!(
            "a task is healthy after {} at the earliest, but a new version has {}",
            duration(earliest),
            duration(deadline)
        );
        findings
            .error(&interval, message)
            .why("each update would fail")
            .hint("ask more often, or set update(health_deadline = ...)");
    }
    if check.start_period_ms > deadline {
        let message = format!(
            "the start period of {} is longer than an update waits for health, {}",
            duration(check.start_period_ms),
            duration(deadline)
        );
        findings
            .error(&start, message)
            .why("each update would fail while its tasks may still be starting")
            .hint("raise the update's health deadline");
    }
}

fn check_metric(
    path: &FieldPath,
    metric: &MetricThreshold,
    ports: &[PortSpec],
    findings: &mut Findings,
) {
    check_port(&path.field("port"), &metric.port, ports, findings);
    findings.http_path(&path.field("path"), &metric.path);
    let name = path.field("metric");
    if !is_metric(&metric.metric, ":") {
        findings
            .error(
                &name,
                format!("{:?} is not the name of a metric", metric.metric),
            )
            .hint("letters, digits, '_' and ':' are allowed, and no digit in front");
    }
    let labels = path.field("labels");
    findings.at_most(&labels, "labels", metric.labels.len(), ENTRIES_MAX);
    for (label, value) in &metric.labels {
        if !is_metric(label, "") {
            let message = format!("{label:?} is not the name of a label");
            findings.error(&labels.key(label), message);
        }
        findings.text(&labels.key(label), "the label", value, WORD_BYTES_MAX);
    }
    if !is_decimal(&metric.threshold) {
        findings
            .error(
                &path.field("threshold"),
                format!("{:?} is not a number", metric.threshold),
            )
            .hint("write it as 100, -3 or 0.95");
    }
    let interval = path.field("interval_ms");
    findings.time(
        &interval,
        "the interval",
        metric.interval_ms,
        INTERVAL_MS_MIN,
        PAUSE_MS_MAX,
    );
    findings.time(
        &path.field("for_ms"),
        "the time",
        metric.for_ms,
        0,
        WAIT_MS_MAX,
    );
    if metric.for_ms > 0 && metric.for_ms < metric.interval_ms {
        let message = format!(
            "{} is shorter than the interval of {}",
            duration(metric.for_ms),
            duration(metric.interval_ms)
        );
        findings
            .error(&path.field("for_ms"), message)
            .why("one reading says nothing about how long it holds")
            .hint("set it to 0 to act on one reading");
    }
}

fn is_metric(name: &str, more: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
    !name.is_empty()
        && name.len() <= WORD_BYTES_MAX
        && name.chars().all(allowed)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Digits with one point at most, and a sign.
fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = text.strip_prefix('-').unwrap_or(text);
    let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
    text.len() <= 40 && digits(whole) && digits(rest)
}
