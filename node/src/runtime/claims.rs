//! Which words of other nodes are believed: a scheduler's orders, and the
//! authorities that nodes claim to have heard of. Pure.
//!
//! A single authority that is too high would silence every scheduler to come:
//! schedulers yield to it, and nodes refuse all below it. So none is taken
//! that nobody can have, from requests or from answers.

use crate::wire::{Request, Response};
use potluck_core::auction::{Authority, CallAnswer, Refusal};
use potluck_specs::{
    Epoch, NodeId,
    trust::{NodeCertificate, NodeRole},
};

/// How far ahead of this node's log a reign may be: more than a follower that
/// was cut off for weeks lacks, far less than what would silence schedulers.
const REIGN_AHEAD_MAX: u64 = 100_000_000;

/// What this node knows of who can reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The epoch of this node: it knows that before it knows any log.
    pub epoch: Epoch,
    /// Genesis is in this node's log; before, nothing is known.
    pub has_begun: bool,
    /// The last index of its log.
    pub last_index: u64,
}

impl Known {
    /// Can a scheduler of this cluster have this authority? Epochs rise by
    /// recovery only, whose order every node asks for before it starts anew in
    /// the later epoch; a reign is an index of the log, which a node that
    /// follows it knows well enough.
    pub(super) fn can_have(&self, authority: Authority) -> bool {
        if authority.epoch > self.epoch {
            return false;
        }
        let reign_max = self.last_index.saturating_add(REIGN_AHEAD_MAX);
        !self.has_begun || authority.reign.0 <= reign_max
    }
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    /// Only who may come to lead gives orders.
    #[error("the sender can't be a scheduler: its certificate makes it no voter")]
    NoScheduler,
    /// It would silence every scheduler to come.
    #[error("no scheduler of this cluster can have the authority that is claimed")]
    NobodyHas(Authority),
    /// Who sends is proven, whose word it claims to be is not.
    #[error("a heartbeat is sent by its own node")]
    NotItsOwn,
}

/// May this node, with this certificate, say this?
///
/// # Errors
/// Why not.
pub(super) fn may_say(
    from: NodeId,
    certificate: &NodeCertificate,
    request: &Request,
    known: &Known,
) -> Result<(), NotTaken> {
    let order = match request {
        Request::Greet(authority) => *authority,
        Request::Call(call) => call.authority,
        Request::Award(award) => award.authority,
        Request::Cancel { authority, .. } => *authority,
        Request::Stop(order) => order.authority,
        Request::Heartbeat { heartbeat, .. } if heartbeat.node != from => {
            return Err(NotTaken::NotItsOwn);
        }
        Request::Heartbeat { heartbeat, .. } => return can_have(known, heartbeat.highest),
        _ => return Ok(()),
    };
    if !certificate.roles.contains(&NodeRole::VoterEligible) {
        return Err(NotTaken::NoScheduler);
    }
    can_have(known, order)
}

/// May a scheduler hear this answer of a node, or a node that of a scheduler?
///
/// # Errors
/// Why not: it is then as if none had come.
pub(super) fn may_answer(from: NodeId, response: &Response, known: &Known) -> Result<(), NotTaken> {
    let stale = |refusal: &Refusal| match refusal {
        Refusal::StaleAuthority { highest } => can_have(known, *highest),
        _ => Ok(()),
    };
    match response {
        Response::Inventory(heartbeat) if heartbeat.node != from => Err(NotTaken::NotItsOwn),
        Response::Inventory(heartbeat) => can_have(known, heartbeat.highest),
        Response::Heartbeat { answer, .. } => can_have(known, answer.authority),
        Response::Call(CallAnswer::Refusal(refusal)) => stale(refusal),
        Response::Award(answer) => answer
            .slots
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().err())
            .try_for_each(stale),
        _ => Ok(()),
    }
}

fn can_have(known: &Known, authority: Authority) -> Result<(), NotTaken> {
    match known.can_have(authority) {
        true => Ok(()),
        false => Err(NotTaken::NobodyHas(authority)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Issuer;
    use crate::testing;
    use potluck_core::{
        auction::{Award, AwardAnswer, Call, StopOrder, StopReason},
        session::{Heartbeat, Inventory},
    };
    use potluck_specs::{JobName, Millis, PackageId, Reign, SlotId, Topology, job::Resources};
    use std::collections::BTreeMap;

    const SENDER: NodeId = NodeId([1; 32]);
    const KNOWN: Known = Known {
        epoch: Epoch(1),
        has_begun: true,
        last_index: 50,
    };

    const fn authority(epoch: u64, reign: u64) -> Authority {
        Authority {
            epoch: Epoch(epoch),
            reign: Reign(reign),
        }
    }

    fn certificate(roles: &[NodeRole]) -> NodeCertificate {
        let issuer: Issuer = testing::issuer();
        let topology = Topology::in_rack("main", "r1");
        let name = potluck_specs::NodeName("n1".into());
        let credential = issuer.issue(SENDER, name, topology, roles, Millis(0), 1);
        let verified = credential.verify(issuer.fleet(), Millis(0), Millis(0));
        verified.expect("just issued")
    }

    fn slot() -> SlotId {
        let (namespace, name) = ("default".into(), "web".into());
        SlotId {
            job: JobName { namespace, name },
            index: 0,
        }
    }

    fn heartbeat(node: NodeId, highest: Authority) -> Heartbeat {
        Heartbeat {
            node,
            incarnation: 1,
            highest,
            free: Resources::default(),
            total: Resources::default(),
            draining: false,
            pressure: 0,
            sent_at: None,
            facts: None,
            inventory: Inventory {
                since: None,
                number: 1,
                slots: Vec::new(),
                gone: Vec::new(),
            },
        }
    }

    /// Every word that only a scheduler says.
    fn orders(authority: Authority) -> Vec<Request> {
        let call = Call {
            authority,
            call: 1,
            job: slot().job,
            version: 1,
            wanted: 1,
            each_most: None,
            devices: BTreeMap::new(),
            resources: Resources::default(),
            ports: Vec::new(),
            package: PackageId([0; 32]),
            package_bytes: 0,
        };
        let award = Award {
            authority,
            call: 1,
            slots: Vec::new(),
            job: testing::signed_job(Millis(0)).into(),
            package_bytes: 0,
            holders: Vec::new(),
        };
        let stop = StopOrder {
            authority,
            slot: slot(),
            generation: authority.generation(1),
            reason: StopReason::JobStopped,
        };
        vec![
            Request::Greet(authority),
            Request::Call(call),
            Request::Award(award),
            Request::Cancel { authority, call: 1 },
            Request::Stop(stop),
        ]
    }

    /// Claims that nobody can have made good.
    fn absurd() -> [Authority; 3] {
        [
            authority(1, u64::MAX),
            authority(2, 1),
            authority(1, KNOWN.last_index + REIGN_AHEAD_MAX + 1),
        ]
    }

    #[test]
    fn orders_come_from_those_who_may_lead() {
        let voter = certificate(&[NodeRole::Agent, NodeRole::VoterEligible]);
        let agent = certificate(&[NodeRole::Agent]);
        for order in orders(authority(1, 40)) {
            assert_eq!(may_say(SENDER, &voter, &order, &KNOWN), Ok(()), "{order:?}");
            let refused = may_say(SENDER, &agent, &order, &KNOWN);
            assert_eq!(refused, Err(NotTaken::NoScheduler), "{order:?}");
        }
        // What every node may say.
        for word in [Request::Raft(Vec::new()), Request::Probe(SENDER)] {
            assert_eq!(may_say(SENDER, &agent, &word, &KNOWN), Ok(()), "{word:?}");
        }
    }

    #[test]
    fn an_order_under_an_absurd_authority_is_not_taken() {
        let voter = certificate(&[NodeRole::VoterEligible]);
        for claimed in absurd() {
            for order in orders(claimed) {
                let refused = may_say(SENDER, &voter, &order, &KNOWN);
                assert_eq!(refused, Err(NotTaken::NobodyHas(claimed)), "{order:?}");
            }
        }
    }

    #[test]
    fn a_heartbeat_with_an_absurd_authority_silences_nobody() {
        let agent = certificate(&[NodeRole::Agent]);
        let said = |node, highest| {
            let request = Request::Heartbeat {
                heartbeat: heartbeat(node, highest),
                process: 1,
                condition: None,
            };
            may_say(SENDER, &agent, &request, &KNOWN)
        };
        for claimed in absurd() {
            assert_eq!(said(SENDER, claimed), Err(NotTaken::NobodyHas(claimed)));
        }
        // A scheduler that this node has not heard of yet may well be there.
        assert_eq!(said(SENDER, authority(1, 40)), Ok(()));
        assert_eq!(said(SENDER, authority(1, 90_000)), Ok(()));
        let other = NodeId([2; 32]);
        assert_eq!(said(other, authority(1, 40)), Err(NotTaken::NotItsOwn));
    }

    #[test]
    fn no_answer_silences_a_scheduler_either() {
        let answers = |highest| {
            let stale = Refusal::StaleAuthority { highest };
            let slots = vec![(slot(), Ok(())), (slot(), Err(stale.clone()))];
            [
                Response::Inventory(heartbeat(SENDER, highest)),
                Response::Call(CallAnswer::Refusal(stale)),
                Response::Award(AwardAnswer { slots }),
            ]
        };
        for claimed in absurd() {
            for answer in answers(claimed) {
                let refused = may_answer(SENDER, &answer, &KNOWN);
                assert_eq!(refused, Err(NotTaken::NobodyHas(claimed)), "{answer:?}");
            }
        }
        for answer in answers(authority(1, 45)) {
            assert_eq!(may_answer(SENDER, &answer, &KNOWN), Ok(()), "{answer:?}");
        }
        let foreign = Response::Inventory(heartbeat(NodeId([2; 32]), authority(1, 40)));
        let refused = may_answer(SENDER, &foreign, &KNOWN);
        assert_eq!(refused, Err(NotTaken::NotItsOwn));
    }

    #[test]
    fn before_genesis_every_reign_is_possible() {
        let nothing = Known {
            has_begun: false,
            ..KNOWN
        };
        assert!(nothing.can_have(authority(1, u64::MAX)));
        // But for the epoch, which its own files name.
        assert!(!nothing.can_have(authority(2, 1)));
        let later = Known {
            last_index: u64::MAX,
            ..KNOWN
        };
        assert!(later.can_have(authority(1, u64::MAX)));
    }
}
