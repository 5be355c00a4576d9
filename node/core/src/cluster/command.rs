//! The commands of the replicated log: everything that changes the cluster's
//! state. Clocks and dice were used before a command was proposed, so every
//! time, id and signature that it needs stands in it.

use super::{ExclusiveHolder, Origin, Quota, Recovery, RolloutControl, RolloutStep, TaskEnd};
use potluck_specs::{
    ChangeId, Epoch, FleetId, Generation, JobName, Millis, NodeId, NodeName, PackageId, Reign,
    SlotId, Topology,
    job::{Resources, SignedJob},
    trust::{NodeCredential, NodeRole, PublicKey, Signed, TokenSecretHash},
};
use serde::{Deserialize, Serialize};

/// A package, and who holds it whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPackage {
    /// The package.
    pub package: PackageId,
    /// Its size.
    pub bytes: u64,
    /// Nodes that hold it.
    pub holders: Vec<NodeId>,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster's life; refused ever after.
    Genesis {
        /// All that a new cluster is.
        genesis: Box<Genesis>,
    },
    /// A leader begins to act; the index of this entry is its reign.
    Reign {
        /// Who leads.
        leader: NodeId,
    },
    /// A join token; the log holds its hash only.
    CreateToken {
        /// Named by the client.
        change: ChangeId,
        /// Names the token.
        id: String,
        /// Of its secret.
        #[serde(with = "serde_bytes")]
        secret_hash: TokenSecretHash,
        /// What its nodes may be chosen for.
        roles: Vec<NodeRole>,
        /// The only rack that it admits to, if it names one.
        rack: Option<String>,
        /// How many nodes it admits.
        uses: u32,
        /// Its end, Unix time.
        expires: Millis,
        /// Unix time: tokens past their end are forgotten.
        now: Millis,
    },
    /// A token is withdrawn.
    RemoveToken {
        /// Named by the client.
        change: ChangeId,
        /// The token.
        id: String,
    },
    /// A node joins with a token.
    RedeemToken {
        /// The token.
        token: String,
        /// Of the secret that the joiner showed.
        #[serde(with = "serde_bytes")]
        secret_hash: TokenSecretHash,
        /// The joiner, its roles being the token's.
        admission: Box<Admission>,
        /// Unix time.
        now: Millis,
    },
    /// A member gets a new certificate.
    RenewCertificate {
        /// The member.
        node: NodeId,
        /// The new one.
        credential: Box<NodeCredential>,
        /// Of the new certificate.
        serial: u64,
    },
    /// A certificate is no longer accepted.
    Revoke {
        /// Of the certificate.
        serial: u64,
        /// Unix time.
        now: Millis,
    },
    /// The admission issuer's key, sealed to a voter's eyes.
    SealIssuer {
        /// The reader.
        node: NodeId,
        /// What `specs::trust::seal` gave.
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// A job's first or next version, verified by the leader.
    SubmitJob {
        /// Named by the client.
        change: ChangeId,
        /// The signed bytes.
        job: Box<SignedJob>,
        /// Who asked, for histories.
        author: String,
        /// What the author says about the change.
        message: String,
        /// Nodes that hold the package.
        holders: Vec<NodeId>,
        /// Bytes of the package.
        package_bytes: u64,
        /// The job's further packages, each once. Commands of before there were
        /// any have none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        further: Vec<HeldPackage>,
        /// Unix time.
        now: Millis,
        /// The version that the author has seen, if they care.
        expected_version: Option<u64>,
        /// Where it came from.
        #[serde(default)]
        origin: Origin,
    },
    /// A job's tasks end; its versions stay.
    StopJob {
        /// Named by the client.
        change: ChangeId,
        /// The job.
        job: JobName,
        /// Who asked.
        author: String,
        /// Unix time.
        now: Millis,
    },
    /// What the scheduler has seen of placements, written behind.
    RecordPlacements {
        /// Whose picture it is; another's is refused.
        reign: Reign,
        /// Slots that are filled.
        filled: Vec<Placement>,
        /// Slots that are filled nowhere.
        freed: Vec<SlotId>,
    },
    /// Who may run the tasks of exclusive slots from now on: committed before
    /// an award leaves.
    RecordExclusive {
        /// Whose picture it is; another's is refused.
        reign: Reign,
        /// Slots that are about to be awarded.
        held: Vec<ExclusiveHolder>,
        /// Slots whose holder has told the end of that generation's task.
        released: Vec<(SlotId, Generation)>,
    },
    /// Nodes that hold a package.
    RecordPackageHolders {
        /// The package.
        package: PackageId,
        /// Its holders, all of them.
        nodes: Vec<NodeId>,
    },
    /// What is known of a member.
    RecordMember {
        /// The member.
        node: NodeId,
        /// Where it was reached last, if that changed.
        addresses: Option<Vec<String>>,
        /// All that it has for tasks, if that changed.
        capacity: Option<Resources>,
        /// Its number in the control group, if it got a new one.
        raft_id: Option<u64>,
        /// The newest kind of command that it can apply, if that changed.
        feature_level: Option<u32>,
    },
    /// A node takes no new work and gives up what it has, or does again.
    SetDraining {
        /// Named by the client.
        change: ChangeId,
        /// The node.
        node: NodeId,
        /// Drained or not.
        draining: bool,
    },
    /// A node takes no new work and gives up what it has, until a deadline at
    /// the latest. Ended by [`Command::SetDraining`].
    Drain {
        /// Named by the client.
        change: ChangeId,
        /// The node.
        node: NodeId,
        /// Unix time: what still runs there then is stopped in any case.
        deadline: Option<Millis>,
    },
    /// A node takes no new work and keeps what it has, or takes work again.
    Cordon {
        /// Named by the client.
        change: ChangeId,
        /// The node.
        node: NodeId,
        /// Cordoned or not.
        cordoned: bool,
    },
    /// What the jobs of a namespace may ask for together.
    SetQuota {
        /// Named by the client.
        change: ChangeId,
        /// Which.
        namespace: String,
        /// As much as they like, if there is none.
        quota: Option<Quota>,
    },
    /// A person stops, continues or undoes a rollout.
    ControlRollout {
        /// Named by the client.
        change: ChangeId,
        /// The job.
        job: JobName,
        /// What is asked.
        control: RolloutControl,
        /// Who asked.
        author: String,
        /// Unix time.
        now: Millis,
    },
    /// A rollout's stage is over, or failed.
    AdvanceRollout {
        /// Whose picture it is; another's is refused.
        reign: Reign,
        /// The job.
        job: JobName,
        /// The version that is rolled out.
        version: u64,
        /// The stage that is meant.
        stage: u32,
        /// What became of it.
        step: RolloutStep,
        /// Unix time.
        now: Millis,
    },
    /// Tasks of work that ends have come to their ends, as their hosts told.
    RecordEnds {
        /// Whose picture it is; another's is refused.
        reign: Reign,
        /// Each counts once.
        ends: Vec<TaskEnd>,
        /// Unix time.
        now: Millis,
    },
    /// The deadline of work that ends has passed.
    ExpireBatch {
        /// Whose clock it is; another's is refused.
        reign: Reign,
        /// The job.
        job: JobName,
        /// The version with which the work was begun that is meant.
        began_version: u64,
        /// Unix time.
        now: Millis,
    },
    /// A node leaves the cluster; its certificates are revoked.
    RemoveMember {
        /// The node.
        node: NodeId,
        /// Unix time.
        now: Millis,
    },
    /// Most voters were lost and a survivor goes on alone: the first entry of
    /// a later epoch.
    Recover {
        /// How it begins.
        recovery: Box<Recovery>,
    },
    /// A job that a host runs and the recovered log lacks, verified by the
    /// leader.
    RecoverJob {
        /// The signed bytes.
        job: Box<SignedJob>,
        /// Who signed them.
        author: String,
        /// Nodes that hold the package.
        holders: Vec<NodeId>,
        /// Bytes of the package.
        package_bytes: u64,
        /// Unix time.
        now: Millis,
    },
    /// A node with a valid certificate that the recovered log lacks.
    RecoverMember {
        /// As its certificate says.
        admission: Box<Admission>,
        /// Its roles.
        roles: Vec<NodeRole>,
        /// Unix time.
        now: Millis,
    },
    /// Several commands in one entry, applied in order.
    Batch {
        /// The commands; a batch in a batch is refused.
        commands: Vec<Command>,
    },
}

/// All that a new cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster's name.
    pub cluster: String,
    /// 1, unless the cluster was recovered.
    pub epoch: Epoch,
    /// The fleet's root.
    pub root: PublicKey,
    /// The admission issuer's certificate, by the root.
    pub issuer: Signed,
    /// Keys of the gossip pool.
    pub gossip_keys: Vec<GossipKey>,
    /// The node on which the cluster begins.
    pub first: Admission,
    /// Its roles.
    pub roles: Vec<NodeRole>,
    /// Unix time.
    pub now: Millis,
}

/// A key of the gossip pool.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipKey {
    /// Names it in datagrams.
    pub id: u32,
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
}

impl std::fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GossipKey({})", self.id)
    }
}

/// A node that is let in, its certificate signed by the leader before the
/// command was proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The node.
    pub node: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Where it stands.
    pub topology: Topology,
    /// Its certificate and chain.
    pub credential: NodeCredential,
    /// Of the certificate.
    pub serial: u64,
    /// Where it can be reached.
    pub addresses: Vec<String>,
}

/// Which node fills a slot, under which generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The slot.
    pub slot: SlotId,
    /// Who fills it.
    pub node: NodeId,
    /// Under which instruction.
    pub generation: Generation,
}
