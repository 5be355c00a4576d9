//! Packages as an agent wants them: "make sure that this one is here".
//!
//! A handle over the store and the exchange, cheap to clone. However many ask
//! for the same package at once, it is fetched once and unpacked once; peers
//! that a later caller names are given to the fetch that runs. When nobody
//! waits any more the fetch stops and keeps what it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use potluck_specs::{
    ChunkHash, PackageId,
    package::{Chunk, Manifest},
};
use tokio::sync::mpsc;

use crate::{
    exchange::{ChunkSource, FetchError, FetchReport, Limits, PeerHint, fetch_with},
    flight::Flights,
    pack::{self, PackError},
    spawn::blocking,
    store::{
        ChunkStore, GetError, ManifestStoreError, ORPHAN_GRACE, PutError, Removed, StoreError,
    },
    unpack::{UnpackError, unpack},
};

/// Lists of peers that wait for a running fetch to take them; they are hints,
/// and dropped when there are more.
const HINTS_MAX: usize = 16;

/// Why a package is not here.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// It can't be fetched.
    #[error("can't fetch the package")]
    Fetch(#[from] FetchError),
    /// It can't be unpacked.
    #[error("can't unpack the package")]
    Unpack(#[from] UnpackError),
    /// It is here, but perhaps not for long.
    #[error("can't make the package durable")]
    Sync(#[source] ManifestStoreError),
}

/// Shared by all who waited for the same.
pub type Ensured<T> = Result<T, Arc<EnsureError>>;

/// The handle.
#[derive(Clone)]
pub struct Packages(Arc<Inner>);

struct Inner {
    store: ChunkStore,
    source: Arc<dyn ChunkSource>,
    limits: Limits,
    fetches: Flights<PackageId, Ensured<FetchReport>>,
    trees: Flights<PackageId, Ensured<PathBuf>>,
    /// To fetches that run.
    feeds: Mutex<BTreeMap<PackageId, mpsc::Sender<Vec<PeerHint>>>>,
}

impl Packages {
    /// Packages in `store`, fetched through `source`.
    pub fn new(store: ChunkStore, source: Arc<dyn ChunkSource>, limits: Limits) -> Packages {
        Packages(Arc::new(Inner {
            store,
            source,
            limits,
            fetches: Flights::new(),
            trees: Flights::new(),
            feeds: Mutex::new(BTreeMap::new()),
        }))
    }

    /// The store below.
    pub fn store(&self) -> &ChunkStore {
        &self.0.store
    }

    /// Fetches what is missing, unpacks, says where the read-only tree is.
    ///
    /// # Errors
    /// Any [`EnsureError`]; asking again goes on from what is here.
    pub async fn ensure(&self, id: PackageId, peers: Vec<PeerHint>) -> Ensured<PathBuf> {
        let store = self.0.store.clone();
        if let Some(tree) = blocking(move || store.tree(id)).await {
            return Ok(tree);
        }
        self.feed(id, &peers);
        let this = self.clone();
        let work = self.0.trees.join(id, || this.make_tree(id, peers).boxed());
        work.await
    }

    async fn make_tree(self, id: PackageId, peers: Vec<PeerHint>) -> Ensured<PathBuf> {
        self.fetch(id, peers.clone()).await?;
        match self.unpack(id).await {
            Ok(tree) => Ok(tree),
            // Reading found damage and removed it; so it is missing, and now
            // fetched. Once, since a bad disk would do so for ever.
            Err(UnpackError::Chunk {
                source: GetError::Damaged(_) | GetError::Missing(_),
                ..
            }) => {
                self.fetch(id, peers).await?;
                Ok(self.unpack(id).await.map_err(EnsureError::from)?)
            }
            Err(error) => Err(Arc::new(error.into())),
        }
    }

    async fn unpack(&self, id: PackageId) -> Result<PathBuf, UnpackError> {
        let store = self.0.store.clone();
        blocking(move || unpack(&store, id)).await
    }

    /// Fetches what is missing without unpacking: for prefetching.
    ///
    /// # Errors
    /// [`EnsureError::Fetch`].
    pub async fn fetch(&self, id: PackageId, peers: Vec<PeerHint>) -> Ensured<FetchReport> {
        self.feed(id, &peers);
        let inner = Arc::clone(&self.0);
        let work = self
            .0
            .fetches
            .join(id, || inner.start_fetch(id, peers).boxed());
        work.await
    }

    /// Fetches what is missing and makes it durable: for nodes that promise to
    /// hold a package.
    ///
    /// # Errors
    /// [`EnsureError::Fetch`], [`EnsureError::Sync`].
    pub async fn hold(&self, id: PackageId, peers: Vec<PeerHint>) -> Ensured<FetchReport> {
        let report = self.fetch(id, peers).await?;
        let store = self.0.store.clone();
        let synced = blocking(move || {
            let manifest = store.manifest(id)?;
            store.sync(id, &manifest).map_err(ManifestStoreError::from)
        });
        synced.await.map_err(EnsureError::Sync)?;
        Ok(report)
    }

    /// Gives peers to the fetch of `id`, if one runs.
    fn feed(&self, id: PackageId, peers: &[PeerHint]) {
        let mut feeds = self.0.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|_, feed| !feed.is_closed());
        if let Some(feed) = feeds.get(&id).filter(|_| !peers.is_empty()) {
            let _ = feed.try_send(peers.to_vec());
        }
    }

    /// Packs a folder or file of this host into the store, durably.
    ///
    /// # Errors
    /// Any [`PackError`].
    pub async fn pack(&self, path: &Path) -> Result<(PackageId, Manifest), PackError> {
        let (store, path) = (self.0.store.clone(), path.to_owned());
        blocking(move || {
            let (id, manifest) = pack::pack(&store, &path)?;
            let synced = store.sync(id, &manifest).map_err(ManifestStoreError::from);
            synced.map_err(PackError::Manifest)?;
            Ok((id, manifest))
        })
        .await
    }

    /// Begins an upload, for clients that have packed somewhere else (see
    /// [`pack::scan`]): keeps the manifest and says which chunks to send.
    ///
    /// # Errors
    /// [`ManifestStoreError::Refused`] if the manifest is not that of `id`.
    pub async fn begin_upload(
        &self,
        id: PackageId,
        manifest: Vec<u8>,
    ) -> Result<Vec<Chunk>, ManifestStoreError> {
        let store = self.0.store.clone();
        blocking(move || {
            let manifest = store.put_manifest(id, &manifest)?;
            Ok(store.missing(&manifest))
        })
        .await
    }

    /// Takes one chunk of an upload.
    ///
    /// # Errors
    /// [`PutError::Mismatch`] if the bytes are not the hash's.
    pub async fn put_chunk(&self, hash: ChunkHash, bytes: Vec<u8>) -> Result<(), PutError> {
        let store = self.0.store.clone();
        blocking(move || store.put(hash, &bytes)).await
    }

    /// Ends an upload: makes the package durable, or says which chunks are
    /// still missing.
    ///
    /// # Errors
    /// [`ManifestStoreError`].
    pub async fn end_upload(&self, id: PackageId) -> Result<Vec<Chunk>, ManifestStoreError> {
        let store = self.0.store.clone();
        blocking(move || {
            let manifest = store.manifest(id)?;
            let missing = store.missing(&manifest);
            if missing.is_empty() {
                store.sync(id, &manifest)?;
            }
            Ok(missing)
        })
        .await
    }

    /// Are the manifest and every chunk here?
    pub async fn complete(&self, id: PackageId) -> bool {
        self.missing_bytes(id).await == Some(0)
    }

    /// Uncompressed bytes of a package that are not here yet; nothing if not
    /// even the manifest is.
    pub async fn missing_bytes(&self, id: PackageId) -> Option<u64> {
        let store = self.0.store.clone();
        blocking(move || {
            let manifest = store.manifest(id).ok()?;
            let missing = store.missing(&manifest);
            Some(missing.iter().map(|chunk| u64::from(chunk.bytes)).sum())
        })
        .await
    }

    /// What all fetches of a package together took from whom.
    pub async fn report(&self, id: PackageId) -> Option<FetchReport> {
        let store = self.0.store.clone();
        blocking(move || FetchReport::stored(&store, id)).await
    }

    /// Removes what neither `pinned` nor a running fetch needs, see
    /// [`ChunkStore::remove_unpinned`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_unpinned(
        &self,
        mut pinned: BTreeSet<PackageId>,
        bytes_max: u64,
    ) -> Result<Removed, StoreError> {
        pinned.extend(self.0.fetches.keys());
        pinned.extend(self.0.trees.keys());
        let store = self.0.store.clone();
        blocking(move || store.remove_unpinned(&pinned, bytes_max, ORPHAN_GRACE)).await
    }
}

impl Inner {
    async fn start_fetch(
        self: Arc<Self>,
        id: PackageId,
        peers: Vec<PeerHint>,
    ) -> Ensured<FetchReport> {
        let (feed, more_peers) = mpsc::channel(HINTS_MAX);
        self.feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, feed);
        let source = Arc::clone(&self.source);
        let fetched = fetch_with(&self.store, id, peers, source, self.limits, more_peers).await;
        Ok(fetched.map_err(EnsureError::from)?)
    }
}

#[cfg(test)]
mod tests;
