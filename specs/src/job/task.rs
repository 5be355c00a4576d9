//! What each slot of a job runs.

use super::{
    files::{Mount, RenderedFile},
    health::{HealthCheck, MetricThreshold},
    record::record,
    resources::{Adaptive, Limits, Resources},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

record! {
    /// What each slot of a job runs.
    pub struct TaskTemplate {
        /// Path in the package (`bin/server`), or an absolute path on the host.
        pub command: String = String::new(),
        /// Arguments after the command, with interpolation.
        pub args: Vec<String> = Vec::new(),
        /// Environment, on top of what potluck sets (`POTLUCK_*`, `PORT_*`),
        /// with interpolation.
        pub env: BTreeMap<String, String> = BTreeMap::new(),
        /// Files that are written into the task.
        pub files: Vec<RenderedFile> = Vec::new(),
        /// What one task needs.
        pub resources: Resources = Resources::OF_A_TASK,
        /// Beyond what it may not go.
        pub limits: Limits = Limits::default(),
        /// Counted devices, by their kind: `nvidia.com/gpu`.
        pub devices: BTreeMap<String, u32> = BTreeMap::new(),
        /// Requests that follow what is used.
        pub adaptive: Adaptive = Adaptive::default(),
        /// Ports that the task listens on.
        pub ports: Vec<PortSpec> = Vec::new(),
        /// Services that the task offers on its ports.
        pub services: Vec<ServiceSpec> = Vec::new(),
        /// It is healthy when all of them say so; without any: while it runs.
        pub health: Vec<HealthCheck> = Vec::new(),
        /// Metrics that must not stay beyond a threshold.
        pub metrics: Vec<MetricThreshold> = Vec::new(),
        /// Run one after the other before the task; if one fails, it failed.
        pub setup: Vec<Hook> = Vec::new(),
        /// Run one after the other when the task has ended, whatever the end.
        pub teardown: Vec<Hook> = Vec::new(),
        /// What happens when it exits.
        pub restart: RestartPolicy = RestartPolicy::default(),
        /// How it is told to stop.
        pub stop: StopPolicy = StopPolicy::default(),
        /// Further places in its file system.
        pub mounts: Vec<Mount> = Vec::new(),
        /// As whom it runs: a name that the node knows, or `uid:gid`. Without
        /// one, what the node is set to.
        pub user: Option<String> = None,
        /// How well it is kept apart from the host and from others.
        pub isolation: Isolation = Isolation::Default,
        /// What is kept of what it prints.
        pub logs: LogPolicy = LogPolicy::default(),
    }
}

impl TaskTemplate {
    /// A task with everything but its command at its default.
    pub fn new(command: &str) -> TaskTemplate {
        TaskTemplate {
            command: command.into(),
            ..TaskTemplate::default()
        }
    }
}

/// A port of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Told to the task as `PORT_<NAME>`.
    pub name: String,
    /// A fixed number, or one that the node chooses.
    pub number: Option<u16>,
}

impl PortSpec {
    /// The variable that tells the task its number: `PORT_HTTP`. Names are DNS
    /// labels, so two ports never share one.
    pub fn variable(&self) -> String {
        let name = self.name.to_ascii_uppercase().replace('-', "_");
        format!("PORT_{name}")
    }
}

record! {
    /// A name under which a task can be found.
    pub struct ServiceSpec {
        /// The service; unique in the namespace.
        pub name: String = String::new(),
        /// The port, by its name.
        pub port: String = String::new(),
        /// Words that clients can choose endpoints by.
        pub tags: Vec<String> = Vec::new(),
    }
}

impl ServiceSpec {
    /// A service without tags.
    pub fn new(name: &str, port: &str) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            port: port.into(),
            tags: Vec::new(),
        }
    }
}

record! {
    /// A command before or after the task, in its sandbox.
    pub struct Hook {
        /// As the task's own command.
        pub command: String = String::new(),
        /// After it.
        pub args: Vec<String> = Vec::new(),
        /// It is killed, and has failed, after this long.
        pub timeout_ms: u64 = 60_000,
    }
}

record! {
    /// What happens when a task exits by itself.
    #[derive(Copy)]
    pub struct RestartPolicy {
        /// First pause; doubles up to the limit.
        pub backoff_ms: u64 = 250,
        /// Longest pause. A run of this length or more starts the count anew.
        pub backoff_max_ms: u64 = 30_000,
        /// After which exits it starts again. Of work that ends `retries` say
        /// it instead.
        pub on: RestartOn = RestartOn::Always,
        /// Failures in a row after which it moves to another node; without a
        /// number, three.
        pub attempts: Option<u32> = None,
    }
}

record! {
    /// What is kept of what a task prints, on its node.
    #[derive(Copy)]
    pub struct LogPolicy {
        /// What follows when the disk refuses lines. (Jobs of before this
        /// field were to wait, too; agents of that time dropped.)
        pub when_full: WhenFull = WhenFull::Block,
        /// Bytes, compressed; the oldest lines go first.
        pub keep_bytes: u64 = 128 << 20,
        /// Lines older than this go. Without it they stay while there is room.
        pub keep_ms: Option<u64> = None,
    }
}

/// What follows when the disk refuses a task's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The task waits as it prints, until the disk takes lines again.
    Block,
    /// They are counted and gone; the log says how many.
    Drop,
}

/// After which exits a task starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RestartOn {
    /// Any.
    Always,
    /// An exit code other than 0, or a signal.
    Failure,
    /// None.
    Never,
}

record! {
    /// How a task is told to stop.
    #[derive(Copy)]
    pub struct StopPolicy {
        /// Signal number (15, SIGTERM, unless said otherwise).
        pub signal: i32 = 15,
        /// Time between the signal and the kill.
        pub grace_ms: u64 = 10_000,
    }
}

/// How well a task is kept apart. A node that can't do it refuses the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// What the node is set to.
    Default,
    /// All that potluck can do.
    Strict,
    /// None: the task sees the host as any process does. Its author must be an
    /// operator too.
    None,
}
