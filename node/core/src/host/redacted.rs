//! A host without what its jobs hand to their tasks: for recordings that
//! people hand around.
//!
//! Answers for leaving out the same as the recordings of schedulers do
//! (`cluster::redacted`). What a host decides on is left as it is.

use super::{
    Host,
    message::{Effect, Entry, Event},
};
use crate::cluster::{redact_job, without_texts};
use potluck_specs::{Job, job::SignedJob};
use std::sync::Arc;

impl Host {
    /// A copy without secrets.
    #[must_use]
    pub fn redacted(&self) -> Host {
        let mut copy = self.clone();
        for slot in copy.slots.values_mut() {
            redact(&mut slot.entry);
            if let Some(before) = &mut slot.before {
                redact(&mut before.entry);
            }
        }
        copy
    }
}

impl Event {
    /// A copy without secrets.
    #[must_use]
    pub fn redacted(&self) -> Event {
        let mut copy = self.clone();
        if let Event::Award { award, job } = &mut copy {
            let mut signed = SignedJob::clone(&award.job);
            redact_job(&mut signed);
            award.job = signed.into();
            if let Ok(job) = job {
                *job = bare(job);
            }
        }
        copy
    }
}

impl Effect {
    /// A copy without secrets.
    #[must_use]
    pub fn redacted(&self) -> Effect {
        let mut copy = self.clone();
        match &mut copy {
            Effect::JournalPut { entry, .. } => redact(entry),
            Effect::StartHelper(start) => start.job = bare(&start.job),
            _ => {}
        }
        copy
    }
}

fn redact(entry: &mut Entry) {
    redact_job(Arc::make_mut(&mut entry.signed));
    entry.job = bare(&entry.job);
}

fn bare(job: &Job) -> Arc<Job> {
    Arc::new(without_texts(job.clone()))
}
