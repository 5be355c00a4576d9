//! Jobs as they are read: the log holds signed bytes, and decoding them at
//! each decision would cost more than the decision.

use crate::cluster::Cluster;
use potluck_specs::{Job, JobName};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(super) struct Catalog {
    jobs: BTreeMap<JobName, Known>,
}

#[derive(Debug, Default)]
struct Known {
    current: u64,
    stopped: bool,
    decoded: BTreeMap<u64, Arc<Job>>,
}

impl Catalog {
    /// Follows the log; gives the jobs that changed.
    pub(super) fn follow(&mut self, cluster: &Cluster) -> BTreeSet<JobName> {
        let mut changed = BTreeSet::new();
        for (name, record) in cluster.jobs() {
            let version = record.current().version;
            let known = self.jobs.entry(name.clone()).or_default();
            if known.current == version && known.stopped == record.stopped {
                continue;
            }
            known.current = version;
            known.stopped = record.stopped;
            known
                .decoded
                .retain(|version, _| record.version(*version).is_some());
            for kept in &record.versions {
                if !known.decoded.contains_key(&kept.version)
                    && let Ok(job) = kept.job.decode_unchecked()
                {
                    known.decoded.insert(kept.version, Arc::new(job));
                }
            }
            changed.insert(name.clone());
        }
        changed
    }

    /// Every job in the log.
    pub(super) fn names(&self) -> impl Iterator<Item = JobName> + '_ {
        self.jobs.keys().cloned()
    }

    /// A version of a job, if the log still keeps it.
    pub(super) fn version(&self, name: &JobName, version: u64) -> Option<Arc<Job>> {
        self.jobs.get(name)?.decoded.get(&version).cloned()
    }

    /// What should run, if anything should.
    pub(super) fn running(&self, cluster: &Cluster, name: &JobName) -> Option<Arc<Job>> {
        let record = cluster.jobs().get(name)?;
        if record.stopped {
            return None;
        }
        self.version(name, record.current().version)
    }
}
