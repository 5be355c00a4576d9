//! How a task shows that it is well, and what happens when it is not.

use super::record::record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

record! {
    /// A question asked again and again.
    pub struct HealthCheck {
        /// What is asked.
        pub probe: Probe = Probe::Tcp { port: String::new() },
        /// Between two questions.
        pub interval_ms: u64 = 1_000,
        /// Longest wait for an answer.
        pub timeout_ms: u64 = 1_000,
        /// Good answers in a row that make the task healthy.
        pub healthy_after: u32 = 1,
        /// Bad answers in a row that make it unhealthy: one lost packet is no
        /// reason to move clients away.
        pub unhealthy_after: u32 = 3,
        /// After its start: until its first good answer questions come more
        /// often, since clients wait for it.
        pub start_period_ms: u64 = 10_000,
        /// What happens when it is unhealthy.
        pub action: HealthAction = HealthAction::Withdraw,
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// The port accepts a connection.
    Tcp {
        /// By its name.
        port: String,
    },
    /// `GET path` on the port answers 200 to 399.
    Http {
        /// By its name.
        port: String,
        /// Begins with `/`.
        path: String,
    },
    /// A command in the task's sandbox exits with 0.
    Exec {
        /// As the task's own command.
        command: String,
        /// After it.
        args: Vec<String>,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// By its name.
        port: String,
        /// The service that is asked about; empty for the whole server.
        service: String,
    },
}

/// What happens to a task that is not well. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    /// Clients are no longer sent to it.
    Withdraw,
    /// It is started again on its node.
    Restart,
    /// It is started on another node.
    Migrate,
}

impl HealthCheck {
    /// A check with everything else at its default.
    pub fn of(probe: Probe) -> HealthCheck {
        HealthCheck {
            probe,
            ..HealthCheck::default()
        }
    }

    /// Does the port accept a connection?
    pub fn tcp(port: &str) -> HealthCheck {
        HealthCheck::of(Probe::Tcp { port: port.into() })
    }

    /// Does `GET path` answer well?
    pub fn http(port: &str, path: &str) -> HealthCheck {
        HealthCheck::of(Probe::Http {
            port: port.into(),
            path: path.into(),
        })
    }
}

impl Probe {
    /// The port that is asked, by its name.
    pub fn port(&self) -> Option<&str> {
        match self {
            Probe::Tcp { port } | Probe::Http { port, .. } | Probe::Grpc { port, .. } => Some(port),
            Probe::Exec { .. } => None,
        }
    }
}

record! {
    /// A metric of the task that must not stay beyond a threshold.
    pub struct MetricThreshold {
        /// Where its metrics are, in the text format of Prometheus: a port by
        /// its name.
        pub port: String = String::new(),
        /// Begins with `/`.
        pub path: String = "/metrics".into(),
        /// The metric.
        pub metric: String = String::new(),
        /// Only series with these labels; any of them beyond the threshold
        /// counts.
        pub labels: BTreeMap<String, String> = BTreeMap::new(),
        /// How the metric's value stands to the threshold when the task is
        /// not well.
        pub comparison: Comparison = Comparison::Greater,
        /// A decimal number as text: `0.95`, `-3`, `100`.
        pub threshold: String = "0".into(),
        /// Between two readings.
        pub interval_ms: u64 = 15_000,
        /// How long it must hold.
        pub for_ms: u64 = 60_000,
        /// What happens then.
        pub action: HealthAction = HealthAction::Restart,
    }
}

/// How a value stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
}
