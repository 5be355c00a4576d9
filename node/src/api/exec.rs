//! Sessions in tasks, as people ask for them: what is signed, and the frames
//! of both directions.
//!
//! The request is signed by the person and checked by the node that runs the
//! task, whoever passed it on. The frames that follow are passed on unread.
//!
//! ```text
//! person                                     node of the task
//!   Exec(SignedExec) ----------------------->
//!                    <----------------------- Started | Failed | a failure
//!   Input, End, Resize, Alive -------------->
//!                    <----------------------- Output, Errors, Taken, Alive
//!                    <----------------------- Ended, the only good end
//! ```
//!
//! How much may be on its way, and how long a side may be silent, is said with
//! the frames (`potluck_helper::session::stream`).
//!
//! A connection of ssh travels the same way: its bytes are input and output of
//! a server on the task's node, which says first ([`SshHost`]) by which key
//! the person's client knows it.

pub use potluck_helper::session::stream::{
    ALIVE_EVERY, CHUNK_BYTES, INPUT_COST_MIN, INPUT_WINDOW_BYTES, SILENCE_MAX, SessionInput,
    SessionOutput, input_cost,
};

use potluck_helper::session::{WindowSize, Work};
use potluck_specs::{
    ChangeId, FleetId, Millis, SlotId,
    codec::{self, CodecError},
    trust::{
        Context, GRACE_WITHOUT_LEADER, NodeCredential, PublicKey, SecretKey, SignatureError,
        Signed, TrustError, UserCertificate, UserCredential,
    },
};
use serde::{Deserialize, Serialize};

/// Largest request: a command is at most 32 KiB.
pub const EXEC_BYTES_MAX: usize = 64 << 10;

/// How old a request may be when it reaches the task's node, which remembers
/// the ones that it has seen for as long. Clocks may differ a little.
pub const EXEC_AGE_MAX: Millis = Millis(2 * 60_000);

/// What a person wants in a task, as it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Made by the client: the same is not done twice.
    pub id: ChangeId,
    /// For which fleet.
    pub fleet: FleetId,
    /// For which cluster.
    pub cluster: String,
    /// When, Unix time.
    pub made: Millis,
    /// In which task.
    pub slot: SlotId,
    /// What is done.
    pub work: Wanted,
    /// With a terminal of this size.
    pub terminal: Option<WindowSize>,
    /// Of the person's terminal (`TERM`).
    pub term: Option<String>,
    /// With the node's tools at `/.tools`.
    pub tools: bool,
    /// May trace the task's processes.
    pub debug: bool,
}

/// What a person may want in a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// Run a command: its name, and its arguments.
    Command(Vec<String>),
    /// Unpack an archive at this path of the task.
    Receive(String),
    /// An archive of what is at `path`, its first entry under `name`.
    Send {
        /// In the task.
        path: String,
        /// What the other end calls it.
        name: String,
    },
    /// A connection of ssh. Whoever passes it on can't use it: the client must
    /// prove `key` (Ed25519), which the person vouches for here.
    Ssh {
        /// Of the person's ssh client.
        key: PublicKey,
    },
}

impl Wanted {
    /// What a helper is told; a connection of ssh is not for one.
    pub fn work(&self) -> Option<Work> {
        Some(match self.clone() {
            Wanted::Command(words) => Work::Command(words),
            Wanted::Receive(path) => Work::Receive(path),
            Wanted::Send { path, name } => Work::Send { path, name },
            Wanted::Ssh { .. } => return None,
        })
    }
}

/// Before the bytes of a connection of ssh: which key the server will show, by
/// the word of the node that runs the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshHost {
    /// Canonical bytes of an [`SshHostKey`], signed by the node.
    pub signed: Signed,
    /// Who the node is.
    pub node: NodeCredential,
}

/// What a node vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshHostKey {
    /// The request that this is for.
    pub request: ChangeId,
    /// Ed25519.
    pub key: PublicKey,
}

/// A host's key that is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum SshHostError {
    /// The node's certificate is not accepted.
    #[error("the node that serves ssh is not trusted")]
    Node(#[source] TrustError),
    /// The node did not sign these bytes.
    #[error("the node's signature on its ssh key does not hold")]
    Signature(#[from] SignatureError),
    /// The bytes are no key.
    #[error("the node's ssh key can't be read")]
    Malformed(#[from] CodecError),
    /// Of an earlier connection.
    #[error("the node's ssh key is for another request")]
    Elsewhere,
}

/// Largest [`SshHostKey`].
const SSH_HOST_BYTES_MAX: usize = 256;

impl SshHost {
    /// The node with this key and credential vouches for `host`.
    pub fn new(key: &SecretKey, node: NodeCredential, host: &SshHostKey) -> SshHost {
        let signed = Signed::new(key, Context::SshHost, codec::encode(host));
        SshHost { signed, node }
    }

    /// The key, if a node of this fleet vouches for it in answer to `request`.
    ///
    /// # Errors
    /// Any [`SshHostError`].
    pub fn verify(
        &self,
        fleet: FleetId,
        request: ChangeId,
        now: Millis,
    ) -> Result<PublicKey, SshHostError> {
        let node = self.node.verify(fleet, now, GRACE_WITHOUT_LEADER);
        let node = node.map_err(SshHostError::Node)?;
        let bytes = self.signed.verify(&node.node.into(), Context::SshHost)?;
        let host: SshHostKey = codec::decode_canonical("ssh key", bytes, SSH_HOST_BYTES_MAX)?;
        match host.request == request {
            true => Ok(host.key),
            false => Err(SshHostError::Elsewhere),
        }
    }
}

/// A request's exact bytes with who signed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedExec {
    /// Canonical bytes of an [`ExecRequest`].
    pub request: Signed,
    /// Who signed.
    pub author: UserCredential,
}

/// A request that is refused before it is looked at.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The person's certificate is not accepted.
    #[error("the person who asks is not trusted")]
    Author(#[source] TrustError),
    /// The person's key did not sign these bytes.
    #[error("the request's signature does not hold")]
    Signature(#[from] SignatureError),
    /// The bytes are no request.
    #[error("the request can't be read")]
    Malformed(#[from] CodecError),
    /// For another fleet or cluster.
    #[error("the request is for another fleet or cluster")]
    Elsewhere,
    /// Signed too long ago, or in the future.
    #[error("the request was signed {} s away from this host's clock", .away.0 / 1000)]
    WrongTime {
        /// Distance from now.
        away: Millis,
    },
}

impl SignedExec {
    /// Signs a request.
    pub fn new(key: &SecretKey, author: UserCredential, request: &ExecRequest) -> SignedExec {
        let request = Signed::new(key, Context::Exec, codec::encode(request));
        SignedExec { request, author }
    }

    /// The request and its author, if everything about them holds at `now`
    /// (Unix time). What the author may do is judged by [`right_of`].
    ///
    /// # Errors
    /// Any [`ExecError`].
    pub fn verify(
        &self,
        fleet: FleetId,
        cluster: &str,
        now: Millis,
    ) -> Result<(ExecRequest, UserCertificate), ExecError> {
        let author = self.author.verify(fleet, now).map_err(ExecError::Author)?;
        let bytes = self.request.verify(&author.key, Context::Exec)?;
        let request: ExecRequest = codec::decode_canonical("request", bytes, EXEC_BYTES_MAX)?;
        if request.fleet != fleet || request.cluster != cluster {
            return Err(ExecError::Elsewhere);
        }
        let away = now.since(request.made).max(request.made.since(now));
        if away > EXEC_AGE_MAX {
            return Err(ExecError::WrongTime { away });
        }
        Ok((request, author))
    }
}

/// May this person open this session, and which right is it that they need?
/// Who may change a job may look into its tasks; so may operators. Into tasks
/// that are not kept apart from the host, and past a part of what keeps them
/// apart, only operators.
pub fn right_of(
    author: &UserCertificate,
    slot: &SlotId,
    debug: bool,
    is_isolated: bool,
) -> (bool, String) {
    let namespace = &slot.job.namespace;
    if !is_isolated || debug {
        return (author.may_operate(), "operator".into());
    }
    (
        author.may_deploy(namespace) || author.may_operate(),
        format!("deployer of namespace {namespace:?}, or operator,"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use potluck_specs::trust::Role;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn request(namespace: &str, made: Millis) -> ExecRequest {
        ExecRequest {
            id: ChangeId([1; 16]),
            fleet: testing::fleet(),
            cluster: "main".into(),
            made,
            slot: format!("{namespace}/web[0]").parse().unwrap(),
            work: Wanted::Command(vec!["id".into()]),
            terminal: None,
            term: None,
            tools: false,
            debug: false,
        }
    }

    #[test]
    fn rights_are_by_role_namespace_and_what_is_asked() {
        let deployer = Role::Deployer {
            namespaces: vec!["team".into()],
        };
        // Own namespace, another, own without isolation, own with tracing.
        let table = [
            (Role::Admin, [true; 4]),
            (Role::Operator, [true; 4]),
            (deployer, [true, false, false, false]),
            (Role::Viewer, [false; 4]),
        ];
        for (role, expected) in table {
            let (_, credential) = testing::person(role.clone(), NOW);
            let who = credential.verify(testing::fleet(), NOW).unwrap();
            let slot = |namespace: &str| request(namespace, NOW).slot;
            let found = [
                right_of(&who, &slot("team"), false, true).0,
                right_of(&who, &slot("other"), false, true).0,
                right_of(&who, &slot("team"), false, false).0,
                right_of(&who, &slot("team"), true, true).0,
            ];
            assert_eq!(found, expected, "{role:?}");
        }
    }

    #[test]
    fn a_request_holds_for_its_author_its_cluster_and_its_time() {
        let (key, credential) = testing::person(Role::Admin, NOW);
        let sign = |request: &ExecRequest| SignedExec::new(&key, credential.clone(), request);
        let fleet = testing::fleet();
        let good = sign(&request("team", NOW));
        assert!(good.verify(fleet, "main", NOW + EXEC_AGE_MAX).is_ok());
        let late = good.verify(fleet, "main", NOW + EXEC_AGE_MAX + Millis(1));
        assert!(matches!(late, Err(ExecError::WrongTime { .. })), "{late:?}");
        let elsewhere = good.verify(fleet, "other", NOW);
        assert!(matches!(elsewhere, Err(ExecError::Elsewhere)));
        // Somebody else's key, with this person's certificate.
        let other = SecretKey::from_seed([77; 32]);
        let forged = SignedExec::new(&other, credential.clone(), &request("team", NOW));
        let forged = forged.verify(fleet, "main", NOW);
        assert!(matches!(forged, Err(ExecError::Signature(_))), "{forged:?}");
    }
}
