//! The smallest change that would place a slot.
//!
//! Answers by search, not by guess: what keeps the slot off each host says
//! which changes of the job (or of the host's state) would open it; the
//! cheapest set is applied to the job, and the question is asked again with
//! the changed job. Only what passes is told.

use super::{Obstacle, Resource, Scheduler, explanation::amount_text, index::Place};
use crate::{
    attributes::{USERS, text},
    cluster::Cluster,
};
use potluck_specs::{
    Job, JobName, Millis, NodeId,
    job::{AtMost, Isolation, Level, Limits, Requirement},
};
use std::{collections::BTreeMap, fmt};

/// Prices of changes, in thousandths of "ask for nothing of a resource". What
/// an operator can do in a word is cheaper than giving up what was asked for.
const OPEN_HOST: u64 = 600;
const ANY_PORT: u64 = 300;
const MORE_IN_PLACE: u64 = 700;
const WITHOUT_NEIGHBOUR: u64 = 1_000;
const WITHOUT_REQUIREMENT: u64 = 1_000;
const WEAKER_ISOLATION: u64 = 1_500;

/// Sets tried, cheapest first: each costs a look at all hosts.
const TRIES_MAX: usize = 16;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relaxation {
    /// Ask for less of a resource.
    Less {
        /// Of which.
        what: Resource,
        /// What is asked for now.
        from: u64,
        /// What would fit.
        to: u64,
    },
    /// Ask for fewer devices.
    FewerDevices {
        /// Of which kind.
        kind: String,
        /// What would fit.
        to: u32,
    },
    /// Let the node choose the port.
    AnyPort {
        /// Instead of this.
        port: u16,
    },
    /// Give up a requirement.
    WithoutRequirement {
        /// Which.
        requirement: Requirement,
    },
    /// Give up strict isolation.
    WeakerIsolation,
    /// Give up limits that not every host can set.
    WithoutLimits,
    /// Run as whom the node is set to.
    WithoutUser,
    /// Allow more tasks in a place.
    AtMost {
        /// Of which level.
        level: Level,
        /// So many.
        to: u32,
    },
    /// No longer stay apart from a job; where it is the other that stays
    /// apart, that one has to be changed.
    WithoutApart {
        /// Which.
        job: JobName,
        /// It is said by the other job.
        other: bool,
    },
    /// No longer stay near a job.
    WithoutTogether {
        /// Which.
        job: JobName,
    },
    /// Give the host work again: uncordon it, or end its drain.
    OpenHost {
        /// Which.
        node: NodeId,
    },
}

/// What would place a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallestChange {
    /// All of them together.
    pub changes: Vec<Relaxation>,
    /// Hosts that could take the slot then, by name.
    pub hosts: Vec<String>,
}

impl Scheduler {
    /// The cheapest set of changes with which some host takes the slot.
    pub(super) fn smallest_change(
        &self,
        cluster: &Cluster,
        job: &Job,
        own: Option<&Place>,
        now: Millis,
    ) -> Option<SmallestChange> {
        let ask = self.ask(self.names.id(&job.name), job);
        let mut sets: BTreeMap<(u64, String), Vec<Relaxation>> = BTreeMap::new();
        for entry in self.index.entries() {
            let obstacles = self.obstacles(cluster, &ask, entry, own, now);
            let set: Option<Vec<Relaxation>> = obstacles
                .iter()
                .map(|obstacle| self.remedy(job, entry.node, obstacle))
                .collect();
            if let Some(set) = set {
                let price = set.iter().map(|change| price(job, change)).sum();
                // By its text too, so that the order never depends on hosts.
                sets.entry((price, format!("{set:?}"))).or_insert(set);
            }
        }
        sets.into_values().take(TRIES_MAX).find_map(|changes| {
            let changed = changes.iter().fold(job.clone(), apply);
            let opened = changes.iter().find_map(|change| match change {
                Relaxation::OpenHost { node } => Some(*node),
                _ => None,
            });
            let takers = self.takers(cluster, &changed, opened, own, now);
            let mut hosts: Vec<String> = takers
                .iter()
                .filter(|node| opened.is_none_or(|opened| opened == **node))
                .filter_map(|node| self.index.of(*node))
                .map(|entry| entry.name.clone())
                .collect();
            hosts.sort();
            (!hosts.is_empty()).then_some(SmallestChange { changes, hosts })
        })
    }

    /// What would take an obstacle away; `None` if only time can.
    fn remedy(&self, job: &Job, node: NodeId, obstacle: &Obstacle) -> Option<Relaxation> {
        Some(match obstacle {
            Obstacle::Session { .. }
            | Obstacle::NoAgent
            | Obstacle::OlderVersion { .. }
            | Obstacle::BadPair
            | Obstacle::Claimed
            | Obstacle::Avoided { .. } => return None,
            Obstacle::Draining | Obstacle::Cordoned => Relaxation::OpenHost { node },
            // A task that asks for nothing is no answer.
            Obstacle::Lacks { free: 0, .. } | Obstacle::Device { free: 0, .. } => return None,
            Obstacle::Lacks {
                what, need, free, ..
            } => Relaxation::Less {
                what: *what,
                from: *need,
                to: *free,
            },
            Obstacle::Device { kind, free, .. } => Relaxation::FewerDevices {
                kind: kind.clone(),
                to: *free,
            },
            Obstacle::Port { port } => Relaxation::AnyPort { port: *port },
            Obstacle::Requirement { requirement, .. } => Relaxation::WithoutRequirement {
                requirement: requirement.clone(),
            },
            Obstacle::Isolation { .. } => Relaxation::WeakerIsolation,
            Obstacle::Ability { attribute } if attribute == USERS => Relaxation::WithoutUser,
            Obstacle::Ability { .. } => Relaxation::WithoutLimits,
            Obstacle::AtMost { level, tasks, .. } => Relaxation::AtMost {
                level: *level,
                to: tasks + 1,
            },
            Obstacle::Apart { job: other, .. } => {
                let own = job.placement.apart_from.iter();
                Relaxation::WithoutApart {
                    job: other.clone(),
                    other: !own.into_iter().any(|apart| apart.job == *other),
                }
            }
            Obstacle::Together { job, .. } => Relaxation::WithoutTogether { job: job.clone() },
        })
    }
}

fn price(job: &Job, change: &Relaxation) -> u64 {
    match change {
        Relaxation::Less { from, to, .. } => (from - to) * 1_000 / from.max(&1),
        Relaxation::FewerDevices { kind, to } => {
            let from = job.task.devices.get(kind).copied().unwrap_or(0);
            u64::from((from - to) * 1_000 / from.max(1))
        }
        Relaxation::AnyPort { .. } => ANY_PORT,
        Relaxation::WithoutRequirement { .. } => WITHOUT_REQUIREMENT,
        Relaxation::WeakerIsolation | Relaxation::WithoutLimits | Relaxation::WithoutUser => {
            WEAKER_ISOLATION
        }
        Relaxation::AtMost { .. } => MORE_IN_PLACE,
        Relaxation::WithoutApart { .. } | Relaxation::WithoutTogether { .. } => WITHOUT_NEIGHBOUR,
        Relaxation::OpenHost { .. } => OPEN_HOST,
    }
}

/// The job with a change.
fn apply(mut job: Job, change: &Relaxation) -> Job {
    let placement = &mut job.placement;
    match change {
        Relaxation::Less { what, to, .. } => {
            job.task.resources = what.with(job.task.resources, *to);
        }
        Relaxation::FewerDevices { kind, to } => {
            job.task.devices.insert(kind.clone(), *to);
        }
        Relaxation::AnyPort { port } => {
            for spec in &mut job.task.ports {
                if spec.number == Some(*port) {
                    spec.number = None;
                }
            }
        }
        Relaxation::WithoutRequirement { requirement } => {
            placement.requirements.retain(|kept| kept != requirement);
        }
        Relaxation::WeakerIsolation => job.task.isolation = Isolation::Default,
        Relaxation::WithoutLimits => job.task.limits = Limits::default(),
        Relaxation::WithoutUser => job.task.user = None,
        Relaxation::AtMost { level, to } => {
            placement.at_most.retain(|limit| limit.level != *level);
            placement.at_most.push(AtMost {
                level: *level,
                count: *to,
            });
        }
        Relaxation::WithoutApart { job: other, .. } => {
            placement.apart_from.retain(|apart| apart.job != *other);
        }
        Relaxation::WithoutTogether { job: other } => {
            placement.together_with.retain(|near| near.job != *other);
        }
        Relaxation::OpenHost { .. } => {}
    }
    job
}

impl fmt::Display for Relaxation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relaxation::Less { what, from, to } => {
                let (from, to) = (amount_text(*what, *from), amount_text(*what, *to));
                write!(f, "{what} {to} instead of {from}")
            }
            Relaxation::FewerDevices { kind, to } => write!(f, "{to} {kind}"),
            Relaxation::AnyPort { port } => write!(f, "any port instead of {port}"),
            Relaxation::WithoutRequirement { requirement } => {
                write!(f, "not requiring {}", text(requirement))
            }
            Relaxation::WeakerIsolation => f.write_str("the node's own isolation"),
            Relaxation::WithoutLimits => f.write_str("no limits of its own"),
            Relaxation::WithoutUser => f.write_str("the node's own user"),
            Relaxation::AtMost { level, to } => write!(f, "at most {to} in a {}", level.name()),
            Relaxation::WithoutApart { job, other: false } => write!(f, "not apart from {job}"),
            Relaxation::WithoutApart { job, other: true } => {
                write!(f, "{job} no longer apart from this job")
            }
            Relaxation::WithoutTogether { job } => write!(f, "not together with {job}"),
            Relaxation::OpenHost { .. } => f.write_str("opening the host for work"),
        }
    }
}

impl fmt::Display for SmallestChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes: Vec<String> = self.changes.iter().map(Relaxation::to_string).collect();
        write!(f, "{} (on {})", changes.join("; "), self.hosts.join(", "))
    }
}
