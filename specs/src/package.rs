//! Content-addressed packages: what a manifest holds.

use crate::{
    codec::{self, CodecError},
    ids::bytes_id,
};
use serde::{Deserialize, Serialize};
use std::fmt;

bytes_id!(
    /// BLAKE3 of a package's manifest.
    PackageId, 32
);
bytes_id!(
    /// BLAKE3 of a chunk's uncompressed bytes.
    ChunkHash, 32
);

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..16])
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..16])
    }
}

/// Largest manifest: some 80,000 chunks of 256 KiB, a package of 20 GiB.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Largest chunk before compression.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// An immutable file tree. Its canonical encoding's BLAKE3 is the package id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Ordered by path, each path once; parents need no entry of their own.
    pub files: Vec<FileEntry>,
}

/// One entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative, `/`-separated, without `.`, `..` or empty parts.
    pub path: String,
    /// What stands there.
    pub node: FileNode,
}

/// What a path of the tree is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FileNode {
    /// A directory that must exist even if empty.
    Directory,
    /// A regular file.
    File {
        /// May be executed.
        executable: bool,
        /// Its pieces in order.
        chunks: Vec<Chunk>,
    },
    /// A symbolic link.
    Link {
        /// Stored as it is; resolved inside the sandbox only.
        target: String,
    },
}

/// One piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Of its bytes.
    pub hash: ChunkHash,
    /// How many, at most [`CHUNK_BYTES_MAX`].
    pub bytes: u32,
}

/// A manifest that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not in canonical form.
    #[error("the manifest can't be read")]
    Encoding(#[from] CodecError),
    /// The bytes are not those that the id names.
    #[error("the manifest is not that of package {0}")]
    OtherPackage(PackageId),
    /// A path that leaves the tree, stands twice or is out of order.
    #[error("the manifest's path {path:?} {why}")]
    Path {
        /// The path.
        path: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A chunk of a forbidden size.
    #[error("a chunk of {path:?} has {bytes} bytes, 1 to {CHUNK_BYTES_MAX} are allowed")]
    Chunk {
        /// The file.
        path: String,
        /// The chunk's claimed size.
        bytes: u32,
    },
}

impl Manifest {
    /// Its canonical bytes and their hash.
    pub fn encode(&self) -> (PackageId, Vec<u8>) {
        let bytes = codec::encode(self);
        (PackageId(*blake3::hash(&bytes).as_bytes()), bytes)
    }

    /// Reads and checks the manifest of `id`: nothing in it can point outside
    /// the tree that it describes.
    ///
    /// # Errors
    /// Any [`ManifestError`].
    pub fn decode(id: PackageId, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if bytes.len() <= MANIFEST_BYTES_MAX && *blake3::hash(bytes).as_bytes() != id.0 {
            return Err(ManifestError::OtherPackage(id));
        }
        let manifest: Manifest = codec::decode_canonical("manifest", bytes, MANIFEST_BYTES_MAX)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Every chunk, in file order, repeats included.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.files.iter().flat_map(|entry| {
            match &entry.node {
                FileNode::File { chunks, .. } => chunks.as_slice(),
                FileNode::Directory | FileNode::Link { .. } => &[],
            }
            .iter()
            .copied()
        })
    }

    /// Bytes of all files, uncompressed.
    pub fn total_bytes(&self) -> u64 {
        self.chunks().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    fn check(&self) -> Result<(), ManifestError> {
        let mut before: Option<&FileEntry> = None;
        for entry in &self.files {
            check_path(&entry.path)?;
            if let Some(before) = before {
                check_order(before, entry)?;
            }
            check_chunks(entry)?;
            before = Some(entry);
        }
        self.check_parents()
    }

    /// A path below a file or a link would be written through it.
    fn check_parents(&self) -> Result<(), ManifestError> {
        let leaves: std::collections::BTreeSet<&str> = self
            .files
            .iter()
            .filter(|entry| entry.node != FileNode::Directory)
            .map(|entry| entry.path.as_str())
            .collect();
        for entry in &self.files {
            let mut parent = entry.path.as_str();
            while let Some((above, _)) = parent.rsplit_once('/') {
                if leaves.contains(above) {
                    let why = "lies below a file or a link";
                    return Err(ManifestError::Path {
                        path: entry.path.clone(),
                        why,
                    });
                }
                parent = above;
            }
        }
        Ok(())
    }
}

fn check_path(path: &str) -> Result<(), ManifestError> {
    let fail = |why| {
        Err(ManifestError::Path {
            path: path.chars().take(200).collect(),
            why,
        })
    };
    if path.len() > 4_096 {
        return fail("is longer than 4096 bytes");
    }
    if path.contains('\0') {
        return fail("holds a zero byte");
    }
    if path
        .split('/')
        .any(|part| matches!(part, "" | "." | "..") || part.len() > 255)
    {
        return fail("is absolute, or has an empty, '.', '..' or too long part");
    }
    Ok(())
}

fn check_order(before: &FileEntry, entry: &FileEntry) -> Result<(), ManifestError> {
    if before.path < entry.path {
        return Ok(());
    }
    Err(ManifestError::Path {
        path: entry.path.clone(),
        why: "is out of order or stands twice",
    })
}

fn check_chunks(entry: &FileEntry) -> Result<(), ManifestError> {
    let FileNode::File { chunks, .. } = &entry.node else {
        return Ok(());
    };
    match chunks
        .iter()
        .find(|c| c.bytes == 0 || c.bytes > CHUNK_BYTES_MAX)
    {
        Some(chunk) => Err(ManifestError::Chunk {
            path: entry.path.clone(),
            bytes: chunk.bytes,
        }),
        None => Ok(()),
    }
}
