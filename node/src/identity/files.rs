//! Small files that must be whole or absent: written beside their place,
//! synced, then renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use potluck_specs::{
    codec::{self, CodecError},
    trust::SecretKey,
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Largest of our own files: members of a cluster of a thousand with their
/// addresses stay far below.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;

/// Owner only: keys and what holds keys.
pub(super) const SECRET: u32 = 0o600;

/// Anybody may read.
pub(super) const PUBLIC: u32 = 0o644;

/// A file that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading failed.
    #[error("can't read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("can't write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} is damaged")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// It is no key.
    #[error("{path} does not hold a key")]
    NotAKey {
        /// Which.
        path: PathBuf,
    },
    /// It exists and must not be overwritten.
    #[error("{path} exists already")]
    Exists {
        /// Which.
        path: PathBuf,
    },
}

/// Makes a folder for its owner only, with its parents.
pub(super) fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::Write {
            path: path.into(),
            source,
        })
}

/// The file's bytes; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let fail = |source| FileError::Read {
        path: path.into(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(Some(bytes))
}

/// Replaces the file, or leaves the old one whole.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_inner(path, bytes, mode).map_err(|source| FileError::Write {
        path: path.into(),
        source,
    })
}

/// Writes a file that must not exist yet.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    if path.exists() {
        return Err(FileError::Exists { path: path.into() });
    }
    write(path, bytes, mode)
}

/// Decodes a file; `None` if it does not exist.
pub(super) fn read_value<T: DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<Option<T>, FileError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    codec::decode(what, &bytes, FILE_BYTES_MAX)
        .map(Some)
        .map_err(|source| FileError::Damaged {
            path: path.into(),
            source,
        })
}

/// Encodes into a file.
pub(super) fn write_value<T: Serialize>(
    path: &Path,
    value: &T,
    mode: u32,
) -> Result<(), FileError> {
    write(path, &codec::encode(value), mode)
}

fn write_inner(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A leftover of a crash may have other permissions.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a secret key's hexadecimal text; `None` if the file does not exist.
pub(super) fn read_key(path: &Path) -> Result<Option<SecretKey>, FileError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let bytes = Zeroizing::new(bytes);
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(SecretKey::from_hex)
        .map(Some)
        .ok_or_else(|| FileError::NotAKey { path: path.into() })
}

/// Writes a secret key into a file that must not exist yet.
pub(super) fn write_key(path: &Path, key: &SecretKey) -> Result<(), FileError> {
    let text = Zeroizing::new(key.to_hex() + "\n");
    write_new(path, text.as_bytes(), SECRET)
}
