//! The state itself and what can be asked of it.

use super::{
    Command, Genesis, GossipKey, JobRecord, Member, PackageRecord, Placement, Refused, Reply,
    TokenRecord,
};
use crate::auction::Authority;
use potluck_specs::{
    ChangeId, FleetId, JobName, Millis, NodeId, PackageId, Reign, SlotId,
    trust::{PublicKey, Signed},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many answers to changes are remembered: a client repeats a change
/// within its own minute of patience, and people make far fewer in one.
pub const CHANGES_REMEMBERED: usize = 4_096;

/// The replicated state of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub(super) founding: Option<Founding>,
    pub(super) authority: Authority,
    pub(super) leader: Option<NodeId>,
    pub(super) applied: u64,
    pub(super) members: BTreeMap<NodeId, Member>,
    /// Every id of the control group that a member ever had: ids are random,
    /// and one that is used twice may vote twice.
    pub(super) raft_ids: BTreeSet<u64>,
    pub(super) tokens: BTreeMap<String, TokenRecord>,
    pub(super) revoked: BTreeMap<u64, Millis>,
    pub(super) sealed_issuer: BTreeMap<NodeId, serde_bytes::ByteBuf>,
    pub(super) jobs: BTreeMap<JobName, JobRecord>,
    pub(super) packages: BTreeMap<PackageId, PackageRecord>,
    pub(super) placements: BTreeMap<SlotId, Placement>,
    pub(super) changes: VecDeque<(ChangeId, Reply)>,
    #[serde(default)]
    pub(super) operations: super::operations::Operations,
    #[serde(default)]
    pub(super) quotas: BTreeMap<String, super::Quota>,
    #[serde(default)]
    pub(super) rollouts: BTreeMap<JobName, super::Rollout>,
    #[serde(default)]
    pub(super) rollouts_at: u64,
    #[serde(default)]
    pub(super) batches: BTreeMap<JobName, super::BatchRecord>,
    #[serde(default)]
    pub(super) batches_at: u64,
    #[serde(default)]
    pub(super) shaped_at: u64,
    #[serde(default)]
    pub(super) members_at: u64,
    #[serde(default)]
    pub(super) exclusive: BTreeMap<SlotId, super::ExclusiveHolder>,
    #[serde(default)]
    pub(super) exclusive_at: u64,
    #[serde(default)]
    pub(super) recovery: Option<super::Recovery>,
    /// What the entries so far need of those who follow.
    #[serde(default)]
    pub(super) level: u32,
}

/// What genesis fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Founding {
    pub(super) fleet: FleetId,
    pub(super) cluster: String,
    pub(super) root: PublicKey,
    pub(super) issuer: Signed,
    pub(super) gossip_keys: Vec<GossipKey>,
}

impl Cluster {
    /// A cluster before genesis.
    pub fn new() -> Cluster {
        Cluster::default()
    }

    /// Applies the command at `index` of the log. The same commands in the
    /// same order give the same state and replies wherever they are applied;
    /// none can fail in another way than by its reply.
    pub fn apply(&mut self, index: u64, command: &Command) -> Reply {
        self.applied = index;
        self.raise_level(command);
        match command {
            Command::Batch { commands } => Reply::Batch {
                replies: commands
                    .iter()
                    .map(|command| self.apply_one(index, command))
                    .collect(),
            },
            single => self.apply_one(index, single),
        }
    }

    fn apply_one(&mut self, index: u64, command: &Command) -> Reply {
        if let Command::Genesis { genesis } = command {
            return self.begin(genesis);
        }
        if self.founding.is_none() {
            return Reply::refused(Refused::NotBegun);
        }
        let Some(change) = change_of(command) else {
            return self.change(index, command);
        };
        if let Some(earlier) = self.answer_to(change) {
            return earlier.clone();
        }
        let reply = self.change(index, command);
        self.remember(change, reply.clone());
        reply
    }

    fn change(&mut self, index: u64, command: &Command) -> Reply {
        let notes = matches!(
            command,
            Command::RecordPlacements { .. }
                | Command::RecordPackageHolders { .. }
                | Command::RecordEnds { .. }
                | Command::ExpireBatch { .. }
                | Command::RecordExclusive { .. }
        );
        let of_jobs = matches!(
            command,
            Command::SubmitJob { .. }
                | Command::StopJob { .. }
                | Command::ControlRollout { .. }
                | Command::AdvanceRollout { .. }
                | Command::SetQuota { .. }
        );
        if !notes {
            self.shaped_at = index;
        }
        if !notes && !of_jobs {
            self.members_at = index;
        }
        match command {
            Command::Genesis { .. } => Reply::refused(Refused::AlreadyBegun),
            Command::Batch { .. } => Reply::refused(Refused::NestedBatch),
            Command::Reign { leader } => self.reign(index, *leader),
            Command::CreateToken { .. }
            | Command::RemoveToken { .. }
            | Command::RedeemToken { .. } => self.change_tokens(command),
            Command::RenewCertificate { .. }
            | Command::Revoke { .. }
            | Command::SealIssuer { .. }
            | Command::RecordMember { .. }
            | Command::SetDraining { .. }
            | Command::RemoveMember { .. } => {
                let reply = self.change_members(command);
                self.tidy_operations();
                reply
            }
            Command::Drain { .. } | Command::Cordon { .. } => self.change_operations(command),
            Command::SetQuota { .. } => self.change_quotas(command),
            Command::ControlRollout { .. } | Command::AdvanceRollout { .. } => {
                self.change_rollouts(command)
            }
            Command::SubmitJob { job, now, .. } => {
                let name = job.decode_unchecked().ok().map(|job| job.name);
                let before = name.as_ref().and_then(|name| self.runs_before(name));
                let reply = self.change_jobs(command);
                if let (Reply::Accepted { .. }, Some(name)) = (&reply, name) {
                    let ends = self.begin_batch(&name, before.is_some(), *now);
                    self.begin_rollout(&name, before.filter(|_| !ends), *now);
                }
                reply
            }
            Command::Recover { .. }
            | Command::RecoverJob { .. }
            | Command::RecoverMember { .. } => self.change_recovery(command),
            Command::RecordEnds { .. } | Command::ExpireBatch { .. } => {
                self.change_batches(command)
            }
            Command::RecordExclusive { .. } => self.change_exclusive(command),
            Command::StopJob { .. }
            | Command::RecordPlacements { .. }
            | Command::RecordPackageHolders { .. } => self.change_jobs(command),
        }
    }

    fn begin(&mut self, genesis: &Genesis) -> Reply {
        if self.founding.is_some() {
            return Reply::refused(Refused::AlreadyBegun);
        }
        self.founding = Some(Founding {
            fleet: genesis.fleet,
            cluster: genesis.cluster.clone(),
            root: genesis.root,
            issuer: genesis.issuer.clone(),
            gossip_keys: genesis.gossip_keys.clone(),
        });
        self.authority.epoch = genesis.epoch;
        self.admit(&genesis.first, &genesis.roles, genesis.now);
        Reply::Done
    }

    fn reign(&mut self, index: u64, leader: NodeId) -> Reply {
        self.authority.reign = Reign(index);
        self.leader = Some(leader);
        Reply::Reigns {
            authority: self.authority,
        }
    }

    fn remember(&mut self, change: ChangeId, reply: Reply) {
        if self.changes.len() >= CHANGES_REMEMBERED {
            self.changes.pop_front();
        }
        self.changes.push_back((change, reply));
    }

    /// The index of the last command applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The index of the last command that was more than a note of where things
    /// are: jobs, rollouts, members and what they are to be used for are as
    /// they were then.
    pub fn shaped_at(&self) -> u64 {
        self.shaped_at
    }

    /// The index of the last command that may have been about members: who they
    /// are, where they stand, what they are to be used for.
    pub fn members_at(&self) -> u64 {
        self.members_at
    }

    /// Has genesis happened?
    pub fn has_begun(&self) -> bool {
        self.founding.is_some()
    }

    /// The fleet, after genesis.
    pub fn fleet(&self) -> Option<FleetId> {
        self.founding.as_ref().map(|f| f.fleet)
    }

    /// The cluster's name, after genesis.
    pub fn name(&self) -> Option<&str> {
        self.founding.as_ref().map(|f| f.cluster.as_str())
    }

    /// The fleet's root key, after genesis.
    pub fn root(&self) -> Option<PublicKey> {
        self.founding.as_ref().map(|f| f.root)
    }

    /// The admission issuer's certificate, after genesis.
    pub fn issuer(&self) -> Option<&Signed> {
        self.founding.as_ref().map(|f| &f.issuer)
    }

    /// Keys of the gossip pool.
    pub fn gossip_keys(&self) -> &[GossipKey] {
        self.founding.as_ref().map_or(&[], |f| &f.gossip_keys)
    }

    /// The highest authority that has reigned.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// Whose authority it is.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Every node that was admitted and has not left.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// The member that people call so.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name.0 == name)
    }

    /// The member with this number in the control group.
    pub fn member_by_raft_id(&self, raft_id: u64) -> Option<&Member> {
        self.members
            .values()
            .find(|member| member.raft_id == Some(raft_id))
    }

    /// Join tokens by id.
    pub fn tokens(&self) -> &BTreeMap<String, TokenRecord> {
        &self.tokens
    }

    /// Is the certificate of this serial no longer accepted?
    pub fn is_revoked(&self, serial: u64) -> bool {
        self.revoked.contains_key(&serial)
    }

    /// Serials of revoked certificates with the time of revocation.
    pub fn revoked(&self) -> &BTreeMap<u64, Millis> {
        &self.revoked
    }

    /// The admission issuer's key, sealed to this node.
    pub fn sealed_issuer(&self, node: NodeId) -> Option<&[u8]> {
        self.sealed_issuer
            .get(&node)
            .map(|sealed| sealed.as_slice())
    }

    /// Every job ever accepted.
    pub fn jobs(&self) -> &BTreeMap<JobName, JobRecord> {
        &self.jobs
    }

    /// Packages that jobs pin.
    pub fn packages(&self) -> &BTreeMap<PackageId, PackageRecord> {
        &self.packages
    }

    /// Placements as written behind: may delay a placement, never cause one.
    pub fn placements(&self) -> &BTreeMap<SlotId, Placement> {
        &self.placements
    }

    /// The answer that a change got, if it is among those remembered.
    pub fn answer_to(&self, change: ChangeId) -> Option<&Reply> {
        self.changes
            .iter()
            .find(|(id, _)| *id == change)
            .map(|(_, reply)| reply)
    }
}

fn change_of(command: &Command) -> Option<ChangeId> {
    match command {
        Command::CreateToken { change, .. }
        | Command::RemoveToken { change, .. }
        | Command::SubmitJob { change, .. }
        | Command::StopJob { change, .. }
        | Command::Drain { change, .. }
        | Command::Cordon { change, .. }
        | Command::SetQuota { change, .. }
        | Command::ControlRollout { change, .. }
        | Command::SetDraining { change, .. } => Some(*change),
        _ => None,
    }
}
