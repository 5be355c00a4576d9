//! A job with its author's signature: what is stored, and what every host
//! checks before it runs anything.

use super::{Isolation, Job};
use crate::{
    FleetId, Millis,
    codec::CodecError,
    trust::{
        Context, SecretKey, SignatureError, Signed, TrustError, UserCertificate, UserCredential,
    },
};
use serde::{Deserialize, Serialize};

/// A job's exact bytes with who signed them: what is stored, sent in awards
/// and checked by every host before it runs anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedJob {
    /// Canonical bytes of a [`Job`], signed by the user's key.
    pub job: Signed,
    /// Who signed.
    pub author: UserCredential,
}

/// A signed job that is refused.
#[derive(Debug, thiserror::Error)]
pub enum SignedJobError {
    /// The author's certificate is not accepted.
    #[error("the author of the job is not trusted")]
    Author(#[source] TrustError),
    /// The author's key did not sign these bytes.
    #[error("the job's signature does not hold")]
    Signature(#[from] SignatureError),
    /// The bytes are no job.
    #[error("the job can't be read")]
    Malformed(#[from] CodecError),
    /// The author may not deploy to the namespace.
    #[error("user {user:?} may not deploy to namespace {namespace:?}")]
    Forbidden {
        /// The author.
        user: String,
        /// Where to.
        namespace: String,
    },
    /// The task would be its host's own daemon, and the author is no operator.
    #[error("user {user:?} may not run a task without isolation: the role operator is needed too")]
    NotIsolated {
        /// The author.
        user: String,
    },
    /// Signed for another fleet or cluster.
    #[error("the job is signed for {theirs}, this is {ours}")]
    Elsewhere {
        /// Fleet and cluster in the job.
        theirs: String,
        /// Fleet and cluster here.
        ours: String,
    },
}

impl SignedJob {
    /// Signs a job.
    pub fn new(key: &SecretKey, author: UserCredential, job: &Job) -> SignedJob {
        SignedJob {
            job: Signed::new(key, Context::Job, job.encode()),
            author,
        }
    }

    /// The job and its author, if everything about them holds at `now` (Unix
    /// time) for this fleet and cluster. Every host asks this before it runs
    /// a task, so that a stolen scheduler cannot run code of its own.
    ///
    /// # Errors
    /// Any [`SignedJobError`].
    pub fn verify(
        &self,
        fleet: FleetId,
        cluster: &str,
        now: Millis,
    ) -> Result<(Job, UserCertificate), SignedJobError> {
        let author = self
            .author
            .verify(fleet, now)
            .map_err(SignedJobError::Author)?;
        let job = self.read(&author)?;
        if job.fleet != fleet || job.cluster != cluster {
            return Err(SignedJobError::Elsewhere {
                theirs: format!("{}/{}", job.fleet, job.cluster),
                ours: format!("{fleet}/{cluster}"),
            });
        }
        if !author.may_deploy(&job.name.namespace) {
            let namespace = job.name.namespace;
            return Err(SignedJobError::Forbidden {
                user: author.user,
                namespace,
            });
        }
        // Such a task can do to its host whatever its operator can.
        if job.task.isolation == Isolation::None && !author.may_operate() {
            return Err(SignedJobError::NotIsolated { user: author.user });
        }
        Ok((job, author))
    }

    fn read(&self, author: &UserCertificate) -> Result<Job, SignedJobError> {
        let bytes = self.job.verify(&author.key, Context::Job)?;
        Ok(Job::decode(bytes)?)
    }

    /// The job without any check: for bytes that were checked before they
    /// were committed.
    ///
    /// # Errors
    /// If the bytes are no job.
    pub fn decode_unchecked(&self) -> Result<Job, CodecError> {
        Job::decode(&self.job.bytes)
    }
}
