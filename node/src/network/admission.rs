//! Who is let in: the gatekeeper checks what a peer shows, and the two
//! messages of `/potluck/admit/1`.
//!
//! Each side opens one such substream, shows its [`Credential`] and hears a
//! [`Verdict`]. The two directions don't depend on each other; a side that
//! gets a new certificate shows it the same way again.
//!
//! Leaves to `gate` what being let in opens, to `actor` what happens to
//! connections that are not.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::AsyncWriteExt;
use potluck_specs::{
    FleetId, Millis, NodeId, codec,
    trust::{CLOCK_SLACK, NodeCertificate, NodeCredential, TrustError},
};
use serde::{Deserialize, Serialize};

use super::{Credential, Grace, Holder, Refusal, RefusalCode, exchange};
use crate::clock;

/// A credential is two certificates of at most 2 KiB, keys and signatures.
const HELLO_BYTES_MAX: u64 = 8 << 10;

/// A refusal's text for people, with room.
const VERDICT_BYTES_MAX: u64 = 2 << 10;

/// First message, from the side that asks to be let in.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    credential: Credential,
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    Admitted,
    Refused(Refusal),
}

/// Knows what we show and what we accept.
pub(super) struct Gatekeeper {
    fleet: FleetId,
    cluster: String,
    grace: Grace,
    credential: RwLock<Credential>,
    revoked: RwLock<BTreeSet<u64>>,
    credential_changed: AtomicBool,
    revoked_changed: AtomicBool,
}

impl Gatekeeper {
    pub(super) fn new(
        fleet: FleetId,
        cluster: String,
        grace: Grace,
        credential: Credential,
    ) -> Gatekeeper {
        Gatekeeper {
            fleet,
            cluster,
            grace,
            credential: RwLock::new(credential),
            revoked: RwLock::default(),
            credential_changed: AtomicBool::new(false),
            revoked_changed: AtomicBool::new(false),
        }
    }

    pub(super) fn set_credential(&self, credential: Credential) {
        *self.credential.write().expect("no holder panics") = credential;
        self.credential_changed.store(true, Ordering::Release);
    }

    /// Whether the credential changed since the last call.
    pub(super) fn take_credential_changed(&self) -> bool {
        self.credential_changed.swap(false, Ordering::AcqRel)
    }

    pub(super) fn credential(&self) -> Credential {
        self.credential.read().expect("no holder panics").clone()
    }

    pub(super) fn set_revoked(&self, serials: BTreeSet<u64>) {
        *self.revoked.write().expect("no holder panics") = serials;
        self.revoked_changed.store(true, Ordering::Release);
    }

    /// Whether revocations changed since the last call.
    pub(super) fn take_revoked_changed(&self) -> bool {
        self.revoked_changed.swap(false, Ordering::AcqRel)
    }

    fn revoked(&self) -> RwLockReadGuard<'_, BTreeSet<u64>> {
        self.revoked.read().expect("no holder panics")
    }

    /// Our own certificate, for requests to ourselves.
    pub(super) fn own_certificate(&self) -> Option<NodeCertificate> {
        let Credential::Node(credential) = self.credential() else {
            return None;
        };
        // Whether it has ended is for others to judge.
        let forever = Millis(u64::MAX);
        credential
            .verify(self.fleet, clock::unix_now(), forever)
            .ok()
    }

    /// The certificate of a node, if it is admitted with this credential.
    pub(super) fn check_node(
        &self,
        node: NodeId,
        credential: &NodeCredential,
    ) -> Result<NodeCertificate, Refusal> {
        let certificate = credential.verify(self.fleet, clock::unix_now(), (self.grace)())?;
        if certificate.node != node {
            return Err(TrustError::OtherHolder.into());
        }
        if certificate.topology.cluster != self.cluster {
            return Err(TrustError::OtherCluster {
                theirs: certificate.topology.cluster,
                ours: self.cluster.clone(),
            }
            .into());
        }
        self.check_revoked(&certificate)?;
        Ok(certificate)
    }

    /// Who `peer` is, by what it shows. `peer` is the key that Noise proved.
    fn check(&self, peer: NodeId, credential: &Credential) -> Result<Holder, Refusal> {
        let now = clock::unix_now();
        match credential {
            Credential::Node(credential) => {
                let certificate = self.check_node(peer, credential)?;
                self.warn_of_grace(&certificate, now);
                Ok(Holder::Node(certificate))
            }
            Credential::User(credential) => {
                let certificate = credential.verify(self.fleet, now)?;
                if NodeId(certificate.key.0) != peer {
                    return Err(TrustError::OtherHolder.into());
                }
                Ok(Holder::User(certificate))
            }
            Credential::None => Err(Refusal::new(
                RefusalCode::Stranger,
                "no certificate was shown: only joining is open",
            )),
        }
    }

    /// Checks again what time and revocations may have changed.
    pub(super) fn check_again(&self, holder: &Holder) -> Result<(), Refusal> {
        let now = clock::unix_now();
        let end = match holder {
            Holder::Node(certificate) => {
                self.check_revoked(certificate)?;
                certificate.not_after + (self.grace)()
            }
            Holder::User(certificate) => certificate.not_after,
        };
        if now > end + CLOCK_SLACK {
            let ago = now.since(end);
            return Err(TrustError::Expired { ago }.into());
        }
        Ok(())
    }

    fn check_revoked(&self, certificate: &NodeCertificate) -> Result<(), Refusal> {
        if self.revoked().contains(&certificate.serial) {
            let text = format!("certificate {} was revoked", certificate.serial);
            return Err(Refusal::new(RefusalCode::Revoked, text));
        }
        Ok(())
    }

    fn warn_of_grace(&self, certificate: &NodeCertificate, now: Millis) {
        if now > certificate.not_after + CLOCK_SLACK {
            tracing::warn!(
                node = %certificate.name,
                ended_ms = now.since(certificate.not_after).0,
                "peer's certificate has ended, accepted while there is no leader"
            );
        }
    }

    /// Shows our credential on a new substream and hears the verdict.
    pub(super) async fn show(&self, mut stream: libp2p::Stream) -> io::Result<Verdict> {
        let credential = self.credential();
        let hello = codec::encode(&Hello { credential });
        exchange::write_frame(&mut stream, &hello).await?;
        let verdict = exchange::read_frame(&mut stream, VERDICT_BYTES_MAX).await?;
        codec::decode("verdict", &verdict, VERDICT_BYTES_MAX as usize).map_err(io::Error::other)
    }

    /// Reads what the peer shows and calls `decide`, which opens the gate or has
    /// reasons not to, all before the peer hears the verdict: it may use what it
    /// was promised.
    pub(super) async fn judge(
        &self,
        peer: NodeId,
        mut stream: libp2p::Stream,
        decide: impl FnOnce(Result<Holder, Refusal>) -> Result<Holder, Refusal>,
    ) -> io::Result<Result<(), Refusal>> {
        let hello = exchange::read_frame(&mut stream, HELLO_BYTES_MAX).await?;
        let checked = match codec::decode::<Hello>("hello", &hello, HELLO_BYTES_MAX as usize) {
            Ok(hello) => self.check(peer, &hello.credential),
            Err(error) => Err(Refusal::new(RefusalCode::Invalid, error.to_string())),
        };
        let checked = decide(checked);
        let verdict = match &checked {
            Ok(_) => Verdict::Admitted,
            Err(refusal) => Verdict::Refused(refusal.clone()),
        };
        exchange::write_frame(&mut stream, &codec::encode(&verdict)).await?;
        stream.close().await?;
        Ok(checked.map(drop))
    }
}
