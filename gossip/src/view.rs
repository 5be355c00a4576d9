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

    #[test]
    fn generations_grow_with_starts_and_restarts() {
        assert!(generation(1, 1) > generation(1, 0));
        assert!(generation(2, 0) > generation(1, u64::MAX));
        assert_eq!(generation(7, 3) >> RESTART_BITS, 7);
    }
}
