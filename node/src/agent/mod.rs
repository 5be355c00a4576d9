//! The part of potluck that runs tasks on a node.
//!
//! Answers for carrying out what `potluck_core::host` decides: the journal,
//! helpers, cgroups, health checks, logs. Which slots should be filled where
//! is the scheduler's; getting packages is the [`PackageProvider`]'s.

use async_trait::async_trait;
use potluck_core::{
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, Refusal, StopOrder},
    session::{Heartbeat, HeartbeatAnswer, SlotReport},
};
use potluck_specs::{
    Job, Millis, NodeId, PackageId, SlotId,
    job::{Resources, SignedJob},
};
use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, sync::Arc};
use tokio::sync::{mpsc, watch};

/// Gets packages.
#[async_trait]
pub trait PackageProvider: Send + Sync + 'static {
    /// The package's unpacked tree, not to be written to. Called again for a
    /// package that is here; called together for the same package.
    ///
    /// # Errors
    /// Why it can't be had, for people.
    async fn ensure(&self, id: PackageId, holders: Vec<NodeId>) -> Result<PathBuf, String>;

    /// Bytes of the package that are not here yet; asked for each bid, so it
    /// must not take long.
    async fn missing_bytes(&self, id: PackageId, package_bytes: u64) -> u64;
}

/// Checks a job's signature and author: the job, or why it is refused.
pub type Verify = Arc<dyn Fn(&SignedJob) -> Result<Job, String> + Send + Sync>;

/// What an agent is started with.
pub struct AgentConfig {
    /// The node.
    pub node: NodeId,
    /// The agent's own folder; locked while it runs.
    pub data_dir: PathBuf,
    /// The node's address: tasks are told it, health checks dial it.
    pub address: IpAddr,
    /// All that the node has for tasks.
    pub total: Resources,
    /// Ports that may be chosen for tasks.
    pub ports: RangeInclusive<u16>,
    /// The helper program; copied into the data folder by content.
    pub helper: PathBuf,
    /// How long a task outlives its last contact with the agent.
    pub lease: Millis,
    /// Checks a job before it is run.
    pub verify: Verify,
}

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent uses the data folder.
    #[error("another agent runs on data folder {0}")]
    Locked(PathBuf),
    /// A file or folder can't be used.
    #[error("{path} can't be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Which lines of a slot's log are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on with new lines until the reader leaves.
    pub follow: bool,
    /// Only about this many last lines; `None`: all that are kept.
    pub tail: Option<u64>,
    /// Of the generation before the present one.
    pub previous: bool,
}

pub use potluck_helper::log::Line;

/// The agent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent has stopped")]
pub struct AgentStopped;

/// A log that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The slot has no log here.
    #[error("no log of {0} on this node")]
    Unknown(SlotId),
}

/// A handle to the agent's actor.
#[derive(Clone)]
pub struct Agent {
    changed: watch::Receiver<u64>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agent")
    }
}

impl Agent {
    /// Answers a call.
    pub async fn call(&self, call: Call) -> Result<CallAnswer, AgentStopped> {
        let _ = call;
        Err(AgentStopped)
    }
    /// Answers an award, once it is in the journal.
    pub async fn award(&self, award: Award) -> Result<AwardAnswer, AgentStopped> {
        let _ = award;
        Err(AgentStopped)
    }
    /// Gives a reservation back.
    pub async fn cancel(
        &self,
        authority: Authority,
        call: u64,
    ) -> Result<Result<(), Refusal>, AgentStopped> {
        let _ = (authority, call);
        Err(AgentStopped)
    }
    /// Stops a slot; answered once the order is in the journal.
    pub async fn stop(&self, order: StopOrder) -> Result<Result<(), Refusal>, AgentStopped> {
        let _ = order;
        Err(AgentStopped)
    }
    /// All that runs here, for a scheduler at the start of its reign.
    pub async fn greet(
        &self,
        authority: Authority,
    ) -> Result<Result<Heartbeat, Refusal>, AgentStopped> {
        let _ = authority;
        Err(AgentStopped)
    }
    /// The next heartbeat.
    pub async fn heartbeat(&self) -> Result<Heartbeat, AgentStopped> {
        Err(AgentStopped)
    }
    /// The scheduler answered a heartbeat.
    pub async fn heartbeat_answered(&self, answer: HeartbeatAnswer) -> Result<(), AgentStopped> {
        let _ = answer;
        Err(AgentStopped)
    }
    /// Counts up when a heartbeat should be sent at once.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
    /// All slots.
    pub async fn slots(&self) -> Result<Vec<SlotReport>, AgentStopped> {
        Err(AgentStopped)
    }
    /// Take no new work, or take it again.
    pub async fn set_draining(&self, draining: bool) -> Result<(), AgentStopped> {
        let _ = draining;
        Err(AgentStopped)
    }
    /// No new work, and stop all that runs.
    pub async fn leave(&self) -> Result<(), AgentStopped> {
        Err(AgentStopped)
    }
    /// The highest authority heard from anyone.
    pub async fn highest(&self) -> Result<Authority, AgentStopped> {
        Err(AgentStopped)
    }
    /// What this host can't isolate or limit, for people; sorted.
    pub fn isolation_missing(&self) -> Vec<String> {
        Vec::new()
    }
    /// Lines of a slot's log, in batches.
    ///
    /// # Errors
    /// Any [`LogsError`].
    pub async fn logs(
        &self,
        slot: SlotId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<Vec<Line>>, LogsError> {
        let _ = query;
        Err(LogsError::Unknown(slot))
    }
}
