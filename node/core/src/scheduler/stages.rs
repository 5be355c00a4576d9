//! The stages of a rollout: which slots each of them covers.
//!
//! A stage of a number covers the first so many slots. A stage of places goes
//! from place to place: the slots whose tasks are in the first rack, then
//! those in the next, in order of the places' names, until all are covered.
//! Which slots a place has is written to the log before any of them changes
//! (`RolloutStep::Cover`), so that the next leader goes on with the same ones
//! wherever their tasks are by then. What is nowhere when all places are done
//! comes last.

use super::{Scheduler, per_node::Slots, rollout::Target};
use crate::cluster::{Cluster, RolloutStep};
use potluck_specs::{
    Job, Millis, Topology,
    job::{Amount, StageSize},
};
use std::collections::BTreeMap;

/// What a person reads of slots that no host has.
const NOWHERE: &str = "tasks that run nowhere";

/// A kind of place that a stage covers one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaceKind {
    Rack,
    Datacenter,
    Region,
}

impl PlaceKind {
    fn of(size: StageSize) -> Option<PlaceKind> {
        match size {
            StageSize::Rack => Some(PlaceKind::Rack),
            StageSize::Datacenter => Some(PlaceKind::Datacenter),
            StageSize::Region => Some(PlaceKind::Region),
            StageSize::Count(_) | StageSize::Percent(_) | StageSize::Cluster | StageSize::All => {
                None
            }
        }
    }

    /// Where a host stands, widest first: the order of places.
    fn place(self, at: &Topology) -> Vec<&str> {
        match self {
            PlaceKind::Rack => vec![&at.region, &at.datacenter, &at.rack],
            PlaceKind::Datacenter => vec![&at.region, &at.datacenter],
            PlaceKind::Region => vec![&at.region],
        }
    }

    fn name(self) -> &'static str {
        match self {
            PlaceKind::Rack => "rack",
            PlaceKind::Datacenter => "datacenter",
            PlaceKind::Region => "region",
        }
    }
}

/// One stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StageGoal {
    /// So many slots have the new version at its begin, the first ones.
    pub(super) from: u32,
    /// And so many at its end.
    pub(super) reach: u32,
    /// From place to place.
    pub(super) by: Option<PlaceKind>,
    /// How long it must stay healthy: each of its places by itself.
    pub(super) bake: Millis,
}

/// All stages of a job. The last one reaches all.
pub(super) fn stages(job: &Job) -> Vec<StageGoal> {
    let slots = job.slots();
    let mut goals: Vec<StageGoal> = Vec::new();
    for stage in &job.change.update.stages {
        goals.push(StageGoal {
            from: goals.last().map_or(0, |last| last.reach),
            reach: reach(stage.size, slots),
            by: PlaceKind::of(stage.size),
            bake: Millis(stage.bake_ms),
        });
    }
    if goals.last().is_none_or(|last| last.reach < slots) {
        goals.push(StageGoal {
            from: goals.last().map_or(0, |last| last.reach),
            reach: slots,
            by: None,
            bake: Millis(0),
        });
    }
    goals
}

/// A job is in one cluster, so that all of the cluster is all; of places all
/// are covered in the end.
fn reach(size: StageSize, slots: u32) -> u32 {
    match size {
        StageSize::Count(count) => Amount::Count(count).of_rounded_up(slots),
        StageSize::Percent(percent) => Amount::Percent(percent).of_rounded_up(slots),
        StageSize::Rack
        | StageSize::Cluster
        | StageSize::Datacenter
        | StageSize::Region
        | StageSize::All => slots,
    }
}

impl Scheduler {
    /// What follows when all that the present stage covers is healthy and
    /// baked: its next place, or the next stage.
    pub(super) fn next_of_stage(&self, cluster: &Cluster, target: &Target) -> RolloutStep {
        let stages = stages(target.current());
        let rollout = cluster.rollout(target.name());
        let (stage, number) = rollout.map_or((0, 0), |r| (r.stage as usize, r.places));
        let by = stages.get(stage).and_then(|stage| stage.by);
        if let Some(by) = by
            && let Some((place, slots)) = self.next_place(cluster, target, by)
        {
            return RolloutStep::Cover {
                number,
                place,
                slots,
            };
        }
        RolloutStep::Next {
            last: stage + 1 >= stages.len(),
        }
    }

    /// Does the stage go by places, and has it begun none?
    pub(super) fn awaits_place(&self, cluster: &Cluster, target: &Target) -> bool {
        let Some(rollout) = cluster.rollout(target.name()) else {
            return false;
        };
        let stages = stages(target.current());
        let stage = stages.get(rollout.stage as usize);
        rollout.places == 0 && stage.is_some_and(|stage| stage.by.is_some())
    }

    /// The first place, by name, that has slots which no stage has covered.
    fn next_place(
        &self,
        cluster: &Cluster,
        target: &Target,
        by: PlaceKind,
    ) -> Option<(String, Vec<u32>)> {
        let wanted = match self.slots_last_wanted(target) {
            Slots::First(_) => Slots::First(target.current().slots()),
            these => these,
        };
        let mut places: BTreeMap<Vec<&str>, Vec<u32>> = BTreeMap::new();
        let mut nowhere = Vec::new();
        for index in wanted.indexes().filter(|index| !target.covers(*index)) {
            let seat = target.id().seat(index);
            let held = self.kept(seat).map(|(node, _)| node);
            // What is on its way to a host is there.
            let node = held.or_else(|| self.awards.get(seat).map(|award| award.node));
            let member = node.and_then(|node| cluster.members().get(&node));
            match member {
                Some(member) => places
                    .entry(by.place(&member.topology))
                    .or_default()
                    .push(index),
                None => nowhere.push(index),
            }
        }
        match places.pop_first() {
            Some((place, slots)) => {
                let place = format!("{} {}", by.name(), place.join("/"));
                Some((shortened(by, &place), slots))
            }
            None if nowhere.is_empty() => None,
            None => Some((NOWHERE.into(), nowhere)),
        }
    }
}

/// Without the names that `init` gives where nobody names region and
/// datacenter: they tell nothing.
fn shortened(by: PlaceKind, place: &str) -> String {
    match by {
        PlaceKind::Rack => place.replacen("rack default/default/", "rack ", 1),
        PlaceKind::Datacenter => place.replacen("datacenter default/", "datacenter ", 1),
        PlaceKind::Region => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::job::{JobKind, Stage};

    #[test]
    fn stages_reach_further_and_further_and_end_at_all() {
        use StageSize::{All, Cluster, Count, Datacenter, Percent, Rack, Region};
        let rack = Some(PlaceKind::Rack);
        let (dc, region) = (Some(PlaceKind::Datacenter), Some(PlaceKind::Region));
        type Goals = Vec<(u32, u32, Option<PlaceKind>)>;
        let table: [(&[StageSize], Goals); 8] = [
            (&[], vec![(0, 10, None)]),
            (&[All], vec![(0, 10, None)]),
            (&[Cluster], vec![(0, 10, None)]),
            (
                &[Count(1), Percent(50)],
                vec![(0, 1, None), (1, 5, None), (5, 10, None)],
            ),
            (&[Rack], vec![(0, 10, rack)]),
            (
                &[Count(1), Rack, All],
                vec![(0, 1, None), (1, 10, rack), (10, 10, None)],
            ),
            (&[Datacenter, Region], vec![(0, 10, dc), (10, 10, region)]),
            (&[Count(40)], vec![(0, 10, None)]),
        ];
        for (sizes, goals) in table {
            let mut job = Job {
                kind: JobKind::service(10),
                ..Job::default()
            };
            job.change.update.stages = sizes
                .iter()
                .map(|size| Stage {
                    size: *size,
                    bake_ms: 0,
                })
                .collect();
            let stages = stages(&job);
            let stages: Vec<_> = stages.iter().map(|s| (s.from, s.reach, s.by)).collect();
            assert_eq!(stages, goals, "{sizes:?}");
        }
    }

    #[test]
    fn places_are_ordered_widest_first() {
        let at = Topology {
            region: "eu".into(),
            datacenter: "fra".into(),
            cluster: "main".into(),
            rack: "r7".into(),
        };
        assert_eq!(PlaceKind::Rack.place(&at), ["eu", "fra", "r7"]);
        assert_eq!(PlaceKind::Datacenter.place(&at), ["eu", "fra"]);
        assert_eq!(PlaceKind::Region.place(&at), ["eu"]);
        let shown = |by, text| shortened(by, text);
        assert_eq!(shown(PlaceKind::Rack, "rack default/default/r1"), "rack r1");
        assert_eq!(shown(PlaceKind::Rack, "rack eu/fra/r7"), "rack eu/fra/r7");
    }
}
