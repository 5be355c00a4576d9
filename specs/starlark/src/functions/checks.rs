//! How a task shows that it is well: health checks and thresholds of metrics.

use super::param;
use crate::define::{
    Default::{Is, Required},
    Function, Group, Kind, Param,
};

/// What an unhealthy task has to expect: each includes the ones before it.
const ACTIONS: Kind = Kind::Word(&["withdraw", "restart", "migrate"]);

const PORT: Param = param("port", Kind::Text, Required, "The port, by its name.");

/// What all checks have in common.
static COMMON: Group = Group {
    title: "Of every check",
    params: &[
        param(
            "interval",
            Kind::Duration,
            Is("\"1s\""),
            "Between two questions.",
        ),
        param(
            "timeout",
            Kind::Duration,
            Is("\"1s\""),
            "Longest wait for an answer.",
        ),
        param(
            "healthy_after",
            Kind::Count,
            Is("1"),
            "Good answers in a row that make the task healthy.",
        ),
        param(
            "unhealthy_after",
            Kind::Count,
            Is("3"),
            "Bad answers in a row that make it unhealthy.",
        ),
        param(
            "start_period",
            Kind::Duration,
            Is("\"10s\""),
            "After its start it is asked more often, until its first good answer.",
        ),
        param(
            "action",
            ACTIONS,
            Is("\"withdraw\""),
            "What happens when it is unhealthy: clients are no longer sent to it, it is started again on its node, or on another.",
        ),
    ],
};

const ELSEWHERE: &[(&str, &str)] = &[
    ("failures", "unhealthy_after"),
    ("failure_threshold", "unhealthy_after"),
    ("retries", "unhealthy_after"),
    ("success_threshold", "healthy_after"),
    ("initial_delay", "start_period"),
    ("period", "interval"),
];

pub(super) static HTTP: Function = Function {
    name: "http",
    doc: "A check: `GET path` on the port answers 200 to 399.",
    groups: &[
        &Group {
            title: "",
            params: &[
                PORT,
                param("path", Kind::Text, Is("\"/\""), "Begins with '/'."),
            ],
        },
        &COMMON,
    ],
    positional: 2,
    gathers: false,
    elsewhere: &[
        ("url", "path"),
        ("failures", "unhealthy_after"),
        ("failure_threshold", "unhealthy_after"),
        ("retries", "unhealthy_after"),
        ("success_threshold", "healthy_after"),
        ("initial_delay", "start_period"),
        ("period", "interval"),
    ],
    example: "http(\"http\", \"/healthz\", interval = \"5s\")",
};

pub(super) static TCP: Function = Function {
    name: "tcp",
    doc: "A check: the port accepts a connection.",
    groups: &[
        &Group {
            title: "",
            params: &[PORT],
        },
        &COMMON,
    ],
    positional: 1,
    gathers: false,
    elsewhere: ELSEWHERE,
    example: "tcp(\"http\")",
};

pub(super) static EXEC: Function = Function {
    name: "exec",
    doc: "A check: a command in the task's sandbox exits with 0.",
    groups: &[
        &Group {
            title: "",
            params: &[
                param("command", Kind::Text, Required, "As the task's own."),
                param("args", Kind::List(&Kind::Text), Is("[]"), "After it."),
            ],
        },
        &COMMON,
    ],
    positional: 1,
    gathers: false,
    elsewhere: ELSEWHERE,
    example: "exec(\"bin/check\", args = [\"--quick\"])",
};

pub(super) static GRPC: Function = Function {
    name: "grpc",
    doc: "A check: `grpc.health.v1.Health/Check` answers SERVING.",
    groups: &[
        &Group {
            title: "",
            params: &[
                PORT,
                param(
                    "service",
                    Kind::Text,
                    Is("\"\""),
                    "The service that is asked about; empty for the whole server.",
                ),
            ],
        },
        &COMMON,
    ],
    positional: 2,
    gathers: false,
    elsewhere: ELSEWHERE,
    example: "grpc(\"rpc\", \"shop.Cart\")",
};

pub(super) static METRIC: Function = Function {
    name: "metric",
    doc: "A metric that must not stay beyond a threshold.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "when",
                Kind::Text,
                Required,
                "An expression over one metric: `queue_depth{queue=\"mail\"} > 1000`. Series without the labels don't count; any of the others beyond the threshold counts.",
            ),
            PORT,
            param(
                "path",
                Kind::Text,
                Is("\"/metrics\""),
                "Where its metrics are, in the text format of Prometheus.",
            ),
            param(
                "interval",
                Kind::Duration,
                Is("\"15s\""),
                "Between two readings.",
            ),
            param(
                "during",
                Kind::Duration,
                Is("\"1m\""),
                "How long it must hold.",
            ),
            param("action", ACTIONS, Is("\"restart\""), "What happens then."),
        ],
    }],
    positional: 2,
    gathers: false,
    elsewhere: &[("expr", "when"), ("for_", "during"), ("lasting", "during")],
    example: "metric('queue_depth{queue=\"mail\"} > 1000', \"http\", during = \"2m\")",
};
