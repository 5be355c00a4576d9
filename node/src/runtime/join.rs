//! Coming into a cluster: with a token on a host's first start, or with a
//! certificate that ended while the host was off.

use crate::{
    clock,
    identity::{
        self, Admission, ClusterFile, DataFolder, JoinError, JoinReply, JoinRequest, JoinTransport,
        Joiner, TransportError,
    },
    network::{self, Credential, ExchangeError, LinkError, Network, NetworkConfig},
};
use async_trait::async_trait;
use potluck_specs::{FleetId, Millis, NodeId, NodeName, Topology, trust::SecretKey};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

use super::{
    settings::{JoinWish, NodeSettings},
    start::StartError,
};

/// How long one question to a member may take: the leader commits an entry.
const EXCHANGE_WAIT: Duration = Duration::from_secs(12);

/// How long a host tries to join while the cluster has no leader.
const JOIN_WAIT: Duration = Duration::from_secs(30);

/// First pause between two tries; doubles up to the longest.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause between two tries.
const JOIN_PAUSE_MAX: Duration = Duration::from_secs(3);

/// The network as the joining protocol sees it.
pub(super) struct Door<'a>(pub &'a Network);

#[async_trait]
impl JoinTransport for Door<'_> {
    async fn exchange(
        &self,
        address: SocketAddr,
        peer: Option<NodeId>,
        request: JoinRequest,
    ) -> Result<(NodeId, JoinReply), TransportError> {
        // The network lets nothing out before the other side has proved to be
        // a node of the fleet, so the secret is safe even before this check.
        let answered = self
            .0
            .join_exchange(address, request.encode(), EXCHANGE_WAIT)
            .await;
        let (node, bytes) = answered.map_err(|error| match error {
            ExchangeError::Link(LinkError::OtherFleet) => TransportError::OtherFleet { address },
            error => TransportError::Connect {
                address,
                source: Box::new(error),
            },
        })?;
        if peer.is_some_and(|peer| peer != node) {
            return Err(TransportError::OtherPeer { address });
        }
        let reply = JoinReply::decode(&bytes).map_err(|error| TransportError::Exchange {
            address,
            source: Box::new(error),
        })?;
        Ok((node, reply))
    }
}

/// Joins with a token, and writes what the cluster gave into the folder.
///
/// # Errors
/// The cluster's refusal, or nobody answered within [`JOIN_WAIT`].
pub(super) async fn join(
    folder: &DataFolder,
    key: &SecretKey,
    settings: &NodeSettings,
    wish: &JoinWish,
) -> Result<(), StartError> {
    let token = &wish.token;
    let rack = settings.rack.clone().or_else(|| token.rack.clone());
    let joiner = Joiner {
        node: key.node(),
        name: NodeName(settings.name.clone()),
        topology: Topology::in_rack(&token.cluster, rack.as_deref().unwrap_or("default")),
        addresses: vec![settings.advertise],
    };
    let stop = CancellationToken::new();
    let network = stranger(key, token.fleet, &token.cluster, stop.clone()).await?;
    let end = tokio::time::Instant::now() + JOIN_WAIT;
    let mut pause = JOIN_PAUSE;
    let outcome = loop {
        let now = clock::unix_now();
        let asked = identity::join(&Door(&network), wish.address, token, &joiner, now).await;
        match asked {
            Err(error) if error.is_temporary() && tokio::time::Instant::now() < end => {
                tracing::warn!(error = %crate::cli::chain(&error), "not let in yet, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(JOIN_PAUSE_MAX);
            }
            outcome => break outcome,
        }
    };
    stop.cancel();
    network.stopped().await;
    store(folder, token.fleet, outcome?)
}

/// Renews a certificate that has ended, so that an old host can come back.
///
/// # Errors
/// The cluster's refusal, or nobody answered.
pub(super) async fn renew_if_ended(folder: &DataFolder, key: &SecretKey) -> Result<(), StartError> {
    let (Some(credential), Some(cluster)) = (folder.credential()?, folder.cluster()?) else {
        return Ok(());
    };
    let now = clock::unix_now();
    if credential.verify(cluster.fleet, now, Millis(0)).is_ok() {
        return Ok(());
    }
    // Whatever its age, it still says who this node was.
    let Ok(certificate) = credential.verify(cluster.fleet, now, Millis(u64::MAX / 2)) else {
        return Ok(());
    };
    let stop = CancellationToken::new();
    let network = stranger(key, cluster.fleet, &cluster.cluster, stop.clone()).await?;
    let mut outcome = Ok(());
    for address in cluster.members.iter().flat_map(|member| &member.network) {
        match identity::renew(&Door(&network), *address, &credential, &certificate, now).await {
            Ok(admission) => {
                outcome = store(folder, cluster.fleet, admission);
                break;
            }
            Err(error) => outcome = Err(error.into()),
        }
    }
    stop.cancel();
    network.stopped().await;
    // Without an answer the node starts on its grace, if that is not over too.
    if let Err(error) = &outcome {
        tracing::warn!(error = %crate::cli::chain(error), "the certificate ended and was not renewed");
    }
    Ok(())
}

async fn stranger(
    key: &SecretKey,
    fleet: FleetId,
    cluster: &str,
    stop: CancellationToken,
) -> Result<Network, network::StartError> {
    let config = NetworkConfig {
        key: key.clone(),
        fleet,
        cluster: cluster.into(),
        credential: Credential::None,
        listen: None,
        grace: Arc::new(|| Millis(0)),
    };
    let (network, _inbound) = network::start(config, stop).await?;
    Ok(network)
}

fn store(folder: &DataFolder, fleet: FleetId, admission: Admission) -> Result<(), StartError> {
    // The certificate last: with it the folder counts as admitted.
    folder.set_cluster(&ClusterFile {
        fleet,
        cluster: admission.cluster,
        ring: admission.ring,
        members: admission.members,
        epoch: admission.epoch,
    })?;
    folder.set_credential(&admission.credential)?;
    Ok(())
}

/// Renews through any member while the node runs.
///
/// # Errors
/// The last refusal.
pub(super) async fn renew(
    network: &Network,
    addresses: &[SocketAddr],
    credential: &potluck_specs::trust::NodeCredential,
    certificate: &potluck_specs::trust::NodeCertificate,
) -> Result<Admission, JoinError> {
    let mut last = None;
    for address in addresses {
        let now = clock::unix_now();
        match identity::renew(&Door(network), *address, credential, certificate, now).await {
            Ok(admission) => return Ok(admission),
            Err(error) => last = Some(error),
        }
    }
    Err(
        last.unwrap_or(JoinError::Transport(TransportError::Timeout {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        })),
    )
}
