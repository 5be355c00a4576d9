//! One slot on its host: what fills it, and what of its past still runs.
//!
//! ```text
//!            found               lost
//! Adopting ─────────► Running   Adopting ──► Lost ──► Backoff
//!
//! Fetching ──► Waiting ──► Starting ──► Running
//!    ▲  │   (predecessor      │            │
//!    │  │    still runs, or   │            │
//!    │  │    no lease yet)    │            │   ended by itself,
//!    │  └──────────┬──────────┴────────────┘   or could not start
//!    │             ▼
//!    └────────── Backoff
//!
//! Running, Starting ──► Ended       ended, and is not to start again
//! Running, Starting ──► Stopped     ended, and its work with it
//!
//! any ──► Stopping ──► Stopped      when told to; Stopping is skipped where
//!                                   no process is left to wait for
//! ```
//!
//! Answers for the state, its timers and its report; the order of effects is
//! [`super::Host`]'s.

use super::{
    message::{Entry, Run},
    ports,
};
use crate::session::{Outcome, SlotReport, TaskState};
use potluck_specs::{
    Millis,
    job::{HealthCheck, Resources},
};
use serde::{Deserialize, Serialize};

/// What fills the slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// From the journal; its helper has not been found yet.
    Adopting,
    /// Its helper was not found; what is left of it is being killed.
    Lost { kill_at: Millis },
    /// The package is being fetched.
    Fetching,
    /// The package is here; the predecessor still runs, or the lease of an
    /// exclusive slot has yet to come.
    Waiting,
    /// A helper is being started; killed if nothing is heard until then.
    Starting { kill_at: Millis },
    /// The process runs.
    Running { since: Millis },
    /// It ended and is started again then.
    Backoff { until: Millis },
    /// It is being stopped; killed when it still runs then. Without a process
    /// of its own only the predecessor is waited for.
    Stopping { process: bool, kill_at: Millis },
    /// Over; reported until the scheduler has heard of it, and of work that
    /// ends until the log has counted it.
    Stopped,
    /// It ended and is not started again; the slot stays filled.
    Ended,
}

/// A process that must end before the slot's next one starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) run: Run,
    /// How it was told to stop, to tell its helper again.
    pub(super) signal: i32,
    pub(super) grace_ms: u64,
    pub(super) entry: Entry,
    pub(super) kill_at: Millis,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    pub(super) state: State,
    pub(super) before: Option<Before>,
    /// The present start; `entry.starts` is the highest ever.
    pub(super) start: u32,
    pub(super) healthy: bool,
    /// Failures without a long run between them.
    pub(super) failures_in_row: u32,
    pub(super) last_end: Option<String>,
    /// Of the present start.
    pub(super) trouble: Option<String>,
    pub(super) since: Millis,
    /// The number of its last change.
    pub(super) changed: u64,
}

impl Slot {
    pub(super) fn new(entry: Entry, state: State, now: Millis) -> Slot {
        Slot {
            start: entry.starts,
            healthy: state == State::Ended && entry.ended == Some(Outcome::Succeeded),
            entry,
            state,
            before: None,
            failures_in_row: 0,
            last_end: None,
            trouble: None,
            since: now,
            changed: 0,
        }
    }

    /// The present start.
    pub(super) fn run(&self) -> Run {
        Run {
            slot: self.entry.slot.clone(),
            origin: self.entry.origin,
            start: self.start,
        }
    }

    /// Is it `run` that fills the slot now? While it is not known which start
    /// is meant, any of its origin is.
    pub(super) fn is(&self, run: &Run) -> bool {
        self.entry.origin == run.origin
            && match self.state {
                State::Adopting | State::Lost { .. } => true,
                _ => self.start == run.start,
            }
    }

    /// A process of its own may exist.
    pub(super) fn has_process(&self) -> bool {
        matches!(
            self.state,
            State::Adopting
                | State::Lost { .. }
                | State::Starting { .. }
                | State::Running { .. }
                | State::Stopping { process: true, .. }
        )
    }

    /// What the slot takes from the node: what fills it or what it waits for,
    /// whichever is more, since they never run together.
    pub(super) fn committed(&self) -> Resources {
        self.committed_with(self.fill_needs())
    }

    /// The same, if something that needs `fill` were to fill it.
    pub(super) fn committed_with(&self, fill: Resources) -> Resources {
        let before = self.before_needs();
        fill.max(before)
    }

    fn fill_needs(&self) -> Resources {
        match self.state {
            State::Stopped | State::Ended => Resources::default(),
            _ => self.entry.job.task.resources,
        }
    }

    fn before_needs(&self) -> Resources {
        self.before.as_ref().map_or(Resources::default(), |before| {
            before.entry.job.task.resources
        })
    }

    /// What the slot would take if `need` replaced what fills it.
    pub(super) fn committed_replaced(&self, need: Resources) -> Resources {
        let own = match self.has_process() {
            true => self.fill_needs(),
            false => Resources::default(),
        };
        self.committed_with(need.max(own))
    }

    /// Port numbers that no other slot may have.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        let over = matches!(self.state, State::Stopped | State::Ended);
        let fill = (!over).then_some(&self.entry);
        let before = self.before.as_ref().map(|before| &before.entry);
        fill.into_iter().chain(before).flat_map(ports::of)
    }

    /// How the task shows that it is healthy. One that offers services must at
    /// least accept connections before clients are sent to it.
    pub(super) fn health_checks(&self) -> Vec<(HealthCheck, u16)> {
        let task = &self.entry.job.task;
        let service = task.services.first();
        let usual = service.map(|service| HealthCheck::tcp(&service.port));
        let checks = match task.health.is_empty() {
            true => usual.into_iter().collect(),
            false => task.health.clone(),
        };
        let with_port = |check: HealthCheck| {
            let number = *self.entry.ports.get(check.probe.port()?)?;
            Some((check, number))
        };
        checks.into_iter().filter_map(with_port).collect()
    }

    /// Devices of a kind that the slot holds.
    pub(super) fn devices(&self, kind: &str) -> u32 {
        let of = |entry: &Entry| entry.job.task.devices.get(kind).copied().unwrap_or(0);
        let fill = match self.state {
            State::Stopped | State::Ended => 0,
            _ => of(&self.entry),
        };
        let before = self.before.as_ref().map_or(0, |before| of(&before.entry));
        fill.max(before)
    }

    /// When something is due.
    pub(super) fn wake_at(&self) -> Option<Millis> {
        let own = match self.state {
            State::Lost { kill_at }
            | State::Starting { kill_at }
            | State::Stopping {
                process: true,
                kill_at,
            } => Some(kill_at),
            State::Backoff { until } => Some(until),
            _ => None,
        };
        let before = self.before.as_ref().map(|before| before.kill_at);
        own.into_iter().chain(before).min()
    }

    pub(super) fn report(&self, unix_offset: Millis) -> SlotReport {
        SlotReport {
            slot: self.entry.slot.clone(),
            generation: self.entry.generation,
            version: self.entry.job.version,
            state: self.task_state(),
            healthy: self.healthy,
            ports: self.entry.ports.clone(),
            resources: self.entry.job.task.resources,
            starts: self.entry.starts,
            failures: self.failures_in_row,
            last_end: self.last_end.clone(),
            since: self.since + unix_offset,
            ended: self.entry.ended.clone(),
            trouble: self.trouble.clone(),
        }
    }

    pub(super) fn glance(&self) -> super::Glance<'_> {
        super::Glance {
            slot: &self.entry.slot,
            generation: self.entry.generation,
            state: self.task_state(),
            healthy: self.healthy,
        }
    }

    fn task_state(&self) -> TaskState {
        match self.state {
            State::Adopting | State::Lost { .. } => TaskState::Adopting,
            State::Fetching | State::Waiting => TaskState::Fetching,
            State::Starting { .. } => TaskState::Starting,
            State::Running { .. } => TaskState::Running,
            State::Backoff { .. } => TaskState::Backoff,
            State::Stopping { .. } => TaskState::Stopping,
            State::Stopped => TaskState::Stopped,
            State::Ended => TaskState::Ended,
        }
    }
}
