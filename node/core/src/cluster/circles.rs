//! Jobs that wait for each other in a circle: none of them would ever start.
//!
//! Answers for finding a circle before a job is accepted, among the jobs that
//! the log has and those that are submitted with it. A circle within one file
//! is told earlier, by the checks of `potluck_specs`.

use super::Cluster;
use potluck_specs::{Job, JobName};
use std::collections::{BTreeMap, VecDeque};

/// Most jobs that are followed: all that the log may hold, so that a circle is
/// never missed, and the work has an end.
const FOLLOWED_MAX: usize = super::JOBS_MAX;

impl Cluster {
    /// The shortest circle of waiting through this job, if it and the `others`
    /// were accepted: the job, what it waits for, and so on back to it. A
    /// stopped job waits for nothing.
    pub fn circle(&self, job: &Job, others: &[Job]) -> Option<Vec<JobName>> {
        let mut reached: BTreeMap<JobName, JobName> = BTreeMap::new();
        let mut next = VecDeque::from([job.name.clone()]);
        while let Some(at) = next.pop_front() {
            for needed in self.needs_of(&at, job, others) {
                if needed == job.name {
                    return Some(way_back(at, &reached, job));
                }
                if !reached.contains_key(&needed) && reached.len() < FOLLOWED_MAX {
                    reached.insert(needed.clone(), at.clone());
                    next.push_back(needed);
                }
            }
        }
        None
    }

    fn needs_of(&self, name: &JobName, job: &Job, others: &[Job]) -> Vec<JobName> {
        let names = |job: &Job| {
            let needs = job.change.depends_on.iter();
            needs.map(|needs| needs.job.clone()).collect()
        };
        let mut submitted = [job].into_iter().chain(others);
        if let Some(job) = submitted.find(|job| job.name == *name) {
            return names(job);
        }
        let running = self.jobs.get(name).filter(|record| !record.stopped);
        // One of a newer program is not known to wait for anything.
        let decoded = running.and_then(|record| record.current().job.decode_unchecked().ok());
        decoded.as_ref().map_or_else(Vec::new, names)
    }
}

/// From the job over all that was passed to `last`, which waits for it again.
fn way_back(last: JobName, reached: &BTreeMap<JobName, JobName>, job: &Job) -> Vec<JobName> {
    let mut way = vec![job.name.clone()];
    let mut at = Some(&last);
    while let Some(name) = at.filter(|name| **name != job.name) {
        way.push(name.clone());
        at = reached.get(name);
    }
    way.push(job.name.clone());
    way.reverse();
    way
}
