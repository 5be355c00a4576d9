//! From `--node`, the data folder and the profile to a session with a node.

use super::{
    args::{Global, parse_address},
    exit::chain,
    output,
};
use crate::{
    api::{
        change::{Change, ChangeRequest, SignedChange},
        client::Client,
        error::{ApiError, ErrorCode},
        protocol::{ApiAnswer, ApiRequest, Changed},
    },
    clock,
    identity::{Profile, ProfileError, random},
    network::{self, Credential, Network, NetworkConfig, Purpose},
};
use potluck_specs::{ChangeId, Millis};
use std::{io::ErrorKind, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// How long a node may take to be reached.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How long a change is repeated while there is no leader: longer than any
/// election, shorter than a person's patience.
const CHANGE_WAIT: Duration = Duration::from_secs(30);

/// Pause between two tries of a change.
const CHANGE_PAUSE: Duration = Duration::from_millis(100);

/// Where a node is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// The Unix socket of a node on this host.
    Socket(PathBuf),
    /// A node's address.
    Remote(SocketAddr),
}

/// A session with a node, as a person.
pub(super) struct Session {
    /// The person.
    pub profile: Profile,
    /// The node is asked through its socket, so it runs on this host.
    pub(super) is_local: bool,
    /// The session.
    pub client: Client,
    // Keeps the swarm of a remote session alive.
    pub(super) _network: Option<Network>,
}

/// The data folder that `--data` names, or this host's.
pub(super) fn data_folder(global: &Global) -> PathBuf {
    match &global.data {
        // Tasks run elsewhere than this process: they need whole paths.
        Some(data) => std::path::absolute(data).unwrap_or_else(|_| data.clone()),
        None if nix::unistd::geteuid().is_root() => "/var/lib/potluck".into(),
        None => home().join(".local/share/potluck"),
    }
}

/// The folder of the person's keys.
pub(super) fn config_folder(global: &Global) -> PathBuf {
    global
        .config
        .clone()
        .unwrap_or_else(|| home().join(".config/potluck"))
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| "/".into(), PathBuf::from)
}

/// Opens a session with the node that the arguments name.
///
/// # Errors
/// No profile, no node, or the node's refusal.
pub(super) async fn connect(global: &Global) -> Result<Session, ApiError> {
    let profile = load_profile(global)?;
    let targets = targets(global, &profile)?;
    let mut last = None;
    for target in &targets {
        match open(target, &profile).await {
            Ok((mut client, network)) => {
                client.on_warning = output::warn;
                return Ok(Session {
                    profile,
                    is_local: network.is_none(),
                    client,
                    _network: network,
                });
            }
            Err(error) if error.is_worth_a_retry() => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        ApiError::new(ErrorCode::NotFound, "no node to ask is known")
            .hint("name one with --node HOST:PORT, or start one on this host")
    }))
}

fn load_profile(global: &Global) -> Result<Profile, ApiError> {
    let folder = config_folder(global);
    Profile::load(&folder).map_err(|error| match error {
        ProfileError::Missing { .. } | ProfileError::NoHome => {
            ApiError::new(ErrorCode::Denied, chain(&error)).hint(
                "potluck init writes an admin's keys to ~/.config/potluck; \
                 name another folder with --config",
            )
        }
        _ => ApiError::new(ErrorCode::Failed, chain(&error))
            .hint("mend or bring back the profile's files, or name another folder with --config"),
    })
}

fn targets(global: &Global, profile: &Profile) -> Result<Vec<Target>, ApiError> {
    if let Some(node) = &global.node {
        return Ok(vec![parse_target(node)?]);
    }
    let socket = data_folder(global).join("api.sock");
    let mut targets = Vec::new();
    if socket.exists() {
        targets.push(Target::Socket(socket));
    }
    let known = profile.nodes.iter().flat_map(|node| &node.addresses);
    targets.extend(known.copied().map(Target::Remote));
    Ok(targets)
}

fn parse_target(text: &str) -> Result<Target, ApiError> {
    if text.contains('/') {
        return Ok(Target::Socket(text.into()));
    }
    parse_address(text).map(Target::Remote).map_err(|why| {
        ApiError::new(
            ErrorCode::BadRequest,
            format!("{text:?} is not a node's address: {why}"),
        )
        .hint("write HOST:PORT, such as 127.0.1.1:7400, or the path of a node's api.sock")
    })
}

async fn open(target: &Target, profile: &Profile) -> Result<(Client, Option<Network>), ApiError> {
    let work = async {
        match target {
            Target::Socket(path) => Ok((open_socket(path, profile).await?, None)),
            Target::Remote(address) => {
                let (client, network) = open_remote(*address, profile).await?;
                Ok((client, Some(network)))
            }
        }
    };
    tokio::time::timeout(CONNECT_WAIT * 2, work)
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::new(
                ErrorCode::Timeout,
                format!("{target:?} does not answer"),
            ))
        })
}

async fn open_socket(path: &PathBuf, profile: &Profile) -> Result<Client, ApiError> {
    let stream = UnixStream::connect(path).await.map_err(|error| {
        let code = match error.kind() {
            ErrorKind::NotFound => ErrorCode::NotFound,
            ErrorKind::PermissionDenied => ErrorCode::Denied,
            // Longer than a socket's path may be.
            ErrorKind::InvalidInput => ErrorCode::BadRequest,
            _ => ErrorCode::Unavailable,
        };
        let message = format!("no node answers on {}: {error}", path.display());
        ApiError::new(code, message)
            .hint("start one with potluck node, or name another with --node")
    })?;
    Client::open(Box::new(stream), &profile.key, profile.credential.clone()).await
}

async fn open_remote(
    address: SocketAddr,
    profile: &Profile,
) -> Result<(Client, Network), ApiError> {
    let unreachable = |error: &dyn std::error::Error| {
        ApiError::new(
            ErrorCode::Unavailable,
            format!("can't reach {address}: {}", chain(error)),
        )
        .hint("is a node of this fleet running there?")
    };
    let config = NetworkConfig {
        key: profile.key.clone(),
        fleet: profile.fleet,
        cluster: profile.cluster.clone(),
        credential: Credential::User(profile.credential.clone()),
        listen: None,
        grace: Arc::new(|| Millis(0)),
    };
    let (network, _inbound) = network::start(config, CancellationToken::new())
        .await
        .map_err(|e| unreachable(&e))?;
    let node = network
        .dial(address, CONNECT_WAIT)
        .await
        .map_err(|e| unreachable(&e))?;
    let stream = network
        .open_stream(node, Purpose::Api, CONNECT_WAIT)
        .await
        .map_err(|e| unreachable(&e))?;
    let client = Client::open(
        Box::new(stream.into_tokio()),
        &profile.key,
        profile.credential.clone(),
    )
    .await?;
    if client.welcome.node != node {
        let message = format!("{address} passes the session on to another node");
        return Err(ApiError::new(ErrorCode::Denied, message));
    }
    Ok((client, network))
}

impl Session {
    /// Signs a change and repeats it, under one id, until it is answered or
    /// refused.
    ///
    /// # Errors
    /// The refusal, or no answer within [`CHANGE_WAIT`].
    pub(super) async fn change(
        &mut self,
        change: Change,
        mut progress: impl FnMut(&str),
    ) -> Result<Changed, ApiError> {
        let request = ChangeRequest {
            id: ChangeId(random()),
            fleet: self.profile.fleet,
            cluster: self.client.welcome.cluster.clone(),
            made: clock::unix_now(),
            change,
        };
        let signed =
            SignedChange::new(&self.profile.key, self.profile.credential.clone(), &request);
        let ask = ApiRequest::Change(Box::new(signed));
        let end = tokio::time::Instant::now() + CHANGE_WAIT;
        loop {
            match self.client.ask_with(&ask, &mut progress).await {
                Ok(ApiAnswer::Changed(changed)) => return Ok(changed),
                Ok(other) => return Err(crate::api::client::unexpected(&other)),
                Err(error) if !error.is_worth_a_retry() => return Err(error),
                Err(error) if tokio::time::Instant::now() >= end => return Err(error),
                Err(error) => progress(&format!("{}{}", error.message, super::output::AGAIN)),
            }
            tokio::time::sleep(CHANGE_PAUSE).await;
        }
    }
}
