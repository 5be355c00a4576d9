//! The order in which a node's actors start, and stop.

use super::{
    admission::Admission,
    authors, certificates,
    concerns::QuorumSeen,
    conditions::{self, Own},
    discovery::{self, Discovery, Outbox},
    dispatch,
    exec::Exec,
    founding, join, keeping,
    members::{self, Directory},
    operations,
    packages::Packages,
    peers::Peers,
    recall,
    recovery::{self, CarryOutError, Epochs},
    relay::Relays,
    renewal,
    revocations::Revocations,
    scheduling, session,
    settings::NodeSettings,
    shared::{Me, Shared},
    standing::{self, NodeEnded},
    voters,
};
use crate::{
    agent::{self, AgentConfig, AgentError},
    api::error::ErrorCode,
    cli::chain,
    clock,
    control::{self, ControlGroup, Settings as ControlSettings, Timing},
    identity::{ClusterFile, DataFolder, FolderError, JoinError, random},
    network::{self, Credential, Inbound, Network, NetworkConfig},
    spawn::{essential, spawn},
    wire::Introduction,
};
use potluck_core::{
    cluster::{Cluster, FEATURE_LEVEL},
    voters::VotersConfig,
};
use potluck_gossip::{Gossip, GossipConfig, GossipError};
use potluck_specs::{
    Millis, NodeId,
    job::SignedJob,
    trust::{GRACE_WITHOUT_LEADER, NodeCertificate, NodeCredential, SecretKey},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How long actors may take to end when the node stops.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Addresses that gossip asks first; any one of them that lives is enough.
const SEEDS_MAX: usize = 200;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error("can't use the data folder")]
    Folder(#[from] FolderError),
    /// It is in no cluster and was not told to join one.
    #[error("{0} belongs to no cluster")]
    NoCluster(PathBuf),
    /// The cluster did not let it in.
    #[error("can't join")]
    Join(#[from] JoinError),
    /// libp2p.
    #[error("can't start the network")]
    Network(#[from] network::StartError),
    /// Gossip.
    #[error("can't start gossip")]
    Gossip(#[from] GossipError),
    /// The log that was to be gone on with.
    #[error("can't recover the cluster from this node")]
    Recover(#[from] CarryOutError),
    /// The control group's store.
    #[error("can't start the control group")]
    Control(#[from] control::StartError),
    /// The agent.
    #[error("can't start the agent")]
    Agent(#[from] AgentError),
    /// The package store.
    #[error("can't open the package store")]
    Packages(#[from] potluck_dht::store::StoreError),
    /// The node's address can't be listened on. Nothing was asked of the
    /// cluster yet.
    #[error("can't listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The helper program is not beside this one.
    #[error("the program potluck-helper is not at {0}")]
    NoHelper(PathBuf),
    /// Neither is the one that serves ssh, which was asked for.
    #[error("the program potluck-sshd is not at {0}")]
    NoSshd(PathBuf),
    /// The API's socket.
    #[error("can't listen on {path}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl StartError {
    /// For the exit code.
    pub fn code(&self) -> ErrorCode {
        match self {
            StartError::Join(error) if error.is_temporary() => ErrorCode::Unavailable,
            StartError::Join(_) => ErrorCode::Denied,
            StartError::NoCluster(_) | StartError::NoHelper(_) | StartError::NoSshd(_) => {
                ErrorCode::BadRequest
            }
            // Somebody else's for now: another node, or what listens there.
            StartError::Folder(FolderError::InUse { .. })
            | StartError::Listen { .. }
            | StartError::Socket { .. } => ErrorCode::Unavailable,
            _ => ErrorCode::Failed,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            StartError::NoCluster(_) => {
                "begin a fleet with potluck init, or join one with --join ADDRESS --token TOKEN"
            }
            StartError::Join(error) => return error.hint().map(str::to_owned),
            StartError::Listen { .. } => {
                "does another node listen there? choose an address of this host with --listen"
            }
            StartError::Recover(_) => {
                "the order is in recover.cbor of the data folder: start it again when the cause \
                 is mended, or remove the file to take the order back"
            }
            StartError::NoHelper(_) => "install potluck-helper beside potluck",
            StartError::NoSshd(_) => "install potluck-sshd beside potluck, or leave --ssh away",
            StartError::Folder(FolderError::InUse { .. }) => {
                "is a node running here already? see potluck info; another needs its own --data"
            }
            StartError::Folder(_) | StartError::Control(_) | StartError::Agent(_) => {
                "what is damaged and can't be brought back makes this another node: elsewhere \
                 potluck decommission NAME, here potluck node --join ADDRESS --token TOKEN with \
                 an empty --data and another --name"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

/// A running node.
pub struct Node {
    pub(super) shared: Arc<Shared>,
    token: CancellationToken,
    network_token: CancellationToken,
    agent_token: CancellationToken,
    actors: Vec<JoinHandle<()>>,
    socket: PathBuf,
    // Held until the end: one node per folder.
    pub(super) _folder: Arc<DataFolder>,
}

/// What the folder, or the cluster, says about this node.
struct Admitted {
    key: SecretKey,
    credential: NodeCredential,
    certificate: NodeCertificate,
    cluster: ClusterFile,
}

impl Node {
    /// Starts a node: from its folder, by genesis, or by joining.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn start(settings: NodeSettings) -> Result<Node, StartError> {
        Node::start_with(settings, helper_program()?).await
    }

    /// The same with this helper program.
    pub(super) async fn start_with(
        settings: NodeSettings,
        helper: PathBuf,
    ) -> Result<Node, StartError> {
        let sshd = match settings.ssh {
            true => Some(sshd_program()?),
            false => None,
        };
        let folder = Arc::new(DataFolder::open(&settings.data)?);
        check_listen(settings.listen)?;
        let admitted = admit(&folder, &settings).await?;
        let boot_epoch = folder.next_boot_epoch(clock::unix_now())?;
        let has_leader = Arc::new(AtomicBool::new(false));
        let (network_token, agent_token) = (CancellationToken::new(), CancellationToken::new());
        let (network, inbound) =
            start_network(&settings, &admitted, &has_leader, network_token.clone()).await?;
        for member in &admitted.cluster.members {
            network.learn(member.node, member.network.clone());
        }
        let control = start_control(&folder, &settings, &admitted, &network).await?;
        let directory = Directory::default();
        let me = admitted.key.node();
        let rack = admitted.certificate.topology.rack.clone();
        let packages = Packages::open(
            &settings.data.join("packages"),
            network.clone(),
            directory.clone(),
            me,
            rack,
        )?;
        let agent_config = agent_config(&settings, &admitted, helper);
        let agent = agent::start(
            agent_config,
            Arc::new(packages.clone()),
            agent_token.clone(),
        )
        .await?;
        let logged = logged_members(&control, me);
        for (node, addresses) in &logged {
            network.learn(*node, addresses.clone());
        }
        let gossip = start_gossip(&settings, &admitted, boot_epoch, &logged)?;
        let (scheduling, driver) = scheduling::channel();
        let discovery = Discovery::new(&admitted.certificate, network.clone(), me);
        let shared = Arc::new(Shared {
            me: Me {
                node: me,
                key: admitted.key.clone(),
                name: admitted.certificate.name.0.clone(),
                topology: admitted.certificate.topology.clone(),
                fleet: admitted.cluster.fleet,
                cluster: admitted.cluster.cluster.clone(),
                process: u64::from_be_bytes(random()),
                address: settings.advertise,
                introduction: Introduction {
                    raft_id: control.raft_id(),
                    addresses: vec![settings.advertise.to_string()],
                    capacity: settings.total,
                    feature_level: FEATURE_LEVEL,
                },
            },
            network,
            gossip,
            control,
            agent,
            exec: Exec::new(&settings.data, sshd),
            packages,
            discovery,
            scheduling,
            admission: Admission::new(admitted.credential.clone()),
            directory,
            quorum_seen: QuorumSeen::default(),
            own: Own::default(),
            conditions: Mutex::default(),
            twins: Mutex::default(),
            relays: Relays::default(),
            revocations: Revocations::default(),
            epochs: Epochs::new(folder.recovery()?),
            ended: watch::Sender::new(None),
        });
        let mut node = Node {
            socket: settings.data.join("api.sock"),
            shared,
            token: CancellationToken::new(),
            network_token,
            agent_token,
            actors: Vec::new(),
            _folder: folder.clone(),
        };
        node.start_actors(&settings, inbound, driver, folder, has_leader)?;
        tracing::info!(
            node = %node.shared.me.node,
            name = node.shared.me.name,
            address = %settings.advertise,
            version = crate::version::text(),
            "node runs",
        );
        Ok(node)
    }

    fn start_actors(
        &mut self,
        settings: &NodeSettings,
        inbound: Inbound,
        driver: scheduling::Driver,
        folder: Arc<DataFolder>,
        has_leader: Arc<AtomicBool>,
    ) -> Result<(), StartError> {
        let listener =
            operations::bind_socket(&self.socket).map_err(|source| StartError::Socket {
                path: self.socket.clone(),
                source,
            })?;
        let outbox = Outbox::default();
        let voters = VotersConfig {
            replace_after: Millis(settings.replace_voter_after.as_millis() as u64),
            // A small part of the patience with the silent ones: 10 s of the
            // usual 5 min, at once on a testnet.
            stable_after: Millis(settings.replace_voter_after.as_millis() as u64 / 30),
            ..VotersConfig::default()
        };
        let (shared, token) = (self.shared.clone(), self.token.clone());
        let genesis = folder.genesis()?;
        self.actors.extend([
            essential(
                "dispatch",
                token.clone(),
                dispatch::run(shared.clone(), inbound, token.clone()),
            ),
            essential(
                "members",
                token.clone(),
                members::run(shared.clone(), token.clone()),
            ),
            essential(
                "session",
                token.clone(),
                session::run(shared.clone(), token.clone()),
            ),
            essential(
                "scheduling",
                token.clone(),
                scheduling::run(shared.clone(), driver, outbox.clone(), token.clone()),
            ),
            essential(
                "voters",
                token.clone(),
                voters::run(shared.clone(), voters, token.clone()),
            ),
            essential(
                "publisher",
                token.clone(),
                discovery::publish(shared.clone(), outbox, token.clone()),
            ),
            essential(
                "renewal",
                token.clone(),
                renewal::run(shared.clone(), folder.clone(), has_leader, token.clone()),
            ),
            essential(
                "recovery",
                token.clone(),
                recovery::run(shared.clone(), folder.clone(), token.clone()),
            ),
            essential(
                "recall",
                token.clone(),
                recall::run(shared.clone(), token.clone()),
            ),
            essential(
                "keeping",
                token.clone(),
                keeping::run(shared.clone(), token.clone()),
            ),
            essential(
                "standing",
                token.clone(),
                standing::run(shared.clone(), token.clone()),
            ),
            essential(
                "condition",
                token.clone(),
                conditions::run(shared.clone(), token.clone()),
            ),
            essential(
                "api socket",
                token.clone(),
                operations::serve_socket(shared.clone(), folder, listener, token.clone()),
            ),
        ]);
        if let Some(genesis) = genesis {
            self.actors.push(spawn(
                "genesis",
                founding::found(shared.clone(), genesis, token),
            ));
        }
        let packages = self.shared.packages.clone();
        self.actors.push(spawn("announcements", async move {
            packages.announce_all().await
        }));
        Ok(())
    }

    /// Waits until the node must end by itself, and says why; for ever, if it
    /// need not. It goes on until it is stopped.
    pub async fn ended(&self) -> NodeEnded {
        let mut ended = self.shared.ended.subscribe();
        loop {
            if let Some(why) = *ended.borrow_and_update() {
                return why;
            }
            if ended.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Stops in reverse order. Tasks go on; the next start adopts them.
    pub async fn stop(self) {
        // Somebody else should lead before this node is gone.
        hand_over(&self.shared).await;
        self.token.cancel();
        let _ = std::fs::remove_file(&self.socket);
        let ended = futures::future::join_all(self.actors);
        if tokio::time::timeout(STOP_WAIT, ended).await.is_err() {
            tracing::warn!("some actors did not end in time");
        }
        self.agent_token.cancel();
        self.shared.agent.stopped().await;
        let shared = self.shared;
        let end = async {
            shared.gossip.shutdown().await;
            shared.control.shutdown().await;
            self.network_token.cancel();
            shared.network.stopped().await;
        };
        if tokio::time::timeout(STOP_WAIT, end).await.is_err() {
            tracing::warn!("the node's network did not end in time");
        }
    }
}

/// A leader that stops on purpose asks a follower that keeps up to take over,
/// so that nobody waits for an election timeout.
async fn hand_over(shared: &Arc<Shared>) {
    if !shared.we_lead() {
        return;
    }
    let group = shared.control.membership();
    let heir = group
        .voters
        .iter()
        .filter(|voter| voter.member.node != shared.me.node)
        .max_by_key(|voter| voter.matched);
    if let Some(heir) = heir
        && let Err(error) = shared.control.transfer_leadership(heir.raft_id).await
    {
        tracing::debug!(error = %chain(&error), "leadership was not handed over");
    }
}

/// Finds out before a token is spent that TCP or UDP can't be had.
fn check_listen(address: SocketAddr) -> Result<(), StartError> {
    let tcp = std::net::TcpListener::bind(address).map(drop);
    let both = tcp.and_then(|()| std::net::UdpSocket::bind(address).map(drop));
    both.map_err(|source| StartError::Listen { address, source })
}

fn helper_program() -> Result<PathBuf, StartError> {
    beside("potluck-helper").map_err(StartError::NoHelper)
}

fn sshd_program() -> Result<PathBuf, StartError> {
    beside("potluck-sshd").map_err(StartError::NoSshd)
}

/// A program in the folder of this one; where it would be, if it is not there.
fn beside(name: &str) -> Result<PathBuf, PathBuf> {
    let path = std::env::current_exe()
        .unwrap_or_default()
        .with_file_name(name);
    match path.exists() {
        true => Ok(path),
        false => Err(path),
    }
}

/// The node's certificate: from the folder, or by joining.
async fn admit(folder: &DataFolder, settings: &NodeSettings) -> Result<Admitted, StartError> {
    let is_certified = folder.credential()?.is_some();
    let is_member = is_certified && folder.cluster()?.is_some();
    if !is_member && settings.join.is_none() {
        // Before anything is written: `potluck init` takes an empty folder.
        return Err(match is_certified {
            true => folder.lacks("cluster.cbor").into(),
            false => StartError::NoCluster(folder.path().into()),
        });
    }
    let key = folder.node_key()?;
    if !is_member && let Some(wish) = &settings.join {
        join::join(folder, &key, settings, wish).await?;
    }
    // A certificate that ended while the host was off is renewed by asking.
    join::renew_if_ended(folder, &key).await?;
    let certificate = folder.certificate(clock::unix_now(), GRACE_WITHOUT_LEADER)?;
    let (Some(certificate), Some(credential), Some(cluster)) =
        (certificate, folder.credential()?, folder.cluster()?)
    else {
        return Err(StartError::NoCluster(folder.path().into()));
    };
    Ok(Admitted {
        key,
        credential,
        certificate,
        cluster,
    })
}

async fn start_network(
    settings: &NodeSettings,
    admitted: &Admitted,
    has_leader: &Arc<AtomicBool>,
    token: CancellationToken,
) -> Result<(Network, Inbound), network::StartError> {
    let has_leader = has_leader.clone();
    let config = NetworkConfig {
        key: admitted.key.clone(),
        fleet: admitted.cluster.fleet,
        cluster: admitted.cluster.cluster.clone(),
        credential: Credential::Node(admitted.credential.clone()),
        listen: Some(settings.listen),
        grace: Arc::new(move || certificates::grace(has_leader.load(Ordering::Relaxed))),
    };
    network::start(config, token).await
}

async fn start_control(
    folder: &DataFolder,
    settings: &NodeSettings,
    admitted: &Admitted,
    network: &Network,
) -> Result<ControlGroup<Cluster>, StartError> {
    let raft = settings.data.join("raft");
    let me = control::Member {
        node: admitted.key.node(),
        rack: admitted.certificate.topology.rack.clone(),
        addresses: vec![settings.advertise.to_string()],
    };
    recovery::carry_out(folder, &raft, &admitted.cluster, &me)?;
    let control = ControlSettings {
        folder: raft,
        fleet: admitted.cluster.fleet,
        cluster: admitted.cluster.cluster.clone(),
        epoch: recovery::epoch_of(folder, &admitted.cluster)?,
        me,
        timing: Timing::from_environment(),
    };
    let peers = Arc::new(Peers(network.clone()));
    let begins = folder.genesis()?.is_some() && folder.raft_id()?.is_none();
    let group = match begins {
        true => ControlGroup::bootstrap(control, peers).await?,
        false => ControlGroup::start(control, peers).await?,
    };
    folder.set_raft_id(group.raft_id())?;
    Ok(group)
}

/// Where the log says that the other members are: after a restart of every
/// host somebody must know.
fn logged_members(control: &ControlGroup<Cluster>, me: NodeId) -> Vec<(NodeId, Vec<SocketAddr>)> {
    control.read(|state: &Cluster| {
        let others = state.members().values().filter(|member| member.node != me);
        others
            .map(|member| {
                let parsed = member.addresses.iter().filter_map(|text| text.parse().ok());
                (member.node, parsed.collect())
            })
            .collect()
    })
}

fn start_gossip(
    settings: &NodeSettings,
    admitted: &Admitted,
    boot_epoch: u64,
    logged: &[(NodeId, Vec<SocketAddr>)],
) -> Result<Gossip, GossipError> {
    let told = admitted
        .cluster
        .members
        .iter()
        .filter(|member| member.node != admitted.key.node())
        .filter_map(|member| member.gossip.or_else(|| member.network.first().copied()));
    let mut seeds: BTreeSet<SocketAddr> = told.collect();
    seeds.extend(logged.iter().flat_map(|(_, addresses)| addresses));
    let seeds: Vec<SocketAddr> = seeds.into_iter().take(SEEDS_MAX).collect();
    potluck_gossip::start(GossipConfig {
        fleet: admitted.cluster.fleet,
        cluster: admitted.cluster.cluster.clone(),
        key: admitted.key.clone(),
        credential: admitted.credential.clone(),
        ring: admitted.cluster.ring.clone(),
        listen: settings.listen,
        advertise: settings.advertise,
        seeds,
        boot_epoch,
        network: vec![settings.advertise],
        version: env!("CARGO_PKG_VERSION").into(),
        interval: Duration::from_secs(1),
        clock: clock::unix_now,
    })
}

fn agent_config(settings: &NodeSettings, admitted: &Admitted, helper: PathBuf) -> AgentConfig {
    let (fleet, cluster) = (admitted.cluster.fleet, admitted.cluster.cluster.clone());
    AgentConfig {
        node: admitted.key.node(),
        name: admitted.certificate.name.clone(),
        topology: admitted.certificate.topology.clone(),
        data_dir: settings.data.join("agent"),
        address: settings.advertise.ip(),
        total: settings.total,
        facts: settings.facts.clone(),
        ports: settings.ports.clone(),
        node_ports: BTreeSet::from([settings.listen.port(), settings.advertise.port()]),
        helper,
        upgrade_helpers: settings.upgrade_helpers,
        lease: settings.agent_lease,
        logs: settings.logs,
        verify: Arc::new(move |signed: &SignedJob| {
            authors::verify_job(signed, fleet, &cluster, clock::unix_now())
        }),
    }
}
