//! A small fleet for this crate's tests.

use crate::{KeyRing, counters::Counting, pool::Pool};
use potluck_specs::{
    FleetId, Millis, NodeName, Topology, codec,
    trust::{
        Context, IssuerCertificate, IssuerKind, NODE_CERTIFICATE_LIFE, NodeCertificate,
        NodeCredential, NodeRole, SecretKey, Signed,
    },
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// A fleet whose keys all follow from one number.
pub(crate) struct Fleet {
    root: SecretKey,
    issuer: SecretKey,
}

impl Fleet {
    pub(crate) fn new(seed: u8) -> Fleet {
        Fleet {
            root: SecretKey::from_seed([seed; 32]),
            issuer: SecretKey::from_seed([seed ^ 0x80; 32]),
        }
    }

    pub(crate) fn id(&self) -> FleetId {
        self.root.public().fleet()
    }

    /// A node's certificate; the serial is the first byte of its key's seed.
    pub(crate) fn admit(&self, key: &SecretKey, cluster: &str, from: Millis) -> NodeCredential {
        let issuer = IssuerCertificate {
            fleet: self.id(),
            kind: IssuerKind::Admission,
            key: self.issuer.public(),
        };
        let issuer = Signed::new(&self.root, Context::Issuer, codec::encode(&issuer));
        let number = key.seed()[0];
        let certificate = NodeCertificate {
            fleet: self.id(),
            node: key.node(),
            name: NodeName(format!("node-{number}")),
            topology: Topology::in_rack(cluster, &format!("rack-{}", number % 3)),
            roles: vec![NodeRole::Agent, NodeRole::VoterEligible],
            serial: number.into(),
            not_before: from,
            not_after: from + NODE_CERTIFICATE_LIFE,
        };
        NodeCredential::issue(self.root.public(), issuer, &self.issuer, &certificate)
    }

    /// The transport of node `number`.
    pub(crate) fn pool(&self, number: u8, cluster: &str, ring: u8, epoch: u64) -> Pool {
        let key = node_key(number);
        let credential = self.admit(&key, cluster, unix_now());
        Pool::new(
            self.id(),
            cluster,
            key,
            &credential,
            KeyRing::new([ring; 32]),
            epoch,
            Arc::new(Counting::default()),
        )
    }
}

pub(crate) fn node_key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

pub(crate) fn unix_now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis(now.as_millis() as u64)
}
