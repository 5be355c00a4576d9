//! Who is there, told on: gossip's members become addresses for the network,
//! names for people, and hints for the scheduler.

use super::shared::Shared;
use crate::clock;
use potluck_core::{auction::Authority, scheduler::MemberView};
use potluck_gossip::Member;
use potluck_specs::{Millis, NodeId};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::sync::CancellationToken;

/// What is known of the other nodes, for look-ups without waiting.
#[derive(Clone, Default)]
pub(super) struct Directory {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<NodeId, Known>,
    greeted: Option<(Authority, NodeId)>,
}

/// A node as this one knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What people call it.
    pub name: String,
    /// Its rack.
    pub rack: String,
    /// Where its network is reached.
    pub address: Option<SocketAddr>,
    /// chitchat's opinion.
    pub alive: bool,
    /// Its heartbeat counter, and when it last moved on this host's clock.
    beat: (u64, u64),
    moved_at: Millis,
}

impl Directory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a node.
    pub(super) fn get(&self, node: NodeId) -> Option<Known> {
        self.lock().members.get(&node).cloned()
    }

    /// What people call a node; its short id if they have not said.
    pub(super) fn name(&self, node: NodeId) -> String {
        self.get(node)
            .map_or_else(|| node.short(), |known| known.name)
    }

    /// The node that people call so.
    pub(super) fn named(&self, name: &str) -> Option<NodeId> {
        let inner = self.lock();
        inner
            .members
            .iter()
            .find(|(_, known)| known.name == name)
            .map(|(node, _)| *node)
    }

    /// All nodes that gossip believes to be alive.
    pub(super) fn alive(&self) -> Vec<NodeId> {
        let inner = self.lock();
        inner
            .members
            .iter()
            .filter(|(_, known)| known.alive)
            .map(|(node, _)| *node)
            .collect()
    }

    /// What the scheduler is told.
    pub(super) fn views(&self) -> Vec<MemberView> {
        let view = |(node, known): (&NodeId, &Known)| MemberView {
            node: *node,
            heartbeat_moved_at: known.moved_at,
        };
        self.lock().members.iter().map(view).collect()
    }

    /// The node that greeted this one with the highest authority.
    pub(super) fn greeted_by(&self) -> Option<NodeId> {
        self.lock().greeted.map(|(_, node)| node)
    }

    /// A scheduler has greeted this node, or named the one that leads.
    pub(super) fn greeted(&self, authority: Authority, by: NodeId) {
        let mut inner = self.lock();
        if inner
            .greeted
            .is_none_or(|(highest, _)| authority >= highest)
        {
            inner.greeted = Some((authority, by));
        }
    }

    /// The node that greeted this one no longer answers.
    pub(super) fn lost(&self, leader: NodeId) {
        let mut inner = self.lock();
        inner.greeted = inner.greeted.filter(|(_, node)| *node != leader);
    }

    /// The hint of another member about who leads, under no authority of its
    /// own: it only fills a gap.
    pub(super) fn hint_leader(&self, leader: NodeId) {
        let mut inner = self.lock();
        let authority = inner
            .greeted
            .map_or(Authority::default(), |(highest, _)| highest);
        inner.greeted = Some((authority, leader));
    }

    fn update(&self, members: &[Member], now: Millis) {
        let mut inner = self.lock();
        for member in members {
            let beat = (member.record.incarnation, member.heartbeat);
            let known = inner.members.entry(member.node).or_insert_with(|| Known {
                name: String::new(),
                rack: String::new(),
                address: None,
                alive: false,
                beat: (0, 0),
                moved_at: now,
            });
            if known.beat != beat {
                known.beat = beat;
                known.moved_at = now;
            }
            known.name = member.record.name.0.clone();
            known.rack = member.record.topology.rack.clone();
            known.address = member.record.network.first().copied();
            known.alive = member.alive;
        }
    }
}

/// Tells the network and the directory about each change of gossip's view.
pub(super) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut members = shared.gossip.members();
    loop {
        let view = members.borrow_and_update().clone();
        shared.directory.update(&view, clock::boot_now());
        for member in view.iter().filter(|member| member.node != shared.me.node) {
            shared
                .network
                .learn(member.node, member.record.network.clone());
        }
        tokio::select! {
            () = token.cancelled() => return,
            changed = members.changed() => if changed.is_err() { return },
        }
    }
}
