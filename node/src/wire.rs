//! What nodes say to each other: one closed set of requests and answers.
//!
//! Between our own versions: unknown fields are ignored, an unknown request is
//! answered with [`Response::Unsupported`].

use potluck_core::{
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, StopOrder},
    session::{Heartbeat, HeartbeatAnswer},
};
use potluck_specs::NodeId;
use serde::{Deserialize, Serialize};

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
    Heartbeat(Heartbeat),
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
}

/// A node's response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Raft`].
    Raft(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To [`Request::Greet`].
    Inventory(Heartbeat),
    /// To [`Request::Heartbeat`].
    Heartbeat(HeartbeatAnswer),
    /// To [`Request::Call`].
    Call(CallAnswer),
    /// To [`Request::Award`].
    Award(AwardAnswer),
    /// To [`Request::Probe`].
    Probe {
        /// It answered a request of ours just now.
        reachable: bool,
    },
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
