//! What happened in a run, by kind, so that a test can see that the dice still
//! show all of it.

use potluck_core::{
    auction::{Award, StopOrder, StopReason},
    cluster::{Cluster, Command, RolloutPhase},
    scheduler::{Note, SessionState},
};
use potluck_specs::job::JobKind;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A task was told to make room for one of higher priority.
    Preemption,
    /// A task was told to leave a drained host.
    Drain,
    /// A task's next one was started elsewhere to even out the load.
    Rebalancing,
    /// All slots of a job went back to the version before.
    Rollback,
    /// A rollout failed and waits for a person.
    FailedRollout,
    /// A task of a gang was placed.
    Gang,
    /// A task of work that ends was placed.
    Work,
    /// An exclusive slot got another holder.
    ExclusiveMove,
    /// A job with a task on each host was placed.
    PerNode,
    /// A job was refused since its namespace asks for too much.
    QuotaRefusal,
    /// A host was taken out of the cluster.
    Decommission,
    /// A host was cordoned.
    Cordon,
    /// Many hosts were silent at once.
    Brake,
    /// A host was given up that nobody reached.
    Death,
    /// A host was given up that only others reached.
    Unreachable,
    /// A slot was filled twice.
    Double,
    /// A job's tasks failed on one host again and again.
    BadPair,
    /// A version failed wherever it was tried.
    CrashLoop,
    /// A slice of an earlier revision came late.
    LateSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 19] = [
        Kind::Preemption,
        Kind::Drain,
        Kind::Rebalancing,
        Kind::Rollback,
        Kind::FailedRollout,
        Kind::Gang,
        Kind::Work,
        Kind::ExclusiveMove,
        Kind::PerNode,
        Kind::QuotaRefusal,
        Kind::Decommission,
        Kind::Cordon,
        Kind::Brake,
        Kind::Death,
        Kind::Unreachable,
        Kind::Double,
        Kind::BadPair,
        Kind::CrashLoop,
        Kind::LateSlice,
    ];

    /// What a scheduler's note tells of.
    pub(super) fn of_note(note: &Note) -> Option<Kind> {
        Some(match note {
            Note::Double { .. } => Kind::Double,
            Note::BrakeOn { .. } => Kind::Brake,
            Note::BadPair { .. } => Kind::BadPair,
            Note::CrashLoop { .. } => Kind::CrashLoop,
            Note::Surge {
                reason: StopReason::Moved,
                ..
            } => Kind::Rebalancing,
            Note::Session { state, .. } => match state {
                SessionState::Dead => Kind::Death,
                SessionState::Unreachable => Kind::Unreachable,
                SessionState::Unknown | SessionState::Up | SessionState::Out => return None,
            },
            _ => return None,
        })
    }

    /// What an order to stop is for.
    pub(super) fn of_stop(order: &StopOrder) -> Option<Kind> {
        match order.reason {
            StopReason::Preempted => Some(Kind::Preemption),
            StopReason::Drained => Some(Kind::Drain),
            _ => None,
        }
    }

    /// Whose task is placed.
    pub(super) fn of_award(award: &Award) -> Option<Kind> {
        match award.job.decode_unchecked().ok()?.kind {
            JobKind::Batch(batch) if batch.gang => Some(Kind::Gang),
            JobKind::Batch(_) => Some(Kind::Work),
            JobKind::PerNode => Some(Kind::PerNode),
            _ => None,
        }
    }

    /// What a command does that is about to be applied.
    pub(super) fn of_command(before: &Cluster, command: &Command) -> Option<Kind> {
        match command {
            Command::RemoveMember { .. } => Some(Kind::Decommission),
            Command::Cordon { cordoned: true, .. } => Some(Kind::Cordon),
            Command::RecordExclusive { held, .. } => {
                let moves = held.iter().any(|next| {
                    let holder = before.exclusive_holder(&next.slot);
                    holder.is_some_and(|holder| holder.node != next.node)
                });
                moves.then_some(Kind::ExclusiveMove)
            }
            _ => None,
        }
    }

    /// How a job's rollout stands, if the command is about one.
    pub(super) fn of_rollout(cluster: &Cluster, command: &Command) -> Option<Kind> {
        let (Command::ControlRollout { job, .. } | Command::AdvanceRollout { job, .. }) = command
        else {
            return None;
        };
        match cluster.rollout(job)?.phase {
            RolloutPhase::RolledBack { .. } => Some(Kind::Rollback),
            RolloutPhase::Failed { .. } => Some(Kind::FailedRollout),
            _ => None,
        }
    }
}
