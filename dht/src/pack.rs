//! From files to a package.
//!
//! Files are cut by content (FastCDC), so that a changed file shares most of
//! its chunks with its earlier version. The same tree gives the same package
//! id on every machine: paths are sorted, times, owners and all modes but
//! "executable" are left out, and folders are listed only where they are
//! empty. The numbers below are part of that promise.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fastcdc::v2020::{Normalization, StreamCDC};
use potluck_specs::{
    ChunkHash, PackageId,
    package::{
        CHUNK_BYTES_MAX, Chunk, FileEntry, FileNode, MANIFEST_BYTES_MAX, Manifest, ManifestError,
    },
};

use crate::store::{ChunkStore, ManifestStoreError, PutError};

/// Least size of a chunk that is not the last of its file.
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// Usual size of a chunk.
const CHUNK_BYTES_USUAL: usize = 256 << 10;

/// A tree that can't be a package.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file or folder can't be read.
    #[error("can't read {path}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A socket, a device or a pipe.
    #[error("{path} is neither a file, a folder nor a link", path = .0.display())]
    Special(PathBuf),
    /// A name or a link's target that is not UTF-8.
    #[error("{path} has a name or a target that is not UTF-8", path = .0.display())]
    NotUtf8(PathBuf),
    /// Too many files or chunks for one package.
    #[error("the package is too large: its manifest would pass {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    /// A path that no manifest may hold.
    #[error("the package would be refused")]
    Refused(#[source] ManifestError),
    /// A file changed between two readings of it.
    #[error("{path} changed while it was being packed", path = .0.display())]
    Changed(PathBuf),
    /// The store did not take a chunk.
    #[error("can't store a chunk")]
    Chunk(#[source] PutError),
    /// The store did not take the manifest.
    #[error("can't store the manifest")]
    Manifest(#[source] ManifestStoreError),
}

/// Packs a folder, or one file under its own name, into the store.
///
/// # Errors
/// Any [`PackError`]; chunks stored by then are removed by a later clean-up.
pub fn pack(store: &ChunkStore, path: &Path) -> Result<(PackageId, Manifest), PackError> {
    let manifest = walk(path, &mut |_, _, chunk, bytes| {
        store.put(chunk.hash, bytes).map_err(PackError::Chunk)
    })?;
    let (id, bytes) = encode(&manifest)?;
    let manifest = store
        .put_manifest(id, &bytes)
        .map_err(PackError::Manifest)?;
    Ok((id, manifest))
}

/// Describes a folder or a file without storing anything, for a client that
/// uploads to a node: it sends the manifest, is told which chunks are missing
/// there, and reads those with [`Scan::read`].
///
/// # Errors
/// Any [`PackError`].
pub fn scan(path: &Path) -> Result<Scan, PackError> {
    let mut places = BTreeMap::new();
    let manifest = walk(path, &mut |file, offset, chunk, _| {
        let place = || (file.to_owned(), offset, chunk.bytes);
        places.entry(chunk.hash).or_insert_with(place);
        Ok(())
    })?;
    let (id, manifest_bytes) = encode(&manifest)?;
    Ok(Scan {
        id,
        manifest,
        manifest_bytes,
        places,
    })
}

/// A package that lies in ordinary files.
#[derive(Debug)]
pub struct Scan {
    /// The package's id.
    pub id: PackageId,
    /// What it holds.
    pub manifest: Manifest,
    /// The manifest's canonical bytes.
    pub manifest_bytes: Vec<u8>,
    places: BTreeMap<ChunkHash, (PathBuf, u64, u32)>,
}

impl Scan {
    /// A chunk's bytes, read again from its file; nothing if it is not of this
    /// package.
    ///
    /// # Errors
    /// [`PackError::Changed`] if the file is no longer what was scanned.
    pub fn read(&self, hash: ChunkHash) -> Result<Option<Vec<u8>>, PackError> {
        let Some((path, offset, length)) = self.places.get(&hash) else {
            return Ok(None);
        };
        let mut file = open(path)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(*offset)).map_err(reading(path))?;
        let part = file.take(u64::from(*length)).read_to_end(&mut bytes);
        part.map_err(reading(path))?;
        if *blake3::hash(&bytes).as_bytes() != hash.0 {
            return Err(PackError::Changed(path.clone()));
        }
        Ok(Some(bytes))
    }
}

/// Cuts a stream of bytes; `sink` gets each piece with its offset.
///
/// # Errors
/// What reading gives, and what `sink` gives.
pub fn cut<E: From<io::Error>>(
    bytes: impl Read,
    mut sink: impl FnMut(u64, Chunk, &[u8]) -> Result<(), E>,
) -> Result<Vec<Chunk>, E> {
    let (min, usual, max) = (CHUNK_BYTES_MIN, CHUNK_BYTES_USUAL, CHUNK_BYTES_MAX as usize);
    let cutter = StreamCDC::with_level(bytes, min, usual, max, Normalization::Level1);
    let mut chunks = Vec::new();
    for piece in cutter {
        let piece = piece.map_err(io::Error::from)?;
        let chunk = Chunk {
            hash: ChunkHash(*blake3::hash(&piece.data).as_bytes()),
            bytes: piece.length as u32,
        };
        sink(piece.offset, chunk, &piece.data)?;
        chunks.push(chunk);
    }
    Ok(chunks)
}

type Sink<'a> = dyn FnMut(&Path, u64, Chunk, &[u8]) -> Result<(), PackError> + 'a;

fn walk(path: &Path, sink: &mut Sink<'_>) -> Result<Manifest, PackError> {
    // Only the path that the user names may be a link.
    let root = fs::canonicalize(path).map_err(reading(path))?;
    let mut walk = Walk {
        files: Vec::new(),
        bytes_least: 0,
        sink,
    };
    if fs::metadata(&root).map_err(reading(&root))?.is_dir() {
        walk.folder(&root)?;
    } else {
        let name = utf8(path.file_name().map(Path::new).unwrap_or(&root))?;
        walk.entry(&root, name)?;
    }
    let mut files = walk.files;
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Manifest { files })
}

fn encode(manifest: &Manifest) -> Result<(PackageId, Vec<u8>), PackError> {
    let (id, bytes) = manifest.encode();
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(PackError::TooLarge);
    }
    Manifest::decode(id, &bytes).map_err(PackError::Refused)?;
    Ok((id, bytes))
}

struct Walk<'a, 'b> {
    files: Vec<FileEntry>,
    /// What the manifest takes at least so far: a hopeless tree is not read to
    /// its end.
    bytes_least: usize,
    sink: &'a mut Sink<'b>,
}

impl Walk<'_, '_> {
    /// Everything below `root`, which has the empty path.
    fn folder(&mut self, root: &Path) -> Result<(), PackError> {
        let mut folders = vec![(root.to_owned(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            let mut empty = true;
            for entry in fs::read_dir(&folder).map_err(reading(&folder))? {
                empty = false;
                let entry = entry.map_err(reading(&folder))?;
                let path = entry.path();
                let name = utf8(Path::new(&entry.file_name()))?;
                let name = format!("{prefix}{name}");
                if entry.file_type().map_err(reading(&path))?.is_dir() {
                    self.count(name.len())?;
                    folders.push((path, name + "/"));
                } else {
                    self.entry(&path, name)?;
                }
            }
            if let Some(name) = prefix.strip_suffix('/').filter(|_| empty) {
                self.push(name.to_owned(), FileNode::Directory)?;
            }
        }
        Ok(())
    }

    /// Anything but a folder.
    fn entry(&mut self, path: &Path, name: String) -> Result<(), PackError> {
        let kind = fs::symlink_metadata(path)
            .map_err(reading(path))?
            .file_type();
        let node = if kind.is_symlink() {
            let target = fs::read_link(path).map_err(reading(path))?;
            let target = target.into_os_string().into_string();
            let target = target.map_err(|_| PackError::NotUtf8(path.to_owned()))?;
            FileNode::Link { target }
        } else if kind.is_file() {
            self.file(path)?
        } else {
            return Err(PackError::Special(path.to_owned()));
        };
        self.push(name, node)
    }

    fn file(&mut self, path: &Path) -> Result<FileNode, PackError> {
        let file = open(path)?;
        let meta = file.metadata().map_err(reading(path))?;
        if !meta.is_file() {
            return Err(PackError::Special(path.to_owned()));
        }
        let chunks = cut::<CutError>(file, |offset, chunk, bytes| {
            self.count(size_of::<ChunkHash>()).map_err(CutError::Pack)?;
            (self.sink)(path, offset, chunk, bytes).map_err(CutError::Pack)
        });
        let chunks = chunks.map_err(|error| match error {
            CutError::Read(source) => reading(path)(source),
            CutError::Pack(error) => error,
        })?;
        let executable = meta.permissions().mode() & 0o111 != 0;
        Ok(FileNode::File { executable, chunks })
    }

    fn push(&mut self, path: String, node: FileNode) -> Result<(), PackError> {
        self.count(path.len())?;
        self.files.push(FileEntry { path, node });
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), PackError> {
        self.bytes_least += bytes;
        if self.bytes_least > MANIFEST_BYTES_MAX {
            return Err(PackError::TooLarge);
        }
        Ok(())
    }
}

enum CutError {
    Read(io::Error),
    Pack(PackError),
}

impl From<io::Error> for CutError {
    fn from(error: io::Error) -> CutError {
        CutError::Read(error)
    }
}

/// Opens a file that may have become a link or a pipe since it was listed.
fn open(path: &Path) -> Result<File, PackError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path).map_err(reading(path))
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> PackError + '_ {
    move |source| PackError::Read {
        path: path.to_owned(),
        source,
    }
}

fn utf8(path: &Path) -> Result<String, PackError> {
    let text = path
        .to_str()
        .ok_or_else(|| PackError::NotUtf8(path.to_owned()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
