//! Quotas: what the jobs of a namespace may ask for together.
//!
//! Answers for the admission of jobs: one that asks for more than its
//! namespace has left is refused, with what is left. Asked when a version is
//! submitted and never later, as with the quotas of Kubernetes and Nomad:
//! lowering a quota stops nothing, and neither a rollback nor a recovery is
//! refused for one. A version that asks for no more than the one before it is
//! accepted even above the quota, so that nobody is kept from saving.
//!
//! What counts is what the newest version asks for: requests times the tasks
//! that may run at once. Work that ends counts until it is over, one task per
//! node as one for each member, a stopped job nothing. The second task that a
//! rollout or drain starts before it stops the first is not counted.

use super::{Cluster, Command, JobRecord, Refused, Reply};
use potluck_specs::{
    Job, JobName,
    ids::check_name,
    job::{JobKind, Resources},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Most namespaces with a quota: one for each host of a full cluster.
pub const QUOTAS_MAX: usize = 1_000;

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Countable {
    /// Jobs that are not stopped.
    Jobs,
    /// Tasks that may run at once.
    Tasks,
    /// Thousandths of a core.
    Cpu,
    /// Bytes of memory.
    Memory,
    /// Bytes on disk.
    Disk,
}

impl Countable {
    /// Each of them, in the order in which people are told.
    pub const ALL: [Countable; 5] = [
        Countable::Jobs,
        Countable::Tasks,
        Countable::Cpu,
        Countable::Memory,
        Countable::Disk,
    ];

    /// `amount` of it, for people.
    pub fn text(self, amount: u64) -> String {
        match self {
            Countable::Jobs if amount == 1 => "1 job".into(),
            Countable::Jobs => format!("{amount} jobs"),
            Countable::Tasks if amount == 1 => "1 task".into(),
            Countable::Tasks => format!("{amount} tasks"),
            Countable::Cpu if amount == 1_000 => "1 core".into(),
            Countable::Cpu => format!("{} cores", thousandths(amount)),
            Countable::Memory => format!("{} MiB of memory", mebibytes(amount)),
            Countable::Disk => format!("{} MiB of disk", mebibytes(amount)),
        }
    }
}

fn thousandths(amount: u64) -> String {
    let text = format!("{}.{:03}", amount / 1_000, amount % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// Rounded up: less than it says always fits.
fn mebibytes(amount: u64) -> u64 {
    amount.div_ceil(1 << 20)
}

/// One value for each countable thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Each<T> {
    /// Jobs that are not stopped.
    pub jobs: T,
    /// Tasks that may run at once.
    pub tasks: T,
    /// Thousandths of a core.
    pub cpu_millis: T,
    /// Bytes of memory.
    pub memory_bytes: T,
    /// Bytes on disk.
    pub disk_bytes: T,
}

/// An amount of each.
pub type Amounts = Each<u64>;

/// What a namespace may ask for; what is not named is not limited.
pub type Quota = Each<Option<u64>>;

impl<T: Copy> Each<T> {
    /// The one of it.
    pub fn of(&self, what: Countable) -> T {
        match what {
            Countable::Jobs => self.jobs,
            Countable::Tasks => self.tasks,
            Countable::Cpu => self.cpu_millis,
            Countable::Memory => self.memory_bytes,
            Countable::Disk => self.disk_bytes,
        }
    }
}

impl Amounts {
    fn plus(self, other: Amounts) -> Amounts {
        Amounts {
            jobs: self.jobs.saturating_add(other.jobs),
            tasks: self.tasks.saturating_add(other.tasks),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }
}

impl Quota {
    /// The limit of it, if it has one.
    pub fn limit(&self, what: Countable) -> Option<u64> {
        self.of(what)
    }

    /// Does it limit nothing?
    pub fn is_empty(&self) -> bool {
        *self == Quota::default()
    }
}

/// A namespace: what its jobs ask for, and what they may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceView {
    /// Its name.
    pub namespace: String,
    /// By all its jobs.
    pub asked: Amounts,
    /// Its limits; none limit nothing.
    pub quota: Quota,
}

/// What a job would ask for beyond its namespace's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excess {
    /// Of what.
    pub what: Countable,
    /// What the namespace may ask for.
    pub limit: u64,
    /// What its other jobs ask for.
    pub others: u64,
    /// What this one does.
    pub asked: u64,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excess {
            what,
            limit,
            others,
            asked,
        } = *self;
        let left = what.text(limit.saturating_sub(others));
        let (asked, limit) = (what.text(asked), what.text(limit));
        write!(f, "{asked} asked for, {left} left of {limit}")
    }
}

/// What a version of a job asks for: kept beside its bytes, which are costly
/// to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Tasks that may run at once; nothing: one for each member.
    at_once: Option<u32>,
    /// What each of them asks for.
    each: Resources,
}

impl Demand {
    pub(super) fn of(job: &Job) -> Demand {
        let at_once = match &job.kind {
            JobKind::Service { replicas } => Some(*replicas),
            JobKind::PerNode => None,
            JobKind::Batch(batch) => Some(batch.parallelism.min(batch.completions)),
        };
        Demand {
            at_once,
            each: job.task.resources,
        }
    }

    fn amounts(&self, members: usize) -> Amounts {
        let tasks = self.at_once.map_or(members as u64, u64::from);
        let each = &self.each;
        Amounts {
            jobs: 1,
            tasks,
            cpu_millis: tasks.saturating_mul(each.cpu_millis.into()),
            memory_bytes: tasks.saturating_mul(each.memory_bytes),
            disk_bytes: tasks.saturating_mul(each.disk_bytes),
        }
    }
}

impl Cluster {
    /// The namespaces that have jobs or a quota, by name.
    pub fn namespaces(&self) -> Vec<NamespaceView> {
        let mut all: BTreeMap<&str, (Amounts, Quota)> = BTreeMap::new();
        for (namespace, quota) in &self.quotas {
            all.entry(namespace).or_default().1 = *quota;
        }
        for (name, record) in &self.jobs {
            let entry = all.entry(&name.namespace).or_default();
            entry.0 = entry.0.plus(self.asked_by(name, record));
        }
        let view = |(namespace, (asked, quota)): (&str, _)| NamespaceView {
            namespace: namespace.into(),
            asked,
            quota,
        };
        all.into_iter().map(view).collect()
    }

    /// Why the job would not be accepted for its namespace's quota, if it would
    /// not. `before` are jobs that are submitted before it.
    pub fn over_quota(&self, job: &Job, before: &[Job]) -> Option<Refused> {
        let namespace = &job.name.namespace;
        let quota = self.quotas.get(namespace)?;
        let members = self.members.len();
        let kept = self.jobs.iter().filter(|(name, _)| {
            let replaced = before.iter().any(|earlier| earlier.name == **name);
            name.namespace == *namespace && **name != job.name && !replaced
        });
        let kept = kept.map(|(name, record)| self.asked_by(name, record));
        let earlier = before
            .iter()
            .filter(|earlier| earlier.name.namespace == *namespace && earlier.name != job.name)
            .map(|earlier| Demand::of(earlier).amounts(members));
        let others = kept.chain(earlier).fold(Amounts::default(), Amounts::plus);
        let had = self.jobs.get(&job.name);
        let had = had.map_or_else(Amounts::default, |record| self.asked_by(&job.name, record));
        let asked = Demand::of(job).amounts(members);
        let excess = Countable::ALL.into_iter().filter_map(|what| {
            let limit = quota.limit(what)?;
            let (others, asked, had) = (others.of(what), asked.of(what), had.of(what));
            let is_over = asked > had && others.saturating_add(asked) > limit;
            is_over.then_some(Excess {
                what,
                limit,
                others,
                asked,
            })
        });
        let excess: Vec<Excess> = excess.collect();
        (!excess.is_empty()).then(|| Refused::OverQuota {
            job: job.name.clone(),
            excess,
        })
    }

    fn asked_by(&self, name: &JobName, record: &JobRecord) -> Amounts {
        let is_over = self
            .batches
            .get(name)
            .is_some_and(|batch| batch.over.is_some());
        if record.stopped || is_over {
            return Amounts::default();
        }
        let current = record.current();
        let demand = current.demand.or_else(|| {
            let job = current.job.decode_unchecked().ok()?;
            Some(Demand::of(&job))
        });
        demand.map_or_else(Amounts::default, |demand| {
            demand.amounts(self.members.len())
        })
    }

    pub(super) fn change_quotas(&mut self, command: &Command) -> Reply {
        let Command::SetQuota {
            namespace, quota, ..
        } = command
        else {
            return Reply::Done;
        };
        let Some(quota) = quota.filter(|quota| !quota.is_empty()) else {
            self.quotas.remove(namespace);
            return Reply::Done;
        };
        if let Err(error) = check_name(namespace) {
            return Reply::refused(Refused::BadNamespace {
                why: error.to_string(),
            });
        }
        if !self.quotas.contains_key(namespace) && self.quotas.len() >= QUOTAS_MAX {
            return Reply::too_many("quotas", QUOTAS_MAX);
        }
        self.quotas.insert(namespace.clone(), quota);
        Reply::Done
    }
}
