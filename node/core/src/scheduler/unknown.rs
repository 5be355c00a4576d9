//! What hosts run and the log does not know: jobs, and later versions of jobs,
//! that were accepted after the log of a recovered cluster ends.
//!
//! Answers for telling them apart. Nothing of them is touched: not stopped,
//! not replaced by the older version that the log has. The driver takes them
//! into the log (`Command::RecoverJob`), and from then on they are jobs like
//! others.

use super::{Scheduler, batch::is_end, names::Seat};
use crate::{cluster::Cluster, session::SlotReport};
use potluck_specs::{JobName, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Does the log not know this version, since it is later than all that it has?
pub(super) fn is_unknown(cluster: &Cluster, job: &JobName, version: u64) -> bool {
    let newest = cluster.jobs().get(job).map(|job| job.current().version);
    newest.is_none_or(|newest| version > newest)
}

impl Scheduler {
    /// Jobs that hosts run, or have ends of, and the log does not know, each
    /// with the latest version that is seen and a host that has it.
    pub fn unknown_jobs(&self, cluster: &Cluster) -> BTreeMap<JobName, (u64, NodeId)> {
        let mut unknown: BTreeMap<JobName, (u64, NodeId)> = BTreeMap::new();
        for seat in self.picture.slots() {
            for (node, report) in self.having(seat) {
                let job = &report.slot.job;
                let later = |known: &(u64, NodeId)| known.0 >= report.version;
                if !is_unknown(cluster, job, report.version)
                    || unknown.get(job).is_some_and(later)
                    || !self.is_heard(node)
                {
                    continue;
                }
                unknown.insert(job.clone(), (report.version, node));
            }
        }
        unknown
    }

    /// Who fills a slot or has an end of it that is not counted: such a host
    /// keeps the job, and may be the last that does.
    fn having(&self, seat: Seat) -> impl Iterator<Item = (NodeId, &SlotReport)> {
        let ends = self.picture.reports(seat).filter(|(_, at)| is_end(at));
        self.picture.holders(seat).chain(ends)
    }

    /// Who runs this version of a job, or did so last, and so has its package.
    pub fn hosts_running(&self, job: &JobName, version: u64) -> Vec<NodeId> {
        let mut hosts = BTreeSet::new();
        for seat in self.picture.slots_of(self.names.id(job)) {
            let running = self
                .having(seat)
                .filter(|(_, report)| report.version == version);
            hosts.extend(running.map(|(node, _)| node));
        }
        hosts.into_iter().collect()
    }
}
