//! The gossip actor: its settings, its handle, its thread.
//!
//! Inputs: what the node says about itself, as a watched value (the latest
//! counts, nothing queues); chitchat's news; the clock's tick. Outputs: the
//! members, as a watched value; counters. It waits for nothing but its own
//! sockets. When the last handle is dropped it stops; when it ends, receivers
//! of the members see their channel closed.

use crate::{
    Capacity, Counters, KeyRing, Member,
    counters::Counting,
    pool::Pool,
    record::{
        ADDRESSES_MAX, Addresses, CapacityGate, KEY_ADDRESSES, KEY_CAPACITY, KEY_CERTIFICATE,
        KEY_DRAINING, RECORD_BYTES_MAX, pack,
    },
    socket::{SealedTransport, Shared, Wire},
    view::{View, generation},
};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use potluck_specs::{
    FleetId, Millis, NodeId,
    trust::{NodeCredential, SecretKey, TrustError},
};
use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{runtime, sync::watch, time};

/// Mean heartbeat intervals without a heartbeat until a member is suspected.
const PHI: f64 = 8.0;

/// How long the dead, and deleted keys, are remembered: longer than a restart
/// takes, shorter than the digest could fill with incarnations.
const GRACE: Duration = Duration::from_secs(15 * 60);

/// Heartbeat intervals that the failure detector averages over.
const SAMPLES: usize = 1_000;

/// Longest time between two looks at the members.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What gossip needs to know.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster: one gossip pool.
    pub cluster: String,
    /// The node's key.
    pub key: SecretKey,
    /// The node's certificate: says its name and place.
    pub credential: NodeCredential,
    /// The cluster's gossip keys.
    pub ring: KeyRing,
    /// Where the socket is bound; port 0 picks one.
    pub listen: SocketAddr,
    /// Where others reach it; port 0 stands for the port that was bound.
    pub advertise: SocketAddr,
    /// Gossip addresses of some members.
    pub seeds: Vec<SocketAddr>,
    /// Must have grown since the last start with this key; under 2⁴⁸.
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
        source: io::Error,
    },
    /// The node's own certificate does not hold.
    #[error("the node's own certificate is not accepted for gossip in cluster {cluster:?}")]
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
    /// More addresses than a record may hold.
    #[error("the node has {count} addresses, at most {count_max} can be told")]
    TooManyAddresses {
        /// How many it has.
        count: usize,
        /// The limit.
        count_max: usize,
    },
    /// No thread or runtime could be had.
    #[error("can't start the gossip thread")]
    Thread(#[source] io::Error),
}

/// Handle of the gossip actor; it stops when told or when the last handle is
/// dropped.
#[derive(Clone, Debug)]
pub struct Gossip {
    inner: Arc<Inner>,
}

struct Inner {
    members: watch::Receiver<Arc<Vec<Member>>>,
    shared: Arc<Shared>,
    own: watch::Sender<Own>,
    address: SocketAddr,
    cluster: String,
    node: NodeId,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inner({} on {})", self.node, self.address)
    }
}

/// What the node says about itself.
#[derive(Clone)]
struct Own {
    /// Packed.
    certificate: String,
    /// Packed.
    addresses: String,
    capacity: Option<Capacity>,
    draining: bool,
    stop: bool,
}

/// Starts gossip on a thread of its own.
///
/// # Errors
/// Any [`GossipError`].
pub fn start(config: GossipConfig) -> Result<Gossip, GossipError> {
    if !config.ring.is_valid() {
        return Err(GossipError::Ring);
    }
    let counting = Arc::new(Counting::default());
    let pool = Pool::new(
        config.fleet,
        &config.cluster,
        config.key.clone(),
        &config.credential,
        config.ring.clone(),
        config.boot_epoch,
        counting.clone(),
    );
    let node = config.key.node();
    check_own(
        &pool,
        &config.credential,
        node,
        &config.cluster,
        (config.clock)(),
    )?;
    let bind_error = |source| GossipError::Bind {
        address: config.listen,
        source,
    };
    let socket = UdpSocket::bind(config.listen).map_err(bind_error)?;
    socket.set_nonblocking(true).map_err(bind_error)?;
    let address = socket.local_addr().map_err(bind_error)?;
    let advertise = match config.advertise.port() {
        0 => SocketAddr::new(config.advertise.ip(), address.port()),
        _ => config.advertise,
    };

    let shared = Arc::new(Shared::new(pool, counting, config.clock));
    let (own, own_changes) = watch::channel(own_record(&config, advertise)?);
    let (members_out, members) = watch::channel(Arc::new(Vec::new()));
    let actor = Actor {
        cluster: config.cluster.clone(),
        node_id: node.short(),
        boot_epoch: config.boot_epoch,
        advertise,
        seeds: config.seeds,
        interval: config.interval,
        shared: shared.clone(),
        own: own_changes,
        view: View::default(),
        gate: CapacityGate::default(),
    };
    start_thread(actor, socket, members_out)?;
    let inner = Inner {
        members,
        shared,
        own,
        address,
        cluster: config.cluster,
        node,
    };
    Ok(Gossip {
        inner: Arc::new(inner),
    })
}

fn check_own(
    pool: &Pool,
    credential: &NodeCredential,
    node: NodeId,
    cluster: &str,
    now: Millis,
) -> Result<(), GossipError> {
    let refuse = |source| GossipError::Credential {
        cluster: cluster.into(),
        source,
    };
    let certificate = pool.check(credential, now).map_err(refuse)?;
    if certificate.node == node {
        Ok(())
    } else {
        Err(refuse(TrustError::OtherHolder))
    }
}

fn own_record(config: &GossipConfig, advertise: SocketAddr) -> Result<Own, GossipError> {
    let count = config.network.len();
    if count > ADDRESSES_MAX {
        return Err(GossipError::TooManyAddresses {
            count,
            count_max: ADDRESSES_MAX,
        });
    }
    let addresses = Addresses {
        incarnation: config.boot_epoch,
        gossip: advertise,
        network: config.network.clone(),
        version: config.version.clone(),
    };
    let own = Own {
        certificate: pack(&config.credential.certificate),
        addresses: pack(&addresses.sign(&config.key)),
        capacity: None,
        draining: false,
        stop: false,
    };
    let bytes = own.certificate.len() + own.addresses.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(GossipError::RecordTooLarge {
            bytes,
            bytes_max: RECORD_BYTES_MAX,
        });
    }
    Ok(own)
}

impl Gossip {
    /// Where gossip listens.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The members whose records verify, this node among them, in the order of
    /// their keys; refreshed each second and upon changes. Closed when gossip
    /// has stopped.
    pub fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.inner.members.clone()
    }

    /// Publishes capacity: upon a change of at least 5 %, at most every 5 s.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.inner
            .own
            .send_modify(|own| own.capacity = Some(capacity));
    }

    /// Publishes at once whether the node takes no new work.
    pub fn set_draining(&self, draining: bool) {
        self.inner.own.send_modify(|own| own.draining = draining);
    }

    /// A look at the counters.
    pub fn counters(&self) -> Counters {
        self.inner.shared.counting.look()
    }

    /// Uses other gossip keys from now on.
    ///
    /// # Errors
    /// [`GossipError::Ring`].
    pub fn rotate(&self, ring: KeyRing) -> Result<(), GossipError> {
        if !ring.is_valid() {
            return Err(GossipError::Ring);
        }
        self.inner.shared.pool().set_ring(ring);
        Ok(())
    }

    /// Uses a renewed certificate from now on.
    ///
    /// # Errors
    /// [`GossipError::Credential`].
    pub fn update_credential(&self, credential: NodeCredential) -> Result<(), GossipError> {
        let shared = &self.inner.shared;
        let now = shared.now().unix;
        let mut pool = shared.pool();
        check_own(
            &pool,
            &credential,
            self.inner.node,
            &self.inner.cluster,
            now,
        )?;
        pool.set_credential(&credential);
        drop(pool);
        let packed = pack(&credential.certificate);
        self.inner.own.send_modify(|own| own.certificate = packed);
        Ok(())
    }

    /// Drops what nodes with these certificates (by serial) send and say.
    pub fn set_revoked(&self, serials: BTreeSet<u64>) {
        self.inner.shared.pool().set_revoked(serials);
    }

    /// Stops gossip and waits until its thread is done with its socket.
    pub async fn shutdown(&self) {
        self.inner.own.send_modify(|own| own.stop = true);
        let mut members = self.inner.members.clone();
        while members.changed().await.is_ok() {}
    }
}

/// What the thread works with.
struct Actor {
    cluster: String,
    node_id: String,
    boot_epoch: u64,
    advertise: SocketAddr,
    seeds: Vec<SocketAddr>,
    interval: Duration,
    shared: Arc<Shared>,
    own: watch::Receiver<Own>,
    view: View,
    gate: CapacityGate,
}

/// Why one life of chitchat ended.
enum End {
    /// As wished.
    Told,
    /// It failed; it is to be started anew.
    Failed,
}

fn start_thread(
    actor: Actor,
    socket: UdpSocket,
    members: watch::Sender<Arc<Vec<Member>>>,
) -> Result<(), GossipError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GossipError::Thread)?;
    let run = move || {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(actor.run(socket, &members));
            // Closes the socket, before the receivers hear of the end.
            drop(runtime);
        }));
        if ran.is_err() {
            tracing::error!("gossip thread panicked, ending the process");
            std::process::abort();
        }
        drop(members);
    };
    std::thread::Builder::new()
        .name("gossip".into())
        .spawn(run)
        .map_err(GossipError::Thread)?;
    Ok(())
}

impl Actor {
    /// Keeps chitchat going: a member can make it panic (its decoder asserts),
    /// and then it starts anew under a higher generation.
    async fn run(mut self, socket: UdpSocket, members: &watch::Sender<Arc<Vec<Member>>>) {
        let socket = tokio::net::UdpSocket::from_std(socket)
            .expect("a nonblocking socket can be registered with a fresh runtime");
        let wire = Arc::new(Wire::new(socket, self.shared.clone(), self.interval));
        let mut restarts = 0;
        while let End::Failed = self.live(restarts, wire.clone(), members).await {
            restarts += 1;
            self.shared.counting.restarts.fetch_add(1, Relaxed);
            time::sleep(self.interval).await;
        }
    }

    async fn live(
        &mut self,
        restarts: u64,
        wire: Arc<Wire>,
        members: &watch::Sender<Arc<Vec<Member>>>,
    ) -> End {
        let config = self.chitchat_config(generation(self.boot_epoch, restarts));
        self.gate = CapacityGate::default();
        let chitchat = match spawn_chitchat(config, Vec::new(), &SealedTransport(wire)).await {
            Ok(chitchat) => chitchat,
            Err(error) => {
                tracing::error!(error = %format_args!("{error:#}"), "can't start chitchat");
                return End::Failed;
            }
        };
        let end = self.serve(&chitchat, members).await;
        if let Err(error) = chitchat.shutdown().await {
            tracing::error!(error = %format_args!("{error:#}"), "chitchat ended in disorder");
        }
        end
    }

    async fn serve(
        &mut self,
        chitchat: &ChitchatHandle,
        members: &watch::Sender<Arc<Vec<Member>>>,
    ) -> End {
        let mut live = chitchat.with_chitchat(|c| c.live_nodes_watcher()).await;
        let mut tick = time::interval(self.interval.min(LOOK_INTERVAL));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let ended = chitchat.termination_watcher();
        tokio::pin!(ended);
        loop {
            let own = self.own.borrow_and_update().clone();
            if own.stop {
                return End::Told;
            }
            let published = self.publish(chitchat, own).await;
            let looked = self.look(chitchat, members).await;
            if published.is_none() || looked.is_none() {
                tracing::error!("chitchat's state is damaged, starting it anew");
                return End::Failed;
            }
            tokio::select! {
                _ = tick.tick() => {}
                changed = live.changed() => if changed.is_err() {
                    return End::Failed;
                },
                changed = self.own.changed() => if changed.is_err() {
                    return End::Told;
                },
                result = &mut ended => {
                    tracing::error!(?result, "chitchat has stopped, starting it anew");
                    // Most likely over the last message that it was given.
                    self.shared.pool().mute_last(self.shared.now());
                    return End::Failed;
                }
            }
        }
    }

    async fn publish(&mut self, chitchat: &ChitchatHandle, own: Own) -> Option<()> {
        let now = self.shared.now().uptime;
        let capacity = own
            .capacity
            .filter(|capacity| self.gate.passes(*capacity, now));
        guarded(chitchat, |chitchat| {
            // Values that have not changed cost nothing.
            let state = chitchat.self_node_state();
            state.set(KEY_CERTIFICATE, &own.certificate);
            state.set(KEY_ADDRESSES, &own.addresses);
            if own.draining || state.get(KEY_DRAINING).is_some() {
                state.set(KEY_DRAINING, u8::from(own.draining));
            }
            if let Some(capacity) = capacity {
                state.set(KEY_CAPACITY, capacity.to_text());
            }
        })
        .await
    }

    async fn look(
        &mut self,
        chitchat: &ChitchatHandle,
        members: &watch::Sender<Arc<Vec<Member>>>,
    ) -> Option<()> {
        let now = self.shared.now();
        let look = |chitchat: &mut Chitchat| self.view.look(chitchat, &self.shared.pool(), now);
        let seen = guarded(chitchat, look).await?;
        members.send_if_modified(|members| {
            let changed = **members != seen;
            if changed {
                *members = Arc::new(seen);
            }
            changed
        });
        Some(())
    }

    fn chitchat_config(&self, generation: u64) -> ChitchatConfig {
        ChitchatConfig {
            chitchat_id: ChitchatId::new(self.node_id.as_str(), generation, self.advertise),
            cluster_id: self.cluster.clone(),
            gossip_interval: self.interval,
            listen_addr: self.advertise,
            seed_nodes: self.seeds.iter().map(ToString::to_string).collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: SAMPLES,
                max_interval: self.interval * 10,
                initial_interval: self.interval,
                dead_node_grace_period: GRACE,
            },
            marked_for_deletion_grace_period: GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        }
    }
}

/// Works on chitchat's state; `None` if chitchat panicked over it. A member can
/// push our own state's version to the end of its numbers, and then the next
/// `set` overflows.
async fn guarded<T>(
    chitchat: &ChitchatHandle,
    mut work: impl FnMut(&mut Chitchat) -> T,
) -> Option<T> {
    chitchat
        .with_chitchat(|chitchat| catch_unwind(AssertUnwindSafe(|| work(chitchat))).ok())
        .await
}

#[cfg(test)]
mod tests;
