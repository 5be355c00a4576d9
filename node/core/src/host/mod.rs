//! What a node decides: which calls it bids for, which awards it takes, and
//! the life of its tasks.
//!
//! Answers for the fence (the highest authority heard from anyone), for
//! reservations and commitments (never more than the node has), for each
//! slot's state machine and for the numbering of inventories. Carrying the
//! effects out, timers, and the lease between agent and helper belong to the
//! agent's actor.

pub mod message;

pub use message::{Answer, Effect, End, Entry, Event, Run, Start};

use crate::auction::Authority;
use potluck_specs::{Millis, NodeId, job::Resources};

/// What a node knows about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The node.
    pub node: NodeId,
    /// Changes with each start of the agent.
    pub incarnation: u64,
    /// All that the node has for tasks.
    pub total: Resources,
    /// First port that may be chosen for a task.
    pub port_first: u16,
    /// Last port that may be chosen for a task.
    pub port_last: u16,
    /// Unix time minus the time that [`Host::step`] is told, for reports.
    pub unix_offset: Millis,
}

/// A node's decisions.
#[derive(Clone, Debug)]
pub struct Host {
    config: HostConfig,
    highest: Authority,
}

impl Host {
    /// A host with what its journal holds, `now` on its boot-time clock. Slots
    /// from the journal are `Adopting` until their helpers are found or given
    /// up.
    pub fn new(config: HostConfig, highest: Authority, restored: Vec<Entry>, now: Millis) -> Host {
        let _ = (restored, now);
        Host { config, highest }
    }

    /// What follows from an event.
    pub fn step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let _ = (event, now, &self.config);
        Vec::new()
    }

    /// When [`Event::Tick`] is due next.
    pub fn wake_at(&self) -> Option<Millis> {
        None
    }

    /// The highest authority heard from anyone.
    pub fn highest(&self) -> Authority {
        self.highest
    }
}
