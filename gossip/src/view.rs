//! From chitchat's states to members whose records verify.

use crate::{
    Capacity, IdentityRecord, Member,
    pool::Now,
    pool::Pool,
    record::{Addresses, KEY_ADDRESSES, KEY_CAPACITY, KEY_CERTIFICATE, KEY_DRAINING, unpack},
};
use chitchat::{Chitchat, ChitchatId, NodeState};
use potluck_specs::{Millis, NodeId, trust::GRACE_WITHOUT_LEADER};
use std::collections::{BTreeMap, BTreeSet};

/// Most incarnations that are looked at: chitchat keeps the dead for a quarter
/// of an hour, so this is a cluster of the largest size whose nodes all
/// restarted twice.
const STATES_MAX: usize = 3_000;

/// When a record that did not verify is tried again: its issuer may have
/// become known, or a clock was set.
const TRY_AGAIN: Millis = Millis(10_000);

/// Bits of chitchat's generation that count restarts of chitchat within one
/// start of the process.
const RESTART_BITS: u32 = 16;

/// chitchat's generation: grows with each start of the process, and of
/// chitchat in it.
pub(crate) fn generation(boot_epoch: u64, restarts: u64) -> u64 {
    let highest = (1 << RESTART_BITS) - 1;
    (boot_epoch << RESTART_BITS) | restarts.min(highest)
}

/// A verified record, and until when.
#[derive(Clone, Debug)]
struct Verified {
    record: IdentityRecord,
    serial: u64,
    until: Millis,
}

/// The outcome for one pair of values of one incarnation.
#[derive(Debug)]
struct Checked {
    versions: (u64, u64),
    at: Millis,
    verified: Option<Verified>,
}

/// Remembers which records verified.
#[derive(Debug, Default)]
pub(crate) struct View {
    checked: BTreeMap<ChitchatId, Checked>,
}

impl View {
    /// The members, in the order of their keys.
    pub(crate) fn look(&mut self, chitchat: &Chitchat, pool: &Pool, now: Now) -> Vec<Member> {
        let alive: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let states = chitchat.node_states();
        self.checked.retain(|id, _| states.contains_key(id));
        let mut members: BTreeMap<NodeId, (u64, Member)> = BTreeMap::new();
        for (id, state) in states.iter().take(STATES_MAX) {
            let Some(record) = self.verified(id, state, pool, now) else {
                continue;
            };
            let member = member(record, state, alive.contains(id));
            let rank = |member: &Member, generation| (member.alive, generation);
            let is_better = members.get(&member.node).is_none_or(|(generation, other)| {
                rank(&member, id.generation_id) > rank(other, *generation)
            });
            if is_better {
                members.insert(member.node, (id.generation_id, member));
            }
        }
        members.into_values().map(|(_, member)| member).collect()
    }

    fn verified(
        &mut self,
        id: &ChitchatId,
        state: &NodeState,
        pool: &Pool,
        now: Now,
    ) -> Option<IdentityRecord> {
        let version = |key| state.get_versioned(key).map_or(0, |value| value.version);
        let versions = (version(KEY_CERTIFICATE), version(KEY_ADDRESSES));
        let is_current = |checked: &Checked| {
            checked.versions == versions
                && (checked.verified.is_some() || now.uptime.since(checked.at) < TRY_AGAIN)
        };
        if !self.checked.get(id).is_some_and(is_current) {
            let verified = verify(id, state, pool, now);
            let checked = Checked {
                versions,
                at: now.uptime,
                verified,
            };
            self.checked.insert(id.clone(), checked);
        }
        let verified = self.checked.get(id)?.verified.as_ref()?;
        let holds = now.unix <= verified.until && !pool.is_revoked(verified.serial);
        holds.then(|| verified.record.clone())
    }
}

fn verify(id: &ChitchatId, state: &NodeState, pool: &Pool, now: Now) -> Option<Verified> {
    let certificate = unpack(state.get(KEY_CERTIFICATE)?)?;
    let certificate = pool.check_bare(&certificate, now.unix)?;
    let addresses = unpack(state.get(KEY_ADDRESSES)?)?;
    let addresses = Addresses::verify(&addresses, certificate.node)?;
    let fits = *id.node_id == certificate.node.short()
        && id.gossip_advertise_addr == addresses.gossip
        && id.generation_id >> RESTART_BITS == addresses.incarnation;
    fits.then(|| Verified {
        serial: certificate.serial,
        until: certificate.not_after + GRACE_WITHOUT_LEADER,
        record: addresses.under(certificate),
    })
}

fn member(record: IdentityRecord, state: &NodeState, alive: bool) -> Member {
    Member {
        node: record.node,
        record,
        capacity: state.get(KEY_CAPACITY).and_then(Capacity::from_text),
        draining: state.get(KEY_DRAINING) == Some("1"),
        heartbeat: state.heartbeat().into(),
        alive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::pack,
        testing::{Fleet, node_key, unix_now},
    };
    use chitchat::{
        ChitchatConfig, DeletionStatus, FailureDetectorConfig, ProtocolVersion, VersionedValue,
    };
    use potluck_specs::trust::SecretKey;
    use std::{collections::HashSet, net::SocketAddr, time::Duration};
    use tokio::sync::watch;

    const PLACE: ([u8; 4], u16) = ([127, 0, 0, 9], 7_001);

    fn chitchat() -> Chitchat {
        let id = ChitchatId::new("observer", 1, PLACE.into());
        let config = ChitchatConfig {
            chitchat_id: id,
            cluster_id: "main".into(),
            gossip_interval: Duration::from_secs(1),
            listen_addr: PLACE.into(),
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(1),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let (_, seeds) = watch::channel(HashSet::new());
        Chitchat::with_chitchat_id_and_seeds(config, seeds, Vec::new())
    }

    fn addresses(incarnation: u64) -> Addresses {
        Addresses {
            incarnation,
            gossip: PLACE.into(),
            network: Vec::new(),
            version: "0.1.0".into(),
        }
    }

    /// Puts a state into chitchat, as if it had come by gossip.
    fn tell(chitchat: &mut Chitchat, id: &ChitchatId, certificate: String, record: String) {
        let values = [(KEY_CERTIFICATE, certificate), (KEY_ADDRESSES, record)];
        let values = values.into_iter().zip(1..).map(|((key, value), version)| {
            let status = DeletionStatus::Set;
            let value = VersionedValue {
                value,
                version,
                status,
            };
            (key.to_string(), value)
        });
        chitchat.reset_node_state_if_update(id, values, 2, 0);
    }

    fn certificate(fleet: u8, key: &SecretKey, cluster: &str) -> String {
        pack(
            &Fleet::new(fleet)
                .admit(key, cluster, unix_now())
                .certificate,
        )
    }

    fn id_of(key: &SecretKey, epoch: u64) -> ChitchatId {
        ChitchatId::new(key.node().short(), generation(epoch, 0), PLACE.into())
    }

    fn now() -> Now {
        Now {
            unix: unix_now(),
            uptime: Millis(0),
        }
    }

    #[test]
    fn only_records_that_verify_are_shown() {
        let key = node_key(1);
        let good = || pack(&addresses(1).sign(&key));
        let own = || certificate(1, &key, "main");
        let elsewhere: SocketAddr = ([127, 0, 0, 8], 1).into();
        let cases = [
            (true, id_of(&key, 1), own(), good()),
            (false, id_of(&key, 2), own(), good()),
            (false, id_of(&node_key(2), 1), own(), good()),
            (
                false,
                ChitchatId::new(key.node().short(), generation(1, 0), elsewhere),
                own(),
                good(),
            ),
            (
                false,
                id_of(&key, 1),
                own(),
                pack(&addresses(1).sign(&node_key(2))),
            ),
            (false, id_of(&key, 1), certificate(2, &key, "main"), good()),
            (false, id_of(&key, 1), certificate(1, &key, "other"), good()),
            (
                false,
                id_of(&key, 1),
                certificate(1, &node_key(2), "main"),
                good(),
            ),
            (false, id_of(&key, 1), "nonsense".into(), good()),
            (false, id_of(&key, 1), own(), String::new()),
        ];
        let pool = Fleet::new(1).pool(9, "main", 7, 1);
        for (number, (shown, id, certificate, record)) in cases.into_iter().enumerate() {
            let mut chitchat = chitchat();
            tell(&mut chitchat, &id, certificate, record);
            let members = View::default().look(&chitchat, &pool, now());
            assert_eq!(!members.is_empty(), shown, "case {number}");
        }
    }

    #[test]
    fn a_member_shows_once_and_not_when_revoked() {
        let key = node_key(1);
        let mut chitchat = chitchat();
        for epoch in [1, 3, 2] {
            let record = pack(&addresses(epoch).sign(&key));
            let certificate = certificate(1, &key, "main");
            tell(&mut chitchat, &id_of(&key, epoch), certificate, record);
        }
        let mut pool = Fleet::new(1).pool(9, "main", 7, 1);
        let mut view = View::default();
        let members = view.look(&chitchat, &pool, now());
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].record.incarnation, 3);
        pool.set_revoked([1].into());
        assert_eq!(view.look(&chitchat, &pool, now()), []);
        pool.set_revoked(BTreeSet::new());
        let late = Now {
            unix: unix_now() + Millis(38 * 86_400_000),
            uptime: Millis(1),
        };
        assert_eq!(view.look(&chitchat, &pool, late), [], "it ended");
    }

    #[test]
    fn generations_grow_with_starts_and_restarts() {
        assert!(generation(1, 1) > generation(1, 0));
        assert!(generation(2, 0) > generation(1, u64::MAX));
        assert_eq!(generation(7, 3) >> RESTART_BITS, 7);
    }
}
