//! Which hosts there is something to look at.
//!
//! Answers for not looking at all hosts with each tick, where nearly all are
//! at rest. What silence means is `failure`'s to say.

use super::{
    SessionState,
    brake::Suspect,
    failure::{MISSED_AFTER, is_fresh},
    picture::{Host, Picture},
};
use potluck_specs::{Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Hosts at which there is something to look at with each tick: all but those
/// that are at rest.
///
/// A host at rest is up, has told all that it runs, was heard just now and is
/// suspected by nobody. It stays so for as long as it was heard lately, so
/// that of a thousand such hosts none is looked at between two heartbeats.
/// Law: whoever is not in `nodes` is at rest, at any time before `until`.
#[derive(Debug, Default)]
pub(super) struct Notable {
    pub(super) nodes: BTreeSet<NodeId>,
    /// Before this no host at rest can have fallen silent. `None`: hosts came
    /// or went, and all are to be looked at.
    until: Option<Millis>,
    /// Hosts in each rack.
    pub(super) racks: BTreeMap<String, usize>,
}

impl Notable {
    /// Hosts came or went.
    pub(super) fn look_at_all(&mut self) {
        self.until = None;
    }

    /// What is known of a host is doubted.
    pub(super) fn add(&mut self, node: NodeId) {
        self.nodes.insert(node);
    }

    /// Brings `nodes` up to what is known now.
    pub(super) fn follow(&mut self, picture: &Picture, began: Millis, now: Millis) {
        let hosts = &picture.hosts;
        if self.until.is_some_and(|until| now < until) {
            self.nodes
                .retain(|node| hosts.get(node).is_some_and(|h| !is_at_rest(h, began, now)));
            return;
        }
        if self.until.is_none() {
            self.racks.clear();
            for host in hosts.values() {
                *self.racks.entry(host.rack.clone()).or_default() += 1;
            }
        }
        let mut heard_first = now;
        self.nodes.clear();
        for (node, host) in hosts.iter() {
            match host.heard_at {
                Some(at) if is_at_rest(host, began, now) => heard_first = heard_first.min(at),
                _ => {
                    self.nodes.insert(*node);
                }
            }
        }
        self.until = Some(heard_first + MISSED_AFTER);
    }

    /// Hosts that are missed, for the brake.
    pub(super) fn suspects<'p>(&self, picture: &'p Picture) -> Vec<Suspect<'p>> {
        let hosts = self.nodes.iter().filter_map(|node| {
            let host = picture.hosts.get(node)?;
            Some(Suspect {
                node: *node,
                rack: &host.rack,
                since: host.suspected_at?,
                waits: matches!(host.state, SessionState::Dead | SessionState::Unreachable),
                lost: host.lost,
            })
        });
        hosts.collect()
    }
}

fn is_at_rest(host: &Host, began: Millis, now: Millis) -> bool {
    host.complete && host.suspected_at.is_none() && is_fresh(host, began, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::failure::is_missed;
    use proptest::prelude::*;

    proptest! {
        /// Whatever hosts do, looking at some gives what looking at all does.
        #[test]
        fn whoever_is_not_at_rest_is_notable(
            events in proptest::collection::vec((0u8..6, 0u8..8, 0u64..900), 1..200),
        ) {
            let began = Millis(1_000);
            let mut now = began;
            let mut picture = Picture::default();
            for k in 0..6 {
                let host = Host::new("a".into(), true);
                picture.hosts.insert(NodeId([k; 32]), host);
            }
            let mut notable = Notable::default();
            for (node, what, pause) in events {
                now = now + Millis(pause);
                let node = NodeId([node; 32]);
                let host = picture.hosts.get_or_insert_with(node, || {
                    notable.look_at_all();
                    Host::new("a".into(), false)
                });
                match what {
                    // As a report is taken, of which all is believed but what
                    // comes out of order.
                    0..=3 => {
                        host.heard_at = Some(now);
                        host.complete = true;
                        host.suspected_at = None;
                        host.state = SessionState::Up;
                    }
                    4 => host.heard_at = Some(now),
                    5 => {
                        host.doubt();
                        notable.add(node);
                    }
                    6 => {
                        picture.hosts.remove(&node);
                        notable.look_at_all();
                    }
                    _ => {}
                }
                notable.follow(&picture, began, now);
                let hosts = picture.hosts.iter();
                let awake = hosts.filter(|(_, host)| !is_at_rest(host, began, now));
                let awake: Vec<NodeId> = awake.map(|(node, _)| *node).collect();
                let found: Vec<NodeId> = notable.nodes.iter().copied().collect();
                prop_assert_eq!(found, awake);
                // As `watch` goes on, of those alone.
                for node in &notable.nodes {
                    let host = picture.hosts.get_mut(node).expect("followed");
                    if is_missed(host, began, now) {
                        host.suspected_at.get_or_insert(now);
                    }
                }
                prop_assert_eq!(
                    notable.racks.values().sum::<usize>(),
                    picture.hosts.len()
                );
            }
        }
    }
}
