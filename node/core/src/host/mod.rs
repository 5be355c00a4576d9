//! What a node decides: which calls it bids for, which awards it takes, and
//! the life of its tasks.
//!
//! Answers for the fence (the highest authority heard from anyone), for
//! reservations and commitments (never more than the node has), for each
//! slot's state machine and for the numbering of inventories. Carrying the
//! effects out, timers, and the lease between agent and helper belong to the
//! agent's actor.

mod encoded;
mod ends;
mod history;
mod lease;
mod life;
pub mod message;
mod ports;
mod redacted;
mod reports;
mod reservations;
mod slot;
#[cfg(test)]
mod tests;

pub use life::pause;
pub use message::{Answer, Effect, End, Entry, Event, Run, Start};

use crate::{
    attributes::{Facts, meets, text},
    auction::{Authority, Award, AwardAnswer, Bid, Call, CallAnswer, Refusal, StopOrder},
    session::{Heartbeat, HeartbeatAnswer, Inventory, SlotReport, TaskState},
};
use history::{Ended, Failures};
use ports::Ports;
use potluck_specs::{
    Generation, Job, JobName, Millis, NodeId, SlotId,
    job::{Level, Resources, StopPolicy},
};
use reports::Reports;
use reservations::{HOLDS, Reservation, Reservations};
use serde::{Deserialize, Serialize};
use slot::{Slot, State};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How long a restarted agent waits for the helpers of its former life: 500 of
/// them register within 100 ms; the rest is for a host that is very busy.
pub const ADOPTION_LIMIT: Millis = Millis(5_000);

/// Slots of a node. Far above what the resources of a host allow; a full
/// inventory of them still fits into a message.
pub const SLOTS_MAX: usize = 2_000;

/// Holders of a package that are remembered of an award: a fetch asks a few,
/// and the journal keeps them.
pub const HOLDERS_MAX: usize = 32;

/// What a node knows about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// The node.
    pub node: NodeId,
    /// Changes with each start of the agent.
    pub incarnation: u64,
    /// All that the node has for tasks.
    pub total: Resources,
    /// First port that may be chosen for a task.
    pub port_first: u16,
    /// Last port that may be chosen for a task.
    pub port_last: u16,
    /// Unix time minus the time that [`Host::step`] is told, for reports.
    pub unix_offset: Millis,
    /// How long helpers of the agent's former life are waited for:
    /// [`ADOPTION_LIMIT`], or nothing after the host was booted, since there
    /// are none.
    pub adoption_limit: Millis,
}

/// A node's decisions. Written down whole where a recording begins
/// (`crate::record`), so a new field needs a default there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    config: HostConfig,
    highest: Authority,
    slots: BTreeMap<SlotId, Slot>,
    reservations: Reservations,
    ports: Ports,
    ended: Ended,
    failures: Failures,
    reports: Reports,
    draining: bool,
    facts: Facts,
    pressure: u8,
    leases: lease::Leases,
    /// Until when helpers of the agent's former life are waited for.
    adopt_until: Option<Millis>,
}

/// The effects of one step, in three parts: what must be durable, then the
/// answer, then what follows.
#[derive(Default)]
struct Effects {
    durable: Vec<Effect>,
    answer: Option<Answer>,
    then: Vec<Effect>,
    changed: bool,
}

impl Effects {
    fn finish(self) -> Vec<Effect> {
        let mut all = self.durable;
        all.extend(self.answer.map(Effect::Answer));
        all.extend(self.then);
        all.extend(self.changed.then_some(Effect::ReportChanged));
        all
    }
}

/// One slot at a glance: what most who look at all of them want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance<'a> {
    /// The slot.
    pub slot: &'a SlotId,
    /// Under which generation it is filled.
    pub generation: Generation,
    /// What its task is doing.
    pub state: TaskState,
    /// It passes its health check; without one: it runs.
    pub healthy: bool,
}

impl Host {
    /// A host with what its journal holds, `now` on its boot-time clock. Slots
    /// from the journal are `Adopting` until their helpers are found or given
    /// up.
    pub fn new(config: HostConfig, highest: Authority, restored: Vec<Entry>, now: Millis) -> Host {
        let mut host = Host {
            ports: Ports::new(config.port_first, config.port_last),
            adopt_until: (!restored.is_empty()).then_some(now + config.adoption_limit),
            config,
            highest,
            slots: BTreeMap::new(),
            reservations: Reservations::default(),
            ended: Ended::default(),
            failures: Failures::default(),
            reports: Reports::default(),
            draining: false,
            facts: Facts::default(),
            pressure: 0,
            leases: lease::Leases::new(now),
        };
        for entry in restored {
            let state = ends::restored(&entry);
            let mut slot = Slot::new(entry, state, now);
            slot.changed = host.reports.next();
            host.slots.insert(slot.entry.slot.clone(), slot);
        }
        host
    }

    /// What follows from an event.
    pub fn step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut effects = Effects::default();
        self.reservations.expire(now);
        self.ports.expire(now);
        match event {
            Event::Call {
                call,
                missing_bytes,
            } => {
                let answer = match self.call(&call, missing_bytes, now, &mut effects) {
                    Ok(bid) => CallAnswer::Bid(bid),
                    Err(refusal) => CallAnswer::Refusal(refusal),
                };
                effects.answer = Some(Answer::Call(answer));
            }
            Event::Award { award, job } => {
                let answer = self.award(award, job, now, &mut effects);
                effects.answer = Some(Answer::Award(answer));
            }
            Event::Cancel { authority, call } => {
                let heard = self.hear(authority, &mut effects);
                if heard.is_ok() {
                    self.reservations.take(authority, call);
                }
                effects.answer = Some(Answer::Cancel(heard));
            }
            Event::Stop(order) => {
                let answer = self.stop(&order, now, &mut effects);
                effects.answer = Some(Answer::Stop(answer));
            }
            Event::Greet(authority) => {
                let answer = self.greet(authority, now, &mut effects);
                effects.answer = Some(Answer::Greet(answer));
            }
            Event::Heartbeat => {
                let since = self.reports.since();
                effects.answer = Some(Answer::Heartbeat(self.heartbeat(since, now)));
            }
            Event::HeartbeatAnswered(answer) => {
                self.heartbeat_answered(answer, now, &mut effects);
            }
            Event::SetDraining(draining) => {
                effects.changed = self.draining != draining;
                self.draining = draining;
            }
            Event::SetFacts(facts) => {
                if self.facts != facts {
                    self.facts = facts;
                    // They go with full inventories only.
                    self.reports.restart();
                    effects.changed = true;
                }
            }
            Event::SetPressure(pressure) => self.pressure = pressure.min(100),
            Event::Leave => self.leave(now, &mut effects),
            Event::Fetched { slot, origin } => self.fetched(&slot, origin, now, &mut effects),
            Event::FetchFailed { slot, origin, why } => {
                self.fetch_failed(&slot, origin, why, now, &mut effects);
            }
            Event::Running(run) => self.running(run, now, &mut effects),
            Event::Exited { run, end } => self.exited(&run, end, now, &mut effects),
            Event::HealthChanged { run, healthy } => {
                self.health_changed(&run, healthy, &mut effects)
            }
            Event::Troubled { run, trouble } => self.troubled(&run, trouble, &mut effects),
            Event::Tick => {}
        }
        self.tick(now, &mut effects);
        effects.finish()
    }

    /// When [`Event::Tick`] is due next.
    pub fn wake_at(&self) -> Option<Millis> {
        let slots = self.slots.values().filter_map(Slot::wake_at);
        slots.chain(self.adopt_until).min()
    }

    /// The highest authority heard from anyone.
    pub fn highest(&self) -> Authority {
        self.highest
    }

    /// All slots, in order.
    pub fn slots(&self) -> Vec<SlotReport> {
        let reports = self.slots.values();
        reports
            .map(|slot| slot.report(self.config.unix_offset))
            .collect()
    }

    /// All slots, in order, with what tells how they stand.
    pub fn glances(&self) -> impl Iterator<Item = Glance<'_>> {
        self.slots.values().map(Slot::glance)
    }

    /// What is held of a job, by its latest version here: for a recovered log
    /// that lacks it.
    pub fn held(&self, job: &JobName) -> Option<&Entry> {
        let entries = self.slots.values().map(|slot| &slot.entry);
        entries
            .filter(|entry| entry.slot.job == *job)
            .max_by_key(|entry| entry.job.version)
    }

    /// The generation that names the folders of what fills a slot.
    pub fn origin(&self, slot: &SlotId) -> Option<Generation> {
        self.slots.get(slot).map(|slot| slot.entry.origin)
    }

    /// How the task of a run is told to stop, while it fills its slot.
    pub fn stop_policy(&self, run: &Run) -> Option<StopPolicy> {
        let slot = self.slots.get(&run.slot)?;
        slot.is(run).then(|| slot.entry.job.task.stop)
    }

    /// Still waits for helpers of the agent's former life.
    pub fn adopting(&self) -> bool {
        self.adopt_until.is_some()
    }

    /// What slots take.
    pub fn committed(&self) -> Resources {
        let slots = self.slots.values().map(Slot::committed);
        slots.fold(Resources::default(), Resources::plus)
    }

    /// What open bids take.
    pub fn reserved(&self) -> Resources {
        self.reservations.total()
    }

    /// What is left.
    pub fn free(&self) -> Resources {
        let taken = self.committed().plus(self.reserved());
        self.config.total.minus(taken)
    }

    /// The fence: refuses what is not of the highest authority, and raises it.
    fn hear(&mut self, authority: Authority, effects: &mut Effects) -> Result<(), Refusal> {
        if authority < self.highest {
            return Err(Refusal::StaleAuthority {
                highest: self.highest,
            });
        }
        if authority > self.highest {
            self.highest = authority;
            self.reservations.drop_before(authority);
            self.reports.restart();
            effects.durable.push(Effect::PersistAuthority(authority));
        }
        Ok(())
    }

    fn call(
        &mut self,
        call: &Call,
        missing_bytes: u64,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Bid, Refusal> {
        self.hear(call.authority, effects)?;
        self.takes_work()?;
        self.reservations.take(call.authority, call.call);
        if self.reservations.full() {
            return Err(Refusal::Busy);
        }
        let free = self.free();
        let slots = self.room(call, free)?;
        let fixed = call.ports.iter().filter_map(|port| port.number);
        let reservation = Reservation {
            slots,
            each: call.resources,
            devices: call.devices.clone(),
            ports: fixed.collect(),
            until: now + HOLDS,
        };
        self.reservations
            .put(call.authority, call.call, reservation);
        Ok(Bid {
            call: call.call,
            slots,
            free,
            total: self.config.total,
            missing_bytes,
            failures: self.failures.count(&call.job, now),
            pressure: self.pressure,
            holds: HOLDS,
        })
    }

    fn takes_work(&self) -> Result<(), Refusal> {
        if self.adopting() {
            return Err(Refusal::Adopting);
        }
        if self.draining {
            return Err(Refusal::Draining);
        }
        Ok(())
    }

    /// How many of the called slots fit.
    fn room(&self, call: &Call, free: Resources) -> Result<u32, Refusal> {
        fits(&free, &call.resources)?;
        let mut taken = self.taken_ports(None);
        taken.extend(self.reservations.ports());
        let by_ports = self.ports.room(&call.ports, &taken)?;
        let open = SLOTS_MAX.saturating_sub(self.slots.len()) as u32;
        if open == 0 {
            return Err(Refusal::Busy);
        }
        let by_devices = self.device_room(&call.devices, None)?;
        Ok(call
            .wanted
            .min(call.each_most.unwrap_or(u32::MAX).max(1))
            .min(by_ports)
            .min(open)
            .min(by_devices)
            .min(how_often(&free, &call.resources)))
    }

    /// How many tasks with these devices fit, besides what `own` has.
    fn device_room(
        &self,
        need: &BTreeMap<String, u32>,
        own: Option<&SlotId>,
    ) -> Result<u32, Refusal> {
        let mut room = u32::MAX;
        for (kind, need) in need.iter().filter(|(_, need)| **need > 0) {
            let all = self.facts.devices.get(kind).copied().unwrap_or(0);
            let others = self.slots.iter().filter(|(id, _)| Some(*id) != own);
            let taken: u32 = others.map(|(_, slot)| slot.devices(kind)).sum();
            let free = all.saturating_sub(taken.saturating_add(self.reservations.devices(kind)));
            if free < *need {
                return Err(Refusal::Device {
                    kind: kind.clone(),
                    need: *need,
                    free,
                });
            }
            room = room.min(free / need);
        }
        Ok(room)
    }

    /// The first requirement that the node does not meet. Its name and place
    /// are the log's to know.
    fn requires_too_much(&self, job: &Job) -> Option<Refusal> {
        let places = Level::ALL.map(Level::name);
        let mut requirements = job.placement.requirements.iter();
        let unmet = requirements.find(|requirement| {
            let attribute = requirement.attribute.as_str();
            !places.contains(&attribute) && !meets(requirement, self.facts.get(attribute))
        })?;
        Some(Refusal::Requirement {
            requirement: text(unmet),
            has: self.facts.get(&unmet.attribute).map(str::to_owned),
        })
    }

    /// Numbers that no new task may have; those of `own` it may.
    fn taken_ports(&self, own: Option<&SlotId>) -> BTreeSet<u16> {
        let others = self.slots.iter().filter(|(id, _)| Some(*id) != own);
        others.flat_map(|(_, slot)| slot.ports()).collect()
    }

    fn award(
        &mut self,
        award: Award,
        job: Result<Arc<Job>, String>,
        now: Millis,
        effects: &mut Effects,
    ) -> AwardAnswer {
        let heard = self.hear(award.authority, effects);
        let job = heard.and_then(|()| job.map_err(|why| Refusal::Untrusted { why }));
        let template = job.map(|job| Offer {
            job,
            signed: award.job,
            package_bytes: award.package_bytes,
            holders: award.holders.into_iter().take(HOLDERS_MAX).collect(),
        });
        // The bid ends here: what it reserved is free for these slots, which
        // nobody else can take in between.
        self.reservations.take(award.authority, award.call);
        let fill = |(slot, generation): (SlotId, Generation)| {
            let answer = match &template {
                Err(refusal) => Err(refusal.clone()),
                Ok(offer) => self.award_slot(&slot, generation, offer, now, effects),
            };
            (slot, answer)
        };
        AwardAnswer {
            slots: award.slots.into_iter().map(fill).collect(),
        }
    }

    fn award_slot(
        &mut self,
        id: &SlotId,
        generation: Generation,
        offer: &Offer,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if offer.job.name != id.job {
            let why = format!("the job is signed as {}, not for {id}", offer.job.name);
            return Err(Refusal::Untrusted { why });
        }
        self.not_over(id, generation)?;
        if let Some(slot) = self.slots.get(id) {
            if slot.entry.generation == generation {
                return Ok(());
            }
            let over = slot.state == State::Stopped || slot.entry.ended.is_some();
            let goes_on = slot.entry.stop.is_none() && !over;
            // The token of an exclusive task is what it was started with.
            let exclusive = lease::is_exclusive(&slot.entry);
            if goes_on && !exclusive && offer.same_as(&slot.entry) {
                self.adopt_generation(id, generation, effects);
                return Ok(());
            }
        }
        self.takes_work()?;
        if let Some(refusal) = self.requires_too_much(&offer.job) {
            return Err(refusal);
        }
        self.device_room(&offer.job.task.devices, Some(id))?;
        let need = offer.job.task.resources;
        let ports = self.choose_ports(id, &offer.job)?;
        self.check_room(id, need)?;
        let entry = offer.entry(id, generation, ports);
        self.fill(entry, now, effects);
        Ok(())
    }

    /// Refuses a generation that is over for the slot, or overtaken.
    fn not_over(&self, id: &SlotId, generation: Generation) -> Result<(), Refusal> {
        let held = self.slots.get(id).map(|slot| &slot.entry);
        if let Some(entry) = held {
            let holds = entry.generation;
            if holds > generation || (holds == generation && entry.stop.is_some()) {
                return Err(Refusal::StaleGeneration { holds });
            }
        }
        match self.ended.generation(id) {
            Some(holds) if holds >= generation => Err(Refusal::StaleGeneration { holds }),
            _ => Ok(()),
        }
    }

    /// Numbers that neither other slots nor other open bids have. A fixed one
    /// may be that of the slot's own predecessor, which ends before.
    fn choose_ports(&self, id: &SlotId, job: &Job) -> Result<BTreeMap<String, u16>, Refusal> {
        let mut taken = self.taken_ports(Some(id));
        taken.extend(self.reservations.ports());
        let own = self.slots.get(id).into_iter().flat_map(Slot::ports);
        self.ports.choose(&job.task.ports, &taken, &own.collect())
    }

    /// What is free for the slot if `need` replaces what fills it now.
    fn check_room(&self, id: &SlotId, need: Resources) -> Result<(), Refusal> {
        let Some(slot) = self.slots.get(id) else {
            if self.slots.len() >= SLOTS_MAX {
                return Err(Refusal::Busy);
            }
            return fits(&self.free(), &need);
        };
        let more = slot.committed_replaced(need).minus(slot.committed());
        fits(&self.free(), &more)
    }

    /// A running task is given a newer generation.
    fn adopt_generation(&mut self, id: &SlotId, generation: Generation, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.entry.generation = generation;
        let entry = Box::new(slot.entry.clone());
        effects.durable.push(Effect::JournalPut {
            entry,
            durable: true,
        });
        self.touch(id, effects);
    }

    fn stop(
        &mut self,
        order: &StopOrder,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        self.hear(order.authority, effects)?;
        let Some(slot) = self.slots.get(&order.slot) else {
            self.ended.record(&order.slot, order.generation);
            return Ok(());
        };
        let holds = slot.entry.generation;
        if order.generation < holds {
            return Err(Refusal::StaleGeneration { holds });
        }
        self.ended.record(&order.slot, order.generation);
        self.begin_stop(&order.slot, order.reason, now, effects);
        Ok(())
    }

    fn greet(
        &mut self,
        authority: Authority,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Heartbeat, Refusal> {
        self.hear(authority, effects)?;
        self.reports.restart();
        Ok(self.heartbeat(None, now))
    }

    /// What the scheduler is told: what changed after report `since`.
    fn heartbeat(&self, since: Option<u64>, now: Millis) -> Heartbeat {
        let news = self
            .slots
            .values()
            .filter(|slot| since.is_none_or(|since| slot.changed > since));
        Heartbeat {
            node: self.config.node,
            incarnation: self.config.incarnation,
            highest: self.highest,
            free: self.free(),
            total: self.config.total,
            draining: self.draining,
            pressure: self.pressure,
            facts: since.is_none().then(|| self.facts.clone()),
            sent_at: Some(now),
            inventory: Inventory {
                since,
                number: self.reports.number(),
                slots: news
                    .map(|slot| slot.report(self.config.unix_offset))
                    .collect(),
                gone: since.map_or(Vec::new(), |_| self.reports.gone()),
            },
        }
    }

    fn heartbeat_answered(&mut self, answer: HeartbeatAnswer, now: Millis, effects: &mut Effects) {
        if self.hear(answer.authority, effects).is_err() {
            return;
        }
        if let Some(renewals) = answer.renewals {
            self.renewed(renewals, now, effects);
        }
        self.reports.confirm(answer.confirmed);
        for (id, generation) in answer.forget {
            let over = self.slots.get(&id).is_some_and(|slot| {
                slot.state == State::Stopped && slot.entry.generation == generation
            });
            if over {
                let slot = self.slots.remove(&id);
                if slot.is_some_and(|slot| slot.entry.ended.is_some()) {
                    effects.durable.push(Effect::JournalRemove(id.clone()));
                }
                self.reports.forgot(id.clone());
                self.leases.forget(&id);
                effects.then.push(Effect::Forgotten(id));
                effects.changed = true;
            }
        }
    }

    /// A slot's report changed.
    fn touch(&mut self, id: &SlotId, effects: &mut Effects) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.changed = self.reports.next();
            effects.changed = true;
        }
    }
}

/// What an award brings to each of its slots.
struct Offer {
    job: Arc<Job>,
    signed: Arc<potluck_specs::job::SignedJob>,
    package_bytes: u64,
    holders: Vec<NodeId>,
}

impl Offer {
    fn same_as(&self, entry: &Entry) -> bool {
        entry.job.version == self.job.version && entry.signed.job.bytes == self.signed.job.bytes
    }

    fn entry(&self, slot: &SlotId, generation: Generation, ports: BTreeMap<String, u16>) -> Entry {
        Entry {
            slot: slot.clone(),
            generation,
            origin: generation,
            job: self.job.clone(),
            signed: self.signed.clone(),
            package_bytes: self.package_bytes,
            holders: self.holders.clone(),
            ports,
            starts: 0,
            stop: None,
            ended: None,
        }
    }
}

fn fits(free: &Resources, need: &Resources) -> Result<(), Refusal> {
    if free.cpu_millis < need.cpu_millis {
        return Err(Refusal::Cpu {
            need: need.cpu_millis,
            free: free.cpu_millis,
        });
    }
    if free.memory_bytes < need.memory_bytes {
        return Err(Refusal::Memory {
            need: need.memory_bytes,
            free: free.memory_bytes,
        });
    }
    if free.disk_bytes < need.disk_bytes {
        return Err(Refusal::Disk {
            need: need.disk_bytes,
            free: free.disk_bytes,
        });
    }
    if free.uplink_bits_per_s < need.uplink_bits_per_s {
        return Err(Refusal::Uplink {
            need: need.uplink_bits_per_s,
            free: free.uplink_bits_per_s,
        });
    }
    Ok(())
}

/// How many times `need` fits.
fn how_often(free: &Resources, need: &Resources) -> u32 {
    let pairs = [
        (u64::from(free.cpu_millis), u64::from(need.cpu_millis)),
        (free.memory_bytes, need.memory_bytes),
        (free.disk_bytes, need.disk_bytes),
        (free.uplink_bits_per_s, need.uplink_bits_per_s),
    ];
    let times = pairs
        .into_iter()
        .filter_map(|(free, need)| free.checked_div(need));
    times
        .min()
        .map_or(u32::MAX, |times| times.try_into().unwrap_or(u32::MAX))
}
