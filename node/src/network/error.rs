//! Errors of the network's operations, each with what its caller would do
//! differently, and the refusals that travel to the other side.

use std::{io, net::SocketAddr};

use potluck_specs::{NodeId, trust::TrustError};
use serde::{Deserialize, Serialize};

/// Why one side does not admit the other, as the other is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub text: String,
}

/// What kind of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// No credential: only joining is open.
    Stranger,
    /// The certificate is of another fleet.
    OtherFleet,
    /// The certificate is of another cluster.
    OtherCluster,
    /// The certificate is for another key.
    OtherHolder,
    /// The certificate ended: renew it by joining again.
    Expired,
    /// The certificate begins later: clocks differ.
    NotYetValid,
    /// The certificate was revoked.
    Revoked,
    /// The chain does not hold.
    Invalid,
    /// The holder is admitted, but not to this.
    NotAllowed,
    /// The holder has as many connections as it may.
    TooMany,
    /// A code of a newer version.
    #[serde(other)]
    Unknown,
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, text: impl Into<String>) -> Refusal {
        let text = text.into();
        Refusal { code, text }
    }
}

impl From<TrustError> for Refusal {
    fn from(error: TrustError) -> Refusal {
        let code = match error {
            TrustError::OtherFleet { .. } => RefusalCode::OtherFleet,
            TrustError::OtherCluster { .. } => RefusalCode::OtherCluster,
            TrustError::OtherHolder => RefusalCode::OtherHolder,
            TrustError::Expired { .. } => RefusalCode::Expired,
            TrustError::NotYetValid { .. } => RefusalCode::NotYetValid,
            TrustError::WrongIssuer | TrustError::Signature(_) | TrustError::Malformed(_) => {
                RefusalCode::Invalid
            }
        };
        Refusal::new(code, error.to_string())
    }
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address can't be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The transport could not be set up.
    #[error("cannot set up the transport: {0}")]
    Transport(String),
}

/// Why there is no link to a peer. Nothing was sent in any of these cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody told us where the node is.
    #[error("no address of node {0} is known")]
    NoAddress(NodeId),
    /// It could not be dialled.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// The handshake failed as it does when the fleets differ.
    #[error("the handshake failed: the peer is of another fleet")]
    OtherFleet,
    /// The peer does not admit us.
    #[error("the peer refuses us")]
    NotAdmitted(#[source] Refusal),
    /// We do not admit the peer.
    #[error("we refuse the peer")]
    Untrusted(#[source] Refusal),
    /// The connection ended before it could be used.
    #[error("the connection to the peer ended")]
    Lost,
    /// No link within the limit.
    #[error("no link to the peer in time")]
    Timeout,
    /// Too much is waiting for this peer already.
    #[error("too much is waiting for this peer")]
    Busy,
    /// The network is shutting down.
    #[error("the network is stopped")]
    Stopped,
}

/// Why a peer can't be dialled.
pub type DialError = LinkError;

/// Why one message went out and none came back.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// There is no link; nothing was sent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Our message is larger than the protocol allows; nothing was sent.
    #[error("{bytes} bytes are more than the {bytes_max} that the peer takes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: u64,
    },
    /// The peer's queue is full; it did nothing.
    #[error("the peer is busy")]
    Busy,
    /// The peer serves no such protocol now; it did nothing.
    #[error("the peer does not serve this now")]
    NotServed,
    /// The peer took the message and gave no answer, or one that is too large.
    #[error("the peer gave no answer")]
    NoAnswer,
    /// No answer within the limit: what the peer did is unknown.
    #[error("no answer within the limit")]
    Timeout,
    /// The connection ended: what the peer did is unknown.
    #[error("the connection ended before the answer")]
    Lost(#[source] io::Error),
    /// The answer is malformed.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
}

impl ExchangeError {
    /// Is it certain that the peer has not acted on the message? If not, only
    /// what may be done twice may be sent again.
    pub fn surely_not_done(&self) -> bool {
        match self {
            ExchangeError::Link(_)
            | ExchangeError::TooLarge { .. }
            | ExchangeError::Busy
            | ExchangeError::NotServed => true,
            ExchangeError::NoAnswer
            | ExchangeError::Timeout
            | ExchangeError::Lost(_)
            | ExchangeError::Malformed(_) => false,
        }
    }
}

/// Why a request has no response.
pub type RequestError = ExchangeError;

/// Why a join has no answer.
pub type JoinExchangeError = ExchangeError;

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer has enough streams: try later, or another peer.
    #[error("the peer is busy")]
    Busy,
    /// The peer does not open this kind of stream to us.
    #[error("the peer does not open this kind of stream to us")]
    NotAllowed,
    /// The peer does not serve this kind of stream.
    #[error("the peer does not serve this kind of stream")]
    NotServed,
    /// Streams to oneself make no sense.
    #[error("a node opens no streams to itself")]
    ToSelf,
    /// Not within the limit.
    #[error("the stream was not accepted within the limit")]
    Timeout,
    /// The connection ended.
    #[error("the connection ended before the stream was accepted")]
    Lost(#[source] io::Error),
}

/// Why a key is not provided.
#[derive(Debug, thiserror::Error)]
pub enum ProvideError {
    /// We provide as many keys as we may.
    #[error("this node provides {0} keys already")]
    TooMany(usize),
    /// Too many look-ups run at this moment.
    #[error("too many look-ups run at this moment")]
    Busy,
    /// No node took the record in time.
    #[error("no node took the record in time")]
    Timeout,
    /// The network is shutting down.
    #[error("the network is stopped")]
    Stopped,
}
