//! Members: admission, certificates, drains, leaving.

use super::{Admission, Cluster, Command, Refused, Reply};
use potluck_specs::{
    Millis, NodeId, NodeName, Topology,
    job::Resources,
    trust::{CLOCK_SLACK, GRACE_WITHOUT_LEADER, NODE_CERTIFICATE_LIFE, NodeCredential, NodeRole},
};
use serde::{Deserialize, Serialize};

/// Most members: what one gossip pool carries (its full digest travels in
/// each handshake, and past 64 KB the library gives up).
pub const MEMBERS_MAX: usize = 1_000;

/// Most addresses kept of a member: some interfaces, each in two families.
pub(super) const ADDRESSES_MAX: usize = 16;

/// Longest address kept: a multiaddress with the longest DNS name.
pub(super) const ADDRESS_BYTES_MAX: usize = 320;

/// Certificates of a member that may be valid at once: renewed from a third
/// of its life on, three overlap; one to spare.
pub(super) const SERIALS_MAX: usize = 4;

/// Most revocations: every certificate of a full cluster, sixteen times over.
pub(super) const REVOKED_MAX: usize = 65_536;

/// Most ids of the control group ever given: every host of a full cluster may
/// lose its disk thirty times.
const RAFT_IDS_MAX: usize = 32_768;

/// Most ids of the control group for one member, so that none can use up all:
/// whoever loses its disk more often is put out and let in again.
pub(super) const RAFT_IDS_EACH_MAX: u32 = 32;

/// Longest sealed issuer's key: 32 bytes with their seal take 80.
pub(super) const SEALED_BYTES_MAX: usize = 512;

/// A node that was admitted and has not left, present or absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// What people call it; unique in the cluster.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// What it may be chosen for.
    pub roles: Vec<NodeRole>,
    /// Its newest certificate with the chain.
    pub credential: NodeCredential,
    /// Serials of its certificates that may still be valid, oldest first.
    pub serials: Vec<u64>,
    /// Where it was reached last.
    pub addresses: Vec<String>,
    /// When it was admitted, Unix time.
    pub admitted_at: Millis,
    /// All that it had for tasks when it was last heard of.
    pub capacity: Option<Resources>,
    /// Its number in the control group, once it has one.
    pub raft_id: Option<u64>,
    /// How many such numbers it has had.
    #[serde(default)]
    pub raft_ids: u32,
    /// The newest kind of command that it can apply.
    pub feature_level: u32,
    /// It takes no new work and gives up what it has.
    pub draining: bool,
}

impl Member {
    /// May the node be chosen as a voter?
    pub fn may_vote(&self) -> bool {
        self.roles.contains(&NodeRole::VoterEligible)
    }
}

impl Cluster {
    /// Lets a node in, or in again. Whether it may be is the caller's to know.
    pub(super) fn admit(&mut self, admission: &Admission, roles: &[NodeRole], now: Millis) {
        let earlier = self.members.remove(&admission.node);
        let mut member = Member {
            node: admission.node,
            name: admission.name.clone(),
            topology: admission.topology.clone(),
            roles: roles.to_vec(),
            credential: admission.credential.clone(),
            serials: Vec::new(),
            addresses: bounded_addresses(&admission.addresses),
            admitted_at: now,
            capacity: None,
            raft_id: None,
            raft_ids: 0,
            feature_level: 0,
            draining: false,
        };
        if let Some(earlier) = earlier {
            member.serials = earlier.serials;
            member.capacity = earlier.capacity;
            member.raft_id = earlier.raft_id;
            member.raft_ids = earlier.raft_ids;
            member.feature_level = earlier.feature_level;
        }
        keep_serial(&mut member.serials, admission.serial);
        self.members.insert(admission.node, member);
    }

    pub(super) fn change_members(&mut self, command: &Command) -> Reply {
        match command {
            Command::RenewCertificate {
                node,
                credential,
                serial,
            } => self.renew(*node, credential, *serial),
            Command::Revoke { serial, now } => self.revoke(*serial, *now),
            Command::SealIssuer { node, sealed } => self.seal_issuer(*node, sealed),
            Command::RecordMember {
                node,
                addresses,
                capacity,
                raft_id,
                feature_level,
            } => self.record_member(
                *node,
                addresses.as_deref(),
                *capacity,
                *raft_id,
                *feature_level,
            ),
            Command::SetDraining { node, draining, .. } => match self.member_mut(*node) {
                Ok(member) => {
                    member.draining = *draining;
                    Reply::Done
                }
                Err(reply) => reply,
            },
            Command::RemoveMember { node, now } => self.remove_member(*node, *now),
            _ => Reply::Done,
        }
    }

    fn member_mut(&mut self, node: NodeId) -> Result<&mut Member, Reply> {
        self.members
            .get_mut(&node)
            .ok_or(Reply::refused(Refused::NotAMember { node }))
    }

    fn renew(&mut self, node: NodeId, credential: &NodeCredential, serial: u64) -> Reply {
        let member = match self.member_mut(node) {
            Ok(member) => member,
            Err(reply) => return reply,
        };
        member.credential = credential.clone();
        keep_serial(&mut member.serials, serial);
        Reply::Admitted {
            credential: Box::new(credential.clone()),
        }
    }

    fn revoke(&mut self, serial: u64, now: Millis) -> Reply {
        self.forget_ended_revocations(now);
        if self.revoked.len() >= REVOKED_MAX {
            return Reply::too_many("revoked certificates", REVOKED_MAX);
        }
        self.revoked.entry(serial).or_insert(now);
        Reply::Done
    }

    /// A certificate that ended by itself needs no revocation.
    fn forget_ended_revocations(&mut self, now: Millis) {
        let kept = NODE_CERTIFICATE_LIFE + GRACE_WITHOUT_LEADER + CLOCK_SLACK + CLOCK_SLACK;
        self.revoked.retain(|_, at| now.since(*at) <= kept);
    }

    fn seal_issuer(&mut self, node: NodeId, sealed: &[u8]) -> Reply {
        if let Err(reply) = self.member_mut(node) {
            return reply;
        }
        if sealed.len() > SEALED_BYTES_MAX {
            return Reply::too_many("bytes of a sealed key", SEALED_BYTES_MAX);
        }
        self.sealed_issuer.insert(node, sealed.to_vec().into());
        Reply::Done
    }

    fn record_member(
        &mut self,
        node: NodeId,
        addresses: Option<&[String]>,
        capacity: Option<Resources>,
        raft_id: Option<u64>,
        feature_level: Option<u32>,
    ) -> Reply {
        let (known, had) = match self.member_mut(node) {
            Ok(member) => (member.raft_id, member.raft_ids),
            Err(reply) => return reply,
        };
        let fresh = raft_id.filter(|raft_id| known != Some(*raft_id));
        if let Some(raft_id) = fresh {
            if had >= RAFT_IDS_EACH_MAX {
                let most = RAFT_IDS_EACH_MAX as usize;
                return Reply::too_many("ids of one member in the control group", most);
            }
            if self.raft_ids.len() >= RAFT_IDS_MAX {
                return Reply::too_many("ids of the control group", RAFT_IDS_MAX);
            }
            if !self.raft_ids.insert(raft_id) {
                return Reply::refused(Refused::RaftIdTaken { raft_id });
            }
        }
        let member = match self.member_mut(node) {
            Ok(member) => member,
            Err(reply) => return reply,
        };
        member.raft_id = raft_id.or(member.raft_id);
        member.raft_ids += u32::from(fresh.is_some());
        if let Some(addresses) = addresses {
            member.addresses = bounded_addresses(addresses);
        }
        member.capacity = capacity.or(member.capacity);
        member.feature_level = feature_level.unwrap_or(member.feature_level);
        Reply::Done
    }

    fn remove_member(&mut self, node: NodeId, now: Millis) -> Reply {
        let Some(member) = self.members.remove(&node) else {
            return Reply::refused(Refused::NotAMember { node });
        };
        for serial in member.serials {
            self.revoke(serial, now);
        }
        self.sealed_issuer.remove(&node);
        for token in self.tokens.values_mut() {
            token.redeemed.remove(&node);
        }
        for package in self.packages.values_mut() {
            package.holders.remove(&node);
        }
        self.placements
            .retain(|_, placement| placement.node != node);
        Reply::Done
    }
}

fn bounded_addresses(addresses: &[String]) -> Vec<String> {
    addresses
        .iter()
        .filter(|address| address.len() <= ADDRESS_BYTES_MAX)
        .take(ADDRESSES_MAX)
        .cloned()
        .collect()
}

fn keep_serial(serials: &mut Vec<u64>, serial: u64) {
    serials.retain(|earlier| *earlier != serial);
    serials.push(serial);
    if serials.len() > SERIALS_MAX {
        serials.remove(0);
    }
}
