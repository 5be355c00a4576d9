//! Joining: the one protocol that strangers are served, and the joiner's side
//! of it.
//!
//! ```text
//! joiner                                       any member
//!   │── Hello ─────────────────────────────────▶│
//!   │◀─ its certificate with the chain ─────────│
//!   │  the chain ends in the token's fleet, and its holder is the peer that
//!   │  Noise authenticated: only now
//!   │── Redeem (id, secret, name, place) ──────▶│── to the leader, in the log
//!   │◀─ Admitted (certificate, keys, members) ──│
//! ```
//!
//! Invariant: the secret leaves the joiner only towards a peer that has proved
//! to be a member of the fleet that the token names.

use std::net::SocketAddr;

use async_trait::async_trait;
use potluck_gossip::KeyRing;
use potluck_specs::{
    Epoch, FleetId, Millis, NodeId, NodeName, Topology,
    codec::{self, CodecError},
    ids::{NameError, check_name},
    trust::{
        GRACE_WITHOUT_LEADER, NodeCertificate, NodeCredential, Token, TokenSecretHash, TrustError,
    },
};
use serde::{Deserialize, Serialize};

/// Name of the protocol.
pub const JOIN_PROTOCOL: &str = "/potluck/join/1";

/// Largest message of the protocol: a certificate, the keys, and
/// [`MEMBERS_MAX`] members with all their addresses, twice over.
pub const JOIN_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Most members told to a joiner: enough that one of them is up; gossip tells
/// it the rest.
pub const MEMBERS_MAX: usize = 64;

/// Most addresses of one node: a few interfaces in both families.
pub const ADDRESSES_MAX: usize = 8;

/// Longest text that a refusal may carry to the person who joins.
const REFUSAL_TEXT_BYTES_MAX: usize = 1_024;

/// A member and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Which.
    pub node: NodeId,
    /// Where its libp2p swarm is reached.
    pub network: Vec<SocketAddr>,
    /// Where its gossip socket is reached, if known.
    pub gossip: Option<SocketAddr>,
}

/// What a stranger asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRequest {
    /// Who are you?
    Hello,
    /// Let me in.
    Redeem(Redemption),
    /// My certificate ran out, or soon will: give me a new one. The peer is
    /// known by its key.
    Renew {
        /// The old one.
        credential: NodeCredential,
    },
}

/// The use of a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// Names the token.
    pub token: String,
    /// Proves that the joiner has it.
    #[serde(with = "serde_bytes")]
    pub secret: [u8; 16],
    /// What people shall call the node.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// Where its libp2p swarm is reached.
    pub addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for Redemption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redemption({} by {})", self.token, self.name)
    }
}

impl Redemption {
    /// What the log compares.
    pub fn secret_hash(&self) -> TokenSecretHash {
        *blake3::hash(&self.secret).as_bytes()
    }

    /// Checks what the joiner calls itself, and that it means this cluster.
    ///
    /// # Errors
    /// For people, with [`RefusalCode::BadName`].
    pub fn check(&self, cluster: &str) -> Result<(), NameError> {
        check_name(&self.name.0)?;
        self.topology.check()?;
        if self.topology.cluster != cluster {
            return Err(NameError {
                name: self.topology.cluster.clone(),
                why: "it is not the cluster that was asked",
            });
        }
        Ok(())
    }
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// To [`JoinRequest::Hello`].
    Hello {
        /// The member's certificate with the chain.
        credential: NodeCredential,
    },
    /// To [`JoinRequest::Redeem`] and [`JoinRequest::Renew`].
    Admitted(Box<Admission>),
    /// No.
    Refused {
        /// What the joiner can do about it.
        code: RefusalCode,
        /// For people.
        message: String,
    },
}

/// What a node gets when it is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Its certificate.
    pub credential: NodeCredential,
    /// Its cluster.
    pub cluster: String,
    /// The cluster's gossip keys.
    pub ring: KeyRing,
    /// Members to begin with.
    pub members: Vec<KnownMember>,
    /// The cluster's epoch.
    pub epoch: Epoch,
}

impl Admission {
    /// Leaves out members and addresses above what a joiner takes.
    pub fn trim(&mut self) {
        self.members.truncate(MEMBERS_MAX);
        for member in &mut self.members {
            member.network.truncate(ADDRESSES_MAX);
        }
    }
}

/// Why a joiner is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// No such token, or its secret is wrong: not told apart to strangers.
    WrongToken,
    /// The token's time is over.
    ExpiredToken,
    /// Every use of the token is taken.
    UsedToken,
    /// The token admits to another rack.
    WrongRack,
    /// Another node has this name.
    NameTaken,
    /// Name or place break the rules.
    BadName,
    /// The node was put out of the cluster.
    Revoked,
    /// The cluster takes no more nodes.
    Full,
    /// Nobody can decide now: try again.
    NoLeader,
    /// The request can't be read, or is of a newer version.
    Unsupported,
    /// A code that a newer version knows.
    #[serde(other)]
    Other,
}

impl JoinRequest {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a stranger's bytes.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<JoinRequest, CodecError> {
        let request = codec::decode("join request", bytes, JOIN_MESSAGE_BYTES_MAX)?;
        if let JoinRequest::Redeem(redemption) = &request {
            let count = redemption.addresses.len();
            if count > ADDRESSES_MAX {
                return Err(CodecError::Invalid {
                    what: "join request",
                    why: format!("{count} addresses, at most {ADDRESSES_MAX}"),
                });
            }
        }
        Ok(request)
    }
}

impl JoinReply {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a member's bytes.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<JoinReply, CodecError> {
        codec::decode("join reply", bytes, JOIN_MESSAGE_BYTES_MAX)
    }
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Somebody of another fleet is there. Nothing was sent.
    #[error("{address} is a node of another fleet")]
    OtherFleet {
        /// Where.
        address: SocketAddr,
    },
    /// Nobody there.
    #[error("can't connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else is there than was expected.
    #[error("{address} is answered by another node than before")]
    OtherPeer {
        /// Where.
        address: SocketAddr,
    },
    /// The connection broke, or the answer can't be read.
    #[error("the exchange with {address} failed")]
    Exchange {
        /// With whom.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{address} did not answer in time")]
    Timeout {
        /// Who.
        address: SocketAddr,
    },
}

/// Carries one exchange; the network implements it.
#[async_trait]
pub trait JoinTransport: Send + Sync {
    /// Asks whoever is at `address` and returns the answer with the key that
    /// Noise authenticated. With `peer` given, nothing is sent to anybody else:
    /// [`TransportError::OtherPeer`].
    async fn exchange(
        &self,
        address: SocketAddr,
        peer: Option<NodeId>,
        request: JoinRequest,
    ) -> Result<(NodeId, JoinReply), TransportError>;
}

/// Who joins.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// Its key.
    pub node: NodeId,
    /// What people shall call it.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// Where its libp2p swarm is reached.
    pub addresses: Vec<SocketAddr>,
}

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token's time is over, by this host's clock.
    #[error("the join token ended {} s ago", .ago.0 / 1000)]
    Expired {
        /// Since when.
        ago: Millis,
    },
    /// The token is for another cluster than the node's place.
    #[error("the join token is for cluster {token:?}, the node was told to join {node:?}")]
    OtherCluster {
        /// The token's.
        token: String,
        /// The node's.
        node: String,
    },
    /// The token is for another rack.
    #[error("the join token admits to rack {token:?} only, the node says {node:?}")]
    OtherRack {
        /// The token's.
        token: String,
        /// The node's.
        node: String,
    },
    /// No answer.
    #[error("can't reach the cluster")]
    Transport(#[from] TransportError),
    /// Whoever answers is no member of the token's fleet. The secret was not
    /// sent.
    #[error("{address} is not a node of the fleet that issued the token; the secret was not sent")]
    NotTheFleet {
        /// Who.
        address: SocketAddr,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// The cluster said no.
    #[error("the cluster refuses: {message}")]
    Refused {
        /// What can be done about it.
        code: RefusalCode,
        /// For people.
        message: String,
    },
    /// The answer is none to the question.
    #[error("{address} gave an answer that makes no sense")]
    Nonsense {
        /// Who.
        address: SocketAddr,
    },
    /// The certificate in the answer is not one for this node.
    #[error("the certificate that {address} gave is not accepted")]
    BadCertificate {
        /// Who.
        address: SocketAddr,
        /// Why.
        #[source]
        source: TrustError,
    },
}

impl JoinError {
    /// Is it worth asking again, or another member?
    pub fn is_temporary(&self) -> bool {
        match self {
            JoinError::Transport(error) => !matches!(error, TransportError::OtherFleet { .. }),
            JoinError::Refused { code, .. } => *code == RefusalCode::NoLeader,
            _ => false,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            JoinError::Expired { .. } => Some("make a new one: potluck token create"),
            JoinError::Refused { code, .. } => match code {
                RefusalCode::WrongToken | RefusalCode::ExpiredToken | RefusalCode::UsedToken => {
                    Some("make a new one: potluck token create")
                }
                RefusalCode::WrongRack => Some("give --rack, or make a token without one"),
                RefusalCode::NameTaken => Some("give another --name"),
                RefusalCode::NoLeader => Some("the cluster has no scheduler now; try again"),
                _ => None,
            },
            JoinError::NotTheFleet { .. }
            | JoinError::Transport(TransportError::OtherFleet { .. }) => {
                Some("check the address, and that the token is of this cluster")
            }
            _ => None,
        }
    }
}

/// Joins through the member at `address`.
///
/// # Errors
/// Any [`JoinError`].
pub async fn join(
    transport: &dyn JoinTransport,
    address: SocketAddr,
    token: &Token,
    joiner: &Joiner,
    now: Millis,
) -> Result<Admission, JoinError> {
    check_token(token, joiner, now)?;
    let peer = greet(transport, address, token.fleet, &token.cluster, now).await?;
    let request = JoinRequest::Redeem(Redemption {
        token: token.id.clone(),
        secret: token.secret,
        name: joiner.name.clone(),
        topology: joiner.topology.clone(),
        addresses: joiner.addresses.clone(),
    });
    let (_, reply) = transport.exchange(address, Some(peer), request).await?;
    admitted(
        address,
        reply,
        token.fleet,
        &token.cluster,
        joiner.node,
        now,
    )
}

/// Asks the member at `address` for a new certificate.
///
/// # Errors
/// Any [`JoinError`] but those about tokens.
pub async fn renew(
    transport: &dyn JoinTransport,
    address: SocketAddr,
    credential: &NodeCredential,
    certificate: &NodeCertificate,
    now: Millis,
) -> Result<Admission, JoinError> {
    let (fleet, cluster) = (certificate.fleet, &certificate.topology.cluster);
    let peer = greet(transport, address, fleet, cluster, now).await?;
    let request = JoinRequest::Renew {
        credential: credential.clone(),
    };
    let (_, reply) = transport.exchange(address, Some(peer), request).await?;
    admitted(address, reply, fleet, cluster, certificate.node, now)
}

fn check_token(token: &Token, joiner: &Joiner, now: Millis) -> Result<(), JoinError> {
    if now > token.expires + potluck_specs::trust::CLOCK_SLACK {
        return Err(JoinError::Expired {
            ago: now.since(token.expires),
        });
    }
    if token.cluster != joiner.topology.cluster {
        return Err(JoinError::OtherCluster {
            token: token.cluster.clone(),
            node: joiner.topology.cluster.clone(),
        });
    }
    match &token.rack {
        Some(rack) if *rack != joiner.topology.rack => Err(JoinError::OtherRack {
            token: rack.clone(),
            node: joiner.topology.rack.clone(),
        }),
        _ => Ok(()),
    }
}

/// Asks who is there, and accepts only a member of the cluster.
async fn greet(
    transport: &dyn JoinTransport,
    address: SocketAddr,
    fleet: FleetId,
    cluster: &str,
    now: Millis,
) -> Result<NodeId, JoinError> {
    let (peer, reply) = transport
        .exchange(address, None, JoinRequest::Hello)
        .await?;
    let credential = match reply {
        JoinReply::Hello { credential } => credential,
        JoinReply::Refused { code, message } => return Err(refused(code, &message)),
        JoinReply::Admitted(_) => return Err(JoinError::Nonsense { address }),
    };
    // A member whose own renewal waits for a leader can still pass a joiner on.
    check(&credential, fleet, cluster, peer, now, GRACE_WITHOUT_LEADER)
        .map_err(|source| JoinError::NotTheFleet { address, source })?;
    Ok(peer)
}

fn admitted(
    address: SocketAddr,
    reply: JoinReply,
    fleet: FleetId,
    cluster: &str,
    node: NodeId,
    now: Millis,
) -> Result<Admission, JoinError> {
    let mut admission = match reply {
        JoinReply::Admitted(admission) => *admission,
        JoinReply::Refused { code, message } => return Err(refused(code, &message)),
        JoinReply::Hello { .. } => return Err(JoinError::Nonsense { address }),
    };
    check(&admission.credential, fleet, cluster, node, now, Millis(0))
        .map_err(|source| JoinError::BadCertificate { address, source })?;
    if admission.cluster != cluster || !admission.ring.is_valid() {
        return Err(JoinError::Nonsense { address });
    }
    admission.trim();
    Ok(admission)
}

fn check(
    credential: &NodeCredential,
    fleet: FleetId,
    cluster: &str,
    holder: NodeId,
    now: Millis,
    grace: Millis,
) -> Result<(), TrustError> {
    let certificate = credential.verify(fleet, now, grace)?;
    if certificate.node != holder {
        return Err(TrustError::OtherHolder);
    }
    if certificate.topology.cluster != cluster {
        return Err(TrustError::OtherCluster {
            theirs: certificate.topology.cluster,
            ours: cluster.into(),
        });
    }
    Ok(())
}

/// A stranger's text goes to a terminal: bounded, and without control codes.
fn refused(code: RefusalCode, message: &str) -> JoinError {
    let message = message
        .chars()
        .filter(|c| !c.is_control())
        .take(REFUSAL_TEXT_BYTES_MAX / 4)
        .collect();
    JoinError::Refused { code, message }
}

#[cfg(test)]
mod tests;
