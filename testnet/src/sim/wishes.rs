//! What jobs ask for beside room: a fixed port, devices, places, an order.
//!
//! Answers for wishes that can be met: each job has one of its own, sized so
//! that all of a seed's jobs fit together, with one host away for good.
//! Nobody stops a job that another waits for or must be near to.

use super::rng::Rng;
use potluck_specs::{
    Job, JobName,
    job::{AtMost, Dependency, DependencyState, JobKind, Level, Neighbour, PRIORITY_DEFAULT},
};

/// Fixed ports are from here on; those that hosts choose are above.
pub(super) const FIXED_PORT: u16 = 9_000;

/// The kind of device that hosts have, and how many of it.
pub(super) const DEVICE: &str = "gpu";
/// Of those.
pub(super) const DEVICES: u32 = 2;

/// Of a thousand jobs so many wish for something.
const SHARE: u64 = 500;

/// One thing that a job asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Room is all.
    #[default]
    Nothing,
    /// A port that it names.
    Port(u16),
    /// One device for each task.
    Device,
    /// No more than so many of its tasks in one rack or on one host.
    AtMost(Level, u32),
    /// No task in one place with one of that job.
    Apart(String, Level),
    /// Every task in one place with one of that job.
    Together(String, Level),
    /// To start after all of that job serves.
    After(String),
    /// A task on every host.
    Everywhere,
}

/// What a job asks for, in all its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Beside room.
    pub wish: Wish,
    /// Higher matters more.
    pub priority: u32,
    /// Most slots with which all fits together.
    pub most: u32,
    /// Others need it: nobody stops it.
    pub needed: bool,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes {
            wish: Wish::Nothing,
            priority: PRIORITY_DEFAULT,
            most: u32::MAX,
            needed: false,
        }
    }
}

impl Wishes {
    /// For jobs of these names, in order, on so many hosts and racks.
    pub fn drawn(rng: &mut Rng, names: &[String], hosts: usize, racks: usize) -> Vec<Wishes> {
        let mut all: Vec<Wishes> = Vec::new();
        for _ in names {
            let mut wishes = Wishes::default();
            if rng.chance(SHARE / 2) {
                wishes.priority = 10 * rng.between(1, 9) as u32;
            }
            if rng.chance(SHARE) {
                wishes.draw(rng, names, &all, (hosts, racks));
            }
            if let Wish::Apart(other, _) | Wish::Together(other, _) | Wish::After(other) =
                &wishes.wish
                && let Some(other) = names.iter().position(|name| name == other)
            {
                all[other].needed = true;
                all[other].most = all[other].most.min(few(hosts));
            }
            all.push(wishes);
        }
        all
    }

    /// `before`: what those before it ask for.
    fn draw(
        &mut self,
        rng: &mut Rng,
        names: &[String],
        before: &[Wishes],
        hosts: (usize, usize),
    ) {
        let at = before.len();
        let everywhere = |name: &str| {
            let mut all = names.iter().zip(before);
            all.any(|(one, wishes)| one == name && wishes.wish == Wish::Everywhere)
        };
        let (hosts, racks) = hosts;
        let other = |rng: &mut Rng| names[rng.below(at as u64) as usize].clone();
        // The first has nobody before it.
        let kinds = if at == 0 { 5 } else { 8 };
        (self.wish, self.most) = match rng.below(kinds) {
            // Three jobs of six share one, and half of the hosts each.
            0 => (Wish::Port(FIXED_PORT + at as u16 % 2), few(hosts)),
            1 => (Wish::Device, few(hosts)),
            2 => (Wish::AtMost(Level::Node, 1), few(hosts) * 2),
            3 => (Wish::AtMost(Level::Rack, 2), racks as u32),
            4 => (Wish::Everywhere, u32::MAX),
            5 => match other(rng) {
                name if everywhere(&name) => (Wish::Nothing, u32::MAX),
                name => (Wish::Apart(name, Level::Node), few(hosts)),
            },
            6 => (Wish::Together(other(rng), Level::Rack), 2),
            _ => (Wish::After(other(rng)), u32::MAX),
        };
    }

    /// Writes them into a job.
    pub(super) fn put(&self, job: &mut Job) {
        job.priority = self.priority;
        let neighbour = |name: &str, level| Neighbour {
            job: JobName::in_default(name),
            level,
        };
        match &self.wish {
            Wish::Nothing => {}
            Wish::Port(number) => job.task.ports[0].number = Some(*number),
            Wish::Device => {
                job.task.devices.insert(DEVICE.into(), 1);
            }
            Wish::AtMost(level, count) => {
                let (level, count) = (*level, *count);
                job.placement.at_most.push(AtMost { level, count });
            }
            Wish::Apart(other, level) => job.placement.apart_from.push(neighbour(other, *level)),
            Wish::Together(other, level) => {
                job.placement.together_with.push(neighbour(other, *level));
            }
            Wish::After(other) => job.change.depends_on.push(Dependency {
                job: JobName::in_default(other),
                state: DependencyState::Healthy,
                at_least: Some(1),
            }),
            Wish::Everywhere => job.kind = JobKind::PerNode,
        }
    }
}

/// So many hosts that three jobs have as many each, with one away.
fn few(hosts: usize) -> u32 {
    (hosts.saturating_sub(1) / 3).max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_drawn_and_nobody_waits_for_a_later_one() {
        let names: Vec<String> = ["web", "api", "db", "cron"].map(String::from).to_vec();
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let all = Wishes::drawn(&mut Rng::new(seed), &names, 8, 3);
            for (at, wishes) in all.iter().enumerate() {
                let kind = format!("{:?}", wishes.wish);
                kinds.insert(kind.split('(').next().unwrap_or_default().to_owned());
                if let Wish::Apart(other, _) | Wish::Together(other, _) | Wish::After(other) =
                    &wishes.wish
                {
                    let other = names.iter().position(|name| name == other);
                    assert!(other.is_some_and(|other| other < at && all[other].needed));
                }
            }
        }
        assert_eq!(kinds.len(), 8, "{kinds:?}");
    }
}
