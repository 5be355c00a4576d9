//! Levels of commands: which of them a node of an older version can apply.
//!
//! A log is applied by every voter and learner, and all must come to the same
//! state. So a kind of command that an older version does not know may only be
//! proposed when all of them know it. Each node tells its level when it
//! introduces itself to a scheduler; the log keeps it (`Member::feature_level`).
//!
//! A level is taken up when a command, or a variant within one, is added after
//! a release: raise [`FEATURE_LEVEL`], and name the command in
//! [`Command::feature_level`]. From the first one on that stands in the log,
//! no older node follows it any more ([`Cluster::may_follow`]): it would read
//! the state without what it does not know. Fields that default when they are missing need
//! a level only if older versions must not ignore them.

use super::{Cluster, Command, Member, RolloutStep};
use potluck_specs::{
    Job, NodeId, NodeName,
    job::{JobKind, Limits, StageSize},
};

/// The level of this version. 0: all that the first version knew, and nodes
/// that have not said.
pub const FEATURE_LEVEL: u32 = 4;

/// From this level on a host changes a task while it runs. An older one would
/// start it again without asking the job's budget.
pub const LIVE_CHANGES_LEVEL: u32 = 4;

/// A node that can't apply a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The node.
    pub node: NodeName,
    /// What it knows.
    pub level: u32,
    /// What the command needs.
    pub needs: u32,
}

impl Command {
    /// The level that a node needs to apply this.
    pub fn feature_level(&self) -> u32 {
        match self {
            Command::AdvanceRollout {
                step: RolloutStep::Cover { .. },
                ..
            } => 1,
            Command::RecordExclusive { .. } => 3,
            Command::RecordEnds { .. } | Command::ExpireBatch { .. } => 1,
            Command::RecoverJob { job, .. } => job
                .decode_unchecked()
                .map_or(0, |job| level_of_job(&job).max(level_of_tasks(&job))),
            // Who does not know a quota accepts what the others refuse.
            Command::SetQuota { .. } => 2,
            Command::SubmitJob { job, further, .. } => {
                let job = job.decode_unchecked();
                match job.is_ok_and(|job| has_further_limits(&job)) {
                    true => LIVE_CHANGES_LEVEL,
                    // What pins fewer packages drops what runs.
                    false => u32::from(!further.is_empty()),
                }
            }
            Command::Batch { commands } => {
                let levels = commands.iter().map(Command::feature_level);
                levels.max().unwrap_or(0)
            }
            Command::Genesis { .. }
            | Command::Reign { .. }
            | Command::CreateToken { .. }
            | Command::RemoveToken { .. }
            | Command::RedeemToken { .. }
            | Command::RenewCertificate { .. }
            | Command::Revoke { .. }
            | Command::SealIssuer { .. }
            | Command::StopJob { .. }
            | Command::RecordPlacements { .. }
            | Command::RecordPackageHolders { .. }
            | Command::RecordMember { .. }
            | Command::SetDraining { .. }
            | Command::Drain { .. }
            | Command::Cordon { .. }
            | Command::ControlRollout { .. }
            | Command::AdvanceRollout { .. }
            | Command::RemoveMember { .. }
            | Command::Recover { .. }
            | Command::RecoverMember { .. } => 0,
        }
    }
}

/// The level that a job's life takes of the nodes that follow the log.
fn level_of_job(job: &Job) -> u32 {
    if has_further_limits(job) {
        return LIVE_CHANGES_LEVEL;
    }
    if job.change.exclusive.is_some() {
        // Their holders are recorded before each award.
        return 3;
    }
    let stages = job.change.update.stages.iter();
    let by_places = |size| {
        matches!(
            size,
            StageSize::Rack | StageSize::Datacenter | StageSize::Region
        )
    };
    let mut sizes = stages.map(|stage| stage.size);
    // The ends of work that ends are counted in the log.
    let is_batch = matches!(job.kind, JobKind::Batch(_));
    u32::from(is_batch || sizes.any(by_places))
}

/// Does the job ask for limits that versions before 4 did not know? They can't
/// read it.
fn has_further_limits(job: &Job) -> bool {
    let known = Limits {
        cpu_millis: job.task.limits.cpu_millis,
        memory_bytes: job.task.limits.memory_bytes,
        ..Limits::default()
    };
    job.task.limits != known
}

/// The level that a node needs to run tasks of the job: an older one would
/// start work again after each end, or start a task without its further
/// packages.
pub fn level_of_tasks(job: &Job) -> u32 {
    if has_further_limits(job) {
        return LIVE_CHANGES_LEVEL;
    }
    if job.change.exclusive.is_some() {
        // It would run without a lease.
        return 3;
    }
    let is_batch = matches!(job.kind, JobKind::Batch(_));
    u32::from(is_batch || job.all_packages().len() > 1)
}

/// The level that the log needs from this entry on.
fn level_from(command: &Command) -> u32 {
    let life = match command {
        Command::SubmitJob { job, .. } => {
            job.decode_unchecked().map_or(0, |job| level_of_job(&job))
        }
        _ => 0,
    };
    life.max(command.feature_level())
}

impl Cluster {
    /// The level that a node needs to follow the log, for what stands in it.
    pub fn level_in_use(&self) -> u32 {
        // Of states of before this was counted.
        self.level.max(u32::from(!self.batches.is_empty()))
    }

    /// Members that have told that they are of an older version than the log
    /// needs: none may follow it, and some jobs get no tasks there.
    pub fn too_old_to_follow(&self) -> impl Iterator<Item = &Member> {
        let needs = self.level_in_use();
        let members = self.members.values();
        members.filter(move |member| member.raft_id.is_some() && member.feature_level < needs)
    }

    /// Can the node follow the log as far as it is known?
    pub fn may_follow(&self, node: NodeId) -> bool {
        let member = self.members.get(&node);
        member.map_or(0, |member| member.feature_level) >= self.level_in_use()
    }

    pub(super) fn raise_level(&mut self, command: &Command) {
        self.level = self.level.max(level_from(command));
    }

    /// The first of these nodes, by name, that is too old for the command.
    pub fn too_old(
        &self,
        command: &Command,
        group: impl IntoIterator<Item = NodeId>,
    ) -> Option<TooOld> {
        self.older_than(command.feature_level(), group)
    }

    /// The first of these nodes, by name, that is too old for commands which
    /// the job's life takes once it is accepted.
    pub fn too_old_for(
        &self,
        job: &Job,
        group: impl IntoIterator<Item = NodeId>,
    ) -> Option<TooOld> {
        self.older_than(level_of_job(job), group)
    }

    fn older_than(&self, needs: u32, group: impl IntoIterator<Item = NodeId>) -> Option<TooOld> {
        if needs == 0 {
            return None;
        }
        let older = group.into_iter().filter_map(|node| {
            let member = self.members().get(&node);
            let level = member.map_or(0, |member| member.feature_level);
            (level < needs).then(|| TooOld {
                node: member.map_or_else(|| NodeName(node.short()), |m| m.name.clone()),
                level,
                needs,
            })
        });
        older.min_by(|a, b| a.node.0.cmp(&b.node.0))
    }
}
