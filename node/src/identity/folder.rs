//! A node's data folder: one node at a time, its key, its certificate, its
//! cluster, and the counter of its starts.
//!
//! ```text
//! lock              held while a node runs on the folder
//! node.key          the node's secret key, 0600
//! credential.cbor   its certificate with the chain
//! cluster.cbor      fleet, cluster, gossip keys, seed members, epoch; 0600
//! genesis.cbor      only on the first node: how the cluster began; 0600
//! boot              counts starts
//! raft-id           id in the control group, never used again elsewhere
//! recovery.cbor     the order by which the present epoch began, if one did
//! recover.cbor      an order to go on alone, until it is carried out
//! raft/ packages/ tasks/ …   of other parts
//! ```

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use potluck_gossip::KeyRing;
use potluck_specs::{
    Epoch, FleetId, Millis,
    trust::{NodeCertificate, NodeCredential, SecretKey, TrustError},
};
use serde::{Deserialize, Serialize};

use crate::api::change::SignedChange;

use super::{
    Admission, Genesis, KnownMember,
    files::{self, FileError, SECRET},
    random,
};

/// The order by which the epoch began.
const RECOVERY: &str = "recovery.cbor";

/// The order to go on alone.
const ORDERED: &str = "recover.cbor";

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another node runs on it.
    #[error("another potluck node uses the data folder {path}")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// It can't be locked.
    #[error("can't lock the data folder {path}")]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of it.
    #[error("the data folder can't be used")]
    File(#[from] FileError),
    /// It is a member's, and a file without which it is none has gone.
    #[error("the data folder {path} has a member's certificate and lacks {lacks}")]
    Incomplete {
        /// Which.
        path: PathBuf,
        /// The file.
        lacks: &'static str,
    },
    /// An order that was carried out can't be removed.
    #[error("can't remove {path}")]
    Order {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its certificate is of another key, fleet or time.
    #[error("the node's certificate in {path} is not accepted")]
    Credential {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: TrustError,
    },
}

/// What a node knows of its cluster before it has spoken to anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: String,
    /// Its gossip keys.
    pub ring: KeyRing,
    /// Members that were known when it was written.
    pub members: Vec<KnownMember>,
    /// The cluster's epoch then.
    pub epoch: Epoch,
}

/// A folder that was there before may be open to everybody; keys and sockets
/// lie in it. One that is not ours to close is caught by what can't be written.
fn close_to_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
}

/// A locked data folder.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataFolder {
    /// Opens the folder, making it if needed, and locks it until dropped.
    ///
    /// # Errors
    /// [`FolderError::InUse`] if another process holds it.
    pub fn open(path: &Path) -> Result<DataFolder, FolderError> {
        files::make_folder(path)?;
        close_to_others(path);
        let lock_error = |source| FolderError::Lock {
            path: path.into(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(SECRET)
            .open(path.join("lock"))
            .map_err(lock_error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(DataFolder {
                path: path.into(),
                _lock: lock,
            }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(FolderError::InUse { path: path.into() })
            }
            Err((_, errno)) => Err(lock_error(errno.into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it for another part (`raft`, `packages`, `tasks`), made if
    /// needed.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn part(&self, name: &str) -> Result<PathBuf, FolderError> {
        let path = self.path.join(name);
        files::make_folder(&path)?;
        Ok(path)
    }

    /// The node's key, made on first use.
    ///
    /// # Errors
    /// [`FolderError::File`]; [`FolderError::Incomplete`] if the key that its
    /// certificate is for has gone: another one would be another node.
    pub fn node_key(&self) -> Result<SecretKey, FolderError> {
        let path = self.path.join("node.key");
        if let Some(key) = files::read_key(&path)? {
            return Ok(key);
        }
        if self.credential()?.is_some() {
            return Err(self.lacks("node.key"));
        }
        let key = SecretKey::from_seed(random());
        files::write_key(&path, &key)?;
        Ok(key)
    }

    /// It is a member's without this file.
    pub fn lacks(&self, lacks: &'static str) -> FolderError {
        FolderError::Incomplete {
            path: self.path.clone(),
            lacks,
        }
    }

    /// The node's certificate, if it has been admitted.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn credential(&self) -> Result<Option<NodeCredential>, FolderError> {
        Ok(files::read_value(
            &self.path.join("credential.cbor"),
            "credential",
        )?)
    }

    /// The certificate inside [`Self::credential`], if chain, key and fleet
    /// fit this folder. `grace` as in [`NodeCredential::verify`].
    ///
    /// # Errors
    /// [`FolderError::Credential`], [`FolderError::File`].
    pub fn certificate(
        &self,
        now: Millis,
        grace: Millis,
    ) -> Result<Option<NodeCertificate>, FolderError> {
        let (Some(credential), Some(cluster)) = (self.credential()?, self.cluster()?) else {
            return Ok(None);
        };
        let refuse = |source| FolderError::Credential {
            path: self.path.clone(),
            source,
        };
        let certificate = credential
            .verify(cluster.fleet, now, grace)
            .map_err(refuse)?;
        if certificate.node != self.node_key()?.node() {
            return Err(refuse(TrustError::OtherHolder));
        }
        Ok(Some(certificate))
    }

    /// Keeps a certificate.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn set_credential(&self, credential: &NodeCredential) -> Result<(), FolderError> {
        let path = self.path.join("credential.cbor");
        Ok(files::write_value(&path, credential, files::PUBLIC)?)
    }

    /// What the node knows of its cluster, if it is in one.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn cluster(&self) -> Result<Option<ClusterFile>, FolderError> {
        Ok(files::read_value(
            &self.path.join("cluster.cbor"),
            "cluster file",
        )?)
    }

    /// Keeps what the node knows of its cluster.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn set_cluster(&self, cluster: &ClusterFile) -> Result<(), FolderError> {
        let path = self.path.join("cluster.cbor");
        Ok(files::write_value(&path, cluster, SECRET)?)
    }

    /// Keeps all that a node gets when it is let in, or renewed. The
    /// certificate comes last: a folder with one is admitted.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn set_admission(&self, fleet: FleetId, admission: &Admission) -> Result<(), FolderError> {
        self.set_cluster(&ClusterFile {
            fleet,
            cluster: admission.cluster.clone(),
            ring: admission.ring.clone(),
            members: admission.members.clone(),
            epoch: admission.epoch,
        })?;
        self.set_credential(&admission.credential)
    }

    /// How the cluster began, if this is its first node.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn genesis(&self) -> Result<Option<Genesis>, FolderError> {
        Ok(files::read_value(
            &self.path.join("genesis.cbor"),
            "genesis file",
        )?)
    }

    pub(super) fn set_genesis(&self, genesis: &Genesis) -> Result<(), FolderError> {
        let path = self.path.join("genesis.cbor");
        Ok(files::write_value(&path, genesis, SECRET)?)
    }

    /// Counts one more start, durably, and returns the count. Call once per
    /// start of the process. It is at least `now` (Unix time in seconds), so
    /// that it grows even after an older copy of the folder was put back.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn next_boot_epoch(&self, now: Millis) -> Result<u64, FolderError> {
        let path = self.path.join("boot");
        let last: u64 = files::read_value(&path, "boot counter")?.unwrap_or(0);
        let next = (last + 1).max(now.0 / 1_000);
        files::write_value(&path, &next, files::PUBLIC)?;
        Ok(next)
    }

    /// The order by which the folder's epoch began, if it was a recovery.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn recovery(&self) -> Result<Option<SignedChange>, FolderError> {
        let path = self.path.join(RECOVERY);
        Ok(files::read_value(&path, "order of a recovery")?)
    }

    /// Keeps the order by which a later epoch began: from the next start on
    /// the node is of that one.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn set_recovery(&self, order: &SignedChange) -> Result<(), FolderError> {
        let path = self.path.join(RECOVERY);
        Ok(files::write_value(&path, order, files::PUBLIC)?)
    }

    /// An order to go on alone that is to be carried out, if there is one.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn ordered_recovery(&self) -> Result<Option<SignedChange>, FolderError> {
        let path = self.path.join(ORDERED);
        Ok(files::read_value(&path, "order to recover")?)
    }

    /// Keeps an order to go on alone for the next start.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn order_recovery(&self, order: &SignedChange) -> Result<(), FolderError> {
        let path = self.path.join(ORDERED);
        Ok(files::write_value(&path, order, files::PUBLIC)?)
    }

    /// The order was carried out, or does not hold.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn drop_ordered_recovery(&self) -> Result<(), FolderError> {
        let path = self.path.join(ORDERED);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FolderError::Order { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The node's id in the control group, if it has one.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn raft_id(&self) -> Result<Option<u64>, FolderError> {
        Ok(files::read_value(&self.path.join("raft-id"), "raft id")?)
    }

    /// Keeps the node's id in the control group.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn set_raft_id(&self, id: u64) -> Result<(), FolderError> {
        Ok(files::write_value(
            &self.path.join("raft-id"),
            &id,
            files::PUBLIC,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_node_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(place.path()).unwrap();
        let second = DataFolder::open(place.path()).unwrap_err();
        assert!(second.to_string().contains("another potluck node uses"));
        assert!(matches!(second, FolderError::InUse { .. }));
        drop(folder);
        DataFolder::open(place.path()).unwrap();
    }

    #[test]
    fn the_key_is_made_once_and_for_the_owner() {
        let place = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&place.path().join("data")).unwrap();
        let key = folder.node_key().unwrap();
        assert_eq!(folder.node_key().unwrap().seed(), key.seed());
        let path = folder.path().join("node.key");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "no key").unwrap();
        let error = folder.node_key().unwrap_err();
        assert!(matches!(
            error,
            FolderError::File(FileError::NotAKey { .. })
        ));
    }

    /// Another key would be refused by all others, for a reason that does not
    /// name what happened.
    #[test]
    fn a_key_that_has_gone_is_not_made_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(place.path()).unwrap();
        folder.node_key().unwrap();
        let signed = || potluck_specs::trust::Signed {
            bytes: Vec::new(),
            signature: [0; 64],
        };
        let credential = NodeCredential {
            root: potluck_specs::trust::PublicKey([1; 32]),
            issuer: signed(),
            certificate: signed(),
        };
        folder.set_credential(&credential).unwrap();
        std::fs::remove_file(folder.path().join("node.key")).unwrap();
        let error = folder.node_key().unwrap_err();
        assert!(error.to_string().ends_with("lacks node.key"), "{error}");
        assert!(!folder.path().join("node.key").exists());
    }

    #[test]
    fn boot_epochs_grow_even_from_an_old_copy() {
        let place = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(place.path()).unwrap();
        let first = folder.next_boot_epoch(Millis(5_000_000)).unwrap();
        let second = folder.next_boot_epoch(Millis(5_000_000)).unwrap();
        assert!(second > first);
        let clock_back = folder.next_boot_epoch(Millis(0)).unwrap();
        assert!(clock_back > second);
        std::fs::remove_file(folder.path().join("boot")).unwrap();
        let restored = folder.next_boot_epoch(Millis(6_000_000)).unwrap();
        assert!(restored > clock_back);
    }

    #[test]
    fn a_torn_write_leaves_the_old_file() {
        let place = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(place.path()).unwrap();
        assert_eq!(folder.raft_id().unwrap(), None);
        folder.set_raft_id(7).unwrap();
        // What a crash in the middle of the next write leaves behind.
        std::fs::write(folder.path().join("raft-id.new"), b"\x18").unwrap();
        assert_eq!(folder.raft_id().unwrap(), Some(7));
        folder.set_raft_id(8).unwrap();
        assert_eq!(folder.raft_id().unwrap(), Some(8));
        std::fs::write(folder.path().join("raft-id"), b"\x18").unwrap();
        let error = folder.raft_id().unwrap_err();
        assert!(matches!(
            error,
            FolderError::File(FileError::Damaged { .. })
        ));
    }
}
