//! What operators ask of nodes: drains with a deadline, and cordons.
//!
//! Whether a member is drained stands at the member; here stands until when a
//! drain may take, and who takes no new work but keeps what it has.

use super::{Cluster, Command, Refused, Reply};
use potluck_specs::{Millis, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of operators' wishes about nodes. Only members appear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operations {
    /// Deadlines of drains, Unix time.
    #[serde(default)]
    deadlines: BTreeMap<NodeId, Millis>,
    #[serde(default)]
    cordoned: BTreeSet<NodeId>,
}

impl Cluster {
    /// Until when the drain of a node may take, Unix time: what still runs
    /// there then is stopped, whatever its job's budget says.
    pub fn drain_deadline(&self, node: NodeId) -> Option<Millis> {
        let draining = self.members.get(&node).is_some_and(|m| m.draining);
        let deadline = self.operations.deadlines.get(&node).copied();
        deadline.filter(|_| draining)
    }

    /// Does the node keep what it has, and take nothing new?
    pub fn is_cordoned(&self, node: NodeId) -> bool {
        self.operations.cordoned.contains(&node)
    }

    /// Every node that does.
    pub fn cordoned(&self) -> &BTreeSet<NodeId> {
        &self.operations.cordoned
    }

    pub(super) fn change_operations(&mut self, command: &Command) -> Reply {
        let (Command::Drain { node, .. } | Command::Cordon { node, .. }) = command else {
            return Reply::Done;
        };
        let node = *node;
        let Some(member) = self.members.get_mut(&node) else {
            return Reply::refused(Refused::NotAMember { node });
        };
        match command {
            Command::Drain { deadline, .. } => {
                member.draining = true;
                match deadline {
                    Some(deadline) => self.operations.deadlines.insert(node, *deadline),
                    None => self.operations.deadlines.remove(&node),
                };
            }
            Command::Cordon { cordoned: true, .. } => {
                self.operations.cordoned.insert(node);
            }
            _ => {
                self.operations.cordoned.remove(&node);
            }
        }
        Reply::Done
    }

    /// Wishes about nodes that left, or whose drain was ended, end too.
    pub(super) fn tidy_operations(&mut self) {
        let members = &self.members;
        self.operations
            .deadlines
            .retain(|node, _| members.get(node).is_some_and(|m| m.draining));
        self.operations
            .cordoned
            .retain(|node| members.contains_key(node));
    }
}
