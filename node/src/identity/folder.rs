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

use super::{
    Genesis, KnownMember,
    files::{self, FileError, SECRET},
    random,
};

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

    /// The node's key, made on first use.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn node_key(&self) -> Result<SecretKey, FolderError> {
        let path = self.path.join("node.key");
        if let Some(key) = files::read_key(&path)? {
            return Ok(key);
        }
        let key = SecretKey::from_seed(random());
        files::write_key(&path, &key)?;
        Ok(key)
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
