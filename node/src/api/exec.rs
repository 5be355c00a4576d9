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
//! Input flows by credit: at most [`INPUT_WINDOW_BYTES`] are on their way
//! without a `Taken` for them, so that a command that does not read holds up
//! neither a change of the terminal's size nor the signs of life. Whoever
//! hears nothing for [`SILENCE_MAX`] takes the other side for lost.

use potluck_helper::session::{WindowSize, Work};
use potluck_specs::{
    ChangeId, FleetId, Millis, SlotId,
    codec::{self, CodecError},
    trust::{
        Context, SecretKey, SignatureError, Signed, TrustError, UserCertificate, UserCredential,
    },
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Largest request: a command is at most 32 KiB.
pub const EXEC_BYTES_MAX: usize = 64 << 10;

/// How old a request may be when it reaches the task's node, which remembers
/// the ones that it has seen for as long. Clocks may differ a little.
pub const EXEC_AGE_MAX: Millis = Millis(2 * 60_000);

/// Input on its way that the command has not taken yet: what fills a fast
/// link for the time of an answer, and all that a node keeps of it.
pub const INPUT_WINDOW_BYTES: usize = 256 << 10;

/// What a frame of input costs of the window at least, so that their number is
/// bounded too.
pub const INPUT_COST_MIN: usize = 64;

/// What a frame with so many bytes costs of the window.
pub fn input_cost(bytes: usize) -> u64 {
    bytes.max(INPUT_COST_MIN) as u64
}

/// Bytes in one frame.
pub const CHUNK_BYTES: usize = 32 << 10;

/// How often each side says that it is there.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// After how long without a word the other side is lost. Connections that
/// break say so at once; this is for hosts that vanish. Long enough for a
/// client that is stopped for a moment.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

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
    pub work: Work,
    /// With a terminal of this size.
    pub terminal: Option<WindowSize>,
    /// Of the person's terminal (`TERM`).
    pub term: Option<String>,
    /// With the node's tools at `/.tools`.
    pub tools: bool,
    /// May trace the task's processes.
    pub debug: bool,
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
    request: &ExecRequest,
    is_isolated: bool,
) -> (bool, String) {
    let namespace = &request.slot.job.namespace;
    if !is_isolated || request.debug {
        return (author.may_operate(), "operator".into());
    }
    (
        author.may_deploy(namespace) || author.may_operate(),
        format!("deployer of namespace {namespace:?}, or operator,"),
    )
}

/// From the person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SessionInput {
    /// For standard input, or typed.
    Input(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Standard input ends here.
    End,
    /// The terminal has another size now.
    Resize(WindowSize),
    /// Still here.
    Alive,
    /// Of a newer client.
    #[serde(other)]
    Unknown,
}

/// To the person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SessionOutput {
    /// It runs.
    Started,
    /// Of standard output, or of the terminal.
    Output(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Of standard error.
    Errors(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Input of this cost ([`input_cost`]) has reached the command.
    Taken(u64),
    /// Still here.
    Alive,
    /// It could not begin, for a reason inside the task, or it was killed
    /// there; then the code is 255.
    Failed {
        /// For people.
        why: String,
        /// What to exit with.
        code: u8,
    },
    /// It is over, and nothing of it is left.
    Ended {
        /// The command's code, or 128 and the signal's number.
        code: u8,
    },
    /// Of a newer node.
    #[serde(other)]
    Unknown,
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
            work: Work::Command(vec!["id".into()]),
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
            let debug = ExecRequest {
                debug: true,
                ..request("team", NOW)
            };
            let found = [
                right_of(&who, &request("team", NOW), true).0,
                right_of(&who, &request("other", NOW), true).0,
                right_of(&who, &request("team", NOW), false).0,
                right_of(&who, &debug, true).0,
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
