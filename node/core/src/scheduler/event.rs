//! What the scheduler hears and what it wants done.

use crate::{
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, StopOrder, StopReason},
    cluster::Command,
    session::{Heartbeat, HeartbeatAnswer},
};
use potluck_specs::{Generation, JobName, Millis, NodeId, SlotId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Time passed; due every 100 ms.
    Tick,
    /// The cluster's state was applied further.
    ClusterChanged,
    /// Most voters acknowledged the leader at this time (of the driver's
    /// monotonic clock, when the round was *sent*).
    QuorumConfirmed {
        /// When.
        at: Millis,
    },
    /// An agent's heartbeat; its answer is among the effects of this step.
    Heartbeat {
        /// What it says.
        heartbeat: Heartbeat,
    },
    /// A greeted node answered.
    Greeted {
        /// What it says.
        heartbeat: Heartbeat,
    },
    /// A greeted node could not be reached.
    GreetFailed {
        /// Which.
        node: NodeId,
    },
    /// What gossip says, about every node that it knows. Due each second.
    Members {
        /// One for each.
        members: Vec<MemberView>,
    },
    /// A node answered a call.
    CallAnswered {
        /// Which.
        node: NodeId,
        /// The call.
        call: u64,
        /// Bid or refusal.
        answer: CallAnswer,
    },
    /// A call got no answer.
    CallLost {
        /// The node.
        node: NodeId,
        /// The call.
        call: u64,
    },
    /// A node answered an award.
    AwardAnswered {
        /// Which.
        node: NodeId,
        /// Slot by slot.
        answer: AwardAnswer,
        /// The award's call.
        call: u64,
    },
    /// An award got no answer: whether it was committed is unknown.
    AwardLost {
        /// The node.
        node: NodeId,
        /// The award's call.
        call: u64,
    },
    /// A node took a stop order.
    StopAnswered {
        /// Which.
        node: NodeId,
        /// The slot.
        slot: SlotId,
    },
    /// A stop order got no answer.
    StopLost {
        /// The node.
        node: NodeId,
        /// The slot.
        slot: SlotId,
    },
    /// A node was asked whether it reaches another, and answered.
    Probed {
        /// Who was asked.
        by: NodeId,
        /// About whom.
        about: NodeId,
        /// What it says.
        reachable: bool,
    },
    /// A node was asked whether it reaches another, and did not answer: that
    /// says nothing about the other.
    ProbeLost {
        /// Who was asked.
        by: NodeId,
        /// About whom.
        about: NodeId,
    },
    /// The scheduler's own loop was late by this much.
    LaggedFor {
        /// How much.
        lag: Millis,
    },
}

/// What gossip says of a node: a hint, never a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The node.
    pub node: NodeId,
    /// When its gossip heartbeat counter was last seen to move, on the
    /// driver's monotonic clock.
    pub heartbeat_moved_at: Millis,
}

/// What the driver is to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a node for all that it runs.
    Greet {
        /// Which.
        node: NodeId,
        /// In whose name.
        authority: Authority,
    },
    /// The answer to the heartbeat that this step was given.
    AnswerHeartbeat {
        /// Its sender.
        to: NodeId,
        /// The answer.
        answer: HeartbeatAnswer,
    },
    /// Send a call.
    Call {
        /// To this node.
        to: NodeId,
        /// The call, the same for all that it goes to.
        call: Arc<Call>,
    },
    /// Send an award. Ask [`super::Scheduler::may_act`] once more at the
    /// moment of sending.
    Award {
        /// To this node.
        to: NodeId,
        /// The award.
        award: Box<Award>,
    },
    /// End a reservation.
    Cancel {
        /// To this node.
        to: NodeId,
        /// Whose call.
        authority: Authority,
        /// Which.
        call: u64,
    },
    /// Stop a slot. Stands behind the [`Effect::Publish`] that withdraws it.
    Stop {
        /// To this node.
        to: NodeId,
        /// The order.
        order: Box<StopOrder>,
    },
    /// Ask a node whether it reaches another.
    Probe {
        /// Whom to ask.
        via: NodeId,
        /// About whom.
        about: NodeId,
    },
    /// Propose a command to the log; its reply is not needed.
    Propose {
        /// The command. Boxed as other rare ones are: most effects are calls,
        /// which each of these would make as long as itself.
        command: Box<Command>,
    },
    /// A service's endpoints are these from now on. The driver numbers,
    /// signs, repeats before expiry.
    Publish {
        /// All of them.
        service: ServiceEndpoints,
    },
    /// For logs and `status`.
    Note {
        /// What.
        note: Note,
    },
}

/// A service and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEndpoints {
    /// The namespace.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// Its endpoints by slot, then node; empty: the service is gone.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The slot behind it.
    pub slot: SlotId,
    /// Where.
    pub node: NodeId,
    /// The node's rack.
    pub rack: String,
    /// The port's number.
    pub port: u16,
    /// False: kept although its host is not heard from, since suspicion alone
    /// empties no service.
    pub healthy: bool,
}

/// Something that a person reading logs wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A host's session changed.
    Session {
        /// The host.
        node: NodeId,
        /// What it is now.
        state: super::SessionState,
    },
    /// A slot is placed.
    Placed {
        /// The slot.
        slot: SlotId,
        /// Where.
        node: NodeId,
        /// Under which instruction.
        generation: Generation,
    },
    /// A slot goes where its volumes are not: there they begin empty, or as
    /// they were when it left that host before.
    VolumesLeft {
        /// The slot.
        slot: SlotId,
        /// Who has them.
        from: NodeId,
        /// Where it goes.
        to: NodeId,
    },
    /// A node refused an award.
    AwardRefused {
        /// The slot.
        slot: SlotId,
        /// Who.
        node: NodeId,
    },
    /// Nobody took these slots of a job; it is called again later.
    Unplaced {
        /// The job.
        job: JobName,
        /// How many slots.
        slots: u32,
    },
    /// A slot is filled twice; the one on this node is stopped.
    Double {
        /// The slot.
        slot: SlotId,
        /// Where the surplus one is.
        node: NodeId,
    },
    /// A slot's next task is started before this one is stopped.
    Surge {
        /// The slot.
        slot: SlotId,
        /// Where the present one is.
        from: NodeId,
        /// Why it has to go.
        reason: StopReason,
    },
    /// A job's tasks fail on a host again and again: it gets none of them for
    /// a while.
    BadPair {
        /// The job.
        job: JobName,
        /// The host.
        node: NodeId,
    },
    /// A version of a job fails wherever it is tried.
    CrashLoop {
        /// The job.
        job: JobName,
        /// Its version.
        version: u64,
    },
    /// Many hosts are silent at once: held as a partition.
    BrakeOn {
        /// How many.
        suspects: u32,
    },
    /// The brake lets this host's slots be replaced.
    BrakeReleased {
        /// The host.
        node: NodeId,
    },
    /// Nobody is held by the brake any more.
    BrakeOff,
    /// Somebody has heard of a later scheduler: this one acts no more.
    Superseded {
        /// The later one.
        by: Authority,
    },
    /// Most voters were not heard in time; effects are withheld.
    Silent,
    /// Most voters are heard again.
    SpeaksAgain,
    /// The hosts have been asked: from here on any slot may be placed.
    Asked,
}
