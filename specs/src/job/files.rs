//! What a task finds in its file system beside its program.

use super::record::record;
use crate::PackageId;
use serde::{Deserialize, Serialize};

record! {
    /// A further package of a draft.
    pub struct DraftPackage {
        /// Where it is mounted: an absolute path in the task.
        pub at: String = String::new(),
        /// Where it comes from.
        pub source: super::PackageSource = super::PackageSource::Path("".into()),
    }
}

record! {
    /// A further package, mounted read-only. At `/package` it is laid over the
    /// program's: what both have is the further one's.
    pub struct MountedPackage {
        /// An absolute path in the task.
        pub at: String = String::new(),
        /// The tree.
        pub package: PackageId = PackageId([0; 32]),
    }
}

record! {
    /// A file that is written into the task before it starts.
    pub struct RenderedFile {
        /// In the task's folder, or absolute in its sandbox.
        pub path: String = String::new(),
        /// Text with interpolation, see [`interpolation`](super::interpolation).
        pub content: String = String::new(),
        /// Permission bits.
        pub mode: u32 = 0o644,
    }
}

record! {
    /// A place in the task's file system that is not its own.
    pub struct Mount {
        /// An absolute path in the task.
        pub at: String = String::new(),
        /// What stands there.
        pub source: MountSource = MountSource::Tmpfs { bytes: 0 },
        /// May the task only read?
        pub read_only: bool = false,
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A file or folder of the node.
    Bind {
        /// Absolute.
        path: String,
    },
    /// Memory, gone with the task.
    Tmpfs {
        /// Its size.
        bytes: u64,
    },
    /// A folder that the node keeps under a name for the job's slot.
    Volume {
        /// Unique in the job.
        name: String,
    },
}
