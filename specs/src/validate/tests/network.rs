//! Ports, services, health checks and metrics.

use super::*;

pub(super) const BROKEN: &[Row] = &[
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
];
