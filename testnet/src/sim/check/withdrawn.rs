//! Endpoints of tasks that are told to stop are withdrawn first, and those of
//! tasks that ended are not served for longer than it takes to notice.
//!
//! Source: "Before any stop, it is withdrawn first"; the other bound is the
//! time after which a silent host is unreachable, with room for probes: a
//! healthy endpoint is by then withdrawn or marked unhealthy. Counted only
//! while one scheduler acts all the time, since nobody else can withdraw.

use super::{Seen, Violation, World, broken};
use crate::sim::queue::SECOND;
use potluck_core::{
    scheduler::{Effect, ServiceEndpoints},
    session::TaskState,
};
use potluck_specs::{NodeId, SlotId};
use std::collections::BTreeMap;

const NAME: &str = "no endpoint of a stopped task";

/// A silent host is unreachable after 30 s; its last heartbeat, a probe's
/// patience and a tick come on top.
const NOTICED_AFTER: u64 = 35 * SECOND;

/// Between two looks at all endpoints.
const LOOK_EVERY: u64 = SECOND;

/// How long the scheduler may be silent and still count as acting.
const GAP: u64 = SECOND / 2;

/// What the acting scheduler says, and since when it is wrong.
#[derive(Debug, Default)]
pub struct Withdrawn {
    reign: u64,
    acting_since: u64,
    acted_at: u64,
    looked_at: u64,
    published: BTreeMap<(String, String), ServiceEndpoints>,
    wrong_since: BTreeMap<(SlotId, NodeId), u64>,
}

impl Withdrawn {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        let Seen::Decided { at, effects } = *seen else {
            return Ok(());
        };
        let Some(court) = world.courts.get(&at) else {
            return Ok(());
        };
        if court.reign < self.reign {
            return Ok(());
        }
        let now = world.now();
        if court.reign > self.reign {
            *self = Withdrawn {
                reign: court.reign,
                acting_since: now,
                ..Withdrawn::default()
            };
        }
        self.follow(world, at, effects)?;
        if !court.scheduler.may_act(world.machines[at].clock(now)) {
            return Ok(());
        }
        if now > self.acted_at + GAP {
            self.acting_since = now;
        }
        self.acted_at = now;
        if now < self.looked_at + LOOK_EVERY {
            return Ok(());
        }
        self.looked_at = now;
        self.look(world)
    }

    /// In the order in which they are carried out.
    fn follow(&mut self, world: &World, at: usize, effects: &[Effect]) -> Result<(), Violation> {
        for effect in effects {
            match effect {
                Effect::Publish { service } => {
                    let key = (service.namespace.clone(), service.service.clone());
                    self.published.insert(key, service.clone());
                }
                Effect::Stop { to, order } => {
                    let serves = |service: &ServiceEndpoints| {
                        let mut endpoints = service.endpoints.iter();
                        endpoints.any(|e| e.slot == order.slot && e.node == *to)
                    };
                    if self.published.values().any(serves) {
                        let what = format!(
                            "h{at} orders h{} to stop {} ({:?}) before it withdraws its endpoint",
                            world.index[to], order.slot, order.reason
                        );
                        return broken(NAME, what);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn look(&mut self, world: &World) -> Result<(), Violation> {
        let now = world.now();
        let mut wrong = BTreeMap::new();
        for endpoint in self
            .published
            .values()
            .flat_map(|service| &service.endpoints)
        {
            if !endpoint.healthy || runs(world, &endpoint.slot, endpoint.node) {
                continue;
            }
            let key = (endpoint.slot.clone(), endpoint.node);
            let since = self.wrong_since.get(&key).copied().unwrap_or(now);
            let counted = now - since.max(self.acting_since);
            if counted > NOTICED_AFTER {
                let what = format!(
                    "{} on h{} ended and is served as healthy for {} s since",
                    endpoint.slot,
                    world.index[&endpoint.node],
                    counted / SECOND
                );
                return broken(NAME, what);
            }
            wrong.insert(key, since);
        }
        self.wrong_since = wrong;
        Ok(())
    }
}

fn runs(world: &World, slot: &SlotId, node: NodeId) -> bool {
    let at = world.index[&node];
    if !world.held.holders(slot).any(|holder| holder == at) {
        return false;
    }
    match &world.machines[at].host {
        Some(host) => host
            .glances()
            .any(|at| at.slot == slot && at.state == TaskState::Running),
        None => true,
    }
}
