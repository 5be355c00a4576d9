//! Who may come in: strangers are answered here, and the leader signs them in.

use super::{
    certificates::{self, Renewal},
    shared::Shared,
};
use crate::{
    cli::chain,
    clock,
    identity::{
        self, Issuer, JoinReply, JoinRequest, KnownMember, Redemption, RefusalCode, random,
    },
    network::InboundJoin,
    spawn::spawn,
    wire::{Request, Response},
};
use potluck_core::cluster::{self, Cluster, Command, Reply, TokenRefusal};
use potluck_gossip::KeyRing;
use potluck_specs::{
    NodeId,
    ids::check_name,
    trust::{NodeCredential, SecretKey},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};

/// Strangers served at the same time; each costs the leader a signature and
/// an entry in the log.
const STRANGERS_AT_ONCE: usize = 32;

/// How long the leader may take to admit somebody.
const ADMIT_WAIT: Duration = Duration::from_secs(8);

/// This node's certificate, and the issuer while it leads.
pub(super) struct Admission {
    credential: Mutex<NodeCredential>,
    issuer: Mutex<Option<Issuer>>,
}

impl Admission {
    /// With the certificate that the node has.
    pub(super) fn new(credential: NodeCredential) -> Admission {
        Admission {
            credential: Mutex::new(credential),
            issuer: Mutex::new(None),
        }
    }

    /// This node's certificate.
    pub(super) fn credential(&self) -> NodeCredential {
        self.credential
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Uses a renewed certificate from now on.
    pub(super) fn set_credential(&self, credential: NodeCredential) {
        *self
            .credential
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = credential;
    }

    /// The admission issuer, opened with this node's key.
    ///
    /// # Errors
    /// Why this node can't sign anybody in, for logs.
    pub(super) fn issuer(&self, shared: &Shared) -> Result<Issuer, String> {
        let mut cached = self.issuer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issuer) = &*cached {
            return Ok(issuer.clone());
        }
        let (root, certificate, sealed) = shared.control.read(|state: &Cluster| {
            let sealed = state.sealed_issuer(shared.me.node).map(<[u8]>::to_vec);
            (state.root(), state.issuer().cloned(), sealed)
        });
        let (Some(root), Some(certificate), Some(sealed)) = (root, certificate, sealed) else {
            return Err("the admission issuer was not sealed to this node".into());
        };
        let issuer = open(root, certificate, &sealed, &shared.me.key)?;
        *cached = Some(issuer.clone());
        Ok(issuer)
    }
}

fn open(
    root: potluck_specs::trust::PublicKey,
    certificate: potluck_specs::trust::Signed,
    sealed: &[u8],
    key: &SecretKey,
) -> Result<Issuer, String> {
    Issuer::open(root, certificate, sealed, key).map_err(|error| chain(&error))
}

/// Answers strangers.
pub(super) async fn serve_strangers(shared: Arc<Shared>, mut joins: mpsc::Receiver<InboundJoin>) {
    let permits = Arc::new(Semaphore::new(STRANGERS_AT_ONCE));
    while let Some(InboundJoin {
        from,
        payload,
        answer,
        ..
    }) = joins.recv().await
    {
        let permit = permits
            .clone()
            .acquire_owned()
            .await
            .expect("it is never closed");
        let shared = shared.clone();
        spawn("join", async move {
            // The stranger may have left.
            let _ = answer.send(welcome(&shared, from, payload).await);
            drop(permit);
        });
    }
}

async fn welcome(shared: &Arc<Shared>, from: NodeId, payload: Vec<u8>) -> Vec<u8> {
    match JoinRequest::decode(&payload) {
        Ok(JoinRequest::Hello) => JoinReply::Hello {
            credential: shared.admission.credential(),
        }
        .encode(),
        Ok(_) => hand_on(shared, from, payload).await,
        Err(error) => refuse(RefusalCode::Unsupported, chain(&error)),
    }
}

/// Lets the leader decide, wherever it is.
async fn hand_on(shared: &Arc<Shared>, from: NodeId, payload: Vec<u8>) -> Vec<u8> {
    let Some(mut leader) = shared.leader() else {
        return no_leader();
    };
    // Twice, since the one we take for the leader may know better.
    for _ in 0..2 {
        let request = Request::Join {
            from,
            payload: payload.clone(),
        };
        match shared.ask(leader, request, ADMIT_WAIT).await {
            Ok(Response::Joined(reply)) => return reply,
            Ok(Response::NotLeader(Some(hint))) if hint != leader => leader = hint,
            _ => break,
        }
    }
    no_leader()
}

fn no_leader() -> Vec<u8> {
    refuse(
        RefusalCode::NoLeader,
        "no scheduler can be reached to admit anybody now".into(),
    )
}

fn refuse(code: RefusalCode, message: String) -> Vec<u8> {
    JoinReply::Refused { code, message }.encode()
}

/// Admits a stranger, on the leader.
pub(super) async fn admit(shared: &Arc<Shared>, from: NodeId, payload: &[u8]) -> Vec<u8> {
    let issuer = match shared.admission.issuer(shared) {
        Ok(issuer) => issuer,
        Err(why) => {
            tracing::error!(why, "this leader can't sign anybody in");
            return no_leader();
        }
    };
    match JoinRequest::decode(payload) {
        Ok(JoinRequest::Redeem(redemption)) => redeem(shared, &issuer, from, redemption).await,
        Ok(JoinRequest::Renew { credential }) => renew(shared, &issuer, from, &credential).await,
        Ok(JoinRequest::Hello) => refuse(RefusalCode::Unsupported, "nothing to decide".into()),
        Err(error) => refuse(RefusalCode::Unsupported, chain(&error)),
    }
}

async fn redeem(
    shared: &Arc<Shared>,
    issuer: &Issuer,
    from: NodeId,
    redemption: Redemption,
) -> Vec<u8> {
    let Redemption {
        token,
        secret,
        name,
        topology,
        addresses,
    } = redemption;
    let digest = shared.gossip.counters().digest_bytes;
    if digest > potluck_gossip::DIGEST_BYTES_MAX {
        return refuse(
            RefusalCode::Full,
            format!("the cluster's gossip digest has {digest} bytes, no more nodes fit in it"),
        );
    }
    if let Err(error) = check_name(&name.0).and_then(|()| topology.check()) {
        return refuse(RefusalCode::BadName, error.to_string());
    }
    // The roles are the token's. Whether it holds is decided in the log.
    let roles = shared
        .control
        .read(|state: &Cluster| {
            state
                .tokens()
                .get(&token)
                .map(|record| record.roles.clone())
        })
        .unwrap_or_default();
    let (now, serial) = (clock::unix_now(), fresh_serial());
    let credential = issuer.issue(from, name.clone(), topology.clone(), &roles, now, serial);
    let admission = cluster::Admission {
        node: from,
        name,
        topology,
        credential,
        serial,
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    let secret_hash = *blake3::hash(&secret).as_bytes();
    // A stranger's wrong guess costs a look, not an entry in the log.
    let refused = shared.control.read(|state: &Cluster| {
        let redeemable = state.redeemable(&token, &secret_hash, &admission, now);
        redeemable.err()
    });
    if let Some(why) = refused {
        return refuse(refusal_code(&why), why.to_string());
    }
    let command = Command::RedeemToken {
        token,
        secret_hash,
        admission: Box::new(admission),
        now,
    };
    match shared
        .control
        .propose(command)
        .await
        .map(|applied| applied.reply)
    {
        Ok(Reply::Admitted { credential }) => admitted(shared, *credential),
        Ok(Reply::TokenRefused { why }) => refuse(refusal_code(&why), why.to_string()),
        Ok(Reply::Refused { why }) => refuse(RefusalCode::Other, why.to_string()),
        Ok(_) => refuse(
            RefusalCode::Other,
            "the log gave an answer that makes no sense".into(),
        ),
        Err(error) => refuse(RefusalCode::NoLeader, chain(&error)),
    }
}

fn refusal_code(why: &TokenRefusal) -> RefusalCode {
    match why {
        TokenRefusal::Unknown | TokenRefusal::WrongSecret => RefusalCode::WrongToken,
        TokenRefusal::Expired => RefusalCode::ExpiredToken,
        TokenRefusal::UsedUp => RefusalCode::UsedToken,
        TokenRefusal::WrongRack { .. } => RefusalCode::WrongRack,
        TokenRefusal::NameTaken { .. } => RefusalCode::NameTaken,
        TokenRefusal::ClusterFull { .. } => RefusalCode::Full,
        TokenRefusal::WrongCluster { .. } => RefusalCode::BadName,
    }
}

async fn renew(
    shared: &Arc<Shared>,
    issuer: &Issuer,
    from: NodeId,
    old: &NodeCredential,
) -> Vec<u8> {
    let now = clock::unix_now();
    let decided = shared
        .control
        .read(|state: &Cluster| certificates::decide(state, shared.me.fleet, from, old, now));
    let certificate = match decided {
        Renewal::Refused(code, text) => return refuse(code, text),
        Renewal::Again(credential) => return admitted(shared, *credential),
        Renewal::Sign(certificate) => certificate,
    };
    let serial = fresh_serial();
    let credential = issuer.renew(&certificate, now, serial);
    let command = Command::RenewCertificate {
        node: from,
        credential: Box::new(credential),
        serial,
    };
    match shared
        .control
        .propose(command)
        .await
        .map(|applied| applied.reply)
    {
        Ok(Reply::Admitted { credential }) => admitted(shared, *credential),
        Ok(other) => refuse(RefusalCode::Other, format!("{other:?}")),
        Err(error) => refuse(RefusalCode::NoLeader, chain(&error)),
    }
}

/// A serial that nobody has: 63 random bits.
fn fresh_serial() -> u64 {
    u64::from_be_bytes(random()) >> 1
}

/// What an admitted node needs to begin.
fn admitted(shared: &Shared, credential: NodeCredential) -> Vec<u8> {
    let members = shared.gossip.members().borrow().clone();
    let mut known: Vec<KnownMember> = members
        .iter()
        .filter(|member| member.alive)
        .take(identity::MEMBERS_MAX - 1)
        .map(|member| KnownMember {
            node: member.node,
            network: member.record.network.clone(),
            gossip: Some(member.record.gossip),
        })
        .collect();
    if !known.iter().any(|member| member.node == shared.me.node) {
        known.push(KnownMember {
            node: shared.me.node,
            network: vec![shared.me.address],
            gossip: Some(shared.me.address),
        });
    }
    let (ring, epoch) = shared
        .control
        .read(|state: &Cluster| (ring_of(state), state.authority().epoch));
    let admission = identity::Admission {
        credential,
        cluster: shared.me.cluster.clone(),
        ring,
        members: known,
        epoch,
    };
    JoinReply::Admitted(Box::new(admission)).encode()
}

/// The gossip keys of the log in gossip's own type.
pub(super) fn ring_of(state: &Cluster) -> KeyRing {
    let keys = state.gossip_keys().iter().map(|key| key.key);
    // Before genesis there is nobody to admit, and nothing to tell.
    KeyRing::from_keys(keys).unwrap_or_else(|| KeyRing::new([0; 32]))
}
