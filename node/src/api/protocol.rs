//! The messages of the API. Every answer that people see as JSON is one of
//! these types, so `-o json` shows what the protocol says.

use super::{
    change::SignedChange,
    error::ApiError,
    exec::{SessionOutput, SignedExec, SshHost},
    logs::{LogLines, LogsRequest},
    operate::{OperateAnswer, OperateQuery, RolloutStatus},
    plan::PlanRequest,
    recovery::RecoveryView,
};
use crate::agent::HelperBuild;
use potluck_core::{
    auction::Refusal,
    cluster::{Origin, Stopped},
    session::TaskState,
    usage::TaskUsage,
};
use potluck_specs::{
    ChunkHash, FleetId, Generation, JobName, Millis, NodeId, PackageId, SlotId, Topology,
    job::Resources, plan::JobPlan, trust::UserCredential,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// Version of the handshake.
pub const API_VERSION: u32 = 1;

/// First frame of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`API_VERSION`] of the client.
    pub version: u32,
    /// Who asks.
    pub credential: UserCredential,
}

/// The node's answer to [`Hello`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// To be signed by the client's key (`trust::Context::Session`), with the
    /// node's id behind it.
    #[serde(with = "serde_bytes")]
    pub challenge: [u8; 32],
}

/// The client's answer to [`Welcome`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// Ed25519 over challenge and node id.
    #[serde(with = "serde_bytes")]
    pub signature: [u8; 64],
}

/// A request; one at a time on a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiRequest {
    /// What node and cluster is this?
    Info,
    /// All nodes ever admitted.
    Nodes,
    /// Jobs in short, or one job with its tasks.
    Jobs {
        /// Only this job, with its tasks.
        job: Option<JobName>,
    },
    /// A manifest of a package to come; answered with the chunks that the
    /// node lacks.
    PutManifest(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Chunks of a package to come, uncompressed.
    PutChunks(Vec<ChunkUpload>),
    /// A signed change; answered when it is durable, or refused.
    Change(Box<SignedChange>),
    /// The cluster's recovery from this node: what it would be, or the order.
    Recover {
        /// The order of an operator; without it nothing is changed.
        order: Option<Box<SignedChange>>,
        /// Whatever speaks against it.
        force: bool,
    },
    /// What goes into the scheduler on this node, as a recording: frames of
    /// [`ApiFrame::Recorded`], then the end.
    Record {
        /// At most so long.
        seconds: u64,
        /// At most so much.
        bytes_max: u64,
    },
    /// What goes into this node's own decisions, in the same way.
    RecordHost {
        /// At most so long.
        seconds: u64,
        /// At most so much.
        bytes_max: u64,
    },
    /// Where is this service?
    Resolve {
        /// The namespace.
        namespace: String,
        /// The service.
        service: String,
        /// Ask the nodes that hold it, whatever the asked node's cache says.
        fresh: bool,
    },
    /// A task's log.
    Logs(LogsRequest),
    /// Why is this slot where it is, or nowhere?
    Explain(SlotId),
    /// Packages on this node, with where their bytes came from.
    Packages,
    /// What operators want to know.
    Operate(OperateQuery),
    /// The versions of a job that are kept.
    History(JobName),
    /// One version of a job with its content.
    Version {
        /// The job.
        job: JobName,
        /// Which; the one that should run, if none is named.
        version: Option<u64>,
    },
    /// What a change of these jobs would do; nothing is changed. Answered for
    /// the first of them, as many as fit into an answer.
    Plan(PlanRequest),
    /// Jobs that run and were last submitted from this spec file.
    JobsOfSpec(String),
    /// A session in a task. The connection is the session's from here on, in
    /// both directions, and ends with it.
    Exec(Box<SignedExec>),
    /// What the tasks of a job use.
    Usage(JobName),
}

/// A chunk on its way into a node's store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkUpload {
    /// BLAKE3 of the bytes.
    pub hash: ChunkHash,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A frame from the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiFrame {
    /// The only answer.
    Answer(Box<ApiAnswer>),
    /// Lines of a log; more may follow.
    Lines(LogLines),
    /// The next bytes of a recording.
    Recorded(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The end of a stream of frames.
    End,
    /// Something that takes long goes on; for a person who waits.
    Progress(String),
    /// Something that a person should know beside the answer, which follows.
    Warning(String),
    /// Of a session in a task.
    Session(SessionOutput),
    /// Before the bytes of a connection of ssh.
    Ssh(Box<SshHost>),
    /// Refused or failed.
    Failure(ApiError),
    /// A request of a newer version.
    #[serde(other)]
    Unsupported,
}

/// Answers to requests that have one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiAnswer {
    /// To `Info`.
    Info(Box<Info>),
    /// To `Nodes`.
    Nodes(Vec<NodeStatus>),
    /// To `Jobs`.
    Jobs(Vec<JobStatus>),
    /// To `PutManifest` and `PutChunks`: what is still missing (at most
    /// some thousand at a time).
    Missing(Vec<ChunkHash>),
    /// To `Change`.
    Changed(Changed),
    /// To `Recover`.
    Recovery(Box<RecoveryView>),
    /// To `Resolve`.
    Resolved(Resolved),
    /// To `Explain`.
    Explained(Explained),
    /// To `Packages`.
    Packages(Vec<PackageStatus>),
    /// To `Operate`.
    Operate(OperateAnswer),
    /// To `History`, the newest first.
    History(Vec<VersionStatus>),
    /// To `Version`.
    Version(Box<VersionContent>),
    /// To `Plan`.
    Planned(Vec<JobPlan>),
    /// To `JobsOfSpec`.
    JobsOfSpec(Vec<JobName>),
    /// To `Usage`.
    Usage(Vec<UsageStatus>),
}

/// What a task uses, and where it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsageStatus {
    /// The node's name.
    pub node: String,
    /// The figures.
    pub usage: TaskUsage,
}

/// What node and cluster this is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Info {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: String,
    /// The node's key.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Where it stands.
    pub topology: Topology,
    /// Version of the program.
    pub version: String,
    /// The scheduler, if there is one.
    pub leader: Option<String>,
    /// Names of the voters.
    pub voters: Vec<String>,
    /// Epoch and reign.
    pub authority: (u64, u64),
    /// Things that a person should know: one rack holds a majority, the brake
    /// is on, isolation that can't be had here.
    pub warnings: Vec<String>,
    /// Datagrams dropped by the gossip seal.
    pub gossip_dropped: u64,
    /// Its pid.
    pub pid: u32,
    /// Helpers of its tasks, by builds. Nodes of earlier versions don't say.
    #[serde(default)]
    pub helpers: Vec<HelperBuild>,
}

/// One node, present or absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its key.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Where it stands.
    pub topology: Topology,
    /// `up`, `out`, `unreachable`, `dead`, `unknown`.
    pub state: String,
    /// Takes no new work.
    pub draining: bool,
    /// `leader`, `voter`, `learner` or nothing.
    pub role: Option<String>,
    /// Where it can be reached.
    pub address: Option<SocketAddr>,
    /// Free for tasks.
    pub free: Option<Resources>,
    /// All that it has for tasks.
    pub total: Option<Resources>,
    /// Tasks on it.
    pub tasks: u32,
    /// Takes no new work, and keeps what it has.
    #[serde(default)]
    pub cordoned: bool,
    /// The member that carries its session, since it does not reach the
    /// scheduler itself.
    #[serde(default)]
    pub relayed_by: Option<String>,
}

/// One job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobStatus {
    /// Namespace and name.
    pub name: JobName,
    /// Its current version.
    pub version: u64,
    /// Slots wanted; of one per node, as many as nodes suit now.
    pub replicas: u32,
    /// One for each node that suits.
    #[serde(default)]
    pub per_node: bool,
    /// On how many nodes is not known: a new scheduler still asks them.
    #[serde(default)]
    pub counting: bool,
    /// Nothing of it is wanted any more.
    pub stopped: bool,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that run and are healthy.
    pub healthy: u32,
    /// Who submitted the current version.
    pub author: String,
    /// When, Unix time.
    #[serde(default)]
    pub accepted_at: Millis,
    /// What they said about it.
    #[serde(default)]
    pub message: String,
    /// Who stopped it, if somebody did.
    #[serde(default)]
    pub stopped_by: Option<Stopped>,
    /// When it was taken from a host into the log of a recovered cluster, Unix
    /// time; nothing once a person has run it again.
    #[serde(default)]
    pub recovered_at: Option<Millis>,
    /// Its package.
    pub package: PackageId,
    /// Services that it offers.
    pub services: Vec<String>,
    /// How far the rollout of its newest version is, unless that is the first.
    #[serde(default)]
    pub rollout: Option<RolloutStatus>,
    /// What is done of it, if its work ends.
    #[serde(default)]
    pub batch: Option<BatchStatus>,
    /// One for each slot that is wanted or still filled.
    pub tasks: Vec<TaskStatus>,
}

/// What is done of work that ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchStatus {
    /// How it stands.
    pub state: BatchState,
    /// How many tasks must succeed.
    pub completions: u32,
    /// How many run at once, at most.
    pub parallelism: u32,
    /// How many have succeeded.
    pub done: u32,
    /// How many failed more often than they may be tried.
    pub failed: u32,
    /// The first of those, by index.
    pub failed_indexes: Vec<u32>,
    /// Why it failed.
    pub why: Option<String>,
    /// Since when it is worked on, Unix time.
    pub began_at: Millis,
    /// When it came to its end, Unix time.
    pub ended_at: Option<Millis>,
    /// When it fails if it is not done, Unix time.
    pub deadline: Option<Millis>,
}

/// How work that ends stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Not over.
    Running,
    /// All is done.
    Complete,
    /// Some of it failed for good.
    Failed,
    /// It was not done in time.
    DeadlineExceeded,
    /// It was recovered from a host, and what was done before is not known.
    Unknown,
    /// A state that a newer version knows.
    #[serde(other)]
    Other,
}

impl JobStatus {
    /// How far it is, in a few words.
    pub fn progress(&self) -> String {
        match &self.batch {
            None if self.counting => format!("{}/? healthy", self.healthy),
            None if self.per_node && self.replicas == 0 && !self.stopped => {
                "0/0 healthy: no node meets its requirements now".into()
            }
            None => format!("{}/{} healthy", self.healthy, self.replicas),
            Some(batch) => {
                let mut words = format!("{}/{} done", batch.done, batch.completions);
                if self.running > 0 {
                    words.push_str(&format!(", {} running", self.running));
                }
                if batch.failed > 0 {
                    words.push_str(&format!(", {} failed", batch.failed));
                }
                words
            }
        }
    }
}

impl BatchStatus {
    /// How it stands, in words.
    pub fn told(&self) -> String {
        let name = self.state.name();
        match &self.why {
            Some(why) => format!("{name}: {why}"),
            None => name.into(),
        }
    }
}

impl BatchState {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            BatchState::Running => "running",
            BatchState::Complete => "complete",
            BatchState::Failed => "failed",
            BatchState::DeadlineExceeded => "deadline exceeded",
            BatchState::Unknown => "not known",
            BatchState::Other => "unknown",
        }
    }
}

/// One slot of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The slot.
    pub slot: SlotId,
    /// `None`: waits for a place.
    pub node: Option<String>,
    /// The node's rack.
    pub rack: Option<String>,
    /// What the task is doing.
    pub state: Option<TaskState>,
    /// It passes its health check.
    pub healthy: bool,
    /// Under which generation.
    pub generation: Option<Generation>,
    /// The job's version that it was started as.
    pub version: Option<u64>,
    /// The job's newest version runs the same task, so that it was not
    /// started again for it.
    #[serde(default)]
    pub up_to_date: bool,
    /// Its address and ports by name.
    pub ports: BTreeMap<String, SocketAddr>,
    /// Starts of its process.
    pub starts: u32,
    /// How its last process ended, or why it could not start.
    pub last_end: Option<String>,
    /// Since when it is in this state, Unix time.
    pub since: Option<Millis>,
    /// Why it waits, in one line.
    pub waits_for: Option<String>,
    /// Failures in a row, without a long run between.
    #[serde(default)]
    pub failures: u32,
    /// What is amiss while it runs.
    #[serde(default)]
    pub trouble: Option<String>,
    /// When it is started again after a failure, Unix time.
    #[serde(default)]
    pub next_try: Option<Millis>,
    /// The node on which its volumes stayed when it came to where it is, as far
    /// as the present scheduler has seen it.
    #[serde(default)]
    pub volumes_left: Option<String>,
}

/// One version of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// From 1.
    pub version: u64,
    /// It is the newest: what should run, unless the job is stopped.
    pub current: bool,
    /// Who submitted it.
    pub author: String,
    /// When it was accepted, Unix time.
    pub accepted_at: Millis,
    /// What its author said about it.
    pub message: String,
    /// Its package.
    pub package: PackageId,
    /// Slots wanted.
    pub replicas: u32,
    /// One for each node that suits: `replicas` says nothing.
    #[serde(default)]
    pub per_node: bool,
    /// Where it came from.
    pub origin: Origin,
}

/// One version of a job with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionContent {
    /// Which it is.
    pub about: VersionStatus,
    /// The job is stopped.
    pub stopped: bool,
    /// The job's canonical bytes: a job with fields that the reader does not
    /// know is then an error of its own, not a lost session.
    #[serde(with = "serde_bytes")]
    pub job: Vec<u8>,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    /// The job is accepted: it and its package survive the loss of any node.
    JobAccepted {
        /// Its name.
        job: JobName,
        /// Its version.
        version: u64,
        /// Who holds the package.
        holders: Vec<String>,
    },
    /// The job is this already: nothing was changed.
    JobUnchanged {
        /// Its name.
        job: JobName,
        /// The version that it is at.
        version: u64,
    },
    /// The job is stopped.
    JobStopped {
        /// Its name.
        job: JobName,
    },
    /// The token can be used.
    TokenCreated,
    /// The token can be used no more.
    TokenRevoked,
    /// The node's drain is switched.
    Drained,
    /// The node is forgotten.
    Removed,
    /// The operation is in the log.
    Operated,
}

/// Where a service is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resolved {
    /// The service.
    pub service: String,
    /// Epoch, reign, counter of the slice.
    pub revision: (u64, u64, u64),
    /// Past its expiry, or out of suspects only.
    pub stale: bool,
    /// `cache` or `dht`.
    pub source: String,
    /// Where.
    pub endpoints: Vec<EndpointStatus>,
}

/// One address behind a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Which task.
    pub slot: SlotId,
    /// Its node.
    pub node: NodeId,
    /// The node's rack.
    pub rack: String,
    /// Where to connect.
    pub address: SocketAddr,
}

/// Why a task is where it is, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Every host: where the task is, then those that could take it by price,
    /// then the others by how much is in the way.
    pub hosts: Vec<HostVerdict>,
    /// If no host can take it: those that lack least.
    pub closest: Vec<String>,
    /// If no host can take it: the smallest change of the job that would
    /// place it.
    pub change: Option<String>,
    /// What the job waits for before any of its tasks starts.
    #[serde(default)]
    pub waits: Vec<String>,
    /// The node on which its volumes stayed when it came to where it is, as far
    /// as the present scheduler has seen it.
    #[serde(default)]
    pub volumes_left: Option<String>,
}

/// What the scheduler thinks of a host for a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVerdict {
    /// The host.
    pub node: String,
    /// Its rack.
    pub rack: String,
    /// The task is there, or is being placed there.
    pub holds: bool,
    /// In one line.
    pub verdict: String,
    /// Everything that is in the way.
    pub obstacles: Vec<String>,
    /// What the place costs; the lowest wins.
    pub price: i64,
    /// What the host itself answered, if it refused.
    pub refusal: Option<Refusal>,
}

/// One package on a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackageStatus {
    /// Its id.
    pub package: PackageId,
    /// Uncompressed size.
    pub bytes: u64,
    /// All chunks are here.
    pub complete: bool,
    /// Bytes fetched, by the name of the node they came from.
    pub bytes_by_source: BTreeMap<String, u64>,
}
