//! Hosts as the scheduler looks for them: in groups that are alike.
//!
//! Answers for finding hosts without looking at all of them. Hosts of one
//! rack with the same facts form a group; what a job requires is asked once
//! for a group, and a group in which nothing has room is passed by its
//! roomiest member. Leaves to `picture` what hosts run, to `feasible` the
//! whole answer for one host.

use super::{call::takes_work, host_map::HostMap};
use crate::{attributes::Facts, cluster::Cluster};
use potluck_specs::{
    Millis, NodeId,
    job::{Level, Resources},
};
use std::collections::{BTreeMap, BTreeSet};

/// Levels of the topology.
pub(super) const LEVELS: usize = Level::ALL.len();

/// The place of a host: a number for each level, widest first. The same
/// number is the same place.
pub(super) type Place = [u32; LEVELS];

/// One host.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    /// Where it stands in the index.
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) group: usize,
    pub(super) free: Resources,
    pub(super) total: Resources,
    pub(super) heard_at: Option<Millis>,
    /// By the log: an agent that is not being emptied.
    pub(super) admitted: bool,
    /// The newest kind of work that it knows (`cluster::level_of_tasks`).
    pub(super) level: u32,
    /// By its own word, and all that it runs is known.
    pub(super) open: bool,
    /// How hard it works, in hundredths.
    pub(super) pressure: u8,
}

impl Entry {
    pub(super) fn takes_work(&self) -> bool {
        self.admitted && self.open
    }
}

/// Hosts of one rack that say the same of themselves.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The place of its members down to the rack; the node's level is 0.
    pub(super) place: Place,
    pub(super) facts: usize,
    pub(super) members: Vec<u32>,
    /// The most of each resource that any member has free, or more if the group is
    /// to be measured again.
    roomiest: Resources,
    /// To be measured again before it is asked.
    unmeasured: bool,
}

impl Group {
    /// May any member have this much free? A measured group says no if none has.
    pub(super) fn may_have(&self, need: &Resources) -> bool {
        !self.members.is_empty() && self.roomiest.fits(need)
    }
}

/// All hosts that are members.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Option<Entry>>,
    vacant: Vec<u32>,
    numbers: HostMap<u32>,
    places: BTreeMap<(u32, String), u32>,
    /// Level and name of each place.
    names: Vec<(usize, String)>,
    facts: Vec<Facts>,
    fact_ids: BTreeMap<Facts, usize>,
    groups: Vec<Group>,
    /// Those that are to be measured again.
    unmeasured: Vec<usize>,
    /// Which levels have more than one place.
    divided: [bool; LEVELS],
    group_ids: BTreeMap<(u32, usize), usize>,
}

/// No place: stands above all, and for the hosts of a group.
pub(super) const NOWHERE: u32 = 0;

impl Index {
    /// Follows the members of the log; gives the hosts whose place, or version
    /// of potluck, is another now.
    pub(super) fn follow(&mut self, cluster: &Cluster) -> Vec<NodeId> {
        let mut moved = Vec::new();
        for member in cluster.members().values() {
            let admitted = takes_work(cluster, member.node);
            let topology = &member.topology;
            let path = [
                topology.region.as_str(),
                topology.datacenter.as_str(),
                topology.cluster.as_str(),
                topology.rack.as_str(),
                member.name.0.as_str(),
            ];
            match self.numbers.get(&member.node) {
                Some(number) => {
                    let number = *number;
                    let stays = self.stands_at(number, &path);
                    if !stays {
                        self.settle(number, &path);
                    }
                    if self.set_level(number, member.feature_level) || !stays {
                        moved.push(member.node);
                    }
                    self.set_admitted(number, admitted);
                }
                None => {
                    let number = self.add(member.node);
                    self.settle(number, &path);
                    self.set_level(number, member.feature_level);
                    self.set_admitted(number, admitted);
                }
            }
        }
        if self.numbers.len() != cluster.members().len() {
            let members: BTreeSet<NodeId> = cluster.members().keys().copied().collect();
            let left: Vec<NodeId> = self
                .numbers
                .keys()
                .filter(|node| !members.contains(node))
                .copied()
                .collect();
            for node in left {
                self.remove(node);
            }
        }
        self.divided = Level::ALL.map(|level| self.has_two_places(level));
        moved
    }

    fn set_admitted(&mut self, number: u32, admitted: bool) {
        if let Some(entry) = self.entry_mut(number)
            && entry.admitted != admitted
        {
            entry.admitted = admitted;
            let group = entry.group;
            self.unmeasure(group);
        }
    }

    /// True if it was another.
    fn set_level(&mut self, number: u32, level: u32) -> bool {
        let Some(entry) = self.entry_mut(number) else {
            return false;
        };
        std::mem::replace(&mut entry.level, level) != level
    }

    fn stands_at(&self, number: u32, path: &[&str; LEVELS]) -> bool {
        let Some(entry) = self.entry(number) else {
            return false;
        };
        entry.name == path[LEVELS - 1]
            && (0..LEVELS).all(|level| self.name(entry.place[level]) == path[level])
    }

    fn add(&mut self, node: NodeId) -> u32 {
        if self.facts.is_empty() {
            self.facts.push(Facts::default());
            self.fact_ids.insert(Facts::default(), 0);
            self.names.push((0, String::new()));
        }
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                self.entries.push(None);
                (self.entries.len() - 1) as u32
            }
        };
        self.entries[number as usize] = Some(Entry {
            node,
            number,
            name: String::new(),
            place: [NOWHERE; LEVELS],
            group: usize::MAX,
            free: Resources::default(),
            total: Resources::default(),
            heard_at: None,
            admitted: false,
            level: 0,
            open: false,
            pressure: 0,
        });
        self.numbers.insert(node, number);
        number
    }

    /// Puts a host where it stands, and into the group of that place.
    fn settle(&mut self, number: u32, path: &[&str; LEVELS]) {
        let mut place = [NOWHERE; LEVELS];
        let mut parent = NOWHERE;
        for (level, name) in path.iter().enumerate() {
            parent = self.place_of(parent, level, name);
            place[level] = parent;
        }
        let facts = self.facts_of(number);
        if let Some(entry) = self.entry_mut(number) {
            entry.place = place;
            entry.name = path[LEVELS - 1].to_owned();
        }
        self.regroup(number, facts);
    }

    fn place_of(&mut self, parent: u32, level: usize, name: &str) -> u32 {
        if let Some(known) = self.places.get(&(parent, name.to_owned())) {
            return *known;
        }
        let id = self.names.len() as u32;
        self.names.push((level, name.to_owned()));
        self.places.insert((parent, name.to_owned()), id);
        id
    }

    fn facts_of(&self, number: u32) -> usize {
        let group = self.entry(number).map(|entry| entry.group);
        group
            .and_then(|group| self.groups.get(group))
            .map_or(0, |group| group.facts)
    }

    fn regroup(&mut self, number: u32, facts: usize) {
        self.leave_group(number);
        let Some(entry) = self.entry(number) else {
            return;
        };
        let mut place = entry.place;
        place[LEVELS - 1] = NOWHERE;
        let key = (place[Level::Rack as usize], facts);
        let next = self.groups.len();
        let group = *self.group_ids.entry(key).or_insert(next);
        if group == next {
            self.groups.push(Group {
                place,
                facts,
                members: Vec::new(),
                roomiest: Resources::default(),
                unmeasured: false,
            });
        }
        self.groups[group].members.push(number);
        if let Some(entry) = self.entry_mut(number) {
            entry.group = group;
        }
        self.unmeasure(group);
    }

    fn leave_group(&mut self, number: u32) {
        let Some(group) = self.entry(number).map(|entry| entry.group) else {
            return;
        };
        if let Some(known) = self.groups.get_mut(group) {
            known.members.retain(|member| *member != number);
            self.unmeasure(group);
        }
    }

    fn remove(&mut self, node: NodeId) {
        if let Some(number) = self.numbers.remove(&node) {
            self.leave_group(number);
            self.entries[number as usize] = None;
            self.vacant.push(number);
        }
    }

    /// A group's roomiest is to be found again before somebody asks: what is
    /// promised to many hosts of a group costs one look at all of them.
    fn unmeasure(&mut self, group: usize) {
        if !std::mem::replace(&mut self.groups[group].unmeasured, true) {
            self.unmeasured.push(group);
        }
    }

    /// Finds the roomiest of all groups that changed. Due before groups are asked
    /// what they may have.
    pub(super) fn measure(&mut self) {
        let mut groups = std::mem::take(&mut self.unmeasured);
        for group in groups.drain(..) {
            self.groups[group].roomiest = self.roomiest_of(&self.groups[group]);
            self.groups[group].unmeasured = false;
        }
        // Its room is kept for the next ones.
        self.unmeasured = groups;
    }

    fn roomiest_of(&self, group: &Group) -> Resources {
        let members = group.members.iter();
        members
            .filter_map(|number| self.entry(*number))
            .filter(|entry| entry.takes_work())
            .fold(Resources::default(), |most, entry| most.max(entry.free))
    }

    /// A host's own word about itself.
    pub(super) fn report(&mut self, node: NodeId, free: Resources, total: Resources, open: bool) {
        let Some(number) = self.numbers.get(&node).copied() else {
            return;
        };
        if let Some(entry) = self.entry_mut(number) {
            entry.total = total;
        }
        self.set_room(number, free, open);
    }

    /// A host was heard.
    pub(super) fn heard(&mut self, node: NodeId, now: Millis, pressure: u8) {
        if let Some(number) = self.numbers.get(&node).copied()
            && let Some(entry) = self.entry_mut(number)
        {
            entry.heard_at = Some(now);
            entry.pressure = pressure;
        }
    }

    /// What a host says of itself; true if that is new.
    pub(super) fn set_facts(&mut self, node: NodeId, facts: &Facts) -> bool {
        let Some(number) = self.numbers.get(&node).copied() else {
            return false;
        };
        let next = self.facts.len();
        let id = match self.fact_ids.get(facts) {
            Some(id) => *id,
            None => {
                self.fact_ids.insert(facts.clone(), next);
                self.facts.push(facts.clone());
                next
            }
        };
        let new = self.facts_of(number) != id;
        if new {
            self.regroup(number, id);
        }
        new
    }

    /// A bid says more than the last report.
    pub(super) fn set_free(&mut self, number: u32, node: NodeId, free: Resources) {
        if let Some(open) = self.at(number, node).map(|entry| entry.open) {
            self.set_room(number, free, open);
        }
    }

    /// Takes what was promised to awards out of what is free.
    pub(super) fn promise(&mut self, number: u32, node: NodeId, taken: Resources) {
        if let Some((free, open)) = self.at(number, node).map(|e| (e.free, e.open)) {
            self.set_room(number, free.minus(taken), open);
        }
    }

    /// The host that had this number, if it is there still.
    pub(super) fn at(&self, number: u32, node: NodeId) -> Option<&Entry> {
        self.entry(number).filter(|entry| entry.node == node)
    }

    fn set_room(&mut self, number: u32, free: Resources, open: bool) {
        let Some(entry) = self.entry_mut(number) else {
            return;
        };
        let (before, was_open, group) = (entry.free, entry.open, entry.group);
        entry.free = free;
        entry.open = open;
        let takes_work = entry.takes_work();
        let Some(known) = self.groups.get_mut(group) else {
            return;
        };
        // Exact only while nobody shrinks; what shrank and was the roomiest
        // makes the group be measured again.
        if was_open == open && takes_work {
            let most = known.roomiest;
            known.roomiest = most.max(free);
            if shrank(before, free, most) {
                self.unmeasure(group);
            }
        } else {
            self.unmeasure(group);
        }
    }

    pub(super) fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)?.as_ref()
    }

    fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    /// Numbers are below this.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn of(&self, node: NodeId) -> Option<&Entry> {
        self.entry(*self.numbers.get(&node)?)
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) fn facts(&self, group: &Group) -> &Facts {
        &self.facts[group.facts]
    }

    pub(super) fn facts_on(&self, entry: &Entry) -> Option<&Facts> {
        self.groups.get(entry.group).map(|group| self.facts(group))
    }

    /// The name of a place.
    pub(super) fn name(&self, place: u32) -> &str {
        self.names
            .get(place as usize)
            .map_or("", |(_, name)| name.as_str())
    }

    /// Has a level more than one place?
    pub(super) fn is_divided(&self, level: Level) -> bool {
        self.divided[level as usize]
    }

    fn has_two_places(&self, level: Level) -> bool {
        let mut groups = self.groups.iter().filter(|group| !group.members.is_empty());
        let at = level as usize;
        match groups.next() {
            None => false,
            Some(_) if level == Level::Node => self.numbers.len() > 1,
            Some(first) => groups.any(|group| group.place[at] != first.place[at]),
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }
}

fn shrank(before: Resources, now: Resources, most: Resources) -> bool {
    let one = |before: u64, now: u64, most: u64| now < before && before >= most;
    one(
        before.cpu_millis.into(),
        now.cpu_millis.into(),
        most.cpu_millis.into(),
    ) || one(before.memory_bytes, now.memory_bytes, most.memory_bytes)
        || one(before.disk_bytes, now.disk_bytes, most.disk_bytes)
        || one(
            before.uplink_bits_per_s,
            now.uplink_bits_per_s,
            most.uplink_bits_per_s,
        )
}
