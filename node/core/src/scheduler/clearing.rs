//! Room for a gang, made all at once or not at all.
//!
//! ```text
//! a call finds too little --all of it would fit--> victims stopped, hosts claimed
//!                         \--it would not-------> (nothing)
//! claimed --the gang is awarded them, or the victims' grace and 15 s--> free
//! ```
//!
//! Answers for which tasks of lower priority end for a gang. Host by host, as
//! `preempt` does for other jobs, would put out what the gang does not need when
//! it finds no room in the end, again and again. So the whole is laid out first,
//! task by task on the host where one more costs least; every host that it takes
//! is claimed, those with room too, since others would fill it meanwhile.
//!
//! What the ledgers do not allow together is not done in parts either: a gang
//! that needs more than the budgets of lower jobs give waits.

use super::{
    Scheduler,
    feasible::Ask,
    index::{Entry, LEVELS},
    ledger::Book,
    names::{JobId, Seat},
    preempt::{CLAIM, Claim, Room, Victim, least},
};
use crate::{auction::StopReason, cluster::Cluster};
use potluck_specs::{Job, Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// What one more task of the gang costs on a host: the highest priority that
/// ends, how many tasks, their memory. All zero: there is room.
type Pain = (u32, usize, u64);

/// A host in the layout.
struct Site<'a> {
    entry: &'a Entry,
    /// What it has left when all that is chosen is done.
    free: Room,
    tasks: u32,
    victims: Vec<Victim>,
}

type Ledgers = BTreeMap<JobId, Option<Book>>;

impl Scheduler {
    /// A gang lacks room for so many tasks: has lower ones make all of it, if
    /// that is enough.
    pub(super) fn make_room_for_gang(
        &mut self,
        cluster: &Cluster,
        id: JobId,
        job: &Job,
        missing: usize,
        now: Millis,
    ) {
        if self.claims.values().any(|claim| claim.job == job.name) {
            // What was cleared is still on its way.
            return;
        }
        let Some(cleared) = self.layout(cluster, id, job, missing, now) else {
            return;
        };
        let graces = cleared.iter().flat_map(|(.., victims)| victims);
        let grace = graces.map(|victim| victim.grace).max();
        let until = now + CLAIM + grace.unwrap_or_default();
        for (node, tasks, victims) in cleared {
            for victim in victims {
                self.decide_stop(victim.seat, node, StopReason::Preempted);
            }
            self.claims.insert(node, Claim::of(job, tasks, until));
        }
    }

    /// Where all of it would go, and who would have to end; nothing if it does
    /// not fit, or fits without anybody's end.
    fn layout(
        &self,
        cluster: &Cluster,
        id: JobId,
        job: &Job,
        missing: usize,
        now: Millis,
    ) -> Option<Vec<(NodeId, u32, Vec<Victim>)>> {
        let ask = self.ask(id, job);
        let mut sites: Vec<Site<'_>> = self.sites(&ask, now);
        let mut ledgers = Ledgers::new();
        let mut given: BTreeMap<u32, u32> = BTreeMap::new();
        // A cost only rises as others are taken: asked anew it is pushed back.
        let mut queue: BTreeSet<(Pain, usize)> =
            (0..sites.len()).map(|at| ((0, 0, 0), at)).collect();
        let mut found = 0;
        while found < missing {
            let (pain, at) = queue.pop_first()?;
            let site = &sites[at];
            if self.is_crowded(&ask, site.entry, &given) {
                continue;
            }
            let Some(more) = self.one_more(cluster, &ask, site, &mut ledgers) else {
                continue;
            };
            let asked_anew = pain_of(&more);
            if asked_anew > pain {
                queue.insert((asked_anew, at));
                continue;
            }
            if !hold(&mut ledgers, site.entry.node, &more) {
                continue;
            }
            let site = &mut sites[at];
            site.take(&ask.room(), more);
            for place in site.entry.place {
                *given.entry(place).or_default() += 1;
            }
            found += 1;
            queue.insert((pain, at));
        }
        let used = sites.into_iter().filter(|site| site.tasks > 0);
        let cleared: Vec<_> = used
            .map(|site| (site.entry.node, site.tasks, site.victims))
            .collect();
        let any = cleared.iter().any(|(.., victims)| !victims.is_empty());
        any.then_some(cleared)
    }

    /// Hosts that suit but for what runs there, unless they are kept for others.
    fn sites(&self, ask: &Ask<'_>, now: Millis) -> Vec<Site<'_>> {
        let entries = self.index.entries();
        entries
            .filter(|entry| !self.claims.contains_key(&entry.node))
            .filter(|entry| self.suits_but_for_room(ask, entry, now))
            .map(|entry| Site {
                entry,
                free: self.room_on(ask, entry),
                tasks: 0,
                victims: Vec::new(),
            })
            .collect()
    }

    fn is_crowded(&self, ask: &Ask<'_>, entry: &Entry, given: &BTreeMap<u32, u32>) -> bool {
        let tally = self.tallies.of(ask.id);
        (0..LEVELS).any(|level| {
            let place = entry.place[level];
            let there = tally.map_or(0, |tally| tally.at(place));
            let more = given.get(&place).copied().unwrap_or(0);
            ask.at_most[level] != u32::MAX && there + more >= ask.at_most[level]
        })
    }

    /// Who has to end for one more task here; nobody where there is room, and
    /// `None` where nobody's end would make it.
    fn one_more(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        site: &Site<'_>,
        ledgers: &mut Ledgers,
    ) -> Option<Vec<Victim>> {
        let need = ask.room();
        if site.free.fits(&need) {
            return Some(Vec::new());
        }
        let mut victims = self.victims(cluster, ask, site.entry, ledgers);
        victims.retain(|victim| !site.has_chosen(victim.seat));
        least(&need, site.free.clone(), victims)
    }
}

impl Site<'_> {
    fn has_chosen(&self, seat: Seat) -> bool {
        self.victims.iter().any(|victim| victim.seat == seat)
    }

    fn take(&mut self, need: &Room, more: Vec<Victim>) {
        for victim in &more {
            self.free.add(&victim.has);
        }
        self.free = self.free.without(need);
        self.tasks += 1;
        self.victims.extend(more);
    }
}

fn pain_of(victims: &[Victim]) -> Pain {
    let worst = victims.iter().map(|victim| victim.priority).max();
    let memory = victims.iter();
    let memory = memory.map(|v| v.has.resources.memory_bytes).sum();
    (worst.unwrap_or(0), victims.len(), memory)
}

/// Notes the ends in the ledgers, if those allow all of them.
fn hold(ledgers: &mut Ledgers, node: NodeId, victims: &[Victim]) -> bool {
    let mut held = Vec::new();
    for victim in victims {
        let ledger = ledgers.get_mut(&victim.seat.job).and_then(Option::as_mut);
        let Some(ledger) = ledger.filter(|l| l.may_disrupt(&victim.seat.index).is_ok()) else {
            for (job, before) in held.into_iter().rev() {
                ledgers.insert(job, before);
            }
            return false;
        };
        held.push((victim.seat.job, Some(ledger.clone())));
        let reason = StopReason::Preempted;
        ledger.hold(victim.seat.index, super::Use::Stopping { node, reason });
    }
    true
}
