//! The chunk store: one folder, everything in it named by its hash.
//!
//! ```text
//! chunks/ab/<hash>     one zstd frame; BLAKE3 of what it unpacks to
//! manifests/<id>       canonical CBOR; its modification time is the last use
//! reports/<id>         what the last fetch of the package took from whom
//! trees/<boot>/<id>/   the package unpacked, read-only
//! tmp/                 files that are not whole yet
//! ```
//!
//! Invariant: a file under its own name was whole when it was renamed there. A
//! crash of the host may still tear it, since chunks are not synced one by one;
//! therefore every read verifies, a torn chunk is removed and counts as
//! missing, and trees, which are read by tasks without a check, live only as
//! long as the boot that made them. [`ChunkStore::sync`] is for who promises
//! that a package survives.
//!
//! All calls block on the disk. One process owns the folder.

pub(crate) mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use files::at;
use potluck_specs::{
    ChunkHash, PackageId,
    package::{CHUNK_BYTES_MAX, Chunk, MANIFEST_BYTES_MAX, Manifest, ManifestError},
};

use crate::exchange::wire::{PACKED_BYTES_MAX, PackedChunk};

/// zstd's fastest usual level: packing must not be slower than the network.
const ZSTD_LEVEL: i32 = 1;

/// A chunk that nothing refers to is kept this long after its last use: it may
/// be of a package whose upload has not ended.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(60 * 60);

/// Largest stored report: a line of 40 bytes for each of a few hundred peers.
const REPORT_BYTES_MAX: usize = 256 << 10;

/// The disk does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room. Nothing half-written is left behind.
    #[error("no space left on the disk for {path}", path = .path.display())]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
    },
    /// Anything else.
    #[error("can't use {path}", path = .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A chunk that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The bytes are not those that the hash names.
    #[error("the bytes are not those of chunk {0}")]
    Mismatch(ChunkHash),
    /// The disk fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A chunk that can't be given.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Not here.
    #[error("chunk {0} is not in the store")]
    Missing(ChunkHash),
    /// The disk had other bytes under its name; it is removed and counts as
    /// missing from now on.
    #[error("chunk {0} was damaged on the disk and has been removed")]
    Damaged(ChunkHash),
    /// The disk fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A manifest that is not taken or can't be given.
#[derive(Debug, thiserror::Error)]
pub enum ManifestStoreError {
    /// Not here.
    #[error("package {0} is not in the store")]
    Missing(PackageId),
    /// Refused.
    #[error("the manifest of package {id} is refused")]
    Refused {
        /// The package.
        id: PackageId,
        /// Why.
        source: ManifestError,
    },
    /// The disk fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a clean-up removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// These packages.
    pub packages: Vec<PackageId>,
    /// So many chunks.
    pub chunks: u64,
    /// So many bytes on the disk, trees not counted.
    pub bytes: u64,
}

/// A handle to the folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct ChunkStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// `trees/<boot>`.
    trees: PathBuf,
    chunk_bytes: AtomicU64,
    /// One for each sixteenth of the hashes: who writes or removes a chunk
    /// holds it, so that bytes are counted once.
    writing: [Mutex<()>; 16],
}

impl ChunkStore {
    /// Opens the store in `root`, making it if need be; removes what an earlier
    /// process left half-done and the trees of earlier boots.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(root: &Path) -> Result<ChunkStore, StoreError> {
        let trees = root.join("trees").join(boot_id()?);
        for folder in ["chunks", "manifests", "reports", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        fs::create_dir_all(&trees).map_err(at(&trees))?;
        let inner = Inner {
            root: root.to_owned(),
            trees,
            chunk_bytes: AtomicU64::new(0),
            writing: Default::default(),
        };
        let store = ChunkStore(Arc::new(inner));
        store.clean_up_at_start()?;
        let stored = store.stored_chunks()?.values().map(|c| c.bytes).sum();
        store.0.chunk_bytes.store(stored, Ordering::Relaxed);
        Ok(store)
    }

    fn clean_up_at_start(&self) -> Result<(), StoreError> {
        for (name, path) in list(&self.0.root.join("tmp"))? {
            if !files::is_ours(&name) {
                files::remove(&path)?;
            }
        }
        for (_, path) in list(&self.0.root.join("trees"))? {
            if path != self.0.trees {
                files::remove_tree(&path).map_err(at(&path))?;
            }
        }
        for (name, path) in list(&self.0.trees)? {
            let unfinished = name.strip_prefix(BUILD_PREFIX);
            if unfinished.is_some_and(|name| !files::is_ours(name)) {
                files::remove_tree(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Is the chunk here?
    pub fn has(&self, hash: ChunkHash) -> bool {
        self.chunk_path(hash).exists()
    }

    /// The different chunks of a package that are not here, in the order of
    /// their first use. Those that are here count as used now.
    pub fn missing(&self, manifest: &Manifest) -> Vec<Chunk> {
        let here = |chunk: &Chunk| files::touch(&self.chunk_path(chunk.hash)).is_ok();
        distinct_chunks(manifest)
            .into_iter()
            .filter(|chunk| !here(chunk))
            .collect()
    }

    /// Keeps a chunk; nothing happens if it is here.
    ///
    /// # Errors
    /// [`PutError::Mismatch`] if the bytes are not the hash's.
    pub fn put(&self, hash: ChunkHash, bytes: &[u8]) -> Result<(), PutError> {
        let too_large = bytes.len() > CHUNK_BYTES_MAX as usize;
        if too_large || *blake3::hash(bytes).as_bytes() != hash.0 {
            return Err(PutError::Mismatch(hash));
        }
        let path = self.chunk_path(hash);
        if files::touch(&path).is_ok() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(at(&path))?;
        Ok(self.write_chunk(hash, &packed)?)
    }

    /// Keeps a chunk that arrived compressed, after verifying what it unpacks
    /// to. Returns how many bytes that is.
    ///
    /// # Errors
    /// [`PutError::Mismatch`] if that is not the hash's.
    pub fn put_packed(&self, hash: ChunkHash, packed: &PackedChunk) -> Result<u32, PutError> {
        let bytes = unpack_chunk(hash, &packed.0).ok_or(PutError::Mismatch(hash))?;
        self.write_chunk(hash, &packed.0)?;
        Ok(bytes.len() as u32)
    }

    fn write_chunk(&self, hash: ChunkHash, packed: &[u8]) -> Result<(), StoreError> {
        let path = self.chunk_path(hash);
        let _writing = self.writing(hash);
        if files::touch(&path).is_ok() {
            return Ok(());
        }
        files::write_whole(&self.0.root.join("tmp"), &path, packed)?;
        self.0
            .chunk_bytes
            .fetch_add(packed.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// A chunk's bytes, verified.
    ///
    /// # Errors
    /// Any [`GetError`].
    pub fn get(&self, hash: ChunkHash) -> Result<Vec<u8>, GetError> {
        self.read_verified(hash).map(|(_, bytes)| bytes)
    }

    /// A chunk as it is stored, to be sent on; verified all the same, so that a
    /// bad disk here does not cost us our peers' trust.
    ///
    /// # Errors
    /// Any [`GetError`].
    pub fn get_packed(&self, hash: ChunkHash) -> Result<PackedChunk, GetError> {
        self.read_verified(hash)
            .map(|(packed, _)| PackedChunk(packed))
    }

    fn read_verified(&self, hash: ChunkHash) -> Result<(Vec<u8>, Vec<u8>), GetError> {
        let path = self.chunk_path(hash);
        let packed = files::read(&path, PACKED_BYTES_MAX)?.ok_or(GetError::Missing(hash))?;
        match unpack_chunk(hash, &packed) {
            Some(bytes) => Ok((packed, bytes)),
            None => {
                tracing::warn!(chunk = %hash.to_hex(), "damaged chunk removed");
                self.remove_chunk(hash)?;
                Err(GetError::Damaged(hash))
            }
        }
    }

    /// Keeps a manifest after checking it.
    ///
    /// # Errors
    /// [`ManifestStoreError::Refused`] if it is not that of `id`.
    pub fn put_manifest(
        &self,
        id: PackageId,
        bytes: &[u8],
    ) -> Result<Manifest, ManifestStoreError> {
        let manifest = Manifest::decode(id, bytes)
            .map_err(|source| ManifestStoreError::Refused { id, source })?;
        let path = self.manifest_path(id);
        files::write_whole(&self.0.root.join("tmp"), &path, bytes)?;
        Ok(manifest)
    }

    /// The manifest of a package. Its chunks need not be here.
    ///
    /// # Errors
    /// [`ManifestStoreError::Missing`]; one that was damaged on the disk is
    /// removed and missing.
    pub fn manifest(&self, id: PackageId) -> Result<Manifest, ManifestStoreError> {
        self.manifest_bytes(id).map(|(_, manifest)| manifest)
    }

    /// The manifest with its bytes, to be sent on.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    pub fn manifest_bytes(&self, id: PackageId) -> Result<(Vec<u8>, Manifest), ManifestStoreError> {
        let path = self.manifest_path(id);
        let bytes = files::read(&path, MANIFEST_BYTES_MAX)?;
        let bytes = bytes.ok_or(ManifestStoreError::Missing(id))?;
        match Manifest::decode(id, &bytes) {
            Ok(manifest) => Ok((bytes, manifest)),
            Err(_) => {
                tracing::warn!(package = %id.to_hex(), "damaged manifest removed");
                files::remove(&path)?;
                Err(ManifestStoreError::Missing(id))
            }
        }
    }

    /// Is the manifest here and every chunk?
    pub fn complete(&self, id: PackageId) -> bool {
        self.manifest(id)
            .is_ok_and(|manifest| self.missing(&manifest).is_empty())
    }

    /// The packages whose manifests are here, whole or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn packages(&self) -> Result<Vec<PackageId>, StoreError> {
        let names = list(&self.0.root.join("manifests"))?;
        Ok(names
            .iter()
            .filter_map(|(name, _)| PackageId::from_hex(name))
            .collect())
    }

    /// Bytes of all chunks as they lie on the disk; trees are not counted.
    pub fn total_bytes(&self) -> u64 {
        self.0.chunk_bytes.load(Ordering::Relaxed)
    }

    /// Makes sure that a package survives a loss of power: every chunk and the
    /// manifest are on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`], also if a part of the package is missing.
    pub fn sync(&self, id: PackageId, manifest: &Manifest) -> Result<(), StoreError> {
        let mut folders = BTreeSet::new();
        let chunks = distinct_chunks(manifest);
        let paths = chunks.iter().map(|chunk| self.chunk_path(chunk.hash));
        for path in paths.chain([self.manifest_path(id)]) {
            let file = fs::File::open(&path).map_err(at(&path))?;
            file.sync_data().map_err(at(&path))?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        folders.insert(self.0.root.join("chunks"));
        for folder in folders {
            let file = fs::File::open(&folder).map_err(at(&folder))?;
            file.sync_all().map_err(at(&folder))?;
        }
        Ok(())
    }

    /// Removes packages that are not pinned, the longest unused first, until
    /// the chunks take at most `bytes_max`, and then every chunk that no
    /// package here refers to and that was not used for `orphan_grace`.
    ///
    /// # Errors
    /// [`StoreError`]; what was removed by then stays removed.
    pub fn remove_unpinned(
        &self,
        pinned: &BTreeSet<PackageId>,
        bytes_max: u64,
        orphan_grace: Duration,
    ) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        let mut uses = self.chunk_uses()?;
        for id in self.unpinned_oldest_first(pinned)? {
            if self.total_bytes() <= bytes_max {
                break;
            }
            self.remove_package(id, &mut uses, &mut removed)?;
        }
        self.remove_orphans(&uses, orphan_grace, &mut removed)?;
        Ok(removed)
    }

    /// How many packages use each chunk.
    fn chunk_uses(&self) -> Result<BTreeMap<ChunkHash, u32>, StoreError> {
        let mut uses = BTreeMap::new();
        for id in self.packages()? {
            for chunk in self.chunks_of(id)? {
                *uses.entry(chunk.hash).or_default() += 1;
            }
        }
        Ok(uses)
    }

    fn chunks_of(&self, id: PackageId) -> Result<Vec<Chunk>, StoreError> {
        match self.manifest(id) {
            Ok(manifest) => Ok(distinct_chunks(&manifest)),
            Err(ManifestStoreError::Store(error)) => Err(error),
            Err(ManifestStoreError::Missing(_) | ManifestStoreError::Refused { .. }) => {
                Ok(Vec::new())
            }
        }
    }

    fn unpinned_oldest_first(
        &self,
        pinned: &BTreeSet<PackageId>,
    ) -> Result<Vec<PackageId>, StoreError> {
        let mut unpinned = Vec::new();
        for id in self.packages()? {
            if !pinned.contains(&id) {
                unpinned.push((modified(&self.manifest_path(id)), id));
            }
        }
        unpinned.sort_unstable();
        Ok(unpinned.into_iter().map(|(_, id)| id).collect())
    }

    fn remove_package(
        &self,
        id: PackageId,
        uses: &mut BTreeMap<ChunkHash, u32>,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let chunks = self.chunks_of(id)?;
        files::remove(&self.manifest_path(id))?;
        files::remove(&self.report_path(id))?;
        self.remove_tree(id)?;
        removed.packages.push(id);
        for chunk in chunks {
            let count = uses.entry(chunk.hash).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.remove_counted(chunk.hash, removed)?;
            }
        }
        Ok(())
    }

    fn remove_orphans(
        &self,
        uses: &BTreeMap<ChunkHash, u32>,
        grace: Duration,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let now = SystemTime::now();
        for (hash, stored) in self.stored_chunks()? {
            let used = uses.get(&hash).is_some_and(|count| *count > 0);
            let idle = now.duration_since(stored.used).unwrap_or_default();
            if !used && idle >= grace {
                self.remove_counted(hash, removed)?;
            }
        }
        Ok(())
    }

    fn remove_counted(&self, hash: ChunkHash, removed: &mut Removed) -> Result<(), StoreError> {
        if let Some(bytes) = self.remove_chunk(hash)? {
            removed.chunks += 1;
            removed.bytes += bytes;
        }
        Ok(())
    }

    fn remove_chunk(&self, hash: ChunkHash) -> Result<Option<u64>, StoreError> {
        let _writing = self.writing(hash);
        let removed = files::remove(&self.chunk_path(hash))?;
        if let Some(bytes) = removed {
            self.0.chunk_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(removed)
    }

    fn writing(&self, hash: ChunkHash) -> MutexGuard<'_, ()> {
        let lock = &self.0.writing[usize::from(hash.0[0] % 16)];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored_chunks(&self) -> Result<BTreeMap<ChunkHash, StoredChunk>, StoreError> {
        let mut stored = BTreeMap::new();
        for (_, folder) in list(&self.0.root.join("chunks"))? {
            for (name, path) in list(&folder)? {
                let Some(hash) = ChunkHash::from_hex(&name) else {
                    continue;
                };
                let meta = fs::metadata(&path).map_err(at(&path))?;
                let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let bytes = meta.len();
                stored.insert(hash, StoredChunk { used, bytes });
            }
        }
        Ok(stored)
    }

    /// Where the unpacked package is, if it is; that counts as a use of it.
    pub fn tree(&self, id: PackageId) -> Option<PathBuf> {
        let path = self.tree_path(id);
        if !path.is_dir() {
            return None;
        }
        let _ = files::touch(&self.manifest_path(id));
        Some(path)
    }

    /// Removes the unpacked package, if there is one. No task may be using it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_tree(&self, id: PackageId) -> Result<(), StoreError> {
        let path = self.tree_path(id);
        let doomed = self.build_path();
        match fs::rename(&path, &doomed) {
            Ok(()) => files::remove_tree(&doomed).map_err(at(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Keeps a few lines about a package's last fetch.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn put_report(&self, id: PackageId, bytes: &[u8]) -> Result<(), StoreError> {
        files::write_whole(&self.0.root.join("tmp"), &self.report_path(id), bytes)
    }

    /// What [`Self::put_report`] kept.
    pub(crate) fn report_bytes(&self, id: PackageId) -> Option<Vec<u8>> {
        let bytes = files::read(&self.report_path(id), REPORT_BYTES_MAX).ok()??;
        (bytes.len() <= REPORT_BYTES_MAX).then_some(bytes)
    }

    /// A fresh place beside the trees, to build one in: on a rename within one
    /// folder the tree itself may already be read-only.
    pub(crate) fn build_path(&self) -> PathBuf {
        let name = format!("{BUILD_PREFIX}{}", files::unique_name());
        self.0.trees.join(name)
    }

    pub(crate) fn tree_path(&self, id: PackageId) -> PathBuf {
        self.0.trees.join(id.to_hex())
    }

    fn chunk_path(&self, hash: ChunkHash) -> PathBuf {
        let name = hash.to_hex();
        let mut path = self.0.root.join("chunks");
        path.push(&name[..2]);
        path.push(&name);
        path
    }

    fn manifest_path(&self, id: PackageId) -> PathBuf {
        self.0.root.join("manifests").join(id.to_hex())
    }

    fn report_path(&self, id: PackageId) -> PathBuf {
        self.0.root.join("reports").join(id.to_hex())
    }
}

const BUILD_PREFIX: &str = ".build-";

struct StoredChunk {
    used: SystemTime,
    bytes: u64,
}

/// A manifest's chunks, each once, in the order of first use: the order of the
/// bits in [`crate::exchange::wire::Have`].
pub fn distinct_chunks(manifest: &Manifest) -> Vec<Chunk> {
    let mut seen = BTreeSet::new();
    manifest
        .chunks()
        .filter(|chunk| seen.insert(chunk.hash))
        .collect()
}

/// The bytes of a stored or received chunk, if they are those of `hash`. Never
/// takes more memory than the largest chunk.
fn unpack_chunk(hash: ChunkHash, packed: &[u8]) -> Option<Vec<u8>> {
    if packed.len() > PACKED_BYTES_MAX {
        return None;
    }
    let bytes = zstd::bulk::decompress(packed, CHUNK_BYTES_MAX as usize).ok()?;
    (*blake3::hash(&bytes).as_bytes() == hash.0).then_some(bytes)
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|meta| meta.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Names and paths of a folder's entries, in order of names; nothing if the
/// folder has gone.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(folder))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(at(path))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
