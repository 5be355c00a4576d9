//! `potluck init`: the one act that makes a fleet, its first cluster, its
//! first node and its first person. Nothing else ever does.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use potluck_gossip::KeyRing;
use potluck_specs::{
    Epoch, FleetId, Millis, NodeId, NodeName, Topology, codec,
    ids::{NameError, check_name},
    trust::{
        Context, IssuerCertificate, IssuerKind, NodeCredential, NodeRole, PublicKey, Role,
        SecretKey, Signed, UserCertificate, UserCredential,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    ClusterFile, DataFolder, FolderError, Issuer, IssuerError, Profile, ProfileError,
    files::{self, FileError},
    profile::{self, ProfileNode},
    random,
};

/// How long a person's certificate is valid: long enough that nobody is locked
/// out by a holiday, short enough that a forgotten laptop ends.
pub const USER_CERTIFICATE_LIFE: Millis = Millis(365 * 86_400_000);

/// What `potluck init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The node's data folder.
    pub data: PathBuf,
    /// The person's folder.
    pub config: PathBuf,
    /// The first node's name.
    pub name: NodeName,
    /// Its place; names the cluster.
    pub topology: Topology,
    /// The first person.
    pub user: String,
    /// Where the node's libp2p swarm will be reached: kept in the profile.
    pub addresses: Vec<SocketAddr>,
    /// Where its gossip socket will be reached.
    pub gossip: Option<SocketAddr>,
    /// Unix time.
    pub now: Millis,
}

/// How a cluster began: the first entry of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: String,
    /// The cluster's first epoch.
    pub epoch: Epoch,
    /// The root's key.
    pub root: PublicKey,
    /// The root's certificate for the admission issuer.
    pub admission_issuer: Signed,
    /// The admission issuer's secret, sealed to the first node.
    #[serde(with = "serde_bytes")]
    pub sealed_issuer: Vec<u8>,
    /// The cluster's gossip keys.
    pub ring: KeyRing,
    /// The first node's certificate.
    pub credential: NodeCredential,
    /// When it was, Unix time.
    pub at: Millis,
}

/// What the ceremony made, for telling the person.
#[derive(Clone, Debug)]
pub struct Ceremony {
    /// The fleet.
    pub fleet: FleetId,
    /// The first node.
    pub node: NodeId,
    /// How the cluster begins.
    pub genesis: Genesis,
    /// The root's secret key: to be moved to a safe place.
    pub root_key: PathBuf,
    /// The people issuer's secret key.
    pub people_issuer_key: PathBuf,
    /// The person's secret key.
    pub user_key: PathBuf,
}

/// Why there is no new fleet.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("{path} exists already: a fleet or a node was set up here before")]
    Exists {
        /// What was found.
        path: PathBuf,
    },
    /// A name breaks the rules.
    #[error("can't set up a fleet under this name")]
    Name(#[from] NameError),
    /// The data folder.
    #[error("can't set up the data folder")]
    Folder(#[from] FolderError),
    /// The person's folder.
    #[error("can't set up the profile")]
    Profile(#[from] ProfileError),
    /// A file of either.
    #[error("can't write the fleet's keys")]
    File(#[from] FileError),
    /// The issuer can't be sealed to the node.
    #[error("can't seal the admission issuer to the node")]
    Issuer(#[from] IssuerError),
}

/// Files in the data folder that mean that a node was set up there.
const DATA_TRACES: [&str; 6] = [
    "node.key",
    "credential.cbor",
    "cluster.cbor",
    "genesis.cbor",
    "raft-id",
    "raft",
];

/// Files in the person's folder that mean that a fleet was set up there.
const CONFIG_TRACES: [&str; 3] = ["profile.json", "root.key", "people-issuer.key"];

/// Makes a fleet. The genesis file is written last: a folder without it never
/// begins a cluster.
///
/// # Errors
/// Any [`InitError`]; [`InitError::Exists`] if anything was set up before.
pub fn init(options: &InitOptions) -> Result<Ceremony, InitError> {
    options.topology.check()?;
    check_name(&options.name.0)?;
    profile::check_user(&options.user)?;
    refuse_traces(options)?;
    let folder = DataFolder::open(&options.data)?;
    files::make_folder(&options.config)?;

    let root = SecretKey::from_seed(random());
    let people_key = SecretKey::from_seed(random());
    let people = certify(&root, IssuerKind::People, &people_key);
    let admission_key = SecretKey::from_seed(random());
    let admission = certify(&root, IssuerKind::Admission, &admission_key);
    let issuer = Issuer::new(root.public(), admission, admission_key);

    let root_key = options.config.join("root.key");
    let people_issuer_key = options.config.join("people-issuer.key");
    files::write_key(&root_key, &root)?;
    files::write_key(&people_issuer_key, &people_key)?;
    let people_path = options.config.join("people-issuer.certificate");
    files::write_value(&people_path, &people, files::PUBLIC)?;

    let node_key = folder.node_key()?;
    let profile = make_profile(options, &root, &people, &people_key, node_key.node());
    profile.create(&options.config)?;

    let genesis = make_genesis(options, &issuer, node_key.node())?;
    write_node(&folder, options, &genesis, node_key.node())?;
    Ok(Ceremony {
        fleet: genesis.fleet,
        node: node_key.node(),
        genesis,
        root_key,
        people_issuer_key,
        user_key: options.config.join(format!("{}.key", options.user)),
    })
}

fn refuse_traces(options: &InitOptions) -> Result<(), InitError> {
    let user_key = format!("{}.key", options.user);
    let in_folder = |folder: &Path, name: &str| folder.join(name);
    let data = DATA_TRACES
        .iter()
        .map(|name| in_folder(&options.data, name));
    let config = CONFIG_TRACES
        .iter()
        .copied()
        .chain([user_key.as_str()])
        .map(|name| in_folder(&options.config, name));
    match data.chain(config).find(|path| path.exists()) {
        Some(path) => Err(InitError::Exists { path }),
        None => Ok(()),
    }
}

fn certify(root: &SecretKey, kind: IssuerKind, issuer: &SecretKey) -> Signed {
    let certificate = IssuerCertificate {
        fleet: root.public().fleet(),
        kind,
        key: issuer.public(),
    };
    Signed::new(root, Context::Issuer, codec::encode(&certificate))
}

fn make_profile(
    options: &InitOptions,
    root: &SecretKey,
    people: &Signed,
    people_key: &SecretKey,
    node: NodeId,
) -> Profile {
    let key = SecretKey::from_seed(random());
    let certificate = UserCertificate {
        fleet: root.public().fleet(),
        user: options.user.clone(),
        key: key.public(),
        roles: vec![Role::Admin],
        not_before: options.now,
        not_after: options.now + USER_CERTIFICATE_LIFE,
    };
    let credential = UserCredential::issue(root.public(), people.clone(), people_key, &certificate);
    Profile {
        fleet: certificate.fleet,
        cluster: options.topology.cluster.clone(),
        user: options.user.clone(),
        key,
        credential,
        nodes: vec![ProfileNode {
            node,
            addresses: options.addresses.clone(),
        }],
    }
}

fn make_genesis(
    options: &InitOptions,
    issuer: &Issuer,
    node: NodeId,
) -> Result<Genesis, InitError> {
    let credential = issuer.issue(
        node,
        options.name.clone(),
        options.topology.clone(),
        &[NodeRole::Agent, NodeRole::VoterEligible],
        options.now,
        1,
    );
    Ok(Genesis {
        fleet: issuer.fleet(),
        cluster: options.topology.cluster.clone(),
        epoch: Epoch(1),
        root: issuer.root(),
        admission_issuer: issuer.certificate().clone(),
        sealed_issuer: issuer.seal_for(node)?,
        ring: KeyRing::new(random()),
        credential,
        at: options.now,
    })
}

fn write_node(
    folder: &DataFolder,
    options: &InitOptions,
    genesis: &Genesis,
    node: NodeId,
) -> Result<(), InitError> {
    folder.set_credential(&genesis.credential)?;
    folder.set_cluster(&ClusterFile {
        fleet: genesis.fleet,
        cluster: genesis.cluster.clone(),
        ring: genesis.ring.clone(),
        members: vec![super::KnownMember {
            node,
            network: options.addresses.clone(),
            gossip: options.gossip,
        }],
        epoch: genesis.epoch,
    })?;
    folder.set_genesis(genesis)?;
    Ok(())
}

#[cfg(test)]
mod tests;
