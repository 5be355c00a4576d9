//! Who this node and its people are: the data folder, keys, the ceremony of
//! `potluck init`, certificates, and joining.
//!
//! It leaves the record of members and tokens to the control group, and the
//! connection under the joining protocol to the network.

mod ceremony;
mod files;
mod folder;
mod issuer;
mod join;
mod profile;
mod random;
mod ssh;

pub use ceremony::{Ceremony, Genesis, InitError, InitOptions, USER_CERTIFICATE_LIFE, init};
pub use files::FileError;
pub use folder::{ClusterFile, DataFolder, FolderError};
pub use issuer::{Issuer, IssuerError, create_token, needs_renewal};
pub use join::{
    ADDRESSES_MAX, Admission, JOIN_MESSAGE_BYTES_MAX, JOIN_PROTOCOL, JoinError, JoinReply,
    JoinRequest, JoinTransport, Joiner, KnownMember, MEMBERS_MAX, Redemption, RefusalCode,
    TransportError, join, renew,
};
pub use profile::{Profile, ProfileError, ProfileNode, config_folder};
pub use random::{random, random_bytes};
pub use ssh::{SshFiles, SshFilesError};
