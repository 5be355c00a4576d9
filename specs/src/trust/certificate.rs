//! Certificates and the chains that prove them.

use super::{Context, PublicKey, SecretKey, SignatureError, Signed};
use crate::{
    FleetId, Millis, NodeId, NodeName, Topology,
    codec::{self, CodecError},
};
use serde::{Deserialize, Serialize};

/// How far two honest clocks may lie apart.
pub const CLOCK_SLACK: Millis = Millis(5 * 60_000);

/// How long a node's certificate is valid; renewed from a third of its life.
pub const NODE_CERTIFICATE_LIFE: Millis = Millis(30 * 86_400_000);

/// How long past its end a node's certificate is still accepted while no
/// leader can be had: expiry must not take a cluster down.
pub const GRACE_WITHOUT_LEADER: Millis = Millis(7 * 86_400_000);

/// Longest certificate: names and topology are at most 63 bytes each.
const CERTIFICATE_BYTES_MAX: usize = 2_048;

/// Why a chain of certificates is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The root is another fleet's.
    #[error("the certificate is of fleet {theirs}, this is fleet {ours}")]
    OtherFleet {
        /// Whose it is.
        theirs: FleetId,
        /// Ours.
        ours: FleetId,
    },
    /// The certificate is of another cluster of the fleet.
    #[error("the certificate is of cluster {theirs:?}, this is cluster {ours:?}")]
    OtherCluster {
        /// Whose it is.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// An admission issuer can't sign users, nor the other way round.
    #[error("the issuer may not sign this kind of certificate")]
    WrongIssuer,
    /// The holder on the other end is not the one that is named.
    #[error("the certificate is for another key")]
    OtherHolder,
    /// Past its end.
    #[error("the certificate ended {} s ago", .ago.0 / 1000)]
    Expired {
        /// Time since its end.
        ago: Millis,
    },
    /// Before its start.
    #[error("the certificate begins in {} s; compare the two hosts' clocks", .in_.0 / 1000)]
    NotYetValid {
        /// Time to its start.
        in_: Millis,
    },
    /// A signature in the chain does not hold.
    #[error("a signature in the certificate chain does not hold")]
    Signature(#[from] SignatureError),
    /// Bytes in the chain are malformed.
    #[error("the certificate chain is malformed")]
    Malformed(#[from] CodecError),
}

/// What an issuer may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IssuerKind {
    /// Nodes.
    Admission,
    /// Users and policies.
    People,
}

/// Signed by the root: a key that may sign certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerCertificate {
    /// The fleet.
    pub fleet: FleetId,
    /// What it may sign.
    pub kind: IssuerKind,
    /// The issuer's key.
    pub key: PublicKey,
}

/// What a node may be chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeRole {
    /// Runs tasks.
    Agent,
    /// May be chosen as a voter, hence lead, issue and publish.
    VoterEligible,
}

/// Signed by the admission issuer: this key is a node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCertificate {
    /// The fleet.
    pub fleet: FleetId,
    /// The node's key.
    pub node: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Where it stands; names the cluster.
    pub topology: Topology,
    /// What it may be chosen for, in order.
    pub roles: Vec<NodeRole>,
    /// Names the certificate in revocations.
    pub serial: u64,
    /// Valid from, Unix time.
    pub not_before: Millis,
    /// Valid until, Unix time.
    pub not_after: Millis,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Change jobs of these namespaces.
    Deployer {
        /// In order.
        namespaces: Vec<String>,
    },
    /// Change nodes, tokens and windows.
    Operator,
    /// Everything.
    Admin,
}

/// Signed by the people issuer: this key is this user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserCertificate {
    /// The fleet.
    pub fleet: FleetId,
    /// Shown in histories.
    pub user: String,
    /// The user's key.
    pub key: PublicKey,
    /// What the user may do.
    pub roles: Vec<Role>,
    /// Valid from, Unix time.
    pub not_before: Millis,
    /// Valid until, Unix time.
    pub not_after: Millis,
}

impl UserCertificate {
    /// May the user change jobs of this namespace?
    pub fn may_deploy(&self, namespace: &str) -> bool {
        self.roles.iter().any(|role| match role {
            Role::Admin => true,
            Role::Deployer { namespaces } => namespaces.iter().any(|n| n == namespace),
            Role::Viewer | Role::Operator => false,
        })
    }

    /// May the user change nodes and tokens?
    pub fn may_operate(&self) -> bool {
        self.roles
            .iter()
            .any(|role| matches!(role, Role::Admin | Role::Operator))
    }
}

/// A node's certificate with the chain that proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCredential {
    /// The root's key; its hash is the fleet id.
    pub root: PublicKey,
    /// An [`IssuerCertificate`] by the root.
    pub issuer: Signed,
    /// A [`NodeCertificate`] by the issuer.
    pub certificate: Signed,
}

/// A user's certificate with the chain that proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserCredential {
    /// The root's key; its hash is the fleet id.
    pub root: PublicKey,
    /// An [`IssuerCertificate`] by the root.
    pub issuer: Signed,
    /// A [`UserCertificate`] by the issuer.
    pub certificate: Signed,
}

impl NodeCredential {
    /// Signs a node in.
    pub fn issue(
        root: PublicKey,
        issuer: Signed,
        issuer_key: &SecretKey,
        certificate: &NodeCertificate,
    ) -> NodeCredential {
        let certificate = Signed::new(issuer_key, Context::Node, codec::encode(certificate));
        NodeCredential {
            root,
            issuer,
            certificate,
        }
    }

    /// The certificate, if the chain holds for `fleet` at `now` (Unix time).
    /// `grace` is how long past its end it is still accepted: zero, or
    /// [`GRACE_WITHOUT_LEADER`].
    ///
    /// # Errors
    /// Any [`TrustError`]. The caller still compares holder and cluster.
    pub fn verify(
        &self,
        fleet: FleetId,
        now: Millis,
        grace: Millis,
    ) -> Result<NodeCertificate, TrustError> {
        let issuer = verify_issuer(&self.root, &self.issuer, fleet, IssuerKind::Admission)?;
        let bytes = self.certificate.verify(&issuer.key, Context::Node)?;
        let certificate: NodeCertificate =
            codec::decode_canonical("node certificate", bytes, CERTIFICATE_BYTES_MAX)?;
        check_fleet(certificate.fleet, fleet)?;
        check_time(certificate.not_before, certificate.not_after + grace, now)?;
        Ok(certificate)
    }
}

impl UserCredential {
    /// Signs a user in.
    pub fn issue(
        root: PublicKey,
        issuer: Signed,
        issuer_key: &SecretKey,
        certificate: &UserCertificate,
    ) -> UserCredential {
        let certificate = Signed::new(issuer_key, Context::User, codec::encode(certificate));
        UserCredential {
            root,
            issuer,
            certificate,
        }
    }

    /// The certificate, if the chain holds for `fleet` at `now` (Unix time).
    ///
    /// # Errors
    /// Any [`TrustError`].
    pub fn verify(&self, fleet: FleetId, now: Millis) -> Result<UserCertificate, TrustError> {
        let issuer = verify_issuer(&self.root, &self.issuer, fleet, IssuerKind::People)?;
        let bytes = self.certificate.verify(&issuer.key, Context::User)?;
        let certificate: UserCertificate =
            codec::decode_canonical("user certificate", bytes, CERTIFICATE_BYTES_MAX)?;
        check_fleet(certificate.fleet, fleet)?;
        check_time(certificate.not_before, certificate.not_after, now)?;
        Ok(certificate)
    }
}

fn verify_issuer(
    root: &PublicKey,
    issuer: &Signed,
    fleet: FleetId,
    kind: IssuerKind,
) -> Result<IssuerCertificate, TrustError> {
    check_fleet(root.fleet(), fleet)?;
    let bytes = issuer.verify(root, Context::Issuer)?;
    let issuer: IssuerCertificate =
        codec::decode_canonical("issuer certificate", bytes, CERTIFICATE_BYTES_MAX)?;
    check_fleet(issuer.fleet, fleet)?;
    if issuer.kind != kind {
        return Err(TrustError::WrongIssuer);
    }
    Ok(issuer)
}

fn check_fleet(theirs: FleetId, ours: FleetId) -> Result<(), TrustError> {
    if theirs == ours {
        Ok(())
    } else {
        Err(TrustError::OtherFleet { theirs, ours })
    }
}

fn check_time(not_before: Millis, not_after: Millis, now: Millis) -> Result<(), TrustError> {
    if now + CLOCK_SLACK < not_before {
        return Err(TrustError::NotYetValid {
            in_: not_before.since(now),
        });
    }
    if now > not_after + CLOCK_SLACK {
        return Err(TrustError::Expired {
            ago: now.since(not_after),
        });
    }
    Ok(())
}
