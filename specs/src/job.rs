//! The job: what a spec evaluates to, and what is signed, stored and run.

use crate::{
    FleetId, JobName, Millis, PackageId,
    codec::{self, CodecError},
    trust::{
        Context, SecretKey, SignatureError, Signed, TrustError, UserCertificate, UserCredential,
    },
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Largest job in its canonical encoding: it travels in awards and stands in
/// the log.
pub const JOB_BYTES_MAX: usize = 256 << 10;

/// A job as its spec file says it: the package may still be a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobDraft {
    /// Namespace and name.
    pub name: JobName,
    /// How many slots.
    pub replicas: u32,
    /// The program.
    pub package: PackageSource,
    /// What each slot runs.
    pub task: TaskTemplate,
}

/// Where a spec says that its program is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PackageSource {
    /// A file or folder, relative to the spec file.
    Path(PathBuf),
    /// A package that the cluster has.
    Id(PackageId),
}

/// A named, versioned wish. Its canonical bytes are signed by the user's key
/// and never encoded again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The fleet that it is for.
    pub fleet: FleetId,
    /// The cluster that it is for.
    pub cluster: String,
    /// Namespace and name.
    pub name: JobName,
    /// Per-job counter, from 1: the version.
    pub version: u64,
    /// How many slots.
    pub replicas: u32,
    /// The program.
    pub package: PackageId,
    /// What each slot runs.
    pub task: TaskTemplate,
}

/// What each slot of a job runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTemplate {
    /// Path in the package (`bin/server`), or an absolute path on the host.
    pub command: String,
    /// Arguments after the command.
    pub args: Vec<String>,
    /// Environment, on top of what potluck sets (`POTLUCK_*`, `PORT_*`).
    pub env: BTreeMap<String, String>,
    /// What one task needs.
    pub resources: Resources,
    /// Ports that the task listens on.
    pub ports: Vec<PortSpec>,
    /// Services that the task offers on its ports.
    pub services: Vec<ServiceSpec>,
    /// When it counts as healthy; without one: while it runs.
    pub health: Option<HealthCheck>,
    /// What happens when it exits.
    pub restart: RestartPolicy,
    /// How it is told to stop.
    pub stop: StopPolicy,
}

/// What a task needs, or a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Resources {
    /// Does `need` fit into this?
    pub fn fits(&self, need: &Resources) -> bool {
        self.cpu_millis >= need.cpu_millis && self.memory_bytes >= need.memory_bytes
    }

    /// Both together.
    pub fn plus(self, other: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    /// What is left, never below zero.
    pub fn minus(self, other: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }
}

/// A port of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// A name under which a task can be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The service; unique in the namespace.
    pub name: String,
    /// The port, by its name.
    pub port: String,
}

/// How a task shows that it is healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum HealthCheck {
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
}

/// What happens when a task exits by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// First pause; doubles up to the limit.
    pub backoff_ms: u64,
    /// Longest pause. A run of this length or more starts the count anew.
    pub backoff_max_ms: u64,
}

/// How a task is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopPolicy {
    /// Signal number (15, SIGTERM, unless said otherwise).
    pub signal: i32,
    /// Time between the signal and the kill.
    pub grace_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy {
            backoff_ms: 250,
            backoff_max_ms: 30_000,
        }
    }
}

impl Default for StopPolicy {
    fn default() -> StopPolicy {
        StopPolicy {
            signal: 15,
            grace_ms: 10_000,
        }
    }
}

impl JobDraft {
    /// The job that a user signs, once its package is stored.
    pub fn bind(self, fleet: FleetId, cluster: &str, version: u64, package: PackageId) -> Job {
        let JobDraft {
            name,
            replicas,
            package: _,
            task,
        } = self;
        Job {
            fleet,
            cluster: cluster.into(),
            name,
            version,
            replicas,
            package,
            task,
        }
    }
}

/// A job's exact bytes with who signed them: what is stored, sent in awards
/// and checked by every host before it runs anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedJob {
    /// Canonical bytes of a [`Job`], signed by the user's key.
    pub job: Signed,
    /// Who signed.
    pub author: UserCredential,
}

/// A signed job that is refused.
#[derive(Debug, thiserror::Error)]
pub enum SignedJobError {
    /// The author's certificate is not accepted.
    #[error("the author of the job is not trusted")]
    Author(#[source] TrustError),
    /// The author's key did not sign these bytes.
    #[error("the job's signature does not hold")]
    Signature(#[from] SignatureError),
    /// The bytes are no job.
    #[error("the job can't be read")]
    Malformed(#[from] CodecError),
    /// The author may not deploy to the namespace.
    #[error("user {user:?} may not deploy to namespace {namespace:?}")]
    Forbidden {
        /// The author.
        user: String,
        /// Where to.
        namespace: String,
    },
    /// Signed for another fleet or cluster.
    #[error("the job is signed for {theirs}, this is {ours}")]
    Elsewhere {
        /// Fleet and cluster in the job.
        theirs: String,
        /// Fleet and cluster here.
        ours: String,
    },
}

impl SignedJob {
    /// Signs a job.
    pub fn new(key: &SecretKey, author: UserCredential, job: &Job) -> SignedJob {
        SignedJob {
            job: Signed::new(key, Context::Job, codec::encode(job)),
            author,
        }
    }

    /// The job and its author, if everything about them holds at `now` (Unix
    /// time) for this fleet and cluster. Every host asks this before it runs
    /// a task, so that a stolen scheduler cannot run code of its own.
    ///
    /// # Errors
    /// Any [`SignedJobError`].
    pub fn verify(
        &self,
        fleet: FleetId,
        cluster: &str,
        now: Millis,
    ) -> Result<(Job, UserCertificate), SignedJobError> {
        let author = self
            .author
            .verify(fleet, now)
            .map_err(SignedJobError::Author)?;
        let job = self.read(&author)?;
        if job.fleet != fleet || job.cluster != cluster {
            return Err(SignedJobError::Elsewhere {
                theirs: format!("{}/{}", job.fleet, job.cluster),
                ours: format!("{fleet}/{cluster}"),
            });
        }
        if !author.may_deploy(&job.name.namespace) {
            let namespace = job.name.namespace;
            return Err(SignedJobError::Forbidden {
                user: author.user,
                namespace,
            });
        }
        Ok((job, author))
    }

    fn read(&self, author: &UserCertificate) -> Result<Job, SignedJobError> {
        let bytes = self.job.verify(&author.key, Context::Job)?;
        Ok(codec::decode_canonical("job", bytes, JOB_BYTES_MAX)?)
    }

    /// The job without any check: for bytes that were checked before they
    /// were committed.
    ///
    /// # Errors
    /// If the bytes are no job.
    pub fn decode_unchecked(&self) -> Result<Job, CodecError> {
        codec::decode_canonical("job", &self.job.bytes, JOB_BYTES_MAX)
    }
}
