//! Room for what matters more, taken from what matters less.
//!
//! Answers for which tasks of strictly lower priority make room when a job
//! finds none: the fewest and least important on one host, and only those
//! whose job's ledger allows it. The room is then claimed, so that the victim
//! does not take it back. Leaves to `stops` how they end, to `call` what is
//! placed there, to `clearing` gangs, which need all their room at once.
//!
//! ```text
//! a call finds no room --victims on the cheapest host--> stopped, room claimed
//! claimed --the job is awarded it, or 15 s--> free for all
//! ```

use super::{
    Scheduler,
    feasible::{Ask, Suits},
    gang::is_gang,
    index::Entry,
    ledger::Book,
    names::{JobId, Seat},
};
use crate::{auction::StopReason, cluster::Cluster, session::TaskState};
use potluck_specs::{Job, JobName, Millis, NodeId, job::Resources};
use std::collections::BTreeMap;

/// Hosts looked at for one job, each time that it finds no room: more would
/// seldom show a cheaper one, and a full cluster is asked again and again.
const HOSTS_LOOKED_AT: usize = 64;

/// Hosts that are emptied for one job at a time: what one host's victims lose
/// is known before the next ones'.
const AT_ONCE: usize = 8;

/// How long room is kept for the job that it was made for: the victims' grace
/// is some ten seconds, and a call comes after.
pub(super) const CLAIM: Millis = Millis(15_000);

/// Room that was made for a job.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) job: JobName,
    pub(super) need: Resources,
    pub(super) until: Millis,
}

/// A task that could make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) priority: u32,
    pub(super) seat: Seat,
    pub(super) resources: Resources,
    /// How long it may take to end.
    pub(super) grace: Millis,
}

/// Tasks that would make room on one host. Ordered by how much that hurts:
/// the highest priority among them, then how many.
#[derive(Clone, Debug)]
struct Sacrifice {
    node: NodeId,
    victims: Vec<Victim>,
}

impl Sacrifice {
    fn pain(&self) -> (u32, usize, u64, NodeId) {
        let worst = self.victims.iter().map(|victim| victim.priority).max();
        let memory = self.victims.iter().map(|v| v.resources.memory_bytes).sum();
        (worst.unwrap_or(0), self.victims.len(), memory, self.node)
    }
}

impl Scheduler {
    /// No host had room for so many slots of the job: has lower ones make it.
    pub(super) fn make_room(
        &mut self,
        cluster: &Cluster,
        id: JobId,
        job: &Job,
        missing: usize,
        now: Millis,
    ) {
        self.claims.retain(|_, claim| now < claim.until);
        if is_gang(job) {
            if self.catalog.has_lower(job.priority) {
                self.make_room_for_gang(cluster, id, job, missing, now);
            }
            return;
        }
        let claimed = self.claims.values().filter(|claim| claim.job == job.name);
        let wanted = missing.min(AT_ONCE).saturating_sub(claimed.count());
        if wanted == 0 || !self.catalog.has_lower(job.priority) {
            return;
        }
        let ask = self.ask(id, job);
        let mut ledgers = BTreeMap::new();
        let mut found: Vec<Sacrifice> = self
            .index
            .entries()
            .filter(|entry| !self.claims.contains_key(&entry.node))
            .filter(|entry| self.suits_but_for_room(&ask, entry, now))
            .take(HOSTS_LOOKED_AT)
            .filter_map(|entry| self.sacrifice(cluster, job, entry, &mut ledgers))
            .collect();
        found.sort_by_key(Sacrifice::pain);
        for sacrifice in found.into_iter().take(wanted) {
            self.sacrifice_now(job, sacrifice, &mut ledgers, now);
        }
    }

    pub(super) fn suits_but_for_room(&self, ask: &Ask<'_>, entry: &Entry, now: Millis) -> bool {
        let group = &self.index.groups()[entry.group];
        let tally = self.tallies.of(ask.id);
        let work = self.works.get(ask.id);
        entry.takes_work()
            && entry.total.fits(&ask.need)
            && ask.suits(&self.index, group) != Suits::No
            && ask.admits_node(entry)
            && ask.admits_place(&entry.place, tally)
            && self.admits_exactly(ask, entry, work, now)
    }

    /// The least that has to go from a host; nothing if that is not enough.
    fn sacrifice(
        &self,
        cluster: &Cluster,
        job: &Job,
        entry: &Entry,
        ledgers: &mut BTreeMap<JobId, Option<Book>>,
    ) -> Option<Sacrifice> {
        let victims = self.victims(cluster, job.priority, entry, ledgers);
        let chosen = least(job.task.resources, entry.free, victims)?;
        (!chosen.is_empty()).then_some(Sacrifice {
            node: entry.node,
            victims: chosen,
        })
    }

    /// Tasks on a host that may be stopped for one of this priority.
    pub(super) fn victims(
        &self,
        cluster: &Cluster,
        priority: u32,
        entry: &Entry,
        ledgers: &mut BTreeMap<JobId, Option<Book>>,
    ) -> Vec<Victim> {
        let Some(host) = self.picture.hosts.get(&entry.node) else {
            return Vec::new();
        };
        let mut victims = Vec::new();
        for seat in &host.slots {
            let seat = *seat;
            let Some(report) = self.picture.report(seat, entry.node) else {
                continue;
            };
            let ends = matches!(report.state, TaskState::Stopped | TaskState::Stopping)
                || self.stops.contains_key(&(seat, entry.node));
            // A job that the log lacks is nobody's to stop.
            let name = &report.slot.job;
            let job = self
                .catalog
                .of_task(cluster, seat.job, name, report.version);
            let Some(job) = job.filter(|job| job.priority < priority && !ends) else {
                continue;
            };
            let ledger = ledgers
                .entry(seat.job)
                .or_insert_with(|| self.book(cluster, seat.job));
            let allowed = ledger
                .as_ref()
                .is_some_and(|ledger| ledger.may_disrupt(&seat.index).is_ok());
            if allowed {
                victims.push(Victim {
                    priority: job.priority,
                    seat,
                    resources: report.resources,
                    grace: Millis(job.task.stop.grace_ms),
                });
            }
        }
        victims
    }

    /// Stops the victims, if their ledgers still allow all of it.
    fn sacrifice_now(
        &mut self,
        job: &Job,
        sacrifice: Sacrifice,
        ledgers: &mut BTreeMap<JobId, Option<Book>>,
        now: Millis,
    ) {
        let mut held = ledgers.clone();
        for victim in &sacrifice.victims {
            let (job, index) = (victim.seat.job, victim.seat.index);
            let ledger = held.get_mut(&job).and_then(Option::as_mut);
            let Some(ledger) = ledger.filter(|l| l.may_disrupt(&index).is_ok()) else {
                return;
            };
            ledger.hold(
                index,
                super::Use::Stopping {
                    node: sacrifice.node,
                    reason: StopReason::Preempted,
                },
            );
        }
        *ledgers = held;
        for victim in sacrifice.victims {
            self.decide_stop(victim.seat, sacrifice.node, StopReason::Preempted);
        }
        let claim = Claim {
            job: job.name.clone(),
            need: job.task.resources,
            until: now + CLAIM,
        };
        self.claims.insert(sacrifice.node, claim);
    }

    /// Is there room beside what was made for another job?
    pub(super) fn leaves_claims(&self, ask: &Ask<'_>, entry: &Entry, now: Millis) -> bool {
        let claim = self.claims.get(&entry.node);
        claim.is_none_or(|claim| {
            let own = claim.job == ask.job.name || claim.until <= now;
            own || entry.free.fits(&ask.need.plus(claim.need))
        })
    }

    /// A job got what was made for it.
    pub(super) fn claim_used(&mut self, node: NodeId, job: &JobName) {
        if self
            .claims
            .get(&node)
            .is_some_and(|claim| claim.job == *job)
        {
            self.claims.remove(&node);
        }
    }
}

/// The least that has to go beside what is free, out of those that may; `None`
/// if that is not enough.
pub(super) fn least(
    need: Resources,
    mut free: Resources,
    mut victims: Vec<Victim>,
) -> Option<Vec<Victim>> {
    // The least important first, of those the largest: fewer have to go.
    victims.sort_by(|a, b| {
        let order = a.priority.cmp(&b.priority);
        let larger = b.resources.memory_bytes.cmp(&a.resources.memory_bytes);
        order.then(larger).then(a.seat.cmp(&b.seat))
    });
    let mut chosen: Vec<Victim> = Vec::new();
    for victim in victims {
        if free.fits(&need) {
            break;
        }
        free = free.plus(victim.resources);
        chosen.push(victim);
    }
    if !free.fits(&need) {
        return None;
    }
    // What the later ones make needless, the more important first.
    for at in (0..chosen.len()).rev() {
        let without = free.minus(chosen[at].resources);
        if without.fits(&need) {
            free = without;
            chosen.remove(at);
        }
    }
    Some(chosen)
}
