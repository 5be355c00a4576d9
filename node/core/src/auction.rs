//! The auction's messages: call, bid or refusal, award, stop.
//!
//! Every message of a scheduler carries its authority; a node keeps, durably,
//! the highest that it has heard from anyone and refuses lower ones for every
//! slot.

use potluck_specs::{
    Epoch, Generation, JobName, Millis, NodeId, PackageId, Reign, SlotId,
    job::{PortSpec, Resources, SignedJob},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Whose word it is. Ordered by epoch, then reign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Authority {
    /// The cluster's epoch.
    pub epoch: Epoch,
    /// The leadership.
    pub reign: Reign,
}

impl Authority {
    /// The generation number `sequence` of this authority.
    pub fn generation(self, sequence: u64) -> Generation {
        Generation {
            epoch: self.epoch,
            reign: self.reign,
            sequence,
        }
    }
}

/// Who can take some of these alike slots?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Whose call.
    pub authority: Authority,
    /// Names the call among those of its authority.
    pub call: u64,
    /// The job.
    pub job: JobName,
    /// Its version.
    pub version: u64,
    /// How many slots are to be filled in all.
    pub wanted: u32,
    /// Most that one node would be given: it reserves no more. Without it,
    /// all.
    #[serde(default)]
    pub each_most: Option<u32>,
    /// What each needs.
    pub resources: Resources,
    /// Counted devices that each needs, by kind.
    #[serde(default)]
    pub devices: BTreeMap<String, u32>,
    /// Ports that each needs.
    pub ports: Vec<PortSpec>,
    /// The program.
    pub package: PackageId,
    /// The program's size.
    pub package_bytes: u64,
}

/// A node's answer to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallAnswer {
    /// It can; what it offers is reserved until the bid's end.
    Bid(Bid),
    /// It can't, and says why.
    Refusal(Refusal),
}

/// An offer, from the truth that the node has and the scheduler has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// The call that it answers.
    pub call: u64,
    /// How many of the wanted slots it can take; reserved.
    pub slots: u32,
    /// Free before the reservation.
    pub free: Resources,
    /// All that the node has.
    pub total: Resources,
    /// Bytes of the package that are not here yet.
    pub missing_bytes: u64,
    /// Tasks of this job that failed here lately.
    pub failures: u32,
    /// How hard the node works now, in hundredths: see
    /// [`Heartbeat::pressure`](crate::session::Heartbeat::pressure).
    #[serde(default)]
    pub pressure: u8,
    /// How long the reservation holds, from when the node answered.
    pub holds: Millis,
}

/// Why a node does not take a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Refusal {
    /// It has heard of a later scheduler.
    StaleAuthority {
        /// The highest that it knows.
        highest: Authority,
    },
    /// Too few cores free.
    Cpu {
        /// Thousandths of a core that one slot needs.
        need: u32,
        /// Thousandths of a core that are free.
        free: u32,
    },
    /// Too little memory free.
    Memory {
        /// Bytes that one slot needs.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Too little disk free.
    Disk {
        /// Bytes that one slot needs.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Too little of the uplink free.
    Uplink {
        /// Bits a second that one slot needs.
        need: u64,
        /// Bits a second that are free.
        free: u64,
    },
    /// Too few devices of a kind free.
    Device {
        /// Their kind.
        kind: String,
        /// How many one slot needs.
        need: u32,
        /// How many are free.
        free: u32,
    },
    /// The node does not meet a requirement of the job.
    Requirement {
        /// Which, as people write it.
        requirement: String,
        /// What it has instead.
        has: Option<String>,
    },
    /// A fixed port is taken here.
    PortTaken {
        /// Its number.
        port: u16,
    },
    /// The node takes no new work.
    Draining,
    /// It still adopts the tasks of its former life.
    Adopting,
    /// As many calls as it keeps reservations for are open.
    Busy,
    /// The job's signature or author is not accepted here.
    Untrusted {
        /// What the check says.
        why: String,
    },
    /// The slot is filled here under a later generation.
    StaleGeneration {
        /// The generation that it has.
        holds: Generation,
    },
    /// A kind of refusal that a newer version knows.
    #[serde(other)]
    Other,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::StaleAuthority { .. } => f.write_str("it obeys a later scheduler"),
            Refusal::Cpu { need, free } => {
                write!(f, "needs {}, {} are free", cores(*need), cores(*free))
            }
            Refusal::Memory { need, free } => {
                let (need, free) = (bytes(*need), bytes(*free));
                write!(f, "needs {need} of memory, {free} are free")
            }
            Refusal::Disk { need, free } => {
                let (need, free) = (bytes(*need), bytes(*free));
                write!(f, "needs {need} of disk, {free} are free")
            }
            Refusal::Uplink { need, free } => {
                let (need, free) = (bits(*need), bits(*free));
                write!(f, "needs {need} of uplink, {free} are free")
            }
            Refusal::Device { kind, need, free } => {
                write!(f, "needs {need} {kind}, {free} are free")
            }
            Refusal::Requirement { requirement, has } => match has {
                Some(has) => write!(f, "requires {requirement}, it has {has:?}"),
                None => write!(f, "requires {requirement}, it has none"),
            },
            Refusal::PortTaken { port } => write!(f, "port {port} is taken"),
            Refusal::Draining => f.write_str("it takes no new work"),
            Refusal::Adopting => f.write_str("it still looks for the tasks of its former life"),
            Refusal::Busy => f.write_str("too many calls are open there"),
            Refusal::Untrusted { why } => write!(f, "it does not trust the job: {why}"),
            Refusal::StaleGeneration { holds } => {
                write!(f, "it holds a later generation, {holds}")
            }
            Refusal::Other => {
                f.write_str("it refused for a reason that this version does not know")
            }
        }
    }
}

/// Thousandths of a core, for people.
pub(crate) fn cores(millis: u32) -> String {
    match millis % 1_000 {
        0 if millis == 1_000 => "1 core".into(),
        0 => format!("{} cores", millis / 1_000),
        rest => {
            let rest = format!("{rest:03}");
            format!("{}.{} cores", millis / 1_000, rest.trim_end_matches('0'))
        }
    }
}

/// Bytes, for people: whole numbers of a unit where they are, else tenths.
pub fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if bytes >> shift > 0 {
            let tenths = (bytes >> (shift - 10)) * 10 / 1_024;
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

/// Bits a second, for people.
pub(crate) fn bits(bits: u64) -> String {
    match bits {
        0..1_000 => format!("{bits} bit/s"),
        1_000..1_000_000 => format!("{} kbit/s", bits / 1_000),
        _ => format!("{} Mbit/s", bits / 1_000_000),
    }
}

/// Fill these slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Award {
    /// Whose award.
    pub authority: Authority,
    /// The call that it ends, whose reservation it uses if it still holds.
    pub call: u64,
    /// Slots, each with the generation under which it is to be filled.
    pub slots: Vec<(SlotId, Generation)>,
    /// The whole job again: the node keeps no state for a call but its
    /// reservation, and checks the signature itself.
    #[serde(with = "shared")]
    pub job: Arc<SignedJob>,
    /// Bytes of the package, for the plan of fetching.
    pub package_bytes: u64,
    /// Nodes that hold the package.
    pub holders: Vec<NodeId>,
}

/// Written and read as what is shared.
pub(crate) mod shared {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        T::serialize(value, serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// A node's answer to an award, slot by slot. A slot that is committed stays
/// so: repeats of the award get the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwardAnswer {
    /// In the award's order.
    pub slots: Vec<(SlotId, Result<(), Refusal>)>,
}

/// End what fills a slot, if it is of this generation or an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopOrder {
    /// Whose order.
    pub authority: Authority,
    /// The slot.
    pub slot: SlotId,
    /// Not later than this.
    pub generation: Generation,
    /// For people.
    pub reason: StopReason,
}

/// Why a task is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// A person stopped the job.
    JobStopped,
    /// A newer version takes its place.
    Replaced,
    /// The job has fewer slots now.
    ScaledDown,
    /// The node is being drained.
    Drained,
    /// The slot is filled elsewhere.
    Double,
    /// It fails on this host again and again.
    Failing,
    /// It is to even out the load.
    Moved,
    /// A job of higher priority needs the room.
    Preempted,
    /// The job's work is over.
    Over,
    /// It starts together with others, and some are missing.
    Incomplete,
    /// A reason that a newer version knows.
    #[serde(other)]
    Other,
}
