//! Bugs in who is believed: about who is there, about what runs, about whose
//! word counts.

use super::{Sabotage, World};
use crate::sim::queue::{MS, SECOND};
use potluck_core::{
    auction::Authority,
    host::Event as HostEvent,
    scheduler::Event,
    session::{Heartbeat, Inventory, SlotReport, TaskState},
};
use potluck_specs::{Epoch, Millis, NodeId};
use std::collections::BTreeMap;

/// Gossip that stood still for this long condemns.
const STILL: u64 = 3 * SECOND;

/// For how long: a session that is not listened to is out by then.
const CONDEMNED: u64 = 8 * SECOND;

impl World {
    pub(in crate::sim) fn takes_old_slices(&self) -> bool {
        self.is_sabotaged(Sabotage::TakesOldSlices)
    }

    /// News as a scheduler gets it that believes too much or too little of who
    /// is there; `None`: it does not listen.
    pub(in crate::sim) fn bend_presence(&mut self, at: usize, event: Event) -> Option<Event> {
        match self.options.sabotage {
            Some(Sabotage::GossipAloneKills) => self.by_gossip_alone(at, event),
            Some(Sabotage::IgnoresProbes) => Some(match event {
                Event::Probed { by, about, .. } => Event::Probed {
                    by,
                    about,
                    reachable: false,
                },
                event => event,
            }),
            Some(Sabotage::IgnoresGossip) => match event {
                Event::Members { .. } => None,
                event => Some(event),
            },
            Some(Sabotage::TakesRecordsForReports) => match event {
                Event::GreetFailed { node } => Some(self.as_recorded(at, node)),
                event => Some(event),
            },
            _ => Some(event),
        }
    }

    fn by_gossip_alone(&mut self, at: usize, event: Event) -> Option<Event> {
        let now = self.queue.now();
        let is_condemned = |condemned: &BTreeMap<(usize, NodeId), u64>, node| {
            condemned.get(&(at, node)).is_some_and(|until| now < *until)
        };
        match event {
            Event::Members { mut members } => {
                for machine in &self.machines {
                    let host = self.index[&machine.node];
                    let moved = self.gossip.moved(at, host);
                    if host != at && moved.is_some_and(|moved| now > moved + STILL) {
                        let key = (at, machine.node);
                        self.sabotage.condemned.insert(key, now + CONDEMNED);
                    }
                }
                let condemned = &self.sabotage.condemned;
                members.retain(|member| !is_condemned(condemned, member.node));
                Some(Event::Members { members })
            }
            Event::Heartbeat { heartbeat } | Event::Greeted { heartbeat }
                if is_condemned(&self.sabotage.condemned, heartbeat.node) =>
            {
                None
            }
            Event::Probed { by, about, .. } if is_condemned(&self.sabotage.condemned, about) => {
                let reachable = false;
                Some(Event::Probed {
                    by,
                    about,
                    reachable,
                })
            }
            event => Some(event),
        }
    }

    /// What the log has of a host that did not answer, in the place of its own
    /// word; once a reign.
    fn as_recorded(&mut self, at: usize, node: NodeId) -> Event {
        let failed = Event::GreetFailed { node };
        let (Some(court), Some(replica)) = (self.courts.get(&at), self.control.replicas.get(&at))
        else {
            return failed;
        };
        if !self.sabotage.believed.insert((court.reign, node)) {
            return failed;
        }
        let cluster = &replica.cluster;
        let recorded = cluster.placements().values();
        let recorded = recorded.filter(|placement| placement.node == node);
        let slots = recorded.filter_map(|placement| {
            let job = cluster.jobs().get(&placement.slot.job)?;
            Some(SlotReport {
                slot: placement.slot.clone(),
                generation: placement.generation,
                version: job.current().version,
                state: TaskState::Running,
                healthy: true,
                ports: BTreeMap::new(),
                resources: Default::default(),
                starts: 1,
                failures: 0,
                last_end: None,
                since: Millis(0),
                ended: None,
                trouble: None,
            })
        });
        let total = self.machines[self.index[&node]].total;
        let heartbeat = Heartbeat {
            node,
            incarnation: 0,
            highest: court.scheduler.authority(),
            free: total,
            total,
            draining: false,
            pressure: 0,
            facts: None,
            sent_at: None,
            inventory: Inventory {
                since: None,
                number: 0,
                slots: slots.collect(),
                gone: Vec::new(),
            },
        };
        Event::Greeted { heartbeat }
    }

    /// A request at a host that goes by the reign before it goes by the epoch.
    pub(in crate::sim) fn by_reign_first(&self, at: usize, mut event: HostEvent) -> HostEvent {
        let highest = self.machines[at].journal.highest;
        if let Some(authority) = authority_of(&mut event)
            && authority.epoch > highest.epoch
            && authority.reign < highest.reign
        {
            authority.epoch = Epoch(0);
        }
        event
    }

    /// When a scheduler believes that its reign began: one that waits for ever
    /// has always just begun.
    pub(in crate::sim) fn bend_begin(&self, clock: Millis) -> Millis {
        match self.options.sabotage {
            Some(Sabotage::ForgetsEarlierLeases) => {
                Millis(clock.0.saturating_sub(2 * super::LEASE_MS))
            }
            Some(Sabotage::WaitsForEver) => Millis(u64::MAX / MS),
            _ => clock,
        }
    }

    /// A heartbeat of a host that tells the ages of its tasks the wrong way
    /// round, so that the youngest looks oldest.
    pub(super) fn with_ages_turned(heartbeat: &mut Heartbeat) {
        for report in &mut heartbeat.inventory.slots {
            report.since = Millis(u64::MAX - report.since.0);
        }
    }
}

fn authority_of(event: &mut HostEvent) -> Option<&mut Authority> {
    match event {
        HostEvent::Greet(authority) => Some(authority),
        HostEvent::Call { call, .. } => Some(&mut call.authority),
        HostEvent::Award { award, .. } => Some(&mut award.authority),
        HostEvent::Cancel { authority, .. } => Some(authority),
        HostEvent::Stop(order) => Some(&mut order.authority),
        HostEvent::HeartbeatAnswered(answer) => Some(&mut answer.authority),
        _ => None,
    }
}
