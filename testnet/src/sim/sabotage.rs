//! Bugs put back on purpose, to show that the checks bite.
//!
//! Each stands where the core meets the world: what goes into a step, what
//! comes out of it, or what of it is carried out is bent in the way in which
//! the bug would bend it. So no line of the product knows of them, and
//! whatever the core becomes they go on working.

mod authority;

use super::{
    client::LEASE_MS,
    exchange::Request,
    script::{Action, Whom},
    world::World,
};
use potluck_core::{
    auction::{AwardAnswer, Bid, CallAnswer, Refusal, StopReason},
    cluster::Command,
    host::{Answer, Effect as HostEffect, Event as HostEvent},
    scheduler::{Effect, Event},
    session::{Heartbeat, HeartbeatAnswer, TaskState},
};
use potluck_specs::{Millis, NodeId, SlotId, job::Resources};
use std::collections::{BTreeMap, BTreeSet};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Hosts take awards of any scheduler.
    IgnoresFence,
    /// Hosts fill a slot again that a later word has ended.
    ObeysOlderGenerations,
    /// Hosts don't store what authority they heard.
    ForgetsAuthority,
    /// Hosts bid without reserving.
    ForgetsReservations,
    /// Hosts believe that they have twice of everything.
    CountsDouble,
    /// Hosts take a task that was told to stop for ended.
    StartsBeforeEnd,
    /// Hosts say "yes" to a stop and go on.
    DropsStops,
    /// Hosts call a task healthy that has not started, or failed to.
    CallsStartedHealthy,
    /// No host has its session carried by another.
    NobodyCarries,
    /// Schedulers act as if most voters were always heard.
    ActsWithoutQuorum,
    /// Schedulers take a greeting's answer for an empty one.
    PlacesBeforeAsking,
    /// Schedulers take an award without an answer for refused.
    FreesUnknown,
    /// Schedulers stop no doubles.
    SkipsTrimming,
    /// Schedulers publish what is new, and withdraw nothing.
    KeepsEndpoints,
    /// The leader says "accepted" when it has proposed.
    AcceptsEarly,
    /// Hosts whose agents die as work ends don't know how it did.
    ForgetsEnds,
    /// Hosts hide that a task has ended and waits to be started again.
    HidesCrashes,
    /// Hosts don't name the slots whose tasks they are finding again.
    ForgetsAdopted,
    /// What schedulers write behind names the wrong host.
    RecordsElsewhere,
    /// Schedulers acknowledge ends that the log has not counted.
    AcknowledgesEarly,
    /// Hosts count leases from when the answer came.
    CountsFromReceipt,
    /// Schedulers award exclusive slots when they have proposed the holder.
    AwardsBeforeRecord,
    /// Schedulers take a silent holder's death for the end of its lease.
    TakesDeathForTheEnd,
    /// Schedulers take every lease of an earlier reign for over.
    ForgetsEarlierLeases,
    /// Schedulers take hosts for dead whose gossip stands still.
    GossipAloneKills,
    /// Schedulers take every probe for one that does not reach.
    IgnoresProbes,
    /// Schedulers hear no gossip.
    IgnoresGossip,
    /// New schedulers wait for every host, however long it hangs.
    WaitsForEver,
    /// New schedulers take what the log has of a host that does not answer for
    /// what it runs.
    TakesRecordsForReports,
    /// Those who keep slices take one of a lower revision.
    TakesOldSlices,
    /// Of two tasks of a slot the younger one stays.
    KeepsTheYounger,
    /// Hosts compare reigns before they compare epochs.
    ComparesReignsFirst,
}

/// What a saboteur must remember.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Slots of awards, until they are answered.
    awarded: BTreeMap<(NodeId, u64), Vec<SlotId>>,
    /// Hosts that a scheduler does not listen to, until then.
    condemned: BTreeMap<(usize, NodeId), u64>,
    /// Hosts whose records a reign took for their word.
    believed: BTreeSet<(u64, NodeId)>,
}

impl World {
    pub(super) fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.options.sabotage == Some(by)
    }

    /// What a host has of everything, as it believes.
    pub(super) fn believed_total(&self, at: usize) -> Resources {
        let total = self.machines[at].total;
        match self.is_sabotaged(Sabotage::CountsDouble) {
            true => total.plus(total),
            false => total,
        }
    }

    /// A request as the host's decisions get it.
    pub(super) fn bend_event(&self, at: usize, event: HostEvent) -> HostEvent {
        match self.options.sabotage {
            Some(Sabotage::IgnoresFence) => {}
            Some(Sabotage::ComparesReignsFirst) => return self.by_reign_first(at, event),
            _ => return event,
        }
        let highest = self.machines[at].journal.highest;
        match event {
            HostEvent::Award { mut award, job } => {
                award.authority = award.authority.max(highest);
                HostEvent::Award { award, job }
            }
            HostEvent::Call {
                mut call,
                missing_bytes,
            } => {
                call.authority = call.authority.max(highest);
                HostEvent::Call {
                    call,
                    missing_bytes,
                }
            }
            HostEvent::Stop(mut order) => {
                order.authority = order.authority.max(highest);
                HostEvent::Stop(order)
            }
            other => other,
        }
    }

    /// Is the request swallowed before the host's decisions get it?
    pub(super) fn swallows(&self, event: &HostEvent) -> bool {
        self.is_sabotaged(Sabotage::DropsStops) && matches!(event, HostEvent::Stop(_))
    }

    /// An answer of a host, and what else its bug does.
    pub(super) fn bend_answer(&mut self, at: usize, request: &Request, answer: Answer) -> Answer {
        match (self.options.sabotage, request, &answer) {
            (
                Some(Sabotage::ForgetsReservations),
                Request::Call(call),
                Answer::Call(CallAnswer::Bid(Bid { .. })),
            ) => {
                let (authority, call) = (call.authority, call.call);
                self.step_host(at, HostEvent::Cancel { authority, call });
                answer
            }
            (Some(Sabotage::ObeysOlderGenerations), Request::Award(award), Answer::Award(said))
                if said.slots.iter().any(|(_, answer)| is_stale(answer)) =>
            {
                const LATER: u64 = 1_000_000;
                let mut award = (**award).clone();
                for (_, generation) in &mut award.slots {
                    generation.sequence += LATER;
                }
                let job = award.job.decode_unchecked().map(std::sync::Arc::new);
                let job = job.map_err(|error| error.to_string());
                self.step_host(at, HostEvent::Award { award, job })
                    .unwrap_or(answer)
            }
            _ => answer,
        }
    }

    /// A heartbeat or inventory as it leaves the host.
    pub(super) fn bend_report(&self, heartbeat: &mut Heartbeat, greeting: bool) {
        match self.options.sabotage {
            Some(Sabotage::PlacesBeforeAsking) if greeting => heartbeat.inventory.slots.clear(),
            Some(Sabotage::ForgetsAdopted) => {
                let slots = &mut heartbeat.inventory.slots;
                slots.retain(|report| report.state != TaskState::Adopting);
            }
            Some(Sabotage::KeepsTheYounger) => Self::with_ages_turned(heartbeat),
            Some(Sabotage::HidesCrashes) => {
                for report in &mut heartbeat.inventory.slots {
                    if report.state == TaskState::Backoff {
                        (report.state, report.healthy) = (TaskState::Running, true);
                    }
                }
            }
            Some(Sabotage::CallsStartedHealthy) => {
                for report in &mut heartbeat.inventory.slots {
                    let down = [TaskState::Fetching, TaskState::Starting, TaskState::Backoff];
                    if down.contains(&report.state) {
                        report.state = TaskState::Running;
                    }
                    report.healthy |= report.state == TaskState::Running;
                }
            }
            _ => {}
        }
    }

    /// Is an effect of a host not carried out? With what else its bug does.
    pub(super) fn spoils(&mut self, at: usize, effect: &HostEffect) -> bool {
        match (self.options.sabotage, effect) {
            (Some(Sabotage::ForgetsAuthority), HostEffect::PersistAuthority(_)) => true,
            (Some(Sabotage::ForgetsEnds), HostEffect::JournalPut { entry, .. })
                if entry.ended.is_some() && self.rng.chance(200) =>
            {
                let (whom, whole, down_ms) = (Whom::Host(at), false, 500);
                let action = Action::Crash {
                    whom,
                    whole,
                    down_ms,
                };
                self.queue
                    .after(0, super::world::Due::Act(Box::new(action)));
                false
            }
            (Some(Sabotage::StartsBeforeEnd), HostEffect::SignalStop { run, .. }) => {
                let due = super::agent::HostDue::LostKilled(run.clone());
                let life = self.machines[at].life;
                self.queue
                    .after(0, super::world::Due::Host { at, life, due });
                false
            }
            _ => false,
        }
    }

    /// An agent is about to start from its journal.
    pub(super) fn bend_journal(&mut self, at: usize) {
        if self.is_sabotaged(Sabotage::ForgetsEnds) {
            for entry in self.machines[at].journal.entries.values_mut() {
                entry.ended = None;
            }
        }
    }

    /// A heartbeat's answer as the host gets it.
    pub(super) fn bend_answer_to_beat(
        &self,
        at: usize,
        mut answer: HeartbeatAnswer,
    ) -> HeartbeatAnswer {
        if let Some(renewals) = &mut answer.renewals {
            match self.options.sabotage {
                Some(Sabotage::CountsFromReceipt) => {
                    renewals.sent_at = self.machines[at].clock(self.queue.now());
                }
                // The scheduler believes that they last no time.
                Some(Sabotage::TakesDeathForTheEnd) => {
                    for renewal in &mut renewals.leases {
                        renewal.lease = Millis(LEASE_MS);
                    }
                }
                _ => {}
            }
        }
        answer
    }

    /// What a scheduler proposes.
    pub(super) fn bend_proposal(&mut self, at: usize, mut command: Command) -> Command {
        let Command::RecordExclusive { held, .. } = &mut command else {
            return command;
        };
        match self.options.sabotage {
            Some(Sabotage::TakesDeathForTheEnd) => {
                for holder in held {
                    holder.lease = Millis(0);
                }
            }
            Some(Sabotage::AwardsBeforeRecord) => {
                if let Some(replica) = self.control.replicas.get_mut(&at) {
                    replica.cluster.apply(replica.cluster.applied(), &command);
                }
            }
            _ => {}
        }
        command
    }

    /// An event as the scheduler gets it.
    pub(super) fn bend_news(&mut self, event: Event) -> Event {
        match event {
            Event::AwardLost { node, call } if self.is_sabotaged(Sabotage::FreesUnknown) => {
                let slots = self
                    .sabotage
                    .awarded
                    .remove(&(node, call))
                    .unwrap_or_default();
                let slots = slots.into_iter().map(|slot| (slot, Err(Refusal::Busy)));
                let answer = AwardAnswer {
                    slots: slots.collect(),
                };
                Event::AwardAnswered { node, call, answer }
            }
            event => event,
        }
    }

    /// What a scheduler has the log note of where things are.
    pub(super) fn bend_record(&self, mut command: Command) -> Command {
        if let (true, Command::RecordPlacements { filled, .. }) =
            (self.is_sabotaged(Sabotage::RecordsElsewhere), &mut command)
        {
            for placement in filled {
                let host = self.index.get(&placement.node).copied().unwrap_or(0);
                placement.node = self.machines[(host + 1) % self.machines.len()].node;
            }
        }
        command
    }

    /// What a scheduler tells a host to forget.
    pub(super) fn bend_forgetting(&self, to: NodeId, mut said: HeartbeatAnswer) -> HeartbeatAnswer {
        if self.is_sabotaged(Sabotage::AcknowledgesEarly)
            && let Some(host) = &self.machines[self.index[&to]].host
        {
            let ended = host.slots().into_iter().filter(|slot| slot.ended.is_some());
            said.forget
                .extend(ended.map(|report| (report.slot, report.generation)));
        }
        said
    }

    /// What a scheduler wants done.
    pub(super) fn bend_effects(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        if self.options.sabotage.is_none() {
            return effects;
        }
        let bent = effects.into_iter();
        bent.filter(|effect| !self.withholds(effect)).collect()
    }

    fn withholds(&mut self, effect: &Effect) -> bool {
        match (self.options.sabotage, effect) {
            (Some(Sabotage::FreesUnknown), Effect::Award { to, award }) => {
                let slots = award.slots.iter().map(|(slot, _)| slot.clone());
                self.sabotage
                    .awarded
                    .insert((*to, award.call), slots.collect());
                false
            }
            (Some(Sabotage::SkipsTrimming), Effect::Stop { order, .. }) => {
                order.reason == StopReason::Double
            }
            (Some(Sabotage::KeepsEndpoints), Effect::Publish { service }) => {
                let key = (service.namespace.clone(), service.service.clone());
                let before = self.published.get(&key);
                before.is_some_and(|(_, before)| before.endpoints.len() > service.endpoints.len())
            }
            _ => false,
        }
    }
}

fn is_stale(answer: &Result<(), Refusal>) -> bool {
    matches!(answer, Err(Refusal::StaleGeneration { .. }))
}
