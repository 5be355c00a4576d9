//! A network of control groups in memory, whose links can be cut, and the
//! small state that they replicate.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use potluck_specs::{Epoch, FleetId, NodeId};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::{interval, timeout};

use crate::control::{
    ControlGroup, Member, PeerError, ProposeError, RaftPeers, Replicated, Settings, Timing,
};

/// How long anything may take: machines of CI are slow.
const WAIT: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
pub(super) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut looks = interval(LOOK);
    let found = timeout(WAIT, async {
        loop {
            looks.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    });
    let found = found
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
    println!("{what}: after {:?}", start.elapsed());
    found
}

/// Named texts, and how many commands have been applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Board {
    pub(super) texts: BTreeMap<String, String>,
    pub(super) applied: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pin {
    pub(super) name: String,
    pub(super) text: String,
}

pub(super) fn pin(name: impl Into<String>, text: impl Into<String>) -> Pin {
    Pin {
        name: name.into(),
        text: text.into(),
    }
}

impl Replicated for Board {
    type Command = Pin;
    /// What hung there before.
    type Reply = Option<String>;

    fn apply(&mut self, _index: u64, command: &Pin) -> Option<String> {
        self.applied += 1;
        self.texts
            .insert(command.name.clone(), command.text.clone())
    }
}

pub(super) type Group = ControlGroup<Board>;

pub(super) fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub(super) fn member(number: u8) -> Member {
    Member {
        node: node(number),
        rack: format!("rack{number}"),
        addresses: vec![format!("/ip4/127.0.0.{number}/tcp/1")],
    }
}

/// All groups of a test, and which links are cut.
#[derive(Default)]
pub(super) struct Hub {
    groups: Mutex<BTreeMap<NodeId, Group>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Requests delivered, by sender.
    pub(super) delivered: Mutex<BTreeMap<NodeId, u64>>,
}

impl Hub {
    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.lock().unwrap().contains(&(from, to))
    }

    /// Cuts or mends every link between a node and all others.
    pub(super) fn isolate(&self, number: u8, cut: bool) {
        let mut links = self.cut.lock().unwrap();
        for other in (0..=u8::MAX).filter(|other| *other != number) {
            for link in [(node(number), node(other)), (node(other), node(number))] {
                if cut {
                    links.insert(link);
                } else {
                    links.remove(&link);
                }
            }
        }
    }
}

/// One node's way into the hub.
struct Port {
    hub: Arc<Hub>,
    me: NodeId,
}

#[async_trait]
impl RaftPeers for Port {
    async fn send(
        &self,
        to: NodeId,
        message: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        assert!(
            message.len() < 1 << 20,
            "a message of {} bytes",
            message.len()
        );
        // A cut link swallows messages, as a partition does.
        let swallowed = async {
            let nothing = timeout(limit, std::future::pending()).await;
            nothing.unwrap_or(Err(PeerError::Timeout(to)))
        };
        if !self.hub.passes(self.me, to) {
            return swallowed.await;
        }
        let group = self.hub.groups.lock().unwrap().get(&to).cloned();
        let group = group.ok_or(PeerError::Unreachable(to))?;
        *self
            .hub
            .delivered
            .lock()
            .unwrap()
            .entry(self.me)
            .or_default() += 1;
        let answer = group.receive(self.me, message).await;
        if !self.hub.passes(to, self.me) {
            return swallowed.await;
        }
        Ok(answer)
    }
}

/// Groups on one hub, each with its folder.
pub(super) struct World {
    pub(super) hub: Arc<Hub>,
    pub(super) folder: TempDir,
    pub(super) timing: Timing,
    pub(super) epoch: Epoch,
}

impl World {
    pub(super) fn new() -> World {
        World {
            hub: Arc::default(),
            folder: TempDir::new().unwrap(),
            timing: Timing::default(),
            epoch: Epoch(1),
        }
    }

    pub(super) fn folder_of(&self, number: u8) -> std::path::PathBuf {
        self.folder.path().join(number.to_string())
    }

    pub(super) fn settings(&self, number: u8, folder: &Path) -> Settings {
        Settings {
            folder: folder.into(),
            fleet: FleetId([9; 32]),
            cluster: "test".into(),
            epoch: self.epoch,
            me: member(number),
            timing: self.timing,
        }
    }

    pub(super) fn port(&self, number: u8) -> Arc<dyn RaftPeers> {
        Arc::new(Port {
            hub: self.hub.clone(),
            me: node(number),
        })
    }

    fn plug(&self, number: u8, group: &Group) {
        let mut groups = self.hub.groups.lock().unwrap();
        groups.insert(node(number), group.clone());
    }

    /// Genesis, and the wait until it leads.
    pub(super) async fn bootstrap(&self, number: u8) -> Group {
        let settings = self.settings(number, &self.folder_of(number));
        let group = Group::bootstrap(settings, self.port(number)).await.unwrap();
        self.plug(number, &group);
        eventually("the first leader", || leads(&group)).await;
        group
    }

    pub(super) async fn start(&self, number: u8) -> Group {
        let settings = self.settings(number, &self.folder_of(number));
        let group = Group::start(settings, self.port(number)).await.unwrap();
        self.plug(number, &group);
        group
    }

    /// As when its process ends: nobody reaches it any more.
    pub(super) async fn stop(&self, number: u8) {
        let group = self.hub.groups.lock().unwrap().remove(&node(number));
        group.unwrap().shutdown().await;
    }

    /// A group of `size` voters, numbered from 1; the first leads.
    pub(super) async fn group(&self, size: u8) -> Vec<Group> {
        let first = self.bootstrap(1).await;
        let mut groups = vec![first.clone()];
        for number in 2..=size {
            let group = self.start(number).await;
            join(&first, &group, number).await;
            groups.push(group);
        }
        let voters = groups.iter().map(Group::raft_id).collect();
        first.change_voters(voters).await.unwrap();
        groups
    }
}

/// Adds a learner and waits until it has caught up.
pub(super) async fn join(leader: &Group, group: &Group, number: u8) {
    let id = group.raft_id();
    leader.add_learner(id, member(number)).await.unwrap();
    eventually("the learner has caught up", || {
        let membership = leader.membership();
        let learner = membership.learners.iter().find(|l| l.raft_id == id)?;
        (learner.matched? >= membership.last_index).then_some(())
    })
    .await;
}

pub(super) fn leads(group: &Group) -> Option<()> {
    group.leadership().borrow().we_lead.then_some(())
}

/// Proposes through whoever leads, as a client with retries would.
pub(super) async fn propose_somewhere(groups: &[Group], command: Pin) -> u64 {
    use ProposeError as E;
    let mut rounds = interval(LOOK);
    let taken = timeout(WAIT, async {
        loop {
            rounds.tick().await;
            for group in groups {
                match group.propose(command.clone()).await {
                    Ok(applied) => return applied.index,
                    Err(E::NotLeader { .. } | E::NoQuorum | E::Stopped) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    taken.await.expect("somebody takes commands")
}

/// Waits until all have the same text there.
pub(super) async fn agree(groups: &[Group], name: &str, text: &str) {
    eventually("all have the text", || {
        groups
            .iter()
            .all(|group| group.read(|board| board.texts.get(name).is_some_and(|t| t == text)))
            .then_some(())
    })
    .await;
}
