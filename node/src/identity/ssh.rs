//! A person's files for ssh, in the folder of their keys: a key of its own,
//! which each signed request for a connection vouches for, and the keys that
//! nodes have shown.
//!
//! ```text
//! ssh/id_ed25519        the key, as OpenSSH writes it, 0600
//! ssh/known_hosts/HOST  the key of the node that ran this task last
//! ```
//!
//! Whoever has the key and not the person's own can do nothing with it: there
//! is no list of keys that may log in. Another Ed25519 key in its place, also
//! one with a passphrase, is as good.

use super::{
    files::{self, FileError},
    random,
};
use data_encoding::BASE64;
use potluck_specs::trust::{PublicKey, SecretKey};
use std::path::{Path, PathBuf};

/// First bytes of a private key's file.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The kind of key that is used.
const KIND: &str = "ssh-ed25519";

/// First and last line of a private key's file.
const FRAME: [&str; 2] = [
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----END OPENSSH PRIVATE KEY-----",
];

/// Characters of a line of a private key's file.
const LINE_CHARS: usize = 70;

/// What an unencrypted private part is filled up to a multiple of.
const BLOCK_BYTES: usize = 8;

/// Files that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SshFilesError {
    /// Reading or writing.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what is used here.
    #[error("{0} is no Ed25519 key of OpenSSH's")]
    NotAKey(PathBuf),
}

/// The files of one person.
#[derive(Clone, Debug)]
pub struct SshFiles {
    /// The private key's.
    pub key_file: PathBuf,
    /// The public key.
    pub key: PublicKey,
    /// With a file for each host.
    pub known_hosts: PathBuf,
}

impl SshFiles {
    /// Those in the folder of a person's keys; makes what is missing.
    ///
    /// # Errors
    /// Any [`SshFilesError`].
    pub fn open(config: &Path) -> Result<SshFiles, SshFilesError> {
        let folder = config.join("ssh");
        let key_file = folder.join("id_ed25519");
        let known_hosts = folder.join("known_hosts");
        files::make_folder(&known_hosts)?;
        let text = match files::read(&key_file)? {
            Some(text) => text,
            None => {
                let text = private_text(&SecretKey::from_seed(random()), random());
                match files::write_new(&key_file, text.as_bytes(), files::SECRET) {
                    Ok(()) => text.into_bytes(),
                    // Another command was faster.
                    Err(FileError::Exists { .. }) => files::read(&key_file)?.unwrap_or_default(),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let key = public_of(&text).ok_or_else(|| SshFilesError::NotAKey(key_file.clone()))?;
        Ok(SshFiles {
            key_file,
            key,
            known_hosts,
        })
    }

    /// Has OpenSSH's client believe that `host` is who has `key`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn know(&self, host: &str, key: &PublicKey) -> Result<(), FileError> {
        let line = format!("{host} {}\n", public_line(key));
        files::write(&self.known_hosts.join(host), line.as_bytes(), files::SECRET)
    }
}

/// A public key as it stands in a file of known hosts.
fn public_line(key: &PublicKey) -> String {
    format!("{KIND} {}", BASE64.encode(&public_blob(key)))
}

fn public_blob(key: &PublicKey) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, KIND.as_bytes());
    put(&mut blob, &key.0);
    blob
}

/// The file of a private key without a passphrase, by OpenSSH's
/// `PROTOCOL.key`. `check` is written twice, which tells a reader that its
/// passphrase was right.
fn private_text(key: &SecretKey, check: [u8; 4]) -> String {
    let public = key.public();
    let mut private = [check, check].concat();
    put(&mut private, KIND.as_bytes());
    put(&mut private, &public.0);
    put(&mut private, &[key.seed(), public.0].concat());
    put(&mut private, b"potluck");
    let missing = private.len().next_multiple_of(BLOCK_BYTES) - private.len();
    private.extend((1..).take(missing));
    let mut bytes = MAGIC.to_vec();
    for text in ["none", "none", ""] {
        put(&mut bytes, text.as_bytes());
    }
    bytes.extend(1_u32.to_be_bytes());
    put(&mut bytes, &public_blob(&public));
    put(&mut bytes, &private);
    let encoded = BASE64.encode(&bytes);
    let mut rest = encoded.as_str();
    let mut text = format!("{}\n", FRAME[0]);
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text + FRAME[1] + "\n"
}

/// The public key in the file of a private one, which is readable there also
/// if the private one is not.
fn public_of(file: &[u8]) -> Option<PublicKey> {
    let text = std::str::from_utf8(file).ok()?.trim();
    let inner = text.strip_prefix(FRAME[0])?.strip_suffix(FRAME[1])?;
    let inner: String = inner.split_whitespace().collect();
    let bytes = BASE64.decode(inner.as_bytes()).ok()?;
    let mut rest = bytes.strip_prefix(MAGIC)?;
    for _ in 0..3 {
        take(&mut rest)?;
    }
    let (count, after) = rest.split_first_chunk()?;
    rest = after;
    let mut blob = take(&mut rest).filter(|_| u32::from_be_bytes(*count) == 1)?;
    let kind = take(&mut blob)?;
    let key = take(&mut blob)?.try_into().ok()?;
    (kind == KIND.as_bytes()).then_some(PublicKey(key))
}

/// A string of ssh's: its length, then its bytes.
fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u32).to_be_bytes());
    bytes.extend(text);
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = SshFiles::open(folder.path()).unwrap();
        let again = SshFiles::open(folder.path()).unwrap();
        assert_eq!(first.key, again.key);
        let text = std::fs::read_to_string(&first.key_file).unwrap();
        assert!(text.lines().all(|line| line.len() <= LINE_CHARS), "{text}");
        first.know("0.web.potluck", &first.key).unwrap();
        let known = std::fs::read_to_string(first.known_hosts.join("0.web.potluck")).unwrap();
        assert!(known.starts_with("0.web.potluck ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"));
        std::fs::write(&first.key_file, "nonsense").unwrap();
        assert!(matches!(
            SshFiles::open(folder.path()),
            Err(SshFilesError::NotAKey(_))
        ));
    }

    /// Written by `ssh-keygen -t ed25519 -N secret`: the public key is
    /// readable all the same.
    #[test]
    fn a_key_with_a_passphrase_tells_its_public_half() {
        let mut bytes = MAGIC.to_vec();
        for text in ["aes256-ctr", "bcrypt", "salt and rounds"] {
            put(&mut bytes, text.as_bytes());
        }
        bytes.extend(1_u32.to_be_bytes());
        let key = SecretKey::from_seed([7; 32]).public();
        put(&mut bytes, &public_blob(&key));
        put(&mut bytes, b"encrypted");
        let text = |bytes: &[u8]| format!("{}\n{}\n{}\n", FRAME[0], BASE64.encode(bytes), FRAME[1]);
        assert_eq!(public_of(text(&bytes).as_bytes()), Some(key));
        for length in 0..bytes.len() - 20 {
            assert_eq!(public_of(text(&bytes[..length]).as_bytes()), None);
        }
    }
}
