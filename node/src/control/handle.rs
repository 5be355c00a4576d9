//! The handle: what the rest of the node does with a control group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    ChangeMembers, Instant as _, Raft, ReadPolicy, ServerState, TokioInstant,
    async_runtime::WatchReceiver,
    errors::{
        ChangeMembershipError, ClientWriteError, Fatal, ForwardReason, ForwardToLeader,
        LinearizableReadError, RaftError,
    },
};
use potluck_specs::{Epoch, Millis, NodeId, codec};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    COMMAND_BYTES_MAX, Member, RaftPeers, Replicated, Settings, config,
    consensus::{CommandBytes, Types},
    network::{Identity, Network},
    quorum::BootClock,
    receive::Incoming,
    store::{Store, StoreError, log::LogStore, state::StateStore},
};
use crate::{clock, spawn};

/// How long a proposal may wait for a quorum: many elections, and less than a
/// person's patience.
const PROPOSE_LIMIT: Duration = Duration::from_secs(10);

/// Proposals in flight at once; more wait their turn. With commands of some
/// KiB that is a few MiB, and far more than a log at 40,000 entries a second
/// has in flight.
const PROPOSALS_MAX: usize = 1_024;

/// A change of voters waits for two commits.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// A running member of a control group. Cheap to clone.
pub struct ControlGroup<S: Replicated> {
    pub(super) inner: Arc<Inner<S>>,
}

pub(super) struct Inner<S: Replicated> {
    pub(super) raft: Raft<Types, StateStore<S>>,
    raft_id: u64,
    settings: Settings,
    identity: Arc<Identity>,
    state: StateStore<S>,
    log: LogStore,
    leadership: watch::Receiver<Leadership>,
    proposals: Semaphore,
    incoming: Incoming,
    clock: Mutex<BootClock>,
    /// The end of a handover, time since boot.
    silent_until_ms: AtomicU64,
    stop: CancellationToken,
}

impl<S: Replicated> Clone for ControlGroup<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

/// A command that has taken effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// Its place in the log.
    pub index: u64,
    /// What the state said.
    pub reply: R,
}

/// Where a log ends. Of two logs of one epoch the later end has more of what
/// was committed.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct LogEnd {
    /// The term of its last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's node. A node that is cut off keeps the last one that it
    /// knew: see [`ControlGroup::last_leader_contact`].
    pub leader: Option<NodeId>,
    /// It is this one. True says nothing about a quorum: see
    /// [`ControlGroup::last_quorum_ack`].
    pub we_lead: bool,
    /// The Raft term; rises with each election.
    pub term: u64,
    /// An epoch later than ours that a peer has shown: this node's state is
    /// of the past, it has to join anew.
    pub superseded_by: Option<Epoch>,
}

/// Voters and learners, and on the leader how far each has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those whose majority commits, in the order of their Raft ids.
    pub voters: Vec<Follower>,
    /// Those who only follow.
    pub learners: Vec<Follower>,
    /// A change of voters is under way or not yet committed.
    pub changing: bool,
    /// The last index in this node's log.
    pub last_index: u64,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Its Raft id.
    pub raft_id: u64,
    /// Who it is.
    pub member: Member,
    /// On the leader: the last index that it is known to hold. Caught up when
    /// near [`Membership::last_index`].
    pub matched: Option<u64>,
    /// On the leader: when it last answered, time since boot.
    pub last_contact: Option<Millis>,
}

/// Why a group could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Genesis happens once.
    #[error("the folder already holds a control group")]
    AlreadyThere,
    /// Its files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Numbers that openraft refuses.
    #[error("the timing of the control group is not possible: {why}")]
    Timing {
        /// What it says.
        why: String,
    },
    /// What the files say does not fit together, or can't be written.
    #[error("the control group does not start from its files: {why}")]
    Raft {
        /// What openraft says.
        why: String,
    },
}

/// Why a command did not take effect, as far as this node knows.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader.
    #[error("this node does not lead the control group")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Most voters did not confirm in time. The command may still take effect
    /// later: a repeat must carry the same change id.
    #[error("most voters of the control group can't be reached")]
    NoQuorum,
    /// Larger than [`super::COMMAND_BYTES_MAX`].
    #[error("the command has {bytes} bytes, more than a log entry may have")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// A voter or learner would not understand the entry, and its state would
    /// differ from then on.
    #[error("node {node} runs an older potluck, which does not know this kind of change")]
    OlderNode {
        /// Which.
        node: String,
    },
    /// The group has been shut down, or its storage failed.
    #[error("the control group has stopped on this node")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error("this node does not lead the control group")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Most voters did not confirm in time; the change may still happen.
    #[error("most voters of the control group can't be reached")]
    NoQuorum,
    /// One change at a time.
    #[error("another change of the control group is under way")]
    InProgress,
    /// A voter must first be a learner; a group can't be empty.
    #[error("the change of the control group is not possible: {why}")]
    Refused {
        /// What openraft says.
        why: String,
    },
    /// The group has been shut down, or its storage failed.
    #[error("the control group has stopped on this node")]
    Stopped,
}

/// Why a read could not be confirmed.
#[derive(Debug, thiserror::Error)]
pub enum LinearizableError {
    /// Ask the leader.
    #[error("this node does not lead the control group")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Most voters did not confirm in time.
    #[error("most voters of the control group can't be reached")]
    NoQuorum,
    /// The group has been shut down, or its storage failed.
    #[error("the control group has stopped on this node")]
    Stopped,
}

impl<S: Replicated> ControlGroup<S> {
    /// Genesis, by `potluck init` alone: a new group of this one voter.
    ///
    /// # Errors
    /// [`StartError::AlreadyThere`] if the folder holds a group, else any.
    pub async fn bootstrap(
        settings: Settings,
        peers: Arc<dyn RaftPeers>,
    ) -> Result<Self, StartError> {
        let store = open(&settings).await?;
        if !store.fresh {
            store.log.close().await;
            return Err(StartError::AlreadyThere);
        }
        let me = settings.me.clone();
        let group = Self::run(settings, peers, store).await?;
        let members = BTreeMap::from([(group.raft_id(), me)]);
        let founded = group.inner.raft.initialize(members).await;
        founded.map_err(|error| StartError::Raft {
            why: error.to_string(),
        })?;
        Ok(group)
    }

    /// Starts from what the folder holds; an empty one waits until a leader
    /// adds it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: Settings, peers: Arc<dyn RaftPeers>) -> Result<Self, StartError> {
        let store = open(&settings).await?;
        Self::run(settings, peers, store).await
    }

    async fn run(
        settings: Settings,
        peers: Arc<dyn RaftPeers>,
        store: Store,
    ) -> Result<Self, StartError> {
        let configuration =
            config::openraft(&settings)
                .validate()
                .map_err(|error| StartError::Timing {
                    why: error.to_string(),
                })?;
        let identity = Arc::new(Identity {
            fleet: settings.fleet,
            cluster: settings.cluster.clone(),
            // That of the log, if the folder's other files lag behind it.
            epoch: store.epoch,
            raft_id: store.raft_id,
            superseded_by: watch::channel(None).0,
        });
        let network = Network {
            identity: identity.clone(),
            peers,
        };
        let state = StateStore::<S>::new(store.snapshots);
        let started = Raft::new(
            store.raft_id,
            Arc::new(configuration),
            network,
            store.log.clone(),
            state.clone(),
        );
        let raft = started.await.map_err(|error| StartError::Raft {
            why: error.to_string(),
        })?;
        tracing::info!(
            raft_id = store.raft_id,
            fresh = store.fresh,
            applied = *state.applied().borrow(),
            "control group started"
        );
        let stop = CancellationToken::new();
        let (leadership, leadership_receiver) = watch::channel(Leadership::default());
        spawn::spawn(
            "control-leadership",
            follow_leadership(raft.clone(), identity.clone(), leadership, stop.clone()),
        );
        Ok(ControlGroup {
            inner: Arc::new(Inner {
                raft,
                raft_id: store.raft_id,
                settings,
                identity,
                state,
                log: store.log,
                leadership: leadership_receiver,
                proposals: Semaphore::new(PROPOSALS_MAX),
                incoming: Incoming::default(),
                clock: Mutex::new(BootClock::new(TokioInstant::now(), clock::boot_now())),
                silent_until_ms: AtomicU64::new(0),
                stop,
            }),
        })
    }

    /// This folder's Raft id: random, never reused.
    pub fn raft_id(&self) -> u64 {
        self.inner.raft_id
    }

    /// The epoch of this node's log.
    pub fn epoch(&self) -> Epoch {
        self.inner.identity.epoch
    }

    /// Where this node's log ends: of two, the one that ends later has more.
    pub fn log_end(&self) -> LogEnd {
        let last = self.inner.log.last();
        LogEnd {
            term: last.map_or(0, |at| at.term),
            index: last.map_or(0, |at| at.index),
        }
    }

    /// Answers a message of another member. Always answers: what can't be
    /// read or is not for this member is refused.
    pub async fn receive(&self, from: NodeId, message: Vec<u8>) -> Vec<u8> {
        let inner = &self.inner;
        let answer = inner
            .incoming
            .answer(&inner.raft, &inner.identity, from, &message)
            .await;
        codec::encode(&answer)
    }

    /// The first voter or learner that can't apply this command.
    fn too_old(&self, command: &S::Command) -> Option<String> {
        if S::feature_level(command) == 0 {
            return None;
        }
        let group = self.membership();
        let followers = group.voters.iter().chain(&group.learners);
        let nodes: Vec<NodeId> = followers.map(|follower| follower.member.node).collect();
        self.read(|state| state.too_old(command, &nodes))
    }

    /// Commits a command and waits until it is applied here. Proposals that
    /// come together share appends and their fsync.
    ///
    /// # Errors
    /// [`ProposeError`]. Only `NotLeader`, `TooLarge` and `OlderNode` say that
    /// the command has no effect.
    pub async fn propose(&self, command: S::Command) -> Result<Applied<S::Reply>, ProposeError> {
        let bytes = codec::encode(&command);
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: bytes.len() });
        }
        if let Some(node) = self.too_old(&command) {
            return Err(ProposeError::OlderNode { node });
        }
        let propose = async {
            let turn = self.inner.proposals.acquire().await;
            let _turn = turn.map_err(|_| ProposeError::Stopped)?;
            let written = self.inner.raft.client_write(CommandBytes(bytes)).await;
            written.map_err(ProposeError::from)
        };
        let written = tokio::time::timeout(PROPOSE_LIMIT, propose)
            .await
            .map_err(|_| ProposeError::NoQuorum)??;
        // Encoded by this same process a moment ago.
        let reply = codec::decode("reply", &written.data.0, usize::MAX)
            .map_err(|_| ProposeError::Stopped)?;
        Ok(Applied {
            index: written.log_id.index,
            reply,
        })
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The last applied index; changes wake the receiver.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.state.applied()
    }

    /// Looks at the state. The closure holds up the log: it must be short, and
    /// must not call the group.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.inner.state.read().state)
    }

    /// Looks at the state and keeps, from there on, what is applied, for
    /// [`Self::read_tapped`]: at most so many bytes between two looks. There
    /// is one tap; [`Self::close_tap`] ends it.
    pub fn open_tap<R>(&self, bytes_max: usize, look: impl FnOnce(&S) -> R) -> R {
        self.inner.state.open_tap(bytes_max, look)
    }

    /// [`Self::read`] with the commands that were applied since the last such
    /// look, in order; `None` if they were more than is kept.
    pub fn read_tapped<R>(
        &self,
        bytes_max: usize,
        look: impl FnOnce(&S, Option<Vec<(u64, S::Command)>>) -> R,
    ) -> R {
        self.inner.state.read_tapped(bytes_max, look)
    }

    /// Keeps nothing any more.
    pub fn close_tap(&self) {
        self.inner.state.close_tap();
    }

    /// On the leader: when the messages were sent whose answers last made a
    /// majority, time since boot. A scheduler acts only within
    /// [`Self::quorum_lease`] of it. A sole voter is its own majority: now.
    /// `None` for a while after [`Self::transfer_leadership`], since the heir
    /// does not wait for the lease to end.
    pub fn last_quorum_ack(&self) -> Option<Millis> {
        let now = (TokioInstant::now(), clock::boot_now());
        let mut clock = self
            .inner
            .clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        clock.tick(now.0, now.1);
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let handing_over = now.1.0 < self.inner.silent_until_ms.load(Ordering::SeqCst);
        if metrics.state != ServerState::Leader || metrics.running_state.is_err() || handing_over {
            return None;
        }
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        if voters == BTreeSet::from([self.inner.raft_id]) {
            return Some(now.1);
        }
        let acked = metrics.last_quorum_acked.as_ref()?;
        Some(clock.boot_of(**acked))
    }

    /// When the leader was last heard, time since boot: now if it is this
    /// node.
    pub fn last_leader_contact(&self) -> Option<Millis> {
        match self.inner.leadership.borrow().we_lead {
            true => Some(clock::boot_now()),
            false => self.inner.incoming.leader_contact(),
        }
    }

    /// How long an acknowledgement of a quorum lets the leader act: no other
    /// can be elected earlier.
    pub fn quorum_lease(&self) -> Millis {
        Millis(self.inner.settings.timing.election_ms_min)
    }

    /// Voters and learners.
    pub fn membership(&self) -> Membership {
        let boot = self
            .inner
            .clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let voter_ids: BTreeSet<u64> = stored.voter_ids().collect();
        let follower = |raft_id: u64, member: &Member| {
            let ourselves = raft_id == self.inner.raft_id;
            let matched = match &metrics.replication {
                Some(_) if ourselves => metrics.last_log_index,
                Some(replication) => replication
                    .get(&raft_id)
                    .and_then(|at| at.as_ref().map(|at| at.index)),
                None => None,
            };
            let contact = metrics
                .heartbeat
                .as_ref()
                .and_then(|heartbeat| heartbeat.get(&raft_id)?.as_ref())
                .map(|at| boot.boot_of(**at));
            Follower {
                raft_id,
                member: member.clone(),
                matched,
                last_contact: contact,
            }
        };
        let (voters, learners) = stored
            .nodes()
            .map(|(id, member)| follower(*id, member))
            .partition(|follower| voter_ids.contains(&follower.raft_id));
        Membership {
            voters,
            learners,
            changing: stored.get_joint_config().len() > 1
                || metrics.membership_config.log_id()
                    != metrics.committed_membership_config.log_id(),
            last_index: metrics.last_log_index.unwrap_or(0),
        }
    }

    /// Makes a node follow the log. Returns once that is committed; see
    /// [`Follower::matched`] for when it has caught up.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, raft_id: u64, member: Member) -> Result<(), ChangeError> {
        let known = self.membership();
        let mut all = known.voters.iter().chain(&known.learners);
        if all.any(|follower| follower.raft_id == raft_id && follower.member.node != member.node) {
            return Err(ChangeError::Refused {
                why: "the raft id belongs to another node".into(),
            });
        }
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(raft_id, member)])))
            .await
    }

    /// Replaces the set of voters by a joint change. All must be members
    /// already; voters that leave become learners.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Makes the group forget a learner.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_learner(&self, raft_id: u64) -> Result<(), ChangeError> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([raft_id])))
            .await
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), ChangeError> {
        if self.membership().changing {
            return Err(ChangeError::InProgress);
        }
        tracing::info!(change = %change, "changing the control group");
        let changed = self.inner.raft.change_membership(change, true);
        match tokio::time::timeout(CHANGE_LIMIT, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ChangeError::NoQuorum),
        }
    }

    /// Asks a voter to take over, before this node goes down. Returns at once;
    /// [`Self::leadership`] shows whether it did. From here on this node acts
    /// for nobody until two elections' time has passed.
    ///
    /// # Errors
    /// [`ChangeError::NotLeader`], [`ChangeError::Refused`] if it is no voter,
    /// [`ChangeError::Stopped`].
    pub async fn transfer_leadership(&self, raft_id: u64) -> Result<(), ChangeError> {
        let leadership = self.inner.leadership.borrow().clone();
        if !leadership.we_lead {
            return Err(ChangeError::NotLeader {
                leader: leadership.leader,
            });
        }
        let voters = self.membership().voters;
        if !voters.iter().any(|voter| voter.raft_id == raft_id) {
            return Err(ChangeError::Refused {
                why: "the heir is not a voter".into(),
            });
        }
        let silence = Millis(2 * self.inner.settings.timing.election_ms_max);
        let until = clock::boot_now() + silence;
        self.inner.silent_until_ms.store(until.0, Ordering::SeqCst);
        let transfer = self.inner.raft.trigger().transfer_leader(raft_id).await;
        transfer.map_err(|_| ChangeError::Stopped)
    }

    /// Returns once a read here sees everything that was committed before the
    /// call: asks a majority whether we still lead, then waits until the state
    /// has come as far.
    ///
    /// # Errors
    /// [`LinearizableError`].
    pub async fn linearizable(&self) -> Result<(), LinearizableError> {
        let confirmed = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(PROPOSE_LIMIT, confirmed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(LinearizableError::NoQuorum),
        }
    }

    /// Stops; the folder can be started again afterwards. A leader should
    /// have handed over first.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.proposals.close();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(error = %error, "the control group did not stop in order");
        }
        self.inner.log.close().await;
        self.inner.state.close();
    }
}

async fn open(settings: &Settings) -> Result<Store, StartError> {
    let (folder, epoch) = (settings.folder.clone(), settings.epoch);
    let opened = tokio::task::spawn_blocking(move || Store::open(&folder, epoch)).await;
    let store = opened.map_err(|error| StartError::Raft {
        why: error.to_string(),
    })?;
    Ok(store?)
}

/// The actor that turns openraft's metrics into [`Leadership`]. Ends when told
/// to or when openraft does.
///
/// It also stops openraft's clock on a node that has no vote: it ticks each
/// fifth of a heartbeat, only to find that there is no election to stand for,
/// which was half of all wake-ups of an idle node.
async fn follow_leadership<S: Replicated>(
    raft: Raft<Types, StateStore<S>>,
    identity: Arc<Identity>,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    let mut superseded = identity.superseded_by.subscribe();
    loop {
        let seen = {
            let metrics = metrics.borrow_watched();
            let leader = metrics.current_leader.and_then(|id| {
                let member = metrics.membership_config.get_node(&id)?;
                Some(member.node)
            });
            let mut voters = metrics.membership_config.voter_ids();
            raft.runtime_config()
                .tick(voters.any(|id| id == metrics.id));
            Leadership {
                leader,
                we_lead: metrics.state == ServerState::Leader,
                term: metrics.vote.leader_id.term,
                superseded_by: *superseded.borrow_and_update(),
            }
        };
        leadership.send_if_modified(|now| {
            let changed = *now != seen;
            if changed {
                let leader = seen.leader.map(|node| node.to_string());
                tracing::info!(
                    leader,
                    we_lead = seen.we_lead,
                    term = seen.term,
                    "leadership changed"
                );
                *now = seen;
            }
            changed
        });
        tokio::select! {
            () = stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() { break },
            changed = superseded.changed() => if changed.is_err() { break },
        }
    }
    leadership.send_modify(|now| {
        now.leader = None;
        now.we_lead = false;
    });
}

/// What became of a request to openraft, whatever it was.
enum Outcome {
    NotLeader(Option<NodeId>),
    NoQuorum,
    Stopped,
}

fn forwarded(forward: &ForwardToLeader<Types>) -> Outcome {
    match forward.reason {
        // It is refused before anything is written: a quorum was lost.
        ForwardReason::LeaseExpired => Outcome::NoQuorum,
        _ => Outcome::NotLeader(forward.leader_node.as_ref().map(|member| member.node)),
    }
}

fn fatal(_: &Fatal<Types>) -> Outcome {
    Outcome::Stopped
}

impl From<RaftError<Types, ClientWriteError<Types>>> for ProposeError {
    fn from(error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
        let outcome = match &error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forwarded(forward),
            // Taken from our log by another leader: it may have been committed
            // or not, which only a repeat with the same change id tells.
            RaftError::APIError(_) => Outcome::NoQuorum,
            RaftError::Fatal(error) => fatal(error),
        };
        match outcome {
            Outcome::NotLeader(leader) => ProposeError::NotLeader { leader },
            Outcome::NoQuorum => ProposeError::NoQuorum,
            Outcome::Stopped => ProposeError::Stopped,
        }
    }
}

impl From<RaftError<Types, ClientWriteError<Types>>> for ChangeError {
    fn from(error: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
        let outcome = match &error {
            RaftError::APIError(ClientWriteError::ChangeMembershipError(change)) => {
                return match change {
                    ChangeMembershipError::InProgress(_) => ChangeError::InProgress,
                    other => ChangeError::Refused {
                        why: other.to_string(),
                    },
                };
            }
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forwarded(forward),
            RaftError::APIError(_) => Outcome::NoQuorum,
            RaftError::Fatal(error) => fatal(error),
        };
        match outcome {
            Outcome::NotLeader(leader) => ChangeError::NotLeader { leader },
            Outcome::NoQuorum => ChangeError::NoQuorum,
            Outcome::Stopped => ChangeError::Stopped,
        }
    }
}

impl From<RaftError<Types, LinearizableReadError<Types>>> for LinearizableError {
    fn from(error: RaftError<Types, LinearizableReadError<Types>>) -> LinearizableError {
        let outcome = match &error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                forwarded(forward)
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Outcome::NoQuorum,
            RaftError::Fatal(error) => fatal(error),
        };
        match outcome {
            Outcome::NotLeader(leader) => LinearizableError::NotLeader { leader },
            Outcome::NoQuorum => LinearizableError::NoQuorum,
            Outcome::Stopped => LinearizableError::Stopped,
        }
    }
}
