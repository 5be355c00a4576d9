//! Recordings: all that went into a scheduler or a host, so that any run of
//! it can be decided again, elsewhere and later, with its reasons in view.
//!
//! Answers for the format and for deciding again. Leaves to its caller where
//! recordings are kept, when they are begun, and showing what comes out.
//!
//! A recording is a row of frames: the length of a record in four bytes,
//! lowest first, then the record in CBOR. It begins with [`Record::Began`] or
//! [`Record::HostBegan`]; a file may hold several in a row. A torn end is a
//! recording that was cut short by a crash, and is no error.

use crate::{
    auction::Authority,
    cluster::{Cluster, Command},
    host::{self, Host},
    scheduler::{Effect, Event, Scheduler, SchedulerConfig},
};
use potluck_specs::{
    Millis, NodeId,
    codec::{self, CodecError},
};
use serde::{Deserialize, Serialize};

/// Of the format. Old readers refuse newer recordings: a record that is left
/// out would make all that follows wrong. 2: those of hosts.
pub const VERSION: u32 = 2;

/// What recordings of schedulers say: nothing of them has changed since.
pub const SCHEDULER_VERSION: u32 = 1;

/// Largest record: the state of a full cluster with 10,000 jobs.
pub const RECORD_BYTES_MAX: usize = 256 << 20;

/// What went into a scheduler or a host, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A reign began.
    Began {
        /// [`SCHEDULER_VERSION`].
        version: u32,
        /// As [`Scheduler::new`] takes them.
        config: SchedulerConfig,
        /// Whose word it gives.
        authority: Authority,
        /// The leader.
        me: NodeId,
        /// When.
        now: Millis,
        /// The replicated state by then.
        cluster: Box<Cluster>,
    },
    /// The replicated state was applied further.
    Applied {
        /// The command's index.
        index: u64,
        /// The command.
        command: Box<Command>,
    },
    /// One step of the scheduler.
    Step {
        /// When.
        now: Millis,
        /// What happened.
        event: Box<Event>,
        /// [`digest`] of what came out.
        digest: u64,
    },
    /// The recording of a host began; it goes on from what it was.
    HostBegan {
        /// [`VERSION`].
        version: u32,
        /// When, on the host's boot clock.
        now: Millis,
        /// All that it knew, without secrets.
        host: Box<Host>,
    },
    /// One step of the host.
    HostStep {
        /// When, on the host's boot clock.
        now: Millis,
        /// What happened, without secrets.
        event: Box<host::Event>,
        /// [`host_digest`] of what came out.
        digest: u64,
    },
}

/// Why a recording can't be read or decided again.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Made by a newer program.
    #[error("the recording is of version {version}, this program reads up to {VERSION}")]
    TooNew {
        /// Its version.
        version: u32,
    },
    /// Not a recording, or a damaged one.
    #[error("the recording is damaged at byte {at}")]
    Damaged {
        /// Where the bad record begins.
        at: usize,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// It has no begin: everything depends on that.
    #[error("the recording does not begin with a reign or with what a host knew")]
    NoBegin,
}

/// Says whether two lists of effects are the same, for as long as the program
/// is: FNV-1a of their debug text. A recording that another version made may
/// be decided differently, which is what one wants to see. What jobs hand to
/// their tasks does not count: recordings lack it
/// ([`Cluster::redacted`]).
pub fn digest(effects: &[Effect]) -> u64 {
    digest_of(effects.iter().map(text))
}

/// The same of a host's effects.
pub fn host_digest(effects: &[host::Effect]) -> u64 {
    digest_of(
        effects
            .iter()
            .map(|effect| format!("{:?};", effect.redacted())),
    )
}

fn digest_of(texts: impl Iterator<Item = String>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    texts.fold(BASIS, |hash, text| {
        text.bytes().fold(hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(PRIME)
        })
    })
}

fn text(effect: &Effect) -> String {
    match effect {
        Effect::Award { to, award } => format!(
            "award {to:?} {:?} {} {:?} {} {:?};",
            award.authority, award.call, award.slots, award.package_bytes, award.holders
        ),
        Effect::Propose { command } => format!("propose {:?};", command.redacted()),
        other => format!("{other:?};"),
    }
}

/// A record as it is appended to a recording.
pub fn frame(record: &Record) -> Vec<u8> {
    let body = codec::encode(record);
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

/// The records of a recording, one by one.
#[derive(Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { bytes, at: 0 }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let (length, rest) = self.bytes.get(at..)?.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let Some(body) = rest.get(..length) else {
            // Torn.
            self.at = self.bytes.len();
            return None;
        };
        self.at += length + 4;
        let record = codec::decode("record", body, RECORD_BYTES_MAX);
        Some(record.map_err(|source| {
            self.at = self.bytes.len();
            RecordError::Damaged { at, source }
        }))
    }
}

/// One step that was decided again.
#[derive(Debug)]
pub struct Decided<Event, Effect> {
    /// When, on the clock of the node that was recorded.
    pub now: Millis,
    /// What happened.
    pub event: Event,
    /// What is to be done about it; of a scheduler with
    /// [`Effect::Note`](crate::scheduler::Effect::Note)s that tell reasons.
    pub effects: Vec<Effect>,
    /// What was decided then was the same.
    pub same: bool,
}

/// What was decided again, and by what.
#[derive(Debug)]
pub enum Decision {
    /// By a scheduler.
    Scheduler(Decided<Event, Effect>),
    /// By a host.
    Host(Decided<host::Event, host::Effect>),
}

/// Decides a recording again.
#[derive(Debug, Default)]
pub struct Replay {
    reign: Option<(Cluster, Scheduler)>,
    host: Option<Host>,
}

impl Replay {
    /// Takes the next record; a decision if it was a step.
    ///
    /// # Errors
    /// [`RecordError::TooNew`], [`RecordError::NoBegin`].
    pub fn take(&mut self, record: Record) -> Result<Option<Decision>, RecordError> {
        match record {
            Record::Began { version, .. } | Record::HostBegan { version, .. }
                if version > VERSION =>
            {
                Err(RecordError::TooNew { version })
            }
            Record::Began {
                config,
                authority,
                me,
                now,
                cluster,
                ..
            } => {
                let scheduler = Scheduler::new(config, authority, me, now);
                self.reign = Some((*cluster, scheduler));
                Ok(None)
            }
            Record::Applied { index, command } => {
                let (cluster, _) = self.reign.as_mut().ok_or(RecordError::NoBegin)?;
                cluster.apply(index, &command);
                Ok(None)
            }
            Record::Step {
                now,
                event,
                digest: then,
            } => {
                let (cluster, scheduler) = self.reign.as_mut().ok_or(RecordError::NoBegin)?;
                let effects = scheduler.step(cluster, (*event).clone(), now);
                Ok(Some(Decision::Scheduler(Decided {
                    now,
                    event: *event,
                    same: digest(&effects) == then,
                    effects,
                })))
            }
            Record::HostBegan { host, .. } => {
                self.host = Some(*host);
                Ok(None)
            }
            Record::HostStep {
                now,
                event,
                digest: then,
            } => {
                let host = self.host.as_mut().ok_or(RecordError::NoBegin)?;
                let effects = host.step((*event).clone(), now);
                Ok(Some(Decision::Host(Decided {
                    now,
                    event: *event,
                    same: host_digest(&effects) == then,
                    effects,
                })))
            }
        }
    }

    /// The scheduler as it is now, for `explain`.
    pub fn scheduler(&self) -> Option<(&Cluster, &Scheduler)> {
        self.reign
            .as_ref()
            .map(|(cluster, scheduler)| (cluster, scheduler))
    }

    /// The host as it is now, for what it has free.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }
}

#[cfg(test)]
mod tests;
