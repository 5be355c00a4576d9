//! What people and the API are shown of the scheduler's picture.

use crate::session::SlotReport;
use potluck_specs::{Generation, Millis, NodeId, SlotId, job::Resources};

/// How a host stands with the scheduler.
///
/// ```text
/// Unknown --report--> Up <--report-- Out, Unreachable, Dead
///    |                 |4 s of silence
///    +--------------> Out --30 s, probes or gossip reach it--> Unreachable
///                      |  no probe reaches it, gossip stands still
///                      +-----------------------------------------> Dead
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// Not heard in this reign.
    Unknown,
    /// Heard within the session's time.
    Up,
    /// Silent for longer.
    Out,
    /// Silent for long, but others reach it: gets nothing new, its slots are
    /// filled elsewhere.
    Unreachable,
    /// Silent, and nobody reaches it.
    Dead,
}

/// One host as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// The host.
    pub node: NodeId,
    /// Its session.
    pub session: SessionState,
    /// When it was last heard, on the driver's clock.
    pub heard_at: Option<Millis>,
    /// Free, by its last report.
    pub free: Resources,
    /// All that it has, by its last report.
    pub total: Resources,
    /// Takes no new work.
    pub draining: bool,
    /// How many slots it holds.
    pub slots: u32,
    /// Silent among many: its slots stay until the brake lets go.
    pub braked: bool,
}

/// What becomes of a slot.
///
/// ```text
/// Waiting -> Missing -> Calling -> Awarded -> Held -> Stopping -> (Missing)
///               ^__________|__________|
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotPhase {
    /// The job does not ask for it, and nobody fills it.
    Unwanted,
    /// It may be filled where the scheduler can't see yet.
    Waiting {
        /// The node whose report or death is waited for; `None`: all.
        holder: Option<NodeId>,
    },
    /// It is exclusive, and the lease of its former holder may still run.
    Lease {
        /// Whose, if that is known.
        holder: Option<NodeId>,
        /// For how long at most.
        left: Millis,
    },
    /// To be filled; nobody has taken it yet.
    Missing,
    /// Bids are being collected.
    Calling,
    /// Awarded; not yet seen in a report.
    Awarded {
        /// To whom.
        node: NodeId,
        /// Under which instruction.
        generation: Generation,
    },
    /// Filled, by the reports of its holders.
    Held,
    /// Told to stop.
    Stopping,
}

/// One slot as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// The slot.
    pub slot: SlotId,
    /// What becomes of it.
    pub phase: SlotPhase,
    /// Who reports it, silent hosts included, `Stopped` ones too.
    pub holders: Vec<(NodeId, SlotReport)>,
    /// Where its volumes stayed when it was placed where it is: there they
    /// began empty, or as they were of an earlier time. As far as this reign
    /// has seen it.
    pub volumes_left: Option<NodeId>,
}
