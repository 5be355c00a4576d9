//! Seals what leaves and opens what comes: keys, certificates, replay windows.
//! A value without IO; time is an argument.
//!
//! The life of a certificate between two members:
//!
//! ```text
//! A ── message with A's certificate, knows nothing ──▶ B   keeps it
//! A ◀─ message with B's certificate, knows A's ─────── B
//! A ── message without, knows B's ───────────────────▶ B   from now on without
//!                     … B restarts …
//! A ── message without ──────────────────────────────▶ B   unknown sender
//! A ◀─ hello with B's certificate, knows nothing ───── B
//! A ── message with A's certificate ─────────────────▶ B
//! ```

use crate::{
    KeyRing,
    counters::{Counting, DropCause},
    datagram::{
        Body, CREDENTIAL_BYTES_MAX, CredentialHash, Header, Kind, NOTHING, PART_BYTES_MAX, Scope,
        payload_bytes_max,
    },
    reassembly::Reassembly,
    window::Window,
};
use potluck_specs::{
    FleetId, Millis, NodeId, codec,
    trust::{
        CLOCK_SLACK, GRACE_WITHOUT_LEADER, NodeCertificate, NodeCredential, PublicKey, SecretKey,
        Signed, TrustError,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Members, and addresses, that are remembered: twice the largest cluster, so
/// that restarts under other addresses don't push out the living.
const REMEMBERED_MAX: usize = 2_000;

/// Admission issuers that are remembered: one, and those of some rotations.
const ISSUERS_MAX: usize = 8;

/// How long a member is not listened to after it sent garbage: each piece
/// costs a tenth of a second of gossip.
const MUTED_FOR: Millis = Millis(10_000);

/// Time between two hellos to one address: once a round is enough.
const HELLO_INTERVAL: Millis = Millis(500);

/// Now, on two clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For what is signed.
    pub(crate) unix: Millis,
    /// For what is only compared; never goes back.
    pub(crate) uptime: Millis,
}

/// A member whose certificate was seen.
#[derive(Debug)]
struct Sender {
    certificate: NodeCertificate,
    hash: CredentialHash,
    epoch: u64,
    window: Window,
    blamed_at: Option<Millis>,
    muted_until: Millis,
    last: Millis,
}

/// What is known of the other end of an address.
#[derive(Debug, Default)]
struct Link {
    /// Who last sent from there.
    node: Option<NodeId>,
    /// Which certificate of ours it has.
    knows: CredentialHash,
    hello_at: Option<Millis>,
    last: Millis,
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// A whole message for chitchat.
    Message {
        /// Who sent it.
        sender: NodeId,
        /// For chitchat.
        payload: Vec<u8>,
    },
    /// Nothing to hand on: a part, a hello, or dropped and counted.
    Nothing,
    /// Dropped and counted, and its sender is to hear this.
    Answer(Vec<Vec<u8>>),
}

/// A message that is too long for the wire.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a message of {bytes} bytes is too long for gossip")]
pub(crate) struct TooLong {
    bytes: usize,
}

/// See the module's head.
pub(crate) struct Pool {
    fleet: FleetId,
    cluster: String,
    scope: Scope,
    key: SecretKey,
    node: NodeId,
    epoch: u64,
    counter: u64,
    credential: Vec<u8>,
    credential_hash: CredentialHash,
    root: PublicKey,
    issuers: Vec<Signed>,
    ring: KeyRing,
    revoked: BTreeSet<u64>,
    senders: BTreeMap<NodeId, Sender>,
    links: BTreeMap<SocketAddr, Link>,
    reassembly: Reassembly,
    last_sender: Option<NodeId>,
    counting: Arc<Counting>,
}

impl Pool {
    pub(crate) fn new(
        fleet: FleetId,
        cluster: &str,
        key: SecretKey,
        credential: &NodeCredential,
        ring: KeyRing,
        epoch: u64,
        counting: Arc<Counting>,
    ) -> Pool {
        let mut pool = Pool {
            fleet,
            cluster: cluster.into(),
            scope: Scope::new(fleet, cluster),
            node: key.node(),
            key,
            epoch,
            counter: 0,
            credential: Vec::new(),
            credential_hash: NOTHING,
            root: credential.root,
            issuers: Vec::new(),
            ring,
            revoked: BTreeSet::new(),
            senders: BTreeMap::new(),
            links: BTreeMap::new(),
            reassembly: Reassembly::default(),
            last_sender: None,
            counting,
        };
        pool.set_credential(credential);
        pool
    }

    /// Checks a certificate of this cluster, whoever holds it.
    pub(crate) fn check(
        &self,
        credential: &NodeCredential,
        now: Millis,
    ) -> Result<NodeCertificate, TrustError> {
        let certificate = credential.verify(self.fleet, now, GRACE_WITHOUT_LEADER)?;
        if certificate.topology.cluster != self.cluster {
            return Err(TrustError::OtherCluster {
                theirs: certificate.topology.cluster,
                ours: self.cluster.clone(),
            });
        }
        Ok(certificate)
    }

    /// Checks a certificate that came without its chain, by the issuers seen.
    pub(crate) fn check_bare(&self, certificate: &Signed, now: Millis) -> Option<NodeCertificate> {
        self.issuers.iter().find_map(|issuer| {
            let credential = NodeCredential {
                root: self.root,
                issuer: issuer.clone(),
                certificate: certificate.clone(),
            };
            self.check(&credential, now).ok()
        })
    }

    pub(crate) fn set_credential(&mut self, credential: &NodeCredential) {
        self.credential = codec::encode(credential);
        self.credential_hash = hash(&self.credential);
        self.learn_issuer(&credential.issuer);
    }

    pub(crate) fn set_ring(&mut self, ring: KeyRing) {
        self.ring = ring;
    }

    pub(crate) fn set_revoked(&mut self, serials: BTreeSet<u64>) {
        self.revoked = serials;
    }

    pub(crate) fn is_revoked(&self, serial: u64) -> bool {
        self.revoked.contains(&serial)
    }

    /// Does not listen to a member for a while.
    pub(crate) fn mute(&mut self, node: NodeId, now: Now) {
        if let Some(sender) = self.senders.get_mut(&node) {
            sender.muted_until = now.uptime + MUTED_FOR;
        }
    }

    /// A member sent what chitchat can't read. Once may be an accident, as on a
    /// host where loopback stalls.
    pub(crate) fn blame(&mut self, node: NodeId, now: Now) {
        let Some(sender) = self.senders.get_mut(&node) else {
            return;
        };
        let before = sender.blamed_at.replace(now.uptime);
        if before.is_some_and(|at| now.uptime.since(at) < MUTED_FOR) {
            self.mute(node, now);
        }
    }

    /// Does not listen for a while to whoever's message came last.
    pub(crate) fn mute_last(&mut self, now: Now) {
        if let Some(node) = self.last_sender {
            tracing::warn!(%node, "the last message before a failure of gossip was this member's");
            self.mute(node, now);
        }
    }

    /// The datagrams that carry a message of chitchat.
    pub(crate) fn seal(
        &mut self,
        to: SocketAddr,
        payload: &[u8],
        now: Now,
    ) -> Result<Vec<Vec<u8>>, TooLong> {
        self.seal_kind(Kind::Gossip, to, payload, now)
    }

    fn seal_kind(
        &mut self,
        kind: Kind,
        to: SocketAddr,
        payload: &[u8],
        now: Now,
    ) -> Result<Vec<Vec<u8>>, TooLong> {
        let link = self.links.get(&to);
        let knows = link
            .and_then(|link| self.senders.get(&link.node?))
            .map_or(NOTHING, |sender| sender.hash);
        let attach = kind == Kind::Hello || link.is_none_or(|l| l.knows != self.credential_hash);
        let credential: &[u8] = if attach { &self.credential } else { &[] };
        if payload.len() > payload_bytes_max(credential.len()) {
            return Err(TooLong {
                bytes: payload.len(),
            });
        }
        self.counter += 1;
        let mut header = Header {
            key: self.ring.sealing_id(),
            sender: self.node,
            epoch: self.epoch,
            counter: self.counter,
            index: 0,
            count: 1,
        };
        let body = Body {
            kind,
            sent_at: now.unix,
            knows,
            credential,
            payload,
        };
        let message = body.sign(&self.scope, &header, &self.key);
        let parts = message.chunks(PART_BYTES_MAX);
        header.count = parts.len() as u8;
        let datagrams = parts.map(|part| {
            let datagram = self.scope.seal(self.ring.sealing(), &header, part);
            header.index += 1;
            datagram
        });
        Ok(datagrams.collect())
    }

    /// Opens a datagram. Nothing in it is decoded before cipher, counter,
    /// signature and certificate hold.
    pub(crate) fn open(&mut self, from: SocketAddr, datagram: &[u8], now: Now) -> Opened {
        match self.try_open(from, datagram, now) {
            Ok(opened) => opened,
            Err(cause) => {
                self.counting.drop_for(cause);
                tracing::debug!(%from, ?cause, "gossip datagram dropped");
                match cause {
                    DropCause::UnknownSender => self.hello(from, now),
                    _ => Opened::Nothing,
                }
            }
        }
    }

    fn try_open(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Now,
    ) -> Result<Opened, DropCause> {
        let (header, sealed) = Header::read(datagram).ok_or(DropCause::Malformed)?;
        let key = self.ring.find(header.key).ok_or(DropCause::UnknownKey)?;
        let part = self
            .scope
            .open(key, &header, sealed)
            .ok_or(DropCause::NotSealed)?;
        self.check_sender(&header, now)?;
        let name = (header.sender, header.epoch, header.counter);
        let counting = &self.counting;
        let whole = self.reassembly.add(
            name,
            (header.index, header.count),
            part,
            now.uptime,
            |cause| counting.drop_for(cause),
        );
        match whole {
            Some(message) => self.accept(from, &header, &message, now),
            None => Ok(Opened::Nothing),
        }
    }

    /// What can be told before the message is whole.
    fn check_sender(&self, header: &Header, now: Now) -> Result<(), DropCause> {
        if header.sender == self.node {
            return Err(DropCause::Own);
        }
        let Some(sender) = self.senders.get(&header.sender) else {
            return Ok(());
        };
        if now.uptime < sender.muted_until {
            return Err(DropCause::Muted);
        }
        if header.epoch < sender.epoch {
            return Err(DropCause::OldEpoch);
        }
        if header.epoch == sender.epoch && sender.window.has_seen(header.counter) {
            return Err(DropCause::Replayed);
        }
        Ok(())
    }

    fn accept(
        &mut self,
        from: SocketAddr,
        header: &Header,
        message: &[u8],
        now: Now,
    ) -> Result<Opened, DropCause> {
        let body = Body::verify(&self.scope, header, message).ok_or(DropCause::Signature)?;
        let body = Body::read(body).ok_or(DropCause::Malformed)?;
        let apart = body
            .sent_at
            .since(now.unix)
            .max(now.unix.since(body.sent_at));
        if apart > CLOCK_SLACK {
            return Err(DropCause::Stale);
        }
        self.know(header.sender, body.credential, now)?;
        let sender = self
            .senders
            .get_mut(&header.sender)
            .ok_or(DropCause::UnknownSender)?;
        let end = sender.certificate.not_after;
        if now.unix > end + GRACE_WITHOUT_LEADER {
            self.senders.remove(&header.sender);
            return Err(DropCause::UnknownSender);
        }
        if self.revoked.contains(&sender.certificate.serial) {
            return Err(DropCause::Revoked);
        }
        if header.epoch > sender.epoch {
            sender.epoch = header.epoch;
            sender.window = Window::default();
        }
        sender.window.mark(header.counter);
        sender.last = now.uptime;
        if now.unix > end + CLOCK_SLACK {
            self.counting.in_grace.fetch_add(1, Relaxed);
            tracing::warn!(node = %header.sender, "member's certificate has ended");
        }
        let link = self.link(from, now);
        link.node = Some(header.sender);
        link.knows = body.knows;
        match body.kind {
            Kind::Hello => Ok(Opened::Nothing),
            Kind::Gossip => {
                self.last_sender = Some(header.sender);
                Ok(Opened::Message {
                    sender: header.sender,
                    payload: body.payload.to_vec(),
                })
            }
        }
    }

    /// Takes in a certificate that was attached, if it is news.
    fn know(&mut self, node: NodeId, bytes: &[u8], now: Now) -> Result<(), DropCause> {
        if bytes.is_empty() {
            return Ok(());
        }
        let hash = hash(bytes);
        if self.senders.get(&node).is_some_and(|s| s.hash == hash) {
            return Ok(());
        }
        let credential: NodeCredential =
            codec::decode_canonical("node credential", bytes, CREDENTIAL_BYTES_MAX)
                .map_err(|_| DropCause::Credential)?;
        let certificate = self.check(&credential, now.unix).map_err(|error| {
            tracing::debug!(%node, %error, "certificate in gossip refused");
            DropCause::Credential
        })?;
        if certificate.node != node {
            return Err(DropCause::Credential);
        }
        self.learn_issuer(&credential.issuer);
        if let Some(sender) = self.senders.get_mut(&node) {
            // An older certificate, replayed by its own holder, changes nothing.
            if certificate.not_after >= sender.certificate.not_after {
                sender.certificate = certificate;
                sender.hash = hash;
            }
            return Ok(());
        }
        forget_oldest(&mut self.senders, |sender| sender.last);
        let sender = Sender {
            certificate,
            hash,
            epoch: 0,
            window: Window::default(),
            blamed_at: None,
            muted_until: Millis(0),
            last: now.uptime,
        };
        self.senders.insert(node, sender);
        Ok(())
    }

    /// Asks whoever is at an address for its certificate, by showing ours.
    fn hello(&mut self, to: SocketAddr, now: Now) -> Opened {
        let link = self.link(to, now);
        let wait = |at| now.uptime.since(at) < HELLO_INTERVAL;
        if link.hello_at.is_some_and(wait) {
            return Opened::Nothing;
        }
        link.hello_at = Some(now.uptime);
        // Whoever was there before is not who is there now.
        link.node = None;
        match self.seal_kind(Kind::Hello, to, &[], now) {
            Ok(datagrams) => Opened::Answer(datagrams),
            Err(_) => Opened::Nothing,
        }
    }

    fn link(&mut self, address: SocketAddr, now: Now) -> &mut Link {
        if !self.links.contains_key(&address) {
            forget_oldest(&mut self.links, |link| link.last);
        }
        let link = self.links.entry(address).or_default();
        link.last = now.uptime;
        link
    }

    fn learn_issuer(&mut self, issuer: &Signed) {
        if self.issuers.contains(issuer) {
            return;
        }
        // The first is our own certificate's.
        if self.issuers.len() >= ISSUERS_MAX {
            self.issuers.remove(1);
        }
        self.issuers.push(issuer.clone());
    }
}

/// Makes room for one more.
fn forget_oldest<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, last: impl Fn(&V) -> Millis) {
    if map.len() < REMEMBERED_MAX {
        return;
    }
    let oldest = map.iter().min_by_key(|(_, value)| last(value));
    if let Some(key) = oldest.map(|(key, _)| *key) {
        map.remove(&key);
    }
}

fn hash(bytes: &[u8]) -> CredentialHash {
    let hash = blake3::derive_key("potluck 2026-11 gossip certificate", bytes);
    hash.first_chunk().copied().unwrap_or(NOTHING)
}

#[cfg(test)]
mod tests;
