//! The first entries of a new cluster's log, by the node of `potluck init`.

use super::shared::Shared;
use crate::{cli::chain, identity::Genesis};
use potluck_core::cluster::{self, Cluster, Command, GossipKey};
use potluck_specs::Millis;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Writes the first entries of a new cluster's log, once this node leads it.
/// Repeats after a crash change nothing: the log refuses a second genesis.
pub(super) async fn found(shared: Arc<Shared>, genesis: Genesis, token: CancellationToken) {
    let mut leadership = shared.control.leadership();
    loop {
        let begun = shared.control.read(|state: &Cluster| {
            state.has_begun() && state.sealed_issuer(shared.me.node).is_some()
        });
        if begun {
            return;
        }
        if leadership.borrow_and_update().we_lead {
            for command in genesis_commands(&shared, &genesis) {
                if let Err(error) = shared.control.propose(command).await {
                    tracing::warn!(error = %chain(&error), "genesis was not committed yet");
                }
            }
        }
        tokio::select! {
            () = token.cancelled() => return,
            _ = leadership.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

fn genesis_commands(shared: &Shared, genesis: &Genesis) -> Vec<Command> {
    let Ok(certificate) = genesis
        .credential
        .verify(genesis.fleet, genesis.at, Millis(0))
    else {
        tracing::error!("the genesis file is not consistent");
        return Vec::new();
    };
    let me = &shared.me;
    let gossip_keys = genesis
        .ring
        .keys()
        .zip(1..)
        .map(|(key, id)| GossipKey { id, key })
        .collect();
    let begin = Command::Genesis {
        genesis: Box::new(cluster::Genesis {
            fleet: genesis.fleet,
            cluster: genesis.cluster.clone(),
            epoch: genesis.epoch,
            root: genesis.root,
            issuer: genesis.admission_issuer.clone(),
            gossip_keys,
            first: cluster::Admission {
                node: certificate.node,
                name: certificate.name,
                topology: certificate.topology,
                credential: genesis.credential.clone(),
                serial: certificate.serial,
                addresses: vec![me.address.to_string()],
            },
            roles: certificate.roles,
            now: genesis.at,
        }),
    };
    let seal = Command::SealIssuer {
        node: me.node,
        sealed: genesis.sealed_issuer.clone(),
    };
    vec![begin, seal]
}
