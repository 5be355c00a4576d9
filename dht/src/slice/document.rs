//! The slice: a signed set of endpoints of one service.
//!
//! Canonical CBOR, signed as bytes. Endpoints are written as arrays without
//! field names, so that a hundred of them fit.

use std::{fmt, net::IpAddr};

use potluck_specs::{
    Epoch, FleetId, JobName, Millis, NodeId, Reign, SlotId,
    codec::{self, CodecError},
    ids::{NameError, check_name},
    trust::{
        CLOCK_SLACK, Context, GRACE_WITHOUT_LEADER, NodeCredential, NodeRole, PublicKey, SecretKey,
        SignatureError, Signed, TrustError,
    },
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Endpoints in one slice; a service with more has several parts.
pub const ENDPOINTS_MAX: usize = 100;

/// Parts of one service: 6,400 endpoints, more than the tasks of any cluster's
/// largest job that this version is meant for.
pub const PARTS_MAX: u16 = 64;

/// Largest signed slice with its credential.
pub const SIGNED_SLICE_BYTES_MAX: usize = 12 << 10;

/// What a slice's own bytes may take of that; the rest is for the credential,
/// which has at most nine names of 63 bytes.
const SLICE_BYTES_MAX: usize = 9 << 10;

/// Longest life: a slice that nobody renews is forgotten in bounded time, also
/// one that a rogue voter gave an absurd revision.
pub const LIFE_MAX: Millis = Millis(60 * 60_000);

/// Orders the slices of one service. Field order is comparison order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// The cluster's epoch.
    pub epoch: Epoch,
    /// The leadership that publishes.
    pub reign: Reign,
    /// Counts the publications of one reign.
    pub counter: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch.0, self.reign.0, self.counter)
    }
}

/// Names a service in a fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The cluster whose tasks serve it.
    pub cluster: String,
    /// The namespace of the jobs.
    pub namespace: String,
    /// The service.
    pub service: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.service)
    }
}

impl ServiceName {
    fn check(&self) -> Result<(), NameError> {
        check_name(&self.cluster)?;
        check_name(&self.namespace)?;
        check_name(&self.service)
    }
}

/// Where in the DHT a part of a service lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SliceKey(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Debug for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SliceKey({})",
            &blake3::Hash::from(self.0).to_hex()[..16]
        )
    }
}

impl SliceKey {
    /// The key of one part. Names hold no zero byte, so no two services share
    /// the hashed bytes.
    pub fn of(fleet: FleetId, name: &ServiceName, part: u16) -> SliceKey {
        let mut hasher = blake3::Hasher::new_derive_key("potluck 2026-11 slice key");
        hasher.update(&fleet.0);
        for text in [&name.cluster, &name.namespace, &name.service] {
            hasher.update(text.as_bytes()).update(&[0]);
        }
        hasher.update(&part.to_be_bytes());
        SliceKey(*hasher.finalize().as_bytes())
    }
}

/// One address behind a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Whose task answers there; of the slice's namespace.
    pub slot: SlotId,
    /// The host.
    pub node: NodeId,
    /// Its address.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// The host's rack.
    pub rack: String,
    /// What the health check says.
    pub healthy: bool,
    /// A share of the traffic.
    pub weight: u16,
}

/// A set of endpoints of one service, complete if `parts` is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The fleet.
    pub fleet: FleetId,
    /// The service.
    pub name: ServiceName,
    /// Orders the slices of one key.
    pub revision: Revision,
    /// When it was signed, Unix time.
    pub published: Millis,
    /// Until when it is fresh, Unix time; at most [`LIFE_MAX`] later.
    pub expires: Millis,
    /// Which part this is, from 0.
    pub part: u16,
    /// How many there are.
    pub parts: u16,
    /// At most [`ENDPOINTS_MAX`]; none at all says that nobody serves.
    pub endpoints: Vec<Endpoint>,
}

/// A slice that is refused.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The bytes are no slice, or not its canonical encoding.
    #[error("the slice is malformed")]
    Malformed(#[from] CodecError),
    /// Not signed by the node that its credential names.
    #[error("the slice's signature does not hold")]
    Signature(#[from] SignatureError),
    /// The signer's certificate is not accepted.
    #[error("the slice's signer is not trusted")]
    Signer(#[from] TrustError),
    /// The signer is no node that may lead.
    #[error("node {0} signed the slice but may not be a voter")]
    NotVoter(NodeId),
    /// The signer belongs to another cluster.
    #[error("a node of cluster {signer:?} signed a slice of cluster {slice:?}")]
    OtherCluster {
        /// The signer's.
        signer: String,
        /// The slice's.
        slice: String,
    },
    /// A slice of another fleet.
    #[error("the slice is of fleet {0}")]
    OtherFleet(FleetId),
    /// A name in it is none.
    #[error("the slice has a bad name")]
    Name(#[from] NameError),
    /// A limit or a rule is broken.
    #[error("the slice {0}")]
    Rule(&'static str),
}

impl Slice {
    /// Where in the DHT it lives.
    pub fn key(&self) -> SliceKey {
        SliceKey::of(self.fleet, &self.name, self.part)
    }

    fn check(&self) -> Result<(), SliceError> {
        self.name.check()?;
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(SliceError::Rule("has more than 100 endpoints"));
        }
        if self.parts > PARTS_MAX || self.part >= self.parts {
            return Err(SliceError::Rule("has a part number out of range"));
        }
        if self.expires <= self.published || self.expires.since(self.published) > LIFE_MAX {
            return Err(SliceError::Rule("lives for no time or too long"));
        }
        for endpoint in &self.endpoints {
            check_name(&endpoint.slot.job.name)?;
            check_name(&endpoint.rack)?;
            if endpoint.slot.job.namespace != self.name.namespace {
                return Err(SliceError::Rule("holds a task of another namespace"));
            }
        }
        Ok(())
    }
}

/// Cuts a service's endpoints into slices that each keep the limits, all with
/// the same revision. Endpoints are sorted first, so that the cuts move little
/// when one is added.
///
/// # Errors
/// [`SliceError::Rule`] if there are more than [`PARTS_MAX`] parts of them.
pub fn split(whole: Slice) -> Result<Vec<Slice>, SliceError> {
    let mut endpoints = whole.endpoints;
    endpoints.sort_unstable();
    let room = SLICE_BYTES_MAX - HEAD_BYTES_MAX;
    let mut groups: Vec<Vec<Endpoint>> = vec![Vec::new()];
    let mut used = 0;
    for endpoint in endpoints {
        let bytes = codec::encode(&EndpointWire::from(&endpoint)).len();
        let group = groups.last().expect("there is always one");
        if group.len() == ENDPOINTS_MAX || used + bytes > room {
            groups.push(Vec::new());
            used = 0;
        }
        used += bytes;
        groups
            .last_mut()
            .expect("there is always one")
            .push(endpoint);
    }
    let parts = u16::try_from(groups.len()).unwrap_or(u16::MAX);
    if parts > PARTS_MAX {
        return Err(SliceError::Rule("has too many endpoints"));
    }
    let slices = groups.into_iter().zip(0..).map(|(endpoints, part)| Slice {
        fleet: whole.fleet,
        name: whole.name.clone(),
        endpoints,
        part,
        parts,
        ..whole
    });
    Ok(slices.collect())
}

/// All of a slice but its endpoints: three names and some numbers.
const HEAD_BYTES_MAX: usize = 512;

/// A slice with its signature and the proof of its signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedSlice {
    /// Who signed: a node that may be a voter.
    pub credential: NodeCredential,
    /// The slice's canonical bytes.
    pub slice: Signed,
}

impl SignedSlice {
    /// Signs a slice with a node's key.
    ///
    /// # Errors
    /// [`SliceError::Rule`] and [`SliceError::Name`] if it breaks a limit.
    pub fn sign(
        slice: &Slice,
        key: &SecretKey,
        credential: NodeCredential,
    ) -> Result<SignedSlice, SliceError> {
        slice.check()?;
        let bytes = codec::encode(&SliceWire::from(slice));
        if bytes.len() > SLICE_BYTES_MAX {
            return Err(SliceError::Rule("is too large, split it"));
        }
        let signed = SignedSlice {
            credential,
            slice: Signed::new(key, Context::Slice, bytes),
        };
        if signed.encode().len() > SIGNED_SLICE_BYTES_MAX {
            return Err(SliceError::Rule("is too large with its credential"));
        }
        Ok(signed)
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads what [`Self::encode`] writes; nothing is verified yet.
    ///
    /// # Errors
    /// [`SliceError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<SignedSlice, SliceError> {
        let signed = codec::decode_canonical("signed slice", bytes, SIGNED_SLICE_BYTES_MAX)?;
        Ok(signed)
    }

    /// The slice, if a node of its cluster that may be a voter signed it and it
    /// keeps every limit. An expired slice passes: who reads decides.
    ///
    /// # Errors
    /// Any [`SliceError`].
    pub fn verify(&self, fleet: FleetId, now: Millis) -> Result<Slice, SliceError> {
        // Without a leader no certificate is renewed, and slices are what
        // clients still need then.
        let signer = self.credential.verify(fleet, now, GRACE_WITHOUT_LEADER)?;
        if !signer.roles.contains(&NodeRole::VoterEligible) {
            return Err(SliceError::NotVoter(signer.node));
        }
        let bytes = self
            .slice
            .verify(&PublicKey::from(signer.node), Context::Slice)?;
        let wire: SliceWire = codec::decode_canonical("slice", bytes, SLICE_BYTES_MAX)?;
        let slice = Slice::from(wire);
        slice.check()?;
        if slice.fleet != fleet {
            return Err(SliceError::OtherFleet(slice.fleet));
        }
        if slice.name.cluster != signer.topology.cluster {
            return Err(SliceError::OtherCluster {
                signer: signer.topology.cluster,
                slice: slice.name.cluster,
            });
        }
        if slice.published > now + CLOCK_SLACK {
            return Err(SliceError::Rule("is from the future"));
        }
        Ok(slice)
    }
}

/// The signed form. Its first field is the version of the format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SliceWire {
    version: One,
    fleet: FleetId,
    cluster: String,
    namespace: String,
    service: String,
    revision: Revision,
    published: Millis,
    expires: Millis,
    part: u16,
    parts: u16,
    endpoints: Vec<EndpointWire>,
}

/// The number 1 and no other.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[derive(Clone, Copy)]
struct One;

impl From<One> for u8 {
    fn from(_: One) -> u8 {
        1
    }
}

impl TryFrom<u8> for One {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<One, &'static str> {
        match number {
            1 => Ok(One),
            _ => Err("a slice of a version that is not known"),
        }
    }
}

/// Job, index, node, address (4 or 16 bytes), port, rack, healthy, weight.
#[derive(Serialize, Deserialize)]
struct EndpointWire(String, u32, NodeId, AddressWire, u16, String, bool, u16);

#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "ByteBuf", into = "ByteBuf")]
struct AddressWire(IpAddr);

impl From<AddressWire> for ByteBuf {
    fn from(address: AddressWire) -> ByteBuf {
        match address.0 {
            IpAddr::V4(address) => ByteBuf::from(address.octets()),
            IpAddr::V6(address) => ByteBuf::from(address.octets()),
        }
    }
}

impl TryFrom<ByteBuf> for AddressWire {
    type Error = &'static str;

    fn try_from(bytes: ByteBuf) -> Result<AddressWire, &'static str> {
        let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
        let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
        v4.or(v6)
            .map(AddressWire)
            .map_err(|_| "an address has 4 or 16 bytes")
    }
}

impl From<&Endpoint> for EndpointWire {
    fn from(endpoint: &Endpoint) -> EndpointWire {
        EndpointWire(
            endpoint.slot.job.name.clone(),
            endpoint.slot.index,
            endpoint.node,
            AddressWire(endpoint.address),
            endpoint.port,
            endpoint.rack.clone(),
            endpoint.healthy,
            endpoint.weight,
        )
    }
}

impl From<&Slice> for SliceWire {
    fn from(slice: &Slice) -> SliceWire {
        SliceWire {
            version: One,
            fleet: slice.fleet,
            cluster: slice.name.cluster.clone(),
            namespace: slice.name.namespace.clone(),
            service: slice.name.service.clone(),
            revision: slice.revision,
            published: slice.published,
            expires: slice.expires,
            part: slice.part,
            parts: slice.parts,
            endpoints: slice.endpoints.iter().map(EndpointWire::from).collect(),
        }
    }
}

impl From<SliceWire> for Slice {
    fn from(wire: SliceWire) -> Slice {
        let namespace = &wire.namespace;
        let endpoint = |wire: EndpointWire| Endpoint {
            slot: SlotId {
                job: JobName {
                    namespace: namespace.clone(),
                    name: wire.0,
                },
                index: wire.1,
            },
            node: wire.2,
            address: wire.3.0,
            port: wire.4,
            rack: wire.5,
            healthy: wire.6,
            weight: wire.7,
        };
        let endpoints = wire.endpoints.into_iter().map(endpoint).collect();
        Slice {
            fleet: wire.fleet,
            revision: wire.revision,
            published: wire.published,
            expires: wire.expires,
            part: wire.part,
            parts: wire.parts,
            endpoints,
            name: ServiceName {
                cluster: wire.cluster,
                namespace: wire.namespace,
                service: wire.service,
            },
        }
    }
}
