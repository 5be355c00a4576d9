//! The admission issuer: signs nodes in. Its secret exists sealed to each
//! voter, and open only in the memory of a leader.

use potluck_specs::{
    FleetId, Millis, NodeId, NodeName, Topology,
    trust::{
        self, NODE_CERTIFICATE_LIFE, NodeCertificate, NodeCredential, NodeRole, PublicKey,
        SealError, SecretKey, Signed, Token,
    },
};

use super::random;

/// An issuer that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Sealed for another node, or damaged.
    #[error("the sealed admission issuer does not open with this node's key")]
    Sealed(#[from] SealError),
    /// It is not 32 bytes, or of another certificate.
    #[error("the sealed admission issuer is not the one of its certificate")]
    OtherKey,
}

/// The admission issuer with its secret.
#[derive(Clone, Debug)]
pub struct Issuer {
    fleet: FleetId,
    root: PublicKey,
    certificate: Signed,
    key: SecretKey,
}

impl Issuer {
    /// Puts an issuer together: the root's key, the root's
    /// [`trust::IssuerCertificate`] and the secret of the key in it.
    pub fn new(root: PublicKey, certificate: Signed, key: SecretKey) -> Issuer {
        Issuer {
            fleet: root.fleet(),
            root,
            certificate,
            key,
        }
    }

    /// Opens what [`Self::seal_for`] made for the node with this key.
    ///
    /// # Errors
    /// Any [`IssuerError`].
    pub fn open(
        root: PublicKey,
        certificate: Signed,
        sealed: &[u8],
        node: &SecretKey,
    ) -> Result<Issuer, IssuerError> {
        let secret = zeroize::Zeroizing::new(trust::open(node, sealed)?);
        let seed = secret
            .as_slice()
            .try_into()
            .map_err(|_| IssuerError::OtherKey)?;
        let issuer = Issuer::new(root, certificate, SecretKey::from_seed(seed));
        if issuer.is_consistent() {
            Ok(issuer)
        } else {
            Err(IssuerError::OtherKey)
        }
    }

    /// Seals the issuer's secret to a voter.
    ///
    /// # Errors
    /// [`IssuerError::Sealed`] if the node's id is no key.
    pub fn seal_for(&self, voter: NodeId) -> Result<Vec<u8>, IssuerError> {
        let seed = zeroize::Zeroizing::new(self.key.seed());
        Ok(trust::seal(&voter.into(), seed.as_slice(), random())?)
    }

    /// The fleet that it signs for.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The root's key.
    pub fn root(&self) -> PublicKey {
        self.root
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Signed {
        &self.certificate
    }

    /// Signs a node in, for [`NODE_CERTIFICATE_LIFE`] from `now`.
    pub fn issue(
        &self,
        node: NodeId,
        name: NodeName,
        topology: Topology,
        roles: &[NodeRole],
        now: Millis,
        serial: u64,
    ) -> NodeCredential {
        let mut roles = roles.to_vec();
        roles.sort();
        roles.dedup();
        let certificate = NodeCertificate {
            fleet: self.fleet,
            node,
            name,
            topology,
            roles,
            serial,
            not_before: now,
            not_after: now + NODE_CERTIFICATE_LIFE,
        };
        NodeCredential::issue(self.root, self.certificate.clone(), &self.key, &certificate)
    }

    /// Signs a node in again, as it was.
    pub fn renew(&self, old: &NodeCertificate, now: Millis, serial: u64) -> NodeCredential {
        self.issue(
            old.node,
            old.name.clone(),
            old.topology.clone(),
            &old.roles,
            now,
            serial,
        )
    }

    /// Does the certificate name the key whose secret this is?
    fn is_consistent(&self) -> bool {
        let probe = self.issue(
            NodeId([0; 32]),
            NodeName(String::new()),
            Topology::in_rack("", ""),
            &[],
            Millis(0),
            0,
        );
        probe.verify(self.fleet, Millis(0), Millis(0)).is_ok()
    }
}

/// Makes a token; the log gets its [`Token::secret_hash`], a person the rest.
pub fn create_token(
    fleet: FleetId,
    cluster: &str,
    roles: Vec<NodeRole>,
    rack: Option<String>,
    uses: u32,
    expires: Millis,
) -> Token {
    Token {
        fleet,
        cluster: cluster.into(),
        id: data_encoding::HEXLOWER.encode(&random::<4>()),
        secret: random(),
        roles,
        rack,
        uses,
        expires,
    }
}

/// Has a third of the certificate's life passed?
pub fn needs_renewal(certificate: &NodeCertificate, now: Millis) -> bool {
    let life = certificate.not_after.since(certificate.not_before);
    now >= certificate.not_before + Millis(life.0 / 3)
}
