//! Changes: signed by the person who asks, checked by the node that receives
//! them and again by the scheduler, so that a node on the way can neither
//! forge nor alter one.

use super::operate::Operation;
use potluck_core::cluster::Origin;
use potluck_specs::{
    ChangeId, Epoch, FleetId, JobName, Millis, NodeId,
    codec::{self, CodecError},
    job::{JOB_BYTES_MAX, SignedJob},
    trust::{
        Context, NodeRole, SecretKey, SignatureError, Signed, TokenSecretHash, TrustError,
        UserCertificate, UserCredential,
    },
};
use serde::{Deserialize, Serialize};

/// Largest change: a signed job and what is around it.
pub const CHANGE_BYTES_MAX: usize = JOB_BYTES_MAX + (16 << 10);

/// How old a change may be when it reaches the scheduler: retries of a client
/// end long before, and a recorded change can't be played back next week.
pub const CHANGE_AGE_MAX: Millis = Millis(10 * 60_000);

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Change {
    /// Run this version of a job.
    RunJob {
        /// Signed by the same user.
        job: Box<SignedJob>,
        /// What is kept with the version.
        #[serde(default, skip_serializing_if = "About::is_empty")]
        about: About,
    },
    /// Stop a job: no slot of it is wanted any more.
    StopJob {
        /// Which.
        job: JobName,
    },
    /// Let somebody join.
    CreateToken {
        /// The token's public name.
        id: String,
        /// BLAKE3 of its secret; the secret stays with the person.
        secret_hash: TokenSecretHash,
        /// What its nodes may be chosen for.
        roles: Vec<NodeRole>,
        /// The only rack that it admits to.
        rack: Option<String>,
        /// How many nodes.
        uses: u32,
        /// Its end, Unix time.
        expires: Millis,
    },
    /// Let nobody else in with a token.
    RevokeToken {
        /// The token's public name.
        id: String,
    },
    /// Take a node out of, or back into, the choice for new work; its tasks
    /// move away.
    Drain {
        /// Which.
        node: NodeId,
        /// Out or in.
        draining: bool,
    },
    /// Forget a node that has left for good.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// Go on from one survivor's log, under a later epoch, after most voters
    /// were lost. Taken by the survivor alone.
    Recover {
        /// The epoch that begins.
        epoch: Epoch,
        /// Whose log is gone on with.
        survivor: NodeId,
    },
    /// Operate nodes and rollouts.
    Operate {
        /// What.
        operation: Operation,
    },
}

/// What the author of a version says about it. Left out of the bytes when
/// there is nothing, as clients did before there was anything to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Why, for the job's history.
    pub message: String,
    /// The version that the author has seen: refused if the job moved on.
    pub expected_version: Option<u64>,
    /// Where the version comes from.
    pub origin: Origin,
}

impl About {
    fn is_empty(&self) -> bool {
        *self == About::default()
    }
}

/// A change with its id, as it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// Made by the client: a repeat gets the first answer.
    pub id: ChangeId,
    /// For which fleet.
    pub fleet: FleetId,
    /// For which cluster.
    pub cluster: String,
    /// When, Unix time.
    pub made: Millis,
    /// What.
    pub change: Change,
}

/// A change's exact bytes with who signed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedChange {
    /// Canonical bytes of a [`ChangeRequest`].
    pub request: Signed,
    /// Who signed.
    pub author: UserCredential,
}

/// A change that is refused before it is looked at.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The author's certificate is not accepted.
    #[error("the author of the change is not trusted")]
    Author(#[source] TrustError),
    /// The author's key did not sign these bytes.
    #[error("the change's signature does not hold")]
    Signature(#[from] SignatureError),
    /// The bytes are no change.
    #[error("the change can't be read")]
    Malformed(#[from] CodecError),
    /// For another fleet or cluster.
    #[error("the change is for {theirs}, this is {ours}")]
    Elsewhere {
        /// Its fleet and cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Signed too long ago, or in the future.
    #[error("the change was signed {} s away from this host's clock", .away.0 / 1000)]
    WrongTime {
        /// Distance from now.
        away: Millis,
    },
    /// The author lacks the right.
    #[error("user {user:?} may not do this: {need} is needed")]
    Forbidden {
        /// The author.
        user: String,
        /// The missing right.
        need: String,
    },
}

impl SignedChange {
    /// Signs a change.
    pub fn new(key: &SecretKey, author: UserCredential, request: &ChangeRequest) -> SignedChange {
        let request = Signed::new(key, Context::Change, codec::encode(request));
        SignedChange { request, author }
    }

    /// The change and its author, if everything about them holds at `now`
    /// (Unix time) and the author has the right.
    ///
    /// # Errors
    /// Any [`ChangeError`].
    pub fn verify(
        &self,
        fleet: FleetId,
        cluster: &str,
        now: Millis,
    ) -> Result<(ChangeRequest, UserCertificate), ChangeError> {
        let author = self
            .author
            .verify(fleet, now)
            .map_err(ChangeError::Author)?;
        let bytes = self.request.verify(&author.key, Context::Change)?;
        let request: ChangeRequest = codec::decode_canonical("change", bytes, CHANGE_BYTES_MAX)?;
        if request.fleet != fleet || request.cluster != cluster {
            return Err(ChangeError::Elsewhere {
                theirs: format!("{}/{}", request.fleet, request.cluster),
                ours: format!("{fleet}/{cluster}"),
            });
        }
        let away = now.since(request.made).max(request.made.since(now));
        if away > CHANGE_AGE_MAX {
            return Err(ChangeError::WrongTime { away });
        }
        check_right(&author, &request.change)?;
        Ok((request, author))
    }
}

fn check_right(author: &UserCertificate, change: &Change) -> Result<(), ChangeError> {
    let (may, need) = match change {
        // Which namespace a job is for is checked with the job's own signature.
        Change::RunJob { job, .. } => {
            let namespace = job.decode_unchecked()?.name.namespace;
            (
                author.may_deploy(&namespace),
                format!("deployer of namespace {namespace:?}"),
            )
        }
        Change::StopJob { job } => (
            author.may_deploy(&job.namespace),
            format!("deployer of namespace {:?}", job.namespace),
        ),
        Change::CreateToken { .. }
        | Change::RevokeToken { .. }
        | Change::Drain { .. }
        | Change::Remove { .. }
        | Change::Recover { .. } => (author.may_operate(), "operator".into()),
        Change::Operate { operation } => operation.right_of(author),
    };
    if may {
        Ok(())
    } else {
        Err(ChangeError::Forbidden {
            user: author.user.clone(),
            need,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::trust::{IssuerCertificate, IssuerKind, PublicKey, Role};
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    struct Person {
        fleet: FleetId,
        key: SecretKey,
        credential: UserCredential,
    }

    fn person(roles: Vec<Role>) -> Person {
        let [root, issuer, key] = [1, 2, 3].map(|k| SecretKey::from_seed([k; 32]));
        let fleet = root.public().fleet();
        let certified = IssuerCertificate {
            fleet,
            kind: IssuerKind::People,
            key: issuer.public(),
        };
        let issuer_certificate = Signed::new(&root, Context::Issuer, codec::encode(&certified));
        let certificate = UserCertificate {
            fleet,
            user: "ann".into(),
            key: key.public(),
            roles,
            not_before: Millis(0),
            not_after: NOW + Millis::DAY,
        };
        let credential =
            UserCredential::issue(root.public(), issuer_certificate, &issuer, &certificate);
        Person {
            fleet,
            key,
            credential,
        }
    }

    fn signed(person: &Person, change: Change, made: Millis) -> SignedChange {
        let request = ChangeRequest {
            id: ChangeId([7; 16]),
            fleet: person.fleet,
            cluster: "main".into(),
            made,
            change,
        };
        SignedChange::new(&person.key, person.credential.clone(), &request)
    }

    fn stop(namespace: &str) -> Change {
        let (namespace, name) = (namespace.into(), "web".into());
        Change::StopJob {
            job: JobName { namespace, name },
        }
    }

    fn drain() -> Change {
        Change::Drain {
            node: NodeId([9; 32]),
            draining: true,
        }
    }

    #[test]
    fn rights_are_by_role_and_namespace() {
        let team = || Role::Deployer {
            namespaces: vec!["team".into()],
        };
        let table = [
            (Role::Admin, true, true, true),
            (Role::Operator, false, false, true),
            (Role::Viewer, false, false, false),
            (team(), true, false, false),
        ];
        for (role, may_team, may_other, may_drain) in table {
            let ann = person(vec![role.clone()]);
            let may = |change| {
                signed(&ann, change, NOW)
                    .verify(ann.fleet, "main", NOW)
                    .is_ok()
            };
            assert_eq!(may(stop("team")), may_team, "{role:?}");
            assert_eq!(may(stop("other")), may_other, "{role:?}");
            assert_eq!(may(drain()), may_drain, "{role:?}");
        }
    }

    #[test]
    fn a_change_is_for_one_cluster_and_one_time() {
        let ann = person(vec![Role::Admin]);
        let change = signed(&ann, drain(), NOW);
        assert!(
            change
                .verify(ann.fleet, "main", NOW + CHANGE_AGE_MAX)
                .is_ok()
        );
        let late = change.verify(ann.fleet, "main", NOW + CHANGE_AGE_MAX + Millis(1));
        assert!(
            matches!(late, Err(ChangeError::WrongTime { .. })),
            "{late:?}"
        );
        let other = change.verify(ann.fleet, "other", NOW);
        assert!(
            matches!(other, Err(ChangeError::Elsewhere { .. })),
            "{other:?}"
        );
        let fleet = PublicKey([5; 32]).fleet();
        let foreign = change.verify(fleet, "main", NOW);
        assert!(
            matches!(foreign, Err(ChangeError::Author(_))),
            "{foreign:?}"
        );
    }

    #[test]
    fn no_bit_of_a_change_can_be_altered() {
        let ann = person(vec![Role::Admin]);
        let change = signed(&ann, drain(), NOW);
        for bit in 0..change.request.bytes.len() * 8 {
            let mut altered = change.clone();
            altered.request.bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(altered.verify(ann.fleet, "main", NOW).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_change_without_words_is_encoded_as_it_ever_was() {
        #[derive(Serialize)]
        enum Former {
            RunJob { job: Box<SignedJob> },
        }
        let ann = person(vec![Role::Admin]);
        let job = Box::new(SignedJob {
            job: Signed::new(&ann.key, Context::Job, vec![1, 2, 3]),
            author: ann.credential.clone(),
        });
        let former = codec::encode(&Former::RunJob { job: job.clone() });
        let about = About::default();
        let now = Change::RunJob { job, about };
        assert_eq!(codec::encode(&now), former);
        let read: Change = codec::decode_canonical("change", &former, CHANGE_BYTES_MAX).unwrap();
        assert_eq!(read, now);
        let Change::RunJob { job, .. } = now else {
            unreachable!()
        };
        let about = About {
            message: "because".into(),
            expected_version: Some(3),
            origin: Origin::default(),
        };
        let told = Change::RunJob { job, about };
        let bytes = codec::encode(&told);
        let read: Change = codec::decode_canonical("change", &bytes, CHANGE_BYTES_MAX).unwrap();
        assert_eq!(read, told);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_change(bytes in prop::collection::vec(any::<u8>(), 0..2_048)) {
            let ann = person(vec![Role::Admin]);
            let request = Signed::new(&ann.key, Context::Change, bytes.clone());
            let change = SignedChange { request, author: ann.credential.clone() };
            prop_assert!(change.verify(ann.fleet, "main", NOW).is_err());
            prop_assert!(codec::decode::<SignedChange>("change", &bytes, CHANGE_BYTES_MAX).is_err());
        }
    }
}
