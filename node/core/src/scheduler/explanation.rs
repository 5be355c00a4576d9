//! Why a slot is where it is, or nowhere: for people.
//!
//! Answers for looking at every host, with all that is in the way there and
//! what the place costs; for the hosts that lack least; and, through `relax`,
//! for the smallest change that would place the slot.

use super::{
    Obstacle, Part, Scheduler, SlotPhase,
    feasible::{Ask, Suits},
    index::{Entry, LEVELS, Place},
    names::Seat,
    relax::SmallestChange,
    score::Offer,
};
use crate::{
    attributes::{USERS, text},
    auction::{Refusal, bits, bytes, cores},
    cluster::Cluster,
};
use potluck_specs::{Job, Millis, NodeId, SlotId, job::Level};
use std::fmt;

/// How many hosts are named as closest.
const CLOSEST: usize = 3;

/// All that is known of where a slot could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The slot.
    pub slot: SlotId,
    /// What becomes of it.
    pub phase: SlotPhase,
    /// Every host: those that could take it by price, then the others by how
    /// much is in the way.
    pub hosts: Vec<HostCase>,
    /// What would place it, if nothing can now.
    pub change: Option<SmallestChange>,
}

/// One host and one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCase {
    /// The host.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Its rack.
    pub rack: String,
    /// The slot is there, or is being placed there.
    pub holds: bool,
    /// Everything that is in the way.
    pub obstacles: Vec<Obstacle>,
    /// What it answered to the last call, if it refused.
    pub refused: Option<Refusal>,
    /// What the place costs; the lowest wins.
    pub price: i64,
    /// What that is made of, the largest first.
    pub parts: Vec<(Part, i64)>,
}

impl Explanation {
    /// Hosts that lack least, of those that lack anything.
    pub fn closest(&self) -> impl Iterator<Item = &HostCase> {
        let hosts = self.hosts.iter();
        hosts
            .filter(|host| !host.holds && !host.obstacles.is_empty())
            .take(CLOSEST)
    }

    /// Could any host take it, by what is known here?
    pub fn fits_somewhere(&self) -> bool {
        self.hosts.iter().any(|host| host.obstacles.is_empty())
    }
}

impl Scheduler {
    /// Why a slot is where it is, or what keeps it from being placed. `now` as
    /// in [`Scheduler::step`]. `None`: the job should not run.
    pub fn explain_slot(
        &self,
        cluster: &Cluster,
        slot: &SlotId,
        now: Millis,
    ) -> Option<Explanation> {
        let seat = self.names.seat(slot);
        let target = self.target(cluster, seat.job)?;
        let job = target.job_for(slot.index).clone();
        let ask = self.ask(seat.job, &job);
        let own = self.place_of(seat);
        let mut hosts: Vec<HostCase> = self
            .index
            .entries()
            .map(|entry| self.case(cluster, &ask, seat, entry, own.as_ref(), now))
            .collect();
        hosts.sort_by(|a, b| {
            let rank = |case: &HostCase| (!case.holds, case.obstacles.len(), shortfall(case));
            let price = a.price.cmp(&b.price);
            rank(a).cmp(&rank(b)).then(price).then(a.name.cmp(&b.name))
        });
        let placed = hosts
            .iter()
            .any(|host| host.holds || host.obstacles.is_empty());
        let change = match placed {
            true => None,
            false => self.smallest_change(cluster, &job, own.as_ref(), now),
        };
        Some(Explanation {
            slot: slot.clone(),
            phase: self.slot(cluster, slot).phase,
            hosts,
            change,
        })
    }

    fn place_of(&self, seat: Seat) -> Option<Place> {
        let node = match self.kept(seat) {
            Some((node, _)) => node,
            None => self.awards.get(seat)?.node,
        };
        self.index.of(node).map(|entry| entry.place)
    }

    fn case(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        seat: Seat,
        entry: &Entry,
        own: Option<&Place>,
        now: Millis,
    ) -> HostCase {
        let node = entry.node;
        let holds = own.is_some_and(|own| own == &entry.place);
        let mut obstacles = self.obstacles(cluster, ask, entry, own, now);
        if holds {
            // What it takes itself is not missing.
            obstacles.retain(|obstacle| {
                !matches!(
                    obstacle,
                    Obstacle::Lacks { .. } | Obstacle::Device { .. } | Obstacle::Port { .. }
                )
            });
        }
        let work = self.works.get(ask.id);
        let refused = work.and_then(|work| work.refusals.get(&node)).cloned();
        let mut offer = self.imagine(cluster, ask, seat, entry, own, now);
        if holds {
            // Priced as if it were to come, like the others.
            offer.free = offer.free.plus(ask.need);
        }
        let mut parts = Vec::new();
        offer.parts(&ask.weights, ask.need, &[0; LEVELS], |part, cost| {
            if cost != 0 {
                parts.push((part, cost));
            }
        });
        parts.sort_by_key(|(part, cost)| (-cost.abs(), *part));
        HostCase {
            node,
            name: entry.name.clone(),
            rack: self
                .index
                .name(entry.place[Level::Rack as usize])
                .to_owned(),
            holds,
            obstacles,
            refused,
            price: parts.iter().map(|(_, cost)| cost).sum(),
            parts,
        }
    }

    /// What the host would offer for the slot, by what is known here, as if
    /// the slot were nowhere.
    fn imagine(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        seat: Seat,
        entry: &Entry,
        own: Option<&Place>,
        now: Millis,
    ) -> Offer {
        let group = &self.index.groups()[entry.group];
        let preferred = match ask.suits(&self.index, group) {
            Suits::Yes(preferred) => preferred,
            _ => 0,
        };
        let tally = self.tallies.of(ask.id);
        let mut tasks = tally.map_or([0; LEVELS], |tally| tally.around(&entry.place));
        let mut heavy = self.tallies.heavy_around(&entry.place);
        if let Some(own) = own {
            for (level, tasks) in tasks.iter_mut().enumerate() {
                *tasks = tasks.saturating_sub((own[level] == entry.place[level]).into());
            }
            let rack = Level::Rack as usize;
            let counted = ask.weights.heavy && own[rack] == entry.place[rack];
            heavy = heavy.saturating_sub(counted.into());
        }
        let package = cluster.packages().get(&ask.job.package);
        let holds = package.is_none_or(|package| package.holders.contains(&entry.node));
        Offer {
            free: entry.free,
            total: entry.total,
            tasks,
            heavy,
            preference: preferred + ask.prefers(entry),
            former: self.former_node(cluster, ask.job, seat) == Some(entry.node),
            flapping: self.is_flapping(entry.node, now),
            missing_bytes: match holds {
                true => 0,
                false => package.map_or(0, |package| package.bytes),
            },
            pressure: entry.pressure,
            ..Offer::at(entry.node, entry.place)
        }
    }

    /// Hosts that could take one more task of this job, were it the one that
    /// runs; those of `opened` even if they are cordoned or drained.
    pub(super) fn takers(
        &self,
        cluster: &Cluster,
        job: &Job,
        opened: Option<NodeId>,
        own: Option<&Place>,
        now: Millis,
    ) -> Vec<NodeId> {
        let ask = self.ask(self.names.id(&job.name), job);
        let takes = |entry: &&Entry| {
            let mut obstacles = self.obstacles(cluster, &ask, entry, own, now).into_iter();
            obstacles.all(|obstacle| {
                let closed = matches!(obstacle, Obstacle::Cordoned | Obstacle::Draining);
                closed && opened == Some(entry.node)
            })
        };
        let entries = self.index.entries().filter(takes);
        entries.map(|entry| entry.node).collect()
    }
}

/// By how much a host lacks resources, in thousandths of what is needed.
fn shortfall(case: &HostCase) -> u64 {
    let lacks = case.obstacles.iter().map(|obstacle| match obstacle {
        Obstacle::Lacks { need, free, .. } => (need - free) * 1_000 / need.max(&1),
        Obstacle::Device { need, free, .. } => u64::from((need - free) * 1_000 / need.max(&1)),
        _ => 1_000,
    });
    lacks.sum()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.slot, phase_text(&self.phase))?;
        for host in &self.hosts {
            writeln!(f, "  {host}")?;
        }
        if !self.fits_somewhere() && !self.hosts.iter().any(|host| host.holds) {
            let closest: Vec<&str> = self.closest().map(|host| host.name.as_str()).collect();
            if !closest.is_empty() {
                writeln!(f, "  closest: {}", closest.join(", "))?;
            }
            match &self.change {
                Some(change) => writeln!(f, "  would place it: {change}")?,
                None => writeln!(f, "  no change of the job alone would place it")?,
            }
        }
        Ok(())
    }
}

fn phase_text(phase: &SlotPhase) -> String {
    let text = match phase {
        SlotPhase::Lease { left, .. } => {
            let seconds = left.0.div_ceil(1_000);
            return format!("waits until the lease of its holder ends, at most {seconds} s");
        }
        SlotPhase::Unwanted => "not wanted",
        SlotPhase::Waiting { .. } => "may still run where the scheduler can't see",
        SlotPhase::Missing => "placed nowhere",
        SlotPhase::Calling => "bids are being collected",
        SlotPhase::Awarded { .. } => "awarded",
        SlotPhase::Held => "placed",
        SlotPhase::Stopping => "being stopped",
    };
    text.to_owned()
}

impl HostCase {
    /// Yes, no or here, and why, in one line.
    pub fn verdict(&self) -> String {
        if !self.obstacles.is_empty() {
            let all: Vec<String> = self.obstacles.iter().map(Obstacle::to_string).collect();
            let word = if self.holds { "HERE, though" } else { "no:" };
            return format!("{word} {}", all.join("; "));
        }
        let word = if self.holds { "HERE" } else { "yes" };
        let parts = self
            .parts
            .iter()
            .map(|(part, cost)| format!("{part} {cost}"));
        let parts: Vec<String> = parts.collect();
        let made_of = if parts.is_empty() { "" } else { ": " };
        let mut verdict = format!("{word}, price {}{made_of}{}", self.price, parts.join(", "));
        if let Some(refused) = &self.refused {
            verdict.push_str(&format!("; refused the last call: {refused}"));
        }
        verdict
    }
}

impl fmt::Display for HostCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} {:<5} {}", self.name, self.rack, self.verdict())
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Session { state } => {
                write!(f, "its session is {}", format!("{state:?}").to_lowercase())
            }
            Obstacle::Draining => f.write_str("takes no new work"),
            Obstacle::Cordoned => f.write_str("cordoned"),
            Obstacle::NoAgent => f.write_str("runs no tasks"),
            Obstacle::OlderVersion { level, needs } => write!(
                f,
                "its potluck is too old for such tasks (level {level} of {needs}): upgrade it"
            ),
            Obstacle::Lacks {
                what,
                need,
                free,
                total,
            } => {
                let of = |amount| amount_text(*what, amount);
                let (need, free, total) = (of(*need), of(*free), of(*total));
                write!(f, "{what}: needs {need}, {free} of {total} free")
            }
            Obstacle::Device { kind, need, free } => {
                write!(f, "{kind}: needs {need}, {free} free")
            }
            Obstacle::Port { port } => write!(f, "port {port} is taken"),
            Obstacle::Requirement { requirement, has } => match has {
                Some(has) => write!(f, "requires {}, has {has:?}", text(requirement)),
                None => write!(f, "requires {}, has none", text(requirement)),
            },
            Obstacle::Isolation { has } => {
                write!(f, "must be kept apart strictly, it offers {has:?}")
            }
            Obstacle::Ability { attribute } if attribute == USERS => {
                f.write_str("it can't run tasks as another user (users)")
            }
            Obstacle::Ability { attribute } => {
                write!(f, "it can't set a limit that is asked for ({attribute})")
            }
            Obstacle::AtMost {
                level,
                place,
                tasks,
                limit,
            } => {
                let level = level.name();
                write!(f, "{level} {place} has {tasks} of at most {limit}")
            }
            Obstacle::Apart { job, level, place } => {
                write!(f, "{} {place} has a task of {job}", level.name())
            }
            Obstacle::Together { job, level, place } => {
                write!(f, "{} {place} has no task of {job}", level.name())
            }
            Obstacle::Claimed => f.write_str("its room was made for a job of higher priority"),
            Obstacle::BadPair => f.write_str("tasks of the job failed there lately"),
            Obstacle::Avoided { for_ms } => {
                write!(
                    f,
                    "refused an award lately, left alone for {} s more",
                    for_ms.div_ceil(1_000)
                )
            }
        }
    }
}

/// An amount of a resource, for people.
pub(super) fn amount_text(what: super::Resource, amount: u64) -> String {
    match what {
        super::Resource::Cpu => cores(amount.try_into().unwrap_or(u32::MAX)),
        super::Resource::Memory | super::Resource::Disk => bytes(amount),
        super::Resource::Uplink => bits(amount),
    }
}

impl fmt::Display for super::Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            super::Resource::Cpu => "cpu",
            super::Resource::Memory => "memory",
            super::Resource::Disk => "disk",
            super::Resource::Uplink => "uplink",
        })
    }
}
