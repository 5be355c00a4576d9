//! A person's files: key, certificate, and where the fleet is found. The
//! command line reads them.
//!
//! ```text
//! profile.json      fleet, cluster, user, addresses of some nodes
//! <user>.key        the person's secret key, 0600
//! <user>.credential the person's certificate with the chain
//! root.key          the fleet's root, 0600: to be moved away
//! people-issuer.key signs users and policies, 0600
//! people-issuer.certificate
//! ```

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use potluck_specs::{
    FleetId, Millis, NodeId,
    ids::{NameError, check_name},
    trust::{PublicKey, SecretKey, TrustError, UserCertificate, UserCredential},
};
use serde::{Deserialize, Serialize};

use super::files::{self, FileError};

/// Why a person's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There are none.
    #[error("no potluck profile in {path}")]
    Missing {
        /// Where they should be.
        path: PathBuf,
    },
    /// One of them.
    #[error("the profile can't be used")]
    File(#[from] FileError),
    /// The profile is not what it should be.
    #[error("{path} is not a potluck profile: {why}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The person's certificate is not accepted.
    #[error("the certificate of user {user:?} is not accepted")]
    Credential {
        /// Whose.
        user: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// There is neither a setting nor a home folder.
    #[error("no folder for the profile: neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
}

/// A node that the person's commands may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileNode {
    /// Which.
    pub node: NodeId,
    /// Where.
    pub addresses: Vec<SocketAddr>,
}

/// A person's key, certificate and fleet.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster that commands are for if they name none.
    pub cluster: String,
    /// Whose files these are.
    pub user: String,
    /// The person's key.
    pub key: SecretKey,
    /// The person's certificate.
    pub credential: UserCredential,
    /// Nodes to ask, in order.
    pub nodes: Vec<ProfileNode>,
}

/// `profile.json`. Written by people too, hence strict and in text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    fleet: String,
    cluster: String,
    user: String,
    nodes: Vec<ProfileNodeFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileNodeFile {
    node: String,
    addresses: Vec<SocketAddr>,
}

/// The folder of a person's files: `given`, or `potluck` in the folder for
/// settings (`XDG_CONFIG_HOME`, else `~/.config`).
///
/// # Errors
/// [`ProfileError::NoHome`].
pub fn config_folder(given: Option<&Path>) -> Result<PathBuf, ProfileError> {
    if let Some(path) = given {
        return Ok(path.into());
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("XDG_CONFIG_HOME") {
        return Ok(Path::new(&path).join("potluck"));
    }
    let home = set("HOME").ok_or(ProfileError::NoHome)?;
    Ok(Path::new(&home).join(".config/potluck"))
}

impl Profile {
    /// Reads the files in `folder`.
    ///
    /// # Errors
    /// Any [`ProfileError`].
    pub fn load(folder: &Path) -> Result<Profile, ProfileError> {
        let path = folder.join("profile.json");
        let bytes = files::read(&path)?.ok_or_else(|| ProfileError::Missing {
            path: folder.into(),
        })?;
        let invalid = |why: String| ProfileError::Invalid {
            path: path.clone(),
            why,
        };
        let file: ProfileFile =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let fleet = FleetId::from_hex(&file.fleet)
            .ok_or_else(|| invalid("`fleet` is no fleet id".into()))?;
        check_user(&file.user).map_err(|error| invalid(error.to_string()))?;
        let nodes = file.nodes.into_iter().map(|node| {
            Some(ProfileNode {
                node: NodeId::from_hex(&node.node)?,
                addresses: node.addresses,
            })
        });
        let nodes = nodes
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| invalid("a `node` is no node id".into()))?;
        let missing = |path: PathBuf| ProfileError::Missing { path };
        let key_path = folder.join(format!("{}.key", file.user));
        let key = files::read_key(&key_path)?.ok_or_else(|| missing(key_path))?;
        let credential_path = folder.join(format!("{}.credential", file.user));
        let credential = files::read_value(&credential_path, "user credential")?
            .ok_or_else(|| missing(credential_path))?;
        Ok(Profile {
            fleet,
            cluster: file.cluster,
            user: file.user,
            key,
            credential,
            nodes,
        })
    }

    /// The person's certificate, if chain, key and time fit.
    ///
    /// # Errors
    /// [`ProfileError::Credential`].
    pub fn certificate(&self, now: Millis) -> Result<UserCertificate, ProfileError> {
        let refuse = |source| ProfileError::Credential {
            user: self.user.clone(),
            source,
        };
        let certificate = self.credential.verify(self.fleet, now).map_err(refuse)?;
        if certificate.key != self.key.public() {
            return Err(refuse(TrustError::OtherHolder));
        }
        Ok(certificate)
    }

    /// Writes `profile.json` alone: after the nodes to ask have changed.
    ///
    /// # Errors
    /// [`ProfileError::File`].
    pub fn save_nodes(&self, folder: &Path) -> Result<(), ProfileError> {
        let file = ProfileFile {
            fleet: self.fleet.to_hex(),
            cluster: self.cluster.clone(),
            user: self.user.clone(),
            nodes: self.nodes.iter().map(ProfileNodeFile::from).collect(),
        };
        let mut text = serde_json::to_vec_pretty(&file).expect("plain text and numbers encode");
        text.push(b'\n');
        Ok(files::write(
            &folder.join("profile.json"),
            &text,
            files::PUBLIC,
        )?)
    }

    /// Writes all files of a person who has none yet.
    pub(super) fn create(&self, folder: &Path) -> Result<(), ProfileError> {
        files::write_key(&folder.join(format!("{}.key", self.user)), &self.key)?;
        let path = folder.join(format!("{}.credential", self.user));
        files::write_value(&path, &self.credential, files::PUBLIC)?;
        self.save_nodes(folder)
    }

    /// The root that the person's certificate ends in.
    pub fn root(&self) -> PublicKey {
        self.credential.root
    }
}

impl From<&ProfileNode> for ProfileNodeFile {
    fn from(node: &ProfileNode) -> ProfileNodeFile {
        ProfileNodeFile {
            node: node.node.to_hex(),
            addresses: node.addresses.clone(),
        }
    }
}

/// A user's name is part of file names.
pub(super) fn check_user(user: &str) -> Result<(), NameError> {
    check_name(user)
}
