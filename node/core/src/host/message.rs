//! What goes into a host's decisions and what comes out: events and effects.
//!
//! Answers for the types only; [`super::Host`] turns one into the other.

use super::encoded;
use crate::{
    attributes::Facts,
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, Refusal, StopOrder, StopReason},
    session::{Heartbeat, HeartbeatAnswer, Outcome},
};
use potluck_specs::{
    Generation, Job, Millis, NodeId, PackageId, SlotId,
    job::{HealthCheck, SignedJob},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// One start of a slot's process. Names the helper, its folder and its cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// The slot.
    pub slot: SlotId,
    /// The generation of the award that brought the job's version here. A
    /// running task that is given a newer generation keeps its origin.
    pub origin: Generation,
    /// Counts the starts under this origin, from 1.
    pub start: u32,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.slot, self.origin, self.start)
    }
}

/// What the journal holds of a slot: all that is needed to run it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The slot.
    pub slot: SlotId,
    /// Under which generation the slot is filled.
    pub generation: Generation,
    /// See [`Run::origin`].
    pub origin: Generation,
    /// The job.
    #[serde(with = "encoded::job")]
    pub job: Arc<Job>,
    /// The job as it was signed.
    #[serde(with = "crate::auction::shared")]
    pub signed: Arc<SignedJob>,
    /// Bytes of the package.
    pub package_bytes: u64,
    /// Nodes that held the package when the slot was awarded.
    pub holders: Vec<NodeId>,
    /// Chosen port numbers by name.
    pub ports: BTreeMap<String, u16>,
    /// Starts until now; may lag behind, since it alone is not worth a sync.
    pub starts: u32,
    /// It has been told to stop.
    pub stop: Option<StopReason>,
    /// How it ended, if it is not started again here.
    pub ended: Option<Outcome>,
}

/// How a task's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Its helper died or did not come back after the agent's restart; all
    /// that was left of the task has been killed.
    HelperLost,
    /// It could not be started, for people.
    NotStarted(String),
    /// Its lease ran out: its agent was silent, or of an exclusive slot the
    /// scheduler.
    LeaseExpired,
    /// It reached its memory limit; who used how much, for people.
    MemoryLimit(String),
    /// It used more disk than it asked for; how much and where, for people.
    DiskLimit(String),
    /// Another end, for people.
    Other(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Code(code) => write!(f, "exited with code {code}"),
            End::Signal(signal) => write!(f, "killed by signal {signal}"),
            End::HelperLost => f.write_str("helper lost"),
            End::NotStarted(why) => write!(f, "could not start: {why}"),
            End::LeaseExpired => f.write_str("lease ran out"),
            End::MemoryLimit(note) if note.is_empty() => f.write_str("memory-limit"),
            End::MemoryLimit(note) => write!(f, "memory-limit: {note}"),
            End::DiskLimit(note) if note.is_empty() => f.write_str("disk-limit"),
            End::DiskLimit(note) => write!(f, "disk-limit: {note}"),
            End::Other(text) => f.write_str(text),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A scheduler calls. Answered with [`Answer::Call`].
    Call {
        /// The call.
        call: Call,
        /// Bytes of the package that are not here yet.
        missing_bytes: u64,
    },
    /// A scheduler awards. Answered with [`Answer::Award`].
    Award {
        /// The award.
        award: Award,
        /// The job, if its signature and author are accepted here, else why
        /// not.
        #[serde(with = "encoded::accepted")]
        job: Result<Arc<Job>, String>,
    },
    /// A scheduler gives a reservation back. Answered with [`Answer::Cancel`].
    Cancel {
        /// Whose call.
        authority: Authority,
        /// Which.
        call: u64,
    },
    /// A scheduler stops a slot. Answered with [`Answer::Stop`].
    Stop(StopOrder),
    /// A scheduler begins its reign. Answered with [`Answer::Greet`].
    Greet(Authority),
    /// The next heartbeat is due. Answered with [`Answer::Heartbeat`].
    Heartbeat,
    /// The scheduler answered a heartbeat.
    HeartbeatAnswered(HeartbeatAnswer),
    /// The node is to take no new work, or may again.
    SetDraining(bool),
    /// What the node says of itself: after the start, and when it changed.
    SetFacts(Facts),
    /// How hard the host works, in hundredths; see
    /// [`Heartbeat::pressure`].
    SetPressure(u8),
    /// The node leaves: no new work, and all that runs is stopped.
    Leave,
    /// A slot's package is here.
    Fetched {
        /// The slot.
        slot: SlotId,
        /// Of the fetch that ended.
        origin: Generation,
    },
    /// A slot's package could not be had.
    FetchFailed {
        /// The slot.
        slot: SlotId,
        /// Of the fetch that ended.
        origin: Generation,
        /// For people.
        why: String,
    },
    /// A helper runs and its task's process has started: after
    /// [`Effect::StartHelper`], or found again after the agent's restart.
    Running(Run),
    /// The process ended, or could not be started; nothing of it is left.
    Exited {
        /// Which.
        run: Run,
        /// How.
        end: End,
    },
    /// Something is amiss while a task runs, or no longer.
    Troubled {
        /// Which.
        run: Run,
        /// What, for people.
        trouble: Option<String>,
    },
    /// The result of a health check changed.
    HealthChanged {
        /// Of which run.
        run: Run,
        /// It passes now.
        healthy: bool,
    },
    /// Time passed; due at [`super::Host::wake_at`].
    Tick,
}

/// Something to do. Effects are carried out in order: none before the ones
/// before it are done, where "done" means durable for [`Effect::PersistAuthority`],
/// [`Effect::JournalPut`] and [`Effect::JournalRemove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Store the highest authority heard.
    PersistAuthority(Authority),
    /// Store what a slot holds.
    JournalPut {
        /// What.
        entry: Box<Entry>,
        /// Must be durable before the next effect; else it may wait for the
        /// next write that must.
        durable: bool,
    },
    /// A slot is no longer held.
    JournalRemove(SlotId),
    /// Answer the event of this step.
    Answer(Answer),
    /// Make packages available; [`Event::Fetched`] or [`Event::FetchFailed`]
    /// follows.
    Fetch {
        /// For which slot.
        slot: SlotId,
        /// Its origin.
        origin: Generation,
        /// What: the program's first.
        packages: Vec<PackageId>,
        /// Nodes that hold them.
        holders: Vec<NodeId>,
    },
    /// A fetch is no longer needed; its end is not waited for.
    CancelFetch {
        /// For which slot.
        slot: SlotId,
        /// Its origin.
        origin: Generation,
    },
    /// Start a helper with its task; [`Event::Running`] or [`Event::Exited`]
    /// follows.
    StartHelper(Start),
    /// Tell a task to stop, and kill it when its grace is over;
    /// [`Event::Exited`] follows.
    SignalStop {
        /// Which.
        run: Run,
        /// The signal's number.
        signal: i32,
        /// Time between signal and kill.
        grace_ms: u64,
    },
    /// Kill all that is left of a run, its helper too; [`Event::Exited`]
    /// follows. Repeated while it does not.
    Kill(Run),
    /// Kill all that is left of a slot whose helper did not come back, but not
    /// what has a helper that did; [`Event::Exited`] with this run follows.
    /// Repeated while it does not.
    KillLost(Run),
    /// Check the task's health until told otherwise.
    WatchHealth {
        /// Which.
        run: Run,
        /// How, each with the number of the port to check; never empty. It is
        /// healthy when all of them say so.
        checks: Vec<(HealthCheck, u16)>,
    },
    /// No longer check the task's health.
    UnwatchHealth(Run),
    /// Look at what the task has on disk until its process is gone, and stop it
    /// when that is more than this; [`Event::Exited`] follows then.
    WatchDisk {
        /// Which.
        run: Run,
        /// Its folder, volumes and logs together.
        bytes_max: u64,
    },
    /// The lease of an exclusive slot lasts until then, on the boot clock: its
    /// helpers are told what is left of it with each ping.
    Lease {
        /// Which.
        slot: SlotId,
        /// Until when.
        until: Millis,
    },
    /// The inventory changed: the scheduler should hear of it at once.
    ReportChanged,
    /// A slot is forgotten: its folders may be tidied up.
    Forgotten(SlotId),
}

/// What a helper is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which.
    pub run: Run,
    /// The generation under which the slot is filled: the fencing token.
    pub generation: Generation,
    /// The job.
    pub job: Arc<Job>,
    /// Chosen port numbers by name.
    pub ports: BTreeMap<String, u16>,
    /// Of an exclusive slot: until when it may run at most, on the boot clock,
    /// unless [`Effect::Lease`] says longer.
    pub lease_until: Option<Millis>,
}

/// The answer to an event that asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Event::Call`].
    Call(CallAnswer),
    /// To [`Event::Award`].
    Award(AwardAnswer),
    /// To [`Event::Cancel`].
    Cancel(Result<(), Refusal>),
    /// To [`Event::Stop`].
    Stop(Result<(), Refusal>),
    /// To [`Event::Greet`].
    Greet(Result<Heartbeat, Refusal>),
    /// To [`Event::Heartbeat`].
    Heartbeat(Heartbeat),
}
