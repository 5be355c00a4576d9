//! Format 0: the first that was, kept as it was. Nothing here may change.

use crate::{
    FleetId, JobName, PackageId,
    job::{self, HealthCheck, JobKind, Probe, interpolation::escape},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    fleet: FleetId,
    cluster: String,
    name: JobName,
    version: u64,
    replicas: u32,
    package: PackageId,
    task: Task,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    command: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    resources: Resources,
    ports: Vec<Port>,
    services: Vec<Service>,
    health: Option<Health>,
    restart: Restart,
    stop: Stop,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    cpu_millis: u32,
    memory_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    name: String,
    number: Option<u16>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: String,
    port: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Health {
    Tcp { port: String },
    Http { port: String, path: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    backoff_ms: u64,
    backoff_max_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    signal: i32,
    grace_ms: u64,
}

impl From<Job> for job::Job {
    fn from(old: Job) -> job::Job {
        job::Job {
            fleet: old.fleet,
            cluster: old.cluster,
            name: old.name,
            version: old.version,
            kind: JobKind::service(old.replicas),
            package: old.package,
            task: old.task.into(),
            ..job::Job::default()
        }
    }
}

impl From<Task> for job::TaskTemplate {
    fn from(old: Task) -> job::TaskTemplate {
        let port = |Port { name, number }| job::PortSpec { name, number };
        let service = |old: Service| job::ServiceSpec::new(&old.name, &old.port);
        let health = |old| match old {
            Health::Tcp { port } => HealthCheck::of(Probe::Tcp { port }),
            Health::Http { port, path } => HealthCheck::of(Probe::Http { port, path }),
        };
        job::TaskTemplate {
            command: old.command,
            // Then these were taken as they are.
            args: old.args.iter().map(|arg| escape(arg)).collect(),
            env: old
                .env
                .into_iter()
                .map(|(name, value)| (name, escape(&value)))
                .collect(),
            resources: job::Resources::new(old.resources.cpu_millis, old.resources.memory_bytes),
            ports: old.ports.into_iter().map(port).collect(),
            services: old.services.into_iter().map(service).collect(),
            health: old.health.into_iter().map(health).collect(),
            restart: job::RestartPolicy {
                backoff_ms: old.restart.backoff_ms,
                backoff_max_ms: old.restart.backoff_max_ms,
                ..job::RestartPolicy::default()
            },
            stop: job::StopPolicy {
                signal: old.stop.signal,
                grace_ms: old.stop.grace_ms,
            },
            ..job::TaskTemplate::default()
        }
    }
}
