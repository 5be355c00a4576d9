//! What a task needs and what a node has, in one type, so that they can be
//! compared; and the limits beyond which a task may not go.

use super::record::record;
use serde::{Deserialize, Serialize};

record! {
    /// What a task needs, or a node has.
    #[derive(Copy)]
    pub struct Resources {
        /// Thousandths of a core: a share while the node is busy. See
        /// [`Limits::cpu_millis`] for a cap.
        pub cpu_millis: u32 = 0,
        /// Bytes of memory.
        pub memory_bytes: u64 = 0,
        /// Bytes on disk: the task's folder, its volumes and its logs, not its
        /// packages. Beyond them the task is stopped.
        pub disk_bytes: u64 = 0,
        /// Bits a second out of the node.
        pub uplink_bits_per_s: u64 = 0,
    }
}

impl Resources {
    /// Nothing: what [`Resources::default`] gives, for constants.
    pub const ZERO: Resources = Resources {
        cpu_millis: 0,
        memory_bytes: 0,
        disk_bytes: 0,
        uplink_bits_per_s: 0,
    };

    /// What a task asks for whose spec says nothing: enough to start and to
    /// idle.
    pub const OF_A_TASK: Resources = Resources::new(100, 64 << 20);

    /// CPU and memory alone.
    pub const fn new(cpu_millis: u32, memory_bytes: u64) -> Resources {
        Resources {
            cpu_millis,
            memory_bytes,
            ..Resources::ZERO
        }
    }

    /// Does `need` fit into this?
    pub fn fits(&self, need: &Resources) -> bool {
        self.cpu_millis >= need.cpu_millis
            && self.memory_bytes >= need.memory_bytes
            && self.disk_bytes >= need.disk_bytes
            && self.uplink_bits_per_s >= need.uplink_bits_per_s
    }

    /// Both together.
    pub fn plus(self, other: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            uplink_bits_per_s: self
                .uplink_bits_per_s
                .saturating_add(other.uplink_bits_per_s),
        }
    }

    /// What is left, never below zero.
    pub fn minus(self, other: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
            uplink_bits_per_s: self
                .uplink_bits_per_s
                .saturating_sub(other.uplink_bits_per_s),
        }
    }

    /// The greater of both in each: for two that never run together.
    pub fn max(self, other: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            disk_bytes: self.disk_bytes.max(other.disk_bytes),
            uplink_bits_per_s: self.uplink_bits_per_s.max(other.uplink_bits_per_s),
        }
    }

    /// So many times as much.
    pub fn times(self, count: u32) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.saturating_mul(count),
            memory_bytes: self.memory_bytes.saturating_mul(count.into()),
            disk_bytes: self.disk_bytes.saturating_mul(count.into()),
            uplink_bits_per_s: self.uplink_bits_per_s.saturating_mul(count.into()),
        }
    }
}

record! {
    /// Beyond what a task is stopped or throttled.
    #[derive(Copy)]
    pub struct Limits {
        /// A quota of CPU, in thousandths of a core. Without one a task may
        /// use what nobody else needs.
        pub cpu_millis: Option<u32> = None,
        /// Memory at which the task is killed; without one, what it asked for.
        pub memory_bytes: Option<u64> = None,
        /// What of an unused quota may be used later, in thousandths of a core
        /// within a tenth of a second; at most the quota. Without it nothing.
        pub cpu_burst_millis: Option<u32> = None,
        /// Processes and threads; without a number, 4,096.
        pub pids: Option<u32> = None,
        /// Share of the disks while they are busy, 1 to 1,000; everybody
        /// else has 100.
        pub io_weight: Option<u16> = None,
        /// Bytes a second read from the disk that holds the node's data.
        pub io_read_bytes_per_s: Option<u64> = None,
        /// Bytes a second written to it.
        pub io_write_bytes_per_s: Option<u64> = None,
        /// Reads a second.
        pub io_read_ops_per_s: Option<u64> = None,
        /// Writes a second.
        pub io_write_ops_per_s: Option<u64> = None,
    }
}

impl Limits {
    /// Is a rate of the disk bounded?
    pub fn bounds_io(&self) -> bool {
        let rates = [
            self.io_read_bytes_per_s,
            self.io_write_bytes_per_s,
            self.io_read_ops_per_s,
            self.io_write_ops_per_s,
        ];
        rates.iter().any(Option::is_some)
    }
}

record! {
    /// Requests that follow what the task really uses.
    #[derive(Copy)]
    pub struct Adaptive {
        /// Whether they do.
        pub mode: AdaptiveMode = AdaptiveMode::Off,
        /// Never below.
        pub cpu_millis_min: Option<u32> = None,
        /// Never above.
        pub cpu_millis_max: Option<u32> = None,
        /// Never below.
        pub memory_bytes_min: Option<u64> = None,
        /// Never above.
        pub memory_bytes_max: Option<u64> = None,
    }
}

/// Who acts on what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AdaptiveMode {
    /// Nobody: requests are what the spec says.
    Off,
    /// A person: better values are shown.
    Recommend,
    /// Potluck, between floor and ceiling.
    Auto,
}
