//! The replicated state: what should run, who belongs to the cluster, what
//! was admitted and revoked.
//!
//! Answers for applying the commands of the log, in order, on every voter and
//! learner alike: [`Cluster::apply`] is deterministic (the same commands give
//! the same state and the same replies everywhere) and total (no command can
//! make it panic). Leaves to others: verifying signatures and issuing
//! certificates (before proposing), and everything that is true only now,
//! such as who is alive and which task is healthy (`scheduler`).

mod circles;
mod command;
mod completions;
mod exclusive;
mod feature;
mod jobs;
mod members;
mod operations;
mod quotas;
mod recovery;
mod redacted;
pub(crate) use redacted::{redact_job, without_texts};
mod reply;
mod rollouts;
mod same_tasks;
mod state;
mod tokens;
mod versions;

pub use command::{Admission, Command, Genesis, GossipKey, HeldPackage, Placement};
pub use completions::{BatchEnd, BatchRecord, Failures, TaskEnd};
pub use exclusive::ExclusiveHolder;
pub use feature::{FEATURE_LEVEL, TooOld, level_of_tasks};
pub use jobs::{JOBS_MAX, JobRecord, JobVersion, PackageRecord, SLOTS_MAX};
pub use members::{MEMBERS_MAX, Member};
pub use quotas::{Amounts, Countable, Demand, Excess, NamespaceView, QUOTAS_MAX, Quota};
pub use recovery::{ORDER_BYTES_MAX, Recovery};
pub use reply::{Refused, Reply, TokenRefusal};
pub use rollouts::{Rollout, RolloutControl, RolloutPhase, RolloutStep};
pub use same_tasks::SameTasks;
pub use state::{CHANGES_REMEMBERED, Cluster};
pub use tokens::{Redeem, TOKENS_MAX, TokenRecord};
pub(crate) use versions::bounded_text;
pub use versions::{
    Commit, JOBS_BYTES_MAX, Origin, Stopped, TEXT_BYTES_MAX, VERSIONS_BYTES_MAX, VERSIONS_KEPT,
    VERSIONS_KEPT_MIN,
};

#[cfg(test)]
mod tests;
