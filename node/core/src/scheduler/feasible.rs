//! May a host take a task of a job, and if not: everything that is in the way,
//! with amounts.
//!
//! Answers twice, from the same rules: shortly, while candidates are looked
//! for ([`Ask::admits`]), and in full, for people ([`Scheduler::obstacles`]).
//! A new rule goes into both. Leaves to the host what only it knows.

use super::{
    Scheduler, SessionState,
    call::Work,
    failure::{MISSED_AFTER, is_fresh},
    index::{Entry, Group, Index, LEVELS, NOWHERE, Place},
    names::JobId,
    rank::Terms,
    score::Weights,
    tally::{Tallies, Tally},
};
use crate::{
    attributes::{Facts, ability_lacks, meets},
    cluster::{Cluster, level_of_tasks},
    session::{SlotReport, TaskState},
};
use potluck_specs::{
    Job, JobName, Millis, NodeId,
    job::{Isolation, Level, Requirement, Resources},
};
use std::collections::{BTreeMap, BTreeSet};

/// The attribute that says how well a node can keep tasks apart: `strict`,
/// `partial` or `none`. A node that says nothing is taken at its word when it
/// gets the task: it refuses what it can't do.
pub const ISOLATION: &str = "isolation";

/// One thing that keeps a task off a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The host is not heard.
    Session {
        /// How it stands.
        state: SessionState,
    },
    /// It keeps what it has and takes no more.
    Cordoned,
    /// Being emptied, or it says itself that it takes no new work.
    Draining,
    /// It runs no tasks at all.
    NoAgent,
    /// Its potluck is too old for tasks of this kind.
    OlderVersion {
        /// The level of what it knows.
        level: u32,
        /// What the job's tasks need.
        needs: u32,
    },
    /// Too little of something is free.
    Lacks {
        /// What.
        what: Resource,
        /// What one task needs.
        need: u64,
        /// What is free, by the last report.
        free: u64,
        /// All that the host has.
        total: u64,
    },
    /// Too few devices of a kind are free.
    Device {
        /// Their kind.
        kind: String,
        /// What one task needs.
        need: u32,
        /// What is free.
        free: u32,
    },
    /// A fixed port is taken.
    Port {
        /// Its number.
        port: u16,
    },
    /// The host does not meet a requirement.
    Requirement {
        /// Which.
        requirement: Requirement,
        /// What it has instead.
        has: Option<String>,
    },
    /// It can't keep the task apart as asked.
    Isolation {
        /// What it can.
        has: String,
    },
    /// It can't set a limit, or run as a user, that the job asks for.
    Ability {
        /// The attribute that it lacks.
        attribute: String,
    },
    /// Its place has as many tasks of the job as it may.
    AtMost {
        /// Of which level.
        level: Level,
        /// Its name.
        place: String,
        /// How many it has.
        tasks: u32,
        /// How many it may have.
        limit: u32,
    },
    /// A task of a job that must be apart is in its place.
    Apart {
        /// Of which job.
        job: JobName,
        /// Of which level.
        level: Level,
        /// Its name.
        place: String,
    },
    /// No task of a job that must be near is in its place.
    Together {
        /// Of which job.
        job: JobName,
        /// Of which level.
        level: Level,
        /// Its name.
        place: String,
    },
    /// Its room was just made for a job of higher priority.
    Claimed,
    /// Tasks of the job failed there lately.
    BadPair,
    /// It refused an award or lost several lately, and is left alone.
    Avoided {
        /// For how long still.
        for_ms: u64,
    },
}

/// What a host can have too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Thousandths of a core.
    Cpu,
    /// Bytes.
    Memory,
    /// Bytes.
    Disk,
    /// Bits a second.
    Uplink,
}

impl Resource {
    const ALL: [Resource; 4] = [
        Resource::Cpu,
        Resource::Memory,
        Resource::Disk,
        Resource::Uplink,
    ];

    /// How much of it there is.
    pub fn of(self, resources: &Resources) -> u64 {
        match self {
            Resource::Cpu => resources.cpu_millis.into(),
            Resource::Memory => resources.memory_bytes,
            Resource::Disk => resources.disk_bytes,
            Resource::Uplink => resources.uplink_bits_per_s,
        }
    }

    /// The same amounts with another of this one.
    pub fn with(self, mut resources: Resources, amount: u64) -> Resources {
        match self {
            Resource::Cpu => resources.cpu_millis = amount.try_into().unwrap_or(u32::MAX),
            Resource::Memory => resources.memory_bytes = amount,
            Resource::Disk => resources.disk_bytes = amount,
            Resource::Uplink => resources.uplink_bits_per_s = amount,
        }
        resources
    }
}

/// What one job asks of hosts at this moment, ready to be asked of many.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) id: JobId,
    pub(super) job: &'a Job,
    pub(super) need: Resources,
    pub(super) weights: Weights,
    pub(super) at_most: [u32; LEVELS],
    /// Places that are shut because of other jobs.
    shut: BTreeMap<u32, JobId>,
    /// For each job that must be near: at which level, and where it is. The
    /// first task of two jobs that want each other may go anywhere.
    near: Vec<(Level, &'a JobName, BTreeSet<u32>)>,
    /// Fixed ports that it needs.
    pub(super) ports: Vec<u16>,
    /// The level of a host that its tasks need.
    level: u32,
}

/// What a group of hosts is to a job, as long as its version lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Suits {
    /// Not asked yet.
    #[default]
    Unknown,
    /// Its hosts don't meet a requirement.
    No,
    /// They do, and are preferred so much.
    Yes(i64),
}

impl<'a> Ask<'a> {
    /// What the job asks, given where others are.
    pub(super) fn new(
        id: JobId,
        job: &'a Job,
        index: &Index,
        tallies: &Tallies,
        apart: &[(JobId, Level)],
        near: &[(JobId, &'a JobName, Level)],
    ) -> Ask<'a> {
        let placement = &job.placement;
        let mut at_most = [u32::MAX; LEVELS];
        for limit in &placement.at_most {
            let level = &mut at_most[limit.level as usize];
            *level = (*level).min(limit.count);
        }
        if job.kind == potluck_specs::job::JobKind::PerNode {
            at_most[Level::Node as usize] = 1;
        }
        let mut shut = BTreeMap::new();
        for (other, level) in apart {
            for place in places_of(tallies.of(*other), *level) {
                shut.insert(place, *other);
            }
        }
        Ask {
            id,
            job,
            need: job.task.resources,
            weights: Weights::new(&placement.spread, placement.bandwidth_heavy, |level| {
                index.is_divided(level)
            }),
            at_most,
            shut,
            near: near
                .iter()
                .map(|(other, name, level)| {
                    let places = places_of(tallies.of(*other), *level);
                    (*level, *name, places)
                })
                .collect(),
            ports: job.task.ports.iter().filter_map(|p| p.number).collect(),
            level: level_of_tasks(job),
        }
    }

    /// May a host of this group meet the requirements?
    pub(super) fn suits(&self, index: &Index, group: &Group) -> Suits {
        let facts = index.facts(group);
        let value = |attribute: &str| attribute_of(index, facts, &group.place, attribute);
        let placement = &self.job.placement;
        let met = placement
            .requirements
            .iter()
            .filter(|requirement| requirement.attribute != NODE)
            .all(|requirement| meets(requirement, value(&requirement.attribute)));
        let lacks = isolation_lacks(self.job, facts).is_some();
        if !met || lacks || ability_lacks(self.job, facts).is_some() {
            return Suits::No;
        }
        let preferred = placement
            .preferences
            .iter()
            .filter(|preference| preference.requirement.attribute != NODE)
            .filter(|preference| {
                let requirement = &preference.requirement;
                meets(requirement, value(&requirement.attribute))
            })
            .map(|preference| i64::from(preference.weight));
        Suits::Yes(preferred.sum())
    }

    /// The same, yes or no, of a group by its number.
    pub(super) fn suits_group(&self, index: &Index, group: usize) -> bool {
        let group = index.groups().get(group);
        group.is_some_and(|group| self.suits(index, group) != Suits::No)
    }

    /// What a preference for this very host adds.
    pub(super) fn prefers(&self, entry: &Entry) -> i64 {
        let preferences = self.job.placement.preferences.iter();
        preferences
            .filter(|p| p.requirement.attribute == NODE)
            .filter(|p| meets(&p.requirement, Some(&entry.name)))
            .map(|preference| i64::from(preference.weight))
            .sum()
    }

    /// May this host of a group that suits take a task, by what is at hand
    /// without looking at what it runs?
    pub(super) fn admits(&self, entry: &Entry, tally: Option<&Tally>) -> bool {
        entry.takes_work()
            && entry.free.fits(&self.need)
            && self.admits_place(&entry.place, tally)
            && self.admits_node(entry)
    }

    /// Does the host itself know such tasks, and meet what is required of it by
    /// name?
    pub(super) fn admits_node(&self, entry: &Entry) -> bool {
        let requirements = self.job.placement.requirements.iter();
        let met = requirements
            .filter(|requirement| requirement.attribute == NODE)
            .all(|requirement| meets(requirement, Some(&entry.name)));
        met && entry.level >= self.level
    }

    /// Is the place neither full nor shut?
    pub(super) fn admits_place(&self, place: &Place, tally: Option<&Tally>) -> bool {
        let full = (0..LEVELS).any(|level| {
            let limit = self.at_most[level];
            limit != u32::MAX && tally.map_or(0, |tally| tally.at(place[level])) >= limit
        });
        !full && self.admits_neighbours(place)
    }

    /// Do other jobs' tasks allow the place?
    pub(super) fn admits_neighbours(&self, place: &Place) -> bool {
        let shut = !self.shut.is_empty() && place.iter().any(|p| self.shut.contains_key(p));
        let far = self
            .near
            .iter()
            .filter(|(level, ..)| place[*level as usize] != NOWHERE)
            .any(|(level, _, places)| !places.contains(&place[*level as usize]));
        !shut && !far
    }

    /// Most tasks that one host may be given.
    pub(super) fn each_most(&self) -> u32 {
        let most = self.at_most.iter().copied().min();
        most.unwrap_or(u32::MAX)
    }

    /// May no group be passed over? Not where a person asked for a spread, or
    /// where places wider than racks count.
    pub(super) fn must_see_all(&self) -> bool {
        let wider = &self.weights.spread[..Level::Rack as usize];
        !self.job.placement.spread.is_empty()
            || self.weights.heavy
            || wider.iter().any(|weight| *weight != 0)
    }

    /// Tasks of the job in the place of a host, at the levels at which that
    /// matters.
    pub(super) fn tasks_around(&self, place: &Place, tally: Option<&Tally>) -> [u32; LEVELS] {
        let mut tasks = [0; LEVELS];
        let Some(tally) = tally else { return tasks };
        for (level, tasks) in tasks.iter_mut().enumerate() {
            if self.weights.spread[level] != 0 || self.at_most[level] != u32::MAX {
                *tasks = tally.at(place[level]);
            }
        }
        tasks
    }

    /// What the ranking needs of it.
    pub(super) fn terms(&self, seed: u64) -> Terms {
        Terms {
            need: self.need,
            weights: self.weights.clone(),
            at_most: self.at_most,
            seed,
        }
    }
}

const NODE: &str = "node";

fn places_of(tally: Option<&Tally>, level: Level) -> BTreeSet<u32> {
    tally.map_or_else(BTreeSet::new, |tally| tally.places_at(level))
}

fn attribute_of<'i>(
    index: &'i Index,
    facts: &'i Facts,
    place: &Place,
    attribute: &str,
) -> Option<&'i str> {
    let level = Level::ALL.into_iter().find(|l| l.name() == attribute);
    match level {
        Some(level) => Some(index.name(place[level as usize])),
        None => facts.get(attribute),
    }
}

/// What a host offers that is asked to keep a task apart and says it can't.
fn isolation_lacks(job: &Job, facts: &Facts) -> Option<String> {
    let has = facts.get(ISOLATION)?;
    let lacks = job.task.isolation == Isolation::Strict && has != "strict";
    lacks.then(|| has.to_owned())
}

/// Too little of something, resource by resource.
fn lacks(need: &Resources, entry: &Entry) -> impl Iterator<Item = Obstacle> {
    let (need, free, total) = (*need, entry.free, entry.total);
    Resource::ALL
        .into_iter()
        .filter(move |what| what.of(&free) < what.of(&need))
        .map(move |what| Obstacle::Lacks {
            what,
            need: what.of(&need),
            free: what.of(&free),
            total: what.of(&total),
        })
}

/// Jobs to be apart from, each with the level on which it counts as near.
type Apart = Vec<(JobId, Level)>;

/// Jobs to be near to; one that was never met is nowhere.
type Near<'a> = Vec<(JobId, &'a JobName, Level)>;

/// Heard just now; one that was is up.
pub(super) fn is_fresh_entry(entry: &Entry, now: Millis) -> bool {
    let age = entry.heard_at.map(|at| now.since(at));
    age.is_some_and(|age| age < MISSED_AFTER)
}

impl Scheduler {
    /// Jobs with which this one may not, or must, share places: by its own
    /// word, and apart also by the other's.
    pub(super) fn neighbours<'a>(&self, id: JobId, job: &'a Job) -> (Apart, Near<'a>) {
        let placement = &job.placement;
        let mut apart: Apart = placement
            .apart_from
            .iter()
            .map(|other| (self.names.id(&other.job), other.level))
            .collect();
        apart.extend(self.catalog.apart_from(id));
        let near = placement
            .together_with
            .iter()
            .filter(|other| !self.may_go_first(job, &other.job))
            .map(|other| (self.names.id(&other.job), &other.job, other.level))
            .collect();
        (apart, near)
    }

    /// Two jobs that want each other would wait for each other for ever: the
    /// first by name may go first.
    fn may_go_first(&self, job: &Job, other: &JobName) -> bool {
        let id = self.names.id(other);
        let nowhere = self.tallies.of(id).is_none_or(Tally::is_empty);
        nowhere && job.name < *other && self.catalog.wants_near(id, job)
    }

    /// What the job asks now.
    pub(super) fn ask<'a>(&self, id: JobId, job: &'a Job) -> Ask<'a> {
        let (apart, near) = self.neighbours(id, job);
        Ask::new(id, job, &self.index, &self.tallies, &apart, &near)
    }

    /// May a host of a group that suits take a task, by all that is known here?
    pub(super) fn may_take(
        &self,
        ask: &Ask<'_>,
        entry: &Entry,
        work: Option<&Work>,
        now: Millis,
    ) -> bool {
        ask.admits(entry, self.tallies.of(ask.id)) && self.admits_exactly(ask, entry, work, now)
    }

    /// Is there nothing about what the host runs, or what it said lately,
    /// that is in the way?
    fn admits_exactly(
        &self,
        ask: &Ask<'_>,
        entry: &Entry,
        work: Option<&Work>,
        now: Millis,
    ) -> bool {
        self.admits_lately(ask, entry, work, now)
            && self.leaves_claims(ask, entry, now)
            && self.taken_port(&ask.ports, entry.node).is_none()
            && self.lacking_device(ask.job, entry).is_none()
    }

    /// Is the host heard, and is there nothing against it that happened
    /// lately?
    pub(super) fn admits_lately(
        &self,
        ask: &Ask<'_>,
        entry: &Entry,
        work: Option<&Work>,
        now: Millis,
    ) -> bool {
        is_fresh_entry(entry, now)
            && !work.is_some_and(|work| work.avoids(entry.node, now))
            && !self.is_bad_pair(&ask.job.name, entry.node, now)
    }

    /// Of these ports, one that is taken there.
    fn taken_port(&self, ports: &[u16], node: NodeId) -> Option<u16> {
        match ports.is_empty() {
            true => None,
            false => self.ports_taken(node).find(|port| ports.contains(port)),
        }
    }

    /// What of a host's tasks has not ended.
    pub(super) fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = (JobId, &SlotReport)> {
        let host = self.picture.hosts.get(&node);
        let seats = host.into_iter().flat_map(|host| &host.slots);
        seats
            .filter_map(move |seat| Some((seat.job, self.picture.report(*seat, node)?)))
            .filter(|(_, report)| report.state != TaskState::Stopped)
    }

    /// Ports that a host's tasks have.
    pub(super) fn ports_taken(&self, node: NodeId) -> impl Iterator<Item = u16> {
        self.tasks_on(node)
            .flat_map(|(_, report)| report.ports.values().copied())
    }

    pub(super) fn lacking_device(&self, job: &Job, entry: &Entry) -> Option<Obstacle> {
        job.task.devices.iter().find_map(|(kind, need)| {
            let free = self.devices_free(entry, kind);
            (free < *need).then(|| Obstacle::Device {
                kind: kind.clone(),
                need: *need,
                free,
            })
        })
    }

    /// Devices of a kind that a host has.
    pub(super) fn devices_on(&self, entry: &Entry, kind: &str) -> u32 {
        let facts = self.index.facts_on(entry);
        let all = facts.and_then(|facts| facts.devices.get(kind));
        all.copied().unwrap_or(0)
    }

    /// Those of them that no task uses.
    pub(super) fn devices_free(&self, entry: &Entry, kind: &str) -> u32 {
        let used = self
            .tasks_on(entry.node)
            .filter_map(|(job, report)| self.catalog.version_or_newest(job, report.version))
            .filter_map(|job| job.task.devices.get(kind).copied())
            .sum();
        self.devices_on(entry, kind).saturating_sub(used)
    }

    /// Everything that keeps a task of the job off a host, by what is known
    /// here. `besides`: the place of a task of it that is to be left out of
    /// the count, since it is the one that is asked about.
    pub(super) fn obstacles(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        entry: &Entry,
        besides: Option<&Place>,
        now: Millis,
    ) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let host = self.picture.hosts.get(&entry.node);
        match host {
            Some(host) if is_fresh(host, self.began, now) && host.complete => {}
            Some(host) => found.push(Obstacle::Session { state: host.state }),
            None => found.push(Obstacle::Session {
                state: SessionState::Unknown,
            }),
        }
        let member = cluster.members().get(&entry.node);
        let role = potluck_specs::trust::NodeRole::Agent;
        if member.is_some_and(|member| !member.roles.contains(&role)) {
            found.push(Obstacle::NoAgent);
        } else if cluster.is_cordoned(entry.node) {
            found.push(Obstacle::Cordoned);
        } else if !entry.admitted || host.is_some_and(|host| host.draining) {
            found.push(Obstacle::Draining);
        }
        if entry.level < ask.level {
            found.push(Obstacle::OlderVersion {
                level: entry.level,
                needs: ask.level,
            });
        }
        let facts = self.index.facts_on(entry).cloned().unwrap_or_default();
        for requirement in &ask.job.placement.requirements {
            let has = attribute_of(&self.index, &facts, &entry.place, &requirement.attribute);
            if !meets(requirement, has) {
                found.push(Obstacle::Requirement {
                    requirement: requirement.clone(),
                    has: has.map(str::to_owned),
                });
            }
        }
        if let Some(has) = isolation_lacks(ask.job, &facts) {
            found.push(Obstacle::Isolation { has });
        }
        if let Some(attribute) = ability_lacks(ask.job, &facts) {
            let attribute = attribute.to_owned();
            found.push(Obstacle::Ability { attribute });
        }
        found.extend(lacks(&ask.need, entry));
        found.extend(self.lacking_device(ask.job, entry));
        let port = self.taken_port(&ask.ports, entry.node);
        found.extend(port.map(|port| Obstacle::Port { port }));
        found.extend(self.crowd(ask, &entry.place, besides));
        if entry.free.fits(&ask.need) && !self.leaves_claims(ask, entry, now) {
            found.push(Obstacle::Claimed);
        }
        if self.is_bad_pair(&ask.job.name, entry.node, now) {
            found.push(Obstacle::BadPair);
        }
        let work = self.works.get(ask.id);
        let until = work.and_then(|work| work.avoid.get(&entry.node));
        if let Some(until) = until.filter(|until| now < **until) {
            found.push(Obstacle::Avoided {
                for_ms: until.since(now).0,
            });
        }
        found
    }

    /// What other tasks keep the job out of a place.
    fn crowd(&self, ask: &Ask<'_>, place: &Place, besides: Option<&Place>) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let tally = self.tallies.of(ask.id);
        for level in Level::ALL {
            let at = level as usize;
            let name = || self.index.name(place[at]).to_owned();
            let own = besides.is_some_and(|own| own[at] == place[at]);
            let tasks = tally
                .map_or(0, |tally| tally.at(place[at]))
                .saturating_sub(own.into());
            if tasks >= ask.at_most[at] {
                found.push(Obstacle::AtMost {
                    level,
                    place: name(),
                    tasks,
                    limit: ask.at_most[at],
                });
            }
            if let Some(job) = ask.shut.get(&place[at]) {
                found.push(Obstacle::Apart {
                    job: self.names.name(*job).clone(),
                    level,
                    place: name(),
                });
            }
            for (near, job, places) in &ask.near {
                if *near == level && !places.contains(&place[at]) {
                    found.push(Obstacle::Together {
                        job: (*job).clone(),
                        level,
                        place: name(),
                    });
                }
            }
        }
        found
    }
}
