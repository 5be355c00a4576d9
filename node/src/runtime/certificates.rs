//! When a node's certificate is renewed, by whom, and what the leader makes of
//! such a wish. Pure: the time is an argument.

use crate::{
    cli::chain,
    identity::{self, RefusalCode},
};
use potluck_core::cluster::Cluster;
use potluck_specs::{
    FleetId, Millis, NodeId,
    trust::{GRACE_WITHOUT_LEADER, NodeCertificate, NodeCredential},
};

/// Looks between two tries to renew: a cluster without a leader is not asked
/// each second.
const TRY_EVERY: u32 = 60;

/// Looks between two tries when there is a leader that could not renew the
/// last time: a new one has to read itself in, a new cluster has to begin.
const TRY_AGAIN: u32 = 5;

/// However long ago it ended, a certificate says who its node was.
const WHENEVER: Millis = Millis(u64::MAX / 2);

/// Past its end a certificate is accepted for a week while there is no leader.
pub(super) fn grace(has_leader: bool) -> Millis {
    match has_leader {
        true => Millis(0),
        false => GRACE_WITHOUT_LEADER,
    }
}

/// When to try: at the first look, then now and then, sooner when a leader did
/// not do it, and as soon as there is a leader again.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Looks since the last try.
    waited: Option<u32>,
    failed: bool,
    had_leader: bool,
}

impl Tries {
    /// One look a second; is it time for a try?
    pub(super) fn look(&mut self, has_leader: bool) -> bool {
        let pause = match self.failed && has_leader {
            true => TRY_AGAIN,
            false => TRY_EVERY,
        };
        let is_new_leader = has_leader && !self.had_leader;
        let is_time = is_new_leader || self.waited.is_none_or(|looks| looks >= pause);
        self.waited = match is_time {
            true => Some(1),
            false => self.waited.map(|looks| looks + 1),
        };
        self.had_leader = has_leader;
        is_time
    }

    /// What came of the try: nothing was due, or it is renewed; or not.
    pub(super) fn tried(&mut self, is_well: bool) {
        self.failed = !is_well;
    }
}

/// What a node does about its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it is young, or not readable at all.
    Nothing,
    /// It leads: it signs for itself.
    SignOurselves,
    /// It asks the others, showing this.
    AskOthers(Box<NodeCertificate>),
}

/// What to do about this certificate now.
pub(super) fn step(
    credential: &NodeCredential,
    fleet: FleetId,
    we_lead: bool,
    now: Millis,
) -> Step {
    match credential.verify(fleet, now, WHENEVER) {
        Ok(certificate) if identity::needs_renewal(&certificate, now) => match we_lead {
            true => Step::SignOurselves,
            false => Step::AskOthers(Box::new(certificate)),
        },
        _ => Step::Nothing,
    }
}

/// What becomes of the wish for a new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// No.
    Refused(RefusalCode, String),
    /// The newest one again: it is not due, or its reply was lost. So the log
    /// knows every certificate that is still valid.
    Again(Box<NodeCredential>),
    /// Sign this one anew.
    Sign(Box<NodeCertificate>),
}

/// Decides, on the leader, for the node whose key `from` is.
pub(super) fn decide(
    state: &Cluster,
    fleet: FleetId,
    from: NodeId,
    old: &NodeCredential,
    now: Millis,
) -> Renewal {
    let refuse = |code, text: &str| Renewal::Refused(code, text.into());
    // Who is a member is in the log, whatever the certificate's age.
    let certificate = match old.verify(fleet, now, WHENEVER) {
        Ok(certificate) if certificate.node == from => certificate,
        Ok(_) => return refuse(RefusalCode::Other, "the certificate is for another key"),
        Err(error) => return refuse(RefusalCode::Other, &chain(&error)),
    };
    let Some(member) = state.members().get(&from) else {
        return refuse(RefusalCode::Revoked, "this node was put out of the cluster");
    };
    if state.is_revoked(certificate.serial) {
        return refuse(RefusalCode::Revoked, "the certificate was revoked");
    }
    match member.credential.verify(fleet, now, Millis(0)) {
        Ok(newest) if !identity::needs_renewal(&newest, now) => {
            Renewal::Again(Box::new(member.credential.clone()))
        }
        _ => Renewal::Sign(Box::new(certificate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use potluck_core::cluster::{Admission, Command, Genesis};
    use potluck_specs::{
        Epoch, NodeName, Topology,
        trust::{CLOCK_SLACK, NODE_CERTIFICATE_LIFE, NodeRole},
    };

    const NODE: NodeId = NodeId([1; 32]);
    const BEGIN: Millis = Millis(1_800_000_000_000);
    const THIRD: Millis = Millis(NODE_CERTIFICATE_LIFE.0 / 3);
    const SERIAL: u64 = 7;

    fn credential(node: NodeId, now: Millis, serial: u64) -> NodeCredential {
        let (name, place) = (NodeName("n1".into()), Topology::in_rack("main", "r1"));
        let roles = [NodeRole::Agent, NodeRole::VoterEligible];
        testing::issuer().issue(node, name, place, &roles, now, serial)
    }

    /// A cluster in which [`NODE`] was admitted at [`BEGIN`].
    fn cluster() -> Cluster {
        let issuer = testing::issuer();
        let genesis = Genesis {
            fleet: issuer.fleet(),
            cluster: "main".into(),
            epoch: Epoch(1),
            root: issuer.root(),
            issuer: issuer.certificate().clone(),
            gossip_keys: Vec::new(),
            first: Admission {
                node: NODE,
                name: NodeName("n1".into()),
                topology: Topology::in_rack("main", "r1"),
                credential: credential(NODE, BEGIN, SERIAL),
                serial: SERIAL,
                addresses: Vec::new(),
            },
            roles: vec![NodeRole::Agent],
            now: BEGIN,
        };
        let mut cluster = Cluster::new();
        let genesis = Box::new(genesis);
        cluster.apply(1, &Command::Genesis { genesis });
        cluster
    }

    fn at(state: &Cluster, from: NodeId, old: &NodeCredential, now: Millis) -> Renewal {
        decide(state, testing::fleet(), from, old, now)
    }

    #[test]
    fn a_certificate_is_renewed_from_a_third_of_its_life() {
        let mine = credential(NODE, BEGIN, SERIAL);
        let at = |now, we_lead| step(&mine, testing::fleet(), we_lead, now);
        let before = Millis(BEGIN.0 + THIRD.0 - 1);
        for we_lead in [false, true] {
            assert_eq!(at(BEGIN, we_lead), Step::Nothing);
            assert_eq!(at(before, we_lead), Step::Nothing);
        }
        // Up to its end and long after it.
        for now in [BEGIN + THIRD, BEGIN + NODE_CERTIFICATE_LIFE + Millis::DAY] {
            assert!(matches!(at(now, false), Step::AskOthers(c) if c.serial == SERIAL));
            assert_eq!(at(now, true), Step::SignOurselves, "nobody else would");
        }
        assert_eq!(
            step(&mine, FleetId([9; 32]), true, BEGIN + THIRD),
            Step::Nothing
        );
    }

    #[test]
    fn tries_are_rare_but_for_a_new_leader() {
        let mut tries = Tries::default();
        assert!(tries.look(false), "at the start");
        let without = (1..TRY_EVERY).filter(|_| tries.look(false)).count();
        assert_eq!(without, 0);
        assert!(tries.look(false), "after a while");
        tries.tried(true);
        assert!(tries.look(true), "there is a leader now");
        assert!(!tries.look(true), "it has been asked");
        assert!(!tries.look(false));
        assert!(tries.look(true), "and again");
        tries.tried(false);
        let soon = (1..TRY_AGAIN).filter(|_| tries.look(true)).count();
        assert_eq!(soon, 0);
        assert!(tries.look(true), "soon, since it could not");
        tries.tried(true);
        let later = (1..TRY_EVERY).filter(|_| tries.look(true)).count();
        assert_eq!(later, 0);
    }

    #[test]
    fn the_leader_signs_what_is_due_and_repeats_what_is_not() {
        let (state, mine) = (cluster(), credential(NODE, BEGIN, SERIAL));
        let again = Renewal::Again(Box::new(mine.clone()));
        assert_eq!(at(&state, NODE, &mine, BEGIN), again);
        for now in [BEGIN + THIRD, BEGIN + NODE_CERTIFICATE_LIFE + Millis::DAY] {
            assert!(matches!(at(&state, NODE, &mine, now), Renewal::Sign(c) if c.node == NODE));
        }
        // A renewal whose reply was lost: asked again with the old one.
        let mut state = state;
        let now = BEGIN + THIRD;
        let next = credential(NODE, now, 8);
        let renewed = Command::RenewCertificate {
            node: NODE,
            credential: Box::new(next.clone()),
            serial: 8,
        };
        state.apply(2, &renewed);
        assert_eq!(at(&state, NODE, &mine, now), Renewal::Again(Box::new(next)));
    }

    #[test]
    fn who_is_no_member_gets_no_certificate() {
        let (mut state, mine) = (cluster(), credential(NODE, BEGIN, SERIAL));
        let now = BEGIN + THIRD;
        let other = NodeId([2; 32]);
        let code = |renewal| match renewal {
            Renewal::Refused(code, _) => Some(code),
            _ => None,
        };
        assert_eq!(
            code(at(&state, other, &mine, now)),
            Some(RefusalCode::Other)
        );
        let stranger = credential(other, BEGIN, 9);
        let asked = at(&state, other, &stranger, now);
        assert_eq!(code(asked), Some(RefusalCode::Revoked));
        let revoke = Command::Revoke {
            serial: SERIAL,
            now,
        };
        state.apply(2, &revoke);
        assert_eq!(
            code(at(&state, NODE, &mine, now)),
            Some(RefusalCode::Revoked)
        );
        let node = NODE;
        state.apply(3, &Command::RemoveMember { node, now });
        assert_eq!(
            code(at(&state, NODE, &mine, now)),
            Some(RefusalCode::Revoked)
        );
    }

    #[test]
    fn an_ended_certificate_counts_only_without_a_leader() {
        let mine = credential(NODE, BEGIN, SERIAL);
        let end = BEGIN + NODE_CERTIFICATE_LIFE;
        let accepted = |has_leader, now| {
            let grace = grace(has_leader);
            mine.verify(testing::fleet(), now, grace).is_ok()
        };
        assert!(accepted(true, end + CLOCK_SLACK));
        assert!(!accepted(true, end + CLOCK_SLACK + Millis(1)));
        assert!(accepted(false, end + GRACE_WITHOUT_LEADER));
        assert!(!accepted(
            false,
            end + GRACE_WITHOUT_LEADER + CLOCK_SLACK + Millis(1)
        ));
    }
}
