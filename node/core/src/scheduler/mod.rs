//! The decider of one reign.
//!
//! Answers for what should happen next, given the replicated state and what
//! the hosts report: whom to greet, call, award and stop, who is dead, what a
//! service's endpoints are. Leaves to its driver: clocks, sending, the log,
//! signing and publishing slices. The driver makes one after its `Reign`
//! entry is applied and drops it when it leads no longer.
//!
//! While most voters have not been heard for an election timeout it decides
//! nothing that anyone could notice: what is to be done is derived from state
//! again once they are.

mod event;
mod view;

pub use event::{Effect, Endpoint, Event, MemberView, Note, ServiceEndpoints};
pub use view::{HostView, SessionState, SlotPhase, SlotView, Verdict};

use crate::{auction::Authority, cluster::Cluster};
use potluck_specs::{Millis, NodeId, SlotId};

/// What differs between a real cluster and a test's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// How long after the last acknowledgement of most voters a leader may
    /// act: the control group's shortest election timeout.
    pub election_timeout: Millis,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            election_timeout: Millis(500),
        }
    }
}

/// The decider of one reign.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    authority: Authority,
    me: NodeId,
    began: Millis,
}

impl Scheduler {
    /// A scheduler at the begin of its reign. `now` is monotonic and runs on
    /// in suspend (CLOCK_BOOTTIME), as in every later step.
    pub fn new(
        config: SchedulerConfig,
        authority: Authority,
        me: NodeId,
        now: Millis,
    ) -> Scheduler {
        Scheduler {
            config,
            authority,
            me,
            began: now,
        }
    }

    /// Takes an event, returns what to do about it, in order.
    pub fn step(&mut self, cluster: &Cluster, event: Event, now: Millis) -> Vec<Effect> {
        let _ = (cluster, event, now, self.me, self.began);
        Vec::new()
    }

    /// Whose word it gives.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// Have most voters been heard within an election timeout, and nobody a
    /// later scheduler?
    pub fn may_act(&self, now: Millis) -> bool {
        let _ = (now, self.config);
        false
    }

    /// Is the brake on? Hosts that it holds, for `status`.
    pub fn braked(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// Every member as the scheduler sees it.
    pub fn hosts(&self, cluster: &Cluster) -> Vec<HostView> {
        let _ = cluster;
        Vec::new()
    }

    /// Every slot that is wanted or filled, in order.
    pub fn slots(&self, cluster: &Cluster) -> Vec<SlotView> {
        let _ = cluster;
        Vec::new()
    }

    /// One slot.
    pub fn slot(&self, cluster: &Cluster, slot: &SlotId) -> SlotView {
        let _ = cluster;
        SlotView {
            slot: slot.clone(),
            phase: SlotPhase::Unwanted,
            holders: Vec::new(),
        }
    }

    /// Why a slot is, or is not, on each host.
    pub fn explain(&self, cluster: &Cluster, slot: &SlotId) -> Vec<(NodeId, Verdict)> {
        let _ = (cluster, slot);
        Vec::new()
    }
}
