//! The state without what must stay secret: for recordings that people hand
//! around.
//!
//! Answers for leaving out the gossip keys, the sealed issuer's key, and what
//! jobs hand to their tasks: environment, arguments, files, hooks, notes. What
//! a scheduler decides on is left as it is, so that it decides the same.

use super::{Cluster, Command};
use potluck_specs::{Job, job::SignedJob};

/// Stands where a text was.
const LEFT_OUT: &str = "left out";

impl Cluster {
    /// A copy without secrets.
    #[must_use]
    pub fn redacted(&self) -> Cluster {
        let mut copy = self.clone();
        if let Some(founding) = &mut copy.founding {
            for key in &mut founding.gossip_keys {
                key.key = [0; 32];
            }
        }
        copy.sealed_issuer.values_mut().for_each(|key| key.clear());
        for record in copy.jobs.values_mut() {
            for version in &mut record.versions {
                redact_job(&mut version.job);
            }
        }
        copy
    }
}

impl Command {
    /// A copy without secrets.
    #[must_use]
    pub fn redacted(&self) -> Command {
        let mut copy = self.clone();
        match &mut copy {
            Command::Genesis { genesis } => {
                for key in &mut genesis.gossip_keys {
                    key.key = [0; 32];
                }
            }
            Command::SealIssuer { sealed, .. } => sealed.clear(),
            Command::SubmitJob { job, .. } | Command::RecoverJob { job, .. } => redact_job(job),
            Command::Batch { commands } => {
                for command in commands {
                    *command = command.redacted();
                }
            }
            _ => {}
        }
        copy
    }
}

/// Bytes that can't be read say nothing to a scheduler either: they go.
pub(crate) fn redact_job(signed: &mut SignedJob) {
    signed.job.bytes = match signed.decode_unchecked() {
        Ok(job) => without_texts(job).encode(),
        Err(_) => Vec::new(),
    };
}

pub(crate) fn without_texts(mut job: Job) -> Job {
    let task = &mut job.task;
    for value in task.env.values_mut() {
        LEFT_OUT.clone_into(value);
    }
    for argument in &mut task.args {
        LEFT_OUT.clone_into(argument);
    }
    for file in &mut task.files {
        LEFT_OUT.clone_into(&mut file.content);
    }
    task.setup.clear();
    task.teardown.clear();
    job.annotations.clear();
    job
}
