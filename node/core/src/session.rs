//! The session between an agent and the scheduler: heartbeats with what the
//! host runs.

use crate::{attributes::Facts, auction::Authority};
use potluck_specs::{Generation, JobName, Millis, NodeId, SlotId, job::Resources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a task is doing.
///
/// ```text
/// Fetching -> Starting -> Running -> Stopping -> Stopped
///     |           |          |
///     +-----------+----------+--> Backoff -> Fetching
///                            +--> Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskState {
    /// In the journal, not yet found again after the agent's restart.
    Adopting,
    /// Its package is being fetched.
    Fetching,
    /// Its helper is being started.
    Starting,
    /// Its process runs.
    Running,
    /// It ended by itself and waits to be started again.
    Backoff,
    /// It has been told to stop.
    Stopping,
    /// It is gone; reported until the scheduler has heard of it.
    Stopped,
    /// It ended by itself and is not started again; it keeps its slot.
    Ended,
    /// A state that a newer version knows.
    #[serde(other)]
    Other,
}

/// How a task ended that is not started again where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// By itself, with code 0.
    Succeeded,
    /// In another way.
    Failed {
        /// How, for people.
        why: String,
    },
    /// A way that a newer version knows.
    #[serde(other)]
    Other,
}

/// One slot as its host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// The slot.
    pub slot: SlotId,
    /// Under which generation it is filled.
    pub generation: Generation,
    /// The job's version that runs.
    pub version: u64,
    /// What the task is doing.
    pub state: TaskState,
    /// It passes its health check; without one: it runs.
    pub healthy: bool,
    /// Chosen port numbers by name.
    pub ports: BTreeMap<String, u16>,
    /// What it needs, as reserved on the host.
    pub resources: Resources,
    /// Starts of its process under this generation, from 1; 0 before.
    pub starts: u32,
    /// Failures in a row: starts, and fetches before them, without a long run
    /// between.
    #[serde(default)]
    pub failures: u32,
    /// How its last process ended, or why it could not start, for people.
    pub last_end: Option<String>,
    /// Since when it is in this state, Unix time.
    pub since: Millis,
    /// How it ended, if it is not started again here. Of work that ends it is
    /// reported, and kept, until the log has counted it.
    #[serde(default)]
    pub ended: Option<Outcome>,
    /// What is amiss while it runs, for people: its log waits for a full disk.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// What an agent sends to the scheduler each second, and at once when
/// something changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender.
    pub node: NodeId,
    /// Changes with each start of the agent.
    pub incarnation: u64,
    /// The highest authority that the node has heard of.
    pub highest: Authority,
    /// Free now, after reservations.
    pub free: Resources,
    /// All that the node has for tasks.
    pub total: Resources,
    /// Takes no new work.
    pub draining: bool,
    /// How hard the host works now, in hundredths: the worst share of time
    /// in which something waited for CPU, memory or disk (PSI `some`, 10 s).
    /// Where the kernel does not count it, what the load says of processors;
    /// 0 where nothing can be read.
    #[serde(default)]
    pub pressure: u8,
    /// What the node says of itself, with each full inventory. `None`:
    /// unchanged.
    #[serde(default)]
    pub facts: Option<Facts>,
    /// When it was made, on the host's boot clock: what the leases of its
    /// exclusive slots are counted from. `None`: a host of before there were
    /// any, which is given none.
    #[serde(default)]
    pub sent_at: Option<Millis>,
    /// What it runs.
    pub inventory: Inventory,
}

/// All that a host runs, or what changed since a number that the scheduler
/// confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// `None`: `slots` is everything. `Some(n)`: what changed after report `n`.
    pub since: Option<u64>,
    /// The number of this report.
    pub number: u64,
    /// Slots, in order.
    pub slots: Vec<SlotReport>,
    /// Slots that the host has forgotten since then.
    pub gone: Vec<SlotId>,
}

/// The scheduler's answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// Whose answer.
    pub authority: Authority,
    /// The report up to which the scheduler knows the host; the next
    /// inventory may be relative to it. `None` asks for everything.
    pub confirmed: Option<u64>,
    /// Jobs of stopped slots that the host may forget: `Stopped` reports that
    /// are acknowledged.
    pub forget: Vec<(SlotId, Generation)>,
    /// Leases of the host's exclusive slots, renewed.
    #[serde(default)]
    pub renewals: Option<Renewals>,
}

/// Leases of exclusive slots, renewed by the answer to a heartbeat.
///
/// They run from the time at which the heartbeat was made, by the host's own
/// clock, however late the answer comes; the scheduler counts from when it
/// answered, which is later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewals {
    /// As in the heartbeat that is answered.
    pub incarnation: u64,
    /// As in the heartbeat that is answered.
    pub sent_at: Millis,
    /// One for each slot.
    pub leases: Vec<Renewal>,
}

/// The renewed lease of one exclusive slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The slot.
    pub slot: SlotId,
    /// Of which award; another's task may not run on it.
    pub generation: Generation,
    /// How long it lasts, from [`Renewals::sent_at`].
    pub lease: Millis,
}

/// A summary of a job for the bidder's history: failures by job.
pub type FailuresByJob = BTreeMap<JobName, u32>;
