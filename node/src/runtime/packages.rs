//! This node's packages: stored, fetched from peers, served to them, kept for
//! jobs, and taken from people who upload.

use super::members::Directory;
use crate::{
    agent::PackageProvider,
    api::{
        error::{ApiError, ErrorCode},
        protocol::{ChunkUpload, PackageStatus},
    },
    cli::chain,
    network::{Network, Purpose, Stream},
    spawn::spawn,
};
use async_trait::async_trait;
use potluck_dht::{
    exchange::{
        Ask, Asking, Limits, PeerHint, Server, SourceError, ask_over,
        wire::{ChunkRequest, ChunkResponse},
    },
    packages::Packages as Swarm,
    store::ChunkStore,
};
use potluck_specs::{ChunkHash, NodeId, PackageId, package::Manifest};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a peer may take to open a stream for chunks.
const OPEN_WAIT: Duration = Duration::from_secs(5);

/// How long the search for further holders may take.
const PROVIDERS_WAIT: Duration = Duration::from_millis(300);

/// Hashes told to an uploader at a time: some hundred kilobytes of answer.
const MISSING_MAX: usize = 20_000;

/// Streams kept open to one peer for the next request: as many as a fetch has
/// requests in flight there.
const IDLE_STREAMS_MAX: usize = 4;

/// Handle of this node's packages.
#[derive(Clone)]
pub(super) struct Packages {
    store: ChunkStore,
    swarm: Swarm,
    server: Server,
    network: Network,
    directory: Directory,
    me: NodeId,
    rack: String,
}

impl Packages {
    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// Why the store can't be used.
    pub(super) fn open(
        folder: &std::path::Path,
        network: Network,
        directory: Directory,
        me: NodeId,
        rack: String,
    ) -> Result<Packages, potluck_dht::store::StoreError> {
        let store = ChunkStore::open(folder)?;
        let pool = Pool {
            network: network.clone(),
            idle: Arc::default(),
        };
        Ok(Packages {
            swarm: Swarm::new(store.clone(), Arc::new(Asking(pool)), Limits::default()),
            server: Server::new(store.clone()),
            store,
            network,
            directory,
            me,
            rack,
        })
    }

    /// Serves one stream of a peer until it leaves or is idle.
    pub(super) async fn serve(self, mut stream: Stream) {
        if let Err(error) = self.server.serve(&mut stream).await {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "a peer's stream for chunks broke");
        }
    }

    /// Announces every package that is here whole.
    pub(super) async fn announce_all(&self) {
        for id in self.store.packages().unwrap_or_default() {
            if self.store.complete(id) {
                self.announce(id);
            }
        }
    }

    fn announce(&self, id: PackageId) {
        let network = self.network.clone();
        spawn("package announcement", async move {
            if let Err(error) = network.provide(id.0).await {
                tracing::debug!(package = %id, error = %error, "package was not announced");
            }
        });
    }

    /// Fetches a package, if it is not here, and keeps it; returns its size.
    ///
    /// # Errors
    /// Why it can't be had, for people.
    pub(super) async fn hold(&self, id: PackageId, holders: Vec<NodeId>) -> Result<u64, String> {
        // What is whole already is made durable all the same: an upload is not.
        let peers = match self.store.complete(id) {
            true => Vec::new(),
            false => self.peers(id, holders).await,
        };
        self.swarm
            .hold(id, peers)
            .await
            .map_err(|error| chain(&error))?;
        self.announce(id);
        self.bytes_of(id)
            .await
            .ok_or_else(|| "its manifest is gone again".into())
    }

    /// Whom to ask: the holders that we were told, and whoever announced it.
    async fn peers(&self, id: PackageId, holders: Vec<NodeId>) -> Vec<PeerHint> {
        let mut nodes = holders;
        // Those who were told may be gone; whoever runs it has announced it.
        let announced = self.network.providers(id.0);
        if let Ok(announced) = tokio::time::timeout(PROVIDERS_WAIT, announced).await {
            nodes.extend(announced);
        }
        nodes.sort();
        nodes.dedup();
        nodes.retain(|node| *node != self.me);
        let same_rack = |node: &NodeId| {
            self.directory
                .get(*node)
                .is_some_and(|known| known.rack == self.rack)
        };
        nodes
            .iter()
            .map(|node| PeerHint {
                node: *node,
                same_rack: same_rack(node),
            })
            .collect()
    }

    /// Takes the manifest of a package to come; returns what is missing.
    ///
    /// # Errors
    /// If it is no manifest.
    pub(super) async fn put_manifest(&self, bytes: Vec<u8>) -> Result<Vec<ChunkHash>, ApiError> {
        let id = PackageId(*blake3::hash(&bytes).as_bytes());
        let store = self.store.clone();
        let stored = tokio::task::spawn_blocking(move || store.put_manifest(id, &bytes)).await;
        let manifest = stored
            .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?
            .map_err(|error| ApiError::new(ErrorCode::BadRequest, chain(&error)))?;
        let missing = missing(&self.store, &manifest);
        if missing.is_empty() {
            self.announce(id);
        }
        Ok(missing)
    }

    /// Takes chunks of a package to come.
    ///
    /// # Errors
    /// If bytes are not those that their hash names, or can't be stored.
    pub(super) async fn put_chunks(
        &self,
        chunks: Vec<ChunkUpload>,
    ) -> Result<Vec<ChunkHash>, ApiError> {
        let store = self.store.clone();
        let stored = tokio::task::spawn_blocking(move || {
            chunks
                .iter()
                .try_for_each(|chunk| store.put(chunk.hash, &chunk.bytes))
        })
        .await;
        stored
            .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?
            .map_err(|error| ApiError::new(ErrorCode::Unavailable, chain(&error)))?;
        Ok(Vec::new())
    }

    /// Packs a file of this host.
    #[cfg(test)]
    pub(super) fn pack(&self, file: &std::path::Path) -> PackageId {
        potluck_dht::pack::pack(&self.store, file)
            .expect("it can be packed")
            .0
    }

    /// Every package that is here, whole or not.
    pub(super) fn ids(&self) -> BTreeSet<PackageId> {
        let ids = self.store.packages().unwrap_or_default();
        ids.into_iter().collect()
    }

    /// Bytes of all chunks as they lie on the disk.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.store.total_bytes()
    }

    /// Drops packages that are not pinned until `bytes_max` are left; says how
    /// many.
    ///
    /// # Errors
    /// The store's, for logs.
    pub(super) async fn drop_unpinned(
        &self,
        pinned: BTreeSet<PackageId>,
        bytes_max: u64,
    ) -> Result<usize, String> {
        let removed = self.swarm.remove_unpinned(pinned, bytes_max).await;
        let removed = removed.map_err(|error| chain(&error))?;
        for id in &removed.packages {
            self.network.stop_providing(id.0).await;
        }
        Ok(removed.packages.len())
    }

    /// A package's uncompressed size, if its manifest is here.
    pub(super) async fn bytes_of(&self, id: PackageId) -> Option<u64> {
        self.store
            .manifest(id)
            .ok()
            .map(|manifest| manifest.total_bytes())
    }

    /// What is here, for people.
    pub(super) async fn statuses(&self, directory: &Directory) -> Vec<PackageStatus> {
        let packages = self.store.packages().unwrap_or_default();
        let mut statuses = Vec::new();
        for id in packages {
            let sources = self
                .swarm
                .report(id)
                .await
                .map(|report| report.bytes_by_source);
            statuses.push(PackageStatus {
                package: id,
                bytes: self.bytes_of(id).await.unwrap_or_default(),
                complete: self.store.complete(id),
                bytes_by_source: sources
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(node, bytes)| (directory.name(node), bytes))
                    .collect(),
            });
        }
        statuses
    }
}

fn missing(store: &ChunkStore, manifest: &Manifest) -> Vec<ChunkHash> {
    store
        .missing(manifest)
        .into_iter()
        .map(|chunk| chunk.hash)
        .take(MISSING_MAX)
        .collect()
}

#[async_trait]
impl PackageProvider for Packages {
    async fn ensure(&self, id: PackageId, holders: Vec<NodeId>) -> Result<PathBuf, String> {
        let was_here = self.store.complete(id);
        let peers = if was_here {
            Vec::new()
        } else {
            self.peers(id, holders).await
        };
        let tree = self
            .swarm
            .ensure(id, peers)
            .await
            .map_err(|error| chain(&error))?;
        if !was_here {
            self.announce(id);
        }
        Ok(tree)
    }

    async fn missing_bytes(&self, id: PackageId, package_bytes: u64) -> u64 {
        self.swarm.missing_bytes(id).await.unwrap_or(package_bytes)
    }
}

/// Streams to peers, kept for the next request.
#[derive(Clone)]
struct Pool {
    network: Network,
    idle: Arc<Mutex<BTreeMap<NodeId, Vec<Stream>>>>,
}

impl Pool {
    fn take(&self, node: NodeId) -> Option<Stream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.get_mut(&node)?.pop()
    }

    fn put_back(&self, node: NodeId, stream: Stream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = idle.entry(node).or_default();
        if streams.len() < IDLE_STREAMS_MAX {
            streams.push(stream);
        }
    }

    async fn open(&self, to: NodeId) -> Result<Stream, SourceError> {
        use crate::network::OpenError;
        self.network
            .open_stream(to, Purpose::Chunks, OPEN_WAIT)
            .await
            .map_err(|error| match error {
                OpenError::Busy => SourceError::Busy,
                other => SourceError::Unreachable(chain(&other)),
            })
    }

    async fn exchange(
        stream: &mut Stream,
        request: &ChunkRequest,
    ) -> Result<ChunkResponse, SourceError> {
        match ask_over(stream, request).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(SourceError::Unreachable(
                "the peer closed the stream".into(),
            )),
            Err(error) => Err(SourceError::Unreachable(chain(&error))),
        }
    }
}

#[async_trait]
impl Ask for Pool {
    async fn ask(&self, to: NodeId, request: ChunkRequest) -> Result<ChunkResponse, SourceError> {
        // A kept stream may have died with its peer: then a new one is tried.
        if let Some(mut kept) = self.take(to)
            && let Ok(answer) = Pool::exchange(&mut kept, &request).await
        {
            self.put_back(to, kept);
            return Ok(answer);
        }
        let mut stream = self.open(to).await?;
        let answer = Pool::exchange(&mut stream, &request).await?;
        self.put_back(to, stream);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{self, Credential, NetworkConfig};
    use potluck_specs::{Millis, trust::SecretKey};
    use std::{fs, os::unix::fs::symlink, path::Path};
    use tokio_util::sync::CancellationToken;

    async fn packages(folder: &Path) -> Packages {
        let key = SecretKey::from_seed([9; 32]);
        let config = NetworkConfig {
            key: key.clone(),
            fleet: crate::testing::fleet(),
            cluster: "main".into(),
            credential: Credential::None,
            listen: None,
            grace: Arc::new(|| Millis(0)),
        };
        let started = network::start(config, CancellationToken::new()).await;
        let (network, _inbound) = started.unwrap();
        let directory = Directory::default();
        Packages::open(folder, network, directory, key.node(), "r1".into()).unwrap()
    }

    /// One file below `folder`.
    fn a_file(folder: &Path) -> PathBuf {
        let entries = fs::read_dir(folder).unwrap();
        let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        let found = paths.iter().find_map(|path| match path.is_dir() {
            true => fs::read_dir(path)
                .unwrap()
                .next()
                .map(|e| e.unwrap().path()),
            false => Some(path.clone()),
        });
        found.expect("a file is there")
    }

    /// A job is accepted when its holders have answered: what a node has whole
    /// from an upload must be on the disk before it answers. Shown by a chunk
    /// that is there and can't be synced, as files of the kernel can't.
    #[tokio::test]
    async fn nothing_is_held_that_was_not_synced() {
        let folder = tempfile::tempdir().unwrap();
        let packages = packages(folder.path()).await;
        let source = folder.path().join("program");
        fs::write(&source, b"the bytes of a program").unwrap();
        let (id, manifest) = potluck_dht::pack::pack(&packages.store, &source).unwrap();
        let held = packages.hold(id, Vec::new()).await;
        assert_eq!(held, Ok(manifest.total_bytes()));

        let chunk = a_file(&folder.path().join("chunks"));
        fs::remove_file(&chunk).unwrap();
        symlink("/proc/self/comm", &chunk).unwrap();
        assert!(packages.store.complete(id), "it seems to be there");
        let refused = packages.hold(id, Vec::new()).await;
        assert!(refused.is_err(), "{refused:?}");
    }
}
