//! What nodes say to each other: one closed set of requests and answers.
//!
//! Between our own versions: unknown fields are ignored, an unknown request is
//! answered with [`Response::Unsupported`].

use potluck_core::{
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, StopOrder},
    session::{Heartbeat, HeartbeatAnswer},
    usage::TaskUsage,
};
use potluck_dht::slice::{SliceRequest, SliceResponse};
use potluck_specs::{
    Epoch, Generation, JobName, Millis, NodeId, PackageId, SlotId,
    job::{Resources, SignedJob},
    trust::NodeCredential,
};
use serde::{Deserialize, Serialize};

use crate::api::{
    change::SignedChange,
    error::ApiError,
    operate::OperateQuery,
    plan::PlanRequest,
    protocol::{ApiAnswer, Changed},
};
use crate::{control::LogEnd, runtime::Letter};

/// Largest request: a Raft append of 512 KiB with its frame, or an award with
/// a job of 256 KiB.
pub const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Largest response: a full inventory of some thousand slots.
pub const RESPONSE_BYTES_MAX: u64 = 2 << 20;

/// A request to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// A message of the control group, in its own encoding.
    Raft(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A scheduler asks for all that the node runs, at the start of its reign.
    Greet(Authority),
    /// An agent's heartbeat.
    Heartbeat {
        /// What it says.
        heartbeat: Heartbeat,
        /// The sending process: random, new with each start. Two of one node
        /// show that its data folder was copied.
        process: u64,
        /// How the host is; `None`: one of before it was told.
        #[serde(default)]
        condition: Option<Condition>,
    },
    /// A scheduler calls.
    Call(Call),
    /// A scheduler awards.
    Award(Award),
    /// A scheduler cancels a reservation.
    Cancel {
        /// Whose call.
        authority: Authority,
        /// Which.
        call: u64,
    },
    /// A scheduler stops a slot.
    Stop(StopOrder),
    /// Can you reach this node?
    Probe(NodeId),
    /// A node tells a new scheduler what the log should know of it.
    Introduce(Introduction),
    /// A person's change, handed on to the scheduler.
    Change {
        /// The change.
        change: Box<SignedChange>,
        /// Who holds the job's package so far: the node that received it.
        holder: NodeId,
    },
    /// A person's question that the scheduler answers.
    Query(Query),
    /// A stranger's request to join, handed on to the scheduler.
    Join {
        /// The stranger, proven by its connection to the sender.
        from: NodeId,
        /// Its message, as it came.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// Fetch this package and keep it.
    HoldPackage {
        /// Which.
        package: PackageId,
        /// Who has it.
        holders: Vec<NodeId>,
    },
    /// About a signed slice of a service's endpoints.
    Slice(SliceRequest),
    /// What should people know about the cluster? Any node may ask.
    Concerns,
    /// What do the tasks of this job use on your host? Any node may ask.
    Usage(JobName),
    /// Which certificates are revoked? For nodes that don't follow the log.
    Revocations,
    /// Which logs of this slot do you keep?
    LogOrigins(SlotId),
    /// Where does the node's log end? For a survivor that may go on alone.
    LogEnd,
    /// By which order did the node's epoch begin?
    Recovery,
    /// The latest version of a job that the node holds, for a recovered log
    /// that lacks it.
    HeldJob(JobName),
    /// The node's certificate, for a recovered log that lacks the node.
    Credential,
    /// Carry this to a node that the sender does not reach.
    Relay {
        /// To whom.
        to: NodeId,
        /// What.
        letter: Box<Letter>,
    },
    /// A request that was carried here.
    Relayed(Box<Letter>),
    /// Which of these packages do jobs pin?
    Pinned {
        /// What the node has.
        packages: Vec<PackageId>,
        /// What it runs.
        slots: Vec<SlotVersion>,
    },
}

/// How a host is, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What its wall clock says, Unix time.
    pub unix_at: Millis,
    /// What is wrong with it.
    pub concerns: Vec<String>,
}

/// What the log should know of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its id in the control group.
    pub raft_id: u64,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// All that it has for tasks.
    pub capacity: Resources,
    /// The newest kind of command that it can apply.
    #[serde(default)]
    pub feature_level: u32,
}

/// The version of a job that a slot of a node runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotVersion {
    /// The job.
    pub job: JobName,
    /// The version.
    pub version: u64,
}

/// What jobs pin, of what a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Those that are pinned.
    pub packages: Vec<PackageId>,
    /// The log knows every version that the node runs, so that what is not
    /// pinned is not run either.
    pub covers_slots: bool,
}

/// A job as a host holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldJob {
    /// The signed bytes.
    pub job: SignedJob,
    /// Bytes of its package.
    pub package_bytes: u64,
}

/// What people ask the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// All nodes.
    Nodes,
    /// Jobs in short, or one with its tasks.
    Jobs(Option<JobName>),
    /// Why a slot is where it is.
    Explain(SlotId),
    /// What operators want to know.
    Operate(OperateQuery),
    /// Versions of a job.
    History(JobName),
    /// One version of a job.
    Version(JobName, Option<u64>),
    /// What a change of jobs would do.
    Plan(PlanRequest),
    /// Jobs of a spec file.
    JobsOfSpec(String),
}

/// A node's response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Raft`].
    Raft(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To [`Request::Greet`].
    Inventory(Heartbeat),
    /// To [`Request::Heartbeat`].
    Heartbeat {
        /// The scheduler's answer.
        answer: HeartbeatAnswer,
        /// Names the revocations that the scheduler knows: a node that knows
        /// others asks for them.
        revocations: u64,
    },
    /// To [`Request::Heartbeat`]: another process of this node is there, and
    /// was first.
    Twin,
    /// To [`Request::Call`].
    Call(CallAnswer),
    /// To [`Request::Award`].
    Award(AwardAnswer),
    /// To [`Request::Probe`].
    Probe {
        /// It answered a request of ours just now.
        reachable: bool,
    },
    /// To [`Request::Change`].
    Changed(Result<Changed, ApiError>),
    /// To [`Request::Query`].
    Answer(Box<Result<ApiAnswer, ApiError>>),
    /// To [`Request::Join`], for the stranger.
    Joined(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To [`Request::HoldPackage`].
    Held {
        /// The package's uncompressed size.
        bytes: u64,
    },
    /// To [`Request::Slice`].
    Slice(SliceResponse),
    /// To [`Request::Concerns`].
    Concerns(Vec<String>),
    /// To [`Request::Usage`].
    Usage(Vec<TaskUsage>),
    /// To [`Request::Revocations`]: all serials that are revoked.
    Revocations(Vec<u64>),
    /// To [`Request::LogOrigins`]: by the generations that name them.
    LogOrigins(Vec<Generation>),
    /// To [`Request::LogEnd`].
    LogEnd {
        /// The epoch of the log.
        epoch: Epoch,
        /// Its last entry.
        end: LogEnd,
    },
    /// To [`Request::Recovery`].
    Recovery(Option<Box<SignedChange>>),
    /// To [`Request::HeldJob`].
    HeldJob(Option<Box<HeldJob>>),
    /// To [`Request::Credential`].
    Credential(Box<NodeCredential>),
    /// To [`Request::Relay`] and [`Request::Relayed`]: the answer, signed by
    /// who gives it.
    Relayed(Box<Letter>),
    /// To [`Request::Pinned`].
    Pinned(Pinned),
    /// Done, nothing to say.
    Done,
    /// The node is not the scheduler; here is who is, if known.
    NotLeader(Option<NodeId>),
    /// Refused, for people.
    Refused(String),
    /// A request of a newer version.
    #[serde(other)]
    Unsupported,
}
