//! What users ask for, and the words that all of potluck shares.
//!
//! This crate answers for the vocabulary (ids, generations, places in the
//! topology), for the job that a spec evaluates to, for its checks, and for
//! the signed documents that say who may do what. It is pure: no clock, no
//! socket, no file, no randomness, no unordered map. Evaluating spec files is
//! the work of `potluck-starlark`; running jobs is that of `potluck-node`.

pub mod cause;
pub mod codec;
pub mod diff;
pub mod finding;
pub mod generation;
pub mod ids;
pub mod job;
pub mod package;
pub mod path;
pub mod plan;
#[cfg(feature = "schema")]
pub mod schema;
pub mod suggestion;
pub mod support;
pub mod time;
pub mod topology;
pub mod trust;
pub mod validate;

pub use generation::{Epoch, Generation, Reign};
pub use ids::{ChangeId, FleetId, JobName, NodeId, NodeName, SlotId};
pub use job::Job;
pub use package::{ChunkHash, PackageId};
pub use path::{FieldPath, PathStep};
pub use time::Millis;
pub use topology::Topology;
