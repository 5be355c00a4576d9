//! From a package to a read-only tree.
//!
//! The tree is built in a fresh folder and renamed into its place, so it is
//! whole or not there; when two build the same one, the second finds the
//! first's and throws its own away. Nothing is ever written through a link:
//! [`Manifest`] refuses paths below links, files are made with `O_EXCL`, and
//! nobody else writes into the fresh folder.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use potluck_specs::{
    ChunkHash, PackageId,
    package::{Chunk, FileNode, Manifest},
};

use crate::store::{
    ChunkStore, GetError, ManifestStoreError, StoreError,
    files::{self, at},
};

const MODE_FILE: u32 = 0o444;
const MODE_EXECUTABLE: u32 = 0o555;
const MODE_FOLDER: u32 = 0o555;

/// A package that can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The manifest is not here.
    #[error("can't read the manifest of package {id}")]
    Manifest {
        /// The package.
        id: PackageId,
        /// Why.
        source: ManifestStoreError,
    },
    /// A chunk is missing or was damaged; fetch again.
    #[error("can't read a chunk of {path:?}")]
    Chunk {
        /// Of this file.
        path: String,
        /// Why.
        source: GetError,
    },
    /// The manifest says another size than the chunk has: whoever made the
    /// package made it wrong, and fetching again is of no use.
    #[error("{path:?} has a chunk {hash} of another size than the manifest says")]
    Size {
        /// Of this file.
        path: String,
        /// The chunk.
        hash: ChunkHash,
    },
    /// The tree can't be written.
    #[error("can't write the tree")]
    Write(#[from] StoreError),
}

/// Unpacks a package whose chunks are all here and says where it is; if it is
/// already unpacked, only says where.
///
/// # Errors
/// Any [`UnpackError`]; nothing is left behind then.
pub fn unpack(store: &ChunkStore, id: PackageId) -> Result<PathBuf, UnpackError> {
    if let Some(tree) = store.tree(id) {
        return Ok(tree);
    }
    let manifest = store
        .manifest(id)
        .map_err(|source| UnpackError::Manifest { id, source })?;
    let build = Build::new(store)?;
    build.write(store, &manifest)?;
    Ok(build.finish(&store.tree_path(id))?)
}

/// A tree under construction; removed when dropped.
struct Build {
    root: PathBuf,
}

impl Build {
    fn new(store: &ChunkStore) -> Result<Build, StoreError> {
        let root = store.build_path();
        fs::create_dir(&root).map_err(at(&root))?;
        Ok(Build { root })
    }

    fn write(&self, store: &ChunkStore, manifest: &Manifest) -> Result<(), UnpackError> {
        let mut folders = BTreeSet::new();
        for entry in &manifest.files {
            let path = self.root.join(&entry.path);
            match &entry.node {
                FileNode::Directory => self.folder(&entry.path, &mut folders)?,
                FileNode::Link { target } => {
                    self.folder_above(&entry.path, &mut folders)?;
                    symlink(target, &path).map_err(at(&path))?;
                }
                FileNode::File { executable, chunks } => {
                    self.folder_above(&entry.path, &mut folders)?;
                    let mode = if *executable {
                        MODE_EXECUTABLE
                    } else {
                        MODE_FILE
                    };
                    write_file(store, &entry.path, &path, mode, chunks)?;
                }
            }
        }
        // The deepest first, since a folder that is read-only can still have
        // its children's modes changed, but only while it can be searched.
        for folder in folders.iter().rev() {
            set_mode(&self.root.join(folder), MODE_FOLDER)?;
        }
        Ok(set_mode(&self.root, MODE_FOLDER)?)
    }

    fn folder_above<'a>(
        &self,
        path: &'a str,
        made: &mut BTreeSet<&'a str>,
    ) -> Result<(), StoreError> {
        match path.rsplit_once('/') {
            Some((above, _)) => self.folder(above, made),
            None => Ok(()),
        }
    }

    /// Makes a folder and those above it, each once.
    fn folder<'a>(&self, path: &'a str, made: &mut BTreeSet<&'a str>) -> Result<(), StoreError> {
        let ends = path.match_indices('/').map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            if made.insert(&path[..end]) {
                let folder = self.root.join(&path[..end]);
                fs::create_dir(&folder).map_err(at(&folder))?;
            }
        }
        Ok(())
    }

    fn finish(self, place: &Path) -> Result<PathBuf, StoreError> {
        match fs::rename(&self.root, place) {
            Ok(()) => {}
            // Somebody else was first; its tree is the same as ours.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(place)(error)),
        }
        Ok(place.to_owned())
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.root.exists()
            && let Err(error) = files::remove_tree(&self.root)
        {
            tracing::warn!(path = %self.root.display(), %error, "unfinished tree left behind");
        }
    }
}

fn write_file(
    store: &ChunkStore,
    name: &str,
    path: &Path,
    mode: u32,
    chunks: &[Chunk],
) -> Result<(), UnpackError> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).map_err(at(path))?;
    for chunk in chunks {
        let bytes = store.get(chunk.hash).map_err(|source| UnpackError::Chunk {
            path: name.to_owned(),
            source,
        })?;
        if bytes.len() != chunk.bytes as usize {
            return Err(UnpackError::Size {
                path: name.to_owned(),
                hash: chunk.hash,
            });
        }
        file.write_all(&bytes).map_err(at(path))?;
    }
    // Not at creation, where the process's umask would take bits away.
    let mode = Permissions::from_mode(mode);
    Ok(file.set_permissions(mode).map_err(at(path))?)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at(path))
}

#[cfg(test)]
mod tests;
