//! After most voters were lost: the new epoch, and what hosts had that the
//! surviving log lacks.
//!
//! Answers for what a recovered log takes over: jobs and members by the word
//! of hosts, each once and never over something newer. Leaves to others: who
//! may begin an epoch and whether bytes and certificates hold (the leader
//! checks signatures before it proposes), and the log itself (`control`).

use super::{
    Admission, Cluster, Command, Demand, HeldPackage, JobRecord, JobVersion, MEMBERS_MAX, Refused,
    Reply, TokenRefusal,
    jobs::{SLOTS_MAX, further_packages},
    versions::{Origin, TEXT_BYTES_MAX, bounded_text},
};
use crate::auction::Authority;
use potluck_specs::{Epoch, Millis, NodeId, Reign, job::SignedJob, trust::NodeRole};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Longest order of a recovery: a person's signature and certificates.
pub const ORDER_BYTES_MAX: usize = 16 << 10;

/// How the present epoch began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The epoch that it began.
    pub epoch: Epoch,
    /// The node whose log it goes on with.
    pub survivor: NodeId,
    /// Who ordered it.
    pub author: String,
    /// When, Unix time.
    pub at: Millis,
    /// The signed order: it proves the epoch to those who hold to an older
    /// one. Opaque here.
    #[serde(with = "serde_bytes")]
    pub order: Vec<u8>,
}

impl Cluster {
    pub(super) fn change_recovery(&mut self, command: &Command) -> Reply {
        match command {
            Command::Recover { recovery } => self.recover(recovery),
            Command::RecoverJob {
                job,
                author,
                holders,
                package_bytes,
                now,
            } => self.recover_job(job, author, holders, *package_bytes, *now),
            Command::RecoverMember {
                admission,
                roles,
                now,
            } => self.recover_member(admission, roles, *now),
            _ => Reply::Done,
        }
    }

    /// How the present epoch began; nothing in a cluster's first one.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// The other members' numbers in the control group belong to the epoch
    /// before: each host puts its log aside and comes with a new number, and
    /// none is ever given out again.
    fn recover(&mut self, recovery: &Recovery) -> Reply {
        if recovery.epoch <= self.authority.epoch || recovery.order.len() > ORDER_BYTES_MAX {
            return Reply::refused(Refused::StaleEpoch {
                epoch: recovery.epoch,
            });
        }
        self.authority.epoch = recovery.epoch;
        for member in self.members.values_mut() {
            if member.node != recovery.survivor {
                member.raft_id = None;
            }
        }
        self.recovery = Some(Recovery {
            author: bounded_text(&recovery.author, TEXT_BYTES_MAX),
            ..recovery.clone()
        });
        Reply::Done
    }

    /// A job, or a version of one, that a host runs and the log lacks. An
    /// older version than the log's is not taken: a person has moved on.
    fn recover_job(
        &mut self,
        signed: &SignedJob,
        author: &str,
        holders: &[NodeId],
        package_bytes: u64,
        now: Millis,
    ) -> Reply {
        if self.recovery.is_none() {
            return Reply::refused(Refused::NotRecovered);
        }
        let job = match signed.decode_unchecked() {
            Ok(job) => job,
            Err(error) => {
                return Reply::refused(Refused::MalformedJob {
                    why: error.to_string(),
                });
            }
        };
        if job.version < self.next_version(&job.name) {
            return Reply::Done;
        }
        if job.slots() > SLOTS_MAX {
            return Reply::too_many("slots in a job", SLOTS_MAX as usize);
        }
        let version = JobVersion {
            version: job.version,
            job: signed.clone(),
            author: bounded_text(author, TEXT_BYTES_MAX),
            message: String::new(),
            accepted_at: now,
            accepted_under: Authority::default(),
            package: job.package,
            further: further_packages(&job),
            replicas: job.slots(),
            origin: Origin::default(),
            same_tasks: Default::default(),
            demand: Some(Demand::of(&job)),
        };
        let bytes_left = match self.room_for(&job.name, &version) {
            Ok(bytes_left) => bytes_left,
            Err(reply) => return reply,
        };
        let record = self
            .jobs
            .entry(job.name.clone())
            .or_insert_with(|| JobRecord {
                versions: VecDeque::new(),
                stopped: false,
                stopped_by: None,
                // Of no reign of ours: its tasks may be anywhere, so that each
                // slot waits until the hosts have been asked.
                accepted_reign: Reign(0),
                recovered_at: None,
            });
        record.stopped = false;
        record.stopped_by = None;
        record.recovered_at = Some(now);
        record.versions.push_back(version);
        for dropped in record.trim(bytes_left) {
            self.unpin(&dropped);
        }
        self.pin(job.package, package_bytes, holders);
        // Whoever runs it has all of them.
        let further = further_packages(&job).into_iter();
        let further: Vec<HeldPackage> = further
            .map(|package| HeldPackage {
                package,
                bytes: 0,
                holders: holders.to_vec(),
            })
            .collect();
        self.pin_further(&job, &further);
        self.recover_batch(&job, now);
        Reply::Accepted {
            version: job.version,
        }
    }

    /// A node that was let in after the surviving log ends: its certificate is
    /// the proof.
    fn recover_member(&mut self, admission: &Admission, roles: &[NodeRole], now: Millis) -> Reply {
        if self.recovery.is_none() {
            return Reply::refused(Refused::NotRecovered);
        }
        if self.members.contains_key(&admission.node) {
            return Reply::Done;
        }
        if let Some(other) = self.member_named(&admission.name.0) {
            return Reply::TokenRefused {
                why: TokenRefusal::NameTaken {
                    name: admission.name.clone(),
                    by: other.node,
                },
            };
        }
        if self.members.len() >= MEMBERS_MAX {
            return Reply::TokenRefused {
                why: TokenRefusal::ClusterFull {
                    members: self.members.len() as u32,
                },
            };
        }
        self.admit(admission, roles, now);
        Reply::Done
    }
}
