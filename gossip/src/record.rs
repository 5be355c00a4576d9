//! What a member says about itself: its signed identity record and its
//! unsigned, quantised capacity; and their form in chitchat, whose values are
//! text.

use data_encoding::BASE64_NOPAD;
use potluck_specs::{
    Millis, NodeId, NodeName, Topology, codec,
    job::Resources,
    trust::{Context, NodeCertificate, PublicKey, SecretKey, Signed},
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Who a member is and where it is reached. Name and place come from its
/// certificate, the rest is signed by its own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRecord {
    /// Its key.
    pub node: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// Where its gossip socket is reached.
    pub gossip: SocketAddr,
    /// Where its libp2p swarm is reached.
    pub network: Vec<SocketAddr>,
    /// Grows with each start of its process: its boot epoch.
    pub incarnation: u64,
    /// Version of potluck that it runs.
    pub version: String,
}

/// What a node has and what is free of it: a hint for picking candidates, the
/// truth is in the node's bid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Free now.
    pub free: Resources,
    /// All that the node has for tasks.
    pub total: Resources,
}

/// A member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub node: NodeId,
    /// Its verified record.
    pub record: IdentityRecord,
    /// What it last published, if anything.
    pub capacity: Option<Capacity>,
    /// It takes no new work.
    pub draining: bool,
    /// chitchat's counter: moves while the member lives. Starts again with
    /// each incarnation, so compare it together with `record.incarnation`.
    pub heartbeat: u64,
    /// chitchat's opinion; the node itself is always alive.
    pub alive: bool,
}

/// The member's certificate without its chain, as [`pack`]ed.
pub(crate) const KEY_CERTIFICATE: &str = "c";
/// The member's [`Addresses`], as [`pack`]ed.
pub(crate) const KEY_ADDRESSES: &str = "a";
/// The member's capacity in numbers.
pub(crate) const KEY_CAPACITY: &str = "f";
/// "1" while the member takes no new work.
pub(crate) const KEY_DRAINING: &str = "d";

/// Largest certificate and record of one node together, as text: everyday
/// names stay under 1 KB with everything, this allows for the longest.
pub(crate) const RECORD_BYTES_MAX: usize = 1_280;

/// Most addresses of one node: a few interfaces in both families.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// Longest version of potluck as text.
const VERSION_BYTES_MAX: usize = 64;

/// Time between two publications of capacity: a cluster that is busy placing
/// must not fill gossip with numbers that are old when they arrive.
const CAPACITY_INTERVAL: Millis = Millis(5_000);

/// A change of capacity that is worth telling, in percent of all there is.
const CAPACITY_CHANGE_PERCENT: u64 = 5;

/// The part of the identity record that the certificate does not say. Short
/// names on the wire: every node keeps one of each member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Addresses {
    #[serde(rename = "i")]
    pub(crate) incarnation: u64,
    #[serde(rename = "g")]
    pub(crate) gossip: SocketAddr,
    #[serde(rename = "n")]
    pub(crate) network: Vec<SocketAddr>,
    #[serde(rename = "v")]
    pub(crate) version: String,
}

impl Addresses {
    /// Signed by the node's key.
    pub(crate) fn sign(&self, key: &SecretKey) -> Signed {
        Signed::new(key, Context::Identity, codec::encode(self))
    }

    /// What a node signed, if it did.
    pub(crate) fn verify(signed: &Signed, node: NodeId) -> Option<Addresses> {
        let bytes = signed
            .verify(&PublicKey::from(node), Context::Identity)
            .ok()?;
        let addresses: Addresses =
            codec::decode_canonical("identity record", bytes, RECORD_BYTES_MAX).ok()?;
        let bounded = addresses.network.len() <= ADDRESSES_MAX
            && addresses.version.len() <= VERSION_BYTES_MAX;
        bounded.then_some(addresses)
    }

    /// Together with the certificate.
    pub(crate) fn under(self, certificate: NodeCertificate) -> IdentityRecord {
        IdentityRecord {
            node: certificate.node,
            name: certificate.name,
            topology: certificate.topology,
            gossip: self.gossip,
            network: self.network,
            incarnation: self.incarnation,
            version: self.version,
        }
    }
}

/// A signed document as a value of chitchat.
pub(crate) fn pack(signed: &Signed) -> String {
    BASE64_NOPAD.encode(&[&signed.signature[..], &signed.bytes].concat())
}

/// Reads what [`pack`] writes.
pub(crate) fn unpack(text: &str) -> Option<Signed> {
    if text.len() > RECORD_BYTES_MAX {
        return None;
    }
    let bytes = BASE64_NOPAD.decode(text.as_bytes()).ok()?;
    let (signature, bytes) = bytes.split_first_chunk()?;
    Some(Signed {
        bytes: bytes.to_vec(),
        signature: *signature,
    })
}

impl Capacity {
    /// As a value of chitchat: free and total cores in thousandths, free and
    /// total memory and disk in bytes, free and total bits a second of uplink.
    /// Newer versions may append.
    pub(crate) fn to_text(self) -> String {
        let Capacity { free, total } = self;
        format!(
            "{}/{}/{}/{}/{}/{}/{}/{}",
            free.cpu_millis,
            total.cpu_millis,
            free.memory_bytes,
            total.memory_bytes,
            free.disk_bytes,
            total.disk_bytes,
            free.uplink_bits_per_s,
            total.uplink_bits_per_s,
        )
    }

    /// Reads what [`Self::to_text`] writes.
    pub(crate) fn from_text(text: &str) -> Option<Capacity> {
        let mut numbers = text.split('/');
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let (cpu_free, cpu_total) = (next()?, next()?);
        let (memory_free, memory_total) = (next()?, next()?);
        // Nodes of before these were told have none to offer.
        let (disk_free, disk_total) = (next().unwrap_or(0), next().unwrap_or(0));
        let (uplink_free, uplink_total) = (next().unwrap_or(0), next().unwrap_or(0));
        let resources = |cpu, memory_bytes, disk_bytes, uplink_bits_per_s| {
            Some(Resources {
                cpu_millis: u32::try_from(cpu).ok()?,
                memory_bytes,
                disk_bytes,
                uplink_bits_per_s,
            })
        };
        Some(Capacity {
            free: resources(cpu_free, memory_free, disk_free, uplink_free)?,
            total: resources(cpu_total, memory_total, disk_total, uplink_total)?,
        })
    }

    fn differs_from(&self, other: &Capacity) -> bool {
        let far = |a: u64, b: u64, total: u64| {
            a.abs_diff(b).saturating_mul(100)
                >= total.max(1).saturating_mul(CAPACITY_CHANGE_PERCENT)
        };
        let (free, was, total) = (&self.free, &other.free, &self.total);
        self.total != other.total
            || far(
                free.cpu_millis.into(),
                was.cpu_millis.into(),
                total.cpu_millis.into(),
            )
            || far(free.memory_bytes, was.memory_bytes, total.memory_bytes)
            || far(free.disk_bytes, was.disk_bytes, total.disk_bytes)
            || far(
                free.uplink_bits_per_s,
                was.uplink_bits_per_s,
                total.uplink_bits_per_s,
            )
    }
}

/// Decides when a node tells its capacity.
#[derive(Debug, Default)]
pub(crate) struct CapacityGate {
    told: Option<(Capacity, Millis)>,
}

impl CapacityGate {
    /// Is this to be told now? If so it counts as told. `now` never goes back.
    pub(crate) fn passes(&mut self, capacity: Capacity, now: Millis) -> bool {
        let passes = self.told.is_none_or(|(told, at)| {
            now.since(at) >= CAPACITY_INTERVAL && capacity.differs_from(&told)
        });
        if passes {
            self.told = Some((capacity, now));
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capacity(cpu_free: u32, memory_free: u64) -> Capacity {
        Capacity {
            free: Resources::new(cpu_free, memory_free),
            total: Resources::new(4_000, 1_000),
        }
    }

    #[test]
    fn capacity_is_told_seldom() {
        let mut gate = CapacityGate::default();
        assert!(gate.passes(capacity(4_000, 1_000), Millis(0)));
        assert!(!gate.passes(capacity(0, 0), Millis(4_999)), "too soon");
        assert!(
            !gate.passes(capacity(3_801, 951), Millis(9_000)),
            "too little"
        );
        assert!(gate.passes(capacity(3_800, 1_000), Millis(9_000)));
        assert!(gate.passes(capacity(3_800, 950), Millis(14_000)));
    }

    #[test]
    fn records_hold_under_their_key_only() {
        let key = SecretKey::from_seed([1; 32]);
        let addresses = Addresses {
            incarnation: 3,
            gossip: ([127, 0, 0, 1], 7_001).into(),
            network: vec![([127, 0, 0, 1], 7_000).into()],
            version: "0.1.0".into(),
        };
        let signed = unpack(&pack(&addresses.sign(&key))).unwrap();
        assert_eq!(
            Addresses::verify(&signed, key.node()),
            Some(addresses.clone())
        );
        assert_eq!(Addresses::verify(&signed, NodeId([2; 32])), None);
        let many = Addresses {
            network: vec![addresses.gossip; ADDRESSES_MAX + 1],
            ..addresses
        };
        assert_eq!(Addresses::verify(&many.sign(&key), key.node()), None);
    }

    proptest! {
        #[test]
        fn readers_take_any_text(text in ".{0,100}") {
            let _ = unpack(&text);
            if let Some(capacity) = Capacity::from_text(&text) {
                prop_assert_eq!(Capacity::from_text(&capacity.to_text()), Some(capacity));
            }
        }
    }
}
